from __future__ import annotations

import numpy as np
import pytest
import torch

from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
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

    monkeypatch.setattr(finetune, "complete", remembering)
    for network in Network:
        finetune.run(trained, read_params(trained.params), network=network, seed=5, device="cpu")
    faces = FaceSet.open(trained.faces("probe"))
    for network, (model, data, classes) in begun.items():
        before = checkpoints.load(trained.checkpoint("train", network, 5)).network
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
    checkpoint = checkpoints.load(trained.checkpoint("finetune", "joint", 5), expect=Network.JOINT)
    assert len(checkpoint.history) == 2 * 2 and set(checkpoint.params) == {"split", "finetune"}
    assert trained.checkpoint("train", "joint", 5).read_bytes() == before


def test_a_checkpoint_of_another_network_is_refused(trained: Paths) -> None:
    path = trained.checkpoint("train", "joint", 5)
    path.write_bytes(trained.checkpoint("train", "identity", 5).read_bytes())
    with pytest.raises(StudyError) as caught:
        finetune.run(trained, read_params(trained.params), network=Network.JOINT, seed=5, device="cpu")
    assert str(caught.value) == f"{path}: holds the identity network, expected the joint network."
