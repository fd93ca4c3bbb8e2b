"""Labelled images, how many units are lesioned and which, correct responses, and shuffled classes."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facespec.analyses.lesions import (
    LabelledImages,
    Search,
    count_units,
    design_lesions,
    make_lesions,
    make_objective,
    mark_correct_under_lesions,
    shuffle_objectives,
)
from facespec.responses.lesioned import LesionedNetwork
from facespec.study.errors import StudyError
from toys import make_network, random_images

pytestmark = pytest.mark.usefixtures("one_thread")


def label(**classes: object) -> LabelledImages:
    codes = {task: np.array(labels) if isinstance(labels, list) else labels for task, labels in classes.items()}
    return LabelledImages(lambda positions: torch.zeros(len(positions), 1, 1, 1), codes)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"one": [1, 2]}, "classes are {'one': 'int64 of shape (2,)'}: needed are two tasks"),
        ({"a": [1], "b": [2], "c": [3]}, "'c': 'int64 of shape (1,)'}: needed are two tasks"),
        ({"a": [1, 2], "b": [1, 2, 3]}, "'a': 'int64 of shape (2,)', 'b': 'int64 of shape (3,)'}: needed"),
        (
            {"a": [1, 2], "b": [0.5, 1]},
            "'b': 'float64 of shape (2,)'}: needed are two tasks, each a numpy array of int",
        ),
        ({"a": [[1, 2]], "b": [[1, 2]]}, "'b': 'int64 of shape (1, 2)'}: needed"),
        ({"a": np.zeros(0, int), "b": np.zeros(0, int)}, "'b': 'int64 of shape (0,)'}: needed"),
        ({"a": [0, 1], "b": (0, 1)}, "'b': 'tuple'}: needed"),
        ({"a": [0, 1], "b": torch.tensor([0, 1])}, "'b': 'Tensor'}: needed"),
        ({"a": [0, 1], "b": np.array(1)}, "'b': 'int64 of shape ()'}: needed"),
        # torch ignores -100, and units would be ranked by a class that does not exist
        ({"a": [-1, 1, 0], "b": [0, -100, -1]}, "task 'b' has the class -100: a class is the index of its logit"),
        ({"a": [-1, 1, 0], "b": [0, -2, -1]}, "task 'b' has the class -2: a class is the index of its logit"),
    ],
)
def test_classes_that_cannot_be_used(classes: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        label(**classes)


def test_the_objective_of_one_task_is_about_its_known_classes() -> None:
    images = label(b=[0, 1, 2], a=[0, 0, -1])
    assert images.tasks == ("b", "a") and len(images) == 3
    assert {task: weights.tolist() for task, weights in make_objective(images, "a").items()} == {"a": [1.0, 1.0, 0.0]}


@pytest.mark.parametrize(
    ("group_p", "greedy_p", "units", "sizes"),
    [
        (0.016, 0.2, 64, [1] * 13 + [51]),  # 1.02 at a time until 12.8
        (0.016, 0.2, 128, [2] * 13 + [102]),  # 2.05 at a time until 25.6
        (0.016, 0.2, 7, [1, 6]),  # one at least; 1.4
        (0.2, 0.5, 17, [3, 3, 3, 8]),  # 3.4 at a time until 8.5
        (0.3, 0.4, 10, [3, 1, 6]),  # the last greedy round is smaller
        (0.5, 0.2, 9, [2, 7]),
        (0.3, 0.0, 11, [11]),
        (0.4, 0.97, 10, [4, 4, 2]),  # 9.7: no unit remains for the last round
        (1.0, 0.99, 1, [1]),
    ],
)
def test_sizes_of_rounds(group_p: float, greedy_p: float, units: int, sizes: list[int]) -> None:
    assert Search(group_p, greedy_p, 5).plan_rounds(units) == sizes


@given(st.floats(0.001, 1), st.floats(0, 0.999), st.integers(1, 600))
def test_rounds_are_about_all_units(group_p: float, greedy_p: float, units: int) -> None:
    sizes = Search(group_p, greedy_p, 5).plan_rounds(units)
    assert sum(sizes) == units and min(sizes) >= 1
    greedy = sizes if count_units(greedy_p, units) == units else sizes[:-1]
    assert sum(greedy) == count_units(greedy_p, units)
    assert not greedy or (set(greedy[:-1]) <= {greedy[0]} and greedy[-1] <= greedy[0])


@pytest.mark.parametrize(
    ("fraction", "units", "number"),
    [
        (0.1, 5, 1),
        (0.3, 5, 2),
        (0.1, 4, 0),
        (0.2, 64, 13),
        (0.2, 7, 1),
        (0.0, 9, 0),
        (1.0, 9, 9),
        (0.7, 45, 32),
        (0.29, 50, 15),
    ],
)
def test_halves_are_rounded_up(fraction: float, units: int, number: int) -> None:
    """The last two products are a little less than a half in binary."""
    assert count_units(fraction, units) == number


def test_lesions_are_of_the_first_units_or_of_all_others() -> None:
    order, fractions = [3, 0, 4, 1, 2], [0, 0.2, 0.5, 1]
    mask = make_lesions(order, fractions)
    assert mask.dtype == bool
    assert mask.astype(int).tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(make_lesions(np.array(order), fractions, keep_only=True), ~mask)


def make_orders(condition: str, *names: tuple[int, str]) -> pd.DataFrame:
    """Orders of units 0 to 4, each beginning with another unit."""
    orders = [
        pd.DataFrame({"draw": draw, "ranked_by": task, "unit": np.roll(np.arange(5), -number)})
        for number, (draw, task) in enumerate(names)
    ]
    return pd.concat(orders, ignore_index=True).assign(condition=condition)


@pytest.mark.parametrize(
    ("orders", "rows"),
    [
        (
            make_orders("ranked", (0, "colour")),
            """ranked 0 colour 0.0 []
            ranked 0 colour 0.2 [0]
            ranked 0 colour 0.5 [0, 1, 2]
            keep 0 colour 0.2 [1, 2, 3, 4]
            keep 0 colour 0.5 [3, 4]""",
        ),
        (
            make_orders("shuffled", (1, "shape"), (1, "colour")),
            """shuffled 1 shape 0.0 []
            shuffled 1 shape 0.2 [0]
            shuffled 1 shape 0.5 [0, 1, 2]
            shuffled 1 colour 0.2 [1]
            shuffled 1 colour 0.5 [1, 2, 3]""",
        ),
        (
            make_orders("random", (0, ""), (1, "")),
            """random 0  0.0 []
            random 0  0.2 [0]
            random 0  0.5 [0, 1, 2]
            random 1  0.2 [1]
            random 1  0.5 [1, 2, 3]
            keep 0  0.2 [1, 2, 3, 4]
            keep 0  0.5 [3, 4]
            keep 1  0.2 [0, 2, 3, 4]
            keep 1  0.5 [0, 4]""",
        ),
    ],
)
def test_lesions_by_orders_of_units(orders: pd.DataFrame, rows: str) -> None:
    """The whole network first; complements unless classes were shuffled."""
    table, masks = design_lesions(orders, [0.2, 0.5])
    keys = table[["condition", "draw", "ranked_by", "fraction"]].to_numpy().tolist()
    found = [" ".join(map(str, [*key, np.flatnonzero(mask).tolist()])) for key, mask in zip(keys, masks, strict=True)]
    assert found == [row.strip() for row in rows.splitlines()]
    assert set(table["units"]) == {5} and table["silenced"].tolist() == masks.sum(axis=1).tolist()


@pytest.mark.parametrize("batch_size", [5, 64])
def test_correct_responses_are_those_of_a_loop(batch_size: int) -> None:
    network, draw = make_network((6,), classes={"expression": 3, "identity": 4}), np.random.default_rng(4)
    pixels = random_images(23)
    classes = {"expression": draw.integers(-1, 3, size=23), "identity": draw.integers(-1, 4, size=23)}
    masks = draw.random((4, 6)) < np.array([-1, 0.3, 0.6, 2])[:, None]
    lesioned = LesionedNetwork(network, "trunk.conv1")
    images = LabelledImages(lambda positions: pixels[positions], classes)
    correct = mark_correct_under_lesions(lesioned, images, masks, batch_size=batch_size)
    assert correct.shape == (2, 4, 23) and correct.dtype == bool
    for mask, rows in zip(masks, correct.transpose(1, 0, 2), strict=True):
        keep = torch.from_numpy(~mask)[:, None, None]
        handle = network.trunk.relu1.register_forward_hook(lambda module, inputs, output, keep=keep: output * keep)
        with torch.no_grad():
            logits = [network(picture[None]) for picture in pixels]
        handle.remove()
        for (task, codes), row in zip(classes.items(), rows, strict=True):
            predicted = [values[task].argmax().item() for values in logits]
            assert row.tolist() == [code == label for code, label in zip(predicted, codes, strict=True)]
    assert 0 < correct[0, 1].mean() < 1


def test_of_equal_logits_the_first_is_predicted() -> None:
    network = make_network((6,), classes={"expression": 3, "identity": 4})
    for head in network.heads.values():
        torch.nn.init.zeros_(head.bias)
    classes = {"expression": np.array([0, 1, 2, -1]), "identity": np.array([-1, 0, 0, 3])}
    images = LabelledImages(lambda positions: random_images(len(positions)), classes)
    lesioned = LesionedNetwork(network, "trunk.conv1")
    correct = mark_correct_under_lesions(lesioned, images, np.ones((1, 6), dtype=bool))
    assert correct[:, 0].tolist() == [[True, False, False, False], [False, True, True, False]]


MIXED = label(first=[0, 1, 2, 3, 4, 0, 1, -1, 4, 4], second=[-1, 7, 7, 9, 2, 5, 7, 2, 9, -1])


@given(st.integers(0, 10**6))
def test_mixtures_share_out_the_classes_of_both_tasks(seed: int) -> None:
    halves = shuffle_objectives(MIXED, np.random.default_rng(seed))
    assert [list(half) for half in halves] == [["first", "second"]] * 2
    again = shuffle_objectives(MIXED, np.random.default_rng(seed))
    for task, classes in MIXED.classes.items():
        np.testing.assert_array_equal(halves[0][task] + halves[1][task], classes != -1)  # each image is in one of them
        first, second = ({*classes[half[task] > 0]} for half in halves)
        assert not first & second and abs(len(first) - len(second)) <= 1
        np.testing.assert_array_equal(again[0][task], halves[0][task])


def test_every_class_is_in_either_half_half_of_the_time() -> None:
    """Also of an odd number, of which one half gets more; and whatever the other task's classes do."""
    generator, n = np.random.default_rng(11), 2000
    halves = [shuffle_objectives(MIXED, generator)[0] for _ in range(n)]
    members = np.array([[*half["first"][[0, 1, 2, 3, 4]], *half["second"][[1, 3, 4, 5]]] for half in halves])
    np.testing.assert_allclose(members.mean(axis=0), 0.5, atol=4 * 0.5 / np.sqrt(n))
    np.testing.assert_allclose(np.corrcoef(members.T)[:5, 5:], 0, atol=4 / np.sqrt(n))
    # two classes of one task are together in 2 of 5 and in 1 of 3 draws
    np.testing.assert_allclose((members[:, 0] == members[:, 1]).mean(), 2 / 5, atol=0.05)
    np.testing.assert_allclose((members[:, 5] == members[:, 8]).mean(), 1 / 3, atol=0.05)
    assert np.std(members[:, :5].sum(axis=1)) > 0  # 2 or 3 of the five
