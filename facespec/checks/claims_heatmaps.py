"""Claims C5 and C6 about heatmaps: is the joint network more focal, and does it look at two places for two tasks?

C5: the median pixel of the joint network's mean heatmap is lower than that of the single-task network's, for both
tasks. C6: the joint network's masks for the two tasks overlap less than masks for one task do between two halves of the
people; all are compared between halves, so that all are equally noisy. The masks are each map's own strongest pixels
(rule ``top`` of `analyses.overlap`): with the published rule, one threshold for both maps, masks differ in size where
maps differ in level, and two maps of one place would seem to be of two. Every part is a difference with a direction,
within a seed; its interval comes from a hierarchical bootstrap of seeds and people (`checks.intervals`). A part is
*reproduced* if the lower bound lies above 0.

A part is *not testable on this data* if
- one of its two cells is missing, or they are no pairs: other faces, seeds or resamples on the two sides;
- a number is NaN: all heatmaps that would go into it are blank, or there are too few people to make halves;
- no number varies over resamples, as with one person only: the bootstrap then takes the people for infinitely many.

Rules [O]; published numbers: ``published/reference_heatmaps.csv``. For C6 the study gives the overlap of the two tasks'
masks, and nothing to compare it with [P].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.checks.intervals import (
    Rule,
    Side,
    describe_rule,
    estimate_bounds,
    explain_no_pairs,
    explain_other_faces,
    find_source,
    is_constant,
    is_decided,
    pivot_values,
    refuse_doubled,
    select_cells,
)
from facespec.checks.verdicts import NOT_TESTABLE
from facespec.published.reference import read_reference_heatmaps
from facespec.study.tables import OVERLAP, VERDICTS
from facespec.study.vocabulary import TASKS, Network

CELL = ["figure", "quantity", "trained_on", "tested_on", "rule", "seed", "resample"]
HALVES = "iou_halves"


@dataclass(frozen=True)
class HeatmapClaimPart:
    """One difference that a claim is about: `quantity` of `more` minus that of `less`; masks by `rule`, if any."""

    claim: str
    part: str
    figure: str
    quantity: str
    more: Side
    less: Side
    words: str
    rule: str = ""

    @property
    def called(self) -> str:
        """The quantity in words."""
        return "the IoU of masks between two halves of the people" if self.quantity == HALVES else "the median pixel"

    def cell(self, side: Side) -> dict[str, str]:
        """What the columns of an OVERLAP table say where it is about `side`."""
        return {
            "figure": self.figure,
            "quantity": self.quantity,
            "trained_on": side.trained_on.value,
            "tested_on": side.tested_on,
            "rule": self.rule,
        }


PARTS = (
    *(
        HeatmapClaimPart(
            "C5",
            task.value,
            "2B",
            "median",
            Side(Network(task.value), task.value),
            Side(Network.JOINT, task.value),
            f"the joint network's heatmap for {task.value} is more focal than the {task.value} network's: its median "
            "pixel is lower",
        )
        for task in TASKS
    ),
    *(
        HeatmapClaimPart(
            "C6",
            task.value,
            "2C",
            HALVES,
            Side(Network.JOINT, task.value),
            Side(Network.JOINT, "both"),
            f"the joint network looks at different places for the two tasks: masks for {task.value} overlap more, "
            "between two halves of the people, than masks for the two tasks do",
            rule="top",
        )
        for task in TASKS
    ),
)


def judge_heatmap_claims(
    table: pd.DataFrame, *, level: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claims C5 and C6, one row per part, from an OVERLAP table.

    `number` is the mean over seeds of the difference for all people, `low` and `high` bound its percentile interval at
    `level`. Raises `StudyError` if a number, seed and resample has two rows.
    """
    table = OVERLAP.check(table)
    refuse_doubled(table, "overlap", CELL, number="number")
    # a stream per part: one that cannot be tested must not shift the draws of the next
    streams = zip(PARTS, generator.spawn(len(PARTS)), strict=True)
    return VERDICTS.check(pd.DataFrame([_row(part, table, Rule(level, draws), stream) for part, stream in streams]))


def _row(part: HeatmapClaimPart, table: pd.DataFrame, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
    cells = [select_cells(table, part.cell(side)) for side in (part.more, part.less)]
    row = {"claim": part.claim, "part": part.part, "source": find_source(cells, table)}
    row |= dict.fromkeys(("number", "low", "high"), np.nan) | _published(part)
    reason = _no_pair(part, cells)
    if reason:
        return row | {"rule": _rule(part, rule), "verdict": NOT_TESTABLE, "reason": reason}
    values = np.stack([pivot_values(cell, "number").to_numpy() for cell in cells])
    return row | {"rule": _rule(part, rule, seeds=values.shape[1])} | _judgement(values, rule, generator)


def _published(part: HeatmapClaimPart) -> dict[str, Any]:
    numbers = read_reference_heatmaps(part.figure).set_index(["quantity", "trained_on", "tested_on"])["number"]
    if part.quantity == HALVES:
        iou = numbers["iou", part.less.trained_on.value, part.less.tested_on]
        compared = f"{iou:.3f} for the two tasks, nothing for halves"
        return {"published": np.nan, "statement": f"{part.words} (Figure {part.figure}; published: {compared})"}
    more, less = (
        float(numbers[part.quantity, side.trained_on.value, side.tested_on]) for side in (part.more, part.less)
    )
    compared = f"{less:.4f} against {more:.4f}"  # as the words have it: the lower one first
    return {"published": more - less, "statement": f"{part.words} (Figure {part.figure}; published: {compared})"}


def _rule(part: HeatmapClaimPart, rule: Rule, *, seeds: int = 0) -> str:
    return describe_rule(rule, f"{part.called}, {part.more} minus {part.less}", "0", "people", seeds=seeds)


def _no_pair(part: HeatmapClaimPart, cells: list[pd.DataFrame]) -> str:
    """Why the two cells cannot be compared; empty if they can."""
    for side, cell in zip((part.more, part.less), cells, strict=True):
        if cell.empty:
            return f"Figure {part.figure} lacks {part.called} of the {side}"
    other = explain_other_faces(cells, ("source",))
    if other:
        return other
    for side, cell in zip((part.more, part.less), cells, strict=True):
        missing = int(cell["number"].isna().sum())
        if missing:
            few = "too few people, or " if part.quantity == HALVES else ""
            return (
                f"{part.called} of the {side} is not defined in {missing} of {len(cell)} rows: {few}no heatmap but "
                "blank ones"
            )
    more, less = (pivot_values(cell, "number") for cell in cells)
    return explain_no_pairs(more, less, "all people")


def _judgement(values: np.ndarray, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
    """What the numbers of the two sides, (2, n_seeds, 1 + n_resamples), say: first of all people, then of resamples."""
    contrast = values[0] - values[1]
    number = float(contrast[:, 0].mean())
    if is_constant(values):
        reason = "no number varies over the resamples, on both sides: the people are too few, or too much alike"
        return {"number": number, "verdict": NOT_TESTABLE, "reason": reason}
    ((low, high),) = estimate_bounds(contrast[None, :, 1:], rule, generator=generator)
    return {"number": number, "low": low, "high": high} | is_decided(low, high, 0.0)
