"""Which pixels does a cell of a layer's map depend on? Receptive fields by the recurrence of Araujo, Norris & Sim.

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

ELEMENTWISE = nn.BatchNorm2d, nn.ReLU, trunks.Dropout  # a cell reads one cell
SLIDING = nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d  # a cell reads a window of cells


class Window(NamedTuple):
    """Pixels of an image: rows `top` to `bottom`, columns `left` to `right`; `bottom` and `right` are excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index that crops an image (H, W) or (H, W, 3) to the window."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Reach:
    """A receptive field along one axis, in pixels.

    `size`: width of one cell's field. `jump`: distance between the fields of neighbouring cells. `start`: first pixel
    of the field of cell 0; negative if it lies in the padding.
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def extend(self, *, kernel: int, stride: int, padding: int, dilation: int) -> Reach:
        """The reach of a layer that slides such a kernel over cells of this reach."""
        size = self.size + dilation * (kernel - 1) * self.jump
        return Reach(size, self.jump * stride, self.start - padding * self.jump)

    def limits(self, cell: int, pixels: int) -> tuple[int, int]:
        """First pixel of the field of `cell`, and the last plus one; clipped to an image of `pixels`."""
        first = self.start + cell * self.jump
        return max(first, 0), min(first + self.size, pixels)


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive field of the cells of a map: `down` along the rows of the image, `across` along its columns."""

    down: Reach
    across: Reach

    def window(self, row: int, column: int, image: tuple[int, int]) -> Window:
        """The pixels that the cell at (`row`, `column`) depends on, in an image of (height, width) px.

        Raises `StudyError` for a cell whose field has no pixel of the image: the cell lies outside the map.
        """
        window = Window(*self.down.limits(row, image[0]), *self.across.limits(column, image[1]))
        if min(row, column) < 0 or window.top >= window.bottom or window.left >= window.right:
            raise StudyError(f"cell ({row}, {column}) lies outside the map of an image of {image[0]}x{image[1]} px.")
        return window


def compute_receptive_field(network: FaceNetwork, name: str) -> ReceptiveField:
    """Compute the receptive field of a layer, in pixels of the network's input.

    Parameters
    ----------
    network : FaceNetwork
    name : str
        Dotted name of a layer that has a map.

    Returns
    -------
    ReceptiveField
        Size, jump and start along both axes; its `window` gives the pixels of a cell.

    Raises
    ------
    StudyError
        For an unknown layer, and for one without a map, such as a head.

    References
    ----------
    Araujo, Norris & Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill 4 (11).

    Examples
    --------
    >>> import torch
    >>> from facespec.models.networks import build_network
    >>> from facespec.study.params import NetworkBlock
    >>> block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after=None)
    >>> network = build_network(block, {"identity": 5}, channels=1, generator=torch.Generator().manual_seed(1))
    >>> field = compute_receptive_field(network, "trunk.conv2")  # behind a 3x3 convolution and a 2x2 pool
    >>> field.down
    Reach(size=8, jump=2, start=-3)
    >>> field.window(1, 2, image=(17, 11))
    Window(top=0, bottom=7, left=1, right=9)
    """
    get_layer(network, name)  # raises StudyError for an unknown layer
    try:
        return compose_reach(_list_path(network, name))
    except StudyError as error:
        raise StudyError(f"layer {name!r} has no receptive field: {error}") from None


def compose_reach(modules: Iterable[nn.Module]) -> ReceptiveField:
    """The receptive field of the last of `modules`; the first reads the image, every other the one before it.

    Takes convolutions and pools of any kernel, stride, padding and dilation, and element-wise modules. Raises
    `StudyError` for any other module.
    """
    reaches = [Reach(), Reach()]
    for module in modules:
        if isinstance(module, SLIDING):
            reaches = [reach.extend(**_read_geometry(module, axis)) for axis, reach in enumerate(reaches)]
        elif not isinstance(module, ELEMENTWISE):
            raise StudyError(f"behind {type(module).__name__}, units do not look through a window of fixed size.")
    return ReceptiveField(*reaches)


def _read_geometry(module: nn.Module, axis: int) -> dict[str, int]:
    """Kernel, stride, padding and dilation of a sliding module along an axis."""
    geometry = {}
    for name in ("kernel", "stride", "padding", "dilation"):
        value = getattr(module, "kernel_size" if name == "kernel" else name, 1)  # an average pool has no dilation
        if isinstance(value, str):
            raise StudyError(f"{name} {value!r} is not a number of pixels.")
        geometry[name] = value[axis] if isinstance(value, tuple) else value
    return geometry


def _list_path(network: FaceNetwork, name: str) -> Iterator[nn.Module]:
    """The modules through which an image passes up to the layer `name`, which comes last."""
    section = name.rpartition(".")[0]
    for key, module in network.named_modules():  # in depth order, section by section
        if key.startswith(("trunk.", f"{section}.")):
            yield module
        if key == name:
            return
