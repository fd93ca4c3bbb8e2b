"""Claims C1-C4 about accuracies: do the published differences hold on this study's faces?

Every part of a claim is a difference with a direction: the side said to be larger minus the other one, within a seed
and on the same test images. Its interval comes from a hierarchical bootstrap of seeds and test images
(`checks.intervals`). A part is *reproduced* if the lower bound lies above 0; above -margin where the claim is "not
worse".

A part is *not testable on this data* if
- one of its two cells is missing, or they are no pairs: other faces, seeds or resamples on the two sides;
- a task has one class only, so that guessing is always right;
- no accuracy varies over resamples, because every answer is right or every answer is wrong: the bootstrap then takes
  the images for infinitely many;
- the claim says "better", and the network to be surpassed makes no mistake on any seed: there is no room above it;
- the claim says "not worse", and the network to be matched is not itself above chance by more than the margin: a
  network that only guesses would pass. (A joint network that is surely better has passed all the same.)

Rules [O]; published numbers: means in ``published/reference_accuracy.csv``.
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
    join_values,
    pivot_values,
    refuse_doubled,
    select_cells,
)
from facespec.checks.verdicts import NOT_TESTABLE
from facespec.published.reference import read_published_chance, read_reference_accuracy
from facespec.study.tables import ACCURACY, VERDICTS
from facespec.study.vocabulary import TASKS, Network, Task

CELL = ["figure", "trained_on", "tested_on", "seed", "resample"]


@dataclass(frozen=True)
class ClaimPart:
    """One difference that a claim is about: `more` minus `less`, as accuracies or as information above chance."""

    claim: str
    part: str
    figure: str
    more: Side
    less: Side
    words: str
    information: bool = False  # (accuracy - chance) / (1 - chance): 0 is guessing, 1 is perfect
    not_worse: bool = False


@dataclass(frozen=True)
class AccuracyPair:
    """Accuracies of the two sides, ``(2, n_seeds, 1 + n_resamples)``: first on the test images, then on resamples."""

    accuracy: np.ndarray
    chance: tuple[float, float]

    def contrast(self, *, information: bool) -> np.ndarray:
        """`more` minus `less`, ``(n_seeds, 1 + n_resamples)``."""
        base = np.array(self.chance if information else (0.0, 0.0))[:, None, None]
        more, less = (self.accuracy - base) / (1 - base)
        return more - less


def _other(task: Task) -> Network:
    return Network.IDENTITY if task is Task.EXPRESSION else Network.EXPRESSION


PARTS = (
    *(
        ClaimPart(
            "C1",
            task.value,
            "1B",
            Side(Network(task.value), task),
            Side(_other(task), task),
            f"{task.value} is decoded better from the {task.value} network than from the {_other(task).value} network",
        )
        for task in TASKS
    ),
    ClaimPart(
        "C2",
        "information",
        "1B",
        Side(Network.EXPRESSION, Task.IDENTITY),
        Side(Network.IDENTITY, Task.EXPRESSION),
        "the expression network carries more information about identity, above chance, than the identity network "
        "about expression",
        information=True,
    ),
    *(
        ClaimPart(
            "C3",
            task.value,
            "1C",
            Side(Network.JOINT, task),
            Side(Network(task.value), task),
            f"the joint network is not worse at {task.value} than the {task.value} network",
            not_worse=True,
        )
        for task in TASKS
    ),
    *(
        ClaimPart(
            "C4",
            task.value,
            "S1B",
            Side(Network.JOINT, task),
            Side(Network(task.value), task),
            f"the joint network is better at {task.value} than the {task.value} network, on faces of its training role",
        )
        for task in TASKS
    ),
)


def judge_accuracy_claims(
    table: pd.DataFrame, *, level: float, margin: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claims C1-C4, one row per part, from an ACCURACY table that holds figures 1B, 1C, S1B.

    `number` is the mean over seeds of the difference on the test images themselves, `low` and `high` bound its
    percentile interval at `level`. Raises `StudyError` if a cell, seed and resample has two rows.
    """
    table = ACCURACY.check(table)
    refuse_doubled(table, "accuracy", CELL, number="accuracy")
    rule = Rule(level, draws, margin)
    # a stream per part: one that cannot be tested must not shift the draws of the next
    streams = zip(PARTS, generator.spawn(len(PARTS)), strict=True)
    return VERDICTS.check(pd.DataFrame([_row(part, table, rule, stream) for part, stream in streams]))


