"""Matched damage: by hand, against a walk along the curves, laws, planted truths, and how curves are designed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.analyses.lesions import Search, design_curves, plan_late_points
from facespec.analyses.resampling import draw_weights
from facespec.analyses.segregation import (
    DamageCurves,
    LesionSite,
    PeopleAccuracies,
    arrange_curves,
    match_damage,
    tabulate_dissociation,
    tabulate_segregation,
)
from facespec.checks.intervals import judge_negligible
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables_lesions import DISSOCIATION, SEGREGATION

TASKS = ("expression", "identity")
SITE = LesionSite(trained_on="joint", source="toy faces", layer="trunk.conv2", depth=2)
CHANCE, WHOLE = np.array([0.2, 0.1]), np.array([0.8, 0.6])


# --- where a curve reaches the damage


def test_by_hand() -> None:
    """Half is lost half-way between the second and the third point, at once, and never."""
    target = [[0.1, 0.4, 0.6, 0.9], [1.0, 1.0, 1.0, 1.0], [0.1, 0.2, 0.3, 0.49]]
    needed, other = match_damage(target, [0.2, 0.2, 0.4, 1.0], [1, 2, 4, 8], damage=0.5)
    np.testing.assert_allclose(needed, [3, 0.5, np.nan])
    np.testing.assert_allclose(other, [0.3, 0.1, np.nan])


def test_the_first_place_counts_and_a_point_may_be_the_place_itself() -> None:
    needed, other = match_damage([0.6, 0.2, 0.5, 1.0], [0.0, 0.0, 0.7, 1.0], [1, 2, 3, 4], damage=0.5)
    np.testing.assert_allclose([needed, other], [0.5 / 0.6, 0])
    needed, other = match_damage([-0.2, 0.5, 0.1], [0.1, 0.3, 1.0], [1, 2, 3], damage=0.5)
    assert (float(needed), float(other)) == (2, 0.3)


def test_without_drops_there_is_no_place() -> None:
    for target, other in (([np.nan] * 2, [0.5, 1.0]), ([0.4, 1.0], [np.nan] * 2)):
        assert np.isnan(match_damage(target, other, [1, 2], damage=0.5)[1])
    assert np.isnan(match_damage([np.nan] * 2, [0.5, 1.0], [1, 2], damage=0.5)[0])


def walk(target: Sequence[float], other: Sequence[float], silenced: Sequence[float], damage: float) -> list[float]:
    """Silenced units and the other task's drop, step by step along straight lines."""
    before = (0.0, 0.0, 0.0)
    for after in zip(target, other, silenced, strict=True):
        if after[0] >= damage:
            way = (damage - before[0]) / (after[0] - before[0])
            return [before[2] + way * (after[2] - before[2]), before[1] + way * (after[1] - before[1])]
        before = after
    return [np.nan, np.nan]


def find_middles(curve: np.ndarray) -> np.ndarray:
    """The values half-way from each point's predecessor, 0 for the first, to the point."""
    return (np.concatenate([[0.0], curve[:-1]]) + curve) / 2


Drops = st.lists(st.tuples(*[st.floats(-1, 1.5, width=16)] * 2), min_size=1, max_size=6)


@given(Drops, st.floats(0.05, 0.95))
def test_curves_against_a_walk_and_their_laws(drops: list[tuple[float, float]], damage: float) -> None:
    """Names and order-preserving counts of units do not matter, nor do points on the lines; more is needed for more."""
    target, other = np.array(drops).T
    silenced = np.arange(1, len(drops) + 1) / len(drops)
    needed, other_drop = match_damage(target, other, silenced, damage=damage)
    np.testing.assert_allclose([needed, other_drop], walk(target, other, silenced, damage), atol=2e-9)
    _, relabelled = match_damage(target, other, silenced**3 + 2 * silenced, damage=damage)
    np.testing.assert_array_equal(relabelled, other_drop)
    _, same = match_damage(target, target, silenced, damage=damage)
    assert np.isnan(needed) or same == pytest.approx(damage, abs=1e-9), "equal curves differ"
    curves = [np.insert(curve, np.arange(len(curve)), find_middles(curve)) for curve in (target, other, silenced)]
    np.testing.assert_allclose(match_damage(*curves, damage=damage), [needed, other_drop], atol=2e-9)
    less, _ = match_damage(target, other, silenced, damage=damage / 2)
    assert np.isnan(needed) or less <= needed


