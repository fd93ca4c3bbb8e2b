"""On which images of a training role is its task decoded in Figure S1A?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from facespec.data.splits import draw_balanced_subset, draw_images, draw_people
from facespec.study.params import Decoding
from facespec.study.vocabulary import TEST, TRAIN, Task


def draw_subset(
    labels: pd.DataFrame, task: Task, block: Decoding, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `labels` to fit the decoder on, and to test it on: 7 x 20 expressions, or 500 images of 100 people.

    Raises `StudyError` for too few people, or a class with too few test images.
    """
    fit, test = (np.flatnonzero(labels["split"] == split) for split in (TRAIN, TEST))
    per_class = block.expression_test
    if task is Task.IDENTITY:
        people = draw_people(labels, block.identity_people, generator)
        fit, test = (rows[labels["identity"].iloc[rows].isin(people)] for rows in (fit, test))
        per_class = block.identity_test // block.identity_people
    test = test[draw_balanced_subset(labels.iloc[test], task.value, per_class, generator)]
    return fit[draw_images(labels.iloc[fit], block.fit_images, generator)], test
