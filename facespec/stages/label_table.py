"""A user's own images with their classes, as a CSV table such as

::

    image,split,group,object,colour
    pictures/0001.png,train,mug 3,0,2
    pictures/0002.png,test,mug 4,0,
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image

from facespec.analyses.lesions import UNKNOWN, LabelledImages
from facespec.data.archives import UnusableFile, explain_unreadable, read_whole
from facespec.data.pictures import decode
from facespec.data.text_tables import parse_table
from facespec.study.errors import StudyError, suggest_spelling

SPLITS = ("train", "test")
GROUP = "group"
CLASS = r"\d{1,9}(?:\.0*)?|"  # pandas writes integers with a decimal point where others of the column are empty


class LabelTable(NamedTuple):
    """Images to rank units on and to test them on; `people`: who or what each test image shows, None if not known."""

    train: LabelledImages
    test: LabelledImages
    people: pd.Series | None


def read_labels(path: Path, *, size: int) -> LabelTable:
    """Read the label table `path`; its images become float (n, 3, `size`, `size`) in [0, 1] when they are needed.

    Columns: ``image``, relative to the table; ``split``, ``train`` or ``test``; optionally ``group``, the person or
    object that an image shows; and one per task, the class of every image (the index of its logit, from 0), empty where
    it is not known. Raises `StudyError`, with the line, for anything else. Files of images must exist, but are not
    opened.
    """
    table = _read_table(path)
    tasks = _find_tasks(path, table)
    _refuse_rows(path, table["split"], ~table["split"].isin(SPLITS), lambda word: suggest_spelling(word, SPLITS))
    for task in tasks:
        wrong = ~table[task].str.fullmatch(CLASS)
        _refuse_rows(
            path, table[task], wrong, "a class is the index of its logit, an integer from 0; empty: not known."
        )
    files = pd.Series([path.parent / name for name in table["image"]], index=table.index, dtype=object)
    faults = files.map(_find_fault)
    _refuse_rows(path, table["image"], faults != "", lambda name: _find_fault(path.parent / name))
    held_out, locations = table["split"] == "test", files.map(Path.resolve)  # one file has many spellings
    repeated = held_out & locations.isin(locations[~held_out])
    _refuse_rows(path, table["image"], repeated, "it is among the train images too; test on images held out.")
    for split in SPLITS:
        if not (table["split"] == split).any():
            raise StudyError(f"{path}: no row is of split {split!r}; units are ranked on train, tested on test images.")
    if GROUP in table:
        nameless = held_out & (table[GROUP] == "")
        _refuse_rows(path, table[GROUP], nameless, "name whom or what each test image shows, or leave the column out.")
    splits = []
    for rows in (~held_out, held_out):
        read = _make_reader(files[rows].tolist(), size)
        splits.append(LabelledImages(read, {task: _parse_classes(table[task][rows]) for task in tasks}))
    people = table.loc[held_out, GROUP].reset_index(drop=True) if GROUP in table else None
    return LabelTable(splits[0], splits[1], people)


def _read_table(path: Path) -> pd.DataFrame:
    """All columns as text without spaces around; the index counts lines, the header being the first."""
    try:
        if not path.is_file():
            raise StudyError(f"{path}: no such file. It has a row per image: image, split, and a column per task.")
        with path.open("rb") as file:
            rows = parse_table(read_whole(file), delimiter=",")
    except OSError as error:
        raise explain_unreadable(path, error) from error
    except UnusableFile as error:
        raise StudyError(f"{path}: {error}.") from None
    header = rows[0].cells if rows else []
    for name in header:
        if header.count(name) > 1:
            raise StudyError(f"{path}: several columns are called {name!r}. Give each a name of its own.")
    cells, lines = [row.cells for row in rows[1:]], [row.line for row in rows[1:]]
    return pd.DataFrame(cells, index=lines, columns=header, dtype=str)


def _find_tasks(path: Path, table: pd.DataFrame) -> list[str]:
    for column in ("image", "split"):
        if column not in table:
            raise StudyError(f"{path}: lacks column {column!r}; it has {list(table.columns)}.")
    tasks = [column for column in table.columns if column not in ("image", "split", GROUP)]
    if len(tasks) != 2:
        raise StudyError(
            f"{path}: besides image, split and group it has the columns {tasks}; needed are two, one per task."
        )
    return tasks


def _find_fault(file: Path) -> str:
    """Why no picture can be read from `file`; empty if there is a file."""
    try:
        return "" if file.is_file() else "no such file; paths are relative to the table."
    except OSError as error:  # a name too long, a directory that may not be searched
        return f"cannot be looked for ({error.strerror}); mend its path or permissions."


def _parse_classes(column: pd.Series) -> npt.NDArray[np.int64]:
    return np.array([int(text.split(".")[0]) if text else UNKNOWN for text in column], dtype=np.int64)


def _refuse_rows(path: Path, column: pd.Series, wrong: pd.Series, reason: str | Callable[[str], str]) -> None:
    """Refuse the first of the rows that are `wrong`."""
    for line, text in column[wrong.astype(bool)].items():
        explanation = reason if isinstance(reason, str) else reason(text)
        raise StudyError(f"{path}, line {line}: {column.name} is {text!r}: {explanation}")


def _make_reader(files: Sequence[Path], size: int) -> Callable[[np.ndarray], torch.Tensor]:
    return lambda positions: torch.stack([_read_image(files[position], size) for position in positions])


def _read_image(file: Path, size: int) -> torch.Tensor:
    """Float (3, `size`, `size`) in [0, 1]: RGB, resized to a square (bilinear, antialiased, by Pillow)."""
    try:
        with file.open("rb") as content:
            picture = decode(read_whole(content))
    except (OSError, UnusableFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StudyError(f"{file}: not a readable image ({reason}). Save it anew, or take its row out.") from error
    pixels = np.array(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
