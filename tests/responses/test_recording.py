"""Recording: what is recorded, in which networks, that nothing remains, and that results depend on the image alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.models.networks import FaceNetwork
from facespec.responses.pooling import pool_responses
from facespec.responses.recording import predict_classes, record_penultimate, record_responses, record_with_grad
from facespec.study.errors import StudyError
from facespec.study.presets import Preset
from toys import Foreign, count_hooks, describe_state, make_network, random_images

pytestmark = pytest.mark.usefixtures("one_thread")

PRESET = Preset("toy", 17, 1, resize=None, shift=3, flip=True, grey_probability=0.0)
WRONG_PRESET = Preset("toy", 16, 1, resize=None, shift=0, flip=False, grey_probability=0.0)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
RECORDERS = pytest.mark.parametrize("record", [record_responses, record_with_grad])
ORDER = np.array([12, 3, 3, 0, 7, 1, 11])


def make_mixed_network(branch_after: str | None = None) -> FaceNetwork:
    """In training mode, with a norm that is frozen, and with statistics of images: modes matter."""
    network = make_network(branch_after=branch_after).train()
    network(random_images(9))
    network.trunk.norm1.eval()
    return network


# -- layers of a forward pass


@RECORDERS
def test_responses_are_what_the_layers_gave(record: Callable[..., Any]) -> None:
    """And the bits of the logits are those without recording."""
    network, images = make_network(branch_after="conv1"), random_images()
    expected, names = network(images), ["trunk.conv1", "branches.identity.relu2", "heads.identity", "trunk.conv1"]
    with record(network, names) as responses:
        assert responses == {}
        logits = network(images)
    assert set(responses) == set(names) and count_hooks(network) == 0
    assert torch.equal(responses["trunk.conv1"], network.trunk.conv1(images))
    assert torch.equal(responses["heads.identity"], logits["identity"])
    assert responses["branches.identity.relu2"].shape == (3, 6, 8, 5)
    assert all(torch.equal(logits[task], expected[task]) for task in expected)
    assert {tensor.requires_grad for tensor in responses.values()} == {record is record_with_grad}


@RECORDERS
def test_layers_of_any_module_are_recorded(record: Callable[..., Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(4 * 15 * 9, 2))
    with record(network, ["0", "1", "1.0"]) as responses:
        network(random_images())
    assert torch.equal(responses["0"], network[0](random_images()))
    assert torch.equal(responses["1.0"], responses["0"].relu()) and responses["1"].shape == (3, 540)
    with pytest.raises(StudyError, match=r"no layer '1\.3': did you mean '1\.[01]'"), record(network, ["1.3"]):
        pass


@RECORDERS
def test_of_a_layer_that_is_called_twice_the_last_call_is_recorded(record: Callable[..., Any]) -> None:
    network = Foreign(
        lambda n, x: n.relu(n.next(n.relu(n.conv(x)))),
        conv=lambda: nn.Conv2d(1, 4, 3),
        relu=nn.ReLU,
        next=lambda: nn.Conv2d(4, 2, 3),
    )
    with record(network, ["relu", "conv"]) as responses:
        output = network(random_images())
    assert torch.equal(responses["relu"], output) and responses["conv"].shape == (3, 4, 15, 9)
    if record is record_with_grad:
        (gradient,) = torch.autograd.grad(output.sum(), responses["conv"])
        assert gradient.any()


@RECORDERS
def test_the_latest_pass_is_recorded(record: Callable[..., Any]) -> None:
    network = make_network()
    with record(network, ["trunk.relu2"]) as responses:
        network(random_images(5))
        network(random_images(2, seed=4))
    assert torch.equal(responses["trunk.relu2"], network.trunk[:-1](random_images(2, seed=4)))
    network(random_images(3))
    assert len(responses["trunk.relu2"]) == 2


@RECORDERS
@pytest.mark.parametrize("name", ["trunk.norm1", "trunk.relu1"])
def test_modules_that_work_in_place_change_no_recorded_response(record: Callable[..., Any], name: str) -> None:
    """Neither the ReLU behind the layer, nor the layer itself."""
    network, images = make_network(), random_images(2)
    expected = network.trunk[: 2 if name.endswith("norm1") else 3](images)
    network.trunk.relu1.inplace = network.trunk.relu2.inplace = True
    with record(network, [name, "heads.identity"]) as responses:
        network(images)["identity"].data.zero_()
    assert torch.equal(responses[name], expected) and responses["heads.identity"].any()
    assert name == "trunk.relu1" or (responses[name] < 0).any()


@RECORDERS
def test_nothing_remains_after_an_error(record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the forward pass, for an unknown layer, and when a hook cannot be attached; frozen weights stay frozen."""
    network = make_mixed_network()
    network.trunk.conv1.weight.requires_grad_(False)
    before = describe_state(network)
    with pytest.raises(StudyError, match="images of shape"), record(network, ["trunk.conv1", "trunk.relu2"]):
        assert count_hooks(network) == 2
        network(random_images(height=1))
    with (
        pytest.raises(StudyError, match=r"no layer 'trunk\.conv3': did you mean 'trunk\.conv2'"),
        record(network, ["trunk.conv1", "trunk.conv3"]),
    ):
        pass

    def fail(_: Callable[..., Any]) -> None:
        raise RuntimeError

    monkeypatch.setattr(network.trunk.relu2, "register_forward_hook", fail)
    with pytest.raises(RuntimeError), record(network, ["trunk.conv1", "trunk.relu2"]):
        pass
    assert describe_state(network) == before


