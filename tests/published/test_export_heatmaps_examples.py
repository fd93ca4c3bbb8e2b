"""Which images Figure 2D shows."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.published.export_heatmaps import choose_examples
from facespec.study.tables import LABELS
from facespec.study.vocabulary import EXPRESSIONS, VIEWS


def labels(people: list[str], *, views: tuple[str, ...] = tuple(VIEWS), sessions: str = "AB") -> pd.DataFrame:
    return LABELS.check(
        pd.DataFrame(
            [
                {
                    "stimulus": f"{session}{person}-{expression}-{view}",
                    "split": "probe",
                    "identity": person,
                    "expression": str(expression),
                    "view": str(view),
                    "session": session,
                }
                for person, session, expression, view in itertools.product(people, sessions, EXPRESSIONS, views)
            ]
        )
    )


PEOPLE = [f"{sex}{number:02d}" for sex in "FM" for number in range(1, 36)]


def test_examples_are_one_frontal_image_per_expression_of_people_spread_evenly() -> None:
    table = labels(PEOPLE)
    chosen = table.iloc[choose_examples(table)]
    assert list(chosen["expression"]) == list(EXPRESSIONS)
    # 70 people in 7 parts of 10: the one in the middle of each, by hand
    assert list(chosen["identity"]) == ["F06", "F16", "F26", "M01", "M11", "M21", "M31"]
    assert list(chosen["stimulus"]) == [
        f"A{p}-{e}-straight" for p, e in zip(chosen["identity"], EXPRESSIONS, strict=True)
    ]


def test_examples_of_three_people() -> None:
    table = labels(["x", "z", "y"])
    assert list(table.iloc[choose_examples(table)]["identity"]) == ["x", "x", "y", "y", "y", "z", "z"]


@settings(max_examples=15)
@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(0, 3))
def test_examples_depend_on_neither_order_nor_other_views(random: Any, people: int, dropped: int) -> None:
    table = labels(PEOPLE[:people], views=("full_left", "straight"))
    straight = table[table["view"] == "straight"]
    gone = [random.choice(straight["stimulus"].tolist()) for _ in range(dropped)]
    table = table[~table["stimulus"].isin(gone)].reset_index(drop=True)
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = table.iloc[order].set_axis(range(100, 100 + len(table)), axis=0)
    found = set(table["stimulus"].iloc[choose_examples(table)])
    assert set(shuffled["stimulus"].iloc[choose_examples(shuffled)]) == found
    only = table[table["view"] == "straight"]
    assert set(only["stimulus"].iloc[choose_examples(only)]) == found
    assert len(found) == only["expression"].nunique()


def test_who_lacks_an_expression_is_replaced_by_the_next_one_round_the_circle() -> None:
    table = labels(["a", "b", "c"])
    last = EXPRESSIONS[-1]
    lacking = table[~((table["identity"] == "c") & (table["expression"] == last))]
    chosen = lacking.iloc[choose_examples(lacking)]
    assert list(chosen["identity"])[-1] == "a" and list(chosen["expression"])[-1] == last
    none = table[table["expression"] != EXPRESSIONS[0]]
    assert len(choose_examples(none)) == len(EXPRESSIONS) - 1


def test_without_frontal_images_all_views_count() -> None:
    table = labels(["a", "b"], views=("full_left", "full_right"))
    chosen = table.iloc[choose_examples(table)]
    assert list(chosen["expression"]) == list(EXPRESSIONS) and set(chosen["view"]) == {"full_left"}
