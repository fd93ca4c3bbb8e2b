"""How sure is a number? Bootstrap over test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from facespec.study.errors import StudyError
from facespec.study.tables import ACCURACY, ALL_IMAGES


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


def resampled_means(values: np.ndarray, *, resamples: int, generator: np.random.Generator) -> np.ndarray:
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


def accuracy_rows(correct: np.ndarray, cell: Cell, *, resamples: int, generator: np.random.Generator) -> pd.DataFrame:
    """The ACCURACY rows of one cell.

    `correct` is ``(n,)`` bool, one per test image. The row with `resample` -1 is the accuracy on these images, the
    rows 0 ... `resamples` - 1 are bootstrap draws of them. Pass an equal generator for every network tested on the same
    images and the rows are paired by `resample`.
    """
    correct = np.asarray(correct, dtype=bool)
    accuracy = np.concatenate([[correct.mean()], resampled_means(correct, resamples=resamples, generator=generator)])
    rows = pd.DataFrame({"resample": np.arange(ALL_IMAGES, resamples), "n": len(correct), "accuracy": accuracy})
    return ACCURACY.check(rows.assign(**asdict(cell)))
