"""How is VoxCeleb1 read: face crops of any size, in colour, from videos of 1,251 people?"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from facespec.data.archives import (
    ArchiveFiles,
    UnusableFile,
    open_files,
    read_whole,
    refuse_missing,
)
from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.importing import SHARD, FileEntry, FileImporter, ImportOptions, Report
from facespec.data.pictures import SUFFIXES, decode, is_picture
from facespec.data.text_tables import guess_delimiter, parse_table
from facespec.study.errors import StudyError
from facespec.study.vocabulary import TEST, TRAIN, Role

SOURCE = "VoxCeleb1"
RATE = "1.6"  # the folder between person and video
TABLE = "vox1_meta.csv"
# <person>/1.6/<video>/<frame>; the dense release has a folder per utterance below the video; some copies have people's
# numbers in place of their names, and no folder 1.6
NAMED = re.compile(rf"(?:^|/)([^/]+)/{re.escape(RATE)}/([^/]+)/((?:[^/]+/)?[^/]+)\.[^/.]+$")
NUMBERED = re.compile(r"(?:^|/)(id\d{5})/([^/]+)/((?:[^/]+/)?[^/]+)\.[^/.]+$")


class Frame(NamedTuple):
    """The content of a path: the person, the video, and the frame in it."""

    person: str
    video: str
    frame: str


def parse_name(name: str) -> Frame | None:
    """The frame that the path ``.../<person>/1.6/<video>/<frame>.jpg`` names; None for other paths."""
    match = (NAMED.search(name) or NUMBERED.search(name)) if is_picture(name) else None
    # some names end in "." in the table only
    return None if match is None else Frame(match[1].rstrip("."), match[2], match[3])


def read_voxceleb(
    path: Path, options: ImportOptions, *, test: int, generator: np.random.Generator, report: Report
) -> FaceImport:
    """Read VoxCeleb1 at `path` for the identity role; `test` frames per person are ``test``.

    Split by video: a person's videos, in an order drawn from `generator`, give test frames until there are `test`,
    but the last video always stays in ``train``. Further frames of a test video are not used, but counted. A person
    with only one video is excluded. A person's split does not depend on the other people. Stimuli are named
    ``<person>/<video>/<frame>``.

    ``vox1_meta.csv``, in the data set or beside `path`, is a cross-check: people who are not in it are noted, as is a
    table that cannot be read. Raises `StudyError`, at once or while the chunks are read, if `path` holds no VoxCeleb1,
    or more than the tolerated share is bad.
    """
    refuse_missing(path)
    importer = FileImporter(path, SOURCE, options)
    chunks = _open_and_read(path, importer, test=test, key=generator.bytes(16), report=report)
    return FaceImport(chunks, FaceSetDescription(Role.IDENTITY.value, SHARD, None, importer.summarise))


def _open_and_read(path: Path, importer: FileImporter, *, test: int, key: bytes, report: Report) -> Iterator[FaceChunk]:
    with open_files(path, endings=(TABLE, *SUFFIXES)) as files:
        yield from read_files(files, importer, test=test, key=key, report=report)


def is_voxceleb(files: ArchiveFiles) -> bool:
    """Whether most pictures in `files` lie in VoxCeleb1's folders."""
    pictures = [name for name in files.names if is_picture(name)]
    return 2 * sum(parse_name(name) is not None for name in pictures) > len(pictures)


def read_files(
    files: ArchiveFiles, importer: FileImporter, *, test: int, key: bytes, report: Report
) -> Iterator[FaceChunk]:
    """The chunks of VoxCeleb1 in `files`; `key` decides which videos are tested."""
    path = importer.path
    frames = {name: frame for name in files.names if (frame := parse_name(name)) is not None}
    if not frames:
        raise StudyError(
            f"{path}: no VoxCeleb1: it holds {files.list_examples()}. VoxCeleb1 is face crops like "
            f"unzippedFaces/<name>/{RATE}/<video>/<frame>.jpg, plain or in a .zip or .tar.xz."
        )
    others = [name for name in files.names if name not in frames and PurePosixPath(name).name != TABLE]
    importer.exclude_others(files, others, reason=f"not <name>/{RATE}/<video>/<frame>.jpg")
    _check_people({frame.person for frame in frames.values()}, files, importer)
    entries = importer.drop_duplicates(_iterate_entries(frames, importer, test=test, key=key))
    people = len({entry.identity for entry in entries})
    if people < 2:
        raise StudyError(
            f"{path}: people with two videos or more: {people}; telling people apart needs two of them. "
            "Is the copy complete?"
        )
    yield from importer.iterate_chunks(entries, lambda entry: decode(files.read(entry.location)), report=report)


def _iterate_entries(
    frames: Mapping[str, Frame], importer: FileImporter, *, test: int, key: bytes
) -> Iterator[FileEntry]:
    videos: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, frame in frames.items():
        videos[frame.person][frame.video].append(name)
    for person, names_of_video in videos.items():
        problem = None
        if len(names_of_video) < 2:
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


def _check_people(people: set[str], files: ArchiveFiles, importer: FileImporter) -> None:
    """Note the `people` who are not in the data set's table, or why that cannot be read; nothing without a table."""
    try:
        known = _read_known_people(importer.path, files)
    except (UnusableFile, OSError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        importer.notes.append(f"{TABLE}, a cross-check of people, is not used: {reason}")
        return
    if known is not None and (strangers := sorted(people - known)):
        listed = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
        importer.notes.append(f"people who are not in {TABLE}: {len(strangers):,} of {len(people):,} ({listed})")


def _read_known_people(path: Path, files: ArchiveFiles) -> frozenset[str] | None:
    """The names and numbers in the data set's table, whatever its columns are called; None without a table."""
    inside = [name for name in files.names if PurePosixPath(name).name == TABLE]
    beside = path.parent / TABLE
    if inside:
        content = files.read(inside[0])
    elif beside.is_file():
        with beside.open("rb") as file:
            content = read_whole(file)
    else:
        return None
    # tabs, in spite of its name, in the published table; other copies have commas or semicolons
    rows = parse_table(content, delimiter=guess_delimiter(content))
    return frozenset(cell.rstrip(".") for row in rows[1:] for cell in row.cells)
