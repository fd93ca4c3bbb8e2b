"""Which pixels does a cell of a map see? Receptive fields by the recurrence of Araujo, Norris & Sim.

A. Araujo, W. Norris & J. Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill 4 (11),
doi 10.23915/distill.00021.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from facespec.models import trunks
from facespec.models.layers import get_layer
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError

CELL_BY_CELL = nn.BatchNorm2d, nn.ReLU, trunks.Dropout  # a cell reads itself alone
NEIGHBOURS = nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d


class Window(NamedTuple):
    """Pixels of an image: rows `top` to `bottom`, columns `left` to `right`; `bottom` and `right` are not in it."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """What cuts the window out of an image (H, W) or (H, W, 3)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Reach:
    """A receptive field along one axis, in pixels.

    `size`: how much one cell sees. `jump`: how far apart neighbouring cells look. `start`: where the view of cell 0
    begins; negative where it reaches into the padding.
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def behind(self, *, kernel: int, stride: int, padding: int, dilation: int) -> Reach:
        """The reach of a layer that reads cells of this one."""
        size = self.size + dilation * (kernel - 1) * self.jump
        return Reach(size, self.jump * stride, self.start - padding * self.jump)

    def ends(self, cell: int, pixels: int) -> tuple[int, int]:
        """First pixel that `cell` sees, and the first beyond; clipped to the image's `pixels`."""
        first = self.start + cell * self.jump
        return max(first, 0), min(first + self.size, pixels)


@dataclass(frozen=True)
class ReceptiveField:
    """What the cells of a map see of the network's input."""

    down: Reach
    across: Reach

    def window(self, row: int, column: int, image: tuple[int, int]) -> Window:
        """What the cell at (`row`, `column`) sees of an image of (height, width) px, clipped to the image.

        Raises `StudyError` for a cell that sees nothing of the image, as it lies outside the map.
        """
        window = Window(*self.down.ends(row, image[0]), *self.across.ends(column, image[1]))
        if min(row, column) < 0 or window.top >= window.bottom or window.left >= window.right:
            raise StudyError(f"cell ({row}, {column}) lies outside the map of an image of {image[0]}x{image[1]} px.")
        return window


def compute_receptive_field(network: FaceNetwork, name: str) -> ReceptiveField:
    """The receptive field of the layer called `name` (dotted), in pixels of what `network` takes.

    Raises `StudyError` for an unknown layer, and for one that has no map, such as a head.
    """
    get_layer(network, name)  # refuses what is not there
    try:
        return compose_reach(_path(network, name))
    except StudyError as error:
        raise StudyError(f"layer {name!r} has no receptive field: {error}") from None


def compose_reach(modules: Iterable[nn.Module]) -> ReceptiveField:
    """The receptive field of the last of `modules`; the first reads the image, every other the one before it.

    Takes convolutions and pools of any kernel, stride, padding and dilation, and what keeps their cells apart. Raises
    `StudyError` for any other module.
    """
    reaches = [Reach(), Reach()]
    for module in modules:
        if isinstance(module, NEIGHBOURS):
            reaches = [reach.behind(**_geometry(module, axis)) for axis, reach in enumerate(reaches)]
        elif not isinstance(module, CELL_BY_CELL):
            raise StudyError(f"behind {type(module).__name__}, units do not look through a window of fixed size.")
    return ReceptiveField(*reaches)


def _geometry(module: nn.Module, axis: int) -> dict[str, int]:
    names = {"kernel": "kernel_size", "stride": "stride", "padding": "padding", "dilation": "dilation"}
    values = {name: getattr(module, own, 1) for name, own in names.items()}  # an average pool has no dilation
    if isinstance(values["padding"], str):
        raise StudyError(f"padding {values['padding']!r} is not a number of pixels.")
    return {name: value[axis] if isinstance(value, tuple) else value for name, value in values.items()}


def _path(network: FaceNetwork, name: str) -> Iterator[nn.Module]:
    """The modules through which an image comes to the layer `name`, that one last."""
    section = name.rpartition(".")[0]
    for known, module in network.named_modules():  # in depth order, sections one after the other
        if known.startswith(("trunk.", f"{section}.")):
            yield module
        if known == name:
            return
