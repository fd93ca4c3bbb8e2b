from __future__ import annotations

import csv
import io
import lzma
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facespec.data import fer2013
from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.intake import Wanted
from facespec.study.errors import StudyError

# As FER2013 numbers them
NAMES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
FORMS = (
    "FER2013 is a CSV with the columns 'emotion', 'pixels', 'Usage', or folders train/<expression>/ and "
    "test/<expression>/; plain, or in a .zip or .tar.xz."
)
WANTED = Wanted(48, 1, 0.0)


class Face(NamedTuple):
    code: int
    usage: str
    pixels: np.ndarray  # uint8 (48, 48)


def faces(seed: int = 0, usages: Sequence[str] = ("Training", "PrivateTest", "PublicTest")) -> list[Face]:
    """One face of every expression and usage, shuffled."""
    generator = np.random.Generator(np.random.PCG64(seed))
    every = [(code, usage) for code in range(7) for usage in usages]
    return [Face(*every[i], generator.integers(0, 256, (48, 48), dtype=np.uint8))
            for i in generator.permutation(len(every))]  # fmt: skip


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def row(face: Face) -> list[str]:
    return [str(face.code), " ".join(map(str, face.pixels.ravel())), face.usage]


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ("emotion", "pixels", "Usage")) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def as_table(some: Sequence[Face]) -> dict[str, bytes]:
    return {"fer2013.csv": table([row(face) for face in some])}


def as_folders(some: Sequence[Face]) -> dict[str, bytes]:
    files = {}
    for number, face in enumerate(some):
        split = "train" if face.usage == "Training" else "test"
        files[f"{split}/{NAMES[face.code]}/{face.usage}_{number:05d}.png"] = encoded(face.pixels)
    return files


def packed(at: Path, kind: str, files: dict[str, bytes]) -> Path:
    """`files`, in this order, as one file (kind "file"), a directory ("") or an archive."""
    path = at / f"faces{kind}"
    if kind == "file":
        ((name, content),) = files.items()
        path = at / name
        path.write_bytes(content)
    elif kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif kind == ".tar.xz":
        with lzma.open(path, "w", preset=0) as raw, tarfile.open(fileobj=raw, mode="w|") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def silent(done: int, total: int) -> None:
    del done, total


def imported(path: Path, to: Path, wanted: Wanted = WANTED) -> FaceSet:
    taken = fer2013.read(path, wanted, report=silent)
    return write_faceset(to, taken.chunks, taken.description)


def in_bytes(faceset: FaceSet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in faceset.directory.iterdir()}


def refused(tmp_path: Path, files: dict[str, bytes], *, kind: str = "", tolerated: float = 0.0) -> str:
    path = packed(tmp_path, kind, files)
    with pytest.raises(StudyError) as caught:
        imported(path, tmp_path / "set", Wanted(48, 1, tolerated))
    assert not (tmp_path / "set").exists()
    return str(caught.value).replace(str(path), "PATH")


