"""Is a number larger than another, and how sure is that? What the parts of all claims share.

A cell is the rows of a table about one network and task: per seed a number from all data (`resample` -1) and numbers
from bootstrap resamples of the data, the same ones for all networks, because all networks see the same faces.

The interval that judges is that of `checks.crossed`: t, with the variance between seeds and the one that seeds share
because they see the same faces. It was chosen by its simulated coverage, before any claim was judged by it
(``docs/intervals.md``). Two others stand beside it: percentiles of a hierarchical bootstrap, which draws seeds with
replacement, then one resample, shared by both sides and by all drawn seeds; and t over seeds alone, as if the faces
were the only ones there are. One seed says nothing about the variance between seeds: its interval is that of the
bootstrap, and covers the faces only.

Every part has one of four verdicts: *reproduced* or *refuted* if its interval lies on one side of the bound,
*undecided* if the interval includes the bound, and *not testable on this data*, with what would make it so.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.checks.crossed import bound_mean, bound_over_seeds, simulate_coverage, split_variance
from facespec.checks.verdicts import NOT_TESTABLE, REFUTED, REPRODUCED, UNDECIDED
from facespec.study.errors import StudyError
from facespec.study.tables import ALL_IMAGES, VERDICTS
from facespec.study.vocabulary import Network

NUMBERS = tuple(name for name, column in VERDICTS.columns.items() if column.kind == "number")
SAME_TABLE = "tables that one run has made for all networks"


@dataclass(frozen=True)
class Side:
    """One side of a difference: a network or ``untrained``, and one of its tasks or ``both``."""

    trained_on: Network | str
    tested_on: str

    def __str__(self) -> str:
        tasks = "both tasks" if self.tested_on == "both" else self.tested_on
        name = f"{self.trained_on} network" if isinstance(self.trained_on, Network) else f"{self.trained_on} trunk"
        return f"{name} on {tasks}"


@dataclass(frozen=True)
class Rule:
    """When a part counts as reproduced: `level` of the interval, bootstrap `draws`, `margin` of "not worse"."""

    level: float
    draws: int
    margin: float = 0.0


@dataclass(frozen=True)
class Interval:
    """Bounds of the interval that judges and of those beside it, as the columns of VERDICTS name them; NaN: none.

    `coverage` is the simulated one of the interval that judges, for the seeds and the variances of this study.
    """

    low: float
    high: float
    coverage: float = np.nan
    bootstrap_low: float = np.nan
    bootstrap_high: float = np.nan
    seeds_low: float = np.nan
    seeds_high: float = np.nan

    def list_columns(self) -> dict[str, float]:
        """Column of the VERDICTS table -> number."""
        return asdict(self)


class NotTestable(Exception):
    """The reason why the data cannot decide a part of a claim; `numbers` of its verdict that are known all the same.

    `needs` is what would make the part testable, as it follows "testable with".
    """

    def __init__(self, reason: str, needs: str = "", **numbers: float) -> None:
        super().__init__(f"{reason}; testable with {needs}" if needs else reason)
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
        """`number`, the columns of its `Interval`, `verdict` and `reason`; raises `NotTestable` if there is none."""


@dataclass(frozen=True)
class DifferencePart(ClaimPart):
    """A part about a difference: `more` is claimed to be larger than `less`, and `words` say so."""

    figure: str
    more: Side
    less: Side
    words: str

    @property
    def sides(self) -> tuple[Side, ...]:
        """Minuend and subtrahend, and what else a part needs."""
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
        row |= dict.fromkeys(NUMBERS, np.nan) | part.describe()
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
            raise NotTestable(f"the two sides were not tested on the same faces: {column} is {values}", SAME_TABLE)


def require_pairs(more: pd.DataFrame, less: pd.DataFrame, all_data: str) -> None:
    """Raise `NotTestable` unless two tables of `pivot_values` can be subtracted; resample -1 is about `all_data`."""
    if not more.index.equals(less.index):
        raise NotTestable(
            f"seeds differ: {join_values(more.index)} on one side, {join_values(less.index)} on the other", SAME_TABLE
        )
    if not more.columns.equals(less.columns) or more.isna().any(axis=None) or less.isna().any(axis=None):
        raise NotTestable(
            "resamples differ between the two sides or between seeds, so that they are no pairs", SAME_TABLE
        )
    if more.columns[0] != ALL_IMAGES or len(more.columns) < 2:
        raise NotTestable(
            f"resample {ALL_IMAGES} ({all_data}) and at least one bootstrap resample are needed", SAME_TABLE
        )


def pair_values(cells: Sequence[pd.DataFrame], values: str, all_data: str) -> np.ndarray:
    """The numbers of all sides, (n_sides, n_seeds, 1 + n_resamples); see `require_pairs`."""
    tables = [pivot_values(cell, values) for cell in cells]
    for table in tables[1:]:
        require_pairs(tables[0], table, all_data)
    return np.stack([table.to_numpy() for table in tables])


def join_values(values: Iterable[Any]) -> str:
    """Distinct values, joined by "and"."""
    return " and ".join(str(value) for value in dict.fromkeys(values))


def describe_difference(rule: Rule, difference: str, bound: str, units: str, *, seeds: int) -> str:
    """The rule as a sentence: the interval of `difference` must lie above `bound`; a resample draws `units`."""
    return (
        f"reproduced if the {100 * rule.level:g} % interval of {difference}, lies above {bound}, refuted if it lies at "
        f"or below, else undecided; {describe_interval(rule, units, seeds=seeds)}"
    )


def describe_interval(rule: Rule, units: str, *, seeds: int) -> str:
    """Which interval it is, as the end of the rule's sentence. `seeds` is 0 if there is nothing to count."""
    bootstrap = f"percentiles of {rule.draws} bootstrap draws"
    if seeds == 1:
        caveat = f"one seed: the interval covers the {units} only, not the spread between networks"
        return f"interval: {bootstrap} of the {units} ({caveat})"
    seed_words = f"{seeds} seeds" if seeds else "seeds"
    return (
        f"interval: t with the variance between {seed_words} and that of the {units}, which all networks share; beside "
        f"it: {bootstrap} of seeds and {units}, and t over seeds alone"
    )


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


