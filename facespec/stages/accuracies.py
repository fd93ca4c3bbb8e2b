"""The accuracies of all figures, 1B to S1B, as later stages read them."""

from __future__ import annotations

import pandas as pd

from facespec.study.paths import Paths
from facespec.study.tables import ACCURACY


def read_accuracies(paths: Paths) -> pd.DataFrame:
    """The ACCURACY table of the decoders (1B, S1A), then of the networks' own heads (1C, S1B)."""
    return pd.concat([ACCURACY.read(paths.table(name)) for name in ("decoding", "accuracy")], ignore_index=True)
