"""Pooled responses are means over the map, image by image, of all layers in one pass."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.data.batches import Preset, apply_preset
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.models.networks import FaceNetwork, build_network
from facespec.responses.pooling import pool_responses
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

PRESET = Preset("toy", 17, 1, resize=None, shift=3, flip=True, grey_probability=0.0)
CPU = torch.device("cpu")
ORDER = np.array([12, 3, 3, 0, 7, 1, 11])
LAYERS = ["trunk.relu1", "branches.identity.relu2", "branches.expression.relu2", "trunk.relu1"]


def made() -> FaceNetwork:
    """A branched network in training mode whose batch norm has seen images: modes differ."""
    block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after="conv1")
    seeded = torch.Generator().manual_seed(1)
    network = build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded).train()
    network(torch.rand((9, 1, 17, 17), generator=seeded) * 2 - 1)
    network.trunk.norm1.eval()
    return network


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Thirteen noisy faces of 17x17 px in shards of five."""
    images = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (13, 17, 17), dtype=np.uint8)
    labels = pd.DataFrame({"stimulus": [f"{i:02d}" for i in range(13)]})
    labels = labels.assign(split="test", identity="", expression="", view="", session="")
    chunk, description = FaceChunk(images, labels), FaceSetDescription("probe", 5, None, {"source": "toy"})
    return write_faceset(tmp_path_factory.mktemp("pooling") / "faces", [chunk], description)


def pooled(network: FaceNetwork, faces: FaceSet, layers: list[str], batch_size: int = 3) -> dict[str, np.ndarray]:
    return pool_responses(network, faces, ORDER, layers, preset=PRESET, batch_size=batch_size, device=CPU)


def test_means_over_the_map_whatever_the_batch(faces: FaceSet) -> None:
    network = made()
    images = apply_preset(faces.images(ORDER), PRESET, None)
    network.eval()
    with torch.no_grad():
        first = network.trunk.relu1(network.trunk.norm1(network.trunk.conv1(images)))
        wanted = {"trunk.relu1": first.numpy().reshape(7, 4, -1).mean(axis=2)}
        for task in ("expression", "identity"):
            # the branch ends in the global average of its last ReLU
            wanted[f"branches.{task}.relu2"] = network.penultimate(images, task).numpy()
    network.train()
    for batch_size in (1, 2, 7, 100):
        got = pooled(network, faces, LAYERS, batch_size)
        assert list(got) == list(dict.fromkeys(LAYERS))
        for layer, values in wanted.items():
            assert got[layer].dtype == np.float32
            np.testing.assert_allclose(got[layer], values, rtol=1e-5, atol=1e-6)


def test_a_layer_without_a_map_stays_as_it_is(faces: FaceSet) -> None:
    network = made()
    got = pooled(network, faces, ["heads.identity"])["heads.identity"]
    with torch.no_grad():
        wanted = network.eval()(apply_preset(faces.images(ORDER), PRESET, None))["identity"].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_every_image_passes_once(faces: FaceSet) -> None:
    network, sizes = made(), []
    network.trunk.conv1.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    pooled(network, faces, LAYERS)
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("broken", [False, True])
def test_the_network_comes_back_as_it_was(faces: FaceSet, broken: bool) -> None:
    network = made()
    modes = {name: module.training for name, module in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        preset = Preset("toy", 16, 1, None, 0, False, 0.0) if broken else PRESET
        pool_responses(network, faces, ORDER, LAYERS, preset=preset, batch_size=3, device=CPU)
    except StudyError:
        assert broken
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules() if isinstance(module, nn.Module))


def test_no_image_and_no_layer_are_refused(faces: FaceSet) -> None:
    with pytest.raises(StudyError) as caught:
        pool_responses(made(), faces, ORDER[:0], LAYERS, preset=PRESET, batch_size=3, device=CPU)
    assert str(caught.value) == "no responses without images: got 0 images, at least 1 is needed."
    with pytest.raises(StudyError, match=r"^this network has no layer 'trunk\.relu9': did you mean 'trunk\.relu1'\? "):
        pooled(made(), faces, ["trunk.relu9"])
