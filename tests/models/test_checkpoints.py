"""Checkpoints: equal ones are equal bytes, what is saved comes back, and nothing else passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from facespec.models.checkpoints import Checkpoint, Origin, digest_tensors, load_checkpoint, save_checkpoint
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import Network, Task

CLASSES = {"expression": ("angry", "happy", "sad"), "identity": ("ann", "bob")}
ORIGIN = Origin("finetune", Network.JOINT, 3)
SETTINGS = {
    "preset": {"name": "small", "size": 17, "mean": 0.5},
    "params": {"train": {"epochs": 3, "learning_rate": 0.1}, "branch": None},
    "history": [{"epoch": 1, "task": "identity", "loss": 1 / 3}],
}


def network(seed: int = 1, *, channels: int = 1, tasks: tuple[str, ...] = ("expression", "identity")) -> FaceNetwork:
    block = NetworkBlock(trunk="small_vgg", channels=[3, 5], convolutions=1, branch_after="conv1")
    classes = {task: len(CLASSES[task]) for task in tasks}
    return build_network(block, classes, channels=channels, generator=torch.Generator().manual_seed(seed))


def checkpoint(seed: int = 1, *, channels: int = 1) -> Checkpoint:
    return Checkpoint(network=network(seed, channels=channels), origin=ORIGIN, classes=CLASSES, **SETTINGS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "joint-1.safetensors", checkpoint())
    return tmp_path / "joint-1.safetensors"


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_comes_back(tmp_path: Path, channels: int) -> None:
    saved = checkpoint(channels=channels)
    saved.network.train()
    saved.network(torch.rand((4, channels, 17, 11), generator=torch.Generator().manual_seed(2)))  # moves batch norm
    save_checkpoint(tmp_path / "a" / "x.safetensors", saved)
    back = load_checkpoint(tmp_path / "a" / "x.safetensors", expect=ORIGIN)
    assert (back.origin, back.network_name, back.classes) == (ORIGIN, Network.JOINT, CLASSES)
    assert {"preset": back.preset, "params": back.params, "history": back.history} == SETTINGS
    assert (back.network.block, back.network.channels) == (saved.network.block, channels)
    assert saved.network.training and not any(module.training for module in back.network.modules())
    for name, tensor in saved.network.state_dict().items():
        assert torch.equal(back.network.state_dict()[name], tensor), name
    images = torch.rand((3, channels, 17, 11), generator=torch.Generator().manual_seed(3))
    for task, logits in saved.network.eval()(images).items():
        assert torch.equal(back.network(images)[task], logits)


def test_equal_checkpoints_are_equal_bytes(path: Path) -> None:
    """Whatever the memory format, the mode, the order of dictionaries or the spelling of a task's name."""
    other = checkpoint()
    other.network.to(memory_format=torch.contiguous_format).eval()
    reordered = {Task(task): CLASSES[task] for task in reversed(CLASSES)}
    params = dict(reversed(list(SETTINGS["params"].items())))
    save_checkpoint(path.with_name("other"), replace(other, classes=reordered, params=params))
    assert path.with_name("other").read_bytes() == path.read_bytes()
    save_checkpoint(path.with_name("again"), load_checkpoint(path))
    assert path.with_name("again").read_bytes() == path.read_bytes()
    save_checkpoint(path.with_name("seed"), checkpoint(2))
    assert path.with_name("seed").read_bytes() != path.read_bytes()
    for number, other_origin in enumerate((Origin("train", Network.JOINT, 3), Origin("finetune", Network.JOINT, 4))):
        save_checkpoint(path.with_name(f"origin {number}"), replace(checkpoint(), origin=other_origin))
        assert path.with_name(f"origin {number}").read_bytes() != path.read_bytes()


def test_saving_changes_nothing_about_the_network(tmp_path: Path) -> None:
    own = checkpoint()
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in own.network.state_dict().items()}
    save_checkpoint(tmp_path / "x", own)
    for name, tensor in own.network.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.stride() == before[name][1]
    assert own.network.training


def infinite(own: FaceNetwork) -> None:
    own.trunk.norm1.running_var[1] = torch.inf


def not_a_number(own: FaceNetwork) -> None:
    with torch.no_grad():
        own.heads["identity"].bias[0] = torch.nan


@pytest.mark.parametrize(
    ("spoil", "named"), [(infinite, "trunk.norm1.running_var"), (not_a_number, "heads.identity.bias")]
)
def test_weights_that_are_not_finite_are_not_saved(
    path: Path, spoil: Callable[[FaceNetwork], None], named: str
) -> None:
    before, diverged = path.read_bytes(), checkpoint()
    spoil(diverged.network)
    with pytest.raises(StudyError) as caught:
        save_checkpoint(path, diverged)
    assert str(caught.value) == f"{path}: not written, as these weights are not finite: {named}. Training diverged."
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"classes": {"identity": ("ann", "bob")}},
        {"classes": CLASSES | {"identity": ("ann", "bob", "cy")}},
        {"origin": ORIGIN._replace(network=Network.EXPRESSION)},
    ],
)
def test_classes_that_do_not_fit_are_not_saved(tmp_path: Path, change: dict[str, Any]) -> None:
    own = replace(checkpoint(), **change)
    with pytest.raises(StudyError) as caught:
        save_checkpoint(tmp_path / "x", own)
    named = {task: len(names) for task, names in own.classes.items()}
    assert str(caught.value) == (
        f"{tmp_path}/x: the {own.network_name.value} network has heads of {{'expression': 3, 'identity': 2}} classes, "
        f"but the classes named are of {named}."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_single_task_network_comes_back(tmp_path: Path) -> None:
    origin = Origin("train", Network.IDENTITY, 1)
    own = Checkpoint(network(tasks=("identity",)), origin, {"identity": ("ann", "bob")}, **SETTINGS)
    save_checkpoint(tmp_path / "x", own)
    assert load_checkpoint(tmp_path / "x", expect=origin).network.tasks == ("identity",)


def test_a_digest_knows_names_shapes_types_and_values() -> None:
    zeros = torch.zeros(2, 3, 4, 5)
    same = {"b": torch.zeros(1), "a": zeros.to(memory_format=torch.channels_last)}
    assert digest_tensors({"a": zeros, "b": torch.zeros(1)}) == digest_tensors(same)
    different = [{"a": zeros}, {"b": zeros}, {"a": zeros.reshape(2, 3, 5, 4)}, {"a": zeros.int()}, {"a": zeros + 1}, {}]
    assert len({digest_tensors(tensors) for tensors in different}) == len(different)
    assert digest_tensors({"a": torch.tensor(1.5)}) != digest_tensors({"a": torch.tensor(2.5)})
    assert digest_tensors({"a": zeros.bfloat16()}) not in (
        digest_tensors({"a": zeros}),
        digest_tensors({"a": zeros.bfloat16() + 1}),
    )


def test_a_history_that_is_not_finite_is_not_saved(path: Path) -> None:
    """JSON has no NaN, and other readers of the file would choke on it."""
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        save_checkpoint(path, replace(checkpoint(), history=[{"loss": float("nan")}]))
    assert path.read_bytes() == before
