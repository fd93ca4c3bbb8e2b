"""Chunks: images and labels on their way from a renderer or an adapter into a FaceSet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.study.errors import StudyError
from facespec.study.tables import LABELS

# a carriage return would tear a row of the CSV file apart, and an undecodable byte of a file name has no UTF-8
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class FaceChunk:
    """Some images with their labels.

    `images` uint8 (k, H, W) or (k, H, W, 3); `labels` k rows of `study.tables.LABELS`; `regions` uint8 (k, H, W).
    """

    images: np.ndarray
    labels: pd.DataFrame
    regions: np.ndarray | None = None


@dataclass(frozen=True)
class FaceSetDescription:
    """What a FaceSet is: its role, images per shard, names of region codes (None: no regions) and provenance.

    A callable provenance is evaluated after the last chunk, when counts and excluded files are known.
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
    """A dataset on its way in: the two arguments that `faceset.write_faceset` takes beside the directory.

    `chunks` reads the files as it is consumed, and may raise `StudyError` until its end.
    """

    chunks: Iterator[FaceChunk]
    description: FaceSetDescription


def check_chunk(chunk: FaceChunk, shape: tuple[int, ...], region_codes: dict[str, int] | None) -> pd.DataFrame:
    """The chunk's labels in column order, if its images are of `shape`, one image's; `StudyError` otherwise."""
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
