"""Which pixels does a cell of a layer's map depend on? Receptive fields by the recurrence of Araujo, Norris & Sim.

A. Araujo, W. Norris & J. Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill 4 (11),
doi 10.23915/distill.00021.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import add, iadd
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from facespec.models import torchvision_trunks, trunks
from facespec.models.layers import get_layer
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError

# a cell reads one cell
ELEMENTWISE = (
    *torchvision_trunks.NORMS,
    *torchvision_trunks.ACTIVATIONS,
    torchvision_trunks.StochasticDepth,
    trunks.Dropout,
    nn.Identity,
)
SLIDING = nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d  # a cell reads a window of cells
JOINING: tuple[Any, ...] = add, iadd, torch.add, torch.cat  # functions: a cell reads the same cell of several maps


class NoReceptiveField(StudyError):
    """The units of a layer do not look through a window of fixed size."""


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

    def join(self, other: Reach) -> Reach:
        """The reach of cells that read the same cell of two maps, whose fields lie equally far apart."""
        start = min(self.start, other.start)
        return Reach(max(self.start + self.size, other.start + other.size) - start, self.jump, start)

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
        For an unknown layer; `NoReceptiveField` for one without a map, such as a head, and for one that the whole image
        influences, such as those behind a squeeze-and-excitation block.

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
        if isinstance(network.trunk, fx.GraphModule) and name.startswith("trunk."):
            return _follow_graph(network.trunk, name.removeprefix("trunk."))
        if isinstance(network.trunk, fx.GraphModule):
            raise NoReceptiveField("units behind the average look at the whole image.")
        return compose_reach(_list_path(network, name))
    except NoReceptiveField as error:
        raise NoReceptiveField(f"layer {name!r} has no receptive field: {error}") from None


def compose_reach(modules: Iterable[nn.Module], *, behind: ReceptiveField | None = None) -> ReceptiveField:
    """The receptive field of the last of `modules`; the first reads the image, every other the one before it.

    The first reads cells of the field `behind`, if given.

    Takes convolutions and pools of any kernel, stride, padding and dilation, and element-wise modules. Raises
    `StudyError` for any other module.
    """
    reaches = [Reach(), Reach()] if behind is None else [behind.down, behind.across]
    for module in modules:
        if isinstance(module, SLIDING):
            reaches = [reach.extend(**_read_geometry(module, axis)) for axis, reach in enumerate(reaches)]
        elif not isinstance(module, ELEMENTWISE):
            raise NoReceptiveField(f"behind {type(module).__name__}, units do not look through a window of fixed size.")
    return ReceptiveField(*reaches)


def _follow_graph(trunk: fx.GraphModule, name: str) -> ReceptiveField:
    """The receptive field of the layer `name` of a traced trunk: the union over all ways from the image to it."""
    fields: dict[fx.Node, ReceptiveField | NoReceptiveField] = {}
    for node in trunk.graph.nodes:
        try:
            fields[node] = _extend_field(trunk, node, fields)
        except NoReceptiveField as reason:
            fields[node] = reason
        if node.target == name:
            break
    field = fields[node]
    if isinstance(field, NoReceptiveField):
        raise field
    return field


def _extend_field(
    trunk: fx.GraphModule, node: fx.Node, fields: dict[fx.Node, ReceptiveField | NoReceptiveField]
) -> ReceptiveField:
    if node.op == "placeholder":
        return ReceptiveField(Reach(), Reach())
    inputs = []
    for source in node.all_input_nodes:
        field = fields[source]
        if isinstance(field, NoReceptiveField):
            raise field
        inputs.append(field)
    if node.op == "call_module":
        return compose_reach([trunk.get_submodule(str(node.target))], behind=inputs[0])
    jumps = {(field.down.jump, field.across.jump) for field in inputs}
    if node.target not in JOINING or len(jumps) != 1:
        raise NoReceptiveField(f"behind {node.name!r}, units do not look through a window of fixed size.")
    joined = inputs[0]
    for field in inputs[1:]:
        joined = ReceptiveField(joined.down.join(field.down), joined.across.join(field.across))
    return joined


def _read_geometry(module: nn.Module, axis: int) -> dict[str, int]:
    """Kernel, stride, padding and dilation of a sliding module along an axis."""
    geometry = {}
    for name in ("kernel", "stride", "padding", "dilation"):
        value = getattr(module, "kernel_size" if name == "kernel" else name, 1)  # an average pool has no dilation
        if isinstance(value, str):
            raise NoReceptiveField(f"{name} {value!r} is not a number of pixels.")
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
