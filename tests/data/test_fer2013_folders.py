from __future__ import annotations

import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
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


def refused(tmp_path: Path, files: dict[str, bytes], *, kind: str = "", tolerated: float = 0.0) -> str:
    path = packed(tmp_path, kind, files)
    with pytest.raises(StudyError) as caught:
        imported(path, tmp_path / "set", Wanted(48, 1, tolerated))
    assert not (tmp_path / "set").exists()
    return str(caught.value).replace(str(path), "PATH")


def test_folders_and_endings_in_any_case(tmp_path: Path) -> None:
    files = {name.replace("train/happy/", "Train/HAPPY/").replace(".png", ".PNG"): content
             for name, content in as_folders(faces()).items()}  # fmt: skip
    labels = imported(packed(tmp_path, ".zip", files), tmp_path / "set").labels
    assert labels["stimulus"][labels["expression"] == "happy"].str.match(r"(train|test)/happy/P?[A-Za-z]+_\d{5}$").all()


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
