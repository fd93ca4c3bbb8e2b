"""Is a number larger than another, and how sure is that? What the parts of all claims share.

A cell is the rows of a table about one network and task: per seed a number from all data (`resample` -1) and numbers
from bootstrap resamples of the data. The interval of a difference comes from a hierarchical bootstrap: seeds are drawn
with replacement, then one resample, shared by both sides and by all drawn seeds. Shared, because all networks see the
same images: with a resample per seed, the sampling error of the images would average out over seeds, and the interval
would be too narrow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.checks.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED
from facespec.study.errors import StudyError
from facespec.study.tables import ALL_IMAGES, VERDICTS
from facespec.study.vocabulary import Network


@dataclass(frozen=True)
class Side:
    """One side of a difference: a network, and one of its tasks or ``both``."""

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


class NotTestable(Exception):
    """The reason why the data cannot decide a part of a claim; `numbers` of its verdict that are known all the same."""

    def __init__(self, reason: str, **numbers: float) -> None:
        super().__init__(reason)
        self.numbers = numbers


@dataclass(frozen=True)
class ClaimPart(ABC):
    """One part of a claim, which gets one row of the VERDICTS table."""

    claim: str
    part: str

    @abstractmethod
    def select(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        """The cells of the table that the part is about."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """`statement` and, if the study gives a number, `published`."""

    @abstractmethod
    def describe_rule(self, rule: Rule, seeds: int) -> str:
        """The rule as a sentence; `seeds` is 0 if there is nothing to count."""

    @abstractmethod
    def read_values(self, cells: list[pd.DataFrame]) -> Any:
        """The numbers in the cells; raises `NotTestable` if they cannot be compared."""

    @abstractmethod
    def judge(self, values: Any, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
        """`number`, `low`, `high`, `verdict` and `reason`; raises `NotTestable` if there is no interval."""


@dataclass(frozen=True)
class DifferencePart(ClaimPart):
    """A part about a difference: `more` is claimed to be larger than `less`, and `words` say so."""

    figure: str
    more: Side
    less: Side
    words: str

    @property
    def sides(self) -> tuple[Side, Side]:
        """Minuend and subtrahend."""
        return self.more, self.less


def judge_parts(
    parts: Sequence[ClaimPart], table: pd.DataFrame, rule: Rule, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table, one row per part."""
    rows = []
    # a stream per part: a part that cannot be tested must not shift the draws of the next
    for part, stream in zip(parts, generator.spawn(len(parts)), strict=True):
        cells, seeds = part.select(table), 0
        row: dict[str, Any] = {"claim": part.claim, "part": part.part, "source": _find_source(cells, table)}
        row |= dict.fromkeys(("number", "low", "high", "published"), np.nan) | part.describe()
        try:
            values = part.read_values(cells)
            seeds = pd.concat(cells)["seed"].nunique()
            row |= part.judge(values, rule, stream)
        except NotTestable as error:
            row |= error.numbers | {"verdict": NOT_TESTABLE, "reason": str(error)}
        rows.append(row | {"rule": part.describe_rule(rule, seeds)})
    return VERDICTS.check(pd.DataFrame(rows))


def refuse_doubled(table: pd.DataFrame, name: str, cell: list[str], *, number: str) -> None:
    """Raise `StudyError` if two rows of the table called `name` agree in all columns of `cell`."""
    doubled = table[table.duplicated(cell)]
    if len(doubled):
        first = doubled.iloc[0]
        label = ", ".join(f"{column} {first[column]}" for column in cell if first[column] != "")
        raise StudyError(f"table {name!r} has two rows for {label}; one {number} is allowed. Make the tables again.")


def select_cells(table: pd.DataFrame, values: dict[str, str]) -> pd.DataFrame:
    """The rows in which every column of `values` has the value given there."""
    return table[pd.concat([table[name].eq(value) for name, value in values.items()], axis=1).all(axis=1)]


def _find_source(cells: Sequence[pd.DataFrame], table: pd.DataFrame) -> str:
    """The data that the cells are about; if all are empty, those of the table."""
    sources = pd.concat(cells)["source"] if any(map(len, cells)) else table["source"]
    return ", ".join(sources.drop_duplicates()) or "no faces"


def pivot_values(cell: pd.DataFrame, values: str) -> pd.DataFrame:
    """One row per seed, one column per resample, both ascending: the first column is about all data."""
    return cell.pivot(index="seed", columns="resample", values=values).sort_index().sort_index(axis=1)


def require_same_faces(cells: Sequence[pd.DataFrame], columns: Iterable[str]) -> None:
    """Raise `NotTestable` unless the cells agree in all `columns`, and so are about the same faces."""
    rows = pd.concat(cells)
    for column in columns:
        if rows[column].nunique() > 1:
            values = join_values(rows[column])
            raise NotTestable(f"the two sides were not tested on the same faces: {column} is {values}")


