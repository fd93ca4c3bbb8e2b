"""Do the two tasks part ways with depth? Claim C9, after Schwartz et al. 2023, about the joint network.

The claim: the subspaces in which responses carry expression and identity become more orthogonal with depth. Two parts,
one per task: the share of its variance that lies inside the other task's subspace (`analyses.geometry`) falls more from
the first to the deepest convolution of the joint network than in the untrained trunk, which has as many units: with
more of them, any two subspaces overlap less. The number is (first - deepest, joint) - (first - deepest, untrained),
within a seed; *reproduced* if its interval (`checks.intervals`) lies above 0, *refuted* if it lies at or below 0.

A part is *not testable on this data* if seeds, layers or the untrained trunk are missing, the networks have one
convolution only, or a task's variance cannot be told from noise. Rule [O]: the source has no untrained control, other
networks and other measures; there is no published number. Layers of equal depth, as in networks with branches, are
averaged.

References
----------
Schwartz, O'Nell, Saxe & Anzellotti 2023, Brain Sciences 13:296.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.checks.intervals import (
    SAME_TABLE,
    ClaimPart,
    NotTestable,
    Rule,
    describe_difference,
    estimate_intervals,
    join_values,
    judge_above,
    judge_parts,
    pair_values,
    refuse_doubled,
    require_same_faces,
    select_cells,
)
from facespec.study.tables import UNTRAINED
from facespec.study.tables_geometry import GEOMETRY
from facespec.study.vocabulary import TASKS, Network, Task

CELL = ["trained_on", "seed", "layer", "of", "inside", "resample"]
TRAINED_ON = (Network.JOINT.value, UNTRAINED)


@dataclass(frozen=True)
class GeometryClaimPart(ClaimPart):
    """The claim about the variance of `task`."""

    task: Task

    @property
    def other(self) -> Task:
        """The task in whose subspace it is."""
        return next(task for task in TASKS if task is not self.task)

    def select(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        return [
            select_cells(table, {"trained_on": name, "of": self.task.value, "inside": self.other.value})
            for name in TRAINED_ON
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "statement": (
                f"the share of the variance of {self.task} inside the subspace of {self.other} falls more from the "
                "joint network's first convolution to its deepest than in the untrained trunk (after Schwartz et al. "
                "2023; published: nothing)"
            )
        }

    def describe_rule(self, rule: Rule, seeds: int) -> str:
        difference = (
            f"the share of the variance of {self.task} inside the subspace of {self.other}, first minus deepest "
            "convolution, joint network minus untrained trunk"
        )
        return describe_difference(rule, difference, "0", "people", seeds=seeds)

    def read_values(self, cells: list[pd.DataFrame]) -> np.ndarray:
        for cell, name in zip(cells, ("joint network", "untrained trunk"), strict=True):
            if cell.empty:
                raise NotTestable(f"the table lacks the geometry of the {name}", "a table that has it")
            if cell["number"].isna().any():
                raise NotTestable(
                    f"the variance of {self.task} cannot be told from noise in the {name}", "more people or sessions"
                )
        require_same_faces(cells, ["source"])
        depths = [sorted(set(cell["depth"])) for cell in cells]
        if depths[0] != depths[1]:
            words = [join_values(each) for each in depths]
            raise NotTestable(f"convolutions are {words[0]} on one side, {words[1]} on the other", SAME_TABLE)
        if len(depths[0]) < 2:
            raise NotTestable("the networks have one convolution only", "networks that have more")
        ends = [
            cell[cell["depth"] == depth].groupby(["seed", "resample"], as_index=False)["number"].mean()
            for cell in cells
            for depth in (depths[0][0], depths[0][-1])
        ]
        first, deepest, before_first, before_deepest = pair_values(ends, "number", "all people")
        return np.asarray((first - deepest) - (before_first - before_deepest))

    def judge(self, values: np.ndarray, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
        (interval,) = estimate_intervals(values[None], rule, generator=generator)
        numbers = {"number": float(values[:, 0].mean()), **interval.list_columns()}
        return numbers | judge_above(interval.low, interval.high, 0.0)


PARTS = tuple(GeometryClaimPart("C9", task.value, task) for task in TASKS)


def judge_geometry_claims(
    table: pd.DataFrame, *, level: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claim C9, one row per part, from a GEOMETRY table.

    `number` is a mean over seeds, `low` and `high` bound its interval at `level`. Raises `StudyError` if a number has
    two rows.
    """
    table = GEOMETRY.check(table)
    refuse_doubled(table, "depth_geometry", CELL, number="number")
    return judge_parts(PARTS, table, Rule(level, draws), generator)
