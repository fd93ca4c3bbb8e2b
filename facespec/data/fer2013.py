"""FER2013: seven expressions in the wild, 48x48 px grey; from its CSV, or from the folders of its Kaggle edition.

Both may lie in a `.zip` or `.tar` (`.gz`, `.bz2`, `.xz`), which is read directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from PIL import Image

from facespec.data.archives import ArchiveFiles, open_files, refuse_missing
from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.fer2013_table import FORMS, MODE, SIDE, choose, read_rows
from facespec.data.intake import SHARD, FileEntry, FileImporter, ImportOptions, Report
from facespec.data.pictures import SUFFIXES, decode, is_picture, require_size
from facespec.data.spool import Spool
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.vocabulary import EXPRESSIONS, TEST, TRAIN, Role

SOURCE = "FER2013"
SPLITS = (TRAIN, TEST)


def read_fer2013(path: Path, wanted: ImportOptions, *, report: Report) -> FaceImport:
    """FER2013 at `path` for the expression role; the usage Training is ``train``, PublicTest and PrivateTest ``test``.

    Stimuli are named ``train/happy/Training_...``: after the file in the folders, after the row (counted from 0) in
    the CSV. What is no 48x48 px grey picture is left out and listed. Raises `StudyError`, at once or while the chunks
    are read, if `path` holds no FER2013, if more than the tolerated share is bad, or if an expression has no image in
    one of the splits.
    """
    refuse_missing(path)
    intake = FileImporter(path, SOURCE, wanted)
    return FaceImport(
        _chunks(path, intake, report), FaceSetDescription(Role.EXPRESSION.value, SHARD, None, intake.provenance)
    )


def _chunks(path: Path, intake: FileImporter, report: Report) -> Iterator[FaceChunk]:
    with open_files(path, keep=(".csv", *SUFFIXES)) as files:
        entries = _entries(path, files)
        table = choose(path, files, faces=[entry.file for entry in entries])
        if table is not None:
            yield from _read_table(files, table, intake, report)
        else:
            yield from _read_folders(files, entries, intake, report)
        _refuse_missing_expressions(intake)


def _entries(path: Path, files: ArchiveFiles) -> list[FileEntry]:
    """The pictures that lie in the folder of an expression; `StudyError` for a folder that is nearly one."""
    entries = []
    for name in filter(is_picture, files.names):
        folder, inside = (["", "", *name.lower().split("/")])[-3:-1]
        if folder in SPLITS and inside not in EXPRESSIONS:
            raise StudyError(
                f"{path}: {name} lies in the folder of no expression: {suggest_spelling(inside, map(str, EXPRESSIONS))}"
            )
        if folder not in SPLITS and inside in EXPRESSIONS:
            raise StudyError(f"{path}: {name} lies in neither {TRAIN}/ nor {TEST}/. {FORMS}")
        if folder in SPLITS:
            stimulus = "/".join((folder, inside, PurePosixPath(name).stem))
            entries.append(FileEntry(name, name, stimulus, folder, expression=inside))
    return entries


def _read_folders(
    files: ArchiveFiles, entries: list[FileEntry], intake: FileImporter, report: Report
) -> Iterator[FaceChunk]:
    places = {entry.place for entry in entries}
    others = (name for name in files.names if name not in places)
    intake.exclude_others(files, others, why=f"not in {TRAIN}/<expression>/ or {TEST}/<expression>/")

    def load(entry: FileEntry) -> Image.Image:
        image = decode(files.read(entry.place), modes=(MODE,))
        require_size(image, SIDE, SIDE)
        return image

    yield from intake.chunks(intake.distinct(entries), load, report=report)


def _read_table(files: ArchiveFiles, table: str, intake: FileImporter, report: Report) -> Iterator[FaceChunk]:
    intake.exclude_others(files, (name for name in files.names if name != table), why=f"not {SOURCE}'s table")
    with ExitStack() as stack:
        # rows come in the table's order and are wanted in that of their names: meanwhile pixels wait on disk
        spool = Spool(stack)
        entries = intake.distinct(read_rows(files, table, spool, intake))

        def load(entry: FileEntry) -> Image.Image:
            return Image.frombytes(MODE, (SIDE, SIDE), spool.open(*entry.place).read())

        yield from intake.chunks(entries, load, report=report)


def _refuse_missing_expressions(intake: FileImporter) -> None:
    sentences = []
    for split in SPLITS:
        if absent := [repr(str(name)) for name in EXPRESSIONS if not intake.counts[f"{split} {name}"]]:
            sentences.append(f"no {split} images of {', '.join(absent)}")
    if sentences:
        raise StudyError(
            f"{intake.path}: {'; '.join(sentences)}. The study needs all seven expressions in both splits. "
            f"Is the copy complete? {FORMS}"
        )
