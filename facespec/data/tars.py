"""A tar, read once from start to end, as its compression demands; truncation is noticed wherever it happens.

Its headers are parsed one by one here, by `tarfile`'s own parser: `tarfile.open` takes a damaged header for the end,
and reads whatever length a header claims into memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from facespec.data.limits import (
    COPY,
    BoundedReader,
    check_count,
    explain_too_large,
    find_limit,
    find_unpacked_limit,
)
from facespec.data.spool import Place, Spool
from facespec.study.errors import StudyError

# What reading an archive can raise; NotImplementedError and RuntimeError are zipfile's for unknown compression and for
# passwords, struct.error and UnicodeDecodeError its for damaged fields and names
DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    UnicodeDecodeError,
)
LONGEST_HEADER = 2**20  # bytes of a header that holds what has no room in a block: a long name, attributes
SPARSE = "GNU.sparse."


class Add(Protocol):
    """Hears of every member that is no directory: name, place in the spool (None: too large), whether it is a file."""

    def __call__(self, name: str, place: Place | None, *, regular: bool) -> None: ...


def unpack(path: Path, compression: str, spool: Spool, *, keep: tuple[str, ...], add: Add) -> None:
    """Put the files whose names end in `keep` (lower case) into `spool`; raises one of `DAMAGE` for a damaged tar.

    `compression` is ``gz``, ``bz2``, ``xz`` or ``tar`` (none). Raises `StudyError` for what exceeds `data.limits`, and
    for sparse files, whose headers claim holes of any size.
    """
    openers: dict[str, Callable[[Path], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    packed = path.stat().st_size
    with openers.get(compression, _plain)(path) as raw:
        file = io.BufferedReader(BoundedReader(raw, find_unpacked_limit(packed), explain_too_large(path, packed)))
        n = 0
        while (member := _read_header(path, file)) is not None:
            check_count(path, n := n + 1)
            content = _Content(file, _measure_content(member))
            if not member.isdir():
                kept = member.isreg() and member.name.lower().endswith(keep)
                place: Place | None = (0, 0)
                if kept:
                    place = spool.append(content) if member.size <= find_limit(member.name) else None
                add(member.name, place, regular=member.isreg())
            content.skip()
        while file.read(COPY):  # to the end, where compressors keep their checksum
            pass


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _read_exactly(file: IO[bytes], n: int) -> bytes:
    content = file.read(n)
    if len(content) < n:
        raise EOFError("it ends before its end mark")
    return content


def _read_header(path: Path, file: IO[bytes]) -> tarfile.TarInfo | None:
    """The next member, with its whole name and its size; None at the end mark."""
    extended: dict[str, str] = {}
    while (block := _read_exactly(file, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.type == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = _decode(_read_extended(file, member).partition(b"\0")[0])
        elif member.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _parse_records(_read_extended(file, member))
        elif member.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):  # where links lead, and remarks on all files
            _read_extended(file, member)
        else:
            member.name = extended.get("path", member.name)
            member.size = int(extended.get("size", member.size))
            if member.type == tarfile.GNUTYPE_SPARSE or SPARSE in extended:
                raise StudyError(
                    f"{path}: {member.name} is a sparse file, whose size is only claimed. "
                    "Pack the data set anew without the option --sparse, or give its directory."
                )
            if member.size < 0:
                raise tarfile.ReadError("a size below 0")
            return member
    return None


def _read_extended(file: IO[bytes], header: tarfile.TarInfo) -> bytes:
    if not 0 <= header.size <= LONGEST_HEADER:
        raise tarfile.ReadError(f"a header of {header.size:,} bytes")
    content = _Content(file, header.size)
    whole = content.read(header.size)
    content.skip()
    return whole


def _parse_records(content: bytes) -> dict[str, str]:
    """What matters here of a POSIX extended header, whose records are ``length key=value`` and a line end each."""
    found = {}
    content = content.rstrip(b"\0")
    start = 0
    while start < len(content):
        length = content[start : start + 20].partition(b" ")[0]
        stop = start + int(length)
        key, separator, value = content[start + len(length) + 1 : stop - 1].partition(b"=")
        if not start < stop <= len(content) or not separator:
            raise tarfile.ReadError("invalid header")
        if key in (b"path", b"size"):
            found[key.decode()] = _decode(value)
        elif key.startswith(SPARSE.encode()):
            found[SPARSE] = ""
        start = stop
    return found


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _measure_content(member: tarfile.TarInfo) -> int:
    """The bytes that follow the header; those of links and devices may state the size of something else."""
    return member.size if member.isreg() or member.type not in tarfile.SUPPORTED_TYPES else 0


class _Content:
    """What follows a header: `size` bytes, filled up to whole blocks."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self._padding = -size % tarfile.BLOCKSIZE

    def read(self, n: int) -> bytes:
        content = _read_exactly(self._file, min(n, self._left))
        self._left -= len(content)
        return content

    def skip(self) -> None:
        while self.read(COPY):
            pass
        _read_exactly(self._file, self._padding)
