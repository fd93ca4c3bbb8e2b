"""VoxCeleb1: face crops from videos of 1,251 people, of any size, in colour; a directory or an archive of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from facespec.data.archives import (
    ArchiveFiles,
    UnusableArchive,
    explain_unreadable,
    open_files,
    read_whole,
    refuse_missing,
)
from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.intake import SHARD, FileEntry, FileImporter, ImportOptions, Report
from facespec.data.pictures import SUFFIXES, decode, is_picture
from facespec.data.text_tables import parse_table
from facespec.study.errors import StudyError
from facespec.study.vocabulary import TEST, TRAIN, Role

SOURCE = "VoxCeleb1"
RATE = "1.6"  # the folder between person and video
MODES = ("RGB", "L")
TABLE = "vox1_meta.csv"
NAMES_COLUMN = "VGGFace1 ID"
MOVE = "Fetch it again, or move it away: it is only a cross-check."


class Frame(NamedTuple):
    """What a path says: who, in which video, at which frame."""

    person: str
    video: str
    frame: str


def parse_name(name: str) -> Frame | None:
    """What the end of the path `name` says: ``<person>/1.6/<video>/<frame>.jpg``; None if it says nothing."""
    parts = name.split("/")
    if not is_picture(name) or len(parts) < 4 or parts[-3] != RATE:
        return None
    # some names end in "." in the table only
    return Frame(parts[-4].rstrip("."), parts[-2], PurePosixPath(parts[-1]).stem)


def format_name(frame: Frame) -> str:
    """The end of the path of `frame`."""
    return f"{frame.person}/{RATE}/{frame.video}/{frame.frame}.jpg"


def read_voxceleb(
    path: Path, wanted: ImportOptions, *, test: int, generator: np.random.Generator, report: Report
) -> FaceImport:
    """VoxCeleb1 face crops at `path` for the identity role: `test` frames per person are ``test``.

    Split by video: a person's videos, in an order drawn from `generator`, give test frames until there are `test`,
    but the last video always stays in ``train``. What a test video holds beyond them is used nowhere, and counted.
    A person with one video only is left out. A person's split does not depend on who else is there. Stimuli are named
    ``<person>/<video>/<frame>``.

    ``vox1_meta.csv``, in the data set or beside `path`, is a cross-check: people it does not know are left out.
    Raises `StudyError`, at once or while the chunks are read, if `path` holds no VoxCeleb1, or more than the tolerated
    share is bad.
    """
    refuse_missing(path)
    intake = FileImporter(path, SOURCE, wanted)
    key = generator.bytes(16)
    chunks = _chunks(path, intake, test=test, key=key, report=report)
    return FaceImport(chunks, FaceSetDescription(Role.IDENTITY.value, SHARD, None, intake.provenance))


def _chunks(path: Path, intake: FileImporter, *, test: int, key: bytes, report: Report) -> Iterator[FaceChunk]:
    with open_files(path, keep=(TABLE, *SUFFIXES)) as files:
        frames = {name: frame for name in files.names if (frame := parse_name(name)) is not None}
        if not frames:
            raise StudyError(
                f"{path}: no VoxCeleb1: it holds {files.some}. VoxCeleb1 is face crops like "
                f"unzippedFaces/<name>/{RATE}/<video>/<frame>.jpg, plain or in a .zip or .tar.xz."
            )
        others = [name for name in files.names if name not in frames and PurePosixPath(name).name != TABLE]
        intake.exclude_others(files, others, why=f"not <name>/{RATE}/<video>/<frame>.jpg")
        entries = intake.distinct(_entries(frames, _known_people(path, files), intake, test=test, key=key))
        _refuse_too_few_people(path, entries)
        yield from intake.chunks(entries, lambda entry: decode(files.read(entry.place), modes=MODES), report=report)


def _entries(
    frames: Mapping[str, Frame], known: frozenset[str] | None, intake: FileImporter, *, test: int, key: bytes
) -> Iterator[FileEntry]:
    videos: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, frame in frames.items():
        videos[frame.person][frame.video].append(name)
    for person, of_person in videos.items():
        verdict = _verdict(person, of_person, known)
        splits = _splits(person, of_person, test=test, key=key)
        for names in of_person.values():
            for name in names:
                if verdict is not None:
                    intake.exclude(name, verdict)
                elif name in splits:
                    yield FileEntry(name, name, "/".join(frames[name]), splits[name], identity=person)
                else:
                    intake.counts["unused frames of test videos"] += 1
        intake.counts["videos"] += len(of_person) if verdict is None else 0


def _verdict(person: str, videos: Mapping[str, list[str]], known: frozenset[str] | None) -> UnusableArchive | None:
    if known is not None and person not in known:
        return UnusableArchive(f"{person} is not in {TABLE}")
    if len(videos) < 2:
        return UnusableArchive(f"{person} has one video only, and a split by video needs two", known=True)
    return None


def _splits(person: str, videos: Mapping[str, list[str]], *, test: int, key: bytes) -> dict[str, str]:
    """The split of each of a person's frames that is used."""

    def rank(*words: str) -> bytes:
        return hashlib.sha256(key + "\0".join((person, *words)).encode()).digest()

    order = sorted(videos, key=rank)
    splits: dict[str, str] = {}
    while order[1:] and len(splits) < test:
        frames = sorted(videos[order.pop(0)], key=lambda name: rank(*name.split("/")[-2:]))
        splits |= dict.fromkeys(frames[: test - len(splits)], TEST)
    return splits | {name: TRAIN for video in order for name in videos[video]}


def _known_people(path: Path, files: ArchiveFiles) -> frozenset[str] | None:
    """The people that the table knows; None without a table."""
    inside = [name for name in files.names if PurePosixPath(name).name == TABLE]
    beside = path.parent / TABLE
    table = f"{path}: {inside[0]}" if inside else str(beside)
    try:
        if inside:
            content = files.read(inside[0])
        elif beside.is_file():
            with beside.open("rb") as file:
                content = read_whole(file)
        else:
            return None
        rows = parse_table(content, delimiter="\t")  # tabs, in spite of its name
    except UnusableArchive as verdict:
        raise StudyError(f"{table}: {verdict}. {MOVE}") from None
    except OSError as error:
        raise explain_unreadable(beside, error) from error
    header = rows[0].cells if rows else []
    if NAMES_COLUMN not in header:
        raise StudyError(
            f"{table} lacks the column {NAMES_COLUMN!r}; it has {', '.join(map(repr, header)) or 'none'}. "
            f"Its columns are separated by tabs. {MOVE}"
        )
    names = header.index(NAMES_COLUMN)
    return frozenset(row.cells[names].rstrip(".") for row in rows[1:])


def _refuse_too_few_people(path: Path, entries: list[FileEntry]) -> None:
    people = len({entry.identity for entry in entries})
    if people < 2:
        raise StudyError(
            f"{path}: people with two videos or more: {people}; telling people apart needs two of them. "
            "Is the copy complete?"
        )
