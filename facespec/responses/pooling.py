"""One number per unit and image: the response of a layer averaged over its map."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from facespec.data.batches import Preset, iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models.device import on_device
from facespec.models.networks import FaceNetwork
from facespec.responses.recording import record_responses
from facespec.study.errors import StudyError


def pool_responses(
    network: FaceNetwork,
    faces: FaceSet,
    indices: np.ndarray,
    layers: Iterable[str],
    *,
    preset: Preset,
    batch_size: int,
    device: torch.device,
) -> dict[str, npt.NDArray[np.float32]]:
    """Mean responses of `layers` (dotted names) to the images at `indices`, in their order: layer -> float32 (n, k).

    A layer of k units answers with a map per unit, which is averaged over its cells, or with a number, which is kept.
    Every image passes once for all layers, branches included. The maps of one batch, of all layers, are held at a time.
    The network gets its mode and device back. Raises `StudyError` for an unknown layer and if there is no image.
    """
    names = list(dict.fromkeys(layers))
    if not len(indices):
        raise StudyError("no responses without images: got 0 images, at least 1 is needed.")
    pooled: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
    with (
        on_device(network, device, training=False),
        torch.inference_mode(),
        record_responses(network, names) as responses,
    ):
        for batch in iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None):
            network(batch.images.to(device))
            for name in names:
                own = responses[name].float()
                pooled[name].append((own.mean(dim=(2, 3)) if own.ndim == 4 else own).cpu().numpy())
    return {name: np.concatenate(chunks) for name, chunks in pooled.items()}
