"""How focal are the mean heatmaps, and do those of two tasks overlap? Box statistics and masks (Figures 2B and 2C).

Everything is about mean scaled maps at the size of the image. Each number is given for all people (`resample` -1) and
for bootstrap draws of people, which all networks, tasks and seeds share: differences between them are paired.

Masks follow one of two rules; a map's percentiles are linearly interpolated, and a pixel on the threshold is inside:

- ``published``: one threshold for both maps, the smaller of their two `quantile` percentiles [P]. The map whose
  percentile is larger gets the larger mask.
- ``top``: every map has its own threshold, above which lies the share `top` of its pixels [O]. Masks are equally large,
  but for ties.

How much would two masks overlap if there were one map only? `iou_halves` answers [O]: people are split at random into
two halves, and the masks of the joint network's maps for half of the people are compared with those for the other half,
within a task and across tasks. All three comparisons are between halves, so that all are equally noisy. Bootstrap draws
are taken within each half; drawn people repeat, so that overlap within a task is understated rather than overstated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.resampling import draw_weights
from facespec.study.maps import PersonMaps, upsample_maps
from facespec.study.tables import ALL_IMAGES, OVERLAP
from facespec.study.vocabulary import PAIRS, TASKS, Network

Floats = npt.NDArray[np.float64]
Numbers = dict[tuple[str, ...], Floats]  # what `KEY` names: (draws, seeds)
KEY = ["figure", "quantity", "trained_on", "tested_on", "rule"]

REACH = 1.5  # interquartile ranges that a whisker may span, Tukey (1977), Exploratory Data Analysis; matplotlib's too
JOINT = [PAIRS.index((Network.JOINT, task)) for task in TASKS]
BOTH = "both"
AT_ONCE = 1 << 20  # pixels of resampled maps held at a time: 8 MiB


def measure_overlap(
    maps: PersonMaps, *, quantile: float, top: float, resamples: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The OVERLAP table of Figures 2B and 2C, per seed: rows for all people and for `resamples` draws of them.

    `quantile` in (0, 1) makes the ``published`` masks, `top` in (0, 1) the ``top`` masks. 2B: quartiles and whiskers
    (the furthest pixel within 1.5 interquartile ranges of the box) of every network's map for each of its tasks. 2C:
    thresholds, areas (share of the image), intersection (likewise), intersection over union and Dice's coefficient of
    the joint network's two masks, and `iou_halves`, whose `resample` -1 is the mean over the draws' splits without the
    bootstrap inside the halves. NaN where a map is missing because all that went into it are blank, and for
    `iou_halves` with fewer than 2 people. Raises `StudyError` if there is nobody.
    """
    levels = {"published": quantile, "top": 1 - top}
    people = len(maps.people)
    draw, split = generator.spawn(2)  # so that neither shifts the other
    drawn = draw_weights(people, draws=resamples, generator=draw)
    weights = np.concatenate([np.ones((1, people)), drawn])
    numbers = _in_blocks(maps, weights[:, None], lambda pixels: _boxes(pixels[:, 0]) | _masks(pixels[:, 0], levels))
    whole, within = (
        _in_blocks(maps, halves, lambda pixels: _halves(pixels, levels))
        for halves in draw_halves(people, draws=resamples, generator=split)
    )
    for key, found in within.items():
        numbers[key] = np.vstack([pd.DataFrame(whole[key]).mean(), found])  # over the splits that are defined
    return OVERLAP.check(_table(numbers, maps))


def draw_halves(people: int, *, draws: int, generator: np.random.Generator) -> Floats:
    """Random halves of the people: float64 (2, draws, 2, people), how often a draw's half 0 or 1 holds each of them.

    First the halves themselves, then a bootstrap draw within each of them. Of an odd number of people, half 0 has one
    more. Without 2 people there are no halves: nobody is in either.
    """
    weights = np.zeros((2, draws, 2, people))
    if people < 2:
        return weights
    order = generator.permuted(np.tile(np.arange(people), (draws, 1)), axis=1)
    for half, members in enumerate(np.array_split(order, 2, axis=1)):
        drawn = draw_weights(members.shape[1], draws=draws, generator=generator)
        np.put_along_axis(weights[0, :, half], members, 1.0, axis=1)
        np.put_along_axis(weights[1, :, half], members, drawn, axis=1)
    return weights


