"""How are labelled faces stored: uint8 images and one row of labels per image, in a directory.

It is the only format of faces that training and analyses read.

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
from facespec.data.shards import ShardReader, ShardWriter, check_shards, digests_name
from facespec.study.artefacts import check_file, digest_file, encode_document, read_document
from facespec.study.directories import atomic_directory, write_synced
from facespec.study.errors import StudyError
from facespec.study.params import Block, Count
from facespec.study.storage import encode_table
from facespec.study.tables import LABELS
from facespec.study.vocabulary import Role

HEADER_FILE, LABELS_FILE = "faceset.json", "labels.csv"
REMEDY = "Make the faces again."
CHECK_ROWS = 256  # read at a time


class FaceSetHeader(Block):
    """`faceset.json`: everything about a FaceSet besides its labels and pixels; unknown keys are refused."""

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
    def _check_regions_and_source(self) -> Self:
        if self.regions is not None and (not self.regions or len(set(self.regions.values())) < len(self.regions)):
            raise ValueError(f"regions: expected null or names with distinct codes, got {self.regions!r}.")
        if not isinstance(self.provenance.get("source"), str):
            raise ValueError(f"provenance: expected a text 'source' in it, got {self.provenance!r}.")
        return self

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the array of each kind, ``images`` and, if there are any, ``regions``."""
        maps = (self.n, self.height, self.width)
        shapes: dict[str, tuple[int, ...]] = {"images": (*maps, 3) if self.channels == 3 else maps}
        return shapes | ({"regions": maps} if self.regions else {})


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Labelled images on disk.

    Made by `FaceSet.open` or `write_faceset`. Opening checks everything except the pixels; those are checked when they
    are first read.

    Attributes
    ----------
    directory : pathlib.Path
        Where the files are.
    header : FaceSetHeader
        The content of ``faceset.json``.
    labels : pandas.DataFrame
        One row per image with the text columns ``stimulus`` (unique), ``split``, ``identity``, ``expression``, ``view``
        and ``session``; the last four are empty where unknown (`facespec.study.tables.LABELS`).

    Examples
    --------
    >>> import tempfile
    >>> labels = {"stimulus": ["a", "b"], "split": "train", "identity": ["Ann", "Bob"], "expression": "happy"}
    >>> chunk = FaceChunk(np.zeros((2, 17, 11), np.uint8), pd.DataFrame(labels).assign(view="", session=""))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = write_faceset(directory, [chunk], FaceSetDescription("identity", 2048, None, {"source": "toy"}))
    ...     faces = FaceSet.open(directory, role="identity")
    ...     images = faces.images(np.array([1, 0, 1]))
    >>> len(faces), faces.height, faces.width, images.shape, faces.labels["identity"].tolist()
    (2, 17, 11, (3, 17, 11), ['Ann', 'Bob'])
    """

    directory: Path
    header: FaceSetHeader
    labels: pd.DataFrame

    @classmethod
    def open(cls, directory: Path | str, *, role: Role | str | None = None) -> FaceSet:
        """Open and validate a directory without reading a pixel.

        Parameters
        ----------
        directory : path-like
            A directory that `write_faceset` has written, such as ``data/probe`` of a study.
        role : {"expression", "identity", "probe"}, optional
            The role that its faces must have; by default any.

        Returns
        -------
        FaceSet

        Raises
        ------
        StudyError
            If a file is missing, truncated, altered, of the wrong shape or role, or inconsistent; it names the file.
        """
        directory = Path(directory)
        if not (directory / HEADER_FILE).is_file():
            raise StudyError(f"{directory}: no faces here (no {HEADER_FILE} in it). `facespec data build` makes them.")
        header = _parse_header(directory, read_document(directory / HEADER_FILE, remedy=REMEDY))
        if role is not None and header.role != role:
            raise StudyError(
                f"{directory}: faces of the {header.role} role, expected those of the {role} role. {REMEDY}"
            )
        for name in (LABELS_FILE, *map(digests_name, header.shapes)):
            check_file(directory / name, header.digests.get(name), remedy=REMEDY)
        labels = LABELS.parse((directory / LABELS_FILE).read_bytes(), directory / LABELS_FILE)
        if len(labels) != header.n:
            raise StudyError(f"{directory / LABELS_FILE}: {len(labels)} rows for {header.n} images. {REMEDY}")
        _check_unique(directory, labels)
        for kind in ("images", "regions"):
            check_shards(directory, kind, header.shapes.get(kind), shard_size=header.shard_size)
        return cls(directory, header, labels)

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
        """Height of the images in pixels."""
        return self.header.height

    @property
    def width(self) -> int:
        """Width of the images in pixels."""
        return self.header.width

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.header.channels

    @property
    def region_codes(self) -> dict[str, int]:
        """Names and codes (0 to 255) of the regions in the region maps; empty where there are no maps."""
        return dict(self.header.regions or {})

    @property
    def provenance(self) -> dict[str, Any]:
        """Source, counts, excluded files, content hash."""
        return self.header.provenance

    @property
    def source(self) -> str:
        """Name of the data set as figures give it: "embedded faces", "FER2013", ..."""
        return str(self.header.provenance["source"])

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Read some of the images.

        Parameters
        ----------
        indices : array of integers of shape (k,)
            Rows of `labels`, in any order; repeats are allowed.

        Returns
        -------
        array of uint8 of shape (k, height, width), or (k, height, width, 3) for RGB

        Raises
        ------
        StudyError
            If pixels are not those that were written; it names the file.
        """
        return self._images.rows(indices)

    def regions(self, indices: np.ndarray) -> np.ndarray:
        """Read some of the region maps: the facial region of every pixel.

        Parameters
        ----------
        indices : array of integers of shape (k,)
            Rows of `labels`, in any order; repeats are allowed.

        Returns
        -------
        array of uint8 of shape (k, height, width)
            Values of `region_codes`.

        Raises
        ------
        StudyError
            If the set has no region maps, as real faces, or they are not those that were written.
        """
        if not self.header.regions:
            raise StudyError(
                f"{self.directory}: these faces ({self.source}) have no region maps; only embedded faces have them."
            )
        return self._regions.rows(indices)

    def check_pixels(self) -> None:
        """Read all pixels once; `StudyError`, naming the file, for the first row that was not written there."""
        for start in range(0, self.n, CHECK_ROWS):
            rows = np.arange(start, min(start + CHECK_ROWS, self.n))
            self.images(rows)
            if self.header.regions:
                self.regions(rows)

    @cached_property
    def _images(self) -> ShardReader:
        return self._make_reader("images")

    @cached_property
    def _regions(self) -> ShardReader:
        return self._make_reader("regions")

    def _make_reader(self, kind: str) -> ShardReader:
        return ShardReader(self.directory, kind, self.header.shapes[kind], shard_size=self.header.shard_size)


