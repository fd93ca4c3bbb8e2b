"""What the two styles of contrast call different in simulated studies where the truth is known.

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


def study(draw: np.random.Generator, *, effect: float = 0.0) -> PersonMaps:
    """Two seeds and 12 people, each with a map of their own; `effect` is added to the first side's patch."""
    own = 0.3 * draw.random((1, 1, PEOPLE, 1, 1)) + 0.1 * draw.normal(size=(1, 1, PEOPLE, *CELLS))
    spread = 0.1 * draw.exponential(size=(1, 1, PEOPLE, 1, 1))
    noise = gaussian_filter(draw.exponential(size=(4, 2, PEOPLE, *CELLS)), sigma=(0, 0, 0, 1, 1))
    maps = own + spread * noise
    maps[PAIRS.index(SIDES[0])] += effect * PATCH
    names = tuple(map(str, range(PEOPLE)))
    return PersonMaps(maps, np.ones((4, 2, PEOPLE), dtype=np.int64), (1, 2), names, SIZE, "simulated")


def p_of(maps: PersonMaps, draw: np.random.Generator) -> np.ndarray:
    cells = contrast_people(maps, SIDES, permutations=PERMUTATIONS, draws=2, generator=draw)
    return cells["p"].to_numpy().reshape(CELLS)


def test_sound_errs_once_in_twenty_studies_and_published_in_most_cases() -> None:
    draw, called, pictures = generator(11), 0, 0
    for _ in range(STUDIES):
        maps = study(draw)
        called += bool((p_of(maps, draw) <= 0.05).any())
        pictures += int((contrast_pixels(maps, SIDES)["p"] <= 0.05).sum())
    assert called <= binom.ppf(0.999, STUDIES, 0.05)
    assert 0.02 <= called / STUDIES <= 0.08  # neither blind
    assert pictures / (2 * STUDIES) > 0.5


def test_an_effect_is_found_where_it_was_planted_and_nowhere_else() -> None:
    draw, studies = generator(12), 120
    p = np.array([p_of(study(draw, effect=0.08), draw) for _ in range(studies)])
    found = p <= 0.05
    assert found[:, PATCH].mean() > 0.9
    assert found[:, ~PATCH].any(axis=1).sum() <= binom.ppf(0.999, studies, 0.05)
