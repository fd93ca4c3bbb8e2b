"""A directory is written whole or not at all, and an earlier one is never lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest

from facespec.data import shards
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import write_faceset
from facespec.study.directories import atomic_directory, write_synced
from facespec.study.errors import StudyError
from facespec.study.storage import remove_leftovers


def make_earlier(root: Path) -> Path:
    (root / "faces").mkdir(parents=True)
    (root / "faces" / "mark").write_text("earlier")
    return root / "faces"


def replace(directory: Path) -> None:
    with atomic_directory(directory, marks=("mark",)) as partial:
        assert partial != directory and not any(partial.iterdir())
        write_synced(partial / "mark", b"later")


def read_files(root: Path) -> dict[str, str]:
    """The content of all files below `root`."""
    return {
        path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.rglob("*")) if not path.is_dir()
    }


EARLIER, LATER = {"faces/mark": "earlier"}, {"faces/mark": "later"}


@pytest.mark.parametrize("before", ["nothing", "empty", "earlier", "link"])
def test_the_new_directory_replaces_the_earlier_one(tmp_path: Path, before: str) -> None:
    target = tmp_path / "a" / "faces"
    if before == "empty":
        target.mkdir(parents=True)
    elif before == "earlier":
        make_earlier(target.parent)
    elif before == "link":
        target.parent.mkdir()
        target.symlink_to(make_earlier(tmp_path))
    replace(target)
    assert read_files(target.parent if before != "link" else tmp_path) == LATER
    assert [path.name for path in target.parent.iterdir()] == ["faces"] and target.is_symlink() == (before == "link")


def test_it_is_as_readable_as_other_directories(tmp_path: Path) -> None:
    replace(tmp_path / "faces")
    (tmp_path / "other").mkdir()
    assert stat.S_IMODE((tmp_path / "faces").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("thesis", ["faces/thesis.tex", "faces"])
def test_other_files_are_not_overwritten(tmp_path: Path, thesis: str) -> None:
    (tmp_path / thesis).parent.mkdir(exist_ok=True)
    (tmp_path / thesis).write_text("years of work")
    with pytest.raises(StudyError, match=r"faces: something else is already here \(no mark in it\).*Move it away, or"):
        replace(tmp_path / "faces")
    assert read_files(tmp_path) == {thesis: "years of work"}


@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt(), OSError(errno.EACCES, "not yours")])
def test_any_error_leaves_the_earlier_directory(tmp_path: Path, error: BaseException) -> None:
    target = make_earlier(tmp_path)
    with pytest.raises(type(error)) as caught, atomic_directory(target, marks=("mark",)) as partial:
        write_synced(partial / "mark", b"half")
        raise error
    assert caught.value is error
    assert read_files(tmp_path) == EARLIER and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (tempfile, "mkdtemp"), (Path, "mkdir")])
@pytest.mark.parametrize(
    ("code", "problem"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "your quota of the disk is used up")]
)
def test_a_full_disk_or_quota_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, code: int, problem: str
) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    target = make_earlier(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, fail)
        with pytest.raises(StudyError, match=re.escape(f"{target}: {problem}, so it was not written.")):
            replace(target)
    assert read_files(tmp_path) == EARLIER and list(tmp_path.iterdir()) == [target]


STEPS = {"before 1": EARLIER, "after 1": EARLIER, "before 2": EARLIER, "after 2": LATER}  # of two renames


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_an_error_at_any_rename_leaves_one_whole_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    target, rename, names = make_earlier(tmp_path), Path.rename, []

    def fail_once(self: Path, new_name: Path) -> Path:
        names.append(self.name)
        if step == f"before {len(names)}":
            raise error
        renamed = rename(self, new_name)
        if step == f"after {len(names)}":
            raise error
        return renamed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_once)
        with pytest.raises(type(error)):
            replace(target)
    assert read_files(tmp_path) == STEPS[step] and list(tmp_path.iterdir()) == [target]


def test_faces_on_a_full_disk_leave_the_earlier_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    labels = pd.DataFrame({"stimulus": ["a", "b", "c"], "split": "train", "identity": "", "expression": ""})
    chunk = FaceChunk(np.zeros((3, 17, 11), np.uint8), labels.assign(view="", session=""))
    description = FaceSetDescription("identity", 4, None, {"source": "embedded faces"})
    write_faceset(tmp_path / "faces", [chunk], description)
    before = {path: path.read_bytes() for path in (tmp_path / "faces").iterdir()}
    monkeypatch.setattr(shards, "shard_name", lambda kind, number: "/dev/full")
    with pytest.raises(StudyError, match="faces: the disk is full, so it was not written"):
        write_faceset(tmp_path / "faces", [chunk] * 2, description)
    assert {path: path.read_bytes() for path in (tmp_path / "faces").iterdir()} == before


def replace_and_die(root: Path, last: str) -> None:
    """Replace `faces` in a process that dies, as by SIGKILL, at the step `last`."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9 and list(root.glob(".faces.*.partial"))
        return
    rename = Path.rename

    def rename_or_die(self: Path, new_name: Path) -> Path:
        if last == f"before {self.name}":
            os._exit(9)
        renamed = rename(self, new_name)
        if last == f"after {self.name}":
            os._exit(9)
        return renamed

    def remove_half_and_die(directory: Path) -> NoReturn:
        for name in ("old", "outdated"):
            (directory / name / "mark").unlink(missing_ok=True)
        os._exit(9)

    try:
        Path.rename = rename_or_die  # type: ignore[method-assign]
        if last == "while removing":
            shutil.rmtree = remove_half_and_die
        with atomic_directory(root / "faces", marks=("mark",)) as partial:
            (partial / "mark").write_text("later")
            if last == "half":
                os._exit(9)
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    ("last", "content"),
    [
        *((step, EARLIER) for step in ("half", "before faces", "after faces", "before new")),
        *((step, LATER) for step in ("after new", "before old", "while removing")),
    ],
)
@pytest.mark.parametrize("cleanup", ["remove_leftovers", "atomic_directory"])
def test_a_kill_at_any_step_leaves_one_whole_directory(
    tmp_path: Path, last: str, content: dict[str, str], cleanup: str
) -> None:
    """If nothing replaced the earlier directory, the next run or the next `atomic_directory` restores it."""
    pytest.importorskip("fcntl")
    root = tmp_path / "data"
    make_earlier(root)
    replace_and_die(root, last)
    if cleanup == "remove_leftovers":
        remove_leftovers(tmp_path)
    else:
        with pytest.raises(ZeroDivisionError), atomic_directory(root / "faces", marks=("mark",)):
            raise ZeroDivisionError
    assert read_files(root) == content and [path.name for path in root.iterdir()] == ["faces"]


def test_a_half_removed_directory_is_not_restored(tmp_path: Path) -> None:
    """Killed while removing the earlier directory; then the user removes the new one."""
    pytest.importorskip("fcntl")
    make_earlier(tmp_path)
    replace_and_die(tmp_path, "while removing")
    shutil.rmtree(tmp_path / "faces")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_living_writer_is_not_removed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with atomic_directory(tmp_path / "faces", marks=("mark",)) as partial:
        write_synced(partial / "mark", b"later")
        remove_leftovers(tmp_path)
        assert (partial / "mark").exists()
    assert read_files(tmp_path) == LATER
