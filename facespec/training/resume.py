"""What an interrupted fit needs to go on: weights, optimiser and history after the last whole epoch, in one file."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facespec.models.checkpoints import digest
from facespec.models.networks import FaceNetwork
from facespec.study.storage import replacing

History = list[dict[str, Any]]  # one row per epoch and task


def digest_of(model: FaceNetwork, described: str, generator: np.random.Generator) -> str:
    """What a fit begins with, as a digest: the initial weights, a description of all else, the random stream."""
    state = json.dumps(generator.bit_generator.state, sort_keys=True, default=str)
    return hashlib.sha256(f"{digest(model.state_dict())}\n{described}\n{state}".encode()).hexdigest()


def keep(path: Path, begun: str, history: History, *, model: FaceNetwork, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after a whole epoch, atomically: a fit killed meanwhile goes on from the epoch before."""
    state = {"begun": begun, "history": history, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with replacing(path) as partial:
        torch.save(state, partial)


def restore(path: Path, begun: str, *, model: FaceNetwork, optimizer: torch.optim.Optimizer) -> History:
    """Load the state at `path` into `model` and `optimizer`; returns its history.

    Where there is none, or that of a fit which began with something else, nothing is loaded and the history is empty:
    that fit cannot be continued, and its file is replaced after the first epoch of this one.
    """
    try:
        state = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return []  # none, or one that the disk damaged: beginning anew costs time, and nothing else
    if not isinstance(state, dict) or state.get("begun") != begun:
        return []
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["history"])
