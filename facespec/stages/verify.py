"""Are the files of a study those that ``dvc.lock`` and ``data.dvc`` record? All of them are read to tell."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facespec.stages import data
from facespec.stages.dvc_digests import digest_file, digest_output
from facespec.study.documents import read_mapping
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths

LOCK = "dvc.lock"
CACHE = Path(".dvc", "cache", "files", "md5")
Lock = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """What ``dvc.lock`` records of one output: the stage, the path below the study, and DVC's digest of its bytes."""

    stage: str
    path: str
    md5: str


def run(paths: Paths) -> tuple[list[str], int]:
    """What differs, one sentence per file, and how many outputs were compared; `StudyError` if nothing is recorded.

    Faces are compared with ``data.dvc``, file by file; where there is none, with what the stages of ``dvc.lock`` read.
    """
    if not (paths.root / LOCK).exists():
        raise StudyError(f"{paths.root / LOCK}: no such file, so nothing is recorded yet. `facespec repro` makes it.")
    read_params(paths.params)
    lock, jobs = read_lock(paths.root), list_jobs(paths.root)
    outputs = list(list_outputs(lock, jobs))
    lines = [f"{job}: not run yet. `facespec repro` runs it." for job in jobs if job not in lock.get("stages", {})]
    for output in outputs:
        problem = find_problem(paths.root, output)
        if problem:
            lines.append(f"{output.path}: {problem}. `facespec repro` makes it again.")
        for file in find_damaged_copies(paths.root, output):
            lines.append(
                f"{file}: damaged, and DVC would put it in the place of {output.path}. "
                "`rm` it; what it is a copy of is not touched."
            )
    lines += [
        f"{output.path}: made by the stage {output.stage}, which dvc.yaml lacks. Restore dvc.yaml, or remove the file."
        for output in list_outputs(lock)
        if output.stage not in jobs and (paths.root / output.path).exists()
    ]
    if (paths.root / data.PIN).exists():
        remedy = "`facespec repro` makes embedded faces again; `facespec data pin` records what is there."
        lines += [f"data/{line}. {remedy}" for line in data.list_differences(paths)]
    else:
        faces = {entry["path"]: entry["md5"] for job in jobs for entry in lock["stages"].get(job, {}).get("deps", ())}
        lines += [
            f"{path}: {problem}. `facespec repro` makes embedded faces again, and says what to do about real ones."
            for path, md5 in faces.items()
            if path.startswith("data/") and (problem := find_problem(paths.root, Output("data", path, md5)))
        ]
    return lines, len(outputs)


def read_lock(root: Path) -> Lock:
    """The content of ``dvc.lock``; empty where there is none. `StudyError` if it cannot be that of a lock."""
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
                if not isinstance(entry["md5"], str) or not is_inside(entry["path"]):
                    raise TypeError
    except (AttributeError, KeyError, TypeError):
        raise StudyError(
            f"{path}: not a lock of this study: every stage has outputs with a path inside it, and md5. Restore it."
        ) from None


def is_inside(path: Any) -> bool:
    """Whether `path` is that of a file below the study, as text."""
    return isinstance(path, str) and not Path(path).is_absolute() and ".." not in Path(path).parts


def list_jobs(root: Path) -> list[str]:
    """The stages of the pipeline in their order, by DVC's names: of a matrix, one for each combination."""
    jobs = []
    for name, stage in read_pipeline(root).items():
        choices = [_read_choices(root, choice) for choice in stage.get("matrix", {}).values()]
        jobs += [f"{name}@{'-'.join(map(str, each))}" if each else name for each in itertools.product(*choices)]
    return jobs


def read_pipeline(root: Path) -> dict[str, dict[str, Any]]:
    """The stages of ``dvc.yaml`` by name, in their order; `StudyError` if it has none."""
    path = root / "dvc.yaml"
    stages = read_mapping(path).get("stages")
    mappings = isinstance(stages, dict) and all(isinstance(stage, dict) for stage in stages.values())
    if not stages or not mappings or not all(isinstance(stage.get("matrix", {}), dict) for stage in stages.values()):
        raise StudyError(f"{path}: holds no pipeline: `stages` is a mapping of names to stages. Restore it.")
    return stages


def _read_choices(root: Path, choice: Any) -> list[Any]:
    """The values of one name of a matrix: listed, or a parameter, as in ``${seeds}``."""
    values = choice
    if isinstance(choice, str):
        values = read_mapping(root / "params.yaml").get(choice.removeprefix("${").removesuffix("}"))
    if not isinstance(values, list):
        raise StudyError(f"{root / 'dvc.yaml'}: the matrix of a stage names {choice!r}, which is no list. Restore it.")
    return values


def list_outputs(lock: Lock, jobs: Container[str] | None = None) -> Iterator[Output]:
    """Every output that a lock records, or those of `jobs`: DVC keeps what an earlier pipeline left in the lock."""
    for name, stage in lock.get("stages", {}).items():
        if jobs is None or name in jobs:
            for out in stage.get("outs", ()):
                yield Output(name, out["path"], out["md5"])


def find_problem(root: Path, output: Output) -> str:
    """What is wrong with an output: "absent", or that its bytes are others; empty: nothing."""
    path = root / output.path
    if not path.exists():
        return "absent"
    regular = path.is_dir() if output.md5.endswith(".dir") else path.is_file()
    if not regular or digest_output(path) != output.md5:
        return f"other bytes than {LOCK} records"
    return ""


def find_damaged_copies(root: Path, output: Output) -> list[Path]:
    """The files in DVC's cache from which an output would be restored, and whose bytes are not what their names say."""
    copy = _cached(root, output.md5)
    if not copy.is_file():
        return []
    if digest_file(copy) != output.md5.removesuffix(".dir"):
        return [copy]
    if copy.suffix != ".dir":
        return []
    copies = {row["md5"]: _cached(root, row["md5"]) for row in json.loads(copy.read_bytes())}
    return [file for md5, file in copies.items() if file.is_file() and digest_file(file) != md5]


def _cached(root: Path, md5: str) -> Path:
    return root / CACHE / md5[:2] / md5[2:]


def prepare(root: Path, report: Callable[[str], None]) -> None:
    """Have DVC make again what is not as ``dvc.lock`` records it; `report` is told what.

    DVC looks at times and sizes only: an output with other bytes gets a new time stamp, which makes DVC read it.
    Damaged files of DVC's cache are removed, as DVC restores what they are copies of without reading them.
    """
    for output in list_outputs(read_lock(root), list_jobs(root)):
        problem = find_problem(root, output)
        if not problem:
            continue
        if problem != "absent":
            report(f"{output.path}: {problem}; it is made again.")
            for file in [root / output.path, *(root / output.path).rglob("*")]:
                file.touch()
        for copy in find_damaged_copies(root, output):
            report(f"{copy}: damaged copy in DVC's cache; removed.")
            copy.unlink()