def test_inner_contexts_do_not_change_outer_ones() -> None:
    network = make_network()
    with record_responses(network, ["trunk.relu1"]) as outer:
        with record_responses(network, ["trunk.relu1", "trunk.relu2"]) as inner:
            network(random_images(2))
        network(random_images(3))
    assert (len(outer["trunk.relu1"]), len(inner["trunk.relu1"]), list(outer)) == (3, 2, ["trunk.relu1"])


def test_parameters_get_gradients_while_responses_are_recorded() -> None:
    network = make_network()
    with record_responses(network, ["trunk.relu1"]):
        network(random_images(2))["identity"].sum().backward()
    assert network.trunk.conv1.weight.grad.any()


# -- gradients


def test_the_gradient_by_the_last_map_is_the_weights_of_the_head() -> None:
    """By the responses behind the last convolution: weight / cells, the same in every cell."""
    network = make_network()
    with record_with_grad(network, ["trunk.relu2"]) as responses:
        logits = network(random_images())["identity"]
        (gradient,) = torch.autograd.grad(logits[:, 4].sum(), responses["trunk.relu2"])
    expected = network.heads["identity"].weight[4].detach() / (8 * 5)
    torch.testing.assert_close(gradient, expected[None, :, None, None].expand(3, 6, 8, 5))


