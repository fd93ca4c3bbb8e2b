"""Do two networks look at different parts of the face? Statistics of Figure 2, as published and corrected."""

from __future__ import annotations

from facespec.analyses.contrasts import contrast_maps
from facespec.stages.person_maps import average_person_maps
from facespec.study.maps import MapSet
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.threads import limit_threads


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/contrasts.csv``: joint against single-task and untrained networks, and their two tasks."""
    block = params.contrasts
    with limit_threads():
        table = contrast_maps(
            average_person_maps(MapSet.open(paths.heatmaps)),
            permutations=block.permutations,
            draws=block.draws,
            generator=generator(block.seed, "contrasts"),
        )
    write_table(paths.table("contrasts"), table)
