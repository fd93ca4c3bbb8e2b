"""Do lesions take a task, or single classes of it? A task that is lost as a whole is lost for all its classes alike.

A ranking looks for the units whose silence costs a task most. It may find units that serve the whole task, or units
that serve single classes, which are then never answered, while others are untouched. Recall per class tells them apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]


def tabulate_recalls(right: npt.ArrayLike, classes: np.ndarray) -> pd.DataFrame:
    """Rows `lesion`, `class`, `n`, `recall`: which share of a class's images is answered right under each lesion.

    `right` (lesions, n) is bool, `classes` int64 (n,); only classes that occur have rows.
    """
    names, counts, recall = _recalls(right, classes)
    rows = pd.MultiIndex.from_product([range(len(recall)), names], names=["lesion", "class"]).to_frame(index=False)
    return rows.assign(n=np.tile(counts, len(recall)), recall=recall.ravel())


def measure_class_spread(right: npt.ArrayLike, classes: np.ndarray) -> Floats:
    """Share (lesions,) of the variance of right and wrong answers that lies between classes.

    `right` (lesions, n) is bool, `classes` int64 (n,). Epsilon squared of a one-way analysis of variance, the share
    less what chance gives it [Kelley 1935, PNAS]: 1 where classes are kept or lost whole, around 0 (also below) where
    all are answered right equally often, however often that is. A network that always gives the same answer has 1, so
    that it grows with the damage done: compare lesions that cost alike. NaN where all answers are right or all wrong,
    where all images are of one class, and where no class has two.
    """
    _, counts, recall = _recalls(right, classes)
    n, k = counts.sum(), len(counts)
    mean = recall @ counts / n
    total = n * mean * (1 - mean)
    within = (recall * (1 - recall)) @ counts
    if k in (1, n):
        return np.full(len(recall), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(total > 0, 1 - within / (n - k) * (n - 1) / total, np.nan))


def _recalls(right: npt.ArrayLike, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, Floats]:
    """The classes that occur, how often, and the recall (lesions, classes) of each."""
    names, places, counts = np.unique(classes, return_inverse=True, return_counts=True)
    members = np.eye(len(names))[places]  # (n, classes)
    return names, counts, np.asarray(right, dtype=np.float64) @ members / counts
