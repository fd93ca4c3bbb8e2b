"""How is a file written whole or not at all, and what happens to temporary files of killed processes?"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from facespec.study.errors import StudyError, explain_os_error, find_shortage

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

PARTIAL_NAME = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.partial")  # of temporary files; group 1 is the name of the target
EARLIER = "old"  # in a temporary directory: the earlier target directory, until the new one has replaced it
FULL_DISK_MESSAGES = ("Not enough free space", "No space left on device")  # numpy, safetensors: errors without a number
_umask_lock = threading.Lock()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` in one step on success and is removed on any error.

    A full disk (or quota) becomes a `StudyError` that names the file. After an error, an earlier `path` is unchanged.
    """
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, lock = make_partial(path, tempfile.mkstemp)
    try:
        with explain_full_disk(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            with _umask_lock:  # the mask is read by setting it, for all threads
                mask = os.umask(0)
                os.umask(mask)
            partial.chmod(0o666 & ~mask)  # mkstemp makes private files; results are as readable as the user's others
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def make_partial(path: Path, make: Callable[..., Any]) -> tuple[Path, int | None]:
    """Make a temporary file or directory beside `path` by `tempfile.mkstemp` or `mkdtemp`; return it and a descriptor.

    The descriptor locks it against `remove_leftovers` until it is closed or the process ends; None if the system has
    no such locks.
    """
    while True:
        result = make(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        if isinstance(result, tuple):  # of mkstemp: an open descriptor, and the name
            os.close(result[0])
        partial = Path(result if isinstance(result, str) else result[1])
        if fcntl is None:
            return partial, None
        with suppress(FileNotFoundError):  # removed before it was locked
            lock = os.open(partial, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks, where `remove_leftovers` removes nothing
                fcntl.flock(lock, fcntl.LOCK_EX)
            if partial.exists():
                return partial, lock
            os.close(lock)


def remove_leftovers(root: Path) -> None:
    """Remove the temporary files of killed processes in the study directory `root`, see `remove_leftovers_in`."""
    for directory in (root, root / ".dvc", root / ".facespec"):
        remove_leftovers_in(directory)
    for name in ("data", "checkpoints", "Results"):
        for parent, subdirectories, _ in os.walk(root / name):
            remove_leftovers_in(Path(parent))
            subdirectories[:] = [name for name in subdirectories if not PARTIAL_NAME.fullmatch(name)]


def remove_leftovers_in(directory: Path, name: str | None = None) -> None:
    """Remove from `directory` the temporary files and directories, for `name` or for all, whose writers have died.

    An earlier directory that its writer had moved away and not replaced is moved back.
    """
    if fcntl is None or not directory.is_dir() or not os.access(directory, os.R_OK | os.W_OK):
        return
    for leftover in sorted(directory.iterdir()):
        match = PARTIAL_NAME.fullmatch(leftover.name)
        if not match or name not in (None, match[1]):
            continue
        with suppress(OSError):  # its writer lives and holds the lock, or another process removes it
            lock = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if leftover.is_dir():
                    restore_earlier(leftover, directory / match[1])
                    remove_partial(leftover)
                else:
                    leftover.unlink()
            finally:
                os.close(lock)


def restore_earlier(partial: Path, target: Path) -> None:
    """Move the earlier directory from the temporary directory `partial` back to `target`, unless `target` exists."""
    if (partial / EARLIER).exists() and not target.exists():
        (partial / EARLIER).rename(target)


def remove_partial(partial: Path) -> None:
    """Remove the temporary directory `partial`, so that no half-removed earlier directory is ever restored."""
    if (partial / EARLIER).exists():
        (partial / EARLIER).rename(partial / "outdated")
    shutil.rmtree(partial)


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk (or quota) inside the context into a `StudyError` that names the full disk's file.

    Other errors pass; errors of the system that name the temporary file beside `path` name `path` instead.
    """
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (f".{path.name}." in str(error.filename) or error.errno == errno.EFBIG):
            error.filename = str(path)
        if full := _find_full_disk(error, path):
            raise StudyError(explain_os_error(full, path)) from error
        raise


def _find_full_disk(error: Exception, path: Path) -> OSError | None:
    """Return the system's error that caused `error`, if it means a full disk.

    For libraries that hide the cause (torch, numpy, matplotlib), return a new error if the disk of `path` is full.
    """
    cause: BaseException | None = error
    while cause and not (isinstance(cause, OSError) and cause.errno):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError):
        return cause if cause.errno in (errno.ENOSPC, errno.EDQUOT) else None
    full = find_shortage(path) or any(words in str(error) for words in FULL_DISK_MESSAGES)
    return OSError(errno.ENOSPC, str(error)) if full else None


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys and a final newline; raises `ValueError` for NaN."""
    write_bytes(path, encode_json(value))


def encode_json(value: Any) -> bytes:
    """Return the bytes that `write_json` writes."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def encode_table(table: pd.DataFrame) -> bytes:
    """Encode a table as CSV: no index, shortest exact decimals, ``\\n`` line ends; equal tables give equal bytes."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV (see `encode_table`), and a file with its digest, in the format of `sha256sum`.

    Without the digest, a table that was cut at the end of a line would be read as a shorter table.
    """
    content = encode_table(table)
    write_bytes(path, content)
    write_bytes(digest_path(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())


def digest_path(path: Path) -> Path:
    """Return the path of the file that holds the digest of the table `path`."""
    return path.with_name(f"{path.name}.sha256")


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock on making `path` (a file or directory); raises `StudyError` at once if another process holds it.

    The lock is a file beside `path`, held by the operating system: it is released when the process ends or is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.parent / f".{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StudyError(
            f"{path}: another facespec run is making this. Wait for it to end, or use another study directory."
        ) from None
    try:
        yield
    finally:
        lock.release()
