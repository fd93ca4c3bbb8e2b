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


def split_variance(means: np.ndarray, resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts of the variance of the mean over seeds of `means` (..., n_seeds), `resampled` (..., n_seeds, resamples).

    Returns
    -------
    spread : float64 array of shape (...)
        Variance between seeds, divided by their number: what other networks, and other faces for each of them, change.
        Where all seeds agree exactly, as they may in few images, it is what other faces change in each network by
        itself, so that the interval does not lose its width.
    shared : float64 array of shape (...)
        What other faces change in all networks: the mean covariance of two seeds over resamples, 0 if it is negative.

    Needs two seeds and two resamples.
    """
    seeds = means.shape[-1]
    of_mean = resampled.mean(axis=-2).var(axis=-1, ddof=1)
    of_seeds = resampled.var(axis=-1, ddof=1).mean(axis=-1)
    shared = np.maximum((seeds * of_mean - of_seeds) / (seeds - 1), 0.0)
    specific = np.maximum(of_seeds - shared, 0.0) / seeds
    agree = means.max(axis=-1) == means.min(axis=-1)
    return np.where(agree, specific, means.var(axis=-1, ddof=1) / seeds), shared


def find_half_width(spread: np.ndarray, shared: np.ndarray, *, seeds: int, level: float) -> np.ndarray:
    """Half the width of the interval of a mean over `seeds`, from the two parts of its variance; see `split_variance`.

    Examples
    --------
    >>> half = find_half_width(np.array(0.01 / 3), np.array(0.0), seeds=3, level=0.95)
    >>> half.round(3).item()  # as t over seeds: 4.303 * .1 / sqrt(3)
    0.248
    """
    total = np.asarray(spread + shared, dtype=np.float64)
    weight = np.divide(spread, total, out=np.zeros_like(total), where=total > 0)
    tail = (1 + level) / 2
    quantile = weight * stats.t.ppf(tail, seeds - 1) + (1 - weight) * stats.norm.ppf(tail)
    return np.asarray(quantile * np.sqrt(total))


def bound_mean(means: np.ndarray, resampled: np.ndarray, *, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the interval of the mean over seeds; arguments as in `split_variance`."""
    spread, shared = split_variance(means, resampled)
    half = find_half_width(spread, shared, seeds=means.shape[-1], level=level)
    mean = means.mean(axis=-1)
    return mean - half, mean + half


def bound_over_seeds(means: np.ndarray, *, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of Student's interval of the mean over seeds of `means` (..., n_seeds), as if the faces were all faces."""
    seeds = means.shape[-1]
    half = find_half_width(means.var(axis=-1, ddof=1) / seeds, np.zeros(means.shape[:-1]), seeds=seeds, level=level)
    mean = means.mean(axis=-1)
    return mean - half, mean + half


def simulate_coverage(
    spread: float,
    shared: float,
    *,
    seeds: int,
    level: float,
    draws: int,
    generator: np.random.Generator,
) -> float:
    """The share of simulated studies whose interval includes the truth, if the variances are those of `split_variance`.

    Numbers are normal. Every simulated study estimates the variance between its seeds anew; what comes from the faces
    is taken as known, as from many faces. NaN if there is no variance.
    """
    if not spread + shared > 0:
        return np.nan
    errors = generator.standard_normal(draws) * np.sqrt(spread + shared)
    estimated = spread * generator.chisquare(seeds - 1, draws) / (seeds - 1)
    half = find_half_width(estimated, np.full(draws, shared), seeds=seeds, level=level)
    return float((np.abs(errors) <= half).mean())
