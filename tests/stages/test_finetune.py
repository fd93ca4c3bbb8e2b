from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.checkpoints import Origin
from facespec.stages import finetune, train
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.vocabulary import Network


@pytest.fixture
def trained(study_copy: Paths) -> Paths:
    for network in Network:
        train.run(study_copy, read_params(study_copy.params), network=network, seed=5, device="cpu")
    return study_copy


def test_it_starts_from_the_trained_weights_with_new_heads_and_sees_no_held_out_image(
    trained: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {}

    def remembering(paths: Paths, job: object, model: object, data: dict, *, classes: dict, device: str) -> None:
        begun[job.network] = model, data, classes  # type: ignore[attr-defined]

    monkeypatch.setattr(finetune, "run_fit", remembering)
    for network in Network:
        finetune.run(trained, read_params(trained.params), network=network, seed=5, device="cpu")
    faces = FaceSet.open(trained.faces("probe"))
    for network, (model, data, classes) in begun.items():
        before = checkpoints.load_checkpoint(trained.checkpoint("train", network, 5)).network
        assert torch.equal(model.trunk.conv2.weight, before.trunk.conv2.weight)
        assert tuple(data) == tuple(task.value for task in network.tasks)
        assert {task: len(names) for task, names in classes.items()} == {
            task: {"expression": 7, "identity": 3}[task] for task in data
        }
        for task, own in data.items():
            assert [classes[task][code] for code in own.codes] == list(faces.labels[task].iloc[own.rows])
            held_out = faces.labels.drop(index=own.rows)
            # one of every cell, by another road than the split's own code
            assert held_out.groupby(["identity", "expression"]).size().tolist() == [1] * 21
    rows = [own.rows for _, data, _ in begun.values() for own in data.values()]
    assert all(np.array_equal(rows[0], other) for other in rows)


def test_it_writes_a_checkpoint_of_its_own(trained: Paths) -> None:
    before = trained.checkpoint("train", "joint", 5).read_bytes()
    finetune.run(trained, read_params(trained.params), network=Network.JOINT, seed=5, device="cpu")
    origin = Origin("finetune", Network.JOINT, 5)
    checkpoint = checkpoints.load_checkpoint(trained.checkpoint(*origin), expect=origin)
    assert len(checkpoint.history) == 2 * 2 and set(checkpoint.params) == {"split", "finetune"}
    assert trained.checkpoint("train", "joint", 5).read_bytes() == before


@pytest.mark.parametrize("other", [("train", "identity", 5), ("train", "joint", 6), ("finetune", "joint", 5)])
def test_the_checkpoint_of_another_fit_is_refused(explained: Paths, other: tuple[str, str, int]) -> None:
    path = explained.checkpoint("train", "joint", 5)
    path.write_bytes(explained.checkpoint(*other).read_bytes())
    stage, network, seed = other
    with pytest.raises(StudyError) as caught:
        finetune.run(explained, read_params(explained.params), network=Network.JOINT, seed=5, device="cpu")
    assert str(caught.value) == (
        f"{path}: holds the {network} network of seed {seed} after {stage}, expected the joint network of seed 5 after "
        "train. Put the right file there, or remove it: `facespec repro` makes what is missing."
    )


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
def test_a_checkpoint_that_says_nothing_usable_about_its_images_is_refused(
    explained: Paths, changes: dict[str, object], problem: str
) -> None:
    path = explained.checkpoint("train", "joint", 5)
    own = checkpoints.load_checkpoint(path)
    preset = {key: value for key, value in (own.preset | changes).items() if value is not ...}
    checkpoints.save_checkpoint(path, replace(own, preset=preset))
    with pytest.raises(StudyError) as caught:
        finetune.run(explained, read_params(explained.params), network=Network.JOINT, seed=5, device="cpu")
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(f"{problem} Train it again.")


def test_exchanged_faces_of_two_roles_are_refused(explained: Paths) -> None:
    """Also where training and fine-tuning could use both."""
    places = explained.faces("probe"), explained.faces("identity")
    for one, other in zip((*places, explained.data / "aside"), (explained.data / "aside", *places), strict=True):
        one.rename(other)
    for stage, role, other in ((finetune, "probe", "identity"), (train, "identity", "probe")):
        with pytest.raises(StudyError) as caught:
            stage.run(explained, read_params(explained.params), network=Network.JOINT, seed=5, device="cpu")
        assert str(caught.value) == (
            f"{explained.faces(role)}: faces of the {other} role, expected those of the {role} role. "
            "Make the faces again."
        )
