"""Which pixels of a picture carry a task? Two rules, and how far what they mark overlaps.

Embedded faces can be rendered again with anything changed. Two rules say from such pictures which pixels carry the
class of a task, and both mark the same share of an image, so that tasks and rules can be compared:

- *changes*: the pixels of this very picture that change most if nothing but the class is changed;
- *discriminability*: the pixels by which an observer of single pixels could tell the class of this picture from the
  others, if everything else varied as it does between the pictures of the study: d' of signal detection theory.

They answer different questions. A pixel that changes with the class, but as much with the light or with who it is, is
marked by the first and not by the second; a faint change in a place that is otherwise always the same, by the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.resampling import average_people, estimate_interval, explain_few_people
from facespec.study.tables import GROUNDTRUTH_MAPS, GROUNDTRUTH_OVERLAP, TRUTH_RULES
from facespec.study.vocabulary import TASKS

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ROUNDING = 1 / 12  # variance of rounding to whole grey levels: of a uniform distribution of width 1
# pairs of truths that are compared, as (rule, task) each: the tasks within a rule, the rules within a task
OVERLAPS = (
    *(((rule, 0), (rule, 1)) for rule in range(len(TRUTH_RULES))),
    *(((0, task), (1, task)) for task in range(len(TASKS))),
)


def find_largest_pixels(values: np.ndarray, *, share: float) -> Mask:
    """The `share` of each map's pixels with the largest `values` (n, H, W), not negative: bool (n, H, W).

    At least one pixel, and ties with the least of them; never a pixel whose value is 0.
    """
    flat = values.reshape(len(values), -1)
    count = max(1, round(share * flat.shape[1]))
    least = np.partition(flat, -count, axis=1)[:, -count].reshape(-1, 1, 1)
    return (values >= least) & (values > 0)


def find_changed_pixels(images: np.ndarray, others: np.ndarray, *, share: float) -> Mask:
    """Pixels, bool (n, H, W), that differ most between `images` (n, H, W[, 3]) and `others` (n, k, H, W[, 3]).

    Both are uint8. The difference of a pixel is absolute and averaged over the k others (and colours). True are the
    `share` of an image's pixels with the largest differences, see `find_largest_pixels`.
    """
    differences = np.abs(others.astype(np.int16) - images[:, None])
    sums = differences.sum(axis=(1,) if images.ndim == 3 else (1, 4), dtype=np.int64)  # whole numbers: ties are exact
    return find_largest_pixels(sums, share=share)


def compute_discriminability(counts: np.ndarray, means: np.ndarray, sds: np.ndarray) -> Floats:
    r"""How well can each class be told from the others by a single pixel, whatever else varies?

    In signal detection theory two distributions of a quantity x are told apart by an observer of x as well as

    .. math:: d' = \frac{|\mu_1 - \mu_2|}{\sigma},

    their means in units of their common standard deviation. Here x is the value of one pixel; the distributions are
    those of the pictures of a class, in all of which everything but the class is drawn anew (the nuisances). With K
    classes, of n_k pictures with mean m_k and standard deviation s_k at this pixel, the d' of class c is the root mean
    square of its d' against each other class:

    .. math::

        d'_c = \sqrt{\frac{1}{K - 1} \sum_{k \ne c} \frac{(m_c - m_k)^2}{\sigma^2}}, \qquad
        \sigma^2 = \frac{\sum_k n_k s_k^2}{\sum_k (n_k - 1)} + \frac{1}{12}.

    Its mean square over the classes is twice the variance between classes over that within.

    Parameters
    ----------
    counts : array of shape (classes,)
        The number of pictures of each class; at least 2 classes, and more pictures than classes.
    means, sds : array of shape (classes, height, width, channels)
        Mean and standard deviation (divisor n) of every pixel over the pictures of each class, grey levels.

    Returns
    -------
    float64 array of shape (classes, height, width)
        d' of every class at every pixel; of several channels, the root mean square over them.

    Notes
    -----
    The mean difference of class c to the others is not taken, because differences of opposite sign would cancel: at
    brows that anger lowers and surprise raises, a neutral face would have none, though it differs from either. The
    1/12 is the variance of rounding to whole grey levels; it keeps d' finite where all pictures are equal, such as in a
    saturated corner. If two tasks sort the same balanced pictures, one's classes are the other's nuisance, and the
    product of both d' (root mean square over classes) at a pixel is at most about 2. The n pictures of a class have an
    error of their mean, which adds about 1/n_c + 1/n_k to the square of d': the same at every pixel, so that the order
    of pixels is not biased.

    References
    ----------
    Green & Swets (1966). Signal Detection Theory and Psychophysics. Wiley.
    Macmillan & Creelman (2005). Detection Theory: A User's Guide, 2nd edition, chapters 1 and 10. Erlbaum.

    Examples
    --------
    Two classes, of 9 and 3 pictures of one pixel, whose means differ by 6 grey levels:

    >>> means, sds = np.reshape([100.0, 106.0], (2, 1, 1, 1)), np.reshape([1.0, 3.0], (2, 1, 1, 1))
    >>> compute_discriminability(np.array([9, 3]), means, sds).ravel().round(3)  # 6 / sqrt(36 / 10 + 1 / 12)
    array([3.126, 3.126])
    """
    weights = np.asarray(counts, dtype=np.float64).reshape(-1, 1, 1, 1)
    variance = (weights * sds**2).sum(axis=0) / (weights - 1).sum() + ROUNDING
    from_centre = (means - means.mean(axis=0)) ** 2
    # the squared differences of one mean to all K, its own included, sum to K times this bracket
    squares = (from_centre + from_centre.mean(axis=0)) * len(means) / (len(means) - 1)
    return np.sqrt((squares / variance).mean(axis=-1))


def compute_overlaps(masks: Mask) -> Floats:
    """Intersection over union of the pairs `OVERLAPS` in every image, (n, 4), of `masks` (n, rules, tasks, H, W).

    NaN if neither has a true pixel.
    """
    flat = masks.reshape(*masks.shape[:3], -1)
    overlaps = np.empty((len(masks), len(OVERLAPS)))
    for index, (first, second) in enumerate(OVERLAPS):
        one, other = flat[:, *first], flat[:, *second]
        with np.errstate(invalid="ignore"):
            overlaps[:, index] = (one & other).sum(axis=1) / (one | other).sum(axis=1)
    return overlaps


def tabulate_overlaps(
    overlaps: Floats, areas: Floats, *, people: pd.Series, source: str, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The GROUNDTRUTH_OVERLAP table of `overlaps` (n, 4), as `compute_overlaps` gives them.

    `areas` (n, rules, tasks) are shares of true pixels; `people` (n,) names the person of each image. Images are
    averaged within people; the interval is over `draws` bootstrap draws of people. `expected` is the intersection over
    union of masks of these areas that are independent of each other.
    """
    by_person = average_people(overlaps, people)
    number, low, high = estimate_interval(by_person[None], draws=draws, generator=generator)
    rows = []
    for index, (first, second) in enumerate(OVERLAPS):
        product = areas[:, *first] * areas[:, *second]
        with np.errstate(invalid="ignore"):
            expected = product / (areas[:, *first] + areas[:, *second] - product)
        defined = ~np.isnan(overlaps[:, index])
        n_people = int((~np.isnan(by_person[:, index])).sum())
        numbers: dict[str, Any] = {"number": number[index], "low": low[index], "high": high[index]}
        numbers["expected"] = average_people(np.where(defined, expected, np.nan), people)
        numbers["expected"] = np.nanmean(numbers["expected"]) if n_people else np.nan
        reason = explain_few_people(n_people) if n_people else "in no image do pixels change"
        rows.append(_label_overlap(index) | numbers | {"people": n_people, "n": defined.sum(), "reason": reason})
    return GROUNDTRUTH_OVERLAP.check(pd.DataFrame(rows).assign(source=source))


