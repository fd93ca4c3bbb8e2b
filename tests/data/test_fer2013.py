"""FER2013's table and folders give the same faces; rows, files and copies that are damaged are refused or listed."""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facespec.data import fer2013 as module
from facespec.data.archives import ArchiveFiles
from facespec.data.importing import ImportOptions
from facespec.study.errors import StudyError

OPTIONS = ImportOptions(48, 1, 0.0)
FORMS = "FER2013 is a CSV with the columns 'emotion', 'pixels', 'Usage', or folders"
PIXELS = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (48, 48), dtype=np.uint8)


@settings(max_examples=3)
@given(st.integers(0, 2**32), st.sampled_from([(48, 1), (48, 3), (61, 1)]), st.randoms(use_true_random=False))
def test_all_forms_of_the_same_pictures_give_the_same_faces(
    fer2013: Any, seed: int, shape: tuple[int, int], random: Any
) -> None:
    faces, options = fer2013.make_faces(seed), ImportOptions(*shape, 0.0)
    table = fer2013.make_table(faces)
    folders = list(fer2013.make_folders(faces).items())
    random.shuffle(folders)
    nested = {f"archive/{name}": content for name, content in folders}
    spaced = fer2013.make_csv([fer2013.make_row(face) for face in faces], ["emotion", " pixels", " Usage "])
    forms = [("", dict(folders)), (".zip", nested), (".tar.xz", dict(folders)), ("file", table), (".tar.xz", table)]
    with tempfile.TemporaryDirectory() as directory:
        contents = []
        for number, (kind, files) in enumerate([*forms, (".zip", {"README": b"", "d/FER.CSV": spaced})]):
            here = Path(directory) / str(number)
            here.mkdir()
            faceset = fer2013.write(fer2013.pack(here, kind, files), here / "set", options)
            contents.append(fer2013.read_bytes(faceset))
    assert fer2013.list_excluded(faceset) == {"README": "not FER2013's table"}
    contents[-1]["faceset.json"] = contents[0]["faceset.json"]  # differs by the excluded file
    assert all(content == contents[0] for content in contents[1:])


def test_codes_usages_names_pixels_and_counts_from_the_table(fer2013: Any, tmp_path: Path) -> None:
    faces = fer2013.make_faces()
    faceset = fer2013.write(fer2013.pack(tmp_path, "file", fer2013.make_table(faces)), tmp_path / "set")
    labels = faceset.labels
    assert list(labels["stimulus"]) == sorted(labels["stimulus"])
    for index, stimulus in enumerate(labels["stimulus"]):
        face = faces[int(stimulus[-5:])]
        split = {"Training": "train", "PublicTest": "test", "PrivateTest": "test"}[face.usage]
        assert stimulus.startswith(f"{split}/{fer2013.names[face.code]}/{face.usage}_")
        assert (labels["split"][index], labels["expression"][index]) == (split, fer2013.names[face.code])
        assert np.array_equal(faceset.images(np.array([index]))[0], face.pixels)
    assert (labels[["identity", "view", "session"]] == "").all(axis=None)
    counts = {"images": 21, "train": 7, "test": 14} | dict.fromkeys(fer2013.names, 3)
    counts |= {f"train {name}": 1 for name in fer2013.names} | {f"test {name}": 2 for name in fer2013.names}
    provenance = faceset.provenance
    assert len(provenance.pop("content")) == 64
    note = "images: 7 train, 14 test; FER2013 has 28,709 train, 7,178 test"
    assert provenance == {"source": "FER2013", "counts": counts, "excluded": [], "notes": [note]}
    assert (faceset.role, faceset.source) == ("expression", "FER2013")


def test_the_content_is_the_same_under_other_names_order_and_size(fer2013: Any, tmp_path: Path) -> None:
    faces = fer2013.make_faces()
    folders, reverse = fer2013.make_folders(faces), fer2013.make_table(faces[::-1])
    one = fer2013.write(fer2013.pack(tmp_path, "", folders), tmp_path / "one")
    two = fer2013.write(fer2013.pack(tmp_path, "file", reverse), tmp_path / "two", ImportOptions(64, 3, 0.0))
    assert one.provenance["content"] == two.provenance["content"]
    assert list(one.labels["stimulus"]) != list(two.labels["stimulus"])


