"""How much a data set may ask for, whichever door it comes through: far beyond any real one, far below a full disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

from facespec.study.errors import StudyError

MEMBERS = 2**22  # files and folders; the largest data set here, VoxCeleb1, has 1.2 million faces
LARGEST = 64 * 2**20  # bytes of one file read whole; no face comes near it
LARGEST_TABLE = 2**30  # bytes of a table, which is read row by row; FER2013's has 300 MB
TOTAL = 2**40  # bytes unpacked from one archive; VoxCeleb1 has less than half of that
RATIO = 100  # unpacked bytes per packed one; FER2013's table has 5, pictures have 1, what is made to harm has 1,000
SLACK = 64 * 2**20  # bytes that every archive may unpack to: a small one of few colours may have a high ratio
COPY = 2**20  # bytes copied at a time


def find_limit(name: str) -> int:
    """How many bytes the file `name` may have."""
    return LARGEST_TABLE if name.lower().endswith(".csv") else LARGEST


def format_mebibytes(size: int) -> str:
    """`size` bytes for messages."""
    return f"{size // 2**20:,} MiB"


def check_count(path: Path, n: int) -> None:
    """Refuse the data set at `path` if it holds more than `MEMBERS` files and folders, `n` being those seen so far."""
    if n > MEMBERS:
        raise StudyError(
            f"{path}: holds more than {MEMBERS:,} files and folders; the largest data set here has 1.2 million. "
            "Give the directory or archive that holds the faces alone."
        )


def find_unpacked_limit(packed: int) -> int:
    """How many bytes an archive of `packed` bytes may unpack to."""
    return min(TOTAL, SLACK + RATIO * packed)


def explain_too_large(path: Path, packed: int) -> StudyError:
    """The refusal of the archive at `path`, of `packed` bytes."""
    return StudyError(
        f"{path}: {packed:,} bytes that unpack to more than {format_mebibytes(find_unpacked_limit(packed))}; no set of "
        "faces does. Fetch it again, or unpack it yourself and give the directory."
    )


class BoundedReader(io.RawIOBase):
    """A file, read from start to end; `excess` is raised once more than `limit` bytes have come out of it."""

    def __init__(self, file: IO[bytes], limit: int, excess: Exception) -> None:
        self._file = file
        self._left = limit
        self._excess = excess

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        content = self._file.read(min(len(view), COPY))
        self._left -= len(content)
        if self._left < 0:
            raise self._excess
        view[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
