from __future__ import annotations

import csv
import io
import lzma
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
