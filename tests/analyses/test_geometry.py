"""Geometry: planted subspaces, laws, and the estimates written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.analyses import geometry
from facespec.analyses.geometry import divide_people, measure_geometry, whiten_noise
from facespec.study.seeds import generator
from facespec.study.vocabulary import Task

COLUMNS = {"trained_on": "joint", "source": "toys", "seed": 1, "layer": "trunk.relu1", "depth": 1}
PEOPLE, EXPRESSIONS, SESSIONS, UNITS = 24, 3, 2, 9


def plant(angle: float, *, seed: int = 3, noise: float = 0.3) -> np.ndarray:
    """Expression varies in units 0 and 1, identity in two directions at `angle` to them, noise in all."""
    draw = generator(seed)
    values = noise * draw.standard_normal((PEOPLE, EXPRESSIONS, SESSIONS, UNITS))
    triangle = np.array([[1.0, 0], [-0.5, 0.87], [-0.5, -0.87]])
    values[..., :2] += 2 * triangle[None, :, None]
    positions = draw.standard_normal((PEOPLE, 2))[:, None, None]
    values[..., :2] += np.cos(angle) * positions
    values[..., 2:4] += np.sin(angle) * positions
    return values


def divide(draws: int = 3, people: int = PEOPLE) -> tuple[list[geometry.Division], list[geometry.Division]]:
    return divide_people(people, EXPRESSIONS * SESSIONS, draws=draws, generator=generator(5))


def read_shares(values: np.ndarray) -> dict[tuple[str, str], float]:
    table = measure_geometry(values, divide(), COLUMNS)
    return {
        (str(row["of"]), str(row["inside"])): float(row["number"])
        for row in table[table["resample"] == -1].to_dict("records")
    }


@pytest.mark.parametrize(("angle", "share"), [(np.pi / 2, 0.0), (0.0, 1.0), (np.pi / 4, 0.5), (np.pi / 3, 0.25)])
def test_the_share_is_the_squared_cosine_of_the_planted_angle(angle: float, share: float) -> None:
    shares = read_shares(plant(angle))
    assert shares["expression", "identity"] == pytest.approx(share, abs=0.06)
    assert shares["identity", "expression"] == pytest.approx(share, abs=0.06)


def test_classes_drawn_at_random_have_the_directions_in_which_responses_vary() -> None:
    """Everything varies in the same two directions, or expression and identity in two each: half of each is found."""
    assert read_shares(plant(0.0))["expression", "shuffled"] == pytest.approx(1, abs=0.05)
    assert 0.2 < read_shares(plant(np.pi / 2))["identity", "shuffled"] < 0.95


def test_dimensions_and_chance() -> None:
    table = measure_geometry(plant(1.0), divide(draws=4), COLUMNS)
    assert set(table["dimensions"]) == {2} and set(table["directions"]) == {9} and set(table["chance"]) == {2 / 9}
    assert sorted(set(table["resample"])) == [-1, 0, 1, 2, 3]
    assert set(table.loc[table["inside"] == "shuffled", "resample"]) == {-1}
    whole = measure_geometry(plant(1.0)[..., :2], divide(), COLUMNS)  # as many units as dimensions: all is inside
    np.testing.assert_allclose(whole["number"], 1)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.floats(0.1, 9))
def test_neither_order_nor_orientation_nor_scale_of_units_matters(seed: int, scale: float) -> None:
    values, draw = plant(1.0, noise=0.5), np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(draw.standard_normal((UNITS, UNITS)))
    expected, turned = read_shares(values), read_shares(scale * values @ rotation)
    # the shrunk covariance is turned with the units
    assert list(turned.values()) == pytest.approx(list(expected.values()), abs=1e-7)


def test_the_numbers_are_those_of_loops_over_pairs() -> None:
    values = whiten_noise(plant(1.1))
    whole, resampled = divide(draws=2)
    table = measure_geometry(plant(1.1), (whole, resampled), COLUMNS)

    def compute(division: geometry.Division, task: Task) -> tuple[float, float]:
        fit = values[division.fit]
        classes = fit.mean(axis=(1, 2)) if task is Task.EXPRESSION else fit.mean(axis=(0, 2))
        eigenvalues, vectors = np.linalg.eigh(np.cov(classes.T))
        projector = vectors[:, np.argsort(eigenvalues)[-2:]] @ vectors[:, np.argsort(eigenvalues)[-2:]].T
        inside = total = 0.0
        if task is Task.EXPRESSION:
            means = values.mean(axis=2)
            means -= means.mean(axis=1, keepdims=True)
            for one in division.test:
                for other in division.test:
                    if one != other:
                        inside += np.trace(means[one] @ projector @ means[other].T)
                        total += np.trace(means[one] @ means[other].T)
        else:
            sessions = values[division.test].mean(axis=1)
            sessions -= sessions.mean(axis=0)
            for person in sessions:
                inside += person[0] @ projector @ person[1]
                total += person[0] @ person[1]
        return inside, total

    for task in Task:
        rows = table[(table["of"] == task.value) & (table["inside"] != "shuffled")].set_index("resample")["number"]
        parts = np.sum([compute(division, task) for division in whole], axis=0)
        assert rows[-1] == pytest.approx(parts[0] / parts[1])
        for number, division in enumerate(resampled):
            inside, total = compute(division, task)
            assert rows[number] == pytest.approx(inside / total)


def test_divisions_keep_people_apart_and_repeat_them_in_resamples_only() -> None:
    whole, resampled = divide(draws=6)
    assert len(whole) == geometry.SPLITS and len(resampled) == 6
    for division in whole:
        assert sorted([*division.fit, *division.test]) == list(range(PEOPLE))
    for division in resampled:
        assert not set(division.fit) & set(division.test) and len(division.fit) == len(division.test) == PEOPLE // 2
        assert len(set(division.test)) < PEOPLE // 2
        assert sorted(division.shuffle) == list(range(PEOPLE // 2 * EXPRESSIONS * SESSIONS))


def test_whitened_noise_has_unit_variance_and_dead_units_are_left_out() -> None:
    values = plant(1.0, noise=2.0)
    values[..., 4] = 0.7
    assert measure_geometry(values, divide(), COLUMNS)["directions"].unique().tolist() == [UNITS - 1]
    whitened = whiten_noise(np.concatenate([values] * 40))  # so much data that nothing is shrunk
    noise = (whitened - whitened.mean(axis=2, keepdims=True)).reshape(-1, whitened.shape[-1])
    np.testing.assert_allclose(noise.T @ noise / len(noise), np.eye(whitened.shape[-1]), atol=0.05)
    assert whitened.shape[-1] == UNITS - 1


def test_where_nothing_varies_there_is_no_share() -> None:
    table = measure_geometry(np.ones((6, 3, 2, 4)), divide(people=6), COLUMNS)
    assert table["number"].isna().all() and len(table) == 2 * (2 + 3)
