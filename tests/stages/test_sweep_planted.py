"""Hand-built networks whose two tasks share all units of a layer, some, or none: what does a sweep find?

Every image codes its class twice, in two sets of channels with independent noise; every unit copies one channel. Head
"colour" reads the first set with weight 1 and the second with weight `shared`; head "shape" the other way round. With
`shared` 0 each head reads half of the units, and the index is 1; with 1 every unit drives both heads equally, and it is
0. Both tasks have the same classes, so that nothing else can dissociate them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.analyses.lesions import LabelledImages
from facespec.stages.sweep import Subject, Sweep, run_sweep
from facespec.study.params import Lesions

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, REPEATS = 8, 2  # units of a set for each class
SET = CLASSES * REPEATS
PEOPLE, SEEDS = 9, 4
PLAN = Lesions(
    group_p=0.06,
    greedy_p=0.2,
    images=64,
    mode="exact",
    fractions=[0.2],
    damages=[0.5],
    steps=[0.3, 0.4, 0.5, 0.6, 0.8],
    random=2,
    shuffled=5,
    draws=300,
    seed=3,
)


class TwoSets(nn.Module):
    def __init__(self, shared: float, *, seed: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.conv, self.relu, self.flat = nn.Conv2d(2 * SET, 2 * SET, 1, bias=False), nn.ReLU(), nn.Flatten()
            self.colour, self.shape = (nn.Linear(2 * SET, CLASSES, bias=False) for _ in range(2))
        self.to_empty(device="cpu")
        draw = np.random.default_rng(seed)  # networks differ in the order and the gain of their units
        order, gain = draw.permutation(2 * SET), draw.uniform(0.8, 1.2, size=SET)
        sums = np.repeat(np.eye(CLASSES), REPEATS, axis=1) * gain  # (classes, units of a set)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(2 * SET)[order][:, :, None, None])
            for head, first, second in ((self.colour, 1, shared), (self.shape, shared, 1)):
                head.weight.copy_(torch.from_numpy(4 * np.hstack([first * sums, second * sums])[:, order]))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        responses = self.flat(self.relu(self.conv(images)))
        return {"colour": self.colour(responses), "shape": self.shape(responses)}


def make_images(n: int, *, seed: int, noise: float = 1.5) -> LabelledImages:
    """Every class equally often."""
    draw, codes = np.random.default_rng(seed), np.arange(n) % CLASSES
    signal = np.tile(np.repeat(np.eye(CLASSES)[codes], REPEATS, axis=1), 2)
    pixels = torch.from_numpy((signal + draw.uniform(0, noise, size=(n, 2 * SET))).astype(np.float32))
    return LabelledImages(lambda positions: pixels[positions][:, :, None, None], {"colour": codes, "shape": codes})


def sweep_networks(shared: float, train: LabelledImages, **noise: float) -> pd.DataFrame:
    """The index in SEGREGATION, by condition and damage, 0 for a fixed share; 16 images per person."""
    people = pd.Series(np.repeat(np.arange(PEOPLE), 2 * CLASSES).astype(str))
    test = make_images(len(people), seed=2, **noise)
    subjects = [Subject(TwoSets(shared, seed=seed), seed, {"conv": 1}, train, test, "") for seed in range(SEEDS)]
    table = run_sweep(Sweep("joint", "two sets", subjects, people, PLAN), workers=1)["segregation"]
    return table[table["quantity"] == "index"].fillna({"damage": 0.0}).set_index(["condition", "damage"])


@cache
def sweep_sharing(shared: float) -> pd.DataFrame:
    return sweep_networks(shared, make_images(96, seed=1))


def share_units(shared: float, damage: float = 0.0) -> pd.DataFrame:
    return sweep_sharing(shared).xs(damage, level="damage")


SHARES = 0.0, 0.15, 0.4, 1.0


@pytest.mark.parametrize(("shared", "number"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_index_is_1_without_shared_units_and_0_if_all_are_shared(shared: float, number: float) -> None:
    row = share_units(shared).loc["ranked"]
    assert row[["number", "low", "high", "defined"]].tolist() == [number, number, number, 1.0]
    assert row[["seeds", "people", "fraction", "depth"]].tolist() == [SEEDS, PEOPLE, 0.2, 1]
    matched = share_units(shared, 0.5).loc["ranked"]
    assert matched[["number", "low", "high", "defined"]].tolist() == [number, number, number, 1.0]


def test_the_more_is_shared_the_smaller_the_index() -> None:
    rows = [share_units(shared).loc["ranked"] for shared in SHARES]
    for found in (rows, [share_units(shared, 0.5).loc["ranked"] for shared in SHARES]):
        numbers = [row["number"] for row in found]
        assert (np.diff(numbers) < -0.1).all(), numbers
    for row, (low, high) in zip(rows[1:-1], [(0.4, 0.95), (0.1, 0.4)], strict=True):
        assert low < row["number"] < high and 0 < row["low"] < row["number"] < row["high"] < 1


@pytest.mark.parametrize("damage", [0.0, 0.5])
@pytest.mark.parametrize("shared", SHARES)
def test_mixtures_of_both_tasks_dissociate_nothing(shared: float, damage: float) -> None:
    """Whatever the network, also where the tasks share no unit."""
    row = share_units(shared, damage).loc["shuffled"]
    assert row["low"] <= 0 <= row["high"] and row["high"] - row["low"] < 0.4
    assert row["defined"] == 1.0


def test_permuted_labels_are_no_null() -> None:
    """With wrong labels, the loss of a confident network falls without units that it needs; they are ranked last."""
    train, draw = make_images(96, seed=1, noise=0.7), np.random.default_rng(4)
    permuted = LabelledImages(train.images, {task: draw.permutation(codes) for task, codes in train.classes.items()})
    assert sweep_networks(0.0, permuted, noise=0.7).loc[("ranked", 0.0), "high"] < -0.5
