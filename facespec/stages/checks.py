"""Which published claims hold here? Claims C1-C4, judged on the accuracies of this study."""

from __future__ import annotations

import pandas as pd

from facespec.checks.claims import judged
from facespec.checks.verdicts import as_metric
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_json, write_table
from facespec.study.tables import ACCURACY


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/checks/verdicts.csv``, one row per part of a claim, and ``verdicts.json``, a DVC metric."""
    block = params.checks
    table = pd.concat([ACCURACY.read(paths.table(name)) for name in ("decoding", "accuracy")], ignore_index=True)
    stream = generator(block.seed, "claims")
    verdicts = judged(table, level=block.level, margin=block.margin, draws=block.draws, generator=stream)
    write_table(paths.verdicts.with_suffix(".csv"), verdicts)
    write_json(paths.verdicts, as_metric(verdicts))
