"""Do a layer's responses carry expression and identity in different directions? The two subspaces, and their overlap.

The responses of a layer's units to a face are a point. Mean points of the expressions span a subspace, those of the
people another. If the two are orthogonal, a linear reader of one task is not disturbed by the other. `share` is the
part of one task's variance that lies inside the subspace of the other: 0 for orthogonal subspaces, 1 if all of it does.

Nothing is measured on the images that a subspace was found in, as noise that two estimates share would look like
shared directions: the people are divided at random, the subspace comes from one half, and the variance, in the other
half, is made of products of independent estimates (Walther et al. 2016): of expressions, the products of all pairs of
different people; of people, the product of their means in two groups of sessions.

Responses are first whitened by what varies between the sessions of a face (noise normalisation, Walther et al. 2016):
else few directions in which pictures differ for other reasons, such as their brightness, decide on the variance of all.

Two numbers stand beside it. `shuffled`: the share inside a subspace that is found in the same way, with classes that
are drawn at random: responses vary in few directions, and any two subspaces of them overlap. `chance`: the share
expected in a random subspace of the same dimensions, if responses varied equally in all directions.

References
----------
Walther, Nili, Ejaz, Alink, Kriegeskorte & Diedrichsen 2016, NeuroImage 137:188-200. Schwartz, O'Nell, Saxe & Anzellotti
2023, Brain Sciences 13:296: subspaces of expression and identity become more orthogonal with depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.covariance import ledoit_wolf

from facespec.study.tables import ALL_IMAGES
from facespec.study.tables_geometry import GEOMETRY, SHUFFLED
from facespec.study.vocabulary import Task

Floats = npt.NDArray[np.float64]
EPSILON = 1e-9  # of the largest variance, below which a direction has none
SPLITS = 20  # [O] random divisions of the people over which the share of all people is averaged


@dataclass(frozen=True, eq=False)
class Division:
    """People in whom subspaces are found (`fit`), and those in whom variance is measured; positions, perhaps repeated.

    `shuffle` orders the images of the first, for classes drawn at random.
    """

    fit: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    shuffle: npt.NDArray[np.int64]


def divide_people(
    people: int, images: int, *, draws: int, generator: np.random.Generator
) -> tuple[list[Division], list[Division]]:
    """`SPLITS` divisions of all people, and `draws` with people drawn with replacement within each half.

    `images` is the number of images of each person. For all layers and networks the same: differences are paired.
    """
    divisions = []
    for number in range(SPLITS + draws):
        halves = np.array_split(generator.permutation(people), 2)
        if number >= SPLITS:
            halves = [generator.choice(half, len(half)) for half in halves]
        divisions.append(Division(halves[0], halves[1], generator.permutation(len(halves[0]) * images)))
    return divisions[:SPLITS], divisions[SPLITS:]


def measure_geometry(
    values: np.ndarray, divisions: tuple[list[Division], list[Division]], columns: dict[str, Any]
) -> pd.DataFrame:
    """How much of each task's variance lies inside the other's subspace, in one layer.

    Parameters
    ----------
    values : float array of shape (people, expressions, sessions, units)
        Responses, with two sessions or more.
    divisions : tuple of two lists of Division
        Of all people, and of the bootstrap's; see `divide_people`.
    columns : dict
        What the rows are about: network, source, seed, layer, depth.

    Returns
    -------
    DataFrame with the schema `study.tables_geometry.GEOMETRY`
        `number` is NaN where the variance of a task cannot be told from noise.
    """
    values = whiten_noise(np.asarray(values, dtype=np.float64))
    people, expressions, _, directions = values.shape
    dimensions = min(expressions - 1, people // 2 - 1, directions)
    about: dict[str, Any] = {
        "directions": directions,
        "dimensions": dimensions,
        "chance": dimensions / max(directions, 1),
    }
    whole, resampled = divisions
    rows: list[dict[str, Any]] = []
    for task, other in ((Task.EXPRESSION, Task.IDENTITY), (Task.IDENTITY, Task.EXPRESSION)):
        about["of"] = task.value
        for inside in (other.value, SHUFFLED):
            shuffled = inside == SHUFFLED
            parts = [_measure_share(values, each, task, dimensions, shuffled=shuffled) for each in whole]
            rows.append({**about, "inside": inside, "resample": ALL_IMAGES, "number": _divide(np.sum(parts, axis=0))})
        rows += [
            {
                **about,
                "inside": other.value,
                "resample": number,
                "number": _divide(_measure_share(values, each, task, dimensions)),
            }
            for number, each in enumerate(resampled)
        ]
    return GEOMETRY.check(pd.DataFrame(rows).assign(**columns))


def whiten_noise(values: Floats) -> Floats:
    """Responses in coordinates in which what varies between sessions has unit variance in all directions.

    The covariance of what a face's sessions do not share is shrunk (Ledoit & Wolf 2004): it has many directions, and
    few faces. Units whose response never varies are left out, and so are directions without variance.
    """
    values = values[..., np.ptp(values, axis=(0, 1, 2)) > 0]
    if not values.size:
        return values
    noise = (values - values.mean(axis=2, keepdims=True)).reshape(-1, values.shape[-1])
    covariance, _ = ledoit_wolf(noise, assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    known = variances > variances.max() * EPSILON
    return np.asarray(values @ (directions[:, known] / np.sqrt(variances[known])))


def _measure_share(
    values: Floats, division: Division, task: Task, dimensions: int, *, shuffled: bool = False
) -> Floats:
    """The variance of `task` inside the subspace of the other task, and all of it: (2,)."""
    fit = values[division.fit]
    if shuffled:  # as many classes of as many images, but of any person and expression
        fit = fit.reshape(len(division.shuffle), fit.shape[-1])[division.shuffle].reshape(fit.shape)
    means = fit.mean(axis=(1, 2)) if task is Task.EXPRESSION else fit.mean(axis=(0, 2))  # of the other task's classes
    _, _, directions = np.linalg.svd(_centre(means), full_matrices=False)
    measure = _measure_expression if task is Task.EXPRESSION else _measure_identity
    return measure(values[division.test], division.test, directions[:dimensions].T)


def _measure_expression(values: Floats, names: npt.NDArray[np.int64], basis: Floats) -> Floats:
    """Summed products of the expressions' means of all pairs of people with different `names`: inside, and in all."""
    means = values.mean(axis=2)
    means = means - means.mean(axis=1, keepdims=True)
    parts = []
    for points in (means @ basis, means):
        same = sum(np.sum(points[names == name].sum(axis=0) ** 2) for name in np.unique(names))
        parts.append(np.sum(points.sum(axis=0) ** 2) - same)
    return np.array(parts)


def _measure_identity(values: Floats, _: npt.NDArray[np.int64], basis: Floats) -> Floats:
    """Summed products of people's means in the first and the second half of the sessions: inside, and in all."""
    sessions = np.array_split(np.arange(values.shape[2]), 2)
    first, second = (_centre(values[:, :, group].mean(axis=(1, 2))) for group in sessions)
    return np.array([np.sum((first @ basis) * (second @ basis)), np.sum(first * second)])


def _centre(means: Floats) -> Floats:
    return means - means.mean(axis=0)


def _divide(parts: Floats) -> float:
    inside, whole = parts
    return float(inside / whole) if whole > 0 else np.nan
