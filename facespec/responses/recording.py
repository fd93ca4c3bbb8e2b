"""Record what a network computes: responses of any layer, penultimate responses of a task, logits, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from facespec.data.batches import ImageBatch, iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models.device import on_device
from facespec.models.layers import get_layer
from facespec.models.networks import FaceNetwork
from facespec.study.presets import Preset

Responses = dict[str, torch.Tensor]  # layer -> responses


@contextmanager
def record_responses(network: nn.Module, layers: Iterable[str]) -> Iterator[Responses]:
    """Inside the context, record the responses of layers in every forward pass.

    At the end, also after an error, all hooks are removed.

    Parameters
    ----------
    network : Module
        Any module; its layers are found by dotted names.
    layers : iterable of str
        Names of layers whose output is a tensor.

    Yields
    ------
    dict of str to tensor of shape (n_images, n_units, height, width) or (n_images, n_units)
        Layer -> its responses in the latest forward pass, detached copies. Of a layer that is called several times in
        a pass, those of its last call.

    Raises
    ------
    StudyError
        For an unknown layer; the message names the nearest.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(140, 2))
    >>> with record_responses(network, ["1"]) as responses:
    ...     logits = network(torch.ones(3, 1, 9, 7))
    >>> tuple(responses["1"].shape)
    (3, 4, 7, 5)
    """
    responses: Responses = {}

    def record(name: str, output: torch.Tensor) -> None:
        responses[name] = output.detach().clone()

    with hook_outputs(network, layers, record):
        yield responses


@contextmanager
def record_with_grad(network: nn.Module, layers: Iterable[str]) -> Iterator[Responses]:
    """Inside the context, the network's output can be differentiated by the responses of layers.

    The autograd graph begins at these layers: what comes before the first of them is neither recorded nor
    back-propagated, and parameters have no gradient. At the end, also after an error, all hooks are removed and
    parameters require gradients as before.

    Parameters
    ----------
    network : Module
        Any module; its layers are found by dotted names.
    layers : iterable of str
        Names of layers whose output is a floating-point tensor.

    Yields
    ------
    dict of str to tensor of shape (n_images, n_units, height, width) or (n_images, n_units)
        Layer -> its responses in the latest forward pass, for `torch.autograd.grad`. Modules behind a layer that work
        in place do not change them. Of a layer that is called several times in a pass, those of its last call.

    Raises
    ------
    StudyError
        For an unknown layer; the message names the nearest.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(140, 2))
    >>> with record_with_grad(network, ["1"]) as responses:
    ...     logits = network(torch.ones(3, 1, 9, 7))
    ...     (gradient,) = torch.autograd.grad(logits[:, 0].sum(), responses["1"])
    >>> tuple(gradient.shape)
    (3, 4, 7, 5)
    """
    responses: Responses = {}

    def record(name: str, output: torch.Tensor) -> torch.Tensor:
        # if another of the layers came before, the graph has begun and must not be cut
        responses[name] = output if output.requires_grad else output.detach().requires_grad_()
        return responses[name].clone()  # the next module may work in place

    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with hook_outputs(network, layers, record):
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            with torch.inference_mode(False), torch.enable_grad():
                yield responses
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)


@contextmanager
def hook_outputs(
    network: nn.Module, layers: Iterable[str], record: Callable[[str, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Inside the context, call `record` with each layer's name and output, in every forward pass.

    If it returns a tensor, that replaces the output. Hooks are removed at the end, also after an error.
    """

    def make_hook(name: str) -> Any:
        return lambda module, inputs, output: record(name, output)

    modules = {name: get_layer(network, name) for name in layers}
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(make_hook(name)).remove)
        yield


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
    """The responses that the head of `task` reads, to the images at `indices`, in their order: float32 (n, d).

    One batch of images is in memory at a time. The network runs in evaluation mode on `device` (`models.device`).
    """
    chunks = [np.empty((0, network.width), dtype=np.float32)]
    with on_device(network, device, training=False), torch.inference_mode():
        for batch in iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None):
            chunks.append(network.penultimate(batch.images.to(device), task).float().cpu().numpy())
    return np.concatenate(chunks)


def predict_classes(
    network: FaceNetwork,
    faces: FaceSet,
    indices: np.ndarray,
    *,
    preset: Preset,
    batch_size: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """The class with the largest logit, for the images at `indices`, in their order: task -> int64 (n,).

    Of equal logits the first counts. One batch of images is in memory at a time. The network runs in evaluation mode on
    `device` (`models.device`).
    """
    classes: dict[str, list[np.ndarray]] = {task: [np.empty(0, dtype=np.int64)] for task in network.tasks}
    batches = iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None)
    for task, logits in _iterate_logits(network, batches, device):
        classes[task].append(logits.argmax(dim=1).cpu().numpy())
    return {task: np.concatenate(chunks) for task, chunks in classes.items()}


def record_logits(
    network: FaceNetwork,
    faces: FaceSet,
    indices: np.ndarray,
    *,
    preset: Preset,
    batch_size: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """The logits of the images at `indices`, in their order: task -> float32 (n, classes).

    One batch of images is in memory at a time. The network runs in evaluation mode on `device` (`models.device`).
    """
    chunks: dict[str, list[np.ndarray]] = {
        task: [np.empty((0, classes), dtype=np.float32)] for task, classes in network.classes.items()
    }
    batches = iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None)
    for task, logits in _iterate_logits(network, batches, device):
        chunks[task].append(logits.float().cpu().numpy())
    return {task: np.concatenate(parts) for task, parts in chunks.items()}


def _iterate_logits(
    network: FaceNetwork, batches: Iterable[ImageBatch], device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """The logits of each batch and task; the network runs in evaluation mode on `device`."""
    with on_device(network, device, training=False):
        for batch in batches:
            with torch.inference_mode():  # not while the caller works: it would last beyond a `yield`
                outputs = network(batch.images.to(device))
            yield from outputs.items()
