"""One number per unit and image: the response of a layer averaged over its map."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facespec.data.batches import iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models.device import on_device
from facespec.responses.recording import hook_outputs
from facespec.study.errors import StudyError
from facespec.study.presets import Preset


def pool_responses(
    network: nn.Module,
    faces: FaceSet,
    indices: np.ndarray,
    layers: Iterable[str],
    *,
    preset: Preset,
    batch_size: int,
    device: torch.device,
) -> dict[str, npt.NDArray[np.float32]]:
    """Mean responses of `layers` to the images at `indices`, in their order: layer -> float32 (n, units).

    `network` is any module that takes a batch of images; `layers` are dotted names. A unit's map is averaged over its
    cells; responses without a map are taken as they are. There is one forward pass per image for all layers, branches
    included. The maps of one batch are averaged as soon as their layer has run, so that those of all layers are never
    in memory at a time. The network runs in evaluation mode on
    `device` (`models.device`). Raises `StudyError` for an unknown layer and for no images.
    """
    names = list(dict.fromkeys(layers))
    if not len(indices):
        raise StudyError("no responses without images: got 0 images, at least 1 is needed.")
    chunks: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}

    def average(name: str, output: torch.Tensor) -> None:
        maps = output.float()
        chunks[name].append((maps.mean(dim=(2, 3)) if maps.ndim == 4 else maps.clone()).cpu().numpy())

    with on_device(network, device, training=False), torch.inference_mode(), hook_outputs(network, names, average):
        for batch in iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None):
            network(batch.images.to(device))
    return {name: np.concatenate(arrays) for name, arrays in chunks.items()}
