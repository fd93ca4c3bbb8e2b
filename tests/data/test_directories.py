"""A directory is written whole or not at all; nobody's earlier files are lost."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest

from facespec.data import shards
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.directories import atomic_directory, write_synced
from facespec.data.faceset import write_faceset
from facespec.study.errors import StudyError
from facespec.study.storage import remove_leftovers

FULL = (
    "DIR/faces: the disk is full, so it was not written. Earlier files are untouched; "
    "free some space and run the same command again."
)


def earlier(tmp_path: Path) -> Path:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "mark").write_text("earlier")
    return tmp_path / "faces"


def untouched(tmp_path: Path) -> bool:
    here = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    return here == ["faces", "faces/mark"] and (tmp_path / "faces" / "mark").read_text() == "earlier"


def fill(directory: Path) -> None:
    with atomic_directory(directory, marks=("mark",)) as partial:
        assert partial != directory and not any(partial.iterdir())
        write_synced(partial / "mark", b"later")
        write_synced(partial / "more", b"")


def failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("before", ["nothing", "empty", "earlier", "link"])
def test_the_new_directory_takes_the_place(tmp_path: Path, before: str) -> None:
    place = tmp_path / "a" / "b" / "faces"
    if before == "empty":
        place.mkdir(parents=True)
    elif before == "earlier":
        place.parent.mkdir(parents=True)
        earlier(place.parent)
    elif before == "link":
        place.parent.mkdir(parents=True)
        earlier(tmp_path)
        place.symlink_to(tmp_path / "faces")
    fill(place)
    assert sorted(path.name for path in place.iterdir()) == ["mark", "more"]
    assert (place / "mark").read_bytes() == b"later"
    assert [path.name for path in place.parent.iterdir()] == ["faces"]
    assert place.is_symlink() == (before == "link")


def test_it_is_as_readable_as_other_directories(tmp_path: Path) -> None:
    fill(tmp_path / "faces")
    (tmp_path / "other").mkdir()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("faces", "other")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("somebody", ["files", "a file"])
def test_somebody_elses_files_are_refused(tmp_path: Path, somebody: str) -> None:
    if somebody == "files":
        (tmp_path / "faces").mkdir()
    thesis = tmp_path / "faces" / "thesis.tex" if somebody == "files" else tmp_path / "faces"
    thesis.write_text("years of work")
    with pytest.raises(StudyError) as caught:
        fill(tmp_path / "faces")
    assert str(caught.value).replace(str(tmp_path), "DIR") == (
        "DIR/faces: something else is already here (no mark in it), and it is not overwritten. "
        "Move it away, or choose another directory."
    )
    assert thesis.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt(), OSError(errno.EACCES, "not yours")])
def test_any_error_leaves_everything_as_it_was(tmp_path: Path, error: BaseException) -> None:
    place = earlier(tmp_path)
    with pytest.raises(type(error)) as caught, atomic_directory(place, marks=("mark",)) as partial:
        write_synced(partial / "mark", b"half")
        raise error
    assert caught.value is error
    assert untouched(tmp_path)


@pytest.mark.parametrize("where", [(os, "fsync"), (tempfile, "mkdtemp"), (Path, "mkdir")])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], code: int
) -> None:
    place = earlier(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*where, failing(code))
        with pytest.raises(StudyError) as caught:
            fill(place)
    full = FULL if code == errno.ENOSPC else FULL.replace("the disk is full", "your quota of the disk is used up")
    assert str(caught.value).replace(str(tmp_path), "DIR") == full
    assert untouched(tmp_path)


@pytest.mark.parametrize("step", ["before", "between", "after"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_the_earlier_directory_comes_back_when_the_exchange_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    """Before the earlier directory is put aside, right after, or when the new one should take its place."""
    place = earlier(tmp_path)
    rename, calls = Path.rename, []

    def failing_rename(self: Path, target: Path) -> Path:
        calls.append(self.name)
        if len(calls) == 1 and step == "between":
            rename(self, target)
        if len(calls) == (2 if step == "after" else 1):
            raise error
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing_rename)
        with pytest.raises(type(error)):
            fill(place)
    assert calls == {"before": ["faces"], "between": ["faces", "old"], "after": ["faces", "new", "old"]}[step]
    assert untouched(tmp_path)


def test_an_interrupt_after_the_exchange_keeps_the_new_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rename = earlier(tmp_path), Path.rename

    def interrupted(self: Path, target: Path) -> None:
        rename(self, target)
        if self.name == "new":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fill(place)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "faces",
        "faces/mark",
        "faces/more",
    ]


def faces(directory: Path, k: int = 5, *, error: BaseException | None = None) -> None:
    """A set of `k` chunks of 3 images of 17x11 px in shards of 4; instead of the last chunk, `error`."""

    def chunks() -> Any:
        for number in range(k):
            if error is not None and number == k - 1:
                raise error
            names = [f"{number}-{i}" for i in range(3)]
            labels = pd.DataFrame(
                {"stimulus": names, "split": "train", "identity": "", "expression": "", "view": "", "session": ""}
            )
            yield FaceChunk(np.full((3, 17, 11), number, np.uint8), labels)

    write_faceset(directory, chunks(), FaceSetDescription("identity", 4, None, {"source": "embedded faces"}))


def bytes_below(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [StudyError("too many unreadable files"), KeyboardInterrupt(), ZeroDivisionError()])
@pytest.mark.parametrize("k", [1, 4])
def test_faces_that_stop_half_way_leave_the_earlier_set(tmp_path: Path, error: BaseException, k: int) -> None:
    faces(tmp_path / "faces", 2)
    before = bytes_below(tmp_path)
    with pytest.raises(type(error)) as caught:
        faces(tmp_path / "faces", k, error=error)
    assert caught.value is error
    assert bytes_below(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


class FullFile:
    """A file on a disk that is full after `room` bytes: writes fail, and so does closing what was not written."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, content: Any) -> int:
        self.room -= len(bytes(content))
        self.flush()
        return self.file.write(content)

    def flush(self) -> None:
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 100, 128 + 3 * 17 * 11, 128 + 4 * 17 * 11])
def test_faces_on_a_full_disk_leave_the_earlier_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Full at the header, inside the first shard, at its end, or (4 images fit) first in `faceset.json`."""
    faces(tmp_path / "faces", 2)
    before = bytes_below(tmp_path)
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = opened(self, mode, *args, **kwargs)
        room_here = 50 if self.suffix == ".json" and room > 128 + 3 * 17 * 11 else room
        return FullFile(file, room_here) if mode == "wb" else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(StudyError) as caught:
            faces(tmp_path / "faces", 3)
    assert str(caught.value).replace(str(tmp_path), "DIR") == FULL
    assert bytes_below(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_faces_on_a_really_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(shards, "shard_name", lambda kind, number: "/dev/full")
    with pytest.raises(StudyError) as caught:
        faces(tmp_path / "faces")
    assert str(caught.value).replace(str(tmp_path), "DIR") == FULL
    assert list(tmp_path.iterdir()) == []


def die(root: Path, last: str) -> None:
    """Replace `faces` in a process that dies, as by SIGKILL, at the step `last`."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9 and list(root.glob(".faces.*.partial"))
        return
    rename = Path.rename

    def dying_rename(self: Path, target: Path) -> Path:
        if last == f"before {self.name}":
            os._exit(9)
        moved = rename(self, target)
        if last == f"after {self.name}":
            os._exit(9)
        return moved

    def dying_rmtree(directory: Path) -> NoReturn:
        for name in ("old", "outdated"):
            (directory / name / "mark").unlink(missing_ok=True)
        os._exit(9)

    try:
        Path.rename = dying_rename  # type: ignore[method-assign]
        if last == "while removing":
            shutil.rmtree = dying_rmtree
        with atomic_directory(root / "faces", marks=("mark",)) as partial:
            (partial / "mark").write_text("later")
            if last == "half":
                os._exit(9)
    finally:
        os._exit(1)


