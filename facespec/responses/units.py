"""Which dimension of a layer's responses are its units? Channels come first in convolutional networks, or last."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops.misc import Permute

from facespec.models.copies import copy_or_share
from facespec.models.layers import get_layer
from facespec.models.torchvision_trunks import ChannelNorm
from facespec.models.tracing import CONVOLUTIONS
from facespec.study.errors import StudyError

LAST = nn.Linear, nn.LayerNorm  # here by exact type: torchvision's LayerNorm2d is a LayerNorm, with units second
SECOND = (
    *CONVOLUTIONS,
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, LayerNorm2d, ChannelNorm),
)


class _Known(NamedTuple):
    """Where a result has its units: dimension, and how many they are."""

    axis: int
    units: int


def find_unit_axis(network: nn.Module, layer: str, images: torch.Tensor) -> int:
    """The dimension of the units in what `layer` responds to `images`, in its last call.

    Of convolutions and norms of maps it is 1, of linear layers and layer norms the last. A module without weights has
    the dimension of the module whose result it reads. Of all others, such as blocks, it is that of the last such layer
    before with as many dimensions, if as many units stand there; or else the only dimension with as many.

    Raises `StudyError` for a layer that is unknown, is not called, gives no tensor, or whose units are not found so.
    """
    network = copy_or_share(network)  # without wrappers; what `forward` stores in it is its own
    target, search = get_layer(network, layer, sections=True), _Search()
    with ExitStack() as stack, torch.no_grad():
        for module in network.modules():
            stack.enter_context(module.register_forward_hook(search.make_hook(is_layer=module is target)))
        network(images.clone())  # it may work in place
    if not search.called:
        raise StudyError(f"layer {layer!r} is not called in a forward pass: its lesions would change nothing.")
    if search.axis is None:
        raise StudyError(
            f"layer {layer!r} has responses of shape {search.shape}, of which it is not known where its units are. "
            "Name a convolution, a linear layer or a norm, such as the one before."
        )
    return search.axis


class _Search:
    """What hooks of a forward pass find out, in the order in which modules are run."""

    def __init__(self) -> None:
        self.called = False
        self.axis: int | None = None
        self.shape: Any = None
        self._results: dict[int, tuple[torch.Tensor, _Known]] = {}  # kept, so that no other gets its identity
        self._last: dict[int, _Known] = {}  # number of dimensions -> the last layer with so many

    def make_hook(self, *, is_layer: bool) -> Any:
        """A hook for one module; with `is_layer`, for the one whose units are looked for."""

        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            known = self._explain(module, inputs, output)
            if known is not None:
                self._results[id(output)] = output, known
            if is_layer:
                self.called, self.axis = True, None if known is None else known.axis
                self.shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__

        return hook

    def _explain(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> _Known | None:
        if not isinstance(output, torch.Tensor) or output.ndim < 2:
            return None
        if output.ndim == 2:
            return _Known(1, output.shape[1])
        axis = output.ndim - 1 if type(module) in LAST else 1
        if type(module) in LAST or isinstance(module, SECOND):
            self._last[output.ndim] = known = _Known(axis, output.shape[axis])
            return known
        source = inputs[0] if inputs else None
        if isinstance(source, torch.Tensor) and next(module.parameters(), None) is None:
            tensor, known = self._results.get(id(source), (None, _Known(1, -1)))
            if tensor is source and isinstance(module, Permute):
                return _Known(module.dims.index(known.axis), known.units)
            if tensor is source and source.ndim == output.ndim and output.shape[known.axis] == known.units:
                return known
        before = self._last.get(output.ndim, _Known(1, output.shape[1]))  # none: as in the images
        matching = [axis for axis in (1, output.ndim - 1) if output.shape[axis] == before.units]
        if before.axis == 1 and 1 in matching:
            return _Known(1, before.units)
        return _Known(matching[0], before.units) if len(matching) == 1 else None
