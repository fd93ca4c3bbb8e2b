"""How focal are the mean heatmaps, and do those of two tasks overlap? Box statistics and masks (Figures 2B and 2C).

All numbers are about mean scaled maps at the size of the image: for all people (`resample` -1) and for bootstrap draws
of people, which all networks, tasks and seeds share, so that differences between them are paired.

Masks follow one of two rules; a map's percentiles are linearly interpolated, and a pixel on the threshold is inside:

- ``published``: one threshold for both maps, the smaller of their two `quantile` percentiles [P]. The map whose
  percentile is larger gets the larger mask.
- ``top``: one threshold per map, above which the share `top` of its pixels lies [O]. Masks are equally large, except
  for ties.

`iou_halves` measures how much two masks would overlap if both tasks had the same map [O]: people are split at random
into two halves, and the masks of the joint network's maps for one half are compared with those for the other half,
within a task and across tasks. All three comparisons are between halves, so that all are equally noisy. Bootstrap draws
are taken within each half; drawn people repeat, so that overlap within a task is understated rather than overstated.

Halves differ by noise alone, and many people leave little of it: two maps with any difference at all overlap less. How
*much* two tasks differ is therefore compared with two other differences [O], by masks of the rule ``top`` only, because
the published rule's differ in size:

- `iou_networks`: masks of two networks that differ in nothing but their seed, for one task. All maps are of all images,
  as are those whose masks `iou` compares.
- `iou_classes`: masks of two classes of one task, each made from all images of its class: two expressions, or two
  people. `iou_tasks` is its counterpart: masks of the two tasks made from the images of one class, an expression or a
  person. So the maps of both are means over equally many images, and equally noisy. A class of the identity task is a
  person; groups of people would be no classes, and their maps would only differ by noise, as those of halves do.

Only one thing differs within a comparison: the task, the network or the class. (Maps of two tasks from two networks
would differ in both, and would overlap less than maps of one task from two networks in any case.) Two tasks have their
maps from the same images, two classes have not: what images add by chance makes tasks more alike than classes. An
untrained network's numbers show what needs no training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.resampling import average_weighted, draw_weights
from facespec.study.maps import PersonMaps, upsample_maps
from facespec.study.tables import ALL_IMAGES, OVERLAP
from facespec.study.vocabulary import PAIRS, TASKS, Network, Task

Floats = npt.NDArray[np.float64]
Numbers = dict[tuple[str, ...], Floats]  # values of the columns `KEY` -> (draws, seeds)
KEY = ["figure", "quantity", "trained_on", "tested_on", "rule"]

WHISKER = 1.5  # maximal length in interquartile ranges; Tukey (1977), Exploratory Data Analysis; matplotlib's, too
# networks with both tasks -> where their maps are among `PAIRS`, in the order of the tasks
PAIRS_OF_NETWORK = {
    network: [PAIRS.index((network, task)) for task in TASKS] for network in (Network.JOINT, Network.UNTRAINED)
}
BOTH, TOP = "both", "top"
AT_ONCE = 1 << 20  # pixels of resampled maps held at a time: 8 MiB


def measure_overlap(
    maps: PersonMaps,
    by_expression: Sequence[PersonMaps],
    *,
    quantile: float,
    top: float,
    resamples: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Measure how focal mean heatmaps are and how much the masks of two tasks overlap (Figures 2B and 2C).

    Parameters
    ----------
    maps : PersonMaps
        Scaled heatmaps per person, of all networks, tasks and seeds.
    by_expression : sequence of PersonMaps
        The same of the images of each expression, for the same people.
    quantile : float
        Percentile of the ``published`` masks, in (0, 1).
    top : float
        Share of the pixels in the ``top`` masks, in (0, 1).
    resamples : int
        Number of bootstrap draws of people, and of random halves.
    generator : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    DataFrame
        The OVERLAP table: per seed, rows for all people (`resample` -1) and for the draws. 2B: quartiles and whiskers
        (the furthest pixel within 1.5 interquartile ranges of the box) of every network's map for each of its tasks.
        2C: thresholds, areas and intersection (shares of the image), intersection over union and Dice's coefficient of
        the two masks of the joint and of the untrained network; and `iou_halves`, whose `resample` -1 is the mean over
        the random halves without the bootstrap inside them; `iou_networks` of every network's map for each of its
        tasks; `iou_classes` and `iou_tasks` of the joint and of the untrained network. NaN if all maps that enter a
        mean are blank, for `iou_halves` of fewer than 2 people, and for `iou_networks` of one seed.

    Raises
    ------
    StudyError
        If there are no people.

    Examples
    --------
    >>> generator = np.random.default_rng(1)
    >>> total, count = generator.random((6, 1, 3, 2, 2)), np.ones((6, 1, 3), np.int64)
    >>> maps = PersonMaps(total, count, (7,), ("a", "b", "c"), (6, 4), "toy faces")
    >>> table = measure_overlap(maps, [maps, maps], quantile=0.95, top=0.25, resamples=2, generator=generator)
    >>> areas = table.query("quantity == 'area' and rule == 'top' and tested_on == 'expression'")
    >>> areas.query("trained_on == 'joint'")["number"].tolist()
    [0.25, 0.25, 0.25]
    """
    levels = {"published": quantile, TOP: 1 - top}
    people = len(maps.people)
    whole_stream, half_stream = generator.spawn(2)  # so that neither shifts the other
    resampled_weights = draw_weights(people, draws=resamples, generator=whole_stream)
    weights = np.concatenate([np.ones((1, people)), resampled_weights])
    numbers = _measure_in_blocks(
        [maps],
        weights[:, None],
        lambda pixels: (
            _measure_boxes(pixels[:, 0])
            | _measure_masks(pixels[:, 0], levels)
            | _compare_networks(pixels[:, 0], level=levels[TOP])
        ),
    )
    weights_by_class = np.broadcast_to(weights[:, None], (len(weights), len(by_expression), people))
    numbers |= _measure_in_blocks(
        by_expression, weights_by_class, lambda pixels: _compare_expressions(pixels, level=levels[TOP])
    )
    numbers |= _compare_people(maps, weights, level=levels[TOP])
    split, resampled = (
        _measure_in_blocks([maps, maps], halves, lambda pixels: _compare_halves(pixels, levels))
        for halves in draw_halves(people, draws=resamples, generator=half_stream)
    )
    for key, values in resampled.items():
        numbers[key] = np.vstack([pd.DataFrame(split[key]).mean(), values])  # over the splits that are defined
    return OVERLAP.check(_tabulate(numbers, maps))


