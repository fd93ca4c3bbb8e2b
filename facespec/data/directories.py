"""Whole directories, written atomically or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facespec.study.errors import StudyError
from facespec.study.storage import (
    ASIDE,
    explain_full_disk,
    make_partial,
    put_back,
    remove_leftovers_in,
    remove_partial,
)


@contextmanager
def atomic_directory(directory: Path, *, marks: tuple[str, ...]) -> Iterator[Path]:
    """Lend an empty temporary directory beside `directory`; on success it takes that place, on any error it goes.

    An earlier `directory` is replaced only if it is empty or holds one of `marks`: other people's files are refused.
    A full disk becomes a `StudyError`; what was at `directory` before stays untouched. What a killed process was about
    to put there is removed first; if that had put an earlier `directory` aside, it is put back.
    """
    place = directory.resolve()  # behind a symbolic link, the directory it points to is replaced
    remove_leftovers_in(place.parent, place.name)
    if place.exists() and not (
        place.is_dir() and (any((place / mark).is_file() for mark in marks) or not any(place.iterdir()))
    ):
        raise StudyError(
            f"{directory}: something else is already here (no {marks[0]} in it), and it is not overwritten. "
            "Move it away, or choose another directory."
        )
    with explain_full_disk(directory):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial, lock = make_partial(place, tempfile.mkdtemp)
        try:
            # mkdtemp makes private directories; faces are as readable as any other directory the user makes
            (partial / "new").mkdir()
            yield partial / "new"
            _exchange(partial / "new", place, aside=partial / ASIDE)
        finally:
            put_back(partial, place)  # after an error or an interrupt, which can come between any two steps
            remove_partial(partial)
            if lock is not None:
                os.close(lock)


def _exchange(new: Path, place: Path, *, aside: Path) -> None:
    """Put `new` at `place`; what was there goes to `aside`."""
    if place.exists():
        place.rename(aside)
    new.rename(place)


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to `path` and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
