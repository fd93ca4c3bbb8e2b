"""Which parts of an image lead a network to a class? Grad-CAM at any layer.

Grad-CAM (Selvaraju et al. 2017, ICCV): the responses of a layer, weighted by the gradient of the class's logit averaged
over the map, summed over units, and rectified. For a head that reads the global average of the layer it is the class
activation map of Zhou et al. (2016, CVPR), rectified and divided by the number of cells.

Where we deviate [O]: nothing here scales a map. Common implementations scale every map to [0, 1], some twice, so that a
group mean loses magnitude; here scaling is a separate step (`study.maps.scale_maps`), and maps without any contrast are
counted, not averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from facespec.data.batches import Preset, iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models.device import on_device
from facespec.models.networks import FaceNetwork
from facespec.responses.recording import record_with_grad
from facespec.study.errors import StudyError

Targets = Mapping[str, np.ndarray | None]


def compute_heatmaps(
    network: FaceNetwork, images: torch.Tensor, layers: Mapping[str, str], targets: Mapping[str, torch.Tensor | None]
) -> dict[str, torch.Tensor]:
    """Compute raw Grad-CAM heatmaps of one batch, for one class per image and task.

    One forward pass serves all tasks; gradients are computed down to the layer only.

    Parameters
    ----------
    network : FaceNetwork
        A network in evaluation mode: each map then depends on one image only.
    images : float32 tensor of shape (n, channels, height, width)
        Preprocessed images.
    layers : mapping of str to str
        Task to the layer (dotted name) at which its maps are computed.
    targets : mapping of str to (int64 tensor of shape (n,) or None)
        Task to the classes to explain; None stands for the class with the largest logit. The same tasks as in `layers`.

    Returns
    -------
    dict of str to float32 tensor of shape (n, h, w)
        Task to heatmaps, not negative, of the size of the layer's responses.

    Raises
    ------
    StudyError
        For unknown tasks or layers, a layer whose responses are no maps, one that the task's head does not read, and
        classes that the head does not have.

    References
    ----------
    Selvaraju et al. (2017). Grad-CAM: Visual explanations from deep networks via gradient-based localization. ICCV.

    Examples
    --------
    >>> from facespec.models.networks import build_network
    >>> from facespec.study.params import NetworkBlock
    >>> block = NetworkBlock(trunk="small_vgg", channels=[3, 4], convolutions=1, branch_after=None)
    >>> network = build_network(block, {"identity": 5}, channels=1, generator=torch.Generator().manual_seed(1)).eval()
    >>> maps = compute_heatmaps(network, torch.ones(2, 1, 17, 11), {"identity": "trunk.relu2"}, {"identity": None})
    >>> maps["identity"].shape
    torch.Size([2, 8, 5])
    """
    if not targets or set(layers) != set(targets):
        raise StudyError(
            f"layers for {list(map(str, layers))} and targets for {list(map(str, targets))}: name at "
            "least one task, and each in both."
        )
    maps: dict[str, torch.Tensor] = {}
    with record_with_grad(network, dict.fromkeys(layers.values())) as responses:
        logits_by_task = network(images, targets)
        for position, (task, logits) in enumerate(logits_by_task.items()):
            response = responses.get(layers[task])
            if response is not None and response.ndim != 4:
                raise StudyError(
                    f"layer {layers[task]!r} has responses of shape {tuple(response.shape)}: no map in them."
                )
            classes = _choose_classes(task, targets[task], logits)
            is_last = position == len(logits_by_task) - 1
            gradient = _compute_gradient(logits, response, classes, retain_graph=not is_last)
            if response is None or gradient is None:
                raise StudyError(
                    f"the head of {str(task)!r} does not read layer {layers[task]!r}: its maps would be empty."
                )
            maps[task] = torch.einsum("nu,nuhw->nhw", gradient.mean(dim=(2, 3)), response.detach()).relu()
    return maps


def _compute_gradient(
    logits: torch.Tensor, response: torch.Tensor | None, classes: torch.Tensor, *, retain_graph: bool
) -> torch.Tensor | None:
    """The gradient of each image's logit of its class by its response; None if no logit depends on it."""
    if response is None or not logits.requires_grad:
        return None
    is_class = functional.one_hot(classes, logits.shape[1]).to(logits)
    return torch.autograd.grad(logits, response, is_class, retain_graph=retain_graph, allow_unused=True)[0]


def _choose_classes(task: str, target: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
    if target is None:
        return logits.argmax(dim=1)
    n, classes = logits.shape
    if target.shape != (n,) or target.dtype != torch.int64:
        raise StudyError(
            f"targets of {str(task)!r}: {target.dtype} of shape {tuple(target.shape)}, expected int64 ({n},)."
        )
    if n and not 0 <= int(target.min()) <= int(target.max()) < classes:
        raise StudyError(
            f"targets of {str(task)!r} lie in {int(target.min())} ... {int(target.max())}; the head has "
            f"{classes} classes, from 0."
        )
    return target.to(logits.device)


def iterate_heatmaps(
    network: FaceNetwork,
    faces: FaceSet,
    indices: np.ndarray,
    layers: Mapping[str, str],
    targets: Targets,
    *,
    preset: Preset,
    batch_size: int,
    device: torch.device,
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Raw heatmaps of the images at `indices`, in their order, a batch at a time: task -> float32 (k, h, w).

    `targets` maps each task to one class per index, int64 (n,), or None for that with the largest logit. One batch is
    held at a time. Mode and device of the network are restored when the iteration ends.
    """
    for task, target in targets.items():
        if target is not None and len(target) != len(indices):
            raise StudyError(f"targets of {str(task)!r}: {len(target)} classes for {len(indices)} images.")
    with on_device(network, device, training=False):
        start = 0
        for batch in iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None):
            stop = start + len(batch.images)
            batch_targets = {
                task: None if target is None else torch.from_numpy(target[start:stop])
                for task, target in targets.items()
            }
            batch_maps = compute_heatmaps(network, batch.images.to(device), layers, batch_targets)
            yield {task: maps.float().cpu().numpy() for task, maps in batch_maps.items()}
            start = stop
