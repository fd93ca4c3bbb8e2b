"""How often is a network right, over all images and for each class? Accuracy, recall, balanced accuracy of its heads.

Figures 1C and S1B show top-1 accuracy. Where classes are unequally frequent, as the expressions of FER2013, it says
little about the rare ones: a head that always gives the most frequent class has its share of the images right. The
recall of a class is the share of its images that is classified correctly; balanced accuracy is the mean recall.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.resampling import PERCENTILES, Cell
from facespec.study.errors import StudyError
from facespec.study.tables import RECALL

Floats = npt.NDArray[np.float64]


def mark_correct(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Whether each prediction is right: two ``(n,)`` arrays of class codes in, ``(n,)`` bool out."""
    if predicted.shape != true.shape:
        raise StudyError(f"answers and truth must pair up, got {predicted.shape} and {true.shape}.")
    return predicted == true


def tabulate_recall(
    correct: np.ndarray,
    true: np.ndarray,
    cell: Cell,
    *,
    names: Sequence[str],
    resamples: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """The RECALL rows of one network and task: balanced accuracy first, then a row per class.

    Parameters
    ----------
    correct : bool array of shape (n,)
        Whether each test image is classified correctly.
    true : integer array of shape (n,)
        The images' classes, positions in `names`.
    cell : Cell
        What the rows are about; its `chance` is not used.
    names : sequence of str
        Of the classes. A class without a test image has no recall, but a reason, and does not count for the mean.
    resamples : int
        Bootstrap draws behind the intervals: every class keeps its number of images.
    generator : Generator

    Returns
    -------
    DataFrame with the schema `study.tables.RECALL`

    Notes
    -----
    A class that is always, or never, right in its few images has an interval without width: resampling cannot show what
    these images leave open.
    """
    counts = np.bincount(true, minlength=len(names))
    tested = np.flatnonzero(counts)
    recall, draws = np.full(len(names), np.nan), np.full((resamples, len(names)), np.nan)
    recall[tested] = np.bincount(true[correct], minlength=len(names))[tested] / counts[tested]
    draws[:, tested] = _resample_recall(correct, true, resamples=resamples, generator=generator)
    balanced, balanced_draws = recall[tested].mean(), draws[:, tested].mean(axis=1)
    low, high = np.percentile(np.column_stack([balanced_draws, draws]), PERCENTILES, axis=0)
    rows = pd.DataFrame({"class": ["", *names], "n": [len(true), *counts], "recall": [balanced, *recall]})
    rows = rows.assign(low=low, high=high, reason=["", *np.where(counts > 0, "", "no test image shows this class")])
    about = {
        column: getattr(cell, column) for column in ("figure", "trained_on", "tested_on", "role", "source", "seed")
    }
    return RECALL.check(rows.assign(**about))


def _resample_recall(
    correct: np.ndarray, true: np.ndarray, *, resamples: int, generator: np.random.Generator
) -> Floats:
    """Recall of every class that `true` holds, (resamples, classes): images are drawn within their class."""
    order = np.argsort(true, kind="stable")
    ordered = correct[order].astype(np.float64)
    _, first, counts = np.unique(true[order], return_index=True, return_counts=True)
    start, size = np.repeat(first, counts), np.repeat(counts, counts)
    draws = (ordered[start + generator.integers(size)] for _ in range(resamples))
    return np.stack([np.add.reduceat(draw, first) / counts for draw in draws])
