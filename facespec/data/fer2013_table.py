"""The CSV edition of FER2013: one face per row, its pixels as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from facespec.data.archives import ArchiveFiles, UnusableArchive
from facespec.data.intake import FileEntry, FileImporter
from facespec.data.spool import Spool
from facespec.data.tars import DAMAGE
from facespec.data.text_tables import SAVE
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.vocabulary import TEST, TRAIN, Expression

SIDE = 48  # px
MODE = "L"  # Pillow's word for 8-bit grey
COLUMNS = ("emotion", "pixels", "Usage")
# Not alphabetical, unlike the folders: neutral is last
CODES = {
    "0": Expression.ANGRY,
    "1": Expression.DISGUST,
    "2": Expression.FEAR,
    "3": Expression.HAPPY,
    "4": Expression.SAD,
    "5": Expression.SURPRISE,
    "6": Expression.NEUTRAL,
}
USAGES = {"Training": TRAIN, "PublicTest": TEST, "PrivateTest": TEST}
FORMS = (
    "FER2013 is a CSV with the columns 'emotion', 'pixels', 'Usage', or folders train/<expression>/ and "
    "test/<expression>/; plain, or in a .zip or .tar.xz."
)
LONGEST = 2**16  # characters of a line, several times a face's; a row that is longer falls apart and is left out
_GREY = {str(value): value for value in range(256)}


def choose(path: Path, files: ArchiveFiles, *, faces: Sequence[str]) -> str | None:
    """The one CSV among `files` with all columns; None where the folders hold `faces` instead.

    Raises `StudyError` for both, for several, and for neither.
    """
    tables = {name: _header(path, files, name) for name in files.names if name.lower().endswith(".csv")}
    whole = [name for name, header in tables.items() if _is_whole(header)]
    if faces and whole:
        raise StudyError(f"{path}: holds both a table ({whole[0]}) and folders ({faces[0]}). Give the path of one.")
    if len(whole) > 1:
        raise StudyError(f"{path}: holds several tables: {', '.join(whole)}. Unpack it and give the path of one.")
    if not faces and not whole:
        for name, header in tables.items():
            raise StudyError(_missing_column(path, name, header))
        raise StudyError(f"{path}: no FER2013: it holds {files.some}. {FORMS}")
    return whole[0] if whole else None


def _is_whole(header: Sequence[str]) -> bool:
    return set(COLUMNS) <= set(header)


def _missing_column(path: Path, name: str, header: list[str]) -> str:
    if any(set("\0\ufffd") & set(column) for column in header):
        return f"{path}: {name} is no text in UTF-8. {SAVE}. {FORMS}"
    missing = ", ".join(repr(column) for column in COLUMNS if column not in header)
    has = ", ".join(map(repr, header)) or "none"
    unknown = [column for column in header if column not in COLUMNS]
    hint = f" Column {unknown[0]!r}: {suggest_spelling(unknown[0], COLUMNS)}" if unknown else ""
    return f"{path}: {name} lacks the column {missing}; it has {has}.{hint} {FORMS}"


def read_rows(files: ArchiveFiles, table: str, spool: Spool, intake: FileImporter) -> Iterator[FileEntry]:
    """One entry per good row, its pixels in `spool`; bad rows are excluded from `intake` by their number from 0.

    Raises `StudyError` where the table itself cannot be read to its end.
    """
    try:
        rows = _rows(files, table)
        header = [column.strip() for column in next(rows, [])]
        if not _is_whole(header):
            raise UnusableArchive("its header was another a moment ago")
        where = [header.index(column) for column in COLUMNS]
        for number, row in enumerate(row for row in rows if row):
            file = f"{table}, row {number}"
            try:
                emotion, pixels, usage = _cells(row, where)
                split, expression = _split(usage), _expression(emotion)
                place = spool.append(_pixels(pixels))
            except UnusableArchive as verdict:
                intake.exclude(file, verdict)
                continue
            stimulus = f"{split}/{expression}/{usage.strip()}_{number:05d}"
            yield FileEntry(place, file, stimulus, split, expression=expression)
    except (csv.Error, UnusableArchive, *DAMAGE) as error:
        raise _unreadable(intake.path, table, error) from error


def _header(path: Path, files: ArchiveFiles, table: str) -> list[str]:
    try:
        # some copies have spaces before the names
        return [column.strip() for column in next(_rows(files, table), [])]
    except csv.Error:
        return []
    except (UnusableArchive, *DAMAGE) as error:
        raise _unreadable(path, table, error) from error


def _unreadable(path: Path, table: str, error: Exception) -> StudyError:
    return StudyError(f"{path}: {table} cannot be read to its end ({error}). Fetch it again.")


def _rows(files: ArchiveFiles, table: str) -> Iterator[list[str]]:
    with files.open(table) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as text:
        # a line is read in bounded pieces, so that no file can fill the memory
        yield from csv.reader(iter(lambda: text.readline(LONGEST), ""))


def _cells(row: list[str], where: list[int]) -> list[str]:
    if len(row) <= max(where):
        raise UnusableArchive(f"{len(row)} cells instead of at least {max(where) + 1}")
    return [row[index] for index in where]


def _split(usage: str) -> str:
    usage = usage.strip()
    if usage not in USAGES:
        raise UnusableArchive(f"unknown Usage {usage[:20]!r}: {suggest_spelling(usage, USAGES)}")
    return USAGES[usage]


def _expression(emotion: str) -> str:
    code = emotion.strip()
    if code not in CODES:
        raise UnusableArchive(f"unknown emotion {code[:20]!r}, allowed: '0' to '6'")
    return CODES[code].value


def _pixels(text: str) -> bytes:
    words = text.split()
    if len(words) != SIDE * SIDE:
        raise UnusableArchive(f"{len(words)} pixels instead of {SIDE * SIDE}")
    try:
        return bytes(map(_GREY.__getitem__, words))
    except KeyError:
        at = next(index for index, word in enumerate(words) if word not in _GREY)
        raise UnusableArchive(f"pixel {at} is {words[at][:20]!r}, allowed: whole numbers from 0 to 255") from None
