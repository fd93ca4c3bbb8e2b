"""Claim C7 about depth: do units specific to one task appear only in the deeper layers of the joint network?

Two parts per task, from the shares of units that are specific to it (`analyses.depth`). *deeper*: the share is larger
in the deepest convolution than in the first; *reproduced* if the interval of the difference lies above 0. *first*: it
is negligible in the first convolution; *reproduced* if the upper bound of its interval is at most the margin. Layers of
equal depth, as in networks with branches, are counted together.

Intervals are percentiles of bootstrap draws: seeds with replacement, then the units of each layer within each seed,
whose specific ones are binomial. Four things to know about them:
- With three seeds they are rather narrow, because percentiles of few networks are.
- Where no unit of a layer is specific, or every one is, resampling units changes nothing and the interval would have no
  width. In the part *first* it is therefore at least as wide as the exact one of the units of all seeds together
  (Clopper & Pearson 1934, Biometrika 26:404-413), which for 0 of 48 units reaches up to 7 %.
- The networks were fine-tuned on most of the images that the units answered to.
- Pictures of two people differ in brightness and contour, so that units of an early layer tell people apart before any
  training (the untrained trunk in the same table): that identity fails this claim may say more about faces than about
  networks.

A part is *not testable on this data* if seeds or layers are missing, the networks have one convolution only, or no unit
of a layer answers. Rule [O]: the study shows preferred stimuli and says in words where units are specific [P]; there is
no published number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from facespec.checks.intervals import (
    Rule,
    explain_other_faces,
    find_source,
    is_decided,
    is_negligible,
    join_values,
    refuse_doubled,
    select_cells,
)
from facespec.checks.verdicts import NOT_TESTABLE
from facespec.study.tables import UNIT_SHARES, VERDICTS
from facespec.study.vocabulary import TASKS, Network, Task

CELL = ["trained_on", "seed", "layer", "kind", "name"]
CLAIM, DEEPER, FIRST = "C7", "deeper", "first"
SHARE = "the share of units specific to"


@dataclass(frozen=True)
class DepthClaimPart:
    """One half of what the claim says about units specific to `task`: `half` is ``deeper`` or ``first``."""

    task: Task
    half: str

    @property
    def statement(self) -> str:
        """What is claimed."""
        if self.half == DEEPER:
            said = "in the joint network's deepest convolution is larger than in its first"
        else:
            said = "in the joint network's first convolution is negligible"
        return f"{SHARE} {self.task} {said} (Figures 3 and S2; published: in words)"


PARTS = tuple(DepthClaimPart(task, half) for task in TASKS for half in (DEEPER, FIRST))


@dataclass(frozen=True, eq=False)
class UnitCounts:
    """How many `units` there are, and how many are `specific`: (seeds, 2) each, first and deepest convolution."""

    specific: np.ndarray
    units: np.ndarray

    def numbers(self, half: str, shares: np.ndarray) -> np.ndarray:
        """What a part is about, (...), from `shares` (..., seeds, 2)."""
        first, deepest = np.moveaxis(shares.mean(axis=-2), -1, 0)
        return deepest - first if half == DEEPER else first

    def drawn(self, draws: int, generator: np.random.Generator) -> np.ndarray:
        """Shares (draws, seeds, 2) in bootstrap draws of seeds, and of units within each of them."""
        n_seeds = len(self.units)
        seeds = generator.integers(n_seeds, size=(draws, n_seeds))
        units = self.units[seeds]
        return generator.binomial(units, (self.specific / self.units)[seeds]) / units


def judge_depth_claims(
    table: pd.DataFrame, *, level: float, margin: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claim C7, one row per part, from a UNIT_SHARES table.

    `number` is a mean over seeds, `low` and `high` bound its percentile interval at `level`; `margin` is the share of
    units that counts as negligible. Raises `StudyError` if a network, seed and layer has two rows for a task.
    """
    table = UNIT_SHARES.check(table)
    refuse_doubled(table, "unit_shares", CELL, number="share")
    rule = Rule(level, draws, margin)
    # a stream per part: one that cannot be tested must not shift the draws of the next
    streams = zip(PARTS, generator.spawn(len(PARTS)), strict=True)
    return VERDICTS.check(pd.DataFrame([_row(part, table, rule, stream) for part, stream in streams]))


def _row(part: DepthClaimPart, table: pd.DataFrame, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
    cell = select_cells(table, {"trained_on": Network.JOINT.value, "kind": "specific", "name": part.task.value})
    row: dict[str, Any] = {"claim": CLAIM, "part": f"{part.task} {part.half}", "statement": part.statement}
    row |= {"source": find_source([cell], table), **dict.fromkeys(("number", "low", "high", "published"), np.nan)}
    counts = _counts(part, cell)
    if isinstance(counts, str):
        return row | {"rule": _rule(part, rule), "verdict": NOT_TESTABLE, "reason": counts}
    number = float(counts.numbers(part.half, counts.specific / counts.units))
    drawn = counts.numbers(part.half, counts.drawn(rule.draws, generator))
    low, high = np.percentile(drawn, [50 * (1 - rule.level), 50 * (1 + rule.level)]).tolist()
    if part.half == FIRST:
        exact = binomtest(int(counts.specific[:, 0].sum()), int(counts.units[:, 0].sum())).proportion_ci(rule.level)
        low, high = min(low, float(exact.low)), max(high, float(exact.high))
    verdict = is_decided(low, high, 0.0) if part.half == DEEPER else is_negligible(low, high, rule.margin)
    return row | {"number": number, "low": low, "high": high, "rule": _rule(part, rule, len(counts.units))} | verdict


def _counts(part: DepthClaimPart, cell: pd.DataFrame) -> UnitCounts | str:
    """The counts that a part is about; or why it cannot be tested."""
    if cell.empty:
        return f"the table lacks {SHARE} {part.task} in the joint network"
    other = explain_other_faces([cell], ["source"])
    if other:
        return other
    counts, units = (
        cell.pivot_table(index="seed", columns="depth", values=values, aggfunc="sum") for values in ("count", "units")
    )
    if len(counts.columns) < 2:
        return "the networks have one convolution only"
    ends = [counts.columns.min(), counts.columns.max()]
    for depth in ends:
        if missing := list(counts.index[counts[depth].isna()]):
            return f"convolution {depth} of seed {join_values(missing)} is missing"
        if silent := list(units.index[units[depth] == 0]):
            return f"no unit of convolution {depth} of seed {join_values(silent)} answers to anything"
    return UnitCounts(*(of[ends].to_numpy(dtype=np.int64) for of in (counts, units)))


def _rule(part: DepthClaimPart, rule: Rule, seeds: int = 0) -> str:
    """The rule as a sentence; `seeds` is 0 where there are no seeds to count."""
    interval = f"bound of the {100 * rule.level:g} % interval of {SHARE} {part.task}"
    exact = ""
    if part.half == DEEPER:
        met = f"lower {interval}, deepest minus first convolution, is above 0"
    else:
        met = f"upper {interval} in the first convolution is at most {rule.margin:g}"
        exact = ", or, if wider, the exact interval of the units of all seeds"
    drawn = f"{seeds} seeds" if seeds > 1 else "seeds"
    only = " (one seed: the interval covers the units only, not the spread between networks)" if seeds == 1 else ""
    return (
        f"reproduced if the {met}; interval: percentiles of {rule.draws} bootstrap draws of {drawn}, and of the units "
        f"within each{exact}{only}"
    )
