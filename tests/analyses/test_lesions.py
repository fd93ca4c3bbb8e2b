"""Rankings of small networks whose losses are known by hand, or from a loop over units and images."""

from __future__ import annotations

import itertools
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
        weights |= {f"heads.{task}.weight": torch.as_tensor(weight) for task, weight in heads.items()}
        if hidden is not None:
            weights |= {"hidden.0.weight": torch.tensor(hidden), "hidden.0.bias": torch.tensor(bias)}
        self.load_state_dict(weights)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        responses = self.hidden(self.flat(self.relu(self.units(images))))
        return {task: head(responses) for task, head in self.heads.items()}


def make_head(*weights: float) -> list[list[float]]:
    """Weights of units for class 0; the logit of class 1 is 0."""
    return [list(weights), [0.0] * len(weights)]


def label(responses: np.ndarray, **classes: Sequence[int]) -> LabelledImages:
    pixels = torch.from_numpy(np.asarray(responses, dtype=np.float64))[:, :, None, None]
    codes = {task: np.array(labels, dtype=np.int64) for task, labels in classes.items()}
    return LabelledImages(lambda positions: pixels[positions], codes)


def rank(network: nn.Module, labelled: LabelledImages, objective: Objective | str, **search: float) -> pd.DataFrame:
    objective = make_objective(labelled, objective) if isinstance(objective, str) else objective
    options = Search(**({"group_p": 0.01, "greedy_p": 0.0, "images": 1000} | search))
    lesioned = LesionedNetwork(network, "units")
    return rank_units(lesioned, labelled, objective, search=options, generator=np.random.default_rng(8))


def make_random(seed: int, *, units: int, n: int) -> tuple[Toy, LabelledImages]:
    """A random network and images; some classes are not known."""
    draw = np.random.default_rng(seed)
    hidden, heads = draw.normal(size=(9, units)), draw.normal(size=(2, 2, 9))
    network = Toy(hidden.tolist(), draw.normal(size=9).tolist(), first=heads[0], second=heads[1])
    classes = draw.integers(-1, 2, size=(2, n))
    return network, label(draw.uniform(size=(n, units)), first=classes[0], second=classes[1])


def compute_loss(network: nn.Module, images: LabelledImages, weights: Objective, lesion: Sequence[int]) -> float:
    """The loss, image by image, of the whole network with units set to 0."""
    index, terms = torch.tensor(lesion, dtype=torch.int64), []
    handle = network.relu.register_forward_hook(lambda module, inputs, output: output.index_fill(1, index, 0))
    for task, values in weights.items():
        total = 0.0
        for i in np.flatnonzero(values):
            target = torch.tensor([images.classes[task][i]])
            total += values[i] * functional.cross_entropy(network(images.images(np.array([i])))[task], target).item()
        terms.append(total / values.sum())
    handle.remove()
    return sum(terms) / len(terms)


