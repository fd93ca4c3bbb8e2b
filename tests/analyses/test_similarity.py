"""Linear CKA: its invariances, its limits, and slow references from n x n kernels with loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group

from facespec.analyses.similarity import compare_layers, compute_cka, compute_debiased_cka
from facespec.study.errors import StudyError
from facespec.study.seeds import generator

Estimate = Callable[[np.ndarray, np.ndarray], float]
BOTH_ESTIMATES = pytest.mark.parametrize("estimate", [compute_cka, compute_debiased_cka])


def make_responses(n: int, units: int, *, seed: int) -> np.ndarray:
    return generator(seed).normal(size=(n, units)) + generator(seed, "mean").normal(size=units) * 5


def make_related(n: int, units: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = make_responses(n, units, seed=seed)
    return x, x @ generator(seed, "mix").normal(size=(units, 3)) + make_responses(n, 3, seed=seed + 1)


def compute_slowly(x: np.ndarray, y: np.ndarray) -> float:
    """tr(KHLH) of kernels over images, H the centring matrix."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.trace(a @ a.T @ h @ b @ b.T @ h))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def compute_debiased_slowly(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC_1 of Song et al. (2012), eq. 5: an average over quadruples of different images, by their kernel sums."""
    n = len(x)

    def kernel(a: np.ndarray) -> np.ndarray:
        return np.array([[0.0 if i == j else a[i] @ a[j] for j in range(n)] for i in range(n)])

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, m, one = kernel(a), kernel(b), np.ones(n)
        total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float(total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@settings(max_examples=20)
@given(st.integers(6, 17), st.integers(1, 23), st.integers(0, 50))
def test_units_and_kernels_over_images_give_equal_cka(n: int, units: int, seed: int) -> None:
    """Fewer and more units than images; responses far from zero mean."""
    x, y = make_related(n, units, seed=seed)
    np.testing.assert_allclose(compute_cka(x, y), compute_slowly(x, y), rtol=1e-8)
    np.testing.assert_allclose(compute_debiased_cka(x, y), compute_debiased_slowly(x, y), rtol=1e-6, atol=1e-8)


@BOTH_ESTIMATES
def test_by_hand(estimate: Estimate) -> None:
    """One unit each: plain CKA is the squared correlation; for these contrasts, 0.5 and 0."""
    x = np.array([1.0, 1, -1, -1, 1, 1, -1, -1])[:, None]
    y = np.array([1.0, 1, 1, 1, -1, -1, -1, -1])[:, None]
    assert compute_cka(x, y) == pytest.approx(0, abs=1e-15)
    assert compute_cka(x, x + y) == pytest.approx(0.5)
    # of norm 1, rows are 1/8: ||X'Y||^2 = 0, correction 8/6 * 8/64 - 1/42; ||X'X||^2 = 1, equal correction
    correction = 8 / 6 / 8 - 1 / 42
    assert compute_debiased_cka(x, y) == pytest.approx(-correction / (1 - correction))
    assert estimate(x, 3 * x + 7) == pytest.approx(1)


@BOTH_ESTIMATES
def test_rotation_shift_and_scale_change_nothing_but_scaling_single_units_does(estimate: Estimate) -> None:
    x, y = make_related(40, 6, seed=1)
    expected = estimate(x, y)
    rotated = x @ special_ortho_group.rvs(6, random_state=generator(2))
    mirrored = x[:, ::-1] * [1, -1, 1, 1, 1, 1]
    for same in (rotated, mirrored, 1e-6 * x, 1e30 * x, -3 * x, x + 11, np.hstack([x, np.zeros((40, 2))])):
        assert estimate(same, y) == pytest.approx(expected, rel=1e-9)
        assert estimate(y, same) == pytest.approx(expected, rel=1e-9)
    assert abs(estimate(x * [9, 1, 1, 1, 1, 1], y) - expected) > 0.01


@BOTH_ESTIMATES
def test_the_order_of_images_does_not_matter_but_their_pairing_does(estimate: Estimate) -> None:
    x, y = make_related(40, 6, seed=3)
    order = generator(4).permutation(40)
    assert estimate(x[order], y[order]) == pytest.approx(estimate(x, y), rel=1e-9)
    assert estimate(x[order], y) < estimate(x, y) - 0.2


@BOTH_ESTIMATES
@pytest.mark.parametrize(("n", "units"), [(4, 1), (9, 30), (50, 3)])
def test_the_similarity_of_a_layer_to_itself_is_one(estimate: Estimate, n: int, units: int) -> None:
    x = make_responses(n, units, seed=5)
    assert estimate(x, x) == pytest.approx(1, abs=1e-12)
    assert estimate(x, x) <= 1


def test_only_the_debiased_similarity_of_unrelated_layers_is_zero_on_average() -> None:
    """The bias of plain CKA grows with units per image; without it, 200 pairs scatter around zero."""
    pairs = [(make_responses(30, 40, seed=s), make_responses(30, 25, seed=1000 + s)) for s in range(200)]
    unbiased = np.array([compute_debiased_cka(x, y) for x, y in pairs])
    assert abs(unbiased.mean()) < 4 * unbiased.std() / np.sqrt(200)
    assert (unbiased < 0).any() and unbiased.std() < 0.1
    assert np.mean([compute_cka(x, y) for x, y in pairs]) > 0.4


@BOTH_ESTIMATES
def test_a_constant_layer_has_no_similarity(estimate: Estimate) -> None:
    x = make_responses(12, 3, seed=6)
    rounding = (3.25 + 1e-7 * generator(7).normal(size=(12, 2))).astype(np.float32)
    for constant in (np.zeros((12, 2)), np.full((12, 4), 3.25), rounding):
        assert np.isnan(estimate(x, constant)) and np.isnan(estimate(constant, x))
        assert np.isnan(estimate(constant, constant))


@BOTH_ESTIMATES
def test_responses_that_do_not_pair_up_are_refused(estimate: Estimate) -> None:
    for first, second in ((5, 6), (3, 3), (0, 0)):
        with pytest.raises(StudyError, match=f"responses to {first} and to {second} images: .*same images, 4 or more"):
            estimate(np.ones((first, 2)), np.ones((second, 2)))


def test_the_table_has_both_estimates_per_layer() -> None:
    x, y = make_related(20, 4, seed=8)
    first, second = {"a": x, "b": np.zeros((20, 2)), "c": x}, {"b": x, "a": y}
    table = compare_layers(first, second, {"b": 2, "a": 1})
    expected = pd.DataFrame(
        {
            "layer": ["b", "b", "a", "a"],
            "depth": [2, 2, 1, 1],
            "n": 20,
            "estimator": ["plain", "debiased"] * 2,
            "cka": [np.nan, np.nan, compute_cka(x, y), compute_debiased_cka(x, y)],
            "reason": ["a network answers all images alike"] * 2 + ["", ""],
        }
    )
    pd.testing.assert_frame_equal(table, expected)
    for pair in ((first, second), (second, first)):
        with pytest.raises(StudyError, match=r"no responses of layer 'c'; it has \['b', 'a'\]"):
            compare_layers(*pair, {"c": 3})
