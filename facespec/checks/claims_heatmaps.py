"""Is the joint network more focal? Claim C5 about heatmaps; C6 is in `claims_overlap`.

C5: the median pixel of the joint network's mean heatmap is lower than that of the single-task network's, for both
tasks. Every part is a difference with a direction, within a seed; its interval is that of `checks.intervals`, with
people as the faces that seeds share. A part is *reproduced* if the interval lies above 0, *refuted* if it lies at or
below 0, *undecided* if it includes 0.

A part is *not testable on this data* if
- one of its two cells is missing, or they are no pairs: other faces, seeds or resamples on the two sides;
- a number is NaN: all heatmaps that would go into it are blank;
- no number varies over resamples, as with one person only: the bootstrap then treats the people as infinitely many.

Rules [O]; published numbers: ``published/reference_heatmaps.csv``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.checks.intervals import (
    DifferencePart,
    NotTestable,
    Rule,
    Side,
    describe_difference,
    estimate_intervals,
    is_constant,
    judge_above,
    judge_parts,
    pair_values,
    refuse_doubled,
    require_same_faces,
    select_cells,
)
from facespec.published.reference import read_reference_heatmaps
from facespec.study.tables import OVERLAP
from facespec.study.vocabulary import TASKS, Network

CELL = ["figure", "quantity", "trained_on", "tested_on", "rule", "seed", "resample"]
MEDIAN = "the median pixel"


@dataclass(frozen=True)
class HeatmapClaimPart(DifferencePart):
    """A difference of a `quantity` of heatmaps in one figure; masks are by `masks`, if any."""

    quantity: str
    masks: str = ""

    def select(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        common = {"figure": self.figure, "quantity": self.quantity, "rule": self.masks}
        return [
            select_cells(table, common | {"trained_on": side.trained_on, "tested_on": side.tested_on})
            for side in self.sides
        ]

    def describe(self) -> dict[str, Any]:
        numbers = read_reference_heatmaps(self.figure).set_index(["quantity", "trained_on", "tested_on"])["number"]
        more, less = (float(numbers[self.quantity, side.trained_on, side.tested_on]) for side in self.sides)
        compared = f"{less:.4f} against {more:.4f}"  # the lower one first, as in `words`
        return {"published": more - less, "statement": f"{self.words} (Figure {self.figure}; published: {compared})"}

    def describe_rule(self, rule: Rule, seeds: int) -> str:
        difference = f"{MEDIAN}, {self.more} minus {self.less}"
        return describe_difference(rule, difference, "0", "people", seeds=seeds)

    def read_values(self, cells: list[pd.DataFrame]) -> np.ndarray:
        for side, cell in zip(self.sides, cells, strict=True):
            if cell.empty:
                raise NotTestable(f"Figure {self.figure} lacks {MEDIAN} of the {side}", "a table that has it")
        require_same_faces(cells, ("source",))
        for side, cell in zip(self.sides, cells, strict=True):
            if undefined := int(cell["number"].isna().sum()):
                raise NotTestable(
                    f"{MEDIAN} of the {side} is not defined in {undefined} of {len(cell)} rows: no heatmap but blank "
                    "ones",
                    "networks whose heatmaps are not blank",
                )
        return pair_values(cells, "number", "all people")

    def judge(self, values: np.ndarray, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
        difference = values[0] - values[1]
        number = float(difference[:, 0].mean())
        if is_constant(values):
            reason = "no number varies over the resamples, on both sides: the people are too few, or too much alike"
            raise NotTestable(reason, "more people", number=number)
        (interval,) = estimate_intervals(difference[None], rule, generator=generator)
        return {"number": number, **interval.list_columns()} | judge_above(interval.low, interval.high, 0.0)


PARTS = tuple(
    HeatmapClaimPart(
        "C5",
        task.value,
        "2B",
        Side(Network(task.value), task.value),
        Side(Network.JOINT, task.value),
        f"the joint network's heatmap for {task.value} is more focal than the {task.value} network's: its median "
        "pixel is lower",
        "median",
    )
    for task in TASKS
)


def judge_heatmap_claims(
    table: pd.DataFrame, *, level: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claim C5, one row per part, from an OVERLAP table.

    `number` is the mean over seeds of the difference for all people, `low` and `high` bound its interval at `level`.
    Raises `StudyError` if a number, seed and resample has two rows.
    """
    table = OVERLAP.check(table)
    refuse_doubled(table, "overlap", CELL, number="number")
    return judge_parts(PARTS, table, Rule(level, draws), generator)
