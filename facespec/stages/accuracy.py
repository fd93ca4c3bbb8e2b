"""Figures 1C and S1B: how often do single-task and joint networks name the right class, over all and class by class?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from facespec.analyses.accuracy import mark_correct, tabulate_recall
from facespec.analyses.resampling import Cell, compute_chance, tabulate_accuracy
from facespec.data.faceset import FaceSet
from facespec.data.splits import hold_out
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.responses.recording import predict_classes
from facespec.stages.network_files import load_network
from facespec.study.params import Accuracy, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, RECALL, ZERO_SHOT
from facespec.study.vocabulary import TASKS, TEST, Network, Role, Task

BATCH = 256
SHARED_DRAWS = {ZERO_SHOT: "1C"}  # figure -> the figure with the same images, and so the same resamples of them


@dataclass(frozen=True, eq=False)
class TestImages:
    """Images at `rows` of `faces`, on which the heads for `tasks` are tested after the networks' `stage`."""

    figure: str
    stage: str
    faces: FaceSet
    rows: np.ndarray
    tasks: tuple[Task, ...]


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write ``Results/accuracy.csv`` and ``Results/recall.csv``: figures 1C and S1B, zero-shot transfer, every seed.

    Accuracies are those of all test images and of their resamples; recalls those of every class, on the probe those of
    the untrained network, too. (Its accuracies are Figure 1B's: its heads are the decoders.)
    """
    accuracies: list[pd.DataFrame] = []
    recalls: list[pd.DataFrame] = []
    with deterministic_torch():
        for images, network, seed in itertools.product(_list_test_images(paths, params), Network, params.seeds):
            is_untrained = network is Network.UNTRAINED
            if not set(images.tasks) & set(network.tasks) or (is_untrained and images.stage != "finetune"):
                continue
            checkpoint = load_network(paths, network.value if is_untrained else images.stage, network, seed)
            for accuracy, recall in _test_network(checkpoint, images, params.accuracy, device=device):
                recalls.append(recall)
                if not is_untrained:
                    accuracies.append(accuracy)
    write_table(paths.table("accuracy"), ACCURACY.check(pd.concat(accuracies, ignore_index=True)))
    write_table(paths.table("recall"), RECALL.check(pd.concat(recalls, ignore_index=True)))


def _list_test_images(paths: Paths, params: Params) -> Iterator[TestImages]:
    """1C: held-out probe images, after fine-tuning. S1B: test images of the training roles, before it.

    `ZERO_SHOT`: 1C's images, before fine-tuning. Expressions only: the identity heads name people of the training role,
    none of whom is on the probe.
    """
    probe = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    _, held_out = hold_out(probe.labels, params.split, generator(params.split.seed, "split"))
    yield TestImages("1C", "finetune", probe, held_out, TASKS)
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        yield TestImages("S1B", "train", faces, np.flatnonzero(faces.labels["split"] == TEST), (task,))
    yield TestImages(ZERO_SHOT, "train", probe, held_out, (Task.EXPRESSION,))


def _test_network(
    checkpoint: checkpoints.Checkpoint, images: TestImages, block: Accuracy, *, device: str
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The ACCURACY and the RECALL rows of one network, for each of its tasks."""
    predicted = predict_classes(
        checkpoint.network,
        images.faces,
        images.rows,
        preset=checkpoint.preset,
        batch_size=BATCH,
        device=pick_device(device),
    )
    role = str(images.faces.role)
    for task in (task for task in images.tasks if task in checkpoint.network_name.tasks):
        names = checkpoint.classes[task.value]
        true = pd.Index(names).get_indexer(pd.Index(images.faces.labels[task.value].iloc[images.rows]))
        cell = Cell(
            figure=images.figure,
            trained_on=checkpoint.network_name.value,
            tested_on=task.value,
            role=role,
            source=images.faces.source,
            seed=checkpoint.origin.seed,
            chance=compute_chance(true),
        )
        yield _tabulate(mark_correct(predicted[task.value], true), true, cell, names, block)


def _tabulate(
    correct: np.ndarray, true: np.ndarray, cell: Cell, names: tuple[str, ...], block: Accuracy
) -> tuple[pd.DataFrame, pd.DataFrame]:
    # the streams' names lack network and seed: all of them share the resamples, so that differences are paired
    figure = SHARED_DRAWS.get(cell.figure, cell.figure)
    images = generator(block.seed, "resamples", figure, cell.role)
    within_classes = generator(block.seed, "resamples within classes", figure, cell.tested_on)
    known = true >= 0  # an image of a class that the head lacks is wrong, and has no recall
    recall = tabulate_recall(
        correct[known], true[known], cell, names=names, resamples=block.resamples, generator=within_classes
    )
    return tabulate_accuracy(correct, cell, resamples=block.resamples, generator=images), recall
