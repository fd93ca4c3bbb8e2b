"""Sums of squares by hand, absent effects are not found, and people without all images are left out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.analyses.depth import (
    SILENT,
    BalancedDesign,
    LayerKey,
    compute_permutation_p,
    find_balanced_design,
    measure_unit_effects,
    partition_variance,
)
from facespec.study.errors import StudyError
from facespec.study.seeds import generator

PLACE = LayerKey("joint", "embedded faces", 3, "trunk.relu2", 2)
ASK = {"rate": 0.05, "permutations": 200}


def labels_of(
    people: str = "abc", expressions: tuple[str, ...] = ("fear", "happy"), sessions: str = "AB"
) -> pd.DataFrame:
    rows = [(f"{p}{e}{s}", "probe", p, e, "straight", s) for p in people for e in expressions for s in sessions]
    return pd.DataFrame(rows, columns=["stimulus", "split", "identity", "expression", "view", "session"])


def design_of(people: int, expressions: int, sessions: int = 2) -> BalancedDesign:
    rows = np.arange(people * expressions * sessions).reshape(people, expressions, sessions)
    return BalancedDesign(rows, tuple(f"p{i:02d}" for i in range(people)), (), (), ())


def effects(responses: np.ndarray, *, seed: int = 1, **changes: float) -> pd.DataFrame:
    """Of responses (people, expressions, sessions, units)."""
    flat = responses.reshape(-1, responses.shape[-1])
    design = design_of(*responses.shape[:3])
    return measure_unit_effects(flat, design, PLACE, generator=generator(seed), **(ASK | changes))


def column(table: pd.DataFrame, factor: str, name: str) -> np.ndarray:
    return table.loc[table["factor"] == factor, name].to_numpy()


# the design


def test_rows_lie_by_person_expression_and_session_whatever_their_order() -> None:
    labels = labels_of("bca").sample(frac=1, random_state=4)  # its index is shuffled as well
    design = find_balanced_design(labels)
    assert (design.people, design.expressions, design.sessions) == (tuple("abc"), ("fear", "happy"), tuple("AB"))
    assert design.left_out == () and design.rows.dtype == np.int64
    names = labels["stimulus"].to_numpy()[design.rows]
    assert names[0].tolist() == [["afearA", "afearB"], ["ahappyA", "ahappyB"]]
    assert names[2, 1].tolist() == ["chappyA", "chappyB"]


def test_a_person_without_all_images_is_left_out_whole() -> None:
    labels = labels_of("abcde").query("stimulus not in ['dhappyB', 'bfearA']").reset_index(drop=True)
    design = find_balanced_design(labels)
    assert (design.people, design.left_out) == (("a", "c", "e"), ("b", "d"))
    assert sorted(labels["identity"].iloc[design.rows.ravel()]) == sorted("ace" * 4)


def refusal(labels: pd.DataFrame) -> str:
    with pytest.raises(StudyError) as caught:
        find_balanced_design(labels)
    return str(caught.value)


def test_labels_that_make_no_design_are_refused() -> None:
    empty = labels_of().assign(session=["", "A", "", *"A" * 9])
    assert refusal(empty) == "2 of 12 images have no session; analysis of variance needs it."
    empty = labels_of().assign(identity=[None, *"a" * 11])
    assert refusal(empty) == "1 of 12 images have no identity; analysis of variance needs it."
    twice = pd.concat([labels_of(), labels_of().iloc[[6]].assign(view="half_left")])
    assert refusal(twice) == (
        "two images of one person, expression and session (b, happy, A); one is allowed. Choose the images of one view."
    )
    need = "at least 2 people, 2 expressions and 2 sessions are needed."
    each = "people have an image of each of"
    assert refusal(labels_of(sessions="A")) == f"3 of 3 {each} 2 expressions in each of 1 sessions; {need}"
    assert refusal(labels_of(expressions=("sad",))) == f"3 of 3 {each} 1 expressions in each of 2 sessions; {need}"
    assert refusal(labels_of("ab").iloc[1:]) == f"1 of 2 {each} 2 expressions in each of 2 sessions; {need}"
    assert refusal(labels_of().iloc[:0]) == f"0 of 0 {each} 0 expressions in each of 0 sessions; {need}"


# effect sizes


def test_sums_of_squares_by_hand() -> None:
    """Every source moves each of 8 images by one of two opposite amounts: 8 times its square."""
    who, what, when = np.indices((2, 2, 2)) * 2 - 1
    one = 3 + 1 * who + 2 * what + 0.5 * who * what + 0.25 * who * what * when
    found = partition_variance(np.stack([one, 10 * what + 0.0 * who, who * what], axis=-1))
    assert {source: values.tolist() for source, values in found.squares.items()} == {
        "identity": [8, 0, 0],
        "expression": [32, 800, 0],
        "interaction": [2, 0, 8],
        "residual": [0.5, 0, 0],
    }
    assert found.freedom == {"identity": 1, "expression": 1, "interaction": 1, "residual": 4}
    table = effects(one[..., None])
    assert column(table, "identity", "eta").tolist() == [8 / 42.5]
    assert column(table, "expression", "partial_eta").tolist() == [32 / 32.5]
    assert column(table, "expression", "epsilon").tolist() == [30 / 42.5]
    assert column(table, "identity", "f").tolist() == [8 / (0.5 / 4)]
    assert table["people"].tolist() == [2, 2]


sizes = st.tuples(st.integers(2, 5), st.integers(2, 4), st.integers(2, 3), st.integers(1, 3))


@settings(max_examples=25)
@given(sizes, st.integers(0, 9), st.floats(0.01, 100), st.floats(-50, 50))
def test_laws_of_variance(shape: tuple[int, ...], seed: int, scale: float, shift: float) -> None:
    draw = generator(seed)
    responses = draw.normal(size=shape)
    found = partition_variance(responses)
    total = ((responses - responses.mean(axis=(0, 1, 2))) ** 2).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(found.total, total, rtol=1e-9)
    assert sum(found.freedom.values()) == math.prod(shape[:3]) - 1
    moved = partition_variance(scale * responses + shift)
    renamed = partition_variance(responses[draw.permutation(shape[0])][:, draw.permutation(shape[1])][:, :, ::-1])
    swapped = partition_variance(responses.swapaxes(0, 1))
    other = {"identity": "expression", "expression": "identity"}
    for source, values in found.squares.items():
        np.testing.assert_allclose(moved.squares[source], scale**2 * values, rtol=1e-6, atol=1e-9 * scale**2)
        np.testing.assert_allclose(renamed.squares[source], values, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(swapped.squares[other.get(source, source)], values, rtol=1e-9, atol=1e-12)


# permuted labels


def with_peculiar_cells(people: int, expressions: int, units: int, *, seed: int) -> np.ndarray:
    """No effect of any factor, but cells that differ far more than the sessions within them."""
    draw = generator(seed)
    cells = draw.normal(size=(people, expressions, 1, units))
    return cells + 0.1 * draw.normal(size=(people, expressions, 2, units))


def test_without_an_effect_p_is_uniform_though_images_of_a_cell_are_alike() -> None:
    """1,000 units: shares within 4 binomial standard deviations. The F test against the residual calls nearly all."""
    table = effects(with_peculiar_cells(9, 5, 1000, seed=1), permutations=399, rate=1.0)
    for factor in ("expression", "identity"):
        for level in (0.01, 0.05, 0.25, 0.5, 0.9):
            share = (column(table, factor, "p") <= level).mean()
            assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 1000), (factor, level)
        assert (column(table, factor, "p_parametric") < 0.05).mean() > 0.9


@pytest.mark.parametrize(("quiet", "axis"), [("expression", 0), ("identity", 1)])
def test_one_factor_does_not_help_the_other(quiet: str, axis: int) -> None:
    draw = generator(2)
    size = [1, 1, 1, 600]
    size[axis] = (9, 5)[axis]
    table = effects(with_peculiar_cells(9, 5, 600, seed=3) + 20 * draw.normal(size=size), permutations=399, rate=1.0)
    assert abs((column(table, quiet, "p") <= 0.05).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 600)
    loud = {"expression": "identity", "identity": "expression"}[quiet]
    assert (column(table, loud, "p") <= 0.05).all()


def test_sparse_units_are_not_called_too_often() -> None:
    """Units that answer to one cell in twenty: a normal theory would not do."""
    draw = generator(4)
    cells = with_peculiar_cells(9, 5, 800, seed=5) * (draw.random((9, 5, 1, 800)) < 0.05)
    p = effects(cells, permutations=399, rate=1.0)["p"].dropna()
    assert (p <= 0.05).mean() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / len(p))


def test_layers_without_effects_have_false_discoveries_at_the_rate_or_below() -> None:
    """A discovery in a layer without effects is false: in at most `rate` of the layers, within binomial error."""
    layers, rate = 120, 0.2
    wrong = {"expression": 0, "identity": 0}
    for layer in range(layers):
        table = effects(with_peculiar_cells(6, 4, 7, seed=100 + layer), seed=layer, rate=rate, permutations=99)
        for factor in wrong:
            wrong[factor] += bool((column(table, factor, "p_fdr") <= rate).any())
    for count in wrong.values():
        assert 0 < count <= layers * rate + 3 * np.sqrt(layers * rate * (1 - rate))


def test_a_unit_alone_in_a_wide_layer_is_called() -> None:
    """However few permutations are asked for; its p is the smallest possible, and just small enough."""
    responses = with_peculiar_cells(12, 7, 128, seed=6)
    responses[..., 77] += 5 * np.arange(7)[:, None]
    table = effects(responses, permutations=10)
    called = np.flatnonzero(column(table, "expression", "p_fdr") <= 0.05)
    assert called.tolist() == [77]
    assert column(table, "expression", "p")[77] == 1 / (1 + 2560)
    assert not (column(table, "identity", "p_fdr") <= 0.05).any()


def test_more_permutations_are_taken_when_asked_for() -> None:
    responses = with_peculiar_cells(12, 7, 2, seed=7) + 50 * np.arange(7)[:, None, None]
    assert column(effects(responses, permutations=700), "expression", "p").tolist() == [1 / 701, 1 / 701]


def test_the_p_of_a_unit_does_not_depend_on_the_units_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_silent_units_are_an_answer_and_change_no_other_unit() -> None:
    responses = with_peculiar_cells(8, 5, 6, seed=12) + 0.4 * np.arange(5)[:, None, None]
    with_silent = np.concatenate([responses, np.zeros((8, 5, 2, 3))], axis=-1)
    plain = effects(responses, permutations=500).reset_index(drop=True)
    padded = effects(with_silent, permutations=500)
    silent = padded["unit"] >= 6
    pd.testing.assert_frame_equal(padded[~silent].reset_index(drop=True), plain)
    assert (padded.loc[silent, "reason"] == SILENT).all() and (plain["reason"] == "").all()
    numbers = ["eta", "partial_eta", "epsilon", "f", "p_parametric", "p", "p_fdr"]
    assert padded.loc[silent, numbers].isna().all(axis=None) and plain[numbers].notna().all(axis=None)


def test_the_design_picks_the_images() -> None:
    """Responses to images outside the design, and their order, are of no consequence."""
    responses = with_peculiar_cells(6, 3, 4, seed=13)
    flat, draw = responses.reshape(-1, 4), generator(14)
    order = draw.permutation(50)[:36]
    scattered = 1e3 * draw.normal(size=(50, 4))
    scattered[order] = flat
    plain = design_of(6, 3)
    design = BalancedDesign(order[plain.rows], plain.people, (), (), ())
    got = measure_unit_effects(scattered, design, PLACE, generator=generator(1), **ASK)
    pd.testing.assert_frame_equal(got, effects(responses))
