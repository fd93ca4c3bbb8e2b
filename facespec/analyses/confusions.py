"""Which expressions are taken for which? Confusion matrices, and how sure their cells are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.resampling import MIN_PEOPLE, PERCENTILES, explain_few_people

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def count_confusions(true: Codes, predicted: Codes, people: pd.Series, *, classes: int) -> Codes:
    """How many of each person's images of a class are given each name: (people, classes, classes), true classes first.

    `true`, `predicted` (n,) are class codes, `people` (n,) names; people are in the order of their names.
    """
    names, persons = np.unique(people.to_numpy(str), return_inverse=True)
    counts = np.zeros((len(names), classes, classes), np.int64)
    np.add.at(counts, (persons, true, predicted), 1)
    return counts


def compute_shares(counts: npt.NDArray[np.number]) -> Floats:
    """Shares of each true class's images, (..., classes, classes); NaN in the row of a class without images."""
    totals = counts.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(totals > 0, counts, np.nan) / np.where(totals > 0, totals, 1))


def resample_shares(counts: Codes, *, draws: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Confusion matrices, averaged over networks, of all people and of bootstrap draws of networks and people.

    Parameters
    ----------
    counts : array of shape (seeds, people, classes, classes)
        `count_confusions` of every network, for the same images.
    draws : int
        Bootstrap draws. A draw takes as many networks, and as many people, as there are, with replacement.
    generator : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    shares : array of shape (classes, classes)
        Mean over networks of `compute_shares`.
    drawn : array of shape (draws, classes, classes)
        The same in every draw; NaN in the row of a class of which no image is drawn.
    """
    n_seeds, n_people, *shape = counts.shape
    flat = counts.reshape(n_seeds, n_people, -1).astype(np.float64)  # whole numbers, so sums are exact; BLAS is fast
    drawn = np.empty((draws, *shape))
    for index in range(draws):
        seeds = generator.integers(n_seeds, size=n_seeds)
        weights = np.bincount(generator.integers(n_people, size=n_people), minlength=n_people).astype(np.float64)
        drawn[index] = compute_shares((weights @ flat).reshape(n_seeds, *shape))[seeds].mean(axis=0)
    return compute_shares(counts.sum(axis=1)).mean(axis=0), drawn


def bound_draws(drawn: Floats, *, people: int) -> tuple[Floats, Floats]:
    """The 95 % percentile interval of each of `drawn` (draws, ...), over the draws in which it is defined.

    NaN for fewer than two people.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # if no draw is defined the bounds are NaN
        low, high = np.nanpercentile(drawn, PERCENTILES, axis=0)
    enough = people >= MIN_PEOPLE
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def tabulate_confusions(
    counts: Codes, names: Sequence[str], *, seeds: Sequence[int], draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """A row per cell of the matrix: `true`, `predicted`, `number`, `low`, `high`, and their counts.

    First those of the mean over networks (`seed` NaN), then those of each. `counts` as in `resample_shares`, `names`
    those of the classes.
    """
    people = counts.shape[1]
    parts = [(np.nan, slice(None)), *((seed, slice(index, index + 1)) for index, seed in enumerate(seeds))]
    tables = []
    for seed, part in parts:
        shares, drawn = resample_shares(counts[part], draws=draws, generator=generator)
        low, high = bound_draws(drawn, people=people)
        n = counts[0].sum(axis=(0, 2))
        cells = pd.MultiIndex.from_product([list(names), list(names)], names=["true", "predicted"]).to_frame(
            index=False
        )
        table = cells.assign(number=shares.ravel(), low=low.ravel(), high=high.ravel(), n=np.repeat(n, len(names)))
        reason = np.where(table["n"] > 0, explain_few_people(people), "no test image shows it")
        table = table.assign(reason=reason, people=people, seed=seed, seeds=len(seeds) if np.isnan(seed) else 1)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def rank_confusion(shares: Floats, first: int, second: int) -> Floats:
    """Rank of the confusion of two classes among those of all pairs, 1 for the largest: (...,).

    The confusion of a pair is the mean of both directions' `shares` (..., classes, classes): a is taken for b, and b
    for a. Of equal confusions all have the better rank; pairs with a class without images have none, which is NaN.
    """
    confusion = (shares + np.swapaxes(shares, -1, -2)) / 2
    pairs = confusion[(..., *np.triu_indices(shares.shape[-1], k=1))]
    number = confusion[..., first, second]
    larger = (pairs > number[..., None]).sum(axis=-1) + 1.0
    return np.asarray(np.where(np.isnan(number), np.nan, larger))


def find_lowest_recall(shares: Floats) -> Floats:
    """The smallest share of a class's images that are recognised: (...,) of (..., classes, classes).

    NaN if a class has no images: the lowest is then unknown.
    """
    return np.asarray(np.diagonal(shares, axis1=-2, axis2=-1).min(axis=-1))
