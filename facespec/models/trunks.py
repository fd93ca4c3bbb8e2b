"""The two trunks of the study as ordered, named modules: `small_vgg` [O] and `vgg16` [L].

Convolutions are numbered in depth order, ``conv1``, ``conv2``, ...; the norm and ReLU behind a convolution have its
number (``norm1``, ``relu1``). Pools have the number of the block before them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

VGG16_BLOCKS = (64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)  # [L] torchvision's vgg16
VGG16_GRID = 7  # px: the map that vgg16's classifier reads
VGG16_WIDTH = 4096  # units of fc6 and fc7


class GlobalAverage(nn.Module):
    """Mean over the map, (n, c, h, w) -> (n, c). Unlike adaptive pooling, it has a deterministic gradient on CUDA."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3))


class FixedGrid(nn.Module):
    """Average pool (n, c, h, w) -> (n, c, size, size), between the convolutions of vgg16 and its classifier."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if maps.shape[2:] == (self.size, self.size):
            return maps  # adaptive pooling would change nothing, and has no deterministic gradient on CUDA
        return functional.adaptive_avg_pool2d(maps, self.size)


class Dropout(nn.Module):
    """Dropout that draws from `generator`, so that the global random state is not used.

    Masks are drawn on the CPU: the same generator gives the same masks on every device.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    def forward(self, responses: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return responses
        if self.generator is None:
            raise StudyError(
                "this network has dropout, which draws from a generator of its own: call network.draw_from(generator) "
                "before training, or network.eval() to use it."
            )
        mask = torch.rand(responses.shape, generator=self.generator) >= self.share
        return responses * mask.to(responses) / (1 - self.share)


def build_sections(block: NetworkBlock, *, channels: int) -> OrderedDict[str, nn.Module]:
    """All modules of a trunk, by name, in depth order, from (n, `channels`, h, w) images to (n, d) responses."""
    if block.trunk == "vgg16":
        return _build_vgg16(channels)
    blocks = [[width] * block.convolutions for width in block.channels]
    modules = _build_convolutions(blocks, channels, normalised=True)
    modules.popitem()  # no pool after the last block: class activation maps have its resolution
    modules["average"] = GlobalAverage()
    return modules


def measure_width(block: NetworkBlock) -> int:
    """The number of penultimate units of a trunk."""
    return VGG16_WIDTH if block.trunk == "vgg16" else block.channels[-1]


def find_smallest_image(block: NetworkBlock) -> int:
    """The smallest side of an image, in px, for which the trunk's last map has a cell."""
    pools = len(VGG16_BLOCKS) if block.trunk == "vgg16" else len(block.channels) - 1
    return 2**pools


def initialise(section: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter and buffer of the study's own layers in `section` its first value.

    Convolutions: He normal, fan out; linear layers: normal, sd 0.01; biases 0.
    """
    for module in section.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            continue
        bias = getattr(module, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)


def _build_vgg16(channels: int) -> OrderedDict[str, nn.Module]:
    modules = _build_convolutions(VGG16_BLOCKS, channels, normalised=False)
    modules["grid"] = FixedGrid(VGG16_GRID)
    modules["flatten"] = nn.Flatten()
    inputs = VGG16_BLOCKS[-1][-1] * VGG16_GRID**2
    for name in ("fc6", "fc7"):
        modules[name] = nn.Linear(inputs, VGG16_WIDTH)
        modules[f"relu_{name}"] = nn.ReLU()
        modules[f"dropout_{name}"] = Dropout()
        inputs = VGG16_WIDTH
    return modules


def _build_convolutions(
    blocks: Sequence[Sequence[int]], channels: int, *, normalised: bool
) -> OrderedDict[str, nn.Module]:
    """3x3 convolutions with ReLU, batch norm between them if `normalised`, and a 2x2 max-pool after every block."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    number = 0
    for block, widths in enumerate(blocks, start=1):
        for units in widths:
            number += 1
            modules[f"conv{number}"] = nn.Conv2d(channels, units, 3, padding=1, bias=not normalised)
            if normalised:
                modules[f"norm{number}"] = nn.BatchNorm2d(units)
            modules[f"relu{number}"] = nn.ReLU()  # not in place: a recorded response must not change
            channels = units
        modules[f"pool{block}"] = nn.MaxPool2d(2)
    return modules
