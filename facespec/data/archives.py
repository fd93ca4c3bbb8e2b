"""Which files does a data set hold, in a directory, a `.zip` or a `.tar` (`.gz`, `.bz2`, `.xz`), and how are they read?

Nothing is written to a path that an archive names, so no name can lead out of it.
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

from facespec.data import unpacking
from facespec.data.unpacking import DAMAGE, BoundedReader, Span, Spool, check_count, explain_too_large, find_limit
from facespec.study.errors import StudyError

OUTSIDE = "a name that leads out of the archive"
IRREGULAR = "a link or a device, not a file"
_MAGIC = {b"PK\3\4": "zip", b"PK\5\6": "zip", b"\xfd7zXZ\0": "xz", b"\x1f\x8b": "gz", b"BZh": "bz2"}
_ENDINGS = (".zip", ".tar", ".tgz", ".txz", ".tbz2", ".gz", ".xz", ".bz2")


class UnusableFile(Exception):
    """One file of a data set cannot be used; `args[0]` is the reason. `in_every_copy`: of the data set."""

    def __init__(self, reason: str, *, in_every_copy: bool = False) -> None:
        super().__init__(reason)
        self.in_every_copy = in_every_copy


@dataclass(frozen=True, eq=False)
class ArchiveFiles:
    """The files of a data set by name: ``/`` between folders, no root, system files omitted.

    `names` is sorted, so nothing depends on the order within an archive. `refused` holds names of files that are never
    read, with the reason.
    """

    names: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    opener: Callable[[str], IO[bytes]]

    def open(self, name: str) -> IO[bytes]:
        """A file to read from the start; raises `UnusableFile` if it cannot be opened.

        Its `read` raises the same beyond the size that the file may have (`unpacking.find_limit`).
        """
        try:
            file = self.opener(name)
        except (*DAMAGE, ValueError) as error:
            missing, forbidden = isinstance(error, FileNotFoundError), isinstance(error, PermissionError)
            reason = "no longer there" if missing else "may not be read" if forbidden else "cannot be opened"
            raise UnusableFile(reason) from error
        limit = find_limit(name)
        return io.BufferedReader(BoundedReader(file, limit, explain_excess(limit)))

    def read(self, name: str) -> bytes:
        """A whole file; `UnusableFile` where it is damaged in the archive, or larger than any face."""
        with self.open(name) as file:
            try:
                return read_whole(file)
            except DAMAGE as error:
                raise UnusableFile("damaged in the archive") from error

    def list_examples(self) -> str:
        """The first few names, for messages."""
        if not self.names and self.refused:
            return f"nothing that is read ({': '.join(self.refused[0])})"
        return ", ".join(self.names[:3]) + (", ..." if len(self.names) > 3 else "") or "nothing that is read"


def explain_excess(limit: int) -> UnusableFile:
    """The reason against a file of more than `limit` bytes."""
    return UnusableFile(f"larger than {unpacking.format_mebibytes(limit)}")


def read_whole(file: IO[bytes]) -> bytes:
    """The rest of `file`; `UnusableFile` beyond `unpacking.LARGEST` bytes."""
    content = file.read(unpacking.LARGEST + 1)
    if len(content) > unpacking.LARGEST:
        raise explain_excess(unpacking.LARGEST)
    return content


@contextmanager
def open_files(path: Path, *, endings: tuple[str, ...]) -> Iterator[ArchiveFiles]:
    """The files at `path`: a directory, an archive (recognised by its first bytes, not its name), or one other file.

    Directories and zips are read in place. A tar is read once from start to end, and the files whose names have one of
    `endings` (lower case) are copied to an unnamed temporary file: memory stays bounded, and the order within the
    archive does not matter. Raises `StudyError` if `path` is missing, empty, truncated or damaged.
    """
    with ExitStack() as stack:
        try:
            match _detect_kind(path):
                case "directory":
                    files = _list_directory(path)
                case "zip":
                    files = _list_zip(path, stack)
                case "file":
                    files = ArchiveFiles((path.name,), (), lambda _: path.open("rb"))
                case kind:
                    files = _list_tar(path, kind, endings=endings, stack=stack)
        except OSError as error:
            raise explain_unreadable(path, error) from error
        if not files.names and not files.refused:
            raise StudyError(f"{path}: no files in it. Give the directory or archive that holds the data set.")
        yield files


def refuse_missing(path: Path) -> None:
    """Raise `StudyError` if nothing is at `path`."""
    try:
        exists = path.exists()
    except OSError as error:
        raise explain_unreadable(path, error) from error
    if not exists:
        problem = "a symbolic link that leads nowhere" if path.is_symlink() else "no such file or directory"
        raise StudyError(f"{path}: {problem}. Give the path of the data set; see docs/data.md.")


def explain_unreadable(path: Path, error: OSError) -> StudyError:
    """The refusal of `path`, or of a file below it, that the system cannot read."""
    file = error.filename or path
    if isinstance(error, PermissionError):
        return StudyError(f"{file}: may not be read. Change its permissions.")
    if isinstance(error, FileNotFoundError):
        return StudyError(f"{file}: was there, and is gone. Run the same command again when nothing changes it.")
    return StudyError(f"{file}: cannot be read ({error.strerror}). Give another path, or copy the data set anew.")


def _detect_kind(path: Path) -> str:
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
        raise _explain_damage(path, "it does not begin as one")
    return "file"


def _explain_damage(path: Path, reason: object) -> StudyError:
    if isinstance(reason, OSError) and reason.errno is not None:  # a failure of the disk, not of the archive
        return explain_unreadable(path, reason)
    return StudyError(f"{path}: not a whole zip or tar archive ({reason}). It may be truncated: fetch it again.")


def _normalise_name(name: str) -> str | None:
    """`name` as `ArchiveFiles` spells it; None for system files; `UnusableFile` if it leads out of the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # names may hold bytes that are no text; labels are UTF-8
    text = unicodedata.normalize("NFC", "/".join(parts).encode("utf-8", "backslashreplace").decode())
    if ".." in parts or name.startswith("/"):
        raise UnusableFile(OUTSIDE)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return None if hidden or not parts or parts[-1] in ("Thumbs.db", "desktop.ini") else text


