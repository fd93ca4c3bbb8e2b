from __future__ import annotations

import io
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facespec.data.faceset import FaceSet
from facespec.data.intake import ImportOptions
from facespec.data.kdef import BLACK, Photograph, format_name, parse_name
from facespec.study.errors import StudyError
from facespec.study.vocabulary import EXPRESSIONS, SESSIONS, VIEWS, Expression, View

CODES = ("AF", "AN", "DI", "HA", "NE", "SA", "SU")
VIEW_CODES = ("FL", "HL", "S", "HR", "FR")
EVERY = ["".join(parts) for parts in product("AB", "FM", [f"{n:02d}" for n in range(1, 36)], CODES, VIEW_CODES)]

photographs = st.builds(
    Photograph,
    st.sampled_from(SESSIONS),
    st.sampled_from("FM"),
    st.integers(1, 35),
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(VIEWS),
)


@given(photographs)
def test_reading_a_name_inverts_writing_it(photograph: Photograph) -> None:
    assert parse_name(format_name(photograph)) == parse_name(format_name(photograph).lower()) == photograph


@given(st.sampled_from(EVERY))
def test_writing_a_name_inverts_reading_it(name: str) -> None:
    photograph = parse_name(name)
    assert photograph is not None and format_name(photograph) == name


def test_every_name_is_another_photograph() -> None:
    photos = {parse_name(name) for name in EVERY}
    assert len(photos) == len(EVERY) == 4900 and None not in photos
    assert len({photo.person for photo in photos if photo}) == 70


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
        *dict.fromkeys(
            [
                "AF00AFFL",
                "AF36AFFL",
                "AX01AFFL",
                "CF01AFFL",
                "AF01XXFL",
                "AF01AFXX",
                "AF01AFSS",
                "AF1AFFL",
                "AF01AFFL2",
                "xAF01AFFL",
                "AF01AF",
                "AF01ASFL",
                "BF31V",
                "AF\u0661\u0661AFS",
                "",
            ]
        ).items(),
    ],
)
def test_names_by_hand(stem: str, photograph: Photograph | None) -> None:
    assert parse_name(stem) == photograph


def test_both_sessions_show_one_person() -> None:
    assert {photo.person for stem in ("AF01AFFL", "BF01SUS") if (photo := parse_name(stem))} == {"F01"}


def picture(grey: int, size: tuple[int, int] = (562, 762), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, grey).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def good(*more: str) -> dict[str, bytes]:
    """A face of every expression."""
    names = [f"AF02{code}S" for code in CODES] + list(more)
    return {f"KDEF/{name[:4]}/{name}.bmp": picture(20 + number) for number, name in enumerate(names)}


def excluded(faceset: FaceSet) -> dict[str, str]:
    return {row["file"]: row["reason"] for row in faceset.provenance["excluded"]}


def test_labels_and_counts(kdef: Any, tmp_path: Path) -> None:
    files = good("BF02HAFL", "AM35SUHR") | {"KDEF/AF31/AF31V.bmp": picture(99)}
    faceset = kdef.imported(kdef.packed(tmp_path, "", files), tmp_path / "set")
    rows = [list(row) for row in faceset.labels.itertuples(index=False)]
    assert rows == [
        ["AF02AFS", "probe", "F02", "fear", "straight", "A"],
        ["AF02ANS", "probe", "F02", "angry", "straight", "A"],
        ["AF02DIS", "probe", "F02", "disgust", "straight", "A"],
        ["AF02HAS", "probe", "F02", "happy", "straight", "A"],
        ["AF02NES", "probe", "F02", "neutral", "straight", "A"],
        ["AF02SAS", "probe", "F02", "sad", "straight", "A"],
        ["AF02SUS", "probe", "F02", "surprise", "straight", "A"],
        ["AF31SAHL", "probe", "F31", "sad", "half_left", "A"],
        ["AM35SUHR", "probe", "M35", "surprise", "half_right", "A"],
        ["BF02HAFL", "probe", "F02", "happy", "full_left", "B"],
    ]
    assert faceset.images(np.arange(10))[:, 5, 5].tolist() == [20, 21, 22, 23, 24, 25, 26, 99, 28, 27]
    provenance = faceset.provenance
    assert provenance["counts"] == {
        "images": 10,
        "probe": 10,
        "people": 3,
        "fear": 1,
        "angry": 1,
        "disgust": 1,
        "happy": 2,
        "neutral": 1,
        "sad": 2,
        "surprise": 2,
        "straight": 7,
        "half_left": 1,
        "half_right": 1,
        "full_left": 1,
        "session A": 9,
        "session B": 1,
    }
    assert (faceset.role, faceset.source, provenance["excluded"], provenance["notes"]) == ("probe", "KDEF", [], [])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_crop_is_the_central_square_of_full_width(kdef: Any, channels: int, tmp_path: Path) -> None:
    """Rows 100 to 661 of 762 remain."""
    face = np.zeros((762, 562, 3), dtype=np.uint8)
    face[100:662] = 200
    files = {**good(), "KDEF/AF02/AF02AFS.bmp": kdef.encoded(face, "BMP")}
    faceset = kdef.imported(kdef.packed(tmp_path, "", files), tmp_path / "set", ImportOptions(64, channels, 0.0))
    assert (faceset.images(np.array([0])) == 200).all()
    assert faceset.images(np.array([0])).shape == (1, 64, 64, 3)[: 3 if channels == 1 else 4]


