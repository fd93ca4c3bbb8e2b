"""Analysis of variance against least squares on dummy codes, and Monte Carlo permutations against all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from facespec.analyses.depth import (
    BalancedDesign,
    LayerKey,
    compute_permutation_p,
    measure_unit_effects,
    partition_variance,
)
from facespec.study.seeds import generator

LAYER = LayerKey("joint", "toy", 1, "trunk.relu1", 1)


def make_dummies(codes: np.ndarray) -> np.ndarray:
    """One column per level but the first."""
    return (codes[:, None] == np.arange(1, codes.max() + 1)).astype(float)


def fit_residual(columns: list[np.ndarray], y: np.ndarray) -> tuple[float, int]:
    """Residual sum of squares and degrees of freedom of a linear model with intercept."""
    x = np.column_stack([np.ones(len(y)), *columns])
    solution, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    return float(((y - x @ solution) ** 2).sum()), len(y) - int(rank)


@pytest.mark.parametrize("shape", [(3, 2, 2), (4, 7, 2), (5, 3, 3)])
def test_sums_of_squares_f_and_p_are_those_of_nested_models(shape: tuple[int, int, int]) -> None:
    random = generator(1, *shape)
    people, expressions, _ = shape
    y = (
        random.normal(size=(*shape, 4))
        + random.normal(size=(people, 1, 1, 4))
        + random.normal(size=(1, expressions, 1, 4))
    )
    y[..., 1] *= 1e-3
    who, what, _ = (codes.ravel() for codes in np.indices(shape))
    a, b = make_dummies(who), make_dummies(what)
    ab = (a[:, :, None] * b[:, None, :]).reshape(len(who), -1)
    design = BalancedDesign(np.arange(who.size).reshape(shape), tuple(map(str, range(people))), (), (), ())
    variance = partition_variance(y)
    table = measure_unit_effects(y.reshape(-1, 4), design, LAYER, rate=0.05, permutations=10, generator=generator(2))
    for unit in range(4):
        values = y[..., unit].ravel()
        full, df = fit_residual([a, b, ab], values)
        additive, df_additive = fit_residual([a, b], values)
        expected = {"interaction": (additive - full, df_additive - df), "residual": (full, df)}
        for factor, rest in (("identity", b), ("expression", a)):
            without, df_without = fit_residual([rest], values)
            expected[factor] = (without - additive, df_without - df_additive)
        for source, (squares, freedom) in expected.items():
            assert variance.freedom[source] == freedom
            np.testing.assert_allclose(variance.squares[source][unit], squares, rtol=1e-9)
        for factor in ("identity", "expression"):
            row = table[(table["unit"] == unit) & (table["factor"] == factor)].iloc[0]
            squares, freedom = expected[factor]
            f = squares / freedom / (full / df)
            total = ((values - values.mean()) ** 2).sum()
            error = expected["interaction"][0] / expected["interaction"][1]
            statistics = {
                "eta": squares / total,
                "partial_eta": squares / (squares + full),
                "f": f,
                "epsilon": (squares - freedom * error) / total,
                "p_parametric": stats.f.sf(f, freedom, df),
            }
            for name, value in statistics.items():
                np.testing.assert_allclose(row[name], value, rtol=1e-8, err_msg=name)


def enumerate_permutations(cells: np.ndarray) -> np.ndarray:
    """`cells` (blocks, levels) with levels in every order within every block: (permutations, blocks, levels)."""
    orders = [list(itertools.permutations(row)) for row in cells.tolist()]
    return np.array(list(itertools.product(*orders)))


def compute_f(cells: np.ndarray) -> float:
    blocks, levels = cells.shape
    effect = cells.mean(axis=0) - cells.mean()
    rest = cells - cells.mean(axis=1, keepdims=True) - effect
    return float(blocks * (effect**2).sum() / (levels - 1) / ((rest**2).sum() / (blocks - 1) / (levels - 1)))


def test_p_is_the_share_of_all_permutations_with_as_large_an_f() -> None:
    """The code compares sums of squares, the reference F: they rank permutations within blocks equally."""
    cells = generator(3).normal(size=(3, 4, 5)) + np.array([0, 0.5, 1.0, 2])[None, :, None] * np.linspace(0, 1, 5)
    cells += generator(4).normal(size=(3, 1, 5)) * 10  # differences between blocks do not matter
    draws = 4000
    p = compute_permutation_p(cells, permutations=draws, generator=generator(5))
    for unit in range(5):
        f = [compute_f(permuted) for permuted in enumerate_permutations(cells[..., unit])]
        exact = np.mean(np.array(f) >= compute_f(cells[..., unit]) * (1 - 1e-9))
        assert abs(p[unit] - exact) < 4 * np.sqrt(exact * (1 - exact) / draws) + 1 / draws


def test_epsilon_is_zero_on_average_over_all_permutations_and_eta_is_not() -> None:
    cells = generator(6).normal(size=(4, 3)) + np.array([0, 2, 5])
    permuted = enumerate_permutations(cells)
    noise = np.array([0.3, -0.3])
    responses = np.moveaxis(permuted, 0, -1)[:, :, None] + noise[:, None]
    design = BalancedDesign(np.arange(24).reshape(4, 3, 2), tuple("abcd"), (), (), ())
    table = measure_unit_effects(
        responses.reshape(24, -1), design, LAYER, rate=0.9, permutations=1, generator=generator(7)
    ).query("factor == 'expression'")
    assert len(table) == 6**4
    assert abs(table["epsilon"].mean()) < 1e-12
    assert table["eta"].mean() > 0.1
