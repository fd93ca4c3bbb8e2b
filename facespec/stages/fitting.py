"""What training and fine-tuning share: fit, resume where a killed run stopped, write checkpoint and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from facespec.data.batches import preset_for
from facespec.models import checkpoints
from facespec.models.device import deterministic, pick
from facespec.models.networks import FaceNetwork
from facespec.study.params import Finetune
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.vocabulary import Network
from facespec.training.fit import TaskData, fit


@dataclass(frozen=True)
class Job:
    """Which network is fitted, how, and under which parameters (`used`, kept with the weights)."""

    stage: str
    network: Network
    seed: int
    block: Finetune
    used: dict[str, Any]


def complete(
    paths: Paths, job: Job, model: FaceNetwork, data: Mapping[str, TaskData], *,
    classes: dict[str, tuple[str, ...]], device: str,
) -> None:  # fmt: skip
    """Fit `model` and write its checkpoint and its history (one row per epoch and task)."""
    faces = next(iter(data.values())).faces
    preset = preset_for(job.block.preset, faces.height, faces.channels)
    unfinished = paths.progress(job.stage, job.network, job.seed)
    with deterministic():
        history = fit(
            model, data, job.block, preset=preset, generator=generator(job.seed, job.stage, "batches"),
            resume=unfinished, device=pick(device),
        )  # fmt: skip
    where = job.stage, job.network, job.seed
    checkpoint = checkpoints.Checkpoint(model, job.network, classes, asdict(preset), job.used, history)
    checkpoints.save(paths.checkpoint(*where), checkpoint)
    write_table(paths.history(*where), pd.DataFrame(history))
    unfinished.unlink(missing_ok=True)