def draw_halves(people: int, *, draws: int, generator: np.random.Generator) -> Floats:
    """Random halves of the people: float64 (2, draws, 2, people), how often half 0 or 1 of a draw has each of them.

    First the halves themselves, then a bootstrap draw within each of them. Of an odd number of people, half 0 has one
    more. With fewer than 2 people both halves are empty.
    """
    weights = np.zeros((2, draws, 2, people))
    if people < 2:
        return weights
    order = generator.permuted(np.tile(np.arange(people), (draws, 1)), axis=1)
    for half, members in enumerate(np.array_split(order, 2, axis=1)):
        resampled = draw_weights(members.shape[1], draws=draws, generator=generator)
        np.put_along_axis(weights[0, :, half], members, 1.0, axis=1)
        np.put_along_axis(weights[1, :, half], members, resampled, axis=1)
    return weights


def _measure_in_blocks(groups: Sequence[PersonMaps], weights: Floats, measure: Callable[[Floats], Numbers]) -> Numbers:
    """Apply `measure` to the mean maps of k `groups` for `weights` (draws, k, people), a block of draws at a time.

    `measure` gets pixels (draws, k, pairs, seeds, height * width).
    """
    pixels_per_draw = len(groups) * len(PAIRS) * len(groups[0].seeds) * int(np.prod(groups[0].size))
    at_once = max(1, AT_ONCE // pixels_per_draw)
    starts = range(0, len(weights), at_once)
    blocks = [measure(_average_pixels(groups, weights[start : start + at_once])) for start in starts]
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def _average_pixels(groups: Sequence[PersonMaps], weights: Floats) -> Floats:
    means = np.stack([[maps.means(row) for maps, row in zip(groups, draw, strict=True)] for draw in weights])
    return upsample_maps(means, groups[0].size).reshape(*means.shape[:-2], -1)


def _measure_boxes(pixels: Floats) -> Numbers:
    """Tukey's five numbers of `pixels` (draws, pairs, seeds, n); a whisker without pixels ends at the box.

    The last happens if a quartile lies between two pixels; matplotlib does the same.
    """
    q1, median, q3 = np.percentile(pixels, (25, 50, 75), axis=-1)
    reach = WHISKER * (q3 - q1)
    lowest = np.where(pixels >= (q1 - reach)[..., None], pixels, np.inf).min(axis=-1)
    highest = np.where(pixels <= (q3 + reach)[..., None], pixels, -np.inf).max(axis=-1)
    quantities = {"whisker_low": np.minimum(lowest, q1), "q1": q1, "median": median, "q3": q3}
    quantities["whisker_high"] = np.maximum(highest, q3)
    return {
        ("2B", quantity, network.value, task.value, ""): values[:, pair]
        for quantity, values in quantities.items()
        for pair, (network, task) in enumerate(PAIRS)
    }


def _measure_masks(pixels: Floats, levels: Mapping[str, float]) -> Numbers:
    """Thresholds of the maps of two tasks in `pixels` (draws, pairs, seeds, n), and how their masks compare."""
    numbers: Numbers = {}
    for (network, pairs), (rule, level) in itertools.product(PAIRS_OF_NETWORK.items(), levels.items()):
        first, second = (pixels[:, pair] for pair in pairs)
        thresholds, quantities = compare_masks(first, second, level=level, rule=rule)
        if rule == "published":
            numbers[_make_key("threshold", network, BOTH, rule)] = thresholds[0]
        else:
            for task, threshold in zip(TASKS, thresholds, strict=True):
                numbers[_make_key("threshold", network, task, rule)] = threshold
        areas = quantities.pop("first_area"), quantities.pop("second_area")
        numbers |= {_make_key("area", network, task, rule): area for task, area in zip(TASKS, areas, strict=True)}
        numbers |= {_make_key(quantity, network, BOTH, rule): values for quantity, values in quantities.items()}
    return numbers


def _compare_halves(pixels: Floats, levels: Mapping[str, float]) -> Numbers:
    """IoU of masks between halves, `pixels` (draws, 2 halves, pairs, seeds, n): within each task, and across tasks."""
    numbers: Numbers = {}
    for (network, pairs), (rule, level) in itertools.product(PAIRS_OF_NETWORK.items(), levels.items()):
        (e0, i0), (e1, i1) = ([pixels[:, half, pair] for pair in pairs] for half in (0, 1))
        for tested_on, sides in zip((*TASKS, BOTH), ([(e0, e1)], [(i0, i1)], [(e0, i1), (i0, e1)]), strict=True):
            ious = [compare_masks(first, second, level=level, rule=rule)[1]["iou"] for first, second in sides]
            numbers[_make_key("iou_halves", network, tested_on, rule)] = np.mean(ious, axis=0)
    return numbers


def _compare_networks(pixels: Floats, *, level: float) -> Numbers:
    """Mean IoU of every seed's masks with those of the other seeds, `pixels` (draws, pairs, seeds, n)."""
    numbers: Numbers = {}
    others = 1 - np.eye(pixels.shape[2])
    for pair, (network, task) in enumerate(PAIRS):
        ious = compare_all_masks(pixels[:, pair], level=level)
        numbers[_make_key("iou_networks", network, task, TOP)] = average_weighted("st,dst->ds", others, ious)
    return numbers


def _compare_expressions(pixels: Floats, *, level: float) -> Numbers:
    """Mean IoU of masks of two expressions, and of two tasks, `pixels` (draws, expressions, pairs, seeds, n)."""
    by_pair, n = np.moveaxis(pixels, 1, 3), pixels.shape[1]
    others = 1 - np.eye(n)
    numbers: Numbers = {}
    for network, pairs in PAIRS_OF_NETWORK.items():
        (classes, _), tasks = _compare_classes(*(by_pair[:, pair] for pair in pairs), level=level)
        key = network, Task.EXPRESSION, TOP
        numbers[_make_key("iou_classes", *key)] = average_weighted("jk,dsjk->ds", others, classes)
        numbers[_make_key("iou_tasks", *key)] = average_weighted("k,dsk->ds", np.ones(n), tasks)
    return numbers


def _compare_people(maps: PersonMaps, weights: Floats, *, level: float) -> Numbers:
    """Mean IoU of masks of two people, and of two tasks for one, for `weights` (draws, people): one network at a time.

    Resampling does not change the map of a person, only how often it counts. A person who is drawn twice is not
    compared with himself.
    """
    means, n = maps.person_means(), len(maps.people)
    numbers: Numbers = {}
    for network, pairs in PAIRS_OF_NETWORK.items():
        by_seed: list[tuple[Floats, Floats]] = []
        for seed in range(len(maps.seeds)):
            pixels = upsample_maps(means[pairs, seed], maps.size).reshape(len(pairs), n, -1)
            (_, classes), tasks = _compare_classes(*pixels, level=level)
            by_seed.append((_average_pairs(classes, weights), average_weighted("dp,p->d", weights, tasks)))
        key = network, Task.IDENTITY, TOP
        for quantity, values in zip(("iou_classes", "iou_tasks"), zip(*by_seed, strict=True), strict=True):
            numbers[_make_key(quantity, *key)] = np.stack(values, axis=-1)
    return numbers


def _compare_classes(expression: Floats, identity: Floats, *, level: float) -> tuple[tuple[Floats, Floats], Floats]:
    """IoU of the masks of k classes, for maps of both tasks (..., k, n): between classes, and between tasks.

    Between classes (..., k, k), within the first task and within the second; between tasks (..., k), for each class.
    """
    n = expression.shape[-2]
    ious = compare_all_masks(np.concatenate([expression, identity], axis=-2), level=level)
    between_tasks = np.diagonal(ious[..., :n, n:], axis1=-2, axis2=-1)
    return (ious[..., :n, :n], ious[..., n:, n:]), between_tasks


def _average_pairs(ious: Floats, weights: Floats) -> Floats:
    """Mean (draws,) of `ious` (k, k) over ordered pairs of two members; a pair counts as often as both are drawn.

    `weights` (draws, k) says how often each member is drawn. Pairs without an IoU are left out; NaN if all are.
    """
    counts = ~np.isnan(ious) & ~np.eye(len(ious), dtype=bool)
    total, pairs = (((weights @ values) * weights).sum(axis=1) for values in (np.where(counts, ious, 0.0), counts))
    with np.errstate(invalid="ignore"):
        return total / pairs


def _make_key(quantity: str, network: Network, tested_on: str, rule: str) -> tuple[str, ...]:
    return "2C", quantity, network.value, str(tested_on), rule


def compare_all_masks(pixels: Floats, *, level: float) -> Floats:
    """IoU (..., k, k) of the ``top`` masks of k maps (..., k, n pixels) with each other; NaN where a map is.

    Thresholds are the `level` quantiles, as in `compare_masks`.
    """
    thresholds = np.quantile(pixels, level, axis=-1, keepdims=True)
    masks = (pixels >= thresholds).astype(np.float32)  # sums of up to 2^24 ones are exact
    common = (masks @ masks.swapaxes(-1, -2)).astype(np.float64)
    areas = np.where(np.isnan(thresholds[..., 0]), np.nan, np.diagonal(common, axis1=-2, axis2=-1))
    return common / (areas[..., :, None] + areas[..., None, :] - common)


def compare_masks(
    first: Floats, second: Floats, *, level: float, rule: str
) -> tuple[tuple[Floats, Floats], dict[str, Floats]]:
    """Thresholds of two maps (..., n pixels), and quantities of their masks: each number (...), NaN where a map is.

    Thresholds are the `level` quantiles of both maps; the `rule` ``published`` uses the smaller one for both. The
    quantities are `first_area`, `second_area` and `intersection` (shares of the pixels), `iou` and `dice`.
    """
    quantiles = np.quantile(first, level, axis=-1), np.quantile(second, level, axis=-1)
    smaller = np.minimum(*quantiles)
    thresholds = (smaller, smaller) if rule == "published" else quantiles
    masks = [pixels >= threshold[..., None] for pixels, threshold in zip((first, second), thresholds, strict=True)]
    areas = [
        np.where(np.isnan(threshold), np.nan, mask.sum(axis=-1))
        for mask, threshold in zip(masks, thresholds, strict=True)
    ]
    common = np.where(np.isnan(smaller), np.nan, (masks[0] & masks[1]).sum(axis=-1))
    n = first.shape[-1]
    return thresholds, {
        "first_area": areas[0] / n,
        "second_area": areas[1] / n,
        "intersection": common / n,
        "iou": common / (areas[0] + areas[1] - common),
        "dice": 2 * common / (areas[0] + areas[1]),
    }


def _tabulate(numbers: Numbers, maps: PersonMaps) -> pd.DataFrame:
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
