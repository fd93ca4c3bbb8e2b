"""How sure is a number? Bootstrap over test images, or over seeds and people; sign flips of people."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from facespec.study.errors import StudyError
from facespec.study.tables import ACCURACY, ALL_IMAGES

PERCENTILES = (2.5, 97.5)  # of every 95 % interval
LEAST_PEOPLE = 2  # that have a spread


@dataclass(frozen=True)
class Cell:
    """What one accuracy is the accuracy of; the columns of the ACCURACY table that do not vary over resamples."""

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

    Equal generators give equal weights: pass one per network and the draws are paired.
    """
    if units == 0:
        raise StudyError("nothing to resample: got 0 units, at least 1 is needed.")
    drawn = generator.integers(units, size=(draws, units))
    weights = np.zeros((draws, units))
    np.add.at(weights, (np.arange(draws)[:, None], drawn), 1)
    return weights


def average_people(values: np.ndarray, people: pd.Series) -> np.ndarray:
    """Means of `values` (n, ...) within people, (people, ...) in the order of their names, leaving out NaN.

    `people` (n,) says whose each value is.
    """
    means = pd.DataFrame(values.reshape(len(values), -1)).groupby(people.to_numpy()).mean().to_numpy()
    return means.reshape(-1, *values.shape[1:])


def resample_hierarchically(values: np.ndarray, *, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Bootstrap means of `values` (seeds, people, ...) over seeds and people: float64 (draws, ...).

    A draw takes as many seeds, and as many people, as there are, with replacement; the same people for all its seeds,
    because all networks see the same faces. People whose value is NaN (nothing was seen of them) are left out, within
    a seed and entry; so are seeds without anybody; NaN where nobody is left. Entries of the trailing axes share every
    draw, and so are paired.
    """
    n_seeds, n_people = np.shape(values)[:2]
    seeds = draw_weights(n_seeds, draws=draws, generator=generator)
    people = draw_weights(n_people, draws=draws, generator=generator)
    return _weighted_means(values, seeds, people)


def estimate_interval(
    values: np.ndarray, *, draws: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of `values` (seeds, people, ...) over both, and the bounds of its 95 % percentile interval, each (...).

    Seeds count alike, and within a seed people do; NaN as in `resample_hierarchically`, whose defined draws give the bounds.
    Few units make percentile intervals too short, because n of them spread by (n - 1) / n of their variance: where 3
    seeds differ as much as 70 people do, nominal 95 % hold the truth in about 80 % of studies [D: simulated]. Fewer
    than 2 people have no spread: the bounds are NaN.
    """
    drawn = resample_hierarchically(values, draws=draws, generator=generator)
    n_seeds, n_people = np.shape(values)[:2]
    mean = _weighted_means(values, np.ones((1, n_seeds)), np.ones((1, n_people)))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no draw is defined the bounds are NaN: an answer
        low, high = np.nanpercentile(drawn, PERCENTILES, axis=0)
    some = (~np.isnan(values)).any(axis=0).sum(axis=0) >= LEAST_PEOPLE
    return mean, np.where(some, low, np.nan), np.where(some, high, np.nan)


def explain_few_people(n: int) -> str:
    """Why a number from `n` people has no interval; empty if it has one."""
    return "" if n >= LEAST_PEOPLE else f"{n} person only: no interval"


def average_weighted(axes: str, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted mean of `values` along `axes`, as einsum writes them, leaving out NaN; NaN where nothing is left."""
    seen = ~np.isnan(values)
    total = np.einsum(axes, weights, np.where(seen, values, 0.0), optimize=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.einsum(axes, weights, seen.astype(np.float64), optimize=True))


def _weighted_means(values: np.ndarray, seeds: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Means (draws, ...) of `values` (seeds, people, ...) for weights (draws, seeds) and (draws, people)."""
    by_seed = average_weighted("dp,sp...->ds...", people, np.asarray(values, dtype=np.float64))
    return average_weighted("ds,ds...->d...", seeds, by_seed)


def sign_flip_test(
    differences: np.ndarray, *, permutations: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Where is the mean over people not zero? Paired sign-flip permutation test, corrected over the map.

    `differences` is (people, ...), one paired difference per person and place. Returns Student's t of the mean against
    zero and the family-wise corrected p, each (...). Under the null hypothesis a person's differences are as likely
    with the other sign, all places together; so signs of whole people are flipped, and a place's p is the share of
    flips (the identity among them) in which the largest abs(t) *anywhere* reaches its own: any place is called with a
    probability of at most p (Nichols & Holmes 2002, Human Brain Mapping 15:1-25). Places where everybody's difference
    is zero have t 0 and p 1. At most 64 MiB of flips are held at a time. Raises `StudyError` for fewer than 2 people
    and for differences that are no numbers.
    """
    flat = np.asarray(differences, dtype=np.float64).reshape(len(differences), -1)
    n = len(flat)
    if n < 2:
        raise StudyError(f"a test over people needs at least 2, got {n}.")
    if wrong := np.count_nonzero(~np.isfinite(flat)):
        raise StudyError(
            f"{wrong} of {flat.size} differences of people are not finite numbers; leave these people out."
        )
    # no flip changes a place's sum of squares: with it divided out, abs(t) grows with the absolute sum, and with
    # nothing else, so that the largest sum belongs to the largest t
    length = np.sqrt((flat**2).sum(axis=0))
    units = flat / np.where(length > 0, length, 1.0)
    at_once = max(1, (1 << 23) // max(n, flat.shape[1]))
    largest = np.concatenate(
        [
            np.abs((2.0 * generator.integers(2, size=(min(at_once, permutations - start), n)) - 1) @ units).max(axis=1)
            for start in range(0, permutations, at_once)
        ]
    )
    own = np.abs(units.sum(axis=0)) * (1 - 1e-12)  # a flip that equals another one may differ in its last bits
    reached = permutations - np.searchsorted(np.sort(largest), own)
    shape = np.shape(differences)[1:]
    return _t(flat).reshape(shape), ((1 + reached) / (1 + permutations)).reshape(shape)


def _t(values: np.ndarray) -> np.ndarray:
    """Student's t (places,) of the mean of `values` (n, places) against zero; 0 where all are zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = values.mean(axis=0) / (values.std(axis=0, ddof=1) / np.sqrt(len(values)))
    return np.where(values.any(axis=0), t, 0.0)


def tabulate_accuracy(
    correct: np.ndarray, cell: Cell, *, resamples: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The ACCURACY rows of one cell.

    `correct` is ``(n,)`` bool, one per test image. The row with `resample` -1 is the accuracy on these images, the
    rows 0 ... `resamples` - 1 are bootstrap draws of them. Pass an equal generator for every network tested on the same
    images and the rows are paired by `resample`.
    """
    correct = np.asarray(correct, dtype=bool)
    accuracy = np.concatenate([[correct.mean()], resample_means(correct, resamples=resamples, generator=generator)])
    rows = pd.DataFrame({"resample": np.arange(ALL_IMAGES, resamples), "n": len(correct), "accuracy": accuracy})
    return ACCURACY.check(rows.assign(**asdict(cell)))
