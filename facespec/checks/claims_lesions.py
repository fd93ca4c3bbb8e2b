"""Claim C8 about lesions: do they dissociate doubly in the joint network's deepest convolution, and not in its first?

A lesion silences a fixed share of a convolution's units, those chosen for one task on training images
(`study.tables_lesions`). The difference of a task is what its lesion takes from the task itself minus what it takes
from the other task, as shares of the accuracy above chance. Two parts. *deepest*: in the deepest convolution lesions
dissociate the tasks doubly, as both differences are above 0; *reproduced* if the lower bounds of both intervals are.
*first*: in the first convolution they do not, as at least one of the two differences is negligible; *reproduced* if the
upper bound of its interval is at most the margin.

One difference above 0 is no dissociation: the more fragile of two tasks loses more to any lesion, to those of the
controls as well, and its difference is above 0, that of the other task below 0. Only both together tell that the tasks
need different units. As both must pass, neither needs a stricter level (intersection-union).

Intervals are percentiles of a hierarchical bootstrap (`checks.intervals`): seeds with replacement, then one resample
of the people, shared by those seeds and both tasks. Shown is the difference that decides: in *deepest* the one with the
lower lower bound, in *first* the one with the lower upper bound. Resamples in which a difference is not defined are
left out. Five things to know:
- With three seeds the intervals are rather narrow, because percentiles of few networks are.
- The networks were fine-tuned on other faces of the people that they are tested on.
- The verdict is about one share of silenced units; the table holds others.
- *first* has two chances: where both differences truly lie at the margin, it is reproduced in up to 5 % of studies,
  not in 2.5 % (level 95 %). The interval of the smaller of both, draw by draw, would allow 12 %.
- A lesion that harms neither task, or leaves nothing of both, dissociates nothing: where *first* holds, see how much
  each lesion took.

A part is *not testable on this data* if
- the lesions of this share, seeds or layers are missing, or the networks have one convolution only;
- the layer exists once per task, in branches: a lesion there cannot harm the other task;
- a difference is not defined for all people, or in more than 5 % of their resamples;
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
    Rule,
    estimate_bounds,
    explain_no_pairs,
    explain_other_faces,
    find_source,
    is_constant,
    is_decided,
    is_negligible,
    join_values,
    pivot_values,
    refuse_doubled,
    select_cells,
)
from facespec.checks.verdicts import NOT_TESTABLE
from facespec.study.tables import ALL_IMAGES, VERDICTS
from facespec.study.tables_lesions import DISSOCIATION
from facespec.study.vocabulary import TASKS, Network

CELL = ["trained_on", "seed", "layer", "fraction", "quantity", "resample"]
CLAIM, DEEPEST, FIRST = "C8", "deepest", "first"
UNDEFINED = 0.05  # share of resamples that may lack a number


@dataclass(frozen=True)
class LesionClaimPart:
    """What the claim says about the differences at one `end` of the network: ``deepest`` or ``first``."""

    end: str
    fraction: float

    @property
    def units(self) -> str:
        """What is silenced."""
        return f"{100 * self.fraction:g} % of the units of the joint network's {self.end} convolution"

    @property
    def statement(self) -> str:
        """What is claimed."""
        if self.end == DEEPEST:
            said = f"silencing {self.units}, chosen for one task, harms this task more than the other, for both tasks"
        else:
            said = f"silencing {self.units} does not dissociate the tasks doubly"
        return f"{said} (after Dobs et al. 2022; published: nothing)"


def judge_lesion_claims(
    table: pd.DataFrame, *, level: float, margin: float, fraction: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claim C8, one row per part, from a DISSOCIATION table.

    `number` is a difference of relative drops for all people, a mean over seeds; `low` and `high` bound its percentile
    interval at `level`. `fraction` is the share of silenced units; `margin` the share of the accuracy above chance that
    counts as negligible. Raises `StudyError` if a difference, seed and resample has two rows.
    """
    table = DISSOCIATION.check(table)
    refuse_doubled(table, "dissociation", CELL, number="number")
    rule = Rule(level, draws, margin)
    parts = [LesionClaimPart(end, fraction) for end in (DEEPEST, FIRST)]
    # a stream per part: one that cannot be tested must not shift the draws of the next
    streams = zip(parts, generator.spawn(len(parts)), strict=True)
    return VERDICTS.check(pd.DataFrame([_row(part, table, rule, stream) for part, stream in streams]))


