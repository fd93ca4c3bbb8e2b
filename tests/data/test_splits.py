"""Splits cover every row once, and depend on names, not on the order of rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data.splits import draw_balanced_subset, draw_images, draw_people, encode_classes, hold_out
from facespec.study.errors import StudyError
from facespec.study.params import Split
from facespec.study.tables import LABELS
from facespec.study.vocabulary import EXPRESSIONS


def make_generator(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def make_rule(name: str, *, session: str = "B", people: float = 0.25) -> Split:
    return Split.model_validate({"hold_out": name, "seed": 1, "session": session, "people": people})


def make_probe(people: int = 4, views: int = 3, expressions: int = 7) -> pd.DataFrame:
    """Like KDEF: every person with every expression, in some views, in two sessions."""
    rows = [
        (f"{session}{person}{expression}{view}", "probe", f"P{person}", expression.value, "", session)
        for session in "AB"
        for person in range(people)
        for expression in EXPRESSIONS[:expressions]
        for view in range(views)
    ]
    return pd.DataFrame(rows, columns=list(LABELS.columns))


def make_labels(cells: list[tuple[str, str, str]]) -> pd.DataFrame:
    rows = [
        (f"{i * 7 % 31:02d}", "probe", person, expression, "", session)
        for i, (person, expression, session) in enumerate(cells)
    ]
    return pd.DataFrame(rows, columns=list(LABELS.columns))


some_labels = st.lists(
    st.tuples(st.sampled_from("PQRS"), st.sampled_from([e.value for e in EXPRESSIONS[:3]]), st.sampled_from("AB")),
    min_size=1,
    max_size=30,
).map(make_labels)


def get_names(labels: pd.DataFrame, rows: np.ndarray) -> list[str]:
    return sorted(labels["stimulus"].iloc[rows])


@settings(max_examples=40)
@given(labels=some_labels, how=st.sampled_from(["cell", "session", "people"]), seed=st.integers(0, 5), data=st.data())
def test_both_sides_are_disjoint_cover_everything_and_do_not_depend_on_the_order_of_rows(
    labels: pd.DataFrame, how: str, seed: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(labels))))
    shuffled = labels.iloc[order]  # keeps its index: positions count, not the index
    try:
        fit, test = hold_out(labels, make_rule(how), make_generator(seed))
    except StudyError as error:
        with pytest.raises(StudyError, match=f"^{re.escape(str(error))}$"):
            hold_out(shuffled, make_rule(how), make_generator(seed))
        return
    assert sorted([*fit, *test]) == list(range(len(labels)))
    for rows in (fit, test):
        assert rows.dtype == np.int64
        assert len(rows) > 0
        assert list(rows) == sorted(rows)
    assert get_names(shuffled, hold_out(shuffled, make_rule(how), make_generator(seed))[1]) == get_names(labels, test)


@settings(max_examples=40)
@given(labels=some_labels, seed=st.integers(0, 5))
def test_one_image_of_every_cell_is_held_out_unless_it_is_the_only_one(labels: pd.DataFrame, seed: int) -> None:
    sizes = Counter(zip(labels["identity"], labels["expression"], strict=True))
    if max(sizes.values()) == 1:
        return
    fit, test = hold_out(labels, make_rule("cell"), make_generator(seed))
    held = Counter(zip(labels["identity"].iloc[test], labels["expression"].iloc[test], strict=True))
    assert held == {cell: 1 for cell, n in sizes.items() if n > 1}
    assert set(zip(labels["identity"].iloc[fit], labels["expression"].iloc[fit], strict=True)) == set(sizes)


def test_kdef_has_490_cells() -> None:
    """70 people x 7 expressions, of 4,900 images: the published number of test images."""
    labels = make_probe(people=70, views=5)
    fit, test = hold_out(labels, make_rule("cell"), make_generator())
    assert (len(fit), len(test)) == (4410, 490)


def test_every_image_of_a_cell_may_be_the_one_held_out() -> None:
    """Of one cell of six images, each is held out about as often: 300 draws, 50 +- 3.9 sd of 6.5 each."""
    labels = make_probe(people=1, expressions=1)
    held = Counter(int(hold_out(labels, make_rule("cell"), make_generator(seed))[1][0]) for seed in range(300))
    assert set(held) == set(range(6))
    assert all(24 < n < 76 for n in held.values())


@pytest.mark.parametrize("session", ["A", "B"])
def test_a_session_is_held_out(session: str) -> None:
    labels = make_probe()
    _, test = hold_out(labels, make_rule("session", session=session), make_generator())
    assert list(test) == list(np.flatnonzero(labels["session"] == session))


@pytest.mark.parametrize(
    ("people", "share", "held"), [(8, 0.25, 2), (8, 0.3, 2), (8, 0.32, 3), (8, 0.01, 1), (8, 0.99, 7), (2, 0.9, 1)]
)
def test_people_are_held_out_whole(people: int, share: float, held: int) -> None:
    """At least one, and never all."""
    labels = make_probe(people=people)
    fit, test = hold_out(labels, make_rule("people", people=share), make_generator())
    assert not set(labels["identity"].iloc[fit]) & set(labels["identity"].iloc[test])
    assert labels["identity"].iloc[test].nunique() == held
    assert len(test) == held * 7 * 3 * 2


def test_the_generator_decides() -> None:
    labels = make_probe(people=12)
    for choose in (
        lambda g: tuple(hold_out(labels, make_rule("cell"), g)[1]),
        lambda g: tuple(hold_out(labels, make_rule("people"), g)[1]),
        lambda g: draw_people(labels, 5, g),
        lambda g: tuple(draw_images(labels, 9, g)),
        lambda g: tuple(draw_balanced_subset(labels, "expression", 3, g)),
    ):
        assert choose(make_generator(1)) == choose(make_generator(1))
        assert len({choose(make_generator(seed)) for seed in range(20)}) > 15


@settings(max_examples=40)
@given(labels=some_labels, per=st.integers(1, 3), column=st.sampled_from(["identity", "expression"]), data=st.data())
def test_a_balanced_subset_has_as_many_of_each(
    labels: pd.DataFrame, per: int, column: str, data: st.DataObject
) -> None:
    sizes = Counter(labels[column])
    first_short = next((value for value in sorted(sizes) if sizes[value] < per), None)
    if first_short is not None:
        message = f"^{column} {first_short!r} has {sizes[first_short]} images; {per} of each are needed.$"
        with pytest.raises(StudyError, match=message):
            draw_balanced_subset(labels, column, per, make_generator())
        return
    rows = draw_balanced_subset(labels, column, per, make_generator())
    assert list(rows) == sorted(set(rows))
    assert Counter(labels[column].iloc[rows]) == dict.fromkeys(sizes, per)
    shuffled = labels.iloc[data.draw(st.permutations(range(len(labels))))]
    assert get_names(shuffled, draw_balanced_subset(shuffled, column, per, make_generator())) == get_names(labels, rows)


@settings(max_examples=30)
@given(labels=some_labels, n=st.integers(1, 40), data=st.data())
def test_drawn_images_are_different_and_at_most_so_many(labels: pd.DataFrame, n: int, data: st.DataObject) -> None:
    rows = draw_images(labels, n, make_generator())
    assert list(rows) == sorted(set(rows))
    assert len(rows) == min(n, len(labels))
    shuffled = labels.iloc[data.draw(st.permutations(range(len(labels))))]
    assert get_names(shuffled, draw_images(shuffled, n, make_generator())) == get_names(labels, rows)


def test_drawn_people_are_sorted_and_different() -> None:
    labels = make_probe(people=9)
    people = draw_people(labels, 4, make_generator())
    assert list(people) == sorted(set(people))
    assert len(people) == 4 and set(people) < set(labels["identity"])
    assert draw_people(labels, 9, make_generator()) == tuple(f"P{i}" for i in range(9))
    assert draw_people(labels.iloc[::-1], 4, make_generator()) == people


def test_expressions_are_numbered_as_in_the_vocabulary() -> None:
    """All networks give an expression the same number, whatever the order of the rows."""
    labels = make_probe().iloc[::-1]
    codes, known = encode_classes(labels, "expression")
    assert known == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert codes.dtype == np.int64
    assert [known[code] for code in codes] == labels["expression"].tolist()


def test_people_are_numbered_in_the_order_of_their_names() -> None:
    labels = make_probe(people=12).iloc[::-1]
    codes, known = encode_classes(labels, "identity")
    assert known == ("P0", "P1", "P10", "P11", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9")
    assert [known[code] for code in codes] == labels["identity"].tolist()


def change_labels(column: str, value: Any = "") -> pd.DataFrame:
    labels = make_probe()
    labels.loc[[2, 9], column] = value
    return labels


def hold_out_by(name: str, labels: pd.DataFrame) -> Callable[[], object]:
    return lambda: hold_out(labels, make_rule(name), make_generator())


EMPTY = make_probe().iloc[:0]
NO_IMAGES = "^no images to choose from.$"
REFUSED: list[tuple[Callable[[], object], str]] = [
    (hold_out_by("cell", EMPTY), NO_IMAGES),
    (lambda: draw_images(EMPTY, 3, make_generator()), NO_IMAGES),
    (lambda: draw_people(EMPTY, 3, make_generator()), NO_IMAGES),
    (lambda: encode_classes(EMPTY, "identity"), NO_IMAGES),
    *(
        (
            hold_out_by(name, change_labels(column)),
            f"^2 of 168 images have no {column} .first: 'A0angry2'.; this",
        )
        for name, column in (
            ("cell", "identity"),
            ("cell", "expression"),
            ("session", "session"),
            ("people", "identity"),
        )
    ),
    (lambda: encode_classes(change_labels("identity", None), "identity"), "^2 of 168 images have no identity .first: "),
    (
        lambda: draw_balanced_subset(make_probe(), "view", 1, make_generator()),
        "^168 of 168 images have no view .first: ",
    ),
    (hold_out_by("session", make_probe()[:84]), "'session' leaves 84 images to fit and 0 to test: choose"),
    (hold_out_by("session", make_probe()[84:]), "'session' leaves 0 images to fit and 84 to test: choose"),
    (
        hold_out_by("people", make_probe(people=1)),
        "'people' leaves 0 images to fit and 42 to test: choose",
    ),
    (
        hold_out_by("cell", make_probe(views=1)[:28]),
        "'cell' leaves 28 images to fit and 0 to test: choose",
    ),
    (lambda: draw_people(make_probe(), 5, make_generator()), "^5 people are needed, the labels know 4.$"),
    (
        lambda: encode_classes(make_probe(expressions=5), "expression"),
        "^no image shows 'sad', 'surprise': the study",
    ),
]


@pytest.mark.parametrize(("choose", "fragment"), REFUSED)
def test_impossible_choices_are_refused(choose: Callable[[], object], fragment: str) -> None:
    with pytest.raises(StudyError, match=fragment):
        choose()
