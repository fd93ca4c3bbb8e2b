"""Whole files, written atomically or not at all."""

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

from facespec.study.errors import StudyError, explain_os_error, lacks_room

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

LEFTOVER = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.partial")  # how `make_partial` names what becomes the file in group 1
ASIDE = "old"  # in a temporary directory: the earlier directory, until the new one has its place
_ASKING = threading.Lock()
FULL = ("Not enough free space", "No space left on device")  # numpy, safetensors: errors without a number


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Lend a temporary path beside `path`; on success it becomes `path` in one step, on any error nothing remains.

    A full disk (or quota) becomes a `StudyError` that names the file; what was at `path` before stays untouched.
    """
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, lock = make_partial(path, tempfile.mkstemp)
    try:
        with explain_full_disk(path):
            yield partial
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            # mkstemp makes private files; results are as readable as any other file the user makes
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def make_partial(path: Path, make: Callable[..., Any]) -> tuple[Path, int | None]:
    """A new temporary file or directory beside `path`, made by `make` of `tempfile`, and a descriptor that locks it.

    Whoever closes the descriptor, or dies, leaves it to `remove_leftovers`. None where the system has no such locks.
    """
    while True:
        made = make(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        if not isinstance(made, str):
            os.close(made[0])
            made = made[1]
        if fcntl is None:
            return Path(made), None
        with suppress(FileNotFoundError):  # swept before it was locked
            lock = os.open(made, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: nothing is swept there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if Path(made).exists():
                return Path(made), lock
            os.close(lock)


def remove_leftovers(root: Path) -> None:
    """Remove what killed processes left half-written in the study directory `root`, see `remove_leftovers_in`."""
    for directory in (root, root / ".dvc", root / ".facespec"):
        remove_leftovers_in(directory)
    for name in ("data", "checkpoints", "Results"):
        for place, below, _ in os.walk(root / name):
            remove_leftovers_in(Path(place))
            below[:] = [directory for directory in below if not LEFTOVER.fullmatch(directory)]


def remove_leftovers_in(directory: Path, name: str | None = None) -> None:
    """Remove temporary files and directories in `directory`, of `name` or of all, whose writers have died.

    An earlier directory that its writer had put aside, and replaced by nothing, is put back.
    """
    if fcntl is None or not directory.is_dir() or not os.access(directory, os.R_OK | os.W_OK):
        return
    for leftover in sorted(directory.iterdir()):
        target = LEFTOVER.fullmatch(leftover.name)
        if not target or name not in (None, target[1]):
            continue
        with suppress(OSError):  # a writer is alive and holds the lock, or another process sweeps as well
            lock = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if leftover.is_dir():
                    put_back(leftover, directory / target[1])
                    remove_partial(leftover)
                else:
                    leftover.unlink()
            finally:
                os.close(lock)


def put_back(partial: Path, place: Path) -> None:
    """Return to `place` what was put aside in the directory `partial`, unless something has taken its place."""
    if (partial / ASIDE).exists() and not place.exists():
        (partial / ASIDE).rename(place)


def remove_partial(partial: Path) -> None:
    """Remove the directory `partial`; whoever is killed at it leaves nothing aside that `put_back` takes for whole."""
    if (partial / ASIDE).exists():
        (partial / ASIDE).rename(partial / "outdated")
    shutil.rmtree(partial)


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk (or quota) inside the context into a `StudyError` that names it, or `path` if that is on it.

    Other errors pass; those of the system that name the temporary file beside `path` name `path` instead.
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


def _find_full_disk(error: BaseException, path: Path) -> OSError | None:
    """The system's error that led to `error`; one of our own where a library says less (torch, numpy, matplotlib)."""
    behind: BaseException | None = error
    while behind and not (isinstance(behind, OSError) and behind.errno):
        behind = behind.__cause__ or behind.__context__
    if isinstance(behind, OSError):
        return behind if behind.errno in (errno.ENOSPC, errno.EDQUOT) else None
    full = lacks_room(path) or any(words in str(error) for words in FULL)
    return OSError(errno.ENOSPC, str(error)) if full else None


def _umask() -> int:
    with _ASKING:  # to read it is to change it, for all threads
        mask = os.umask(0)
        os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys and a final newline; NaN is refused, as JSON has none."""
    write_bytes(path, encode_json(value))


def encode_json(value: Any) -> bytes:
    """The bytes that `write_json` writes."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def encode_table(table: pd.DataFrame) -> bytes:
    """A table as CSV: no index, shortest exact decimals, ``\\n`` line ends, so equal tables give equal bytes."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV (see `encode_table`), and its digest beside it, as `sha256sum` writes it.

    Without digest, a table that was cut at the end of a line would be read as a shorter one.
    """
    content = encode_table(table)
    write_bytes(path, content)
    write_bytes(digest_path(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())


def digest_path(path: Path) -> Path:
    """Where the digest of the table `path` lies."""
    return path.with_name(f"{path.name}.sha256")


@contextmanager
def file_lock(work: Path) -> Iterator[None]:
    """Hold the right to make `work` (a file or directory); a second holder is refused at once, not mixed in.

    The lock is a file beside `work`, held by the operating system: it ends with the process, also when that is killed.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(work.parent / f".{work.name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StudyError(
            f"{work}: another facespec run is making this. Wait for it to end, or use another study directory."
        ) from None
    try:
        yield
    finally:
        lock.release()
