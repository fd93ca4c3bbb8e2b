"""How are heatmaps stored on disk, scaled to [0, 1], and upsampled to the size of the image? No torch.

::

    heatmaps.json               `MapSetHeader`: source, image size, number of images, seeds, layers, digests
    labels.csv                  `study.tables.LABELS`; row i belongs to map i of every file
    mean_face.npy               float64 (H, W) grey or (H, W, 3) RGB, 0-255: the mean of the images
    <network>-<task>-<seed>.npy float32 (n, h, w), raw: the size of the layer's response maps, not scaled
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.study.artefacts import REMAKE_DIRECTORY, check_file, load_array, read_header
from facespec.study.errors import StudyError
from facespec.study.params import Block, Count, Seed
from facespec.study.tables import LABELS
from facespec.study.vocabulary import PAIRS, Network, Task

Floats = npt.NDArray[np.float64]
HEADER_FILE, LABELS_FILE, MEAN_FACE = "heatmaps.json", "labels.csv", "mean_face.npy"


class MapSetHeader(Block):
    """The content of ``heatmaps.json``; `layers` is the explained layer of each ``<network>-<task>``."""

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
    """The raw heatmaps of all networks for one set of images, read from disk as they are used.

    Made by `MapSet.open`.

    Attributes
    ----------
    directory : pathlib.Path
        The directory that holds the files.
    header : MapSetHeader
        The content of ``heatmaps.json``.
    labels : pandas.DataFrame
        One row per image (`study.tables.LABELS`), in the order of the maps.

    Examples
    --------
    >>> import tempfile
    >>> from facespec.study.artefacts import digest_files, write_document
    >>> folder = tempfile.TemporaryDirectory()
    >>> directory = Path(folder.name)
    >>> columns = {"stimulus": "a", "split": "probe", "identity": "", "expression": "sad", "view": "", "session": ""}
    >>> pd.DataFrame([columns]).to_csv(directory / "labels.csv", index=False)
    >>> np.save(directory / name_map_file("joint", "identity", 1), np.zeros((1, 3, 5), np.float32))
    >>> header = {"version": 2, "source": "toy", "height": 48, "width": 48, "n": 1, "seeds": [1], "layers": {},
    ...           "target": "labelled", "digests": digest_files(directory)}
    >>> write_document(directory / "heatmaps.json", header)
    >>> heatmaps = MapSet.open(directory)
    >>> heatmaps.size, heatmaps.maps("joint", "identity", seed=1).shape
    ((48, 48), (1, 3, 5))
    >>> folder.cleanup()
    """

    directory: Path
    header: MapSetHeader
    labels: pd.DataFrame

    @classmethod
    def open(cls, directory: Path) -> MapSet:
        """Open and validate `directory` without reading a map.

        Raises `StudyError`, naming the file, if the header or the labels are absent, altered or inconsistent.
        """
        header = read_header(directory / HEADER_FILE, MapSetHeader, content="heatmaps", stage="heatmaps")
        path = directory / LABELS_FILE
        check_file(path, header.digests.get(LABELS_FILE), remedy=REMAKE_DIRECTORY)
        labels = LABELS.parse(path.read_bytes(), path)
        if len(labels) != header.n:
            raise StudyError(f"{path}: {len(labels)} rows for {header.n} images. Make them again.")
        return cls(directory, header, labels)

    @property
    def source(self) -> str:
        """The source of the faces, as figures name it."""
        return self.header.source

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the networks."""
        return tuple(self.header.seeds)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, px; the maps are smaller."""
        return self.header.height, self.header.width

    def maps(self, network: Network | str, task: Task | str, seed: int) -> npt.NDArray[np.float32]:
        """Return the raw heatmaps of one head, float32 (n, h, w), memory-mapped.

        Raises `StudyError`, naming the file, if it is absent or altered, or has another dtype or shape.
        """
        name = name_map_file(network, task, seed)
        maps = self._load(name)
        if maps.ndim != 3 or len(maps) != self.header.n or maps.dtype != np.float32:
            raise StudyError(
                f"{self.directory / name}: {maps.dtype} of shape {maps.shape}, "
                f"expected float32 ({self.header.n}, h, w). Make it again."
            )
        return maps

    @cached_property
    def mean_face(self) -> Floats:
        """The mean image, float64 (H, W) or (H, W, 3) in RGB order, 0-255."""
        return np.array(self._load(MEAN_FACE), dtype=np.float64)

    def _load(self, name: str) -> np.ndarray:
        return load_array(self.directory / name, self.header.digests.get(name), remedy=REMAKE_DIRECTORY)


def name_map_file(network: Network | str, task: Task | str, seed: int) -> str:
    """Return the name of the file that holds one network's maps for one of its tasks."""
    return f"{Network(network).value}-{Task(task).value}-{seed}.npy"


