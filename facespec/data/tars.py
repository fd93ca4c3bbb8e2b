"""A tar, read once from start to end, as its compression demands; truncation is noticed wherever it happens."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from facespec.data.spool import COPY, Spool

# What reading an archive can raise; the last two are zipfile's for unknown compression and for passwords
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, NotImplementedError,
          RuntimeError)  # fmt: skip


class Add(Protocol):
    """Hears of every member that is no directory: its name, its place in the spool, and whether it is a file."""

    def __call__(self, name: str, place: tuple[int, int], *, regular: bool) -> None: ...


def unpack(path: Path, compression: str, spool: Spool, *, keep: tuple[str, ...], add: Add) -> None:
    """Put the files whose names end in `keep` (lower case) into `spool`; raises one of `DAMAGE` for a damaged tar.

    `compression` is ``gz``, ``bz2``, ``xz`` or ``tar`` (none).
    """
    openers: dict[str, Callable[[Path], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    with openers.get(compression, _plain)(path) as raw:
        tail = _Tail(raw)
        with tarfile.open(mode="r|", fileobj=tail) as archive:  # type: ignore[call-overload]  # it needs only read()
            while (info := archive.next()) is not None:
                kept = info.isfile() and info.name.lower().endswith(keep)
                content = archive.extractfile(info) if kept else None
                if not info.isdir():
                    add(info.name, spool.append(content) if content else (0, 0), regular=info.isfile())
                archive.members = []  # else tarfile remembers every member it has passed
            # tarfile takes a damaged header for the end: only a block of zeros is one
            if tail.block(archive.offset) != bytes(tarfile.BLOCKSIZE):
                raise EOFError("it ends before its end mark")
        while tail.read(COPY):  # to the end, where compressors keep their checksum
            pass


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


class _Tail:
    """A file that remembers the last bytes read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last = b""
        self._end = 0

    def read(self, n: int) -> bytes:
        content = self._file.read(n)
        self._last = self._last[-tarfile.RECORDSIZE :] + content
        self._end += len(content)
        return content

    def block(self, offset: int) -> bytes:
        """The tar block that begins `offset` bytes after the start, if it was among the last read."""
        start = offset - (self._end - len(self._last))
        return self._last[start : start + tarfile.BLOCKSIZE]
