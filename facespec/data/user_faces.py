"""How are one's own faces read: pictures that a table, folders or the names of files label, for any role?"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from facespec.data.archives import ArchiveFiles, UnusableFile, open_files
from facespec.data.chunks import FaceChunk
from facespec.data.groups import draw_splits
from facespec.data.importing import FileEntry, FileImporter, Report
from facespec.data.pictures import crop_image, decode, is_picture
from facespec.data.unpacking import DAMAGE
from facespec.data.user_labels import (
    LabelledFile,
    SourceLabels,
    has_image_column,
    parse_file_names,
    parse_folders,
    read_label_table,
)
from facespec.data.words import find_misspelling, parse_expression, parse_split, parse_view
from facespec.study.errors import StudyError
from facespec.study.params import RealFaces
from facespec.study.vocabulary import EXPRESSIONS, TEST, TRAIN, Role, View

FORMS = (
    "Faces of your own are pictures in a folder per person or per expression, pictures that a CSV table with a column "
    "'image' labels, or pictures whose names `pattern` explains: docs/data.md."
)
SPLITS = (TRAIN, TEST)
HEADER = 4096  # bytes in which the first line of a table ends
# The labels that a role cannot do without
NEEDED = {Role.EXPRESSION: ("expression",), Role.IDENTITY: ("identity",), Role.PROBE: ("identity", "expression")}


@dataclass(frozen=True)
class UserSource:
    """One's own faces of a role: how they are labelled, and how their split is drawn where they have none.

    `share` of every class is tested, in groups drawn by `key`; None for the probe role, which has no splits.
    """

    role: Role
    block: RealFaces
    share: float | None
    key: bytes


def find_label_table(path: Path, files: ArchiveFiles) -> str | None:
    """The one CSV among `files` with a column ``image``; `StudyError` for several, None for none."""
    tables = []
    for name in files.names:
        if name.lower().endswith(".csv") and has_image_column(_read_header(path, files, name)):
            tables.append(name)
    if len(tables) > 1:
        raise StudyError(
            f"{path}: holds several tables with a column 'image': {', '.join(tables)}. Give the path of one."
        )
    return tables[0] if tables else None


def list_pictures(path: Path) -> list[str]:
    """The pictures that the label table `path` names, as it does; none if it is no such table, or cannot be read."""
    try:
        with open_files(path, endings=()) as files:
            if find_label_table(path, files) is None:
                return []
            labels = read_label_table(files.read(path.name), name=path.name, folder="")
    except (StudyError, UnusableFile):
        return []
    return sorted({face.file for face in labels.faces})


def _read_header(path: Path, files: ArchiveFiles, name: str) -> list[str]:
    try:
        with files.open(name) as file:
            line = file.read(HEADER).decode("utf-8-sig", errors="replace").partition("\n")[0]
    except (UnusableFile, *DAMAGE) as error:
        raise StudyError(f"{path}: {name} cannot be read ({error}). Fetch it again.") from error
    delimiter = max(",\t;", key=line.count)
    return next(csv.reader(io.StringIO(line), delimiter=delimiter), [])


def read_files(
    files: ArchiveFiles, importer: FileImporter, source: UserSource, *, table: str | None, report: Report
) -> Iterator[FaceChunk]:
    """The chunks of the faces in `files`, labelled by `table` if there is one, else by a pattern or folders."""
    labels, files = _read_labels(files, importer, source, table=table)
    importer.notes += labels.notes
    for file, reason in labels.unlabelled:
        importer.exclude(file, UnusableFile(reason))
    boxes = {face.file: face.box for face in labels.faces}

    def load(file: str) -> Image.Image:
        image, box = decode(files.read(file)), boxes[file]
        return image if box is None else crop_image(image, box)

    yield from read_labelled(labels.faces, load, importer, source, report=report)


def read_labelled(
    faces: list[LabelledFile],
    load: Callable[[str], Image.Image],
    importer: FileImporter,
    source: UserSource,
    *,
    report: Report,
) -> Iterator[FaceChunk]:
    """The chunks of `faces`, whose pictures `load` gives by their `file`."""
    usable = _translate(faces, importer, source)
    entries = importer.drop_duplicates(_split(usable, importer, source))
    if not entries:
        first = importer.list_excluded()
        raise StudyError(
            f"{importer.path}: no picture with what the {source.role.value} role needs "
            f"({', '.join(NEEDED[source.role])}).{f' First: {first}.' if first else ''} {FORMS}"
        )
    yield from importer.iterate_chunks(entries, lambda entry: load(entry.location), report=report)
    _refuse_missing_classes(importer, source.role)


def _read_labels(
    files: ArchiveFiles, importer: FileImporter, source: UserSource, *, table: str | None
) -> tuple[SourceLabels, ArchiveFiles]:
    """The labels of a source, and the files that its pictures are read from."""
    path, block = importer.path, source.block
    pictures = [name for name in files.names if is_picture(name)]
    if table is not None and block.pattern is not None:
        raise StudyError(
            f"{path}: {table} labels the pictures, and so does `pattern`. Set it to null, or give the folder."
        )
    if table is not None:
        try:
            content = files.read(table)
        except UnusableFile as problem:
            raise StudyError(f"{path}: {table}: {problem}. Fetch it again.") from None
        if path.is_file() and files.names == (path.name,):  # the table itself was given: its pictures lie beside it
            files = ArchiveFiles(files.names, (), lambda name: (path.parent / name).open("rb"))
            return read_label_table(content, name=table, folder=""), files
        labels = read_label_table(content, name=table, folder=str(PurePosixPath(table).parent))
        listed = {face.file for face in labels.faces}
        others = [name for name in files.names if name not in listed and name != table]
        importer.exclude_others(files, [], reason="")
        for name in others:
            importer.exclude(name, UnusableFile(f"not in {table}", in_every_copy=True))
        return labels, files
    if not pictures:
        raise StudyError(f"{path}: holds {files.list_examples()}, and no pictures. {FORMS}")
    importer.exclude_others(files, (name for name in files.names if not is_picture(name)), reason="no picture")
    if block.pattern is not None:
        return parse_file_names(pictures, block.pattern), files
    return parse_folders(pictures, role=source.role, words=block.words), files


def _translate(faces: list[LabelledFile], importer: FileImporter, source: UserSource) -> list[LabelledFile]:
    """The faces that the role can use, in the study's words; others are excluded, and what words meant is noted."""
    words, needed = source.block.words, NEEDED[source.role]
    meanings: Counter[tuple[str, str]] = Counter()
    others: Counter[str] = Counter()
    usable = []
    for face in faces:
        expression, view = parse_expression(face.expression, words), parse_view(face.view, words)
        split = parse_split(face.split) if face.split else ""
        problem = ""
        if "identity" in needed and not face.identity:
            problem = "no identity"
        elif "expression" in needed and expression is None:
            problem = f"expression {face.expression!r}, none of the seven" if face.expression else "no expression"
            others[face.expression] += 1
        elif face.view and view is None and source.role is Role.PROBE:
            problem = f"view {face.view!r}, none of the five; `words` can say which it is"
        elif split is None and source.role is not Role.PROBE:
            problem = f"split {face.split!r}, neither train nor test"
        if problem:
            importer.exclude(face.file, UnusableFile(problem, in_every_copy=True))
            continue
        for word, meaning in ((face.expression, expression), (face.view, view)):
            if meaning is not None and word != meaning:
                meanings[word, meaning.value] += 1
        usable.append(face._replace(split=split or "", expression=expression or "", view=view or ""))
    importer.notes += _list_words(meanings, others)
    return usable


