"""Lesions against a second opinion: one lesion at a time, the whole network, units set to 0 in a hook.

Everything is float64, so that sums in another order, and batch norms folded into weights, agree to a billionth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from facespec.models import trunks
from facespec.models.networks import build_network
from facespec.responses.lesioned import LesionedNetwork
from facespec.study.params import NetworkBlock

pytestmark = pytest.mark.usefixtures("one_thread")

Logits = dict[str, torch.Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randn((3, channels, height, width), generator=seeded(2), dtype=torch.float64)


def stirred(network: nn.Module) -> nn.Module:
    """In float64, with weights that let every layer be heard, and batch norms that are far from the identity."""
    draw, network = seeded(3), network.double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2),
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                ):
                    tensor.copy_(torch.rand(tensor.shape, generator=draw) * (high - low) + low)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                scale = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=draw) * scale)
                if module.bias is not None:
                    module.bias.copy_(torch.rand(module.bias.shape, generator=draw) - 0.5)
    return network


def face_network(trunk: str, *, convolutions: int = 1, branch_after: str | None = None) -> nn.Module:
    block = NetworkBlock(trunk=trunk, channels=[3, 5, 4], convolutions=convolutions, branch_after=branch_after)
    return stirred(build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded(1)))


class Wrapped(nn.Module):
    """A network of someone else, whose logits are given to two tasks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.own = network

    def forward(self, images: torch.Tensor) -> Logits:
        logits = self.own(images)
        return {"first": logits[:, :2], "second": logits[:, 2:]}


