"""Networks of a grid: the study's own where the settings are, fewer images where they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.analyses.resampling import compute_chance
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.checkpoints import Origin
from facespec.responses.recording import predict_classes
from facespec.stages import fit as stage
from facespec.stages import sharing
from facespec.stages.grid_pipeline import write_grid_pipeline
from facespec.study.documents import read_mapping
from facespec.study.errors import StudyError
from facespec.study.params import Params, merge_params, validate_params
from facespec.study.paths import Paths
from facespec.study.tables_sharing import FITS, SHARING
from facespec.training.fit import TaskData

GRID = [
    {"seeds": [5]},
    {"seeds": [5], "branch_after": ["conv1"]},
    {"seeds": [5], "images": [20, 40], "epochs": [1]},
    {"seeds": [5], "weight": [3.0], "epochs": [1]},
]


@pytest.fixture(scope="module")
def grid(params: Params) -> Params:
    return validate_params(merge_params(params.model_dump(), {"sharing": {"grid": GRID}}), name="params")


def run(paths: Paths, grid: Params, name: str) -> pd.DataFrame:
    stage.run(paths, grid, name=name, device="cpu")
    return FITS.parse(paths.fit(name).read_bytes(), paths.fit(name))


@pytest.mark.parametrize("network", ["expression", "joint"])
def test_a_cell_with_the_studys_settings_holds_the_studys_network(
    study_copy: Paths, grid: Params, fitted: Paths, network: str
) -> None:
    table = run(study_copy, grid, f"{network}-epochs4-5").query("split == 'test' and tested_on == 'expression'")
    origin = Origin("train", network, 5)
    checkpoint = checkpoints.load_checkpoint(fitted.checkpoint(*origin), expect=origin)
    faces = FaceSet.open(fitted.faces("expression"))
    rows = np.flatnonzero(faces.labels["split"] == "test")
    predicted = predict_classes(
        checkpoint.network, faces, rows, preset=checkpoint.preset, batch_size=7, device=torch.device("cpu")
    )
    names = np.array(checkpoint.classes["expression"])[predicted["expression"]]
    correct = names == faces.labels["expression"].iloc[rows].to_numpy()
    (row,) = table.to_dict("records")
    assert row["correct"] == np.packbits(correct).tobytes().hex() and row["n"] == 42
    assert row["accuracy"] == correct.mean() and row["chance"] == compute_chance(
        faces.labels["expression"].iloc[rows].to_numpy()
    )
    assert row["parameters"] == sum(weights.numel() for weights in checkpoint.network.parameters())
    assert not study_copy.unfinished_fit(f"{network}-epochs4-5").exists()


def test_fewer_images_are_among_more_and_the_steps_stay(
    study_copy: Paths, grid: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, dict[str, TaskData]] = {}
    steps: dict[str, int] = {}

    def record(model: object, data: dict[str, TaskData], plan: stage.Plan, *, label: str, **_: object) -> None:
        seen[label], steps[label] = data, plan.epoch_steps

    monkeypatch.setattr(stage, "train_network", record)
    for name in ("joint-epochs1-images20-5", "expression-epochs1-images40-5", "joint-epochs4-5"):
        run(study_copy, grid, name)
    rows = {name: set(data["expression"].rows) for name, data in seen.items()}
    assert [len(rows[name]) for name in seen] == [20, 40, 70]
    assert rows["joint-epochs1-images20-5"] < rows["expression-epochs1-images40-5"] < rows["joint-epochs4-5"]
    assert len(seen["joint-epochs1-images20-5"]["identity"].rows) == 36
    assert set(steps.values()) == {5}


def test_branches_and_weights_reach_the_network(study_copy: Paths, grid: Params) -> None:
    plain, branched = (run(study_copy, grid, name) for name in ("joint-epochs4-5", "joint-epochs4-conv1-5"))
    assert branched["parameters"].iloc[0] > plain["parameters"].iloc[0]
    assert set(branched["branch_after"]) == {"conv1"}
    weighted = run(study_copy, grid, "joint-epochs1-weight300-5")
    assert set(weighted["weight"]) == {3.0} and not plain["correct"].equals(weighted["correct"])


def test_networks_that_are_there_are_tabulated_and_drawn(study_copy: Paths, grid: Params) -> None:
    with pytest.raises(StudyError, match="no networks of the grid here"):
        sharing.run(study_copy, grid)
    for name in ("expression-epochs4-5", "identity-epochs4-5", "joint-epochs4-5"):
        run(study_copy, grid, name)
    sharing.run(study_copy, grid)
    table = SHARING.read(study_copy.table("sharing"))
    assert len(table) == 8 and study_copy.figure("figure_sharing", "png").is_file()


def test_what_the_grid_cannot_fit_is_refused(study_copy: Paths, grid: Params, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no network 'joint-epochs3-5': did you mean 'joint-epochs4-5'"):
        run(study_copy, grid, "joint-epochs3-5")
    network = grid.network.model_copy(update={"file": "mine.py"})
    with pytest.raises(StudyError, match="the grid trains its networks"):
        run(study_copy, grid.model_copy(update={"network": network}), "joint-epochs4-5")


def test_the_pipeline_has_a_stage_per_network(study_copy: Paths, grid: Params) -> None:
    write_grid_pipeline(study_copy, grid)
    stages = read_mapping(study_copy.root / "dvc.yaml")["stages"]
    assert list(stages) == ["fingerprints", "data", "fit", "sharing"]
    # three; one that branches; two and two of few images, with one identity network; one weighted, and its expression
    assert len(stages["fit"]["matrix"]["name"]) == 3 + 1 + (2 + 2 + 1) + (1 + 1)
    empty = grid.model_copy(update={"sharing": grid.sharing.model_copy(update={"grid": []})})
    with pytest.raises(StudyError, match=r"sharing\.grid: names no network"):
        write_grid_pipeline(study_copy, empty)
