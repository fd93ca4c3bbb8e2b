from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from facespec.data.batches import Preset, apply_preset
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.stages import accuracy, finetune, train
from facespec.study.errors import StudyError
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.tables import ACCURACY
from facespec.study.vocabulary import Network


def one_seed(paths: Paths) -> Params:
    return read_params(paths.params).model_copy(update={"seeds": [5]})


@pytest.fixture(scope="module")
def made(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    paths = Paths(tmp_path_factory.mktemp("accuracy") / "study")
    shutil.copytree(tiny_study, paths.root)
    params = one_seed(paths)
    for network in Network:
        train.run(paths, params, network=network, seed=5, device="cpu")
        finetune.run(paths, params, network=network, seed=5, device="cpu")
    accuracy.run(paths, params, device="cpu")
    return paths


def test_every_cell_and_resample_has_its_row(made: Paths) -> None:
    table = ACCURACY.read(made.table("accuracy"))
    cells = table.query("resample == -1")[["figure", "trained_on", "tested_on", "role", "n", "chance"]]
    own = [("expression", "expression"), ("identity", "identity"), ("joint", "expression"), ("joint", "identity")]
    assert sorted(zip(cells["figure"], cells["trained_on"], cells["tested_on"], strict=True)) == sorted(
        (figure, *cell) for figure in ("1C", "S1B") for cell in own
    )
    assert len(table) == 8 * 101
    by = cells.set_index(["figure", "trained_on", "tested_on"])
    # by hand: 3 people x 7 expressions; 42; 4 people x 5
    assert by["n"].loc["1C"].tolist() == [21] * 4
    assert by["n"].loc[("S1B", "joint", "expression")] == 42 and by["n"].loc[("S1B", "joint", "identity")] == 20
    assert (
        by["chance"].loc[("S1B", "joint", "identity")] == 1 / 4
        and by["role"].loc[("1C", "joint", "identity")] == "probe"
    )


def test_accuracy_is_that_of_the_head_after_training_on_the_test_images(made: Paths) -> None:
    """By another road: one image at a time, straight through the network."""
    checkpoint = checkpoints.load_checkpoint(made.checkpoint("train", "joint", 5))
    faces = FaceSet.open(made.faces("identity"))
    right = []
    for row in range(faces.n):
        if faces.labels["split"].iloc[row] == "test":
            image = apply_preset(faces.images([row]), Preset(**checkpoint.preset), None)
            with torch.inference_mode():
                answer = int(checkpoint.network(image)["identity"].argmax())
            right.append(checkpoint.classes["identity"][answer] == faces.labels["identity"].iloc[row])
    table = ACCURACY.read(made.table("accuracy"))
    found = table.query("figure == 'S1B' and trained_on == 'joint' and tested_on == 'identity' and resample == -1")
    assert found["accuracy"].tolist() == [sum(right) / len(right)]


def test_running_again_gives_the_same_bytes(made: Paths) -> None:
    before = made.table("accuracy").read_bytes()
    accuracy.run(made, one_seed(made), device="cpu")
    assert made.table("accuracy").read_bytes() == before


def test_a_truncated_checkpoint_leaves_the_earlier_table(made: Paths) -> None:
    before = made.table("accuracy").read_bytes()
    path = made.checkpoint("finetune", "joint", 5)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(
            StudyError,
            match=r"joint-5.safetensors: not a file of arrays .* may be cut or damaged\. Train it again\.",
        ):
            accuracy.run(made, one_seed(made), device="cpu")
    finally:
        path.write_bytes(whole)
    assert made.table("accuracy").read_bytes() == before
