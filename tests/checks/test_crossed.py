"""The interval of a mean over networks that saw the same faces, against other libraries, theory and integration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from facespec.checks.crossed import (
    bound_mean,
    bound_over_seeds,
    find_half_width,
    simulate_coverage,
    split_variance,
)
from facespec.study.seeds import generator


def repeat(row: list[float], seeds: int) -> np.ndarray:
    """Resamples that are the same for all seeds."""
    return np.tile(row, (seeds, 1))


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("values", [[0.1, 0.4], [3.0, -1.0, 0.5, 2.0]])
def test_without_a_shared_variance_it_is_students_interval(values: list[float], level: float) -> None:
    expected = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    means, constant = np.array(values), np.zeros((len(values), 3))
    np.testing.assert_allclose(bound_mean(means, constant, level=level), expected, rtol=1e-12)
    np.testing.assert_allclose(bound_over_seeds(means, level=level), expected, rtol=1e-12)


def test_seeds_that_agree_leave_the_normal_interval_of_the_faces() -> None:
    """Resamples with a variance of .04."""
    low, high = bound_mean(np.full(3, 0.25), repeat([-0.2, 0.0, 0.2], 3), level=0.95)
    np.testing.assert_allclose([low, high], stats.norm.interval(0.95, loc=0.25, scale=0.2))
    np.testing.assert_allclose(bound_mean(np.full(3, 0.25), np.zeros((3, 4)), level=0.95), 0.25)  # no variance at all


def test_the_quantiles_of_both_parts_are_weighted_by_their_variances() -> None:
    """Three parts of the variance are between seeds, one is shared: quantiles 4.3027 and 1.9600, total variance 4."""
    half = find_half_width(np.array(3.0), np.array(1.0), seeds=3, level=0.95)
    assert half == pytest.approx(2 * (0.75 * 4.302653 + 0.25 * 1.959964), rel=1e-6)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_the_parts_of_the_variance_are_those_of_the_covariance_matrix(n_seeds: int) -> None:
    """Shared: the mean of the covariances; where seeds agree, the spread is how much larger the mean variance is."""
    random = generator(1, "shared", n_seeds)
    resampled = random.normal(size=(7, n_seeds, 40)) + 2 * random.normal(size=(7, 1, 40))
    means = 5 * random.normal(size=(7, n_seeds))
    matrices = [np.cov(study) for study in resampled]
    covariances = np.array([matrix[np.triu_indices(n_seeds, 1)].mean() for matrix in matrices])
    variances = np.array([matrix.trace() / n_seeds for matrix in matrices])
    spread, shared = split_variance(means, resampled)
    np.testing.assert_allclose(shared, np.maximum(covariances, 0))
    np.testing.assert_allclose(spread, stats.sem(means, axis=1) ** 2)
    agreeing, _ = split_variance(np.full_like(means, 0.3), resampled)
    np.testing.assert_allclose(agreeing, (variances - np.maximum(covariances, 0)) / n_seeds)


def test_opposite_seeds_share_no_variance_and_not_less() -> None:
    resampled = np.array([[1.0, 2.0, 4.0], [-1.0, -2.0, -4.0]])
    spread, shared = split_variance(np.array([0.0, 8.0]), resampled)
    assert np.cov(resampled)[0, 1] < 0 and shared == 0 and spread == pytest.approx(32 / 2)


def test_seeds_that_agree_by_chance_do_not_make_an_interval_without_width() -> None:
    """Equal accuracies, but of other images: the spread is what the choice of images makes of it."""
    resampled = np.array([[0.1, 0.5, 0.3], [0.5, 0.1, 0.3]])
    spread, shared = split_variance(np.array([0.3, 0.3]), resampled)
    assert shared == 0 and spread == pytest.approx(0.04 / 2)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0, 1), st.floats(-3, 3), st.floats(0.1, 5))
def test_the_interval_moves_and_scales_with_the_numbers(
    values: list[float], shared: float, shift: float, scale: float
) -> None:
    means, resampled = np.array(values), repeat([-shared, 0.0, shared], len(values))
    low, high = bound_mean(means, resampled, level=0.9)
    assert low <= means.mean() <= high
    moved = bound_mean(shift - scale * means, shift - scale * resampled, level=0.9)
    np.testing.assert_allclose(moved, (shift - scale * high, shift - scale * low), atol=1e-7)
    wide = bound_mean(means, resampled, level=0.95)
    assert wide[0] <= low and wide[1] >= high


@pytest.mark.parametrize(("spread", "shared"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.5), (1.0, 3.0)])
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_simulated_coverage_is_that_of_the_distributions(spread: float, shared: float, seeds: int) -> None:
    """Integrated over the estimated variance between seeds, whose distribution is chi-squared."""

    def include(chi: float) -> float:
        half = find_half_width(np.array(spread * chi / (seeds - 1)), np.array(shared), seeds=seeds, level=0.95)
        return float((2 * stats.norm.cdf(half / np.sqrt(spread + shared)) - 1) * stats.chi2.pdf(chi, seeds - 1))

    expected, _ = integrate.quad(include, 0, np.inf, limit=200)
    draws = 40_000
    simulated = simulate_coverage(
        spread, shared, seeds=seeds, level=0.95, draws=draws, generator=generator(2, "coverage")
    )
    assert simulated == pytest.approx(expected, abs=4 * np.sqrt(0.05 * 0.95 / draws))
    assert expected > 0.93
    if 0 in (spread, shared):
        assert expected == pytest.approx(0.95, abs=1e-4)


def test_without_variance_there_is_no_coverage() -> None:
    assert np.isnan(simulate_coverage(0.0, 0.0, seeds=3, level=0.95, draws=10, generator=generator(1)))
