"""Whole directories, written atomically or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facespec.study.errors import StudyError
from facespec.study.storage import naming_a_full_disk


@contextmanager
def replacing_directory(directory: Path, *, mark: str) -> Iterator[Path]:
    """Lend an empty temporary directory beside `directory`; on success it takes that place, on any error it goes.

    An earlier `directory` is replaced only if it is empty or holds the file `mark`: somebody else's files are refused.
    A full disk becomes a `StudyError`; what was at `directory` before stays untouched.
    """
    place = directory.resolve()  # behind a symbolic link, the directory it points to is replaced
    if place.exists() and not (place.is_dir() and ((place / mark).is_file() or not any(place.iterdir()))):
        raise StudyError(
            f"{directory}: something else is already here (no {mark} in it), and it is not overwritten. "
            "Move it away, or choose another directory."
        )
    with naming_a_full_disk(directory):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
        try:
            # mkdtemp makes private directories; faces are as readable as any other directory the user makes
            (partial / "new").mkdir()
            yield partial / "new"
            _exchange(partial / "new", place, aside=partial / "old")
        finally:
            shutil.rmtree(partial)


def _exchange(new: Path, place: Path, *, aside: Path) -> None:
    """Put `new` at `place`; what was there goes to `aside`, and back if `new` cannot take its place."""
    if not place.exists():
        new.rename(place)
        return
    try:
        place.rename(aside)
        new.rename(place)
    except BaseException:  # an interrupt can come between any two steps
        if aside.exists() and not place.exists():
            aside.rename(place)
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to `path` and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
