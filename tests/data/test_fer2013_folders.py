from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facespec.data.intake import ImportOptions
from facespec.study.errors import StudyError


def test_folders_and_endings_in_any_case(fer2013: Any, tmp_path: Path) -> None:
    files = {
        name.replace("train/happy/", "Train/HAPPY/").replace(".png", ".PNG"): content
        for name, content in fer2013.as_folders(fer2013.faces()).items()
    }
    labels = fer2013.imported(fer2013.packed(tmp_path, ".zip", files), tmp_path / "set").labels
    assert labels["stimulus"][labels["expression"] == "happy"].str.match(r"(train|test)/happy/P?[A-Za-z]+_\d{5}$").all()


PIXELS = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (48, 48), dtype=np.uint8)
BAD_PICTURES = {
    "empty": (lambda encoded: b"", "an empty file"),
    "no picture": (lambda encoded: b"<html>", "not a JPEG, PNG or BMP picture"),
    "truncated": (lambda encoded: encoded(PIXELS, "JPEG")[:-500], "truncated or damaged"),
    "wrong size": (lambda encoded: encoded(PIXELS[1:]), "48x47 px instead of 48x48"),
    "colours": (lambda encoded: encoded(np.stack([PIXELS] * 3, axis=2)), "mode RGB instead of L"),
}


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
@pytest.mark.parametrize("case", BAD_PICTURES)
def test_bad_picture(fer2013: Any, case: str, kind: str, tmp_path: Path) -> None:
    content, reason = BAD_PICTURES[case]
    files = {"train/sad/bad.jpg": content(fer2013.encoded), **fer2013.as_folders(fer2013.faces())}
    assert fer2013.refused(tmp_path, files, kind=kind) == (
        "PATH: 1 of 22 images (4.55%) cannot be used; at most 0.00% may be left out (data.tolerated). "
        f"First: train/sad/bad.jpg: {reason}. Fetch the data set again, or raise data.tolerated in params.yaml."
    )
    faceset = fer2013.imported(tmp_path / f"faces{kind}", tmp_path / "set", ImportOptions(48, 1, 0.05))
    assert faceset.n == 21 and faceset.provenance["excluded"] == [{"file": "train/sad/bad.jpg", "reason": reason}]


def test_files_that_do_not_belong(fer2013: Any, tmp_path: Path) -> None:
    good = fer2013.as_folders(fer2013.faces())
    one = next(iter(good))
    other = fer2013.encoded(PIXELS)
    files = {
        "a/README.txt": b"1",
        "banner.png": other,
        "../train/sad/out.png": other,
        f"copy/{one}": good[one],
        **good,
        "labels.csv": b"a,b\n",
    }
    path = fer2013.packed(tmp_path, ".zip", files)
    assert fer2013.imported(path, tmp_path / "set", ImportOptions(48, 1, 0.2)).provenance["excluded"] == [
        {"file": "../train/sad/out.png", "reason": "a name that leads out of the archive"},
        {"file": "a/README.txt", "reason": "not in train/<expression>/ or test/<expression>/"},
        {"file": "banner.png", "reason": "not in train/<expression>/ or test/<expression>/"},
        {"file": "labels.csv", "reason": "not in train/<expression>/ or test/<expression>/"},
        {"file": one, "reason": f"the same face as copy/{one}, by its name"},
    ]
    # text and tables are no lost faces
    with pytest.raises(StudyError, match=r"3 of 24 images \(12\.50%\)"):
        fer2013.imported(path, tmp_path / "set")


def test_unknown_class_folder(fer2013: Any, tmp_path: Path) -> None:
    files = {
        name.replace("test/happy", "test/hapy"): content
        for name, content in fer2013.as_folders(fer2013.faces()).items()
    }
    name = min(name for name in files if "hapy" in name)
    assert fer2013.refused(tmp_path, files) == (
        f"PATH: {name} lies in the folder of no expression: did you mean 'happy'? Allowed: 'angry', 'disgust', 'fear', "
        "'happy', 'neutral', 'sad', 'surprise'."
    )


@pytest.mark.parametrize(("old", "new"), [("test/", "validation/"), ("train/", "")])
def test_unknown_split_folder(fer2013: Any, old: str, new: str, tmp_path: Path) -> None:
    files = {
        name.replace(old, new): content for name, content in fer2013.as_folders(fer2013.faces()).items() if old in name
    }
    assert fer2013.refused(tmp_path, files) == f"PATH: {min(files)} lies in neither train/ nor test/. {fer2013.forms}"


@pytest.fixture(scope="module")
def real(project: Path) -> Path:
    given = os.environ.get("FACESPEC_FER2013")
    path = Path(given) if given else project.parent / "shared" / "fer2013" / "fer2013_folders.tar.xz"
    if not path.is_file():
        pytest.skip("FER2013 is not here: set FACESPEC_FER2013 to its archive (folder edition, .tar.xz)")
    return path


def test_the_real_archive(fer2013: Any, real: Path, tmp_path: Path) -> None:
    """28,709 training faces, as published; and the first of them, found by another road."""
    faceset = fer2013.imported(real, tmp_path / "set")
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