class LesionSpy:
    """Records the units and the number of images of every computation of single lesions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[list[int], int]] = []
        original: Callable[..., Iterator[object]] = LesionedNetwork.compute_single_lesions

        def record(lesioned: LesionedNetwork, batch: object, mask: object, units: torch.Tensor) -> Iterator[object]:
            self.calls.append((sorted(units.tolist()), len(batch)))
            return original(lesioned, batch, mask, units)

        monkeypatch.setattr(LesionedNetwork, "compute_single_lesions", record)

    def count(self) -> int:
        """Lesions times images since the last count."""
        total = sum(len(units) * images for units, images in self.calls)
        self.calls.clear()
        return total


WEIGHTS = (2.0, -1.0, 4.0, 0.5, 0.0)


def compute_increases(margin: float, *weights: float) -> list[float]:
    """Increases of the loss of an image of class 0 with that margin, for the lesion of each unit by itself."""
    return [float(np.logaddexp(0, weight - margin) - np.logaddexp(0, -margin)) for weight in weights]


@pytest.mark.parametrize("hidden", [None, np.eye(5).tolist()], ids=["closed form", "hidden layer"])
def test_rankings_by_hand(hidden: list[list[float]] | None) -> None:
    network = Toy(hidden, [0.0] * 5, first=make_head(*WEIGHTS), second=make_head(0, 0, 0, 0, 1))
    images = label(np.ones((3, 5)), first=[0, 0, 0], second=[0, 1, -1])
    one_pass = rank(network, images, "first")
    assert list(one_pass) == ["rank", "unit", "round", "increase"] and set(one_pass["round"]) == {0}
    assert one_pass["rank"].tolist() == [0, 1, 2, 3, 4] and one_pass["unit"].tolist() == [2, 0, 3, 4, 1]
    np.testing.assert_allclose(one_pass["increase"], compute_increases(5.5, 4, 2, 0.5, 0, -1), atol=1e-12)

    greedy = rank(network, images, "first", group_p=0.2, greedy_p=0.4)
    assert greedy["unit"].tolist() == [2, 0, 3, 4, 1] and greedy["round"].tolist() == [0, 1, 2, 2, 2]
    increases = compute_increases(5.5, 4) + compute_increases(1.5, 2) + compute_increases(-0.5, 0.5, 0, -1)
    np.testing.assert_allclose(greedy["increase"], increases, atol=1e-12)

    pairs = rank(network, images, "first", group_p=0.4, greedy_p=0.6)
    assert pairs["round"].tolist() == [0, 0, 1, 2, 2]
    increases = compute_increases(5.5, 4, 2) + compute_increases(-0.5, 0.5) + compute_increases(-1, 0, -1)
    np.testing.assert_allclose(pairs["increase"], increases, atol=1e-12)


def test_images_count_by_their_weight_and_tasks_equally() -> None:
    network, images = make_random(1, units=7, n=13)
    weights = {task: np.where(classes < 0, 0.0, np.arange(13) % 4) for task, classes in images.classes.items()}
    table = rank(network, images, weights, greedy_p=0.3)
    lesion: list[int] = []
    for number in range(3):
        before, rows = compute_loss(network, images, weights, lesion), table[table["round"] == number]
        increases = [compute_loss(network, images, weights, [*lesion, unit]) - before for unit in rows["unit"]]
        np.testing.assert_allclose(rows["increase"], increases, rtol=1e-9, atol=1e-12)
        lesion += rows["unit"].tolist()
    assert sorted(lesion) == list(range(7)) and lesion[:2] != [0, 1]


def test_only_the_greedy_ranking_finds_redundant_units() -> None:
    """Either of units 0 and 3 is enough; unit 1 has no effect, and unit 2 a wrong one."""
    hidden = [[-1.0, 0, 0, -1], [0.0, 0, 1, 0]]  # the first hidden unit responds if both 0 and 3 are lesioned
    network = Toy(hidden, [1.0, 0.0], first=[[-6.0, -1], [0, 0]], second=make_head(1, 1))
    images = label(np.ones((2, 4)), first=[0, 0], second=[0, 1])
    one_pass, greedy = (rank(network, images, "first", greedy_p=p) for p in (0, 0.5))
    assert one_pass["unit"].tolist() == [0, 1, 3, 2] and greedy["unit"].tolist() == [0, 3, 1, 2]
    np.testing.assert_allclose(one_pass["increase"], [0, 0, 0, *compute_increases(-1, -1)], atol=1e-12)
    increases = [0, *compute_increases(-1, 6), 0, *compute_increases(-7, -1)]
    np.testing.assert_allclose(greedy["increase"], increases, atol=1e-12)


def test_only_the_greedy_ranking_chooses_one_of_units_that_need_each_other() -> None:
    """Units 0 and 1 have an effect only together, unit 2 a small one."""
    network = Toy([[1.0, 1, 0], [0.0, 0, 1]], [-1.0, 0.0], first=[[5.0, 0.5], [0, 0]], second=make_head(1, 1))
    images = label(np.ones((1, 3)), first=[0], second=[1])
    one_pass, greedy = (rank(network, images, "first", greedy_p=p) for p in (0, 0.5))
    assert one_pass["unit"].tolist() == [0, 1, 2] and greedy["unit"].tolist() == [0, 2, 1]
    np.testing.assert_allclose(one_pass["increase"], compute_increases(5.5, 5, 5, 0.5), atol=1e-12)
    increases = compute_increases(5.5, 5) + compute_increases(0.5, 0.5) + compute_increases(0, 0)
    np.testing.assert_allclose(greedy["increase"], increases, atol=1e-12)


@pytest.mark.parametrize("greedy_p", [0.0, 0.5])
def test_of_equal_units_the_lower_number_comes_first(greedy_p: float) -> None:
    head = make_head(1.0, 0, 3, 0, 1, 3, 0, 3)
    network = Toy(np.eye(8).tolist(), [0.0] * 8, first=head, second=head)
    table = rank(network, label(np.ones((5, 8)), first=[0] * 5, second=[1] * 5), "first", greedy_p=greedy_p)
    assert table["unit"].tolist() == [2, 5, 7, 0, 4, 1, 3, 6]


def test_classes_may_be_small_integers() -> None:
    network, images = make_random(4, units=5, n=9)
    small = LabelledImages(images.images, {task: codes.astype(np.int8) for task, codes in images.classes.items()})
    pd.testing.assert_frame_equal(rank(network, small, "first"), rank(network, images, "first"))


@pytest.mark.parametrize("screening", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_has_no_influence(batch_size: int, screening: bool) -> None:
    network, images = make_random(2, units=11, n=24)
    loss, search = {task: (codes == 1).astype(float) for task, codes in images.classes.items()}, {"greedy_p": 0.4}
    first, second = (
        rank(network, images, loss, images=20, screening=screening, batch_size=size, **search)
        for size in (64, batch_size)
    )
    pd.testing.assert_frame_equal(first, second, rtol=1e-9, atol=1e-12)


def test_images_of_unknown_class_have_no_weight() -> None:
    network, images = make_random(3, units=6, n=17)
    known = images.classes["first"] >= 0
    assert 5 < known.sum() < 16 and (images.classes["second"][known] < 0).any()
    pixels = np.where(known[:, None], images.images(np.arange(17))[..., 0, 0].numpy(), 1e9)
    only_known = label(pixels[known], **{task: codes[known] for task, codes in images.classes.items()})
    tables = [rank(network, own, "first", greedy_p=0.4) for own in (only_known, label(pixels, **images.classes))]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9, atol=1e-12)


def test_units_of_a_round_are_compared_on_the_same_images_and_rounds_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = make_random(4, units=5, n=40)
    requests: list[list[int]] = []
    spy = LesionSpy(monkeypatch)

    def load(positions: np.ndarray) -> torch.Tensor:
        requests.append(positions.tolist())
        return images.images(positions)

    table = rank(network, LabelledImages(load, images.classes), "second", greedy_p=0.4, images=10, batch_size=4)
    known = set(np.flatnonzero(images.classes["second"] >= 0))
    assert [len(positions) for positions in requests[1:]] == [4, 4, 2] * 3, "the first only counts units"
    rounds = [[*itertools.chain(*requests[start : start + 3])] for start in (1, 4, 7)]
    assert all(len(set(positions)) == 10 and set(positions) <= known for positions in rounds)
    assert len({tuple(sorted(positions)) for positions in rounds}) == 3
    remaining = [sorted(table["unit"][start:]) for start in (0, 1, 2)]
    assert spy.calls == [(units, images) for units in remaining for images in (4, 4, 2)]


def test_screening_finds_clear_winners_with_fewer_computations(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 units, two of them chosen: all on 8 images, 16 on 8, 8 on 16, 8 on 32; the last 30 on all 64."""
    draw, spy = np.random.default_rng(5), LesionSpy(monkeypatch)
    weights = draw.uniform(-0.05, 0.05, size=32)
    weights[[4, 26]] = 3
    head = make_head(*weights)
    images = label(draw.uniform(0.5, 1.5, size=(64, 32)), first=[0] * 64, second=[0] * 64)
    search = {"group_p": 2 / 32, "greedy_p": 2 / 32, "images": 64}
    network = Toy(np.eye(32).tolist(), [0.0] * 32, first=head, second=head)
    exact = rank(network, images, "first", **search)
    assert spy.count() == 62 * 64
    screened = rank(network, images, "first", screening=True, **search)
    assert spy.count() == 32 * 8 + 16 * 8 + 8 * 16 + 8 * 32 + 30 * 64
    assert set(exact["unit"][:2]) == {4, 26}
    pd.testing.assert_frame_equal(screened, exact, rtol=1e-9, atol=1e-12)
    rank(Toy(None, first=head, second=head), images, "first", screening=True, **search)
    assert spy.count() == 62 * 64, "screening saves nothing where logits have a closed form"


@pytest.mark.parametrize("images", [1, 2, 3, 7])
def test_screening_drops_no_unit_without_a_comparison(images: int) -> None:
    """Also where there are fewer images than parts of a screening."""
    head = make_head(*[0.0] * 19, 4.0)
    network = Toy(np.eye(20).tolist(), [0.0] * 20, first=head, second=head)
    labelled = label(np.ones((images, 20)), first=[0] * images, second=[0] * images)
    assert rank(network, labelled, "first", greedy_p=0.05, screening=True)["unit"][0] == 19


def test_without_weights_nothing_is_ranked() -> None:
    network, images = make_random(6, units=3, n=4)
    with pytest.raises(StudyError, match="no image has a class of the tasks to rank units by"):
        rank(network, images, {"first": np.zeros(4), "second": np.zeros(4)})
