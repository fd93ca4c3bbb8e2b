"""Which reader reads a source of real faces? The data set whose own words it bears, else that of one's own faces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facespec.data import fer2013, kdef, user_faces, voxceleb
from facespec.data.archives import ArchiveFiles, open_files, refuse_missing
from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.faceset_source import is_faceset, read_faceset
from facespec.data.importing import SHARD, FileImporter, ImportOptions, Report
from facespec.data.pictures import SUFFIXES
from facespec.data.user_faces import UserSource
from facespec.study.params import Data, ExpressionFaces, IdentityFaces
from facespec.study.vocabulary import Role

ENDING = re.compile(r"\.(zip|tar|tgz|txz|tbz2|csv)(\.(gz|bz2|xz))?$", re.IGNORECASE)


def read_faces(
    path: Path, role: Role, data: Data, *, generators: tuple[np.random.Generator, np.random.Generator], report: Report
) -> FaceImport:
    """Read the real faces at `path` for `role`.

    What names its files as FER2013, VoxCeleb1 or KDEF does is read as that, in the role that it has in the study. All
    else is one's own: a FaceSet, a table with the column ``image``, files that `pattern` explains, or folders.

    Parameters
    ----------
    path : pathlib.Path
        A directory, an archive, or a table.
    role : Role
        What the faces are for.
    data : Data
        Size and channels of the images, and how the source of the role is read.
    generators : two of numpy.random.Generator
        One decides which videos of VoxCeleb1 are tested, the other which groups of one's own faces.
    report : callable
        Called with the numbers of entries read and of all entries.

    Raises
    ------
    StudyError
        At once for a missing path; while the chunks are read for a source that cannot be used.
    """
    refuse_missing(path)
    block = getattr(data, role.value)
    options = ImportOptions(data.size, data.channels, data.tolerated, block.crop)
    videos, groups = generators
    share = block.test_share if isinstance(block, ExpressionFaces | IdentityFaces) else None
    source = UserSource(role, block, share, groups.bytes(16))
    if is_faceset(path):
        return read_faceset(path, source, options, report=report)
    importer = FileImporter(path, block.name or name_path(path), options)
    chunks = _read_chunks(importer, source, data, videos=videos, report=report)
    return FaceImport(chunks, FaceSetDescription(role.value, SHARD, None, importer.summarise))


def name_path(path: Path) -> str:
    """The name of a source in tables and figures: that of its folder or file, without the endings of archives.

    >>> name_path(Path("lfw.tar.xz")), name_path(Path("mine/jaffe/"))
    ('lfw', 'jaffe')
    """
    name = path.name or path.resolve().name
    return "".join(letter for letter in ENDING.sub("", name) if letter.isprintable()) or "faces"


def _read_chunks(
    importer: FileImporter, source: UserSource, data: Data, *, videos: np.random.Generator, report: Report
) -> Iterator[FaceChunk]:
    path, block = importer.path, source.block
    with open_files(path, endings=(".csv", *SUFFIXES)) as files:
        table = user_faces.find_label_table(path, files)
        name = _recognise(path, files, source.role) if table is None and block.pattern is None else None
        importer.source = block.name or name or importer.source
        if name == fer2013.SOURCE:
            yield from fer2013.read_files(files, importer, report)
        elif name == kdef.SOURCE:
            yield from kdef.read_files(files, importer, report)
        elif name == voxceleb.SOURCE:
            key = videos.bytes(16)
            yield from voxceleb.read_files(files, importer, test=data.identity.test, key=key, report=report)
        else:
            yield from user_faces.read_files(files, importer, source, table=table, report=report)
        if block.crop is not None:
            shares = ", ".join(f"{side} {share:g}" for side, share in block.crop.model_dump().items())
            importer.notes.append(f"every picture was cropped to {shares}, shares of its height and width")


def _recognise(path: Path, files: ArchiveFiles, role: Role) -> str | None:
    """The data set that `files` are, if it is that which the study has in `role`."""
    if role is Role.EXPRESSION and fer2013.is_fer2013(path, files):
        return fer2013.SOURCE
    if role is Role.IDENTITY and voxceleb.is_voxceleb(files):
        return voxceleb.SOURCE
    return kdef.SOURCE if role is Role.PROBE and kdef.is_kdef(files) else None
