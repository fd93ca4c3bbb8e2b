"""The folder for the laboratory holds the faces that drive the unit most, and what it sees of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from facespec.data.batches import Preset, apply_preset
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


def maps_of(paths: Paths, choice: Choice, faces: FaceSet) -> np.ndarray:
    """The unit's maps of all faces, (n, h, w)."""
    checkpoint = checkpoints.load_checkpoint(paths.checkpoint("finetune", choice.network, choice.seed))
    name = find_rectifier(checkpoint.network, choice.layer)
    with record_responses(checkpoint.network, [name]) as responses, torch.inference_mode():
        checkpoint.network(apply_preset(faces.images(np.arange(len(faces))), Preset(**checkpoint.preset), None))
    return responses[name][:, choice.unit].numpy()


def driven(paths: Paths, **wanted: object) -> Choice:
    """The choice of the unit that answers most to anything."""
    choice = Choice(
        **({"network": "joint", "seed": 6, "layer": "trunk.conv2", "unit": 0, "n": 11, "role": "probe"} | wanted)
    )
    faces = FaceSet.open(paths.faces(choice.role))
    units = {"trunk.conv1": 3, "trunk.conv2": 5}[choice.layer]
    peaks = [maps_of(paths, replace(choice, unit=unit), faces).max() for unit in range(units)]
    return replace(choice, unit=int(np.argmax(peaks)))


def made(paths: Paths, choice: Choice, to: Path) -> pd.DataFrame:
    stage.run(paths, read_params(paths.params), choice, to=to, device="cpu")
    return STIMULI.read(to / "stimuli.csv")


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"layer": "trunk.conv1", "network": "identity", "seed": 5, "n": 1},
        {"role": "expression", "network": "expression", "n": 100},
    ],
)
def test_faces_crops_and_table_agree(explained_study: Path, tmp_path: Path, wanted: dict[str, object]) -> None:
    """Responses by recording all faces at once; close, as float32 sums may run in another order."""
    paths = Paths(explained_study)
    choice = driven(paths, **wanted)
    faces, to = FaceSet.open(paths.faces(choice.role)), tmp_path / "deep" / "lab"
    table = made(paths, choice, to)
    maps = maps_of(paths, choice, faces)
    peaks = maps.max(axis=(1, 2))
    assert table["rank"].tolist() == list(range(1, choice.n + 1))
    np.testing.assert_allclose(table["response"], np.sort(peaks)[::-1][: choice.n], rtol=1e-5)
    assert table["stimulus"].is_unique
    field = compute_receptive_field(
        checkpoints.load_checkpoint(paths.checkpoint("finetune", choice.network, choice.seed)).network, choice.layer
    )
    for row in table.itertuples():
        (index,) = np.flatnonzero(faces.labels["stimulus"] == row.stimulus)
        np.testing.assert_allclose([peaks[index], maps[index, row.row, row.column]], row.response, rtol=1e-5)
        assert faces.labels.loc[index, ["identity", "expression", "view", "session"]].tolist() == [
            row.identity,
            row.expression,
            row.view,
            row.session,
        ]
        (image,) = faces.images(np.array([index]))
        np.testing.assert_array_equal(np.asarray(Image.open(to / row.file)), image)
        window = field.window(row.row, row.column, (32, 32))
        assert window == (row.top, row.bottom, row.left, row.right)
        np.testing.assert_array_equal(np.asarray(Image.open(to / row.crop)), image[window.slices])
    assert set(table["source"]) == {"embedded faces"}
    about = table[["trained_on", "seed", "layer", "unit", "role"]].drop_duplicates().to_numpy().tolist()
    assert about == [[choice.network, choice.seed, choice.layer, choice.unit, choice.role]]
    names = {"stimuli.csv", "stimuli.csv.sha256", "facespec-stimuli.json", *table["file"], *table["crop"]}
    assert {path.name for path in to.iterdir()} == names and len(names) == 3 + 2 * choice.n


def test_names_sort_by_rank_and_offend_no_file_system(
    explained: Paths, tmp_path: Path, relabel: Callable[..., None]
) -> None:
    long = "id1/1.6: Ünsal?" + "x" * 90
    names = [f"{long} {i}" for i in range(len(FaceSet.open(explained.faces("probe"))))]
    relabel(explained.faces("probe"), lambda table: table.assign(stimulus=names))
    found = made(explained, driven(explained, n=101), tmp_path / "lab")
    safe = "id1_1_6_nsal_" + "x" * 67
    assert found["file"].tolist() == [f"{rank:03d}-{safe}.png" for rank in range(1, 102)]
    assert found["crop"].tolist() == [f"{rank:03d}-{safe}-crop.png" for rank in range(1, 102)]
    assert set(found["stimulus"]) <= set(names)
    assert made(explained, driven(explained, n=1), tmp_path / "lab")["file"].tolist() == [f"01-{safe}.png"]


def test_what_was_asked_is_kept_and_the_same_bytes_come_twice(explained_study: Path, tmp_path: Path) -> None:
    paths = Paths(explained_study)
    choice = driven(paths)
    for name in ("one", "two"):
        made(paths, choice, tmp_path / name)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert first == second
    network = checkpoints.load_checkpoint(paths.checkpoint("finetune", "joint", 6)).network
    assert json.loads(first["facespec-stimuli.json"]) == {
        "network": "joint",
        "seed": 6,
        "layer": "trunk.conv2",
        "unit": choice.unit,
        "n": 11,
        "role": "probe",
        "source": "embedded faces",
        "content": FaceSet.open(paths.faces("probe")).provenance["content"],
        "weights": checkpoints.digest_tensors(network.state_dict()),
    }


