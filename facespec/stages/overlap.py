"""Figures 2B and 2C: how focal are the mean heatmaps, and how far do the joint network's two overlap?"""

from __future__ import annotations

from facespec.analyses.overlap import measure_overlap
from facespec.models.device import deterministic_torch
from facespec.stages.person_maps import average_person_maps
from facespec.study.maps import MapSet
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/overlap.csv``: box statistics and overlaps, of all people and of bootstrap draws of them."""
    block = params.overlap
    with deterministic_torch():
        table = measure_overlap(
            average_person_maps(MapSet.open(paths.heatmaps)),
            quantile=block.quantile,
            top=block.top,
            resamples=block.resamples,
            generator=generator(block.seed, "overlap"),
        )
    write_table(paths.table("overlap"), table)
