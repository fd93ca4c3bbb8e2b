"""Set units of a network to zero inside a context: one lesion for all images, or one per image of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from facespec.models.layers import find_rectifier, get_layer, list_convolutions
from facespec.models.networks import FaceNetwork
from facespec.models.silence import find_lesion_modules
from facespec.models.tracing import UntraceableNetwork
from facespec.responses.units import LAST
from facespec.study.errors import StudyError


@contextmanager
def lesion_units(network: nn.Module, lesions: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside the context, chosen units of `network` respond with 0 to every image.

    Units of a convolution are lesioned behind its norms and rectifier, as a batch norm would turn their 0 into a
    constant (`models.silence`). All other layers, and all layers of a network that torch.fx cannot trace, are lesioned
    at their output: there, name norms or rectifiers instead of convolutions. The responses of other units keep their
    bits.
    Contexts can be nested: a unit is lesioned if any of them says so. At the end, also after an error, all hooks are
    removed.

    Parameters
    ----------
    network : Module
    lesions : mapping of str to bool tensor of shape (n_units,) or (n_images, n_units)
        Layer (dotted name) -> True where a unit is lesioned: for all images, or a row per image of the batch. Tensors
        are copied.

    Raises
    ------
    StudyError
        For an unknown layer, and a lesion that is not such a tensor; in the forward pass, for a lesion that does not
        fit the responses of its layer, (n_images, n_units, ...).

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU()).eval()
    >>> with lesion_units(network, {"0": torch.tensor([True, False, True])}):
    ...     responses = network(torch.ones(2, 1, 9, 7))
    >>> responses.flatten(2).any(dim=2)[:, [0, 2]].any().item()
    False
    """
    with ExitStack() as stack:
        hooks = []
        for layer, lesion in lesions.items():
            module = get_layer(network, layer, sections=True)
            _check_lesion(layer, lesion)
            flat = isinstance(module, LAST)
            for number, name in enumerate(_find_targets(network, layer, module)):
                hook = _make_hook(layer, lesion.clone(), flat=flat, beyond=number > 0)
                hooks.append((get_layer(network, name, sections=True), hook))
        for target, hook in hooks:
            stack.callback(target.register_forward_hook(hook).remove)
        yield


def _find_targets(network: nn.Module, layer: str, module: nn.Module) -> list[str]:
    """The names of the modules whose outputs are lesioned for `layer`."""
    if isinstance(network, FaceNetwork):
        return [find_rectifier(network, layer) if layer in list_convolutions(network) else layer]
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return [layer]
    try:
        return find_lesion_modules(network, layer)
    except UntraceableNetwork:
        return [layer]


def _check_lesion(layer: str, lesion: Any) -> None:
    got = f"{lesion.dtype} {tuple(lesion.shape)}" if isinstance(lesion, torch.Tensor) else type(lesion).__name__
    if not isinstance(lesion, torch.Tensor) or lesion.dtype != torch.bool or lesion.ndim not in (1, 2):
        raise StudyError(
            f"the lesion of layer {layer!r} is {got}: a bool tensor is needed, (units,) or (images, units), True where "
            "a unit is lesioned."
        )


def _make_hook(layer: str, lesion: torch.Tensor, *, flat: bool, beyond: bool) -> Any:
    """A hook that lesions a module's output; `beyond` the layer's own steps, its units may be flattened maps."""

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> torch.Tensor:
        if not isinstance(output, torch.Tensor) or output.ndim < 2 or (flat and output.ndim > 2):
            got = f"of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
            needed = "(images, units)" if flat else "(images, units, ...)"
            raise StudyError(f"layer {layer!r} gives responses {got}: a tensor {needed} can be lesioned.")
        n, units = output.shape[:2]
        if beyond:
            units = lesion.shape[-1]
        if lesion.shape not in ((units,), (n, units)):
            raise StudyError(
                f"the lesion of layer {layer!r} has shape {tuple(lesion.shape)}: this layer has {units} units and the "
                f"batch {n} images, so ({units},) or ({n}, {units}) is needed."
            )
        cells = output.shape[1] // units
        mask = lesion.expand(n, units).repeat_interleave(cells, dim=1).to(output.device)
        mask = mask.reshape(n, units * cells, *[1] * (output.ndim - 2))
        # a copy, as others may read the output; in the same memory format, on which the last bits of the next layer's
        # sums depend; filled, as a product with 0 would keep NaN
        return output.clone().masked_fill_(mask, 0)

    return hook
