from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from facespec.analyses.resampling import Cell, resample_means, tabulate_accuracy
from facespec.study.errors import StudyError
from facespec.study.seeds import generator

CELL = Cell("1B", "expression", "identity", "probe", "embedded faces", 2, 1 / 7)
answers = st.lists(st.booleans(), min_size=2, max_size=60).map(np.array)


def draws(values: np.ndarray, n: int = 400, *, seed: int = 0) -> np.ndarray:
    return resample_means(values, resamples=n, generator=generator(seed))


@given(answers)
def test_resamples_are_means_of_the_values_around_their_mean(correct: np.ndarray) -> None:
    means = draws(correct)
    assert means.shape == (400,)
    counts = means * len(correct)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    low, high = np.percentile(means, [0.05, 99.95])
    assert low <= correct.mean() <= high


def test_spread_is_binomial_and_shrinks_with_the_root_of_n() -> None:
    """The published pickles' sd equals the binomial sd [D]; 4,000 draws estimate it within 4 %."""
    for n in (50, 200, 800):
        correct = np.arange(n) < 0.3 * n
        assert draws(correct, 4000).std() == pytest.approx(np.sqrt(0.3 * 0.7 / n), rel=0.04)


def test_resample_means_follow_the_binomial_distribution() -> None:
    correct = np.arange(20) < 6
    counts = np.round(draws(correct, 5000) * 20)
    expected = stats.binom(20, 0.3).pmf(np.arange(21))
    observed = np.bincount(counts.astype(int), minlength=21) / 5000
    assert np.abs(observed - expected).max() < 4 * np.sqrt(0.25 / 5000)


@given(answers)
def test_columns_share_draws(correct: np.ndarray) -> None:
    """Paired: the resamples of wrong answers mirror those of right answers exactly, in one call or in two."""
    both = draws(np.column_stack([correct, ~correct]))
    np.testing.assert_allclose(both.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(both[:, 0], draws(correct))


@given(answers, st.integers(0, 5))
def test_more_resamples_continue_the_same_stream(correct: np.ndarray, seed: int) -> None:
    np.testing.assert_array_equal(draws(correct, 10, seed=seed), draws(correct, 30, seed=seed)[:10])


@settings(max_examples=20)
@given(answers, st.randoms(use_true_random=False))
def test_relabelling_the_images_keeps_the_distribution(correct: np.ndarray, random: object) -> None:
    """Order of the images is a name, not a fact: only the draw changes, not its law."""
    shuffled = correct[np.random.Generator(np.random.PCG64(1)).permutation(len(correct))]
    assert abs(draws(correct, 2000).mean() - draws(shuffled, 2000, seed=1).mean()) < 5 * np.sqrt(
        0.5 / len(correct) / 2000
    )


def test_rows() -> None:
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


def test_nothing_to_resample() -> None:
    with pytest.raises(StudyError) as caught:
        resample_means(np.array([]), resamples=5, generator=generator(1))
    assert str(caught.value) == "nothing to resample: got 0 test images, at least 1 is needed."
