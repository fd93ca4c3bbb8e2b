"""Whole files, written atomically or not at all; pickles read through an allow-list."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import filelock
import pandas as pd

from facespec.study.errors import StudyError

_ASKING = threading.Lock()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary path beside `path`; on success it becomes `path` in one step, on any error nothing remains.

    A full disk (or quota) becomes a `StudyError` that names the file; what was at `path` before stays untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        with naming_a_full_disk(path):
            yield partial
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            # mkstemp makes private files; results are as readable as any other file the user makes
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk (or quota) inside the context into a `StudyError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StudyError(
                f"{path}: the disk is full, so it was not written. Earlier files are untouched; "
                "free some space and run the same command again."
            ) from error
        raise


def _umask() -> int:
    with _ASKING:  # to read it is to change it, for all threads
        mask = os.umask(0)
        os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys and a final newline; NaN is refused, as JSON has none."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a truncated or invalid one is refused by name."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file.") from None
    except ValueError as error:
        raise StudyError(f"{path}: not a valid JSON file ({error}). It may be truncated: make it again.") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV: no index, shortest exact decimals, ``\\n`` line ends, so equal tables give equal bytes."""
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())


def write_pickle(path: Path, value: Any) -> None:
    """Write built-ins and numpy arrays as a pickle (protocol 4): equal values give equal bytes.

    Memoisation is off: a memo would record which equal objects are shared, and so leak how the value was computed.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True
    pickler.dump(value)
    write_bytes(path, buffer.getvalue())


_ALLOWED = {
    "builtins": {"bool", "int", "float", "complex", "str", "bytes", "bytearray", "list", "tuple", "dict", "set",
                 "frozenset", "slice", "range"},
    "collections": {"OrderedDict"},
    "_codecs": {"encode"},  # how protocol 0-2 pickles spell bytes
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
}  # fmt: skip


class _AllowListUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # dtypes such as numpy.dtypes.Float64DType are plain descriptions; everything else is listed by name
        if name in _ALLOWED.get(module, ()) or (
            module == "numpy.dtypes" and name.isidentifier() and name.endswith("DType")
        ):
            return super().find_class(module, name)
        raise StudyError(f"refused {module}.{name}: only built-in containers, numbers and numpy arrays are read.")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise StudyError(f"refused persistent id {pid!r}: only built-in containers, numbers and numpy arrays are read.")


def read_pickle(path: Path) -> Any:
    """Read a pickle of built-ins and numpy values; anything that could execute code is refused by name.

    Raises `StudyError` naming the file for a missing, truncated, corrupt or refused pickle.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file.") from None
    try:
        return _AllowListUnpickler(io.BytesIO(content)).load()
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise StudyError(
            f"{path}: not a readable pickle ({error}). It may be truncated: fetch or make it again."
        ) from error


@contextmanager
def only_one(work: Path) -> Iterator[None]:
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
