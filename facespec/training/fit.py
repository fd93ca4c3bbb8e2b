"""Fit a network to labelled faces, epoch by epoch; an interrupted fit continues after its last whole epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from facespec.data.batches import iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models.device import on_device
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError
from facespec.study.params import Finetune, Train
from facespec.study.presets import Preset
from facespec.study.vocabulary import TASKS
from facespec.training.resume import History, digest_fit, restore_progress, save_progress
from facespec.training.schedule import compute_rate

MOMENTUM = 0.9  # [L] of sgd

TaskBatches = dict[str, tuple[torch.Tensor, torch.Tensor]]  # task -> images (n, channels, h, w), classes (n,)


@dataclass(frozen=True, eq=False)
class TaskData:
    """The training data of a task: `rows` (n,) of `faces`, and the class of each, `codes` (n,), both int64."""

    faces: FaceSet
    rows: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The settings of a fit: its parameters, how images become input, and the device.

    `epoch_steps` is the number of batches per task in an epoch, the same for all networks of a study (see
    `count_epoch_steps`). `code` identifies the code that fits: a fit by other code is not continued.
    """

    block: Finetune
    preset: Preset
    device: torch.device
    epoch_steps: int
    code: str = ""

    def group_tasks(self, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The tasks of each optimiser step within one step of the epoch: all at once, or one after the other."""
        if isinstance(self.block, Train) and self.block.schedule == "alternate":
            return [(task,) for task in tasks]
        return [tasks]

    def weigh_task(self, task: str) -> float:
        """The weight of a task's loss in a step."""
        return float(getattr(self.block.weights, task)) if isinstance(self.block, Train) else 1.0


@dataclass
class Status:
    """The state of a running fit: `step` of `steps`, `images` processed since the start of this call, and `loss` and
    `accuracy` over the running epoch."""

    step: int
    steps: int
    images: int = 0
    loss: float = 0.0
    accuracy: float = 0.0


Report = Callable[[Status], None]


def report_nothing(status: Status) -> None:
    """The default report."""


def fit(
    model: FaceNetwork,
    data: Mapping[str, TaskData],
    plan: Plan,
    *,
    generator: np.random.Generator,
    progress_file: Path,
    report: Report = report_nothing,
) -> History:
    """Fit a network, in place, to the data of its tasks.

    An epoch has ``plan.epoch_steps`` batches of every task, whichever tasks the network has; a task with fewer images
    is passed through more than once. In a joint step the trunk processes the images of all tasks as one batch, so that
    batch norm learns the statistics of the mixture that it is later used with.

    Every epoch and task has its own random stream, whichever tasks the network has: a joint network and a single-task
    network get exactly the same batches of a task, in the same order.

    Parameters
    ----------
    model : FaceNetwork
        Returns to its device and mode at the end.
    data : mapping of str to TaskData
        The network's tasks, in its order.
    plan : Plan
    generator : numpy.random.Generator
        Order and augmentation of the images, and the masks of dropout, are drawn from it.
    progress_file : Path
        Written after every epoch. A fit of the same model, data, plan and generator continues from it, and ends in the
        same bits as one without interruption. The caller removes it once the result is stored.
    report : callable
        Called with the `Status` after every step of the optimiser.

    Returns
    -------
    list of dict
        One row per epoch and task: `epoch` (1, 2, ...), `learning_rate` (of the epoch's last step), `task`, and `loss`
        and `accuracy` over the epoch's training images, augmented and before each step.

    Raises
    ------
    StudyError
        For tasks other than the network's, fewer than two images, or a loss that is not finite.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import pandas as pd
    >>> from facespec.data.chunks import FaceChunk, FaceSetDescription
    >>> from facespec.data.faceset import write_faceset
    >>> from facespec.models.networks import build_network
    >>> from facespec.study.params import NetworkBlock
    >>> generator = np.random.Generator(np.random.PCG64(1))
    >>> images = generator.integers(0, 256, (8, 9, 9), dtype=np.uint8)
    >>> labels = pd.DataFrame({"stimulus": list("abcdefgh"), "split": "train", "identity": list("xyxyxyxy")})
    >>> labels = labels.assign(expression="", view="", session="")
    >>> description = FaceSetDescription("identity", 8, None, {"source": "noise"})
    >>> block = NetworkBlock(trunk="small_vgg", channels=[3], convolutions=1, branch_after=None)
    >>> network = build_network(block, {"identity": 2}, channels=1, generator=torch.Generator().manual_seed(1))
    >>> settings = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.0, "step_epochs": 1}
    >>> settings |= {"epochs": 2, "batch_size": 4, "label_smoothing": 0.0, "preset": "small"}
    >>> preset = Preset("small", 9, 1, resize=None, shift=0, flip=True, grey_probability=0.0)
    >>> plan = Plan(Finetune.model_validate(settings), preset, torch.device("cpu"), epoch_steps=2)
    >>> with TemporaryDirectory() as directory:
    ...     faces = write_faceset(Path(directory) / "faces", [FaceChunk(images, labels)], description)
    ...     data = {"identity": TaskData(faces, np.arange(8), np.arange(8) % 2)}
    ...     history = fit(network, data, plan, generator=generator, progress_file=Path(directory) / "progress")
    >>> [(row["epoch"], row["task"]) for row in history]
    [(1, 'identity'), (2, 'identity')]
    """
    _check_data(model, data)
    fingerprint = digest_fit(model, _describe_fit(data, plan), generator)
    streams = [generator.spawn(len(TASKS) + 1) for _ in range(plan.block.epochs)]
    with on_device(model, plan.device, training=True):
        optimizer = _make_optimizer(model, plan.block)
        history = restore_progress(progress_file, fingerprint, model=model, optimizer=optimizer)
        status = Status(0, 0)
        for epoch in range(len(history) // len(data), plan.block.epochs):
            *task_streams, mask_stream = streams[epoch]
            model.draw_from(torch.Generator().manual_seed(int(mask_stream.integers(2**63))))
            batches = _EpochBatches(data, plan, task_streams)
            history += _fit_epoch(model, optimizer, batches, epoch=epoch, status=status, report=report)
            save_progress(progress_file, fingerprint, history, model=model, optimizer=optimizer)
        model.draw_from(None)
    return history


class _EpochBatches:
    """The batches of one epoch, in the order of the optimiser's steps; `streams` are those of `TASKS`, in order."""

    def __init__(self, data: Mapping[str, TaskData], plan: Plan, streams: list[np.random.Generator]) -> None:
        self.plan = plan
        self._groups = plan.group_tasks(tuple(data))
        self._iterators = {
            task.value: self._iterate_task(data[task], stream)
            for task, stream in zip(TASKS, streams, strict=True)
            if task in data
        }

    def __len__(self) -> int:
        return self.plan.epoch_steps * len(self._groups)

    def __iter__(self) -> Iterator[TaskBatches]:
        for _ in range(self.plan.epoch_steps):
            for tasks in self._groups:
                yield {task: next(self._iterators[task]) for task in tasks}

    def _iterate_task(self, data: TaskData, stream: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of a task's images and classes, without end."""
        codes = np.zeros(data.faces.n, dtype=np.int64)
        codes[data.rows] = data.codes
        size, preset, device = self.plan.block.batch_size, self.plan.preset, self.plan.device
        while True:
            for batch in iterate_batches(data.faces, data.rows, batch_size=size, preset=preset, generator=stream):
                yield batch.images.to(device), torch.from_numpy(codes[batch.positions]).to(device)


def _fit_epoch(
    model: FaceNetwork,
    optimizer: torch.optim.Optimizer,
    batches: _EpochBatches,
    *,
    epoch: int,
    status: Status,
    report: Report,
) -> History:
    """Run the steps of an epoch; returns its rows of the history."""
    block, steps = batches.plan.block, len(batches)
    weights = {task: batches.plan.weigh_task(task) for task in model.tasks}
    sums = {task: np.zeros(3) for task in model.tasks}  # loss, correct answers, images
    for step, batch in enumerate(batches, start=epoch * steps):
        learning_rate = compute_rate(block, step, steps_per_epoch=steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        step_results = _run_step(model, optimizer, batch, smoothing=block.label_smoothing, weights=weights)
        for task, step_sums in step_results.items():
            sums[task] += step_sums
            status.images += int(step_sums[2])
        loss, correct, images = np.sum(list(sums.values()), axis=0)
        if not math.isfinite(loss):
            raise StudyError(
                f"training diverged in epoch {epoch + 1}: after {step + 1} steps the loss is {loss}. "
                f"Lower learning_rate (now {block.learning_rate:g}) in params.yaml."
            )
        status.step, status.steps = step + 1, block.epochs * steps
        status.loss, status.accuracy = loss / images, correct / images
        report(status)
    row = {"epoch": epoch + 1, "learning_rate": learning_rate}
    return [
        {**row, "task": task, "loss": float(loss / n), "accuracy": float(correct / n)}
        for task, (loss, correct, n) in sums.items()
    ]


def _run_step(
    model: FaceNetwork,
    optimizer: torch.optim.Optimizer,
    batch: TaskBatches,
    *,
    smoothing: float,
    weights: Mapping[str, float],
) -> dict[str, np.ndarray]:
    """One step of the optimiser on the weighted sum of the tasks' losses.

    Returns, per task, the summed loss, without its weight, the number of correct answers, and that of images.
    """
    logits = model.compute_logits({task: images for task, (images, _) in batch.items()})
    losses = {
        task: functional.cross_entropy(logits[task], classes, label_smoothing=smoothing)
        for task, (_, classes) in batch.items()
    }
    optimizer.zero_grad(set_to_none=True)
    torch.stack([weights[task] * loss for task, loss in losses.items()]).sum().backward()
    optimizer.step()
    sums = {}
    for task, (_, classes) in batch.items():
        correct = (logits[task].detach().argmax(dim=1) == classes).sum()
        sums[task] = np.array([losses[task].item() * len(classes), correct.item(), len(classes)])
    return sums


def _make_optimizer(model: FaceNetwork, block: Finetune) -> torch.optim.Optimizer:
    weights, lr, decay = model.parameters(), block.learning_rate, block.weight_decay
    if block.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=lr, momentum=MOMENTUM, weight_decay=decay)
    # fused: faster, and without torch.sqrt, which has other bits on other makers' processors (docs/portability.md)
    return torch.optim.AdamW(weights, lr=lr, weight_decay=decay, fused=True)


def count_epoch_steps(images: Iterable[int], batch_size: int) -> int:
    """Steps of an epoch in a study whose tasks have these numbers of training `images`: a pass through the largest.

    All networks of a study are fitted with this number, single-task networks too; otherwise a joint network would be
    trained longer on the smaller task than the network that it is compared with. A last batch of one image is dropped,
    as batch norm needs two.

    >>> count_epoch_steps([28_709, 8_000], batch_size=64)
    449
    """
    full, rest = divmod(max(images), batch_size)
    return full + (rest > 1)


def _describe_fit(data: Mapping[str, TaskData], plan: Plan) -> str:
    """All that determines the result of a fit, except model and generator, as text."""
    faces = {
        task: (str(t.faces.provenance.get("content")), t.rows.tolist(), t.codes.tolist()) for task, t in data.items()
    }
    settings = plan.block.model_dump(), plan.preset, plan.device.type, plan.epoch_steps, plan.code
    return repr((settings, sorted(faces.items())))


def _check_data(model: FaceNetwork, data: Mapping[str, TaskData]) -> None:
    if tuple(data) != model.tasks:
        raise StudyError(f"this network has heads for {list(model.tasks)}, but faces were given for {list(data)}.")
    for task, task_data in data.items():
        if len(task_data.rows) < 2 or len(task_data.rows) != len(task_data.codes):
            raise StudyError(
                f"task {task!r}: {len(task_data.rows)} images with {len(task_data.codes)} classes; a fit needs at "
                "least 2 images, each with its class."
            )
