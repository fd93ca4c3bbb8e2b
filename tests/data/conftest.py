"""Small data sets: pictures, folders and archives, and each adapter from files to a FaceSet.

Every fixture is a function or an object without state, so that hypothesis may use it too.
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

from facespec.data.chunks import FaceImport
from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.fer2013 import read_fer2013
from facespec.data.importing import ImportOptions, Report
from facespec.data.kdef import read_kdef
from facespec.data.voxceleb import read_voxceleb
from facespec.study.errors import StudyError

OPTIONS = ImportOptions(48, 1, 0.0)
USAGES = ("Training", "PrivateTest", "PublicTest")
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": partial(lzma.compress, preset=0),
}


def encode_picture(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def pack(directory: Path, kind: str, files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """`files`, in this order, as one file (kind "file"), a directory ("") or an archive of that ending."""
    path = directory / f"faces{kind}"
    if kind == "file":
        ((name, content),) = files.items()
        path = directory / name
        path.write_bytes(content)
    elif kind == ".zip":
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif kind:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        path.write_bytes(COMPRESS[kind](buffer.getvalue()))
    else:
        path.mkdir()
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


class Adapter:
    """What the tests of every adapter do with its `read` function."""

    def __init__(self, read: Callable[..., FaceImport]) -> None:
        self.read = read
        self.pack, self.encode = pack, encode_picture

    def write(self, path: Path, directory: Path, options: ImportOptions = OPTIONS, **more: int) -> FaceSet:
        """Import the data set at `path` to the FaceSet `directory`."""
        faces = self.read(path, options, report=lambda done, total: None, **more)
        return write_faceset(directory, faces.chunks, faces.description)

    def refuse(self, directory: Path, files: Mapping[str, bytes], *, kind: str = "") -> str:
        """The message that refuses `files`, packed into `directory`; no FaceSet remains."""
        path = pack(directory, kind, files)
        with pytest.raises(StudyError) as caught:
            self.write(path, directory / "set")
        assert not (directory / "set").exists()
        return str(caught.value).replace(str(path), "PATH")

    def check_forms(self, directory: Path, files: Mapping[str, bytes]) -> None:
        """A directory, a zip and a tar of the same files, in another order, give the same bytes."""
        contents = []
        for kind, order in (("", 1), (".zip", -1), (".tar.xz", -1)):
            path = pack(directory, kind, dict(list(files.items())[::order]))
            contents.append(self.read_bytes(self.write(path, directory / f"set{kind}")))
        assert contents[0] == contents[1] == contents[2]

    def check_missing_path(self, directory: Path) -> None:
        """A path without a file is refused before any face is read."""
        with pytest.raises(StudyError, match=r"/none: no such file or directory\. Give the path of the data set"):
            self.read(directory / "none", OPTIONS, report=lambda done, total: None)

    def read_bytes(self, faceset: FaceSet) -> dict[str, bytes]:
        """The files of a FaceSet by name."""
        return {path.name: path.read_bytes() for path in faceset.directory.iterdir()}

    def list_excluded(self, faceset: FaceSet) -> dict[str, str]:
        """Excluded files and their reasons."""
        return {row["file"]: row["reason"] for row in faceset.provenance["excluded"]}


class Face(NamedTuple):
    """A row of FER2013's table; `pixels` are uint8 (48, 48)."""

    code: int
    usage: str
    pixels: np.ndarray


class Fer2013(Adapter):
    """Faces of noise, in FER2013's two forms."""

    names = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # as FER2013 numbers them

    def make_faces(
        self, seed: int = 0, usages: Sequence[str] = ("Training", "PrivateTest", "PublicTest")
    ) -> list[Face]:
        """One face of every expression and usage, shuffled."""
        generator = np.random.Generator(np.random.PCG64(seed))
        cells = [(code, usage) for code in range(7) for usage in usages]
        return [
            Face(*cells[i], generator.integers(0, 256, (48, 48), dtype=np.uint8))
            for i in generator.permutation(len(cells))
        ]

    def make_row(self, face: Face) -> list[str]:
        """The cells of a face."""
        return [str(face.code), " ".join(map(str, face.pixels.ravel())), face.usage]

    def make_csv(self, rows: Sequence[Sequence[str]], header: Sequence[str] = ("emotion", "pixels", "Usage")) -> bytes:
        """A CSV file."""
        text = io.StringIO()
        csv.writer(text).writerows([header, *rows])
        return text.getvalue().encode()

    def make_table(self, faces: Sequence[Face]) -> dict[str, bytes]:
        """The table edition."""
        return {"fer2013.csv": self.make_csv([self.make_row(face) for face in faces])}

    def make_folders(self, faces: Sequence[Face]) -> dict[str, bytes]:
        """The folder edition; files are named after usage and row."""
        files = {}
        for number, face in enumerate(faces):
            split = "train" if face.usage == "Training" else "test"
            files[f"{split}/{self.names[face.code]}/{face.usage}_{number:05d}.png"] = encode_picture(face.pixels)
        return files


def _read_voxceleb(path: Path, options: ImportOptions, *, report: Report, test: int = 2, seed: int = 0) -> FaceImport:
    generator = np.random.Generator(np.random.PCG64(seed))
    return read_voxceleb(path, options, test=test, generator=generator, report=report)


class VoxCeleb(Adapter):
    """Crops of one grey each, in VoxCeleb1's folders."""

    def make_picture(self, grey: int, channels: int = 3) -> bytes:
        """A crop of 60x70 px."""
        return encode_picture(np.full((70, 60, channels), grey, dtype=np.uint8))

    def make_videos(self, people: Mapping[str, Sequence[int]]) -> dict[str, bytes]:
        """Name -> frames of each video; every picture differs."""
        number = iter(range(256))
        return {
            f"unzippedFaces/{person}/1.6/v{i}/{frame:07d}.png": self.make_picture(next(number))
            for person, lengths in people.items()
            for i, n in enumerate(lengths)
            for frame in range(n)
        }


@pytest.fixture(scope="session", name="pack")
def _pack() -> Callable[..., Path]:
    """(directory, kind, files, method=zip's) -> path of the packed files."""
    return pack


@pytest.fixture(scope="session")
def fer2013() -> Fer2013:
    """FER2013 and its adapter."""
    return Fer2013(read_fer2013)


@pytest.fixture(scope="session")
def voxceleb() -> VoxCeleb:
    """VoxCeleb1 and its adapter, which takes a seed in place of a generator."""
    return VoxCeleb(_read_voxceleb)


@pytest.fixture(scope="session")
def kdef() -> Adapter:
    """KDEF's adapter."""
    return Adapter(read_kdef)