def _list_words(meanings: Mapping[tuple[str, str], int], others: Mapping[str, int]) -> list[str]:
    notes = []
    if meanings:
        listed = ", ".join(f"{word!r} is {meaning} ({n:,})" for (word, meaning), n in sorted(meanings.items()))
        notes.append(f"words: {listed}")
    for word, n in sorted(others.items()):
        near = find_misspelling(word)
        hint = f"; a misspelt {near!r}? `words` can say so" if near else ""
        notes.append(f"left out: {n:,} of expression {word!r}{hint}" if word else f"left out: {n:,} without expression")
    return notes


def _split(faces: list[LabelledFile], importer: FileImporter, source: UserSource) -> Iterator[FileEntry]:
    if source.share is None:
        splits: list[str | None] = ["probe"] * len(faces)
        if faces and not any(face.view for face in faces):
            importer.notes.append(f"no view is stated: all pictures are taken for {View.STRAIGHT.value}")
            faces = [face._replace(view=View.STRAIGHT.value) for face in faces]
    elif any(face.split for face in faces):
        splits = _check_splits(faces, importer, source.role)
    else:
        splits = _draw(faces, importer, source)
    for face, split in zip(faces, splits, strict=True):
        if split is not None:
            stimulus = str(PurePosixPath(face.file).with_suffix(""))
            yield FileEntry(face.file, face.file, stimulus, split, face.identity, *face[3:6])


