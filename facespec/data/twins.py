"""Which pictures of a set of faces are the same, pixel by pixel, as networks see them?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facespec.data.faceset import FaceSet
from facespec.data.shards import digests_name


class Twins(NamedTuple):
    """Numbers of pictures: tested ones that are fitted too; groups of equal pictures, and those with several labels."""

    tested: int
    groups: int
    contradictory: int


def count_twins(faces: FaceSet, column: str, *, fit: npt.NDArray[np.integer], test: npt.NDArray[np.integer]) -> Twins:
    """Count equal pictures of `faces` by the digests of their pixels; `column` holds the labels that may contradict.

    `fit` and `test` are rows of `faces`.
    """
    digests = np.load(faces.directory / digests_name("images"), allow_pickle=False)
    _, codes, sizes = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    codes = codes.reshape(-1)  # numpy 2.0 keeps an axis
    labels = faces.labels[column].groupby(codes).nunique()
    return Twins(
        int(np.isin(codes[test], codes[fit]).sum()),
        int((sizes > 1).sum()),
        int((labels > 1).sum()),
    )
