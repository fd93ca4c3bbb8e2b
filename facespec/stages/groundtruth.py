"""Do the heatmaps lie where pictures of other classes really differ? Embedded faces, drawn again, tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.groundtruth import (
    LOOKS,
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
from facespec.stages.faces_explained import list_explained_rows
from facespec.stages.progress import progress_bar
from facespec.study.maps import MapSet
from facespec.study.params import Data, GroundTruth, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.vocabulary import EXPRESSIONS, PAIRS, TASKS, Role

PIXELS = 1 << 19  # worked on at once
PROOFS = 8  # unchanged faces that must come out as they are stored

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Explained:
    """The images that the heatmaps are of: `rows` of `faces`, and what decided the picture in each row of `faces`."""

    faces: FaceSet
    rows: np.ndarray
    stimuli: Stimuli


def run(paths: Paths, params: Params, *, workers: int) -> None:
    """Write ``Results/groundtruth.csv``: scores of all networks and baselines; no numbers where there is no truth."""
    block = params.groundtruth
    maps, faces = MapSet.open(paths.heatmaps), FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", Role.PROBE.value))
    images = Explained(faces, list_explained_rows(maps, faces), stimuli)
    reason = _untrue(images, params.data)
    if reason:
        table = tabulate_unscored(source=maps.source, seeds=len(maps.seeds), reason=reason)
    else:
        with deterministic_torch():
            truths = render_truths(images, block, workers=workers)
            table = tabulate_scores(
                _scores(maps, truths, block),
                truths.mean(axis=(2, 3)),
                people=maps.labels["identity"],
                source=maps.source,
                draws=block.draws,
                generator=generator(block.seed, "groundtruth", "draws"),
            )
    write_table(paths.table("groundtruth"), table)


def _untrue(images: Explained, block: Data) -> str:
    """Why these faces cannot be drawn again; empty if they can."""
    faces, rows, stimuli = images.faces, images.rows, images.stimuli
    if faces.source != production.SOURCE:
        return f"only embedded faces can be drawn again with one thing changed; these are {faces.source}"
    other = "the probe faces were made from other parameters than data in params.yaml, or by another renderer"
    if (faces.height, faces.channels) != (block.size, block.channels) or not stimuli.labels.equals(faces.labels):
        return other
    some = rows[np.linspace(0, len(rows) - 1, min(PROOFS, len(rows))).round().astype(int)]
    again, _ = production.render(stimuli, some, size=faces.height, channels=faces.channels)
    return "" if np.array_equal(again, faces.images(some)) else other


def render_truths(images: Explained, block: GroundTruth, *, workers: int) -> Mask:
    """Pixels that carry the expression, and those that carry the identity: bool (n, 2, H, W), in the order of `TASKS`.

    An image is drawn with the six other expressions, and on the faces of `block.others` other people of the set (all,
    if there are fewer), by `workers` processes.
    """
    others = (_other_expressions(images), _other_people(images, block))
    truths = np.empty((len(images.rows), len(TASKS), images.faces.height, images.faces.width), bool)
    with progress_bar() as bar:
        shown = bar.add_task("faces drawn again", total=sum(map(len, others)), numbers="")
        for truth, stimuli in enumerate(others):
            start = 0
            for mask, drawn in _masks(images, stimuli, share=block.share, workers=workers):
                truths[start : start + len(mask), truth] = mask
                start += len(mask)
                bar.advance(shown, drawn)
    return truths


def _other_expressions(images: Explained) -> Stimuli:
    """Six stimuli for each image, in a row."""
    names = [name for code in images.stimuli.codes[images.rows] for name in EXPRESSIONS if name != EXPRESSIONS[code]]
    return replace_expressions(images.stimuli.take(np.repeat(images.rows, len(EXPRESSIONS) - 1)), names)


def _other_people(images: Explained, block: GroundTruth) -> Stimuli:
    """As many stimuli for each image, in a row, as people replace its own."""
    rows, stimuli = images.rows, images.stimuli
    first = stimuli.labels["identity"].drop_duplicates()  # a row of each person
    own = pd.Index(first).get_indexer(pd.Index(stimuli.labels["identity"].iloc[rows]))
    several = min(block.others, len(first) - 1)
    stream = generator(block.seed, "groundtruth", "others")
    chosen = stream.permuted(np.tile(np.arange(len(first) - 1), (len(rows), 1)), axis=1)[:, :several]
    chosen += chosen >= own[:, None]  # nobody replaces themselves
    people = stimuli.people[first.index.to_numpy()[chosen.ravel()]]
    return replace_people(stimuli.take(np.repeat(rows, several)), people)


def _masks(images: Explained, others: Stimuli, *, share: float, workers: int) -> Iterator[tuple[Mask, int]]:
    """Where the pictures of `others` differ from the images', (k, H, W), and how many were drawn; batch by batch."""
    faces, each = images.faces, len(others) // len(images.rows)
    chunk = each * max(1, PIXELS // (each * faces.height * faces.width))
    start = 0
    for drawn in production.iterate_chunks(
        others, size=faces.height, channels=faces.channels, chunk=chunk, workers=workers
    ):
        own = faces.images(images.rows[start : start + len(drawn.images) // each])
        yield (
            find_changed_pixels(own, drawn.images.reshape(len(own), each, *own.shape[1:]), share=share),
            len(drawn.images),
        )
        start += len(own)


def _scores(maps: MapSet, truths: Mask, block: GroundTruth) -> np.ndarray:
    """Scores (n, seeds, looks, truths, measures) of all networks and baselines, a batch of images at a time."""
    n = len(truths)
    # `LOOKS`: the networks as in `PAIRS`, random maps, the centre
    scores = np.empty((n, len(maps.seeds), len(LOOKS), len(TASKS), len(MEASURES)))
    shape = maps.maps(*PAIRS[0], maps.seeds[0]).shape  # every network's: they have the same trunk
    centre = make_centre_map(maps.size, spread=block.spread)
    random = [generator(block.seed, "groundtruth", "random", seed).random(shape) for seed in maps.seeds]
    step = max(1, PIXELS // (maps.size[0] * maps.size[1]))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        scores[part, :, -1] = score_heatmaps(np.broadcast_to(centre, truths[part, 0].shape), truths[part])[:, None]
        for one, seed in enumerate(maps.seeds):
            looks: list[np.ndarray] = [maps.maps(network, task, seed)[part] for network, task in PAIRS]
            for look, own in enumerate([*looks, random[one][part]]):
                scores[part, one, look] = score_heatmaps(own, truths[part])
    return scores
