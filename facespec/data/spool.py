"""A heap of bytes on disk for what comes in an order that is not the wanted one; gone when its context ends."""

from __future__ import annotations

import errno
import io
import tempfile
from contextlib import ExitStack
from typing import IO, Any, Protocol

from facespec.data.limits import COPY
from facespec.study.errors import StudyError

Place = tuple[int, int]  # where a piece starts, and its length


class Readable(Protocol):
    """Anything that gives its bytes a part at a time, and none at its end."""

    def read(self, n: int, /) -> bytes: ...


class Spool:
    """Pieces of bytes, appended once and then read by place (offset, length); in a temporary file without a name."""

    def __init__(self, stack: ExitStack) -> None:
        # in the system's temporary directory (TMPDIR), because data sets often lie where nothing may be written
        try:
            self._file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - entered here
        except OSError as error:
            raise _refuse_disk(error) from error
        self._end = 0

    def append(self, content: Readable | bytes) -> Place:
        """Add bytes, or a file's; returns their place. `StudyError` if the disk is full."""
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        start = self._end
        while block := source.read(COPY):
            try:
                self._file.write(block)
                self._file.flush()  # a full disk shows here, not when something else is tried
            except OSError as error:
                raise _refuse_disk(error) from error
            self._end += len(block)
        return start, self._end - start

    def open(self, start: int, length: int) -> IO[bytes]:
        """One piece, as a file."""
        return io.BufferedReader(_Piece(self._file, start, length))


def _refuse_disk(error: OSError) -> StudyError:
    place = tempfile.tempdir or "TMPDIR"  # None where no directory can be written
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StudyError(
            f"{place}: the disk is full; unpacked files wait there. "
            "Free some space, or set TMPDIR to a directory with more."
        )
    return StudyError(
        f"{place}: cannot be written ({error.strerror}); unpacked files wait there. "
        "Set TMPDIR to a directory that you may write to."
    )


class _Piece(io.RawIOBase):
    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file = file
        self._at = start
        self._stop = start + length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        self._file.seek(self._at)  # pieces share the file, so each keeps its own position
        content = self._file.read(min(len(view), self._stop - self._at))
        view[: len(content)] = content
        self._at += len(content)
        return len(content)
