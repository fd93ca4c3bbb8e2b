"""What each claim compares, and when it holds."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from facespec.study.errors import StudyError
from facespec.study.tables import ACCURACY, VERDICTS

ToTable = Callable[..., pd.DataFrame]
Key = tuple[str, str, str]  # figure, trained_on, tested_on

BY_HAND = {  # from the rates in conftest.py
    ("C1", "expression"): 0.70 - 0.26,
    ("C1", "identity"): 0.90 - 0.54,
    ("C2", "information"): (0.54 - 1 / 70) / (69 / 70) - (0.26 - 1 / 7) / (6 / 7),
    ("C3", "expression"): 0.72 - 0.60,
    ("C3", "identity"): 0.96 - 0.80,
    ("C4", "expression"): 0.58 - 0.40,
    ("C4", "identity"): 0.50 - 0.30,
}


def test_every_part_is_the_difference_its_claim_names(judge: ToTable, planted: ToTable) -> None:
    found = judge(planted())
    assert list(found.index) == list(BY_HAND)
    assert found["number"].to_dict() == pytest.approx(BY_HAND, abs=1e-12)
    assert (found["verdict"] == "reproduced").all() and (found["reason"] == "").all()
    assert (found["low"] <= found["number"]).all() and (found["number"] <= found["high"]).all()
    assert set(found["source"]) == {"FER2013"}


def test_published_numbers(judge: ToTable, planted: ToTable) -> None:
    """Calculated from the means of the published pickles, by hand."""
    expected = {
        ("C1", "expression"): 0.270490,
        ("C1", "identity"): 0.626817,
        ("C2", "information"): (0.340510 * 70 - 1) / 69 - (0.181571 * 7 - 1) / 6,
        ("C3", "expression"): 0.000183,
        ("C3", "identity"): 0.006612,
        ("C4", "expression"): 0.013440,
        ("C4", "identity"): 0.046357,
    }
    assert judge(planted())["published"].to_dict() == pytest.approx(expected, abs=1e-9)


def test_statements_say_the_claim_and_the_published_comparison(judge: ToTable, planted: ToTable) -> None:
    statements = judge(planted())["statement"]
    assert statements["C1", "identity"] == (
        "identity is decoded better from the identity network than from the expression network "
        "(Figure 1B; published: 0.9673 against 0.3405)"
    )
    assert statements["C2", "information"] == (
        "the expression network carries more information about identity, above chance, than the identity network about "
        "expression (Figure 1B; published: 0.3405 (chance 0.0143) against 0.1816 (chance 0.1429))"
    )
    assert statements["C3", "expression"] == (
        "the joint network is not worse at expression than the expression network "
        "(Figure 1C; published: 0.5466 against 0.5464)"
    )
    assert statements["C4", "identity"] == (
        "the joint network is better at identity than the identity network, on faces of its training role "
        "(Figure S1B; published: 0.8855 against 0.8391)"
    )


def test_rules_say_level_margin_direction_and_what_was_resampled(judge: ToTable, planted: ToTable) -> None:
    rules = judge(planted(), level=0.9, margin=0.03)["rule"]
    tail = "percentiles of 400 bootstrap draws of 2 seeds, and of one resample of the test images shared by both sides"
    assert rules["C1", "expression"] == (
        "reproduced if the lower bound of the 90 % interval of accuracy, expression network on expression minus "
        f"identity network on expression, is above 0; interval: {tail}"
    )
    assert rules["C2", "information"] == (
        "reproduced if the lower bound of the 90 % interval of (accuracy - chance) / (1 - chance), expression network "
        f"on identity minus identity network on expression, is above 0; interval: {tail}"
    )
    assert rules["C3", "identity"] == (
        "reproduced if the lower bound of the 90 % interval of accuracy, joint network on identity minus identity "
        f"network on identity, is above -0.03 (not worse by more than 0.03); interval: {tail}"
    )
    one = judge(planted(seeds=(3,)))["rule"]
    assert one.str.endswith(
        "shared by both sides (one seed: the interval covers the test images only, not the spread between networks)"
    ).all()


S1B_JOINT, S1B_SINGLE = ("S1B", "joint", "expression"), ("S1B", "expression", "expression")
C3_JOINT, C3_SINGLE = ("1C", "joint", "identity"), ("1C", "identity", "identity")
BELOW, UNDECIDED = "the interval lies at or below 0", "undecided: the interval includes 0"


@pytest.mark.parametrize(
    "part, rates, verdict, reason",
    [
        (("C4", "expression"), {S1B_JOINT: 0.40, S1B_SINGLE: 0.58}, "not reproduced", BELOW),
        (("C4", "expression"), {S1B_JOINT: 0.41, S1B_SINGLE: 0.40}, "not reproduced", UNDECIDED),
        (("C4", "expression"), {S1B_JOINT: 0.40, S1B_SINGLE: 0.40}, "not reproduced", BELOW),
        (("C1", "identity"), {("1B", "identity", "identity"): 0.1}, "not reproduced", BELOW),
        (("C2", "information"), {("1B", "expression", "identity"): 0.02}, "not reproduced", BELOW),
        (("C3", "identity"), {C3_JOINT: 0.80, C3_SINGLE: 0.80}, "reproduced", ""),
        (("C3", "identity"), {C3_JOINT: 0.78, C3_SINGLE: 0.80}, "not reproduced", UNDECIDED.replace("0", "-0.02")),
        (("C3", "identity"), {C3_JOINT: 0.60, C3_SINGLE: 0.80}, "not reproduced", BELOW.replace("0", "-0.02")),
        (("C3", "identity"), {C3_JOINT: 0.02, C3_SINGLE: 0.80}, "not reproduced", BELOW.replace("0", "-0.02")),
        (("C3", "identity"), {C3_JOINT: 1.00, C3_SINGLE: 0.80}, "reproduced", ""),
    ],
)
def test_verdicts_follow_the_interval(
    judge: ToTable, planted: ToTable, part: Key, rates: dict[Key, float], verdict: str, reason: str
) -> None:
    """The single images' answers are nested, so that a difference of 0.01 is 1.5 images in 150."""
    found = judge(planted(rates)).loc[part]
    assert (found["verdict"], found["reason"]) == (verdict, reason)


