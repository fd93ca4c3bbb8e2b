"""A heap of bytes on disk for what comes in an order that is not the wanted one; gone when its context ends."""

from __future__ import annotations

import errno
import io
import tempfile
from contextlib import ExitStack
from typing import IO, Any

from facespec.study.errors import StudyError

COPY = 2**20  # bytes copied at a time


class Spool:
    """Pieces of bytes, appended once and then read by place (offset, length); in a temporary file without a name."""

    def __init__(self, stack: ExitStack) -> None:
        # in the system's temporary directory (TMPDIR), because data sets often lie where nothing may be written
        self._file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - entered here
        self._end = 0

    def append(self, content: IO[bytes] | bytes) -> tuple[int, int]:
        """Add bytes, or a file's; returns their place. `StudyError` if the disk is full."""
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        start = self._end
        while block := source.read(COPY):
            try:
                self._file.write(block)
                self._file.flush()  # a full disk shows here, not when something else is tried
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise StudyError(
                    f"{tempfile.gettempdir()}: the disk is full; unpacked files wait there. "
                    "Free some space, or set TMPDIR to a directory with more."
                ) from error
            self._end += len(block)
        return start, self._end - start

    def open(self, start: int, length: int) -> IO[bytes]:
        """One piece, as a file."""
        return io.BufferedReader(_Piece(self._file, start, length))


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
