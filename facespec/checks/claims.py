"""Do the published differences of accuracies hold on this study's faces? Claims C1-C4.

Every part of a claim is a difference with a direction: the side claimed to be larger minus the other one, within a seed
and on the same test images. Its interval is that of `checks.intervals`. A part is *reproduced* if the interval lies
above 0, *refuted* if it lies at or below 0, *undecided* if it includes 0; above and below -margin where the claim is
"not worse".

C2 is judged twice. *information* is the claim as published: above-chance identity information of the expression network
against above-chance expression information of the identity network. But an untrained trunk already has some of both,
and more of the one than of the other: what it has is no achievement of training. *gain* therefore compares what
training adds: both accuracies minus those of the untrained trunk, all as (accuracy - chance) / (1 - chance).

A part is *not testable on this data* if
- one of its cells is missing, or they are no pairs: other faces, seeds or resamples on the two sides;
- a task has one class only, so that guessing is always right;
- no accuracy varies over resamples, because all predictions are right or all are wrong: the bootstrap then treats the
  images as infinitely many;
- the claim says "better", and what is to be surpassed makes no mistake on any seed: no accuracy can be higher;
- the claim says "not worse", and the network to be matched is not above chance by more than the margin: a network that
  only guesses would pass. (A joint network that is surely better has passed all the same.)

Rules [O]; published numbers: means in ``published/reference_accuracy.csv``.
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
    join_values,
    judge_above,
    judge_parts,
    pair_values,
    refuse_doubled,
    require_same_faces,
    select_cells,
)
from facespec.published.reference import read_published_chance, read_reference_accuracy
from facespec.study.tables import ACCURACY, UNTRAINED
from facespec.study.vocabulary import TASKS, Network, Task

CELL = ["figure", "trained_on", "tested_on", "seed", "resample"]


@dataclass(frozen=True)
class Accuracies:
    """Accuracies ``(n_sides, n_seeds, 1 + n_resamples)``: first on the test images, then on resamples.

    Two sides, `more` and `less`; for gains, behind them, the baselines of both. `chance`: one number per side.
    """

    accuracy: np.ndarray
    chance: tuple[float, ...]

    def subtract(self, *, information: bool) -> np.ndarray:
        """`more` minus `less`, ``(n_seeds, 1 + n_resamples)``, as accuracies or as information above chance."""
        base = np.array(self.chance if information else np.zeros(len(self.chance)))[:, None, None]
        values = (self.accuracy - base) / (1 - base)
        if len(values) > 2:
            values = values[:2] - values[2:]
        more, less = values
        return np.asarray(more - less)


@dataclass(frozen=True)
class AccuracyClaimPart(DifferencePart):
    """A difference of accuracies, or of information above chance, in one figure; `gain`: over the untrained trunk."""

    information: bool = False  # (accuracy - chance) / (1 - chance): 0 is guessing, 1 is perfect
    not_worse: bool = False
    gain: bool = False

    @property
    def sides(self) -> tuple[Side, ...]:
        pair = (self.more, self.less)
        return (*pair, *(Side(UNTRAINED, side.tested_on) for side in pair)) if self.gain else pair

    def select(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        return [
            select_cells(
                table, {"figure": self.figure, "trained_on": str(side.trained_on), "tested_on": side.tested_on}
            )
            for side in self.sides
        ]

    def describe(self) -> dict[str, Any]:
        if self.gain:
            return {"statement": f"{self.words} (Figure {self.figure}; published: no untrained trunk)"}
        means = read_reference_accuracy(self.figure).set_index(["trained_on", "tested_on"])["mean"]
        accuracies = [float(means[str(side.trained_on), side.tested_on]) for side in self.sides]
        chance = tuple(read_published_chance(self.figure, side.tested_on) for side in self.sides)
        pair = Accuracies(np.array(accuracies)[:, None, None], chance)
        chances = [f" (chance {chance:.4f})" if self.information else "" for chance in pair.chance]
        numbers = " against ".join(f"{mean:.4f}{chance}" for mean, chance in zip(accuracies, chances, strict=True))
        return {
            "published": float(pair.subtract(information=self.information).item()),
            "statement": f"{self.words} (Figure {self.figure}; published: {numbers})",
        }

    def describe_rule(self, rule: Rule, seeds: int) -> str:
        quantity = "(accuracy - chance) / (1 - chance)" if self.information else "accuracy"
        if self.gain:
            quantity += ", gained over the untrained trunk"
        bound = f"-{rule.margin:g} (not worse by more than {rule.margin:g})" if self.not_worse else "0"
        difference = f"{quantity}, {self.more} minus {self.less}"
        return describe_difference(rule, difference, bound, "test images", seeds=seeds)

    def read_values(self, cells: list[pd.DataFrame]) -> Accuracies:
        for side, cell in zip(self.sides, cells, strict=True):
            if cell.empty:
                raise NotTestable(f"Figure {self.figure} lacks the {side}", f"a table that has the {side}")
        require_same_faces(cells, ("role", "source", "n"))
        for side, cell in zip(self.sides, cells, strict=True):
            if cell["chance"].nunique() > 1 or cell["chance"].iloc[0] == 1:
                chances = join_values(cell["chance"])
                reason = f"chance is {chances} for the {side}: one value below 1 is needed"
                raise NotTestable(reason, "two classes or more, the same for all networks")
        accuracy = pair_values(cells, "accuracy", "the test images themselves")
        return Accuracies(accuracy, tuple(float(cell["chance"].iloc[0]) for cell in cells))

    def judge(self, values: Accuracies, rule: Rule, generator: np.random.Generator) -> dict[str, Any]:
        difference = values.subtract(information=self.information)
        number = float(difference[:, 0].mean())
        if is_constant(values.accuracy):
            reason = "no accuracy varies over the resamples: all answers right or all wrong, on both sides"
            raise NotTestable(reason, "test images that are neither all easy nor all hard", number=number)
        above_chance = values.accuracy[1] - values.chance[1]
        interval, matched = estimate_intervals(np.stack([difference, above_chance]), rule, generator=generator)
        numbers = {"number": number, **interval.list_columns()}
        if self.not_worse and matched.low <= rule.margin and interval.low <= 0:
            reason = f"the {self.less} is not itself above chance by more than {rule.margin:g}: nothing could be lost"
            raise NotTestable(reason, "longer training, more test images or more seeds", **numbers)
        surpassed = 2 if self.gain else 1
        if not self.not_worse and (values.accuracy[surpassed] == 1).all():
            reason = f"the {self.sides[surpassed]} makes no mistake: nothing could be gained"
            raise NotTestable(reason, "a harder task", **numbers)
        return numbers | judge_above(interval.low, interval.high, -rule.margin if self.not_worse else 0.0)


def _make_parts() -> tuple[AccuracyClaimPart, ...]:
    better, not_worse, on_training_role = [], [], []
    for task, other in zip(TASKS, (Network.IDENTITY, Network.EXPRESSION), strict=True):
        single, joint = Side(Network(task.value), task), Side(Network.JOINT, task)
        words = f"{task.value} is decoded better from the {task.value} network than from the {other.value} network"
        better.append(AccuracyClaimPart("C1", task.value, "1B", single, Side(other, task), words))
        words = f"the joint network is not worse at {task.value} than the {task.value} network"
        not_worse.append(AccuracyClaimPart("C3", task.value, "1C", joint, single, words, not_worse=True))
        words = (
            f"the joint network is better at {task.value} than the {task.value} network, on faces of its training role"
        )
        on_training_role.append(AccuracyClaimPart("C4", task.value, "S1B", joint, single, words))
    sides = Side(Network.EXPRESSION, Task.IDENTITY), Side(Network.IDENTITY, Task.EXPRESSION)
    words = (
        "the expression network carries more information about identity, above chance, than the identity network "
        "about expression"
    )
    information = AccuracyClaimPart("C2", "information", "1B", *sides, words, information=True)
    words = (
        "training for expression adds more information about identity to what the untrained trunk has, than training "
        "for identity adds about expression"
    )
    gain = AccuracyClaimPart("C2", "gain", "1B", *sides, words, information=True, gain=True)
    return (*better, information, gain, *not_worse, *on_training_role)


PARTS = _make_parts()


def judge_accuracy_claims(
    table: pd.DataFrame, *, level: float, margin: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claims C1-C4, one row per part, from an ACCURACY table with figures 1B, 1C and S1B.

    `number` is the mean over seeds of the difference on the test images themselves, `low` and `high` bound its interval
    at `level`. Raises `StudyError` if a cell, seed and resample has two rows.
    """
    table = ACCURACY.check(table)
    refuse_doubled(table, "accuracy", CELL, number="accuracy")
    return judge_parts(PARTS, table, Rule(level, draws, margin), generator)
