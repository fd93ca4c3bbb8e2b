"""Attached responses: what can be differentiated by, where the graph begins, and what remains afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from facespec.models.networks import FaceNetwork, build_network
from facespec.responses.recording import record_responses, record_with_grad
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(branch_after: str | None = None) -> FaceNetwork:
    block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after=branch_after)
    return build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded()).eval()


def faces_like(n: int) -> torch.Tensor:
    return torch.rand((n, 1, 17, 11), generator=seeded(2)) * 2 - 1


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def gradients_asked(network: FaceNetwork) -> list[bool]:
    return [parameter.requires_grad for parameter in network.parameters()]


def test_the_logit_of_a_gap_head_has_the_heads_weights_as_its_gradient() -> None:
    """By the responses behind the last convolution: weight / cells, the same in every cell."""
    network = made()
    with record_with_grad(network, ["trunk.relu2"]) as responses:
        assert responses == {}
        logits = network(faces_like(3))["identity"]
        (gradient,) = torch.autograd.grad(logits[:, 4].sum(), responses["trunk.relu2"])
    wanted = network.heads["identity"].weight[4].detach() / (8 * 5)
    torch.testing.assert_close(gradient, wanted[None, :, None, None].expand(3, 6, 8, 5))
    assert torch.equal(responses["trunk.relu2"], network.trunk[:-1](faces_like(3)))


def test_answers_are_the_same_bits() -> None:
    network = made("conv1")
    wanted = network(faces_like(3))
    with record_with_grad(network, ["trunk.norm1", "branches.identity.relu2"]):
        got = network(faces_like(3))
    assert all(torch.equal(got[task], wanted[task]) for task in wanted)


def test_the_graph_begins_at_the_layer() -> None:
    """Nothing below is kept for a way back, nor are parameters; what does not read the layer has no graph at all."""
    network = made("conv1")
    with (
        record_with_grad(network, ["branches.identity.norm2"]) as responses,
        record_responses(network, ["trunk.relu1"]) as below,
    ):
        answers = network(faces_like(2))
        assert not any(gradients_asked(network)) and hooks(network) == 2
    own = responses["branches.identity.norm2"]
    assert own.is_leaf and own.requires_grad and answers["identity"].requires_grad
    assert not answers["expression"].requires_grad and not below["trunk.relu1"].requires_grad


def test_behind_another_layer_the_graph_goes_on() -> None:
    network, names = made(), ["trunk.relu2", "trunk.conv1"]
    with record_with_grad(network, names) as responses:
        logits = network(faces_like(2))["identity"].sum()
        deep, shallow = torch.autograd.grad(logits, [responses[name] for name in names])
        (through,) = torch.autograd.grad(network(faces_like(2))["identity"].sum(), responses["trunk.conv1"])
    assert deep.any() and shallow.any() and torch.equal(through, shallow)


@pytest.mark.parametrize("name", ["trunk.norm1", "trunk.relu1"])
def test_responses_stay_what_the_layer_gave(name: str) -> None:
    """A ReLU behind the layer, or the layer itself, may write in place."""
    network, images = made(), faces_like(2)
    wanted = network.get_submodule(name)(
        network.trunk[:1](images) if name.endswith("norm1") else network.trunk[:2](images)
    )
    network.trunk.relu1.inplace = network.trunk.relu2.inplace = True
    with record_with_grad(network, [name]) as responses:
        network(images)["identity"].sum().backward()
    assert torch.equal(responses[name], wanted) and responses[name].grad.any()
    assert name == "trunk.relu1" or (responses[name] < 0).any()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_latest_pass_counts() -> None:
    network = made()
    with record_with_grad(network, ["trunk.relu2"]) as responses:
        network(faces_like(5))
        network(faces_like(2))
    assert len(responses["trunk.relu2"]) == 2
    network(faces_like(3))
    assert len(responses["trunk.relu2"]) == 2


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_where_gradients_are_off_and_leaves_them_so(around: Callable[[], Any]) -> None:
    network = made()
    with around():
        images, modes = faces_like(2), (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        with record_with_grad(network, ["trunk.pool1"]) as responses:
            (gradient,) = torch.autograd.grad(network(images)["identity"].sum(), responses["trunk.pool1"])
        assert gradient.any() and not gradient.is_inference()
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes


def test_parameters_are_as_before_also_after_an_error() -> None:
    """What was frozen stays frozen, the rest can be trained."""
    network = made()
    network.trunk.conv1.weight.requires_grad_(False)
    before = gradients_asked(network)
    assert before == [name != "trunk.conv1.weight" for name, _ in network.named_parameters()]
    with pytest.raises(StudyError), record_with_grad(network, ["trunk.relu1"]):
        network(faces_like(2)[:, :, :1])
    assert gradients_asked(network) == before and hooks(network) == 0
    with pytest.raises(StudyError) as caught, record_with_grad(network, ["trunk.conv1", "trunk.conv3"]):
        pass
    assert str(caught.value).startswith(
        "this network has no layer 'trunk.conv3': did you mean 'trunk.conv2'? Allowed: "
    )
    assert gradients_asked(network) == before and hooks(network) == 0
    network(faces_like(2))["identity"].sum().backward()
    assert network.trunk.conv1.weight.grad is None and network.trunk.conv2.weight.grad.any()


def test_nothing_remains_when_attaching_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made()

    def broken(_: Callable[..., Any]) -> None:
        raise RuntimeError

    monkeypatch.setattr(network.trunk.relu2, "register_forward_hook", broken)
    with pytest.raises(RuntimeError), record_with_grad(network, ["trunk.conv1", "trunk.relu2"]):
        pass
    assert hooks(network) == 0 and all(gradients_asked(network))
