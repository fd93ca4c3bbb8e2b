from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from facespec.analyses.battery import EFFECTS, compute_effects, is_listed, list_measures, score_images
from facespec.data.embedded.battery import CONDITIONS
from facespec.study.tables_battery import CHOSEN, NAMED
from facespec.study.vocabulary import Expression, Task

KNOWN = ["Ann", "Bob", "Cem"]


def make_table(identity: list[str], expression: list[str]) -> pd.DataFrame:
    images = pd.DataFrame({"identity": identity, "expression": expression})
    return images.merge(pd.DataFrame({"condition": list(CONDITIONS)}), how="cross")


def make_evidence(table: pd.DataFrame, task: Task, known: list[str], strength: dict[str, float]) -> np.ndarray:
    """Evidence for the true class as strong as told for each condition, and 0.5 for all other classes."""
    evidence = np.full((len(table), len(known)), 0.5)
    for row, (name, condition) in enumerate(zip(table[task.value], table["condition"], strict=True)):
        if name in known:
            evidence[row, known.index(name)] = strength.get(condition, 0.0)
    return evidence


def test_faces_are_named_by_the_strongest_evidence() -> None:
    table = make_table(["Bob", "Cem"], ["happy", "sad"])
    evidence = make_evidence(table, Task.IDENTITY, KNOWN, {"upright": 1.0, "identity caricature": 0.6})
    scores = score_images(table, evidence, task=Task.IDENTITY, known=KNOWN)
    kinds = list_measures(Task.IDENTITY)
    assert list(scores) == list(kinds)
    named = [name for name, kind in kinds.items() if kind == NAMED]
    right = [name for name in named if (scores[name] == 1).all()]
    assert right == ["upright", "identity caricature"] and (scores[named].isin([0, 1])).all(axis=None)


def test_choices_compare_the_evidence_for_the_class_that_is_asked_for() -> None:
    strength = {
        "upright": 0.4,  # less than for other classes: named wrongly, and yet chosen before the foil
        "identity eyes foil": 0.3,
        "identity nose foil": 0.45,
        "identity mouth foil": 0.4,
        "identity eyes alone": 0.2,
        "identity eyes foil alone": 0.1,
        "identity nose alone": 0.1,
        "identity nose foil alone": 0.2,
    }
    table = make_table(["Bob"], ["happy"])
    evidence = make_evidence(table, Task.IDENTITY, KNOWN, strength)
    scores = score_images(table, evidence, task=Task.IDENTITY, known=KNOWN).iloc[0]
    assert scores["upright"] == 0
    whole = {part: scores[f"identity {part} in the whole face"] for part in ("eyes", "nose", "mouth", "parts")}
    assert whole == {"eyes": 1, "nose": 0, "mouth": 0.5, "parts": 0.5}
    alone = {part: scores[f"identity {part} alone"] for part in ("eyes", "nose", "mouth", "parts")}
    assert alone == {"eyes": 1, "nose": 0, "mouth": 0.5, "parts": 0.5}


def test_unknown_people_have_no_scores_and_neutral_faces_no_caricatures() -> None:
    table = make_table(["Eve", "Ann"], ["neutral", "sad"])
    identity = score_images(table, np.zeros((len(table), 3)), task=Task.IDENTITY, known=KNOWN)
    assert identity.iloc[0].isna().all() and identity.iloc[1].notna().all()
    expressions = [name.value for name in Expression]
    evidence = np.zeros((len(table), len(expressions)))
    expression = score_images(table, evidence, task=Task.EXPRESSION, known=expressions)
    lacking = expression.columns[expression.iloc[0].isna()].tolist()
    assert lacking == ["expression anticaricature", "expression caricature"]
    assert expression.iloc[1].notna().all()


@pytest.mark.parametrize("task", Task)
def test_effects_are_differences_of_the_measures_that_they_name(task: Task) -> None:
    measures = list(list_measures(task))
    scores = np.random.default_rng(0).random((2, 5, len(measures)))
    effects = [effect for effect in EFFECTS if effect.task is task]
    expected = [
        scores[..., measures.index(effect.easy)] - scores[..., measures.index(effect.hard)] for effect in effects
    ]
    np.testing.assert_array_equal(compute_effects(scores, task), np.stack(expected, axis=-1))
    assert len({effect.name for effect in effects}) == len(effects)


def test_an_observer_that_sees_halves_only_has_no_composite_effect_and_a_holistic_one_has() -> None:
    """The effect is larger than 0 where the other half disturbs, and disturbs less if it is shifted."""
    table = make_table(["Ann"] * 4, ["sad"] * 4)
    effect = [effect.name for effect in EFFECTS if effect.task is Task.IDENTITY].index("composite")
    found = {}
    for name, aligned in (("halves", 1.0), ("holistic", 0.0)):
        strength = {"identity halves misaligned": 1.0, "identity halves aligned": aligned}
        evidence = make_evidence(table, Task.IDENTITY, KNOWN, strength)
        scores = score_images(table, evidence, task=Task.IDENTITY, known=KNOWN)
        found[name] = compute_effects(scores.to_numpy(), Task.IDENTITY)[:, effect].mean()
    assert found == {"halves": 0.0, "holistic": 1.0}


def test_measures_are_named_or_chosen() -> None:
    for task in Task:
        assert {CHOSEN, NAMED} == set(list_measures(task).values())


def test_units_are_listed_where_a_form_of_the_expression_has_them() -> None:
    listed = {unit: [name.value for name in Expression if is_listed(unit, name)] for unit in (0, 9, 12, 26)}
    assert listed == {0: ["neutral"], 9: ["disgust"], 12: ["happy"], 26: ["fear", "surprise"]}
