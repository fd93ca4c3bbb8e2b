"""How sure is a number? Bootstrap over test images, or over seeds and people; sign flips of people."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from facespec.study.errors import StudyError
from facespec.study.tables import ACCURACY, ALL_IMAGES

PERCENTILES = (2.5, 97.5)  # of every 95 % interval
MIN_PEOPLE = 2  # for an interval or a test over people
FLIPS_AT_ONCE = 1 << 23  # signs or sums held at a time: 64 MiB


@dataclass(frozen=True)
class Cell:
    """What one accuracy is about: the columns of the ACCURACY table that do not vary over resamples."""

    figure: str
    trained_on: str
    tested_on: str
    role: str
    source: str
    seed: int
    chance: float


def resample_means(values: np.ndarray, *, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Means of `values` over bootstrap draws of its first axis.

    `values` is ``(n,)`` or ``(n, k)``: the k columns share every draw, so that differences between them are paired.
    Returns ``(resamples,)`` or ``(resamples, k)``. The draws depend on `generator` and n alone, so two calls with equal
    generators are paired as well. One draw is held at a time: memory does not grow with `resamples`.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise StudyError("nothing to resample: got 0 test images, at least 1 is needed.")
    return np.stack([values[generator.integers(n, size=n)].mean(axis=0) for _ in range(resamples)])


def draw_weights(units: int, *, draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each unit is drawn, with replacement, `units` times: float64 (draws, units), every row sums to `units`.

    Equal generators give equal weights: with one per network, the networks' draws are paired.
    """
    if units == 0:
        raise StudyError("nothing to resample: got 0 units, at least 1 is needed.")
    indices = generator.integers(units, size=(draws, units))
    weights = np.zeros((draws, units))
    np.add.at(weights, (np.arange(draws)[:, None], indices), 1)
    return weights


def average_people(values: np.ndarray, people: pd.Series) -> np.ndarray:
    """Means of `values` (n, ...) within people, (people, ...) in the order of their names, leaving out NaN.

    `people` (n,) names the person of each value.
    """
    means = pd.DataFrame(values.reshape(len(values), -1)).groupby(people.to_numpy()).mean().to_numpy()
    return means.reshape(-1, *values.shape[1:])


