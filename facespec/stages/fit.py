"""One network of the grid: trained as `train` does, with the settings of its cell, and tested on its own roles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from facespec.analyses.accuracy import mark_correct
from facespec.analyses.resampling import compute_chance
from facespec.data.batches import make_preset
from facespec.data.splits import draw_images
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.networks import FaceNetwork
from facespec.responses.recording import predict_classes
from facespec.stages.fitting import collect_training_faces, train_network
from facespec.stages.network_files import build_initial_network
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.fingerprints import identify_computation
from facespec.study.grid import GridFit, apply_cell, list_fits
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.presets import Preset
from facespec.study.seeds import generator
from facespec.study.storage import encode_table, write_bytes
from facespec.study.tables_sharing import FITS
from facespec.study.vocabulary import TEST, TRAIN, Task
from facespec.training.fit import Plan, TaskData

BATCH = 256


def run(paths: Paths, params: Params, *, name: str, device: str) -> None:
    """Write ``fits/NAME.csv``: what the network `name` of the grid answers to the images of its training roles.

    Raises `StudyError` for a name that the grid does not have, and for networks of a user's own.
    """
    fits = list_fits(params)
    if name not in fits:
        raise StudyError(f"the grid of params.yaml has no network {name!r}: {suggest_spelling(name, fits)}")
    if params.network.file is not None:
        raise StudyError("network.file: these networks are not trained. Set it to null: the grid trains its networks.")
    grid_fit = fits[name]
    cell_params = apply_cell(params, grid_fit.cell)
    faces = collect_training_faces(paths, grid_fit.network, batch_size=params.train.batch_size)
    data = {task: _limit_images(part, task, grid_fit) for task, part in faces.data.items()}
    any_faces = next(iter(data.values())).faces
    preset = make_preset(params.train.preset, any_faces.height, any_faces.channels)
    sizes = {task: len(names) for task, names in faces.classes.items()}
    model = build_initial_network(cell_params.network, sizes, channels=any_faces.channels, seed=grid_fit.seed)
    unfinished = paths.unfinished_fit(name)
    with deterministic_torch():
        plan = Plan(cell_params.train, preset, pick_device(device), faces.epoch_steps, code=identify_computation("fit"))
        # the batches of the study's own networks: a cell with the study's settings holds the same networks
        stream = generator(grid_fit.seed, "train", "batches")
        train_network(model, data, plan, generator=stream, progress_file=unfinished, label=name)
        rows = [
            row
            for task, part in data.items()
            for row in _test_network(model, part, task, faces.classes[task], preset, device=device)
        ]
    table = pd.DataFrame([{**_describe_fit(grid_fit, model), **row} for row in rows])
    write_bytes(paths.fit(name), encode_table(FITS.check(table)))
    unfinished.unlink(missing_ok=True)


def _limit_images(data: TaskData, task: str, grid_fit: GridFit) -> TaskData:
    """As many images of expression as the cell allows; fewer ones are among those of a cell with more."""
    if task != Task.EXPRESSION.value or not grid_fit.cell.images:
        return data
    labels = data.faces.labels.iloc[data.rows]
    chosen = draw_images(labels, grid_fit.cell.images, generator(grid_fit.seed, "fit", "images"))
    return replace(data, rows=data.rows[chosen], codes=data.codes[chosen])


def _describe_fit(grid_fit: GridFit, model: FaceNetwork) -> dict[str, Any]:
    return {
        "trained_on": grid_fit.network.value,
        "seed": grid_fit.seed,
        **asdict(grid_fit.cell),
        "parameters": sum(weights.numel() for weights in model.parameters()),
    }


def _test_network(
    model: FaceNetwork, data: TaskData, task: str, names: tuple[str, ...], preset: Preset, *, device: str
) -> Iterator[dict[str, Any]]:
    """A row for the training images, without augmentation, and one for the test images; `names`: of the classes."""
    labels = data.faces.labels
    for split, rows in ((TRAIN, data.rows), (TEST, np.flatnonzero(labels["split"] == TEST))):
        true = pd.Index(names).get_indexer(pd.Index(labels[task].iloc[rows]))
        predicted = predict_classes(
            model, data.faces, rows, preset=preset, batch_size=BATCH, device=pick_device(device)
        )
        correct = mark_correct(predicted[task], true)
        yield {
            "tested_on": task,
            "source": data.faces.source,
            "split": split,
            "n": len(rows),
            "chance": compute_chance(true),
            "accuracy": float(correct.mean()),
            "correct": np.packbits(correct).tobytes().hex() if split == TEST else "",
        }
