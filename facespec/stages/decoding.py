"""Figures 1B and S1A: decode both tasks from the frozen single-task networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from facespec.analyses.accuracy import mark_correct
from facespec.analyses.decoding import decode_classes
from facespec.analyses.resampling import Cell, tabulate_accuracy
from facespec.data.batches import Preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import draw_balanced_subset, draw_images, draw_people, encode_classes, hold_out
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.responses.recording import record_penultimate
from facespec.stages.network_files import load_network
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY
from facespec.study.vocabulary import TASKS, TEST, TRAIN, Network, Role, Task

BATCH = 256


@dataclass(frozen=True)
class Reading:
    """One task to decode: from which faces, fitted and tested on which rows of their labels."""

    figure: str
    role: Role
    task: Task
    faces: FaceSet
    fit: np.ndarray
    test: np.ndarray


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write ``Results/decoding.csv``: figures 1B and S1A, every seed, all test images and their resamples."""
    readings = list(_probe_readings(paths, params)) + list(_role_readings(paths, params))
    tables = []
    with deterministic_torch():
        for seed in params.seeds:
            for network in (Network.EXPRESSION, Network.IDENTITY):
                checkpoint = load_network(paths, "train", network, seed)
                tables += [_decoded(reading, checkpoint, seed, params, device=device) for reading in readings]
    write_table(paths.table("decoding"), ACCURACY.check(pd.concat(tables, ignore_index=True)))


def _probe_readings(paths: Paths, params: Params) -> Iterator[Reading]:
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    for task in TASKS:
        yield Reading("1B", Role.PROBE, task, faces, fit, test)


def _role_readings(paths: Paths, params: Params) -> Iterator[Reading]:
    """S1A: 7 x 20 expressions and 500 images of people, from the images that the role holds out."""
    block = params.decoding
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        stream = generator(block.seed, "subset", task.value)
        rows = {split: np.flatnonzero(faces.labels["split"] == split) for split in (TRAIN, TEST)}
        per_class = block.expression_test
        if task is Task.IDENTITY:
            people = draw_people(faces.labels, block.identity_people, stream)
            rows = {split: r[faces.labels["identity"].iloc[r].isin(people)] for split, r in rows.items()}
            per_class = block.identity_test // block.identity_people
        test = rows[TEST][draw_balanced_subset(faces.labels.iloc[rows[TEST]], task.value, per_class, stream)]
        fit = rows[TRAIN][draw_images(faces.labels.iloc[rows[TRAIN]], block.fit_images, stream)]
        yield Reading("S1A", Role(task.value), task, faces, fit, test)


def _decoded(
    reading: Reading, checkpoint: checkpoints.Checkpoint, seed: int, params: Params, *, device: str
) -> pd.DataFrame:
    block, network = params.decoding, checkpoint.network_name
    codes, _ = encode_classes(reading.faces.labels, reading.task.value)
    fit, test = (
        record_penultimate(
            checkpoint.network,
            reading.faces,
            rows,
            network.tasks[0].value,
            preset=Preset(**checkpoint.preset),
            batch_size=BATCH,
            device=pick_device(device),
        )
        for rows in (reading.fit, reading.test)
    )
    answers = decode_classes(fit, codes[reading.fit], test, penalty=block.penalty, iterations=block.iterations)
    cell = Cell(
        figure=reading.figure,
        trained_on=network.value,
        tested_on=reading.task.value,
        role=reading.role.value,
        source=reading.faces.source,
        seed=seed,
        chance=1 / len(np.unique(codes[reading.test])),
    )
    # the stream's name lacks network and seed: all of them are resampled alike, so that differences are paired
    draws = generator(block.seed, "resamples", reading.figure, reading.role.value)
    correct = mark_correct(answers, codes[reading.test])
    return tabulate_accuracy(correct, cell, resamples=block.resamples, generator=draws)
