"""What the statistics of Figure 2 share: every person's scaled heatmaps, summed over images."""

from __future__ import annotations

import numpy as np

from facespec.analyses.heatmaps import Moments
from facespec.study.maps import MapSet, PersonMaps, scale_maps
from facespec.study.vocabulary import PAIRS

BATCH = 512


def average_person_maps(maps: MapSet) -> PersonMaps:
    """The scaled maps of all networks, tasks and seeds, gathered per person, a batch of images at a time."""
    people = sorted(set(maps.labels["identity"]))
    person = np.searchsorted(people, maps.labels["identity"])
    gathered = [[_gathered(maps.maps(*pair, seed), person, len(people)) for seed in maps.seeds] for pair in PAIRS]
    total = np.array([[each.total for each in seeds] for seeds in gathered])
    count = np.array([[each.count for each in seeds] for seeds in gathered])
    return PersonMaps(total, count, maps.seeds, tuple(people), maps.size, maps.source)


def _gathered(maps: np.ndarray, person: np.ndarray, people: int) -> Moments:
    moments = Moments(people, maps.shape[1:])
    for start in range(0, len(maps), BATCH):
        moments.add(scale_maps(maps[start : start + BATCH]), person[start : start + BATCH])
    return moments
