"""Bootstrap over images, over seeds and people, and sign flips of people: laws, theory, and slow references."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from facespec.analyses.resampling import (
    Cell,
    average_people,
    draw_weights,
    estimate_interval,
    resample_hierarchically,
    resample_means,
    sign_flip_test,
    tabulate_accuracy,
)
from facespec.study.errors import StudyError
from facespec.study.seeds import generator

CELL = Cell("1B", "expression", "identity", "probe", "embedded faces", 2, 1 / 7)
correct_images = st.lists(st.booleans(), min_size=2, max_size=60).map(np.array)


def resample(values: np.ndarray, n: int = 400, *, seed: int = 0) -> np.ndarray:
    return resample_means(values, resamples=n, generator=generator(seed))


@settings(max_examples=20)
@given(correct_images)
def test_resamples_are_means_of_the_values_around_their_mean(correct: np.ndarray) -> None:
    means = resample(correct)
    assert means.shape == (400,)
    counts = means * len(correct)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    low, high = np.percentile(means, [0.05, 99.95])
    assert low <= correct.mean() <= high


def test_spread_is_binomial_and_shrinks_with_the_root_of_n() -> None:
    """The published pickles' sd equals the binomial sd [D]; 4,000 draws estimate it within 4 %."""
    for n in (50, 200, 800):
        correct = np.arange(n) < 0.3 * n
        assert resample(correct, 4000).std() == pytest.approx(np.sqrt(0.3 * 0.7 / n), rel=0.04)


def test_resample_means_follow_the_binomial_distribution() -> None:
    correct = np.arange(20) < 6
    counts = np.round(resample(correct, 5000) * 20)
    expected = stats.binom(20, 0.3).pmf(np.arange(21))
    observed = np.bincount(counts.astype(int), minlength=21) / 5000
    assert np.abs(observed - expected).max() < 4 * np.sqrt(0.25 / 5000)


@settings(max_examples=20)
@given(correct_images)
def test_columns_share_resample(correct: np.ndarray) -> None:
    """Paired: the resampled errors are 1 minus the resampled accuracies, in one call or in two."""
    both = resample(np.column_stack([correct, ~correct]))
    np.testing.assert_allclose(both.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(both[:, 0], resample(correct))


@settings(max_examples=20)
@given(correct_images, st.integers(0, 5))
def test_more_resamples_continue_the_stream(correct: np.ndarray, seed: int) -> None:
    np.testing.assert_array_equal(resample(correct, 10, seed=seed), resample(correct, 30, seed=seed)[:10])


def test_accuracy_rows_are_the_accuracy_and_its_resamples() -> None:
    correct = np.array([True, False, True])
    table = tabulate_accuracy(correct, CELL, resamples=5, generator=generator(1))
    assert table["resample"].tolist() == [-1, 0, 1, 2, 3, 4]
    assert table["accuracy"].iloc[0] == 2 / 3
    np.testing.assert_array_equal(
        table["accuracy"].iloc[1:], resample_means(correct, resamples=5, generator=generator(1))
    )
    rest = table.drop(columns=["resample", "accuracy"]).drop_duplicates()
    expected = {
        "figure": "1B",
        "trained_on": "expression",
        "tested_on": "identity",
        "role": "probe",
        "source": "embedded faces",
        "seed": 2,
        "n": 3,
        "chance": 1 / 7,
    }
    pd.testing.assert_frame_equal(rest, pd.DataFrame([expected]))


def test_means_within_people_leave_out_nan_and_are_in_the_order_of_names() -> None:
    people = pd.Series(["b", "a", "b", "c"], index=[7, 3, 5, 1])
    values = np.array([[[1.0, 2.0]], [[5.0, np.nan]], [[3.0, np.nan]], [[np.nan, 4.0]]])
    expected = np.array([[[5.0, np.nan]], [[2.0, 2.0]], [[np.nan, 4.0]]])
    np.testing.assert_array_equal(average_people(values, people), expected)


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 5))
def test_weights_count_draws(units: int, draws: int, seed: int) -> None:
    weights = draw_weights(units, draws=draws, generator=generator(seed))
    assert weights.shape == (draws, units) and weights.dtype == np.float64
    np.testing.assert_array_equal(weights.sum(axis=1), units)
    np.testing.assert_array_equal(weights, np.abs(weights).round())
    values = generator(seed, "values").random(units)
    means = resample_means(values, resamples=draws, generator=generator(seed))
    np.testing.assert_allclose(weights @ values / units, means, rtol=1e-12)  # the same draws, counted