def content(tmp_path: Path) -> dict[str, str]:
    return {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "last, mark",
    [
        ("half", "earlier"),
        ("before faces", "earlier"),
        ("after faces", "earlier"),
        ("before new", "earlier"),
        ("after new", "later"),
        ("before old", "later"),
        ("while removing", "later"),
    ],
)
@pytest.mark.parametrize("sweep", ["remove_leftovers", "atomic_directory"])
def test_a_kill_at_any_step_leaves_one_whole_directory(tmp_path: Path, last: str, mark: str, sweep: str) -> None:
    """The earlier one comes back where nothing has taken its place: at the next run, or the next time it is made."""
    pytest.importorskip("fcntl")
    root = tmp_path / "data"
    root.mkdir()
    earlier(root)
    die(root, last)
    if sweep == "remove_leftovers":
        remove_leftovers(tmp_path)
    else:
        with pytest.raises(ZeroDivisionError), atomic_directory(root / "faces", marks=("mark",)):
            raise ZeroDivisionError
    assert content(root) == {"faces/mark": mark}
    assert [path.name for path in root.iterdir()] == ["faces"]


def test_what_was_half_removed_is_not_put_back(tmp_path: Path) -> None:
    """Killed while it removed the earlier directory; then the user removes the new one."""
    pytest.importorskip("fcntl")
    earlier(tmp_path)
    die(tmp_path, "while removing")
    (tmp_path / "faces" / "mark").unlink()
    (tmp_path / "faces").rmdir()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_being_made_is_not_swept(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with atomic_directory(tmp_path / "faces", marks=("mark",)) as partial:
        write_synced(partial / "mark", b"later")
        remove_leftovers(tmp_path)
        assert (partial / "mark").exists()
    remove_leftovers(tmp_path)
    assert content(tmp_path) == {"faces/mark": "later"}
