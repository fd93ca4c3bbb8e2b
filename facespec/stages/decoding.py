"""Figures 1B and S1A: how well can both tasks be decoded from the frozen single-task networks?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from facespec.analyses.accuracy import mark_correct
from facespec.analyses.decoding import decode_classes
from facespec.analyses.resampling import Cell, tabulate_accuracy
from facespec.data.faceset import FaceSet
from facespec.data.splits import draw_balanced_subset, draw_images, draw_people, encode_classes, hold_out
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.responses.recording import record_penultimate
from facespec.stages.network_files import load_network
from facespec.study.params import Decoding, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY
from facespec.study.vocabulary import TASKS, TEST, TRAIN, Network, Role, Task

BATCH = 256


@dataclass(frozen=True, eq=False)
class DecodingTask:
    """`task` is decoded: the decoder is fitted to `fit_rows` of `faces` and tested on `test_rows`."""

    figure: str
    task: Task
    faces: FaceSet
    fit_rows: np.ndarray
    test_rows: np.ndarray


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write ``Results/decoding.csv``: figures 1B and S1A, every seed, all test images and their resamples."""
    tasks = list(list_decoding_tasks(paths, params))
    tables: list[pd.DataFrame] = []
    with deterministic_torch():
        for seed, network in itertools.product(params.seeds, (Network.EXPRESSION, Network.IDENTITY)):
            checkpoint = load_network(paths, "train", network, seed)
            tables += [_decode_task(task, checkpoint, params.decoding, device=device) for task in tasks]
    write_table(paths.table("decoding"), ACCURACY.check(pd.concat(tables, ignore_index=True)))


def list_decoding_tasks(paths: Paths, params: Params) -> Iterator[DecodingTask]:
    """1B: both tasks on the probe images, split as for fine-tuning. S1A: each task on images of its training role.

    Of the images that the role holds out, 7 x 20 test expressions and 500 test people.
    """
    block, faces = params.decoding, FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    for task in TASKS:
        yield DecodingTask("1B", task, faces, fit, test)
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        labels, stream = faces.labels, generator(block.seed, "subset", task.value)
        fit, test = (np.flatnonzero(labels["split"] == split) for split in (TRAIN, TEST))
        per_class = block.expression_test
        if task is Task.IDENTITY:
            people = draw_people(labels, block.identity_people, stream)
            fit, test = (rows[labels["identity"].iloc[rows].isin(people)] for rows in (fit, test))
            per_class = block.identity_test // block.identity_people
        test = test[draw_balanced_subset(labels.iloc[test], task.value, per_class, stream)]
        fit = fit[draw_images(labels.iloc[fit], block.fit_images, stream)]
        yield DecodingTask("S1A", task, faces, fit, test)


def _decode_task(
    task: DecodingTask, checkpoint: checkpoints.Checkpoint, block: Decoding, *, device: str
) -> pd.DataFrame:
    """The ACCURACY rows of one task, decoded from the last responses of one network."""
    network, faces = checkpoint.network_name, task.faces
    codes, _ = encode_classes(faces.labels, task.task.value)
    fit, test = (
        record_penultimate(
            checkpoint.network,
            faces,
            rows,
            network.tasks[0].value,
            preset=checkpoint.preset,
            batch_size=BATCH,
            device=pick_device(device),
        )
        for rows in (task.fit_rows, task.test_rows)
    )
    true = codes[task.test_rows]
    predicted = decode_classes(fit, codes[task.fit_rows], test, penalty=block.penalty, iterations=block.iterations)
    cell = Cell(
        figure=task.figure,
        trained_on=network.value,
        tested_on=task.task.value,
        role=str(faces.role),
        source=faces.source,
        seed=checkpoint.origin.seed,
        chance=1 / len(np.unique(true)),
    )
    # the stream's name lacks network and seed: all of them share the resamples, so that differences are paired
    stream = generator(block.seed, "resamples", task.figure, str(faces.role))
    return tabulate_accuracy(mark_correct(predicted, true), cell, resamples=block.resamples, generator=stream)
