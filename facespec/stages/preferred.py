"""Figures 3, S2 and S2B: which pictures, and which faces, drive every unit of the fine-tuned networks most?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facespec.analyses.preferred import PreferredStimuli, Recipe, optimise_stimuli
from facespec.data.batches import iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, on_device, pick_device
from facespec.models.layers import list_layers
from facespec.responses.recording import record_responses
from facespec.responses.strongest import StrongestImages, find_strongest_images
from facespec.stages.network_files import load_network
from facespec.stages.progress import progress_bar
from facespec.study.artefacts import digest_files, write_document
from facespec.study.directories import atomic_directory
from facespec.study.params import Params, Preferred
from facespec.study.paths import Paths
from facespec.study.preferred import HEADER_FILE, PreferredLayer, name_preferred_file
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import PREFERRED
from facespec.study.vocabulary import NETWORKS, Network, Role

BATCH = 64
SILENT = "silent: it answers 0 to all images"
NEGATIVE = "below 0: no image raises its mean response above it"  # of units without a rectifier
UNITS = 32  # optimised together; another number changes the last bits of the pictures, and nothing else


@dataclass(frozen=True, eq=False)
class PreferredJob:
    """Stimuli are made as `block` says, the best ones chosen from `faces`; both go to `directory`.

    `report` is called with the number of units that have just been finished.
    """

    faces: FaceSet
    block: Preferred
    directory: Path
    device: torch.device
    report: Callable[[int], None]


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write the directory ``Results/preferred`` (a `study.preferred.PreferredSet`) and ``Results/preferred.csv``.

    Of the study's first seed, as the study shows one network; of every convolution, behind its ReLU. The best face is
    chosen from all probe images by what the pictures are optimised for: the unit's mean response over the map. The
    untrained network is a control.
    """
    faces, seed = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), params.seeds[0]
    networks = [load_network(paths, "finetune", name, seed) for name in NETWORKS]
    networks.append(load_network(paths, "untrained", Network.UNTRAINED, seed))
    layers = [_list_layers(checkpoint) for checkpoint in networks]
    tables: list[pd.DataFrame] = []
    with (
        deterministic_torch(),
        progress_bar() as bar,
        atomic_directory(paths.preferred, marks=(HEADER_FILE,)) as directory,
    ):
        units = sum(layer.units for network_layers in layers for layer in network_layers)
        bar_task = bar.add_task("preferred", total=units, numbers="")
        job = PreferredJob(faces, params.preferred, directory, pick_device(device), lambda n: bar.advance(bar_task, n))
        for checkpoint, network_layers in zip(networks, layers, strict=True):
            best = _find_best_faces(job, checkpoint, [layer.name for layer in network_layers])
            keys = {"trained_on": checkpoint.network_name.value, "source": faces.source, "seed": seed}
            for layer in network_layers:
                table = _write_layer(job, checkpoint, layer, best[layer.name])
                tables.append(table.assign(**keys, layer=layer.name, depth=layer.depth))
        preset = networks[0].preset
        header = {
            "version": 2,
            "source": faces.source,
            "seed": seed,
            "height": faces.height,
            "width": faces.width,
            "channels": faces.channels,
            "size": preset.size,
            "input_channels": preset.channels,
            "layers": {
                checkpoint.network_name.value: [layer.model_dump() for layer in network_layers]
                for checkpoint, network_layers in zip(networks, layers, strict=True)
            },
            "digests": digest_files(directory),
        }
        write_document(directory / HEADER_FILE, header)
    write_table(paths.table("preferred"), PREFERRED.check(pd.concat(tables, ignore_index=True)))


def _list_layers(checkpoint: checkpoints.Checkpoint) -> list[PreferredLayer]:
    """The layers where units of convolutions respond, the shallowest first."""
    network = checkpoint.network
    return [
        PreferredLayer(name=layer.response, depth=layer.depth, units=len(network.get_parameter(f"{layer.name}.weight")))
        for layer in list_layers(network)
    ]


def _find_best_faces(
    job: PreferredJob, checkpoint: checkpoints.Checkpoint, layers: list[str]
) -> dict[str, StrongestImages]:
    batches = iterate_batches(
        job.faces, np.arange(len(job.faces)), batch_size=BATCH, preset=checkpoint.preset, generator=None
    )
    return find_strongest_images(checkpoint.network, batches, layers, k=1, device=job.device, reduction="mean")