def test_the_autograd_graph_begins_at_the_layer() -> None:
    """Nothing before it is recorded, nor are parameters; a branch that does not read the layer has no graph."""
    network = make_network(branch_after="conv1")
    with (
        record_with_grad(network, ["branches.identity.norm2"]) as responses,
        record_responses(network, ["trunk.relu1"]) as below,
    ):
        logits = network(random_images(2))
        assert not any(parameter.requires_grad for parameter in network.parameters())
        logits["identity"].sum().backward()
    layer = responses["branches.identity.norm2"]
    assert layer.is_leaf and layer.grad.any()
    assert not logits["expression"].requires_grad and not below["trunk.relu1"].requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_the_autograd_graph_passes_through_deeper_layers() -> None:
    network, names = make_network(), ["trunk.relu2", "trunk.conv1"]
    with record_with_grad(network, names) as responses:
        logits = network(random_images(2))["identity"].sum()
        deep, shallow = torch.autograd.grad(logits, [responses[name] for name in names])
    with record_with_grad(network, ["trunk.conv1"]) as responses:
        (alone,) = torch.autograd.grad(network(random_images(2))["identity"].sum(), responses["trunk.conv1"])
    assert deep.any() and shallow.any() and torch.equal(alone, shallow)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_work_in_any_mode_which_is_restored(mode: Callable[[], Any]) -> None:
    network = make_network()
    with mode():
        images, before = random_images(2), (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        with record_with_grad(network, ["trunk.pool1"]) as responses:
            (gradient,) = torch.autograd.grad(network(images)["identity"].sum(), responses["trunk.pool1"])
        assert gradient.any() and not gradient.is_inference()
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


# -- images of a FaceSet


def run(function: Callable[..., Any], network: FaceNetwork, faces: FaceSet, *args: Any, **changes: Any) -> Any:
    options = {"preset": PRESET, "batch_size": 3, "device": torch.device("cpu")} | changes
    return function(network, faces, *(args or (ORDER,)), **options)


def prepare_images(faces: FaceSet) -> torch.Tensor:
    return apply_preset(faces.images(ORDER), PRESET, None)


@pytest.mark.parametrize("branch_after", [None, "conv1"])
@pytest.mark.parametrize("task", ["expression", "identity"])
def test_penultimate_responses_depend_on_the_image_alone(faces: FaceSet, branch_after: str | None, task: str) -> None:
    """Any batch size gives, row by row, the test-time responses; close, as sums may run in another order."""
    network = make_mixed_network(branch_after)
    expected = network.eval().penultimate(prepare_images(faces), task).detach().numpy()
    network.train()
    for batch_size in (1, 2, 7, 100):
        got = run(record_penultimate, network, faces, ORDER, task, batch_size=batch_size)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_predictions_depend_on_the_image_alone(faces: FaceSet) -> None:
    """Of equal logits the first counts."""
    network = make_mixed_network()
    with torch.no_grad():
        network.heads["expression"].weight.mul_(1000)  # so that predictions differ
        network.heads["identity"].weight.zero_()
        network.heads["identity"].bias.copy_(torch.tensor([0.0, 1.0, 1.0, 0.5, 1.0]))
    rows = network.eval()(prepare_images(faces))["expression"].tolist()
    expected = {"expression": [row.index(max(row)) for row in rows], "identity": [1] * 7}
    assert len(set(expected["expression"])) > 1
    for batch_size in (1, 3, 100):
        got = run(predict_classes, network.train(), faces, batch_size=batch_size)
        assert {task: classes.dtype for task, classes in got.items()} == dict.fromkeys(expected, np.int64)
        assert {task: classes.tolist() for task, classes in got.items()} == expected


def test_no_images_give_empty_arrays(faces: FaceSet) -> None:
    for none in (np.array([], dtype=np.int64), np.array([])):
        responses = run(record_penultimate, make_network(), faces, none, "identity")
        assert responses.shape == (0, 6) and responses.dtype == np.float32
        classes = run(predict_classes, make_network(), faces, none)
        assert {task: (array.shape, array.dtype) for task, array in classes.items()} == dict.fromkeys(
            ("expression", "identity"), ((0,), np.int64)
        )


LAYERS = ["trunk.relu1", "branches.identity.relu2", "heads.identity", "branches.expression.relu2", "trunk.relu1"]


def test_pooled_responses_are_means_over_the_map_for_any_batch_size(faces: FaceSet) -> None:
    """All layers in one pass, each image once; responses without a map are taken as they are."""
    network, images, sizes = make_mixed_network("conv1"), prepare_images(faces), []
    network.eval()
    with torch.no_grad():
        first = network.trunk[:3](images)
        expected = {"trunk.relu1": first.numpy().reshape(7, 4, -1).mean(axis=2)}
        for task in ("expression", "identity"):  # a branch ends in the global average of its last ReLU
            expected[f"branches.{task}.relu2"] = network.penultimate(images, task).numpy()
        expected["heads.identity"] = network(images)["identity"].numpy()
    network.train().trunk.conv1.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    for batch_size in (1, 2, 3, 100):
        sizes.clear()
        got = run(pool_responses, network, faces, ORDER, LAYERS, batch_size=batch_size)
        assert list(got) == list(dict.fromkeys(LAYERS)) and sum(sizes) == len(ORDER)
        for layer, values in expected.items():
            assert got[layer].dtype == np.float32
            np.testing.assert_allclose(got[layer], values, rtol=1e-5, atol=1e-6)


def test_pooling_takes_any_module_but_not_no_images(faces: FaceSet) -> None:
    network = nn.Sequential(nn.AvgPool2d(17), nn.BatchNorm2d(1, eps=0))
    means = prepare_images(faces).mean(dim=(2, 3)).numpy()
    got = run(pool_responses, network, faces, ORDER, ["1"])["1"]
    np.testing.assert_allclose(got, means, rtol=1e-5, atol=1e-6)
    with pytest.raises(StudyError, match="no responses without images: got 0 images, at least 1 is needed"):
        run(pool_responses, network, faces, ORDER[:0], ["1"])


@pytest.mark.parametrize(
    ("function", "args"),
    [(record_penultimate, (ORDER, "identity")), (predict_classes, (ORDER,)), (pool_responses, (ORDER, LAYERS[:1]))],
)
@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_unchanged(
    faces: FaceSet, function: Callable[..., Any], args: tuple[Any, ...], fails: bool
) -> None:
    """Modes, weights and batch norm statistics, also after an error; parameters can still be trained."""
    network = make_mixed_network()
    before = describe_state(network)
    if fails:
        with pytest.raises(StudyError, match="images of 17x17 px; the network takes 16x16 px"):
            run(function, network, faces, *args, preset=WRONG_PRESET)
    else:
        run(function, network, faces, *args)
    assert describe_state(network) == before
    assert not any(parameter.is_inference() for parameter in network.parameters())
    network(random_images())["identity"].sum().backward()


@GPU
@pytest.mark.parametrize(
    ("function", "args"), [(record_penultimate, (ORDER, "identity")), (pool_responses, (ORDER, LAYERS[:1]))]
)
def test_a_gpu_gives_close_responses(faces: FaceSet, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Close to float32 sums in another order; full float32 is assumed, so TF32 is off."""
    network = make_mixed_network()
    on_cpu, on_gpu = (run(function, network, faces, *args, device=torch.device(name)) for name in ("cpu", "cuda"))
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    torch.testing.assert_close(on_gpu, on_cpu, rtol=2e-3, atol=2e-3)
