"""The tables under the original study's file names, keys and shapes: whatever reads its results reads ours."""

from __future__ import annotations

import pandas as pd

from facespec.published.export import exported
from facespec.study.paths import Paths
from facespec.study.storage import write_pickle
from facespec.study.tables import ACCURACY


def run(paths: Paths) -> None:
    """Write the four accuracy pickles of the Results contract; all are checked before the first is written."""
    table = pd.concat([ACCURACY.read(paths.table(name)) for name in ("decoding", "accuracy")], ignore_index=True)
    for file, content in exported(table).items():
        write_pickle(paths.results / file, content)
