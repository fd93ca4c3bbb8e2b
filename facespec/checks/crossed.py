"""How sure is a mean over networks that were all tested on the same faces? Seeds and faces are crossed.

The mean differs from study to study for two reasons: other seeds (which other networks are trained), and other faces
(which other test images or people are drawn). Faces are shared by all networks of a study, so that their part of the
variance is the same for three networks as for a hundred. In the design of radiologists who all read the same cases this
is known as many readers, many cases (Obuchowski & Rockette 1995); here readers are networks.

The variance of the mean is estimated as (variance between seeds) / (number of seeds) + (variance shared by seeds); the
second is the covariance of two seeds over bootstrap resamples of the faces. The first is known from a few seeds only,
so that it needs a quantile of Student's t, and the second from many faces, so that it needs that of the normal
distribution. `bound_mean` weights the two quantiles by the two variances (Cochran & Cox 1950). It is the narrowest of
the intervals whose simulated coverage reached .93 in all of many ratios of variances (``docs/intervals.md``).

References
----------
Cochran & Cox 1950, Experimental Designs, Wiley. Obuchowski & Rockette 1995, Communications in Statistics - Simulation
and Computation 24:285-308.
"""

from __future__ import annotations

import numpy as np
from scipy import stats


def estimate_shared(resampled: np.ndarray) -> np.ndarray:
    """The variance that all seeds share because they see the same faces, from `resampled` (..., n_seeds, n_resamples).

    The mean covariance of two seeds over resamples; 0 if it is negative. Needs two seeds and two resamples.
    """
    n_seeds = resampled.shape[-2]
    of_mean = resampled.mean(axis=-2).var(axis=-1, ddof=1)
    of_seeds = resampled.var(axis=-1, ddof=1).mean(axis=-1)
    return np.maximum((n_seeds * of_mean - of_seeds) / (n_seeds - 1), 0.0)


def find_half_width(spread: np.ndarray, shared: np.ndarray, *, seeds: int, level: float) -> np.ndarray:
    """Half the width of the interval of a mean over `seeds`, from the two parts of its variance.

    `spread` is the variance between seeds divided by their number, `shared` that of `estimate_shared`.
    """
    total = np.asarray(spread + shared, dtype=np.float64)
    weight = np.divide(spread, total, out=np.zeros_like(total), where=total > 0)
    tail = (1 + level) / 2
    quantile = weight * stats.t.ppf(tail, seeds - 1) + (1 - weight) * stats.norm.ppf(tail)
    return np.asarray(quantile * np.sqrt(total))


def bound_mean(values: np.ndarray, shared: np.ndarray, *, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the interval of the mean over seeds of `values` (..., n_seeds); 0 as `shared` gives t over seeds.

    Needs two seeds.

    Examples
    --------
    >>> low, high = bound_mean(np.array([0.1, 0.2, 0.3]), np.array(0.0), level=0.95)
    >>> low.round(3).item(), high.round(3).item()  # .2 -+ 4.303 * .1 / sqrt(3)
    (-0.048, 0.448)
    """
    seeds = values.shape[-1]
    mean, spread = values.mean(axis=-1), values.var(axis=-1, ddof=1) / seeds
    half = find_half_width(spread, shared, seeds=seeds, level=level)
    return mean - half, mean + half


def simulate_coverage(
    spread: float, shared: float, *, seeds: int, level: float, draws: int, generator: np.random.Generator
) -> float:
    """The share of simulated studies whose interval includes the truth, if the variances are those given.

    Normal numbers with `spread` and `shared` as in `find_half_width`. Every simulated study estimates the variance
    between its seeds anew; the shared one is taken as known, as from many faces. NaN if there is no variance.
    """
    if not spread + shared > 0:
        return np.nan
    errors = generator.standard_normal(draws) * np.sqrt(spread + shared)
    estimated = spread * generator.chisquare(seeds - 1, draws) / (seeds - 1)
    half = find_half_width(estimated, np.full(draws, shared), seeds=seeds, level=level)
    return float((np.abs(errors) <= half).mean())
