"""Fit a network to labelled faces, epoch by epoch; an interrupted fit goes on after its last whole epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from facespec.data.batches import Preset, iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models.device import on_device
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError
from facespec.study.params import Finetune, Train
from facespec.study.vocabulary import TASKS
from facespec.training.resume import History, digest_fit, restore_progress, save_progress
from facespec.training.schedule import compute_rate

MOMENTUM = 0.9  # [L] of sgd

Batches = dict[str, tuple[torch.Tensor, torch.Tensor]]  # task -> images (n, channels, h, w), classes (n,)


@dataclass(frozen=True, eq=False)
class TaskData:
    """What one task is learned from: `rows` (n,) of `faces`, and the class of each, `codes` (n,), both int64."""

    faces: FaceSet
    rows: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True)
class Plan:
    """How a fit goes: its parameters, how images become input, where it runs.

    `epoch_steps` is the number of batches per task in an epoch, the same for all networks of a study (see
    `count_epoch_steps`). `code` names the code that fits: a fit begun by other code is not continued.
    """

    block: Finetune
    preset: Preset
    device: torch.device
    epoch_steps: int
    code: str = ""

    def turns(self, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The tasks of each optimiser step within one step of the epoch: all at once, or one after the other."""
        if isinstance(self.block, Train) and self.block.schedule == "alternate":
            return [(task,) for task in tasks]
        return [tasks]


@dataclass
class Status:
    """How far a fit is: `step` of all `steps`; `images` since it began or went on; the running epoch's numbers."""

    step: int
    steps: int
    images: int = 0
    loss: float = 0.0
    accuracy: float = 0.0


Report = Callable[[Status], None]


def report_nothing(status: Status) -> None:
    """Report to nobody."""


