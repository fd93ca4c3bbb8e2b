"""How are untrusted archives unpacked without filling memory or disk: limits, a temporary file, a reader of tars.

Limits lie far above any real data set and far below a full disk. A tar is read once from start to end, as its
compression demands. Its headers are parsed one by one with `tarfile`'s own parser: `tarfile.open` takes a damaged
header for the end, and reads whatever length a header claims into memory.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Protocol

from facespec.study.errors import StudyError

MEMBERS = 2**22  # files and folders; the largest data set here, VoxCeleb1, has 1.2 million faces
LARGEST = 64 * 2**20  # bytes of one file read whole; no face comes near it
LARGEST_TABLE = 2**30  # bytes of a table, which is read row by row; FER2013's has 300 MB
TOTAL = 2**40  # bytes unpacked from one archive; VoxCeleb1 has less than half of that
RATIO = 100  # unpacked bytes per packed one; FER2013's table has 5, pictures have 1, a malicious archive has 1,000
SLACK = 64 * 2**20  # bytes that every archive may unpack to: a small one of few colours may have a high ratio
LONGEST_HEADER = 2**20  # bytes of a tar header that holds what has no room in a block: a long name, attributes
BLOCK = 2**20  # bytes copied at a time
SPARSE = "GNU.sparse."

# What reading an archive can raise; NotImplementedError and RuntimeError are zipfile's for unknown compression and for
# passwords, struct.error and UnicodeDecodeError its for damaged fields and names
DAMAGE = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError),
    *(NotImplementedError, RuntimeError, struct.error, UnicodeDecodeError),
)
Span = tuple[int, int]  # where in a spool a piece starts, and its length


def find_limit(name: str) -> int:
    """How many bytes the file `name` may have."""
    return LARGEST_TABLE if name.lower().endswith(".csv") else LARGEST


def find_unpacked_limit(packed: int) -> int:
    """How many bytes an archive of `packed` bytes may unpack to."""
    return min(TOTAL, SLACK + RATIO * packed)


def format_mebibytes(size: int) -> str:
    """`size` bytes for messages."""
    return f"{size // 2**20:,} MiB"


def check_count(path: Path, n: int) -> None:
    """Refuse the data set at `path` if it holds more than `MEMBERS` files and folders; `n` were counted so far."""
    if n > MEMBERS:
        raise StudyError(
            f"{path}: holds more than {MEMBERS:,} files and folders; the largest data set here has 1.2 million. "
            "Give the directory or archive that holds the faces alone."
        )


def explain_too_large(path: Path, packed: int) -> StudyError:
    """The refusal of the archive at `path`, of `packed` bytes."""
    return StudyError(
        f"{path}: {packed:,} bytes that unpack to more than {format_mebibytes(find_unpacked_limit(packed))}; no set of "
        "faces does. Fetch it again, or unpack it yourself and give the directory."
    )


class BoundedReader(io.RawIOBase):
    """A file, read from start to end; raises `error` once more than `limit` bytes have been read."""

    def __init__(self, file: IO[bytes], limit: int, error: Exception) -> None:
        self._file = file
        self._remaining = limit
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        content = self._file.read(min(len(view), BLOCK))
        self._remaining -= len(content)
        if self._remaining < 0:
            raise self._error
        view[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Readable(Protocol):
    def read(self, n: int, /) -> bytes: ...


class Spool:
    """A temporary file for pieces of bytes that are needed in another order than they come in.

    It has no name and disappears with `stack`. It lies in the system's temporary directory (TMPDIR), because data sets
    often lie where nothing may be written.
    """

    def __init__(self, stack: ExitStack) -> None:
        try:
            self._file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - entered here
        except OSError as error:
            raise _explain_disk(error) from error
        self._end = 0

    def append(self, content: _Readable | bytes) -> Span:
        """Add bytes, or those of a file; `StudyError` if the disk is full."""
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        start = self._end
        while block := source.read(BLOCK):
            try:
                self._file.write(block)
                self._file.flush()  # so that a full disk is noticed here
            except OSError as error:
                raise _explain_disk(error) from error
            self._end += len(block)
        return start, self._end - start

    def open(self, start: int, length: int) -> IO[bytes]:
        """One piece, as a file."""
        return io.BufferedReader(_Piece(self._file, start, length))


def _explain_disk(error: OSError) -> StudyError:
    directory = tempfile.tempdir or "TMPDIR"  # None where no directory can be written
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StudyError(
            f"{directory}: the disk is full; unpacked files wait there. "
            "Free some space, or set TMPDIR to a directory with more."
        )
    return StudyError(
        f"{directory}: cannot be written ({error.strerror}); unpacked files wait there. "
        "Set TMPDIR to a directory that you may write to."
    )


class _Piece(io.RawIOBase):
    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file = file
        self._position = start
        self._stop = start + length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        self._file.seek(self._position)  # all pieces share the file
        content = self._file.read(min(len(view), self._stop - self._position))
        view[: len(content)] = content
        self._position += len(content)
        return len(content)


class AddMember(Protocol):
    """Called with every member that is no directory: its name, its span in the spool, whether it is a file.

    The span is None for a file that is too large, and (0, 0) for one that is not needed.
    """

    def __call__(self, name: str, span: Span | None, /, *, regular: bool) -> None: ...


def unpack_tar(path: Path, compression: str, spool: Spool, *, endings: tuple[str, ...], add: AddMember) -> None:
    """Put the files whose names have one of `endings` (lower case) into `spool`.

    `compression` is ``gz``, ``bz2``, ``xz`` or ``tar`` (none). Raises one of `DAMAGE` for a damaged tar, wherever it is
    truncated, and `StudyError` for what exceeds the limits and for sparse files, whose headers claim holes of any size.
    """
    openers: dict[str, Callable[[Path], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    packed = path.stat().st_size
    with openers.get(compression, lambda path: path.open("rb"))(path) as raw:
        file = io.BufferedReader(BoundedReader(raw, find_unpacked_limit(packed), explain_too_large(path, packed)))
        n = 0
        while (member := _read_header(path, file)) is not None:
            check_count(path, n := n + 1)
            # headers of links and devices may state the size of something else
            has_content = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
            content = _Content(file, member.size if has_content else 0)
            if not member.isdir():
                span: Span | None = (0, 0)
                if member.isreg() and member.name.lower().endswith(endings):
                    span = spool.append(content) if member.size <= find_limit(member.name) else None
                add(member.name, span, regular=member.isreg())
            content.skip()
        while file.read(BLOCK):  # to the end, where compressors keep their checksum
            pass


def _read_header(path: Path, file: IO[bytes]) -> tarfile.TarInfo | None:
    """The next member, with its whole name and its size; None at the end mark."""
    extended: dict[str, str] = {}
    while (block := _read_exactly(file, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.type == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = _decode(_read_extended_header(file, member).partition(b"\0")[0])
        elif member.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _parse_records(_read_extended_header(file, member))
        elif member.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):  # link targets, and remarks on all files
            _read_extended_header(file, member)
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


def _read_extended_header(file: IO[bytes], header: tarfile.TarInfo) -> bytes:
    if not 0 <= header.size <= LONGEST_HEADER:
        raise tarfile.ReadError(f"a header of {header.size:,} bytes")
    content = _Content(file, header.size)
    extended = content.read(header.size)
    content.skip()
    return extended


def _parse_records(content: bytes) -> dict[str, str]:
    """Path, size and sparseness from a POSIX extended header; a record is ``length key=value`` and a line end."""
    records = {}
    content = content.rstrip(b"\0")
    start = 0
    while start < len(content):
        length = content[start : start + 20].partition(b" ")[0]
        stop = start + int(length)
        key, separator, value = content[start + len(length) + 1 : stop - 1].partition(b"=")
        if not start < stop <= len(content) or not separator:
            raise tarfile.ReadError("invalid header")
        if key in (b"path", b"size"):
            records[key.decode()] = _decode(value)
        elif key.startswith(SPARSE.encode()):
            records[SPARSE] = ""
        start = stop
    return records


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _read_exactly(file: IO[bytes], n: int) -> bytes:
    content = file.read(n)
    if len(content) < n:
        raise EOFError("it ends before its end mark")
    return content


class _Content:
    """The `size` bytes that follow a header, padded to whole blocks."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._remaining = size
        self._padding = -size % tarfile.BLOCKSIZE

    def read(self, n: int) -> bytes:
        content = _read_exactly(self._file, min(n, self._remaining))
        self._remaining -= len(content)
        return content

    def skip(self) -> None:
        while self.read(BLOCK):
            pass
        _read_exactly(self._file, self._padding)