def test_nothing_is_read_before_the_first_chunk_but_a_missing_path_is_noticed(fer2013: Any, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    faces = fer2013.read(tmp_path, OPTIONS, report=lambda *numbers: reports.append(numbers))
    fer2013.pack(tmp_path, "", fer2013.make_folders(fer2013.make_faces())).rename(tmp_path / "later")
    assert sum(len(chunk.labels) for chunk in faces.chunks) == 21
    assert reports == [(21, 21)]
    fer2013.check_missing_path(tmp_path)


def test_folders_and_endings_in_any_case(fer2013: Any, tmp_path: Path) -> None:
    files = {
        name.replace("train/happy/", "Train/HAPPY/").replace(".png", ".PNG"): content
        for name, content in fer2013.make_folders(fer2013.make_faces()).items()
    }
    labels = fer2013.write(fer2013.pack(tmp_path, ".zip", files), tmp_path / "set").labels
    assert labels["stimulus"][labels["expression"] == "happy"].str.match(r"(train|test)/happy/P?[A-Za-z]+_\d{5}$").all()


def test_what_is_no_fer2013_is_refused(fer2013: Any, tmp_path: Path) -> None:
    files = dict.fromkeys(["a.jpg", "b/c.txt", "d", "e"], b"1")
    assert fer2013.refuse(tmp_path, files, kind=".zip").startswith(
        f"PATH: no FER2013: it holds a.jpg, b/c.txt, d, .... {FORMS}"
    )
    assert f"no FER2013: it holds x.txt. {FORMS}" in fer2013.refuse(tmp_path, {"x.txt": b"1"}, kind="file")
    assert fer2013.refuse(tmp_path, {}).startswith("PATH: no files in it.")


def test_several_editions_at_once_are_refused(fer2013: Any, tmp_path: Path) -> None:
    files, table = (make(fer2013.make_faces()) for make in (fer2013.make_folders, fer2013.make_table))
    both = fer2013.refuse(tmp_path, files | table, kind=".zip")
    assert both == f"PATH: holds both a table (fer2013.csv) and folders ({min(files)}). Give the path of one."
    more = {"a/icml.csv": fer2013.make_csv([], ["emotion", " Usage", " pixels"]), "train.csv": b"a,b\n"}
    assert "holds several tables: a/icml.csv, fer2013.csv. Unpack it" in fer2013.refuse(tmp_path, table | more)


@pytest.mark.parametrize("form", ["make_table", "make_folders"])
def test_missing_expressions_are_named_per_split(fer2013: Any, form: str, tmp_path: Path) -> None:
    faces = [f for f in fer2013.make_faces() if f.code != 1 and (f.code, f.usage) != (6, "Training")]
    message = fer2013.refuse(tmp_path, getattr(fer2013, form)(faces))
    assert "PATH: no train images of 'disgust', 'neutral'; no test images of 'disgust'. The study needs" in message
    assert message.endswith(".tar.xz.")


def test_missing_splits_are_named(fer2013: Any, tmp_path: Path) -> None:
    every = ", ".join(map(repr, sorted(fer2013.names)))
    train = fer2013.make_table(fer2013.make_faces(usages=["Training"]))
    assert f"PATH: no test images of {every}. The study" in fer2013.refuse(tmp_path, train)
    message = fer2013.refuse(tmp_path, {"fer.csv": fer2013.make_csv([])}, kind="file")
    assert f"PATH: no train images of {every}; no test images of {every}. The study" in message


UTF8 = "is no text in UTF-8. Save it as CSV in UTF-8."


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"emotion,pixels\n", "lacks the column 'Usage'; it has 'emotion', 'pixels'."),
        (
            b" emotion,pixel,Usage\n",
            "lacks the column 'pixels'; it has 'emotion', 'pixel', 'Usage'. Column 'pixel'",
        ),
        (b"", "lacks the column 'emotion', 'pixels', 'Usage'; it has none."),
        (b'"' + b"x" * 200_000, "lacks the column 'emotion', 'pixels', 'Usage'; it has none."),
        (b"\x00\xff\xfe", UTF8),
        ("emotion,pixels,Usage\n".encode("utf-16"), UTF8),
        ("emotion\tpixels\tUsage\n".encode("utf-16-be"), UTF8),
        (b"\xc9motion,pixels,Usage\n", UTF8),
    ],
)
def test_a_table_without_the_columns_is_refused(fer2013: Any, content: bytes, sentence: str, tmp_path: Path) -> None:
    message = fer2013.refuse(tmp_path, {"fer.csv": content}, kind="file")
    assert message.startswith(f"PATH: fer.csv {sentence}") and FORMS in message


