"""How are numbers, their 95 % intervals and the source of their faces read from result tables?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from facespec.study.tables import ALL_IMAGES
from facespec.study.vocabulary import Network, Task

PERCENTILES = (2.5, 97.5)
# the heatmaps' networks and tasks, in the order in which they are drawn: the joint network first, as published
HEATMAP_PAIRS = tuple((network, task) for task in Task for network in (Network.JOINT, Network(task.value)))


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval (`low` to `high`; NaN if unknown) and its value in every seed."""

    number: float
    low: float
    high: float
    per_seed: tuple[float, ...] = ()


def read_estimate(rows: pd.DataFrame) -> Estimate:
    """The mean over seeds in OVERLAP rows of one quantity, and the percentiles of that mean over the resamples."""
    rows = rows.dropna(subset="number")
    per_seed = rows[rows["resample"] == ALL_IMAGES].groupby("seed")["number"].mean()
    resampled = rows[rows["resample"] != ALL_IMAGES].groupby("resample")["number"].mean()  # shared by all seeds
    low, high = np.percentile(resampled, PERCENTILES) if len(resampled) else (np.nan, np.nan)
    return Estimate(float(per_seed.mean()), float(low), float(high), tuple(map(float, per_seed)))


def select_rows(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The rows of `table` in which every named column holds the given value."""
    return table[np.logical_and.reduce([table[column] == value for column, value in values.items()])]


def describe_sources(table: pd.DataFrame) -> str:
    """The sources of the faces of a table, such as ``"FER2013 and KDEF"``."""
    return " and ".join(sorted(set(table["source"])))


def list_heatmap_pairs(table: pd.DataFrame) -> list[tuple[Network, Task]]:
    """`HEATMAP_PAIRS`, with the untrained network after the others of each task if `table` has rows of it."""
    pairs = list(HEATMAP_PAIRS)
    if table["trained_on"].eq(Network.UNTRAINED).any():
        pairs += [(Network.UNTRAINED, task) for task in Task]
    return sorted(pairs, key=lambda pair: list(Task).index(pair[1]))  # stable: within a task, the order stays
