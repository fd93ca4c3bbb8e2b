"""Layers are looked up by name, in any module; convolutions come in depth order."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from facespec.models import trunks
from facespec.models.layers import find_last_convolution, find_rectifier, get_layer, list_convolutions, parse_depth
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError
from toys import make_network


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", tuple((2,) * len(widths) for widths in trunks.VGG16_BLOCKS))


def build(blocks: int, branch_after: str | None = None, trunk: str = "small_vgg") -> FaceNetwork:
    """Blocks of two convolutions."""
    return make_network((2,) * blocks, convolutions=2, branch_after=branch_after, trunk=trunk)


def test_convolutions_come_in_depth_order() -> None:
    """Ten is deeper than nine; branches of equal depth come side by side."""
    assert list_convolutions(build(5)) == [f"trunk.conv{i}" for i in range(1, 11)]
    branches = [f"branches.{task}.conv{i}" for i in (3, 4) for task in ("expression", "identity")]
    assert list_convolutions(build(2, "conv2")) == ["trunk.conv1", "trunk.conv2", *branches]
    vgg16 = build(1, "conv12", "vgg16")
    assert list_convolutions(vgg16)[11:] == ["trunk.conv12", "branches.expression.conv13", "branches.identity.conv13"]


def test_depth_is_the_number_at_the_end_of_a_name() -> None:
    assert [parse_depth(name) for name in ("trunk.conv1", "branches.identity.conv13", "trunk.relu10")] == [1, 13, 10]
    with pytest.raises(StudyError, match=r"'trunk2\.average' has no depth: its name does not end in a number"):
        parse_depth("trunk2.average")


def test_a_layer_is_the_module_of_that_name() -> None:
    network = build(2, "conv2")
    assert get_layer(network, "trunk.norm2") is network.trunk.norm2
    assert get_layer(network, "branches.identity.conv3") is network.branches["identity"].conv3
    assert get_layer(network, "heads.expression") is network.heads["expression"]
    assert get_layer(network, "trunk", sections=True) is network.trunk


def test_layers_of_any_module_have_names() -> None:
    """A module used under two names has both; sections of other networks are layers, lists of modules are not."""
    relu = nn.ReLU()
    with torch.device("meta"):  # draws no weights
        first, second = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)
    network = nn.Sequential(first, relu, nn.Sequential(second, relu), nn.ModuleList([relu]))
    assert get_layer(network, "1") is get_layer(network, "2.1") is relu and get_layer(network, "2") is network[2]
    assert list_convolutions(network) == ["0", "2.0"]
    for sections in (False, True):
        with pytest.raises(StudyError, match=r"no layer '3': did you mean '3\.0'"):
            get_layer(network, "3", sections=sections)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("trunk.conv9", "trunk.conv2"), ("trunk", "trunk.relu2"), ("branches.identity", "heads.identity"), ("", None)],
)
def test_unknown_names_and_sections_are_refused(name: str, nearest: str | None) -> None:
    hint = f"did you mean {nearest!r}? " if nearest else ""
    allowed = "Allowed: 'trunk.conv1', 'trunk.norm1', 'trunk.relu1', 'trunk.conv2', 'trunk.norm2', 'trunk.relu2', 'trun"
    with pytest.raises(StudyError, match=re.escape(f"this network has no layer {name!r}: {hint}{allowed}")):
        get_layer(build(1), name)


def test_the_relu_behind_a_convolution() -> None:
    network = build(5, "conv9")
    for name in list_convolutions(network):
        section, _, convolution = name.rpartition(".")
        siblings = list(dict(network.get_submodule(section).named_children()))
        later = siblings[siblings.index(convolution) :]
        assert find_rectifier(network, name) == f"{section}.{next(x for x in later if x.startswith('relu'))}"
    with pytest.raises(StudyError, match=r"no convolution 'trunk\.relu1': did you mean 'trunk\.conv1'"):
        find_rectifier(network, "trunk.relu1")


@pytest.mark.parametrize(
    ("blocks", "branch_after", "trunk", "expected"),
    [
        (2, None, "small_vgg", "trunk.relu4"),
        (2, "conv1", "small_vgg", "branches.{}.relu4"),
        (2, "conv3", "small_vgg", "branches.{}.relu4"),
        (2, "conv4", "small_vgg", "trunk.relu4"),
        (5, None, "small_vgg", "trunk.relu10"),  # ten is deeper than nine
        (1, None, "vgg16", "trunk.relu13"),  # fully connected layers have no map
        (1, "conv12", "vgg16", "branches.{}.relu13"),
    ],
)
def test_the_last_map_before_a_head(blocks: int, branch_after: str | None, trunk: str, expected: str) -> None:
    network = build(blocks, branch_after, trunk)
    for task in ("expression", "identity"):
        assert find_last_convolution(network, task) == expected.format(task)
        assert isinstance(get_layer(network, expected.format(task)), nn.ReLU)


def test_a_task_without_a_head_is_refused() -> None:
    with pytest.raises(StudyError, match="does not know task 'identities': did you mean 'identity'"):
        find_last_convolution(build(1), "identities")