class Uneven(nn.Module):
    """Convolutions that move, reach and pad differently along both axes; conv2's units are read by two layers.

    Between conv1 and its readers stands a norm that gives something for silent units.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 5, (2, 3), stride=(1, 2), padding=(2, 1), dilation=(3, 1))
        self.pool = nn.MaxPool2d((2, 1), ceil_mode=True)
        self.norm = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 6, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2), bias=False)
        self.elu = nn.ELU()
        self.wide = nn.Conv2d(6, 4, (1, 4), stride=(1, 3), padding=(0, 3))
        self.smooth = nn.AvgPool2d(2, padding=1)
        self.high = nn.Conv2d(6, 3, (4, 1), stride=(2, 1), padding=(3, 0), dilation=(2, 1))
        self.flat = nn.Flatten()
        self.head = nn.Linear(88, 7)

    def forward(self, images: torch.Tensor) -> Logits:
        maps = self.elu(self.conv2(self.norm(self.pool(self.conv1(images)))))
        both = torch.cat([self.wide(maps).flatten(1), self.flat(self.high(self.smooth(maps)))], dim=1)
        return {"only": self.head(both)}


def uneven() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return stirred(Uneven())


def foreign(make: Callable[..., nn.Module]) -> nn.Module:
    """A network of torchvision, to which weights are given here alone: they are not drawn twice."""
    with torch.device("meta"):
        network = make(num_classes=5)
        if isinstance(network, torchvision.models.VGG):
            for i, (inputs, outputs) in {0: (512 * 49, 9), 3: (9, 8), 6: (8, 5)}.items():
                network.classifier[i] = nn.Linear(inputs, outputs)  # 4096 units would take long
    return stirred(Wrapped(network.to_empty(device="cpu")))


# network, the shape of its images, and layer -> the module behind which its units are silent
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], dict[str, str]]] = {
    "one": (
        lambda: face_network("small_vgg"),
        (1, 17, 11),
        {f"trunk.{kind}{i}": f"trunk.relu{i}" for kind in ("conv", "norm", "relu") for i in (1, 2, 3)}
        | {name: name for name in ("trunk.pool1", "trunk.pool2", "trunk.average", "heads.identity")},
    ),
    "two": (
        lambda: face_network("small_vgg", convolutions=2),
        (1, 13, 15),
        {f"trunk.conv{i}": f"trunk.relu{i}" for i in range(1, 7)},
    ),
    "branches": (
        lambda: face_network("small_vgg", convolutions=2, branch_after="conv3"),
        (1, 15, 12),
        {f"trunk.conv{i}": f"trunk.relu{i}" for i in (1, 2, 3)}
        | {
            f"branches.{task}.conv{i}": f"branches.{task}.relu{i}"
            for task in ("expression", "identity")
            for i in (4, 5, 6)
        },
    ),
    "vgg16": (
        lambda: face_network("vgg16"),
        (1, 35, 33),
        {f"trunk.conv{i}": f"trunk.relu{i}" for i in range(1, 14)}
        | {"trunk.pool5": "trunk.pool5", "trunk.fc6": "trunk.relu_fc6", "trunk.fc7": "trunk.relu_fc7"},
    ),
    "vgg16 branches": (
        lambda: face_network("vgg16", branch_after="conv12"),
        (1, 32, 37),
        {"trunk.conv12": "trunk.relu12", "branches.identity.fc6": "branches.identity.relu_fc6"},
    ),
    "uneven": (
        uneven,
        (1, 19, 14),
        {
            "pool": "norm",
            "norm": "norm",
            "conv2": "elu",
            "smooth": "smooth",
            "wide": "wide",
            "high": "high",
            "head": "head",
        },
    ),
    "resnet18": (  # one ReLU is called twice in a block: 0 before it is 0 behind it
        lambda: foreign(torchvision.models.resnet18),
        (3, 19, 23),
        {
            "own.conv1": "own.relu",
            "own.layer2.0.conv1": "own.layer2.0.bn1",
            "own.layer2.0.conv2": "own.layer2.0.bn2",
            "own.layer4.1.conv2": "own.layer4.1.bn2",
        },
    ),
    "vgg11_bn": (
        lambda: foreign(torchvision.models.vgg11_bn),
        (3, 32, 33),
        {"own.features.4": "own.features.6", "own.classifier.0": "own.classifier.1"},
    ),
    "mobilenet_v3_small": (  # followed by a convolution that keeps units apart, squeezing, a sum, and a linear layer
        lambda: foreign(torchvision.models.mobilenet_v3_small),
        (3, 21, 19),
        {
            "own.features.5.block.0.0": "own.features.5.block.0.2",
            "own.features.5.block.2.fc1": "own.features.5.block.2.activation",
            "own.features.5.block.3.0": "own.features.5.block.3.1",
            "own.features.12.0": "own.features.12.2",
        },
    ),
}


CASES = [(name, layer) for name, (_, _, layers) in NETWORKS.items() for layer in layers]


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Made once they are asked for."""
    return {}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(
    request: pytest.FixtureRequest, networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> tuple[nn.Module, torch.Tensor, str, str]:
    """A network, images, a layer, and the place where its units are silent."""
    name, layer = request.param
    make, shape, layers = NETWORKS[name]
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", tuple((3 + i % 2,) * len(b) for i, b in enumerate(trunks.VGG16_BLOCKS)))
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    if name not in networks:
        networks[name] = make()
    return networks[name], pictures(*shape), layer, layers[layer]


def once(network: nn.Module, place: str, images: torch.Tensor, lesion: list[bool]) -> Logits:
    """One forward pass with silent units."""

    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        assert output.shape[1] == len(lesion)
        changed = output.clone()
        for unit, silent in enumerate(lesion):
            if silent:
                changed[:, unit] = 0
        return changed

    handle = network.get_submodule(place).register_forward_hook(hook)
    try:
        with torch.no_grad():
            return network(images)
    finally:
        handle.remove()


def silenced(network: nn.Module, place: str, images: torch.Tensor, lesions: torch.Tensor) -> Logits:
    """Logits (lesions, images, classes)."""
    rows = [once(network, place, images, lesion) for lesion in lesions.tolist()]
    return {task: torch.stack([row[task] for row in rows]) for task in rows[0]}


def joined(parts: Iterator[tuple[slice, Logits]], lesions: int) -> Logits:
    """All parts, which must come in order and leave nothing out."""
    found = list(parts)
    assert [i for part, _ in found for i in range(part.start, part.stop)] == list(range(lesions))
    return {task: torch.cat([logits[task] for _, logits in found]) for task in found[0][1]}


def close(got: Logits, wanted: Logits) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def some(units: int, *, most: int, seed: int) -> torch.Tensor:
    """At most `most` units, the first and the last among them."""
    drawn = torch.randperm(units, generator=seeded(seed))[: max(most - 2, 0)].tolist()
    return torch.tensor(sorted({0, units - 1, *drawn}))


def few(units: int) -> torch.Tensor:
    """About a quarter of the units, as bool."""
    return torch.rand(units, generator=seeded(7)) < 0.25


def test_lesions_are_those_of_the_slow_loop(case: tuple[nn.Module, torch.Tensor, str, str]) -> None:
    """None, all, all but one, and sets of units."""
    network, images, layer, place = case
    lesioned = LesionedNetwork(network, layer)
    batch = lesioned.prepare_batch(images)
    units = batch.units
    lesions = torch.rand((5, units), generator=seeded(4)) < torch.tensor([0, 2, 0.3, 0.5, 2])[:, None]
    lesions[4, units // 2] = False
    got = joined(lesioned.compute_logits(batch, lesions), len(lesions))
    close(got, silenced(network, place, images, lesions))
    with torch.no_grad():
        close({task: own[0] for task, own in got.items()}, network(images))
    assert any((own[0] - own[1]).abs().max() > 1e-6 for own in got.values())  # the layer is heard at all


@pytest.mark.parametrize("before", [False, True])
def test_single_units_are_those_of_the_slow_loop(case: tuple[nn.Module, torch.Tensor, str, str], before: bool) -> None:
    """With no other unit silent, and with some; also units that are silent already, which changes nothing."""
    network, images, layer, place = case
    lesioned = LesionedNetwork(network, layer)
    batch = lesioned.prepare_batch(images)
    silent = few(batch.units) & before
    units = some(batch.units, most=6, seed=5)
    lesions = silent.repeat(len(units), 1)
    lesions[range(len(units)), units] = True
    close(
        joined(lesioned.compute_single_lesions(batch, silent, units), len(units)),
        silenced(network, place, images, lesions),
    )
