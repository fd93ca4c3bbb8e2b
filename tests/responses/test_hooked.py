"""Lesions by whole forward passes: the same as by cutting, where a network can be cut, and by hand where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from facespec.responses.hooked import HookedNetwork, lesion_network
from facespec.responses.lesioned import LesionedNetwork
from facespec.responses.units import find_unit_axis
from facespec.study.errors import StudyError
from toys import make_network, random_images, randomise_norms, seeded


class Answer(nn.Module):
    """A classifier as a network of one task."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"kind": self.inner(images)}


class Branching(nn.Module):
    """Its code depends on values, and it calls `twice` as often as its name says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.norm(self.conv(images if images.mean() > -5 else -images)).relu()
        return {"kind": self.head(self.twice(self.twice(maps).relu()).relu().mean((2, 3)))}


def draw(module: nn.Module) -> nn.Module:
    """Every weight of `module` drawn anew, in evaluation mode; torch's global random state is not used."""
    generator = seeded(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return randomise_norms(module).eval()


def make(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        if kind == "branching":
            return draw(Branching())
        if kind == "vit":
            return draw(Answer(VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=3)))
        if kind == "swin":
            return draw(Answer(SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=3)))
        return draw(Answer(ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=3)))


def lesion_by_hand(network: nn.Module, layer: str, images: torch.Tensor, lesion: torch.Tensor, *, last: bool) -> Any:
    """Logits while every call of `layer` gives 0 for lesioned units, by a product with 0 and 1."""

    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept = (~lesion).to(output)
        return output * (kept if last else kept.view(-1, *[1] * (output.ndim - 2)))

    handle = network.get_submodule(layer).register_forward_hook(hook)
    try:
        with torch.no_grad():
            return network(images)["kind"]
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("kind", "layer", "units", "last"),
    [
        ("branching", "norm", 5, False),
        ("branching", "twice", 5, False),
        ("branching", "head", 4, True),
        ("vit", "inner.encoder.layers.encoder_layer_1.mlp.0", 24, True),
        ("vit", "inner.encoder.layers.encoder_layer_0.ln_1", 16, True),
        ("vit", "inner.encoder.layers.encoder_layer_1.mlp.1", 24, True),
        ("vit", "inner.encoder.ln", 16, True),
        ("swin", "inner.features.1.0.mlp.0", 32, True),
        ("swin", "inner.features.1.0.mlp.1", 32, True),
        ("swin", "inner.features.1.0.attn", 8, True),
        ("swin", "inner.features.1.0", 8, True),
        ("convnext", "inner.features.1.0.block.3", 32, True),
        ("convnext", "inner.features.1.0.block.4", 32, True),
    ],
)
def test_lesions_are_those_made_by_hand(kind: str, layer: str, units: int, last: bool) -> None:
    # maps of other heights, widths and numbers of units, so that no two dimensions can be confused
    height, width = (32, 32) if kind == "vit" else (40, 56)
    network, images = make(kind), random_images(3, 1 if kind == "branching" else 3, height, width)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    lesioned = lesion_network(network, layer, images)
    assert isinstance(lesioned, HookedNetwork) and lesioned.reason and not lesioned.has_closed_form
    batch = lesioned.prepare_batch(images)
    assert (batch.units, len(batch)) == (units, 3)
    lesions = torch.rand((4, units), generator=seeded(7)) < torch.tensor([[0.0], [0.3], [0.7], [1.1]])
    with torch.no_grad():
        intact = network(images)["kind"]
    parts = torch.cat([logits["kind"] for _, logits in lesioned.compute_logits(batch, lesions)])
    assert torch.allclose(parts[0], intact, atol=1e-6) and (parts[2] - intact).abs().max() > 1e-3
    for number, lesion in enumerate(lesions):
        expected = lesion_by_hand(network, layer, images, lesion, last=last)
        assert torch.allclose(parts[number], expected, atol=1e-6)
    base, single = lesions[1], torch.tensor([units - 1, 0])
    parts = torch.cat([logits["kind"] for _, logits in lesioned.compute_single_lesions(batch, base, single)])
    for number, unit in enumerate(single):
        lesion = base.clone()
        lesion[unit] = True
        assert torch.allclose(parts[number], lesion_by_hand(network, layer, images, lesion, last=last), atol=1e-6)
    assert all(torch.equal(values, network.state_dict()[name]) for name, values in before.items())


@pytest.mark.parametrize(
    ("kind", "layer", "axis", "units"),
    [
        ("convnext", "inner.features.2.0", 1, 8),  # LayerNorm2d, which torchvision derives from LayerNorm
        ("convnext", "inner.features.1.0", 1, 8),  # a block whose last layer has its units last
        ("convnext", "inner.features.0.0", 1, 8),
        ("swin", "inner.features.0.0", 1, 8),
        ("swin", "inner.features.0.1", 3, 8),  # Permute
        ("swin", "inner.features.1.0.mlp.1", 3, 32),
        ("branching", "norm", 1, 5),
    ],
)
def test_the_dimension_of_the_units_is_found(kind: str, layer: str, axis: int, units: int) -> None:
    network, images = make(kind), random_images(2, 1 if kind == "branching" else 3, 40, 56)
    shapes: list[torch.Size] = []
    with network.get_submodule(layer).register_forward_hook(lambda m, i, output: shapes.append(output.shape)):
        assert find_unit_axis(network, layer, images) == axis
    assert shapes[-1][axis] == units
    if "features.0" in layer:  # as many rows as units confuse nobody
        assert find_unit_axis(network, layer, random_images(2, 3, 32, 56)) == axis


@pytest.mark.parametrize("layer", ["trunk.relu1", "trunk.norm2", "trunk.relu2"])
def test_both_ways_agree_where_a_network_can_be_cut(layer: str) -> None:
    network, images = randomise_norms(make_network()), random_images(4)
    fast, slow = LesionedNetwork(network, layer), HookedNetwork(network, layer, images)
    assert isinstance(lesion_network(network, layer, images), LesionedNetwork)
    batches = fast.prepare_batch(images), slow.prepare_batch(images)
    if "relu" in layer:
        assert torch.allclose(batches[0].responses, batches[1].responses, atol=1e-6)
    lesions = torch.rand((5, batches[0].units), generator=seeded(1)) < 0.5
    wanted = torch.cat([logits["identity"] for _, logits in fast.compute_logits(batches[0], lesions)])
    got = torch.cat([logits["identity"] for _, logits in slow.copy().compute_logits(batches[1], lesions)])
    assert torch.allclose(got, wanted, atol=1e-6)


def test_units_that_would_wake_behind_a_norm_are_refused() -> None:
    images = random_images(2, 1, 12, 12)
    with pytest.raises(
        StudyError, match=r"nonzero behind the norm 'norm'\. Name that norm, or the rectifier behind it"
    ):
        lesion_network(make("branching"), "conv", images)


def test_responses_whose_units_are_not_known_and_layers_that_are_not_called_are_refused() -> None:
    network, images = make("convnext"), random_images(2, 3, 32, 32)  # maps of 8x8 cells and 8 units
    with pytest.raises(
        StudyError, match=r"shape \(2, 8, 8, 8\), of which it is not known where its units are\. Name a"
    ):
        lesion_network(network, "inner.features.1.0", images)
    with torch.random.fork_rng():
        network.add_module("spare", nn.Linear(2, 2))
    with pytest.raises(StudyError, match="'spare' is not called in a forward pass"):
        HookedNetwork(network, "spare", images)
    with pytest.raises(StudyError, match=r"no layer 'inner\.hed'"):
        HookedNetwork(network, "inner.hed", images)
