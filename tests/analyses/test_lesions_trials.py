"""What is asked about images, how many units a share is, which units are silent, and which answers are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from facespec.analyses.lesions import (
    LabelledImages,
    Search,
    count_units,
    make_lesions,
    make_objective,
    mark_correct_under_lesions,
    shuffle_objectives,
)
from facespec.responses.lesioned import LesionedNetwork
from facespec.study.errors import StudyError

pytestmark = pytest.mark.usefixtures("one_thread")


def about(**classes: np.ndarray | list[int]) -> LabelledImages:
    return LabelledImages(
        lambda rows: torch.zeros(len(rows), 1, 1, 1), {task: np.array(own) for task, own in classes.items()}
    )


NEEDED = ": needed are two tasks, each a numpy array of integers, one per image, of the same images."


@pytest.mark.parametrize(
    ("classes", "shapes"),
    [
        ({"one": [1, 2]}, "'one': 'int64 of shape (2,)'"),
        (
            {"a": [1], "b": [2], "c": [3]},
            "'a': 'int64 of shape (1,)', 'b': 'int64 of shape (1,)', 'c': 'int64 of shape (1,)'",
        ),
        ({"a": [1, 2], "b": [1, 2, 3]}, "'a': 'int64 of shape (2,)', 'b': 'int64 of shape (3,)'"),
        ({"a": [1, 2], "b": [0.5, 1]}, "'a': 'int64 of shape (2,)', 'b': 'float64 of shape (2,)'"),
        ({"a": [[1, 2]], "b": [[1, 2]]}, "'a': 'int64 of shape (1, 2)', 'b': 'int64 of shape (1, 2)'"),
        ({"a": np.zeros(0, int), "b": np.zeros(0, int)}, "'a': 'int64 of shape (0,)', 'b': 'int64 of shape (0,)'"),
    ],
)
def test_refused_trials(classes: dict[str, list[int]], shapes: str) -> None:
    with pytest.raises(StudyError) as caught:
        about(**classes)
    assert str(caught.value) == f"classes are {{{shapes}}}{NEEDED}"


@pytest.mark.parametrize(
    ("own", "told"),
    [([0, 1], "list"), (torch.tensor([0, 1]), "Tensor"), (np.array(1), "int64 of shape ()")],
)
def test_classes_are_arrays(own: object, told: str) -> None:
    with pytest.raises(StudyError) as caught:
        LabelledImages(lambda rows: torch.zeros(len(rows), 1), {"a": np.array([0, 1]), "b": own})  # type: ignore[dict-item]
    assert str(caught.value) == f"classes are {{'a': 'int64 of shape (2,)', 'b': '{told}'}}{NEEDED}"


@pytest.mark.parametrize("label", [-2, -100])
def test_of_the_labels_below_0_only_one_is_known(label: int) -> None:
    """torch ignores -100, and counting it as a class would rank units by nothing."""
    with pytest.raises(StudyError) as caught:
        about(a=[-1, 1, 0], b=[0, label, -1])
    assert str(caught.value) == (
        f"task 'b' has the class {label}: a class is the index of its logit, from 0; write -1 where it is not known."
    )


def test_trials_know_their_tasks_and_number() -> None:
    trials = about(b=[0, 1, 2], a=[0, 0, -1])
    assert trials.tasks == ("b", "a") and len(trials) == 3
    assert {task: own.tolist() for task, own in make_objective(trials, "a").items()} == {"a": [1.0, 1.0, 0.0]}


@pytest.mark.parametrize(
    ("group_p", "greedy_p", "units", "groups"),
    [
        (0.016, 0.2, 64, [1] * 13 + [51]),  # 1.02 at a time until 12.8
        (0.016, 0.2, 128, [2] * 13 + [102]),  # 2.05 at a time until 25.6
        (0.016, 0.2, 7, [1, 6]),  # one at least; 1.4
        (0.2, 0.5, 17, [3, 3, 3, 8]),  # 3.4 at a time until 8.5
        (0.3, 0.4, 10, [3, 1, 6]),  # the last group is what is left
        (0.5, 0.2, 9, [2, 7]),
        (0.3, 0.0, 11, [11]),
        (0.4, 0.97, 10, [4, 4, 2]),  # 9.7: nothing is left to rank in one pass
        (1.0, 0.99, 1, [1]),
    ],
)
def test_groups(group_p: float, greedy_p: float, units: int, groups: list[int]) -> None:
    assert Search(group_p, greedy_p, 5).groups(units) == groups


@given(st.floats(0.001, 1), st.floats(0, 0.999), st.integers(1, 600))
def test_groups_are_all_units(group_p: float, greedy_p: float, units: int) -> None:
    groups = Search(group_p, greedy_p, 5).groups(units)
    assert sum(groups) == units and min(groups) >= 1
    greedy = groups if count_units(greedy_p, units) == units else groups[:-1]
    assert sum(greedy) == count_units(greedy_p, units)
    assert not greedy or (set(greedy[:-1]) <= {greedy[0]} and greedy[-1] <= greedy[0])


@pytest.mark.parametrize(
    ("fraction", "units", "number"),
    [
        (0.1, 5, 1),
        (0.3, 5, 2),
        (0.5, 5, 3),
        (0.1, 4, 0),
        (0.2, 64, 13),
        (0.2, 7, 1),
        (0.0, 9, 0),
        (1.0, 9, 9),
        (0.7, 45, 32),
        (0.29, 50, 15),
    ],  # the last two are a little less than a half in binary
)
def test_halves_are_rounded_up(fraction: float, units: int, number: int) -> None:
    assert count_units(fraction, units) == number


def test_lesions_silence_the_first_or_all_others() -> None:
    order, fractions = [3, 0, 4, 1, 2], [0, 0.2, 0.5, 1]
    silent = make_lesions(order, fractions)
    assert silent.dtype == bool
    assert silent.astype(int).tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(make_lesions(np.array(order), fractions, keep=True), ~silent)


class Small(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.units, self.relu, self.flat = nn.Conv2d(1, 6, (2, 3)), nn.ReLU(), nn.Flatten()
            self.heads = nn.ModuleDict({"first": nn.Linear(72, 3), "second": nn.Linear(72, 4)})
        draw = torch.Generator().manual_seed(seed)
        self.to_empty(device="cpu")
        self.load_state_dict({name: torch.randn(own.shape, generator=draw) for name, own in self.state_dict().items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        shown = self.flat(self.relu(self.units(images)))
        return {task: head(shown) for task, head in self.heads.items()}


@pytest.mark.parametrize("batch_size", [5, 64])
def test_right_answers_are_those_of_a_loop(batch_size: int) -> None:
    network, draw = Small(3), np.random.default_rng(4)
    pictures = torch.from_numpy(draw.normal(size=(23, 1, 5, 5)).astype(np.float32))
    classes = {"first": draw.integers(-1, 3, size=23), "second": draw.integers(-1, 4, size=23)}
    silent = draw.random((4, 6)) < np.array([-1, 0.3, 0.6, 2])[:, None]
    right = mark_correct_under_lesions(
        LesionedNetwork(network, "units"),
        LabelledImages(lambda rows: pictures[rows], classes),
        silent,
        batch_size=batch_size,
    )
    assert set(right) == {"first", "second"}
    for task, own in right.items():
        assert own.shape == (4, 23) and own.dtype == bool
        for lesion, row in zip(silent, own, strict=True):
            handle = network.relu.register_forward_hook(
                lambda module, inputs, output, lesion=lesion: output * torch.from_numpy(~lesion)[:, None, None]
            )
            with torch.no_grad():
                answers = [network(picture[None])[task].argmax().item() for picture in pictures]
            handle.remove()
            assert row.tolist() == [answer == wanted for answer, wanted in zip(answers, classes[task], strict=True)]
    assert 0 < right["first"][1].mean() < 1


def test_of_equal_logits_the_first_is_the_answer() -> None:
    network = Small(3)
    for head in network.heads.values():
        nn.init.zeros_(head.bias)
    classes = {"first": np.array([0, 1, 2, -1]), "second": np.array([-1, 0, 0, 3])}
    trials = LabelledImages(lambda rows: torch.ones(len(rows), 1, 5, 5), classes)
    right = mark_correct_under_lesions(LesionedNetwork(network, "units"), trials, np.ones((1, 6), dtype=bool))
    assert right["first"].tolist() == [[True, False, False, False]]
    assert right["second"].tolist() == [[False, True, True, False]]


MIXED = about(first=[0, 1, 2, 3, 4, 0, 1, -1, 4, 4], second=[-1, 7, 7, 9, 2, 5, 7, 2, 9, -1])


@given(st.integers(0, 10**6))
def test_mixtures_part_the_classes_of_both_tasks(seed: int) -> None:
    halves = shuffle_objectives(MIXED, np.random.default_rng(seed))
    assert [list(half) for half in halves] == [["first", "second"]] * 2
    for task, classes in MIXED.classes.items():
        one, other = (half[task] for half in halves)
        np.testing.assert_array_equal(one + other, classes != -1)  # each known image belongs to one of them
        parts = [{c for c, weight in zip(classes, own, strict=True) if weight} for own in (one, other)]
        assert not parts[0] & parts[1] and abs(len(parts[0]) - len(parts[1])) <= 1
    again = shuffle_objectives(MIXED, np.random.default_rng(seed))
    for half, same in zip(halves, again, strict=True):
        for task, weights in half.items():
            np.testing.assert_array_equal(same[task], weights)


def test_every_class_falls_in_either_half_half_of_the_time() -> None:
    """Also of an odd number, of which one half gets more; and whatever the other task's classes do."""
    generator, n = np.random.default_rng(11), 2000
    drawn = [shuffle_objectives(MIXED, generator)[0] for _ in range(n)]
    firsts = np.array([[*half["first"][[0, 1, 2, 3, 4]], *half["second"][[1, 3, 4, 5]]] for half in drawn])
    np.testing.assert_allclose(firsts.mean(axis=0), 0.5, atol=4 * 0.5 / np.sqrt(n))
    together = np.corrcoef(firsts.T)
    np.testing.assert_allclose(together[:5, 5:], 0, atol=4 / np.sqrt(n))
    # two of one task are seldomer in one half than apart: 2 of 5 and 1 of 3 times
    np.testing.assert_allclose((firsts[:, 0] == firsts[:, 1]).mean(), 2 / 5, atol=0.05)
    np.testing.assert_allclose((firsts[:, 5] == firsts[:, 8]).mean(), 1 / 3, atol=0.05)
    assert np.std(firsts[:, :5].sum(axis=1)) > 0  # 2 or 3 of the five
