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
from toys import randomise_weights, seeded

pytestmark = pytest.mark.usefixtures("one_thread")

Logits = dict[str, torch.Tensor]


def make_face_network(trunk: str, *, convolutions: int = 1, branch_after: str | None = None) -> nn.Module:
    block = NetworkBlock(trunk=trunk, channels=[3, 5, 4], convolutions=convolutions, branch_after=branch_after)
    return randomise_weights(build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded(1)))


class Wrapped(nn.Module):
    """A network of torchvision, whose logits are split between two tasks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, images: torch.Tensor) -> Logits:
        logits = self.inner(images)
        return {"first": logits[:, :2], "second": logits[:, 2:]}


class Uneven(nn.Module):
    """Convolutions with other strides, kernels and paddings along both axes; two layers read conv2's units.

    Between conv1 and the layers that read it is a norm whose output for lesioned units is not 0.
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


def make_uneven() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return randomise_weights(Uneven())


def make_torchvision(make: Callable[..., nn.Module]) -> nn.Module:
    """A network of torchvision, whose weights are drawn here only."""
    with torch.device("meta"):
        network = make(num_classes=5)
        if isinstance(network, torchvision.models.VGG):
            for i, (inputs, outputs) in {0: (512 * 49, 9), 3: (9, 8), 6: (8, 5)}.items():
                network.classifier[i] = nn.Linear(inputs, outputs)  # 4096 units would take long
    return randomise_weights(Wrapped(network.to_empty(device="cpu")))


# network, the shape of its images, and layer -> the module whose output a lesion sets to 0
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], dict[str, str]]] = {
    "one": (
        lambda: make_face_network("small_vgg"),
        (1, 17, 11),
        {f"trunk.{kind}{i}": f"trunk.relu{i}" for kind in ("conv", "norm", "relu") for i in (1, 2, 3)}
        | {name: name for name in ("trunk.pool1", "trunk.pool2", "trunk.average", "heads.identity")},
    ),
    "two": (
        lambda: make_face_network("small_vgg", convolutions=2),
        (1, 13, 15),
        {f"trunk.conv{i}": f"trunk.relu{i}" for i in range(1, 7)},
    ),
    "branches": (
        lambda: make_face_network("small_vgg", convolutions=2, branch_after="conv3"),
        (1, 15, 12),
        {f"trunk.conv{i}": f"trunk.relu{i}" for i in (1, 2, 3)}
        | {
            f"branches.{task}.conv{i}": f"branches.{task}.relu{i}"
            for task in ("expression", "identity")
            for i in (4, 5, 6)
        },
    ),
    "vgg16": (
        lambda: make_face_network("vgg16"),
        (1, 35, 33),
        {f"trunk.conv{i}": f"trunk.relu{i}" for i in range(1, 14)}
        | {"trunk.pool5": "trunk.pool5", "trunk.fc6": "trunk.relu_fc6", "trunk.fc7": "trunk.relu_fc7"},
    ),
    "vgg16 branches": (
        lambda: make_face_network("vgg16", branch_after="conv12"),
        (1, 32, 37),
        {"trunk.conv12": "trunk.relu12", "branches.identity.fc6": "branches.identity.relu_fc6"},
    ),
    "uneven": (
        make_uneven,
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
        lambda: make_torchvision(torchvision.models.resnet18),
        (3, 19, 23),
        {
            "inner.conv1": "inner.relu",
            "inner.layer2.0.conv1": "inner.layer2.0.bn1",
            "inner.layer2.0.conv2": "inner.layer2.0.bn2",
            "inner.layer4.1.conv2": "inner.layer4.1.bn2",
        },
    ),
    "vgg11_bn": (
        lambda: make_torchvision(torchvision.models.vgg11_bn),
        (3, 32, 33),
        {"inner.features.4": "inner.features.6", "inner.classifier.0": "inner.classifier.1"},
    ),
    "mobilenet_v3_small": (  # followed by a convolution that keeps units apart, squeezing, a sum, and a linear layer
        lambda: make_torchvision(torchvision.models.mobilenet_v3_small),
        (3, 21, 19),
        {
            "inner.features.5.block.0.0": "inner.features.5.block.0.2",
            "inner.features.5.block.2.fc1": "inner.features.5.block.2.activation",
            "inner.features.5.block.3.0": "inner.features.5.block.3.1",
            "inner.features.12.0": "inner.features.12.2",
        },
    ),
}


