"""Segregation: numbers by hand, planted and absent segregation, laws, a slow reference, and reasons for no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facespec.analyses.resampling import draw_weights
from facespec.analyses.segregation import (
    LesionSite,
    PeopleAccuracies,
    compute_relative_drop,
    compute_segregation_index,
    explain_no_drop,
    tabulate_dissociation,
    tabulate_segregation,
)
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables_lesions import DISSOCIATION, SEGREGATION

TASKS = ("expression", "identity")
PLACE = LesionSite(trained_on="joint", source="toy faces", layer="trunk.conv2", depth=2)
CHANCE = np.array([0.2, 0.1])
SHARED = np.array([[1.0, 1.0], [1.0, 1.0]])  # drops: each lesion harms both tasks
APART = np.eye(2)
drops_of = arrays(np.float64, (2, 2), elements=st.floats(-3, 3, width=32))


def people_tested(
    whole: np.ndarray, lesioned: np.ndarray, *, chance: np.ndarray = CHANCE, **names: Any
) -> PeopleAccuracies:
    return PeopleAccuracies(
        whole, lesioned, chance, **{"tasks": TASKS, "seeds": tuple(range(3, 3 + len(whole))), **names}
    )


def planted(
    drops: np.ndarray, *, people: int = 5, draws: int = 1, noise: float = 0.0, seed: int = 0
) -> PeopleAccuracies:
    """People whose accuracies have `drops` (seeds, 2, 2), up to noise that differs between people and lesions."""
    whole = np.broadcast_to(np.array([0.8, 0.6])[:, None], (len(drops), 2, people))
    lesioned = 0.8 * APART[0] + 0.6 * APART[1] - np.asarray(drops)[:, None] * ([0.8, 0.6] - CHANCE)
    spread = noise * (generator(seed).random((len(drops), draws, 2, 2, people)) - 0.5)
    return people_tested(whole, lesioned[..., None] + spread)


def dissociated(found: PeopleAccuracies, *, resamples: int = 20, seed: int = 0, fraction: float = 0.2) -> pd.DataFrame:
    return tabulate_dissociation(found, PLACE, fraction=fraction, resamples=resamples, generator=generator(seed))


def segregated(found: PeopleAccuracies, *, resamples: int = 100, seed: int = 0) -> pd.DataFrame:
    rows = tabulate_segregation(
        found, PLACE, condition="ranked", fraction=0.2, resamples=resamples, generator=generator(seed)
    )
    return rows.set_index("quantity")


# --- drops and the index


def test_drops_by_hand() -> None:
    """Chance a quarter: half of what is above it, all, none, more than all, a gain; a column of tasks broadcasts."""
    drops = compute_relative_drop(0.75, [0.5, 0.25, 0.75, 0.0, 1.0], 0.25)
    assert drops.tolist() == [0.5, 1, 0, 1.5, -0.5]
    assert compute_relative_drop([0.5, 0.9], np.full((3, 1), 0.1), [0.1, 0.5]).tolist() == [[1, 2]] * 3


@pytest.mark.parametrize("whole", [0.25, 0.2, 0.1 + 0.15, 0.25 + 1e-16, np.nan])
def test_without_an_accuracy_above_chance_there_is_no_drop(whole: float) -> None:
    assert np.isnan(compute_relative_drop(whole, 0.1, 0.25))
    assert str(explain_no_drop(whole, 0.25, "age")) == (
        "no test image is labelled for age" if np.isnan(whole) else "the whole network is not above chance on age"
    )


def test_no_drop_says_nothing_where_there_is_one() -> None:
    assert explain_no_drop([0.3, 0.2, np.nan], 0.25, "age").tolist() == [
        "",
        "the whole network is not above chance on age",
        "no test image is labelled for age",
    ]


def test_equal_accuracies_are_equal_whatever_order_they_were_summed_in() -> None:
    """0.1 + 0.2 is not 0.3 in floating point: no lesion may seem to harm a task by that."""
    drops = compute_relative_drop(0.3, [0.1 + 0.2, 0.3], 0.1)
    assert drops.tolist() == [0, 0] and not np.signbit(drops).any()
    assert compute_relative_drop(0.7, 0.1 + 0.2, 0.3) == 1


def test_index_by_hand() -> None:
    """Rows are lesions. (.6 - .2) / .8 = 1/2 and (.3 - .1) / .4 = 1/2; then own .1 and other .3, for both."""
    drops = [[[0.6, 0.2], [0.1, 0.3]], [[0.1, 0.3], [0.9, 0.3]], [[0.5, -0.4], [0.2, 0.2]]]
    np.testing.assert_allclose(compute_segregation_index(drops), [0.5, -0.5, 0.5])
    np.testing.assert_array_equal(compute_segregation_index([APART, SHARED, SHARED - APART]), [1, 0, -1])


@pytest.mark.parametrize("drops", [[[0, 0], [0, 1]], [[1, 0], [-0.1, -0.2]], [[np.nan, 1], [0, 1]]])
def test_no_index_where_a_lesion_harms_nothing_or_a_drop_is_missing(drops: list[list[float]]) -> None:
    assert np.isnan(compute_segregation_index(drops))


@given(drops_of, st.floats(0.01, 100))
@example(np.array([[0.5, 0.1], [0.3, 0.2]]), 3.0)
def test_laws_of_the_index(drops: np.ndarray, factor: float) -> None:
    """It is bounded, knows no scale, stays if tasks and lesions change places, and turns round if one of them does."""
    index = compute_segregation_index(drops)
    assert -1 <= index <= 1 or (np.isnan(index) and (drops <= 0).all(axis=1).any())
    np.testing.assert_allclose(compute_segregation_index(drops[::-1, ::-1]), index, atol=1e-12)
    np.testing.assert_allclose(compute_segregation_index(drops[::-1]), -index, atol=1e-12)
    np.testing.assert_allclose(compute_segregation_index(drops[:, ::-1]), -index, atol=1e-12)
    np.testing.assert_allclose(compute_segregation_index(drops * factor), index, atol=1e-9)
    np.testing.assert_allclose(
        compute_segregation_index(drops * [[factor], [1]]), index, atol=1e-9
    )  # a lesion at a time


@given(*[st.floats(0, 1)] * 3, st.floats(0.1, 1), st.floats(-0.5, 0.5))
def test_drops_do_not_depend_on_the_scale_of_accuracies(
    whole: float, lesioned: float, chance: float, factor: float, shift: float
) -> None:
    assume(whole - chance > 1e-3)
    moved = (factor * np.array([whole, lesioned, chance])) + shift
    np.testing.assert_allclose(
        compute_relative_drop(*moved), compute_relative_drop(whole, lesioned, chance), rtol=1e-9, atol=3e-9
    )


# --- dissociation, seed by seed


def by_hand() -> PeopleAccuracies:
    """Two seeds and three people, the last without images of identity.

    Means, whole: .6 and .5; minus chance .4 and .4. The first seed's drops, rows are lesions: .75 .25, .5 1.
    The second's: .25 -.125, 0 .5.
    """
    whole = np.array([[[0.4, 0.6, 0.8], [0.3, 0.7, np.nan]]] * 2)
    means = np.array([[[0.3, 0.4], [0.4, 0.1]], [[0.5, 0.55], [0.6, 0.3]]])
    spread = np.array([[-0.1, 0.1, 0.0], [0.05, -0.05, np.nan]])
    return people_tested(whole, means[:, None, :, :, None] + spread)


def test_dissociation_by_hand() -> None:
    found = dissociated(by_hand(), resamples=7)
    assert list(found.columns) == list(DISSOCIATION.columns)
    assert found[["trained_on", "source", "layer", "depth", "fraction"]].drop_duplicates().values.tolist() == [
        ["joint", "toy faces", "trunk.conv2", 2, 0.2]
    ]
    assert found[["seed", "quantity"]].drop_duplicates().values.tolist() == [
        [seed, quantity] for seed in (3, 4) for quantity in (*TASKS, "index")
    ]
    for _, rows in found.groupby(["seed", "quantity"]):
        assert rows["resample"].tolist() == list(range(-1, 7))
    everybody = found[found["resample"] == -1]
    index = [(0.5 / 1 + 0.5 / 1.5) / 2, 1]
    np.testing.assert_allclose(everybody["number"], [0.5, 0.5, index[0], 0.375, 0.5, index[1]])
    assert set(everybody["reason"]) == {""}


def test_dissociation_in_a_draw_is_that_of_the_people_drawn() -> None:
    """By the slow road: people repeated as often as they are drawn."""
    found = planted([0.7 * APART + 0.1, 0.5 * SHARED], people=7, noise=0.1)
    table = dissociated(found, resamples=9, seed=4)
    weights = draw_weights(7, draws=9, generator=generator(4)).astype(int)
    for resample, weight in enumerate(weights):
        people = np.repeat(np.arange(7), weight)
        again = dissociated(people_tested(found.whole[..., people], found.lesioned[..., people]), resamples=1)
        np.testing.assert_allclose(
            table.loc[table["resample"] == resample, "number"], again.loc[again["resample"] == -1, "number"], atol=3e-9
        )


def test_equal_generators_pair_people() -> None:
    """Seeds with equal accuracies have equal draws; so have layers, fractions, and networks with twice the drops."""
    once = planted([0.3 * APART + 0.1] * 2, people=6, noise=0.1)
    same = people_tested(once.whole, once.lesioned[[0, 0]])
    table = dissociated(same, resamples=30)
    first, second = (table.loc[table["seed"] == seed, "number"].to_numpy() for seed in (3, 4))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) > 60  # draws differ
    twice = people_tested(once.whole, once.whole[:, None, None] + 2 * (same.lesioned - once.whole[:, None, None]))
    other = dissociated(twice, resamples=30, fraction=0.3).assign(fraction=0.2)
    scale = np.where(table["quantity"] == "index", 1, 2)
    np.testing.assert_allclose(other["number"], scale * table["number"], atol=1e-8)
    assert not dissociated(same, resamples=30, seed=1)["number"].equals(table["number"])


def test_dissociation_reasons() -> None:
    """By person: the first sees all; without the second, identity is at chance; the third has no labels of identity."""
    whole = np.array([[[0.9, 0.9, 0.9], [0.1, 0.3, np.nan]]])
    lesioned = np.broadcast_to(whole[:, None, None] - np.array([[0.5], [0.0]]), (1, 1, 2, 2, 3)).copy()
    lesioned[:, :, 1, 0] = 0.9
    table = dissociated(people_tested(whole, lesioned), resamples=60)
    drawn = draw_weights(3, draws=60, generator=generator(0)) > 0
    reason = np.where(
        drawn[:, 1],
        "",
        np.where(
            drawn[:, 0], "the whole network is not above chance on identity", "no test image is labelled for identity"
        ),
    )
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
    table = dissociated(people_tested(whole, np.broadcast_to(whole[:, None, None], (2, 1, 2, 2, 11))), resamples=50)
    rows = table.groupby("quantity")
    assert all((rows.get_group(task)["number"] == 0).all() for task in TASKS)
    assert rows.get_group("index")["number"].isna().all()
    assert set(rows.get_group("index")["reason"]) == {"silencing the units chosen for expression harms neither task"}


def test_dissociation_is_about_one_draw() -> None:
    with pytest.raises(StudyError) as caught:
        dissociated(planted([APART], draws=3))
    assert str(caught.value) == "lesioned has 3 draws per seed; dissociation is about 1. Use `segregation_rows`."


# --- segregation, over seeds, draws and people


def test_planted_truth() -> None:
    """Two disjoint halves, one shared set, opposite halves: without noise, intervals are points."""
    for drops, index, difference in ((APART, 1, 1), (SHARED, 0, 0), (SHARED - APART, -1, -1)):
        found = segregated(planted([drops] * 3, draws=4))
        np.testing.assert_allclose(found.loc["index", ["number", "low", "high"]].astype(float), index, atol=1e-8)
        np.testing.assert_allclose(
            found.loc["identity", ["number", "low", "high"]].astype(float), difference, atol=1e-8
        )
        assert set(found["reason"]) == {""} and set(found["defined"]) == {1}
        assert set(found["seeds"]) == {3} and set(found["people"]) == {5}
        assert set(found["condition"]) == {"ranked"} and set(found["fraction"]) == {0.2}
    assert list(found.reset_index()[list(SEGREGATION.columns)].columns) == list(SEGREGATION.columns)
    assert found.index.tolist() == ["expression", "identity", "index"]


def test_mixtures_lie_between_and_rise() -> None:
    """A share s of each task's units is its own alone: own drop .8, other .8 (1 - s); index s / (2 - s)."""
    shares = np.array([0, 0.2, 0.5, 0.8, 1.0])
    rows = [
        segregated(planted([0.8 * (APART + (1 - s) * (SHARED - APART))] * 3, people=60, noise=0.2, seed=8)).loc["index"]
        for s in shares
    ]
    found, truth = pd.DataFrame(rows), shares / (2 - shares)
    assert (np.diff(found["number"]) > 0.05).all()
    np.testing.assert_allclose(found["number"], truth, atol=0.02)
    inside = (found["low"] <= truth) & (truth <= found["high"])
    assert inside[:4].all()  # at the end, noise can only lower the index
    assert ((found["high"] - found["low"])[:4] < 0.1).all()