def _row(part: LesionClaimPart, table: pd.DataFrame, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
    joint = select_cells(table, {"trained_on": Network.JOINT.value})
    row: dict[str, Any] = {"claim": CLAIM, "part": part.end, "statement": part.statement}
    row |= {"source": find_source([joint], table), **dict.fromkeys(("number", "low", "high", "published"), np.nan)}
    values = _values(part, joint)
    if isinstance(values, str):
        return row | {"rule": _rule(part, rule), "verdict": NOT_TESTABLE, "reason": values}
    row["rule"] = _rule(part, rule, values.shape[1])
    numbers, deepest = values[:, :, 0].mean(axis=1), part.end == DEEPEST
    still = [task.value for task, own in zip(TASKS, values, strict=True) if is_constant(own[None])]
    if len(still) >= (1 if deepest else len(TASKS)):
        reason = (
            f"the difference of {' and '.join(still)} does not vary over the resamples: the people are too few, or too "
            "much alike"
        )
        return row | {"number": float(numbers.min()), "verdict": NOT_TESTABLE, "reason": reason}
    bounds = estimate_bounds(values[:, :, 1:], rule, generator=generator)
    shown = min(range(len(bounds)), key=lambda task: bounds[task][0 if deepest else 1])
    low, high = bounds[shown]
    verdict = is_decided(low, high, 0.0) if deepest else is_negligible(low, high, rule.margin)
    return row | {"number": float(numbers[shown]), "low": low, "high": high} | verdict


def _values(part: LesionClaimPart, joint: pd.DataFrame) -> np.ndarray | str:
    """Differences, (tasks, seeds, 1 + resamples), those of all people first; or why a part cannot be tested."""
    if joint.empty:
        return "the table has no lesions of the joint network"
    other = explain_other_faces([joint], ["source"])
    if other:
        return other
    if joint["depth"].nunique() < 2:
        return "the networks have one convolution only"
    depth = joint["depth"].max() if part.end == DEEPEST else joint["depth"].min()
    layer = joint[joint["depth"] == depth]
    if layer["layer"].nunique() > 1:
        return (
            f"convolution {depth} exists once per task ({join_values(sorted(layer['layer']))}): a lesion in one branch "
            "cannot harm the other's task"
        )
    own = layer[np.isclose(layer["fraction"], part.fraction)]
    if own.empty:
        has = join_values(f"{100 * one:g} %" for one in sorted(layer["fraction"]))
        return f"the table has no lesions of {part.units}: only of {has}"
    cells = [select_cells(own, {"quantity": task.value}) for task in TASKS]
    for task, cell in zip(TASKS, cells, strict=True):
        if missing := sorted(set(joint["seed"]) - set(cell["seed"])):
            return f"the difference of {task} in convolution {depth} of seed {join_values(missing)} is missing"
    return _defined(cells)


def _defined(cells: list[pd.DataFrame]) -> np.ndarray | str:
    """The numbers of one cell per task, without resamples that lack one; or why there are too few."""
    present = [pivot_values(cell.fillna({"number": 0.0}), "number") for cell in cells]  # NaN: a row that is missing
    unpaired = explain_no_pairs(present[0], present[-1], "all people")
    if unpaired:
        return unpaired
    for task, cell in zip(TASKS, cells, strict=True):
        lost = cell[cell["number"].isna() & (cell["resample"] == ALL_IMAGES)].sort_values("seed")
        if len(lost):
            why = join_values(lost["reason"].fillna("")) or "no reason given"
            return f"the difference of {task} is not defined for seed {join_values(lost['seed'])}: {why}"
    values = np.stack([pivot_values(cell, "number").to_numpy(dtype=np.float64) for cell in cells])
    undefined = np.isnan(values).any(axis=(0, 1))
    if undefined[1:].mean() > UNDEFINED:
        return (
            f"the difference of {' or '.join(TASKS)} is not defined in {undefined.sum()} of "
            f"{len(undefined) - 1} resamples: more than {100 * UNDEFINED:g} %"
        )
    return values[:, :, ~undefined]


def _rule(part: LesionClaimPart, rule: Rule, seeds: int = 0) -> str:
    """The rule as a sentence; `seeds` is 0 where there are no seeds to count."""
    if part.end == DEEPEST:
        bound, which, limit = "lower", "each", "above 0"
    else:
        bound, which, limit = "upper", "one", f"at most {rule.margin:g}"
    met = (
        f"{bound} bound of the {100 * rule.level:g} % interval of {which} of the two differences, of what the lesion "
        "for a task takes from this task and from the other, as shares of the accuracy above chance, with "
        f"{part.units} silenced, is {limit}; shown is the one whose {bound} bound is lower"
    )
    drawn = f"{seeds} seeds" if seeds > 1 else "seeds"
    only = " (one seed: the interval covers the people only, not the spread between networks)" if seeds == 1 else ""
    return (
        f"reproduced if the {met}; interval: percentiles of {rule.draws} bootstrap draws of {drawn}, and of one "
        f"resample of the people shared by seeds and tasks{only}"
    )
