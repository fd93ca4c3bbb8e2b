"""Figure 2: where the fine-tuned networks look. Raw heatmaps of all networks, and their means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facespec.analyses.heatmaps import Moments, iterate_heatmaps
from facespec.data.batches import Preset
from facespec.data.directories import atomic_directory
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.layers import find_last_convolution
from facespec.stages.network_files import load_network
from facespec.stages.progress import progress_bar
from facespec.study.artefacts import digest_files, write_document
from facespec.study.errors import StudyError
from facespec.study.maps import HEADER_FILE, LABELS_FILE, MEAN_FACE, name_map_file, scale_maps
from facespec.study.params import Heatmaps, Params
from facespec.study.paths import Paths
from facespec.study.storage import encode_table, write_bytes, write_table
from facespec.study.tables import HEATMAPS
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, Role

BATCH = 64  # of VGG16 at 224 px, 64 images have 0.8 GB of responses in one layer
LAST, ALL = "last", "all"


@dataclass(frozen=True, eq=False)
class HeatmapJob:
    """Which images are explained, how, and where the maps go."""

    faces: FaceSet
    rows: np.ndarray
    block: Heatmaps
    directory: Path


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write the directory ``Results/heatmaps`` (a `study.maps.MapSet`) and the mean maps, ``Results/heatmaps.csv``.

    All probe images of the chosen view are explained, whether the network was fitted to them or not [O]: the study
    averages over its probe faces, and a map says where a network looks, not whether it is right.
    """
    faces, block = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), params.heatmaps
    rows = _rows(faces, block)
    tables: list[pd.DataFrame] = []
    layers: dict[str, str] = {}
    with (
        deterministic_torch(),
        progress_bar() as bar,
        atomic_directory(paths.heatmaps, marks=(HEADER_FILE,)) as directory,
    ):
        shown = bar.add_task("heatmaps", total=len(rows) * len(NETWORKS) * len(params.seeds), numbers="")
        job = HeatmapJob(faces, rows, block, directory)
        for network in NETWORKS:
            for seed in params.seeds:
                checkpoint = load_network(paths, "finetune", network, seed)
                own = _layers(checkpoint, block)
                layers |= {f"{network.value}-{task}": layer for task, layer in own.items()}
                moments = _write_maps(job, checkpoint, own, seed, device=device, report=lambda n: bar.advance(shown, n))
                for task, (raw, stretched) in moments.items():
                    both = pd.concat([_rows_of(raw, stretched, "raw"), _rows_of(stretched, stretched, "scaled")])
                    tables.append(
                        both.assign(
                            trained_on=network.value, tested_on=task, source=faces.source, seed=seed, layer=own[task]
                        )
                    )
        write_bytes(directory / LABELS_FILE, encode_table(faces.labels.iloc[rows]))
        np.save(directory / MEAN_FACE, _mean_face(faces, rows))
        head = {
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
        write_document(directory / HEADER_FILE, head)
    write_table(paths.table("heatmaps"), HEATMAPS.check(pd.concat(tables, ignore_index=True)))


def _rows(faces: FaceSet, block: Heatmaps) -> np.ndarray:
    views = faces.labels["view"]
    chosen = np.ones(len(views), bool) if block.view == ALL else views.eq(block.view).to_numpy()
    if not chosen.any():
        raise StudyError(
            f"{faces.directory}: no image shows the {block.view} view, so there is nothing to explain. Use probe faces "
            "with that view, or set heatmaps.view to all in params.yaml."
        )
    return np.flatnonzero(chosen)


def _mean_face(faces: FaceSet, rows: np.ndarray) -> np.ndarray:
    parts = (faces.images(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))
    return np.sum([part.sum(axis=0, dtype=np.int64) for part in parts], axis=0) / len(rows)


def _layers(checkpoint: checkpoints.Checkpoint, block: Heatmaps) -> dict[str, str]:
    network = checkpoint.network
    return {
        task: find_last_convolution(network, task) if block.layer == LAST else block.layer for task in network.tasks
    }


def _write_maps(
    job: HeatmapJob,
    checkpoint: checkpoints.Checkpoint,
    layers: dict[str, str],
    seed: int,
    *,
    device: str,
    report: Callable[[int], None],
) -> dict[str, tuple[Moments, Moments]]:
    """Write the raw maps of one network, batch by batch; returns per task the moments of raw and of scaled maps."""
    labels = job.faces.labels.iloc[job.rows]
    targets = {
        task: _codes(checkpoint.classes[task], labels[task]) if job.block.target == "labelled" else None
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
        preset=Preset(**checkpoint.preset),
        batch_size=BATCH,
        device=pick_device(device),
    ):
        for task, maps in batch.items():
            if task not in files:
                path = job.directory / name_map_file(checkpoint.network_name, task, seed)
                shape = (len(job.rows), *maps.shape[1:])
                files[task] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                moments[task] = Moments(len(EXPRESSIONS), maps.shape[1:]), Moments(len(EXPRESSIONS), maps.shape[1:])
            stop = start + len(maps)
            files[task][start:stop] = maps
            raw, stretched = moments[task]
            raw.add(maps, expressions[start:stop])
            stretched.add(scale_maps(maps), expressions[start:stop])
        report(stop - start)
        start = stop
    for file in files.values():
        file.flush()
    return moments


def _codes(names: tuple[str, ...], labels: pd.Series) -> np.ndarray:
    codes = pd.Index(names).get_indexer(pd.Index(labels)).astype(np.int64)
    if (codes < 0).any():
        raise StudyError(
            f"no network was fitted to {labels.name} {labels[codes < 0].iloc[0]!r}: fine-tune again, or explain the "
            "class that is predicted (heatmaps.target: predicted in params.yaml)."
        )
    return codes


def _rows_of(moments: Moments, stretched: Moments, scale: str) -> pd.DataFrame:
    """The HEATMAPS rows of one network, task and seed: all images, then every expression."""
    everyone = np.zeros(len(EXPRESSIONS), dtype=np.int64)
    all_images = _groups((ALL,), moments.merge(everyone), stretched.merge(everyone).blank)
    return pd.concat([*all_images, *_groups(EXPRESSIONS, moments, stretched.blank)]).assign(scale=scale)


def _groups(names: Sequence[str], moments: Moments, blank: np.ndarray) -> Iterator[pd.DataFrame]:
    mean, sd = moments.mean, moments.sd
    row, column = np.indices(mean.shape[1:])
    for group, name in enumerate(names):
        yield pd.DataFrame(
            {
                "expression": str(name),
                "row": row.ravel(),
                "column": column.ravel(),
                "n": moments.count[group],
                "blank": blank[group],
                "mean": mean[group].ravel(),
                "sd": sd[group].ravel(),
            }
        )
