"""To which images does a unit respond most? The strongest k images for all units of several layers at once.

There is one forward pass per image, batch by batch; one batch of maps and k numbers per unit are in memory. Of equal
responses, that to the image with the lower index ranks higher, and of equal cells of a map the first in reading order
counts, so that the result depends on neither the order nor the size of the batches (if the responses do not).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facespec.data.batches import ImageBatch
from facespec.models.device import on_device
from facespec.models.receptive import Window
from facespec.responses.recording import hook_outputs
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.presets import Preset

Reduction = Literal["max", "mean"]
REDUCTIONS = ("max", "mean")
Integers = npt.NDArray[np.int64]
NO_IMAGE = np.iinfo(np.int64).max  # fills empty ranks; ranks below every image


@dataclass(frozen=True, eq=False)
class StrongestImages:
    """The images to which each unit of a layer responds most, the strongest first.

    Parameters
    ----------
    response : float32 array of shape (n_units, k)
        The unit's response to the whole image.
    image : int64 array of shape (n_units, k)
        Index of the image in its FaceSet.
    row, column : int64 array of shape (n_units, k), or None
        The cell of the map with the maximum; None if responses are means.

    Examples
    --------
    >>> ranking = Ranking(k=1)
    >>> ranking.add(torch.tensor([[[[0.0, 3.0]]], [[[2.0, 1.0]]]]), np.array([10, 11]))
    >>> strongest = ranking.strongest()
    >>> strongest.image.tolist(), strongest.response.tolist(), strongest.column.tolist()
    ([[10]], [[3.0]], [[1]])
    """

    response: npt.NDArray[np.float32]
    image: Integers
    row: Integers | None
    column: Integers | None


def reduce_maps(maps: torch.Tensor, reduction: Reduction = "max") -> torch.Tensor:
    """One response per image and unit, (n, units): the ``max`` or the ``mean`` of `maps` (n, units, h, w).

    Raises `StudyError` for responses without a map, and for another reduction.
    """
    if reduction not in REDUCTIONS:
        raise StudyError(f"unknown reduction {reduction!r}: {suggest_spelling(str(reduction), REDUCTIONS)}")
    if maps.ndim != 4:
        raise StudyError(f"responses of shape {tuple(maps.shape)}: no map in them. Use a convolution or its ReLU.")
    if reduction == "mean":
        return maps.mean(dim=(2, 3))
    if maps.is_contiguous(memory_format=torch.channels_last):
        # the same numbers; over both axes at once, torch takes ten times longer where few units have large maps
        return maps.permute(0, 2, 3, 1).amax(dim=1).amax(dim=1)
    return maps.amax(dim=(2, 3))


class Ranking:
    """The strongest `k` images so far, for every unit of one layer. Holds three numbers per rank and unit."""

    def __init__(self, k: int, reduction: Reduction = "max") -> None:
        if k < 1:
            raise StudyError(f"k is {k}: a ranking has at least one place.")
        self.k, self.reduction = k, reduction
        self.count = 0  # of images
        self.width = 0  # cells per row of a map
        self.response = np.empty((0, k), dtype=np.float32)
        self.image = np.empty((0, k), dtype=np.int64)
        self.cell = np.empty((0, k), dtype=np.int64)  # row by row

    def add(self, maps: torch.Tensor, positions: np.ndarray) -> None:
        """Rank the images at `positions`, integers (n,), by a layer's `maps` of them, (n, units, h, w).

        Each image must be added once. Raises `StudyError` for responses that are not finite or have no map.
        """
        responses = reduce_maps(maps, self.reduction).float().cpu().numpy().T
        if not np.isfinite(responses).all():
            raise StudyError(f"a response to image {positions[~np.isfinite(responses).all(axis=0)][0]} is not finite.")
        if not self.count:
            shape = len(responses), self.k
            self.width = maps.shape[3]
            self.response, self.image = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, NO_IMAGE)
            self.cell = np.full(shape, -1)
        self.count += len(positions)
        lowest, image = self.response[:, -1:], self.image[:, -1:]
        # few candidates once many images are ranked: image number i enters with probability k/i
        units, rows = np.nonzero((responses > lowest) | ((responses == lowest) & (positions < image)))
        if len(units):
            self._merge(units, responses[units, rows], positions[rows], rows, maps)

    def _merge(
        self, units: np.ndarray, responses: np.ndarray, images: np.ndarray, rows: np.ndarray, maps: torch.Tensor
    ) -> None:
        """Rank candidates, each of a unit and a row of `maps`, together with the images ranked so far."""
        changed = np.unique(units)
        ranked = len(changed) * self.k
        unit = np.concatenate([np.repeat(changed, self.k), units])
        response = np.concatenate([self.response[changed].ravel(), responses])
        image = np.concatenate([self.image[changed].ravel(), images])
        cell = np.concatenate([self.cell[changed].ravel(), np.full(len(units), -1)])
        order = np.lexsort((image, -response, unit))
        starts = np.searchsorted(unit[order], changed)
        best = order[starts[:, None] + np.arange(self.k)]
        if self.reduction == "max":
            new = best[best >= ranked]
            unit_maps = maps[torch.from_numpy(rows[new - ranked]), torch.from_numpy(unit[new])]
            cell[new] = unit_maps.flatten(1).argmax(dim=1).cpu().numpy()  # of equal cells, torch takes the first
        self.response[changed], self.image[changed], self.cell[changed] = response[best], image[best], cell[best]

    def strongest(self) -> StrongestImages:
        """The ranking of all images added; of fewer than `k` images, all."""
        if not self.count:
            raise StudyError("no images to rank.")
        ranks = slice(self.count)
        response, image, cell = self.response[:, ranks].copy(), self.image[:, ranks].copy(), self.cell[:, ranks]
        if self.reduction == "mean":
            return StrongestImages(response, image, None, None)
        return StrongestImages(response, image, cell // self.width, cell % self.width)


def find_strongest_images(
    network: nn.Module,
    batches: Iterable[ImageBatch],
    layers: Iterable[str],
    *,
    k: int,
    device: torch.device,
    reduction: Reduction = "max",
) -> dict[str, StrongestImages]:
    """Find the `k` images to which each unit of some layers responds most.

    All layers are read in one forward pass, without copies. The network runs in evaluation mode on `device`; at the
    end, also after an error, its modes, device and hooks are as before.

    Parameters
    ----------
    network : Module
        Any module that takes a batch of images; its layers are found by dotted names.
    batches : iterable of ImageBatch
        Each image once, such as `data.batches.iterate_batches` gives without a generator.
    layers : iterable of str
        Layers whose responses are maps, (n_images, n_units, height, width).
    k : int
        Images per unit, at least 1.
    device : torch.device
    reduction : {"max", "mean"}
        How a map becomes the unit's response to the image.

    Returns
    -------
    dict of str to StrongestImages

    Raises
    ------
    StudyError
        For unknown layers, layers without a map, no images, and responses that are not finite.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    >>> images = torch.rand((5, 1, 9, 7), generator=torch.Generator().manual_seed(1))
    >>> batches = [ImageBatch(images[:3], np.arange(3)), ImageBatch(images[3:], np.arange(3, 5))]
    >>> strongest = find_strongest_images(network, batches, ["1"], k=2, device=torch.device("cpu"))
    >>> strongest["1"].image.shape
    (2, 2)
    """
    rankings = {name: Ranking(k, reduction) for name in layers}
    with on_device(network, device, training=False), torch.inference_mode():
        for batch in batches:
            with hook_outputs(network, rankings, partial(_rank, rankings, batch.positions)):
                network(batch.images.to(device))
    return {name: ranking.strongest() for name, ranking in rankings.items()}


def _rank(rankings: dict[str, Ranking], positions: np.ndarray, name: str, output: torch.Tensor) -> None:
    try:
        rankings[name].add(output, positions)
    except StudyError as error:
        raise StudyError(f"layer {name!r}: {error}") from None


def locate_window(window: Window, preset: Preset, image: tuple[int, int]) -> Window:
    """The pixels of a stored image of (height, width) px from which a `window` of the network's input is computed.

    Inverts the test-time part of `preset`: centre crop, then antialiased bilinear resizing, in which neighbouring
    pixels are mixed.
    """
    if preset.resize is None:
        return window  # images are not resized
    height, width = image
    shorter = min(image)
    limits: list[int] = []
    for first, end, side in ((window.top, window.bottom, height), (window.left, window.right, width)):
        resized = int(preset.resize * side / shorter)
        offset = round((resized - preset.size) / 2)
        scale = side / resized
        support = max(scale, 1.0)  # half-width of the triangle filter, in stored pixels
        low, high = ((pixel + offset + 0.5) * scale for pixel in (first, end - 1))
        limits += [max(int(np.floor(low - support - 0.5)) + 1, 0), min(int(np.ceil(high + support - 0.5)), side)]
    return Window(*limits)