@dataclass(frozen=True, eq=False)
class PersonMaps:
    """Sums of the scaled heatmaps of each person's images: all that statistics over people need.

    Pairs of network and task are those of `study.vocabulary.PAIRS`, in that order. Blank maps (see `scale_maps`) are
    neither summed nor counted.

    Parameters
    ----------
    total : array of shape (n_pairs, n_seeds, n_people, h, w)
        Sum of the scaled maps, float64.
    count : array of shape (n_pairs, n_seeds, n_people)
        Number of maps in each sum, int64.
    seeds : tuple of int
        Seeds of the networks.
    people : tuple of str
        Identities of the people.
    size : tuple of int
        Height and width of the images, px.
    source : str
        Source of the faces, as figures name it.

    Raises
    ------
    StudyError
        If the shapes disagree with each other or with the numbers of pairs, seeds and people.

    Examples
    --------
    Two people with one and three images; all maps of 1x2 cells are equal.

    >>> count = np.tile([1, 3], (6, 1, 1))
    >>> total = count[..., None, None] * np.array([[0.0, 1.0]])
    >>> people = PersonMaps(total, count, seeds=(1,), people=("a", "b"), size=(48, 48), source="toy")
    >>> people.means().shape, people.means()[0, 0].tolist()
    ((6, 1, 1, 2), [[0.0, 1.0]])
    """

    total: Floats
    count: npt.NDArray[np.int64]
    seeds: tuple[int, ...]
    people: tuple[str, ...]
    size: tuple[int, int]
    source: str

    def __post_init__(self) -> None:
        shape = (len(PAIRS), len(self.seeds), len(self.people))
        if self.total.shape[:3] != shape or self.total.ndim != 5 or self.count.shape != shape:
            raise StudyError(
                f"maps of people: totals {self.total.shape} and counts {self.count.shape}, expected {shape} first."
            )

    def person_means(self) -> Floats:
        """Mean map of every person (pairs, seeds, people, h, w); NaN for a person whose maps are all blank."""
        with np.errstate(invalid="ignore"):
            return self.total / self.count[..., None, None]

    def means(self, weights: np.ndarray | None = None) -> Floats:
        """Mean map over all images (pairs, seeds, h, w); `weights` (people,): how often each person is drawn."""
        weights = np.ones(len(self.people)) if weights is None else np.asarray(weights, dtype=np.float64)
        count = np.tensordot(self.count, weights, (2, 0))
        with np.errstate(invalid="ignore"):
            return np.tensordot(self.total, weights, (2, 0)) / count[..., None, None]


def scale_maps(maps: np.ndarray) -> Floats:
    """Scale each map to [0, 1] by its minimum and maximum [P].

    Parameters
    ----------
    maps : array of shape (n, h, w)
        Raw heatmaps.

    Returns
    -------
    array of shape (n, h, w)
        Scaled maps, float64. A *blank* map, whose values are all equal, becomes NaN: it has no maximum, and is counted
        instead of averaged. Grad-CAM gives one (all zero) if no unit contributes to the class.

    Raises
    ------
    StudyError
        If a value is not finite.

    Examples
    --------
    >>> scale_maps([[[2, 4, 6]], [[7, 7, 7]]]).tolist()
    [[[0.0, 0.5, 1.0]], [[nan, nan, nan]]]
    """
    maps = np.asarray(maps, dtype=np.float64)
    if not np.isfinite(maps).all():
        raise StudyError("a heatmap holds numbers that are not finite: the network's answers overflow. Train it again.")
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    with np.errstate(invalid="ignore"):
        return np.where(span > 0, maps - low, np.nan) / np.where(span > 0, span, 1.0)


def upsample_maps(maps: np.ndarray, size: tuple[int, int]) -> Floats:
    """Resample maps to `size`, bilinearly between the centres of their cells.

    The result equals that of torch's ``interpolate(mode="bilinear", align_corners=False)``: pixels outside the
    outermost centres take the edge values. Upsampling is linear: the mean of upsampled maps is the upsampled mean.

    Parameters
    ----------
    maps : array of shape (..., h, w)
        Maps of any values.
    size : tuple of int
        Height H and width W of the result, px.

    Returns
    -------
    array of shape (..., H, W)
        Resampled maps, float64.

    Examples
    --------
    >>> upsample_maps([[0, 4]], (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    """
    maps = np.asarray(maps, dtype=np.float64)
    rows, columns = (_make_weights(cells, pixels) for cells, pixels in zip(maps.shape[-2:], size, strict=True))
    return rows @ maps @ columns.T


def _make_weights(cells: int, pixels: int) -> Floats:
    """Return the weight of every cell for every pixel, (pixels, cells)."""
    position = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, cells - 1)
    weights = np.zeros((pixels, cells))
    np.add.at(weights, (np.arange(pixels), low), 1 - (position - low))
    np.add.at(weights, (np.arange(pixels), high), position - low)
    return weights
