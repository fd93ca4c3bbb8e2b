"""Networks: the layers they must have, the weights they must share, and numbers that can be computed by hand."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facespec.models.networks import FaceNetwork, replace_heads
from facespec.study.errors import StudyError
from facespec.study.vocabulary import Task
from toys import CLASSES, make_network, random_images, seeded

WIDTHS = (4, 6, 10)


def build(classes: dict[Any, int] = CLASSES, **options: Any) -> FaceNetwork:
    return make_network(WIDTHS, classes=classes, **options)


def list_trunk(network: FaceNetwork) -> list[str]:
    return [name for name, _ in network.trunk.named_children()]


def test_the_trunk_has_one_name_per_layer_in_order() -> None:
    network = build(convolutions=2)
    first, second, third = ([f"{kind}{i}" for i in (n, n + 1) for kind in ("conv", "norm", "relu")] for n in (1, 3, 5))
    assert list_trunk(network) == [*first, "pool1", *second, "pool2", *third, "average"]
    assert list(network.heads) == ["expression", "identity"] and not network.branches
    convolutions = [module for module in network.trunk if isinstance(module, nn.Conv2d)]
    shapes = [(4, 1, 3, 3), (4, 4, 3, 3), (6, 4, 3, 3), (6, 6, 3, 3), (10, 6, 3, 3), (10, 10, 3, 3)]
    assert [tuple(module.weight.shape) for module in convolutions] == shapes
    assert all(module.bias is None and module.padding == (1, 1) for module in convolutions)
    assert (network.tasks, network.width, network.channels) == (("expression", "identity"), 10, 1)


@pytest.mark.parametrize("branch_after", [None, "conv1", "conv2", "conv3", "conv4", "conv5", "conv6"])
@pytest.mark.parametrize("classes", [CLASSES, {"identity": 5}])
def test_branches_can_begin_behind_any_convolution(branch_after: str | None, classes: dict[str, int]) -> None:
    """Later layers exist once per task; shapes do not change, and trunk and branch together are the whole trunk."""
    network = build(classes, convolutions=2, branch_after=branch_after)
    logits = network(random_images())
    assert {task: tuple(values.shape) for task, values in logits.items()} == {t: (3, n) for t, n in classes.items()}
    assert list(network.branches) == ([] if branch_after is None else list(classes))
    for task in classes:
        assert network.penultimate(random_images(), task).shape == (3, 10)
        path = list_trunk(network)
        if branch_after is not None:
            assert path[-1] == branch_after.replace("conv", "relu")
            path += dict(network.branches[task].named_children())
        assert path == list_trunk(build(classes, convolutions=2))


@pytest.mark.parametrize("branch_after", [None, "conv2"])
def test_networks_of_one_seed_share_what_they_have_in_common(branch_after: str | None) -> None:
    """The joint network has the bits of trunk, branches and heads of the two single-task networks."""
    joint = build(branch_after=branch_after).state_dict()
    for task in Task:
        single = build({task: CLASSES[task]}, branch_after=branch_after).state_dict()
        assert all(torch.equal(tensor, joint[name]) for name, tensor in single.items())
        assert {name for name in joint if name.startswith("trunk")} < set(single)
    other = build(seed=2, branch_after=branch_after).state_dict()
    drawn = [name for name in joint if "conv" in name or (name.startswith("heads") and name.endswith("weight"))]
    assert len(drawn) == (5 if branch_after is None else 6)
    assert not any(torch.equal(joint[name], other[name]) for name in drawn)


def test_weights_of_the_tasks_differ() -> None:
    weights = build({"expression": 5, "identity": 5}, branch_after="conv1").state_dict()
    for name in ("heads.{}.weight", "branches.{}.conv3.weight"):
        assert not torch.equal(weights[name.format("expression")], weights[name.format("identity")])


def test_first_weights_are_he_normal() -> None:
    """He, fan out: variance 2 / (9 filters); heads have sd 0.01. Means and sds within 4 standard errors."""
    network = make_network((64, 96), classes={"identity": 300}, channels=3)
    second = network.trunk.conv2.weight.detach().numpy()
    head = network.heads["identity"].weight.detach().numpy()
    for values, sd in ((second, np.sqrt(2 / (9 * 96))), (head, 0.01)):
        assert abs(values.mean()) < 4 * sd / np.sqrt(values.size)
        assert abs(values.std() / sd - 1) < 4 / np.sqrt(2 * values.size)
    assert not network.heads["identity"].bias.any()
    norm = network.trunk.norm1
    assert (norm.weight == 1).all() and not norm.bias.any()
    assert not norm.running_mean.any() and (norm.running_var == 1).all() and norm.num_batches_tracked == 0


def test_the_global_random_state_is_not_used() -> None:
    before = torch.get_rng_state()
    networks = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            networks.append(build())
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    new = replace_heads(build(), CLASSES, generator=seeded(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        p.device.type == "cpu" and torch.isfinite(p).all() for p in [*networks[0].parameters(), *new.parameters()]
    )


def test_the_head_reads_the_mean_over_the_map() -> None:
    """Two units by hand: twice the image, and its negative. Logits are means of the rectified maps, as CAM needs."""
    network = make_network((2,), classes={"expression": 2, "identity": 3})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.trunk.norm1.weight.fill_(float(np.sqrt(1 + network.trunk.norm1.eps)))  # makes the norm the identity
        network.trunk.conv1.weight[:, 0, 1, 1] = torch.tensor([2.0, -2.0])
        network.heads["expression"].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        network.heads["identity"].weight[2] = torch.tensor([1.0, -1.0])
        network.heads["identity"].bias.copy_(torch.tensor([0.5, 0.0, 0.25]))
    images = random_images()
    up, down = ((sign * images).clamp(min=0).mean((1, 2, 3)) for sign in (2, -2))
    half, zero = torch.full((3,), 0.5), torch.zeros(3)
    expected = {"expression": [up, 2 * down], "identity": [half, zero, up - down + 0.25]}
    for task, columns in expected.items():  # float32 sums over 187 pixels
        torch.testing.assert_close(network(images)[task], torch.stack(columns, dim=1), rtol=1e-5, atol=1e-6)
    penultimate = network.penultimate(images, "identity")
    torch.testing.assert_close(penultimate, torch.stack([up, down], dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("branch_after", [None, "conv2"])
def test_logits_are_the_heads_of_the_penultimate_responses(branch_after: str | None) -> None:
    network, images = build(branch_after=branch_after), random_images()
    logits = network(images)
    for task in CLASSES:
        assert torch.equal(network.heads[task](network.penultimate(images, task)), logits[task])
        assert list(network(images, [task])) == [task]
        assert torch.equal(network(images, [task])[task], logits[task])
    for task, values in network.compute_logits({"identity": images[:1], "expression": images[1:]}).items():
        torch.testing.assert_close(values, logits[task][:1] if task == "identity" else logits[task][1:])


def test_only_the_branches_of_the_given_tasks_run() -> None:
    """In training, the batch norm of another branch would change."""
    network = build(branch_after="conv1").train()
    network(random_images(), ["expression"])
    assert network.branches["expression"].norm2.num_batches_tracked == 1
    assert network.branches["identity"].norm2.num_batches_tracked == 0


def test_replacing_heads_copies_all_other_weights() -> None:
    """Batch norm statistics too; the old network is not changed, and shares no memory with the new one."""
    network = build(branch_after="conv2").train()
    network(random_images())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    new = replace_heads(network, {"identity": 9, "expression": 7}, generator=seeded(3))
    assert new.classes == {"expression": 7, "identity": 9} and network.classes == CLASSES
    weights = new.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items() if not name.startswith("heads"))
    assert not torch.equal(weights["heads.expression.weight"], before["heads.expression.weight"])
    twin = replace_heads(network, {"identity": 9, "expression": 7}, generator=seeded(3)).state_dict()
    assert all(torch.equal(twin[name], tensor) for name, tensor in weights.items())
    with torch.no_grad():
        for tensor in weights.values():
            tensor.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


SIZES = "this network takes (n, 1, height, width) with height and width of 4 px or more."
UNKNOWN_TASK = "this network does not know task 'expression': Allowed: 'identity'."
REFUSED: dict[str, tuple[Any, str]] = {
    "no task": (lambda: build({}), "a network needs at least one task. Allowed: 'expression', 'identity'."),
    "unknown task": (lambda: build({"identities": 5}), "unknown task 'identities': did you mean 'identity'?"),
    "one class": (lambda: build({Task.IDENTITY: 1}), "task 'identity' has 1 class(es)"),
    "unknown layer": (
        lambda: build(branch_after="conv4"),
        "network.branch_after: small_vgg has no convolution 'conv4': did you mean 'conv3'?",
    ),
    "no convolution": (lambda: build(branch_after="relu1"), "small_vgg has no convolution 'relu1'"),
    "colours": (lambda: build()(random_images(channels=3)), f"images of shape (3, 3, 17, 11): {SIZES}"),
    "too low": (lambda: build()(random_images(height=3)), f"images of shape (3, 1, 3, 11): {SIZES}"),
    "too narrow": (lambda: build().penultimate(random_images(width=3), "identity"), f"(3, 1, 17, 3): {SIZES}"),
    "no batch": (lambda: build()(random_images()[0]), f"images of shape (1, 17, 11): {SIZES}"),
    "penultimate responses of another task": (
        lambda: build({"identity": 5}).penultimate(random_images(), "expression"),
        UNKNOWN_TASK,
    ),
    "logits of another task": (lambda: build({"identity": 5})(random_images(), [Task.EXPRESSION]), UNKNOWN_TASK),
    "images of another task": (
        lambda: build({"identity": 5}).compute_logits({"expression": random_images()}),
        UNKNOWN_TASK,
    ),
    "heads of other tasks": (
        lambda: replace_heads(build(), {"identity": 3}, generator=seeded()),
        "new heads must be for the network's tasks ['expression', 'identity'], got ['identity'].",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_network_can_do_is_refused(case: str) -> None:
    do, message = REFUSED[case]
    with pytest.raises(StudyError, match=re.escape(message)):
        do()


def test_the_smallest_image_passes() -> None:
    assert build()(random_images(height=4, width=4))["identity"].shape == (3, 5)
