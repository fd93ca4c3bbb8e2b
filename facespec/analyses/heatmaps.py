"""Where does a network look when it names a class? Grad-CAM at any layer, and group means of its maps.

Grad-CAM (Selvaraju et al. 2017, ICCV): the responses of a layer, weighted by the gradient of the class's logit averaged
over the map, summed over units, and rectified. For a head that reads the global average of the layer it is the class
activation map of Zhou et al. (2016, CVPR), rectified and divided by the number of cells.

Where we deviate [O]: nothing here scales a map. Common implementations scale every map to [0, 1], some twice, so that a
group mean says nothing about magnitude; here scaling is a step of its own (`study.maps.scaled`), and maps without any
contrast are counted, not averaged.
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
    """Raw heatmaps of one batch for one class per image and task: task -> float32 (n, h, w), not negative.

    `images` is what the network takes, (n, channels, height, width); `layers` maps each task to the layer (dotted name)
    at which its maps are taken, `targets` to the classes that are explained, int64 (n,), or None for the class that the
    network finds likeliest. One forward pass serves all tasks; gradients are those of what lies above the layer alone.
    The network should be in evaluation mode: a map then depends on its own image only. Raises `StudyError` for
    unknown tasks or layers, a layer without a map, one that the task's head does not read, and impossible classes.
    """
    if not targets or set(layers) != set(targets):
        raise StudyError(
            f"layers for {list(map(str, layers))} and targets for {list(map(str, targets))}: name at "
            "least one task, and each in both."
        )
    maps: dict[str, torch.Tensor] = {}
    with record_with_grad(network, dict.fromkeys(layers.values())) as responses:
        answers = network(images, targets)
        for position, (task, logits) in enumerate(answers.items()):
            own = responses.get(layers[task])
            if own is not None and own.ndim != 4:
                raise StudyError(f"layer {layers[task]!r} has responses of shape {tuple(own.shape)}: no map in them.")
            classes = _classes(task, targets[task], logits)
            gradient = _gradient(logits, own, classes, keep=position < len(answers) - 1)
            if own is None or gradient is None:
                raise StudyError(
                    f"the head of {str(task)!r} does not read layer {layers[task]!r}: its maps would be empty."
                )
            maps[task] = torch.einsum("nu,nuhw->nhw", gradient.mean(dim=(2, 3)), own.detach()).relu()
    return maps


def _gradient(
    logits: torch.Tensor, own: torch.Tensor | None, classes: torch.Tensor, *, keep: bool
) -> torch.Tensor | None:
    """The gradient of each image's logit of its class by its responses `own`; None if no logit depends on them."""
    if own is None or not logits.requires_grad:
        return None
    explained = functional.one_hot(classes, logits.shape[1]).to(logits)
    return torch.autograd.grad(logits, own, explained, retain_graph=keep, allow_unused=True)[0]


def _classes(task: str, target: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
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

    `targets` maps each task to one class per index, int64 (n,), or None for the likeliest. One batch is held at a time.
    The network gets its mode and device back when the iteration ends.
    """
    for task, target in targets.items():
        if target is not None and len(target) != len(indices):
            raise StudyError(f"targets of {str(task)!r}: {len(target)} classes for {len(indices)} images.")
    with on_device(network, device, training=False):
        start = 0
        for batch in iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None):
            part = slice(start, start + len(batch.images))
            own = {task: None if target is None else torch.from_numpy(target[part]) for task, target in targets.items()}
            found = compute_heatmaps(network, batch.images.to(device), layers, own)
            yield {task: maps.float().cpu().numpy() for task, maps in found.items()}
            start = part.stop


class Moments:
    """Means and second moments of maps per group, gathered batch by batch in float64.

    Holds (groups, h, w) numbers, however many maps are added. Maps that are NaN (blank ones, once scaled) are counted
    in `blank` and enter nothing else.
    """

    def __init__(self, groups: int, shape: tuple[int, int]) -> None:
        self.count = np.zeros(groups, dtype=np.int64)
        self.blank = np.zeros(groups, dtype=np.int64)
        self.total = np.zeros((groups, *shape))
        self.squares = np.zeros((groups, *shape))

    def add(self, maps: np.ndarray, groups: np.ndarray) -> None:
        """Add `maps` (n, h, w), each to its group (n,) integer; `StudyError` for a group that is not there."""
        maps, groups = np.asarray(maps, dtype=np.float64), np.asarray(groups)
        if groups.size and not 0 <= groups.min() <= groups.max() < len(self.count):  # -1 would be the last group
            raise StudyError(f"groups lie in {groups.min()} ... {groups.max()}; there are {len(self.count)}, from 0.")
        seen = ~np.isnan(maps).any(axis=(1, 2))
        np.add.at(self.blank, groups[~seen], 1)
        np.add.at(self.count, groups[seen], 1)
        np.add.at(self.total, groups[seen], maps[seen])
        np.add.at(self.squares, groups[seen], maps[seen] ** 2)

    def merge(self, onto: np.ndarray) -> Moments:
        """The moments of coarser groups: group i goes to group `onto[i]`."""
        result = Moments(int(np.max(onto)) + 1, (self.total.shape[1], self.total.shape[2]))
        for name in ("count", "blank", "total", "squares"):
            np.add.at(getattr(result, name), onto, getattr(self, name))
        return result

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean maps (groups, h, w); NaN for a group without maps."""
        with np.errstate(invalid="ignore"):
            return self.total / self.count[:, None, None]

    @property
    def sd(self) -> npt.NDArray[np.float64]:
        """Standard deviations over images (divisor n) of the maps, (groups, h, w); NaN for a group without maps."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.maximum(self.squares / self.count[:, None, None] - self.mean**2, 0))