class _Listing:
    """Sorts files into readable, refused and omitted ones; a location is what the opener of a format needs."""

    def __init__(self) -> None:
        self.locations: dict[str, Any] = {}
        self.refused: list[tuple[str, str]] = []

    def add(self, name: str, location: Any, *, regular: bool) -> None:
        try:
            normalised = _normalise_name(name)
        except UnusableFile as problem:
            self.refused.append((name.encode("utf-8", "backslashreplace").decode(), str(problem)))
            return
        if normalised is not None and regular:
            self.locations[normalised] = location  # the later of two with one name, as in every archive
        elif normalised is not None:
            self.refused.append((normalised, IRREGULAR))

    def make_files(self, opener: Callable[[Mapping[str, Any], str], IO[bytes]]) -> ArchiveFiles:
        names, refused = tuple(sorted(self.locations)), tuple(sorted(self.refused))
        return ArchiveFiles(names, refused, lambda name: opener(self.locations, name))


def _list_directory(path: Path) -> ArchiveFiles:
    listing = _Listing()
    # links to directories are followed, as people link large data sets; `ancestors` prevents circles
    queue = [(path, "", frozenset({path.resolve()}))]
    n = 0
    while queue:
        directory, prefix, ancestors = queue.pop()
        for entry in directory.iterdir():
            check_count(path, n := n + 1)
            name = f"{prefix}{entry.name}"
            if not entry.is_dir():
                listing.add(name, entry, regular=entry.is_file())
            elif _normalise_name(name) is not None and (target := entry.resolve()) not in ancestors:
                queue.append((entry, f"{name}/", ancestors | {target}))
    return listing.make_files(lambda locations, name: locations[name].open("rb"))


def _list_zip(path: Path, stack: ExitStack) -> ArchiveFiles:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (*DAMAGE, ValueError) as error:
        raise _explain_damage(path, error) from error
    check_count(path, len(archive.infolist()))
    packed = path.stat().st_size
    # zipfile reads no more of a file than is claimed here
    if sum(info.file_size for info in archive.infolist()) > unpacking.find_unpacked_limit(packed):
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
    return listing.make_files(lambda locations, name: archive.open(locations[name]))


def _list_tar(path: Path, compression: str, *, endings: tuple[str, ...], stack: ExitStack) -> ArchiveFiles:
    spool = Spool(stack)
    listing = _Listing()
    try:
        unpacking.unpack_tar(path, compression, spool, endings=endings, add=listing.add)
    except StudyError:
        raise  # the disk is full, or a limit exceeded
    except (*DAMAGE, ValueError) as error:
        raise _explain_damage(path, error) from error

    def open_piece(spans: Mapping[str, Span | None], name: str) -> IO[bytes]:
        span = spans[name]
        if span is None:
            raise explain_excess(find_limit(name))
        return spool.open(*span)

    return listing.make_files(open_piece)
