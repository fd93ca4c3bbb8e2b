"""Planted units are told apart, and counted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facespec.analyses.depth import (
    SILENT,
    BalancedDesign,
    LayerKey,
    classify_units,
    count_unit_classes,
    measure_unit_effects,
)
from facespec.study.seeds import generator


def effects(responses: np.ndarray, *, rate: float) -> pd.DataFrame:
    """Of responses (people, expressions, sessions, units)."""
    people, *_, units = responses.shape
    rows = np.arange(responses.size // units).reshape(responses.shape[:3])
    design = BalancedDesign(rows, tuple(f"p{i:02d}" for i in range(people)), (), (), ())
    place = LayerKey("joint", "embedded faces", 3, "trunk.relu2", 2)
    flat = responses.reshape(-1, units)
    return measure_unit_effects(flat, design, place, rate=rate, permutations=200, generator=generator(1))


def planted(people: int = 11, expressions: int = 7) -> np.ndarray:
    """Units: expression, identity, both alike, neither, silent, constant, mostly identity, constant but for rounding.

    Effects are centred patterns, so that nothing but the noise of 0.05 leaks from one factor into the other.
    """
    draw = generator(11)
    noise = 0.05 * draw.normal(size=(people, expressions, 2, 8))
    who = np.linspace(-1, 1, people)[:, None, None]
    what = np.linspace(-1, 1, expressions)[:, None]
    who, what = who / who.std(), what / what.std()
    responses = noise.copy()
    responses[..., 0] += what
    responses[..., 1] += who
    responses[..., 2] += what + who
    responses[..., 4] = 0
    responses[..., 5] = 3.25
    responses[..., 6] += who + 0.4 * what
    responses[..., 7] = 3.25 + 1e-7 * draw.normal(size=responses.shape[:3])
    return responses.astype(np.float32)


def test_planted_units_are_told_apart() -> None:
    table = effects(planted(), rate=0.001)
    classes = classify_units(table, rate=0.001, selectivity=0.5)
    assert classes["unit"].tolist() == list(range(8))
    assert classes["class"].tolist() == ["expression", "identity", "both", "neither", "", "", "both", ""]
    assert classes["specific"].tolist() == ["expression", "identity", "", "", "", "", "identity", ""]
    assert classes["reason"].tolist() == ["", "", "", "", SILENT, SILENT, "", SILENT]
    np.testing.assert_allclose(classes["selectivity"].iloc[[0, 1, 2]], [1, -1, 0], atol=0.03)
    # 0.4^2 against 1
    np.testing.assert_allclose(classes["selectivity"].iloc[6], (0.16 - 1) / (0.16 + 1), atol=0.03)
    assert classes["selectivity"].iloc[[4, 5, 7]].isna().all()
    assert set(classes["trained_on"]) == {"joint"} and set(classes["depth"]) == {2}


def test_a_layer_of_silent_units_only() -> None:
    classes = classify_units(effects(np.zeros((3, 2, 2, 4)), rate=0.05), rate=0.05, selectivity=0.5)
    assert classes["class"].tolist() == [""] * 4
    shares = count_unit_classes(classes)
    assert (shares["units"] == 0).all() and (shares["silent"] == 4).all() and shares["share"].isna().all()


def row(unit: int, factor: str, p_fdr: float, epsilon: float, **place: object) -> dict[str, object]:
    numbers = {"eta": 0.5, "partial_eta": 0.5, "epsilon": epsilon, "f": 1.0, "p_parametric": 0.5, "p": 0.5}
    where = {"trained_on": "joint", "source": "toy", "seed": 1, "layer": "trunk.relu1", "depth": 1} | place
    return where | numbers | {"unit": unit, "factor": factor, "people": 5, "p_fdr": p_fdr, "reason": ""}


def both(
    unit: int, p_fdr: tuple[float, float], epsilon: tuple[float, float], **place: object
) -> list[dict[str, object]]:
    return [row(unit, f, p, e, **place) for f, p, e in zip(("expression", "identity"), p_fdr, epsilon, strict=True)]


def test_rules_of_classes_at_their_limits() -> None:
    table = pd.DataFrame(
        both(0, (0.05, 0.051), (0.75, 0.25))  # significant at the rate itself; index 0.5 itself
        + both(1, (0.051, 0.05), (0.25, 0.75))
        + both(2, (0.0, 0.0), (0.74, 0.25))  # just below
        + both(3, (0.9, 0.9), (0.8, 0.0))  # no significance, no specificity
        + both(4, (0.9, 0.9), (-0.1, -0.2))  # no effect at all
        + both(5, (0.9, 0.01), (0.2, -0.3))  # significant for one, larger for the other
        + both(6, (0.01, 0.01), (-0.3, 0.2))
    )
    classes = classify_units(table.sample(frac=1, random_state=1), rate=0.05, selectivity=0.5)
    assert classes["class"].tolist() == ["expression", "identity", "both", "neither", "neither", "identity", "both"]
    assert classes["specific"].tolist() == ["expression", "identity", "", "", "", "", "identity"]
    np.testing.assert_allclose(classes["selectivity"], [0.5, -0.5, 0.49 / 0.99, 1, np.nan, 1, -1])


def test_shares_count_units_of_each_place() -> None:
    table = pd.DataFrame(
        both(0, (0.0, 0.9), (0.9, 0.0))
        + both(1, (0.0, 0.0), (0.9, 0.1))
        + both(2, (0.9, 0.0), (0.3, 0.4))
        + both(0, (0.0, 0.0), (0.1, 0.9), seed=2)
        + both(0, (0.9, 0.9), (0.1, 0.1), layer="trunk.relu2", depth=2)
    )
    shares = count_unit_classes(classify_units(table, rate=0.05, selectivity=0.5))
    assert len(shares) == 3 * 6
    first = shares[(shares["seed"] == 1) & (shares["depth"] == 1)]
    assert (first["units"] == 3).all() and (first["silent"] == 0).all()
    got = {(r["kind"], r["name"]): (r["count"], r["share"]) for r in first.to_dict("records")}
    assert got == {
        ("class", "expression"): (1, 1 / 3),
        ("class", "identity"): (1, 1 / 3),
        ("class", "both"): (1, 1 / 3),
        ("class", "neither"): (0, 0),
        ("specific", "expression"): (2, 2 / 3),
        ("specific", "identity"): (0, 0),
    }
    second = shares[(shares["seed"] == 2)].set_index(["kind", "name"])["share"]
    assert second["class", "both"] == 1 and second["specific", "identity"] == 1
    deep = shares[shares["layer"] == "trunk.relu2"].set_index(["kind", "name"])["share"]
    assert deep["class", "neither"] == 1 and deep.sum() == 1
