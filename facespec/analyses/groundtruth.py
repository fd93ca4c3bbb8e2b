"""Are heatmaps correct? Scores against the pixels in which pictures of other classes differ.

Embedded faces can be rendered again with only the expression, or only the identity, changed: the pixels that then
change carry the class, and no others do. The truth is the tenth of the image that changes most [O]: equally large for
both tasks, so that their scores can be compared. A heatmap is scored against it: *pointing*, whether its maximum
lies on such a pixel (Zhang et al. 2018, International Journal of Computer Vision 126:1084-1102, without their
tolerance); *mass*, the share of its mass that lies on them; *auc*, the area under the ROC curve of its pixels, where
0.5 is chance.

Scores need a baseline, because faces fill the middle of pictures: networks are compared with random maps of equal
smoothness and with a Gaussian at the centre (Judd et al. 2009, ICCV). Every map is scored against both truths: a
heatmap of identity that fits the expression better than the identity does not show the identity.
"""

from __future__ import annotations

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
CANDIDATES = (*((network.value, task.value) for network, task in PAIRS), *((name, "") for name in BASELINES))
# the maps, and the baseline whose score is subtracted: indices into `CANDIDATES`
CONTRASTS: tuple[tuple[int, int | None], ...] = tuple(
    (candidate, baseline)
    for baseline in (None, *(CANDIDATES.index((name, "")) for name in BASELINES))
    for candidate in range(len(CANDIDATES) if baseline is None else len(PAIRS))
)
DECIMALS = 9  # of shares of a map's maximum, to which pixels are compared: rounding in upsampling is far smaller


def find_changed_pixels(images: np.ndarray, others: np.ndarray, *, share: float) -> Mask:
    """Pixels, bool (n, H, W), that differ most between `images` (n, H, W[, 3]) and `others` (n, k, H, W[, 3]).

    Both are uint8. The difference of a pixel is absolute and averaged over the k others (and colours). True are the
    `share` of an image's pixels with the largest differences, and ties with the least of them; never a pixel without a
    difference.
    """
    differences = np.abs(others.astype(np.int16) - images[:, None])
    sums = differences.sum(axis=(1,) if images.ndim == 3 else (1, 4), dtype=np.int64)  # whole numbers: ties are exact
    flat = sums.reshape(len(sums), -1)
    count = max(1, round(share * flat.shape[1]))
    least = np.partition(flat, -count, axis=1)[:, -count].reshape(-1, 1, 1)
    return (sums >= least) & (sums > 0)


def score_heatmaps(maps: np.ndarray, truths: np.ndarray) -> Floats:
    """Scores of each map against each truth: float64 (n, truths, 3), in the order of `MEASURES`.

    `maps` (n, h, w) are raw heatmaps, not negative, and are brought to the size of the `truths` (n, truths, H, W) bool.
    If pixels tie for the maximum, pointing is the share of them that is true; ties count half for the area under the
    curve. All scores of a map without mass are NaN, and so is the area if all pixels are true, or none. Scores do not
    change if a map is multiplied by a positive number.
    """
    n, n_truths, *size = truths.shape
    masks = truths.reshape(n, n_truths, -1).astype(np.float64)
    pixels = upsample_maps(maps, (size[0], size[1])).reshape(n, 1, -1)
    maximum = pixels.max(axis=2, keepdims=True)
    pixels = np.where(maximum > 0, pixels, np.nan) / np.where(maximum > 0, maximum, 1.0)
    rounded = pixels.round(DECIMALS)
    is_maximum = (rounded == 1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        pointing = _sum_masked(is_maximum, masks) / is_maximum.sum(axis=2)
        mass = np.minimum(_sum_masked(pixels, masks) / pixels.sum(axis=2), 1.0)  # both sums are rounded
    return np.stack([pointing, mass, _compute_auc(rounded[:, 0], masks)], axis=-1)


def _sum_masked(pixels: Floats, masks: Floats) -> Floats:
    """(n, truths): sums of `pixels` (n, 1, pixels) over the pixels at which `masks` (n, truths, pixels) are 1."""
    return (masks @ pixels.swapaxes(1, 2))[..., 0]


def _compute_auc(pixels: Floats, masks: Floats) -> Floats:
    """Areas under the ROC curve, (n, truths), from ranks (Mann-Whitney's U over the number of pairs)."""
    true = masks.sum(axis=2)
    false = masks.shape[2] - true
    ranks = rankdata(pixels, axis=1)
    with np.errstate(invalid="ignore"):
        return (_sum_masked(ranks[:, None], masks) - true * (true + 1) / 2) / (true * false)


def make_centre_map(size: tuple[int, int], *, spread: float) -> Floats:
    """A Gaussian at the centre of an image of `size` (H, W) px, (H, W); `spread`: its sd in image widths."""
    height, width = size
    y, x = (np.arange(cells) + 0.5 - cells / 2 for cells in (height, width))
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * (spread * width) ** 2))