def _row(part: ClaimPart, table: pd.DataFrame, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
    cells = [
        select_cells(table, {"figure": part.figure, "trained_on": side.trained_on.value, "tested_on": side.tested_on})
        for side in (part.more, part.less)
    ]
    row = {"claim": part.claim, "part": part.part, "source": find_source(cells, table)}
    row |= dict.fromkeys(("number", "low", "high"), np.nan) | _published(part)
    reason = _no_pair(part, cells)
    if reason:
        return row | {"rule": _rule(part, rule), "verdict": NOT_TESTABLE, "reason": reason}
    accuracy = np.stack([pivot_values(cell, "accuracy").to_numpy() for cell in cells])
    more, less = (float(cell["chance"].iloc[0]) for cell in cells)
    pair = AccuracyPair(accuracy, (more, less))
    return row | {"rule": _rule(part, rule, seeds=accuracy.shape[1])} | _judgement(part, pair, rule, generator)


def _published(part: ClaimPart) -> dict[str, Any]:
    means = {
        (row["trained_on"], row["tested_on"]): row["mean"] for _, row in read_reference_accuracy(part.figure).iterrows()
    }
    sides = (part.more, part.less)
    accuracy = [float(means[side.trained_on.value, side.tested_on]) for side in sides]
    more, less = (read_published_chance(part.figure, side.tested_on) for side in sides)
    pair = AccuracyPair(np.array(accuracy)[:, None, None], (more, less))
    chances = [f" (chance {chance:.4f})" if part.information else "" for chance in pair.chance]
    compared = " against ".join(f"{mean:.4f}{chance}" for mean, chance in zip(accuracy, chances, strict=True))
    return {
        "published": float(pair.contrast(information=part.information).item()),
        "statement": f"{part.words} (Figure {part.figure}; published: {compared})",
    }


def _rule(part: ClaimPart, rule: Rule, *, seeds: int = 0) -> str:
    quantity = "(accuracy - chance) / (1 - chance)" if part.information else "accuracy"
    bound = f"-{rule.margin:g} (not worse by more than {rule.margin:g})" if part.not_worse else "0"
    return describe_rule(rule, f"{quantity}, {part.more} minus {part.less}", bound, "test images", seeds=seeds)


def _no_pair(part: ClaimPart, cells: list[pd.DataFrame]) -> str:
    """Why the two cells cannot be compared; empty if they can."""
    for side, cell in zip((part.more, part.less), cells, strict=True):
        if cell.empty:
            return f"Figure {part.figure} lacks the {side}"
    other = explain_other_faces(cells, ("role", "source", "n"))
    if other:
        return other
    for side, cell in zip((part.more, part.less), cells, strict=True):
        if cell["chance"].nunique() > 1 or cell["chance"].iloc[0] == 1:
            return f"chance is {join_values(cell['chance'])} for the {side}: one value below 1 is needed"
    more, less = (pivot_values(cell, "accuracy") for cell in cells)
    return explain_no_pairs(more, less, "the test images themselves")


def _judgement(part: ClaimPart, pair: AccuracyPair, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
    contrast = pair.contrast(information=part.information)
    number = float(contrast[:, 0].mean())
    if is_constant(pair.accuracy):
        reason = "no accuracy varies over the resamples: all answers right or all wrong, on both sides"
        return {"number": number, "verdict": NOT_TESTABLE, "reason": reason}
    above_chance = pair.accuracy[1] - pair.chance[1]
    values = np.stack([contrast, above_chance])[:, :, 1:]
    (low, high), (reach, _) = estimate_bounds(values, rule, generator=generator)
    found = {"number": number, "low": low, "high": high}
    if part.not_worse and reach <= rule.margin and low <= 0:
        reason = f"the {part.less} is not itself above chance by more than {rule.margin:g}: nothing could be lost"
        return found | {"verdict": NOT_TESTABLE, "reason": reason}
    if not part.not_worse and (pair.accuracy[1] == 1).all():
        reason = f"the {part.less} makes no mistake: nothing could be gained"
        return found | {"verdict": NOT_TESTABLE, "reason": reason}
    return found | is_decided(low, high, -rule.margin if part.not_worse else 0.0)
