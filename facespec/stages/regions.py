"""Facial biomarkers: how much of the heatmaps' mass lies in which region of the face."""

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
from facespec.models.device import deterministic_torch
from facespec.stages.faces_explained import list_explained_rows
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet
from facespec.study.params import FaceBox, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.vocabulary import PAIRS, Role, View

PIXELS = 1 << 19  # worked on at once

RegionMaps = Callable[[np.ndarray], np.ndarray]  # from places among the maps to label maps (k, H, W)


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/regions.csv``: mass per facial region of every network, and joint minus single-task networks.

    Regions are the label maps of the faces where they have any, and else a template at `regions.face`, which fits
    frontal views only: others are left out then.
    """
    maps, faces = MapSet.open(paths.heatmaps), FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    with deterministic_torch():
        found = _found(maps, faces, params.regions.face)
        stream = generator(params.regions.seed, "regions")
        table = tabulate_regions(found, draws=params.regions.draws, generator=stream)
    write_table(paths.table("regions"), table)


def _found(maps: MapSet, faces: FaceSet, face: FaceBox) -> RegionShares:
    rows = list_explained_rows(maps, faces)
    if faces.region_codes:
        return _shares(maps, np.arange(len(rows)), lambda at: faces.regions(rows[at]), faces.region_codes)
    one, names = make_region_template(maps.size, face)
    frontal = np.flatnonzero(maps.labels["view"] == View.STRAIGHT)
    if not len(frontal):
        raise StudyError(
            f"{maps.directory}: no image shows a straight view, and the template of facial regions fits no other. "
            "Use heatmaps.view: straight in params.yaml."
        )
    return _shares(maps, frontal, lambda at: np.broadcast_to(one, (len(at), *one.shape)), names, origin="template")


def _shares(
    maps: MapSet, places: np.ndarray, regions: RegionMaps, codes: dict[str, int], *, origin: str = "label maps"
) -> RegionShares:
    """Shares of the maps at `places`, a batch of images at a time."""
    share = np.empty((len(places), len(maps.seeds), len(PAIRS), len(codes)))
    area = np.empty((len(places), len(codes)))
    step = max(1, PIXELS // (maps.size[0] * maps.size[1]))
    for start in range(0, len(places), step):
        part = slice(start, start + step)
        shown = regions(places[part])
        area[part] = measure_region_areas(shown, codes)
        for one, seed in enumerate(maps.seeds):
            for pair, (network, task) in enumerate(PAIRS):
                share[part, one, pair] = measure_region_shares(
                    maps.maps(network, task, seed)[places[part]], shown, codes
                )
    labels = maps.labels.iloc[places].reset_index(drop=True)
    return RegionShares(share, area, labels, tuple(codes), maps.source, origin)
