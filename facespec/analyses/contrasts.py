"""Do two networks, or one network for two tasks, look at different places? Heatmaps compared, soundly and as published.

Compared are the joint network with each single-task network on that network's task, and the joint network's two tasks.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from facespec.analyses.resampling import LEAST_PEOPLE, estimate_interval, sign_flip_test
from facespec.study.maps import PersonMaps, upsample_maps
from facespec.study.tables import CONTRASTS
from facespec.study.vocabulary import PAIRS, Network, Task

Sides = tuple[tuple[Network, Task], tuple[Network, Task]]  # first minus second

COMPARISONS: tuple[Sides, ...] = (
    ((Network.JOINT, Task.EXPRESSION), (Network.EXPRESSION, Task.EXPRESSION)),
    ((Network.JOINT, Task.IDENTITY), (Network.IDENTITY, Task.IDENTITY)),
    ((Network.JOINT, Task.EXPRESSION), (Network.JOINT, Task.IDENTITY)),
)
NUMBERS = ("difference", "low", "high", "statistic", "p", "effect")
PLACES = ("seed", "row", "column")  # empty where they say nothing


def contrast_maps(maps: PersonMaps, *, permutations: int, draws: int, generator: np.random.Generator) -> pd.DataFrame:
    """The CONTRASTS table: all comparisons in both styles, first minus second.

    ``contrast_people``: what holds for people. `permutations` sign flips and `draws` bootstrap draws; each comparison has its own
    stream, so that one that cannot be tested does not shift another. p is corrected over the map, not over the three
    comparisons. ``contrast_pixels``: the study's statistic, see `contrast_pixels`; nothing in it is drawn.
    """
    streams = generator.spawn(len(COMPARISONS))
    parts = [
        rows.assign(
            first_trained_on=first[0].value,
            first_tested_on=first[1].value,
            second_trained_on=second[0].value,
            second_tested_on=second[1].value,
            source=maps.source,
        )
        for (first, second), stream in zip(COMPARISONS, streams, strict=True)
        for rows in (
            contrast_people(maps, (first, second), permutations=permutations, draws=draws, generator=stream),
            contrast_pixels(maps, (first, second)),
        )
    ]
    table = pd.concat([part.astype(dict.fromkeys(PLACES, "Int64")) for part in parts], ignore_index=True)
    return CONTRASTS.check(table)


def contrast_people(
    maps: PersonMaps, sides: Sides, *, permutations: int, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """One row per cell of the map: the mean over people of their mean scaled map for the first side minus the second.

    A person's difference is averaged over seeds before it is tested, so that `statistic` (Student's t), `p` (sign flips
    of people, family-wise over the map) and `effect` (Cohen's d_z: mean over standard deviation of the differences) are
    about other people seen by the same networks, and not about other networks. `low` and `high` bound a 95 %
    bootstrap interval over seeds and people, for each cell on its own. People all of whose maps are blank, for either
    side and any seed, are left out; with fewer than 2 left, all is NaN, and `reason` says so.
    """
    means = maps.person_means()
    first, second = (means[PAIRS.index(side)] for side in sides)
    differences = first - second
    kept = differences[:, ~np.isnan(differences).any(axis=(0, 2, 3))]
    n = kept.shape[1]
    row, column = (index.ravel() for index in np.indices(kept.shape[2:]))
    cells = pd.DataFrame({"style": "sound", "seed": None, "row": row, "column": column, "n": n})
    if n < LEAST_PEOPLE:
        reason = (
            f"{n} of {len(maps.people)} people have maps that are not blank on both sides, for every seed; "
            f"a test over people needs at least {LEAST_PEOPLE}"
        )
        return cells.assign(**dict.fromkeys(NUMBERS, np.nan), reason=reason)
    flips, bootstrap = generator.spawn(2)
    t, p = sign_flip_test(kept.mean(axis=0), permutations=permutations, generator=flips)
    difference, low, high = estimate_interval(kept, draws=draws, generator=bootstrap)
    found = zip(NUMBERS, (difference, low, high, t, p, t / np.sqrt(n)), strict=True)
    return cells.assign(**{name: values.ravel() for name, values in found}, reason="")


def contrast_pixels(maps: PersonMaps, sides: Sides) -> pd.DataFrame:
    """One row per seed: Mann-Whitney's U test of the pixels of the two mean maps, at the size of the image [P].

    It describes two pictures, and tests nothing: neighbouring pixels, many of them interpolated from one cell, are no
    independent observations, so that p shrinks with the size the maps are drawn at (the study prints 0.0), and maps
    that differ by chance alone are called different in most cases. `difference` is that of the medians, `statistic` the
    first side's U, `effect` the rank-biserial correlation, 2 U / n^2 - 1: 1 if every pixel of the first side exceeds
    every one of the second. `n` pixels per map. NaN with a `reason` where all maps of a side are blank.
    """
    pixels = upsample_maps(maps.means(), maps.size).reshape(len(PAIRS), len(maps.seeds), -1)
    n = pixels.shape[-1]
    rows = []
    for seed, first, second in zip(maps.seeds, *(pixels[PAIRS.index(side)] for side in sides), strict=True):
        row = {"style": "published", "seed": seed, "row": None, "column": None, "n": n}
        row |= dict.fromkeys(NUMBERS, np.nan) | {"reason": ""}
        if np.isnan([first, second]).any():
            row["reason"] = "all maps of one side are blank"
        else:
            u, p = mannwhitneyu(first, second, alternative="two-sided")
            row |= {"difference": np.median(first) - np.median(second), "statistic": u, "p": p}
            row["effect"] = 2 * u / n**2 - 1
        rows.append(row)
    return pd.DataFrame(rows)
