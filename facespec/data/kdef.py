"""How is KDEF read: 70 people x 7 expressions x 5 views x 2 sessions, 562x762 px in colour?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from facespec.data.archives import ArchiveFiles, UnusableFile, open_files, refuse_missing
from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.importing import SHARD, FileEntry, FileImporter, ImportOptions, Report
from facespec.data.pictures import SUFFIXES, decode, is_picture, require_size
from facespec.study.errors import StudyError
from facespec.study.vocabulary import EXPRESSIONS, Expression, Role, View

SOURCE = "KDEF"
WIDTH, HEIGHT = 562, 762  # px
MODES = ("RGB", "L")
NUMBERS = range(1, 36)  # of the women, and of the men

EXPRESSION_CODES = {
    "AF": Expression.FEAR,  # afraid
    "AN": Expression.ANGRY,
    "DI": Expression.DISGUST,
    "HA": Expression.HAPPY,
    "NE": Expression.NEUTRAL,
    "SA": Expression.SAD,
    "SU": Expression.SURPRISE,
}
VIEW_CODES = {
    "FL": View.FULL_LEFT,
    "HL": View.HALF_LEFT,
    "S": View.STRAIGHT,  # the only code of one letter
    "HR": View.HALF_RIGHT,
    "FR": View.FULL_RIGHT,
}
# By position: "AF" at the start is session A, female; after the number it is afraid
NAME = re.compile(rf"([AB])([FM])([0-3][0-9])({'|'.join(EXPRESSION_CODES)})({'|'.join(VIEW_CODES)})")

# Irregular files, the same in every copy
MISNAMED = {"AF31V": "AF31SAHL", "AM31H": "AM31SUHR"}
BLACK = frozenset(
    {
        *("AF01SUFR", "AF10AFFR", "AF11NEHL", "AF20DIHL", "AM25DIFL"),
        *("AM34DIFR", "BF13NEHR", "BM21DIFL", "BM22DIHL", "BM24DIFL"),
    }
)
BLACK_BELOW = 10  # mean grey, 0-255: placeholders lie below, photographs above
OTHER_SIZE = frozenset({"AM05ANFR", "BM10ANFR"})  # 970x633 px


class Photograph(NamedTuple):
    """The content of a file name. A person is sex and number: AF01 and BF01 show the same woman."""

    session: str
    sex: str
    number: int
    expression: Expression
    view: View

    @property
    def person(self) -> str:
        """The name of the person, ``F01`` to ``M35``."""
        return f"{self.sex}{self.number:02d}"


def parse_name(stem: str) -> Photograph | None:
    """The photograph that the file name `stem` (no extension, any case) names; None if it is no name of KDEF's."""
    match = NAME.fullmatch(MISNAMED.get(stem.upper(), stem.upper()))
    if match is None or int(match[3]) not in NUMBERS:
        return None
    return Photograph(match[1], match[2], int(match[3]), EXPRESSION_CODES[match[4]], VIEW_CODES[match[5]])


def format_name(photograph: Photograph) -> str:
    """The file name, without extension, of `photograph`."""
    expression = {name: code for code, name in EXPRESSION_CODES.items()}[photograph.expression]
    view = {name: code for code, name in VIEW_CODES.items()}[photograph.view]
    return f"{photograph.session}{photograph.person}{expression}{view}"


def read_kdef(path: Path, options: ImportOptions, *, report: Report) -> FaceImport:
    """Read KDEF, a directory or an archive at `path`, for the probe role; stimuli have KDEF's names.

    Folders do not matter, names do. Excluded and listed: black placeholders, pictures that are not 562x762 px, damaged
    ones, other pictures. The irregular files of every copy do not count against the tolerated share. Raises
    `StudyError`, at once or while the chunks are read, if `path` holds no KDEF, if more than the tolerated share is
    bad, or an expression is missing.
    """
    refuse_missing(path)
    importer = FileImporter(path, SOURCE, options)
    description = FaceSetDescription(Role.PROBE.value, SHARD, None, importer.summarise)
    return FaceImport(_iterate_chunks(path, importer, report), description)


def _iterate_chunks(path: Path, importer: FileImporter, report: Report) -> Iterator[FaceChunk]:
    with open_files(path, endings=SUFFIXES) as files:
        averaged = [name for name in files.names if "AKDEF" in name.upper().split("/")[:-1]]
        entries, others = _list_entries([name for name in files.names if name not in set(averaged)])
        if not entries:
            raise StudyError(
                f"{path}: no KDEF: it holds {files.list_examples()}. KDEF is pictures named like AF01AFFL.JPG "
                "(session, sex, number, expression, view), in any folders, plain or in a .zip or .tar.xz."
            )
        importer.exclude_others(files, others, reason="not a name of KDEF's, such as AF01AFFL.JPG")
        for name in averaged:
            importer.exclude(name, UnusableFile("an averaged face (AKDEF)", in_every_copy=True))
        entries = importer.drop_duplicates(entries)
        yield from importer.iterate_chunks(entries, lambda entry: _load(files, entry, importer), report=report)
        if absent := [repr(str(name)) for name in EXPRESSIONS if not importer.counts[name]]:
            raise StudyError(f"{path}: no images of {', '.join(absent)}. The study needs all seven expressions.")


def _list_entries(names: list[str]) -> tuple[list[FileEntry], list[str]]:
    """KDEF's pictures among `names`, and the other files."""
    entries, others = [], []
    for name in names:
        photograph = parse_name(PurePosixPath(name).stem) if is_picture(name) else None
        if photograph is None:
            others.append(name)
        else:
            expression, view = photograph.expression.value, photograph.view.value
            labels = ("probe", photograph.person, expression, view, photograph.session)
            entries.append(FileEntry(name, name, format_name(photograph), *labels))
    return entries, others


def _load(files: ArchiveFiles, entry: FileEntry, importer: FileImporter) -> Image.Image:
    image = decode(files.read(entry.location), modes=MODES)
    black = float(np.asarray(image.convert("L")).mean()) < BLACK_BELOW
    if black:
        raise UnusableFile("a black placeholder", in_every_copy=entry.stimulus in BLACK)
    if entry.stimulus in BLACK:
        importer.notes.append(f"{entry.file}: a photograph here, a black placeholder in the published KDEF")
    try:
        require_size(image, WIDTH, HEIGHT)
    except UnusableFile as problem:
        raise UnusableFile(*problem.args, in_every_copy=entry.stimulus in OTHER_SIZE) from None
    return image
