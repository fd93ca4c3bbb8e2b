"""How is VoxCeleb1 read: face crops of any size, in colour, from videos of 1,251 people?"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from facespec.data.archives import (
    ArchiveFiles,
    UnusableFile,
    explain_unreadable,
    open_files,
    read_whole,
    refuse_missing,
)
from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.importing import SHARD, FileEntry, FileImporter, ImportOptions, Report
from facespec.data.pictures import SUFFIXES, decode, is_picture
from facespec.data.text_tables import parse_table
from facespec.study.errors import StudyError
from facespec.study.vocabulary import TEST, TRAIN, Role

SOURCE = "VoxCeleb1"
RATE = "1.6"  # the folder between person and video
MODES = ("RGB", "L")
TABLE = "vox1_meta.csv"
NAMES_COLUMN = "VGGFace1 ID"
REMEDY = "Fetch it again, or move it away: it is only a cross-check."


class Frame(NamedTuple):
    """The content of a path: the person, the video, and the frame in it."""

    person: str
    video: str
    frame: str


def parse_name(name: str) -> Frame | None:
    """The frame that the path ``.../<person>/1.6/<video>/<frame>.jpg`` names; None for other paths."""
    parts = name.split("/")
    if not is_picture(name) or len(parts) < 4 or parts[-3] != RATE:
        return None
    # some names end in "." in the table only
    return Frame(parts[-4].rstrip("."), parts[-2], PurePosixPath(parts[-1]).stem)


def read_voxceleb(
    path: Path, options: ImportOptions, *, test: int, generator: np.random.Generator, report: Report
) -> FaceImport:
    """Read VoxCeleb1 at `path` for the identity role; `test` frames per person are ``test``.

    Split by video: a person's videos, in an order drawn from `generator`, give test frames until there are `test`,
    but the last video always stays in ``train``. Further frames of a test video are not used, but counted. A person
    with only one video is excluded. A person's split does not depend on the other people. Stimuli are named
    ``<person>/<video>/<frame>``.

    ``vox1_meta.csv``, in the data set or beside `path`, is a cross-check: people who are not in it are excluded.
    Raises `StudyError`, at once or while the chunks are read, if `path` holds no VoxCeleb1, or more than the tolerated
    share is bad.
    """
    refuse_missing(path)
    importer = FileImporter(path, SOURCE, options)
    chunks = _iterate_chunks(path, importer, test=test, key=generator.bytes(16), report=report)
    return FaceImport(chunks, FaceSetDescription(Role.IDENTITY.value, SHARD, None, importer.summarise))


def _iterate_chunks(
    path: Path, importer: FileImporter, *, test: int, key: bytes, report: Report
) -> Iterator[FaceChunk]:
    with open_files(path, endings=(TABLE, *SUFFIXES)) as files:
        frames = {name: frame for name in files.names if (frame := parse_name(name)) is not None}
        if not frames:
            raise StudyError(
                f"{path}: no VoxCeleb1: it holds {files.list_examples()}. VoxCeleb1 is face crops like "
                f"unzippedFaces/<name>/{RATE}/<video>/<frame>.jpg, plain or in a .zip or .tar.xz."
            )
        others = [name for name in files.names if name not in frames and PurePosixPath(name).name != TABLE]
        importer.exclude_others(files, others, reason=f"not <name>/{RATE}/<video>/<frame>.jpg")
        known = _read_known_people(path, files)
        entries = importer.drop_duplicates(_iterate_entries(frames, known, importer, test=test, key=key))
        people = len({entry.identity for entry in entries})
        if people < 2:
            raise StudyError(
                f"{path}: people with two videos or more: {people}; telling people apart needs two of them. "
                "Is the copy complete?"
            )
        yield from importer.iterate_chunks(
            entries, lambda entry: decode(files.read(entry.location), modes=MODES), report=report
        )


def _iterate_entries(
    frames: Mapping[str, Frame], known: frozenset[str] | None, importer: FileImporter, *, test: int, key: bytes
) -> Iterator[FileEntry]:
    videos: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, frame in frames.items():
        videos[frame.person][frame.video].append(name)
    for person, names_of_video in videos.items():
        problem = None
        if known is not None and person not in known:
            problem = UnusableFile(f"{person} is not in {TABLE}")
        elif len(names_of_video) < 2:
            reason = f"{person} has one video only, and a split by video needs two"
            problem = UnusableFile(reason, in_every_copy=True)
        splits = _split_frames(person, names_of_video, test=test, key=key)
        for names in names_of_video.values():
            for name in names:
                if problem is not None:
                    importer.exclude(name, problem)
                elif name in splits:
                    yield FileEntry(name, name, "/".join(frames[name]), splits[name], identity=person)
                else:
                    importer.counts["unused frames of test videos"] += 1
        importer.counts["videos"] += len(names_of_video) if problem is None else 0


def _split_frames(person: str, names_of_video: Mapping[str, list[str]], *, test: int, key: bytes) -> dict[str, str]:
    """The split of each of a person's frames that is used."""

    def rank(*words: str) -> bytes:
        return hashlib.sha256(key + "\0".join((person, *words)).encode()).digest()

    order = sorted(names_of_video, key=rank)
    splits: dict[str, str] = {}
    while order[1:] and len(splits) < test:
        names = sorted(names_of_video[order.pop(0)], key=lambda name: rank(*name.split("/")[-2:]))
        splits |= dict.fromkeys(names[: test - len(splits)], TEST)
    return splits | {name: TRAIN for video in order for name in names_of_video[video]}


def _read_known_people(path: Path, files: ArchiveFiles) -> frozenset[str] | None:
    """The people in the data set's table; None without a table."""
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
    except UnusableFile as problem:
        raise StudyError(f"{table}: {problem}. {REMEDY}") from None
    except OSError as error:
        raise explain_unreadable(beside, error) from error
    header = rows[0].cells if rows else []
    if NAMES_COLUMN not in header:
        raise StudyError(
            f"{table} lacks the column {NAMES_COLUMN!r}; it has {', '.join(map(repr, header)) or 'none'}. "
            f"Its columns are separated by tabs. {REMEDY}"
        )
    column = header.index(NAMES_COLUMN)
    return frozenset(row.cells[column].rstrip(".") for row in rows[1:])
