"""Does training make units specific to a task, in the deeper layers only? Claim C7 about the joint network.

Two parts per task, from the shares of units that are specific to it (`analyses.depth`). Layers of equal depth, as in
networks with branches, are counted together. Only what training adds counts: pictures of two people differ in
brightness and contour, so that units of an early layer may distinguish people before any training, and that is no
specialisation. The untrained trunk, from which each network of a seed started, is in the same table.

*deeper*: the share grows more from the first to the deepest convolution than it does in the untrained trunk. The number
is (deepest - first, joint) - (deepest - first, untrained), within a seed; *reproduced* if its interval lies above 0,
*refuted* if it lies at or below 0. *not testable* if the untrained trunk leaves less than the margin to be gained in
the deepest convolution.

*first*: the share is negligible in the first convolution; *reproduced* if its interval lies at or below the margin,
*refuted* if it lies above. *not testable* if already in the untrained trunk the share is surely above the margin: such
units need no training. And where the interval includes the margin, the part is *undecided* only if more data of this
kind could have decided it: if the units of all seeds are so few that even none of them being specific would leave the
upper bound above the margin, it is *not testable*, and the reason says how many units are needed: with 95 % and a
margin of 5 %, 72. (Too few units can still refute: enough specific ones put the lower bound above the margin.)

Intervals: t over seeds, as no picture is shared between the units of two seeds but in the sense of the limits below; at
least as wide as the interval of the units of all seeds together, which is all there is with one seed. That is the exact
one for a share (Clopper & Pearson 1934), and that of Price & Bonett 2004 for differences; both have a width even if no
unit, or every one, is specific. Beside it: percentiles of bootstrap draws of seeds, then of units within each. Limits:
- Which units are called specific depends on the probe faces, the same for all networks: the intervals do not cover
  them.
- The networks were fine-tuned on most of the images to which the units' responses were recorded.

A part is also *not testable on this data* if seeds, layers or the untrained trunk are missing, the networks have one
convolution only, or no unit of a layer responds. Rule [O]: the study shows preferred stimuli and says in words where
units are specific [P]; there is no published number.

References
----------
Clopper & Pearson 1934, Biometrika 26:404-413. Price & Bonett 2004, Computational Statistics & Data Analysis 45:449-456.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from facespec.checks.crossed import bound_over_seeds, simulate_coverage
from facespec.checks.intervals import (
    SAME_TABLE,
    ClaimPart,
    Interval,
    NotTestable,
    Rule,
    find_bounds,
    join_values,
    judge_above,
    judge_negligible,
    judge_parts,
    refuse_doubled,
    require_same_faces,
    select_cells,
)
from facespec.checks.verdicts import UNDECIDED
from facespec.study.tables import UNIT_SHARES, UNTRAINED
from facespec.study.vocabulary import TASKS, Network, Task

CELL = ["trained_on", "seed", "layer", "kind", "name"]
TRAINED_ON = (Network.JOINT.value, UNTRAINED)
DEEPER, FIRST = "deeper", "first"
SHARE = "the share of units specific to"
SIGNS = np.array([[-1, 1], [1, -1]])  # of the shares in *deeper*: joint and untrained, first and deepest convolution


@dataclass(frozen=True, eq=False)
class UnitCounts:
    """How many `units` there are, and how many are `specific`: (2, seeds, 2) each.

    Joint network and untrained trunk; first and deepest convolution.
    """

    specific: np.ndarray
    units: np.ndarray

    def resample_shares(self, draws: int, generator: np.random.Generator) -> np.ndarray:
        """Shares (draws, 2, seeds, 2) in bootstrap draws of seeds, the same of both, and of units within each."""
        n_seeds = self.units.shape[1]
        seeds = generator.integers(n_seeds, size=(draws, n_seeds))
        units = np.moveaxis(self.units[:, seeds], 0, 1)
        rates = np.moveaxis((self.specific / self.units)[:, seeds], 0, 1)
        return generator.binomial(units, rates) / units


@dataclass(frozen=True)
class DepthClaimPart(ClaimPart):
    """One half of the claim about units specific to `task`: `half` is ``deeper`` or ``first``."""

    task: Task
    half: str

    def select(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        return [
            select_cells(table, {"trained_on": name, "kind": "specific", "name": self.task.value})
            for name in TRAINED_ON
        ]

    def describe(self) -> dict[str, Any]:
        if self.half == DEEPER:
            words = "grows more from the joint network's first convolution to its deepest than in the untrained trunk"
        else:
            words = "in the joint network's first convolution is negligible"
        return {"statement": f"{SHARE} {self.task} {words} (Figures 3 and S2; published: in words)"}

    def describe_rule(self, rule: Rule, seeds: int) -> str:
        interval = f"the {100 * rule.level:g} % interval of {SHARE} {self.task}"
        if self.half == DEEPER:
            condition = (
                f"{interval}, deepest minus first convolution, joint network minus untrained trunk, lies above 0, "
                "refuted if it lies at or below"
            )
            exact = "the interval of the units of all seeds (Price & Bonett 2004)"
        else:
            bound = f"lies at or below {rule.margin:g}, refuted if it lies above"
            condition = f"{interval} in the first convolution {bound}"
            exact = "the exact interval of the units of all seeds"
        if seeds == 1:
            how = f"{exact} (one seed: the interval covers the units only, not the spread between networks)"
        else:
            how = f"t over {f'{seeds} seeds' if seeds else 'seeds'}, or, if wider, {exact}"
        beside = f"percentiles of {rule.draws} bootstrap draws of seeds, and of the units within each"
        return f"reproduced if {condition}, else undecided; interval: {how}; beside it: {beside}"

    def read_values(self, cells: list[pd.DataFrame]) -> UnitCounts:
        for cell, name in zip(cells, ("joint network", "untrained trunk"), strict=True):
            if cell.empty:
                raise NotTestable(f"the table lacks {SHARE} {self.task} in the {name}", "a table that has it")
        require_same_faces(cells, ["source"])
        pairs = [_count_ends(cell) for cell in cells]
        (_, units), (_, others) = pairs
        if not units.index.equals(others.index):
            seeds = " on one side, ".join(join_values(table.index) for table in (units, others))
            raise NotTestable(f"seeds differ: {seeds} on the other", SAME_TABLE)
        if not units.columns.equals(others.columns):
            depths = " in the joint network, ".join(join_values(table.columns) for table in (units, others))
            raise NotTestable(f"first and deepest convolution are {depths} in the untrained trunk", SAME_TABLE)
        specific, number = (np.stack([pair[k].to_numpy(dtype=np.int64) for pair in pairs]) for k in (0, 1))
        return UnitCounts(specific, number)

    def judge(self, values: UnitCounts, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
        per_seed = self._compute_numbers(values.specific / values.units)
        bootstrapped = self._compute_numbers(values.resample_shares(rule.draws, generator)).mean(axis=-1)
        judge = self._judge_deeper if self.half == DEEPER else self._judge_first
        return judge(values, per_seed, find_bounds(bootstrapped, rule), rule, generator)

    def _compute_numbers(self, shares: np.ndarray) -> np.ndarray:
        """The number of the part in every seed, (..., seeds), from `shares` (..., 2, seeds, 2)."""
        if self.half == DEEPER:
            return np.einsum("nk,...nsk->...s", SIGNS, shares)
        return np.asarray(shares[..., 0, :, 0])

    def _judge_deeper(
        self,
        values: UnitCounts,
        per_seed: np.ndarray,
        bootstrapped: tuple[float, float],
        rule: Rule,
        generator: np.random.Generator,
    ) -> dict[str, Any]:
        specific, units = values.specific.sum(axis=1), values.units.sum(axis=1)
        seeds = len(per_seed)
        spread = float(per_seed.var(ddof=1)) / seeds if seeds > 1 else np.nan
        coverage = np.nan
        if seeds > 1:
            coverage = simulate_coverage(
                spread, 0.0, seeds=seeds, level=rule.level, draws=rule.draws, generator=generator
            )
        interval = _widen(bound_contrast(specific, units, level=rule.level), per_seed, bootstrapped, rule, coverage)
        numbers = {"number": float(per_seed.mean()), **interval.list_columns()}
        before = float(specific[1, 1] / units[1, 1])
        if before >= 1 - rule.margin:
            raise NotTestable(
                f"already {100 * before:.0f} % of the units of the untrained trunk's deepest convolution are specific "
                f"to {self.task}: nothing could be gained",
                f"faces with which these are less than {100 * (1 - rule.margin):g} %",
                **numbers,
            )
        return numbers | judge_above(interval.low, interval.high, 0.0)

    def _judge_first(
        self,
        values: UnitCounts,
        per_seed: np.ndarray,
        bootstrapped: tuple[float, float],
        rule: Rule,
        generator: np.random.Generator,
    ) -> dict[str, Any]:
        (specific, before), (units, _) = values.specific[:, :, 0], values.units[:, :, 0]
        pooled, total = int(specific.sum()), int(units.sum())
        coverage = simulate_share_coverage(specific, units, rule, generator) if len(units) > 1 else np.nan
        exact = bound_share(np.array(pooled), total, level=rule.level)
        interval = _widen((float(exact[0]), float(exact[1])), per_seed, bootstrapped, rule, coverage)
        numbers = {"number": float(per_seed.mean()), **interval.list_columns()}
        untrained, untrained_units = int(before.sum()), int(values.units[1, :, 0].sum())
        if bound_share(np.array(untrained), untrained_units, level=rule.level)[0] > rule.margin:
            raise NotTestable(
                f"already {100 * untrained / untrained_units:.0f} % of the units of the untrained trunk's first "
                f"convolution are specific to {self.task}: training has not made them",
                f"faces with which these are at most {100 * rule.margin:g} %",
                **numbers,
            )
        judged = judge_negligible(interval.low, interval.high, rule.margin)
        needed = count_needed_units(rule.margin, rule.level)
        if judged["verdict"] == UNDECIDED and total < needed:
            seeds = -(-needed * len(units) // total)
            raise NotTestable(
                f"{total} units are too few: even without a specific one among them the interval would include "
                f"{rule.margin:g}",
                f"{needed} units or more, such as {seeds} seeds of these networks",
                **numbers,
            )
        return numbers | judged


def _count_ends(cell: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Specific and all units by seed in the first and the deepest convolution of one network."""
    counts, units = (
        cell.pivot_table(index="seed", columns="depth", values=name, aggfunc="sum") for name in ("count", "units")
    )
    if len(counts.columns) < 2:
        raise NotTestable("the networks have one convolution only", "networks that have more")
    ends = [counts.columns.min(), counts.columns.max()]
    for depth in ends:
        if missing := list(counts.index[counts[depth].isna()]):
            raise NotTestable(f"convolution {depth} of seed {join_values(missing)} is missing", SAME_TABLE)
        if silent := list(units.index[units[depth] == 0]):
            reason = f"no unit of convolution {depth} of seed {join_values(silent)} answers to anything"
            raise NotTestable(reason, "networks that respond to the faces")
    return counts[ends], units[ends]


