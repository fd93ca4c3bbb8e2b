"""Figures 1C and S1B: how often do single-task and joint networks name the right class?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from facespec.analyses.accuracy import mark_correct
from facespec.analyses.resampling import Cell, tabulate_accuracy
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
from facespec.study.tables import ACCURACY
from facespec.study.vocabulary import NETWORKS, TASKS, TEST, Role, Task

BATCH = 256


@dataclass(frozen=True, eq=False)
class TestImages:
    """Images at `rows` of `faces`, on which the heads for `tasks` are tested after the networks' `stage`."""

    figure: str
    stage: str
    faces: FaceSet
    rows: np.ndarray
    tasks: tuple[Task, ...]


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write ``Results/accuracy.csv``: figures 1C and S1B, every seed, all test images and their resamples."""
    tables: list[pd.DataFrame] = []
    with deterministic_torch():
        for images, network, seed in itertools.product(_list_test_images(paths, params), NETWORKS, params.seeds):
            if set(images.tasks) & set(network.tasks):
                checkpoint = load_network(paths, images.stage, network, seed)
                tables += _test_network(checkpoint, images, params.accuracy, device=device)
    write_table(paths.table("accuracy"), ACCURACY.check(pd.concat(tables, ignore_index=True)))


def _list_test_images(paths: Paths, params: Params) -> Iterator[TestImages]:
    """1C: held-out probe images, after fine-tuning. S1B: test images of the training roles, before it."""
    probe = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    _, held_out = hold_out(probe.labels, params.split, generator(params.split.seed, "split"))
    yield TestImages("1C", "finetune", probe, held_out, TASKS)
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        yield TestImages("S1B", "train", faces, np.flatnonzero(faces.labels["split"] == TEST), (task,))


def _test_network(
    checkpoint: checkpoints.Checkpoint, images: TestImages, block: Accuracy, *, device: str
) -> Iterator[pd.DataFrame]:
    """The ACCURACY rows of one network, a table per task."""
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
            chance=1 / len(names),
        )
        # the stream's name lacks network and seed: all of them share the resamples, so that differences are paired
        stream = generator(block.seed, "resamples", images.figure, role)
        correct = mark_correct(predicted[task.value], true)
        yield tabulate_accuracy(correct, cell, resamples=block.resamples, generator=stream)
