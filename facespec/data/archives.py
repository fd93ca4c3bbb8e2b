"""One way to read the files of a data set, whether it lies in a directory, a `.zip` or a `.tar` (`.gz`, `.bz2`, `.xz`).

Nothing is ever written where a name in an archive says, so no name can lead out of it.
"""

from __future__ import annotations

import io
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from facespec.data import limits
from facespec.data.limits import BoundedReader, check_count, explain_too_large, find_limit, find_unpacked_limit
from facespec.data.spool import Place, Spool
from facespec.data.tars import DAMAGE, unpack
from facespec.study.errors import StudyError

LEADS_OUT = "a name that leads out of the archive"
IRREGULAR = "a link or a device, not a file"
_MAGIC = {b"PK\3\4": "zip", b"PK\5\6": "zip", b"\xfd7zXZ\0": "xz", b"\x1f\x8b": "gz", b"BZh": "bz2"}
_ENDINGS = (".zip", ".tar", ".tgz", ".txz", ".tbz2", ".gz", ".xz", ".bz2")


class UnusableArchive(Exception):
    """One file cannot be used; `args[0]` is the reason. `known`: so it is in every copy of the data set."""

    def __init__(self, reason: str, *, known: bool = False) -> None:
        super().__init__(reason)
        self.known = known


@dataclass(frozen=True, eq=False)
class ArchiveFiles:
    """The files of a data set by name: ``/`` between folders, no root, system files left out.

    `names` is sorted, so nothing depends on the order within an archive. `refused` names what is in it but never
    read, with the reason.
    """

    names: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    opener: Callable[[str], IO[bytes]]

    def open(self, name: str) -> IO[bytes]:
        """A file to read from the start; `UnusableArchive` where the archive or the disk does not give it.

        The same is raised by its `read` beyond the size that the file may have: `data.limits.find_limit`.
        """
        try:
            file = self.opener(name)
        except (*DAMAGE, ValueError) as error:
            raise UnusableArchive(_explain(error)) from error
        limit = find_limit(name)
        return io.BufferedReader(BoundedReader(file, limit, explain_excess(limit)))

    @property
    def some(self) -> str:
        """The first few names, for messages."""
        if not self.names and self.refused:
            return f"nothing that is read ({': '.join(self.refused[0])})"
        return ", ".join(self.names[:3]) + (", ..." if len(self.names) > 3 else "") or "nothing that is read"

    def read(self, name: str) -> bytes:
        """A whole file; `UnusableArchive` where it is damaged in the archive, or larger than any face."""
        with self.open(name) as file:
            try:
                return read_whole(file)
            except DAMAGE as error:
                raise UnusableArchive("damaged in the archive") from error


