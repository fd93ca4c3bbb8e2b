"""Figure 2D shows one frontal image per expression, of people spread evenly over their names."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.study.examples import choose_examples
from facespec.study.tables import LABELS
from facespec.study.vocabulary import EXPRESSIONS, VIEWS

PEOPLE = [f"{sex}{number:02d}" for sex in "FM" for number in range(1, 36)]


def make_labels(people: list[str], views: tuple[str, ...] = tuple(VIEWS)) -> pd.DataFrame:
    rows = itertools.product(people, "AB", map(str, EXPRESSIONS), map(str, views))
    table = pd.DataFrame(rows, columns=["identity", "session", "expression", "view"]).assign(split="probe")
    names = table["session"] + table["identity"] + "-" + table["expression"] + "-" + table["view"]
    return LABELS.check(table.assign(stimulus=names))


def choose_rows(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[choose_examples(table)]


def test_one_frontal_image_per_expression_of_people_spread_evenly() -> None:
    rows = choose_rows(make_labels(PEOPLE))
    people = ["F06", "F16", "F26", "M01", "M11", "M21", "M31"]  # 70 people in 7 parts of 10: the middle of each
    assert list(rows["stimulus"]) == [f"A{p}-{e}-straight" for p, e in zip(people, EXPRESSIONS, strict=True)]
    assert list(choose_rows(make_labels(["x", "z", "y"]))["identity"]) == ["x", "x", "y", "y", "y", "z", "z"]


@settings(max_examples=10)
@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(0, 3))
def test_examples_depend_on_neither_order_nor_other_views(random: Any, people: int, dropped: int) -> None:
    table = make_labels(PEOPLE[:people], views=("full_left", "straight"))
    frontal = table.loc[table["view"] == "straight", "stimulus"].tolist()
    table = table[~table["stimulus"].isin([random.choice(frontal) for _ in range(dropped)])].reset_index(drop=True)
    expected = set(choose_rows(table)["stimulus"])
    order = random.sample(range(len(table)), len(table))
    assert set(choose_rows(table.iloc[order].set_axis(range(100, 100 + len(table)), axis=0))["stimulus"]) == expected
    only_frontal = table[table["view"] == "straight"]
    assert set(choose_rows(only_frontal)["stimulus"]) == expected
    assert len(expected) == only_frontal["expression"].nunique()


def test_a_person_without_the_expression_is_replaced_by_the_next_name_and_the_last_by_the_first() -> None:
    table, last = make_labels(["a", "b", "c"]), EXPRESSIONS[-1]
    rows = choose_rows(table[~((table["identity"] == "c") & (table["expression"] == last))])
    assert list(rows["identity"])[-1] == "a" and list(rows["expression"])[-1] == last
    assert len(choose_rows(table[table["expression"] != EXPRESSIONS[0]])) == len(EXPRESSIONS) - 1


def test_without_frontal_images_all_views_count() -> None:
    rows = choose_rows(make_labels(["a", "b"], views=("full_left", "full_right")))
    assert list(rows["expression"]) == list(EXPRESSIONS) and set(rows["view"]) == {"full_left"}
