"""Which claims hold here? C1-C4 judged on accuracies, C5 and C6 on heatmaps, C7 on units, C8 on lesions."""

from __future__ import annotations

import pandas as pd

from facespec.checks.claims import judged
from facespec.checks.claims_depth import judged_depth
from facespec.checks.claims_heatmaps import judged_heatmaps
from facespec.checks.claims_lesions import judged_lesions
from facespec.checks.verdicts import as_metric
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
    accuracies = judged(
        read_accuracies(paths),
        level=block.level,
        margin=block.margin,
        draws=block.draws,
        generator=generator(block.seed, "claims"),
    )
    heatmaps = judged_heatmaps(
        OVERLAP.read(paths.table("overlap")),
        level=block.level,
        draws=block.draws,
        generator=generator(block.seed, "claims", "heatmaps"),
    )
    depth = judged_depth(
        UNIT_SHARES.read(paths.table("depth_shares")),
        level=block.level,
        margin=block.early,
        draws=block.draws,
        generator=generator(block.seed, "claims", "depth"),
    )
    lesions = judged_lesions(
        DISSOCIATION.read(paths.table("dissociation")),
        level=block.level,
        margin=block.dissociation,
        fraction=block.lesioned,
        draws=block.draws,
        generator=generator(block.seed, "claims", "lesions"),
    )
    verdicts = pd.concat([accuracies, heatmaps, depth, lesions], ignore_index=True)
    write_table(paths.verdicts.with_suffix(".csv"), verdicts)
    write_json(paths.verdicts, as_metric(verdicts))
