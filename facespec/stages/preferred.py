"""Figures 3, S2 and S2B: which pictures, and which faces, drive every unit of the fine-tuned networks most?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from facespec.analyses.preferred import PreferredStimuli, Recipe, optimise_stimuli
from facespec.data.batches import Preset, iterate_batches
from facespec.data.directories import atomic_directory
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, on_device, pick_device
from facespec.models.layers import find_rectifier, list_convolutions
from facespec.responses.recording import record_responses
from facespec.responses.strongest import Strongest, find_strongest_images
from facespec.stages.network_files import load_network
from facespec.stages.progress import progress_bar
from facespec.study.artefacts import digest_files, write_document
from facespec.study.params import Params
from facespec.study.params import Preferred as Settings
from facespec.study.paths import Paths
from facespec.study.preferred import HEADER_FILE, name_preferred_file
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import PREFERRED
from facespec.study.vocabulary import NETWORKS, Role

BATCH = 64
SILENT = "silent: it answers 0 to all images"
UNITS = 32  # optimised at once; on another number the last bits of the pictures depend, and nothing else


@dataclass(frozen=True, eq=False)
class PreferredJob:
    """Of which faces and with which settings stimuli are made, and where they go."""

    faces: FaceSet
    settings: Settings
    directory: Path
    device: torch.device
    report: Callable[[int], None]


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write the directory ``Results/preferred`` (a `study.preferred.PreferredSet`) and ``Results/preferred.csv``.

    Of the study's first seed, as the study shows one network; of every convolution, behind its ReLU. All probe images
    compete for being the best one, by what the pictures are optimised for: the unit's mean response over the map.
    """
    faces, seed = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), params.seeds[0]
    loaded = [load_network(paths, "finetune", name, seed) for name in NETWORKS]
    places = {checkpoint.network_name: _places(checkpoint) for checkpoint in loaded}
    total = sum(place["units"] for own in places.values() for place in own)
    tables: list[pd.DataFrame] = []
    with (
        deterministic_torch(),
        progress_bar() as bar,
        atomic_directory(paths.preferred, marks=(HEADER_FILE,)) as directory,
    ):
        shown = bar.add_task("preferred", total=total, numbers="")
        job = PreferredJob(faces, params.preferred, directory, pick_device(device), lambda n: bar.advance(shown, n))
        for checkpoint in loaded:
            own = places[checkpoint.network_name]
            best = _best_images(checkpoint, faces, [place["name"] for place in own], job.device)
            for place in own:
                table = _layer(job, checkpoint, place, best[place["name"]])
                tables.append(
                    table.assign(
                        trained_on=checkpoint.network_name.value,
                        source=faces.source,
                        seed=seed,
                        layer=place["name"],
                        depth=place["depth"],
                    )
                )
        preset = Preset(**loaded[0].preset)
        head = {
            "version": 2,
            "source": faces.source,
            "seed": seed,
            "height": faces.height,
            "width": faces.width,
            "channels": faces.channels,
            "size": preset.size,
            "input_channels": preset.channels,
            "layers": {name.value: own for name, own in places.items()},
            "digests": digest_files(directory),
        }
        write_document(directory / HEADER_FILE, head)
    write_table(paths.table("preferred"), PREFERRED.check(pd.concat(tables, ignore_index=True)))


def _places(checkpoint: checkpoints.Checkpoint) -> list[dict[str, Any]]:
    """Name, depth and number of units of every layer, the shallowest first."""
    network = checkpoint.network
    return [
        {
            "name": find_rectifier(network, name),
            "depth": int(name.rsplit("conv", 1)[1]),
            "units": len(network.get_parameter(f"{name}.weight")),
        }
        for name in list_convolutions(network)
    ]


def _best_images(
    checkpoint: checkpoints.Checkpoint, faces: FaceSet, layers: list[str], device: torch.device
) -> dict[str, Strongest]:
    seen = iterate_batches(
        faces, np.arange(len(faces)), batch_size=BATCH, preset=Preset(**checkpoint.preset), generator=None
    )
    return find_strongest_images(checkpoint.network, seen, layers, k=1, device=device, reduction="mean")


