"""Recording leaves nothing behind; responses and answers depend on the image alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.data.batches import Preset, apply_preset
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.models.networks import FaceNetwork, build_network
from facespec.responses.recording import predict_classes, record_penultimate, record_responses
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

PRESET = Preset("toy", 17, 1, resize=None, shift=3, flip=True, grey_probability=0.0)
CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(branch_after: str | None = None) -> FaceNetwork:
    """A network whose batch norm has seen images, and whose first norm is frozen: modes differ."""
    block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after=branch_after)
    network = build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded()).train()
    network(faces_like(9))
    network.trunk.norm1.eval()
    return network


def faces_like(n: int) -> torch.Tensor:
    return torch.rand((n, 1, 17, 17), generator=seeded(2)) * 2 - 1


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Thirteen noisy faces of 17x17 px in shards of five."""
    images = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (13, 17, 17), dtype=np.uint8)
    labels = pd.DataFrame({"stimulus": [f"{i:02d}" for i in range(13)]})
    labels = labels.assign(split="test", identity="", expression="", view="", session="")
    chunk, description = FaceChunk(images, labels), FaceSetDescription("probe", 5, None, {"source": "toy"})
    return write_faceset(tmp_path_factory.mktemp("recording") / "faces", [chunk], description)


def test_responses_are_what_the_layers_gave() -> None:
    network, images = made("conv1").eval(), faces_like(3)
    names = ["trunk.conv1", "branches.identity.relu2", "heads.identity", "trunk.conv1"]
    with record_responses(network, names) as responses:
        assert responses == {}
        logits = network(images)
    assert set(responses) == set(names)
    assert torch.equal(responses["trunk.conv1"], network.trunk.conv1(images))
    assert torch.equal(responses["heads.identity"], logits["identity"])
    assert responses["branches.identity.relu2"].shape == (3, 6, 8, 8)
    assert not any(tensor.requires_grad for tensor in responses.values())
    assert hooks(network) == 0


def test_the_latest_pass_counts_and_recording_changes_no_answer() -> None:
    network, first, second = made().eval(), faces_like(3), faces_like(5)[3:]
    wanted = network(second)["identity"]
    with record_responses(network, ["trunk.relu2"]) as responses:
        network(first)
        assert torch.equal(network(second)["identity"], wanted)
    assert torch.equal(responses["trunk.relu2"], network.trunk[:-1](second))
    network(first)
    assert responses["trunk.relu2"].shape[0] == 2


def test_a_recorded_response_stays_what_it_was() -> None:
    """Later layers and users may change tensors in place; the record is a copy."""
    network = made().eval()
    network.trunk.relu1.inplace = True
    images = faces_like(2)
    with record_responses(network, ["trunk.norm1", "heads.identity"]) as responses:
        network(images)["identity"].data.zero_()
    assert torch.equal(responses["trunk.norm1"], network.trunk.norm1(network.trunk.conv1(images)))
    assert (responses["trunk.norm1"] < 0).any() and responses["heads.identity"].any()


def test_gradients_flow_as_without_recording() -> None:
    network = made().eval()
    with record_responses(network, ["trunk.relu1"]):
        network(faces_like(2))["identity"].sum().backward()
    assert network.trunk.conv1.weight.grad is not None and network.trunk.conv1.weight.grad.any()


def test_nothing_remains_after_an_error() -> None:
    network = made()
    with pytest.raises(StudyError), record_responses(network, ["trunk.conv1", "trunk.relu2"]):
        assert hooks(network) == 2
        network(faces_like(2)[:, :, :1])
    assert hooks(network) == 0
    with pytest.raises(StudyError) as caught, record_responses(network, ["trunk.conv1", "trunk.conv3"]):
        pass
    assert str(caught.value).startswith(
        "this network has no layer 'trunk.conv3': did you mean 'trunk.conv2'? Allowed: "
    )
    assert hooks(network) == 0


def test_nothing_remains_when_attaching_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made()

    def broken(_: Callable[..., Any]) -> None:
        raise RuntimeError

    monkeypatch.setattr(network.trunk.relu2, "register_forward_hook", broken)
    with pytest.raises(RuntimeError), record_responses(network, ["trunk.conv1", "trunk.relu2"]):
        pass
    assert hooks(network) == 0


