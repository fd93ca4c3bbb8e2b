"""Do heatmaps lie on the pixels that distinguish the classes? Embedded faces, rendered again, show which these are."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.groundtruth import (
    CANDIDATES,
    MEASURES,
    find_changed_pixels,
    make_centre_map,
    score_heatmaps,
    tabulate_scores,
    tabulate_unscored,
)
from facespec.data.embedded import production
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli, replace_expressions, replace_people
from facespec.data.faceset import FaceSet
from facespec.models.device import deterministic_torch
from facespec.stages.heatmap_faces import list_explained_rows
from facespec.stages.progress import progress_bar
from facespec.study.maps import MapSet
from facespec.study.params import Data, GroundTruth, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.vocabulary import EXPRESSIONS, PAIRS, TASKS, Role

PIXELS = 1 << 19  # processed at a time
SAMPLES = 8  # unchanged faces that are rendered again and must equal the stored ones

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ExplainedImages:
    """The n images that the heatmaps are of, at `rows` of `faces`; row i of `stimuli` describes row i of `faces`."""

    faces: FaceSet
    rows: np.ndarray
    stimuli: Stimuli


def run(paths: Paths, params: Params, *, workers: int) -> None:
    """Write ``Results/groundtruth.csv``: scores of networks and baselines; NaN and a reason if there is no truth."""
    block = params.groundtruth
    maps, faces = MapSet.open(paths.heatmaps), FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", Role.PROBE.value))
    images = ExplainedImages(faces, list_explained_rows(maps, faces), stimuli)
    if reason := _explain_no_truth(images, params.data):
        table = tabulate_unscored(source=maps.source, seeds=len(maps.seeds), reason=reason)
    else:
        with deterministic_torch():
            truths = render_truths(images, block, workers=workers)
            table = tabulate_scores(
                score_maps(maps, truths, block),
                truths.mean(axis=(2, 3)),
                people=maps.labels["identity"],
                source=maps.source,
                draws=block.draws,
                generator=generator(block.seed, "groundtruth", "draws"),
            )
    write_table(paths.table("groundtruth"), table)


def _explain_no_truth(images: ExplainedImages, block: Data) -> str:
    """Why these faces cannot be rendered again; empty if they can."""
    faces, rows, stimuli = images.faces, images.rows, images.stimuli
    if faces.source != production.SOURCE:
        return f"only embedded faces can be drawn again with one thing changed; these are {faces.source}"
    reason = "the probe faces were made from other parameters than data in params.yaml, or by another renderer"
    if (faces.height, faces.channels) != (block.size, block.channels) or not stimuli.labels.equals(faces.labels):
        return reason
    sample = rows[np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).round().astype(int)]
    pictures, _ = production.render(stimuli, sample, size=faces.height, channels=faces.channels)
    return "" if np.array_equal(pictures, faces.images(sample)) else reason


def render_truths(images: ExplainedImages, block: GroundTruth, *, workers: int) -> Mask:
    """Find the pixels that carry expression, and those that carry identity: bool (n, 2, H, W), ordered as `TASKS`.

    Every image is rendered again with the six other expressions, and with the faces of `block.others` other people of
    the set (all, if there are fewer), by `workers` processes, a batch at a time.
    """
    faces, n = images.faces, len(images.rows)
    variants = (_vary_expressions(images), vary_people(images, block))
    truths = np.empty((n, len(TASKS), faces.height, faces.width), bool)
    with progress_bar() as bar:
        bar_task = bar.add_task("faces drawn again", total=sum(map(len, variants)), numbers="")
        for truth, stimuli in enumerate(variants):
            per_image, start = len(stimuli) // n, 0
            chunk = per_image * max(1, PIXELS // (per_image * faces.height * faces.width))
            for rendered in production.iterate_chunks(
                stimuli, size=faces.height, channels=faces.channels, chunk=chunk, workers=workers
            ):
                stop = start + len(rendered.images) // per_image
                originals = faces.images(images.rows[start:stop])
                pictures = rendered.images.reshape(stop - start, per_image, *originals.shape[1:])
                truths[start:stop, truth] = find_changed_pixels(originals, pictures, share=block.share)
                start = stop
                bar.advance(bar_task, len(rendered.images))
    return truths


def _vary_expressions(images: ExplainedImages) -> Stimuli:
    """Six stimuli for each image, one after the other."""
    names = [name for code in images.stimuli.codes[images.rows] for name in EXPRESSIONS if name != EXPRESSIONS[code]]
    return replace_expressions(images.stimuli.take(np.repeat(images.rows, len(EXPRESSIONS) - 1)), names)


def vary_people(images: ExplainedImages, block: GroundTruth) -> Stimuli:
    """Stimuli with the faces of `block.others` other people for each image, one after the other, drawn at random."""
    rows, stimuli = images.rows, images.stimuli
    first_rows = stimuli.labels["identity"].drop_duplicates()
    person = pd.Index(first_rows).get_indexer(pd.Index(stimuli.labels["identity"].iloc[rows]))
    n_people = len(first_rows)
    per_image = min(block.others, n_people - 1)
    stream = generator(block.seed, "groundtruth", "others")
    others = stream.permuted(np.tile(np.arange(n_people - 1), (len(rows), 1)), axis=1)[:, :per_image]
    others += others >= person[:, None]  # nobody replaces themselves
    people = stimuli.people[first_rows.index.to_numpy()[others.ravel()]]
    return replace_people(stimuli.take(np.repeat(rows, per_image)), people)


def score_maps(maps: MapSet, truths: Mask, block: GroundTruth) -> np.ndarray:
    """Score networks and baselines, ordered as `CANDIDATES`: (n, seeds, looks, truths, measures), a batch at a time."""
    n, step = len(truths), max(1, PIXELS // (maps.size[0] * maps.size[1]))
    parts = [slice(start, start + step) for start in range(0, n, step)]
    scores = np.empty((n, len(maps.seeds), len(CANDIDATES), len(TASKS), len(MEASURES)))
    centre = make_centre_map(maps.size, spread=block.spread)
    for part in parts:
        scores[part, :, -1] = score_heatmaps(np.broadcast_to(centre, truths[part, 0].shape), truths[part])[:, None]
    for seed_index, seed in enumerate(maps.seeds):
        looks: list[np.ndarray] = [maps.maps(network, task, seed) for network, task in PAIRS]
        looks.append(generator(block.seed, "groundtruth", "random", seed).random(looks[0].shape))
        for part, (look, heatmaps) in itertools.product(parts, enumerate(looks)):
            scores[part, seed_index, look] = score_heatmaps(heatmaps[part], truths[part])
    return scores