def test_weights_are_multinomial() -> None:
    weights = draw_weights(5, draws=20000, generator=generator(1))
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.03)
    expected = 5 * (np.eye(5) / 5 - 1 / 25)
    np.testing.assert_allclose(np.cov(weights.T), expected, atol=0.03)


def test_empty_data_are_refused() -> None:
    with pytest.raises(StudyError, match="nothing to resample: got 0 test images, at least 1 is needed"):
        resample_means(np.array([]), resamples=5, generator=generator(1))
    with pytest.raises(StudyError, match="nothing to resample: got 0 units, at least 1 is needed"):
        draw_weights(0, draws=3, generator=generator(1))


def average_slowly(values: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """Draw by draw: the mean of a list with the values of all drawn people; the mean of a list of those of seeds."""
    stream = generator(seed)
    seeds = draw_weights(values.shape[0], draws=draws, generator=stream)
    people = draw_weights(values.shape[1], draws=draws, generator=stream)
    result = np.full((draws, *values.shape[2:]), np.nan)
    for draw, *entry in np.ndindex(*result.shape):
        within = []
        for s, times in enumerate(seeds[draw]):
            drawn = [float(values[(s, p, *entry)]) for p, n in enumerate(people[draw]) for _ in range(int(n))]
            defined = [value for value in drawn if value == value]
            within += [sum(defined) / len(defined)] * int(times) if defined else []
        if within:
            result[(draw, *entry)] = sum(within) / len(within)
    return result


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 3), (1, 3, 2, 2)])
def test_means_against_a_slow_reference(shape: tuple[int, ...]) -> None:
    values = generator(2).normal(size=shape)
    values[generator(3).random(shape) < 0.3] = np.nan
    values.reshape(*shape[:2], -1)[0, :, 0] = np.nan  # no person, in the first entry of the first seed
    means = resample_hierarchically(values, draws=150, generator=generator(4))
    expected = average_slowly(values, draws=150, seed=4)
    assert np.isnan(expected).any() and not np.isnan(expected).all()
    np.testing.assert_allclose(means, expected, rtol=1e-12)


def test_a_draw_takes_the_same_people_for_all_seeds() -> None:
    """Seeds with opposite values of each person cancel only if people are shared."""
    person = generator(1).normal(size=9)
    means = resample_hierarchically(np.stack([person, -person]), draws=300, generator=generator(2))
    balanced = np.abs(means) < 1e-12
    assert balanced.mean() == pytest.approx(1 / 2, abs=0.12)  # both seeds drawn


def test_spread_of_two_levels() -> None:
    """The variance of a mean of n drawn values is their variance (divisor n) over n; the two levels add."""
    seeds, people = generator(1).normal(size=(6, 1)), generator(2).normal(size=(1, 11))
    means = resample_hierarchically(seeds + people, draws=6000, generator=generator(3))
    assert means.var() == pytest.approx(seeds.var() / 6 + people.var() / 11, rel=0.08)


def test_interval_by_hand() -> None:
    """Two people have .0 and .8: a quarter of the draws takes one of them twice. A third has no value."""
    values = np.array([[0, 0.8, np.nan], [0, 0.8, np.nan]])
    mean, low, high = estimate_interval(values, draws=500, generator=generator(1))
    assert [float(mean), float(low), float(high)] == pytest.approx([0.4, 0, 0.8])
    uneven = np.array([[0, np.nan, np.nan], [1, 1, 0.7]])  # seeds have equal weights, whatever the number of people
    assert estimate_interval(uneven, draws=5, generator=generator(1))[0] == pytest.approx((0 + 0.9) / 2)


def test_bounds_of_the_interval_are_percentiles() -> None:
    values = generator(1).normal(size=(3, 6, 2))
    mean, low, high = estimate_interval(values, draws=201, generator=generator(5))
    means = np.sort(resample_hierarchically(values, draws=201, generator=generator(5)), axis=0)
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1)))
    np.testing.assert_allclose([low, high], [means[5], means[195]])  # 2.5 % of 200 steps


def test_the_interval_of_an_entry_without_values_is_nan() -> None:
    values = np.ones((2, 3, 2))
    values[..., 1] = np.nan
    for bound in estimate_interval(values, draws=9, generator=generator(1)):
        np.testing.assert_array_equal(bound, [1, np.nan])


@pytest.mark.parametrize(("seeds", "low", "high"), [(20, 0.9, 0.98), (3, 0.72, 0.87)])
def test_coverage_is_that_of_the_documentation(seeds: int, low: float, high: float) -> None:
    """About 95 % of intervals contain the truth with many seeds; about 80 % with three."""
    draw, covered = generator(7, seeds), 0
    for _ in range(300):
        values = draw.normal(size=(seeds, 1)) + draw.normal(size=(1, 70)) + draw.normal(size=(seeds, 70))
        _, below, above = estimate_interval(values, draws=200, generator=draw)
        covered += bool(below <= 0 <= above)
    assert low < covered / 300 < high


