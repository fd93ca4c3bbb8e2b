"""The directory for the laboratory holds the faces that drive the unit most, and its receptive field in each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.layers import find_rectifier
from facespec.models.receptive import compute_receptive_field
from facespec.responses.recording import record_responses
from facespec.stages import stimuli as stage
from facespec.stages.stimuli import STIMULI, Choice
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths
from toys import read_files


def record_maps(paths: Paths, choice: Choice, faces: FaceSet) -> np.ndarray:
    """The maps of all units of the layer of all faces, (n, units, h, w)."""
    checkpoint = checkpoints.load_checkpoint(paths.checkpoint("finetune", choice.network, choice.seed))
    name = find_rectifier(checkpoint.network, choice.layer)
    with record_responses(checkpoint.network, [name]) as responses, torch.inference_mode():
        checkpoint.network(apply_preset(faces.images(np.arange(len(faces))), checkpoint.preset, None))
    return responses[name].numpy()


def choose_driven_unit(paths: Paths, **options: object) -> Choice:
    """The choice of the unit that has the largest response."""
    defaults = {"network": "joint", "seed": 6, "layer": "trunk.conv2", "unit": 0, "n": 11, "role": "probe"}
    choice = Choice(**(defaults | options))
    maps = record_maps(paths, choice, FaceSet.open(paths.faces(choice.role)))
    return replace(choice, unit=int(maps.max(axis=(0, 2, 3)).argmax()))


def run(paths: Paths, choice: Choice, to: Path) -> pd.DataFrame:
    stage.run(paths, read_params(paths.params), choice, to=to, device="cpu")
    return STIMULI.read(to / "stimuli.csv")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer": "trunk.conv1", "network": "identity", "seed": 5, "n": 1},
        {"role": "expression", "network": "expression", "n": 100},
    ],
)
def test_faces_crops_and_table_agree(fitted: Paths, tmp_path: Path, options: dict[str, object]) -> None:
    """Responses by recording all faces at once; close, as float32 sums may run in another order."""
    choice = choose_driven_unit(fitted, **options)
    faces, to = FaceSet.open(fitted.faces(choice.role)), tmp_path / "deep" / "lab"
    table = run(fitted, choice, to)
    maps = record_maps(fitted, choice, faces)[:, choice.unit]
    peaks = maps.max(axis=(1, 2))
    assert table["rank"].tolist() == list(range(1, choice.n + 1)) and table["stimulus"].is_unique
    np.testing.assert_allclose(table["response"], np.sort(peaks)[::-1][: choice.n], rtol=1e-5)
    path = fitted.checkpoint("finetune", choice.network, choice.seed)
    field = compute_receptive_field(checkpoints.load_checkpoint(path).network, choice.layer)
    labels = ["identity", "expression", "view", "session"]
    for row in table.itertuples():
        (index,) = np.flatnonzero(faces.labels["stimulus"] == row.stimulus)
        np.testing.assert_allclose([peaks[index], maps[index, row.row, row.column]], row.response, rtol=1e-5)
        assert faces.labels.loc[index, labels].tolist() == table.loc[row.Index, labels].tolist()
        (image,) = faces.images(np.array([index]))
        np.testing.assert_array_equal(np.asarray(Image.open(to / row.file)), image)
        window = field.window(row.row, row.column, (32, 32))
        assert window == (row.top, row.bottom, row.left, row.right)
        np.testing.assert_array_equal(np.asarray(Image.open(to / row.crop)), image[window.slices])
    assert set(table["source"]) == {"embedded faces"}
    columns = ["trained_on", "seed", "layer", "unit", "role"]
    assert (table[columns] == [choice.network, choice.seed, choice.layer, choice.unit, choice.role]).all(axis=None)
    names = {"stimuli.csv", "stimuli.csv.sha256", "facespec-stimuli.json", *table["file"], *table["crop"]}
    assert {path.name for path in to.iterdir()} == names and len(names) == 3 + 2 * choice.n


def test_file_names_sort_by_rank_and_suit_every_file_system(
    explained: Paths, tmp_path: Path, relabel: Callable[..., None]
) -> None:
    long = "id1/1.6: Ünsal?" + "x" * 90
    names = [f"{long} {i}" for i in range(len(FaceSet.open(explained.faces("probe"))))]
    relabel(explained.faces("probe"), lambda table: table.assign(stimulus=names))
    choice = choose_driven_unit(explained, n=101)
    table = run(explained, choice, tmp_path / "lab")
    safe = "id1_1_6_nsal_" + "x" * 67
    assert table["file"].tolist() == [f"{rank:03d}-{safe}.png" for rank in range(1, 102)]
    assert table["crop"].tolist() == [f"{rank:03d}-{safe}-crop.png" for rank in range(1, 102)]
    assert set(table["stimulus"]) <= set(names)
    assert run(explained, replace(choice, n=1), tmp_path / "lab")["file"].tolist() == [f"01-{safe}.png"]


def test_the_choice_is_recorded_and_a_set_replaced_by_the_same_bytes(fitted: Paths, tmp_path: Path) -> None:
    to, choice = tmp_path / "lab", choose_driven_unit(fitted)
    run(fitted, choice, to)
    files = read_files(to)
    weights = checkpoints.load_checkpoint(fitted.checkpoint("finetune", "joint", 6)).network.state_dict()
    assert json.loads(files["facespec-stimuli.json"]) == {
        **asdict(choice),
        "source": "embedded faces",
        "content": FaceSet.open(fitted.faces("probe")).provenance["content"],
        "weights": checkpoints.digest_tensors(weights),
    }
    (to / ".DS_Store").write_bytes(b"")
    assert len(run(fitted, replace(choice, n=2), to)) == 2 and len(read_files(to)) == 3 + 2 * 2
    run(fitted, choice, to)
    assert read_files(to) == files


def test_nothing_else_is_deleted(fitted: Paths, tmp_path: Path) -> None:
    to, choice = tmp_path / "lab", choose_driven_unit(fitted, n=2)
    run(fitted, choice, to)
    for name in ("cropped.png", "notes.txt"):
        (to / name).write_bytes(b"mine")
        before = read_files(to)
        with pytest.raises(StudyError, match=rf"{name}: not part of a set of stimuli, and it is not deleted\. Move it"):
            run(fitted, choice, to)
        assert read_files(to) == before
        (to / name).unlink()
    with pytest.raises(StudyError, match=r"something else is already here \(no facespec-stimuli\.json in it\)"):
        run(fitted, choice, fitted.faces("probe"))
    for damage in ((to / "stimuli.csv.sha256").unlink, lambda: (to / "stimuli.csv").write_text("my own")):
        damage()
        with pytest.raises(StudyError, match=r"not known, and nothing is deleted\. Move it away, .*stimuli\.csv"):
            run(fitted, choice, to)
    assert (to / "stimuli.csv").read_text() == "my own"
    assert [path.name for path in tmp_path.iterdir()] == ["lab"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "SPLIT"}, "unknown network 'SPLIT': Allowed: 'expression', 'identity', 'joint'."),
        ({"role": "prob"}, "unknown role 'prob': did you mean 'probe'?"),
        ({"seed": 1}, "no networks of seed 1; its seeds are [5, 6]."),
        ({"layer": "conv2"}, "no convolution 'conv2': did you mean 'trunk.conv2'?"),
        ({"unit": 5}, "trunk.conv2 has no unit 5; its 5 units are 0 to 4."),
        ({"unit": -1}, "trunk.conv2 has no unit -1; its 5 units are 0 to 4."),
        ({"n": 0}, "n is 0; the probe role has 210 faces, so take 1 to 210."),
        ({"n": 211}, "n is 211; the probe role has 210 faces, so take 1 to 210."),
    ],
)
def test_choices_of_what_does_not_exist_are_refused(
    fitted: Paths, tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    choice = replace(Choice("joint", 6, "trunk.conv2", 0, 3, "probe"), **wrong)
    with pytest.raises(StudyError, match=re.escape(message)):
        run(fitted, choice, tmp_path / "lab")
    assert not list(tmp_path.iterdir())


def test_faces_that_do_not_drive_the_unit_are_not_among_its_stimuli(explained: Paths, tmp_path: Path) -> None:
    """A bias that a tenth of the faces, and then none, overcome."""
    path = explained.checkpoint("finetune", "joint", 6)
    checkpoint, faces = checkpoints.load_checkpoint(path), FaceSet.open(explained.faces("probe"))
    trunk = checkpoint.network.trunk
    choice = Choice("joint", 6, "trunk.conv1", 1, 60, "probe")
    with torch.no_grad():
        images = apply_preset(faces.images(np.arange(len(faces))), checkpoint.preset, None)
        peaks = trunk.norm1(trunk.conv1(images))[:, 1].amax(dim=(1, 2))
        trunk.norm1.bias[1] -= peaks.quantile(0.9)
        checkpoints.save_checkpoint(path, checkpoint)
        message = r"only 21 of 210 faces of the probe role drive unit 1 of trunk\.conv1; n is 60\. Take 1 to 21\."
        with pytest.raises(StudyError, match=message):
            run(explained, choice, tmp_path / "lab")
        assert (run(explained, replace(choice, n=21), tmp_path / "lab")["response"] > 0).all()
        trunk.norm1.bias[1] = -1e3
        checkpoints.save_checkpoint(path, checkpoint)
    with pytest.raises(StudyError, match=r"unit 1 of trunk\.conv1 responds 0 to all 210 faces.* Choose another unit\."):
        run(explained, choice, tmp_path / "other")
    assert not (tmp_path / "other").exists()