CASES = [(name, layer) for name, (_, _, layers) in NETWORKS.items() for layer in layers]


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Networks by name, made when they are first needed."""
    return {}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(
    request: pytest.FixtureRequest, networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> tuple[nn.Module, torch.Tensor, str, str]:
    """A network, images, a layer, and the module whose output a lesion sets to 0."""
    name, layer = request.param
    make, shape, layers = NETWORKS[name]
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", tuple((3 + i % 2,) * len(b) for i, b in enumerate(trunks.VGG16_BLOCKS)))
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    if name not in networks:
        networks[name] = make()
    images = torch.randn((2, *shape), generator=seeded(2), dtype=torch.float64)
    return networks[name], images, layer, layers[layer]


def lesion_by_hooks(network: nn.Module, module: str, images: torch.Tensor, lesions: torch.Tensor) -> Logits:
    """Logits (lesions, images, classes), from a forward pass per lesion."""

    def run(lesion: torch.Tensor) -> Logits:
        def hook(_: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            assert output.shape[1] == len(lesion)
            return output.index_fill(1, lesion.nonzero().flatten(), 0)

        handle = network.get_submodule(module).register_forward_hook(hook)
        try:
            with torch.no_grad():
                return network(images)
        finally:
            handle.remove()

    rows = [run(lesion) for lesion in lesions]
    return {task: torch.stack([row[task] for row in rows]) for task in rows[0]}


def join(parts: Iterator[tuple[slice, Logits]], lesions: int) -> Logits:
    """All parts, which must come in order and be complete."""
    slices, logits = zip(*parts, strict=True)
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(lesions))
    return {task: torch.cat([part[task] for part in logits]) for task in logits[0]}


def assert_close(got: Logits, expected: Logits) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_lesions_are_those_of_hooks(case: tuple[nn.Module, torch.Tensor, str, str]) -> None:
    """None, all, all but one, and sets of units."""
    network, images, layer, module = case
    lesioned = LesionedNetwork(network, layer)
    batch = lesioned.prepare_batch(images)
    units = batch.units
    lesions = torch.rand((5, units), generator=seeded(4)) < torch.tensor([0, 2, 0.3, 0.5, 2])[:, None]
    lesions[4, units // 2] = False
    got = join(lesioned.compute_logits(batch, lesions), len(lesions))
    assert_close(got, lesion_by_hooks(network, module, images, lesions))
    with torch.no_grad():
        assert_close({task: logits[0] for task, logits in got.items()}, network(images))
    assert any((logits[0] - logits[1]).abs().max() > 1e-6 for logits in got.values()), "the layer has no influence"


@pytest.mark.parametrize("before", [False, True])
def test_single_lesions_are_those_of_hooks(case: tuple[nn.Module, torch.Tensor, str, str], before: bool) -> None:
    """With no other unit lesioned, and with a quarter; a unit that is lesioned already changes nothing."""
    network, images, layer, module = case
    lesioned = LesionedNetwork(network, layer)
    batch = lesioned.prepare_batch(images)
    mask = (torch.rand(batch.units, generator=seeded(7)) < 0.25) & before
    drawn = torch.randperm(batch.units, generator=seeded(5))[:4].tolist()
    units = torch.tensor(sorted({0, batch.units - 1, *drawn}))
    lesions = mask.repeat(len(units), 1)
    lesions[range(len(units)), units] = True
    got = join(lesioned.compute_single_lesions(batch, mask, units), len(units))
    assert_close(got, lesion_by_hooks(network, module, images, lesions))
