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

from facespec.models.checkpoints import Checkpoint, Origin, load_checkpoint, save_checkpoint
from facespec.models.networks import build_network
from facespec.study.arrays import write_arrays
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import Network

ORIGIN = Origin("finetune", Network.JOINT, 2)
CLASSES = {"expression": ("angry", "happy", "sad"), "identity": ("ann", "bob")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The checkpoint of a joint network."""
    block = NetworkBlock(trunk="small_vgg", channels=[3, 5], convolutions=1, branch_after="conv1")
    classes = {task: len(names) for task, names in CLASSES.items()}
    network = build_network(block, classes, channels=1, generator=torch.Generator().manual_seed(1))
    save_checkpoint(tmp_path / "joint-1.safetensors", Checkpoint(network, ORIGIN, CLASSES, {"name": "small"}, {}, []))
    return tmp_path / "joint-1.safetensors"


Tensors = dict[str, torch.Tensor]
Damage = Callable[[Path], Any]


def rewrite(change: Callable[[Tensors, dict[str, Any]], Any], *, honest: bool = True) -> Damage:
    """Change weights and description; `honest`: with the digest of the new content, as a foreign program might."""

    def damage(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            head = json.loads(file.metadata()["facespec"])
        change(tensors, head["description"])
        if honest:
            write_arrays(path, head["description"], {name: tensor.numpy() for name, tensor in tensors.items()})
        else:
            save_file(tensors, path, {"facespec": json.dumps(head)})

    return damage


def describe(*, honest: bool = True, **changes: Any) -> Damage:
    """Change (or with ``...`` remove) entries of the description."""

    def change(_: Tensors, description: dict[str, Any]) -> None:
        description.update(changes)
        for key in [key for key, value in description.items() if value is ...]:
            del description[key]

    return rewrite(change, honest=honest)


def weights(change: Callable[[Tensors], Any], *, honest: bool = True) -> Damage:
    return rewrite(lambda tensors, _: change(tensors), honest=honest)


def cut(at: int) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[:at]) and None


def describe_origin(**changes: Any) -> dict[str, Any]:
    return {"stage": "finetune", "network": "joint", "seed": 2} | changes


HEAD = "heads.identity.weight"
ALTERED = "FILE: not the content that was written there: altered or damaged. Train it again."
ABSENT = "FILE: not a file of arrays with a description: its 'facespec' entry is absent. Train it again."
DAMAGES: dict[str, tuple[Damage, str]] = {
    "gone": (lambda path: path.unlink(), "FILE: no such checkpoint. `facespec repro` trains what is missing."),
    "empty": (
        cut(0),
        "FILE: not a file of arrays (Error while deserializing header: header too small). It may be cut or damaged. "
        "Train it again.",
    ),
    "cut in its header": (
        cut(100),
        "FILE: not a file of arrays (Error while deserializing header: invalid header length). It may be cut or "
        "damaged. Train it again.",
    ),
    "cut in its weights": (
        cut(-1),
        "FILE: not a file of arrays (Error while deserializing header: incomplete metadata, file not fully covered). "
        "It may be cut or damaged. Train it again.",
    ),
    "foreign": (lambda path: save_file({"x": torch.zeros(2)}, path), ABSENT),
    "foreign description": (
        lambda path: save_file({"x": torch.zeros(2)}, path, {"facespec": "hello"}),
        "FILE: not a file of arrays (Expecting value: line 1 column 1 (char 0)). It may be cut or damaged. "
        "Train it again.",
    ),
    "description of nothing": (lambda path: save_file({"x": torch.zeros(2)}, path, {"facespec": "[1]"}), ABSENT),
    "another version": (describe(version=1), "FILE: checkpoint format 1; this facespec reads 2. Train it again."),
    "no version": (describe(version=...), "FILE: checkpoint format None; this facespec reads 2. Train it again."),
    "altered": (weights(lambda t: t[HEAD][0].add_(1), honest=False), ALTERED),
    "altered by one bit": (weights(lambda t: t[HEAD].view(torch.int32)[0, 0].bitwise_xor_(1), honest=False), ALTERED),
    "renamed": (weights(lambda t: t.update({"x": t.pop(HEAD)}), honest=False), ALTERED),
    "transposed": (weights(lambda t: t.update({HEAD: t[HEAD].reshape(5, 2)}), honest=False), ALTERED),
    "a weight missing": (
        weights(lambda t: t.pop(HEAD)),
        "FILE: the weights do not fit the network it describes: missing heads.identity.weight.",
    ),
    "a weight too many": (
        weights(lambda t: t.update(extra=torch.zeros(3))),
        "FILE: the weights do not fit the network it describes: unexpected extra.",
    ),
    "reshaped": (
        weights(lambda t: t.update({HEAD: torch.zeros(2, 6)})),
        "FILE: the weights do not fit the network it describes: heads.identity.weight is float32 (2, 6), needs "
        "float32 (2, 5).",
    ),
    "another type": (
        weights(lambda t: t.update({HEAD: t[HEAD].double()})),
        "FILE: the weights do not fit the network it describes: heads.identity.weight is float64 (2, 5), needs "
        "float32 (2, 5).",
    ),
    "a type that numpy lacks": (
        weights(lambda t: t.update({HEAD: t[HEAD].bfloat16()}), honest=False),
        "FILE: not a file of arrays (data type 'bfloat16' not understood). It may be cut or damaged. Train it again.",
    ),
    "several": (
        weights(lambda t: t.update(b=t.pop(HEAD), a=t.pop("trunk.conv1.weight"))),
        "FILE: the weights do not fit the network it describes: missing heads.identity.weight; missing "
        "trunk.conv1.weight; unexpected a; unexpected b.",
    ),
    "more classes than weights": (
        describe(classes={"expression": ["a", "b", "c"], "identity": ["x", "y", "z"]}),
        "FILE: the weights do not fit the network it describes: heads.identity.bias is float32 (2,), needs float32 "
        "(3,); heads.identity.weight is float32 (2, 5), needs float32 (3, 5).",
    ),
    "other classes, as many": (
        describe(classes={"expression": ["angry", "sad", "happy"], "identity": ["ann", "bob"]}, honest=False),
        ALTERED,
    ),
    "another preset": (describe(preset={"name": "large"}, honest=False), ALTERED),
    "another origin": (describe(origin=describe_origin(seed=3), honest=False), ALTERED),
    "no origin": (
        describe(origin=...),
        "FILE: its description is not one of a facespec checkpoint (KeyError('origin')). Train it again.",
    ),
    "unknown network": (
        describe(origin=describe_origin(network="jiont")),
        "FILE: its description is not one of a facespec checkpoint (ValueError(\"'jiont' is not a valid Network\")). "
        "Train it again.",
    ),
    "no preset": (
        describe(preset=...),
        "FILE: its description is not one of a facespec checkpoint (KeyError('preset')). Train it again.",
    ),
    "classes of nothing": (
        describe(classes=None),
        "FILE: its description is not one of a facespec checkpoint (AttributeError(\"'NoneType' object has no "
        "attribute 'items'\")). Train it again.",
    ),
    "an unknown task": (
        describe(classes={"mood": ["x", "y"]}),
        "FILE: unknown task 'mood': Allowed: 'expression', 'identity'.",
    ),
    "a single-task network of two tasks": (
        describe(origin=describe_origin(network="identity")),
        "FILE: the identity network has heads of {'expression': 3, 'identity': 2} classes, but the classes named are "
        "of {'expression': 3, 'identity': 2}.",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named(path: Path, case: str) -> None:
    damage, wanted = DAMAGES[case]
    damage(path)
    with pytest.raises(StudyError) as caught:
        load_checkpoint(path)
    assert str(caught.value).replace(str(path), "FILE") == wanted


@pytest.mark.parametrize(
    "damage",
    [
        describe(architecture={"trunk": "resnet"}),
        describe(architecture=7),
        describe(channels="x"),
        describe(channels=-1),
        describe(classes={"identity": 3}),
        describe(origin=7),
        describe(origin={"stage": "train"}),
        describe(origin=describe_origin(fold=1)),
    ],
)
def test_a_description_that_makes_no_network_is_refused_by_name(path: Path, damage: Damage) -> None:
    """The middle of the message is that of the library which failed."""
    damage(path)
    with pytest.raises(StudyError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: its description is not one of a facespec checkpoint (")
    assert str(caught.value).endswith("). Train it again.")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (ORIGIN._replace(stage="train"), "joint network of seed 2 after train"),
        (ORIGIN._replace(network=Network.IDENTITY), "identity network of seed 2 after finetune"),
        (ORIGIN._replace(seed=1), "joint network of seed 1 after finetune"),
    ],
)
def test_the_checkpoint_of_another_fit_is_refused(path: Path, other: Origin, named: str) -> None:
    assert load_checkpoint(path, expect=ORIGIN).origin == ORIGIN
    with pytest.raises(StudyError) as caught:
        load_checkpoint(path, expect=other)
    assert str(caught.value) == (
        f"{path}: holds the joint network of seed 2 after finetune, expected the {named}. Put the right file there, or "
        "remove it: `facespec repro` makes what is missing."
    )


@pytest.mark.parametrize("wrong", [describe_origin(seed="2"), describe_origin(seed=2.5), describe_origin(stage=None)])
def test_an_origin_of_other_types_is_not_the_one_expected(path: Path, wrong: dict[str, Any]) -> None:
    describe(origin=wrong)(path)
    with pytest.raises(StudyError, match="expected the joint network of seed 2 after finetune"):
        load_checkpoint(path, expect=ORIGIN)
