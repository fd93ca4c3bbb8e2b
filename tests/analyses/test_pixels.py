"""Pixel baselines: against theory, a brute-force search, and laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from facespec.analyses.pixels import classify_by_discriminants, classify_by_nearest
from facespec.study.errors import StudyError

values = st.integers(-20, 20).map(float)


@given(arrays(float, (7, 3), elements=values), arrays(float, (5, 3), elements=values))
def test_the_nearest_image_gives_its_class(fit: np.ndarray, test: np.ndarray) -> None:
    """One by one; of equally near images, any may give its class."""
    codes = np.array([4, 4, 0, 2, 0, 9, 2])
    for image, predicted in zip(test, classify_by_nearest(fit, codes, test), strict=True):
        distances = np.array([sum((a - b) ** 2 for a, b in zip(image, known, strict=True)) for known in fit])
        assert predicted in codes[distances == distances.min()]


def draw_classes(n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two classes whose means differ by 2 along a direction with little variance, in 11 pixels of unequal variance."""
    codes = generator.integers(2, size=n)
    pixels = generator.normal(size=(n, 11)) * np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1])
    pixels[:, 9] += 2 * codes
    return pixels @ np.linalg.qr(np.random.default_rng(3).normal(size=(11, 11)))[0], codes + 5


def test_discriminants_come_near_the_best_possible_rate() -> None:
    """Theory: two normal classes at a distance of 2 sd are told apart in Phi(1) = .841 of cases, and no better."""
    generator = np.random.default_rng(1)
    fit, codes = draw_classes(2000, generator)
    test, true = draw_classes(4000, generator)
    rate = (classify_by_discriminants(fit, codes, test, components=200) == true).mean()
    assert rate == pytest.approx(stats.norm.cdf(1), abs=0.02)
    # variance that does not tell the classes apart misleads the nearest image, and components chosen by variance
    assert (classify_by_nearest(fit, codes, test) == true).mean() < 0.65
    assert (classify_by_discriminants(fit, codes, test, components=2) == true).mean() < 0.55


@given(st.permutations(range(11)), st.floats(-50, 50))
def test_neither_the_order_of_pixels_nor_a_common_picture_matters(order: list[int], shift: float) -> None:
    generator = np.random.default_rng(2)
    (fit, codes), (test, _) = draw_classes(90, generator), draw_classes(40, generator)
    changed = [pixels[:, order] + shift * np.arange(11) for pixels in (fit, test)]
    nearest = classify_by_nearest(fit, codes, test)
    np.testing.assert_array_equal(classify_by_nearest(changed[0], codes, changed[1]), nearest)
    discriminants = classify_by_discriminants(fit, codes, test, components=7)
    np.testing.assert_array_equal(classify_by_discriminants(changed[0], codes, changed[1], components=7), discriminants)


def test_few_images_and_classes_of_one_image_are_fitted() -> None:
    pixels = np.random.default_rng(4).normal(size=(5, 30))
    codes = np.array([0, 1, 1, 2, 2])
    for classify in (classify_by_nearest, lambda *a: classify_by_discriminants(*a, components=200)):
        predicted = classify(pixels.astype(np.float32), codes, pixels.astype(np.float32))
        assert set(predicted) <= {0, 1, 2} and predicted.shape == (5,)
    assert classify_by_nearest(pixels, codes, pixels).tolist() == codes.tolist()


def test_one_class_is_refused() -> None:
    for classify in (classify_by_nearest, lambda *a: classify_by_discriminants(*a, components=2)):
        with pytest.raises(StudyError, match="all 4 images to fit are of one class; a baseline needs at least 2"):
            classify(np.zeros((4, 3)), np.full(4, 6), np.zeros((2, 3)))