def _in_blocks(maps: PersonMaps, weights: Floats, measure: Callable[[Floats], Numbers]) -> Numbers:
    """What `measure` finds in the mean maps for `weights` (draws, k, people), a block of draws after the other.

    `measure` gets the pixels (draws, k, pairs, seeds, height * width).
    """
    each = weights.shape[1] * len(PAIRS) * len(maps.seeds) * int(np.prod(maps.size))
    at_once = max(1, AT_ONCE // each)
    starts = range(0, len(weights), at_once)
    blocks = [measure(_pixels(maps, weights[start : start + at_once])) for start in starts]
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def _pixels(maps: PersonMaps, weights: Floats) -> Floats:
    means = np.stack([[maps.means(one) for one in draw] for draw in weights])
    return upsample_maps(means, maps.size).reshape(*means.shape[:-2], -1)


def _boxes(pixels: Floats) -> Numbers:
    """Tukey's five numbers of `pixels` (draws, pairs, seeds, n); a whisker without a pixel of its own ends at the box.

    The last happens where a quartile lies between two pixels; matplotlib draws it so.
    """
    q1, median, q3 = np.percentile(pixels, (25, 50, 75), axis=-1)
    reach = REACH * (q3 - q1)
    lowest = np.where(pixels >= (q1 - reach)[..., None], pixels, np.inf).min(axis=-1)
    highest = np.where(pixels <= (q3 + reach)[..., None], pixels, -np.inf).max(axis=-1)
    found = {
        "whisker_low": np.minimum(lowest, q1),
        "q1": q1,
        "median": median,
        "q3": q3,
        "whisker_high": np.maximum(highest, q3),
    }
    return {
        ("2B", quantity, network.value, task.value, ""): values[:, pair]
        for quantity, values in found.items()
        for pair, (network, task) in enumerate(PAIRS)
    }


def _masks(pixels: Floats, levels: Mapping[str, float]) -> Numbers:
    """Thresholds of the joint network's maps in `pixels` (draws, pairs, seeds, n), and how their masks compare."""
    first, second = (pixels[:, pair] for pair in JOINT)
    numbers: Numbers = {}
    for rule, level in levels.items():
        thresholds, found = compare_masks(first, second, level=level, rule=rule)
        if rule == "published":
            numbers[_joint("threshold", BOTH, rule)] = thresholds[0]
        else:
            numbers |= {_joint("threshold", task, rule): t for task, t in zip(TASKS, thresholds, strict=True)}
        areas = found.pop("first_area"), found.pop("second_area")
        numbers |= {_joint("area", task, rule): area for task, area in zip(TASKS, areas, strict=True)}
        numbers |= {_joint(quantity, BOTH, rule): values for quantity, values in found.items()}
    return numbers


def _halves(pixels: Floats, levels: Mapping[str, float]) -> Numbers:
    """IoU of masks between halves, `pixels` (draws, 2 halves, pairs, seeds, n): within each task, and across tasks."""
    (e0, i0), (e1, i1) = ([pixels[:, half, pair] for pair in JOINT] for half in (0, 1))
    numbers: Numbers = {}
    for rule, level in levels.items():
        for tested_on, sides in zip((*TASKS, BOTH), ([(e0, e1)], [(i0, i1)], [(e0, i1), (i0, e1)]), strict=True):
            found = [compare_masks(first, second, level=level, rule=rule)[1]["iou"] for first, second in sides]
            numbers[_joint("iou_halves", tested_on, rule)] = np.mean(found, axis=0)
    return numbers


def _joint(quantity: str, tested_on: str, rule: str) -> tuple[str, ...]:
    return "2C", quantity, Network.JOINT.value, str(tested_on), rule


def compare_masks(
    first: Floats, second: Floats, *, level: float, rule: str
) -> tuple[tuple[Floats, Floats], dict[str, Floats]]:
    """Thresholds of two maps (..., n pixels), and how their masks compare: each number (...), NaN where a map is.

    A map's own threshold is its `level` quantile; the `rule` ``published`` takes the smaller one for both maps, ``top``
    leaves each its own. Found are `first_area`, `second_area` and `intersection` (shares of the pixels), `iou`, `dice`.
    """
    own = np.quantile(first, level, axis=-1), np.quantile(second, level, axis=-1)
    smaller = np.minimum(*own)
    thresholds = (smaller, smaller) if rule == "published" else own
    inside = [pixels >= threshold[..., None] for pixels, threshold in zip((first, second), thresholds, strict=True)]
    areas = [
        np.where(np.isnan(threshold), np.nan, mask.sum(axis=-1))
        for mask, threshold in zip(inside, thresholds, strict=True)
    ]
    common = np.where(np.isnan(smaller), np.nan, (inside[0] & inside[1]).sum(axis=-1))
    n = first.shape[-1]
    return thresholds, {
        "first_area": areas[0] / n,
        "second_area": areas[1] / n,
        "intersection": common / n,
        "iou": common / (areas[0] + areas[1] - common),
        "dice": 2 * common / (areas[0] + areas[1]),
    }


def _table(numbers: Numbers, maps: PersonMaps) -> pd.DataFrame:
    """One row per number; the first of each column of `numbers` is about all people."""
    values = np.stack(list(numbers.values()))
    key, resample, seed = (index.ravel() for index in np.indices(values.shape))
    labels = pd.DataFrame(list(numbers), columns=KEY).iloc[key].reset_index(drop=True)
    return labels.assign(
        source=maps.source,
        seed=np.array(maps.seeds)[seed],
        resample=ALL_IMAGES + resample,
        number=values.ravel(),
    )
