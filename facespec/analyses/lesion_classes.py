"""Do lesions impair a whole task, or single classes of it? Recall per class distinguishes the two.

A ranking finds the units whose lesion costs a task most. These may serve the whole task, or single classes, which are
then never recognised, while the others are unaffected.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]


def tabulate_recalls(correct: npt.ArrayLike, classes: np.ndarray) -> pd.DataFrame:
    """Rows `lesion`, `class`, `n`, `recall`: the share of a class's images classified correctly under each lesion.

    `correct` (lesions, n) is bool, `classes` int64 (n,); only classes that occur have rows.
    """
    names, counts, recall = _compute_recalls(correct, classes)
    rows = pd.MultiIndex.from_product([range(len(recall)), names], names=["lesion", "class"]).to_frame(index=False)
    return rows.assign(n=np.tile(counts, len(recall)), recall=recall.ravel())


def measure_class_spread(correct: npt.ArrayLike, classes: np.ndarray) -> Floats:
    """Share (lesions,) of the variance of correct and wrong responses that lies between classes.

    `correct` (lesions, n) is bool, `classes` int64 (n,). Epsilon squared of a one-way analysis of variance, the share
    corrected for chance [Kelley 1935, PNAS]: 1 where every class is recognised always or never, around 0 (also below)
    where all have the same recall, however high. It is 1 for a network whose output is constant, so that it grows with
    the damage: compare lesions of equal cost. NaN where all responses are correct or all wrong, where all images are of
    one class, and where no class has two.
    """
    _, counts, recall = _compute_recalls(correct, classes)
    n, k = counts.sum(), len(counts)
    mean = recall @ counts / n
    total = n * mean * (1 - mean)
    within = (recall * (1 - recall)) @ counts
    if k in (1, n):
        return np.full(len(recall), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(total > 0, 1 - within / (n - k) * (n - 1) / total, np.nan))


def _compute_recalls(correct: npt.ArrayLike, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, Floats]:
    """The classes that occur, how often, and the recall (lesions, classes) of each."""
    names, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    members = np.eye(len(names))[codes]  # (n, classes)
    return names, counts, np.asarray(correct, dtype=np.float64) @ members / counts
