"""Which images drive a unit most? The strongest k of any number of images, for all units of several layers at once.

Images pass once, batch by batch; what is held is one batch of maps and k numbers per unit. Of equal responses the image
with the lower index is the stronger, and of equal cells of a map the first in reading order counts, so that the answer
depends on neither the order nor the size of the batches (as far as the responses themselves do not).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facespec.data.batches import ImageBatch, Preset
from facespec.models.device import on_device
from facespec.models.layers import get_layer
from facespec.models.networks import FaceNetwork
from facespec.models.receptive import Window
from facespec.study.errors import StudyError, suggest_spelling

Reduction = Literal["max", "mean"]
REDUCTIONS = ("max", "mean")
Integers = npt.NDArray[np.int64]
NOBODY = np.iinfo(np.int64).max  # a place not yet taken; it loses against every image


@dataclass(frozen=True, eq=False)
class Strongest:
    """The strongest images of every unit of a layer, best first; all arrays are (units, k).

    `response` is the unit's response to the whole image, float32; `image` the image's index in its FaceSet, int64.
    `row` and `column` say in which cell of the map the maximum lies, int64; None where responses are means.
    """

    response: npt.NDArray[np.float32]
    image: Integers
    row: Integers | None
    column: Integers | None


def reduce_maps(maps: torch.Tensor, reduction: Reduction = "max") -> torch.Tensor:
    """One response per image and unit, (n, units), of `maps` (n, units, h, w): their ``max`` or their ``mean``.

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
    """The strongest `k` images of every unit of one layer, so far. Holds three numbers per place, (units, k)."""

    def __init__(self, k: int, reduction: Reduction = "max") -> None:
        if k < 1:
            raise StudyError(f"k is {k}: a ranking has at least one place.")
        self.k, self.reduction = k, reduction
        self.seen = 0
        self.width = 0  # cells per row of a map
        self.response = np.empty((0, k), dtype=np.float32)
        self.image = np.empty((0, k), dtype=np.int64)
        self.cell = np.empty((0, k), dtype=np.int64)  # row by row

    def add(self, maps: torch.Tensor, positions: np.ndarray) -> None:
        """Rank the images at `positions`, integers (n,), by a layer's `maps` of them, (n, units, h, w).

        An image is to be added once. Raises `StudyError` for responses that are not finite or have no map.
        """
        responses = reduce_maps(maps, self.reduction).float().cpu().numpy().T
        if not np.isfinite(responses).all():
            raise StudyError(f"a response to image {positions[~np.isfinite(responses).all(axis=0)][0]} is not finite.")
        if not self.seen:
            shape = len(responses), self.k
            self.width = maps.shape[3]
            self.response, self.image = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, NOBODY)
            self.cell = np.full(shape, -1)
        self.seen += len(positions)
        last, holder = self.response[:, -1:], self.image[:, -1:]
        # news is rare once many images have passed: image number i enters with probability k/i
        units, news = np.nonzero((responses > last) | ((responses == last) & (positions < holder)))
        if len(units):
            self._merge(units, responses[units, news], positions[news], news, maps)

    def _merge(
        self, units: np.ndarray, responses: np.ndarray, images: np.ndarray, rows: np.ndarray, maps: torch.Tensor
    ) -> None:
        """Let candidates, each of a unit and a row of `maps`, compete with those that hold the units' places."""
        touched = np.unique(units)
        held = len(touched) * self.k
        unit = np.concatenate([np.repeat(touched, self.k), units])
        response = np.concatenate([self.response[touched].ravel(), responses])
        image = np.concatenate([self.image[touched].ravel(), images])
        cell = np.concatenate([self.cell[touched].ravel(), np.full(len(units), -1)])
        order = np.lexsort((image, -response, unit))
        firsts = np.searchsorted(unit[order], touched)
        winners = order[firsts[:, None] + np.arange(self.k)]
        if self.reduction == "max":
            new = winners[winners >= held]
            where = torch.from_numpy(rows[new - held]), torch.from_numpy(unit[new])
            cell[new] = maps[where].flatten(1).argmax(dim=1).cpu().numpy()  # of equal cells, torch takes the first
        self.response[touched], self.image[touched], self.cell[touched] = (
            response[winners],
            image[winners],
            cell[winners],
        )

    def strongest(self) -> Strongest:
        """The ranking of all images added; where there were fewer than `k`, it has as many places as images."""
        if not self.seen:
            raise StudyError("no images to rank.")
        taken = slice(self.seen)
        response, image, cell = self.response[:, taken].copy(), self.image[:, taken].copy(), self.cell[:, taken]
        if self.reduction == "mean":
            return Strongest(response, image, None, None)
        return Strongest(response, image, cell // self.width, cell % self.width)


def find_strongest_images(
    network: FaceNetwork,
    seen: Iterable[ImageBatch],
    layers: Iterable[str],
    *,
    k: int,
    device: torch.device,
    reduction: Reduction = "max",
) -> dict[str, Strongest]:
    """The `k` images of all batches `seen` that drive each unit of `layers` (dotted names) most: layer -> Strongest.

    The unit's response to an image is the maximum of its map, or the map's mean (`reduction`). All layers are read in
    one forward pass, without copies. Each image should come once; `data.batches.batches` without a generator gives
    them. The network gets its mode and device back, and nothing remains attached to it, also after an error. Raises
    `StudyError` for unknown layers, layers without a map, no images, and responses that are not finite.
    """
    rankings = {name: Ranking(k, reduction) for name in layers}
    with on_device(network, device, training=False), torch.inference_mode():
        for batch in seen:
            readers = {name: partial(own.add, positions=batch.positions) for name, own in rankings.items()}
            with _read_by(network, readers):
                network(batch.images.to(device))
    return {name: own.strongest() for name, own in rankings.items()}


@contextmanager
def _read_by(network: FaceNetwork, readers: Mapping[str, Callable[[torch.Tensor], None]]) -> Iterator[None]:
    """Inside, every forward pass shows each layer's responses to its reader, as they are made and without a copy."""
    modules = {name: get_layer(network, name) for name in readers}
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(_showing(name, readers[name])))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _showing(name: str, reader: Callable[[torch.Tensor], None]) -> Any:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        try:
            reader(output)
        except StudyError as error:
            raise StudyError(f"layer {name!r}: {error}") from None

    return hook


def locate_window(window: Window, preset: Preset, image: tuple[int, int]) -> Window:
    """Which pixels of an image of (height, width) px, as stored, a `window` of the network's input is made of.

    The way back through the test-time part of `preset`: centre crop, then antialiased bilinear resizing, in which a
    pixel also mixes its neighbours.
    """
    if preset.resize is None:
        return window  # images are taken as they are
    height, width = image
    shorter = min(image)
    ends: list[int] = []
    for first, beyond, side in ((window.top, window.bottom, height), (window.left, window.right, width)):
        resized = int(preset.resize * side / shorter)
        offset = round((resized - preset.size) / 2)
        scale = side / resized
        support = max(scale, 1.0)  # half-width of the triangle by which pixels are mixed, in stored pixels
        low, high = ((at + offset + 0.5) * scale for at in (first, beyond - 1))
        ends += [max(int(np.floor(low - support - 0.5)) + 1, 0), min(int(np.ceil(high + support - 0.5)), side)]
    return Window(*ends)
