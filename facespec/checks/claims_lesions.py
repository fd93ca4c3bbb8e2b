"""Do lesions dissociate the tasks doubly in the joint network's deepest convolution, and not in its first? Claim C8.

The units of a convolution that a task needs most, ranked on training images, are set to zero one after the other, until
the task has lost a given share of its accuracy above chance on test images: the *damage* (`study.tables_lesions`). The
difference of a task is the damage minus what the other task has lost by then, as a share of its own accuracy above
chance. Two parts. *deepest*: in the deepest convolution lesions dissociate the tasks doubly, as both differences are
above 0; *reproduced* if the lower bounds of both intervals are. *first*: in the first convolution they do not, as at
least one of the two differences is negligible; *reproduced* if the upper bound of its interval is at most the margin.

The damage is matched, and not the share of units: a share that does next to nothing, or destroys both tasks, shows no
difference whatever the units do, so that a verdict about one share depends on how much that share destroys.

One difference above 0 is no dissociation: if both tasks need the same units, the more fragile one has lost more at
every point; its difference is above 0, that of the other task below 0. Only both together show that the tasks need
different units. As both must pass, neither needs a stricter level (intersection-union).

Intervals are those of `checks.intervals`, with people as the faces that seeds and tasks share. *deepest* is *refuted*
if one of the two intervals lies at or below 0; *first* if both lie above the margin; else a part is *undecided*. The
row gives the difference that decides: in *deepest* the one with the worse verdict, in *first* the one with the better;
of two with the same verdict, the one with the lower lower bound in *deepest*, with the lower upper bound in *first*.
Resamples in which a difference is not defined are left out. Limits:
- The networks were fine-tuned on other faces of the people that they are tested on.
- The verdict is about one damage; the table has others, and fixed shares of lesioned units.
- In every bootstrap draw, the damage is where the curve of the people drawn first reaches it. A noisy curve gets there
  a little early, so that differences are a little too large; those of the controls are, too.
- *first* has two chances: if both differences truly lie at the margin, it is reproduced in up to 5 % of studies, not in
  2.5 % (level 95 %). The interval of the smaller of both, draw by draw, would allow 12 %.

A part is *not testable on this data* if
- the differences at this damage, seeds or layers are missing, or the networks have one convolution only;
- the layer exists once per task, in branches: a lesion there cannot harm the other task;
- a task never loses as much as the damage, not even without the whole layer, or is not above chance: then a difference
  is not defined for all people, or in more than 5 % of their resamples;
- resamples or faces differ, so that numbers are no pairs;
- in *deepest* one difference, in *first* neither, varies over resamples.

Rule [O]; the claim comes from Dobs et al. 2022 [L]: the study has no lesions and no number to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.checks.intervals import (
    ClaimPart,
    NotTestable,
    Rule,
    describe_interval,
    estimate_intervals,
    is_constant,
    join_values,
    judge_above,
    judge_negligible,
    judge_parts,
    pivot_values,
    refuse_doubled,
    require_pairs,
    require_same_faces,
    select_cells,
)
from facespec.checks.verdicts import PRECEDENCE
from facespec.study.tables import ALL_IMAGES
from facespec.study.tables_lesions import DISSOCIATION
from facespec.study.vocabulary import TASKS, Network

AMOUNTS = ["fraction", "damage"]  # one of them is given, the other empty
CELL = ["trained_on", "seed", "layer", *AMOUNTS, "quantity", "resample"]
DEEPEST, FIRST = "deepest", "first"
UNDEFINED = 0.05  # share of resamples that may lack a number


@dataclass(frozen=True)
class LesionClaimPart(ClaimPart):
    """The claim about the differences at one end of the network, `part`: ``deepest`` or ``first`` convolution."""

    damage: float

    @property
    def _units(self) -> str:
        return f"units of the joint network's {self.part} convolution"

    @property
    def _loss(self) -> str:
        return f"{100 * self.damage:g} % of its accuracy above chance"

    def select(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        return [select_cells(table, {"trained_on": Network.JOINT.value})]

    def describe(self) -> dict[str, Any]:
        words = f"{self._units}, silenced until the task that needs them has lost {self._loss}, "
        if self.part == DEEPEST:
            words += "cost this task more than the other, for both tasks"
        else:
            words += "do not dissociate the tasks doubly"
        return {"statement": f"{words} (after Dobs et al. 2022; published: nothing)"}

    def describe_rule(self, rule: Rule, seeds: int) -> str:
        if self.part == DEEPEST:
            which, limit, refuted = "each", "lies above 0", "one lies at or below"
        else:
            which, limit, refuted = "one", f"lies at or below {rule.margin:g}", "both lie above"
        return (
            f"reproduced if the {100 * rule.level:g} % interval of {which} of the two differences, of what a task and "
            "the other one have lost, as shares of their accuracies above chance, when so many "
            f"{self._units} are silenced that the first, which needs them most, has lost {self._loss}, {limit}, "
            f"refuted if {refuted}, else "
            f"undecided; shown is the one that decides; {describe_interval(rule, 'people', seeds=seeds)}"
        )

    def read_values(self, cells: list[pd.DataFrame]) -> np.ndarray:
        """Differences, (tasks, seeds, 1 + resamples), those of all people first; see `_drop_undefined`."""
        (joint,) = cells
        if joint.empty:
            raise NotTestable("the table has no lesions of the joint network")
        require_same_faces(cells, ["source"])
        if joint["depth"].nunique() < 2:
            raise NotTestable("the networks have one convolution only")
        depth = joint["depth"].max() if self.part == DEEPEST else joint["depth"].min()
        layer = joint[joint["depth"] == depth]
        if layer["layer"].nunique() > 1:
            names = join_values(sorted(layer["layer"]))
            raise NotTestable(
                f"convolution {depth} exists once per task ({names}): a lesion in one branch cannot harm the other's "
                "task"
            )
        lesions = layer[np.isclose(layer["damage"], self.damage)]
        if lesions.empty:
            damages = (
                join_values(f"{100 * damage:g} %" for damage in sorted(layer["damage"].dropna())) or "fixed shares"
            )
            raise NotTestable(
                f"the table has no lesions of {self._units} that cost {100 * self.damage:g} %: only of {damages}"
            )
        tasks = [select_cells(lesions, {"quantity": task.value}) for task in TASKS]
        for task, cell in zip(TASKS, tasks, strict=True):
            if missing := sorted(set(joint["seed"]) - set(cell["seed"])):
                seeds = join_values(missing)
                raise NotTestable(f"the difference of {task} in convolution {depth} of seed {seeds} is missing")
        return _drop_undefined(tasks)

    def judge(self, values: np.ndarray, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
        numbers, is_deepest = values[:, :, 0].mean(axis=1), self.part == DEEPEST
        constant = [
            task.value for task, differences in zip(TASKS, values, strict=True) if is_constant(differences[None])
        ]
        if len(constant) >= (1 if is_deepest else len(TASKS)):
            raise NotTestable(
                f"the difference of {' and '.join(constant)} does not vary over the resamples: the people are too few, "
                "or too much alike",
                number=float(numbers.min()),
            )
        intervals = estimate_intervals(values, rule, generator=generator)
        judged = [
            judge_above(interval.low, interval.high, 0.0)
            if is_deepest
            else judge_negligible(interval.low, interval.high, rule.margin)
            for interval in intervals
        ]
        order = [PRECEDENCE.index(each["verdict"]) for each in judged]
        keys = [
            (rank, interval.low) if is_deepest else (-rank, interval.high)
            for rank, interval in zip(order, intervals, strict=True)
        ]
        decisive = keys.index(min(keys))
        return {"number": float(numbers[decisive]), **intervals[decisive].list_columns()} | judged[decisive]


def _drop_undefined(cells: list[pd.DataFrame]) -> np.ndarray:
    """The numbers of one cell per task, without the resamples that lack one; `NotTestable` if too many do."""
    # a NaN in the table is an undefined number; a NaN that the pivot adds is a missing row
    first, last = (pivot_values(cell.fillna({"number": 0.0}), "number") for cell in cells)
    require_pairs(first, last, "all people")
    for task, cell in zip(TASKS, cells, strict=True):
        undefined = cell[cell["number"].isna() & (cell["resample"] == ALL_IMAGES)].sort_values("seed")
        if len(undefined):
            reason = join_values(undefined["reason"].fillna("")) or "no reason given"
            seeds = join_values(undefined["seed"])
            raise NotTestable(f"the difference of {task} is not defined for seed {seeds}: {reason}")
    values = np.stack([pivot_values(cell, "number").to_numpy(dtype=np.float64) for cell in cells])
    is_undefined = np.isnan(values).any(axis=(0, 1))
    if is_undefined[1:].mean() > UNDEFINED:
        raise NotTestable(
            f"the difference of {' or '.join(TASKS)} is not defined in {is_undefined.sum()} of "
            f"{len(is_undefined) - 1} resamples: more than {100 * UNDEFINED:g} %"
        )
    return values[:, :, ~is_undefined]


def judge_lesion_claims(
    table: pd.DataFrame, *, level: float, margin: float, damage: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claim C8, one row per part, from a DISSOCIATION table.

    `number` is a difference of relative drops for all people, a mean over seeds; `low` and `high` bound its interval
    at `level`. `damage` is the share of its accuracy above chance that a task has lost when the other is compared;
    `margin` the share that counts as negligible. Raises `StudyError` if a difference, seed and resample has two rows.
    """
    table = DISSOCIATION.check(table)
    amounts = {name: table[name].astype(object).where(table[name].notna(), "") for name in AMOUNTS}
    refuse_doubled(table.assign(**amounts), "dissociation", CELL, number="number")
    parts = [LesionClaimPart("C8", end, damage) for end in (DEEPEST, FIRST)]
    return judge_parts(parts, table, Rule(level, draws, margin), generator)
