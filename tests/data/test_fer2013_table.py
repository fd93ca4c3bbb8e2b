from __future__ import annotations

import csv
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

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


def row(face: Face) -> list[str]:
    return [str(face.code), " ".join(map(str, face.pixels.ravel())), face.usage]


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ("emotion", "pixels", "Usage")) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def as_table(some: Sequence[Face]) -> dict[str, bytes]:
    return {"fer2013.csv": table([row(face) for face in some])}


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


def test_table_behind_a_password(tmp_path: Path) -> None:
    content = bytearray(packed(tmp_path, ".zip", as_table(faces())).read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    assert refused(tmp_path, {"b.zip": bytes(content)}, kind="file") == (
        "PATH: fer2013.csv cannot be read to its end (cannot be opened). Fetch it again."
    )


def test_table_with_a_cell_without_end(tmp_path: Path) -> None:
    assert refused(tmp_path, {"fer.csv": b'"' + b"x" * 200_000}, kind="file") == (
        f"PATH: fer.csv lacks the column 'emotion', 'pixels', 'Usage'; it has none. {FORMS}"
    )


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    rows = as_table(faces())["fer2013.csv"] + b"0," + b"1 " * 200_000 + b'\n"'
    faceset = imported(packed(tmp_path, "file", {"fer.csv": rows}), tmp_path / "set", Wanted(48, 1, 0.5))
    reasons = [row["reason"] for row in faceset.provenance["excluded"]]
    # the line falls into pieces of 65,536 characters
    assert reasons == ["2 cells instead of at least 3"] + ["1 cells instead of at least 3"] * 7


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    content = as_table(faces())["fer2013.csv"].replace(b"\r\n", b"\r\n\r\n")
    faceset = imported(packed(tmp_path, "file", {"fer.csv": content}), tmp_path / "set")
    assert sorted(faceset.labels["stimulus"].str[-2:].astype(int)) == list(range(21))


MISSING = "The study needs all seven expressions in both splits. Is the copy complete?"


def test_table_without_rows(tmp_path: Path) -> None:
    every = ", ".join(map(repr, sorted(NAMES)))
    assert refused(tmp_path, {"fer.csv": table([])}, kind="file") == (
        f"PATH: no train images of {every}; no test images of {every}. {MISSING} {FORMS}"
    )
