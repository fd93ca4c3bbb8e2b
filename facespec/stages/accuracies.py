"""Which accuracies do figures, checks and export read? Those of decoders and of the networks' heads, in one table."""

from __future__ import annotations

import pandas as pd

from facespec.study.paths import Paths
from facespec.study.tables import ACCURACY


def read_accuracies(paths: Paths) -> pd.DataFrame:
    """Read the ACCURACY rows of the decoders (1B, S1A), then those of the heads (1C, S1B)."""
    return pd.concat([ACCURACY.read(paths.table(name)) for name in ("decoding", "accuracy")], ignore_index=True)
