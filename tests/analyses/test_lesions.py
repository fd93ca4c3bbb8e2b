"""Rankings of little networks whose losses are known by hand, or by a loop over units and images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from facespec.analyses.lesions import LabelledImages, Objective, Search, make_objective, rank_units
from facespec.responses.lesioned import LesionedNetwork
from facespec.study.errors import StudyError

pytestmark = pytest.mark.usefixtures("one_thread")


class Toy(nn.Module):
    """Images (n, units, 1, 1) are the units' responses; heads read `hidden`, linear with a rectifier, or the units."""

    def __init__(self, hidden: Sequence[Sequence[float]] | None, bias: Sequence[float] = (), **heads: object) -> None:
        super().__init__()
        first = torch.as_tensor(heads["first"])
        units = first.shape[1] if hidden is None else len(hidden[0])
        with torch.device("meta"):
            self.units, self.relu, self.flat = nn.Conv2d(units, units, 1, bias=False), nn.ReLU(), nn.Flatten()
            self.hidden = nn.Identity() if hidden is None else nn.Sequential(nn.Linear(units, len(hidden)), nn.ReLU())
            self.heads = nn.ModuleDict({task: nn.Linear(first.shape[1], 2, bias=False) for task in heads})
        self.to_empty(device="cpu").double()
        weights = {"units.weight": torch.eye(units)[:, :, None, None]}
        weights |= {f"heads.{task}.weight": torch.as_tensor(own) for task, own in heads.items()}
        if hidden is not None:
            weights |= {"hidden.0.weight": torch.tensor(hidden), "hidden.0.bias": torch.tensor(bias)}
        self.load_state_dict(weights)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        shown = self.hidden(self.flat(self.relu(self.units(images))))
        return {task: head(shown) for task, head in self.heads.items()}


def voting(*votes: float) -> list[list[float]]:
    """A head in which units vote for class 0, against a class 1 whose logit is 0."""
    return [list(votes), [0.0] * len(votes)]


def shown(responses: np.ndarray, **classes: Sequence[int]) -> LabelledImages:
    pictures = torch.from_numpy(np.asarray(responses, dtype=np.float64))[:, :, None, None]
    return LabelledImages(
        lambda rows: pictures[rows], {task: np.array(own, dtype=np.int64) for task, own in classes.items()}
    )


def ranked(network: nn.Module, trials: LabelledImages, loss: Objective | str, **search: float) -> pd.DataFrame:
    loss = make_objective(trials, loss) if isinstance(loss, str) else loss
    how = Search(**({"group_p": 0.01, "greedy_p": 0.0, "images": 1000} | search))
    return rank_units(LesionedNetwork(network, "units"), trials, loss, search=how, generator=np.random.default_rng(8))


def noisy(seed: int, *, units: int, n: int) -> tuple[Toy, LabelledImages]:
    """A network and images without anything to know by hand; some classes are not known."""
    draw = np.random.default_rng(seed)
    hidden, heads = draw.normal(size=(9, units)), draw.normal(size=(2, 2, 9))
    network = Toy(hidden.tolist(), draw.normal(size=9).tolist(), first=heads[0], second=heads[1])
    classes = draw.integers(-1, 2, size=(2, n))
    return network, shown(draw.uniform(size=(n, units)), first=classes[0], second=classes[1])


def naive(network: nn.Module, trials: LabelledImages, weights: dict[str, np.ndarray], silent: Sequence[int]) -> float:
    """The loss, image after image, of the whole network with units set to 0."""
    handle = network.relu.register_forward_hook(
        lambda module, inputs, output: output.index_fill(1, torch.tensor(silent, dtype=torch.int64), 0)
    )
    terms = []
    for task, own in weights.items():
        each = [
            0.0
            if own[i] == 0
            else own[i]
            * functional.cross_entropy(
                network(trials.images(np.array([i])))[task], torch.tensor([trials.classes[task][i]])
            ).item()
            for i in range(len(trials))
        ]
        terms.append(sum(each) / own.sum())
    handle.remove()
    return sum(terms) / len(terms)


