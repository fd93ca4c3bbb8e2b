from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.checkpoints import Origin
from facespec.stages import finetune, train
from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.errors import StudyError
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.vocabulary import NETWORKS, Network


def run_joint(paths: Paths, params: Params) -> None:
    finetune.run(paths, params, network=Network.JOINT, seed=5, device="cpu")


def test_it_starts_from_the_trained_weights_with_new_heads_and_sees_no_held_out_image(
    fitted: Paths, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = {}

    def record(paths: Paths, job: object, model: object, data: dict, *, classes: dict, device: str) -> None:
        fits[job.network] = model, data, classes  # type: ignore[attr-defined]

    monkeypatch.setattr(finetune, "run_fit", record)
    for network in NETWORKS:
        finetune.run(fitted, params, network=network, seed=5, device="cpu")
    labels = FaceSet.open(fitted.faces("probe")).labels
    rows = []
    for network, (model, data, classes) in fits.items():
        trained = checkpoints.load_checkpoint(fitted.checkpoint("train", network, 5)).network
        assert torch.equal(model.trunk.conv2.weight, trained.trunk.conv2.weight)
        assert tuple(data) == tuple(classes) == tuple(task.value for task in network.tasks)
        for task, task_data in data.items():
            assert len(classes[task]) == {"expression": 7, "identity": 3}[task]
            assert [classes[task][code] for code in task_data.codes] == list(labels[task].iloc[task_data.rows])
            # one of every cell is held out, by another road than the split's own code
            held_out = labels.drop(index=task_data.rows)
            assert held_out.groupby(["identity", "expression"]).size().tolist() == [1] * 21
            rows.append(task_data.rows)
    assert all(np.array_equal(rows[0], other) for other in rows)


def test_it_writes_a_checkpoint_of_its_own(explained: Paths, params: Params) -> None:
    origin = Origin("finetune", Network.JOINT, 5)
    path, trained = explained.checkpoint(*origin), explained.checkpoint("train", "joint", 5)
    before = trained.read_bytes(), path.read_bytes()
    path.unlink()
    run_joint(explained, params)
    checkpoint = checkpoints.load_checkpoint(path, expect=origin)
    assert len(checkpoint.history) == 2 * 2 and set(checkpoint.params) == {"split", "finetune"}
    assert (trained.read_bytes(), path.read_bytes()) == before


@pytest.mark.parametrize("other", [("train", "identity", 5), ("train", "joint", 6), ("finetune", "joint", 5)])
def test_the_checkpoint_of_another_fit_is_refused(
    explained: Paths, params: Params, other: tuple[str, str, int]
) -> None:
    explained.checkpoint("train", "joint", 5).write_bytes(explained.checkpoint(*other).read_bytes())
    stage, network, seed = other
    message = f"joint-5.safetensors: holds the {network} network of seed {seed} after {stage}, expected the joint"
    with pytest.raises(StudyError, match=rf"{re.escape(message)}.*Put the right file there, or remove it"):
        run_joint(explained, params)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"std": 0.0}, "mean 0.5 and std 0.0; both finite, std above 0."),
        ({"std": -1.0}, "mean 0.5 and std -1.0; both finite, std above 0."),
        ({"std": "wide"}, "must be real number, not str."),
        ({"contrast": 2}, "unexpected keyword argument 'contrast'."),
        ({"shift": ...}, "missing 1 required positional argument: 'shift'."),
    ],
)
def test_a_checkpoint_without_a_usable_preset_is_refused(
    explained: Paths, params: Params, changes: dict[str, object], problem: str
) -> None:
    path = explained.checkpoint("train", "joint", 5)
    description, arrays = read_arrays(path, remedy="")
    preset = {key: value for key, value in (description["preset"] | changes).items() if value is not ...}
    write_arrays(path, description | {"preset": preset}, arrays)
    with pytest.raises(StudyError, match=rf"joint-5\.safetensors: .*{re.escape(problem)} Train it again\.$"):
        run_joint(explained, params)


def test_exchanged_faces_of_two_roles_are_refused(explained: Paths, params: Params) -> None:
    """Also if training and fine-tuning could use both."""
    probe, identity, aside = (explained.data / name for name in ("probe", "identity", "aside"))
    for source, target in ((probe, aside), (identity, probe), (aside, identity)):
        source.rename(target)
    for stage, role, other in ((finetune, "probe", "identity"), (train, "identity", "probe")):
        message = f"{role}: faces of the {other} role, expected those of the {role} role. Make the faces again."
        with pytest.raises(StudyError, match=re.escape(message)):
            stage.run(explained, params, network=Network.JOINT, seed=5, device="cpu")
