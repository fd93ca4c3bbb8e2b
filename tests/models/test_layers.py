"""Layers are found by name, in depth order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facespec.models import trunks
from facespec.models.layers import find_last_convolution, find_rectifier, get_layer, list_convolutions
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock


def made(*channels: int, branch_after: str | None = None, trunk: str = "small_vgg") -> FaceNetwork:
    block = NetworkBlock(trunk=trunk, channels=list(channels), list_convolutions=2, branch_after=branch_after)
    classes = {"expression": 7, "identity": 5}
    return build_network(block, classes, channels=1, generator=torch.Generator().manual_seed(1))


def test_convolutions_come_in_depth_order() -> None:
    """Ten is deeper than nine."""
    assert list_convolutions(made(2, 2, 2, 2, 2)) == [f"trunk.conv{i}" for i in range(1, 11)]


def test_tasks_of_equal_depth_come_side_by_side() -> None:
    assert list_convolutions(made(2, 2, branch_after="conv2")) == [
        "trunk.conv1",
        "trunk.conv2",
        "branches.expression.conv3",
        "branches.identity.conv3",
        "branches.expression.conv4",
        "branches.identity.conv4",
    ]


def test_vgg16_has_thirteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    network = made(2, trunk="vgg16", branch_after="conv12")
    assert list_convolutions(network)[11:] == ["trunk.conv12", "branches.expression.conv13", "branches.identity.conv13"]
    assert isinstance(get_layer(network, "branches.identity.fc7"), nn.Linear)


def test_a_layer_is_the_module_of_that_name() -> None:
    network = made(2, 3, branch_after="conv2")
    assert get_layer(network, "trunk.norm2") is network.trunk.norm2
    assert get_layer(network, "branches.identity.conv3") is network.branches["identity"].conv3
    assert get_layer(network, "heads.expression") is network.heads["expression"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("trunk.conv9", "trunk.conv2"), ("trunk", "trunk.relu2"), ("branches.identity", "heads.identity"), ("", None)],
)
def test_what_is_no_layer_is_refused(name: str, near: str | None) -> None:
    """Neither an unknown name nor a container, whose responses nobody asked for."""
    hint = f"did you mean {near!r}? " if near else ""
    with pytest.raises(StudyError) as caught:
        get_layer(made(2), name)
    assert str(caught.value) == (
        f"this network has no layer {name!r}: {hint}Allowed: 'trunk.conv1', 'trunk.norm1', 'trunk.relu1', "
        "'trunk.conv2', 'trunk.norm2', 'trunk.relu2', 'trunk.average', 'heads.expression', 'heads.identity'."
    )


def test_the_relu_behind_a_convolution() -> None:
    network = made(2, 2, 2, 2, 2, branch_after="conv9")
    for name in list_convolutions(network):
        behind = find_rectifier(network, name)
        assert isinstance(get_layer(network, behind), nn.ReLU)
        section, _, own = name.rpartition(".")
        siblings = list(dict(network.get_submodule(section).named_children()))
        after = siblings[siblings.index(own) :]
        assert behind == f"{section}.{next(sibling for sibling in after if sibling.startswith('relu'))}"
    with pytest.raises(StudyError) as caught:
        find_rectifier(made(2), "trunk.relu1")
    assert str(caught.value) == (
        "this network has no convolution 'trunk.relu1': did you mean 'trunk.conv1'? "
        "Allowed: 'trunk.conv1', 'trunk.conv2'."
    )


@pytest.mark.parametrize(
    ("branch_after", "wanted"),
    [(None, "trunk.relu4"), ("conv1", "branches.{}.relu4"), ("conv3", "branches.{}.relu4"), ("conv4", "trunk.relu4")],
)
def test_the_last_map_on_the_way_to_a_head(branch_after: str | None, wanted: str) -> None:
    """With everything convolutional shared, both tasks read the same map; else each its own."""
    network = made(2, 3, branch_after=branch_after)
    for task in ("expression", "identity"):
        assert find_last_convolution(network, task) == wanted.format(task)
        assert isinstance(get_layer(network, find_last_convolution(network, task)), nn.ReLU)


def test_the_last_map_of_many_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten is deeper than nine; vgg16's fully connected layers have no map."""
    assert find_last_convolution(made(2, 2, 2, 2, 2), "identity") == "trunk.relu10"
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    assert find_last_convolution(made(2, trunk="vgg16"), "expression") == "trunk.relu13"
    assert (
        find_last_convolution(made(2, trunk="vgg16", branch_after="conv12"), "expression")
        == "branches.expression.relu13"
    )


def test_a_task_without_a_head_has_no_last_map() -> None:
    with pytest.raises(StudyError) as caught:
        find_last_convolution(made(2), "identities")
    assert str(caught.value) == (
        "this network does not know task 'identities': did you mean 'identity'? Allowed: 'expression', 'identity'."
    )
