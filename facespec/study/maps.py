"""Heatmaps between the rooms: how they are kept on disk, scaled, and brought to the size of the image. No torch.

::

    heatmaps.json               `MapSetHeader`: source, image size, people's networks and tasks, seeds, layers, digests
    labels.csv                  `study.tables.LABELS`; row i belongs to map i of every file
    mean_face.npy               float64 (H, W) grey or (H, W, 3) RGB, 0-255: the mean of the images
    <network>-<task>-<seed>.npy float32 (n, h, w), raw: as large as the responses of the layer, never scaled
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ValidationError

from facespec.study.artefacts import check_file, load_array, read_document
from facespec.study.errors import StudyError
from facespec.study.params import Block, Count, Seed
from facespec.study.tables import LABELS
from facespec.study.vocabulary import PAIRS, Network, Task

Floats = npt.NDArray[np.float64]
HEADER_FILE, LABELS_FILE, MEAN_FACE = "heatmaps.json", "labels.csv", "mean_face.npy"
REMEDY = "Remove the directory: `facespec repro` makes it again."


class MapSetHeader(Block):
    """`heatmaps.json`: what the maps are of. `layers` names, per ``<network>-<task>``, the layer they were taken at."""

    version: Literal[2]  # 1 had no digests
    source: str
    height: Count
    width: Count
    n: Count
    seeds: list[Seed]
    layers: dict[str, str]
    target: Literal["labelled", "predicted"]
    digests: dict[str, str]


@dataclass(frozen=True, eq=False)
class MapSet:
    """The raw heatmaps of all networks for one set of images; made by `MapSet.open`.

    `labels` has one row per image (`study.tables.LABELS`), in the order of the maps.
    """

    directory: Path
    header: MapSetHeader
    labels: pd.DataFrame

    @classmethod
    def open(cls, directory: Path) -> MapSet:
        """Open and validate `directory` without reading a map; `StudyError`, naming the file, if something is wrong."""
        if not (directory / HEADER_FILE).is_file():
            raise StudyError(
                f"{directory}: no heatmaps here (no {HEADER_FILE} in it). `dvc repro heatmaps` makes them."
            )
        try:
            head = MapSetHeader.model_validate(read_document(directory / HEADER_FILE, remedy=REMEDY))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "the whole file"
            raise StudyError(
                f"{directory / HEADER_FILE}: {where}: {problem['msg']}. Make the heatmaps again."
            ) from None
        path = directory / LABELS_FILE
        check_file(path, head.digests.get(LABELS_FILE), remedy=REMEDY)
        labels = LABELS.parse(path.read_bytes(), path)
        if len(labels) != head.n:
            raise StudyError(f"{path}: {len(labels)} rows for {head.n} images. Make them again.")
        return cls(directory, head, labels)

    @property
    def source(self) -> str:
        """Where the faces come from, as figures name it."""
        return self.header.source

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.header.seeds)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in px; the maps are smaller."""
        return self.header.height, self.header.width

    def maps(self, network: Network | str, task: Task | str, seed: int) -> npt.NDArray[np.float32]:
        """Raw heatmaps (n, h, w), read from disk as they are used."""
        name = name_map_file(network, task, seed)
        path, maps = self.directory / name, self._array(name)
        if maps.ndim != 3 or len(maps) != self.header.n or maps.dtype != np.float32:
            raise StudyError(
                f"{path}: {maps.dtype} of shape {maps.shape}, expected float32 ({self.header.n}, h, w). Make it again."
            )
        return maps

    @cached_property
    def mean_face(self) -> Floats:
        """The mean image, float64 (H, W) or (H, W, 3) in RGB order, 0-255."""
        return np.array(self._array(MEAN_FACE), dtype=np.float64)

    def _array(self, name: str) -> np.ndarray:
        return load_array(self.directory / name, self.header.digests.get(name), remedy=REMEDY)


def name_map_file(network: Network | str, task: Task | str, seed: int) -> str:
    """The name of the file that holds one network's maps for one of its tasks."""
    return f"{Network(network).value}-{Task(task).value}-{seed}.npy"


@dataclass(frozen=True, eq=False)
class PersonMaps:
    """Scaled heatmaps summed over the images of each person: all that statistics over people need.

    `total` float64 (pairs, seeds, people, h, w) sums the scaled maps of `count` int64 (pairs, seeds, people) images;
    blank maps are in neither. Pairs are those of `study.vocabulary.PAIRS`, in that order. `size`: of the images, px.
    """

    total: Floats
    count: npt.NDArray[np.int64]
    seeds: tuple[int, ...]
    people: tuple[str, ...]
    size: tuple[int, int]
    source: str

    def __post_init__(self) -> None:
        lead = (len(PAIRS), len(self.seeds), len(self.people))
        if self.total.shape[:3] != lead or self.total.ndim != 5 or self.count.shape != lead:
            raise StudyError(
                f"maps of people: totals {self.total.shape} and counts {self.count.shape}, expected {lead} first."
            )

    def person_means(self) -> Floats:
        """Mean map of every person (pairs, seeds, people, h, w); NaN where all maps of a person are blank."""
        with np.errstate(invalid="ignore"):
            return self.total / self.count[..., None, None]

    def means(self, weights: np.ndarray | None = None) -> Floats:
        """Mean maps (pairs, seeds, h, w) over all images; `weights` (people,) counts how often each person is drawn."""
        drawn = np.ones(len(self.people)) if weights is None else np.asarray(weights, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            return np.tensordot(self.total, drawn, (2, 0)) / np.tensordot(self.count, drawn, (2, 0))[..., None, None]


def scale_maps(maps: np.ndarray) -> Floats:
    """Each map of (n, h, w) stretched to [0, 1] by its own minimum and maximum [P]; NaN for one without any contrast.

    A map without contrast (all zero, as Grad-CAM's are where no unit speaks for the class) is *blank*: it points
    nowhere, and must be counted, not averaged. Raises `StudyError` for numbers that are not finite: those are no map.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if not np.isfinite(maps).all():
        raise StudyError("a heatmap holds numbers that are not finite: the network's answers overflow. Train it again.")
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    with np.errstate(invalid="ignore"):
        return np.where(span > 0, maps - low, np.nan) / np.where(span > 0, span, 1.0)


def upsample_maps(maps: np.ndarray, size: tuple[int, int]) -> Floats:
    """Maps (..., h, w) at `size` (H, W), bilinear between the centres of their cells; edge values go on outside.

    The same as torch's ``interpolate(mode="bilinear", align_corners=False)``. It is linear, so that the mean of
    upsampled maps is the upsampled mean.
    """
    maps = np.asarray(maps, dtype=np.float64)
    rows, columns = (_weights(cells, pixels) for cells, pixels in zip(maps.shape[-2:], size, strict=True))
    return rows @ maps @ columns.T


def _weights(cells: int, pixels: int) -> Floats:
    """(pixels, cells): how much every cell counts for every pixel."""
    place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, cells - 1)
    weights = np.zeros((pixels, cells))
    np.add.at(weights, (np.arange(pixels), low), 1 - (place - low))
    np.add.at(weights, (np.arange(pixels), high), place - low)
    return weights
