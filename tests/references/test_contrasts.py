"""How often do the two styles of contrast find a difference in simulated studies with a known truth?

Maps are spatially correlated and of unequal, skewed spread over people, as heatmaps are; under the null hypothesis the
two sides of every person come from one distribution.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

from facespec.analyses.contrasts import COMPARISONS, contrast_people, contrast_pixels
from facespec.study.maps import PersonMaps
from facespec.study.seeds import generator
from facespec.study.vocabulary import PAIRS

PEOPLE, CELLS, SIZE = 12, (5, 7), (17, 11)
STUDIES, PERMUTATIONS = 400, 199  # of 199 flips and the identity, p <= .05 is exactly 1 in 20
SIDES = COMPARISONS[2]
PATCH = np.zeros(CELLS, dtype=bool)
PATCH[1:3, 2:5] = True


def simulate_study(random: np.random.Generator, *, effect: float = 0.0) -> PersonMaps:
    """Two seeds and 12 people, each with another map; `effect` is added to the patch of the first side."""
    person = 0.3 * random.random((1, 1, PEOPLE, 1, 1)) + 0.1 * random.normal(size=(1, 1, PEOPLE, *CELLS))
    spread = 0.1 * random.exponential(size=(1, 1, PEOPLE, 1, 1))
    noise = gaussian_filter(random.exponential(size=(6, 2, PEOPLE, *CELLS)), sigma=(0, 0, 0, 1, 1))
    maps = person + spread * noise
    maps[PAIRS.index(SIDES[0])] += effect * PATCH
    names = tuple(map(str, range(PEOPLE)))
    return PersonMaps(maps, np.ones((6, 2, PEOPLE), dtype=np.int64), (1, 2), names, SIZE, "simulated")


def compute_p(maps: PersonMaps, random: np.random.Generator) -> np.ndarray:
    cells = contrast_people(maps, SIDES, permutations=PERMUTATIONS, draws=2, generator=random)
    return cells["p"].to_numpy().reshape(CELLS)


def test_false_positives_are_one_in_twenty_over_people_and_more_than_half_over_pixels() -> None:
    random, by_people, by_pixels = generator(11), 0, 0
    for _ in range(STUDIES):
        maps = simulate_study(random)
        by_people += bool((compute_p(maps, random) <= 0.05).any())
        by_pixels += int((contrast_pixels(maps, SIDES)["p"] <= 0.05).sum())
    assert by_people <= binom.ppf(0.999, STUDIES, 0.05)
    assert 0.02 <= by_people / STUDIES <= 0.08  # not conservative, either
    assert by_pixels / (2 * STUDIES) > 0.5


def test_an_effect_is_significant_in_its_patch_only() -> None:
    random, studies = generator(12), 120
    p = np.array([compute_p(simulate_study(random, effect=0.08), random) for _ in range(studies)])
    significant = p <= 0.05
    assert significant[:, PATCH].mean() > 0.9
    assert significant[:, ~PATCH].any(axis=1).sum() <= binom.ppf(0.999, studies, 0.05)
