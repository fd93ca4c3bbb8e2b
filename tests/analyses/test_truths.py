"""Which pixels are true: by hand, by brute force on drawn pictures of known distributions, and as laws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import f_oneway

from facespec.analyses.moments import Moments
from facespec.analyses.resampling import estimate_interval
from facespec.analyses.truths import (
    OVERLAPS,
    compute_discriminability,
    compute_overlaps,
    find_changed_pixels,
    find_largest_pixels,
    tabulate_no_truths,
    tabulate_overlaps,
    tabulate_truths,
)
from facespec.study.tables import GROUNDTRUTH_MAPS, GROUNDTRUTH_OVERLAP

# --- pixels that change ---


def test_the_pixels_that_change_most_over_all_pictures() -> None:
    images = np.array([[[100, 0, 255, 9]]], np.uint8)
    others = np.array([[[[108, 255, 0, 9]], [[92, 0, 255, 9]], [[107, 0, 252, 9]]]], np.uint8)  # sums 23, 255, 258, 0
    assert find_changed_pixels(images, others, share=0.25).tolist() == [[[False, False, True, False]]]
    assert find_changed_pixels(images, others, share=0.01).tolist() == [[[False, False, True, False]]]  # at least one
    assert find_changed_pixels(images, others, share=0.5).tolist() == [[[False, True, True, False]]]
    changed = find_changed_pixels(images, others, share=0.99)
    assert changed.tolist() == [[[True, True, True, False]]]  # equal pixels are not true


def test_each_image_has_a_threshold_and_ties_are_true() -> None:
    images = np.full((2, 1, 4), 50, np.uint8)
    others = images[:, None] + np.array([[[[0, 1, 2, 3]]], [[[90, 70, 90, 80]]]], np.uint8)
    assert find_changed_pixels(images, others, share=0.25).tolist() == [
        [[False, False, False, True]],
        [[True, False, True, False]],
    ]


def test_colours_are_averaged_and_equal_pictures_have_no_truth() -> None:
    images = np.zeros((2, 1, 2, 3), np.uint8)
    others = np.zeros((2, 5, 1, 2, 3), np.uint8)
    others[1, :, 0, 0], others[1, :, 0, 1] = (40, 0, 0), (20, 10, 11)
    assert find_changed_pixels(images, others, share=0.5).tolist() == [[[False, False]], [[False, True]]]


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_the_share_of_pixels_is_marked_and_none_of_the_others_is_larger(seed: int, share: float) -> None:
    values = np.random.default_rng(seed).random((2, 5, 7))
    masks = find_largest_pixels(values, share=share)
    assert masks.sum(axis=(1, 2)).tolist() == [max(1, round(share * 35))] * 2  # no ties
    for mask, row in zip(masks, values, strict=True):
        assert row[mask].min() > row[~mask].max(initial=-1)
    np.testing.assert_array_equal(find_largest_pixels(np.sqrt(values) * 9, share=share), masks)


# --- pixels that tell classes apart ---


def gather(pictures: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, means and sds of classes, from `pictures` (n, H, W, channels), all at once."""
    parts = [pictures[classes == code].astype(float) for code in range(classes.max() + 1)]
    return np.array(list(map(len, parts))), np.stack([p.mean(0) for p in parts]), np.stack([p.std(0) for p in parts])


