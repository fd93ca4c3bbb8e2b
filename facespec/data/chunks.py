"""In which form do a renderer and the adapters of real data sets hand images and labels to a FaceSet?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.study.errors import StudyError
from facespec.study.tables import LABELS

# a carriage return would break a row of the CSV file in two, and an undecodable byte of a file name has no UTF-8
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class FaceChunk:
    """Some images with their labels.

    Attributes
    ----------
    images : array of uint8 of shape (k, height, width), or (k, height, width, 3) for RGB
        Grey levels or colours, 0 to 255.
    labels : pandas.DataFrame
        k rows with the columns of `facespec.study.tables.LABELS`, in any order; no control characters.
    regions : array of uint8 of shape (k, height, width), optional
        The region of every pixel, in codes of `FaceSetDescription.region_codes`.

    Examples
    --------
    >>> columns = ["stimulus", "split", "identity", "expression", "view", "session"]
    >>> labels = pd.DataFrame([["a", "train", "Ann", "happy", "", ""]], columns=columns)
    >>> FaceChunk(np.zeros((1, 48, 48), np.uint8), labels).images.shape
    (1, 48, 48)
    """

    images: np.ndarray
    labels: pd.DataFrame
    regions: np.ndarray | None = None


@dataclass(frozen=True)
class FaceSetDescription:
    """What is the same for all images of a FaceSet.

    Attributes
    ----------
    role : {"expression", "identity", "probe"}
        What the faces are for.
    shard_size : int
        Images per file, at least 1.
    region_codes : dict of str to int, or None
        Codes (0 to 255) of the regions in the region maps; None for faces without region maps.
    provenance : dict, or callable that returns one
        JSON-compatible; ``source``, a text, is required. A callable is evaluated after the last chunk, when counts and
        excluded files are known.

    Raises
    ------
    StudyError
        If `shard_size` is below 1.

    Examples
    --------
    >>> FaceSetDescription("probe", 2048, None, {"source": "KDEF"}).role
    'probe'
    """

    role: str
    shard_size: int
    region_codes: dict[str, int] | None
    provenance: dict[str, Any] | Callable[[], dict[str, Any]]

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise StudyError(f"shards of {self.shard_size} images, allowed: 1 or more.")


@dataclass(frozen=True)
class FaceImport:
    """A data set to import: the arguments of `faceset.write_faceset` besides the directory.

    `chunks` reads the files as it is consumed, and may raise `StudyError` until its end.
    """

    chunks: Iterator[FaceChunk]
    description: FaceSetDescription


def check_chunk(chunk: FaceChunk, shape: tuple[int, ...], region_codes: dict[str, int] | None) -> pd.DataFrame:
    """The chunk's labels in column order; `StudyError` unless each image has `shape` and everything fits together."""
    k, images, regions = len(chunk.labels), chunk.images, chunk.regions
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise StudyError(f"images of shape {shape}, allowed: (height, width) grey or (height, width, 3) RGB.")
    if images.dtype != np.uint8 or images.shape != (k, *shape):
        raise StudyError(f"images are {images.dtype} {images.shape}, expected uint8 {(k, *shape)} for {k} labels.")
    if (regions is None) != (region_codes is None):
        raise StudyError("region maps and region codes come together or not at all.")
    if regions is not None and region_codes is not None:
        if regions.dtype != np.uint8 or regions.shape != (k, *shape[:2]):
            raise StudyError(f"regions are {regions.dtype} {regions.shape}, expected uint8 {(k, *shape[:2])}.")
        unknown = np.setdiff1d(np.flatnonzero(np.bincount(regions.ravel())), list(region_codes.values()))
        if unknown.size:
            raise StudyError(f"regions hold {unknown.tolist()}, which the region codes {region_codes} do not name.")
    labels = LABELS.check(chunk.labels)
    for column in labels:
        for text in labels[column]:
            if UNWRITABLE.search(str(text)):
                raise StudyError(f"{column} {text!r} holds a control character or an undecodable byte. Rename it.")
    return labels
