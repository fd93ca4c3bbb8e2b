"""FaceSet: uint8 images and one row of labels per image, in a directory; the only format later rooms know.

::

    faceset.json        version, role, height, width, channels, n, shard_size, regions {name: code} or null, provenance,
                        digests {file: SHA-256}, and a digest of itself
    labels.csv          `study.tables.LABELS`; row i belongs to image i
    images-00000.npy    uint8 (k, H, W) grey or (k, H, W, 3) RGB; `shard_size` images each, the last may hold fewer
    images-digests.npy  uint8 (n, 16): of every image, the first half of its SHA-256
    regions-00000.npy   optional, uint8 (k, H, W): the region of every pixel; regions-digests.npy as above
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from facespec.data.chunks import FaceChunk, FaceSetDescription, check_chunk
from facespec.data.directories import atomic_directory, write_synced
from facespec.data.shards import ShardReader, ShardWriter, check_shards, digests_name
from facespec.study.artefacts import check_file, digest_file, encode_document, read_document
from facespec.study.errors import StudyError
from facespec.study.params import Block, Count
from facespec.study.storage import encode_table
from facespec.study.tables import LABELS
from facespec.study.vocabulary import Role

HEADER_FILE, LABELS_FILE = "faceset.json", "labels.csv"
REMEDY = "Make the faces again."
CHECK_ROWS = 256  # read at a time


class FaceSetHeader(Block):
    """`faceset.json`: all about a FaceSet that is not in its labels or pixels; refuses what it does not know."""

    version: Literal[2]  # 1 had no digests
    role: Literal["expression", "identity", "probe"]
    height: Count
    width: Count
    channels: Literal[1, 3]
    n: Count
    shard_size: Count
    regions: dict[str, Annotated[int, Field(ge=0, le=255)]] | None
    provenance: dict[str, Any]
    digests: dict[str, str]

    @model_validator(mode="after")
    def _regions_and_source(self) -> Self:
        if self.regions is not None and (not self.regions or len(set(self.regions.values())) < len(self.regions)):
            raise ValueError(f"regions: expected null or names with distinct codes, got {self.regions!r}.")
        if not isinstance(self.provenance.get("source"), str):
            raise ValueError(f"provenance: expected a text 'source' in it, got {self.provenance!r}.")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which arrays there are."""
        return ("images", "regions") if self.regions else ("images",)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return (self.height, self.width, 3) if self.channels == 3 else (self.height, self.width)


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Labelled images on disk; made by `FaceSet.open`, which checks everything except the pixels.

    Pixels are checked when they are read: `images` and `regions` raise `StudyError` for what was not written there.
    `labels` has one row per image (`study.tables.LABELS`).
    """

    directory: Path
    header: FaceSetHeader
    labels: pd.DataFrame

    @classmethod
    def open(cls, directory: Path, *, role: Role | str | None = None) -> FaceSet:
        """Open and validate `directory` without reading a pixel; `role`: which role its faces must have.

        Raises `StudyError`, naming the file, for anything missing, truncated, altered, of the wrong shape or role, or
        inconsistent.
        """
        directory = Path(directory)
        if not (directory / HEADER_FILE).is_file():
            raise StudyError(f"{directory}: no faces here (no {HEADER_FILE} in it). `facespec data build` makes them.")
        head = _head(directory, read_document(directory / HEADER_FILE, remedy=REMEDY))
        if role is not None and head.role != role:
            raise StudyError(f"{directory}: faces of the {head.role} role, expected those of the {role} role. {REMEDY}")
        for name in (LABELS_FILE, *(digests_name(kind) for kind in head.kinds)):
            check_file(directory / name, head.digests.get(name), remedy=REMEDY)
        labels = LABELS.parse((directory / LABELS_FILE).read_bytes(), directory / LABELS_FILE)
        if len(labels) != head.n:
            raise StudyError(f"{directory / LABELS_FILE}: {len(labels)} rows for {head.n} images. {REMEDY}")
        _check_distinct(directory, labels)
        size = head.shard_size
        check_shards(directory, "images", (head.n, *head.image_shape), shard_size=size)
        check_shards(directory, "regions", (head.n, *head.image_shape[:2]) if head.regions else None, shard_size=size)
        return cls(directory, head, labels)

    @property
    def n(self) -> int:
        """Number of images."""
        return self.header.n

    def __len__(self) -> int:
        return self.header.n

    @property
    def role(self) -> str:
        """What the faces are for: ``expression``, ``identity`` or ``probe``."""
        return self.header.role

    @property
    def height(self) -> int:
        """Pixels."""
        return self.header.height

    @property
    def width(self) -> int:
        """Pixels."""
        return self.header.width

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.header.channels

    @property
    def region_codes(self) -> dict[str, int]:
        """Names of the values in the region maps; empty where there are none."""
        return dict(self.header.regions or {})

    @property
    def provenance(self) -> dict[str, Any]:
        """Source, counts, excluded files, content hash."""
        return self.header.provenance

    @property
    def source(self) -> str:
        """Where the faces come from, as figures name it: "embedded faces", "FER2013", ..."""
        return str(self.header.provenance["source"])

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices` (any order, repeats allowed): uint8 (n, H, W), or (n, H, W, 3) for RGB."""
        return self._images.rows(indices)

    def regions(self, indices: np.ndarray) -> np.ndarray:
        """The region maps at `indices`: uint8 (n, H, W); `StudyError` where the set has none."""
        if not self.header.regions:
            raise StudyError(
                f"{self.directory}: these faces ({self.source}) have no region maps; only embedded faces have them."
            )
        return self._regions.rows(indices)

    def check_pixels(self) -> None:
        """Read everything once; `StudyError`, naming the file, for the first row that was not written there."""
        for start in range(0, self.n, CHECK_ROWS):
            rows = np.arange(start, min(start + CHECK_ROWS, self.n))
            self.images(rows)
            if self.header.regions:
                self.regions(rows)

    @cached_property
    def _images(self) -> ShardReader:
        return ShardReader(
            self.directory, "images", (self.n, *self.header.image_shape), shard_size=self.header.shard_size
        )

    @cached_property
    def _regions(self) -> ShardReader:
        shape = (self.n, self.height, self.width)
        return ShardReader(self.directory, "regions", shape, shard_size=self.header.shard_size)