def require_pairs(more: pd.DataFrame, less: pd.DataFrame, all_data: str) -> None:
    """Raise `NotTestable` unless two tables of `pivot_values` can be subtracted; resample -1 is about `all_data`."""
    if not more.index.equals(less.index):
        raise NotTestable(
            f"seeds differ: {join_values(more.index)} on one side, {join_values(less.index)} on the other"
        )
    if not more.columns.equals(less.columns) or more.isna().any(axis=None) or less.isna().any(axis=None):
        raise NotTestable("resamples differ between the two sides or between seeds, so that they are no pairs")
    if more.columns[0] != ALL_IMAGES or len(more.columns) < 2:
        raise NotTestable(f"resample {ALL_IMAGES} ({all_data}) and at least one bootstrap resample are needed")


def pair_values(cells: Sequence[pd.DataFrame], values: str, all_data: str) -> np.ndarray:
    """The numbers of both sides, (2, n_seeds, 1 + n_resamples); see `require_pairs`."""
    more, less = (pivot_values(cell, values) for cell in cells)
    require_pairs(more, less, all_data)
    return np.stack([more.to_numpy(), less.to_numpy()])


def join_values(values: Iterable[Any]) -> str:
    """Distinct values, joined by "and"."""
    return " and ".join(str(value) for value in dict.fromkeys(values))


def describe_difference(rule: Rule, difference: str, bound: str, units: str, *, seeds: int) -> str:
    """The rule as a sentence: the lower bound of `difference` must be above `bound`; a resample draws `units`."""
    seed_words, caveat = describe_seeds(seeds, units)
    return (
        f"reproduced if the lower bound of the {100 * rule.level:g} % interval of {difference}, is above {bound}; "
        f"interval: percentiles of {rule.draws} bootstrap draws of {seed_words}, and of one resample of the {units} "
        f"shared by both sides{caveat}"
    )


def describe_seeds(seeds: int, units: str) -> tuple[str, str]:
    """How many seeds are drawn; and a caveat if it is one. `seeds` is 0 if there is nothing to count."""
    caveat = f" (one seed: the interval covers the {units} only, not the spread between networks)"
    return (f"{seeds} seeds" if seeds > 1 else "seeds"), (caveat if seeds == 1 else "")


def is_constant(values: np.ndarray) -> bool:
    """Whether the resamples of `values`, (k, n_seeds, 1 + n_resamples), are equal within every seed."""
    return bool((values[:, :, 1:] == values[:, :, 1:2]).all())


def resample_hierarchically(values: np.ndarray, *, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Bootstrapped means over seeds of `values` (k, n_seeds, n_resamples): float64 (k, draws).

    A draw takes as many seeds as there are, with replacement, and one resample for all of them and all k quantities.
    """
    _, n_seeds, n_resamples = values.shape
    seeds = generator.integers(n_seeds, size=(draws, n_seeds))
    resamples = generator.integers(n_resamples, size=(draws, 1))
    return values[:, seeds, resamples].mean(axis=-1)


def find_bounds(means: np.ndarray, rule: Rule) -> tuple[float, float]:
    """Bounds of the percentile interval of bootstrapped `means` (draws,)."""
    low, high = np.percentile(means, [50 * (1 - rule.level), 50 * (1 + rule.level)]).tolist()
    return low, high


def estimate_bounds(values: np.ndarray, rule: Rule, *, generator: np.random.Generator) -> list[tuple[float, float]]:
    """Bounds of the interval of each quantity's mean over seeds; `values` as in `resample_hierarchically`."""
    return [find_bounds(row, rule) for row in resample_hierarchically(values, draws=rule.draws, generator=generator)]


def judge_above(low: float, high: float, bound: float) -> dict[str, str]:
    """`verdict` and `reason` from the interval of a difference that is claimed to be above `bound`."""
    if low > bound:
        return {"verdict": REPRODUCED, "reason": ""}
    undecided = f"undecided: the interval includes {bound:g}"
    return {
        "verdict": NOT_REPRODUCED,
        "reason": undecided if high > bound else f"the interval lies at or below {bound:g}",
    }


def judge_negligible(low: float, high: float, margin: float) -> dict[str, str]:
    """`verdict` and `reason` from the interval of a number that is claimed to be at most `margin`."""
    if high <= margin:
        return {"verdict": REPRODUCED, "reason": ""}
    undecided = f"undecided: the interval includes {margin:g}"
    return {
        "verdict": NOT_REPRODUCED,
        "reason": undecided if low <= margin else f"the interval lies above {margin:g}",
    }