def tabulate_truths(shares: Floats, *, people: int, source: str) -> pd.DataFrame:
    """The GROUNDTRUTH_MAPS table of `shares` (rules, tasks, H, W) of images, averaged over `people`."""
    tables = []
    for rule, task in np.ndindex(shares.shape[:2]):
        row, column = np.indices(shares.shape[2:])
        table = pd.DataFrame({"row": row.ravel(), "column": column.ravel(), "number": shares[rule, task].ravel()})
        tables.append(table.assign(truth_rule=TRUTH_RULES[rule], truth=TASKS[task].value))
    table = pd.concat(tables, ignore_index=True)
    return GROUNDTRUTH_MAPS.check(table.assign(people=people, source=source, reason=""))


def tabulate_no_truths(*, source: str, reason: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The GROUNDTRUTH_OVERLAP and GROUNDTRUTH_MAPS tables without a truth: no numbers, and the `reason`."""
    none: dict[str, Any] = {"people": 0, "source": source, "reason": reason, "number": np.nan}
    overlaps = pd.DataFrame([_label_overlap(index) for index in range(len(OVERLAPS))])
    maps = pd.DataFrame([{"truth_rule": rule, "truth": task.value} for rule in TRUTH_RULES for task in TASKS])
    return (
        GROUNDTRUTH_OVERLAP.check(overlaps.assign(**none, n=0, low=np.nan, high=np.nan, expected=np.nan)),
        GROUNDTRUTH_MAPS.check(maps.assign(**none, row=np.nan, column=np.nan)),
    )


def _label_overlap(index: int) -> dict[str, str]:
    (first_rule, first), (second_rule, second) = OVERLAPS[index]
    return {
        "first_rule": TRUTH_RULES[first_rule],
        "first_truth": TASKS[first].value,
        "second_rule": TRUTH_RULES[second_rule],
        "second_truth": TASKS[second].value,
    }