def _write_layer(
    job: PreferredJob, checkpoint: checkpoints.Checkpoint, layer: PreferredLayer, best: StrongestImages
) -> pd.DataFrame:
    """Write the pictures and the best faces of one layer; return what varies within it of the PREFERRED rows."""
    network, preset = checkpoint.network_name, checkpoint.preset
    recipe = Recipe(batch_size=UNITS, **job.block.model_dump(exclude={"seed"}))
    best_faces = job.faces.images(best.image[:, 0])
    best_faces[best.response[:, 0] <= 0] = 0
    np.save(job.directory / name_preferred_file(network, layer.name, "best"), best_faces)
    tables: list[pd.DataFrame] = []
    shape = layer.units, preset.size, preset.size, *((3,) if preset.channels == 3 else ())
    path = job.directory / name_preferred_file(network, layer.name, "optimised")
    pictures = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for first in range(0, layer.units, UNITS):  # pictures of all units of a wide layer would not fit the memory
        units = range(first, min(first + UNITS, layer.units))
        streams = {unit: generator(job.block.seed, "preferred", network.value, layer.name, unit) for unit in units}
        stimuli = optimise_stimuli(
            checkpoint.network, layer.name, streams, preset=preset, recipe=recipe, device=job.device
        )
        pictures[units.start : units.stop] = stimuli.images
        tables.append(_tabulate_pictures(stimuli))
        job.report(len(units))
    pictures.flush()
    rows = pd.concat([*tables, _tabulate_best_faces(job, checkpoint, layer.name, best)])
    return rows.astype({"row": "Int64", "column": "Int64"}).fillna({"stimulus": ""}).sort_values("unit", kind="stable")


def _tabulate_pictures(stimuli: PreferredStimuli) -> pd.DataFrame:
    """Responses of the units to the pictures made for them, to those at the start, and to random ones."""
    dead = np.where(stimuli.response == 0, "dead: no picture woke it", "dead: it answers all pictures alike")
    response = np.where(stimuli.dead, np.float32(np.nan), stimuli.response)
    kinds = {
        "optimised": (response, np.where(stimuli.dead, dead, "")),
        "start": (stimuli.start, ""),
        "random": (stimuli.baseline, ""),
    }
    return pd.concat(
        [
            pd.DataFrame({"unit": stimuli.units, "kind": kind, "response": response, "reason": reason})
            for kind, (response, reason) in kinds.items()
        ]
    )


def _tabulate_best_faces(
    job: PreferredJob, checkpoint: checkpoints.Checkpoint, layer: str, best: StrongestImages
) -> pd.DataFrame:
    """Responses of the units to the face that drives them most, and the cell in which their maps are largest."""
    response, image = best.response[:, 0], best.image[:, 0]
    reason = np.where(response > 0, "", np.where(response < 0, NEGATIVE, SILENT))
    rows = pd.DataFrame({"unit": np.arange(len(response)), "kind": "image", "response": response, "reason": reason})
    driven = np.flatnonzero(response > 0)
    row, column = _find_peaks(job, checkpoint, layer, driven, image[driven])
    stimulus = job.faces.labels["stimulus"].to_numpy(dtype=object)[image[driven]]
    return rows.join(pd.DataFrame({"stimulus": stimulus, "row": row, "column": column}, index=driven))


def _find_peaks(
    job: PreferredJob, checkpoint: checkpoints.Checkpoint, layer: str, units: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the cell, the first in reading order, in which the map of unit i of image i is largest."""
    network, preset = checkpoint.network, checkpoint.preset
    cells, width, start = [np.empty(0, dtype=np.int64)], 1, 0
    with on_device(network, job.device, training=False), torch.inference_mode():
        for batch in iterate_batches(job.faces, images, batch_size=UNITS, preset=preset, generator=None):
            with record_responses(network, [layer]) as responses:
                network(batch.images.to(job.device))
            n = len(batch.positions)
            maps = responses[layer][torch.arange(n), torch.from_numpy(units[start : start + n])]
            cells.append(maps.flatten(1).argmax(dim=1).cpu().numpy())  # of equal cells, torch takes the first
            width, start = maps.shape[2], start + n
    return np.divmod(np.concatenate(cells), width)
