"""How do training and fine-tuning run? Fit, resume after an interruption, write checkpoint and history."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.progress import Progress

from facespec.data.batches import make_preset
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.networks import FaceNetwork
from facespec.stages.heads import fit_heads
from facespec.stages.progress import progress_bar
from facespec.study.fingerprints import identify_computation
from facespec.study.params import Decoding, Finetune
from facespec.study.paths import Paths
from facespec.study.presets import Preset
from facespec.study.seeds import generator
from facespec.study.storage import encode_table, write_bytes
from facespec.study.vocabulary import Network
from facespec.training.fit import Plan, Report, Status, TaskData, fit


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
        history = _train(paths, job, model, data, preset=preset, device=device)
    origin = checkpoints.Origin(job.stage, job.network, job.seed)
    checkpoint = checkpoints.Checkpoint(model, origin, classes, preset, job.recorded_params, history)
    checkpoints.save_checkpoint(paths.checkpoint(*origin), checkpoint)
    write_bytes(
        paths.history(*origin), encode_table(pd.DataFrame(history))
    )  # the checkpoint holds it, too; the file is for plots
    paths.progress(job.stage, job.network, job.seed).unlink(missing_ok=True)


def _train(
    paths: Paths, job: FitJob, model: FaceNetwork, data: Mapping[str, TaskData], *, preset: Preset, device: str
) -> list[dict[str, Any]]:
    """Fit all weights; the state of a fit that is stopped lies in the study's file for it."""
    unfinished = paths.progress(job.stage, job.network, job.seed)
    with deterministic_torch(), progress_bar() as bar:
        plan = Plan(job.block, preset, pick_device(device), job.epoch_steps, code=identify_computation(job.stage))
        stream = generator(job.seed, job.stage, "batches")
        return fit(model, data, plan, generator=stream, progress_file=unfinished, report=_make_report(bar, job))


def _make_report(bar: Progress, job: FitJob) -> Report:
    task = bar.add_task(f"{job.stage} {job.network.value}-{job.seed}", total=None, numbers="")
    start = time.monotonic()

    def report(status: Status) -> None:
        speed = status.images / (time.monotonic() - start)
        numbers = f"loss {status.loss:.3f}  accuracy {status.accuracy:.3f}  {speed:.0f} images/s"
        bar.update(task, completed=status.step, total=status.steps, numbers=numbers)

    return report
