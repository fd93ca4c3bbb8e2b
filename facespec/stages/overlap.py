"""Figures 2B and 2C: how focal are mean heatmaps, and do those of two tasks, networks or classes overlap?"""

from __future__ import annotations

from facespec.analyses.overlap import measure_overlap
from facespec.stages.person_maps import average_person_maps
from facespec.study.maps import MapSet
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.threads import limit_threads
from facespec.study.vocabulary import EXPRESSIONS


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/overlap.csv``: box statistics and overlaps, of all people and of bootstrap draws of them."""
    block, maps = params.overlap, MapSet.open(paths.heatmaps)
    with limit_threads():
        table = measure_overlap(
            average_person_maps(maps),
            [average_person_maps(maps, expression=expression) for expression in EXPRESSIONS],
            quantile=block.quantile,
            top=block.top,
            resamples=block.resamples,
            generator=generator(block.seed, "overlap"),
        )
    write_table(paths.table("overlap"), table)
