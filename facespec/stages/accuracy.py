"""Figures 1C and S1B: top-1 accuracy of single-task and joint networks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from facespec.analyses.accuracy import mark_correct
from facespec.analyses.resampling import Cell, tabulate_accuracy
from facespec.data.batches import Preset
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


@dataclass(frozen=True)
class Test:
    """Which networks (after which stage) answer about which faces, and which of their tasks counts."""

    figure: str
    stage: str
    role: Role
    faces: FaceSet
    rows: np.ndarray
    tasks: tuple[Task, ...]


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write ``Results/accuracy.csv``: figures 1C and S1B, every seed, all test images and their resamples."""
    tables: list[pd.DataFrame] = []
    with deterministic_torch():
        for test, network, seed in itertools.product(_tests(paths, params), NETWORKS, params.seeds):
            tasks = tuple(task for task in test.tasks if task in network.tasks)
            if tasks:
                checkpoint = load_network(paths, test.stage, network, seed)
                tables += _tested(replace(test, tasks=tasks), checkpoint, seed, params.accuracy, device=device)
    write_table(paths.table("accuracy"), ACCURACY.check(pd.concat(tables, ignore_index=True)))


def _tests(paths: Paths, params: Params) -> Iterator[Test]:
    """1C: held-out probe images, after fine-tuning. S1B: test images of the training roles, before it."""
    probe = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    _, held_out = hold_out(probe.labels, params.split, generator(params.split.seed, "split"))
    yield Test("1C", "finetune", Role.PROBE, probe, held_out, TASKS)
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        yield Test("S1B", "train", Role(task.value), faces, np.flatnonzero(faces.labels["split"] == TEST), (task,))


def _tested(
    test: Test, checkpoint: checkpoints.Checkpoint, seed: int, block: Accuracy, *, device: str
) -> Iterator[pd.DataFrame]:
    answers = predict_classes(
        checkpoint.network,
        test.faces,
        test.rows,
        preset=Preset(**checkpoint.preset),
        batch_size=BATCH,
        device=pick_device(device),
    )
    for task in test.tasks:
        names = checkpoint.classes[task.value]
        true = pd.Index(names).get_indexer(pd.Index(test.faces.labels[task.value].iloc[test.rows]))
        cell = Cell(
            figure=test.figure,
            trained_on=checkpoint.network_name.value,
            tested_on=task.value,
            role=test.role.value,
            source=test.faces.source,
            seed=seed,
            chance=1 / len(names),
        )
        # the stream's name lacks network and seed: all of them are resampled alike, so that differences are paired
        draws = generator(block.seed, "resamples", test.figure, test.role.value)
        correct = mark_correct(answers[task.value], true)
        yield tabulate_accuracy(correct, cell, resamples=block.resamples, generator=draws)