def estimate_intervals(values: np.ndarray, rule: Rule, *, generator: np.random.Generator) -> list[Interval]:
    """The interval of each quantity's mean over seeds.

    `values` is (k, n_seeds, 1 + n_resamples), first on all data, then on at least two resamples. The k quantities share
    the draws of the bootstrap.
    """
    bootstrapped = resample_hierarchically(values[:, :, 1:], draws=rule.draws, generator=generator)
    bounds = [find_bounds(means, rule) for means in bootstrapped]
    if values.shape[1] == 1:
        return [Interval(*bound, bootstrap_low=bound[0], bootstrap_high=bound[1]) for bound in bounds]
    (stream,) = generator.spawn(1)  # equal quantities have equal coverage
    return [
        _estimate_interval(quantity, bound, rule, copy.deepcopy(stream))
        for quantity, bound in zip(values, bounds, strict=True)
    ]


def _estimate_interval(
    values: np.ndarray, bootstrapped: tuple[float, float], rule: Rule, generator: np.random.Generator
) -> Interval:
    """The interval of one quantity, (n_seeds, 1 + n_resamples), with two seeds or more."""
    means, resampled = values[:, 0], values[:, 1:]
    parts = (float(part) for part in split_variance(means, resampled))
    coverage = simulate_coverage(*parts, seeds=len(means), level=rule.level, draws=rule.draws, generator=generator)
    low, high = map(float, bound_mean(means, resampled, level=rule.level))
    return Interval(low, high, coverage, *bootstrapped, *map(float, bound_over_seeds(means, level=rule.level)))


def judge_above(low: float, high: float, bound: float) -> dict[str, str]:
    """`verdict` and `reason` from the interval of a number that is claimed to be above `bound`."""
    if low > bound:
        return {"verdict": REPRODUCED, "reason": ""}
    if high > bound:
        return {"verdict": UNDECIDED, "reason": f"the interval includes {bound:g}"}
    return {"verdict": REFUTED, "reason": f"the interval lies at or below {bound:g}"}


def judge_negligible(low: float, high: float, margin: float) -> dict[str, str]:
    """`verdict` and `reason` from the interval of a number that is claimed to be at most `margin`."""
    if high <= margin:
        return {"verdict": REPRODUCED, "reason": ""}
    if low <= margin:
        return {"verdict": UNDECIDED, "reason": f"the interval includes {margin:g}"}
    return {"verdict": REFUTED, "reason": f"the interval lies above {margin:g}"}
