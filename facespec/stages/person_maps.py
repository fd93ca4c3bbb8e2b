"""What do overlap and contrasts start from? Every person's scaled heatmaps, summed over images."""

from __future__ import annotations

import numpy as np

from facespec.analyses.moments import Moments
from facespec.study.maps import MapSet, PersonMaps, scale_maps
from facespec.study.vocabulary import PAIRS

BATCH = 512


def average_person_maps(maps: MapSet, *, expression: str | None = None) -> PersonMaps:
    """Sum the scaled maps of every network, task and seed within people, a batch of images at a time.

    With an `expression`, only images that show it are summed; the people are the same.
    """
    people, codes = np.unique(maps.labels["identity"].to_numpy(dtype=str), return_inverse=True)
    rows = np.arange(len(codes)) if expression is None else np.flatnonzero(maps.labels["expression"] == expression)
    sums = [[_sum_people(maps.maps(*pair, seed), codes, len(people), rows) for seed in maps.seeds] for pair in PAIRS]
    total = np.array([[moments.total for moments in seeds] for seeds in sums])
    count = np.array([[moments.count for moments in seeds] for seeds in sums])
    return PersonMaps(total, count, maps.seeds, tuple(people.tolist()), maps.size, maps.source)


def _sum_people(maps: np.ndarray, codes: np.ndarray, people: int, rows: np.ndarray) -> Moments:
    """Moments of the `maps` at `rows`, in groups of `people`, which `codes` number."""
    moments = Moments(people, maps.shape[1:])
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        moments.add(scale_maps(maps[batch]), codes[batch])
    return moments
