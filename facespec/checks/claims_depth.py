"""Are units specific to one task found only in the deeper layers of the joint network? Claim C7 about depth.

Two parts per task, from the shares of units that are specific to it (`analyses.depth`). *deeper*: the share is larger
in the deepest convolution than in the first; *reproduced* if the interval of the difference lies above 0. *first*: it
is negligible in the first convolution; *reproduced* if the upper bound of its interval is at most the margin. Layers of
equal depth, as in networks with branches, are counted together.

Intervals are percentiles of bootstrap draws: seeds with replacement, then the units of each layer within each seed,
whose number of specific ones is binomial. Limits:
- With three seeds they are rather narrow, because percentiles over few networks are.
- If no unit of a layer is specific, or every one is, resampling units changes nothing and the interval would have no
  width. In the part *first* it is therefore at least as wide as the exact one of the units of all seeds together
  (Clopper & Pearson 1934, Biometrika 26:404-413), which for 0 of 48 units reaches up to 7 %.
- The networks were fine-tuned on most of the images to which the units' responses were recorded.
- Pictures of two people differ in brightness and contour, so that units of an early layer distinguish people before any
  training (the untrained trunk in the same table): that identity fails this claim may say more about faces than about
  networks.

A part is *not testable on this data* if seeds or layers are missing, the networks have one convolution only, or no unit
of a layer responds. Rule [O]: the study shows preferred stimuli and says in words where units are specific [P]; there
is no published number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from facespec.checks.intervals import (
    ClaimPart,
    NotTestable,
    Rule,
    describe_seeds,
    find_bounds,
    join_values,
    judge_above,
    judge_negligible,
    judge_parts,
    refuse_doubled,
    require_same_faces,
    select_cells,
)
from facespec.study.tables import UNIT_SHARES
from facespec.study.vocabulary import TASKS, Network, Task

CELL = ["trained_on", "seed", "layer", "kind", "name"]
DEEPER, FIRST = "deeper", "first"
SHARE = "the share of units specific to"


@dataclass(frozen=True, eq=False)
class UnitCounts:
    """How many `units` there are, and how many are `specific`: (seeds, 2) each, first and deepest convolution."""

    specific: np.ndarray
    units: np.ndarray

    def resample_shares(self, draws: int, generator: np.random.Generator) -> np.ndarray:
        """Shares (draws, seeds, 2) in bootstrap draws of seeds, and of units within each of them."""
        n_seeds = len(self.units)
        seeds = generator.integers(n_seeds, size=(draws, n_seeds))
        units = self.units[seeds]
        return generator.binomial(units, (self.specific / self.units)[seeds]) / units


@dataclass(frozen=True)
class DepthClaimPart(ClaimPart):
    """One half of the claim about units specific to `task`: `half` is ``deeper`` or ``first``."""

    task: Task
    half: str

    def select(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        return [select_cells(table, {"trained_on": Network.JOINT.value, "kind": "specific", "name": self.task.value})]

    def describe(self) -> dict[str, Any]:
        if self.half == DEEPER:
            words = "in the joint network's deepest convolution is larger than in its first"
        else:
            words = "in the joint network's first convolution is negligible"
        return {"statement": f"{SHARE} {self.task} {words} (Figures 3 and S2; published: in words)"}

    def describe_rule(self, rule: Rule, seeds: int) -> str:
        interval = f"bound of the {100 * rule.level:g} % interval of {SHARE} {self.task}"
        if self.half == DEEPER:
            condition, exact = f"lower {interval}, deepest minus first convolution, is above 0", ""
        else:
            condition = f"upper {interval} in the first convolution is at most {rule.margin:g}"
            exact = ", or, if wider, the exact interval of the units of all seeds"
        seed_words, caveat = describe_seeds(seeds, "units")
        return (
            f"reproduced if the {condition}; interval: percentiles of {rule.draws} bootstrap draws of {seed_words}, "
            f"and of the units within each{exact}{caveat}"
        )

    def read_values(self, cells: list[pd.DataFrame]) -> UnitCounts:
        (cell,) = cells
        if cell.empty:
            raise NotTestable(f"the table lacks {SHARE} {self.task} in the joint network")
        require_same_faces(cells, ["source"])
        counts, units = (
            cell.pivot_table(index="seed", columns="depth", values=name, aggfunc="sum") for name in ("count", "units")
        )
        if len(counts.columns) < 2:
            raise NotTestable("the networks have one convolution only")
        ends = [counts.columns.min(), counts.columns.max()]
        for depth in ends:
            if missing := list(counts.index[counts[depth].isna()]):
                raise NotTestable(f"convolution {depth} of seed {join_values(missing)} is missing")
            if silent := list(units.index[units[depth] == 0]):
                raise NotTestable(f"no unit of convolution {depth} of seed {join_values(silent)} answers to anything")
        return UnitCounts(*(table[ends].to_numpy(dtype=np.int64) for table in (counts, units)))

    def judge(self, values: UnitCounts, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
        number = float(self._average(values.specific / values.units))
        low, high = find_bounds(self._average(values.resample_shares(rule.draws, generator)), rule)
        if self.half == DEEPER:
            return {"number": number, "low": low, "high": high} | judge_above(low, high, 0.0)
        exact = binomtest(int(values.specific[:, 0].sum()), int(values.units[:, 0].sum())).proportion_ci(rule.level)
        low, high = min(low, float(exact.low)), max(high, float(exact.high))
        return {"number": number, "low": low, "high": high} | judge_negligible(low, high, rule.margin)

    def _average(self, shares: np.ndarray) -> np.ndarray:
        """The number of the part, (...), from `shares` (..., seeds, 2)."""
        first, deepest = np.moveaxis(shares.mean(axis=-2), -1, 0)
        return deepest - first if self.half == DEEPER else first


PARTS = tuple(DepthClaimPart("C7", f"{task} {half}", task, half) for task in TASKS for half in (DEEPER, FIRST))


def judge_depth_claims(
    table: pd.DataFrame, *, level: float, margin: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claim C7, one row per part, from a UNIT_SHARES table.

    `number` is a mean over seeds, `low` and `high` bound its percentile interval at `level`; `margin` is the share of
    units that counts as negligible. Raises `StudyError` if a network, seed and layer has two rows for a task.
    """
    table = UNIT_SHARES.check(table)
    refuse_doubled(table, "unit_shares", CELL, number="share")
    return judge_parts(PARTS, table, Rule(level, draws, margin), generator)