def test_three_seeds_that_differ_bound_the_interval() -> None:
    """27 draws are equally likely; one of them takes the first seed three times: more than 2.5 %."""
    drops = [APART * 0.5 + 0.1, APART * 0.7 + 0.1, SHARED * 0.3]
    found = segregated(planted(drops), resamples=2000).loc["expression"]
    assert found[["number", "low", "high"]].tolist() == pytest.approx([0.4, 0, 0.7], abs=1e-8)


def slow(found: PeopleAccuracies, people: np.ndarray, picked: np.ndarray, drawn: np.ndarray) -> list[float]:
    """The quantities of one bootstrap draw: who is drawn, which seeds, and for each of these which draws."""
    by_seed = []
    for seed, draws in zip(picked, drawn, strict=True):
        by_draw = []
        for draw in draws:
            d = np.empty((2, 2))
            for lesion, task in np.ndindex(2, 2):
                whole = np.nanmean(found.whole[seed, task, people])
                left = np.nanmean(found.lesioned[seed, draw, lesion, task, people])
                d[lesion, task] = (whole - left) / (whole - found.chance[task])
            c = np.where(d > 0, d, 0)
            terms = [(c[t, t] - c[t, 1 - t]) / (c[t, t] + c[t, 1 - t]) if c[t].any() else np.nan for t in (0, 1)]
            by_draw.append([d[0, 0] - d[0, 1], d[1, 1] - d[1, 0], sum(terms) / 2])
        by_seed.append(pd.DataFrame(by_draw).mean())
    return pd.DataFrame(by_seed).mean().tolist()


