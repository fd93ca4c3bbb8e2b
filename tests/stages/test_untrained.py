"""The untrained network: the trunk of all networks of a seed before training, with decoders as heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facespec.analyses.decoding import decode_classes
from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import hold_out
from facespec.models import checkpoints
from facespec.models.checkpoints import Checkpoint, Origin
from facespec.models.networks import build_network
from facespec.stages import untrained
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator, integer_seed
from facespec.study.vocabulary import Network
from toys import change_params, seeded

ORIGIN = Origin("untrained", Network.UNTRAINED, 6)


@pytest.fixture(scope="module")
def checkpoint(fitted: Paths) -> Checkpoint:
    return checkpoints.load_checkpoint(fitted.checkpoint(*ORIGIN), expect=ORIGIN)


def test_its_trunk_is_the_one_that_training_begins_with(checkpoint: Checkpoint, params: Params) -> None:
    """With other heads, and batch norms that pass their input on."""
    weights = seeded(integer_seed(6, "train", "weights"))
    fresh = build_network(params.network, {"identity": 4}, channels=1, generator=weights).trunk.state_dict()
    trunk = checkpoint.network.trunk.state_dict()
    assert fresh.keys() == trunk.keys() and all(torch.equal(fresh[name], trunk[name]) for name in fresh)
    assert set(fresh["norm1.running_mean"].tolist()) == {0} and set(fresh["norm1.running_var"].tolist()) == {1}
    assert not checkpoint.network.training and checkpoint.history == []
    assert set(checkpoint.params) == {"network", "split", "decoding"}


def test_its_heads_answer_as_the_decoders_of_the_images_that_are_not_held_out(
    fitted: Paths, checkpoint: Checkpoint, params: Params
) -> None:
    faces = FaceSet.open(fitted.faces("probe"))
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    network = checkpoint.network
    with torch.no_grad():
        images = apply_preset(faces.images(np.arange(len(faces))), checkpoint.preset, None)
        responses = network.trunk(images).numpy()
        logits = network(images)
    assert list(checkpoint.classes) == ["expression", "identity"]
    for task, names in checkpoint.classes.items():
        codes = np.array([names.index(name) for name in faces.labels[task]])
        decoded = decode_classes(
            responses[fit],
            codes[fit],
            responses[test],
            penalty=params.decoding.penalty,
            iterations=params.decoding.iterations,
        )
        answers = logits[task].argmax(dim=1).numpy()[test]
        assert (answers == decoded).mean() > 0.99  # the head computes in float32


def test_seeds_and_parameters_reach_the_network(explained: Paths, params: Params) -> None:
    path = explained.checkpoint(*ORIGIN)
    before = path.read_bytes()
    path.unlink()
    untrained.run(explained, params, seed=6, device="cpu")
    assert path.read_bytes() == before
    for block, values in (
        ("decoding", {"penalty": 0.01}),
        ("decoding", {"iterations": 1999}),
        ("split", {"seed": 4}),
        ("network", {"channels": [3, 6]}),
    ):
        untrained.run(explained, change_params(params, block, **values), seed=6, device="cpu")
        assert path.read_bytes() != before, block
    other = checkpoints.load_checkpoint(explained.checkpoint("untrained", "untrained", 5)).network
    weights = checkpoints.load_checkpoint(path).network.trunk.conv1.weight
    assert not torch.equal(other.trunk.conv1.weight, weights)


def test_people_without_an_image_to_fit_are_never_named(explained: Paths, params: Params) -> None:
    """All images of held-out people are held out."""
    held_out = change_params(params, "split", hold_out="people", people=0.4)
    untrained.run(explained, held_out, seed=6, device="cpu")
    checkpoint = checkpoints.load_checkpoint(explained.checkpoint(*ORIGIN))
    faces = FaceSet.open(explained.faces("probe"))
    fit, _ = hold_out(faces.labels, held_out.split, generator(params.split.seed, "split"))
    with torch.no_grad():
        images = apply_preset(faces.images(np.arange(len(faces))), checkpoint.preset, None)
        answers = checkpoint.network(images)["identity"].argmax(dim=1).numpy()
    named = {checkpoint.classes["identity"][code] for code in answers}
    assert len(checkpoint.classes["identity"]) == 3 and named <= set(faces.labels["identity"].iloc[fit])
