"""Networks: the layers they should have, the weights they should share, and numbers that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facespec.models.networks import FaceNetwork, build_network, replace_heads
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import Task

BOTH = {"expression": 7, "identity": 5}


def block(*channels: int, convolutions: int = 1, branch_after: str | None = None) -> NetworkBlock:
    return NetworkBlock(
        trunk="small_vgg", channels=list(channels), convolutions=convolutions, branch_after=branch_after
    )


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(classes: dict[str, int], *, seed: int = 1, channels: int = 1, **shape: Any) -> FaceNetwork:
    return build_network(block(4, 6, 10, **shape), classes, channels=channels, generator=seeded(seed)).eval()


def images(n: int = 3, channels: int = 1, height: int = 17, width: int = 11) -> torch.Tensor:
    return torch.rand((n, channels, height, width), generator=seeded(9))


def test_the_trunk_has_one_name_per_layer_in_order() -> None:
    network = made(BOTH, convolutions=2)
    assert list(dict(network.trunk.named_children())) == [
        "conv1",
        "norm1",
        "relu1",
        "conv2",
        "norm2",
        "relu2",
        "pool1",
        "conv3",
        "norm3",
        "relu3",
        "conv4",
        "norm4",
        "relu4",
        "pool2",
        "conv5",
        "norm5",
        "relu5",
        "conv6",
        "norm6",
        "relu6",
        "average",
    ]
    assert list(network.heads) == ["expression", "identity"] and not network.branches
    shapes = [tuple(m.weight.shape) for m in network.trunk if isinstance(m, nn.Conv2d)]
    assert shapes == [(4, 1, 3, 3), (4, 4, 3, 3), (6, 4, 3, 3), (6, 6, 3, 3), (10, 6, 3, 3), (10, 10, 3, 3)]
    assert all(m.bias is None and m.padding == (1, 1) for m in network.trunk if isinstance(m, nn.Conv2d))
    assert (network.tasks, network.width, network.channels) == (("expression", "identity"), 10, 1)


@pytest.mark.parametrize("branch_after", [None, "conv1", "conv2", "conv3", "conv4", "conv5", "conv6"])
@pytest.mark.parametrize("classes", [BOTH, {"identity": 5}])
def test_branches_may_begin_anywhere(branch_after: str | None, classes: dict[str, int]) -> None:
    """Layers after it exist once per task; shapes stay what they were, and together they are the same trunk."""
    network = made(classes, convolutions=2, branch_after=branch_after)
    logits = network(images())
    assert {task: tuple(out.shape) for task, out in logits.items()} == {task: (3, n) for task, n in classes.items()}
    for task in classes:
        assert network.penultimate(images(), task).shape == (3, 10)
        path = [*dict(network.trunk.named_children())]
        if branch_after is not None:
            assert path[-1] == branch_after.replace("conv", "relu")
            path += dict(network.branches[task].named_children())
        assert path == list(dict(made(classes, convolutions=2).trunk.named_children()))
    assert list(network.branches) == ([] if branch_after is None else list(classes))


@pytest.mark.parametrize("branch_after", [None, "conv2"])
def test_networks_of_one_seed_share_what_they_have_in_common(branch_after: str | None) -> None:
    """The joint network has trunk, branches and heads of the two single-task networks, bit by bit."""
    joint = made(BOTH, branch_after=branch_after).state_dict()
    for task in Task:
        single = made({task: BOTH[task]}, branch_after=branch_after).state_dict()
        assert all(torch.equal(tensor, joint[name]) for name, tensor in single.items())
        assert {name for name in joint if name.startswith("trunk")} < set(single)
    other = made(BOTH, seed=2, branch_after=branch_after).state_dict()
    drawn = [name for name in joint if "conv" in name or (name.startswith("heads") and name.endswith("weight"))]
    assert len(drawn) == (5 if branch_after is None else 6)
    assert not any(torch.equal(joint[name], other[name]) for name in drawn)


def test_tasks_have_weights_of_their_own() -> None:
    network = made({"expression": 5, "identity": 5}, branch_after="conv1").state_dict()
    for name in ("heads.{}.weight", "branches.{}.conv3.weight"):
        assert not torch.equal(network[name.format("expression")], network[name.format("identity")])


def test_first_weights_are_he_normal() -> None:
    """He, fan out: variance 2 / (9 filters); heads have sd 0.01. Means and sds within 4 standard errors."""
    network = build_network(block(64, 96), {"identity": 300}, channels=3, generator=seeded())
    second = network.trunk.conv2.weight.detach().numpy()
    head = network.heads["identity"].weight.detach().numpy()
    for values, sd in ((second, np.sqrt(2 / (9 * 96))), (head, 0.01)):
        assert abs(values.mean()) < 4 * sd / np.sqrt(values.size)
        assert abs(values.std() / sd - 1) < 4 / np.sqrt(2 * values.size)
    assert not network.heads["identity"].bias.any()
    norm = network.trunk.norm1
    assert (norm.weight == 1).all() and not norm.bias.any()
    assert not norm.running_mean.any() and (norm.running_var == 1).all() and norm.num_batches_tracked == 0


def test_the_global_random_state_plays_no_part() -> None:
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = made(BOTH)
        torch.manual_seed(2)
        second = made(BOTH)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    renewed = replace_heads(made(BOTH), BOTH, generator=seeded(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.device.type == "cpu" and torch.isfinite(p).all() for p in [*first.parameters(), *renewed.parameters()])


def by_hand(value: float = 1.0) -> FaceNetwork:
    """Two units: the image times `value`, and its negative, which the ReLU silences where the image is positive."""
    network = build_network(block(2), {"expression": 2, "identity": 3}, channels=1, generator=seeded()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # makes the norm the identity
        network.trunk.norm1.weight.fill_(float(np.sqrt(1 + network.trunk.norm1.eps)))
        network.trunk.conv1.weight[:, 0, 1, 1] = torch.tensor([value, -value])
        network.heads["expression"].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        network.heads["identity"].weight[2] = torch.tensor([1.0, -1.0])
        network.heads["identity"].bias.copy_(torch.tensor([0.5, 0.0, 0.25]))
    return network


def test_the_head_reads_the_mean_over_the_map() -> None:
    """With weights by hand, logits are means of the image's positive and negative parts: what CAM relies on."""
    network, faces = by_hand(2.0), torch.rand((3, 1, 17, 11), generator=seeded()) - 0.5
    up, down = (2 * faces).clamp(min=0).mean((1, 2, 3)), (-2 * faces).clamp(min=0).mean((1, 2, 3))
    logits = network(faces)
    wanted = torch.stack([up, 2 * down], dim=1)
    torch.testing.assert_close(logits["expression"], wanted, rtol=1e-5, atol=1e-6)  # float32 sums over 187 pixels
    wanted = torch.stack([torch.full((3,), 0.5), torch.zeros(3), up - down + 0.25], dim=1)
    torch.testing.assert_close(logits["identity"], wanted, rtol=1e-5, atol=1e-6)
    penultimate = torch.stack([up, down], dim=1)
    torch.testing.assert_close(network.penultimate(faces, "identity"), penultimate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("branch_after", [None, "conv2"])
def test_logits_are_the_heads_of_the_penultimate_responses(branch_after: str | None) -> None:
    network = made(BOTH, branch_after=branch_after)
    logits = network(images())
    for task in BOTH:
        assert torch.equal(network.heads[task](network.penultimate(images(), task)), logits[task])
        assert list(network(images(), [task])) == [task]
        assert torch.equal(network(images(), [task])[task], logits[task])
    own = {"identity": images()[:1], "expression": images()[1:]}
    for task, answer in network.answers(own).items():
        torch.testing.assert_close(answer, network(own[task])[task])


def test_only_what_is_asked_for_is_computed() -> None:
    """A branch that nobody asks for does not run, in training least of all: its batch norm would drift."""
    network = made(BOTH, branch_after="conv1").train()
    network(images(), ["expression"])
    assert network.branches["expression"].norm2.num_batches_tracked == 1
    assert network.branches["identity"].norm2.num_batches_tracked == 0


def test_new_heads_on_an_old_trunk() -> None:
    """Everything but the heads is kept, batch norm statistics too; the old network stays as it is."""
    network = made(BOTH, branch_after="conv2").train()
    network(images())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    renewed = replace_heads(network, {"identity": 9, "expression": 7}, generator=seeded(3))
    assert renewed.classes == {"expression": 7, "identity": 9} and network.classes == BOTH
    with torch.no_grad():
        for parameter in renewed.parameters():
            parameter.add_(1)
    for name, tensor in renewed.state_dict().items():
        if not name.startswith("heads"):
            drift = 1 if name in dict(renewed.named_parameters()) else 0
            assert torch.equal(tensor, before[name] + drift), name
    assert not torch.equal(renewed.heads["expression"].weight - 1, before["heads.expression.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    twin = replace_heads(network, {"identity": 9, "expression": 7}, generator=seeded(3))
    assert torch.equal(twin.heads["identity"].weight + 1, renewed.heads["identity"].weight)


REFUSED: dict[str, tuple[Any, str]] = {
    "no task": (lambda: made({}), "a network needs at least one task. Allowed: 'expression', 'identity'."),
    "unknown task": (
        lambda: made({"identities": 5}),
        "unknown task 'identities': did you mean 'identity'? Allowed: 'expression', 'identity'.",
    ),
    "one class": (
        lambda: made({Task.IDENTITY: 1}),
        "task 'identity' has 1 class(es); there is something to learn from 2 on.",
    ),
    "unknown layer": (
        lambda: made(BOTH, branch_after="conv4"),
        "network.branch_after: small_vgg has no convolution 'conv4': did you mean 'conv3'? Allowed: 'conv1', "
        "'conv2', 'conv3'.",
    ),
    "no convolution": (
        lambda: made(BOTH, branch_after="relu1"),
        "network.branch_after: small_vgg has no convolution 'relu1': Allowed: 'conv1', 'conv2', 'conv3'.",
    ),
    "colours": (
        lambda: made(BOTH)(images(channels=3)),
        "images of shape (3, 3, 17, 11): this network takes (n, 1, height, width) with height and width of 4 px or "
        "more.",
    ),
    "too small": (
        lambda: made(BOTH)(images(height=3)),
        "images of shape (3, 1, 3, 11): this network takes (n, 1, height, width) with height and width of 4 px or "
        "more.",
    ),
    "too narrow": (
        lambda: made(BOTH).penultimate(images(width=3), "identity"),
        "images of shape (3, 1, 17, 3): this network takes (n, 1, height, width) with height and width of 4 px or "
        "more.",
    ),
    "no batch": (
        lambda: made(BOTH)(images()[0]),
        "images of shape (1, 17, 11): this network takes (n, 1, height, width) with height and width of 4 px or more.",
    ),
    "unasked task": (
        lambda: made({"identity": 5}).penultimate(images(), "expression"),
        "this network does not know task 'expression': Allowed: 'identity'.",
    ),
    "unasked logits": (
        lambda: made({"identity": 5})(images(), [Task.EXPRESSION]),
        "this network does not know task 'expression': Allowed: 'identity'.",
    ),
    "unasked answers": (
        lambda: made({"identity": 5}).answers({"expression": images()}),
        "this network does not know task 'expression': Allowed: 'identity'.",
    ),
    "other heads": (
        lambda: replace_heads(made(BOTH), {"identity": 3}, generator=seeded()),
        "new heads must be for the network's tasks ['expression', 'identity'], got ['identity'].",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_network_can_do_is_refused(case: str) -> None:
    do, wanted = REFUSED[case]
    with pytest.raises(StudyError) as caught:
        do()
    assert str(caught.value) == wanted


def test_the_smallest_image_passes() -> None:
    assert made(BOTH)(images(height=4, width=4))["identity"].shape == (3, 5)
