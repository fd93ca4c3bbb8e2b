"""Grad-CAM by hand and in closed form: true and likeliest classes, branches, ReLUs in place, two tasks at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from facespec.analyses.heatmaps import compute_heatmaps
from facespec.models.layers import find_last_convolution
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.params import NetworkBlock

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = ("expression", "identity")
# what an expected value may differ by: float32 sums in another order
CLOSE: dict[str, float] = {"rtol": 2e-5, "atol": 1e-9}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(*, channels: int = 1, branch_after: str | None = None, blocks: tuple[int, ...] = (4, 6)) -> FaceNetwork:
    """A network with two convolutions per block whose batch norm is not the identity."""
    block = NetworkBlock(trunk="small_vgg", channels=list(blocks), convolutions=2, branch_after=branch_after)
    network = build_network(block, {"expression": 7, "identity": 5}, channels=channels, generator=seeded(1)).train()
    with torch.no_grad():
        for _ in range(5):
            network(faces_like(9, channels))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.copy_(torch.randn(module.bias.shape, generator=seeded(3)) / 2)
    return network.eval()


def faces_like(n: int, channels: int = 1) -> torch.Tensor:
    return torch.rand((n, channels, 17, 11), generator=seeded(2)) * 2 - 1


def classes(n: int, seed: int = 5) -> dict[str, torch.Tensor]:
    draw = seeded(seed)
    return {"expression": torch.randint(7, (n,), generator=draw), "identity": torch.randint(5, (n,), generator=draw)}


def both(name: str) -> dict[str, str]:
    return dict.fromkeys(TASKS, name)


def last(network: FaceNetwork) -> dict[str, str]:
    return {task: find_last_convolution(network, task) for task in TASKS}


def by_hand() -> FaceNetwork:
    """Two units, the image and its negative; the heads' weights are round numbers."""
    block = NetworkBlock(trunk="small_vgg", channels=[2], convolutions=1, branch_after=None)
    network = build_network(block, {"expression": 2, "identity": 3}, channels=1, generator=seeded(1)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.trunk.norm1.weight.fill_(float(np.sqrt(1 + network.trunk.norm1.eps)))  # makes the norm the identity
        network.trunk.conv1.weight[:, 0, 1, 1] = torch.tensor([1.0, -1.0])
        network.heads["expression"].weight.copy_(torch.tensor([[2.0, -1.0], [-1.0, 3.0]]))
        network.heads["identity"].weight.copy_(torch.tensor([[-1.0, -2.0], [1.0, 1.0], [0.0, 5.0]]))
    return network


IMAGE = torch.tensor([[[[1.0, -2.0, 0.0], [3.0, -1.0, 2.0]]]])


def test_maps_worked_out_on_paper_behind_the_relu() -> None:
    """Units there: x+ and (-x)+. The head reads means of 6 cells, so that every gradient is its weight / 6."""
    network, faces = by_hand(), IMAGE.expand(3, 1, 2, 3)
    targets = {"expression": torch.tensor([0, 1, 1]), "identity": torch.tensor([0, 1, 2])}
    maps = compute_heatmaps(network, faces, both("trunk.relu1"), targets)
    first = [[2, 0, 0], [6, 0, 4]]  # 2 x+ - (-x)+ is 2 -2 0 / 6 -1 4
    second = [[0, 6, 0], [0, 3, 0]]  # -x+ + 3 (-x)+ is -1 6 0 / -3 3 -2
    torch.testing.assert_close(maps["expression"], torch.tensor([first, second, second]) / 6, **CLOSE)
    size, negative = [[1, 2, 0], [3, 1, 2]], [[0, 10, 0], [0, 5, 0]]
    blank = [[0, 0, 0], [0, 0, 0]]  # neither unit speaks for class 0
    torch.testing.assert_close(maps["identity"], torch.tensor([blank, size, negative]) / 6, **CLOSE)
    assert not maps["identity"][0].any()


def test_maps_worked_out_on_paper_at_the_convolution() -> None:
    """Units there: x and -x, of which 3 and 2 of 6 cells pass the ReLU: mean gradients are 3 w0 / 36 and 2 w1 / 36.

    Class 0: (3*2 x + 2*-1 * -x) / 36 = 8 x / 36. Class 1: (3*-1 x + 2*3 * -x) / 36 = -9 x / 36.
    """
    for name in ("trunk.conv1", "trunk.norm1"):
        for code, wanted in enumerate(([[8, 0, 0], [24, 0, 16]], [[0, 18, 0], [0, 9, 0]])):
            maps = compute_heatmaps(by_hand(), IMAGE, {"expression": name}, {"expression": torch.tensor([code])})
            torch.testing.assert_close(maps["expression"], torch.tensor([wanted]) / 36, **CLOSE)


def test_of_none_the_likeliest_class_is_explained() -> None:
    """Logits by hand: x+ sums to 6 and (-x)+ to 3, so 9/6 and 3/6; identity -12/6, 9/6, 15/6."""
    network = by_hand()
    likeliest = compute_heatmaps(network, IMAGE, both("trunk.relu1"), dict.fromkeys(TASKS))
    named = {"expression": torch.tensor([0]), "identity": torch.tensor([2])}
    wanted = compute_heatmaps(network, IMAGE, both("trunk.relu1"), named)
    assert all(torch.equal(likeliest[task], wanted[task]) and wanted[task].any() for task in TASKS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("branch_after", [None, "conv2", "conv3", "conv4"])
def test_behind_the_last_convolution_it_is_the_class_activation_map(channels: int, branch_after: str | None) -> None:
    """Zhou et al.: relu(sum over units of head weight x response), per cell. True and likeliest classes."""
    network, faces = made(channels=channels, branch_after=branch_after), faces_like(6, channels)
    with torch.no_grad():
        shared = network.trunk(faces)
        logits = network(faces)
    for targets in (classes(6), {task: out.argmax(dim=1) for task, out in logits.items()}):
        maps = compute_heatmaps(network, faces, last(network), targets)
        for task in TASKS:
            section, enters = (network.trunk, faces) if branch_after is None else (network.branches[task], shared)
            responses = section[:-1](enters)
            weights = network.heads[task].weight[targets[task]]
            wanted = (weights[:, :, None, None] * responses).sum(dim=1).clamp(min=0) / (8 * 5)
            assert maps[task].shape == (6, 8, 5) and maps[task].dtype == torch.float32
            torch.testing.assert_close(maps[task], wanted.detach(), **CLOSE)
            assert maps[task].any() and not maps[task].requires_grad


def inplace(network: FaceNetwork) -> FaceNetwork:
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return network


@pytest.mark.parametrize("name", ["conv1", "norm1", "relu1", "norm3", "relu3", "pool1", "conv4", "relu4"])
def test_relus_in_place_change_nothing(name: str) -> None:
    """Neither one that follows the layer, nor the layer itself."""
    targets, names = classes(3), both(f"trunk.{name}")
    wanted = compute_heatmaps(made(), faces_like(3), names, targets)
    got = compute_heatmaps(inplace(made()), faces_like(3), names, targets)
    assert all(torch.equal(got[task], wanted[task]) for task in TASKS)


PLACES = [("trunk.relu1", "trunk.relu4"), ("trunk.conv4", "trunk.norm1"), ("trunk.norm3", "trunk.relu3")]


@pytest.mark.parametrize("names", PLACES)
@pytest.mark.parametrize("written", [False, True])
def test_two_tasks_at_layers_one_below_the_other(names: tuple[str, str], written: bool) -> None:
    """The same maps as of each task alone."""
    network, faces, targets = made(), faces_like(3), classes(3)
    alone = {
        task: compute_heatmaps(network, faces, {task: name}, {task: targets[task]})
        for task, name in zip(TASKS, names, strict=True)
    }
    together = compute_heatmaps(
        inplace(made()) if written else network, faces, dict(zip(TASKS, names, strict=True)), targets
    )
    assert list(together) == list(TASKS)
    for task in TASKS:
        assert torch.equal(together[task], alone[task][task]) and together[task].any()


def test_a_layer_in_a_branch_and_one_in_the_trunk() -> None:
    network, faces, targets = made(branch_after="conv2"), faces_like(3), classes(3)
    names = {"expression": "trunk.norm2", "identity": "branches.identity.conv3"}
    together = compute_heatmaps(network, faces, names, targets)
    for task in TASKS:
        alone = compute_heatmaps(network, faces, {task: names[task]}, {task: targets[task]})
        assert torch.equal(together[task], alone[task]) and together[task].any()


def test_one_pass_through_the_trunk_serves_both_tasks() -> None:
    network, calls = made(branch_after="conv3"), []
    for name in ("conv1", "relu3"):
        network.get_submodule(f"trunk.{name}").register_forward_hook(lambda *_: calls.append(1))
    compute_heatmaps(network, faces_like(3), last(network), classes(3))
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["trunk.conv2", "trunk.relu4"])
def test_a_map_depends_on_its_own_image(name: str) -> None:
    """Close: sums of other batches may run in another order."""
    network, faces, targets = made(), faces_like(7), classes(7)
    wanted = compute_heatmaps(network, faces, both(name), targets)
    for i in range(7):
        own = {task: target[i : i + 1] for task, target in targets.items()}
        for task, alone in compute_heatmaps(network, faces[i : i + 1], both(name), own).items():
            torch.testing.assert_close(alone[0], wanted[task][i], rtol=1e-4, atol=1e-8)