def test_an_earlier_set_is_replaced_and_nothing_else(explained_study: Path, tmp_path: Path) -> None:
    paths, to = Paths(explained_study), tmp_path / "lab"
    choice = driven(paths)
    made(paths, choice, to)
    (to / ".DS_Store").write_bytes(b"")
    assert len(made(paths, replace(choice, n=2), to)) == 2
    assert len(list(to.iterdir())) == 3 + 2 * 2
    (to / "cropped.png").write_bytes(b"mine")
    with pytest.raises(StudyError, match=r"cropped\.png: not part of a set of stimuli, and it is not deleted"):
        made(paths, choice, to)
    (to / "cropped.png").unlink()
    (to / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in to.iterdir()}
    with pytest.raises(StudyError) as caught:
        made(paths, choice, to)
    assert str(caught.value) == (
        f"{to / 'notes.txt'}: not part of a set of stimuli, and it is not deleted. Move it away, or choose another "
        "directory."
    )
    assert {path.name: path.read_bytes() for path in to.iterdir()} == before
    with pytest.raises(StudyError, match=r"something else is already here \(no facespec-stimuli\.json in it\)"):
        made(paths, choice, paths.faces("probe"))
    (to / "notes.txt").unlink()
    for damage in ((to / "stimuli.csv.sha256").unlink, lambda: (to / "stimuli.csv").write_text("my own")):
        damage()
        with pytest.raises(StudyError, match=r"not known, and nothing is deleted\. Move it away, .*stimuli\.csv"):
            made(paths, choice, to)
    assert (to / "stimuli.csv").read_text() == "my own"
    assert [path.name for path in tmp_path.iterdir()] == ["lab"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "SPLIT"}, "unknown network 'SPLIT': Allowed: 'expression', 'identity', 'joint'."),
        ({"role": "prob"}, "unknown role 'prob': did you mean 'probe'? Allowed: 'expression', 'identity', 'probe'."),
        ({"seed": 1}, "this study has no networks of seed 1; its seeds are [5, 6]."),
        (
            {"layer": "conv2"},
            "this network has no convolution 'conv2': did you mean 'trunk.conv2'? "
            "Allowed: 'trunk.conv1', 'trunk.conv2'.",
        ),
        ({"unit": 5}, "trunk.conv2 has no unit 5; its 5 units are 0 to 4."),
        ({"unit": -1}, "trunk.conv2 has no unit -1; its 5 units are 0 to 4."),
        ({"n": 0}, "n is 0; the probe role has 210 faces, so take 1 to 210."),
        ({"n": 211}, "n is 211; the probe role has 210 faces, so take 1 to 210."),
    ],
)
def test_refusals_at_the_door(explained_study: Path, tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    choice = replace(Choice("joint", 6, "trunk.conv2", 0, 3, "probe"), **wrong)
    with pytest.raises(StudyError) as caught:
        made(Paths(explained_study), choice, tmp_path / "lab")
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_a_unit_that_nothing_drives_is_named(explained: Paths, tmp_path: Path) -> None:
    path = explained.checkpoint("finetune", "joint", 6)
    checkpoint = checkpoints.load_checkpoint(path)
    with torch.no_grad():
        checkpoint.network.trunk.norm2.weight[3] = 0.0
        checkpoint.network.trunk.norm2.bias[3] = -1.0
    checkpoints.save_checkpoint(path, checkpoint)
    with pytest.raises(StudyError) as caught:
        made(explained, Choice("joint", 6, "trunk.conv2", 3, 4, "probe"), tmp_path / "lab")
    assert str(caught.value) == (
        "unit 3 of trunk.conv2 answers 0 to all 210 faces of the probe role: none drives it. Choose another unit."
    )
    assert not (tmp_path / "lab").exists()


def test_faces_that_do_not_drive_the_unit_are_not_among_its_stimuli(explained: Paths, tmp_path: Path) -> None:
    """A bias that some of the faces do not overcome."""
    path = explained.checkpoint("finetune", "joint", 6)
    checkpoint, faces = checkpoints.load_checkpoint(path), FaceSet.open(explained.faces("probe"))
    network = checkpoint.network
    with torch.no_grad():
        images = apply_preset(faces.images(np.arange(len(faces))), Preset(**checkpoint.preset), None)
        largest = network.trunk.norm1(network.trunk.conv1(images))[:, 1].amax(dim=(1, 2))
        network.trunk.norm1.bias[1] -= largest.quantile(0.9)
    checkpoints.save_checkpoint(path, checkpoint)
    choice = Choice("joint", 6, "trunk.conv1", 1, 60, "probe")
    with pytest.raises(StudyError) as caught:
        made(explained, choice, tmp_path / "lab")
    assert str(caught.value) == (
        "only 21 of 210 faces of the probe role drive unit 1 of trunk.conv1; n is 60. Take 1 to 21."
    )
    assert (made(explained, replace(choice, n=21), tmp_path / "lab")["response"] > 0).all()