def change_pixel(word: str) -> Callable[[list[str]], list[str]]:
    return lambda cells: [cells[0], " ".join(["7", word, *cells[1].split()[2:]]), cells[2]]


BAD_ROWS = {
    "2303 pixels instead of 2304": lambda cells: [cells[0], cells[1].rsplit(" ", 1)[0], cells[2]],
    "2305 pixels instead of 2304": lambda cells: [cells[0], cells[1] + " 1", cells[2]],
    "0 pixels instead of 2304": lambda cells: [cells[0], "", cells[2]],
    **{
        f"pixel 1 is {word!r}, allowed: whole numbers from 0 to 255": change_pixel(word)
        for word in ("256", "-1", "1.5", "inf", "nan", "1\0")
    },
    **{
        f"unknown emotion {word!r}, allowed: '0' to '6'": lambda cells, word=word: [word, *cells[1:]]
        for word in ("inf", "7", "happy")
    },
    "unknown Usage 'Traning': did you mean 'Training'? Allowed: 'Training', 'PublicTest', 'PrivateTest'.": (
        lambda cells: [*cells[:2], "Traning"]
    ),
    "1 cells instead of at least 3": lambda cells: cells[:1],
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_row_is_excluded_and_counts(fer2013: Any, reason: str, tmp_path: Path) -> None:
    rows = [fer2013.make_row(face) for face in fer2013.make_faces()]
    rows.insert(4, BAD_ROWS[reason](rows[0]))
    message = fer2013.refuse(tmp_path, {"fer.csv": fer2013.make_csv(rows)}, kind="file")
    assert message.startswith("PATH: 1 of 22 images (4.55%) cannot be used")
    assert f"First: fer.csv, row 4: {reason}. Fetch" in message
    faceset = fer2013.write(tmp_path / "fer.csv", tmp_path / "set", ImportOptions(48, 1, 0.05))
    assert fer2013.list_excluded(faceset) == {"fer.csv, row 4": reason}
    assert faceset.n == 21 and not faceset.labels["stimulus"].str.endswith("_00004").any()


def test_a_damaged_or_encrypted_table_is_refused(fer2013: Any, tmp_path: Path) -> None:
    table = fer2013.make_table(fer2013.make_faces())
    whole = fer2013.pack(tmp_path, ".zip", table, method=zipfile.ZIP_STORED).read_bytes()
    damaged, encrypted = bytearray(whole), bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[whole.index(header) + flags] |= 1
    for content, reason in ((damaged, "Bad CRC-32 for file 'fer2013.csv'"), (encrypted, "cannot be opened")):
        message = fer2013.refuse(tmp_path, {"b.zip": bytes(content)}, kind="file")
        assert message == f"PATH: fer2013.csv cannot be read to its end ({reason}). Fetch it again."


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no longer there"), (b"", "its header was another a moment ago")]
)
def test_a_table_that_changes_or_disappears_while_it_is_read(
    fer2013: Any, content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fer2013.pack(tmp_path, "file", fer2013.make_table(fer2013.make_faces()))
    choose_table = module.choose_table

    def choose_and_change(*arguments: Any, **more: Any) -> str | None:
        table = choose_table(*arguments, **more)
        path.unlink() if content is None else path.write_bytes(content)
        return table

    monkeypatch.setattr(module, "choose_table", choose_and_change)
    with pytest.raises(StudyError, match=re.escape(f"fer2013.csv cannot be read to its end ({reason}). Fetch it")):
        fer2013.write(path, tmp_path / "set")


def test_a_long_line_is_read_in_pieces(fer2013: Any, tmp_path: Path) -> None:
    """In pieces of 65,536 characters, so that it cannot fill the memory."""
    rows = fer2013.make_table(fer2013.make_faces())["fer2013.csv"] + b"0," + b"1 " * 200_000 + b'\n"'
    path = fer2013.pack(tmp_path, "file", {"fer.csv": rows})
    faceset = fer2013.write(path, tmp_path / "set", ImportOptions(48, 1, 0.5))
    reasons = [row["reason"] for row in faceset.provenance["excluded"]]
    assert reasons == ["2 cells instead of at least 3"] + ["1 cells instead of at least 3"] * 7


def test_a_table_in_folders_is_named_with_them(fer2013: Any, tmp_path: Path) -> None:
    files = {"a/fer.csv": fer2013.make_csv([*map(fer2013.make_row, fer2013.make_faces()), ["0"]])}
    assert "First: a/fer.csv, row 21: 1 cells instead of at least 3." in fer2013.refuse(tmp_path, files)


def test_empty_lines_are_no_rows(fer2013: Any, tmp_path: Path) -> None:
    content = fer2013.make_table(fer2013.make_faces())["fer2013.csv"].replace(b"\r\n", b"\r\n\r\n")
    faceset = fer2013.write(fer2013.pack(tmp_path, "file", {"fer.csv": content}), tmp_path / "set")
    assert sorted(faceset.labels["stimulus"].str[-2:].astype(int)) == list(range(21))


BAD_PICTURES = {
    "an empty file": lambda encode: b"",
    "truncated or damaged": lambda encode: encode(PIXELS, "JPEG")[:-500],
    "more than 16 bits per pixel": lambda encode: encode(np.full((48, 48), 70_000, dtype=np.int32), "TIFF"),
}


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
@pytest.mark.parametrize("reason", BAD_PICTURES)
def test_a_bad_picture_is_excluded_and_counts(fer2013: Any, reason: str, kind: str, tmp_path: Path) -> None:
    content = BAD_PICTURES[reason](fer2013.encode)
    files = {"train/sad/bad.jpg": content, **fer2013.make_folders(fer2013.make_faces())}
    message = fer2013.refuse(tmp_path, files, kind=kind)
    assert message.startswith("PATH: 1 of 22 images (4.55%) cannot be used")
    assert f"First: train/sad/bad.jpg: {reason}. Fetch" in message
    faceset = fer2013.write(tmp_path / f"faces{kind}", tmp_path / "set", ImportOptions(48, 1, 0.05))
    assert faceset.n == 21 and fer2013.list_excluded(faceset) == {"train/sad/bad.jpg": reason}


def test_files_that_do_not_belong_are_listed_and_pictures_count(fer2013: Any, tmp_path: Path) -> None:
    folders = fer2013.make_folders(fer2013.make_faces())
    first, other = next(iter(folders)), fer2013.encode(PIXELS)
    files = {"a/README.txt": b"1", "banner.png": other, "../train/sad/out.png": other, f"copy/{first}": folders[first]}
    path = fer2013.pack(tmp_path, ".zip", files | folders | {"labels.csv": b"a,b\n"})
    elsewhere = "not in train/<expression>/ or test/<expression>/"
    assert fer2013.list_excluded(fer2013.write(path, tmp_path / "set", ImportOptions(48, 1, 0.2))) == {
        "../train/sad/out.png": "a name that leads out of the archive",
        **dict.fromkeys(("a/README.txt", "banner.png", "labels.csv"), elsewhere),
        first: f"the same face as copy/{first}, by its name",
    }
    with pytest.raises(StudyError, match=r"3 of 24 images \(12\.50%\)"):
        fer2013.write(path, tmp_path / "set")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("test/happy", "test/hapy", "lies in the folder of no expression: did you mean 'happy'? Allowed: 'angry', "),
        ("test/", "holdout/", f"lies in neither train/ nor test/. {FORMS}"),
        ("train/", "", f"lies in neither train/ nor test/. {FORMS}"),
    ],
)
def test_an_unknown_folder_is_refused(fer2013: Any, old: str, new: str, reason: str, tmp_path: Path) -> None:
    folders = fer2013.make_folders(fer2013.make_faces())
    files = {name.replace(old, new): content for name, content in folders.items() if old in name}
    assert fer2013.refuse(tmp_path, files).startswith(f"PATH: {min(files)} {reason}")


