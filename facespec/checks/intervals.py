"""Two cells of a table, and how surely one is larger: what all claims share.

A cell is what a table says about one network and task: a number per seed for everything (`resample` -1) and for
bootstrap resamples of it. The interval of a difference comes from a hierarchical bootstrap: seeds are drawn with
replacement, then one resample, shared by both sides and by all seeds drawn. Shared, because all networks see the same
images: with a resample per seed the luck of the images would average out over seeds, and the interval would be too
narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.checks.verdicts import NOT_REPRODUCED, REPRODUCED
from facespec.study.errors import StudyError
from facespec.study.tables import ALL_IMAGES
from facespec.study.vocabulary import Network


@dataclass(frozen=True)
class Side:
    """What one number is about: which network, and which task of its own, or ``both``."""

    trained_on: Network
    tested_on: str

    def __str__(self) -> str:
        tasks = "both tasks" if self.tested_on == "both" else self.tested_on
        return f"{self.trained_on.value} network on {tasks}"


@dataclass(frozen=True)
class Rule:
    """When a part counts as reproduced: `level` of the interval, bootstrap `draws`, `margin` of "not worse"."""

    level: float
    draws: int
    margin: float = 0.0


def refuse_doubled(table: pd.DataFrame, name: str, cell: list[str], *, number: str) -> None:
    """Raise `StudyError` if two rows of the table called `name` agree in all columns of `cell`."""
    twice = table[table.duplicated(cell)]
    if len(twice):
        first = twice.iloc[0]
        where = ", ".join(f"{column} {first[column]}" for column in cell if first[column] != "")
        raise StudyError(f"table {name!r} has two rows for {where}; one {number} is allowed. Make the tables again.")


def select_cells(table: pd.DataFrame, wanted: dict[str, str]) -> pd.DataFrame:
    """The rows whose columns have the `wanted` values."""
    return table[pd.concat([table[name].eq(value) for name, value in wanted.items()], axis=1).all(axis=1)]


def find_source(cells: Sequence[pd.DataFrame], table: pd.DataFrame) -> str:
    """The data that the cells are about; where both are empty, those of the table."""
    named = pd.concat(cells)["source"] if any(map(len, cells)) else table["source"]
    return ", ".join(named.drop_duplicates()) or "no faces"


def pivot_values(cell: pd.DataFrame, values: str) -> pd.DataFrame:
    """One row per seed, one column per resample, both ascending: the first column is everything itself."""
    return cell.pivot(index="seed", columns="resample", values=values).sort_index().sort_index(axis=1)


def explain_other_faces(cells: Sequence[pd.DataFrame], columns: Iterable[str]) -> str:
    """Why two cells are not about the same faces; empty if they are."""
    both = pd.concat(cells)
    for column in columns:
        if both[column].nunique() > 1:
            return f"the two sides were not tested on the same faces: {column} is {join_values(both[column])}"
    return ""


def explain_no_pairs(more: pd.DataFrame, less: pd.DataFrame, everything: str) -> str:
    """Why two tables of `pivot_values` cannot be subtracted; empty if they can. `everything`: what resample -1 is about."""
    if not more.index.equals(less.index):
        return f"seeds differ: {join_values(more.index)} on one side, {join_values(less.index)} on the other"
    if not more.columns.equals(less.columns) or more.isna().any(axis=None) or less.isna().any(axis=None):
        return "resamples differ between the two sides or between seeds, so that they are no pairs"
    if more.columns[0] != ALL_IMAGES or len(more.columns) < 2:
        return f"resample {ALL_IMAGES} ({everything}) and at least one bootstrap resample are needed"
    return ""


def join_values(values: Iterable[Any]) -> str:
    """Distinct values, joined by "and"."""
    return " and ".join(str(value) for value in dict.fromkeys(values))


def describe_rule(rule: Rule, difference: str, bound: str, units: str, *, seeds: int) -> str:
    """The rule as a sentence: of which `difference` the lower bound must lie above `bound`, and what was resampled.

    `units` are what a resample draws; `seeds` is 0 where there are no seeds to count.
    """
    spread = f"{seeds} seeds, and" if seeds > 1 else "seeds, and"
    only = f" (one seed: the interval covers the {units} only, not the spread between networks)" if seeds == 1 else ""
    return (
        f"reproduced if the lower bound of the {100 * rule.level:g} % interval of {difference}, is above {bound}; "
        f"interval: percentiles of {rule.draws} bootstrap draws of {spread} of one resample of the {units} shared by "
        f"both sides{only}"
    )


def is_constant(values: np.ndarray) -> bool:
    """Whether the resamples of `values`, (k, n_seeds, 1 + n_resamples), are all alike, seed by seed."""
    return bool((values[:, :, 1:] == values[:, :, 1:2]).all())


def resample_hierarchically(values: np.ndarray, *, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Means over seeds, bootstrapped: `values` is ``(k, n_seeds, n_resamples)``, returns ``(k, draws)``.

    A draw takes as many seeds as there are, with replacement, and one resample for all of them and all k quantities.
    """
    _, n_seeds, n_resamples = values.shape
    seeds = generator.integers(n_seeds, size=(draws, n_seeds))
    resamples = generator.integers(n_resamples, size=(draws, 1))
    return values[:, seeds, resamples].mean(axis=-1)


def estimate_bounds(values: np.ndarray, rule: Rule, *, generator: np.random.Generator) -> list[tuple[float, float]]:
    """Bounds of the percentile interval of each quantity's mean over seeds; `values` as in `resample_hierarchically`."""
    tails = [50 * (1 - rule.level), 50 * (1 + rule.level)]
    drawn = resample_hierarchically(values, draws=rule.draws, generator=generator)
    return [(low, high) for low, high in (np.percentile(one, tails).tolist() for one in drawn)]


def is_decided(low: float, high: float, bound: float) -> dict[str, str]:
    """`verdict` and `reason` from an interval of a difference that should lie above `bound`."""
    if low > bound:
        return {"verdict": REPRODUCED, "reason": ""}
    reason = (
        f"undecided: the interval includes {bound:g}" if high > bound else f"the interval lies at or below {bound:g}"
    )
    return {"verdict": NOT_REPRODUCED, "reason": reason}


def is_negligible(low: float, high: float, margin: float) -> dict[str, str]:
    """`verdict` and `reason` from an interval of a number that should not exceed `margin`."""
    if high <= margin:
        return {"verdict": REPRODUCED, "reason": ""}
    reason = f"undecided: the interval includes {margin:g}" if low <= margin else f"the interval lies above {margin:g}"
    return {"verdict": NOT_REPRODUCED, "reason": reason}
