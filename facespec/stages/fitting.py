"""How do training and fine-tuning run? Fit, resume after an interruption, write checkpoint and history."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import Progress

from facespec.data.batches import make_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.networks import FaceNetwork
from facespec.stages.heads import fit_heads
from facespec.stages.progress import progress_bar
from facespec.study.fingerprints import identify_computation
from facespec.study.params import Decoding, Finetune
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import encode_table, write_bytes
from facespec.study.vocabulary import TASKS, TRAIN, Network
from facespec.training.fit import Plan, Report, Status, TaskData, count_epoch_steps, fit


@dataclass(frozen=True, eq=False)
class TrainingFaces:
    """What a network is trained on: images and classes of its tasks, and `epoch_steps`, equal for all networks."""

    data: dict[str, TaskData]
    classes: dict[str, tuple[str, ...]]
    epoch_steps: int


def collect_training_faces(paths: Paths, network: Network, *, batch_size: int) -> TrainingFaces:
    """The training images of the roles of `network`; the steps of an epoch are counted over all roles."""
    data, classes, image_counts = {}, {}, []
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        rows = np.flatnonzero(faces.labels["split"] == TRAIN)
        image_counts.append(len(rows))
        if task in network.tasks:
            codes, classes[task.value] = encode_classes(faces.labels.iloc[rows], task.value)
            data[task.value] = TaskData(faces, rows, codes)
    return TrainingFaces(data, classes, count_epoch_steps(image_counts, batch_size))


@dataclass(frozen=True)
class FitJob:
    """One network to fit: `block` says how, in epochs of `epoch_steps` batches.

    The checkpoint stores `recorded_params`, the blocks that the fit depends on. With a `decoder`, only heads are
    fitted, in one step: the network is a user's own (`heads.choose_decoder`).
    """

    stage: str
    network: Network
    seed: int
    block: Finetune
    epoch_steps: int
    recorded_params: dict[str, Any]
    decoder: Decoding | None = None


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
    if job.decoder is not None:
        history = fit_heads(model.eval(), data, preset=preset, block=job.decoder, device=device)
    else:
        stream, unfinished = generator(job.seed, job.stage, "batches"), paths.progress(job.stage, job.network, job.seed)
        with deterministic_torch():
            plan = Plan(job.block, preset, pick_device(device), job.epoch_steps, code=identify_computation(job.stage))
            label = f"{job.stage} {job.network.value}-{job.seed}"
            history = train_network(model, data, plan, generator=stream, progress_file=unfinished, label=label)
    origin = checkpoints.Origin(job.stage, job.network, job.seed)
    checkpoint = checkpoints.Checkpoint(model, origin, classes, preset, job.recorded_params, history)
    checkpoints.save_checkpoint(paths.checkpoint(*origin), checkpoint)
    write_bytes(
        paths.history(*origin), encode_table(pd.DataFrame(history))
    )  # the checkpoint holds it, too; the file is for plots
    paths.progress(job.stage, job.network, job.seed).unlink(missing_ok=True)


def train_network(
    model: FaceNetwork,
    data: Mapping[str, TaskData],
    plan: Plan,
    *,
    generator: np.random.Generator,
    progress_file: Path,
    label: str,
) -> list[dict[str, Any]]:
    """`fit` with a progress bar, whose text is `label`."""
    with progress_bar() as bar:
        report = _make_report(bar, label)
        return fit(model, data, plan, generator=generator, progress_file=progress_file, report=report)


def _make_report(bar: Progress, label: str) -> Report:
    task = bar.add_task(label, total=None, numbers="")
    start = time.monotonic()

    def report(status: Status) -> None:
        speed = status.images / (time.monotonic() - start)
        numbers = f"loss {status.loss:.3f}  accuracy {status.accuracy:.3f}  {speed:.0f} images/s"
        bar.update(task, completed=status.step, total=status.steps, numbers=numbers)

    return report