def test_codes_usages_names_pixels_and_counts_from_the_table(tmp_path: Path) -> None:
    some = faces()
    faceset = imported(packed(tmp_path, "file", as_table(some)), tmp_path / "set")
    labels = faceset.labels
    assert list(labels["stimulus"]) == sorted(labels["stimulus"])
    for index, stimulus in enumerate(labels["stimulus"]):
        face = some[int(stimulus[-5:])]
        split = {"Training": "train", "PublicTest": "test", "PrivateTest": "test"}[face.usage]
        assert stimulus.startswith(f"{split}/{NAMES[face.code]}/{face.usage}_")
        assert (labels["split"][index], labels["expression"][index]) == (split, NAMES[face.code])
        assert np.array_equal(faceset.images(np.array([index]))[0], face.pixels)
    assert (labels[["identity", "view", "session"]] == "").all(axis=None)
    counts = {"images": 21, "train": 7, "test": 14} | dict.fromkeys(NAMES, 3)
    counts |= {f"train {name}": 1 for name in NAMES} | {f"test {name}": 2 for name in NAMES}
    provenance = faceset.provenance
    content = provenance.pop("content")
    assert provenance == {"source": "FER2013", "counts": counts, "excluded": [], "notes": []}
    assert len(content) == 64 and (faceset.role, faceset.source) == ("expression", "FER2013")


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(48, 1), (48, 3), (61, 1)]), st.randoms(use_true_random=False))
def test_all_forms_of_the_same_pictures_give_the_same_faces(seed: int, shape: tuple[int, int], random: Any) -> None:
    some = faces(seed)
    shuffled = list(as_folders(some).items())
    random.shuffle(shuffled)
    deep = {f"archive/{name}": content for name, content in shuffled}
    spaced = {"README": b"", "d/FER.CSV": table([row(f) for f in some], ["emotion", " pixels", " Usage "])}
    with tempfile.TemporaryDirectory() as directory:
        results = []
        for number, (kind, files) in enumerate([("", dict(shuffled)), (".zip", deep), (".tar.xz", dict(shuffled)),
                                                ("file", as_table(some)), (".tar.xz", as_table(some))]):  # fmt: skip
            at = Path(directory) / str(number)
            at.mkdir()
            results.append(in_bytes(imported(packed(at, kind, files), at / "set", Wanted(*shape, 0.0))))
        assert all(result == results[0] for result in results[1:])
        faceset = imported(packed(Path(directory), ".zip", spaced), Path(directory) / "set", Wanted(*shape, 0.0))
        assert faceset.provenance["excluded"] == [{"file": "README", "reason": "not FER2013's table"}]
        assert in_bytes(faceset).keys() == results[0].keys()
        for name in in_bytes(faceset).keys() - {"faceset.json"}:
            assert in_bytes(faceset)[name] == results[0][name]


def test_the_content_is_the_same_under_other_names_order_and_size(tmp_path: Path) -> None:
    some = faces()
    one = imported(packed(tmp_path, "", as_folders(some)), tmp_path / "one")
    two = imported(packed(tmp_path, "file", as_table(some[::-1])), tmp_path / "two", Wanted(64, 3, 0.0))
    assert one.provenance["content"] == two.provenance["content"]
    assert list(one.labels["stimulus"]) != list(two.labels["stimulus"])
    changed = [some[0]._replace(code=(some[0].code + 1) % 7), *faces(1), *some[1:]]
    three = imported(packed(tmp_path, ".zip", as_table(changed)), tmp_path / "three")
    assert three.provenance["content"] != one.provenance["content"]


def test_folders_and_endings_in_any_case(tmp_path: Path) -> None:
    files = {name.replace("train/happy/", "Train/HAPPY/").replace(".png", ".PNG"): content
             for name, content in as_folders(faces()).items()}  # fmt: skip
    labels = imported(packed(tmp_path, ".zip", files), tmp_path / "set").labels
    assert labels["stimulus"][labels["expression"] == "happy"].str.match(r"(train|test)/happy/P?[A-Za-z]+_\d{5}$").all()


def test_nothing_is_read_before_the_first_chunk_but_a_missing_path_is_noticed(tmp_path: Path) -> None:
    taken = fer2013.read(tmp_path, WANTED, report=silent)
    packed(tmp_path, "", as_folders(faces())).rename(tmp_path / "later")
    taken.chunks.__next__()
    with pytest.raises(StudyError) as caught:
        fer2013.read(tmp_path / "none", WANTED, report=silent)
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: no such file or directory. Give the path of the data set; see docs/data.md."
    )


