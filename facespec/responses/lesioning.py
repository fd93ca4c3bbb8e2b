"""Silence units of a network for a while: one lesion for all images, or one per image, so that many share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from facespec.models.layers import find_rectifier, list_convolutions
from facespec.models.networks import FaceNetwork
from facespec.models.tracing import Untraceable, find_lesion_module
from facespec.study.errors import StudyError, suggest_spelling


@contextmanager
def lesion_units(network: nn.Module, lesions: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside the context, chosen units of `network` answer 0, whatever they are shown.

    `lesions` maps layers (dotted names) to bool tensors, True where a unit is silent: (units,) for all images, or
    (n, units), a row per image of the batch. Units of a convolution are silenced behind its norm and rectifier, so that
    no batch norm gives them a voice; all other layers, and all layers of a network that torch.fx cannot trace, are
    silenced right where they are: name its norms or rectifiers instead of its convolutions. Other units keep their
    bits. Contexts nest: a unit is silent if any of them says so. Nothing remains attached afterwards, also after an
    error. Raises `StudyError` for unknown layers and what is not such a tensor, and in the forward pass for a lesion
    that does not fit the layer's responses (n, units, ...).
    """
    modules = dict(network.named_modules())
    places = []
    for layer, silent in lesions.items():
        if layer not in modules or not layer:
            raise StudyError(f"this network has no layer {layer!r}: {suggest_spelling(layer, filter(None, modules))}")
        _check(layer, silent)
        last = isinstance(modules[layer], nn.Linear | nn.LayerNorm)  # the units of these are the last dimension
        places.append((modules[_place(network, layer)], _silencing(layer, silent.clone(), flat=last)))
    handles = []
    try:
        for module, hook in places:
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _place(network: nn.Module, layer: str) -> str:
    """The module where units of `layer` are silenced."""
    if isinstance(network, FaceNetwork):
        return find_rectifier(network, layer) if layer in list_convolutions(network) else layer
    if not isinstance(network.get_submodule(layer), nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer
    try:
        return find_lesion_module(network, layer)
    except Untraceable:
        return layer


def _check(layer: str, silent: Any) -> None:
    got = f"{silent.dtype} {tuple(silent.shape)}" if isinstance(silent, torch.Tensor) else type(silent).__name__
    if not isinstance(silent, torch.Tensor) or silent.dtype != torch.bool or silent.ndim not in (1, 2):
        raise StudyError(
            f"the lesion of layer {layer!r} is {got}: a bool tensor is needed, (units,) or (images, units), True where "
            "a unit is silent."
        )


def _silencing(layer: str, silent: torch.Tensor, *, flat: bool) -> Any:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> torch.Tensor:
        if not isinstance(output, torch.Tensor) or output.ndim < 2 or (flat and output.ndim > 2):
            got = f"of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
            wanted = "(images, units)" if flat else "(images, units, ...)"
            raise StudyError(f"layer {layer!r} gives responses {got}: a tensor {wanted} can be lesioned.")
        n, units = output.shape[:2]
        if silent.shape not in ((units,), (n, units)):
            raise StudyError(
                f"the lesion of layer {layer!r} has shape {tuple(silent.shape)}: this layer has {units} units and the "
                f"batch {n} images, so ({units},) or ({n}, {units}) is needed."
            )
        mask = silent.expand(n, units).reshape(n, units, *[1] * (output.ndim - 2)).to(output.device)
        # a copy, as what was given may be read elsewhere, with the same order in memory, on which the last bits of the
        # next layer's sums depend; filled, as a product with 0 would keep NaN
        return output.clone().masked_fill_(mask, 0)

    return hook