def _layer(
    job: PreferredJob, checkpoint: checkpoints.Checkpoint, place: dict[str, Any], best: Strongest
) -> pd.DataFrame:
    """Write the pictures and the best faces of one layer; returns its PREFERRED rows, as far as they are its own."""
    network, layer = checkpoint.network_name, place["name"]
    preset, recipe = Preset(**checkpoint.preset), Recipe(batch_size=UNITS, **job.settings.model_dump(exclude={"seed"}))
    images, driven = best.image[:, 0], best.response[:, 0] > 0
    stored = job.faces.images(images)
    stored[~driven] = 0
    np.save(job.directory / name_preferred_file(network, layer, "best"), stored)
    tables: list[pd.DataFrame] = []
    shape = place["units"], preset.size, preset.size, *((3,) if preset.channels == 3 else ())
    path = job.directory / name_preferred_file(network, layer, "optimised")
    pictures = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for first in range(0, place["units"], UNITS):  # pictures of all units of a wide layer would not fit the memory
        units = range(first, min(first + UNITS, place["units"]))
        streams = {unit: generator(job.settings.seed, "preferred", network.value, layer, unit) for unit in units}
        found = optimise_stimuli(checkpoint.network, layer, streams, preset=preset, recipe=recipe, device=job.device)
        pictures[units.start : units.stop] = found.images
        tables.append(_picture_rows(found))
        job.report(len(units))
    pictures.flush()
    return pd.concat([*tables, _image_rows(job, checkpoint, layer, best)]).sort_values("unit", kind="stable")


def _picture_rows(found: PreferredStimuli) -> pd.DataFrame:
    """What the units answer to the pictures made for them, to those that they began with, and to random ones."""
    silent = found.response == 0
    why = np.where(silent, "dead: no picture woke it", "dead: it answers all pictures alike")
    kinds = {
        "optimised": (np.where(found.dead, np.float32(np.nan), found.response), np.where(found.dead, why, "")),
        "start": (found.start, ""),
        "random": (found.baseline, ""),
    }
    rows = [
        pd.DataFrame({"unit": found.units, "kind": kind, "response": response, "reason": reason})
        for kind, (response, reason) in kinds.items()
    ]
    return _completed(pd.concat(rows))


def _image_rows(job: PreferredJob, checkpoint: checkpoints.Checkpoint, layer: str, best: Strongest) -> pd.DataFrame:
    """What the units answer to the face that drives them most, and where in it their maps are largest."""
    driven = best.response[:, 0] > 0
    rows = pd.DataFrame({"unit": np.arange(len(driven)), "kind": "image", "response": best.response[:, 0]})
    rows["reason"] = np.where(driven, "", SILENT)
    chosen = rows.index[driven]
    rows.loc[chosen, "stimulus"] = job.faces.labels["stimulus"].to_numpy()[best.image[driven, 0]]
    peaks = _peaks(job, checkpoint, layer, np.flatnonzero(driven), best.image[driven, 0])
    for name, own in zip(("row", "column"), peaks, strict=True):
        rows[name] = pd.array([pd.NA] * len(rows), dtype="Int64")
        rows.loc[chosen, name] = own
    return _completed(rows)


def _completed(rows: pd.DataFrame) -> pd.DataFrame:
    """With every column that both kinds of rows share: no name and no place where there is no image."""
    own = rows.reindex(columns=["unit", "kind", "response", "stimulus", "row", "column", "reason"])
    return own.astype({"row": "Int64", "column": "Int64", "stimulus": object}).fillna({"stimulus": ""})


def _peaks(
    job: PreferredJob, checkpoint: checkpoints.Checkpoint, layer: str, units: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the cell, the first in reading order, in which the map of unit i of image i is largest."""
    network, preset, cells = checkpoint.network, Preset(**checkpoint.preset), [np.empty(0, dtype=np.int64)]
    width, done = 1, 0
    with on_device(network, job.device, training=False), torch.inference_mode():
        for batch in iterate_batches(job.faces, images, batch_size=UNITS, preset=preset, generator=None):
            with record_responses(network, [layer]) as responses:
                network(batch.images.to(job.device))
            n = len(batch.positions)
            maps = responses[layer][torch.arange(n), torch.from_numpy(units[done : done + n])]
            width, done = maps.shape[2], done + n
            cells.append(maps.flatten(1).argmax(dim=1).cpu().numpy())  # of equal cells, torch takes the first
    return np.divmod(np.concatenate(cells), width)
