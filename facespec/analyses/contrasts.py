"""Do the heatmaps of two networks, or of one network for two tasks, differ? Tested over people, and as published.

The comparisons are of the joint network with each single-task network on that network's task, and of the joint
network's two tasks. As a control, the joint network is compared with the untrained one on both tasks, and the untrained
network's two tasks with each other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from facespec.analyses.resampling import MIN_PEOPLE, estimate_interval, sign_flip_test
from facespec.study.maps import PersonMaps, upsample_maps
from facespec.study.tables import CONTRASTS
from facespec.study.vocabulary import PAIRS, Network, Task

Sides = tuple[tuple[Network, Task], tuple[Network, Task]]  # first minus second

COMPARISONS: tuple[Sides, ...] = (
    ((Network.JOINT, Task.EXPRESSION), (Network.EXPRESSION, Task.EXPRESSION)),
    ((Network.JOINT, Task.IDENTITY), (Network.IDENTITY, Task.IDENTITY)),
    ((Network.JOINT, Task.EXPRESSION), (Network.JOINT, Task.IDENTITY)),
    ((Network.JOINT, Task.EXPRESSION), (Network.UNTRAINED, Task.EXPRESSION)),
    ((Network.JOINT, Task.IDENTITY), (Network.UNTRAINED, Task.IDENTITY)),
    ((Network.UNTRAINED, Task.EXPRESSION), (Network.UNTRAINED, Task.IDENTITY)),
)
NUMBERS = ("difference", "low", "high", "statistic", "p", "effect")
OPTIONAL = ("seed", "row", "column")  # each is empty in one of the styles


def contrast_maps(maps: PersonMaps, *, permutations: int, draws: int, generator: np.random.Generator) -> pd.DataFrame:
    """The CONTRASTS table: all comparisons in both styles, first minus second.

    Style ``sound``: a test over people (`contrast_people`), with `permutations` sign flips and `draws` bootstrap draws.
    Each comparison has a random stream, so that one that cannot be tested does not shift another. p is corrected over
    the map, not over the comparisons. Style ``published``: the study's statistic (`contrast_pixels`), without
    randomness.
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
    table = pd.concat([part.astype(dict.fromkeys(OPTIONAL, "Int64")) for part in parts], ignore_index=True)
    return CONTRASTS.check(table)


def contrast_people(
    maps: PersonMaps, sides: Sides, *, permutations: int, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """One row per cell of the map: the mean over people of their mean scaled map for the first side minus the second.

    A person's difference is averaged over seeds before it is tested, so that `statistic` (Student's t), `p` (sign flips
    of people, family-wise over the map) and `effect` (Cohen's d_z: mean over standard deviation of the differences)
    generalise to other people seen by the same networks, and not to other networks. `low` and `high` bound a 95 %
    bootstrap interval over seeds and people, not corrected over cells. People all of whose maps are blank, for either
    side and any seed, are left out; if fewer than 2 remain, all numbers are NaN, and `reason` says so.
    """
    means = maps.person_means()
    first, second = (means[PAIRS.index(side)] for side in sides)
    differences = first - second
    defined = differences[:, ~np.isnan(differences).any(axis=(0, 2, 3))]
    n = defined.shape[1]
    row, column = (index.ravel() for index in np.indices(defined.shape[2:]))
    cells = pd.DataFrame({"style": "sound", "seed": None, "row": row, "column": column, "n": n})
    if n < MIN_PEOPLE:
        reason = (
            f"{n} of {len(maps.people)} people have maps that are not blank on both sides, for every seed; "
            f"a test over people needs at least {MIN_PEOPLE}"
        )
        return cells.assign(**dict.fromkeys(NUMBERS, np.nan), reason=reason)
    flips, bootstrap = generator.spawn(2)
    t, p = sign_flip_test(defined.mean(axis=0), permutations=permutations, generator=flips)
    difference, low, high = estimate_interval(defined, draws=draws, generator=bootstrap)
    numbers = zip(NUMBERS, (difference, low, high, t, p, t / np.sqrt(n)), strict=True)
    return cells.assign(**{name: values.ravel() for name, values in numbers}, reason="")


def contrast_pixels(maps: PersonMaps, sides: Sides) -> pd.DataFrame:
    """One row per seed: Mann-Whitney's U test of the pixels of the two mean maps, at the size of the image [P].

    It describes two pictures and is no valid test: neighbouring pixels, many of them interpolated from one cell, are
    not independent observations, so that p decreases with the size of the image (the study prints 0.0), and maps that
    differ by chance alone are significantly different in most cases. `difference` is that of the medians, `statistic`
    the first side's U, `effect` the rank-biserial correlation, 2 U / n^2 - 1: 1 if every pixel of the first side
    exceeds every one of the second. `n` pixels per map. NaN with a `reason` if all maps of a side are blank.
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
