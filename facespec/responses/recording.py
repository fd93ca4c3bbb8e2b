"""What a network answers: the responses of any layer, the penultimate responses of a task, the predicted classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from facespec.data.batches import Preset, iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models.device import on_device
from facespec.models.layers import get_layer
from facespec.models.networks import FaceNetwork


@contextmanager
def record_responses(network: FaceNetwork, layers: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Record the responses of `layers` (dotted names) inside the context.

    Lends a dict that every forward pass fills: layer -> its latest responses, (n, units, h, w) or (n, units), detached
    and cloned. Nothing remains attached to the network afterwards, also after an error.
    """
    responses: dict[str, torch.Tensor] = {}
    modules = {name: get_layer(network, name) for name in layers}
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(_keeping(responses, name)))
        yield responses
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_with_grad(network: FaceNetwork, layers: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Inside the context, what the network answers can be differentiated by the responses of `layers`.

    Lends a dict that every forward pass fills: layer -> its latest responses, to be handed to `torch.autograd.grad`.
    The graph begins at the deepest-lying of `layers`: nothing below is recorded or back-propagated, and parameters
    have no gradient. The responses are what the layer gave, also where an in-place ReLU follows. Hooks are gone and
    parameters as before afterwards, also after an error.
    """
    responses: dict[str, torch.Tensor] = {}
    modules = {name: get_layer(network, name) for name in layers}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    handles = []
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        for name, module in modules.items():
            handles.append(module.register_forward_hook(_attaching(responses, name)))
        with torch.inference_mode(False), torch.enable_grad():
            yield responses
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)


def record_penultimate(
    network: FaceNetwork,
    faces: FaceSet,
    indices: np.ndarray,
    task: str,
    *,
    preset: Preset,
    batch_size: int,
    device: torch.device,
) -> np.ndarray:
    """What the head of `task` reads of the images at `indices`, in their order: float32 (n, d).

    One batch of images is held at a time. The network gets its mode and device back.
    """
    chunks = []
    with on_device(network, device, training=False), torch.inference_mode():
        for batch in iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None):
            chunks.append(network.penultimate(batch.images.to(device), task).float().cpu().numpy())
    if chunks:
        return np.concatenate(chunks)
    return np.empty((0, network.width), dtype=np.float32)


def predict_classes(
    network: FaceNetwork,
    faces: FaceSet,
    indices: np.ndarray,
    *,
    preset: Preset,
    batch_size: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """The class each head finds likeliest for the images at `indices`, in their order: task -> int64 (n,).

    One batch of images is held at a time. The network gets its mode and device back. Of equal logits the first wins.
    """
    answers: dict[str, list[np.ndarray]] = {task: [] for task in network.tasks}
    with on_device(network, device, training=False), torch.inference_mode():
        for batch in iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None):
            for task, logits in network(batch.images.to(device)).items():
                answers[task].append(logits.argmax(dim=1).cpu().numpy())
    return {task: np.concatenate([np.empty(0, dtype=np.int64), *chunks]) for task, chunks in answers.items()}


def _keeping(responses: dict[str, torch.Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        responses[name] = output.detach().clone()

    return hook


def _attaching(responses: dict[str, torch.Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        # behind another of the layers, the graph has begun already and must not be cut
        responses[name] = output if output.requires_grad else output.detach().requires_grad_()
        return responses[name].clone()  # what follows may write into it

    return hook