def write_faceset(directory: Path | str, chunks: Iterable[FaceChunk], description: FaceSetDescription) -> FaceSet:
    """Write labelled images as a FaceSet, completely or not at all, and open it.

    One chunk at a time is held in memory; the files do not depend on how the images were cut into chunks. An earlier
    FaceSet in the directory is replaced once the new one is complete.

    Parameters
    ----------
    directory : path-like
        The directory to write; it must be absent, empty or a FaceSet.
    chunks : iterable of FaceChunk
        Images of one shape, with labels whose ``stimulus`` is unique.
    description : FaceSetDescription
        Role, shard size, names of regions and provenance.

    Returns
    -------
    FaceSet

    Raises
    ------
    StudyError
        For chunks of another shape, mode or length than the first or than their labels, repeated stimulus names, no
        images, other files in the directory, or a full disk. The earlier FaceSet is then unchanged.

    Examples
    --------
    >>> import tempfile
    >>> rows = [[name, "test", "", "happy", "", ""] for name in ("a", "b")]
    >>> labels = pd.DataFrame(rows, columns=["stimulus", "split", "identity", "expression", "view", "session"])
    >>> chunks = [FaceChunk(np.full((2, 8, 8, 3), 200, np.uint8), labels)]
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     faces = write_faceset(directory, chunks, FaceSetDescription("expression", 2048, None, {"source": "toy"}))
    >>> faces.n, faces.channels, faces.source
    (2, 3, 'toy')
    """
    directory = Path(directory)
    with atomic_directory(directory, marks=(HEADER_FILE, digests_name("images"))) as partial:
        shape, labels = _write_chunks(partial, chunks, description)
        _check_unique(directory, labels)
        write_synced(partial / LABELS_FILE, encode_table(labels))
        names = [LABELS_FILE, digests_name("images"), *([digests_name("regions")] if description.region_codes else [])]
        header = {
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
        _parse_header(directory, header)
        write_synced(partial / HEADER_FILE, encode_document(header))
        FaceSet.open(partial)  # the earlier set is replaced only by one that can be opened
    return FaceSet.open(directory)


def _write_chunks(
    directory: Path, chunks: Iterable[FaceChunk], description: FaceSetDescription
) -> tuple[tuple[int, ...], pd.DataFrame]:
    """Write the shards; returns the shape of one image and all labels."""
    tables: list[pd.DataFrame] = []
    shape: tuple[int, ...] = ()
    size = description.shard_size
    with ExitStack() as stack:
        for chunk in chunks:
            if not tables:
                shape = chunk.images.shape[1:]
                images = stack.enter_context(ShardWriter(directory, "images", shape, shard_size=size))
                regions = stack.enter_context(ShardWriter(directory, "regions", shape[:2], shard_size=size))
            tables.append(check_chunk(chunk, shape, description.region_codes))
            images.append(chunk.images)
            if chunk.regions is not None:
                regions.append(chunk.regions)
    if not sum(map(len, tables)):
        raise StudyError("no images: a set of faces holds at least one.")
    return shape, pd.concat(tables, ignore_index=True)


def _parse_header(directory: Path, values: Any) -> FaceSetHeader:
    try:
        return FaceSetHeader.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        entry = ".".join(map(str, problem["loc"])) or "the whole file"
        sentence = f"{entry}: got {problem['input']!r}. {problem['msg']}."
        if problem["type"] == "value_error":  # raised by our own validator, already a sentence
            sentence = str(problem["ctx"]["error"])
        elif problem["type"] == "missing":
            sentence = f"{entry}: missing. {REMEDY}"
        raise StudyError(f"{directory / HEADER_FILE}: {sentence}") from None


def _check_unique(directory: Path, labels: pd.DataFrame) -> None:
    repeated = labels["stimulus"].duplicated()
    if repeated.any():
        name = labels["stimulus"][repeated].iloc[0]
        raise StudyError(f"{directory / LABELS_FILE}: stimulus {name!r} appears more than once.")
