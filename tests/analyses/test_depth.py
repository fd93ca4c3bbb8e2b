"""Unit effects: balanced designs, sums of squares by hand, rates of false positives, classes at their limits."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.analyses.depth import (
    SILENT,
    BalancedDesign,
    LayerKey,
    classify_units,
    compute_permutation_p,
    count_unit_classes,
    find_balanced_design,
    measure_unit_effects,
    partition_variance,
)
from facespec.study.errors import StudyError
from facespec.study.seeds import generator

LAYER = LayerKey("joint", "embedded faces", 3, "trunk.relu2", 2)
OPTIONS = {"rate": 0.05, "permutations": 200}


def make_labels(
    people: str = "abc", expressions: tuple[str, ...] = ("fear", "happy"), sessions: str = "AB"
) -> pd.DataFrame:
    rows = [(f"{p}{e}{s}", "probe", p, e, "straight", s) for p in people for e in expressions for s in sessions]
    return pd.DataFrame(rows, columns=["stimulus", "split", "identity", "expression", "view", "session"])


def make_design(people: int, expressions: int, sessions: int = 2) -> BalancedDesign:
    rows = np.arange(people * expressions * sessions).reshape(people, expressions, sessions)
    return BalancedDesign(rows, tuple(f"p{i:02d}" for i in range(people)), (), (), ())


def measure(responses: np.ndarray, *, seed: int = 1, **changes: float) -> pd.DataFrame:
    """Effects of responses (people, expressions, sessions, units)."""
    flat = responses.reshape(-1, responses.shape[-1])
    design = make_design(*responses.shape[:3])
    return measure_unit_effects(flat, design, LAYER, generator=generator(seed), **(OPTIONS | changes))


def read_column(table: pd.DataFrame, factor: str, name: str) -> np.ndarray:
    return table.loc[table["factor"] == factor, name].to_numpy()


def test_rows_are_arranged_by_person_expression_and_session_from_any_order() -> None:
    labels = make_labels("bca").sample(frac=1, random_state=4)  # its index is shuffled as well
    design = find_balanced_design(labels)
    assert (design.people, design.expressions, design.sessions) == (tuple("abc"), ("fear", "happy"), tuple("AB"))
    assert design.left_out == () and design.rows.dtype == np.int64
    names = labels["stimulus"].to_numpy()[design.rows]
    assert names[0].tolist() == [["afearA", "afearB"], ["ahappyA", "ahappyB"]]
    assert names[2, 1].tolist() == ["chappyA", "chappyB"]


def test_a_person_without_all_images_is_left_out() -> None:
    labels = make_labels("abcde").query("stimulus not in ['dhappyB', 'bfearA']").reset_index(drop=True)
    design = find_balanced_design(labels)
    assert (design.people, design.left_out) == (("a", "c", "e"), ("b", "d"))
    assert sorted(labels["identity"].iloc[design.rows.ravel()]) == sorted("ace" * 4)


def test_without_sessions_repetitions_are_replicates() -> None:
    """Two and three images per cell: two are used, in their order; c has only one happy image, and is left out."""
    cells = [
        ("a", "fear", 3),
        ("a", "happy", 2),
        ("b", "fear", 2),
        ("b", "happy", 3),
        ("c", "fear", 2),
        ("c", "happy", 1),
    ]
    rows = [(person, expression) for person, expression, n in cells for _ in range(n)]
    labels = pd.DataFrame(rows, columns=["identity", "expression"]).assign(session="")
    design = find_balanced_design(labels)
    assert (design.people, design.left_out, design.sessions) == (("a", "b"), ("c",), ("1", "2"))
    assert design.rows.tolist() == [[[0, 1], [3, 4]], [[5, 6], [7, 8]]]
    with pytest.raises(StudyError, match="1 of 3 people have two images or more of each of 2 expressions"):
        find_balanced_design(labels.drop(index=[5]))


TOO_SMALL = "at least 2 people, 2 expressions and 2 sessions are needed"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (make_labels().assign(session=["", "A", "", *"A" * 9]), "2 of 12 images have no session"),
        (
            make_labels(sessions="A").assign(session=""),
            "no image has a session, and 0 of 3 people have two images or more",
        ),
        (make_labels().assign(identity=[None, *"a" * 11]), "1 of 12 images have no identity"),
        (
            pd.concat([make_labels(), make_labels().iloc[[6]].assign(view="half_left")]),
            "two images of one person, expression and session (b, happy, A); one is allowed",
        ),
        (
            make_labels(sessions="A"),
            f"3 of 3 people have an image of each of 2 expressions in each of 1 sessions; {TOO_SMALL}",
        ),
        (
            make_labels(expressions=("sad",)),
            "3 of 3 people have an image of each of 1 expressions in each of 2 sessions",
        ),
        (make_labels("ab").iloc[1:], "1 of 2 people have an image of each of 2 expressions in each of 2 sessions"),
        (make_labels().iloc[:0], "0 of 0 people have an image of each of 0 expressions in each of 0 sessions"),
    ],
)
def test_labels_without_a_design_are_refused(labels: pd.DataFrame, message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        find_balanced_design(labels)


def test_sums_of_squares_by_hand() -> None:
    """Every source adds one of two opposite amounts to each of 8 images: 8 times its square."""
    who, what, when = np.indices((2, 2, 2)) * 2 - 1
    one = 3 + 1 * who + 2 * what + 0.5 * who * what + 0.25 * who * what * when
    variance = partition_variance(np.stack([one, 10 * what + 0.0 * who, who * what], axis=-1))
    assert {source: values.tolist() for source, values in variance.squares.items()} == {
        "identity": [8, 0, 0],
        "expression": [32, 800, 0],
        "interaction": [2, 0, 8],
        "residual": [0.5, 0, 0],
    }
    assert variance.freedom == {"identity": 1, "expression": 1, "interaction": 1, "residual": 4}
    table = measure(one[..., None])
    assert read_column(table, "identity", "eta").tolist() == [8 / 42.5]
    assert read_column(table, "expression", "partial_eta").tolist() == [32 / 32.5]
    assert read_column(table, "expression", "epsilon").tolist() == [30 / 42.5]
    assert read_column(table, "identity", "f").tolist() == [8 / (0.5 / 4)]
    assert table["people"].tolist() == [2, 2]


sizes = st.tuples(st.integers(2, 5), st.integers(2, 4), st.integers(2, 3), st.integers(1, 3))


@settings(max_examples=15)
@given(sizes, st.integers(0, 9), st.floats(0.01, 100), st.floats(-50, 50))
def test_laws_of_variance(shape: tuple[int, ...], seed: int, scale: float, shift: float) -> None:
    random = generator(seed)
    responses = random.normal(size=shape)
    variance = partition_variance(responses)
    total = ((responses - responses.mean(axis=(0, 1, 2))) ** 2).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(variance.total, total, rtol=1e-9)
    assert sum(variance.freedom.values()) == math.prod(shape[:3]) - 1
    moved = partition_variance(scale * responses + shift)
    renamed = partition_variance(responses[random.permutation(shape[0])][:, random.permutation(shape[1])][:, :, ::-1])
    swapped = partition_variance(responses.swapaxes(0, 1))
    other = {"identity": "expression", "expression": "identity"}
    for source, values in variance.squares.items():
        np.testing.assert_allclose(moved.squares[source], scale**2 * values, rtol=1e-6, atol=1e-9 * scale**2)
        np.testing.assert_allclose(renamed.squares[source], values, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(swapped.squares[other.get(source, source)], values, rtol=1e-9, atol=1e-12)


def make_interactions(people: int, expressions: int, units: int, *, seed: int) -> np.ndarray:
    """No effect of any factor, but cells that differ far more than the sessions within them."""
    random = generator(seed)
    cells = random.normal(size=(people, expressions, 1, units))
    return cells + 0.1 * random.normal(size=(people, expressions, 2, units))


def test_without_an_effect_p_is_uniform_although_images_of_a_cell_are_similar() -> None:
    """1,000 units: shares within 4 binomial standard deviations. By the F test nearly all are significant."""
    table = measure(make_interactions(9, 5, 1000, seed=1), permutations=399, rate=1.0)
    for factor in ("expression", "identity"):
        for level in (0.01, 0.05, 0.25, 0.5, 0.9):
            share = (read_column(table, factor, "p") <= level).mean()
            assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 1000), (factor, level)
        assert (read_column(table, factor, "p_parametric") < 0.05).mean() > 0.9


@pytest.mark.parametrize(("absent", "axis"), [("expression", 0), ("identity", 1)])
def test_an_effect_of_one_factor_gives_no_effect_of_the_other(absent: str, axis: int) -> None:
    random = generator(2)
    size = [1, 1, 1, 600]
    size[axis] = (9, 5)[axis]
    table = measure(make_interactions(9, 5, 600, seed=3) + 20 * random.normal(size=size), permutations=399, rate=1.0)
    assert abs((read_column(table, absent, "p") <= 0.05).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 600)
    present = {"expression": "identity", "identity": "expression"}[absent]
    assert (read_column(table, present, "p") <= 0.05).all()


def test_sparse_units_have_no_more_false_positives() -> None:
    """Units that respond to one cell in twenty: normal theory would not hold."""
    random = generator(4)
    cells = make_interactions(9, 5, 800, seed=5) * (random.random((9, 5, 1, 800)) < 0.05)
    p = measure(cells, permutations=399, rate=1.0)["p"].dropna()
    assert (p <= 0.05).mean() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / len(p))


def test_layers_without_effects_have_false_discoveries_at_the_rate_or_below() -> None:
    """A discovery in a layer without effects is false: in at most `rate` of the layers, within binomial error."""
    layers, rate = 120, 0.2
    wrong = {"expression": 0, "identity": 0}
    for layer in range(layers):
        table = measure(make_interactions(6, 4, 7, seed=100 + layer), seed=layer, rate=rate, permutations=99)
        for factor in wrong:
            wrong[factor] += bool((read_column(table, factor, "p_fdr") <= rate).any())
    for count in wrong.values():
        assert 0 < count <= layers * rate + 3 * np.sqrt(layers * rate * (1 - rate))


def test_the_only_unit_with_an_effect_in_a_wide_layer_is_significant() -> None:
    """For any number of permutations; its p is the smallest possible, and just small enough."""
    responses = make_interactions(12, 7, 128, seed=6)
    responses[..., 77] += 5 * np.arange(7)[:, None]
    table = measure(responses, permutations=10)
    significant = np.flatnonzero(read_column(table, "expression", "p_fdr") <= 0.05)
    assert significant.tolist() == [77]
    assert read_column(table, "expression", "p")[77] == 1 / (1 + 2560)
    assert not (read_column(table, "identity", "p_fdr") <= 0.05).any()


def test_a_larger_number_of_permutations_is_used() -> None:
    responses = make_interactions(12, 7, 2, seed=7) + 50 * np.arange(7)[:, None, None]
    assert read_column(measure(responses, permutations=700), "expression", "p").tolist() == [1 / 701, 1 / 701]


def test_the_p_of_a_unit_does_not_depend_on_the_other_units(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = generator(8).normal(size=(5, 4, 11))
    wide = compute_permutation_p(cells, permutations=150, generator=generator(9))
    np.testing.assert_array_equal(
        compute_permutation_p(cells[..., [7]], permutations=150, generator=generator(9)), wide[[7]]
    )
    monkeypatch.setattr("facespec.analyses.depth.AT_ONCE", 4 * 11 * 7)  # 7 permutations at a time, the last 3
    np.testing.assert_array_equal(compute_permutation_p(cells, permutations=150, generator=generator(9)), wide)
    assert len(set(wide)) > 5


def test_equal_sums_count_as_reached() -> None:
    """In a single block every permutation gives the same sum of squares, but adds it up in another order."""
    cells = generator(10).normal(size=(1, 7, 60))
    assert compute_permutation_p(cells, permutations=200, generator=generator(11)).tolist() == [1.0] * 60


def test_silent_units_have_a_reason_and_change_no_other_unit() -> None:
    responses = make_interactions(8, 5, 6, seed=12) + 0.4 * np.arange(5)[:, None, None]
    with_silent = np.concatenate([responses, np.zeros((8, 5, 2, 3))], axis=-1)
    plain = measure(responses, permutations=500).reset_index(drop=True)
    padded = measure(with_silent, permutations=500)
    silent = padded["unit"] >= 6
    pd.testing.assert_frame_equal(padded[~silent].reset_index(drop=True), plain)
    assert (padded.loc[silent, "reason"] == SILENT).all() and (plain["reason"] == "").all()
    numbers = ["eta", "partial_eta", "epsilon", "f", "p_parametric", "p", "p_fdr"]
    assert padded.loc[silent, numbers].isna().all(axis=None) and plain[numbers].notna().all(axis=None)


def test_only_images_of_the_design_count_in_any_order() -> None:
    responses = make_interactions(6, 3, 4, seed=13)
    flat, random = responses.reshape(-1, 4), generator(14)
    order = random.permutation(50)[:36]
    scattered = 1e3 * random.normal(size=(50, 4))
    scattered[order] = flat
    ordered = make_design(6, 3)
    design = BalancedDesign(order[ordered.rows], ordered.people, (), (), ())
    table = measure_unit_effects(scattered, design, LAYER, generator=generator(1), **OPTIONS)
    pd.testing.assert_frame_equal(table, measure(responses))


def make_typical_units(people: int = 11, expressions: int = 7) -> np.ndarray:
    """Units: expression, identity, both equally, neither, silent, constant, mostly identity, constant up to rounding.

    Effects are centred patterns: only the noise of 0.05 of one factor adds to the other.
    """
    random = generator(11)
    noise = 0.05 * random.normal(size=(people, expressions, 2, 8))
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
    responses[..., 7] = 3.25 + 1e-7 * random.normal(size=responses.shape[:3])
    return responses.astype(np.float32)


def test_typical_units_are_classified() -> None:
    classes = classify_units(measure(make_typical_units(), rate=0.001), rate=0.001, selectivity=0.5)
    assert classes["unit"].tolist() == list(range(8))
    assert classes["class"].tolist() == ["expression", "identity", "both", "neither", "", "", "both", ""]
    assert classes["specific"].tolist() == ["expression", "identity", "", "", "", "", "identity", ""]
    assert classes["reason"].tolist() == ["", "", "", "", SILENT, SILENT, "", SILENT]
    np.testing.assert_allclose(classes["selectivity"].iloc[[0, 1, 2]], [1, -1, 0], atol=0.03)
    # 0.4^2 against 1
    np.testing.assert_allclose(classes["selectivity"].iloc[6], (0.16 - 1) / (0.16 + 1), atol=0.03)
    assert classes["selectivity"].iloc[[4, 5, 7]].isna().all()
    assert set(classes["trained_on"]) == {"joint"} and set(classes["depth"]) == {2}


def test_a_layer_with_silent_units_only_has_no_shares() -> None:
    classes = classify_units(measure(np.zeros((3, 2, 2, 4)), rate=0.05), rate=0.05, selectivity=0.5)
    assert classes["class"].tolist() == [""] * 4
    shares = count_unit_classes(classes)
    assert (shares["units"] == 0).all() and (shares["silent"] == 4).all() and shares["share"].isna().all()


def make_rows(
    unit: int, p_fdr: tuple[float, float], epsilon: tuple[float, float], **layer: object
) -> list[dict[str, object]]:
    """UNITS rows of one unit: effects of expression and of identity."""
    common = {"trained_on": "joint", "source": "toy", "seed": 1, "layer": "trunk.relu1", "depth": 1} | layer
    common |= {"unit": unit, "people": 5, "reason": "", "eta": 0.5, "partial_eta": 0.5, "f": 1.0}
    common |= {"p_parametric": 0.5, "p": 0.5}
    effects = zip(("expression", "identity"), p_fdr, epsilon, strict=True)
    return [common | {"factor": factor, "p_fdr": p, "epsilon": e} for factor, p, e in effects]


def test_classes_at_their_limits() -> None:
    table = pd.DataFrame(
        make_rows(0, (0.05, 0.051), (0.75, 0.25))  # significant at the rate itself; index 0.5 itself
        + make_rows(1, (0.051, 0.05), (0.25, 0.75))
        + make_rows(2, (0.0, 0.0), (0.74, 0.25))  # just below
        + make_rows(3, (0.9, 0.9), (0.8, 0.0))  # no significance, no specificity
        + make_rows(4, (0.9, 0.9), (-0.1, -0.2))  # no effect at all
        + make_rows(5, (0.9, 0.01), (0.2, -0.3))  # significant for one, larger for the other
        + make_rows(6, (0.01, 0.01), (-0.3, 0.2))
    )
    classes = classify_units(table.sample(frac=1, random_state=1), rate=0.05, selectivity=0.5)
    assert classes["class"].tolist() == ["expression", "identity", "both", "neither", "neither", "identity", "both"]
    assert classes["specific"].tolist() == ["expression", "identity", "", "", "", "", "identity"]
    np.testing.assert_allclose(classes["selectivity"], [0.5, -0.5, 0.49 / 0.99, 1, np.nan, 1, -1])


def test_shares_count_units_of_each_layer() -> None:
    table = pd.DataFrame(
        make_rows(0, (0.0, 0.9), (0.9, 0.0))
        + make_rows(1, (0.0, 0.0), (0.9, 0.1))
        + make_rows(2, (0.9, 0.0), (0.3, 0.4))
        + make_rows(0, (0.0, 0.0), (0.1, 0.9), seed=2)
        + make_rows(0, (0.9, 0.9), (0.1, 0.1), layer="trunk.relu2", depth=2)
    )
    shares = count_unit_classes(classify_units(table, rate=0.05, selectivity=0.5))
    assert len(shares) == 3 * 6
    first = shares[(shares["seed"] == 1) & (shares["depth"] == 1)]
    assert (first["units"] == 3).all() and (first["silent"] == 0).all()
    shares_of_first = {(r["kind"], r["name"]): (r["count"], r["share"]) for r in first.to_dict("records")}
    assert shares_of_first == {
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
