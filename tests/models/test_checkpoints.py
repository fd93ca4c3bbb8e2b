"""Checkpoints: equal ones are equal bytes, all of it is read back, and damaged or foreign files are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from facespec.models.checkpoints import Checkpoint, Origin, digest_tensors, load_checkpoint, save_checkpoint
from facespec.study.arrays import write_arrays
from facespec.study.errors import StudyError
from facespec.study.presets import Preset
from facespec.study.vocabulary import Network, Task
from toys import make_network, random_images

CLASSES = {"expression": ("angry", "happy", "sad"), "identity": ("ann", "bob")}
ORIGIN = Origin("finetune", Network.JOINT, 2)
PRESET = Preset("small", 17, 1, resize=None, shift=1, flip=True, grey_probability=0.0)
PARAMS = {"train": {"epochs": 3, "learning_rate": 0.1}, "branch": None}
HISTORY = [{"epoch": 1, "task": "identity", "loss": 1 / 3}]


def make_checkpoint(
    seed: int = 1, *, channels: int = 1, origin: Origin = ORIGIN, classes: dict[str, tuple[str, ...]] = CLASSES
) -> Checkpoint:
    counts = {task: len(names) for task, names in classes.items()}
    network = make_network((3, 5), branch_after="conv1", channels=channels, classes=counts, seed=seed)
    return Checkpoint(network, origin, classes, PRESET, PARAMS, HISTORY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "joint-1.safetensors", make_checkpoint())
    return tmp_path / "joint-1.safetensors"


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_is_read_back(tmp_path: Path, channels: int) -> None:
    saved = make_checkpoint(channels=channels)
    saved.network.train()(random_images(4, channels))  # changes batch norm
    save_checkpoint(tmp_path / "a" / "x.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "a" / "x.safetensors", expect=ORIGIN)
    assert (loaded.origin, loaded.network_name, loaded.classes) == (ORIGIN, Network.JOINT, CLASSES)
    assert (loaded.preset, loaded.params, loaded.history) == (PRESET, PARAMS, HISTORY)
    assert (loaded.network.block, loaded.network.channels) == (saved.network.block, channels)
    assert saved.network.training and not any(module.training for module in loaded.network.modules())
    for name, tensor in saved.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
    for task, logits in saved.network.eval()(random_images(3, channels)).items():
        assert torch.equal(loaded.network(random_images(3, channels))[task], logits)


def test_a_single_task_network_is_read_back(tmp_path: Path) -> None:
    origin = Origin("train", Network.IDENTITY, 1)
    save_checkpoint(tmp_path / "x", make_checkpoint(origin=origin, classes={"identity": ("ann", "bob")}))
    assert load_checkpoint(tmp_path / "x", expect=origin).network.tasks == ("identity",)


def test_equal_checkpoints_are_equal_bytes(path: Path) -> None:
    """Whatever the memory format, the mode, the order of dictionaries or the spelling of a task's name."""

    def encode(checkpoint: Checkpoint) -> bytes:
        save_checkpoint(path.with_name("other"), checkpoint)
        return path.with_name("other").read_bytes()

    reordered = {Task(task): CLASSES[task] for task in reversed(CLASSES)}
    equal = replace(make_checkpoint(), classes=reordered, params=dict(reversed(PARAMS.items())))
    equal.network.to(memory_format=torch.contiguous_format).train()
    assert encode(equal) == encode(load_checkpoint(path)) == path.read_bytes()
    for different in (
        make_checkpoint(2),
        make_checkpoint(origin=ORIGIN._replace(stage="train")),
        make_checkpoint(origin=ORIGIN._replace(seed=4)),
        replace(make_checkpoint(), preset=replace(PRESET, shift=2)),
    ):
        assert encode(different) != path.read_bytes()


def test_saving_does_not_change_the_network(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    checkpoint.network.train()
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in checkpoint.network.state_dict().items()}
    save_checkpoint(tmp_path / "x", checkpoint)
    for name, tensor in checkpoint.network.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.stride() == before[name][1]
    assert checkpoint.network.training