NOUNS = ("anger", "Disgust", "fearful", "happiness", "sadness", "surprised", "Neutral")
LAYOUTS = {
    "training, validation": ("images/train/{}/{}.png", "images/validation/{}/{}.png", "images/validation/{}/{}.png"),
    "three splits": ("train/{}/{}.png", "val/{}/{}.png", "test/{}/{}.png"),
    "the table's words": ("Training/{}/{}.png", "PublicTest/{}/{}.png", "PrivateTest/{}/{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [range(7), NOUNS])
def test_folders_of_other_names(fer2013: Any, layout: str, classes: Any, tmp_path: Path) -> None:
    """Files of one name in two folders that become one split are two faces."""
    faces, folders = fer2013.make_faces(), LAYOUTS[layout]
    number = {"Training": 0, "PublicTest": 1, "PrivateTest": 2}
    files = {}
    for face in faces:
        name = number[face.usage] if "validation" in layout else 0
        files[folders[number[face.usage]].format(classes[face.code], name)] = fer2013.encode(face.pixels)
    faceset = fer2013.write(fer2013.pack(tmp_path, ".zip", files), tmp_path / "set")
    table = fer2013.write(fer2013.pack(tmp_path, "file", fer2013.make_table(faces)), tmp_path / "table")
    assert faceset.n == 21 and faceset.provenance["content"] == table.provenance["content"]
    assert faceset.labels["split"].value_counts().to_dict() == {"test": 14, "train": 7}


def test_pictures_saved_anew_are_read_and_noted(fer2013: Any, tmp_path: Path) -> None:
    files = fer2013.make_folders(fer2013.make_faces())
    colour, large = np.stack([PIXELS] * 3, axis=2), np.kron(PIXELS, np.ones((2, 2), np.uint8))
    changed = dict(zip(files, [*[fer2013.encode(colour)] * 2, fer2013.encode(large)], strict=False))
    faceset = fer2013.write(fer2013.pack(tmp_path, "", files | changed), tmp_path / "set")
    assert faceset.n == 21 and faceset.provenance["excluded"] == []
    assert faceset.provenance["notes"][1] == (
        "pictures: 18 of 48x48 px grey, 2 of 48x48 px RGB, 1 of 96x96 px grey; FER2013's are 48x48 px grey"
    )


@pytest.mark.parametrize(
    ("root", "names", "expected"),
    [
        ("faces", ["train/happy/1.png"], False),  # anybody's
        ("FER-2013.zip", ["train/happy/1.png"], True),
        ("faces", ["fer2013/train/happy/1.png"], True),
        ("faces", ["train/happy/Training_3.jpg"], True),
        ("faces", ["PublicTest/0/3.jpg"], True),
        ("fer2013", ["Ann/1.jpg"], False),
    ],
)
def test_only_its_own_words_make_a_fer2013(root: str, names: list[str], expected: bool) -> None:
    files = ArchiveFiles(tuple(names), (), opener=pytest.fail)
    assert module.is_fer2013(Path(root), files) is expected


def test_a_pointer_of_lfs_in_place_of_the_table(fer2013: Any, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    message = fer2013.refuse(tmp_path, {"fer.csv": pointer}, kind="file")
    assert "fer.csv is a pointer of Git LFS in place of the table: `git lfs pull` fetches it." in message


@pytest.fixture(scope="module")
def real_archive() -> Path:
    given = os.environ.get("FACESPEC_FER2013")
    if not given or not Path(given).is_file():
        pytest.skip("FER2013 is not here: set FACESPEC_FER2013 to its archive (folder edition, .tar.xz)")
    return Path(given)


def test_the_real_archive(fer2013: Any, real_archive: Path, tmp_path: Path) -> None:
    """28,709 training faces, as published; and the first of them, as tarfile and Pillow read it."""
    faceset = fer2013.write(real_archive, tmp_path / "set")
    train = {"angry": 3995, "disgust": 436, "fear": 4097, "happy": 7215, "neutral": 4965, "sad": 4830, "surprise": 3171}
    counts = faceset.provenance["counts"]
    assert {name: counts[f"train {name}"] for name in train} == train
    assert counts["train"] == 28709 and counts["test"] in (3589, 7178)
    assert counts["images"] == faceset.n == counts["train"] + counts["test"]
    assert faceset.provenance["excluded"] == []
    with tarfile.open(real_archive) as archive:
        info = next(info for info in archive if info.isfile())
        expected = np.asarray(Image.open(archive.extractfile(info)))  # type: ignore[arg-type]
    index = np.flatnonzero(faceset.labels["stimulus"] == info.name.removesuffix(".jpg"))
    assert len(index) == 1 and np.array_equal(faceset.images(index)[0], expected)
