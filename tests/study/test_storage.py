"""A file is written whole or not at all; temporary files of killed processes are removed."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.study import storage
from facespec.study.errors import StudyError


def raise_os_error(number: int) -> Callable[..., NoReturn]:
    def fail(*_: Any, **words: Any) -> NoReturn:
        name = f"{words['dir']}/{words['prefix']}1234.partial" if words else None
        raise OSError(number, os.strerror(number), name)

    return fail


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (tempfile, "mkstemp")])
def test_a_full_disk_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str
) -> None:
    path = tmp_path / "table.csv"
    storage.write_bytes(path, b"earlier")
    monkeypatch.setattr(owner, function, raise_os_error(errno.ENOSPC))
    with pytest.raises(StudyError, match=r"/table\.csv: the disk is full, so it was not written\."):
        storage.write_bytes(path, b"later")
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """/dev/full refuses every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StudyError, match="the disk is full"), storage.atomic_write(tmp_path / "x.npy") as partial:
        partial.unlink()
        partial.symlink_to("/dev/full")
        partial.write_bytes(b"1" * 100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_other_errors_name_the_file_and_not_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "table.csv"

    def fail(partial: Path, _: Path) -> NoReturn:
        raise OSError(number, os.strerror(number), str(partial), None, str(path))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError) as caught:
        storage.write_bytes(path, b"1")
    assert caught.value.errno == number and caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("last", [AttributeError("no attribute 'pos'"), RuntimeError("iostream error")])
@pytest.mark.parametrize("first", [errno.ENOSPC, errno.ENOENT, None])
def test_only_a_library_error_caused_by_a_full_disk_is_explained(
    tmp_path: Path, last: Exception, first: int | None
) -> None:
    expected = StudyError if first == errno.ENOSPC else type(last)
    with pytest.raises(expected) as caught, storage.atomic_write(tmp_path / "x"):
        try:
            if first:
                raise OSError(first, os.strerror(first), "y" if first == errno.ENOENT else None)
        finally:
            raise last
    assert (caught.value.__cause__ if first == errno.ENOSPC else caught.value) is last


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), storage.atomic_write(tmp_path / "a" / "b.bin") as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert list((tmp_path / "a").iterdir()) == []


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "x.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    (tmp_path / "y").touch()
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


def test_nan_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=50))
def test_tables_keep_every_bit(values: list[float]) -> None:
    content = storage.encode_table(pd.DataFrame({"x": values}))
    assert b"\r" not in content and pd.read_csv(io.BytesIO(content))["x"].tolist() == values


def _lock_for_ever(path: Path, ready: Any) -> None:
    with storage.file_lock(path), storage.atomic_write(path) as partial:
        partial.write_bytes(b"half")
        ready.set()
        while True:
            os.sched_yield()


def test_what_a_process_locks_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    """Both its lock on a target and its temporary file, which `remove_leftovers` removes only afterwards."""
    pytest.importorskip("fcntl")
    names = "x.json .facespec/faces.json data/probe/labels.csv checkpoints/unfinished/lesions/1.pickle Results/a.b.csv"
    for path in [tmp_path / name for name in names.split()]:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f".{path.name}.abc_1234.partial").write_bytes(b"half")
    (tmp_path / "data" / ".probe.zzzzzzzz.partial" / "new").mkdir(parents=True)
    others = [tmp_path / name for name in (".x.partial", "x.json.abc_1234.partial", "docs/.x.abc_1234.partial")]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(b"not ours")
    context = multiprocessing.get_context("spawn")
    ready, target = context.Event(), tmp_path / "Results" / "table.csv"
    writer = context.Process(target=_lock_for_ever, args=(target, ready), daemon=True)
    writer.start()
    assert ready.wait(120)

    with pytest.raises(StudyError, match=r"table\.csv: another facespec run is making this\. Wait for it to end, or"):
        storage.file_lock(target).__enter__()
    storage.remove_leftovers(tmp_path)
    (living,) = (tmp_path / "Results").glob(".table.csv.*.partial")
    assert sorted(tmp_path.rglob("*.partial")) == sorted([*others, living])

    writer.kill()
    writer.join()
    assert living.exists()
    with storage.file_lock(target):
        storage.remove_leftovers(tmp_path)
    assert not living.exists()


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    flock, removals = storage.fcntl.flock, []

    def remove_and_lock(file: int, operation: int) -> None:
        if operation == storage.fcntl.LOCK_EX and len(removals) < 2:
            removals.append(1)
            storage.remove_leftovers(tmp_path)
        flock(file, operation)

    monkeypatch.setattr(storage.fcntl, "flock", remove_and_lock)
    storage.write_bytes(tmp_path / "x", b"whole")
    assert (len(removals), [path.name for path in tmp_path.iterdir()]) == (2, ["x"])
    assert (tmp_path / "x").read_bytes() == b"whole"


@pytest.mark.parametrize("lacking", ["module", "file system"])
def test_without_locks_files_are_written_and_none_is_removed(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "module":
        monkeypatch.setattr(storage, "fcntl", None)
    else:
        pytest.importorskip("fcntl")
        monkeypatch.setattr(storage.fcntl, "flock", raise_os_error(errno.ENOLCK))
    leftover = tmp_path / ".x.abc_1234.partial"
    leftover.touch()
    storage.write_bytes(tmp_path / "x", b"whole")
    storage.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [leftover.name, "x"]


def test_no_file_is_left_open(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list open files in /proc")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        storage.write_bytes(tmp_path / "x", b"whole")
        storage.remove_leftovers(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