class Spy:
    """Which images were asked for, and of how many units the lesions were computed on how many images."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.singles: list[tuple[list[int], int]] = []
        original: Callable[..., Iterator[object]] = LesionedNetwork.compute_single_lesions

        def counted(place: LesionedNetwork, batch: object, silent: object, units: torch.Tensor) -> Iterator[object]:
            self.singles.append((sorted(units.tolist()), len(batch)))
            return original(place, batch, silent, units)

        monkeypatch.setattr(LesionedNetwork, "compute_single_lesions", counted)

    @property
    def answers(self) -> int:
        found = sum(len(units) * images for units, images in self.singles)
        self.singles.clear()
        return found


VOTES = (2.0, -1.0, 4.0, 0.5, 0.0)


def lost(margin: float, *votes: float) -> list[float]:
    """Increases of the loss of an image of class 0, one unit at a time, where `margin` is left."""
    return [float(np.logaddexp(0, vote - margin) - np.logaddexp(0, -margin)) for vote in votes]


@pytest.mark.parametrize("hidden", [None, np.eye(5).tolist()], ids=["closed", "hidden"])
def test_by_hand(hidden: list[list[float]] | None) -> None:
    network = Toy(hidden, [0.0] * 5, first=voting(*VOTES), second=voting(0, 0, 0, 0, 1))
    trials = shown(np.ones((3, 5)), first=[0, 0, 0], second=[0, 1, -1])
    one_pass = ranked(network, trials, "first")
    assert list(one_pass) == ["rank", "unit", "round", "increase"] and set(one_pass["round"]) == {0}
    assert one_pass["rank"].tolist() == [0, 1, 2, 3, 4] and one_pass["unit"].tolist() == [2, 0, 3, 4, 1]
    np.testing.assert_allclose(one_pass["increase"], lost(5.5, 4, 2, 0.5, 0, -1), atol=1e-12)

    greedy = ranked(network, trials, "first", group_p=0.2, greedy_p=0.4)
    assert greedy["unit"].tolist() == [2, 0, 3, 4, 1] and greedy["round"].tolist() == [0, 1, 2, 2, 2]
    increases = lost(5.5, 4) + lost(1.5, 2) + lost(-0.5, 0.5, 0, -1)
    np.testing.assert_allclose(greedy["increase"], increases, atol=1e-12)

    pairs = ranked(network, trials, "first", group_p=0.4, greedy_p=0.6)
    assert pairs["round"].tolist() == [0, 0, 1, 2, 2]
    increases = lost(5.5, 4, 2) + lost(-0.5, 0.5) + lost(-1, 0, -1)
    np.testing.assert_allclose(pairs["increase"], increases, atol=1e-12)


def test_the_mean_counts_an_image_as_often_as_it_weighs_and_each_task_the_same() -> None:
    network, trials = noisy(1, units=7, n=13)
    weights = {task: np.where(own < 0, 0.0, np.arange(13) % 4) for task, own in trials.classes.items()}
    table = ranked(network, trials, weights, greedy_p=0.3)
    silent: list[int] = []
    for number in range(3):
        before, own = naive(network, trials, weights, silent), table[table["round"] == number]
        increases = [naive(network, trials, weights, [*silent, unit]) - before for unit in own["unit"]]
        np.testing.assert_allclose(own["increase"], increases, rtol=1e-9, atol=1e-12)
        silent += own["unit"].tolist()
    assert sorted(silent) == list(range(7)) and silent[:2] != [0, 1]


def test_redundant_units_are_found_only_together() -> None:
    """Either of units 0 and 3 is enough; unit 1 is not heard, and unit 2 misleads."""
    hole = [[-1.0, 0, 0, -1], [0.0, 0, 1, 0]]  # the first hidden unit speaks when both 0 and 3 are silent
    network = Toy(hole, [1.0, 0.0], first=[[-6.0, -1], [0, 0]], second=voting(1, 1))
    trials = shown(np.ones((2, 4)), first=[0, 0], second=[0, 1])
    one_pass, greedy = (ranked(network, trials, "first", greedy_p=p) for p in (0, 0.5))
    assert one_pass["unit"].tolist() == [0, 1, 3, 2] and greedy["unit"].tolist() == [0, 3, 1, 2]
    np.testing.assert_allclose(one_pass["increase"], [0, 0, 0, *lost(-1, -1)], atol=1e-12)
    np.testing.assert_allclose(greedy["increase"], [0, *lost(-1, 6), 0, *lost(-7, -1)], atol=1e-12)


def test_of_units_that_need_each_other_one_is_enough() -> None:
    """Units 0 and 1 are heard only together, unit 2 a little."""
    network = Toy([[1.0, 1, 0], [0.0, 0, 1]], [-1.0, 0.0], first=[[5.0, 0.5], [0, 0]], second=voting(1, 1))
    trials = shown(np.ones((1, 3)), first=[0], second=[1])
    one_pass, greedy = (ranked(network, trials, "first", greedy_p=p) for p in (0, 0.5))
    assert one_pass["unit"].tolist() == [0, 1, 2] and greedy["unit"].tolist() == [0, 2, 1]
    np.testing.assert_allclose(one_pass["increase"], lost(5.5, 5, 5, 0.5), atol=1e-12)
    np.testing.assert_allclose(greedy["increase"], lost(5.5, 5) + lost(0.5, 0.5) + lost(0, 0), atol=1e-12)


@pytest.mark.parametrize("greedy_p", [0.0, 0.5])
def test_of_equal_units_the_lower_number_goes_first(greedy_p: float) -> None:
    votes = [1.0, 0, 3, 0, 1, 3, 0, 3]
    network = Toy(np.eye(8).tolist(), [0.0] * 8, first=voting(*votes), second=voting(*votes))
    table = ranked(network, shown(np.ones((5, 8)), first=[0] * 5, second=[1] * 5), "first", greedy_p=greedy_p)
    assert table["unit"].tolist() == [2, 5, 7, 0, 4, 1, 3, 6]


def test_classes_may_be_small_integers() -> None:
    network, trials = noisy(4, units=5, n=9)
    small = LabelledImages(trials.images, {task: own.astype(np.int8) for task, own in trials.classes.items()})
    pd.testing.assert_frame_equal(ranked(network, small, "first"), ranked(network, trials, "first"))


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_the_size_of_batches_is_no_matter(batch_size: int) -> None:
    network, trials = noisy(2, units=11, n=24)
    loss = {task: (own == 1).astype(float) for task, own in trials.classes.items()}
    for screening in (False, True):
        one, other = (
            ranked(network, trials, loss, greedy_p=0.4, images=20, screening=screening, batch_size=size)
            for size in (64, batch_size)
        )
        pd.testing.assert_frame_equal(one, other, rtol=1e-9, atol=1e-12)


def test_images_of_unknown_class_weigh_nothing() -> None:
    network, trials = noisy(3, units=6, n=17)
    known = trials.classes["first"] >= 0
    assert 5 < known.sum() < 16 and (trials.classes["second"][known] < 0).any()
    pictures = np.where(known[:, None], trials.images(np.arange(17))[..., 0, 0].numpy(), 1e9)
    rest = shown(pictures[known], **{task: own[known] for task, own in trials.classes.items()})
    polluted = shown(pictures, **trials.classes)
    tables = [ranked(network, own, "first", greedy_p=0.4) for own in (rest, polluted)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9, atol=1e-12)


def test_all_units_of_a_round_see_the_same_images_and_every_round_others(monkeypatch: pytest.MonkeyPatch) -> None:
    network, trials = noisy(4, units=5, n=40)
    asked, spy = [], Spy(monkeypatch)
    watched = LabelledImages(lambda rows: (asked.append(rows.tolist()), trials.images(rows))[1], trials.classes)
    table = ranked(network, watched, "second", greedy_p=0.4, images=10, batch_size=4)
    known = set(np.flatnonzero(trials.classes["second"] >= 0))
    assert [len(rows) for rows in asked[1:]] == [4, 4, 2] * 3  # the first tells how many units there are
    rounds = [[row for rows in asked[start : start + 3] for row in rows] for start in (1, 4, 7)]
    assert all(len(set(rows)) == 10 and set(rows) <= known for rows in rounds)
    assert len({tuple(sorted(rows)) for rows in rounds}) == 3
    left = [sorted(table["unit"][done:]) for done in (0, 1, 2)]
    assert spy.singles == [(units, images) for units in left for images in (4, 4, 2)]


def test_screening_finds_clear_winners_with_fewer_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 units, two of them chosen: all on 8 images, 16 on 8, 8 on 16, 8 on 32; the last 30 on all 64."""
    draw, spy = np.random.default_rng(5), Spy(monkeypatch)
    votes = draw.uniform(-0.05, 0.05, size=32)
    votes[[4, 26]] = 3
    head, toy = voting(*votes), (np.eye(32).tolist(), [0.0] * 32)
    trials = shown(draw.uniform(0.5, 1.5, size=(64, 32)), first=[0] * 64, second=[0] * 64)
    shares = {"group_p": 2 / 32, "greedy_p": 2 / 32}
    network = Toy(*toy, first=head, second=head)
    exact = ranked(network, trials, "first", images=64, **shares)
    assert spy.answers == 62 * 64
    screened = ranked(network, trials, "first", images=64, screening=True, **shares)
    assert spy.answers == 32 * 8 + 16 * 8 + 8 * 16 + 8 * 32 + 30 * 64
    assert set(exact["unit"][:2]) == {4, 26}
    pd.testing.assert_frame_equal(screened, exact, rtol=1e-9, atol=1e-12)

    closed = Toy(None, first=head, second=head)  # nothing to save there
    ranked(closed, trials, "first", images=64, screening=True, **shares)
    assert spy.answers == 62 * 64


@pytest.mark.parametrize("images", [1, 2, 3, 7])
def test_screening_drops_no_unit_unseen(images: int) -> None:
    """Also where there are fewer images than parts of a screening."""
    votes = [0.0] * 19 + [4.0]
    network = Toy(np.eye(20).tolist(), [0.0] * 20, first=voting(*votes), second=voting(*votes))
    trials = shown(np.ones((images, 20)), first=[0] * images, second=[0] * images)
    table = ranked(network, trials, "first", greedy_p=0.05, screening=True)
    assert table["unit"][0] == 19


def test_no_image_to_rank_by() -> None:
    network, trials = noisy(6, units=3, n=4)
    with pytest.raises(StudyError, match=r"^no image has a class of the tasks to rank units by\.$"):
        ranked(network, trials, {"first": np.zeros(4), "second": np.zeros(4)})
