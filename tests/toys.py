"""Small things that many tests need: seeded generators, images of odd shapes, networks whose norms do something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from facespec.models.networks import FaceNetwork, build_network
from facespec.study.params import NetworkBlock

CLASSES = {"expression": 7, "identity": 5}
HEIGHT, WIDTH = 17, 11  # odd and unequal: a swapped axis or a wrong half shows
Module = TypeVar("Module", bound=nn.Module)


def seeded(seed: int = 1) -> torch.Generator:
    """A torch generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def random_images(
    n: int = 3, channels: int = 1, height: int = HEIGHT, width: int = WIDTH, *, seed: int = 2
) -> torch.Tensor:
    """Network input, float32 (n, channels, height, width), uniform in [-1, 1)."""
    return torch.rand((n, channels, height, width), generator=seeded(seed)) * 2 - 1


def make_network(
    widths: Sequence[int] = (4, 6),
    *,
    convolutions: int = 1,
    branch_after: str | None = None,
    channels: int = 1,
    classes: Mapping[str, int] = CLASSES,
    seed: int = 1,
) -> FaceNetwork:
    """A small VGG in evaluation mode: `widths` units per block, each of `convolutions` layers."""
    block = NetworkBlock(trunk="small_vgg", channels=list(widths), convolutions=convolutions, branch_after=branch_after)
    return build_network(block, classes, channels=channels, generator=seeded(seed)).eval()


def randomise_norms(network: Module, *, seed: int = 3) -> Module:
    """Give every batch norm statistics and weights far from the identity; the network itself is changed."""
    generator = seeded(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                ):
                    values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return network
