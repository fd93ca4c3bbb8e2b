"""Are heatmaps correct? Scores against the pixels that carry the class, beside maps that looked at no picture.

The truth about an embedded face is the tenth of its pixels that carry a task [O], by two rules (`analyses.truths`). A
heatmap is scored against it: *pointing*, whether its maximum lies on such a pixel (Zhang et al. 2018, International
Journal of Computer Vision 126:1084-1102, without their tolerance); *mass*, the share of its mass that lies on them;
*auc*, the area under the ROC curve of its pixels, where 0.5 is chance.

A score says little alone, because faces fill the middle of pictures and heatmaps are coarse. Networks stand beside

- *random* maps of equal smoothness, and the *centre*, a Gaussian in the middle (Judd et al. 2009, ICCV);
- *others*, the mean truth of all other people: what is known without looking at the picture. *others_pooled* is the
  same at the resolution of the heatmaps, as no heatmap can be finer;
- the *ceiling*, the image's own truth at that resolution.

Scores are also given as the share of the way from the centre to the ceiling. Every map is scored against the truths of
both tasks: a heatmap of identity that fits the expression better than the identity does not show the identity.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from facespec.analyses.resampling import (
    PERCENTILES,
    average_people,
    estimate_interval,
    explain_few_people,
    resample_hierarchically,
)
from facespec.study.maps import upsample_maps
from facespec.study.tables import CEILING, GROUNDTRUTH, MAP_BASELINES, TRUTH_RULES, WAY
from facespec.study.vocabulary import TASKS

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Candidate = tuple[str, str]  # a network and its task, or a baseline and no task

MEASURES = ("pointing", "mass", "auc")
BASELINES: tuple[Candidate, ...] = tuple((name, "") for name in (*MAP_BASELINES, CEILING))  # behind all networks
DECIMALS = 9  # of shares of a map's maximum, to which pixels are compared: rounding in upsampling is far smaller


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


def pool_masks(masks: np.ndarray, cells: tuple[int, int]) -> Floats:
    """Shares of true pixels in the `cells` (h, w) of a coarse map, (..., h, w), of `masks` (..., H, W), bool or shares.

    A pixel that lies in several cells counts in each by the share of its area there.
    """
    rows, columns = (_share_pixels(pixels, n) for pixels, n in zip(masks.shape[-2:], cells, strict=True))
    return rows @ masks.astype(np.float64) @ columns.T


def _share_pixels(pixels: int, cells: int) -> Floats:
    """How much each of a row of pixels adds to the mean of every cell, (cells, pixels)."""
    edges = np.arange(cells + 1)[:, None] * pixels / cells
    pixel = np.arange(pixels)
    covered = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return np.maximum(covered, 0.0) * cells / pixels


def average_others(total: Floats, own: Floats, people: int) -> Floats:
    """Mean truth of everybody else: `total` is the sum of the mean truths of all `people`, `own` one person's.

    All zero, a blank map, if there is nobody else.
    """
    return np.maximum(total - own, 0.0) / max(people - 1, 1)  # sums of shares are rounded


def list_comparisons(candidates: Sequence[Candidate]) -> list[tuple[int, str]]:
    """What is tabulated: the index of a candidate, and what its score is compared with (`against`).

    First every score, then networks minus each baseline, then all as shares of the way from centre to ceiling.
    """
    networks = range(len(candidates) - len(BASELINES))
    differences = [(network, baseline) for baseline in MAP_BASELINES for network in networks]
    return [
        *((index, "") for index in range(len(candidates))),
        *differences,
        *((index, WAY) for index in range(len(candidates))),
    ]


def tabulate_scores(
    scores: Floats,
    areas: Floats,
    *,
    candidates: Sequence[Candidate],
    people: pd.Series,
    source: str,
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """The GROUNDTRUTH table: every network and baseline against all truths, alone and compared with baselines.

    `scores` (n, seeds, candidates, rules, tasks, measures) in the order of `candidates`, which end with `BASELINES`,
    and of `TRUTH_RULES`, `TASKS` and `MEASURES`; `areas` (n, rules, tasks) is the share of true pixels; `people` (n,)
    names the person of each image. Images are averaged within people; `number` is the mean over seeds and people, and
    `low` and `high` bound its 95 % interval over `draws` bootstrap draws of both, shared by all rows, so that
    comparisons are paired. `people` and `n` images have a number in at least one seed; `blank` of the candidate's maps,
    over all seeds, have no mass.
    """
    area = average_people(areas, people).mean(axis=0)
    rows: list[dict[str, Any]] = []
    for candidate, against in list_comparisons(candidates):
        values, gaps = _compare_images(scores, candidates, candidate=candidate, against=against)
        by_person, gaps_by_person = (np.swapaxes(average_people(part, people), 0, 1) for part in (values, gaps))
        same_draws = copy.deepcopy(generator)  # equal generators draw the same seeds and people
        if against == WAY:
            estimate = estimate_way(by_person, gaps_by_person, draws=draws, generator=same_draws)
        else:
            estimate = estimate_interval(by_person, draws=draws, generator=same_draws)
        n_images = (~np.isnan(values)).any(axis=1).sum(axis=0)  # (rules, tasks, measures)
        n_people = (~np.isnan(by_person)).any(axis=0).sum(axis=0)
        blank = np.isnan(scores[:, :, candidate, ..., :1]).sum(axis=(0, 1))  # pointing
        for index in np.ndindex(n_images.shape):
            numbers = dict(zip(("number", "low", "high"), (part[index] for part in estimate), strict=True))
            counts = {"people": n_people[index], "n": n_images[index], "blank": blank[*index[:2], 0]}
            reason = _explain(counts, numbers, is_way=against == WAY, n_maps=scores[:, :, 0, 0, 0, 0].size)
            label = _label_row(candidates[candidate], against, index)
            rows.append(label | counts | numbers | {"area": area[index[:2]], "reason": reason})
    return GROUNDTRUTH.check(pd.DataFrame(rows).assign(source=source, seeds=scores.shape[1]))


def _compare_images(
    scores: Floats, candidates: Sequence[Candidate], *, candidate: int, against: str
) -> tuple[Floats, Floats]:
    """What is averaged for a row: (n, seeds, rules, tasks, measures); and, for shares of the way, its whole length.

    Compared image by image: an image with a blank map counts for neither side.
    """
    values = scores[:, :, candidate]
    if against in MAP_BASELINES:
        return values - scores[:, :, candidates.index((against, ""))], values
    centre, ceiling = (scores[:, :, candidates.index((name, ""))] for name in ("centre", CEILING))
    if against != WAY:
        return values, values
    defined = ~np.isnan(values + ceiling - centre)
    return np.where(defined, values - centre, np.nan), np.where(defined, ceiling - centre, np.nan)


def estimate_way(
    rises: Floats, gaps: Floats, *, draws: int, generator: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """The mean of `rises` as a share of the mean of `gaps`, and its 95 % interval.

    A ratio of means, not a mean of ratios: gaps of single images may be 0.

    Parameters
    ----------
    rises, gaps : array of shape (seeds, people, ...)
        From the centre's score to a map's, and from the centre's to the ceiling's; NaN in the same places.
    draws : int
        Number of bootstrap draws of seeds and people; numerators and denominators share them.
    generator : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    number, low, high : float64 arrays of shape (...)
        The number is NaN where the mean gap is not positive; the bounds, too, where its own interval reaches 0: the
        ratio could then be of any size and sign.
    """
    both = np.stack([rises, gaps], axis=-1)
    mean, least, _ = estimate_interval(both, draws=draws, generator=copy.deepcopy(generator))
    means = resample_hierarchically(both, draws=draws, generator=generator)
    has_number, has_interval = mean[..., 1] > 0, (mean[..., 1] > 0) & (least[..., 1] > 0)
    number = np.where(has_number, mean[..., 0], np.nan) / np.where(has_number, mean[..., 1], 1.0)
    # draws without a positive gap, or without any image, are fewer than the share that an interval leaves out below
    is_defined = (means[..., 1] > 0) & has_interval
    ratios = np.where(is_defined, means[..., 0], np.nan) / np.where(is_defined, means[..., 1], 1.0)
    ratios = np.where(has_interval, ratios, 0.0)  # no slice is all NaN
    low, high = np.nanpercentile(ratios, PERCENTILES, axis=0)
    return number, np.where(has_interval, low, np.nan), np.where(has_interval, high, np.nan)


def _explain(counts: dict[str, Any], numbers: dict[str, Any], *, is_way: bool, n_maps: int) -> str:
    """Why a row has no number or no interval; empty if it has both."""
    if not counts["n"]:
        is_blank = counts["blank"] == n_maps
        return "no map has any mass" if is_blank else "in no image are some pixels true and others not"
    if is_way and np.isnan(numbers["number"]):
        return "the ceiling is not above the centre"
    if reason := explain_few_people(counts["people"]):
        return reason
    return "the ceiling is not surely above the centre: no interval" if np.isnan(numbers["low"]) else ""


def tabulate_unscored(candidates: Sequence[Candidate], *, source: str, seeds: int, reason: str) -> pd.DataFrame:
    """The GROUNDTRUTH table without a truth: the rows of `tabulate_scores` without numbers, and the `reason`."""
    indices = list(np.ndindex(len(TRUTH_RULES), len(TASKS), len(MEASURES)))
    rows = [
        _label_row(candidates[candidate], against, index)
        for candidate, against in list_comparisons(candidates)
        for index in indices
    ]
    none: dict[str, Any] = dict.fromkeys(("area", "number", "low", "high"), np.nan)
    none |= {"people": 0, "n": 0, "blank": 0, "source": source, "seeds": seeds, "reason": reason}
    return GROUNDTRUTH.check(pd.DataFrame(rows).assign(**none))


def _label_row(candidate: Candidate, against: str, index: tuple[int, ...]) -> dict[str, str]:
    (looks, tested_on), (rule, truth, measure) = candidate, index
    return {
        "looks": looks,
        "tested_on": tested_on,
        "truth_rule": TRUTH_RULES[rule],
        "truth": TASKS[truth].value,
        "measure": MEASURES[measure],
        "against": against,
    }
