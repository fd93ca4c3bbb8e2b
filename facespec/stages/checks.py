"""Which claims hold here? C1-C4: accuracies; C5: heatmaps; C6: their overlap; C7: units; C8: lesions; C9: geometry."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from facespec.checks.claims import judge_accuracy_claims
from facespec.checks.claims_depth import judge_depth_claims
from facespec.checks.claims_geometry import judge_geometry_claims
from facespec.checks.claims_heatmaps import judge_heatmap_claims
from facespec.checks.claims_lesions import judge_lesion_claims
from facespec.checks.claims_overlap import judge_overlap_claims
from facespec.checks.verdicts import group_by_claim, make_metrics
from facespec.stages.accuracies import read_accuracies
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_json, write_table
from facespec.study.tables import OVERLAP, UNIT_SHARES
from facespec.study.tables_geometry import GEOMETRY
from facespec.study.tables_lesions import DISSOCIATION


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/checks/verdicts.csv``, one row per part of a claim, and ``verdicts.json``, a DVC metric."""
    block = params.checks

    def judge(
        function: Callable[..., pd.DataFrame], table: pd.DataFrame, *labels: str, **margins: float
    ) -> pd.DataFrame:
        stream = generator(block.seed, "claims", *labels)
        return function(table, level=block.level, draws=block.draws, generator=stream, **margins)

    overlap, shares = OVERLAP.read(paths.table("overlap")), UNIT_SHARES.read(paths.table("depth_shares"))
    dissociation = DISSOCIATION.read(paths.table("dissociation"))
    lesion_margins = {"margin": block.dissociation, "damage": block.damage}
    parts = [
        judge(judge_accuracy_claims, read_accuracies(paths), margin=block.margin),
        judge(judge_heatmap_claims, overlap, "heatmaps"),
        judge(judge_overlap_claims, overlap, "overlap"),
        judge(judge_depth_claims, shares, "depth", margin=block.early),
        judge(judge_lesion_claims, dissociation, "lesions", **lesion_margins),
        judge(judge_geometry_claims, GEOMETRY.read(paths.table("depth_geometry")), "geometry"),
    ]
    verdicts = pd.concat(parts, ignore_index=True)
    write_table(paths.verdicts.with_suffix(".csv"), verdicts)
    write_json(paths.verdicts, group_by_claim(verdicts))
    write_json(paths.metrics, make_metrics(verdicts))