def test_the_margin_decides_for_not_worse_and_for_nothing_else(judge: ToTable, planted: ToTable) -> None:
    table = planted({C3_JOINT: 0.76, C3_SINGLE: 0.80, S1B_JOINT: 0.40, S1B_SINGLE: 0.42})
    strict, lenient = judge(table, margin=0.02), judge(table, margin=0.15)
    changed = strict["verdict"] != lenient["verdict"]
    assert list(changed[changed].index) == [("C3", "identity")]
    assert lenient["verdict"]["C3", "identity"] == "reproduced"


def test_a_doubled_accuracy_is_refused(judge: ToTable, table: pd.DataFrame) -> None:
    first = table[table["resample"] == 3].head(1)
    with pytest.raises(StudyError) as caught:
        judge(pd.concat([table, first], ignore_index=True))
    assert str(caught.value) == (
        "table 'accuracy' has two rows for figure 1B, trained_on expression, tested_on expression, seed 4, resample 3; "
        "one accuracy is allowed. Make the tables again."
    )


def test_tables_are_checked_at_the_door_and_left_alone(judge: ToTable, table: pd.DataFrame) -> None:
    before = table.copy()
    assert list(judge(table).columns) == list(VERDICTS.columns)
    pd.testing.assert_frame_equal(table, before)
    with pytest.raises(StudyError, match="table 'accuracy' lacks column 'chance'"):
        judge(table.drop(columns="chance"))
    ACCURACY.check(table)
