"""Weights that travel with all it takes to use them: preprocessing, classes, params and history, in one file.

A file is safetensors with one metadata entry, ``facespec``, a JSON object with sorted keys. One entry only, because the
order of several is not fixed; so equal checkpoints are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from facespec.models.networks import FaceNetwork, build
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.storage import write_bytes
from facespec.study.vocabulary import Network

VERSION = 1
ENTRY = "facespec"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and what it was trained with.

    `classes` names the classes of each task in the order of the logits; `preset` describes how images become input
    (`data.batches.Preset` as a dict); `params` are the parameters it was made with; `history` has one row per epoch and
    task. The last three are plain JSON values.
    """

    network: FaceNetwork
    network_name: Network
    classes: dict[str, tuple[str, ...]]
    preset: dict[str, Any]
    params: dict[str, Any]
    history: list[dict[str, Any]]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, atomically; equal checkpoints give equal bytes.

    Raises `StudyError` if its classes do not fit its network or a weight is not finite.
    """
    _check_classes(path, checkpoint)
    # safetensors knows no memory format: weights are written in the usual order, and found again in the network's own
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.network.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise StudyError(
            f"{path}: not written, as these weights are not finite: {', '.join(broken)}. Training diverged."
        )
    description = {
        "version": VERSION,
        "network_name": Network(checkpoint.network_name).value,
        "architecture": checkpoint.network.block.model_dump(),
        "channels": checkpoint.network.channels,
        "classes": {task: list(names) for task, names in checkpoint.classes.items()},
        "preset": checkpoint.preset,
        "params": checkpoint.params,
        "history": checkpoint.history,
        "weights": digest(tensors),
    }
    text = json.dumps(description, sort_keys=True, allow_nan=False)
    write_bytes(path, to_bytes(tensors, {ENTRY: text}))


def load(path: Path, *, expect: Network | None = None) -> Checkpoint:
    """Read the checkpoint at `path`; the network is on the CPU, in evaluation mode.

    Strict: raises `StudyError`, naming the file and what is wrong, for a missing, foreign, truncated or altered file,
    for weights that are missing, superfluous or of another shape, and for another network than `expect`.
    """
    description, tensors = _read(path)
    if description.get("version") != VERSION:
        raise StudyError(
            f"{path}: checkpoint format {description.get('version')!r}; this facespec reads {VERSION}. Train it again."
        )
    if digest(tensors) != description.get("weights"):
        raise StudyError(f"{path}: the weights were altered after the file was written. Train it again.")
    try:
        name = Network(description["network_name"])
        classes = {task: tuple(names) for task, names in description["classes"].items()}
        network = _rebuilt(description, {task: len(names) for task, names in classes.items()}, tensors)
        rest = {key: description[key] for key in ("preset", "params", "history")}
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"{path}: its description is not one of a facespec checkpoint ({error!r}). Train it again."
        ) from error
    if expect is not None and name is not Network(expect):
        raise StudyError(f"{path}: holds the {name.value} network, expected the {Network(expect).value} network.")
    checkpoint = Checkpoint(network=network, network_name=name, classes=classes, **rest)
    _check_classes(path, checkpoint)
    return checkpoint


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, whatever their order, device and memory format."""
    content = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        content.update(f"{name} {_kind(tensor)}\n".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # bytes: numpy does not know every type
    return content.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(ENTRY)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if text else {}  # noqa: SIM118
    except FileNotFoundError:
        raise StudyError(f"{path}: no such checkpoint. `dvc repro` trains what is missing.") from None
    except (SafetensorError, OSError) as error:
        raise StudyError(f"{path}: not a readable checkpoint ({error}). It may be truncated: train it again.") from None
    try:
        description = json.loads(text or "")
    except ValueError:
        description = None
    if not isinstance(description, dict):
        raise StudyError(f"{path}: a safetensors file, but not a facespec checkpoint: it lacks the {ENTRY!r} entry.")
    return description, tensors


def _rebuilt(description: dict[str, Any], classes: dict[str, int], tensors: dict[str, torch.Tensor]) -> FaceNetwork:
    block = NetworkBlock.model_validate(description["architecture"])
    # these weights are overwritten one and all; the seed is of no consequence
    network = build(block, classes, channels=description["channels"], generator=torch.Generator().manual_seed(0))
    wanted = network.state_dict()
    problems = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & tensors.keys()):
        got, needed = tensors[name], wanted[name]
        if (got.shape, got.dtype) != (needed.shape, needed.dtype):
            problems.append(f"{name} is {_kind(got)}, needs {_kind(needed)}")
    if problems:
        raise StudyError(f"the weights do not fit the network it describes: {'; '.join(problems)}.")
    network.load_state_dict(tensors)
    return network.eval()


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _check_classes(path: Path, checkpoint: Checkpoint) -> None:
    name, network = Network(checkpoint.network_name), checkpoint.network
    named = {task: len(names) for task, names in checkpoint.classes.items()}
    if named != network.classes or set(named) != {task.value for task in name.tasks}:
        raise StudyError(
            f"{path}: the {name.value} network has heads of {network.classes} classes, "
            f"but the classes named are of {named}."
        )
