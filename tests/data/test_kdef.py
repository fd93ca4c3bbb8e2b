"""KDEF's names are parsed by position; black placeholders and other irregular files are excluded and listed."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facespec.data.importing import ImportOptions
from facespec.data.kdef import BLACK, Photograph, format_name, parse_name
from facespec.study.errors import StudyError
from facespec.study.vocabulary import Expression, View

CODES = ("AF", "AN", "DI", "HA", "NE", "SA", "SU")
VIEW_CODES = ("FL", "HL", "S", "HR", "FR")
NAMES = ["".join(parts) for parts in product("AB", "FM", [f"{n:02d}" for n in range(1, 36)], CODES, VIEW_CODES)]


def test_every_name_is_another_photograph_and_is_formatted_as_it_was() -> None:
    photographs = {name: parse_name(name) for name in NAMES}
    assert len(set(photographs.values())) == len(NAMES) == 4900 and None not in photographs.values()
    assert len({photograph.person for photograph in photographs.values()}) == 70
    for name, photograph in photographs.items():
        assert format_name(photograph) == name and parse_name(name.lower()) == photograph


@pytest.mark.parametrize(
    ("stem", "photograph"),
    [
        ("AF01AFFL", Photograph("A", "F", 1, Expression.FEAR, View.FULL_LEFT)),
        ("bm35ans", Photograph("B", "M", 35, Expression.ANGRY, View.STRAIGHT)),
        ("AF10DIHL", Photograph("A", "F", 10, Expression.DISGUST, View.HALF_LEFT)),
        ("BF09HAHR", Photograph("B", "F", 9, Expression.HAPPY, View.HALF_RIGHT)),
        ("AM20NEFR", Photograph("A", "M", 20, Expression.NEUTRAL, View.FULL_RIGHT)),
        ("AM30SAS", Photograph("A", "M", 30, Expression.SAD, View.STRAIGHT)),
        ("AF31V", Photograph("A", "F", 31, Expression.SAD, View.HALF_LEFT)),  # misnamed in every copy
        ("AM31H", Photograph("A", "M", 31, Expression.SURPRISE, View.HALF_RIGHT)),
        *(
            (stem, None)
            for stem in ("AF00AFFL", "AF36AFFL", "AX01AFFL", "CF01AFFL", "AF01XXFL", "AF01AFXX", "AF01AFSS")
        ),
        *((stem, None) for stem in ("AF1AFFL", "AF01AFFL2", "xAF01AFFL", "AF01AF", "AF01ASFL", "BF31V", "")),
        ("AF\u0661\u0661AFS", None),
    ],
)
def test_names_by_hand(stem: str, photograph: Photograph | None) -> None:
    assert parse_name(stem) == photograph


def test_both_sessions_show_one_person() -> None:
    assert [parse_name(stem).person for stem in ("AF01AFFL", "BF01SUS")] == ["F01", "F01"]


def make_picture(grey: int, size: tuple[int, int] = (562, 762), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, grey).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def make_files(*more: str) -> dict[str, bytes]:
    """A face of every expression."""
    names = [*(f"AF02{code}S" for code in CODES), *more]
    return {f"KDEF/{name[:4]}/{name}.bmp": make_picture(20 + number) for number, name in enumerate(names)}


def test_labels_counts_and_pixels(kdef: Any, tmp_path: Path) -> None:
    files = make_files("BF02HAFL", "AM35SUHR") | {"KDEF/AF31/AF31V.bmp": make_picture(99)}
    faceset = kdef.write(kdef.pack(tmp_path, "", files), tmp_path / "set")
    expressions = ["fear", "angry", "disgust", "happy", "neutral", "sad", "surprise"]
    assert faceset.labels.to_numpy().tolist() == [
        *(
            [f"AF02{code}S", "probe", "F02", name, "straight", "A"]
            for code, name in zip(CODES, expressions, strict=True)
        ),
        ["AF31SAHL", "probe", "F31", "sad", "half_left", "A"],
        ["AM35SUHR", "probe", "M35", "surprise", "half_right", "A"],
        ["BF02HAFL", "probe", "F02", "happy", "full_left", "B"],
    ]
    assert faceset.images(np.arange(10))[:, 5, 5].tolist() == [20, 21, 22, 23, 24, 25, 26, 99, 28, 27]
    counts = dict.fromkeys(expressions, 1) | {
        "happy": 2,
        "sad": 2,
        "surprise": 2,
        "images": 10,
        "probe": 10,
        "people": 3,
    }
    counts |= {"straight": 7, "half_left": 1, "half_right": 1, "full_left": 1, "session A": 9, "session B": 1}
    assert faceset.provenance["counts"] == counts
    assert (faceset.role, faceset.source) == ("probe", "KDEF")
    assert faceset.provenance["excluded"] == faceset.provenance["notes"] == []


@pytest.mark.parametrize("channels", [1, 3])
def test_the_crop_is_the_central_square_of_full_width(kdef: Any, channels: int, tmp_path: Path) -> None:
    """Rows 100 to 661 of 762 remain."""
    face = np.zeros((762, 562, 3), dtype=np.uint8)
    face[100:662] = 200
    files = {**make_files(), "KDEF/AF02/AF02AFS.bmp": kdef.encode(face, "BMP")}
    faceset = kdef.write(kdef.pack(tmp_path, "", files), tmp_path / "set", ImportOptions(64, channels, 0.0))
    assert (faceset.images(np.array([0])) == 200).all()
    assert faceset.images(np.array([0])).shape == ((1, 64, 64) if channels == 1 else (1, 64, 64, 3))


def test_directory_zip_and_tar_give_the_same_faces(kdef: Any, tmp_path: Path) -> None:
    more = {"readme.txt": b"1", "KDEF/AF01/AF01SUFR.JPG": make_picture(0)}
    kdef.check_forms(tmp_path, make_files("BF02HAFL") | more)


def test_irregular_files_of_every_copy_are_listed_and_tolerated(kdef: Any, tmp_path: Path) -> None:
    assert len(BLACK) == 10 and set(NAMES) >= BLACK
    files = make_files() | {f"KDEF/{name}.JPG": make_picture(9) for name in BLACK}
    files |= {f"KDEF/{name}.JPG": make_picture(99, (970, 633)) for name in ("AM05ANFR", "BM10ANFR")}
    files |= {"AKDEF/AF01AFS.JPG": make_picture(99), "readme.txt": b"1"}
    faceset = kdef.write(kdef.pack(tmp_path, ".zip", files), tmp_path / "set")
    assert faceset.n == 7 and faceset.provenance["notes"] == []
    assert kdef.list_excluded(faceset) == {
        **{f"KDEF/{name}.JPG": "a black placeholder" for name in BLACK},
        "KDEF/AM05ANFR.JPG": "970x633 px, another shape than 562x762",
        "KDEF/BM10ANFR.JPG": "970x633 px, another shape than 562x762",
        "AKDEF/AF01AFS.JPG": "an averaged face (AKDEF)",
        "readme.txt": "not a name of KDEF's, such as AF01AFFL.JPG",
    }


@pytest.mark.parametrize(
    ("size", "crop"),
    [((350, 350), "not cropped"), ((256, 347), "cropped to the central square, of 256x347 px 256")],
)
def test_other_sizes_of_one_shape_are_read_and_their_crop_is_said(
    kdef: Any, size: tuple[int, int], crop: str, tmp_path: Path
) -> None:
    """Rounding gives 256 px wide ones a height of 347 or 348."""
    files = {name: make_picture(20 + number, size) for number, name in enumerate(make_files())}
    files["KDEF/AF02/AF02SUS.bmp"] = make_picture(60, (size[0], size[1] + 1))
    files["AM05ANFR.JPG"] = make_picture(99, (970, 633))
    faceset = kdef.write(kdef.pack(tmp_path, ".zip", files), tmp_path / "set")
    assert faceset.n == 7 and list(kdef.list_excluded(faceset)) == ["AM05ANFR.JPG"]
    sizes = f"{size[0]}x{size[1]}, {size[0]}x{size[1] + 1}"
    assert faceset.provenance["notes"] == [f"pictures of {sizes} px, in place of 562x762; {crop}"]


def test_a_placeholder_is_recognised_by_its_content_and_the_list_is_a_cross_check(kdef: Any, tmp_path: Path) -> None:
    files = make_files() | {"BM24DIFL.bmp": make_picture(10), "BM24DIFR.bmp": make_picture(9)}
    path = kdef.pack(tmp_path, "", files)
    faceset = kdef.write(path, tmp_path / "set", ImportOptions(48, 1, 0.2))
    assert "BM24DIFL" in set(faceset.labels["stimulus"])
    assert kdef.list_excluded(faceset) == {"BM24DIFR.bmp": "a black placeholder"}
    assert faceset.provenance["notes"] == ["BM24DIFL.bmp: a photograph here, a black placeholder in the published KDEF"]
    # a black picture that other copies do not have counts as damage
    with pytest.raises(StudyError, match=r"1 of 9 images \(11\.11%\)"):
        kdef.write(path, tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("AF03AFS.JPG", b"", "an empty file"),
        ("AF03AFS.JPG", make_picture(99, (350, 350)), "350x350 px, another shape than 562x762"),
        ("AM05ANFL.JPG", make_picture(99, (970, 633)), "970x633 px, another shape than 562x762"),
        ("AF36AFS.JPG", make_picture(99), "not a name of KDEF's, such as AF01AFFL.JPG"),
    ],
)
def test_bad_picture(kdef: Any, name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    message = kdef.refuse(tmp_path, make_files() | {name: content})
    assert message.startswith("PATH: 1 of 8 images (12.50%) cannot be used") and f"First: {name}: {reason}. " in message


def test_a_repeated_face_is_named_with_its_folders(kdef: Any, tmp_path: Path) -> None:
    files = {**make_files(), "copy/AF02AFS.bmp": make_picture(99), "copy/AF02XXS.bmp": make_picture(99)}
    faceset = kdef.write(kdef.pack(tmp_path, ".zip", files), tmp_path / "set", ImportOptions(48, 1, 0.5))
    assert kdef.list_excluded(faceset) == {
        "copy/AF02AFS.bmp": "the same face as KDEF/AF02/AF02AFS.bmp, by its name",
        "copy/AF02XXS.bmp": "not a name of KDEF's, such as AF01AFFL.JPG",
    }


def test_what_is_no_kdef_is_refused(kdef: Any, tmp_path: Path) -> None:
    kdef.check_missing_path(tmp_path)
    message = kdef.refuse(tmp_path, {"train/happy/a.jpg": b"1", "x": b"1"}, kind=".tar.xz")
    assert "PATH: no KDEF: it holds train/happy/a.jpg, x. KDEF is pictures named like AF01AFFL.JPG" in message
    files = {name: content for name, content in make_files().items() if "DI" not in name and "NE" not in name}
    assert kdef.refuse(tmp_path, files).startswith("PATH: no images of 'disgust', 'neutral'.")
