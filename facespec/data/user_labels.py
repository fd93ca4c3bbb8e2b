"""Who and what do one's own pictures show: as a table says it, or folders, or the names of files?

All three give one `LabelledFile` per picture, in the source's own words; `data.user_faces` translates them.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from facespec.data.archives import UnusableFile
from facespec.data.pictures import Box
from facespec.data.text_tables import Row, guess_delimiter, parse_table
from facespec.data.words import parse_expression, parse_split, parse_view
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.vocabulary import Role

IMAGE = "image"
LABEL_COLUMNS = ("split", "identity", "expression", "view", "session", "group")
BOX_COLUMNS = Box._fields
COLUMNS = (IMAGE, *LABEL_COLUMNS, *BOX_COLUMNS)
LIKE = 0.75  # similarity from which a column's name is taken for a misspelt one


class LabelledFile(NamedTuple):
    """What the source says about a picture, in its own words; empty where it says nothing."""

    file: str
    split: str = ""
    identity: str = ""
    expression: str = ""
    view: str = ""
    session: str = ""
    group: str = ""
    box: Box | None = None

    @classmethod
    def from_words(cls, file: str, words: Mapping[str, str | None], box: Box | None = None) -> LabelledFile:
        """The picture `file` with the `words` that its source has for some of `LABEL_COLUMNS`."""
        split, identity, expression, view, session, group = (words.get(column) or "" for column in LABEL_COLUMNS)
        return cls(file, split, identity, expression, view, session, group, box)


@dataclass
class SourceLabels:
    """The labelled pictures of a source, what to say about how they were read, and the files that it does not label."""

    faces: list[LabelledFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unlabelled: list[tuple[str, str]] = field(default_factory=list)  # file, reason


def read_label_table(content: bytes, *, name: str, folder: str) -> SourceLabels:
    """Labels from the CSV table in `content`, called `name`; paths of images start at `folder`.

    Columns are those of `COLUMNS`, in any order and case, separated by commas, semicolons or tabs; only ``image`` is
    needed. Raises `StudyError` for a table that cannot be read, and for a misspelt column.
    """
    try:
        rows = parse_table(content, delimiter=guess_delimiter(content))
    except UnusableFile as problem:
        raise StudyError(f"{name}: {problem}.") from None
    header = [cell.lower() for cell in rows[0].cells] if rows else []
    others = _check_columns(name, header)
    labels = SourceLabels(notes=[f"labels from {PurePosixPath(name).name}"])
    if others:
        labels.notes.append(f"columns that are not used: {', '.join(others)}")
    for row in rows[1:]:
        cells = dict(zip(header, row.cells, strict=True))
        # a spreadsheet under Windows writes that system's separator
        file = posixpath.normpath(posixpath.join(folder, cells[IMAGE].replace("\\", "/"))) if cells[IMAGE] else ""
        if not file:
            raise StudyError(
                f"{name}, line {row.line}: image is empty. Give the path of a picture, or take the row out."
            )
        labels.faces.append(LabelledFile.from_words(file, cells, _parse_box(name, row, cells)))
    return labels


def has_image_column(header: Sequence[str]) -> bool:
    """Whether the first line of a table is that of a label table."""
    return any(cell.strip().lower() == IMAGE for cell in header)


def _check_columns(name: str, header: list[str]) -> list[str]:
    """The columns that are not used; `StudyError` for one that is repeated, misspelt or lacks its companions."""
    for column in header:
        if header.count(column) > 1:
            raise StudyError(f"{name}: several columns are called {column!r}. Give each a name of its own.")
    if IMAGE not in header:
        raise StudyError(f"{name}: lacks column {IMAGE!r}; it has {', '.join(map(repr, header)) or 'none'}.")
    others = [column for column in header if column not in COLUMNS]
    for column in others:
        free = [known for known in COLUMNS if known not in header]
        if difflib.get_close_matches(column, free, n=1, cutoff=LIKE):
            raise StudyError(f"{name}: unknown column {column!r}: {suggest_spelling(column, COLUMNS)}")
    boxes = [column for column in BOX_COLUMNS if column in header]
    if boxes and len(boxes) < len(BOX_COLUMNS):
        missing = ", ".join(repr(column) for column in BOX_COLUMNS if column not in header)
        raise StudyError(f"{name}: a box needs the columns {', '.join(map(repr, BOX_COLUMNS))}; missing: {missing}.")
    return others


def _parse_box(name: str, row: Row, cells: Mapping[str, str]) -> Box | None:
    words = [cells.get(column, "") for column in BOX_COLUMNS]
    if not any(words):
        return None
    try:
        return Box(*(round(float(word)) for word in words))
    except (ValueError, OverflowError):
        box = ", ".join(f"{column} {word!r}" for column, word in zip(BOX_COLUMNS, words, strict=True))
        raise StudyError(f"{name}, line {row.line}: {box}: expected four numbers of pixels, or none.") from None


def parse_file_names(names: Sequence[str], pattern: str) -> SourceLabels:
    """Labels from the paths `names`, without their endings, by the named groups of the regular expression `pattern`."""
    expression = re.compile(pattern)
    labels = SourceLabels(notes=[f"labels from the names of files, by {pattern}"])
    for name in names:
        match = expression.search(str(PurePosixPath(name).with_suffix("")))
        if match is None:
            labels.unlabelled.append((name, f"a name that the pattern {pattern} does not fit"))
        else:
            labels.faces.append(LabelledFile.from_words(name, match.groupdict()))
    return labels


def parse_folders(names: Sequence[str], *, role: Role, words: Mapping[str, str]) -> SourceLabels:
    """Labels from the folders that the pictures `names` lie in.

    Folders that all pictures share say nothing. Of the levels below, one may name splits, one expressions, one views,
    by their words; the first other one names people. What lies between a person and the pictures is a group, or, for
    the probe role, a session.
    """
    paths = [name.split("/")[:-1] for name in names]
    shared = _count_shared(paths)
    depth = max((len(path) for path in paths), default=0)
    kinds = {
        level: _name_level({path[level] for path in paths if len(path) > level}, words)
        for level in range(shared, depth)
    }
    labels, levels = SourceLabels(), _choose_levels(kinds)
    if not levels:
        labels.unlabelled = [(name, "not in the folder of a person or an expression") for name in names]
        return labels
    for name, path in zip(names, paths, strict=True):
        found = {kind: path[level] for kind, level in levels.items() if len(path) > level}
        between = "/".join(part for level, part in enumerate(path) if level >= shared and level not in levels.values())
        if between:
            group = "/".join(filter(None, (found.get("identity", ""), between)))
            found |= {"session": between} if role is Role.PROBE else {"group": group}
        labels.faces.append(LabelledFile.from_words(name, found))
    listed = ", ".join(
        f"level {level - shared + 1} {kind}" for kind, level in sorted(levels.items(), key=lambda i: i[1])
    )
    labels.notes.append(f"labels from folders: {listed}")
    return labels


def _count_shared(paths: Sequence[Sequence[str]]) -> int:
    """How many leading folders all `paths` share."""
    level = 0
    while paths and all(len(path) > level and path[level] == paths[0][level] for path in paths):
        level += 1
    return level


def _name_level(names: set[str], words: Mapping[str, str]) -> str:
    """What the folders of one level name: ``split``, ``expression``, ``view``, or ``identity`` if neither."""
    if all(parse_split(name) for name in names):
        return "split"
    if len(names) > 1 and all(parse_view(name, words) for name in names):
        return "view"
    known = [name for name in names if parse_expression(name, words)]
    return "expression" if len(known) > 1 and 2 * len(known) > len(names) else "identity"


def _choose_levels(kinds: Mapping[int, str]) -> dict[str, int]:
    """Kind -> the first level of that kind."""
    levels: dict[str, int] = {}
    for level, kind in kinds.items():
        levels.setdefault(kind, level)
    return levels
