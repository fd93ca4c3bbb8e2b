"""Lesioned units stay silent up to the next layer, on all paths; where they cannot, the layer is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from facespec.models.silence import find_lesion_modules
from facespec.responses.lesioned import LesionedNetwork
from facespec.responses.lesioning import lesion_units
from facespec.study.errors import StudyError
from toys import Foreign, random_images

UNITS, N = 4, 3
Steps = Callable[[Any, torch.Tensor], torch.Tensor]


def make_heads(one: Steps, other: Steps | None = None) -> Foreign:
    """Two heads, each of which reads its steps behind one convolution, or the same; norms give about 1 for 0."""

    def run(n: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = n.conv(images)
        first = one(n, maps)
        second = other(n, maps) if other else first
        return {"one": n.one(first.mean(dim=(2, 3))), "two": n.two(second.mean(dim=(2, 3)))}

    parts: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(1, UNITS, 3, padding=1),
        "norm1": lambda: nn.BatchNorm2d(UNITS),
        "norm2": lambda: nn.BatchNorm2d(UNITS),
        "flat": lambda: nn.BatchNorm1d(UNITS),
        "cells": lambda: nn.BatchNorm1d(UNITS * 63),
        "last": lambda: nn.Linear(UNITS * 63, UNITS, bias=False),
        "relu": nn.ReLU,
        "soft": nn.Softplus,
        "skip": lambda: nn.Conv2d(UNITS, UNITS, 1),
        "one": lambda: nn.Linear(UNITS, 3),
        "two": lambda: nn.Linear(UNITS, 2),
    }
    network = Foreign(run, **parts)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.bias)
    network.register_buffer("shift", torch.tensor([1.0, 2, 3, 4])[:, None, None])
    return network


AWAKE: dict[str, tuple[Steps, Steps | None]] = {  # steps that give another value than 0 for 0, seen by torch.fx only
    "a norm for each task": (lambda n, x: n.norm1(x), lambda n, x: n.norm2(x)),
    "and rectifiers": (lambda n, x: n.relu(n.norm1(x)), lambda n, x: functional.relu(n.norm2(x), inplace=True)),
    "one task's norm": (lambda n, x: n.norm1(x), lambda n, x: x),
    "mean": (lambda n, x: n.flat(x.mean((2, 3)))[:, :, None, None], None),
    "mean of negative dimensions": (lambda n, x: n.norm1(torch.mean(x, dim=[-1, -2], keepdim=True)), None),
    "average pool": (lambda n, x: n.norm1(functional.adaptive_avg_pool2d(x, 2)), None),
    "maximum pool": (lambda n, x: n.norm1(functional.max_pool2d(x, 2)), None),
    "dropout": (lambda n, x: n.norm1(functional.dropout(x, 0.5, training=False)), None),
    "product": (lambda n, x: n.norm1(2 * x) / 3, None),
    "product with weights": (lambda n, x: n.norm1(x * n.shift), None),
    "norm as a function": (
        lambda n, x: functional.batch_norm(x, n.norm1.running_mean, n.norm1.running_var, bias=n.norm1.bias),
        None,
    ),
    "sum with weights": (lambda n, x: x * 3 + n.shift, None),
    "sum with a number": (lambda n, x: torch.relu(1 - x), None),
    "sigmoid behind a pool": (lambda n, x: functional.max_pool2d(x, 2).sigmoid(), None),
    "two norms": (lambda n, x: n.norm2(functional.max_pool2d(n.norm1(x), 2)), None),
    "norm of flat maps": (lambda n, x: n.last(n.cells(x.flatten(1)))[:, :, None, None], None),
}


def lesion_all(network: nn.Module) -> dict[str, torch.Tensor]:
    lesioned = LesionedNetwork(network, "conv")
    batch = lesioned.prepare_batch(random_images(N, height=9, width=7))
    ((_, logits),) = lesioned.compute_logits(batch, torch.ones((1, UNITS), dtype=torch.bool))
    return logits


@pytest.mark.parametrize("case", AWAKE)
def test_without_any_unit_only_the_biases_of_the_heads_remain(case: str) -> None:
    network = make_heads(*AWAKE[case])
    for task, logits in lesion_all(network).items():
        torch.testing.assert_close(logits[0], getattr(network, task).bias.expand(N, -1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", AWAKE)
def test_single_lesions_are_sets_of_one_and_those_of_the_context(case: str) -> None:
    """The context needs modules: functions that wake units are refused there."""
    network, images = make_heads(*AWAKE[case]), random_images(N, height=9, width=7)
    lesioned, units = LesionedNetwork(network, "conv"), torch.arange(UNITS)
    batch, none = lesioned.prepare_batch(images), torch.zeros(UNITS, dtype=torch.bool)
    ((_, sets),) = lesioned.compute_logits(batch, torch.eye(UNITS).bool())
    ((_, singles),) = lesioned.compute_single_lesions(batch, none, units)
    torch.testing.assert_close(singles, sets, rtol=1e-5, atol=1e-5)
    if case in ("norm as a function", "sum with weights", "sum with a number", "sigmoid behind a pool"):
        with pytest.raises(StudyError, match=r"units of layer 'conv' cannot be lesioned: .* does not give 0 for 0"):
            find_lesion_modules(network, "conv")
        return
    for unit in range(UNITS):
        lesion = torch.arange(UNITS) == unit
        with torch.no_grad(), lesion_units(network, {"conv": lesion}):
            expected = network(images)
        torch.testing.assert_close({task: rows[unit] for task, rows in sets.items()}, expected, rtol=1e-5, atol=1e-5)


def test_modules_that_are_lesioned_for_every_reader() -> None:
    assert find_lesion_modules(make_heads(*AWAKE["a norm for each task"]), "conv") == ["conv", "norm1", "norm2"]
    assert find_lesion_modules(make_heads(*AWAKE["one task's norm"]), "conv") == ["conv", "norm1"]


@pytest.mark.parametrize(
    "steps",
    [
        lambda n, x: n.norm1(n.relu(x)),  # a norm behind the rectifier is the next layer's
        lambda n, x: n.norm1(n.skip(x)),
        lambda n, x: n.relu(x + n.skip(x)),
    ],
)
def test_what_lies_behind_a_rectifier_or_a_layer_is_no_site(steps: Steps) -> None:
    assert not LesionedNetwork(make_heads(steps), "conv").cut.sites


@pytest.mark.parametrize("function", [LesionedNetwork, find_lesion_modules])
@pytest.mark.parametrize(
    "steps",
    [
        lambda n, x: n.norm1(x + n.skip(x)),
        lambda n, x: n.relu(n.norm1(functional.dropout((2 * x) + n.skip(x), training=False))),
        lambda n, x: n.norm1(torch.cat([x[:, 2:], x[:, :2]], 1)),
        lambda n, x: functional.layer_norm(x.permute(0, 2, 3, 1), (UNITS,)).permute(0, 3, 1, 2),
    ],
)
def test_a_norm_behind_units_that_are_mixed_is_refused(steps: Steps, function: Callable[..., Any]) -> None:
    message = (
        "lesioned units of layer 'conv' would be nonzero behind .*, where .* has mixed them with others. Name that"
    )
    with pytest.raises(StudyError, match=message):
        function(make_heads(steps), "conv")
