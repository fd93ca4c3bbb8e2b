"""The pipeline of a grid of networks: a stage per network, as ``dvc.yaml``; the grid itself is in ``params.yaml``."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from facespec.stages.dvc_files import read_pipeline
from facespec.study.errors import StudyError
from facespec.study.grid import list_fits
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.storage import write_bytes

FIT = "fit"
SHARED = "fingerprints", "data"  # stages that are those of every study
COMMENT = "# One network per stage `fit`, made from `sharing.grid` of params.yaml: change the grid there.\n"
RESULTS = "Results/sharing.csv", "Results/sharing.csv.sha256", "Results/figures"


def is_grid(root: Path) -> bool:
    """Whether the study directory `root` holds the pipeline of a grid."""
    return FIT in read_pipeline(root)


def write_grid_pipeline(paths: Paths, params: Params) -> None:
    """Put a stage for every network of the grid into ``dvc.yaml``, in the place of what follows the faces."""
    fits = list_fits(params)
    if not fits:
        raise StudyError("sharing.grid: names no network. See params.yaml of the project for a grid.")
    stages: dict[str, dict[str, Any]] = {name: read_pipeline(paths.root)[name] for name in SHARED}
    stages[FIT] = {
        "desc": "Fit one network of the grid, and test it on the faces of its tasks.",
        "matrix": {"name": list(fits)},
        "cmd": "python -m facespec fit ${item.name}",
        "deps": ["data/expression", "data/identity"],
        # what a part of the grid changes is said by the name of the network
        "params": ["network", "train", {"fingerprints.json": [FIT]}],
        "outs": [{"fits/${item.name}.csv": {"cache": False}}],
    }
    stages["sharing"] = {
        "desc": "What does a joint network cost, and when?",
        "cmd": "python -m facespec sharing",
        "deps": ["fits"],
        "params": ["checks.level", "sharing", {"fingerprints.json": ["sharing"]}],
        "outs": list(RESULTS),
    }
    text = StringIO()
    YAML().dump({"stages": stages}, text)
    write_bytes(paths.root / "dvc.yaml", (COMMENT + text.getvalue()).encode())


def count_fits(params: Params) -> dict[tuple[str, ...], int]:
    """The stage of every network, and what it costs: epochs of one task at full width."""
    return {
        (f"{FIT}@{name}",): max(1, round(len(fit.network.tasks) * fit.cell.epochs * fit.cell.width**1.5))
        for name, fit in list_fits(params).items()
    }
