"""Rankings of units against a second opinion: the whole network, one lesion at a time, units set to 0 in a hook.

Greedy search as two loops, over rounds and units. Everything is float64, so that sums in another order, and batch norms
folded into weights, agree to a billionth; that no two units are closer than that is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from facespec.analyses.lesions import LabelledImages, Objective, Search, make_objective, rank_units, shuffle_objectives
from facespec.models import trunks
from facespec.models.networks import build_network
from facespec.responses.lesioned import LesionedNetwork
from facespec.study.params import NetworkBlock

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = {"one": (17, 11), "branches": (15, 12), "vgg16": (33, 35)}
UNITS = {"one": (9, 5, 7), "branches": (6, 5)}  # of convolutions 1, 2, ...
CASES = [("one", f"trunk.conv{i}") for i in (1, 2, 3)]
CASES += [
    ("branches", name)
    for name in ("trunk.conv1", "trunk.conv2", "branches.expression.conv3", "branches.identity.conv4")
]
CASES += [("vgg16", "trunk.conv7"), ("vgg16", "trunk.conv13")]


def stirred(network: nn.Module) -> nn.Module:
    """In float64, with weights that let every layer be heard, and batch norms that are far from the identity."""
    draw, network = torch.Generator().manual_seed(3), network.double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2),
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.1, 0.6),
                ):
                    tensor.copy_(torch.rand(tensor.shape, generator=draw) * (high - low) + low)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                scale = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=draw) * scale)
                if module.bias is not None:
                    module.bias.copy_(torch.rand(module.bias.shape, generator=draw) - 0.3)
    return network


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], nn.Module]:
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", tuple((6 + i % 2,) * len(b) for i, b in enumerate(trunks.VGG16_BLOCKS)))
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 9)

    def make(name: str) -> nn.Module:
        block = NetworkBlock(
            trunk="vgg16" if name == "vgg16" else "small_vgg",
            channels=list(UNITS.get(name, (1,))),
            convolutions=2 if name == "branches" else 1,
            branch_after="conv2" if name == "branches" else None,
        )
        draws = torch.Generator().manual_seed(1)
        return stirred(build_network(block, {"expression": 4, "identity": 5}, channels=1, generator=draws))

    return make


def faces_like(name: str, *, n: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    draw = np.random.default_rng(2)
    classes = {task: draw.integers(-1, known, size=n) for task, known in (("expression", 4), ("identity", 5))}
    return torch.from_numpy(draw.normal(size=(n, 1, *SIZE[name]))), classes


def loss_of(
    network: nn.Module,
    images: torch.Tensor,
    classes: dict[str, np.ndarray],
    weights: Objective,
    *,
    place: str,
    silent: list[int],
) -> float:
    """The mean over tasks of weighted mean cross-entropies, from one forward pass with silent units."""

    def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        for unit in silent:
            changed[:, unit] = 0
        return changed

    handle = network.get_submodule(place).register_forward_hook(hook)
    with torch.no_grad():
        answers = network(images)
    handle.remove()
    terms = []
    for task, own in weights.items():
        seen = own > 0
        if seen.any():
            each = functional.cross_entropy(
                answers[task][seen], torch.from_numpy(classes[task][seen]), reduction="none"
            )
            terms.append(float(np.average(each.numpy(), weights=own[seen])))
    return sum(terms) / len(weights)


@pytest.mark.parametrize("loss", ["expression", "identity", "shuffled"])
@pytest.mark.parametrize(("name", "layer"), CASES, ids=lambda name: str(name))
def test_the_ranking_is_that_of_two_loops(made: Callable[[str], nn.Module], name: str, layer: str, loss: str) -> None:
    network = made(name)
    pictures, classes = faces_like(name, n=19)
    drawn: list[np.ndarray] = []

    def images(positions: np.ndarray) -> torch.Tensor:
        drawn.append(positions)
        return pictures[positions]

    trials = LabelledImages(images, classes)
    weights = (
        shuffle_objectives(trials, np.random.default_rng(5))[1] if loss == "shuffled" else make_objective(trials, loss)
    )
    search = Search(0.26, 0.55, 11)
    table = rank_units(
        LesionedNetwork(network, layer), trials, weights, search=search, generator=np.random.default_rng(6)
    )

    head, number = layer.rsplit("conv", 1)
    silent: list[int] = []
    left, groups, wanted, gaps = list(range(len(table))), search.groups(len(table)), [], []
    assert len(groups) > 2 and len(drawn) == 1 + len(groups)  # the first tells how many units there are
    for i, (size, rows) in enumerate(zip(groups, drawn[1:], strict=True)):
        shown = pictures[rows], {task: own[rows] for task, own in classes.items()}
        own_weights = {task: own[rows] for task, own in weights.items()}
        whole = loss_of(network, *shown, own_weights, place=f"{head}relu{number}", silent=silent)
        increase = {
            unit: loss_of(network, *shown, own_weights, place=f"{head}relu{number}", silent=[*silent, unit]) - whole
            for unit in left
        }
        order = sorted(left, key=lambda unit: -increase[unit])
        gaps += [increase[one] - increase[other] for one, other in pairwise(order)]
        wanted += [(unit, i, increase[unit]) for unit in order[:size]]
        silent, left = silent + order[:size], order[size:]
    answered = branch_of(layer) in (None, loss) or loss == "shuffled"
    if answered:
        assert min(gaps) > 1e-9
        assert table["unit"].tolist() == [unit for unit, _, _ in wanted]
    else:  # units of a branch are nothing to the other task: which comes first is a matter of rounding
        assert sorted(table["unit"]) == list(range(len(table)))
        np.testing.assert_allclose(table["increase"], 0, atol=1e-12)
    assert table["round"].tolist() == [number for _, number, _ in wanted]
    np.testing.assert_allclose(table["increase"], [number for _, _, number in wanted], rtol=1e-8, atol=1e-10)


def branch_of(layer: str) -> str | None:
    """The task whose branch `layer` belongs to, if any."""
    return layer.split(".")[1] if layer.startswith("branches.") else None
