"""Networks as people write them: state, constants, wrappers, steps in place, half precision, divisions by zero."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from facespec.analyses.lesions import LabelledImages
from facespec.responses.lesioning import lesion_units
from facespec.stages.user_lesions import LesionOptions, lesion_study, make_plan
from facespec.study.errors import StudyError
from toys import Foreign, random_images

N, UNITS = 24, 6
MEAN, SCALE = torch.tensor([0.3])[:, None, None], torch.tensor([0.7])[:, None, None]
PICTURES = random_images(N, height=9, width=7)
CLASSES = {"a": np.arange(N) % 3, "b": np.arange(N) % 2}
Tables = dict[str, pd.DataFrame]
Steps = Callable[[Any, torch.Tensor], torch.Tensor]


def make_network(
    before: Steps = lambda n, x: x, behind: Steps = lambda n, x: x, **parts: Callable[[], nn.Module]
) -> Foreign:
    """Two heads on a convolution, with steps `before` and `behind` it."""

    def run(n: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = n.next(behind(n, n.relu(n.norm(n.conv(before(n, images))))))
        return {task: getattr(n, task)(torch.relu(maps).mean(dim=(2, 3))) for task in ("a", "b")}

    common: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(1, UNITS, 3),
        "norm": lambda: nn.BatchNorm2d(UNITS),
        "relu": nn.ReLU,
        "next": lambda: nn.Conv2d(UNITS, 5, 3),
        "a": lambda: nn.Linear(5, 3),
        "b": lambda: nn.Linear(5, 2),
    }
    network = Foreign(run, **common | parts)
    with torch.no_grad():
        for head in (network.a, network.b):
            head.weight *= 20
    return network


def study(network: nn.Module, *, layer: str = "conv", workers: int = 1, pictures: torch.Tensor = PICTURES) -> Tables:
    """The images are given out as they are, so that whoever changes them changes them for all."""
    images = LabelledImages(lambda rows: pictures if np.array_equal(rows, np.arange(N)) else pictures[rows], CLASSES)
    plan = make_plan(images=N, greedy_p=0.0, random=2, shuffled=1, draws=100, fractions=[0.5])
    options = LesionOptions(plan, workers=workers)
    return lesion_study(network, [layer], train=images, test=images, options=options)


def assert_equal_tables(got: Tables, wanted: Tables) -> None:
    for name, table in got.items():
        pd.testing.assert_frame_equal(table, wanted[name], check_exact=True)


def refuse(network: nn.Module, **options: Any) -> str:
    with pytest.raises(StudyError) as error:
        study(network, **options)
    return str(error.value)


# -- state


class Keeper(nn.Module):
    """Stores its input, and reads it after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        self.kept = self.last = maps
        time.sleep(0.002)
        return self.kept + self.last / 2


class Locked(Keeper):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Cell(nn.Module):
    """Stores its input in a cell of a function."""

    def __init__(self) -> None:
        super().__init__()
        cell: list[torch.Tensor] = []

        def store(maps: torch.Tensor) -> None:
            cell[:] = [maps]

        def read() -> torch.Tensor:
            return cell[0]

        self.store, self.read = store, read

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        self.store(maps)
        time.sleep(0.002)
        return self.read()


@pytest.mark.parametrize("keeper", [Keeper, Locked, Cell])
def test_modules_that_store_tensors_give_the_same_tables_with_any_number_of_workers(
    keeper: Callable[[], nn.Module],
) -> None:
    network = make_network(behind=lambda n, x: n.keeper(x), keeper=keeper)
    assert_equal_tables(study(network, workers=4), study(network))


# -- the input


def normalise_in_place(_: Any, images: torch.Tensor) -> torch.Tensor:
    return images.sub_(MEAN).div_(SCALE)


def write_constants(_: Any, images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor([0.3])[:, None, None]) / torch.tensor([0.7])[:, None, None]


def read_buffers(n: Any, images: torch.Tensor) -> torch.Tensor:
    return (images - n.mean_of_images) / n.scale_of_images


@pytest.mark.parametrize("normalise", [normalise_in_place, write_constants, lambda _, x: (x - MEAN) / SCALE])
def test_ways_to_normalise_images_give_the_tables_of_buffers(normalise: Steps) -> None:
    """Constants in `forward`, global ones, and steps in place; the images stay as they are."""
    with_buffers, pictures = make_network(read_buffers), PICTURES.clone()
    with_buffers.register_buffer("mean_of_images", MEAN)
    with_buffers.register_buffer("scale_of_images", SCALE)
    assert_equal_tables(study(make_network(normalise), pictures=pictures), study(with_buffers))
    assert torch.equal(pictures, PICTURES)


# -- wrappers


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(nn.DataParallel, "module."), (lambda n: torch.compile(n, backend="eager"), "_orig_mod.")],
)
def test_wrapped_networks_are_lesioned_within(wrap: Callable[[nn.Module], Any], prefix: str) -> None:
    """Layers have the names that the wrapped network gives them; wrapped parts work, too."""
    expected, part = study(make_network()), make_network()
    part.next = wrap(part.next)
    assert_equal_tables(study(part), expected)
    rankings = []  # with another name of the layer, images are drawn in another order
    for tables in (study(wrap(make_network()), layer=f"{prefix}conv"), expected):
        ranking = tables["lesion_ranking"].query("condition == 'ranked'")
        rankings.append(ranking.set_index(["ranked_by", "unit"])["increase"].sort_index())
    pd.testing.assert_series_equal(*rankings, rtol=1e-4, atol=1e-6)


# -- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer", ["conv", "next"])
def test_networks_in_half_precision_rank_units_as_forward_passes_do(dtype: torch.dtype, layer: str) -> None:
    """Losses in float32; `next` is read by the heads."""
    network, pictures = make_network().to(dtype), PICTURES.to(dtype)
    ranking = study(network, layer=layer, pictures=pictures)["lesion_ranking"].query("condition == 'ranked'")
    units, increases = ranking["unit"].max() + 1, {}
    for unit in [None, *range(units)]:
        lesion = torch.zeros(units, dtype=torch.bool)
        if unit is not None:
            lesion[unit] = True
        with torch.no_grad(), lesion_units(network, {layer: lesion}):
            for task, logits in network(pictures).items():
                loss = functional.cross_entropy(logits.double(), torch.from_numpy(CLASSES[task])).item()
                increases[task, unit] = loss - increases.get((task, None), 0)
    for task, rows in ranking.groupby("ranked_by"):
        expected = [increases[task, unit] for unit in rows["unit"]]
        assert stats.spearmanr(rows["increase"], expected).statistic > 0.999
        np.testing.assert_allclose(rows["increase"], expected, atol=2e-3)


# -- divisions by zero


def test_logits_that_are_nan_under_a_lesion_are_refused_before_the_sweep() -> None:
    message = refuse(make_network(behind=lambda n, x: x / x.flatten(1).norm(dim=1)[:, None, None, None]))
    assert "with 6 of 6 units of layer 'conv' lesioned (units 0, 1, 2, 3, 4, 5), logits of task 'a' are NaN" in message


def test_one_unit_without_which_logits_are_nan_is_named() -> None:
    message = refuse(make_network(behind=lambda n, x: x / x[:, 4:5].mean(dim=(2, 3), keepdim=True).abs()))
    assert "with 6 of 6 units" in message or "with 1 of 6 units of layer 'conv' lesioned (units 4), logits" in message
