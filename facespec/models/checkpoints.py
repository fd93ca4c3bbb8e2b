"""Checkpoints: a network's weights, preprocessing, class names, parameters and training history in one file.

The file is written by `study.arrays.write_arrays`: its digest covers weights and description, and equal checkpoints
give equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from facespec.models.networks import FaceNetwork, rebuild_network
from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.presets import Preset
from facespec.study.vocabulary import Network

VERSION = 2  # 1 had neither stage nor seed, and a digest of the weights alone
REMEDY = "Train it again."


class Origin(NamedTuple):
    """Which fit the weights come from: `stage`, network, and replicate `seed`.

    The stage is ``train``, ``finetune``, or ``untrained`` if nothing but the heads was fitted.
    """

    stage: str
    network: Network
    seed: int

    def __str__(self) -> str:
        return f"{self.network.value} network of seed {self.seed} after {self.stage}"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network with all that is needed to use it.

    Parameters
    ----------
    network : FaceNetwork
    origin : Origin
        The fit that the weights come from.
    classes : dict of str to tuple of str
        Task -> names of its classes, in the order of the logits.
    preset : Preset
        How images become input.
    params : dict
        Parameters that the network was trained with; JSON values.
    history : list of dict
        One row per epoch and task, as `training.fit.fit` returns them; JSON values.

    Examples
    --------
    >>> from facespec.models.networks import build_network
    >>> from facespec.study.params import NetworkBlock
    >>> block = NetworkBlock(trunk="small_vgg", channels=[3, 5], convolutions=1, branch_after=None)
    >>> network = build_network(block, {"identity": 2}, channels=1, generator=torch.Generator().manual_seed(1))
    >>> preset = Preset("small", 48, 1, resize=None, shift=4, flip=True, grey_probability=0.0)
    >>> origin = Origin("train", Network.IDENTITY, seed=1)
    >>> checkpoint = Checkpoint(network, origin, {"identity": ("ann", "bob")}, preset, params={}, history=[])
    >>> print(checkpoint.origin)
    identity network of seed 1 after train
    """

    network: FaceNetwork
    origin: Origin
    classes: dict[str, tuple[str, ...]]
    preset: Preset
    params: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def network_name(self) -> Network:
        """Which of the study's networks this is."""
        return self.origin.network


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically; equal checkpoints give equal bytes.

    Parameters
    ----------
    path : Path
        File in the safetensors format; missing directories are made.
    checkpoint : Checkpoint
        Is not changed.

    Raises
    ------
    StudyError
        If the class names do not fit the network, or a weight is not finite.

    See Also
    --------
    load_checkpoint : Its example saves and loads a checkpoint.
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
        "preset": asdict(checkpoint.preset),
        "params": checkpoint.params,
        "history": checkpoint.history,
    }
    write_arrays(path, description, to_arrays(weights))


def load_checkpoint(path: Path, *, expect: Origin | None = None) -> Checkpoint:
    """Read a checkpoint; the network is on the CPU, in evaluation mode.

    Parameters
    ----------
    path : Path
        File that `save_checkpoint` wrote.
    expect : Origin, optional
        The fit that the weights must come from.

    Returns
    -------
    Checkpoint

    Raises
    ------
    StudyError
        Names the file and the problem: the file is missing, foreign, truncated or altered; weights are missing,
        superfluous or of another shape or type; the preset is unusable; or the origin is not `expect`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from facespec.models.networks import build_network
    >>> from facespec.study.params import NetworkBlock
    >>> block = NetworkBlock(trunk="small_vgg", channels=[3, 5], convolutions=1, branch_after=None)
    >>> network = build_network(block, {"identity": 2}, channels=1, generator=torch.Generator().manual_seed(1))
    >>> preset = Preset("small", 48, 1, resize=None, shift=4, flip=True, grey_probability=0.0)
    >>> origin, classes = Origin("train", Network.IDENTITY, seed=1), {"identity": ("ann", "bob")}
    >>> with TemporaryDirectory() as directory:
    ...     path = Path(directory) / "identity-1.safetensors"
    ...     save_checkpoint(path, Checkpoint(network, origin, classes, preset, params={}, history=[]))
    ...     checkpoint = load_checkpoint(path, expect=origin)
    >>> checkpoint.classes["identity"], checkpoint.preset.size
    (('ann', 'bob'), 48)
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
        network = _rebuild_network(description, classes, arrays)
        settings, params, history = (description[key] for key in ("preset", "params", "history"))
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
    try:
        preset = Preset(**settings)
    except (StudyError, TypeError) as error:
        raise StudyError(f"{path}: {str(error).rstrip('.')}. {REMEDY}") from None
    checkpoint = Checkpoint(network, origin, classes, preset, params, history)
    _check_classes(path, checkpoint)
    return checkpoint


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, whatever their order, device and memory format."""
    content = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        content.update(f"{name} {_describe_type(tensor)}\n".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # bytes: numpy does not know every type
    return content.hexdigest()


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The same values as numpy arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _rebuild_network(
    description: dict[str, Any], classes: dict[str, tuple[str, ...]], arrays: dict[str, np.ndarray]
) -> FaceNetwork:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    network = rebuild_network(
        NetworkBlock.model_validate(description["architecture"]),
        {task: len(names) for task, names in classes.items()},
        channels=description["channels"],
        generator=torch.Generator().manual_seed(0),  # any seed: all weights are overwritten
    )
    expected = network.state_dict()
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    for name in sorted(expected.keys() & tensors.keys()):
        got, needed = _describe_type(tensors[name]), _describe_type(expected[name])
        if got != needed:
            problems.append(f"{name} is {got}, needs {needed}")
    if problems:
        raise StudyError(f"the weights do not fit the network it describes: {'; '.join(problems)}.")
    network.load_state_dict(tensors)
    return network.eval()


def _describe_type(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _check_classes(path: Path, checkpoint: Checkpoint) -> None:
    name, network = checkpoint.network_name, checkpoint.network
    counts = {task: len(names) for task, names in checkpoint.classes.items()}
    if counts != network.classes or set(counts) != {task.value for task in name.tasks}:
        raise StudyError(
            f"{path}: the {name.value} network has heads of {network.classes} classes, "
            f"but the classes named are of {counts}."
        )
