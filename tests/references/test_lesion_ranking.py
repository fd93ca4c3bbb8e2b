"""Rankings of units against a second opinion: the whole network, one lesion at a time, units set to 0 in a hook.

Greedy search as two loops, over rounds and units. Everything is float64, so that sums in another order, and batch norms
folded into weights, agree to a billionth; no two units may be closer than that, which is checked.
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
from toys import randomise_weights, seeded

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = {"one": (17, 11), "branches": (15, 12), "vgg16": (33, 35)}
UNITS = {"one": (9, 5, 7), "branches": (6, 5)}  # of convolutions 1, 2, ...
CLASSES = {"expression": 4, "identity": 5}
LAYERS = {
    "one": ["trunk.conv1", "trunk.conv2", "trunk.conv3"],
    "branches": ["trunk.conv1", "trunk.conv2", "branches.expression.conv3", "branches.identity.conv4"],
    "vgg16": ["trunk.conv7", "trunk.conv13"],
}


@pytest.fixture
def make_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], nn.Module]:
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", tuple((6 + i % 2,) * len(b) for i, b in enumerate(trunks.VGG16_BLOCKS)))
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 9)

    def make(name: str) -> nn.Module:
        block = NetworkBlock(
            trunk="vgg16" if name == "vgg16" else "small_vgg",
            channels=list(UNITS.get(name, (1,))),
            convolutions=2 if name == "branches" else 1,
            branch_after="conv2" if name == "branches" else None,
        )
        network = build_network(block, CLASSES, channels=1, generator=seeded(1))
        return randomise_weights(network, norm_bias=(-0.1, 0.6), shift=-0.3)

    return make


def compute_loss(
    network: nn.Module, images: LabelledImages, weights: Objective, module: str, lesion: list[int]
) -> float:
    """The mean over tasks of weighted mean cross-entropies, from one forward pass with units of `module` set to 0."""

    def hook(_: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(1, torch.tensor(lesion, dtype=torch.int64), 0)

    handle = network.get_submodule(module).register_forward_hook(hook)
    with torch.no_grad():
        logits = network(images.images(np.arange(len(images))))
    handle.remove()
    terms = []
    for task, values in weights.items():
        used = values > 0
        if used.any():
            targets = torch.from_numpy(images.classes[task][used])
            each = functional.cross_entropy(logits[task][used], targets, reduction="none")
            terms.append(float(np.average(each.numpy(), weights=values[used])))
    return sum(terms) / len(weights)


@pytest.mark.parametrize("loss", ["expression", "identity", "shuffled"])
@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name, layers in LAYERS.items() for layer in layers])
def test_the_ranking_is_that_of_two_loops(
    make_network: Callable[[str], nn.Module], name: str, layer: str, loss: str
) -> None:
    network, draw, requests = make_network(name), np.random.default_rng(2), []
    classes = {task: draw.integers(-1, known, size=19) for task, known in CLASSES.items()}
    pixels = torch.from_numpy(draw.normal(size=(19, 1, *SIZE[name])))

    def load(positions: np.ndarray) -> torch.Tensor:
        requests.append(positions)
        return pixels[positions]

    images, search = LabelledImages(load, classes), Search(0.26, 0.55, 11)
    shuffled = shuffle_objectives(images, np.random.default_rng(5))[1]
    weights = shuffled if loss == "shuffled" else make_objective(images, loss)
    lesioned = LesionedNetwork(network, layer)
    table = rank_units(lesioned, images, weights, search=search, generator=np.random.default_rng(6))

    module = layer.replace("conv", "relu")
    lesion: list[int] = []
    remaining, sizes, expected, gaps = list(range(len(table))), search.plan_rounds(len(table)), [], []
    assert len(sizes) > 2 and len(requests) == 1 + len(sizes), "the first request only counts units"
    for i, (size, rows) in enumerate(zip(sizes, requests[1:], strict=True)):
        batch = LabelledImages(
            lambda _, rows=rows: pixels[rows], {task: codes[rows] for task, codes in classes.items()}
        )
        round_weights = {task: values[rows] for task, values in weights.items()}
        before = compute_loss(network, batch, round_weights, module, lesion)
        increase = {
            unit: compute_loss(network, batch, round_weights, module, [*lesion, unit]) - before for unit in remaining
        }
        order = sorted(remaining, key=lambda unit: -increase[unit])
        gaps += [increase[first] - increase[second] for first, second in pairwise(order)]
        expected += [(unit, i, increase[unit]) for unit in order[:size]]
        lesion, remaining = lesion + order[:size], order[size:]
    if layer.startswith("branches.") and loss not in (layer.split(".")[1], "shuffled"):
        # units of a branch do not influence the other task: their order is a matter of rounding
        assert sorted(table["unit"]) == list(range(len(table)))
        np.testing.assert_allclose(table["increase"], 0, atol=1e-12)
    else:
        assert min(gaps) > 1e-9, "two units are too similar for this comparison: change the weights"
        assert table["unit"].tolist() == [unit for unit, _, _ in expected]
    assert table["round"].tolist() == [number for _, number, _ in expected]
    np.testing.assert_allclose(table["increase"], [number for _, _, number in expected], rtol=1e-8, atol=1e-10)
