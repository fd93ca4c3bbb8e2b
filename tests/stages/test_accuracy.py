from __future__ import annotations

import pytest
import torch

from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.stages import accuracy
from facespec.study.errors import StudyError
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.tables import ACCURACY


def test_every_cell_and_resample_has_its_row(analysed: Paths) -> None:
    table = ACCURACY.read(analysed.table("accuracy"))
    assert len(table) == 8 * 2 * 101  # cells, seeds, all images and the resamples
    whole = table[table["resample"] == -1].set_index(["figure", "trained_on", "tested_on"])
    cells = [("expression", "expression"), ("identity", "identity"), ("joint", "expression"), ("joint", "identity")]
    assert sorted(whole.index) == sorted([(figure, *cell) for figure in ("1C", "S1B") for cell in cells] * 2)
    # by hand: 3 people x 7 expressions; 42; 4 people x 5
    assert set(whole["n"].loc["1C"]) == {21} and set(whole["role"].loc["1C"]) == {"probe"}
    for task, n, classes in (("expression", 42, 7), ("identity", 20, 4)):
        rows = whole.loc[("S1B", "joint", task)]
        assert set(rows["n"]) == {n} and set(rows["chance"]) == {1 / classes} and set(rows["role"]) == {task}


def test_accuracy_is_that_of_the_head_after_training_on_the_test_images(analysed: Paths) -> None:
    """By another road: one image at a time, straight through the network."""
    checkpoint = checkpoints.load_checkpoint(analysed.checkpoint("train", "joint", 5))
    faces = FaceSet.open(analysed.faces("identity"))
    correct = []
    for row, label in faces.labels[faces.labels["split"] == "test"].iterrows():
        image = apply_preset(faces.images([row]), checkpoint.preset, None)
        with torch.inference_mode():
            predicted = int(checkpoint.network(image)["identity"].argmax())
        correct.append(checkpoint.classes["identity"][predicted] == label["identity"])
    cell = "figure == 'S1B' and trained_on == 'joint' and tested_on == 'identity' and resample == -1 and seed == 5"
    accuracies = ACCURACY.read(analysed.table("accuracy")).query(cell)["accuracy"]
    assert accuracies.tolist() == [sum(correct) / len(correct)]


def test_a_truncated_checkpoint_is_refused_and_the_table_stays(analysed_copy: Paths, params: Params) -> None:
    before = analysed_copy.table("accuracy").read_bytes()
    path = analysed_copy.checkpoint("finetune", "joint", 5)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StudyError, match=r"joint-5.safetensors: not a file of arrays .* Train it again\."):
        accuracy.run(analysed_copy, params, device="cpu")
    assert analysed_copy.table("accuracy").read_bytes() == before