def test_directory_zip_and_tar_give_the_same_faces(kdef: Any, tmp_path: Path) -> None:
    files = good("BF02HAFL") | {"readme.txt": b"1", "KDEF/AF01/AF01SUFR.JPG": picture(0)}
    paths = [
        kdef.packed(tmp_path, kind, dict(list(files.items())[::order]))
        for kind, order in (("", 1), (".zip", -1), (".tar.xz", -1))
    ]
    one, two, three = (kdef.in_bytes(kdef.imported(path, tmp_path / f"set{n}")) for n, path in enumerate(paths))
    assert one == two == three


def test_irregular_files_of_every_copy_are_listed_and_tolerated(kdef: Any, tmp_path: Path) -> None:
    assert len(BLACK) == 10 and set(EVERY) >= BLACK
    files = good() | {f"KDEF/{name}.JPG": picture(9) for name in BLACK}
    files |= {f"KDEF/{name}.JPG": picture(99, (970, 633)) for name in ("AM05ANFR", "BM10ANFR")}
    files |= {"AKDEF/AF01AFS.JPG": picture(99), "readme.txt": b"1"}
    faceset = kdef.imported(kdef.packed(tmp_path, ".zip", files), tmp_path / "set")
    assert faceset.n == 7 and faceset.provenance["notes"] == []
    assert excluded(faceset) == {
        **{f"KDEF/{name}.JPG": "a black placeholder" for name in BLACK},
        "KDEF/AM05ANFR.JPG": "970x633 px instead of 562x762",
        "KDEF/BM10ANFR.JPG": "970x633 px instead of 562x762",
        "AKDEF/AF01AFS.JPG": "an averaged face (AKDEF)",
        "readme.txt": "not a name of KDEF's, such as AF01AFFL.JPG",
    }


def test_a_placeholder_is_told_by_its_content_and_the_list_is_a_cross_check(kdef: Any, tmp_path: Path) -> None:
    files = good() | {"BM24DIFL.bmp": picture(10), "BM24DIFR.bmp": picture(9)}
    path = kdef.packed(tmp_path, "", files)
    faceset = kdef.imported(path, tmp_path / "set", ImportOptions(48, 1, 0.2))
    assert "BM24DIFL" in set(faceset.labels["stimulus"])
    assert excluded(faceset) == {"BM24DIFR.bmp": "a black placeholder"}
    assert faceset.provenance["notes"] == ["BM24DIFL.bmp: a photograph here, a black placeholder in the published KDEF"]
    # a black picture that other copies do not have counts as damage
    with pytest.raises(StudyError, match=r"1 of 9 images \(11\.11%\)"):
        kdef.imported(path, tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("AF03AFS.JPG", b"", "an empty file"),
        ("AF03AFS.JPG", b"<html>", "not a JPEG, PNG or BMP picture"),
        ("AF03AFS.JPG", picture(99)[:-300], "truncated or damaged"),
        ("AF03AFS.JPG", picture(99, (281, 381)), "281x381 px instead of 562x762"),
        ("AM05ANFL.JPG", picture(99, (970, 633)), "970x633 px instead of 562x762"),
        ("AF03AFS.JPG", picture(99, mode="RGBA"), "mode RGBA instead of RGB or L"),
        ("AF36AFS.JPG", picture(99), "not a name of KDEF's, such as AF01AFFL.JPG"),
        ("AF02AFS.JPG", picture(99), None),
    ],
)
def test_bad_picture(kdef: Any, name: str, content: bytes, reason: str | None, tmp_path: Path) -> None:
    files = good() | {name: content}
    bad = name
    if reason is None:  # a second file of one name: the first in alphabetical order stays
        bad, reason = "KDEF/AF02/AF02AFS.bmp", "the same face as AF02AFS.JPG, by its name"
    assert kdef.refused(tmp_path, files) == (
        "PATH: 1 of 8 images (12.50%) cannot be used; at most 0.00% may be left out (data.tolerated). "
        f"First: {bad}: {reason}. Fetch the data set again, or raise data.tolerated in params.yaml."
    )


def test_a_repeated_face_is_named_with_its_folders(kdef: Any, tmp_path: Path) -> None:
    files = {**good(), "copy/AF02AFS.bmp": picture(99), "copy/AF02XXS.bmp": picture(99)}
    faceset = kdef.imported(kdef.packed(tmp_path, ".zip", files), tmp_path / "set", ImportOptions(48, 1, 0.5))
    assert excluded(faceset) == {
        "copy/AF02AFS.bmp": "the same face as KDEF/AF02/AF02AFS.bmp, by its name",
        "copy/AF02XXS.bmp": "not a name of KDEF's, such as AF01AFFL.JPG",
    }


def test_missing_path(kdef: Any, tmp_path: Path) -> None:
    assert kdef.missing(tmp_path) == (
        "AT/none: no such file or directory. Give the path of the data set; see docs/data.md."
    )


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
def test_no_kdef(kdef: Any, kind: str, tmp_path: Path) -> None:
    assert kdef.refused(tmp_path, {"train/happy/a.jpg": b"1", "x": b"1"}, kind=kind) == (
        "PATH: no KDEF: it holds train/happy/a.jpg, x. KDEF is pictures named like AF01AFFL.JPG (session, sex, number, "
        "expression, view), in any folders, plain or in a .zip or .tar.xz."
    )


def test_missing_expressions(kdef: Any, tmp_path: Path) -> None:
    files = {name: content for name, content in good().items() if "DI" not in name and "NE" not in name}
    assert kdef.refused(tmp_path, files) == (
        "PATH: no images of 'disgust', 'neutral'. The study needs all seven expressions."
    )
