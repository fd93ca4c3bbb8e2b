"""Figure 2: where do the fine-tuned networks look, and an untrained one? Their raw heatmaps, and the means of these."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from facespec.analyses.heatmaps import iterate_heatmaps
from facespec.analyses.moments import Moments
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.layers import find_last_convolution
from facespec.stages.network_files import load_network
from facespec.stages.progress import progress_bar
from facespec.study.artefacts import digest_files, write_document
from facespec.study.directories import atomic_directory
from facespec.study.errors import StudyError
from facespec.study.maps import HEADER_FILE, LABELS_FILE, MEAN_FACE, name_map_file, scale_maps
from facespec.study.params import Heatmaps, Params
from facespec.study.paths import Paths
from facespec.study.storage import encode_table, write_bytes, write_table
from facespec.study.tables import HEATMAPS
from facespec.study.vocabulary import EXPRESSIONS, Network, Role

BATCH = 64  # of VGG16 at 224 px, 64 images have 0.8 GB of responses in one layer
LAST, ALL = "last", "all"


@dataclass(frozen=True, eq=False)
class HeatmapJob:
    """Images at `rows` of `faces` are explained as `block` says; their maps go to `directory`.

    `report` is called with the number of images whose maps have just been written.
    """

    faces: FaceSet
    rows: np.ndarray
    block: Heatmaps
    directory: Path
    device: torch.device
    report: Callable[[int], None]


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write the directory ``Results/heatmaps`` (a `study.maps.MapSet`) and the mean maps, ``Results/heatmaps.csv``.

    All probe images of the chosen view are explained, whether the network was fitted to them or not [O]: the study
    averages over its probe faces, and a map says where a network looks, not whether it is right.
    """
    faces, block = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), params.heatmaps
    rows = _choose_rows(faces, block)
    tables: list[pd.DataFrame] = []
    layers: dict[str, str] = {}
    with (
        deterministic_torch(),
        progress_bar() as bar,
        atomic_directory(paths.heatmaps, marks=(HEADER_FILE,)) as directory,
    ):
        bar_task = bar.add_task("heatmaps", total=len(rows) * len(Network) * len(params.seeds), numbers="")
        job = HeatmapJob(faces, rows, block, directory, pick_device(device), lambda n: bar.advance(bar_task, n))
        for network, seed in itertools.product(Network, params.seeds):
            stage = "untrained" if network is Network.UNTRAINED else "finetune"
            checkpoint = load_network(paths, stage, network, seed)
            task_layers = _choose_layers(checkpoint, block)
            layers |= {f"{network.value}-{task}": layer for task, layer in task_layers.items()}
            keys = {"trained_on": network.value, "source": faces.source, "seed": seed}
            for task, (raw, scaled) in _write_maps(job, checkpoint, task_layers).items():
                table = _tabulate_moments(raw, scaled)
                tables.append(table.assign(**keys, tested_on=task, layer=task_layers[task]))
        write_bytes(directory / LABELS_FILE, encode_table(faces.labels.iloc[rows]))
        np.save(directory / MEAN_FACE, _average_face(faces, rows))
        header = {
            "version": 2,
            "source": faces.source,
            "height": faces.height,
            "width": faces.width,
            "n": len(rows),
            "seeds": list(params.seeds),
            "layers": layers,
            "target": block.target,
            "digests": digest_files(directory),
        }
        write_document(directory / HEADER_FILE, header)
    write_table(paths.table("heatmaps"), HEATMAPS.check(pd.concat(tables, ignore_index=True)))


def _choose_rows(faces: FaceSet, block: Heatmaps) -> np.ndarray:
    mask = np.ones(len(faces), bool) if block.view == ALL else faces.labels["view"].eq(block.view).to_numpy()
    if not mask.any():
        raise StudyError(
            f"{faces.directory}: no image shows the {block.view} view, so there is nothing to explain. Use probe faces "
            "with that view, or set heatmaps.view to all in params.yaml."
        )
    return np.flatnonzero(mask)


def _average_face(faces: FaceSet, rows: np.ndarray) -> np.ndarray:
    parts = (faces.images(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))
    return np.sum([part.sum(axis=0, dtype=np.int64) for part in parts], axis=0) / len(rows)


def _choose_layers(checkpoint: checkpoints.Checkpoint, block: Heatmaps) -> dict[str, str]:
    network = checkpoint.network
    return {
        task: find_last_convolution(network, task) if block.layer == LAST else block.layer for task in network.tasks
    }


def _write_maps(
    job: HeatmapJob, checkpoint: checkpoints.Checkpoint, layers: dict[str, str]
) -> dict[str, tuple[Moments, Moments]]:
    """Write the raw maps of one network, batch by batch; return per task the moments of raw and of scaled maps."""
    labels = job.faces.labels.iloc[job.rows]
    targets = {
        task: _encode_targets(checkpoint.classes[task], labels[task]) if job.block.target == "labelled" else None
        for task in layers
    }
    expressions = pd.Index(EXPRESSIONS).get_indexer(pd.Index(labels["expression"]))
    files: dict[str, np.memmap[Any, Any]] = {}
    moments: dict[str, tuple[Moments, Moments]] = {}
    start = 0
    for batch in iterate_heatmaps(
        checkpoint.network,
        job.faces,
        job.rows,
        layers,
        targets,
        preset=checkpoint.preset,
        batch_size=BATCH,
        device=job.device,
    ):
        for task, maps in batch.items():
            if task not in files:
                path = job.directory / name_map_file(checkpoint.network_name, task, checkpoint.origin.seed)
                shape = (len(job.rows), *maps.shape[1:])
                files[task] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                moments[task] = Moments(len(EXPRESSIONS), maps.shape[1:]), Moments(len(EXPRESSIONS), maps.shape[1:])
            stop = start + len(maps)
            files[task][start:stop] = maps
            raw, scaled = moments[task]
            raw.add(maps, expressions[start:stop])
            scaled.add(scale_maps(maps), expressions[start:stop])
        job.report(stop - start)
        start = stop
    for file in files.values():
        file.flush()
    return moments


def _encode_targets(names: tuple[str, ...], labels: pd.Series) -> np.ndarray:
    codes = pd.Index(names).get_indexer(pd.Index(labels)).astype(np.int64)
    if (codes < 0).any():
        raise StudyError(
            f"no network was fitted to {labels.name} {labels[codes < 0].iloc[0]!r}: fine-tune again, or explain the "
            "class that is predicted (heatmaps.target: predicted in params.yaml)."
        )
    return codes


def _tabulate_moments(raw: Moments, scaled: Moments) -> pd.DataFrame:
    """The HEATMAPS rows of one network, task and seed: raw, then scaled maps; of all images, then of every expression.

    `blank` counts the maps that cannot be scaled, for raw maps, too.
    """
    one_group = np.zeros(len(EXPRESSIONS), dtype=np.int64)
    tables = []
    for scale, moments in (("raw", raw), ("scaled", scaled)):
        pooled = moments.merge(one_group), scaled.merge(one_group).blank
        for names, (groups, blank) in (((ALL,), pooled), (EXPRESSIONS, (moments, scaled.blank))):
            mean, sd = groups.mean, groups.sd
            row, column = np.indices(mean.shape[1:])
            for group, name in enumerate(names):
                cells = {"row": row, "column": column, "mean": mean[group], "sd": sd[group]}
                table = pd.DataFrame({key: values.ravel() for key, values in cells.items()})
                counts = {"n": groups.count[group], "blank": blank[group]}
                tables.append(table.assign(expression=str(name), scale=scale, **counts))
    return pd.concat(tables)
