"""Do heatmaps lie on the pixels that distinguish the classes? Embedded faces, rendered again, show which these are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.groundtruth import (
    BASELINES,
    MEASURES,
    Candidate,
    average_others,
    make_centre_map,
    pool_masks,
    score_heatmaps,
    tabulate_scores,
    tabulate_unscored,
)
from facespec.analyses.truths import compute_overlaps, tabulate_no_truths, tabulate_overlaps, tabulate_truths
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import FaceSet
from facespec.stages.heatmap_faces import list_explained_rows
from facespec.stages.redrawing import explain_no_redrawing
from facespec.stages.truths import PIXELS, ExplainedImages, Truths, find_truths
from facespec.study.maps import MapSet, name_map_file
from facespec.study.params import GroundTruth, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import CEILING, TRUTH_RULES
from facespec.study.threads import limit_threads
from facespec.study.vocabulary import PAIRS, TASKS, Role

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def run(paths: Paths, params: Params, *, workers: int) -> None:
    """Write ``Results/groundtruth.csv``: scores of networks and baselines; and what the truths are.

    ``groundtruth_overlap.csv`` says how far they overlap, ``groundtruth_maps.csv`` where they lie. All have NaN and a
    reason if there is no truth.
    """
    maps, faces = MapSet.open(paths.heatmaps), FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", Role.PROBE.value))
    images = ExplainedImages(faces, list_explained_rows(maps, faces), stimuli)
    if reason := explain_no_redrawing(faces, images.rows, stimuli, params.data):
        scored = tabulate_unscored(list_candidates(maps), source=maps.source, seeds=len(maps.seeds), reason=reason)
        tables = (scored, *tabulate_no_truths(source=maps.source, reason=reason))
    else:
        with limit_threads():
            truths = find_truths(images, params.groundtruth, data=params.data, workers=workers)
            tables = tabulate(maps, truths, params.groundtruth)
    for name, table in zip(("groundtruth", "groundtruth_overlap", "groundtruth_maps"), tables, strict=True):
        write_table(paths.table(name), table)


def tabulate(maps: MapSet, truths: Truths, block: GroundTruth) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The GROUNDTRUTH, GROUNDTRUTH_OVERLAP and GROUNDTRUTH_MAPS tables of heatmaps and truths of the same images."""
    people = maps.labels["identity"]
    areas, overlaps = [], []
    for part in list_parts(truths):
        masks = truths.read(part)
        areas.append(masks.mean(axis=(3, 4)))
        overlaps.append(compute_overlaps(masks))
    shared: dict[str, Any] = {"people": people, "source": maps.source, "draws": block.draws}
    scored = tabulate_scores(
        score_maps(maps, truths, block),
        np.concatenate(areas),
        candidates=list_candidates(maps),
        generator=generator(block.seed, "groundtruth", "draws"),
        **shared,
    )
    overlapping = tabulate_overlaps(
        np.concatenate(overlaps),
        np.concatenate(areas),
        generator=generator(block.seed, "groundtruth", "overlap"),
        **shared,
    )
    return (
        scored,
        overlapping,
        tabulate_truths(average_truths(truths, people), people=people.nunique(), source=maps.source),
    )


def list_candidates(maps: MapSet) -> list[Candidate]:
    """The networks and tasks whose heatmaps are there, and then the baselines."""
    pairs = [(network.value, task.value) for network, task in PAIRS]
    held = [pair for pair in pairs if name_map_file(*pair, maps.seeds[0]) in maps.header.digests]
    return [*held, *BASELINES]


