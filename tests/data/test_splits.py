"""Splits cover every row once, and choose by name, not by where a row happens to stand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data.splits import draw_balanced_subset, draw_images, draw_people, encode_classes, hold_out
from facespec.study.errors import StudyError
from facespec.study.params import Split
from facespec.study.vocabulary import EXPRESSIONS


def stream(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def rule(how: str, *, session: str = "B", people: float = 0.25) -> Split:
    return Split.model_validate({"hold_out": how, "seed": 1, "session": session, "people": people})


def probe(people: int = 4, views: int = 3, expressions: int = 7) -> pd.DataFrame:
    """Like KDEF: every person with every expression, in some views, in two sessions."""
    rows = [
        {
            "stimulus": f"{session}{person}{expression}{view}",
            "split": "probe",
            "identity": f"P{person}",
            "expression": expression.value,
            "view": "",
            "session": session,
        }
        for session in "AB"
        for person in range(people)
        for expression in EXPRESSIONS[:expressions]
        for view in range(views)
    ]
    return pd.DataFrame(rows)


labelled = st.lists(
    st.tuples(st.sampled_from("PQRS"), st.sampled_from([e.value for e in EXPRESSIONS[:3]]), st.sampled_from("AB")),
    min_size=1,
    max_size=30,
).map(
    lambda rows: pd.DataFrame(
        [
            {
                "stimulus": f"{i * 7 % 31:02d}",
                "split": "probe",
                "identity": person,
                "expression": expression,
                "view": "",
                "session": session,
            }
            for i, (person, expression, session) in enumerate(rows)
        ]
    )
)


def names(labels: pd.DataFrame, rows: np.ndarray) -> list[str]:
    return sorted(labels["stimulus"].iloc[rows])


@settings(deadline=None, max_examples=60)
@given(labels=labelled, how=st.sampled_from(["cell", "session", "people"]), seed=st.integers(0, 5), data=st.data())
def test_both_sides_are_disjoint_cover_everything_and_do_not_depend_on_the_order_of_rows(
    labels: pd.DataFrame, how: str, seed: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(labels))))
    shuffled = labels.iloc[order]  # keeps its index: positions count, not the index
    try:
        fit, test = hold_out(labels, rule(how), stream(seed))
    except StudyError as error:
        with pytest.raises(StudyError) as caught:
            hold_out(shuffled, rule(how), stream(seed))
        assert str(caught.value) == str(error)
        return
    assert sorted([*fit, *test]) == list(range(len(labels)))
    for rows in (fit, test):
        assert rows.dtype == np.int64
        assert len(rows) > 0
        assert list(rows) == sorted(rows)
    assert names(shuffled, hold_out(shuffled, rule(how), stream(seed))[1]) == names(labels, test)


@settings(deadline=None, max_examples=40)
@given(labels=labelled, seed=st.integers(0, 5))
def test_one_image_of_every_cell_is_held_out_unless_it_is_the_only_one(labels: pd.DataFrame, seed: int) -> None:
    sizes = Counter(zip(labels["identity"], labels["expression"], strict=True))
    if max(sizes.values()) == 1:
        return
    fit, test = hold_out(labels, rule("cell"), stream(seed))
    held = Counter(zip(labels["identity"].iloc[test], labels["expression"].iloc[test], strict=True))
    assert held == {cell: 1 for cell, n in sizes.items() if n > 1}
    assert set(zip(labels["identity"].iloc[fit], labels["expression"].iloc[fit], strict=True)) == set(sizes)


def test_kdef_has_490_cells() -> None:
    """70 people x 7 expressions, of 4,900 images: the published number of test images."""
    labels = probe(people=70, views=5)
    fit, test = hold_out(labels, rule("cell"), stream())
    assert (len(fit), len(test)) == (4410, 490)


def test_every_image_of_a_cell_may_be_the_one_held_out() -> None:
    """Of one cell of six images, each is held out about as often: 600 draws, 100 +- 3.9 sd of 9.1 each."""
    labels = probe(people=1, expressions=1)
    held = Counter(int(hold_out(labels, rule("cell"), stream(seed))[1][0]) for seed in range(600))
    assert set(held) == set(range(6))
    assert all(64 < n < 136 for n in held.values())


@pytest.mark.parametrize("session", ["A", "B"])
def test_a_session_is_held_out(session: str) -> None:
    labels = probe()
    _, test = hold_out(labels, rule("session", session=session), stream())
    assert list(test) == list(np.flatnonzero(labels["session"] == session))


@pytest.mark.parametrize(
    ("people", "share", "held"), [(8, 0.25, 2), (8, 0.3, 2), (8, 0.32, 3), (8, 0.01, 1), (8, 0.99, 7), (2, 0.9, 1)]
)
def test_people_are_held_out_whole(people: int, share: float, held: int) -> None:
    """At least one, and never all."""
    labels = probe(people=people)
    fit, test = hold_out(labels, rule("people", people=share), stream())
    assert not set(labels["identity"].iloc[fit]) & set(labels["identity"].iloc[test])
    assert labels["identity"].iloc[test].nunique() == held
    assert len(test) == held * 7 * 3 * 2


def test_the_generator_decides() -> None:
    labels = probe(people=12)
    for choose in (
        lambda g: tuple(hold_out(labels, rule("cell"), g)[1]),
        lambda g: tuple(hold_out(labels, rule("people"), g)[1]),
        lambda g: draw_people(labels, 5, g),
        lambda g: tuple(draw_images(labels, 9, g)),
        lambda g: tuple(draw_balanced_subset(labels, "expression", 3, g)),
    ):
        assert choose(stream(1)) == choose(stream(1))
        assert len({choose(stream(seed)) for seed in range(20)}) > 15


@settings(deadline=None, max_examples=40)
@given(labels=labelled, per=st.integers(1, 3), column=st.sampled_from(["identity", "expression"]), data=st.data())
def test_a_balanced_subset_has_as_many_of_each(
    labels: pd.DataFrame, per: int, column: str, data: st.DataObject
) -> None:
    sizes = Counter(labels[column])
    first_short = next((value for value in sorted(sizes) if sizes[value] < per), None)
    if first_short is not None:
        with pytest.raises(StudyError) as caught:
            draw_balanced_subset(labels, column, per, stream())
        assert str(caught.value) == (
            f"{column} {first_short!r} has {sizes[first_short]} images; {per} of each are needed."
        )
        return
    rows = draw_balanced_subset(labels, column, per, stream())
    assert list(rows) == sorted(set(rows))
    assert Counter(labels[column].iloc[rows]) == dict.fromkeys(sizes, per)
    shuffled = labels.iloc[data.draw(st.permutations(range(len(labels))))]
    assert names(shuffled, draw_balanced_subset(shuffled, column, per, stream())) == names(labels, rows)


@settings(deadline=None, max_examples=30)
@given(labels=labelled, n=st.integers(1, 40), data=st.data())
def test_drawn_images_are_different_and_at_most_so_many(labels: pd.DataFrame, n: int, data: st.DataObject) -> None:
    rows = draw_images(labels, n, stream())
    assert list(rows) == sorted(set(rows))
    assert len(rows) == min(n, len(labels))
    shuffled = labels.iloc[data.draw(st.permutations(range(len(labels))))]
    assert names(shuffled, draw_images(shuffled, n, stream())) == names(labels, rows)


def test_drawn_people_are_sorted_and_different() -> None:
    labels = probe(people=9)
    people = draw_people(labels, 4, stream())
    assert list(people) == sorted(set(people))
    assert len(people) == 4 and set(people) < set(labels["identity"])
    assert draw_people(labels, 9, stream()) == tuple(f"P{i}" for i in range(9))
    assert draw_people(labels.iloc[::-1], 4, stream()) == people


def test_expressions_are_numbered_as_in_the_vocabulary() -> None:
    """All networks give an expression the same number, whatever the order of the rows."""
    labels = probe().iloc[::-1]
    codes, known = encode_classes(labels, "expression")
    assert known == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert codes.dtype == np.int64
    assert [known[code] for code in codes] == labels["expression"].tolist()


def test_people_are_numbered_in_the_order_of_their_names() -> None:
    labels = probe(people=12).iloc[::-1]
    codes, known = encode_classes(labels, "identity")
    assert known == ("P0", "P1", "P10", "P11", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9")
    assert [known[code] for code in codes] == labels["identity"].tolist()


def without(column: str, *rows: int, value: Any = "") -> pd.DataFrame:
    labels = probe()
    labels.loc[list(rows), column] = value
    return labels


NONE = probe().iloc[:0]
REFUSED = {
    "no images": (lambda: hold_out(NONE, rule("cell"), stream()), "no images to choose from."),
    "no images to draw": (lambda: draw_images(NONE, 3, stream()), "no images to choose from."),
    "no people": (lambda: draw_people(NONE, 3, stream()), "no images to choose from."),
    "no classes": (lambda: encode_classes(NONE, "identity"), "no images to choose from."),
    "cell, no identity": (
        lambda: hold_out(without("identity", 2, 9), rule("cell"), stream()),
        "2 of 168 images have no identity (first: 'A0angry2'); this choice needs it.",
    ),
    "cell, no expression": (
        lambda: hold_out(without("expression", 2, 9), rule("cell"), stream()),
        "2 of 168 images have no expression (first: 'A0angry2'); this choice needs it.",
    ),
    "no session": (
        lambda: hold_out(without("session", 2, 9), rule("session"), stream()),
        "2 of 168 images have no session (first: 'A0angry2'); this choice needs it.",
    ),
    "people, no identity": (
        lambda: hold_out(without("identity", 2, 9), rule("people"), stream()),
        "2 of 168 images have no identity (first: 'A0angry2'); this choice needs it.",
    ),
    "an absent value": (
        lambda: encode_classes(without("identity", 2, 9, value=None), "identity"),
        "2 of 168 images have no identity (first: 'A0angry2'); this choice needs it.",
    ),
    "no view": (
        lambda: draw_balanced_subset(probe(), "view", 1, stream()),
        "168 of 168 images have no view (first: 'A0angry0'); this choice needs it.",
    ),
    "another session": (
        lambda: hold_out(probe()[:84], rule("session"), stream()),
        "split.hold_out 'session' leaves 84 images to fit and 0 to test: choose another rule in params.yaml, or "
        "faces that differ in what it holds out.",
    ),
    "only that session": (
        lambda: hold_out(probe()[84:], rule("session"), stream()),
        "split.hold_out 'session' leaves 0 images to fit and 84 to test: choose another rule in params.yaml, or "
        "faces that differ in what it holds out.",
    ),
    "one person": (
        lambda: hold_out(probe(people=1), rule("people"), stream()),
        "split.hold_out 'people' leaves 0 images to fit and 42 to test: choose another rule in params.yaml, or faces "
        "that differ in what it holds out.",
    ),
    "one image per cell": (
        lambda: hold_out(probe(views=1)[:28], rule("cell"), stream()),
        "split.hold_out 'cell' leaves 28 images to fit and 0 to test: choose another rule in params.yaml, or faces "
        "that differ in what it holds out.",
    ),
    "too few people": (lambda: draw_people(probe(), 5, stream()), "5 people are needed, the labels know 4."),
    "a missing expression": (
        lambda: encode_classes(probe(expressions=5), "expression"),
        "no image shows 'sad', 'surprise': the study needs all seven expressions.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_chosen_is_refused(case: str) -> None:
    choose, wanted = REFUSED[case]
    with pytest.raises(StudyError) as caught:
        choose()
    assert str(caught.value) == wanted