def enumerate_flips(differences: np.ndarray) -> np.ndarray:
    """p of every location from all 2^n flips and scipy's t."""
    flips = [
        np.abs(stats.ttest_1samp(differences * np.array(signs)[:, None], 0).statistic).max()
        for signs in product((1, -1), repeat=len(differences))
    ]
    observed = np.abs(stats.ttest_1samp(differences, 0).statistic)
    return np.mean([flip >= observed * (1 - 1e-9) for flip in flips], axis=0)


@pytest.mark.parametrize("people", [2, 5, 6])
def test_p_approaches_that_of_all_flips(people: int) -> None:
    for seed in range(4):
        differences = generator(seed).normal(loc=[0, 0.5, 2], size=(people, 3))
        t, p = sign_flip_test(differences, permutations=6000, generator=generator(seed))
        expected = enumerate_flips(differences)
        np.testing.assert_allclose(t, stats.ttest_1samp(differences, 0).statistic, rtol=1e-10)
        np.testing.assert_allclose(p, expected, atol=4.5 * np.sqrt(0.25 / 6000))  # steps are 1 / 2^(n - 1), or larger
        assert np.unique(expected).size > 1 or people == 2


def test_p_counts_flips_and_the_identity() -> None:
    """One location, equal differences: of 7 flips only the identity and its opposite reach it."""
    t, p = sign_flip_test(np.full((20, 1), 0.25), permutations=7, generator=generator(1))
    assert t[0] == np.inf and p[0] == 1 / 8
    _, p = sign_flip_test(np.full((1 + 1, 1), 0.1), permutations=3000, generator=generator(1))
    assert p[0] == pytest.approx(1 / 2, abs=0.04)


small_numbers = st.integers(-64, 64).map(lambda n: n / 64)
small_maps = st.tuples(st.integers(2, 7), st.integers(1, 4)).flatmap(
    lambda shape: arrays(float, shape, elements=small_numbers)
)


@settings(max_examples=30)
@given(small_maps, st.integers(1, 60), st.integers(0, 9))
def test_laws_of_p(differences: np.ndarray, permutations: int, seed: int) -> None:
    def test(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sign_flip_test(values, permutations=permutations, generator=generator(seed))

    t, p = test(differences)
    assert (p >= 1 / (permutations + 1)).all() and (p <= 1).all()
    np.testing.assert_allclose(p * (permutations + 1), (p * (permutations + 1)).round())
    flipped, same = test(-differences)
    np.testing.assert_array_equal(flipped, -t)
    np.testing.assert_array_equal(same, p)
    np.testing.assert_array_equal(test(differences * 8)[1], p)
    order = np.argsort(np.abs(t))
    assert (np.diff(p[order]) <= 0).all() or len(set(np.abs(t).round(9))) < len(t)  # a larger t, no larger p
    uncorrected = [test(differences[:, [i]])[1][0] for i in range(differences.shape[1])]
    assert (p >= uncorrected).all()
    np.testing.assert_array_equal(p[~differences.any(axis=0)], 1)


def test_results_do_not_depend_on_shapes_and_blocks() -> None:
    """A map of 2 x 3 locations; 9,000 flips of 1,100 locations are in more than one block."""
    differences = generator(1).normal(size=(9, 2, 3)) + 0.4
    t, p = sign_flip_test(differences, permutations=400, generator=generator(2))
    assert t.shape == p.shape == (2, 3)
    flat = sign_flip_test(differences.reshape(9, 6), permutations=400, generator=generator(2))
    np.testing.assert_array_equal(t.ravel(), flat[0])
    np.testing.assert_array_equal(p.ravel(), flat[1])
    few = differences[:, 0, :1]
    wide = np.hstack([few, np.zeros((9, 1100))])  # locations without any difference change nothing
    one = sign_flip_test(few, permutations=9000, generator=generator(2))[1]
    np.testing.assert_array_equal(sign_flip_test(wide, permutations=9000, generator=generator(2))[1][0], one[0])


def test_too_few_people_and_undefined_differences_are_refused() -> None:
    with pytest.raises(StudyError, match="a test over people needs at least 2, got 1"):
        sign_flip_test(np.ones((1, 4)), permutations=9, generator=generator(1))
    wrong = np.ones((3, 4))
    wrong[1, :2] = np.nan, np.inf
    with pytest.raises(
        StudyError, match="2 of 12 differences of people are not finite numbers; leave these people out"
    ):
        sign_flip_test(wrong, permutations=9, generator=generator(1))
