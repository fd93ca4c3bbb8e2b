"""A user's own files: a network, as a function in a Python file; images and what they show, as a CSV table.

And whether trials and the network's answers fit together, and a directory for what is found. A table is such as

::

    image,split,group,object,colour
    pictures/0001.png,train,mug 3,0,2
    pictures/0002.png,test,mug 4,0,
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from torch import nn

from facespec.analyses.lesions import UNKNOWN, LabelledImages
from facespec.data.archives import UnusableArchive, explain_unreadable, read_whole
from facespec.data.pictures import decode
from facespec.data.text_tables import parse_table
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.storage import file_lock
from facespec.study.tables_lesions import INDEX

SPLITS = ("train", "test")
GROUP = "group"
CLASS = r"\d{1,9}(?:\.0*)?|"  # pandas writes integers with a decimal point where others of the column are empty


class Labelled(NamedTuple):
    """Trials to rank units on and to test them on; `people`: whom each test image shows, None if nobody says."""

    train: LabelledImages
    test: LabelledImages
    people: pd.Series | None


def load_network(module: str) -> nn.Module:
    """What the function of ``FILE.py:FUNCTION`` returns, called without arguments; the file need not be importable.

    Raises `StudyError` if file or function are missing or fail, or for anything but a torch module with weights.
    """
    file, _, function = module.rpartition(":")
    if not file.endswith(".py") or not function:
        raise StudyError(f"--module {module}: expected FILE.py:FUNCTION, for example networks.py:resnet.")
    if not Path(file).is_file():
        raise StudyError(f"--module {module}: no file {file}.")
    name = f"facespec_own_{hashlib.sha256(str(Path(file).resolve()).encode()).hexdigest()[:16]}"
    found: Any = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = own = importlib.util.module_from_spec(found)  # as its dataclasses and pickles expect
    with _blaming(file):
        found.loader.exec_module(own)
    if not callable(made := getattr(own, function, None)):
        known = [word for word, value in vars(own).items() if callable(value) and not word.startswith("_")]
        raise StudyError(
            f"{file}: no function {function!r}: {suggest_spelling(function, known) if known else 'it has none.'}"
        )
    with _blaming(f"{file}: {function}()"):
        network = made()
    if not isinstance(network, nn.Module) or next(network.parameters(), None) is None:
        raise StudyError(f"{file}: {function}() returns {type(network).__name__}, not a torch.nn.Module with weights.")
    return network


@contextmanager
def _blaming(whom: str) -> Iterator[None]:
    """Say whose code it is that fails."""
    try:
        yield
    except Exception as error:
        raise StudyError(f"{whom} raises {type(error).__name__}: {error}") from error


def read_labels(path: Path, *, size: int) -> Labelled:
    """The label table `path`; its images become float (n, 3, `size`, `size`) in [0, 1] when they are asked for.

    Columns: ``image``, relative to the table; ``split``, ``train`` or ``test``; if several images show one person or
    object, ``group``, whom or what; and one per task, the class of every image (the index of its logit, from 0), empty
    where it is not known. Raises `StudyError`, with the line, for whatever else it finds. Images are looked for, not
    opened.
    """
    table = _read(path)
    tasks = _tasks(path, table)
    _refuse(path, table["split"], ~table["split"].isin(SPLITS), lambda word: suggest_spelling(word, SPLITS))
    classes = {task: _classes(path, table[task]) for task in tasks}
    files = [path.parent / name for name in table["image"]]
    absent = [bool(_find_fault(file)) for file in files]
    _refuse(path, table["image"], absent, lambda name: _find_fault(path.parent / name))
    held_out, places = table["split"] == "test", [file.resolve() for file in files]  # one file has many spellings
    fitted = {*itertools.compress(places, table["split"] == "train")}
    twice = held_out & np.array([place in fitted for place in places], dtype=bool)
    _refuse(path, table["image"], twice, lambda _: "it is among the train images too; test on images held out.")
    rows = {split: np.flatnonzero(table["split"] == split) for split in SPLITS}
    for split, own in rows.items():
        if not len(own):
            raise StudyError(f"{path}: no row is of split {split!r}; units are ranked on train, tested on test images.")
    train, test = (
        LabelledImages(
            _reader([files[row] for row in own], size), {task: codes[own] for task, codes in classes.items()}
        )
        for own in rows.values()
    )
    if GROUP not in table:
        return Labelled(train, test, None)
    nobody = held_out & (table[GROUP] == "")
    _refuse(path, table[GROUP], nobody, lambda _: "name whom or what each test image shows, or leave the column out.")
    return Labelled(train, test, table[GROUP].iloc[rows["test"]].reset_index(drop=True))


def _read(path: Path) -> pd.DataFrame:
    """All columns as text without spaces around; the index counts lines, the header being the first."""
    try:
        if not path.is_file():
            raise StudyError(f"{path}: no such file. It has a row per image: image, split, and a column per task.")
        with path.open("rb") as file:
            rows = parse_table(read_whole(file), delimiter=",")
    except OSError as error:
        raise explain_unreadable(path, error) from error
    except UnusableArchive as verdict:
        raise StudyError(f"{path}: {verdict}.") from None
    header = rows[0].cells if rows else []
    for name in header:
        if header.count(name) > 1:
            raise StudyError(f"{path}: several columns are called {name!r}. Give each a name of its own.")
    return pd.DataFrame(
        [row.cells for row in rows[1:]], index=[row.line for row in rows[1:]], columns=header, dtype=str
    )


def _find_fault(file: Path) -> str:
    """Why no picture can be read from `file`; empty if there is a file."""
    try:
        return "" if file.is_file() else "no such file; paths are relative to the table."
    except OSError as error:  # a name too long, a directory that may not be searched
        return f"cannot be looked for ({error.strerror}); mend its path or permissions."


def _tasks(path: Path, table: pd.DataFrame) -> list[str]:
    for column in ("image", "split"):
        if column not in table:
            raise StudyError(f"{path}: lacks column {column!r}; it has {list(table.columns)}.")
    tasks = [column for column in table.columns if column not in ("image", "split", GROUP)]
    if len(tasks) != 2:
        raise StudyError(
            f"{path}: besides image, split and group it has the columns {tasks}; needed are two, one per task."
        )
    return tasks


def _classes(path: Path, column: pd.Series) -> npt.NDArray[np.int64]:
    wrong = ~column.str.fullmatch(CLASS)
    _refuse(path, column, wrong, lambda _: "a class is the index of its logit, an integer from 0; empty: not known.")
    return np.array([int(word.split(".")[0]) if word else UNKNOWN for word in column], dtype=np.int64)


def _refuse(path: Path, column: pd.Series, wrong: npt.ArrayLike, how: Callable[[str], str]) -> None:
    """Refuse the first of the rows that are `wrong`."""
    for line, word in column[np.asarray(wrong, dtype=bool)].items():
        raise StudyError(f"{path}, line {line}: {column.name} is {word!r}: {how(word)}")


def _reader(files: Sequence[Path], size: int) -> Callable[[np.ndarray], torch.Tensor]:
    return lambda positions: torch.stack([_image(files[position], size) for position in positions])


def _image(file: Path, size: int) -> torch.Tensor:
    """Float (3, `size`, `size`) in [0, 1]: RGB, stretched to a square (bilinear, antialiased, by Pillow)."""
    try:
        with file.open("rb") as content:
            picture = decode(read_whole(content))
        if picture.mode.startswith(("I", "F")):  # Pillow would cut off all that is brighter than 255
            raise UnusableArchive(f"mode {picture.mode}: more than 8 bits per channel")
    except (OSError, UnusableArchive) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StudyError(
            f"{file}: not a readable image ({why}). Save it anew, with 8 bits per channel, or take its row out."
        ) from error
    pixels = np.array(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def check_images(train: LabelledImages, test: LabelledImages) -> None:
    """Refuse trials that cannot be compared, or of which nothing can be learnt."""
    if train.tasks != test.tasks:
        raise StudyError(f"train is about the tasks {train.tasks}, test about {test.tasks}; both need the same.")
    for task in test.tasks:
        if not isinstance(task, str) or task in ("", INDEX):
            raise StudyError(f"a task is called {task!r}; allowed is any text but {INDEX!r}, a column's word.")
        for split, trials in (("train", train), ("test", test)):
            known = np.unique(trials.classes[task][trials.classes[task] != UNKNOWN])
            if len(known) < 2:
                raise StudyError(f"the {split} images show {len(known)} class of task {task!r}; at least 2 are needed.")


def check_answers(answers: Any, train: LabelledImages, test: LabelledImages, *, n: int) -> None:
    """Refuse what a network answers to `n` images, unless these are logits for the classes of both tasks."""
    if not isinstance(answers, dict):
        raise StudyError(
            f"the network returns {type(answers).__name__}: a dict is needed, task -> logits (n, classes)."
        )
    for task in test.tasks:
        if task not in answers:
            raise StudyError(f"the network does not answer task {task!r}: {suggest_spelling(task, map(str, answers))}")
        logits = answers[task]
        if not isinstance(logits, torch.Tensor) or logits.shape[:1] != (n,) or logits.ndim != 2:
            what = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise StudyError(f"the network's answer of task {task!r} to {n} images is {what}; needed: ({n}, classes).")
        if not logits.isfinite().all():
            raise StudyError(f"the network's logits of task {task!r} are not finite. Check its weights.")
        most = max(int(trials.classes[task].max()) for trials in (train, test))
        if most >= logits.shape[1]:
            raise StudyError(
                f"class {most} of task {task!r} has no logit; the network gives {logits.shape[1]}, "
                f"for the classes 0 to {logits.shape[1] - 1}."
            )


@contextmanager
def lock_output_dir(to: Path, *parts: str) -> Iterator[None]:
    """Hold the directory `to`, or a link to one; `parts` are directories in it.

    Whichever of them is something else, or cannot be written, is a `StudyError` now, and not after the first lesions.
    """
    directories = [to, *(to / part for part in parts)]
    for directory in directories:
        if not directory.is_dir() and (directory.exists() or directory.is_symlink()):
            what = "a file" if directory.exists() else "a link to nothing"
            raise StudyError(
                f"{directory}: {what}, where a directory is needed. Remove it, or name another directory for the "
                "tables and figures."
            )
    with ExitStack() as stack:
        for directory in directories:
            try:
                if directory == to:
                    stack.enter_context(file_lock(to.resolve()))  # a link and its directory share their lock
                if directory.exists():
                    tempfile.TemporaryFile(dir=directory).close()
            except (OSError, RuntimeError) as error:  # RuntimeError: of links in a circle
                raise StudyError(
                    f"{directory}: cannot be written ({error}). Name a directory that you may write to, in another "
                    "such one."
                ) from error
        yield