def resample_hierarchically(values: np.ndarray, *, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Draw bootstrap means over seeds and people.

    A draw takes as many seeds, and as many people, as there are, with replacement; the same people for all its seeds,
    because all networks see the same faces.

    Parameters
    ----------
    values : array of shape (seeds, people, ...)
        One value per seed, person and entry of the trailing axes. Entries share every draw, and so are paired. NaN
        stands for a missing value: such people are left out, within a seed and entry; so are seeds without people.
    draws : int
        Number of bootstrap draws.
    generator : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    float64 array of shape (draws, ...)
        Means over drawn seeds and people; NaN if all drawn values are missing.

    Raises
    ------
    StudyError
        If there are no seeds or no people.

    Examples
    --------
    >>> values = np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    >>> means = resample_hierarchically(values, draws=1000, generator=np.random.default_rng(1))
    >>> means.shape, bool(means.min() >= 0), bool(means.max() <= 12)
    ((1000,), True, True)
    """
    n_seeds, n_people = np.shape(values)[:2]
    seeds = draw_weights(n_seeds, draws=draws, generator=generator)
    people = draw_weights(n_people, draws=draws, generator=generator)
    return _average_draws(values, seeds, people)


def estimate_interval(
    values: np.ndarray, *, draws: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate a mean over seeds and people, and its 95 % percentile interval.

    Parameters
    ----------
    values : array of shape (seeds, people, ...)
        As in `resample_hierarchically`.
    draws : int
        Number of bootstrap draws.
    generator : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    mean, low, high : float64 arrays of shape (...)
        The mean, in which seeds have equal weights, as have people within a seed; and the bounds of its interval, from
        the draws that are defined. The bounds are NaN for fewer than 2 people.

    Notes
    -----
    Percentile intervals from few values are too short, because the bootstrap variance of n values is (n - 1) / n of
    their variance. What nominal 95 % from 3 seeds are worth depends on where the variance comes from: 75 % if all of
    it is between seeds, 93 % or more if half of it comes from the people (simulated; ``docs/intervals.md``).

    Examples
    --------
    >>> values = np.array([[0.0, 1.0, 2.0, 3.0]])
    >>> mean, low, high = estimate_interval(values, draws=1000, generator=np.random.default_rng(1))
    >>> float(mean), bool(0 < low < mean < high < 3)
    (1.5, True)
    """
    means = resample_hierarchically(values, draws=draws, generator=generator)
    n_seeds, n_people = np.shape(values)[:2]
    mean = _average_draws(values, np.ones((1, n_seeds)), np.ones((1, n_people)))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # if no draw is defined the bounds are NaN, as documented
        low, high = np.nanpercentile(means, PERCENTILES, axis=0)
    has_interval = (~np.isnan(values)).any(axis=0).sum(axis=0) >= MIN_PEOPLE
    return mean, np.where(has_interval, low, np.nan), np.where(has_interval, high, np.nan)


def explain_few_people(n: int) -> str:
    """Why a number from `n` people has no interval; empty if it has one."""
    return "" if n >= MIN_PEOPLE else f"{n} person only: no interval"


def average_weighted(axes: str, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted mean of `values` along `axes`, in einsum's notation, leaving out NaN; NaN if all are."""
    is_defined = ~np.isnan(values)
    total = np.einsum(axes, weights, np.where(is_defined, values, 0.0), optimize=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.einsum(axes, weights, is_defined.astype(np.float64), optimize=True))


def _average_draws(values: np.ndarray, seeds: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Means (draws, ...) of `values` (seeds, people, ...) for weights (draws, seeds) and (draws, people)."""
    by_seed = average_weighted("dp,sp...->ds...", people, np.asarray(values, dtype=np.float64))
    return average_weighted("ds,ds...->d...", seeds, by_seed)


def sign_flip_test(
    differences: np.ndarray, *, permutations: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Test at which locations of a map the mean over people differs from zero, corrected over the map.

    Under the null hypothesis a person's differences are as likely with the other sign, at all locations together; so
    signs of whole people are flipped. The p of a location is the share of flips (the identity among them) in which the
    largest abs(t) over *all* locations reaches the abs(t) of that location: the probability of any false positive in
    the map is at most p.

    Parameters
    ----------
    differences : array of shape (people, ...)
        One paired difference per person and location; finite, of 2 people or more.
    permutations : int
        Number of random sign flips. At most 64 MiB of them are held at a time.
    generator : numpy.random.Generator
        Source of the flips.

    Returns
    -------
    t, p : float64 arrays of shape (...)
        Student's t of the mean against zero, and the family-wise corrected p. Locations at which all differences are
        zero have t 0 and p 1.

    Raises
    ------
    StudyError
        For fewer than 2 people, and for differences that are not finite.

    References
    ----------
    Nichols & Holmes (2002). Nonparametric permutation tests for functional neuroimaging. Human Brain Mapping 15:1-25.

    Examples
    --------
    >>> differences = np.array([[2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    >>> t, p = sign_flip_test(differences, permutations=1000, generator=np.random.default_rng(1))
    >>> t.round(4)  # 3 / (1 / sqrt(3))
    array([5.1962, 0.    ])
    >>> bool(abs(p[0] - 2 / 8) < 0.05), float(p[1])  # two of the eight flips reach it
    (True, 1.0)
    """
    flat = np.asarray(differences, dtype=np.float64).reshape(len(differences), -1)
    n = len(flat)
    if n < MIN_PEOPLE:
        raise StudyError(f"a test over people needs at least {MIN_PEOPLE}, got {n}.")
    if wrong := np.count_nonzero(~np.isfinite(flat)):
        raise StudyError(
            f"{wrong} of {flat.size} differences of people are not finite numbers; leave these people out."
        )
    # no flip changes the sum of squares at a location: divided by its root, abs(t) is an increasing function of the
    # absolute sum alone, so that the largest sum is at the location of the largest t
    length = np.sqrt((flat**2).sum(axis=0))
    normalised = flat / np.where(length > 0, length, 1.0)
    at_once = max(1, FLIPS_AT_ONCE // max(n, flat.shape[1]))
    largest = np.concatenate(
        [
            np.abs((2.0 * generator.integers(2, size=(min(at_once, permutations - start), n)) - 1) @ normalised).max(
                axis=1
            )
            for start in range(0, permutations, at_once)
        ]
    )
    observed = np.abs(normalised.sum(axis=0)) * (1 - 1e-12)  # an equal flip may differ in its last bits
    reached = permutations - np.searchsorted(np.sort(largest), observed)
    shape = np.shape(differences)[1:]
    return _compute_t(flat).reshape(shape), ((1 + reached) / (1 + permutations)).reshape(shape)


def _compute_t(values: np.ndarray) -> np.ndarray:
    """Student's t (locations,) of the mean of `values` (n, locations) against zero; 0 where all are zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = values.mean(axis=0) / (values.std(axis=0, ddof=1) / np.sqrt(len(values)))
    return np.where(values.any(axis=0), t, 0.0)


def compute_chance(classes: np.ndarray) -> float:
    """The accuracy of the best constant answer: the share of the most frequent class in `classes` (n,), names or codes.

    One over the number of classes where all are as frequent.
    """
    _, counts = np.unique(classes, return_counts=True)
    return float(counts.max() / counts.sum())


def tabulate_accuracy(
    correct: np.ndarray, cell: Cell, *, resamples: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The ACCURACY rows of one cell.

    `correct` is ``(n,)`` bool, one per test image. The row with `resample` -1 is the accuracy on these images, the
    rows 0 ... `resamples` - 1 are bootstrap draws of them. With equal generators for all networks that are tested on
    the same images, the rows are paired by `resample`.
    """
    correct = np.asarray(correct, dtype=bool)
    accuracy = np.concatenate([[correct.mean()], resample_means(correct, resamples=resamples, generator=generator)])
    rows = pd.DataFrame({"resample": np.arange(ALL_IMAGES, resamples), "n": len(correct), "accuracy": accuracy})
    return ACCURACY.check(rows.assign(**asdict(cell)))