def write_faceset(directory: Path, chunks: Iterable[FaceChunk], description: FaceSetDescription) -> FaceSet:
    """Write `chunks` as the FaceSet `directory`, whole or not at all, and open it.

    Holds one chunk at a time; the files depend on the images, not on how they were cut into chunks. An earlier
    FaceSet in that place is replaced once the new one is complete. Raises `StudyError` for chunks of another shape,
    mode or length than the first or than their labels, repeated stimulus names, no images at all, or a full disk.
    """
    directory = Path(directory)
    with atomic_directory(directory, marks=(HEADER_FILE, digests_name("images"))) as partial:
        shape, labels = _write_chunks(partial, chunks, description)
        _check_distinct(directory, labels)
        write_synced(partial / LABELS_FILE, encode_table(labels))
        names = [LABELS_FILE, digests_name("images"), *([digests_name("regions")] if description.region_codes else [])]
        head = {
            **dict(zip(("height", "width"), shape, strict=False)),
            "version": 2,
            "role": str(description.role),
            "channels": 3 if len(shape) == 3 else 1,
            "n": len(labels),
            "shard_size": description.shard_size,
            "regions": description.region_codes,
            "provenance": description.provenance() if callable(description.provenance) else description.provenance,
            "digests": {name: digest_file(partial / name) for name in names},
        }
        _head(directory, head)
        write_synced(partial / HEADER_FILE, encode_document(head))
        FaceSet.open(partial)  # only what can be opened may replace what could be
    return FaceSet.open(directory)


def _write_chunks(
    directory: Path, chunks: Iterable[FaceChunk], description: FaceSetDescription
) -> tuple[tuple[int, ...], pd.DataFrame]:
    """Write the shards; returns the shape of one image and all labels."""
    tables: list[pd.DataFrame] = []
    shape: tuple[int, ...] = ()
    size = description.shard_size
    with ExitStack() as writers:
        for chunk in chunks:
            if not tables:
                shape = chunk.images.shape[1:]
                images = writers.enter_context(ShardWriter(directory, "images", shape, shard_size=size))
                regions = writers.enter_context(ShardWriter(directory, "regions", shape[:2], shard_size=size))
            tables.append(check_chunk(chunk, shape, description.region_codes))
            images.append(chunk.images)
            if chunk.regions is not None:
                regions.append(chunk.regions)
    if not sum(map(len, tables)):
        raise StudyError("no images: a set of faces holds at least one.")
    return shape, pd.concat(tables, ignore_index=True)


def _head(directory: Path, values: Any) -> FaceSetHeader:
    try:
        return FaceSetHeader.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the whole file"
        sentence = f"{where}: got {problem['input']!r}. {problem['msg']}."
        if problem["type"] == "value_error":  # raised by a validator of ours, already a sentence
            sentence = str(problem["ctx"]["error"])
        elif problem["type"] == "missing":
            sentence = f"{where}: missing. {REMEDY}"
        raise StudyError(f"{directory / HEADER_FILE}: {sentence}") from None


def _check_distinct(directory: Path, labels: pd.DataFrame) -> None:
    repeated = labels["stimulus"].duplicated()
    if repeated.any():
        name = labels["stimulus"][repeated].iloc[0]
        raise StudyError(f"{directory / LABELS_FILE}: stimulus {name!r} appears more than once.")