def tabulate_scores(
    scores: Floats, areas: Floats, *, people: pd.Series, source: str, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The GROUNDTRUTH table: every network and baseline against both truths, and networks minus baselines.

    `scores` (n, seeds, candidates, truths, measures) in the order of `CANDIDATES`, `TASKS` and `MEASURES`; `areas`
    (n, truths) is the share of true pixels; `people` (n,) names the person of each image. Images are averaged within
    people; `number` is the mean over seeds and people, and `low` and `high` bound its 95 % interval over `draws`
    bootstrap draws of both, shared by all rows, so that differences are paired. `people` and `n` images have a number
    in at least one seed; `blank` of the network's maps, over all seeds, have no mass.
    """
    # subtracted image by image: an image with a blank map counts for neither side
    differences = np.stack(
        [scores[:, :, candidate] - (0 if other is None else scores[:, :, other]) for candidate, other in CONTRASTS], 2
    )
    by_person = np.swapaxes(average_people(differences, people), 0, 1)
    number, low, high = estimate_interval(by_person, draws=draws, generator=generator)
    area = average_people(areas, people).mean(axis=0)
    n_images = (~np.isnan(differences)).any(axis=1).sum(axis=0)  # (contrasts, truths, measures)
    n_people = (~np.isnan(by_person)).any(axis=0).sum(axis=0)
    rows = []
    for index in np.ndindex(*n_images.shape):
        contrast, truth, _ = index
        blank = int(np.isnan(scores[:, :, CONTRASTS[contrast][0], 0, 0]).sum())
        reason = explain_few_people(n_people[index])
        if not n_images[index]:
            all_blank = blank == scores[:, :, 0, 0, 0].size
            reason = "no heatmap has any mass" if all_blank else "in no image are some pixels true and others not"
        numbers = {"number": number[index], "low": low[index], "high": high[index]}
        counts = {"people": n_people[index], "n": n_images[index], "blank": blank, "area": area[truth]}
        rows.append(_label_row(*index) | counts | numbers | {"reason": reason})
    return GROUNDTRUTH.check(pd.DataFrame(rows).assign(source=source, seeds=scores.shape[1]))


def tabulate_unscored(*, source: str, seeds: int, reason: str) -> pd.DataFrame:
    """The GROUNDTRUTH table without a truth: the rows of `tabulate_scores` without numbers, and the `reason`."""
    rows = [_label_row(*index) for index in np.ndindex(len(CONTRASTS), len(TASKS), len(MEASURES))]
    none: dict[str, Any] = dict.fromkeys(("area", "number", "low", "high"), np.nan)
    none |= {"people": 0, "n": 0, "blank": 0, "source": source, "seeds": seeds, "reason": reason}
    return GROUNDTRUTH.check(pd.DataFrame(rows).assign(**none))


def _label_row(contrast: int, truth: int, measure: int) -> dict[str, Any]:
    candidate, other = CONTRASTS[contrast]
    looks, tested_on = CANDIDATES[candidate]
    return {
        "looks": looks,
        "tested_on": tested_on,
        "truth": TASKS[truth].value,
        "measure": MEASURES[measure],
        "against": "" if other is None else CANDIDATES[other][0],
    }
