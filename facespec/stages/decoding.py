"""Figures 1B and S1A: how well can both tasks be decoded from the frozen single-task networks, and without training?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from facespec.analyses.accuracy import mark_correct
from facespec.analyses.decoding import decode_classes
from facespec.analyses.pixels import classify_by_discriminants, classify_by_nearest
from facespec.analyses.resampling import Cell, compute_chance, tabulate_accuracy
from facespec.data.faceset import FaceSet
from facespec.data.splits import draw_images, encode_classes, hold_out
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.responses.pixels import record_pixels
from facespec.responses.recording import record_penultimate
from facespec.stages.network_files import load_network, undo_training
from facespec.stages.subsets import draw_subset
from facespec.study.params import Accuracy, Decoding, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, NEAREST, PIXELS, UNTRAINED
from facespec.study.vocabulary import TASKS, TEST, TRAIN, Network, Role, Task

BATCH = 256


@dataclass(frozen=True, eq=False)
class DecodingTask:
    """`task` is decoded: the decoder is fitted to `fit_rows` of `faces` and tested on `test_rows`.

    `draws` says how the test images are resampled.
    """

    figure: str
    task: Task
    faces: FaceSet
    fit_rows: np.ndarray
    test_rows: np.ndarray
    draws: Decoding | Accuracy


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write ``Results/decoding.csv``: figures 1B and S1A, every seed, all test images and their resamples.

    Beside the trained networks stand baselines, for S1B too: the untrained trunk of each seed, and pixels.
    """
    block, tasks = params.decoding, list(list_decoding_tasks(paths, params))
    tables: list[pd.DataFrame] = []
    with deterministic_torch():
        for seed, network in itertools.product(params.seeds, (Network.EXPRESSION, Network.IDENTITY)):
            checkpoint = load_network(paths, "train", network, seed)
            decoded = [task for task in tasks if task.figure != "S1B"]  # whose networks have heads
            tables += [_decode_network(task, checkpoint, network.value, block, device=device) for task in decoded]
            # both networks of a seed start from one trunk; layers that only one task has are read for that task
            untrained = undo_training(checkpoint)
            decoded = [task for task in tasks if task.task in network.tasks]
            tables += [_decode_network(task, untrained, UNTRAINED, block, device=device) for task in decoded]
        for task in tasks:
            tables += _decode_pixels(task, params.seeds, block)
    write_table(paths.table("decoding"), ACCURACY.check(pd.concat(tables, ignore_index=True)))


def list_decoding_tasks(paths: Paths, params: Params) -> Iterator[DecodingTask]:
    """1B: both tasks on the probe images, split as for fine-tuning. S1A: each task on images of its training role.

    Of the images that the role holds out, 7 x 20 test expressions and 500 test people. S1B, for baselines: all of them.
    """
    block, faces = params.decoding, FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    for task in TASKS:
        yield DecodingTask("1B", task, faces, fit, test, block)
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        labels, stream = faces.labels, generator(block.seed, "subset", task.value)
        fit, test = (np.flatnonzero(labels["split"] == split) for split in (TRAIN, TEST))
        fit_any = fit[
            draw_images(labels.iloc[fit], block.fit_images, generator(block.seed, "subset", "S1B", task.value))
        ]
        yield DecodingTask("S1B", task, faces, fit_any, test, params.accuracy)
        fit, test = draw_subset(labels, task, block, stream)
        yield DecodingTask("S1A", task, faces, fit, test, block)


def _decode_network(
    task: DecodingTask, checkpoint: checkpoints.Checkpoint, trained_on: str, block: Decoding, *, device: str
) -> pd.DataFrame:
    """The ACCURACY rows of one task, decoded from the last responses of one network."""
    codes, _ = encode_classes(task.faces.labels, task.task.value)
    fit, test = (
        record_penultimate(
            checkpoint.network,
            task.faces,
            rows,
            checkpoint.network_name.tasks[0].value,
            preset=checkpoint.preset,
            batch_size=BATCH,
            device=pick_device(device),
        )
        for rows in (task.fit_rows, task.test_rows)
    )
    predicted = decode_classes(fit, codes[task.fit_rows], test, penalty=block.penalty, iterations=block.iterations)
    return _tabulate(task, predicted, codes[task.test_rows], trained_on=trained_on, seed=checkpoint.origin.seed)


def _decode_pixels(task: DecodingTask, seeds: list[int], block: Decoding) -> Iterator[pd.DataFrame]:
    """The ACCURACY rows of one task, decoded from pixels: the same for every seed.

    Memory is bounded by `pixel_images` images of at most `pixel_size` px.
    """
    codes, _ = encode_classes(task.faces.labels, task.task.value)
    stream = generator(block.seed, "pixels", task.figure, task.task.value)
    rows = task.fit_rows[draw_images(task.faces.labels.iloc[task.fit_rows], block.pixel_images, stream)]
    fit, test = (
        record_pixels(task.faces, part, size=block.pixel_size, batch_size=BATCH) for part in (rows, task.test_rows)
    )
    discriminants = classify_by_discriminants(fit, codes[rows], test, components=block.pixel_components)
    for trained_on, predicted in {PIXELS: discriminants, NEAREST: classify_by_nearest(fit, codes[rows], test)}.items():
        for seed in seeds:
            yield _tabulate(task, predicted, codes[task.test_rows], trained_on=trained_on, seed=seed)


def _tabulate(
    task: DecodingTask, predicted: np.ndarray, true: np.ndarray, *, trained_on: str, seed: int
) -> pd.DataFrame:
    cell = Cell(
        figure=task.figure,
        trained_on=trained_on,
        tested_on=task.task.value,
        role=str(task.faces.role),
        source=task.faces.source,
        seed=seed,
        chance=compute_chance(true),
    )
    # the stream's name lacks network and seed: all of them share the resamples, so that differences are paired; in S1B
    # also with the heads that the accuracy stage tests
    stream = generator(task.draws.seed, "resamples", task.figure, str(task.faces.role))
    return tabulate_accuracy(mark_correct(predicted, true), cell, resamples=task.draws.resamples, generator=stream)
