"""ACCURACY tables in the original study's file names, keys and shapes, and back.

Its name for the joint network, SPLIT, lives only here and in the other files `published/export_*`: in the names and
keys of its files, which the reference table records.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from facespec.published.reference import Bar, find_role, read_published_bars, read_published_chance
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.pickles import read_pickle
from facespec.study.tables import ACCURACY

RESAMPLES = 100  # [P] length of every published list
Results = dict[str, list[float]]
Content = TypeVar("Content")


def export_accuracy(table: pd.DataFrame) -> dict[str, Results]:
    """The published files' content from an ACCURACY table: file name -> key -> 100 floats, resamples 0 ... 99.

    Figures that `table` lacks are left out; a figure of which a cell or a resample is missing is refused.

    With several seeds [O] the lists are those of the study's first seed, the one that the first row of `table` names.
    The published lists show one network, and their spread is that of resampled test images alone; means over seeds
    would be narrower, and whoever reads a standard error from the list would read a wrong one.
    """
    table = ACCURACY.check(table)
    files: dict[str, Results] = {}
    for bar in read_published_bars():
        if (table["figure"] == bar.figure).any():
            files.setdefault(bar.file, {})[bar.key] = _exported_cell(table, bar, seed=select_first_seed(table))
    return files


def select_first_seed(table: pd.DataFrame) -> int:
    """The study's first seed: the one that the first row of a table names; `StudyError` if it has no row."""
    if table.empty:
        raise StudyError("a table without a row names no seed. Make the tables again.")
    return int(table["seed"].iloc[0])


def _exported_cell(table: pd.DataFrame, bar: Bar, *, seed: int) -> list[float]:
    own = (
        (table["figure"] == bar.figure)
        & (table["trained_on"] == bar.trained_on)
        & (table["tested_on"] == bar.tested_on)
    )
    used = (table["seed"] == seed) & table["resample"].between(0, RESAMPLES - 1)
    cell = table[own & used].sort_values("resample")
    if cell["resample"].tolist() != list(range(RESAMPLES)):
        raise StudyError(
            f"figure {bar.figure}, {bar.trained_on} network tested on {bar.tested_on}, seed {seed}: {bar.file} needs "
            f"resamples 0 to {RESAMPLES - 1}, each once; the table has {len(cell)} rows of them."
        )
    return [float(value) for value in cell["accuracy"]]


def tabulate_results(files: Mapping[str, Any]) -> pd.DataFrame:
    """The ACCURACY table of published files' content (file name -> key -> 100 numbers): the way back of `export_accuracy`.

    `source`, `n` and `chance` are those of the published study, `seed` is 0; there is no row with `resample` -1,
    because the accuracy on the test images themselves was not published.
    """
    known = [bar.file for bar in read_published_bars()]
    for file in files:
        if file not in known:
            allowed = suggest_spelling(file, dict.fromkeys(known))
            raise StudyError(f"{file}: not one of the published accuracy files; {allowed}")
    checked = {file: check_results(file, content) for file, content in files.items()}
    cells = [
        pd.DataFrame({"resample": range(RESAMPLES), "accuracy": checked[bar.file][bar.key]}).assign(
            figure=bar.figure,
            trained_on=bar.trained_on,
            tested_on=bar.tested_on,
            source=bar.source,
            seed=0,
            n=bar.n,
            role=find_role(bar.figure, bar.tested_on),
            chance=read_published_chance(bar.figure, bar.tested_on),
        )
        for bar in read_published_bars()
        if bar.file in checked
    ]
    if not cells:
        return pd.DataFrame(columns=list(ACCURACY.columns))
    return ACCURACY.check(pd.concat(cells, ignore_index=True))


def check_results(file: str, content: Any) -> Results:
    """`content` of the published file `file`, as plain floats; refused by name if a key, length or value is wrong."""
    keys = [bar.key for bar in read_published_bars() if bar.file == file]
    check_keys(file, content, keys, of="lists")
    return {key: _checked_list(f"{file}, key {key!r}", content[key]) for key in keys}


def check_keys(where: str, content: Any, keys: Collection[str], *, of: str) -> None:
    """Raise `StudyError` unless `content` is a dict with these keys and no other; `of` names its values."""
    if not isinstance(content, dict):
        raise StudyError(f"{where}: expected a dict of {of}, got {type(content).__name__}.")
    for key in keys:
        if key not in content:
            raise StudyError(f"{where}: lacks key {key!r}; it has {sorted(map(str, content))}.")
    for key in content:
        if key not in keys:
            raise StudyError(f"{where}: unknown key {key!r}; {suggest_spelling(str(key), keys)}")


def _checked_list(where: str, values: Any) -> list[float]:
    if not isinstance(values, list):
        raise StudyError(f"{where}: expected a list of {RESAMPLES} numbers, got {type(values).__name__}.")
    if len(values) != RESAMPLES:
        raise StudyError(f"{where}: expected {RESAMPLES} numbers, got {len(values)}.")
    for position, value in enumerate(values):
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:  # NaN is not within any bounds
            shown = value.item() if isinstance(value, np.generic) else value
            raise StudyError(f"{where}, position {position}: got {shown!r}, allowed: a number in [0, 1].")
    return [float(value) for value in values]


def read_results(directory: Path) -> dict[str, Results]:
    """The published accuracy files that `directory` holds, read safely and checked; absent ones are left out."""
    return read_checked(directory, dict.fromkeys(bar.file for bar in read_published_bars()), check_results)


def read_checked(directory: Path, files: Iterable[str], check: Callable[[str, Any], Content]) -> dict[str, Content]:
    """Those of `files` that `directory` holds, read safely; `check` gets name and content, and may refuse it."""
    found = {}
    for name in files:
        if not (directory / name).is_file():
            continue
        content = read_pickle(directory / name)
        try:
            found[name] = check(name, content)
        except StudyError as error:
            raise StudyError(f"{directory}: {error}") from None
    return found
