from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from facespec.analyses.calibration import (
    Measurement,
    Target,
    judge_targets,
    list_targets,
    mark_named,
    measure_change,
    reduce_to_components,
    tabulate_shares,
)
from facespec.study.params import Band, Targets
from toys import assert_percentiles

DRAWS = 4000
TARGETS = Targets(
    named=0.5,
    sessions=0.6,
    rank=3,
    recall=0.3,
    expression=Band(low=0.6, high=0.85),
    identity=Band(low=0.85, high=0.99),
    overlap=0.15,
)


def test_a_name_is_given_or_not_or_unknown() -> None:
    predicted = np.array([["ann", "bob", "bob"], ["bob", "bob", "ann"]])
    marked = mark_named(predicted, np.array(["ann", "ann", "eve"]), ("ann", "bob"))
    np.testing.assert_array_equal(marked, [[1, 0, np.nan], [0, 0, np.nan]])


def test_the_change_of_a_picture_is_in_grey_levels() -> None:
    before, after = np.zeros((2, 3, 2, 3), np.uint8), np.zeros((2, 3, 2, 3), np.uint8)
    after[1, 0, 0] = 200, 255, 0
    assert measure_change(before, after).tolist() == measure_change(after, before).tolist() == [0, 455 / 18]


def test_shares_are_means_within_people_and_intervals_cover_networks_and_people() -> None:
    people = pd.Series(["b", "a", "b", "c"])
    values = np.array([[[1, 0], [0, 0], [0, 1], [np.nan, 1]], [[1, 1], [1, 1], [1, 0], [np.nan, 0]]], dtype=float)
    by_person = np.array([[[0, 0], [0.5, 0.5], [np.nan, 1]], [[1, 1], [1, 0.5], [np.nan, 0]]])
    table = tabulate_shares(values, seeds=[4, 9], people=people, draws=DRAWS, generator=np.random.default_rng(1))
    assert table["column"].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(table["seed"], [np.nan, 4, 9] * 2)
    assert table["seeds"].tolist() == [2, 1, 1] * 2
    np.testing.assert_allclose(table["number"], [5 / 8, 1 / 4, 1, 1 / 2, 1 / 2, 1 / 2])
    assert table["people"].tolist() == [2] * 3 + [3] * 3 and table["n"].tolist() == [3] * 3 + [4] * 3
    second = [
        by_person[list(seeds)][:, list(drawn), 1].mean()
        for seeds, drawn in product(product(range(2), repeat=2), product(range(3), repeat=3))
    ]
    assert_percentiles(table.loc[3, ["low", "high"]].tolist(), second, level=0.95, draws=DRAWS)


def test_undefined_columns_and_single_people_have_no_interval() -> None:
    values = np.array([[[1.0, np.nan], [0.0, np.nan]]])
    table = tabulate_shares(
        values, seeds=[], people=pd.Series(["a", "a"]), draws=100, generator=np.random.default_rng()
    )
    assert table[["seeds", "people", "n"]].to_numpy().tolist() == [[0, 1, 2], [0, 0, 0]]
    assert table["reason"].tolist() == ["1 person only: no interval", ""]
    assert table["low"].isna().all() and table["number"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("number", "bounds", "met"),
    [
        (0.4, {"at_most": 0.5}, "yes"),
        (0.6, {"at_most": 0.5}, "no"),
        (0.4, {"at_least": 0.5}, "no"),
        (0.5, {"at_least": 0.5}, "yes"),
        (0.7, {"at_least": 0.6, "at_most": 0.85}, "yes"),
        (0.9, {"at_least": 0.6, "at_most": 0.85}, "no"),
        (np.nan, {"at_least": 0.6}, ""),
    ],
)
def test_a_target_is_met_by_its_number_not_its_interval(number: float, bounds: dict[str, float], met: str) -> None:
    measurement = Measurement("toy", 3, 10, number, low=0.0, high=1.0, reason="" if met else "no faces")
    (row,) = judge_targets([Target("t", "a number", **bounds)], {"t": measurement}).to_dict("records")
    assert row["met"] == met and row["reason"] == measurement.reason and row["n"] == 10


def test_all_targets_have_bounds_from_the_parameters() -> None:
    targets = {target.name: target for target in list_targets(TARGETS)}
    bounds = {name: (target.at_least, target.at_most) for name, target in targets.items()}
    nan = np.nan
    expected = {
        "inner_features": (nan, 0.5),
        "hair": (0.5, nan),
        "pixels": (nan, 0.6),
        "untrained": (nan, 0.6),
        "fear_surprise": (nan, 3),
        "lowest_recall": (0.3, nan),
        "expression_training": (0.6, 0.85),
        "expression_probe": (0.6, 0.85),
        "identity_training": (0.85, 0.99),
        "identity_probe": (0.85, 0.99),
        "overlap_changes": (0.15, nan),
        "overlap_discriminability": (0.15, nan),
    }
    assert list(bounds) == list(expected)
    np.testing.assert_array_equal(list(bounds.values()), list(expected.values()))
    assert len({target.statement for target in targets.values()}) == len(targets)


def test_a_measurement_is_read_off_a_row() -> None:
    row = {"source": "toy", "seeds": 2, "n": 3, "number": 0.5, "low": 0.1, "high": 0.9, "reason": "", "cue": "hair"}
    measurement = Measurement.from_row(row)
    assert measurement == Measurement("toy", 2, 3, 0.5, 0.1, 0.9)
    assert replace(measurement, n=4) != measurement


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    random = np.random.default_rng(3)
    fitted, tested = random.integers(0, 256, (9, 13)), random.integers(0, 256, (4, 13))
    mean = fitted.mean(axis=0)
    axes = np.linalg.svd(fitted - mean)[2]
    for components, kept in ((3, 3), (50, 8)):  # nine pictures have eight
        for reduced, pixels in zip(
            reduce_to_components(fitted, tested, components=components), (fitted, tested), strict=True
        ):
            expected = (pixels - mean) @ axes[:kept].T
            np.testing.assert_allclose(np.abs(reduced), np.abs(expected), atol=1e-9)  # an axis has no sign