@pytest.mark.parametrize(
    ("weight", "value"), [("trunk.norm1.running_var", torch.inf), ("heads.identity.bias", torch.nan)]
)
def test_weights_that_are_not_finite_are_not_saved(path: Path, weight: str, value: float) -> None:
    before, diverged = path.read_bytes(), make_checkpoint()
    diverged.network.state_dict()[weight][1] = value
    with pytest.raises(StudyError, match=f"not written, .* not finite: {re.escape(weight)}. Training diverged"):
        save_checkpoint(path, diverged)
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
    checkpoint = replace(make_checkpoint(), **change)
    counts = {task: len(names) for task, names in checkpoint.classes.items()}
    message = f"has heads of {{'expression': 3, 'identity': 2}} classes, but the classes named are of {counts}."
    with pytest.raises(StudyError, match=f"the {checkpoint.network_name.value} network {re.escape(message)}"):
        save_checkpoint(tmp_path / "x", checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_is_not_finite_is_not_saved(path: Path) -> None:
    """JSON has no NaN; other readers of the file would fail."""
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        save_checkpoint(path, replace(make_checkpoint(), history=[{"loss": float("nan")}]))
    assert path.read_bytes() == before


def test_a_digest_depends_on_names_shapes_types_and_values() -> None:
    zeros = torch.zeros(2, 3, 4, 5)
    reordered = {"b": torch.zeros(1), "a": zeros.to(memory_format=torch.channels_last)}
    assert digest_tensors({"a": zeros, "b": torch.zeros(1)}) == digest_tensors(reordered)
    different = [zeros, zeros.reshape(2, 3, 5, 4), zeros.int(), zeros + 1, zeros.bfloat16(), zeros.bfloat16() + 1]
    assert len({digest_tensors({"a": tensor}) for tensor in different}) == len(different)
    assert digest_tensors({"b": zeros}) != digest_tensors({"a": zeros}) != digest_tensors({})
    assert digest_tensors({"a": torch.tensor(1.5)}) != digest_tensors({"a": torch.tensor(2.5)})


# -- damaged, foreign and altered files

Tensors = dict[str, torch.Tensor]
Damage = Callable[[Path], Any]


def rewrite(change: Callable[[Tensors, dict[str, Any]], Any], *, valid_digest: bool = True) -> Damage:
    """Change weights and description; with a `valid_digest` of the new content, as another program might."""

    def damage(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            entry = json.loads(file.metadata()["facespec"])
        change(tensors, entry["description"])
        if valid_digest:
            write_arrays(path, entry["description"], {name: tensor.numpy() for name, tensor in tensors.items()})
        else:
            save_file(tensors, path, {"facespec": json.dumps(entry)})

    return damage


def describe(*, valid_digest: bool = True, **changes: Any) -> Damage:
    """Change (or with ``...`` remove) entries of the description."""

    def change(_: Tensors, description: dict[str, Any]) -> None:
        description.update(changes)
        for key in [key for key, value in description.items() if value is ...]:
            del description[key]

    return rewrite(change, valid_digest=valid_digest)


def change_weights(change: Callable[[Tensors], Any], *, valid_digest: bool = True) -> Damage:
    return rewrite(lambda tensors, _: change(tensors), valid_digest=valid_digest)


def truncate(end: int) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[:end]) and None


def describe_origin(**changes: Any) -> dict[str, Any]:
    return {"stage": "finetune", "network": "joint", "seed": 2} | changes


HEAD = "heads.identity.weight"
ALTERED = "not the content that was written there: altered or damaged. Train it again."
ABSENT = "its 'facespec' entry is absent. Train it again."
NO_ARRAYS = "not a file of arrays ("
MISFIT = "the weights do not fit the network it describes: "
NO_CHECKPOINT = "its description is not one of a facespec checkpoint ("
FOREIGN = {"x": torch.zeros(2)}
DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda path: path.unlink(), "no such checkpoint. `facespec repro` trains what is missing."),
    "empty": (truncate(0), NO_ARRAYS),
    "truncated in its header": (truncate(100), NO_ARRAYS),
    "truncated in its weights": (truncate(-1), "It may be cut or damaged. Train it again."),
    "foreign": (lambda path: save_file(FOREIGN, path), ABSENT),
    "foreign description": (lambda path: save_file(FOREIGN, path, {"facespec": "hello"}), NO_ARRAYS),
    "description of another type": (lambda path: save_file(FOREIGN, path, {"facespec": "[1]"}), ABSENT),
    "another version": (describe(version=1), "checkpoint format 1; this facespec reads 2. Train it again."),
    "no version": (describe(version=...), "checkpoint format None; this facespec reads 2. Train it again."),
    "altered": (change_weights(lambda t: t[HEAD][0].add_(1), valid_digest=False), ALTERED),
    "one bit": (change_weights(lambda t: t[HEAD].view(torch.int32)[0, 0].bitwise_xor_(1), valid_digest=False), ALTERED),
    "renamed": (change_weights(lambda t: t.update({"x": t.pop(HEAD)}), valid_digest=False), ALTERED),
    "reshaped": (change_weights(lambda t: t.update({HEAD: t[HEAD].reshape(5, 2)}), valid_digest=False), ALTERED),
    "missing weight": (change_weights(lambda t: t.pop(HEAD)), f"{MISFIT}missing {HEAD}."),
    "additional weight": (change_weights(lambda t: t.update(extra=torch.zeros(3))), f"{MISFIT}unexpected extra."),
    "another shape": (
        change_weights(lambda t: t.update({HEAD: torch.zeros(2, 6)})),
        f"{MISFIT}{HEAD} is float32 (2, 6), needs float32 (2, 5).",
    ),
    "another type": (
        change_weights(lambda t: t.update({HEAD: t[HEAD].double()})),
        f"{MISFIT}{HEAD} is float64 (2, 5), needs float32 (2, 5).",
    ),
    "a type that numpy lacks": (
        change_weights(lambda t: t.update({HEAD: t[HEAD].bfloat16()}), valid_digest=False),
        f"{NO_ARRAYS}data type 'bfloat16' not understood). It may be cut or damaged. Train it again.",
    ),
    "several problems": (
        change_weights(lambda t: t.update(b=t.pop(HEAD), a=t.pop("trunk.conv1.weight"))),
        f"{MISFIT}missing {HEAD}; missing trunk.conv1.weight; unexpected a; unexpected b.",
    ),
    "more classes than weights": (
        describe(classes={"expression": ["a", "b", "c"], "identity": ["x", "y", "z"]}),
        "heads.identity.bias is float32 (2,), needs float32 (3,)",
    ),
    "other classes": (
        describe(classes={"expression": ["angry", "sad", "happy"], "identity": ["ann", "bob"]}, valid_digest=False),
        ALTERED,
    ),
    "another preset": (describe(preset={"name": "large"}, valid_digest=False), ALTERED),
    "another origin": (describe(origin=describe_origin(seed=3), valid_digest=False), ALTERED),
    "no origin": (describe(origin=...), f"{NO_CHECKPOINT}KeyError('origin')). Train it again."),
    "unknown network": (describe(origin=describe_origin(network="jiont")), "'jiont' is not a valid Network"),
    "no preset": (describe(preset=...), f"{NO_CHECKPOINT}KeyError('preset')). Train it again."),
    "incomplete preset": (describe(preset={"name": "small"}), "missing 6 required positional arguments: 'size'"),
    "impossible preset": (
        describe(preset=vars(PRESET) | {"std": 0}),
        "preset 'small': mean 0.5 and std 0; both finite, std above 0. Train it again.",
    ),
    "no classes": (describe(classes=None), f"{NO_CHECKPOINT}AttributeError("),
    "unknown task": (describe(classes={"mood": ["x", "y"]}), "unknown task 'mood': Allowed: 'expression', 'identity'."),
    "two tasks in a single-task network": (
        describe(origin=describe_origin(network="identity")),
        "the identity network has heads of {'expression': 3, 'identity': 2} classes",
    ),
    "unknown trunk": (describe(architecture={"trunk": "resnet"}), NO_CHECKPOINT),
    "no architecture": (describe(architecture=7), NO_CHECKPOINT),
    "channels of another type": (describe(channels="x"), NO_CHECKPOINT),
    "negative channels": (describe(channels=-1), NO_CHECKPOINT),
    "classes of another type": (describe(classes={"identity": 3}), NO_CHECKPOINT),
    "origin of another type": (describe(origin=7), NO_CHECKPOINT),
    "incomplete origin": (describe(origin={"stage": "train"}), NO_CHECKPOINT),
    "origin with another entry": (describe(origin=describe_origin(fold=1)), NO_CHECKPOINT),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_refused_with_its_name_and_the_problem(path: Path, case: str) -> None:
    damage, message = DAMAGES[case]
    damage(path)
    with pytest.raises(StudyError, match=f"^{re.escape(str(path))}: .*{re.escape(message)}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (ORIGIN._replace(stage="train"), "joint network of seed 2 after train"),
        (ORIGIN._replace(network=Network.IDENTITY), "identity network of seed 2 after finetune"),
        (ORIGIN._replace(seed=1), "joint network of seed 1 after finetune"),
    ],
)
def test_the_checkpoint_of_another_fit_is_refused(path: Path, other: Origin, name: str) -> None:
    message = f"{path}: holds the joint network of seed 2 after finetune, expected the {name}. Put the right file there"
    with pytest.raises(StudyError, match=re.escape(message)):
        load_checkpoint(path, expect=other)


@pytest.mark.parametrize("origin", [describe_origin(seed="2"), describe_origin(seed=2.5), describe_origin(stage=None)])
def test_an_origin_of_other_types_is_not_the_one_expected(path: Path, origin: dict[str, Any]) -> None:
    describe(origin=origin)(path)
    with pytest.raises(StudyError, match="expected the joint network of seed 2 after finetune"):
        load_checkpoint(path, expect=ORIGIN)
