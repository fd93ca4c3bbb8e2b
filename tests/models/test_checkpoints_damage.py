"""Damaged, foreign and altered checkpoints are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from facespec.models.checkpoints import Checkpoint, digest, load, save
from facespec.models.networks import build
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import Network

CLASSES = {"expression": ("angry", "happy", "sad"), "identity": ("ann", "bob")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The checkpoint of a joint network."""
    block = NetworkBlock(trunk="small_vgg", channels=[3, 5], convolutions=1, branch_after="conv1")
    classes = {task: len(names) for task, names in CLASSES.items()}
    network = build(block, classes, channels=1, generator=torch.Generator().manual_seed(1))
    save(tmp_path / "joint-1.safetensors", Checkpoint(network, Network.JOINT, CLASSES, {"name": "small"}, {}, []))
    return tmp_path / "joint-1.safetensors"


Tensors = dict[str, torch.Tensor]
Damage = Callable[[Path], Any]


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facespec"])  # noqa: SIM118


def rewrite(change: Callable[[Tensors, dict[str, Any]], Any], *, honest: bool = True) -> Damage:
    """Change weights and description; `honest`: with the digest of the new weights, as a foreign program might."""

    def damage(path: Path) -> None:
        tensors, description = read(path)
        change(tensors, description)
        if honest:
            description["weights"] = digest(tensors)
        save_file(tensors, path, {"facespec": json.dumps(description)})

    return damage


def describe(**changes: Any) -> Damage:
    """Change (or with ``...`` remove) entries of the description."""

    def change(_: Tensors, description: dict[str, Any]) -> None:
        description.update(changes)
        for key in [key for key, value in description.items() if value is ...]:
            del description[key]

    return rewrite(change)


def weights(change: Callable[[Tensors], Any], *, honest: bool = True) -> Damage:
    return rewrite(lambda tensors, _: change(tensors), honest=honest)


def cut(at: int) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[:at]) and None


HEAD = "heads.identity.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "gone": (lambda path: path.unlink(), "FILE: no such checkpoint. `dvc repro` trains what is missing."),
    "empty": (cut(0),
        "FILE: not a readable checkpoint (Error while deserializing header: header too small). It may be truncated: "
        "train it again."),
    "cut in its header": (cut(100),
        "FILE: not a readable checkpoint (Error while deserializing header: invalid header length). It may be "
        "truncated: train it again."),
    "cut in its weights": (cut(-1),
        "FILE: not a readable checkpoint (Error while deserializing header: incomplete metadata, file not fully "
        "covered). It may be truncated: train it again."),
    "foreign": (lambda path: save_file({"x": torch.zeros(2)}, path),
        "FILE: a safetensors file, but not a facespec checkpoint: it lacks the 'facespec' entry."),
    "foreign description": (lambda path: save_file({"x": torch.zeros(2)}, path, {"facespec": "hello"}),
        "FILE: a safetensors file, but not a facespec checkpoint: it lacks the 'facespec' entry."),
    "description of nothing": (lambda path: save_file({"x": torch.zeros(2)}, path, {"facespec": "[1]"}),
        "FILE: a safetensors file, but not a facespec checkpoint: it lacks the 'facespec' entry."),
    "another version": (describe(version=2), "FILE: checkpoint format 2; this facespec reads 1. Train it again."),
    "no version": (describe(version=...), "FILE: checkpoint format None; this facespec reads 1. Train it again."),
    "altered": (weights(lambda t: t[HEAD][0].add_(1), honest=False),
        "FILE: the weights were altered after the file was written. Train it again."),
    "altered by one bit": (weights(lambda t: t[HEAD].view(torch.int32)[0, 0].bitwise_xor_(1), honest=False),
        "FILE: the weights were altered after the file was written. Train it again."),
    "renamed": (weights(lambda t: t.update({"x": t.pop(HEAD)}), honest=False),
        "FILE: the weights were altered after the file was written. Train it again."),
    "transposed": (weights(lambda t: t.update({HEAD: t[HEAD].reshape(5, 2)}), honest=False),
        "FILE: the weights were altered after the file was written. Train it again."),
    "a weight missing": (weights(lambda t: t.pop(HEAD)),
        "FILE: the weights do not fit the network it describes: missing heads.identity.weight."),
    "a weight too many": (weights(lambda t: t.update(extra=torch.zeros(3))),
        "FILE: the weights do not fit the network it describes: unexpected extra."),
    "reshaped": (weights(lambda t: t.update({HEAD: torch.zeros(2, 6)})),
        "FILE: the weights do not fit the network it describes: heads.identity.weight is float32 (2, 6), needs "
        "float32 (2, 5)."),
    "another type": (weights(lambda t: t.update({HEAD: t[HEAD].double()})),
        "FILE: the weights do not fit the network it describes: heads.identity.weight is float64 (2, 5), needs "
        "float32 (2, 5)."),
    "a type that numpy lacks": (weights(lambda t: t.update({HEAD: t[HEAD].bfloat16()})),
        "FILE: the weights do not fit the network it describes: heads.identity.weight is bfloat16 (2, 5), needs "
        "float32 (2, 5)."),
    "several": (weights(lambda t: t.update(b=t.pop(HEAD), a=t.pop("trunk.conv1.weight"))),
        "FILE: the weights do not fit the network it describes: missing heads.identity.weight; missing "
        "trunk.conv1.weight; unexpected a; unexpected b."),
    "more classes than weights": (describe(classes={"expression": ["a", "b", "c"], "identity": ["x", "y", "z"]}),
        "FILE: the weights do not fit the network it describes: heads.identity.bias is float32 (2,), needs float32 "
        "(3,); heads.identity.weight is float32 (2, 5), needs float32 (3, 5)."),
    "unknown network": (describe(network_name="jiont"),
        'FILE: its description is not one of a facespec checkpoint (ValueError("\'jiont\' is not a valid Network")). '
        "Train it again."),
    "no preset": (describe(preset=...),
        "FILE: its description is not one of a facespec checkpoint (KeyError('preset')). Train it again."),
    "classes of nothing": (describe(classes=None),
        'FILE: its description is not one of a facespec checkpoint (AttributeError("\'NoneType\' object has no '
        'attribute \'items\'")). Train it again.'),
    "an unknown task": (describe(classes={"mood": ["x", "y"]}),
        "FILE: unknown task 'mood': Allowed: 'expression', 'identity'."),
    "a single-task network of two tasks": (describe(network_name="identity"),
        "FILE: the identity network has heads of {'expression': 3, 'identity': 2} classes, but the classes named are "
        "of {'expression': 3, 'identity': 2}."),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named(path: Path, case: str) -> None:
    damage, wanted = DAMAGES[case]
    damage(path)
    with pytest.raises(StudyError) as caught:
        load(path)
    assert str(caught.value).replace(str(path), "FILE") == wanted


@pytest.mark.parametrize(
    "damage",
    [
        describe(architecture={"trunk": "resnet"}),
        describe(architecture=7),
        describe(channels="x"),
        describe(channels=-1),
        describe(classes={"identity": 3}),
    ],
)
def test_a_description_that_makes_no_network_is_refused_by_name(path: Path, damage: Damage) -> None:
    """The middle of the message is that of the library which failed."""
    damage(path)
    with pytest.raises(StudyError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: its description is not one of a facespec checkpoint (")
    assert str(caught.value).endswith("). Train it again.")


def test_another_network_than_expected(path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        load(path, expect=Network.IDENTITY)
    assert str(caught.value) == f"{path}: holds the joint network, expected the identity network."
