"""Segregation: numbers by hand, planted and absent segregation, laws, a slow reference, reasons for missing numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facespec.analyses.resampling import compute_chance, draw_weights
from facespec.analyses.segregation import (
    LesionSite,
    PeopleAccuracies,
    arrange_accuracies,
    compute_people_chance,
    compute_relative_drop,
    compute_segregation_index,
    count_people,
    explain_no_drop,
    tabulate_dissociation,
    tabulate_drops,
    tabulate_segregation,
)
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables_lesions import DISSOCIATION, SEGREGATION

TASKS = ("expression", "identity")
SITE = LesionSite(trained_on="joint", source="toy faces", layer="trunk.conv2", depth=2)
CHANCE = np.array([0.2, 0.1])
SHARED = np.array([[1.0, 1.0], [1.0, 1.0]])  # drops: each lesion harms both tasks
SEPARATE = np.eye(2)
Drops = arrays(np.float64, (2, 2), elements=st.floats(-3, 3, width=32))


def make_accuracies(
    whole: np.ndarray, lesioned: np.ndarray, chance: np.ndarray = CHANCE, tasks: tuple[str, str] = TASKS
) -> PeopleAccuracies:
    return PeopleAccuracies(whole, lesioned, chance, tasks, tuple(range(3, 3 + len(whole))))


def make_planted(
    drops: np.ndarray, *, people: int = 5, draws: int = 1, noise: float = 0.0, seed: int = 0
) -> PeopleAccuracies:
    """People whose accuracies have `drops` (seeds, 2, 2), with noise that differs between people and lesions."""
    whole = np.broadcast_to(np.array([0.8, 0.6])[:, None], (len(drops), 2, people))
    lesioned = np.array([0.8, 0.6]) - np.asarray(drops)[:, None] * ([0.8, 0.6] - CHANCE)
    spread = noise * (generator(seed).random((len(drops), draws, 2, 2, people)) - 0.5)
    return make_accuracies(whole, lesioned[..., None] + spread)


def dissociate(
    accuracies: PeopleAccuracies, *, resamples: int = 20, seed: int = 0, fraction: float = 0.2
) -> pd.DataFrame:
    at_fraction = replace(accuracies, fraction=fraction)
    return tabulate_dissociation(at_fraction, SITE, resamples=resamples, generator=generator(seed))


def segregate(accuracies: PeopleAccuracies, *, resamples: int = 100, seed: int = 0) -> pd.DataFrame:
    at_fraction, options = replace(accuracies, fraction=0.2), {"condition": "ranked", "resamples": resamples}
    return tabulate_segregation(at_fraction, SITE, **options, generator=generator(seed)).set_index("quantity")


# --- drops and the index


def test_drops_by_hand() -> None:
    """Chance a quarter: half of what is above it, all, none, more than all, a gain; a column of tasks broadcasts."""
    drops = compute_relative_drop(0.75, [0.5, 0.25, 0.75, 0.0, 1.0], 0.25)
    assert drops.tolist() == [0.5, 1, 0, 1.5, -0.5]
    assert compute_relative_drop([0.5, 0.9], np.full((3, 1), 0.1), [0.1, 0.5]).tolist() == [[1, 2]] * 3


BELOW, UNLABELLED = "the whole network is not above chance on age", "no test image is labelled for age"


@pytest.mark.parametrize(
    ("whole", "reason"),
    [(0.3, ""), (0.25, BELOW), (0.2, BELOW), (0.1 + 0.15, BELOW), (0.25 + 1e-16, BELOW), (np.nan, UNLABELLED)],
)
def test_without_an_accuracy_above_chance_there_is_no_drop(whole: float, reason: str) -> None:
    assert np.isnan(compute_relative_drop(whole, 0.1, 0.25)) == bool(reason)
    assert explain_no_drop([whole, 0.3], 0.25, "age").tolist() == [reason, ""]


def test_chance_is_the_best_constant_response() -> None:
    """Image by image; and where people have equal weight: one person has nearly all images of class 5."""
    classes = np.array([5, 5, 5, 5, 2, 9])
    assert compute_chance(classes) == 4 / 6
    assert compute_people_chance(classes, pd.Series(list("aaaabc"))) == pytest.approx(1 / 3)
    assert compute_people_chance(classes, pd.Series(list("aaabbc"))) == pytest.approx((1 + 1 / 2) / 3)


def test_rows_of_drops_by_hand() -> None:
    whole, lesioned = np.array([1, 1, 1, 0], bool), np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    table = tabulate_drops(whole, lesioned, np.array([0, 0, 1, 1]), tested_on="age")
    columns = {"tested_on": ["age"] * 2, "n": [4] * 2, "chance": [0.5] * 2, "reason": [""] * 2}
    assert table.to_dict("list") == columns | {"accuracy": [0.5, 1.0], "drop": [1.0, -1.0]}
    table = tabulate_drops(lesioned[0], lesioned, np.array([0, 0, 0, 1]), tested_on="age")
    assert set(table["chance"]) == {0.75} and table["drop"].isna().all() and set(table["reason"]) == {BELOW}


@pytest.mark.parametrize("condition", ["ranked", "shuffled", "random"])
def test_accuracies_are_arranged_by_seed_draw_lesion_and_task(condition: str) -> None:
    """From rows in any order, with rows of other fractions and conditions in between; random draws in pairs."""
    rows = [("ranked", seed, 0, by, 0.0, task) for seed in (8, 5) for by in TASKS for task in TASKS]
    rows += [
        (kind, seed, draw, by, fraction, task)
        for kind, names in (("ranked", TASKS), ("shuffled", TASKS), ("random", ("",)), ("keep", ("",)))
        for seed in (8, 5)
        for draw in range({"ranked": 1, "shuffled": 3, "random": 4, "keep": 4}[kind])
        for by in names
        for fraction in (0.1, 0.2)
        for task in TASKS
    ]
    names = ["condition", "seed", "draw", "ranked_by", "fraction", "tested_on"]
    table = pd.DataFrame(rows, columns=names).sample(frac=1, random_state=3, ignore_index=True)
    values = np.linspace(0, 1, 3 * len(table)).reshape(-1, 3)  # of three people
    options = {"condition": condition, "fraction": 0.2, "chance": CHANCE, "tasks": TASKS, "seeds": [5, 8]}
    accuracies = arrange_accuracies(table, values, **options)

    def find(**keys: Any) -> list[float]:
        (row,) = np.flatnonzero((table[list(keys)] == pd.Series(keys)).all(axis=1))
        return values[row].tolist()

    draws = {"ranked": 1, "shuffled": 3, "random": 2}[condition]
    assert accuracies.lesioned.shape == (2, draws, 2, 2, 3) and accuracies.seeds == (5, 8)
    for i, draw, lesion, task in np.ndindex(2, draws, 2, 2):
        keys = {"condition": condition, "seed": (5, 8)[i], "fraction": 0.2, "tested_on": TASKS[task]}
        by_draw = {"draw": 2 * draw + lesion} if condition == "random" else {"draw": draw, "ranked_by": TASKS[lesion]}
        assert accuracies.lesioned[i, draw, lesion, task].tolist() == find(**keys, **by_draw)
        whole = {"condition": "ranked", "fraction": 0.0, "ranked_by": TASKS[0], "tested_on": TASKS[task]}
        assert accuracies.whole[i, task].tolist() == find(**whole, seed=(5, 8)[i])


def test_rounding_errors_are_no_drops() -> None:
    """0.1 + 0.2 is not 0.3 in floating point: no lesion may seem to harm a task by that."""
    drops = compute_relative_drop(0.3, [0.1 + 0.2, 0.3], 0.1)
    assert drops.tolist() == [0, 0] and not np.signbit(drops).any()
    assert compute_relative_drop(0.7, 0.1 + 0.2, 0.3) == 1


def test_index_by_hand() -> None:
    """Rows are lesions. (.6 - .2) / .8 = 1/2 and (.3 - .1) / .4 = 1/2; then target .1 and other .3, for both."""
    drops = [[[0.6, 0.2], [0.1, 0.3]], [[0.1, 0.3], [0.9, 0.3]], [[0.5, -0.4], [0.2, 0.2]]]
    np.testing.assert_allclose(compute_segregation_index(drops), [0.5, -0.5, 0.5])
    np.testing.assert_array_equal(compute_segregation_index([SEPARATE, SHARED, SHARED - SEPARATE]), [1, 0, -1])


@pytest.mark.parametrize("drops", [[[0, 0], [0, 1]], [[1, 0], [-0.1, -0.2]], [[np.nan, 1], [0, 1]]])
def test_no_index_where_a_lesion_harms_nothing_or_a_drop_is_missing(drops: list[list[float]]) -> None:
    assert np.isnan(compute_segregation_index(drops))


@given(Drops, st.floats(0.01, 100))
@example(np.array([[0.5, 0.1], [0.3, 0.2]]), 3.0)
def test_laws_of_the_index(drops: np.ndarray, factor: float) -> None:
    """Bounded; independent of scale; the same if tasks and lesions swap, and its negative if one of them does."""
    index = compute_segregation_index(drops)
    assert -1 <= index <= 1 or (np.isnan(index) and (drops <= 0).all(axis=1).any())
    for changed, expected, tolerance in (
        (drops[::-1, ::-1], index, 1e-12),
        (drops[::-1], -index, 1e-12),
        (drops[:, ::-1], -index, 1e-12),
        (drops * factor, index, 1e-9),
        (drops * [[factor], [1]], index, 1e-9),  # one lesion
    ):
        np.testing.assert_allclose(compute_segregation_index(changed), expected, atol=tolerance)


# --- dissociation, seed by seed


def test_dissociation_by_hand() -> None:
    """Two seeds and three people, the last without images of identity.

    Means, whole: .6 and .5; minus chance .4 and .4. The first seed's drops, rows are lesions: .75 .25, .5 1.
    The second's: .25 -.125, 0 .5.
    """
    whole = np.array([[[0.4, 0.6, 0.8], [0.3, 0.7, np.nan]]] * 2)
    means = np.array([[[0.3, 0.4], [0.4, 0.1]], [[0.5, 0.55], [0.6, 0.3]]])
    spread = np.array([[-0.1, 0.1, 0.0], [0.05, -0.05, np.nan]])
    table = dissociate(make_accuracies(whole, means[:, None, :, :, None] + spread), resamples=7)
    assert list(table.columns) == list(DISSOCIATION.columns)
    assert table[["trained_on", "source", "layer", "depth", "fraction"]].drop_duplicates().values.tolist() == [
        ["joint", "toy faces", "trunk.conv2", 2, 0.2]
    ]
    keys = [[seed, quantity] for seed in (3, 4) for quantity in (*TASKS, "index")]
    assert table[["seed", "quantity"]].drop_duplicates().values.tolist() == keys
    for _, rows in table.groupby(["seed", "quantity"]):
        assert rows["resample"].tolist() == list(range(-1, 7))
    all_people = table[table["resample"] == -1]
    np.testing.assert_allclose(all_people["number"], [0.5, 0.5, (0.5 / 1 + 0.5 / 1.5) / 2, 0.375, 0.5, 1])
    assert set(all_people["reason"]) == {""}


def test_dissociation_in_a_draw_is_that_of_the_people_drawn() -> None:
    """Against people repeated as often as they are drawn."""
    accuracies = make_planted([0.7 * SEPARATE + 0.1, 0.5 * SHARED], people=7, noise=0.1)
    table = dissociate(accuracies, resamples=9, seed=4)
    weights = draw_weights(7, draws=9, generator=generator(4)).astype(int)
    for resample, weight in enumerate(weights):
        people = np.repeat(np.arange(7), weight)
        repeated = make_accuracies(accuracies.whole[..., people], accuracies.lesioned[..., people])
        expected = dissociate(repeated, resamples=1).query("resample == -1")["number"]
        np.testing.assert_allclose(table.loc[table["resample"] == resample, "number"], expected, atol=3e-9)


def test_equal_generators_pair_people() -> None:
    """Seeds with equal accuracies have equal draws; so have layers, fractions, and networks with double drops."""
    once = make_planted([0.3 * SEPARATE + 0.1] * 2, people=6, noise=0.1)
    same = make_accuracies(once.whole, once.lesioned[[0, 0]])
    table = dissociate(same, resamples=30)
    first, second = (table.loc[table["seed"] == seed, "number"].to_numpy() for seed in (3, 4))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) > 60  # draws differ
    twice = make_accuracies(once.whole, once.whole[:, None, None] + 2 * (same.lesioned - once.whole[:, None, None]))
    other = dissociate(twice, resamples=30, fraction=0.3).assign(fraction=0.2)
    scale = np.where(table["quantity"] == "index", 1, 2)
    np.testing.assert_allclose(other["number"], scale * table["number"], atol=1e-8)
    assert not dissociate(same, resamples=30, seed=1)["number"].equals(table["number"])


def test_dissociation_reasons() -> None:
    """Without the second person, identity is at chance; the third has no labels of identity."""
    whole = np.array([[[0.9, 0.9, 0.9], [0.1, 0.3, np.nan]]])
    lesioned = np.broadcast_to(whole[:, None, None] - np.array([[0.5], [0.0]]), (1, 1, 2, 2, 3)).copy()
    lesioned[:, :, 1, 0] = 0.9
    table = dissociate(make_accuracies(whole, lesioned), resamples=60)
    drawn = draw_weights(3, draws=60, generator=generator(0)) > 0
    below, unlabelled = "the whole network is not above chance on identity", "no test image is labelled for identity"
    reason = np.where(drawn[:, 1], "", np.where(drawn[:, 0], below, unlabelled))
    assert len(set(reason)) == 3
    for quantity in TASKS:
        rows = table[(table["quantity"] == quantity) & (table["resample"] >= 0)]
        assert rows["reason"].tolist() == reason.tolist()
        np.testing.assert_array_equal(rows["number"].isna(), reason != "")
    rows = table[(table["quantity"] == "index") & (table["resample"] >= 0)]
    harmless = "silencing the units chosen for identity harms neither task"
    assert rows["reason"].tolist() == np.where(reason == "", harmless, reason).tolist() and rows["number"].isna().all()


def test_at_fraction_zero_there_is_no_difference_and_no_index() -> None:
    """The lesioned network is the whole one, of people whose accuracies have no exact mean."""
    whole = generator(2).integers(2, 8, size=(2, 2, 11)) / 7
    table = dissociate(make_accuracies(whole, np.broadcast_to(whole[:, None, None], (2, 1, 2, 2, 11))), resamples=50)
    is_index = table["quantity"] == "index"
    assert (table.loc[~is_index, "number"] == 0).all() and table.loc[is_index, "number"].isna().all()
    assert set(table.loc[is_index, "reason"]) == {"silencing the units chosen for expression harms neither task"}


def test_dissociation_is_about_one_draw() -> None:
    with pytest.raises(StudyError, match="lesioned has 3 draws per seed; dissociation is about 1"):
        dissociate(make_planted([SEPARATE], draws=3))


# --- segregation, over seeds, draws and people


@pytest.mark.parametrize(("drops", "number"), [(SEPARATE, 1), (SHARED, 0), (SHARED - SEPARATE, -1)])
def test_planted_truth(drops: np.ndarray, number: int) -> None:
    """Separate units, shared units, units of the other task: without noise, intervals are points."""
    table = segregate(make_planted([drops] * 3, draws=4))
    assert table.index.tolist() == ["expression", "identity", "index"]
    np.testing.assert_allclose(table[["number", "low", "high"]], number, atol=1e-8)
    values = {"reason": "", "defined": 1, "seeds": 3, "people": 5, "condition": "ranked", "fraction": 0.2}
    assert (table[list(values)] == list(values.values())).all(axis=None)
    assert set(table.reset_index().columns) == set(SEGREGATION.columns)


def compute_slowly(
    accuracies: PeopleAccuracies, people: np.ndarray, seeds: np.ndarray, draws: list[np.ndarray]
) -> list[float]:
    """The quantities of one bootstrap draw, which has these people, seeds and, for each seed, draws of lesions."""
    by_seed = []
    for seed, seed_draws in zip(seeds, draws, strict=True):
        by_draw = []
        for draw in seed_draws:
            d = np.empty((2, 2))
            for lesion, task in np.ndindex(2, 2):
                whole = np.nanmean(accuracies.whole[seed, task, people])
                lesioned = np.nanmean(accuracies.lesioned[seed, draw, lesion, task, people])
                d[lesion, task] = (whole - lesioned) / (whole - accuracies.chance[task])
            c = np.where(d > 0, d, 0)
            terms = [(c[t, t] - c[t, 1 - t]) / (c[t, t] + c[t, 1 - t]) if c[t].any() else np.nan for t in (0, 1)]
            by_draw.append([d[0, 0] - d[0, 1], d[1, 1] - d[1, 0], sum(terms) / 2])
        by_seed.append(pd.DataFrame(by_draw).mean())
    return pd.DataFrame(by_seed).mean().tolist()


def test_intervals_against_a_slow_reference() -> None:
    """Two seeds, three draws, five people, one without identity; one lesion does nothing."""
    accuracies = make_planted([0.4 * SEPARATE, 0.1 * SHARED], people=5, draws=3, noise=0.3, seed=5)
    whole, lesioned = accuracies.whole.copy(), accuracies.lesioned.copy()
    whole[:, 1, 4] = lesioned[..., 1, 4] = np.nan
    lesioned[0, 2, 1] = whole[0]  # this lesion does nothing
    accuracies, random, resamples = make_accuracies(whole, lesioned), generator(6), 40
    people = draw_weights(5, draws=resamples, generator=random).astype(int)
    seeds = random.integers(2, size=(resamples, 2))
    draws = draw_weights(3, draws=2 * resamples, generator=random).astype(int).reshape(resamples, 2, 3)
    expected = []
    for r in range(resamples):
        drawn_lesions = [np.repeat(np.arange(3), weights) for weights in draws[r]]
        expected.append(compute_slowly(accuracies, np.repeat(np.arange(5), people[r]), seeds[r], drawn_lesions))
    table = segregate(accuracies, resamples=resamples, seed=6)
    np.testing.assert_allclose(table["low"], np.nanpercentile(expected, 2.5, axis=0), atol=1e-8)
    np.testing.assert_allclose(table["high"], np.nanpercentile(expected, 97.5, axis=0), atol=1e-8)
    np.testing.assert_allclose(table["defined"], (~np.isnan(expected)).mean(axis=0))
    all_data = compute_slowly(accuracies, np.arange(5), np.arange(2), [np.arange(3)] * 2)
    np.testing.assert_allclose(table["number"], all_data, atol=1e-8)
    assert table["people"].tolist() == [4] * 3
    harmless = "left out 1 of 6 seeds and draws: silencing the units chosen for identity harms neither task"
    assert table["reason"].to_dict() == {"expression": "", "identity": "", "index": harmless}


def make_null(seed: int, *, draws: int, people: int, spread: float) -> PeopleAccuracies:
    """One seed; both lesions have the same distribution, so that the expected index is 0."""
    random = generator(seed, "null")
    whole = random.binomial(7, 0.8, size=(1, 2, people)) / 7
    level = 0.6 + spread * random.uniform(-1, 1, size=(1, draws, 2, 2, 1))
    return make_accuracies(whole, random.binomial(7, np.broadcast_to(level, (1, draws, 2, 2, people))) / 7)


@pytest.mark.parametrize(("draws", "people", "spread"), [(1, 80, 0.0), (20, 30, 0.25)])
def test_exchangeable_lesions_have_an_index_of_zero(draws: int, people: int, spread: float) -> None:
    """What varies are people, or draws: 0 lies in the interval in 95 % of studies (here 120: within 2.5 errors)."""
    rows = []
    for seed in range(120):
        accuracies = make_null(seed, draws=draws, people=people, spread=spread)
        rows.append(segregate(accuracies, resamples=200, seed=seed).loc["index"])
    inside = [row["low"] <= 0 <= row["high"] for row in rows]
    assert 0.95 - 2.5 * np.sqrt(0.95 * 0.05 / 120) <= np.mean(inside) <= 0.99
    numbers = np.array([row["number"] for row in rows])
    assert abs(numbers.mean()) < 3 * numbers.std() / np.sqrt(120)


@pytest.mark.parametrize(
    ("draws", "between", "noise", "least", "most"),
    [(1, 0.1, 0.0, 0.55, 0.85), (1, 0.0, 0.2, 0.96, 1), (4, 0.0, 0.2, 0.96, 1)],
)
def test_how_often_the_interval_of_three_seeds_holds_the_truth(
    draws: int, between: float, noise: float, least: float, most: float
) -> None:
    """Three seeds that differ are all on one side of it in 1 of 4 studies. Noise of people alone counts twice.

    80 studies: a standard error of 0.05 at 3 of 4.
    """
    inside = []
    for seed in range(80):
        drops = 0.5 + between * generator(seed, "own").standard_normal(3)
        accuracies = make_planted(drops[:, None, None] * SEPARATE + 0.1, people=20, draws=draws, noise=noise, seed=seed)
        row = segregate(accuracies, resamples=400, seed=seed).loc["expression"]
        inside.append(row["low"] <= 0.5 <= row["high"])
    assert least <= np.mean(inside) <= most


def test_controls_with_more_draws_are_paired_by_people_and_seeds() -> None:
    """Equal draws of the lesions change nothing, because people and seeds are drawn first."""
    one = make_planted([0.5 * SEPARATE + 0.1, 0.2 * SHARED, SEPARATE], people=6, noise=0.3)
    many = make_accuracies(one.whole, np.repeat(one.lesioned, 4, axis=1))
    pd.testing.assert_frame_equal(segregate(one), segregate(many), rtol=1e-7)
    assert not segregate(one)["low"].equals(segregate(one, seed=1)["low"])


# --- missing numbers and intervals


def test_one_person_has_no_interval() -> None:
    table = segregate(make_planted([SEPARATE] * 3, people=1))
    assert set(table["reason"]) == {"1 person only: no interval"} and set(table["people"]) == {1}
    assert table["number"].tolist() == pytest.approx([1, 1, 1]) and table[["low", "high"]].isna().all(axis=None)
    assert not segregate(make_planted([SEPARATE] * 3, people=2))[["low", "high"]].isna().any(axis=None)


def test_seeds_without_an_index_are_left_out_of_the_index_only() -> None:
    """A quarter of the draws of two seeds takes the one without an index twice."""
    table = segregate(make_planted([0.5 * SEPARATE, np.zeros((2, 2))]), resamples=400)
    assert table["number"].tolist() == pytest.approx([0.25, 0.25, 1])
    index = table.loc["index"]
    assert np.isnan([index["low"], index["high"]]).all()
    assert index["defined"] == pytest.approx(0.75, abs=0.07)
    assert index["reason"] == (
        "left out 1 of 2 seeds: silencing the units chosen for expression harms neither task; "
        f"a number in {round(400 * index['defined'])} of 400 bootstrap draws only: no interval"
    )
    assert table.loc[list(TASKS), "reason"].tolist() == ["", ""]
    assert table.loc[list(TASKS), ["low", "high"]].to_numpy().ravel().tolist() == pytest.approx([0, 0.5] * 2, abs=1e-8)


def test_numbers_in_ninety_five_percent_of_draws_are_enough() -> None:
    """One seed of three without an index: one draw in 27 has no number, and 2 of 40 are the limit."""
    accuracies, counts = make_planted([0.5 * SEPARATE] * 2 + [np.zeros((2, 2))]), set()
    for seed in range(30):
        row = segregate(accuracies, resamples=40, seed=seed).loc["index"]
        counts.add(round(40 * row["defined"]))
        enough = round(40 * row["defined"]) >= 38
        assert row[["low", "high"]].isna().tolist() == [not enough] * 2
        assert row["reason"].startswith("left out 1 of 3 seeds: silencing")
        assert row["reason"].endswith("harms neither task") == enough
    assert {37, 38} <= counts


def test_all_reasons_for_a_missing_number_are_given() -> None:
    """The first seed is at chance on expression, the second has no labels of identity."""
    whole = np.array([[[0.2, 0.2], [0.5, 0.5]], [[0.8, 0.8], [np.nan, np.nan]]])
    table = segregate(make_accuracies(whole, np.repeat(whole[:, None, None] / 2, 2, axis=2)))
    assert table[["number", "low", "high"]].isna().all(axis=None) and set(table["defined"]) == {0}
    assert set(table["reason"]) == {
        "left out 2 of 2 seeds: no test image is labelled for identity, "
        "the whole network is not above chance on expression"
    }
    assert set(table["people"]) == {2}


# --- refusals


@pytest.mark.parametrize(
    ("whole", "lesioned", "chance", "seeds"),
    [
        ((3, 2, 5), (3, 4, 2, 2, 6), (2,), 3),
        ((3, 2, 5), (3, 2, 2, 5), (2,), 3),
        ((3, 1, 5), (3, 4, 2, 1, 5), (2,), 3),
        ((3, 2, 5), (3, 4, 2, 2, 5), (), 3),
        ((3, 2, 5), (3, 4, 2, 2, 5), (2,), 2),
        ((3, 2, 0), (3, 4, 2, 2, 0), (2,), 3),
        ((3, 2, 5), (3, 0, 2, 2, 5), (2,), 3),
        ((0, 2, 5), (0, 4, 2, 2, 5), (2,), 0),
        ((), (), (), 1),
    ],
)
def test_shapes_that_do_not_fit_are_refused(whole: Any, lesioned: Any, chance: Any, seeds: int) -> None:
    shapes = (
        f"whole {whole}, lesioned {lesioned}, chance {chance} and {seeds} seeds do not fit together; wanted: (seeds, "
    )
    with pytest.raises(StudyError, match=re.escape(shapes)):
        PeopleAccuracies(np.ones(whole), np.ones(lesioned), np.ones(chance), TASKS, tuple(range(seeds)))


WHOLE, LESIONED = np.full((1, 2, 3), 0.5), np.full((1, 1, 2, 2, 3), 0.5)
HIGH, MISSING = np.array([[2.5], [0.5]]), np.where(np.arange(3) == 1, np.nan, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"whole": WHOLE * HIGH}, "whole accuracies from 0.25 to 1.25; allowed: shares, 0 to 1"),
        ({"lesioned": LESIONED * HIGH}, "lesioned accuracies from 0.25 to 1.25; allowed"),
        ({"chance": np.array([1.25, 0.25])}, "chance accuracies from 0.25 to 1.25; allowed"),
        ({"lesioned": np.where(np.arange(3) == 1, -0.5, LESIONED)}, "lesioned accuracies from -0.5 to 0.5; allowed"),
        ({"whole": WHOLE * MISSING}, "an accuracy whole or lesioned only; test both on the same images"),
        ({"lesioned": LESIONED * MISSING}, "an accuracy whole or lesioned only; test both on the same images"),
        ({"tasks": ("age", "age")}, "tasks ('age', 'age'): allowed are two different names"),
        (
            {"tasks": ("age", "index")},
            "tasks ('age', 'index'): allowed are two different names, neither of them 'index'",
        ),
    ],
)
def test_values_and_names_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        make_accuracies(**{"whole": WHOLE, "lesioned": LESIONED} | changes)


def test_people_without_labels_do_not_count() -> None:
    assert count_people(make_accuracies(WHOLE * MISSING, LESIONED * MISSING).whole) == 2