# --- differences and the index


def make_curves(
    drops: np.ndarray, *, damage: float = 0.5, people: int = 5, noise: float = 0.0, seed: int = 0
) -> DamageCurves:
    """From `drops` (seeds, draws, 2 lesions, points, 2 tasks), with noise that differs between people and points."""
    seeds, draws, _, points, _ = drops.shape
    accuracies = WHOLE - drops * (WHOLE - CHANCE)
    spread = noise * (generator(seed).random((*drops.shape, people)) - 0.5)
    lesioned = np.clip(accuracies[..., None] + spread, 0, 1).swapaxes(2, 3)
    whole = np.broadcast_to(WHOLE[:, None], (seeds, 2, people))
    shape = (seeds, draws * points, 2, 2, people)
    fixed = PeopleAccuracies(whole, lesioned.reshape(shape), CHANCE, TASKS, tuple(range(3, 3 + seeds)))
    silenced = np.broadcast_to(np.arange(1, points + 1) / points, drops.shape[:-1])
    return DamageCurves(fixed, silenced, damage)


def plant(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    """Drops of one seed and draw: what the task whose units are lesioned loses, and what the other does."""
    target, other = np.array([first, second])
    return np.stack([np.stack([target, other], -1), np.stack([other, target], -1)])[None, None]


def segregate(curves: DamageCurves, resamples: int = 100) -> pd.DataFrame:
    options = {"condition": "ranked", "resamples": resamples}
    return tabulate_segregation(curves, SITE, **options, generator=generator(0)).set_index("quantity")


RISE, NOTHING = (0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("damage", [0.1, 0.25, 0.4, 0.7])
@pytest.mark.parametrize(
    ("other", "share"), [(RISE, 0.0), (NOTHING, 1.0), (tuple(0.5 * drop for drop in RISE), 0.5), ((1.0,) * 4, np.nan)]
)
def test_planted_truth(damage: float, other: Sequence[float], share: float) -> None:
    """Shared units, separate units, half of the harm, more harm. `share` of the damage is the difference."""
    table = segregate(make_curves(np.repeat(plant(RISE, other), 3, axis=0), damage=damage))
    if not np.isnan(share):
        expected = [share * damage] * 2 + [share / (2 - share)]
        np.testing.assert_allclose(table[["number", "low", "high"]], np.transpose([expected] * 3), atol=1e-8)
    assert (table["number"] < 0).all() == np.isnan(share)
    np.testing.assert_allclose(table["needed"], [damage, damage, np.nan])
    assert table["fraction"].isna().all() and set(table["damage"]) == {damage} and set(table["defined"]) == {1}
    assert set(table.reset_index().columns) == set(SEGREGATION.columns)


def test_a_damage_that_is_never_reached_has_a_reason() -> None:
    """Half of the layer's lesions leave .4: as in a network with a way around the layer."""
    drops = plant(RISE, NOTHING)
    drops[..., 1, :, 1] *= 0.4  # identity, under the lesion of its own units
    curves = make_curves(np.concatenate([plant(RISE, NOTHING), drops]))
    table = tabulate_dissociation(curves, SITE, resamples=20, generator=generator(0))
    assert list(table.columns) == list(DISSOCIATION.columns)
    reason = "silencing the units chosen for identity does not cost it 0.5"
    for (seed, quantity), rows in table.groupby(["seed", "quantity"]):
        undefined = seed == 4 and quantity != "expression"
        assert set(rows["reason"]) == {reason if undefined else ""} and rows["number"].isna().all() == undefined
    rows = segregate(curves)
    assert rows["reason"].str.startswith(f"left out 1 of 2 seeds: {reason}").tolist() == [False, True, True]
    np.testing.assert_allclose(rows["number"], [0.5, 0.5, 1], atol=1e-8)


def test_a_task_at_chance_has_a_reason() -> None:
    curves = make_curves(plant(RISE, NOTHING))
    below = replace(curves, points=replace(curves.points, chance=np.array([0.2, 0.6])))
    table = tabulate_dissociation(below, SITE, resamples=5, generator=generator(0))
    assert set(table["reason"]) == {"the whole network is not above chance on identity"}
    assert table["number"].isna().all()


def test_a_draw_of_people_has_curves_of_its_own() -> None:
    """Against people repeated as often as they are drawn, and a walk along their mean curves."""
    drops = np.concatenate([plant(RISE, (0.1, 0.2, 0.3, 1.0)), plant((0.4, 0.45, 0.7, 1.0), RISE)])
    curves = make_curves(drops, people=7, noise=0.3)
    table = tabulate_dissociation(curves, SITE, resamples=9, generator=generator(4))
    weights, accuracies = draw_weights(7, draws=9, generator=generator(4)), curves.points
    for resample, weight in enumerate(weights):
        for seed, task in np.ndindex(2, 2):
            whole = np.average(accuracies.whole[seed], axis=-1, weights=weight)
            lesioned = np.average(accuracies.lesioned[seed, :, task], axis=-1, weights=weight)  # (points, tasks)
            lost = ((whole - lesioned) / (whole - CHANCE)).T
            needed, other = walk(lost[task], lost[1 - task], [0.25, 0.5, 0.75, 1.0], 0.5)
            keys = {"seed": 3 + seed, "quantity": TASKS[task], "resample": resample}
            (row,) = table[(table[list(keys)] == pd.Series(keys)).all(axis=1)].to_dict("records")
            np.testing.assert_allclose([row["number"], row["needed"]], [0.5 - other, needed], atol=1e-7)


def test_a_robust_task_is_dissociated_at_matched_damage_but_not_at_a_fixed_share() -> None:
    """Units are separate. A fifth of them cost the fragile task everything, and the robust one next to nothing.

    So the difference of the robust task is negligible at a fifth ("not dissociated"), and large where it has lost half.
    """
    fragile, robust = np.ones(5), np.array([0.08, 0.3, 0.8, 1.0, 1.0])
    drops = np.zeros((1, 1, 2, 5, 2))
    drops[0, 0, 0] = np.transpose([fragile, 0.2 * robust])  # under lesions of the units of expression, the fragile task
    drops[0, 0, 1] = np.transpose([0.2 * robust, robust])
    curves = make_curves(drops, people=20, noise=0.02)
    fifth = replace(curves.points, lesioned=curves.points.lesioned[:, :1], fraction=0.2)
    options = {"condition": "ranked", "resamples": 200}
    fixed = tabulate_segregation(fifth, SITE, **options, generator=generator(0)).set_index("quantity")
    verdicts = [judge_negligible(*table.loc["identity", ["low", "high"]], 0.1) for table in (fixed, segregate(curves))]
    assert verdicts == [judge_negligible(0, 0, 0.1), judge_negligible(0.4, 0.5, 0.1)]
    assert fixed.loc["expression", "low"] > 0.9 and segregate(curves).loc["expression", "low"] > 0.3


def test_a_share_that_destroys_both_tasks_hides_what_matched_damage_shows() -> None:
    drops = plant((0.5, 1.0), (0.0, 1.0))
    curves = make_curves(np.repeat(drops, 2, axis=0))
    half = replace(curves.points, lesioned=curves.points.lesioned[:, 1:], fraction=1.0)
    fixed = tabulate_dissociation(half, SITE, resamples=5, generator=generator(0))
    assert (fixed["number"] == 0).all()
    assert segregate(curves)["number"].tolist() == pytest.approx([0.5, 0.5, 1])


@pytest.mark.parametrize("condition", ["ranked", "random"])
def test_curves_are_arranged_by_seed_draw_lesion_and_task(condition: str) -> None:
    """From rows in any order; curves of different lengths, the shorter ones repeating their end."""
    rows = []
    for seed in (5, 8):
        for draw in range(4 if condition == "random" else 1):
            for by in ("",) if condition == "random" else TASKS:
                counts = [1, 2, 6, 8] if (seed, draw, by) in ((5, 2, ""), (5, 0, "identity")) else [3, 8]
                rows += [(seed, draw, by, count, task) for count in counts for task in TASKS]
    table = pd.DataFrame(rows, columns=["seed", "draw", "ranked_by", "silenced", "tested_on"])
    table = table.assign(condition=condition, units=8).sample(frac=1, random_state=3, ignore_index=True)
    values = np.linspace(0, 1, 3 * len(table)).reshape(-1, 3)
    whole = np.full((2, 2, 3), 0.5)
    fixed = PeopleAccuracies(whole, whole[:, None, None].repeat(2, 2), CHANCE, TASKS, (5, 8), 0.2)
    curves = arrange_curves(table, values, fixed, condition=condition, damage=0.5)
    draws = 2 if condition == "random" else 1
    assert curves.silenced.shape == (2, draws, 2, 4) and curves.points.lesioned.shape == (2, draws * 4, 2, 2, 3)
    for i, draw, lesion, point, task in np.ndindex(2, draws, 2, 4, 2):
        by = {"draw": 2 * draw + lesion} if condition == "random" else {"ranked_by": TASKS[lesion]}
        keys = by | {"seed": (5, 8)[i], "tested_on": TASKS[task]}
        order = table[(table[list(keys)] == pd.Series(keys)).all(axis=1)].sort_values("silenced")
        row = order.iloc[min(point, len(order) - 1)]
        assert curves.silenced[i, draw, lesion, point] == row["silenced"] / 8
        assert curves.points.lesioned[i, draw * 4 + point, lesion, task].tolist() == values[row.name].tolist()


def test_shapes_and_damages_that_are_refused() -> None:
    curves = make_curves(plant(RISE, NOTHING))
    for changes, got in (
        ({"damage": 1.0}, "silenced (1, 1, 2, 4), 4 accuracies of 1 seeds and damage 1 do not fit"),
        ({"silenced": curves.silenced[..., 1:]}, "silenced (1, 1, 2, 3), 4 accuracies of 1 seeds and damage 0.5 do"),
    ):
        with pytest.raises(StudyError, match=re.escape(got)):
            replace(curves, **changes)


# --- which lesions make up a curve


@pytest.mark.parametrize(
    ("group_p", "greedy_p", "units", "numbers"),
    [(0.016, 0.2, 16, [1, 2, 3]), (0.016, 0.2, 128, [*range(2, 27, 2)]), (0.3, 0.4, 10, [3, 4]), (0.3, 0.0, 11, [])],
)
def test_a_point_after_every_greedy_round(group_p: float, greedy_p: float, units: int, numbers: list[int]) -> None:
    assert Search(group_p, greedy_p, 1).count_greedy(units) == numbers


def test_points_are_the_first_units_of_every_order() -> None:
    orders = pd.DataFrame({"unit": [2, 0, 3, 1, 1, 3, 0, 2], "draw": [0] * 4 + [1] * 4, "condition": "random"})
    numbers = {("random", 0, ""): [1, 4], ("random", 1, ""): [3]}
    table, masks = design_curves(orders.assign(ranked_by=""), numbers)
    assert table.values.tolist() == [["random", 0, "", 4, 1], ["random", 0, "", 4, 4], ["random", 1, "", 4, 3]]
    assert masks.astype(int).tolist() == [[0, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1]]
    nothing, masks = design_curves(orders.assign(ranked_by=""), {key: [] for key in numbers})
    assert nothing.empty and masks.shape == (0, 4)


def test_further_points_until_enough_is_lost() -> None:
    """`enough` at 8 units; with all units only; never; and without drops."""
    curves = {"a": [0.1, 0.9, 1.0], "b": [0.1, 0.2, 1.0], "c": [0.1, 0.2, 0.3], "d": [np.nan] * 3}
    rows = [
        {"condition": "ranked", "draw": 0, "ranked_by": name, "units": 20, "silenced": number, "drop": drop}
        for name, drops in curves.items()
        for number, drop in zip((2, 8, 20), drops, strict=True)
    ]
    points = plan_late_points(pd.DataFrame(rows), [2, 6, 10, 20], enough=0.8)
    assert points == {("ranked", 0, name): late for name, late in zip("abcd", ([6], [6, 10], [6, 10], []), strict=True)}
