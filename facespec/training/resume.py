"""Continue an interrupted fit: weights, optimiser state and history after the last whole epoch, in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facespec.models.checkpoints import digest_tensors, to_arrays
from facespec.models.networks import FaceNetwork
from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.errors import StudyError

History = list[dict[str, Any]]  # one row per epoch and task
COLUMNS = ("epoch", "learning_rate", "task", "loss", "accuracy")  # of a row, in this order: JSON objects have none


def digest_fit(model: FaceNetwork, description: str, generator: np.random.Generator) -> str:
    """The fingerprint of a fit: of its initial weights, a description of data and plan, and its random stream."""
    state = json.dumps(generator.bit_generator.state, sort_keys=True, default=str)
    return hashlib.sha256(f"{digest_tensors(model.state_dict())}\n{description}\n{state}".encode()).hexdigest()


def save_progress(
    path: Path, fingerprint: str, history: History, *, model: FaceNetwork, optimizer: torch.optim.Optimizer
) -> None:
    """Write the state after a whole epoch, atomically: if killed meanwhile, the state of the epoch before remains."""
    tensors = {f"model {name}": tensor for name, tensor in model.state_dict().items()}
    for weight, state in optimizer.state_dict()["state"].items():  # its settings follow from the plan
        tensors |= {f"optimizer {weight} {name}": tensor for name, tensor in state.items()}
    write_arrays(path, {"begun": fingerprint, "history": history}, to_arrays(tensors))


def restore_progress(path: Path, fingerprint: str, *, model: FaceNetwork, optimizer: torch.optim.Optimizer) -> History:
    """Load the state at `path` into `model` and `optimizer`; returns its history.

    If there is no file, or that of a fit with another fingerprint, nothing is loaded and the history is empty: the file
    is replaced after the first epoch of this fit.
    """
    try:
        description, arrays = read_arrays(path, remedy="")
    except (OSError, StudyError):
        return []  # none, or a damaged one: starting again costs time only
    if description.get("begun") != fingerprint:
        return []
    weights, states = _split_arrays(arrays)
    model.load_state_dict(weights)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = {number: _match_layout(state, parameters[number]) for number, state in states.items()}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return [{column: row[column] for column in COLUMNS} for row in description["history"]]


def _match_layout(state: dict[str, torch.Tensor], parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """`state` in the memory layout of its `parameter`: fused AdamW reads both in the order in memory."""
    return {
        name: torch.empty_like(parameter, requires_grad=False).copy_(value) if value.shape == parameter.shape else value
        for name, value in state.items()
    }


def _split_arrays(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, torch.Tensor], dict[int, dict[str, torch.Tensor]]]:
    """The state of the model, and the optimiser's state of each parameter."""
    weights: dict[str, torch.Tensor] = {}
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, array in arrays.items():
        kind, _, name = key.partition(" ")
        if kind == "model":
            weights[name] = torch.from_numpy(array)
        else:
            number, _, name = name.partition(" ")
            states.setdefault(int(number), {})[name] = torch.from_numpy(array)
    return weights, states