def _explain(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "may not be read"
    return "no longer there" if isinstance(error, FileNotFoundError) else "cannot be opened"


def explain_excess(limit: int) -> UnusableArchive:
    """The verdict on a file of more than `limit` bytes."""
    return UnusableArchive(f"larger than {limits.format_mebibytes(limit)}")


def read_whole(file: IO[bytes]) -> bytes:
    """The rest of `file`; `UnusableArchive` beyond `data.limits.LARGEST` bytes."""
    content = file.read(limits.LARGEST + 1)
    if len(content) > limits.LARGEST:
        raise explain_excess(limits.LARGEST)
    return content


@contextmanager
def open_files(path: Path, *, keep: tuple[str, ...]) -> Iterator[ArchiveFiles]:
    """The files at `path`: a directory, an archive (told by its first bytes, not its name), or one other file.

    Directories and zips are read in place. A tar is read once from start to end, as its compression demands, and the
    files whose names end in `keep` (lower case) wait in an unnamed temporary file on disk: memory stays bounded, and
    the order within the archive does not matter. Raises `StudyError` if `path` is missing, empty, truncated or damaged.
    """
    with ExitStack() as stack:
        try:
            files = _files(path, _kind(path), keep=keep, stack=stack)
        except OSError as error:
            raise explain_unreadable(path, error) from error
        if not files.names and not files.refused:
            raise StudyError(f"{path}: no files in it. Give the directory or archive that holds the data set.")
        yield files


def _files(path: Path, kind: str, *, keep: tuple[str, ...], stack: ExitStack) -> ArchiveFiles:
    if kind == "directory":
        return _directory(path)
    if kind == "zip":
        return _zip(path, stack)
    if kind == "file":
        return ArchiveFiles((path.name,), (), lambda _: path.open("rb"))
    return _tar(path, kind, keep=keep, stack=stack)


def refuse_missing(path: Path) -> None:
    """Raise `StudyError` if nothing is at `path`."""
    try:
        there = path.exists()
    except OSError as error:
        raise explain_unreadable(path, error) from error
    if not there and path.is_symlink():
        raise StudyError(
            f"{path}: a symbolic link that leads nowhere. Give the path of the data set; see docs/data.md."
        )
    if not there:
        raise StudyError(f"{path}: no such file or directory. Give the path of the data set; see docs/data.md.")


def explain_unreadable(path: Path, error: OSError) -> StudyError:
    """What the system says against reading `path`, or a file below it, as a refusal."""
    place = error.filename or path
    if isinstance(error, PermissionError):
        return StudyError(f"{place}: may not be read. Change its permissions.")
    if isinstance(error, FileNotFoundError):
        return StudyError(f"{place}: was there, and is gone. Run the same command again when nothing changes it.")
    return StudyError(f"{place}: cannot be read ({error.strerror}). Give another path, or copy the data set anew.")


def _kind(path: Path) -> str:
    refuse_missing(path)
    if path.is_dir():
        return "directory"
    if not path.is_file():
        raise StudyError(f"{path}: neither a file nor a directory. Give the path of the data set; see docs/data.md.")
    with path.open("rb") as file:
        start = file.read(265)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar":
        return "tar"
    if path.name.lower().endswith(_ENDINGS):
        raise _damaged(path, "it does not begin as one")
    return "file"


def _damaged(path: Path, why: object) -> StudyError:
    if isinstance(why, OSError) and why.errno is not None:  # not the archive, but the disk
        return explain_unreadable(path, why)
    return StudyError(f"{path}: not a whole zip or tar archive ({why}). It may be truncated: fetch it again.")


def _clean(name: str) -> str | None:
    """`name` as `ArchiveFiles` spells it; None for system files; raises `UnusableArchive` if it leads out of the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # names may hold bytes that are no text; labels are UTF-8
    text = unicodedata.normalize("NFC", "/".join(parts).encode("utf-8", "backslashreplace").decode())
    if ".." in parts or name.startswith("/"):
        raise UnusableArchive(LEADS_OUT)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return None if hidden or not parts or parts[-1] in ("Thumbs.db", "desktop.ini") else text


class _Listing:
    """Sorts what is found into readable files, refused ones, and those that are nobody's business."""

    def __init__(self) -> None:
        self.places: dict[str, Any] = {}
        self.refused: list[tuple[str, str]] = []

    def add(self, name: str, place: Any, *, regular: bool) -> None:
        try:
            clean = _clean(name)
        except UnusableArchive as verdict:
            self.refused.append((name.encode("utf-8", "backslashreplace").decode(), str(verdict)))
            return
        if clean is not None and regular:
            self.places[clean] = place  # the later of two with one name, as in every archive
        elif clean is not None:
            self.refused.append((clean, IRREGULAR))

    def files(self, opener: Callable[[Mapping[str, Any], str], IO[bytes]]) -> ArchiveFiles:
        return ArchiveFiles(
            tuple(sorted(self.places)), tuple(sorted(self.refused)), lambda name: opener(self.places, name)
        )


def _directory(path: Path) -> ArchiveFiles:
    listing = _Listing()
    # links to directories are followed, as people link large data sets; `above` stops circles
    ahead = [(path, "", frozenset({path.resolve()}))]
    n = 0
    while ahead:
        directory, prefix, above = ahead.pop()
        for entry in directory.iterdir():
            check_count(path, n := n + 1)
            name = f"{prefix}{entry.name}"
            if not entry.is_dir():
                listing.add(name, entry, regular=entry.is_file())
            elif _clean(name) is not None and (place := entry.resolve()) not in above:
                ahead.append((entry, f"{name}/", above | {place}))
    return listing.files(lambda places, name: places[name].open("rb"))


def _zip(path: Path, stack: ExitStack) -> ArchiveFiles:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (*DAMAGE, ValueError) as error:
        raise _damaged(path, error) from error
    check_count(path, len(archive.infolist()))
    packed = path.stat().st_size
    # zipfile reads no more of a file than is claimed here
    if sum(info.file_size for info in archive.infolist()) > find_unpacked_limit(packed):
        raise explain_too_large(path, packed)
    listing = _Listing()
    for info in archive.infolist():
        if not info.is_dir():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile unpacks 4 KiB of bz2 or lzma at once into memory, gigabytes if they are made for that
                raise StudyError(
                    f"{path}: {info.filename} is packed by another method than deflate. "
                    "Unpack it yourself and give the directory, or pack it anew."
                )
            kind = stat.S_IFMT(info.external_attr >> 16)
            # some programs write Windows' separator
            listing.add(info.filename.replace("\\", "/"), info, regular=kind in (0, stat.S_IFREG))
    return listing.files(lambda places, name: archive.open(places[name]))


def _tar(path: Path, kind: str, *, keep: tuple[str, ...], stack: ExitStack) -> ArchiveFiles:
    spool = Spool(stack)
    listing = _Listing()
    try:
        unpack(path, kind, spool, keep=keep, add=listing.add)
    except StudyError:
        raise  # the disk is full, or a limit exceeded
    except (*DAMAGE, ValueError) as error:
        raise _damaged(path, error) from error

    def open_piece(places: Mapping[str, Place | None], name: str) -> IO[bytes]:
        place = places[name]
        if place is None:
            raise explain_excess(find_limit(name))
        return spool.open(*place)

    return listing.files(open_piece)