def fit(
    model: FaceNetwork,
    data: Mapping[str, TaskData],
    plan: Plan,
    *,
    generator: np.random.Generator,
    unfinished: Path,
    report: Report = report_nothing,
) -> History:
    """Fit `model`, in place, to the `data` of its tasks; returns one row per epoch and task.

    A row holds `epoch` (1, 2, ...), `task`, `learning_rate` (of the epoch's last step), and `loss` and `accuracy` over
    the epoch's training images as they were seen, augmented and before each step. An epoch has ``plan.epoch_steps``
    batches of every task, whichever tasks the network knows; a task that has fewer starts again. In a joint step the
    trunk sees the images of all tasks as one batch, so that batch norm learns the statistics of the mixture it is later
    used with.

    After every epoch all that matters is kept in the file `unfinished`; a fit of the same model, data, plan and
    generator that finds it goes on from there, and ends in the same bits as one that was never interrupted. Whoever has
    stored the result removes the file. Every epoch and task has its own random stream, whichever tasks the network
    knows: a joint network and the single-task network see exactly the same batches of a task, in the same order.

    Raises `StudyError` for tasks other than the network's, fewer than two images, or a loss that is not finite.
    """
    _check(model, data)
    begun = digest_fit(model, _described(data, plan), generator)
    streams = [generator.spawn(len(TASKS) + 1) for _ in range(plan.block.epochs)]
    with on_device(model, plan.device, training=True):
        optimizer = _optimizer(model, plan.block)
        history = restore_progress(unfinished, begun, model=model, optimizer=optimizer)
        status = Status(0, 0)
        for epoch in range(len(history) // len(data), plan.block.epochs):
            *own, masks = streams[epoch]
            model.draw_from(torch.Generator().manual_seed(int(masks.integers(2**63))))
            taken = _EpochBatches(data, plan, own, report)
            history += _epoch(model, optimizer, epoch, taken=taken, status=status)
            save_progress(unfinished, begun, history, model=model, optimizer=optimizer)
        model.draw_from(None)
    return history


class _EpochBatches:
    """The batches of one epoch: `streams` are those of `TASKS`, in that order."""

    def __init__(
        self, data: Mapping[str, TaskData], plan: Plan, streams: list[np.random.Generator], report: Report
    ) -> None:
        self.plan, self.report = plan, report
        own = {task.value: stream for task, stream in zip(TASKS, streams, strict=True) if task in data}
        self._endless = {task: self._of(data[task], stream) for task, stream in own.items()}
        self._turns = plan.turns(tuple(data))

    def __len__(self) -> int:
        return self.plan.epoch_steps * len(self._turns)

    def __iter__(self) -> Iterator[Batches]:
        for _ in range(self.plan.epoch_steps):
            for tasks in self._turns:
                yield {task: next(self._endless[task]) for task in tasks}

    def _of(self, data: TaskData, stream: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        code = np.zeros(data.faces.n, dtype=np.int64)
        code[data.rows] = data.codes
        size, preset, device = self.plan.block.batch_size, self.plan.preset, self.plan.device
        while True:
            for batch in iterate_batches(data.faces, data.rows, batch_size=size, preset=preset, generator=stream):
                yield batch.images.to(device), torch.from_numpy(code[batch.positions]).to(device)


def _epoch(
    model: FaceNetwork, optimizer: torch.optim.Optimizer, epoch: int, *, taken: _EpochBatches, status: Status
) -> History:
    block, steps = taken.plan.block, len(taken)
    sums = {task: np.zeros(3) for task in model.tasks}  # loss, right answers, images
    for step, batch in enumerate(taken, start=epoch * steps):
        learning_rate = compute_rate(block, step, steps_per_epoch=steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        for task, seen in _step(model, optimizer, batch, smoothing=block.label_smoothing).items():
            sums[task] += seen
            status.images += int(seen[2])
        loss, right, images = np.sum(list(sums.values()), axis=0)
        if not math.isfinite(loss):
            raise StudyError(
                f"training diverged in epoch {epoch + 1}: after {step + 1} steps the loss is {loss}. "
                f"Lower learning_rate (now {block.learning_rate:g}) in params.yaml."
            )
        status.step, status.steps = step + 1, block.epochs * steps
        status.loss, status.accuracy = loss / images, right / images
        taken.report(status)
    row = {"epoch": epoch + 1, "learning_rate": learning_rate}
    return [
        {**row, "task": task, "loss": float(loss / n), "accuracy": float(right / n)}
        for task, (loss, right, n) in sums.items()
    ]


def _step(
    model: FaceNetwork, optimizer: torch.optim.Optimizer, batch: Batches, *, smoothing: float
) -> dict[str, np.ndarray]:
    """One step of the optimiser on the summed losses; per task: summed loss, right answers, images."""
    logits = model.compute_logits({task: images for task, (images, _) in batch.items()})
    losses = {
        task: functional.cross_entropy(logits[task], classes, label_smoothing=smoothing)
        for task, (_, classes) in batch.items()
    }
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    seen = {}
    for task, (_, classes) in batch.items():
        right = (logits[task].detach().argmax(dim=1) == classes).sum()
        seen[task] = np.array([losses[task].item() * len(classes), right.item(), len(classes)])
    return seen


def _optimizer(model: FaceNetwork, block: Finetune) -> torch.optim.Optimizer:
    weights, lr, decay = model.parameters(), block.learning_rate, block.weight_decay
    if block.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=lr, momentum=MOMENTUM, weight_decay=decay)
    # fused: faster, and without torch.sqrt, which has other bits on other makers' processors (docs/portability.md)
    return torch.optim.AdamW(weights, lr=lr, weight_decay=decay, fused=True)


def count_epoch_steps(images: Iterable[int], batch_size: int) -> int:
    """Steps of an epoch in a study whose tasks have so many training `images`: one pass through the largest.

    All networks of a study are fitted with this number, single-task networks too; otherwise a joint network would be
    trained longer on the smaller task than the network that it is compared with. A last batch of one image is not
    taken, as batch norm needs two.

    >>> count_epoch_steps([28_709, 8_000], batch_size=64)
    449
    """
    full, rest = divmod(max(images), batch_size)
    return full + (rest > 1)


def _described(data: Mapping[str, TaskData], plan: Plan) -> str:
    """All that decides a fit beside model and generator, as text."""
    faces = {
        task: (str(t.faces.provenance.get("content")), t.rows.tolist(), t.codes.tolist()) for task, t in data.items()
    }
    how = plan.block.model_dump(), plan.preset, plan.device.type, plan.epoch_steps, plan.code
    return repr((how, sorted(faces.items())))


def _check(model: FaceNetwork, data: Mapping[str, TaskData]) -> None:
    if tuple(data) != model.tasks:
        raise StudyError(f"this network has heads for {list(model.tasks)}, but faces were given for {list(data)}.")
    for task, own in data.items():
        if len(own.rows) < 2 or len(own.rows) != len(own.codes):
            raise StudyError(
                f"task {task!r}: {len(own.rows)} images with {len(own.codes)} classes; a fit needs at least 2 images, "
                "each with its class."
            )
