"""Which claims hold here? C1-C4 judged on accuracies, C5 and C6 on heatmaps, C7 on units, C8 on lesions."""

from __future__ import annotations

import pandas as pd

from facespec.checks.claims import judge_accuracy_claims
from facespec.checks.claims_depth import judge_depth_claims
from facespec.checks.claims_heatmaps import judge_heatmap_claims
from facespec.checks.claims_lesions import judge_lesion_claims
from facespec.checks.verdicts import make_metrics
from facespec.stages.accuracies import read_accuracies
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_json, write_table
from facespec.study.tables import OVERLAP, UNIT_SHARES
from facespec.study.tables_lesions import DISSOCIATION


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/checks/verdicts.csv``, one row per part of a claim, and ``verdicts.json``, a DVC metric."""
    block = params.checks
    accuracies = judge_accuracy_claims(
        read_accuracies(paths),
        level=block.level,
        margin=block.margin,
        draws=block.draws,
        generator=generator(block.seed, "claims"),
    )
    heatmaps = judge_heatmap_claims(
        OVERLAP.read(paths.table("overlap")),
        level=block.level,
        draws=block.draws,
        generator=generator(block.seed, "claims", "heatmaps"),
    )
    depth = judge_depth_claims(
        UNIT_SHARES.read(paths.table("depth_shares")),
        level=block.level,
        margin=block.early,
        draws=block.draws,
        generator=generator(block.seed, "claims", "depth"),
    )
    lesions = judge_lesion_claims(
        DISSOCIATION.read(paths.table("dissociation")),
        level=block.level,
        margin=block.dissociation,
        fraction=block.lesioned,
        draws=block.draws,
        generator=generator(block.seed, "claims", "lesions"),
    )
    verdicts = pd.concat([accuracies, heatmaps, depth, lesions], ignore_index=True)
    write_table(paths.verdicts.with_suffix(".csv"), verdicts)
    write_json(paths.verdicts, make_metrics(verdicts))
