"""Does a heatmap tell the truth? Scores against the pixels in which a picture of the other class really differs.

Embedded faces can be drawn again with only their expression, or only their identity, changed: the pixels that then
change carry the class, and no others do. The truth is the tenth of the image that changes most [O]: as large for one
task as for the other, so that their scores compare. A heatmap is scored against it: *pointing*, whether its maximum
lies on such a pixel (Zhang et al. 2018, International Journal of Computer Vision 126:1084-1102, without their
tolerance); *mass*, the share of its mass that lies on them; *auc*, the area under the ROC curve of its pixels, where
0.5 is chance.

Scores mean little alone, because faces fill the middle of pictures: beside every network stand random maps as smooth
as its own, and a Gaussian that only knows where the middle is (Judd et al. 2009, ICCV). Every map is scored against
both truths: a heatmap of identity that fits the expression better than the identity has not found the person.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from facespec.analyses.resampling import average_people, estimate_interval, explain_few_people
from facespec.study.maps import upsample_maps
from facespec.study.tables import GROUNDTRUTH
from facespec.study.vocabulary import PAIRS, TASKS

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MEASURES = ("pointing", "mass", "auc")
BASELINES = ("random", "centre")
LOOKS = (*((network.value, task.value) for network, task in PAIRS), *((name, "") for name in BASELINES))
# who looks, and whose score is subtracted: places in `LOOKS`
SIDES: tuple[tuple[int, int | None], ...] = tuple(
    (look, other)
    for other in (None, *(LOOKS.index((name, "")) for name in BASELINES))
    for look in range(len(LOOKS) if other is None else len(PAIRS))
)
EQUAL = 9  # decimals, as shares of a map's maximum, to which pixels are compared: upsampling errs far less


def find_changed_pixels(own: np.ndarray, others: np.ndarray, *, share: float) -> Mask:
    """Pixels (n, H, W) that differ most between the pictures `others` (n, k, H, W[, 3]) and `own` (n, H, W[, 3]).

    All are uint8. The difference of a pixel is absolute and averaged over the k others (and colours). True are the
    `share` of an image's pixels with the largest one, and what ties with the least of them; never a pixel that does
    not differ.
    """
    differences = np.abs(others.astype(np.int16) - own[:, None])
    sums = differences.sum(axis=(1,) if own.ndim == 3 else (1, 4), dtype=np.int64)  # whole numbers: ties are exact
    flat = sums.reshape(len(sums), -1)
    wanted = max(1, round(share * flat.shape[1]))
    least = np.partition(flat, -wanted, axis=1)[:, -wanted].reshape(-1, 1, 1)
    return (sums >= least) & (sums > 0)


def score_heatmaps(maps: np.ndarray, truths: np.ndarray) -> Floats:
    """Scores of each map against each truth: float64 (n, truths, 3), in the order of `MEASURES`.

    `maps` (n, h, w) are raw heatmaps, not negative, and are brought to the size of the `truths` (n, truths, H, W) bool.
    Where pixels tie for the maximum, pointing is the share of them that is true; ties count half for the area under the
    curve. All scores of a map without mass are NaN, and so is the area if all pixels are true, or none. Scores do not
    change if a map is multiplied by a positive number.
    """
    n, many, *size = truths.shape
    at = truths.reshape(n, many, -1).astype(np.float64)
    looks = upsample_maps(maps, (size[0], size[1])).reshape(n, 1, -1)
    top = looks.max(axis=2, keepdims=True)
    looks = np.where(top > 0, looks, np.nan) / np.where(top > 0, top, 1.0)
    compared = looks.round(EQUAL)
    first = (compared == 1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        pointing = _inner(first, at) / first.sum(axis=2)
        mass = np.minimum(_inner(looks, at) / looks.sum(axis=2), 1.0)  # both sums are rounded
    return np.stack([pointing, mass, _areas(compared[:, 0], at)], axis=-1)


def _inner(maps: Floats, at: Floats) -> Floats:
    """(n, truths): sums of `maps` (n, 1, pixels) over the pixels at which a truth (n, truths, pixels) is 1."""
    return (at @ maps.swapaxes(1, 2))[..., 0]


def _areas(maps: Floats, at: Floats) -> Floats:
    """Areas under the ROC curve, (n, truths), from ranks (Mann-Whitney's U over the number of pairs)."""
    true = at.sum(axis=2)
    false = at.shape[2] - true
    ranks = rankdata(maps, axis=1)
    with np.errstate(invalid="ignore"):
        return (_inner(ranks[:, None], at) - true * (true + 1) / 2) / (true * false)


def make_centre_map(size: tuple[int, int], *, spread: float) -> Floats:
    """A Gaussian at the centre of an image of `size` (H, W) px, (H, W); `spread`: its sd in image widths."""
    height, width = size
    down, across = (np.arange(cells) + 0.5 - cells / 2 for cells in (height, width))
    return np.exp(-(down[:, None] ** 2 + across**2) / (2 * (spread * width) ** 2))


def tabulate_scores(
    scores: Floats, areas: Floats, *, people: pd.Series, source: str, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The GROUNDTRUTH table: every network and baseline against both truths, and networks minus baselines.

    `scores` (n, seeds, looks, truths, measures) in the order of `LOOKS`, `TASKS` and `MEASURES`; `areas` (n, truths) is
    the share of true pixels; `people` (n,) says who is shown. Images are averaged within people; `number` is the mean
    over seeds and people, and `low` and `high` bound its 95 % interval over `draws` bootstrap draws of both, shared by
    all rows, so that differences are paired. `people` and `n` images have a number in at least one seed; `blank` of
    the network's maps, over all seeds, have no mass.
    """
    # subtracted image by image: a blank map takes its image from both sides
    each = np.stack([scores[:, :, own] - (0 if other is None else scores[:, :, other]) for own, other in SIDES], 2)
    compared = np.swapaxes(average_people(each, people), 0, 1)
    number, low, high = estimate_interval(compared, draws=draws, generator=generator)
    area = average_people(areas, people).mean(axis=0)
    rows = []
    for side, (own, _) in enumerate(SIDES):
        n = (~np.isnan(each[:, :, side])).any(axis=1).sum(axis=0)  # (truths, measures)
        counted = (~np.isnan(compared[:, :, side])).any(axis=0).sum(axis=0)
        blank = int(np.isnan(scores[:, :, own, 0, 0]).sum())
        for at in np.ndindex(*n.shape):
            there = (side, *at)
            rows.append(
                _keys(*there)
                | {
                    "people": counted[at],
                    "n": n[at],
                    "blank": blank,
                    "area": area[at[0]],
                    "number": number[there],
                    "low": low[there],
                    "high": high[there],
                    "reason": explain_few_people(counted[at])
                    if n[at]
                    else _reason(all_blank=blank == scores[:, :, 0, 0, 0].size),
                }
            )
    return GROUNDTRUTH.check(pd.DataFrame(rows).assign(source=source, seeds=scores.shape[1]))


def tabulate_unscored(*, source: str, seeds: int, reason: str) -> pd.DataFrame:
    """The GROUNDTRUTH table where there is no truth: the rows of `tabulate_scores` without numbers, and why."""
    rows = [_keys(*there) for there in product(range(len(SIDES)), range(len(TASKS)), range(len(MEASURES)))]
    none: dict[str, Any] = dict.fromkeys(("area", "number", "low", "high"), np.nan)
    none |= {"people": 0, "n": 0, "blank": 0, "source": source, "seeds": seeds, "reason": reason}
    return GROUNDTRUTH.check(pd.DataFrame(rows).assign(**none))


def _keys(side: int, truth: int, measure: int) -> dict[str, Any]:
    own, other = SIDES[side]
    looks, tested_on = LOOKS[own]
    return {
        "looks": looks,
        "tested_on": tested_on,
        "truth": TASKS[truth].value,
        "measure": MEASURES[measure],
        "against": "" if other is None else LOOKS[other][0],
    }


def _reason(*, all_blank: bool) -> str:
    return "no heatmap has any mass" if all_blank else "in no image are some pixels true and others not"