def _widen(
    bounds: tuple[float, float], per_seed: np.ndarray, bootstrapped: tuple[float, float], rule: Rule, coverage: float
) -> Interval:
    """The interval from `bounds` of the units of all seeds: t over seeds if that reaches further."""
    low, high = bounds
    over_seeds = (np.nan, np.nan)
    if len(per_seed) > 1:
        first, last = bound_over_seeds(per_seed, level=rule.level)
        over_seeds = float(first), float(last)
        low, high = min(low, over_seeds[0]), max(high, over_seeds[1])
    return Interval(low, high, coverage, *bootstrapped, *over_seeds)


def bound_share(specific: np.ndarray, units: int, *, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Exact bounds of the share of which `specific` (...) of `units` were found (Clopper & Pearson 1934)."""
    tail = (1 - level) / 2
    low = np.where(specific > 0, stats.beta.ppf(tail, np.maximum(specific, 1), units - specific + 1), 0.0)
    high = np.where(specific < units, stats.beta.ppf(1 - tail, specific + 1, np.maximum(units - specific, 1)), 1.0)
    return low, high


def bound_contrast(specific: np.ndarray, units: np.ndarray, *, level: float) -> tuple[float, float]:
    """Bounds of the sum of the four shares `specific` / `units`, (2, 2) each, with `SIGNS` (Price & Bonett 2004)."""
    share = (specific + 0.5) / (units + 1)
    centre = float((SIGNS * share).sum())
    half = float(stats.norm.ppf((1 + level) / 2) * np.sqrt((share * (1 - share) / (units + 1)).sum()))
    return centre - half, centre + half


def count_needed_units(margin: float, level: float) -> int:
    """The smallest number of units of which none is specific whose exact upper bound is at most `margin`.

    Examples
    --------
    >>> count_needed_units(0.05, 0.95)  # 1 - .025 ** (1 / 72) is .0499, with 71 it is .0506
    72
    """
    return int(np.ceil(np.log((1 - level) / 2) / np.log1p(-margin)))


def simulate_share_coverage(
    specific: np.ndarray, units: np.ndarray, rule: Rule, generator: np.random.Generator
) -> float:
    """The simulated coverage of the interval of a share, from counts (seeds,) of specific and of all units.

    Seeds have true shares that vary as these counts do beyond chance: beta numbers, or all the same.
    """
    mean, share = float(specific.sum() / units.sum()), specific / units
    chance = float(np.mean(mean * (1 - mean) / units))
    between = max(float(share.var(ddof=1)) - chance, 0.0)
    shape = (rule.draws, len(units))
    rates = np.full(shape, mean)
    if between > 0 and mean * (1 - mean) > between:
        concentration = mean * (1 - mean) / between - 1
        rates = generator.beta(mean * concentration, (1 - mean) * concentration, size=shape)
    counts = generator.binomial(units, rates)
    low, high = bound_share(counts.sum(axis=1), int(units.sum()), level=rule.level)
    first, last = bound_over_seeds(counts / units, level=rule.level)
    return float(((np.minimum(low, first) <= mean) & (mean <= np.maximum(high, last))).mean())


PARTS = tuple(DepthClaimPart("C7", f"{task} {half}", task, half) for task in TASKS for half in (DEEPER, FIRST))


def judge_depth_claims(
    table: pd.DataFrame, *, level: float, margin: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claim C7, one row per part, from a UNIT_SHARES table.

    `number` is a mean over seeds, `low` and `high` bound its interval at `level`; `margin` is the share of units that
    counts as negligible. Raises `StudyError` if a network, seed and layer has two rows for a task.
    """
    table = UNIT_SHARES.check(table)
    refuse_doubled(table, "unit_shares", CELL, number="share")
    return judge_parts(PARTS, table, Rule(level, draws, margin), generator)
