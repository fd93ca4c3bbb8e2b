"""What killed runs and full disks leave of DVC's files does not stop the next run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facespec.stages.recovery import keep_lock, recover_state
from facespec.stages.study_directory import mark_study
from facespec.study.errors import StudyError
from facespec.study.paths import Paths

LOCK = "schema: '2.0'\nstages:\n  a:\n    cmd: x\n    outs:\n    - path: out\n      md5: abc123\n      size: 3\n"
LATER = LOCK.replace("abc123", "def456")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "dvc.lock").write_text(LOCK)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
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


@pytest.mark.parametrize("lose", [Path.unlink, lambda config: config.write_text("")])
def test_a_lost_configuration_of_dvc_is_written_again_in_a_study(paths: Paths, lose: Callable[[Path], object]) -> None:
    config = paths.root / ".dvc" / "config"
    mark_study(paths.root, profile="quick")
    lose(config)
    assert recovered(paths) == [f"{config}: lost or empty; written again."]
    assert "no_scm = true" in config.read_text() and "analytics = false" in config.read_text()


def test_a_lost_configuration_of_somebody_else_is_refused(paths: Paths) -> None:
    (paths.root / ".dvc" / "config").unlink()
    with pytest.raises(StudyError, match=r"config: no such file, so DVC cannot work here\. Restore it"):
        recovered(paths)


def test_a_configuration_with_conflict_markers_is_refused(paths: Paths) -> None:
    (paths.root / ".dvc" / "config").write_text("<<<<<<< HEAD\n[core]\n=======\n>>>>>>> theirs\n")
    with pytest.raises(StudyError, match="config: holds conflict markers"):
        recovered(paths)


@pytest.mark.parametrize("name", [".facespec/faces.json", ".facespec/dvc.lock", "dvc.lock", ".dvc/config"])
def test_a_directory_in_place_of_a_file_is_refused_before_any_work(paths: Paths, name: str) -> None:
    path = paths.root / name
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(StudyError, match=f"{name}: a directory, where a file belongs"):
        recovered(paths)


@pytest.mark.parametrize("name", [".dvc", ".dvc/tmp"])
def test_a_file_in_place_of_a_directory_is_refused(paths: Paths, name: str) -> None:
    shutil.rmtree(paths.root / name)
    (paths.root / name).write_text("")
    with pytest.raises(StudyError, match=f"{name}: a file, where a directory of DVC belongs"):
        recovered(paths)
