from __future__ import annotations

import pandas as pd
import pytest
import torch

from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import hold_out
from facespec.models import checkpoints
from facespec.stages import accuracy
from facespec.study.errors import StudyError
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables import ACCURACY, RECALL


def test_every_cell_and_resample_has_its_row(analysed: Paths) -> None:
    table = ACCURACY.read(analysed.table("accuracy"))
    assert len(table) == 10 * 2 * 101  # cells, seeds, all images and the resamples
    whole = table[table["resample"] == -1].set_index(["figure", "trained_on", "tested_on"])
    cells = [("expression", "expression"), ("identity", "identity"), ("joint", "expression"), ("joint", "identity")]
    expected = [(figure, *cell) for figure in ("1C", "S1B") for cell in cells]
    expected += [("1C zero-shot", network, "expression") for network in ("expression", "joint")]
    assert sorted(whole.index) == sorted(expected * 2)
    # by hand: 3 people x 7 expressions; 42; 4 people x 5
    assert set(whole["n"].loc["1C"]) == {21} and set(whole["role"].loc["1C"]) == {"probe"}
    assert set(whole["chance"].loc["1C zero-shot"]) == {3 / 21} and set(whole["role"].loc["1C zero-shot"]) == {"probe"}
    labels = FaceSet.open(analysed.faces("expression")).labels
    most_frequent = labels["expression"][labels["split"] == "test"].value_counts().max()
    assert most_frequent > 42 / 7  # skewed, as in FER2013: the best constant answer is better than one of seven
    for task, n, constant in (("expression", 42, most_frequent), ("identity", 20, 5)):
        rows = whole.loc[("S1B", "joint", task)]
        assert set(rows["n"]) == {n} and set(rows["chance"]) == {constant / n} and set(rows["role"]) == {task}


def test_recalls_add_up_to_the_accuracy(analysed: Paths) -> None:
    """Every class weighted by its images. The untrained network has Figure 1B's decoders as heads."""
    table = RECALL.read(analysed.table("recall"))
    whole = ACCURACY.read(analysed.table("accuracy")).query("resample == -1")
    decoded = ACCURACY.read(analysed.table("decoding")).query("resample == -1 and trained_on == 'untrained'")
    whole = pd.concat([whole, decoded[decoded["figure"] == "1B"].assign(figure="1C")])
    cell = ["figure", "trained_on", "tested_on", "seed"]
    accuracies = whole.set_index(cell)["accuracy"]
    groups = table[table["class"] != ""].groupby(cell)
    assert set(groups.groups) == set(accuracies.index)
    for key, rows in groups:
        assert len(rows) == {"expression": 7, "identity": 4 if key[0] == "S1B" else 3}[key[2]]
        assert (rows["recall"] * rows["n"]).sum() / rows["n"].sum() == pytest.approx(accuracies[key])


def test_zero_shot_transfer_is_the_head_of_training_on_the_held_out_probe_images(
    analysed: Paths, params: Params
) -> None:
    """By another road: one image at a time, and names instead of codes."""
    checkpoint = checkpoints.load_checkpoint(analysed.checkpoint("train", "joint", 6))
    faces = FaceSet.open(analysed.faces("probe"))
    _, held_out = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    correct = []
    for row in held_out:
        with torch.inference_mode():
            logits = checkpoint.network(apply_preset(faces.images([row]), checkpoint.preset, None))["expression"]
        name = checkpoint.classes["expression"][int(logits.argmax())]
        correct.append(name == faces.labels["expression"].iloc[row])
    cell = "figure == '1C zero-shot' and trained_on == 'joint' and resample == -1 and seed == 6"
    assert ACCURACY.read(analysed.table("accuracy")).query(cell)["accuracy"].tolist() == [sum(correct) / 21]


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
