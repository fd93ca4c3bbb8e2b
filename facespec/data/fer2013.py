"""How is FER2013 read: seven expressions in the wild, 48x48 px grey, as a CSV or as folders of pictures?

Both may lie in a `.zip` or `.tar` (`.gz`, `.bz2`, `.xz`), which is read directly. In the CSV a row is a face, its
pixels as text. Editions in folders call splits and classes differently, and some have saved the pictures anew.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from PIL import Image

from facespec.data.archives import ArchiveFiles, UnusableFile, open_files, refuse_missing
from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.importing import SHARD, FileEntry, FileImporter, ImportOptions, Report
from facespec.data.pictures import POINTER, SUFFIXES, decode, is_picture
from facespec.data.text_tables import SAVE
from facespec.data.unpacking import DAMAGE, Spool
from facespec.data.words import parse_expression, parse_split
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.vocabulary import EXPRESSIONS, TEST, TRAIN, Expression, Role

SOURCE = "FER2013"
SPLITS = (TRAIN, TEST)
SIDE = 48  # px
MODE = "L"  # Pillow's name for 8-bit grey
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
COUNTS = {TRAIN: 28_709, TEST: 7_178}
FORMS = (
    "FER2013 is a CSV with the columns 'emotion', 'pixels', 'Usage', or folders train/<expression>/ and "
    "test/<expression>/; plain, or in a .zip or .tar.xz."
)
SIGNS = re.compile(r"fer[-_ ]?2013|(^|/)(Training|PublicTest|PrivateTest)[_/][^/]*", re.IGNORECASE)
LONGEST = 2**16  # characters of a line, several times those of a face; a longer row is split and excluded
_GREY = {str(value): value for value in range(256)}


def read_fer2013(path: Path, options: ImportOptions, *, report: Report) -> FaceImport:
    """Read FER2013 at `path` for the expression role; usage Training is ``train``, PublicTest and PrivateTest ``test``.

    Stimuli are named ``train/happy/Training_...``: after the file in the folders, after the row (counted from 0) in
    the CSV. Unreadable pictures are excluded and listed; other sizes and numbers of pictures than FER2013's are noted.
    Raises `StudyError`, at once or while the chunks are read, if `path` holds no FER2013, if more than the tolerated
    share is bad, or if an expression has no image in one of the splits.
    """
    refuse_missing(path)
    importer = FileImporter(path, SOURCE, options)
    description = FaceSetDescription(Role.EXPRESSION.value, SHARD, None, importer.summarise)
    return FaceImport(_open_and_read(path, importer, report), description)


def _open_and_read(path: Path, importer: FileImporter, report: Report) -> Iterator[FaceChunk]:
    with open_files(path, endings=(".csv", *SUFFIXES)) as files:
        yield from read_files(files, importer, report)


def is_fer2013(path: Path, files: ArchiveFiles) -> bool:
    """Whether `files` are FER2013 by their own words: its table's columns, its name, its words for splits, its number.

    Folders train/<expression>/ alone are not enough: everybody's expressions may lie in such folders.
    """
    headers = (_read_header(path, files, name) for name in files.names if name.lower().endswith(".csv"))
    if any({"emotion", "pixels"} <= set(header) for header in headers):
        return True
    pictures = [name for name in files.names if is_picture(name)]
    if not any(parse_split(part) for name in pictures[:1] for part in name.split("/")[:-1]):
        return False
    return len(pictures) == sum(COUNTS.values()) or any(SIGNS.search(text) for text in (path.name, *pictures))


def read_files(files: ArchiveFiles, importer: FileImporter, report: Report) -> Iterator[FaceChunk]:
    """The chunks of FER2013 in `files`."""
    entries = _list_folders(importer.path, files)
    table = choose_table(importer.path, files, faces=[entry.file for entry in entries])
    if table is not None:
        yield from _read_table(files, table, importer, report)
    else:
        yield from _read_folders(files, entries, importer, report)
    _refuse_missing_expressions(importer)
    if any(importer.counts[split] != number for split, number in COUNTS.items()):
        present, published = (
            ", ".join(f"{counts[split]:,} {split}" for split in SPLITS) for counts in (importer.counts, COUNTS)
        )
        importer.notes.append(f"images: {present}; FER2013 has {published}")


def _refuse_missing_expressions(importer: FileImporter) -> None:
    sentences = []
    for split in SPLITS:
        if absent := [repr(str(name)) for name in EXPRESSIONS if not importer.counts[f"{split} {name}"]]:
            sentences.append(f"no {split} images of {', '.join(absent)}")
    if sentences:
        raise StudyError(
            f"{importer.path}: {'; '.join(sentences)}. The study needs all seven expressions in both splits. "
            f"Is the copy complete? {FORMS}"
        )


def _list_folders(path: Path, files: ArchiveFiles) -> list[FileEntry]:
    """The pictures in the folder of an expression; `StudyError` for a folder that is nearly one."""
    entries = []
    for name in filter(is_picture, files.names):
        folder, word = (["", "", *name.split("/")])[-3:-1]
        split, expression = parse_split(folder), CODES.get(word) or parse_expression(word, {})
        if split is not None and expression is None:
            hint = suggest_spelling(word.lower(), map(str, EXPRESSIONS))
            raise StudyError(f"{path}: {name} lies in the folder of no expression: {hint}")
        if split is None and expression is not None:
            raise StudyError(f"{path}: {name} lies in neither {TRAIN}/ nor {TEST}/. {FORMS}")
        if split is not None and expression is not None:
            # folders of other names may become one split, and their files may have equal names
            prefix = "" if folder.lower() == split or PurePosixPath(name).stem.startswith(folder) else f"{folder}_"
            stimulus = f"{split}/{expression.value}/{prefix}{PurePosixPath(name).stem}"
            entries.append(FileEntry(name, name, stimulus, split, expression=expression.value))
    return entries


def _read_folders(
    files: ArchiveFiles, entries: list[FileEntry], importer: FileImporter, report: Report
) -> Iterator[FaceChunk]:
    faces = {entry.location for entry in entries}
    others = (name for name in files.names if name not in faces)
    importer.exclude_others(files, others, reason=f"not in {TRAIN}/<expression>/ or {TEST}/<expression>/")
    forms: Counter[str] = Counter()

    def load(entry: FileEntry) -> Image.Image:
        image = decode(files.read(entry.location))
        forms[f"{image.width}x{image.height} px {'grey' if image.mode == MODE else 'RGB'}"] += 1
        return image

    yield from importer.iterate_chunks(importer.drop_duplicates(entries), load, report=report)
    if set(forms) - {usual := f"{SIDE}x{SIDE} px grey"}:
        listed = ", ".join(f"{number:,} of {form}" for form, number in forms.most_common(3))
        importer.notes.append(f"pictures: {listed}{', ...' if len(forms) > 3 else ''}; FER2013's are {usual}")


def choose_table(path: Path, files: ArchiveFiles, *, faces: Sequence[str]) -> str | None:
    """The one CSV among `files` with all columns; None where folders hold `faces` instead.

    Raises `StudyError` for both, for several, and for neither.
    """
    headers = {name: _read_header(path, files, name) for name in files.names if name.lower().endswith(".csv")}
    tables = [name for name, header in headers.items() if set(COLUMNS) <= set(header)]
    if faces and tables:
        raise StudyError(f"{path}: holds both a table ({tables[0]}) and folders ({faces[0]}). Give the path of one.")
    if len(tables) > 1:
        raise StudyError(f"{path}: holds several tables: {', '.join(tables)}. Unpack it and give the path of one.")
    if not faces and not tables:
        for name, header in headers.items():
            raise StudyError(f"{path}: {name} {_explain_header(header)} {FORMS}")
        raise StudyError(f"{path}: no FER2013: it holds {files.list_examples()}. {FORMS}")
    return tables[0] if tables else None


def _explain_header(header: list[str]) -> str:
    if header[:1] and header[0].startswith(POINTER.decode()):
        return "is a pointer of Git LFS in place of the table: `git lfs pull` fetches it."
    if any(set("\0\ufffd") & set(column) for column in header):
        return f"is no text in UTF-8. {SAVE}."
    missing = ", ".join(repr(column) for column in COLUMNS if column not in header)
    present = ", ".join(map(repr, header)) or "none"
    unknown = [column for column in header if column not in COLUMNS]
    hint = f" Column {unknown[0]!r}: {suggest_spelling(unknown[0], COLUMNS)}" if unknown else ""
    return f"lacks the column {missing}; it has {present}.{hint}"


def _read_table(files: ArchiveFiles, table: str, importer: FileImporter, report: Report) -> Iterator[FaceChunk]:
    others = (name for name in files.names if name != table)
    importer.exclude_others(files, others, reason=f"not {SOURCE}'s table")
    with ExitStack() as stack:
        # rows come in the order of the table and are needed in that of their names: meanwhile pixels wait on disk
        spool = Spool(stack)
        entries = importer.drop_duplicates(_read_entries(files, table, spool, importer))

        def load(entry: FileEntry) -> Image.Image:
            return Image.frombytes(MODE, (SIDE, SIDE), spool.open(*entry.location).read())

        yield from importer.iterate_chunks(entries, load, report=report)


def _read_entries(files: ArchiveFiles, table: str, spool: Spool, importer: FileImporter) -> Iterator[FileEntry]:
    """One entry per good row, its pixels in `spool`; bad rows are excluded by their number from 0.

    Raises `StudyError` where the table itself cannot be read to its end.
    """
    try:
        rows = _iterate_rows(files, table)
        header = [column.strip() for column in next(rows, [])]
        if not set(COLUMNS) <= set(header):
            raise UnusableFile("its header was another a moment ago")
        columns = [header.index(column) for column in COLUMNS]
        for number, row in enumerate(row for row in rows if row):
            file = f"{table}, row {number}"
            try:
                if len(row) <= max(columns):
                    raise UnusableFile(f"{len(row)} cells instead of at least {max(columns) + 1}")
                emotion, pixels, usage = (row[column].strip() for column in columns)
                if usage not in USAGES:
                    raise UnusableFile(f"unknown Usage {usage[:20]!r}: {suggest_spelling(usage, USAGES)}")
                if emotion not in CODES:
                    raise UnusableFile(f"unknown emotion {emotion[:20]!r}, allowed: '0' to '6'")
                span = spool.append(_parse_pixels(pixels))
            except UnusableFile as problem:
                importer.exclude(file, problem)
                continue
            split, expression = USAGES[usage], CODES[emotion].value
            stimulus = f"{split}/{expression}/{usage}_{number:05d}"
            yield FileEntry(span, file, stimulus, split, expression=expression)
    except (csv.Error, UnusableFile, *DAMAGE) as error:
        raise _explain_unreadable(importer.path, table, error) from error


def _read_header(path: Path, files: ArchiveFiles, table: str) -> list[str]:
    try:
        # some copies have spaces before the names
        return [column.strip() for column in next(_iterate_rows(files, table), [])]
    except csv.Error:
        return []
    except (UnusableFile, *DAMAGE) as error:
        raise _explain_unreadable(path, table, error) from error


def _explain_unreadable(path: Path, table: str, error: Exception) -> StudyError:
    return StudyError(f"{path}: {table} cannot be read to its end ({error}). Fetch it again.")


def _iterate_rows(files: ArchiveFiles, table: str) -> Iterator[list[str]]:
    with files.open(table) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as text:
        # a line is read in bounded pieces, so that no file can fill the memory
        yield from csv.reader(iter(lambda: text.readline(LONGEST), ""))


def _parse_pixels(text: str) -> bytes:
    words = text.split()
    if len(words) != SIDE * SIDE:
        raise UnusableFile(f"{len(words)} pixels instead of {SIDE * SIDE}")
    try:
        return bytes(map(_GREY.__getitem__, words))
    except KeyError:
        index = next(index for index, word in enumerate(words) if word not in _GREY)
        word = words[index][:20]
        raise UnusableFile(f"pixel {index} is {word!r}, allowed: whole numbers from 0 to 255") from None
