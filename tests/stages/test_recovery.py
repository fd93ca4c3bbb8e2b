"""What killed runs and full disks leave of DVC's files does not stop the next run."""

from __future__ import annotations

from pathlib import Path

import pytest

from facespec.stages.recovery import keep_lock, recover_state
from facespec.study.errors import StudyError
from facespec.study.paths import Paths

LOCK = "schema: '2.0'\nstages:\n  a:\n    cmd: x\n    outs:\n    - path: out\n      md5: abc123\n      size: 3\n"
LATER = LOCK.replace("abc123", "def456")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "dvc.lock").write_text(LOCK)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    keep_lock(Paths(tmp_path))
    return Paths(tmp_path)


def recovered(paths: Paths) -> list[str]:
    said: list[str] = []
    recover_state(paths, said.append)
    return said


def test_a_whole_lock_is_kept_and_copied(paths: Paths) -> None:
    (paths.root / "dvc.lock").write_text(LATER)
    assert recovered(paths) == []
    assert (paths.root / "dvc.lock").read_text() == paths.lock_copy.read_text() == LATER


@pytest.mark.parametrize("left", ["", LATER[:30], LATER[:60], "stages: [", "\0\0\0"])
def test_a_cut_lock_is_restored(paths: Paths, left: str) -> None:
    (paths.root / "dvc.lock").write_text(left)
    (said,) = recovered(paths)
    assert said.endswith(
        "dvc.lock: damaged by a run that was killed, or by a full disk; restored from the last good copy."
    )
    assert (paths.root / "dvc.lock").read_text() == LOCK


def test_a_cut_lock_without_copy_is_removed(paths: Paths) -> None:
    (paths.root / "dvc.lock").write_text("")
    paths.lock_copy.unlink()
    assert "without a good copy; removed" in recovered(paths)[0]
    assert not (paths.root / "dvc.lock").exists()


def test_conflict_markers_are_the_users(paths: Paths) -> None:
    merged = f"<<<<<<< HEAD\n{LOCK}=======\n{LATER}>>>>>>> theirs\n"
    (paths.root / "dvc.lock").write_text(merged)
    with pytest.raises(StudyError, match=r"dvc\.lock, line 1: holds conflict markers"):
        recovered(paths)
    assert (paths.root / "dvc.lock").read_text() == merged
    assert paths.lock_copy.read_text() == LOCK


def test_no_lock_yet(paths: Paths) -> None:
    (paths.root / "dvc.lock").unlink()
    assert recovered(paths) == []
    assert not (paths.root / "dvc.lock").exists()


@pytest.mark.parametrize("left", ["", "{", "[]", "\xff"])
def test_a_damaged_rwlock_is_removed(paths: Paths, left: str) -> None:
    rwlock = paths.root / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text(left, encoding="latin-1")
    (said,) = recovered(paths)
    assert said == f"{rwlock}: damaged by a run that was killed, or by a full disk; removed."
    assert not rwlock.exists()


def test_a_whole_rwlock_stays(paths: Paths) -> None:
    (paths.root / ".dvc" / "tmp" / "rwlock").write_text('{"read": {}}')
    assert recovered(paths) == []
    assert (paths.root / ".dvc" / "tmp" / "rwlock").exists()