def _check_splits(faces: list[LabelledFile], importer: FileImporter, role: Role) -> list[str | None]:
    """The given splits; None for people whom no training picture shows. `StudyError` for a group in both splits."""
    path = importer.path
    missing = sum(not face.split for face in faces)
    if missing or len({face.split for face in faces}) == 1:
        problem = f"{missing:,} have no split" if missing else f"all of them are {faces[0].split}"
        raise StudyError(
            f"{path}: of {len(faces):,} pictures, {problem}. Give every picture train or test; without any, a split is "
            "drawn."
        )
    sides: dict[str, str] = {}
    for face in faces:
        if face.group and sides.setdefault(face.group, face.split) != face.split:
            raise StudyError(
                f"{path}: the group {face.group!r} is in train and in test. Give all of its pictures one split."
            )
    if role is not Role.IDENTITY:
        return [face.split for face in faces]
    trained = {face.identity for face in faces if face.split == TRAIN}
    for face in faces:
        if face.identity not in trained:
            reason = f"{face.identity} is tested, and no training picture shows that person"
            importer.exclude(face.file, UnusableFile(reason, in_every_copy=True))
    if not any(face.identity in trained for face in faces if face.split == TEST):
        raise StudyError(
            f"{path}: train and test show other people, and a network cannot name whom it never saw. Give the folder "
            "of one split as the source: a split within people is then drawn."
        )
    return [face.split if face.identity in trained else None for face in faces]


def _draw(faces: list[LabelledFile], importer: FileImporter, source: UserSource) -> list[str | None]:
    """A split by whole groups; None for pictures of a class with one group, which are excluded."""
    by_person = source.role is Role.EXPRESSION and all(face.identity for face in faces)
    classes = [face.identity if source.role is Role.IDENTITY else face.expression for face in faces]
    known = any(face.group or face.session for face in faces)
    groups = [_name_group(face, by_person=by_person) for face in faces]
    assert source.share is not None
    splits = draw_splits(classes, groups, share=source.share, key=source.key)
    kind = "groups as given" if any(face.group for face in faces) else "sessions" if known else "single pictures"
    if by_person and not any(face.group for face in faces):
        kind = "people"
    warning = "; near-copies of one shooting may be in both" if kind == "single pictures" else ""
    importer.notes.append(f"split drawn, test share {source.share:g}, by {kind}{warning}")
    for face, name, split in zip(faces, classes, splits, strict=True):
        if split is None:
            reason = f"{name} has one picture or group only, and a split needs two"
            importer.exclude(face.file, UnusableFile(reason, in_every_copy=True))
    return splits


def _name_group(face: LabelledFile, *, by_person: bool) -> str:
    """The group of pictures that are not divided between splits; a picture of which nothing is known is its own."""
    if face.group:
        return f"group\0{face.group}"
    if by_person:
        return f"person\0{face.identity}"
    return f"session\0{face.identity}\0{face.session}" if face.session else f"picture\0{face.file}"


def _refuse_missing_classes(importer: FileImporter, role: Role) -> None:
    """Raise `StudyError` for an expression without a picture, in the probe or in either split, and for one person."""
    counts = importer.counts
    if "expression" in NEEDED[role]:
        keys = {"": ""} if role is Role.PROBE else {split: f"{split} " for split in SPLITS}
        for split, prefix in keys.items():
            if absent := [repr(name.value) for name in EXPRESSIONS if not counts[f"{prefix}{name.value}"]]:
                where = f"{split} pictures" if split else "pictures"
                raise StudyError(
                    f"{importer.path}: no {where} of {', '.join(absent)}. The study needs all seven expressions"
                    f"{' in both splits' if split else ''}. {_explain_words(importer)}"
                )
    if "identity" in NEEDED[role] and counts["people"] < 2:
        raise StudyError(f"{importer.path}: people: {counts['people']}; telling people apart needs two. {FORMS}")


def _explain_words(importer: FileImporter) -> str:
    notes = [note for note in importer.notes if note.startswith(("words:", "left out:"))]
    return f"How the source was read: {'; '.join(notes)}." if notes else FORMS
