"""From faces to verdicts in one call: build the faces if needed, run the pipeline, say what came out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from facespec.checks import verdicts
from facespec.stages import data
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.storage import only_one, read_json
from facespec.study.tables import VERDICTS

LOCK, VERDICTS_JSON = "dvc.lock", "Results/checks/verdicts.json"


def run(paths: Paths, *, workers: int, console: Console | None = None) -> None:
    """Build, run, report. Finished stages are kept when a later one stops; run again to continue."""
    console = console or Console(soft_wrap=True, highlight=False)
    params = read_params(paths.params)
    recorded = _recorded(paths.root)
    with only_one(paths.data):
        data.build_missing(paths, params.data, workers=workers)
    _pipeline(paths.root)
    table = VERDICTS.read(paths.verdicts.with_suffix(".csv"))
    console.print(verdicts.summary(table))
    for figure in sorted(paths.figure("x", "png").parent.glob("*.png")):
        console.print(f"figure  {figure}")
    console.print(comparison(recorded, _read(paths.root)))


def _pipeline(root: Path) -> None:
    # `python` in dvc.yaml is the interpreter that runs now, whatever the shell calls python
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    ended = subprocess.run(["dvc", "repro"], cwd=root, env={**os.environ, "PATH": path}, check=False)
    if ended.returncode:
        raise StudyError(
            f"dvc repro stopped (exit status {ended.returncode}); the stage's own message stands above. "
            "Finished stages are kept: mend it and run the same command again."
        )


def comparison(recorded: dict[str, Any], now: dict[str, Any]) -> str:
    """One line: is every output bit-identical to the recorded run, or are the claims' numbers within its intervals?

    `recorded` and `now` hold ``lock`` (content of dvc.lock) and ``verdicts`` (content of verdicts.json).
    """
    if not recorded["lock"]:
        return "No recorded run to compare with: there was no dvc.lock."
    before, after = dict(_outputs(recorded["lock"])), dict(_outputs(now["lock"]))
    if before.keys() != after.keys():
        return "Not comparable with the recorded run: its outputs are others (other seeds or stages)."
    differing = sorted(path for path, digest in before.items() if after[path] != digest)
    if not differing:
        return f"All {len(before)} outputs are bit-identical to dvc.lock."
    outside = [name for name, number, low, high in _numbers(recorded["verdicts"], now["verdicts"]) if not low <= number <= high]
    within = f"outside the recorded intervals: {', '.join(outside)}" if outside else "within the recorded intervals"
    return (
        f"{len(differing)} of {len(before)} outputs differ from dvc.lock (another kind of machine, other data or "
        f"parameters); the claims' numbers are {within}."
    )


def _outputs(lock: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for stage in lock["stages"].values():
        for out in stage.get("outs", ()):
            yield out["path"], out["md5"]


def _numbers(recorded: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, float, float, float]]:
    for claim, entry in recorded.items():
        for part, then in entry["parts"].items():
            found = now.get(claim, {}).get("parts", {}).get(part, {})
            if "number" in found and "low" in then:
                yield f"{claim} ({part})", found["number"], then["low"], then["high"]


def _recorded(root: Path) -> dict[str, Any]:
    """The run recorded in git's HEAD where the study is a clone, else the run that was last made here."""
    committed = {name: _committed(root, name) for name in (LOCK, VERDICTS_JSON)}
    if committed[LOCK] is None:
        return _read(root)
    return {"lock": yaml.safe_load(committed[LOCK]), "verdicts": yaml.safe_load(committed[VERDICTS_JSON] or "{}")}


def _committed(root: Path, name: str) -> str | None:
    try:
        shown = subprocess.run(["git", "show", f"HEAD:./{name}"], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return shown.stdout if shown.returncode == 0 else None


def _read(root: Path) -> dict[str, Any]:
    lock, judged = root / LOCK, root / VERDICTS_JSON
    return {
        "lock": yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.is_file() else {},
        "verdicts": read_json(judged) if judged.is_file() else {},
    }
