"""Facial biomarkers: how much of the heatmaps' mass lies in which region of the face?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facespec.analyses.regions import (
    RegionShares,
    make_region_template,
    measure_region_areas,
    measure_region_shares,
    tabulate_regions,
)
from facespec.data.faceset import FaceSet
from facespec.stages.heatmap_faces import list_explained_rows
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet
from facespec.study.params import FaceBox, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.threads import limit_threads
from facespec.study.vocabulary import PAIRS, Role, View

PIXELS = 1 << 19  # processed at a time

ReadRegions = Callable[[np.ndarray], np.ndarray]  # from indices of k heatmaps to label maps (k, H, W)


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/regions.csv``: mass per facial region of every network, and joint minus single-task networks.

    Regions are the label maps of the faces if they have any, and else a template at `regions.face`, which fits frontal
    views only: others are left out then.
    """
    maps, faces = MapSet.open(paths.heatmaps), FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    with limit_threads():
        shares = _measure_shares(maps, faces, params.regions.face)
        stream = generator(params.regions.seed, "regions")
        table = tabulate_regions(shares, draws=params.regions.draws, generator=stream)
    write_table(paths.table("regions"), table)


def _measure_shares(maps: MapSet, faces: FaceSet, face: FaceBox) -> RegionShares:
    rows = list_explained_rows(maps, faces)
    if faces.region_codes:
        return _measure_batches(maps, np.arange(len(rows)), lambda i: faces.regions(rows[i]), faces.region_codes)
    template, codes = make_region_template(maps.size, face)
    frontal = np.flatnonzero(maps.labels["view"] == View.STRAIGHT)
    if not len(frontal):
        raise StudyError(
            f"{maps.directory}: no image shows a straight view, and the template of facial regions fits no other. "
            "Use heatmaps.view: straight in params.yaml."
        )
    return _measure_batches(
        maps, frontal, lambda i: np.broadcast_to(template, (len(i), *template.shape)), codes, origin="template"
    )


def _measure_batches(
    maps: MapSet, indices: np.ndarray, read_regions: ReadRegions, codes: dict[str, int], *, origin: str = "label maps"
) -> RegionShares:
    """Shares of the maps at `indices`, a batch of images at a time."""
    share = np.empty((len(indices), len(maps.seeds), len(PAIRS), len(codes)))
    area = np.empty((len(indices), len(codes)))
    step = max(1, PIXELS // (maps.size[0] * maps.size[1]))
    for start in range(0, len(indices), step):
        batch = indices[start : start + step]
        part, regions = slice(start, start + step), read_regions(batch)
        area[part] = measure_region_areas(regions, codes)
        for i, seed in enumerate(maps.seeds):
            for pair, (network, task) in enumerate(PAIRS):
                share[part, i, pair] = measure_region_shares(maps.maps(network, task, seed)[batch], regions, codes)
    labels = maps.labels.iloc[indices].reset_index(drop=True)
    return RegionShares(share, area, labels, tuple(codes), maps.source, origin)
