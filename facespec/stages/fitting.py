"""What training and fine-tuning share: fit, resume where a killed run stopped, write checkpoint and history."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from rich.progress import Progress

from facespec.data.batches import make_preset
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.networks import FaceNetwork
from facespec.stages.package import package_digest
from facespec.stages.progress import progress_bar
from facespec.study.params import Finetune
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import encode_table, write_bytes
from facespec.study.vocabulary import Network
from facespec.training.fit import Plan, Report, Status, TaskData, fit


@dataclass(frozen=True)
class FitJob:
    """Which network is fitted, how, for how long, and under which parameters (`used`, kept with the weights)."""

    stage: str
    network: Network
    seed: int
    block: Finetune
    epoch_steps: int
    used: dict[str, Any]


def run_fit(
    paths: Paths,
    job: FitJob,
    model: FaceNetwork,
    data: Mapping[str, TaskData],
    *,
    classes: dict[str, tuple[str, ...]],
    device: str,
) -> None:
    """Fit `model` and write its checkpoint and its history (one row per epoch and task)."""
    faces = next(iter(data.values())).faces
    preset = make_preset(job.block.preset, faces.height, faces.channels)
    unfinished = paths.progress(job.stage, job.network, job.seed)
    with deterministic_torch(), progress_bar() as bar:
        plan = Plan(job.block, preset, pick_device(device), job.epoch_steps, code=package_digest())
        stream = generator(job.seed, job.stage, "batches")
        history = fit(model, data, plan, generator=stream, unfinished=unfinished, report=_reporting(bar, job))
    origin = checkpoints.Origin(job.stage, job.network, job.seed)
    checkpoint = checkpoints.Checkpoint(model, origin, classes, asdict(preset), job.used, history)
    checkpoints.save_checkpoint(paths.checkpoint(*origin), checkpoint)
    write_bytes(paths.history(*origin), encode_table(pd.DataFrame(history)))  # for plots: the checkpoint holds it too
    unfinished.unlink(missing_ok=True)


def _reporting(bar: Progress, job: FitJob) -> Report:
    task = bar.add_task(f"{job.stage} {job.network.value}-{job.seed}", total=None, numbers="")
    began = time.monotonic()

    def report(status: Status) -> None:
        speed = status.images / (time.monotonic() - began)
        numbers = f"loss {status.loss:.3f}  accuracy {status.accuracy:.3f}  {speed:.0f} images/s"
        bar.update(task, completed=status.step, total=status.steps, numbers=numbers)

    return report