def test_intervals_against_a_slow_reference() -> None:
    """Two seeds, three draws, five people, one without identity; one lesion does nothing."""
    found = planted([0.4 * APART, 0.1 * SHARED], people=5, draws=3, noise=0.3, seed=5)
    whole, lesioned = found.whole.copy(), found.lesioned.copy()
    whole[:, 1, 4] = lesioned[..., 1, 4] = np.nan
    lesioned[0, 2, 1] = whole[0]  # this lesion does nothing
    found = people_tested(whole, lesioned)
    random, resamples = generator(6), 40
    people = draw_weights(5, draws=resamples, generator=random).astype(int)
    picked = random.integers(2, size=(resamples, 2))
    draws = draw_weights(3, draws=2 * resamples, generator=random).astype(int).reshape(resamples, 2, 3)
    expected = np.array(
        [
            slow(found, np.repeat(np.arange(5), people[r]), picked[r], [np.repeat(np.arange(3), w) for w in draws[r]])
            for r in range(resamples)
        ]
    )
    table = segregated(found, resamples=resamples, seed=6)
    np.testing.assert_allclose(table["low"], np.nanpercentile(expected, 2.5, axis=0), atol=1e-8)
    np.testing.assert_allclose(table["high"], np.nanpercentile(expected, 97.5, axis=0), atol=1e-8)
    np.testing.assert_allclose(table["defined"], (~np.isnan(expected)).mean(axis=0))
    everything = slow(found, np.arange(5), np.arange(2), [np.arange(3)] * 2)
    np.testing.assert_allclose(table["number"], everything, atol=1e-8)
    assert table["people"].tolist() == [4] * 3
    assert table.loc["index", "reason"] == (
        "left out 1 of 6 seeds and draws: silencing the units chosen for identity harms neither task"
    )
    assert table.loc["expression", "reason"] == ""


