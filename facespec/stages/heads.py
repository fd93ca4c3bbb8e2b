"""Linear heads fitted to a network that is not trained: the untrained control, and networks of a user's own.

The trunks of a user's networks keep the weights that they bring. All that is read out of networks that are not trained
is read out in one way, by the decoders of `decoding`; and as heads are linear, class activation maps are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from facespec.analyses.decoding import fit_linear_head
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.networks import FaceNetwork
from facespec.responses.recording import record_penultimate
from facespec.study.params import Decoding, Params
from facespec.study.presets import Preset
from facespec.training.fit import TaskData

BATCH = 256


def choose_decoder(params: Params) -> Decoding | None:
    """How heads are fitted where a study has networks of a user's own; None where networks are trained."""
    return params.decoding if params.network.file is not None else None


def fit_heads(
    network: FaceNetwork, data: Mapping[str, TaskData], *, preset: Preset, block: Decoding, device: str
) -> list[dict[str, Any]]:
    """Give `network` the decoders of `decoding` as heads, each fitted to the images of its task in `data`.

    The trunk is not changed. Returns a history of one epoch: cross-entropy and accuracy of each head on these images.
    """
    history, torch_device = [], pick_device(device)
    with deterministic_torch():
        for task, part in data.items():
            responses = record_penultimate(
                network, part.faces, part.rows, task, preset=preset, batch_size=BATCH, device=torch_device
            )
            weight, bias = fit_linear_head(
                responses,
                part.codes,
                classes=network.classes[task],
                penalty=block.penalty,
                iterations=block.iterations,
            )
            head = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
            network.heads[task].load_state_dict(head)  # in float32
            logits = responses @ weight.T + bias
            loss = float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(logits)), part.codes]))
            accuracy = float(np.mean(logits.argmax(axis=1) == part.codes))
            history.append({"epoch": 1, "learning_rate": 0.0, "task": task, "loss": loss, "accuracy": accuracy})
    return history
