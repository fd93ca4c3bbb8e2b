"""How is KDEF read: 70 people x 7 expressions x 5 views x 2 sessions, 562x762 px in colour?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from facespec.data.archives import ArchiveFiles, UnusableFile, open_files, refuse_missing
from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.importing import SHARD, FileEntry, FileImporter, ImportOptions, Report
from facespec.data.pictures import SUFFIXES, decode, is_picture
from facespec.study.errors import StudyError
from facespec.study.vocabulary import EXPRESSIONS, Expression, Role, View

SOURCE = "KDEF"
WIDTH, HEIGHT = 562, 762  # px
RATIO = 0.02  # two pictures have one shape if their ratios of width to height differ by less, as by rounding
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
OTHER_SIZE = frozenset({"AM05ANFR", "BM10ANFR"})  # 970x633 px, wider than high


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

    Folders do not matter, names do. The pictures may be of any size, but of one shape: that of the first. Excluded and
    listed: black placeholders, pictures of another shape, damaged ones, other pictures. The irregular files of every
    copy do not count against the tolerated share. Raises
    `StudyError`, at once or while the chunks are read, if `path` holds no KDEF, if more than the tolerated share is
    bad, or an expression is missing.
    """
    refuse_missing(path)
    importer = FileImporter(path, SOURCE, options)
    description = FaceSetDescription(Role.PROBE.value, SHARD, None, importer.summarise)
    return FaceImport(_open_and_read(path, importer, report), description)


def _open_and_read(path: Path, importer: FileImporter, report: Report) -> Iterator[FaceChunk]:
    with open_files(path, endings=SUFFIXES) as files:
        yield from read_files(files, importer, report)


def is_kdef(files: ArchiveFiles) -> bool:
    """Whether most pictures in `files` have KDEF's names."""
    stems = [PurePosixPath(name).stem for name in files.names if is_picture(name)]
    return 2 * sum(parse_name(stem) is not None for stem in stems) > len(stems)


def read_files(files: ArchiveFiles, importer: FileImporter, report: Report) -> Iterator[FaceChunk]:
    """The chunks of KDEF in `files`."""
    path = importer.path
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
    loader = _Loader(files, importer)
    yield from importer.iterate_chunks(importer.drop_duplicates(entries), loader.load, report=report)
    if absent := [repr(str(name)) for name in EXPRESSIONS if not importer.counts[name]]:
        raise StudyError(f"{path}: no images of {', '.join(absent)}. The study needs all seven expressions.")
    loader.note_sizes()


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


class _Loader:
    """Loads pictures, and remembers their sizes: all must have the shape of the first."""

    def __init__(self, files: ArchiveFiles, importer: FileImporter) -> None:
        self._files = files
        self._importer = importer
        self._sizes: Counter[tuple[int, int]] = Counter()

    def load(self, entry: FileEntry) -> Image.Image:
        image = decode(self._files.read(entry.location))
        black = float(np.asarray(image.convert("L")).mean()) < BLACK_BELOW
        if black:
            raise UnusableFile("a black placeholder", in_every_copy=entry.stimulus in BLACK)
        if entry.stimulus in BLACK:
            self._importer.notes.append(f"{entry.file}: a photograph here, a black placeholder in the published KDEF")
        width, height = next(iter(self._sizes), (WIDTH, HEIGHT) if entry.stimulus in OTHER_SIZE else image.size)
        if abs(image.width / image.height / (width / height) - 1) > RATIO:
            reason = f"{image.width}x{image.height} px, another shape than {width}x{height}"
            raise UnusableFile(reason, in_every_copy=entry.stimulus in OTHER_SIZE)
        self._sizes[image.size] += 1
        return image

    def note_sizes(self) -> None:
        """Say in the provenance how pictures of other sizes than the published ones were cropped."""
        if set(self._sizes) == {(WIDTH, HEIGHT)}:
            return
        sizes = ", ".join(f"{width}x{height}" for width, height in sorted(self._sizes)[:3])
        width, height = next(iter(self._sizes))
        crop = "not cropped" if width == height else f"cropped to the central square, of {width}x{height} px {width}"
        more = ", ..." if len(self._sizes) > 3 else ""
        self._importer.notes.append(f"pictures of {sizes}{more} px, in place of {WIDTH}x{HEIGHT}; {crop}")