def null_study(seed: int, *, draws: int, people: int, spread: float) -> PeopleAccuracies:
    """One seed; both lesions come from one distribution, so that they can change places and the index is 0."""
    random = generator(seed, "null")
    whole = random.binomial(7, 0.8, size=(1, 2, people)) / 7
    level = 0.6 + spread * random.uniform(-1, 1, size=(1, draws, 2, 2, 1))
    return people_tested(whole, random.binomial(7, np.broadcast_to(level, (1, draws, 2, 2, people))) / 7)


@pytest.mark.parametrize(("draws", "people", "spread"), [(1, 80, 0.0), (20, 30, 0.25)])
def test_exchangeable_lesions_have_an_index_of_zero(draws: int, people: int, spread: float) -> None:
    """What varies are people, or draws: 0 lies in the interval in 95 % of studies (here 120: within 2.5 errors)."""
    found = [
        segregated(null_study(seed, draws=draws, people=people, spread=spread), resamples=200, seed=seed).loc["index"]
        for seed in range(120)
    ]
    inside = [row["low"] <= 0 <= row["high"] for row in found]
    assert 0.95 - 2.5 * np.sqrt(0.95 * 0.05 / 120) <= np.mean(inside) <= 0.99
    numbers = np.array([row["number"] for row in found])
    assert abs(numbers.mean()) < 3 * numbers.std() / np.sqrt(120)


