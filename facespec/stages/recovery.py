"""What a run that was killed, or a full disk, left of DVC's own files: put in order before the next run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from facespec.stages.dvc_files import LOCK, read_lock
from facespec.stages.study_directory import is_study, write_dvc_config
from facespec.study.documents import CONFLICT_MARKER
from facespec.study.errors import StudyError
from facespec.study.paths import Paths
from facespec.study.storage import write_bytes

CONFIG = Path(".dvc", "config")
RWLOCK = Path(".dvc", "tmp", "rwlock")  # who reads and writes what; DVC stops for ever if it is not JSON


def recover_state(paths: Paths, report: Callable[[str], None]) -> None:
    """Put ``dvc.lock`` and DVC's rwlock in order; `report` is told what was done.

    The caller holds the lock of the study, so that no other run is at work. DVC writes both files in place: killed, or
    on a full disk, it leaves them cut or empty, and then refuses every later run. `StudyError` for conflict markers: it
    is the user who knows which side is right.
    """
    for path in (paths.faces_record, paths.lock_copy, paths.marker, paths.root / LOCK, paths.root / CONFIG):
        if path.exists() and not path.is_file():
            raise StudyError(f"{path}: a directory, where a file belongs. Move it away.")
    _recover_config(paths, report)
    _recover_lock(paths, report)
    rwlock = paths.root / RWLOCK
    if rwlock.is_file() and not _is_json_object(rwlock):
        rwlock.unlink()
        report(f"{rwlock}: damaged by a run that was killed, or by a full disk; removed.")
    keep_lock(paths)


def _recover_config(paths: Paths, report: Callable[[str], None]) -> None:
    """See that DVC finds its place; of a study that facespec made, the configuration can be written anew."""
    config = paths.root / CONFIG
    for directory in (config.parent, paths.root / RWLOCK.parent):
        if directory.exists() and not directory.is_dir():
            raise StudyError(f"{directory}: a file, where a directory of DVC belongs. Move it away.")
    if config.is_file() and CONFLICT_MARKER.search(config.read_text(encoding="utf-8", errors="replace")):
        raise StudyError(f"{config}: holds conflict markers of an unfinished merge: resolve it.")
    if is_study(paths.root) and (not config.is_file() or not config.stat().st_size):
        write_dvc_config(paths.root)
        report(f"{config}: lost or empty; written again.")
    if not config.is_file():
        raise StudyError(f"{config}: no such file, so DVC cannot work here. Restore it (git checkout .dvc).")


def _recover_lock(paths: Paths, report: Callable[[str], None]) -> None:
    lock = paths.root / LOCK
    try:
        read_lock(paths.root)
    except StudyError as error:
        if "conflict markers" in str(error):
            raise
        if paths.lock_copy.is_file():
            write_bytes(lock, paths.lock_copy.read_bytes())
            report(f"{lock}: damaged by a run that was killed, or by a full disk; restored from the last good copy.")
        else:
            lock.unlink()
            report(f"{lock}: damaged, without a good copy; removed. What DVC's cache holds is not computed again.")


def keep_lock(paths: Paths) -> None:
    """Keep a copy of ``dvc.lock``, if it is whole."""
    try:
        whole = bool(read_lock(paths.root))
    except StudyError:
        return
    if whole:
        write_bytes(paths.lock_copy, (paths.root / LOCK).read_bytes())


def _is_json_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (ValueError, RecursionError):
        return False