def test_inner_recordings_leave_outer_ones_alone() -> None:
    network = made().eval()
    with record_responses(network, ["trunk.relu1"]) as outer:
        with record_responses(network, ["trunk.relu1", "trunk.relu2"]) as inner:
            network(faces_like(2))
        network(faces_like(3))
    assert (len(outer["trunk.relu1"]), len(inner["trunk.relu1"]), list(outer)) == (3, 2, ["trunk.relu1"])


ORDER = np.array([12, 3, 3, 0, 7, 1, 11])


@pytest.mark.parametrize("branch_after", [None, "conv1"])
@pytest.mark.parametrize("task", ["expression", "identity"])
def test_penultimate_responses_depend_on_the_image_alone(faces: FaceSet, branch_after: str | None, task: str) -> None:
    """Any batch size gives, row by row, the test-time responses; close, as sums may run in another order."""
    network = made(branch_after)
    images = apply_preset(faces.images(ORDER), PRESET, None)
    network.eval()
    wanted = network.penultimate(images, task).detach().numpy()
    network.train()
    for batch_size in (1, 2, 3, 7, 100):
        got = record_penultimate(network, faces, ORDER, task, preset=PRESET, batch_size=batch_size, device=CPU)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_predictions_depend_on_the_image_alone(faces: FaceSet) -> None:
    network = made()
    with torch.no_grad():
        for head in network.heads.values():
            head.weight.mul_(1000)  # so that classes are told apart
    logits = network.eval()(apply_preset(faces.images(ORDER), PRESET, None))
    wanted = {
        task: np.array([max(range(len(row)), key=row.__getitem__) for row in out.tolist()])
        for task, out in logits.items()
    }
    assert len(set(wanted["expression"])) > 1
    for batch_size in (1, 3, 100):
        got = predict_classes(network, faces, ORDER, preset=PRESET, batch_size=batch_size, device=CPU)
        assert list(got) == ["expression", "identity"]
        for task, answers in got.items():
            assert answers.dtype == np.int64
            np.testing.assert_array_equal(answers, wanted[task])


def test_of_equal_logits_the_first_wins(faces: FaceSet) -> None:
    network = made()
    with torch.no_grad():
        network.heads["identity"].weight.zero_()
        network.heads["identity"].bias.copy_(torch.tensor([0.0, 1.0, 1.0, 0.5, 1.0]))
    assert (
        predict_classes(network, faces, ORDER, preset=PRESET, batch_size=3, device=CPU)["identity"].tolist() == [1] * 7
    )


def ask(network: FaceNetwork, faces: FaceSet, indices: np.ndarray, **changes: Any) -> Any:
    how = {"preset": PRESET, "batch_size": 3, "device": CPU} | changes
    return record_penultimate(network, faces, indices, "identity", **how), predict_classes(
        network, faces, indices, **how
    )


def test_no_image_no_answer(faces: FaceSet) -> None:
    for none in (np.array([], dtype=np.int64), np.array([])):
        responses, answers = ask(made(), faces, none)
        assert responses.shape == (0, 6) and responses.dtype == np.float32
        assert {task: (own.shape, own.dtype) for task, own in answers.items()} == {
            "expression": ((0,), np.int64),
            "identity": ((0,), np.int64),
        }


@pytest.mark.parametrize("function", [record_penultimate, predict_classes])
@pytest.mark.parametrize("wrong", [{}, {"preset": Preset("toy", 16, 1, None, 0, False, 0.0)}])
def test_the_network_comes_back_as_it_was(faces: FaceSet, function: Callable[..., Any], wrong: dict[str, Any]) -> None:
    """Modes, weights and batch norm statistics; parameters that can still be trained; also after an error."""
    network = made()
    modes = {name: module.training for name, module in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    task = ("identity",) if function is record_penultimate else ()
    try:
        function(network, faces, ORDER, *task, **({"preset": PRESET, "batch_size": 3, "device": CPU} | wrong))
    except StudyError:
        assert wrong
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.is_inference() for parameter in network.parameters())
    network(faces_like(3))["identity"].sum().backward()
    assert hooks(network) == 0


@GPU
def test_a_gpu_answers_alike_and_gives_the_network_back(faces: FaceSet) -> None:
    """Close to float32 sums in another order; full float32 is assumed, so TF32 is off."""
    network = made()
    here, there = ask(network, faces, ORDER), ask(network, faces, ORDER, device=torch.device("cuda"))
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    np.testing.assert_allclose(there[0], here[0], rtol=2e-3, atol=2e-3)
    assert there[1].keys() == here[1].keys()
