"""How is one long uint8 array stored in numbered `.npy` files: written as a stream, checked, read by index?

Shard i holds rows i * shard_size ... of the array; the last may hold fewer. Beside the shards lies
``<kind>-digests.npy``, uint8 (n, 16): of every row, the first half of its SHA-256. A row is checked once, when it is
first read, so that checks cost in proportion to what is read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from facespec.study.errors import StudyError

# Resident bytes of mapped files before they are unmapped: a process that streams any number of images stays below this
# plus one batch. A page fault may map the whole huge page around it, and a row begins and ends inside one.
RESIDENT_BYTES = 256 * 2**20
HUGE_PAGE = 2 * 2**20
OPEN_SHARDS = 256  # every mapping holds a file descriptor, and a process may have only 1024
DIGEST_BYTES = 16  # of a row: enough that no two rows of a set share them by chance


def shard_name(kind: str, number: int) -> str:
    """File name of a shard; `kind` is ``images`` or ``regions``."""
    return f"{kind}-{number:05d}.npy"


def digests_name(kind: str) -> str:
    """File name of the digests of all rows."""
    return f"{kind}-digests.npy"


def _digest(row: np.ndarray) -> bytes:
    return hashlib.sha256(row.data).digest()[:DIGEST_BYTES]


class ShardReader:
    """Rows of a sharded uint8 array, `shape` (n, ...), by index.

    Shards are memory-mapped when first needed, and unmapped before they take too much memory: a mapping costs none
    until its pages are read; those stay resident as long as the mapping.
    """

    def __init__(self, directory: Path, kind: str, shape: tuple[int, ...], *, shard_size: int) -> None:
        self._directory = directory
        self._kind = kind
        self._shape = shape
        self._shard_size = shard_size
        self._digests = _read_digests(directory / digests_name(kind), shape[0])
        self._checked = np.zeros(shape[0], dtype=bool)
        self._open: dict[int, tuple[mmap.mmap, np.ndarray]] = {}
        self._resident: dict[int, int] = {}

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows at `indices`, an integer array (k,) in any order with repeats: uint8 (k, ...).

        Raises `StudyError`, naming the file, for a row that is not the one that was written.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
            raise TypeError(f"indices must be a 1-D array of integers, got {indices.dtype} {indices.shape}")
        indices = indices.astype(np.int64)  # a narrow type could not be divided by a shard's size
        if indices.size and (indices.min() < 0 or indices.max() >= self._shape[0]):
            raise IndexError(
                f"{self._directory}: indices {indices.min()}..{indices.max()} leave 0..{self._shape[0] - 1}"
            )
        gathered = np.empty((len(indices), *self._shape[1:]), dtype=np.uint8)
        shards, rows = np.divmod(indices, self._shard_size)
        # grouped by shard, and in file order within each, so that the disk is read once, forwards
        order = np.argsort(indices, kind="stable")
        first = np.flatnonzero(np.diff(shards[order], prepend=-1))
        for group in np.split(order, first[1:]):
            if len(group):
                gathered[group] = self._map_shard(int(shards[group[0]]), rows[group])[rows[group]]
        self._check_rows(indices, gathered)
        return gathered

    def _check_rows(self, indices: np.ndarray, rows: np.ndarray) -> None:
        """Compare the rows that have not been read before with their digests."""
        new = np.flatnonzero(~self._checked[indices])
        for position in new.tolist():
            if _digest(rows[position]) != self._digests[indices[position]].tobytes():
                number, row = divmod(int(indices[position]), self._shard_size)
                raise StudyError(
                    f"{self._directory / shard_name(self._kind, number)}: row {row} is not what was written there: "
                    "altered or damaged. Make the faces again."
                )
        self._checked[indices[new]] = True

    def _map_shard(self, number: int, rows: np.ndarray) -> np.ndarray:
        """The array of a shard; `rows` of it are about to be read."""
        length = min(self._shard_size, self._shape[0] - number * self._shard_size)
        row_bytes = int(np.prod(self._shape[1:]))
        need = len(rows) * (row_bytes + 2 * HUGE_PAGE)
        before = self._resident.get(number, 0)
        added = min(before + need, length * row_bytes) - before
        full = sum(self._resident.values()) + added > RESIDENT_BYTES
        if full or (number not in self._open and len(self._open) >= OPEN_SHARDS):
            self._open.clear()
            self._resident.clear()
        if number not in self._open:
            self._open[number] = _map_file(self._directory / shard_name(self._kind, number), (length, *self._shape[1:]))
        self._resident[number] = min(self._resident.get(number, 0) + need, length * row_bytes)
        mapping, array = self._open[number]
        _prefetch(mapping, len(mapping) - length * row_bytes + rows * row_bytes, row_bytes)
        return array


def _map_file(path: Path, shape: tuple[int, ...]) -> tuple[mmap.mmap, np.ndarray]:
    """The file, mapped for reading at random, and the uint8 array of `shape` at its end."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        mapping.madvise(mmap.MADV_RANDOM)  # otherwise every row would read megabytes around it
    count = int(np.prod(shape))
    return mapping, np.frombuffer(mapping, np.uint8, count, offset=len(mapping) - count).reshape(shape)


