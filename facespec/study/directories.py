"""How is a whole directory written at once or not at all?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facespec.study.errors import StudyError
from facespec.study.storage import (
    EARLIER,
    explain_full_disk,
    make_partial,
    remove_leftovers_in,
    remove_partial,
    restore_earlier,
)


@contextmanager
def atomic_directory(directory: Path, *, marks: tuple[str, ...]) -> Iterator[Path]:
    """Yield an empty temporary directory, which replaces `directory` on success and is removed on any error.

    An earlier `directory` is replaced only if it is empty or holds a file of one of the names `marks`; otherwise it is
    refused with a `StudyError`, as is a full disk. After an error, the earlier `directory` is unchanged. First,
    temporary directories of killed processes are removed, and an earlier `directory` in one of them is moved back.
    """
    target = directory.resolve()  # of a symbolic link, replace the directory it points to
    remove_leftovers_in(target.parent, target.name)
    if target.exists() and not (
        target.is_dir() and (any((target / mark).is_file() for mark in marks) or not any(target.iterdir()))
    ):
        raise StudyError(
            f"{directory}: something else is already here (no {marks[0]} in it), and it is not overwritten. "
            "Move it away, or choose another directory."
        )
    with explain_full_disk(directory):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial, lock = make_partial(target, tempfile.mkdtemp)
        try:
            new = partial / "new"
            new.mkdir()  # mkdtemp makes private directories; this one is as readable as the user's others
            yield new
            if target.exists():
                target.rename(partial / EARLIER)
            new.rename(target)
        finally:
            restore_earlier(partial, target)  # an error or an interrupt can come between the two renames
            remove_partial(partial)
            if lock is not None:
                os.close(lock)


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to `path` and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
