"""Small data sets as tests make them: pictures, folders and archives, and each adapter from files to a FaceSet.

Every fixture is a function or an object without a state of its own, so that hypothesis may use it too.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from facespec.data import fer2013 as fer2013_module
from facespec.data import kdef as kdef_module
from facespec.data import voxceleb as voxceleb_module
from facespec.data.chunks import FaceImport
from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.intake import ImportOptions, Report
from facespec.study.errors import StudyError

WANTED = ImportOptions(48, 1, 0.0)
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": partial(lzma.compress, preset=0),
}


def _encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _packed(at: Path, kind: str, files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """`files`, in this order, as one file (kind "file"), a directory ("") or an archive of that ending."""
    path = at / f"faces{kind}"
    if kind == "file":
        ((name, content),) = files.items()
        path = at / name
        path.write_bytes(content)
    elif kind == ".zip":
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif kind:
        path.write_bytes(COMPRESSED[kind](_tar(files)))
    else:
        path.mkdir()
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


class Adapter:
    """What the tests of one adapter do again and again with its `read`."""

    def __init__(self, read: Callable[..., FaceImport]) -> None:
        self.read = read
        self.packed, self.encoded = _packed, _encoded

    def imported(self, path: Path, to: Path, wanted: ImportOptions = WANTED, **more: int) -> FaceSet:
        """The data set at `path`, written to the directory `to`."""
        taken = self.read(path, wanted, report=lambda done, total: None, **more)
        return write_faceset(to, taken.chunks, taken.description)

    def refused(self, at: Path, files: Mapping[str, bytes], *, kind: str = "") -> str:
        """The message that refuses `files`, packed into `at`; no FaceSet remains."""
        path = self.packed(at, kind, files)
        with pytest.raises(StudyError) as caught:
            self.imported(path, at / "set")
        assert not (at / "set").exists()
        return str(caught.value).replace(str(path), "PATH")

    def missing(self, at: Path) -> str:
        """The message about a file that is not in the directory `at`; it comes before any face is asked for."""
        with pytest.raises(StudyError) as caught:
            self.read(at / "none", WANTED, report=lambda done, total: None)
        return str(caught.value).replace(str(at), "AT")

    def in_bytes(self, faceset: FaceSet) -> dict[str, bytes]:
        """The files of a FaceSet by name."""
        return {path.name: path.read_bytes() for path in faceset.directory.iterdir()}


class Face(NamedTuple):
    """A row of FER2013's table."""

    code: int
    usage: str
    pixels: np.ndarray  # uint8 (48, 48)


class Fer2013(Adapter):
    """Faces of noise, in FER2013's two forms."""

    names = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # as FER2013 numbers them
    forms = (
        "FER2013 is a CSV with the columns 'emotion', 'pixels', 'Usage', or folders train/<expression>/ and "
        "test/<expression>/; plain, or in a .zip or .tar.xz."
    )

    def faces(self, seed: int = 0, usages: Sequence[str] = ("Training", "PrivateTest", "PublicTest")) -> list[Face]:
        """One face of every expression and usage, shuffled."""
        generator = np.random.Generator(np.random.PCG64(seed))
        every = [(code, usage) for code in range(7) for usage in usages]
        return [
            Face(*every[i], generator.integers(0, 256, (48, 48), dtype=np.uint8))
            for i in generator.permutation(len(every))
        ]

    def row(self, face: Face) -> list[str]:
        """The cells of a face."""
        return [str(face.code), " ".join(map(str, face.pixels.ravel())), face.usage]

    def table(self, rows: Sequence[Sequence[str]], header: Sequence[str] = ("emotion", "pixels", "Usage")) -> bytes:
        """A CSV file."""
        text = io.StringIO()
        csv.writer(text).writerows([header, *rows])
        return text.getvalue().encode()

    def as_table(self, some: Sequence[Face]) -> dict[str, bytes]:
        """The table edition."""
        return {"fer2013.csv": self.table([self.row(face) for face in some])}

    def as_folders(self, some: Sequence[Face]) -> dict[str, bytes]:
        """The folder edition; files are named after usage and row."""
        files = {}
        for number, face in enumerate(some):
            split = "train" if face.usage == "Training" else "test"
            files[f"{split}/{self.names[face.code]}/{face.usage}_{number:05d}.png"] = _encoded(face.pixels)
        return files


def _read_voxceleb(path: Path, wanted: ImportOptions, *, report: Report, test: int = 2, seed: int = 0) -> FaceImport:
    generator = np.random.Generator(np.random.PCG64(seed))
    return voxceleb_module.read_voxceleb(path, wanted, test=test, generator=generator, report=report)


class VoxCeleb(Adapter):
    """Crops of one grey each, in VoxCeleb1's folders."""

    def picture(self, grey: int, channels: int = 3) -> bytes:
        """A crop of 60x70 px."""
        return self.encoded(np.full((70, 60, channels), grey, dtype=np.uint8))

    def videos(self, people: Mapping[str, Sequence[int]]) -> dict[str, bytes]:
        """Name -> frames of each video; every picture differs."""
        number = iter(range(256))
        return {
            f"unzippedFaces/{person}/1.6/v{i}/{frame:07d}.png": self.picture(next(number))
            for person, lengths in people.items()
            for i, n in enumerate(lengths)
            for frame in range(n)
        }


@pytest.fixture(scope="session")
def packed() -> Callable[..., Path]:
    """(at, kind, files, method=zip's) -> path of the files packed into the directory `at`."""
    return _packed


@pytest.fixture(scope="session")
def fer2013() -> Fer2013:
    """FER2013 and its adapter."""
    return Fer2013(fer2013_module.read_fer2013)


@pytest.fixture(scope="session")
def voxceleb() -> VoxCeleb:
    """VoxCeleb1 and its adapter, which takes a seed in place of a generator."""
    return VoxCeleb(_read_voxceleb)


@pytest.fixture(scope="session")
def kdef() -> Adapter:
    """KDEF's adapter."""
    return Adapter(kdef_module.read_kdef)
