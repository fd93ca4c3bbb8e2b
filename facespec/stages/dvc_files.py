"""DVC's own files: the stages of ``dvc.yaml``, the outputs that ``dvc.lock`` records, and how DVC digests them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facespec.study.documents import read_mapping
from facespec.study.errors import StudyError

LOCK = "dvc.lock"
FINGERPRINTS = "fingerprints"  # the stage that says which code the others run; its output is no result
Lock = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """What ``dvc.lock`` records of one output: the stage, the path below the study, and DVC's digest of its bytes."""

    stage: str
    path: str
    md5: str


def read_lock(root: Path) -> Lock:
    """Read ``dvc.lock``; empty where there is none. `StudyError` if it cannot be that of a lock."""
    if not (root / LOCK).exists():
        return {}
    lock = read_mapping(root / LOCK)
    check_lock(lock, root / LOCK)
    return lock


def check_lock(lock: Any, path: Path) -> None:
    """Raise `StudyError`, naming `path`, unless `lock` has the form of DVC's."""
    try:
        for stage in lock["stages"].values():
            for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
                if not isinstance(entry["md5"], str) or not _is_inside(entry["path"]):
                    raise TypeError
    except (AttributeError, KeyError, TypeError):
        raise StudyError(
            f"{path}: not a lock of this study: every stage has outputs with a path inside it, and md5. Restore it."
        ) from None


def _is_inside(path: Any) -> bool:
    """Whether `path` is that of a file below the study, as text."""
    return isinstance(path, str) and not Path(path).is_absolute() and ".." not in Path(path).parts


def list_outputs(lock: Lock, jobs: Container[str] | None = None) -> Iterator[Output]:
    """Every result that a lock records, or those of `jobs`: DVC keeps what an earlier pipeline left in the lock."""
    for name, stage in lock.get("stages", {}).items():
        if name != FINGERPRINTS and (jobs is None or name in jobs):
            for out in stage.get("outs", ()):
                yield Output(name, out["path"], out["md5"])


def read_pipeline(root: Path) -> dict[str, dict[str, Any]]:
    """The stages of ``dvc.yaml`` by name, in their order; `StudyError` if it has none."""
    path = root / "dvc.yaml"
    stages = read_mapping(path).get("stages")
    mappings = isinstance(stages, dict) and all(isinstance(stage, dict) for stage in stages.values())
    if not stages or not mappings or not all(isinstance(stage.get("matrix", {}), dict) for stage in stages.values()):
        raise StudyError(f"{path}: holds no pipeline: `stages` is a mapping of names to stages. Restore it.")
    return stages


def list_jobs(root: Path) -> list[str]:
    """The stages of the pipeline in their order, by DVC's names: of a matrix, one for each combination."""
    jobs = []
    for name, stage in read_pipeline(root).items():
        choices = [_read_choices(root, choice) for choice in stage.get("matrix", {}).values()]
        jobs += [f"{name}@{'-'.join(map(str, each))}" if each else name for each in itertools.product(*choices)]
    return jobs


def _read_choices(root: Path, choice: Any) -> list[Any]:
    """The values of one name of a matrix: listed, or a parameter, as in ``${seeds}``."""
    values = choice
    if isinstance(choice, str):
        values = read_mapping(root / "params.yaml").get(choice.removeprefix("${").removesuffix("}"))
    if not isinstance(values, list):
        raise StudyError(f"{root / 'dvc.yaml'}: the matrix of a stage names {choice!r}, which is no list. Restore it.")
    return values


def digest_output(path: Path) -> str:
    """DVC's digest of a file, or of a directory and all below it: MD5, because that is what ``dvc.lock`` holds."""
    return digest_listing(digest_below(path)) if path.is_dir() else digest_file(path)


def digest_below(directory: Path) -> dict[str, str]:
    """MD5 of every file below a directory, by its path there."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): digest_file(path) for path in files}


def digest_listing(files: Mapping[str, str]) -> str:
    """DVC's digest of a directory: the MD5 of its files' digests and paths as JSON, with the suffix ``.dir``."""
    rows = ", ".join(f'{{"md5": "{digest}", "relpath": {json.dumps(name)}}}' for name, digest in sorted(files.items()))
    return hashlib.md5(f"[{rows}]".encode()).hexdigest() + ".dir"


def digest_file(path: Path) -> str:
    """MD5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
