"""A stage writes the outputs that dvc.yaml declares, and the same bytes each time."""

from __future__ import annotations

import inspect
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from facespec.study.params import Params
from facespec.study.paths import Paths

STAGES = [
    "heatmaps",
    "decoding",
    "accuracy",
    "depth",
    "preferred",
    "overlap",
    "contrasts",
    "regions",
    "groundtruth",
    "calibrate",
    "battery",
    "checks",
    "export",
]


def read_results(paths: Paths) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in paths.results.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_writes_its_outputs_with_the_same_bytes(
    name: str, analysed_copy: Paths, params: Params, project: Path
) -> None:
    before = read_results(analysed_copy)
    declared = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"][name]
    for output in [*declared.get("outs", []), *declared.get("metrics", [])]:
        path = analysed_copy.root / (output if isinstance(output, str) else next(iter(output)))
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert read_results(analysed_copy) != before
    stage = import_module(f"facespec.stages.{name}")
    arguments = {"paths": analysed_copy, "params": params, "device": "cpu", "workers": 1}
    stage.run(**{name: arguments[name] for name in inspect.signature(stage.run).parameters})
    assert read_results(analysed_copy) == before