@pytest.mark.parametrize(
    ("draws", "between", "noise", "least", "most"),
    [(1, 0.1, 0.0, 0.55, 0.85), (1, 0.0, 0.2, 0.96, 1), (4, 0.0, 0.2, 0.96, 1)],
)
def test_how_often_the_interval_of_three_seeds_holds_the_truth(
    draws: int, between: float, noise: float, least: float, most: float
) -> None:
    """Seeds that differ lie all three on one side of it in 1 of 4 studies. People's noise alone counts twice.

    80 studies: a standard error of 0.05 at 3 of 4. Bootstrap draws that are not all there are shorten the interval.
    """
    inside = []
    for seed in range(80):
        own = 0.5 + between * generator(seed, "own").standard_normal(3)
        study = planted(own[:, None, None] * APART + 0.1, people=20, draws=draws, noise=noise, seed=seed)
        found = segregated(study, resamples=400, seed=seed).loc["expression"]
        inside.append(found["low"] <= 0.5 <= found["high"])
    assert least <= np.mean(inside) <= most


def test_fewer_people_or_draws_make_wider_intervals() -> None:
    """By the root of their number: four times as many halve the interval."""

    def width(**sizes: Any) -> float:
        wide = [segregated(null_study(seed, **sizes), seed=seed).loc["index"] for seed in range(10)]
        return float(np.mean([row["high"] - row["low"] for row in wide]))

    by_people = [width(people=people, draws=1, spread=0.0) for people in (20, 80, 320)]
    by_draws = [width(people=200, draws=draws, spread=0.2) for draws in (5, 20, 80)]
    np.testing.assert_allclose(np.divide(by_people[:-1], by_people[1:]), 2, rtol=0.25)
    np.testing.assert_allclose(np.divide(by_draws[:-1], by_draws[1:]), 2, rtol=0.25)


def test_controls_with_more_draws_are_paired_by_people_and_seeds() -> None:
    """Draws of the lesions that are all alike change nothing, because people and seeds are drawn first."""
    one = planted([0.5 * APART + 0.1, 0.2 * SHARED, APART], people=6, noise=0.3)
    many = people_tested(one.whole, np.repeat(one.lesioned, 4, axis=1))
    pd.testing.assert_frame_equal(segregated(one), segregated(many), rtol=1e-7)
    assert not segregated(one)["low"].equals(segregated(one, seed=1)["low"])


# --- where there is no number, or no interval


def test_one_person_has_no_interval() -> None:
    found = segregated(planted([APART] * 3, people=1))
    assert set(found["reason"]) == {"1 person only: no interval"} and set(found["people"]) == {1}
    assert found["number"].tolist() == pytest.approx([1, 1, 1]) and found[["low", "high"]].isna().all(axis=None)
    assert not segregated(planted([APART] * 3, people=2))[["low", "high"]].isna().any(axis=None)


def test_seeds_without_an_index_are_left_out_of_it_alone() -> None:
    """A quarter of the draws of two seeds takes the one without an index twice."""
    found = segregated(planted([0.5 * APART, np.zeros((2, 2))]), resamples=400)
    assert found["number"].tolist() == pytest.approx([0.25, 0.25, 1])
    index = found.loc["index"]
    assert np.isnan([index["low"], index["high"]]).all()
    assert index["defined"] == pytest.approx(0.75, abs=0.07)
    assert index["reason"] == (
        "left out 1 of 2 seeds: silencing the units chosen for expression harms neither task; "
        f"a number in {round(400 * index['defined'])} of 400 bootstrap draws only: no interval"
    )
    assert found.loc[list(TASKS), "reason"].tolist() == ["", ""]
    assert found.loc[list(TASKS), ["low", "high"]].to_numpy().ravel().tolist() == pytest.approx([0, 0.5] * 2, abs=1e-8)