def _prefetch(mapping: mmap.mmap, starts: np.ndarray, size: int) -> None:
    """Let the system read the `size` bytes from each of `starts` at once, not page by page when they are accessed."""
    if hasattr(mmap, "MADV_WILLNEED"):
        for start in starts.tolist():
            page = start - start % mmap.PAGESIZE
            mapping.madvise(mmap.MADV_WILLNEED, page, start + size - page)


class ShardWriter:
    """Writes rows into shards of `shard_size` without buffering. Use as a context manager."""

    def __init__(self, directory: Path, kind: str, shape: tuple[int, ...], *, shard_size: int) -> None:
        self._directory = directory
        self._kind = kind
        self._shape = shape
        self._shard_size = shard_size
        self._file: BinaryIO | None = None
        self._number = 0
        self._filled = 0
        self._digests: list[bytes] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        if self._digests and error[0] is None:
            rows = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES)
            with (self._directory / digests_name(self._kind)).open("wb") as file:
                npy.write_array(file, rows, version=(1, 0))
                file.flush()
                os.fsync(file.fileno())

    def append(self, rows: np.ndarray) -> None:
        """Add `rows`: uint8 (k, *shape)."""
        rows = np.ascontiguousarray(rows)
        self._digests += map(_digest, rows)
        while len(rows):
            if self._file is None:
                self._file = (self._directory / shard_name(self._kind, self._number)).open("wb")
                self._write_header(self._file, self._shard_size)
            free = self._shard_size - self._filled
            self._file.write(rows[:free].data)
            self._filled += len(rows[:free])
            rows = rows[free:]
            if self._filled == self._shard_size:
                self._close()

    def _write_header(self, file: BinaryIO, k: int) -> None:
        # numpy pads headers so that the first axis may change later: both headers have the same length
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (k, *self._shape)})

    def _close(self) -> None:
        if self._file is None:
            return
        file, filled = self._file, self._filled
        # reset first, so that an error of a full disk below is not followed by one of closing twice
        self._file, self._number, self._filled = None, self._number + 1, 0
        with file:
            if filled < self._shard_size:
                file.seek(0)
                self._write_header(file, filled)
            file.flush()
            os.fsync(file.fileno())


def check_shards(directory: Path, kind: str, shape: tuple[int, ...] | None, *, shard_size: int) -> None:
    """Check that every shard of the array of `shape` (None: no array) is complete, and that there are no others.

    Reads headers and file sizes only. Raises `StudyError` naming the file.
    """
    n = shape[0] if shape is not None else 0
    expected: dict[str, tuple[int, ...]] = {
        shard_name(kind, i): (min(shard_size, n - start), *(shape or ())[1:])
        for i, start in enumerate(range(0, n, shard_size))
    }
    if n:
        expected[digests_name(kind)] = (n, DIGEST_BYTES)
    for path in sorted(directory.glob(f"{kind}-*.npy")):
        if path.name not in expected:
            raise StudyError(f"{path}: does not belong to this set of faces. Make the faces again.")
    for name, rows in expected.items():
        _check_header(directory / name, rows)


def _read_digests(path: Path, n: int) -> np.ndarray:
    """The digests of all `n` rows, uint8 (n, 16)."""
    _check_header(path, (n, DIGEST_BYTES))
    return np.load(path, allow_pickle=False)


def _check_header(path: Path, shape: tuple[int, ...]) -> None:
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            stored_shape, fortran, dtype = read_header(file)
            start, size = file.tell(), path.stat().st_size
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file. Make the faces again.") from None
    except Exception as error:  # a damaged header can raise nearly anything
        raise StudyError(f"{path}: not a numpy file ({error}). Make the faces again.") from error
    if stored_shape != shape or dtype != np.uint8 or fortran:
        order = ", columns first" if fortran else ""
        raise StudyError(f"{path}: holds {dtype} {stored_shape}{order}, expected uint8 {shape}. Make the faces again.")
    if size != start + int(np.prod(shape)):
        raise StudyError(f"{path}: {size} bytes instead of {start + int(np.prod(shape))}. Make the faces again.")
