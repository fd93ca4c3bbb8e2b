from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.study import storage
from facespec.study.errors import StudyError


def message(caught: pytest.ExceptionInfo, folder: Path) -> str:
    return str(caught.value).replace(str(folder), "DIR")


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    storage.write_bytes(path, b"earlier")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StudyError) as caught:
        storage.write_bytes(path, b"later")
    assert message(caught, tmp_path) == (
        "DIR/table.csv: the disk is full, so it was not written. Earlier files are untouched; "
        "free some space and run the same command again."
    )
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StudyError, match="the disk is full"), storage.atomic_write(tmp_path / "x.npy") as partial:
        partial.unlink()
        partial.symlink_to("/dev/full")
        with partial.open("wb") as file:
            file.write(b"1" * 100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_other_errors_name_the_file_and_not_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "table.csv"

    def fail(partial: Path, _: Path) -> None:
        raise OSError(number, os.strerror(number), str(partial), None, str(path))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError) as caught:
        storage.write_bytes(path, b"1")
    assert caught.value.errno == number and caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_no_temporary_file_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**words: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / f"{words['prefix']}1234.partial"))

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(StudyError) as caught:
        storage.write_bytes(tmp_path / "a.csv", b"1")
    assert message(caught, tmp_path).startswith("DIR/a.csv: the disk is full, so it was not written.")


@pytest.mark.parametrize("last", [AttributeError("no attribute 'pos'"), RuntimeError("iostream error")])
def test_a_library_that_stumbles_over_a_full_disk(tmp_path: Path, last: Exception) -> None:
    with pytest.raises(StudyError, match="x: the disk is full") as caught, storage.atomic_write(tmp_path / "x"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise last
    assert caught.value.__cause__ is last
    with pytest.raises(type(last)), storage.atomic_write(tmp_path / "x"):  # an error in the program stays one
        try:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "y")
        finally:
            raise last
    with pytest.raises(type(last)), storage.atomic_write(tmp_path / "x"):
        raise last


def test_any_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), storage.atomic_write(tmp_path / "a" / "b.bin") as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert list((tmp_path / "a").iterdir()) == []


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "x.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    (tmp_path / "y").touch()
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_tables_keep_every_bit(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        storage.write_table(path, pd.DataFrame({"x": values}))
        assert b"\r" not in path.read_bytes()
        assert pd.read_csv(path)["x"].tolist() == values


def _hold(path: Path, ready: Any) -> None:
    with storage.file_lock(path):
        ready.set()
        while True:
            os.sched_yield()


def test_two_at_once(tmp_path: Path) -> None:
    """The second is refused while the first lives, and let in when the first is killed."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    first = context.Process(target=_hold, args=(tmp_path / "data", ready), daemon=True)
    first.start()
    assert ready.wait(60)
    with pytest.raises(StudyError) as caught, storage.file_lock(tmp_path / "data"):
        pass
    first.kill()
    first.join()
    assert message(caught, tmp_path) == (
        "DIR/data: another facespec run is making this. Wait for it to end, or use another study directory."
    )
    with storage.file_lock(tmp_path / "data"):
        pass


def _write_for_ever(path: Path, ready: Any) -> None:
    with storage.atomic_write(path) as partial:
        partial.write_bytes(b"half")
        ready.set()
        while True:
            os.sched_yield()


def test_what_killed_writers_left_is_swept_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    names = "x.json .facespec/faces.json data/probe/labels.csv checkpoints/unfinished/lesions/1.pickle Results/a.b.csv"
    places = [tmp_path / name for name in names.split()]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        (place.parent / f".{place.name}.abc_1234.partial").write_bytes(b"half")
    (tmp_path / "data" / ".probe.zzzzzzzz.partial" / "new").mkdir(parents=True)
    others = [tmp_path / name for name in (".x.partial", "x.json.abc_1234.partial", "docs/.x.abc_1234.partial")]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(b"not ours")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    writer = context.Process(target=_write_for_ever, args=(tmp_path / "Results" / "table.csv", ready), daemon=True)
    writer.start()
    assert ready.wait(120)
    storage.remove_leftovers(tmp_path)
    left = sorted(path for path in tmp_path.rglob("*.partial"))
    (living,) = (tmp_path / "Results").glob(".table.csv.*")
    assert left == sorted([*others, living])
    writer.kill()
    writer.join()
    assert living.exists()
    storage.remove_leftovers(tmp_path)
    assert not living.exists()


def test_a_temporary_file_that_is_swept_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    locking, swept = storage.fcntl.flock, []

    def lock(file: int, how: int) -> None:
        if how == storage.fcntl.LOCK_EX and len(swept) < 2:
            swept.append(1)
            storage.remove_leftovers(tmp_path)
        locking(file, how)

    monkeypatch.setattr(storage.fcntl, "flock", lock)
    storage.write_bytes(tmp_path / "x", b"whole")
    assert (len(swept), [path.name for path in tmp_path.iterdir()]) == (2, ["x"])
    assert (tmp_path / "x").read_bytes() == b"whole"


@pytest.mark.parametrize("lacking", ["module", "file system"])
def test_without_locks_files_are_written_and_nothing_is_swept(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "module":
        monkeypatch.setattr(storage, "fcntl", None)
    else:
        pytest.importorskip("fcntl")

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(storage.fcntl, "flock", refuse)
    leftover = tmp_path / ".x.abc_1234.partial"
    leftover.touch()
    storage.write_bytes(tmp_path / "x", b"whole")
    storage.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [leftover.name, "x"]


def test_writers_leave_no_file_open(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list open files in /proc")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        storage.write_bytes(tmp_path / "x", b"whole")
        storage.remove_leftovers(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