def test_ninety_five_percent_of_draws_are_enough() -> None:
    """One seed of three without an index: one draw in 27 has no number, in 40 draws 2 just may."""
    study = planted([0.5 * APART] * 2 + [np.zeros((2, 2))])
    for seed in range(30):
        found = segregated(study, resamples=40, seed=seed).loc["index"]
        enough = round(40 * found["defined"]) >= 38
        assert found[["low", "high"]].isna().tolist() == [not enough] * 2
        assert found["reason"].startswith("left out 1 of 3 seeds: silencing")
        assert found["reason"].endswith("harms neither task") == enough
    counts = {round(40 * segregated(study, resamples=40, seed=seed)["defined"]["index"]) for seed in range(30)}
    assert {37, 38} <= counts


def test_without_any_number() -> None:
    """The first seed is at chance on expression, the second has no labels of identity: both reasons are given."""
    whole = np.array([[[0.2, 0.2], [0.5, 0.5]], [[0.8, 0.8], [np.nan, np.nan]]])
    found = segregated(people_tested(whole, np.repeat(whole[:, None, None] / 2, 2, axis=2)))
    assert found[["number", "low", "high"]].isna().all(axis=None) and set(found["defined"]) == {0}
    assert set(found["reason"]) == {
        "left out 2 of 2 seeds: no test image is labelled for identity, "
        "the whole network is not above chance on expression"
    }
    assert set(found["people"]) == {2}


# --- at the door


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
    with pytest.raises(StudyError) as caught:
        PeopleAccuracies(np.ones(whole), np.ones(lesioned), np.ones(chance), TASKS, tuple(range(seeds)))
    assert str(caught.value) == (
        f"whole {whole}, lesioned {lesioned}, chance {chance} and {seeds} seeds do not fit together; wanted: "
        "(seeds, 2, people), (seeds, draws, 2, 2, people) and (2,), with at least 1 of each."
    )


def test_values_that_are_no_accuracies_are_refused() -> None:
    whole, lesioned = np.full((1, 2, 3), 0.5), np.full((1, 1, 2, 2, 3), 0.5)
    wide = np.array([[2.5], [0.5]])
    wrong = {
        "whole": (whole * wide, lesioned, CHANCE),
        "lesioned": (whole, lesioned * wide, CHANCE),
        "chance": (whole, lesioned, wide[:, 0] / [2, 2]),
    }
    for name, values in wrong.items():
        with pytest.raises(StudyError) as caught:
            people_tested(values[0], values[1], chance=values[2])
        assert str(caught.value) == f"{name} accuracies from 0.25 to 1.25; allowed: shares, 0 to 1."
    with pytest.raises(StudyError) as caught:
        people_tested(whole, np.where(np.arange(3) == 1, -0.5, lesioned))
    assert str(caught.value) == "lesioned accuracies from -0.5 to 0.5; allowed: shares, 0 to 1."


def test_people_are_tested_whole_and_lesioned() -> None:
    whole, lesioned = np.full((1, 2, 3), 0.5), np.full((1, 1, 2, 2, 3), 0.5)
    blind = np.where(np.arange(3) == 1, np.nan, 1)
    for one, other in ((whole * blind, lesioned), (whole, lesioned * blind)):
        with pytest.raises(StudyError) as caught:
            people_tested(one, other)
        assert str(caught.value) == "some people have an accuracy whole or lesioned only; test both on the same images."
    assert people_tested(whole * blind, lesioned * blind).people == 2


@pytest.mark.parametrize("tasks", [("age", "age"), ("age", "index")])
def test_names_of_tasks_must_tell_quantities_apart(tasks: tuple[str, str]) -> None:
    with pytest.raises(StudyError) as caught:
        people_tested(np.ones((1, 2, 3)), np.ones((1, 1, 2, 2, 3)), tasks=tasks)
    assert str(caught.value) == f"tasks {tasks}: allowed are two different names, neither of them 'index'."