def compute_slowly(pictures: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """d' from the definition, one pixel, pair of classes and channel at a time."""
    n_classes, (height, width, channels) = classes.max() + 1, pictures.shape[1:]
    result = np.zeros((n_classes, height, width))
    for y, x in np.ndindex(height, width):
        for own in range(n_classes):
            squares = []
            for channel in range(channels):
                values = [list(map(float, pictures[classes == c, y, x, channel])) for c in range(n_classes)]
                means = [sum(part) / len(part) for part in values]
                within = sum((v - m) ** 2 for part, m in zip(values, means, strict=True) for v in part)
                variance = within / (len(pictures) - n_classes) + 1 / 12
                squares += [(means[own] - means[c]) ** 2 / variance for c in range(n_classes) if c != own]
            result[own, y, x] = np.sqrt(sum(squares) / len(squares))
    return result


@pytest.mark.parametrize("channels", [1, 3])
def test_discriminability_is_that_of_its_definition(channels: int) -> None:
    random = np.random.default_rng(5)
    classes = np.array([0, 1, 2, 2, 1, 0, 2, 2, 3, 3])  # unequal numbers
    pictures = random.integers(0, 256, (10, 3, 2, channels), dtype=np.uint8)
    result = compute_discriminability(*gather(pictures, classes))
    np.testing.assert_allclose(result, compute_slowly(pictures, classes), rtol=1e-12)


def render_toys(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of 1x4 pixels and three classes, in normal noise of known size.

    The classes' means are 100, 110, 130 at all but the last pixel; the noise is larger from the left to the right.
    """
    classes = np.repeat(np.arange(3), n)
    signal = np.array([100.0, 110.0, 130.0])[classes, None] * [1, 1, 1, 0] + [0, 0, 0, 120]
    noise = random.normal(size=(3 * n, 4)) * [2, 5, 20, 5]
    return np.rint(signal + noise).clip(0, 255).astype(np.uint8)[:, None, :, None], classes


def test_discriminability_of_normal_pixels_is_that_of_their_distributions() -> None:
    """d' of class 0 is the root mean square of 10 and 30 grey levels, in units of the noise and of rounding."""
    pictures, classes = render_toys(20_000, np.random.default_rng(3))
    result = compute_discriminability(*gather(pictures, classes))[:, 0]
    steps = np.sqrt([(10**2 + 30**2) / 2, (10**2 + 20**2) / 2, (30**2 + 20**2) / 2])
    # rounding adds its variance to the pictures already, and once more as the floor
    expected = steps[:, None] / np.sqrt(np.array([2, 5, 20]) ** 2 + 2 / 12)
    np.testing.assert_allclose(result[:, :3], expected, rtol=0.02)
    assert (result[:, 3] < 0.05).all()  # no signal; the error of means is 1 / 140
    assert find_largest_pixels(result[:, None], share=0.25).tolist() == [[[True, False, False, False]]] * 3


def test_a_class_between_the_others_is_told_from_them() -> None:
    """Its mean equals the mean of the others."""
    pictures = np.array([90, 90, 100, 100, 110, 110], np.uint8).reshape(6, 1, 1, 1)
    result = compute_discriminability(*gather(pictures, np.array([0, 0, 1, 1, 2, 2]))).ravel()
    np.testing.assert_allclose(result, np.sqrt(12) * np.sqrt([(100 + 400) / 2, 100, (100 + 400) / 2]), rtol=1e-12)


def test_its_mean_square_is_the_f_ratio_of_an_analysis_of_variance() -> None:
    """With n pictures in each class: F = n / 2 times the mean square, apart from the variance of rounding."""
    random = np.random.default_rng(6)
    classes = np.repeat(np.arange(4), 9)
    pictures = random.normal(100, 400, (36, 2, 3, 1)) + 200 * classes[:, None, None, None]  # rounding is nothing
    result = compute_discriminability(*gather(pictures, classes))
    f = f_oneway(*(pictures[classes == code, ..., 0] for code in range(4))).statistic
    np.testing.assert_allclose(9 / 2 * (result**2).mean(axis=0), f, rtol=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(0, 60), st.floats(0, 60), st.floats(0, 60))
def test_two_tasks_on_the_same_pictures_compete(seed: int, first: float, second: float, noise: float) -> None:
    """The variance between the classes of one is part of that within the classes of the other, in balanced designs."""
    random, (k, m, n) = np.random.default_rng(seed), (3, 4, 5)
    a, b = (codes.ravel() for codes in np.indices((k, m, n))[:2])
    level = first * random.normal(size=k)[a] + second * random.normal(size=m)[b] + noise * random.normal(size=k * m * n)
    pictures = np.rint(128 + level).reshape(-1, 1, 1, 1)
    products = [np.mean(compute_discriminability(*gather(pictures, codes)) ** 2) for codes in (a, b)]
    total = k * m * n
    bound = 2 * np.sqrt(k * (total - m) * m * (total - k) / ((k - 1) * (m - 1))) / total
    assert np.sqrt(np.prod(products)) <= bound * (1 + 1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(-40, 40))
def test_discriminability_does_not_depend_on_level_or_order_of_classes(seed: int, shift: int) -> None:
    random = np.random.default_rng(seed)
    classes, pictures = random.permutation(np.repeat([0, 1, 2], 4)), random.integers(40, 216, (12, 2, 2, 1))
    result = compute_discriminability(*gather(pictures, classes))
    assert (result >= 0).all() and np.isfinite(result).all()
    np.testing.assert_allclose(compute_discriminability(*gather(pictures + shift, classes)), result, rtol=1e-9)
    moved = compute_discriminability(*gather(pictures, (classes + 1) % 3))
    np.testing.assert_allclose(np.roll(moved, -1, axis=0), result, rtol=1e-9)


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_streamed_moments_give_what_all_pictures_at_once_give(batch: int) -> None:
    random = np.random.default_rng(8)
    pictures, classes = random.integers(0, 256, (60, 5, 3, 3), dtype=np.uint8), random.permutation(np.arange(60) % 4)
    moments = Moments(4, (5, 9))
    for start in range(0, 60, batch):
        part = slice(start, start + batch)
        moments.add(pictures[part].reshape(-1, 5, 9), classes[part])
    shape = (4, 5, 3, 3)
    streamed = compute_discriminability(moments.count, moments.mean.reshape(shape), moments.sd.reshape(shape))
    np.testing.assert_allclose(streamed, compute_discriminability(*gather(pictures, classes)), rtol=1e-9)


def test_pictures_without_any_noise_are_told_apart_up_to_rounding() -> None:
    pictures = np.array([0, 0, 1, 1, 255, 255], np.uint8).reshape(6, 1, 1, 1)[:4]
    result = compute_discriminability(*gather(pictures, np.array([0, 0, 1, 1])))
    np.testing.assert_allclose(result, np.sqrt(12), rtol=1e-12)
    equal = compute_discriminability(*gather(np.full((4, 1, 1, 1), 255), np.array([0, 0, 1, 1])))
    assert (equal == 0).all() and not find_largest_pixels(equal, share=0.5).any()


# --- how far truths overlap ---

PEOPLE = pd.Series(["b", "a", "b", "c"])


def draw_masks() -> np.ndarray:
    """(4 images, 2 rules, 2 tasks, 3, 5)."""
    return np.random.default_rng(2).random((4, 2, 2, 3, 5)) < 0.4


def test_overlaps_are_intersections_over_unions() -> None:
    masks = draw_masks()
    masks[2, 0] = False
    result = compute_overlaps(masks)
    for image, (index, (first, second)) in [(i, pair) for i in range(4) for pair in enumerate(OVERLAPS)]:
        one, other = (set(np.flatnonzero(masks[image, *which])) for which in (first, second))
        expected = len(one & other) / len(one | other) if one | other else np.nan
        assert result[image, index] == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert np.isnan(result[2, 0]) and np.isnan(result).sum() == 1
    assert set(OVERLAPS) == {((0, 0), (0, 1)), ((1, 0), (1, 1)), ((0, 0), (1, 0)), ((0, 1), (1, 1))}


def tabulate(masks: np.ndarray, people: pd.Series = PEOPLE) -> pd.DataFrame:
    areas, stream = masks.mean(axis=(3, 4)), np.random.default_rng(4)
    overlaps = compute_overlaps(masks)
    return tabulate_overlaps(overlaps, areas, people=people, source="toy faces", draws=150, generator=stream)


def test_overlaps_are_averaged_over_people() -> None:
    masks = draw_masks()
    table, overlaps = tabulate(masks), compute_overlaps(masks)
    by_person = np.stack([overlaps[1], (overlaps[0] + overlaps[2]) / 2, overlaps[3]])
    expected = estimate_interval(by_person[None], draws=150, generator=np.random.default_rng(4))
    np.testing.assert_allclose(table[["number", "low", "high"]].to_numpy().T, expected, rtol=1e-12)
    assert table[["first_rule", "first_truth", "second_rule", "second_truth"]].to_numpy().tolist() == [
        ["changes", "expression", "changes", "identity"],
        ["discriminability", "expression", "discriminability", "identity"],
        ["changes", "expression", "discriminability", "expression"],
        ["changes", "identity", "discriminability", "identity"],
    ]
    assert set(table["people"]) == {3} and set(table["n"]) == {4} and set(table["reason"]) == {""}


def test_expected_overlaps_are_those_of_independent_masks() -> None:
    random = np.random.default_rng(9)
    areas = np.array([[0.3, 0.1], [0.5, 0.2]])
    masks = random.random((40, 2, 2, 30, 50)) < areas[:, :, None, None]
    table = tabulate(masks, pd.Series([f"{i:02d}" for i in range(40)]))
    np.testing.assert_allclose(table["expected"], table["number"], atol=0.01)
    assert table["expected"].iloc[0] == pytest.approx(0.03 / (0.3 + 0.1 - 0.03), abs=0.01)


def test_overlaps_without_true_pixels_have_a_reason() -> None:
    masks = draw_masks()
    masks[:, 0] = False
    table = tabulate(masks)
    assert table["reason"].tolist() == ["in no image do pixels change", "", "", ""]
    assert table[["expected", "number", "low", "high"]].iloc[0].isna().all() and table["n"].tolist() == [0, 4, 4, 4]
    assert tabulate(draw_masks()[:1], PEOPLE[:1])["reason"].tolist() == ["1 person only: no interval"] * 4


def test_mean_truths_have_a_row_per_pixel() -> None:
    shares = np.random.default_rng(1).random((2, 2, 3, 5))
    table = tabulate_truths(shares, people=7, source="toy faces")
    assert len(table) == 60 and set(table["people"]) == {7}
    for row in table.sample(20, random_state=1).itertuples():
        rule, task = ["changes", "discriminability"].index(row.truth_rule), ["expression", "identity"].index(row.truth)
        assert row.number == shares[rule, task, row.row, row.column]


def test_without_a_truth_the_tables_have_a_reason() -> None:
    overlaps, maps = tabulate_no_truths(source="KDEF", reason="these are photographs")
    pd.testing.assert_frame_equal(overlaps.iloc[:, :4], tabulate(draw_masks()).iloc[:, :4])
    for table, schema in ((overlaps, GROUNDTRUTH_OVERLAP), (maps, GROUNDTRUTH_MAPS)):
        schema.check(table)
        assert table["number"].isna().all() and set(table["reason"]) == {"these are photographs"}
    assert len(maps) == 4 and not maps.duplicated(["truth_rule", "truth"]).any()
