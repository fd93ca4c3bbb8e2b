"""Weights that travel with all it takes to use them: preprocessing, classes, params and history, in one file.

A file of `study.artefacts.write_arrays`: its digest covers weights and description; equal checkpoints are equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from facespec.models.networks import FaceNetwork, build_network
from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import Network

VERSION = 2  # 1 had neither stage nor seed, and a digest of the weights alone
REMEDY = "Train it again."


class Origin(NamedTuple):
    """Which fit the weights come from: `stage` (``train`` or ``finetune``), network, and replicate `seed`."""

    stage: str
    network: Network
    seed: int

    def __str__(self) -> str:
        return f"{self.network.value} network of seed {self.seed} after {self.stage}"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network, where it comes from, and what it was trained with.

    `classes` names the classes of each task in the order of the logits; `preset` describes how images become input
    (`data.batches.Preset` as a dict); `params` are the parameters it was made with; `history` has one row per epoch and
    task. The last three are plain JSON values.
    """

    network: FaceNetwork
    origin: Origin
    classes: dict[str, tuple[str, ...]]
    preset: dict[str, Any]
    params: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def network_name(self) -> Network:
        """Which of the study's networks this is."""
        return self.origin.network


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, atomically; equal checkpoints give equal bytes.

    Raises `StudyError` if its classes do not fit its network or a weight is not finite.
    """
    _check_classes(path, checkpoint)
    weights = checkpoint.network.state_dict()
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise StudyError(
            f"{path}: not written, as these weights are not finite: {', '.join(broken)}. Training diverged."
        )
    description = {
        "version": VERSION,
        "origin": {**checkpoint.origin._asdict(), "network": checkpoint.network_name.value},
        "architecture": checkpoint.network.block.model_dump(),
        "channels": checkpoint.network.channels,
        "classes": {task: list(names) for task, names in checkpoint.classes.items()},
        "preset": checkpoint.preset,
        "params": checkpoint.params,
        "history": checkpoint.history,
    }
    write_arrays(path, description, _arrays(weights))


def load_checkpoint(path: Path, *, expect: Origin | None = None) -> Checkpoint:
    """Read the checkpoint at `path`; the network is on the CPU, in evaluation mode.

    Strict: raises `StudyError`, naming the file and what is wrong, for a missing, foreign, truncated or altered file,
    for weights that are missing, superfluous or of another shape, and for another origin than `expect`.
    """
    try:
        description, arrays = read_arrays(path, remedy=REMEDY)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such checkpoint. `facespec repro` trains what is missing.") from None
    if description.get("version") != VERSION:
        raise StudyError(
            f"{path}: checkpoint format {description.get('version')!r}; this facespec reads {VERSION}. {REMEDY}"
        )
    try:
        origin = Origin(**description["origin"])
        origin = origin._replace(network=Network(origin.network))
        classes = {task: tuple(names) for task, names in description["classes"].items()}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        network = _rebuilt(description, {task: len(names) for task, names in classes.items()}, tensors)
        rest = {key: description[key] for key in ("preset", "params", "history")}
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"{path}: its description is not one of a facespec checkpoint ({error!r}). {REMEDY}"
        ) from error
    if expect is not None and origin != expect:
        raise StudyError(
            f"{path}: holds the {origin}, expected the {expect}. Put the right file there, or remove it: "
            "`facespec repro` makes what is missing."
        )
    checkpoint = Checkpoint(network=network, origin=origin, classes=classes, **rest)
    _check_classes(path, checkpoint)
    return checkpoint


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, whatever their order, device and memory format."""
    content = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        content.update(f"{name} {_kind(tensor)}\n".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # bytes: numpy does not know every type
    return content.hexdigest()


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _rebuilt(description: dict[str, Any], classes: dict[str, int], tensors: dict[str, torch.Tensor]) -> FaceNetwork:
    block = NetworkBlock.model_validate(description["architecture"])
    # these weights are overwritten one and all; the seed is of no consequence
    network = build_network(
        block, classes, channels=description["channels"], generator=torch.Generator().manual_seed(0)
    )
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
    name, network = checkpoint.network_name, checkpoint.network
    named = {task: len(names) for task, names in checkpoint.classes.items()}
    if named != network.classes or set(named) != {task.value for task in name.tasks}:
        raise StudyError(
            f"{path}: the {name.value} network has heads of {network.classes} classes, "
            f"but the classes named are of {named}."
        )
