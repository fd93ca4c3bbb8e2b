"""How are the maps of a group distributed? Means and standard deviations per group, gathered batch by batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facespec.study.errors import StudyError

Floats = npt.NDArray[np.float64]


class Moments:
    """Counts, sums and sums of squares of maps per group, in float64.

    Holds (groups, h, w) numbers, however many maps are added. Maps that contain NaN (blank maps, once scaled) are
    counted in `blank` and enter nothing else.
    """

    def __init__(self, groups: int, shape: tuple[int, int]) -> None:
        self.count = np.zeros(groups, dtype=np.int64)
        self.blank = np.zeros(groups, dtype=np.int64)
        self.total = np.zeros((groups, *shape))
        self.squares = np.zeros((groups, *shape))

    def add(self, maps: np.ndarray, groups: np.ndarray) -> None:
        """Add `maps` (n, h, w), each to its group, integer (n,); `StudyError` for a group that does not exist."""
        maps, groups = np.asarray(maps, dtype=np.float64), np.asarray(groups)
        if groups.size and not 0 <= groups.min() <= groups.max() < len(self.count):  # -1 would be the last group
            raise StudyError(f"groups lie in {groups.min()} ... {groups.max()}; there are {len(self.count)}, from 0.")
        defined = ~np.isnan(maps).any(axis=(1, 2))
        np.add.at(self.blank, groups[~defined], 1)
        np.add.at(self.count, groups[defined], 1)
        np.add.at(self.total, groups[defined], maps[defined])
        np.add.at(self.squares, groups[defined], maps[defined] ** 2)

    def merge(self, new_groups: np.ndarray) -> Moments:
        """The moments of coarser groups: group i becomes part of group `new_groups[i]`."""
        merged = Moments(int(np.max(new_groups)) + 1, (self.total.shape[1], self.total.shape[2]))
        for name in ("count", "blank", "total", "squares"):
            np.add.at(getattr(merged, name), new_groups, getattr(self, name))
        return merged

    @property
    def mean(self) -> Floats:
        """Mean maps (groups, h, w); NaN for a group without maps."""
        with np.errstate(invalid="ignore"):
            return self.total / self.count[:, None, None]

    @property
    def sd(self) -> Floats:
        """Standard deviations over images (divisor n) of the maps, (groups, h, w); NaN for a group without maps."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.maximum(self.squares / self.count[:, None, None] - self.mean**2, 0))
