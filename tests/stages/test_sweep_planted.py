"""Networks built by hand whose two tasks share all of a layer, nothing of it, or so much: what does a sweep find?

A picture says of what class it is in two voices, with noise of their own; every unit repeats one number of one voice.
Head "colour" listens to the first voice and, `shared` times as well, to the second; head "shape" the other way round.
With `shared` 0 each head reads its own half of the units, and the index is 1; with 1 every unit drives both heads
alike, and it is 0. Both heads are asked for the same class, so that nothing else can part them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.analyses.lesions import LabelledImages
from facespec.stages.sweep import run_sweep
from facespec.stages.sweep_jobs import Subject, Sweep
from facespec.study.params import Lesions

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, EACH = 8, 2  # units of a voice for each class
VOICE = CLASSES * EACH
PEOPLE, SEEDS = 9, 4
PLAN = Lesions(
    group_p=0.06, greedy_p=0.2, images=64, mode="exact", fractions=[0.2], random=2, shuffled=5, draws=300, seed=3
)


class Planted(nn.Module):
    def __init__(self, shared: float, *, seed: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.conv, self.relu, self.flat = nn.Conv2d(2 * VOICE, 2 * VOICE, 1, bias=False), nn.ReLU(), nn.Flatten()
            self.colour, self.shape = (nn.Linear(2 * VOICE, CLASSES, bias=False) for _ in range(2))
        self.to_empty(device="cpu")
        draw = np.random.default_rng(seed)  # networks differ in who is who, and how loud
        order, gain = draw.permutation(2 * VOICE), draw.uniform(0.8, 1.2, size=VOICE)
        adding = np.repeat(np.eye(CLASSES), EACH, axis=1) * gain  # (classes, units of a voice)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(2 * VOICE)[order][:, :, None, None])
            for head, first, second in ((self.colour, 1, shared), (self.shape, shared, 1)):
                head.weight.copy_(torch.from_numpy(4 * np.hstack([first * adding, second * adding])[:, order]))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        responses = self.flat(self.relu(self.conv(images)))
        return {"colour": self.colour(responses), "shape": self.shape(responses)}


def pictures(n: int, *, seed: int, noise: float = 1.5) -> LabelledImages:
    """Every class equally often."""
    draw, codes = np.random.default_rng(seed), np.arange(n) % CLASSES
    said = np.tile(np.repeat(np.eye(CLASSES)[codes], EACH, axis=1), 2) + draw.uniform(0, noise, size=(n, 2 * VOICE))
    images = torch.from_numpy(said.astype(np.float32))[:, :, None, None]
    return LabelledImages(lambda rows: images[rows], {"colour": codes, "shape": codes})


def swept_table(shared: float, train: LabelledImages, **noise: float) -> pd.DataFrame:
    """SEGREGATION of a sweep of several networks; all shown the same pictures, 16 for each person."""
    people = pd.Series(np.repeat(np.arange(PEOPLE), 2 * CLASSES).astype(str))
    test = pictures(len(people), seed=2, **noise)
    subjects = [Subject(Planted(shared, seed=seed), seed, {"conv": 1}, train, test, "") for seed in range(SEEDS)]
    return run_sweep(Sweep("joint", "voices", subjects, people, PLAN), workers=1, report=lambda: None)["segregation"]


@cache
def graded(shared: float) -> pd.DataFrame:
    return swept_table(shared, pictures(96, seed=1))


def index(table: pd.DataFrame, condition: str) -> dict[str, float]:
    """Number and interval."""
    (row,) = table[(table["quantity"] == "index") & (table["condition"] == condition)].to_dict("records")
    return row


GRADED = 0.0, 0.15, 0.4, 1.0


@pytest.mark.parametrize(("shared", "number"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_shared_is_1_and_all_shared_is_0(shared: float, number: float) -> None:
    row = index(graded(shared), "ranked")
    assert (row["number"], row["low"], row["high"], row["defined"]) == (number, number, number, 1.0)
    assert (row["seeds"], row["people"], row["fraction"], row["depth"]) == (SEEDS, PEOPLE, 0.2, 1)


def test_the_more_is_shared_the_smaller_the_index() -> None:
    rows = [index(graded(shared), "ranked") for shared in GRADED]
    numbers = [row["number"] for row in rows]
    assert (np.diff(numbers) < -0.1).all(), numbers
    for row, (more, less) in zip(rows[1:-1], [(0.4, 0.95), (0.1, 0.4)], strict=True):
        assert more < row["number"] < less and 0 < row["low"] < row["number"] < row["high"] < 1


@pytest.mark.parametrize("shared", GRADED)
def test_mixtures_of_both_tasks_part_nothing(shared: float) -> None:
    """Whatever the network is like, and also where the tasks share no unit."""
    row = index(graded(shared), "shuffled")
    assert row["low"] <= 0 <= row["high"] and row["high"] - row["low"] < 0.4
    assert row["defined"] == 1.0


def test_permuted_labels_are_no_null() -> None:
    """Wrong labels cost a network that is sure less if units that matter are silent: the other task's come first."""
    train, draw = pictures(96, seed=1, noise=0.7), np.random.default_rng(4)
    permuted = LabelledImages(train.images, {task: draw.permutation(own) for task, own in train.classes.items()})
    assert index(swept_table(0.0, permuted, noise=0.7), "ranked")["high"] < -0.5