def list_parts(truths: Truths) -> list[slice]:
    """The images in batches."""
    step = max(1, PIXELS // (truths.size[0] * truths.size[1]))
    return [slice(start, start + step) for start in range(0, len(truths), step)]


def average_truths(truths: Truths, people: pd.Series) -> Floats:
    """Share of images in which each pixel is true, averaged over people: (rules, tasks, H, W)."""
    groups = group_images(people)
    total = np.zeros((len(TRUTH_RULES), len(TASKS), *truths.size))
    for rows in groups.values():
        total += truths.read(rows).mean(axis=0)
    return total / len(groups)


def group_images(*columns: pd.Series) -> dict[tuple[str, ...], np.ndarray]:
    """Indices of the images that have the same labels in `columns`, by these labels."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, key in enumerate(zip(*columns, strict=True)):
        groups.setdefault(key, []).append(index)
    return {key: np.array(indices) for key, indices in groups.items()}


def score_maps(maps: MapSet, truths: Truths, block: GroundTruth) -> Floats:
    """Score networks and baselines, a batch at a time: (n, seeds, candidates, rules, tasks, measures).

    Candidates are those of `list_candidates`; of the baselines only random maps differ between seeds.
    """
    candidates = list_candidates(maps)
    pairs = candidates[: -len(BASELINES)]
    scores = np.empty((len(truths), len(maps.seeds), len(candidates), len(TRUTH_RULES), len(TASKS), len(MEASURES)))
    for seed_index, seed in enumerate(maps.seeds):
        looks: list[np.ndarray] = [maps.maps(network, task, seed) for network, task in pairs]
        cells = looks[0].shape[1:]
        looks.append(generator(block.seed, "groundtruth", "random", seed).random((len(truths), *cells)))
        for part in list_parts(truths):
            masks = truths.read(part)
            for candidate, heatmaps in enumerate(looks):
                scores[part, seed_index, candidate] = score_against_all(heatmaps[part], masks)
    for name, rows, baseline_scores in score_baselines(truths, maps.labels, cells=cells, spread=block.spread):
        scores[rows, :, candidates.index((name, ""))] = baseline_scores[:, None]
    return scores


def score_baselines(
    truths: Truths, labels: pd.DataFrame, *, cells: tuple[int, int], spread: float
) -> Iterator[tuple[str, slice | np.ndarray, Floats]]:
    """Score what does not depend on seeds: names of baselines, indices of images, scores as of `score_for_own`."""
    centre = make_centre_map(truths.size, spread=spread)
    for part in list_parts(truths):
        masks = truths.read(part)
        yield "centre", part, score_against_all(centre, masks)
        yield CEILING, part, score_for_own(pool_masks(masks, cells), masks)
    for rows, others in average_others_by_image(truths, labels):
        masks = truths.read(rows)
        for name, look in (("others", others), ("others_pooled", pool_masks(others, cells))):
            yield name, rows, score_for_own(np.broadcast_to(look, (len(rows), *look.shape)), masks)


def average_others_by_image(truths: Truths, labels: pd.DataFrame) -> Iterator[tuple[np.ndarray, Floats]]:
    """The mean truth of all other people in the same view: indices of images, and their map (rules, tasks, H, W)."""
    groups = group_images(labels["view"], labels["identity"])
    views = [view for view, _ in groups]
    total = {view: np.zeros((len(TRUTH_RULES), len(TASKS), *truths.size)) for view in views}
    for (view, _), rows in groups.items():
        total[view] += truths.read(rows).mean(axis=0)
    for (view, _), rows in groups.items():
        yield rows, average_others(total[view], truths.read(rows).mean(axis=0), views.count(view))


def score_against_all(maps: np.ndarray, masks: Mask) -> Floats:
    """Score one map per image (n, h, w), or one (h, w) for all, against all its truths: (n, rules, tasks, measures)."""
    flat = masks.reshape(len(masks), -1, *masks.shape[3:])
    maps = np.broadcast_to(maps, (len(masks), *maps.shape[-2:]))
    return score_heatmaps(maps, flat).reshape(*masks.shape[:3], -1)


def score_for_own(maps: Floats, masks: Mask) -> Floats:
    """Score a map for each truth (n, rules, tasks, h, w) against that truth: (n, rules, tasks, measures)."""
    flat_maps, flat = (part.reshape(-1, 1, *part.shape[3:]) for part in (maps, masks))
    return score_heatmaps(flat_maps[:, 0], flat).reshape(*masks.shape[:3], -1)
