"""Are the files of a study those that ``dvc.lock`` records? All of them are read to tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from facespec.stages.dvc_files import LOCK, Output, digest_file, digest_output, list_jobs, list_outputs, read_lock
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths

CACHE = Path(".dvc", "cache", "files", "md5")


def run(paths: Paths) -> tuple[list[str], int]:
    """What differs, one sentence per file, and how many outputs were compared; `StudyError` if nothing is recorded."""
    if not (paths.root / LOCK).exists():
        raise StudyError(f"{paths.root / LOCK}: no such file, so nothing is recorded yet. `facespec repro` makes it.")
    read_params(paths.params)
    lock, jobs = read_lock(paths.root), list_jobs(paths.root)
    outputs = list(list_outputs(lock, jobs))
    lines = [f"{job}: not run yet. `facespec repro` runs it." for job in jobs if job not in lock.get("stages", {})]
    for output in outputs:
        problem = find_problem(paths.root, output)
        if problem:
            remedy = "makes it again"
            if output.path.startswith("data/"):
                remedy = "makes embedded faces again, and says what to do about real ones"
            lines.append(f"{output.path}: {problem}. `facespec repro` {remedy}.")
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
    return lines, len(outputs)


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
    copy = _locate_copy(root, output.md5)
    if not copy.is_file():
        return []
    if digest_file(copy) != output.md5.removesuffix(".dir"):
        return [copy]
    if copy.suffix != ".dir":
        return []
    copies = {row["md5"]: _locate_copy(root, row["md5"]) for row in json.loads(copy.read_bytes())}
    return [file for md5, file in copies.items() if file.is_file() and digest_file(file) != md5]


def _locate_copy(root: Path, md5: str) -> Path:
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
            if not output.path.startswith("data/"):  # of faces, the stage itself says what it makes again and why
                report(f"{output.path}: {problem}; it is made again.")
            for file in [root / output.path, *(root / output.path).rglob("*")]:
                file.touch()
        for copy in find_damaged_copies(root, output):
            report(f"{copy}: damaged copy in DVC's cache; removed.")
            copy.unlink()