def test_progress(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    path = packed(tmp_path, "", as_folders(faces()))
    list(fer2013.read(path, WANTED, report=lambda *numbers: reports.append(numbers)).chunks)
    assert reports == [(21, 21)]


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
def test_neither_table_nor_folders(kind: str, tmp_path: Path) -> None:
    assert refused(tmp_path, dict.fromkeys(["a.jpg", "b/c.txt", "d", "e"], b"1"), kind=kind) == (
        f"PATH: no FER2013: it holds a.jpg, b/c.txt, d, .... {FORMS}"
    )


def test_another_file(tmp_path: Path) -> None:
    assert refused(tmp_path, {"x.txt": b"1"}, kind="file") == f"PATH: no FER2013: it holds x.txt. {FORMS}"


@pytest.mark.parametrize("kind", ["", ".zip"])
def test_empty(kind: str, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    assert refused(tmp_path, {}, kind=kind) == (
        "PATH: no files in it. Give the directory or archive that holds the data set."
    )


def test_truncated_archive(tmp_path: Path) -> None:
    whole = packed(tmp_path, ".tar.xz", as_folders(faces())).read_bytes()
    assert refused(tmp_path, {"t.tar.xz": whole[: len(whole) // 2]}, kind="file") == (
        "PATH: not a whole zip or tar archive (Compressed file ended before the end-of-stream marker was reached). "
        "It may be truncated: fetch it again."
    )


def test_table_and_folders_together(tmp_path: Path) -> None:
    files = as_folders(faces())
    assert refused(tmp_path, files | as_table(faces())) == (
        f"PATH: holds both a table (fer2013.csv) and folders ({min(files)}). Give the path of one."
    )


def test_two_tables(tmp_path: Path) -> None:
    files = as_table(faces()) | {"a/icml.csv": table([], ["emotion", " Usage", " pixels"]), "train.csv": b"a,b\n"}
    assert refused(tmp_path, files) == (
        "PATH: holds several tables: a/icml.csv, fer2013.csv. Unpack it and give the path of one."
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"emotion,pixels\n", "lacks the column 'Usage'; it has 'emotion', 'pixels'."),
        (b" emotion,pixel,Usage\n", "lacks the column 'pixels'; it has 'emotion', 'pixel', 'Usage'. Column 'pixel': "
         "did you mean 'pixels'? Allowed: 'emotion', 'pixels', 'Usage'."),
        (b"", "lacks the column 'emotion', 'pixels', 'Usage'; it has none."),
        (b"\x00\xff\xfe", "lacks the column 'emotion', 'pixels', 'Usage'; it has '\\x00\ufffd\ufffd'. Column "
         "'\\x00\ufffd\ufffd': Allowed: 'emotion', 'pixels', 'Usage'."),
    ],
)  # fmt: skip
def test_missing_column(content: bytes, sentence: str, tmp_path: Path) -> None:
    assert refused(tmp_path, {"fer.csv": content}, kind="file") == f"PATH: fer.csv {sentence} {FORMS}"


def with_pixel(word: str) -> Callable[[list[str]], list[str]]:
    return lambda cells: [cells[0], " ".join(["7", word, *cells[1].split()[2:]]), cells[2]]


BAD_ROWS = {
    "too few pixels": (lambda c: [c[0], c[1].rsplit(" ", 1)[0], c[2]], "2303 pixels instead of 2304"),
    "too many pixels": (lambda c: [c[0], c[1] + " 1", c[2]], "2305 pixels instead of 2304"),
    "no pixels": (lambda c: [c[0], "", c[2]], "0 pixels instead of 2304"),
    "pixel above": (with_pixel("256"), "pixel 1 is '256', allowed: whole numbers from 0 to 255"),
    "pixel below": (with_pixel("-1"), "pixel 1 is '-1', allowed: whole numbers from 0 to 255"),
    "broken number": (with_pixel("1.5"), "pixel 1 is '1.5', allowed: whole numbers from 0 to 255"),
    "a word": (with_pixel("nan"), "pixel 1 is 'nan', allowed: whole numbers from 0 to 255"),
    "unknown emotion": (lambda c: ["7", *c[1:]], "unknown emotion '7', allowed: '0' to '6'"),
    "named emotion": (lambda c: ["happy", *c[1:]], "unknown emotion 'happy', allowed: '0' to '6'"),
    "unknown usage": (lambda c: [*c[:2], "Traning"], "unknown Usage 'Traning': did you mean 'Training'? Allowed: "
                      "'Training', 'PublicTest', 'PrivateTest'."),
    "cut row": (lambda c: c[:1], "1 cells instead of at least 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row(case: str, tmp_path: Path) -> None:
    spoil, reason = BAD_ROWS[case]
    rows = [row(face) for face in faces()]
    rows.insert(4, spoil(rows[0]))
    assert refused(tmp_path, {"fer.csv": table(rows)}, kind="file") == (
        "PATH: 1 of 22 images (4.55%) cannot be used; at most 0.00% may be left out (data.tolerated). "
        f"First: fer.csv, row 4: {reason}. Fetch the data set again, or raise data.tolerated in params.yaml."
    )
    faceset = imported(tmp_path / "fer.csv", tmp_path / "set", Wanted(48, 1, 0.05))
    assert faceset.n == 21 and faceset.provenance["excluded"] == [{"file": "fer.csv, row 4", "reason": reason}]
    assert not faceset.labels["stimulus"].str.endswith("_00004").any()


def test_table_damaged_within_its_archive(tmp_path: Path) -> None:
    path = packed(tmp_path, ".zip", as_table(faces()))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    assert refused(tmp_path, {"b.zip": bytes(content)}, kind="file") == (
        "PATH: fer2013.csv cannot be read to its end (Bad CRC-32 for file 'fer2013.csv'). Fetch it again."
    )


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    rows = as_table(faces())["fer2013.csv"] + b"0," + b"1 " * 200_000 + b'\n"'
    faceset = imported(packed(tmp_path, "file", {"fer.csv": rows}), tmp_path / "set", Wanted(48, 1, 0.5))
    reasons = [row["reason"] for row in faceset.provenance["excluded"]]
    # the line falls into pieces of 65,536 characters
    assert reasons == ["2 cells instead of at least 3"] + ["1 cells instead of at least 3"] * 7


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


PIXELS = faces()[0].pixels
BAD_PICTURES = {
    "empty": (b"", "an empty file"),
    "no picture": (b"<html>", "not a JPEG, PNG or BMP picture"),
    "truncated": (jpeg(PIXELS)[:-500], "truncated or damaged"),
    "wrong size": (encoded(PIXELS[1:]), "48x47 px instead of 48x48"),
    "colours": (encoded(np.stack([PIXELS] * 3, axis=2)), "mode RGB instead of L"),
}


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
@pytest.mark.parametrize("case", BAD_PICTURES)
def test_bad_picture(case: str, kind: str, tmp_path: Path) -> None:
    content, reason = BAD_PICTURES[case]
    files = {"train/sad/bad.jpg": content, **as_folders(faces())}
    assert refused(tmp_path, files, kind=kind) == (
        "PATH: 1 of 22 images (4.55%) cannot be used; at most 0.00% may be left out (data.tolerated). "
        f"First: train/sad/bad.jpg: {reason}. Fetch the data set again, or raise data.tolerated in params.yaml."
    )
    faceset = imported(tmp_path / f"faces{kind}", tmp_path / "set", Wanted(48, 1, 0.05))
    assert faceset.n == 21 and faceset.provenance["excluded"] == [{"file": "train/sad/bad.jpg", "reason": reason}]


def test_files_that_do_not_belong(tmp_path: Path) -> None:
    good = as_folders(faces())
    one = next(iter(good))
    files = {"a/README.txt": b"1", "banner.png": encoded(PIXELS), "../train/sad/out.png": encoded(PIXELS),
             f"copy/{one}": good[one], **good, "labels.csv": b"a,b\n"}  # fmt: skip
    path = packed(tmp_path, ".zip", files)
    assert imported(path, tmp_path / "set", Wanted(48, 1, 0.2)).provenance["excluded"] == [
        {"file": "../train/sad/out.png", "reason": "a name that leads out of the archive"},
        {"file": "a/README.txt", "reason": "not in train/<expression>/ or test/<expression>/"},
        {"file": "banner.png", "reason": "not in train/<expression>/ or test/<expression>/"},
        {"file": "labels.csv", "reason": "not in train/<expression>/ or test/<expression>/"},
        {"file": one, "reason": f"the same face as {one}, by its name"},
    ]
    # text and tables are no lost faces
    with pytest.raises(StudyError, match=r"3 of 24 images \(12\.50%\)"):
        imported(path, tmp_path / "set")


def test_unknown_class_folder(tmp_path: Path) -> None:
    files = {name.replace("test/happy", "test/hapy"): content for name, content in as_folders(faces()).items()}
    name = min(name for name in files if "hapy" in name)
    assert refused(tmp_path, files) == (
        f"PATH: {name} lies in the folder of no expression: did you mean 'happy'? Allowed: 'angry', 'disgust', 'fear', "
        "'happy', 'neutral', 'sad', 'surprise'."
    )


@pytest.mark.parametrize(("old", "new"), [("test/", "validation/"), ("train/", "")])
def test_unknown_split_folder(old: str, new: str, tmp_path: Path) -> None:
    files = {name.replace(old, new): content for name, content in as_folders(faces()).items() if old in name}
    assert refused(tmp_path, files) == f"PATH: {min(files)} lies in neither train/ nor test/. {FORMS}"


MISSING = "The study needs all seven expressions in both splits. Is the copy complete?"


@pytest.mark.parametrize("form", [as_table, as_folders])
def test_missing_expression(form: Callable[[Sequence[Face]], dict[str, bytes]], tmp_path: Path) -> None:
    some = [face for face in faces() if face.code != 1 and (face.code, face.usage) != (6, "Training")]
    assert refused(tmp_path, form(some)) == (
        f"PATH: no train images of 'disgust', 'neutral'; no test images of 'disgust'. {MISSING} {FORMS}"
    )


def test_missing_split(tmp_path: Path) -> None:
    every = ", ".join(map(repr, sorted(NAMES)))
    assert refused(tmp_path, as_table(faces(usages=["Training"]))) == (
        f"PATH: no test images of {every}. {MISSING} {FORMS}"
    )


def test_table_without_rows(tmp_path: Path) -> None:
    every = ", ".join(map(repr, sorted(NAMES)))
    assert refused(tmp_path, {"fer.csv": table([])}, kind="file") == (
        f"PATH: no train images of {every}; no test images of {every}. {MISSING} {FORMS}"
    )


@pytest.fixture(scope="module")
def real(project: Path) -> Path:
    given = os.environ.get("FACESPEC_FER2013")
    path = Path(given) if given else project.parent / "shared" / "fer2013" / "fer2013_folders.tar.xz"
    if not path.is_file():
        pytest.skip("FER2013 is not here: set FACESPEC_FER2013 to its archive (folder edition, .tar.xz)")
    return path


def test_the_real_archive(real: Path, tmp_path: Path) -> None:
    """28,709 training faces, as published; and the first of them, found by another road."""
    faceset = imported(real, tmp_path / "set")
    train = {"angry": 3995, "disgust": 436, "fear": 4097, "happy": 7215, "neutral": 4965, "sad": 4830, "surprise": 3171}
    counts = faceset.provenance["counts"]
    assert {name: counts[f"train {name}"] for name in train} == train
    assert counts["train"] == 28709 and counts["test"] in (3589, 7178)
    assert counts["images"] == faceset.n == counts["train"] + counts["test"]
    assert faceset.provenance["excluded"] == []
    with tarfile.open(real) as archive:
        info = next(info for info in archive if info.isfile())
        expected = np.asarray(Image.open(archive.extractfile(info)))  # type: ignore[arg-type]
    index = np.flatnonzero(faceset.labels["stimulus"] == info.name.removesuffix(".jpg"))
    assert len(index) == 1 and np.array_equal(faceset.images(index)[0], expected)
