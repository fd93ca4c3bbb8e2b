"""Tables that cannot settle a claim, and the reasons given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

ToTable = Callable[..., pd.DataFrame]
ToArray = Callable[..., np.ndarray]


def change(where: str, **values: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def changed(table: pd.DataFrame) -> pd.DataFrame:
        chosen = table.eval(where)
        return table.assign(**{name: table[name].where(~chosen, value) for name, value in values.items()})

    return changed


JOINT = "figure == 'S1B' and trained_on == 'joint' and tested_on == 'expression'"
BOTH = "figure == 'S1B' and tested_on == 'expression'"
S1B_JOINT, S1B_SINGLE = ("S1B", "joint", "expression"), ("S1B", "expression", "expression")
C3_JOINT, C3_SINGLE = ("1C", "joint", "identity"), ("1C", "identity", "identity")
FLAT = "no accuracy varies over the resamples: all answers right or all wrong, on both sides"


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda t: t[~t.eval(JOINT)], "Figure S1B lacks the joint network on expression"),
        (change(JOINT, n=149), "the two sides were not tested on the same faces: n is 149 and 150"),
        (change(JOINT, source="KDEF"), "the two sides were not tested on the same faces: source is KDEF and FER2013"),
        (change(JOINT, role="probe"), "the two sides were not tested on the same faces: role is probe and expression"),
        (change(BOTH, chance=1.0), "chance is 1.0 for the joint network on expression: one value below 1 is needed"),
        (
            change(f"{JOINT} and seed == 4", chance=0.5),
            f"chance is 0.5 and {1 / 7} for the joint network on expression: one value below 1 is needed",
        ),
        (change(f"{JOINT} and seed == 4", seed=5), "seeds differ: 2 and 5 on one side, 2 and 4 on the other"),
        (lambda t: t[~t.eval(f"{JOINT} and seed == 4")], "seeds differ: 2 on one side, 2 and 4 on the other"),
        (
            lambda t: t[~t.eval(f"{JOINT} and resample == 7")],
            "resamples differ between the two sides or between seeds, so that they are no pairs",
        ),
        (
            lambda t: t[~t.eval(f"{BOTH} and seed == 4 and resample == 7")],
            "resamples differ between the two sides or between seeds, so that they are no pairs",
        ),
        (
            lambda t: t[~t.eval(f"{BOTH} and resample == -1")],
            "resample -1 (the test images themselves) and at least one bootstrap resample are needed",
        ),
        (
            lambda t: t[~t.eval(f"{BOTH} and resample >= 0")],
            "resample -1 (the test images themselves) and at least one bootstrap resample are needed",
        ),
    ],
)
def test_unpaired_or_missing_cells(
    judge: ToTable, table: pd.DataFrame, damage: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    found = judge(damage(table))
    part = found.loc[("C4", "expression")]
    assert (part["verdict"], part["reason"]) == ("not testable on this data", reason)
    assert part[["number", "low", "high"]].isna().all() and part["published"] == pytest.approx(0.013440)
    assert part["rule"].endswith(
        "bootstrap draws of seeds, and of one resample of the test images shared by both sides"
    )
    assert "not testable on this data" not in set(found["verdict"].drop(("C4", "expression")))


@pytest.mark.parametrize("joint, single", [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)])
def test_where_no_resample_varies_there_is_no_interval(
    judge: ToTable, planted: ToTable, joint: float, single: float
) -> None:
    found = judge(planted({S1B_JOINT: joint, S1B_SINGLE: single})).loc[("C4", "expression")]
    assert (found["verdict"], found["reason"]) == ("not testable on this data", FLAT)
    assert found["number"] == joint - single and np.isnan(found["low"]) and np.isnan(found["high"])


def test_nothing_can_be_better_than_perfect(judge: ToTable, planted: ToTable) -> None:
    found = judge(planted({S1B_SINGLE: 1.0, S1B_JOINT: 0.9, C3_SINGLE: 1.0, C3_JOINT: 0.9}))
    part = found.loc[("C4", "expression")]
    assert part["verdict"] == "not testable on this data"
    assert part["reason"] == "the expression network on expression makes no mistake: nothing could be gained"
    assert part["number"] == pytest.approx(-0.1) and part["low"] < -0.1 < part["high"]
    # but it can be worse
    assert found["verdict"]["C3", "identity"] == "not reproduced"


def test_one_imperfect_seed_leaves_room(judge: ToTable, rows: ToTable, bootstrapped: ToArray, answers: ToArray) -> None:
    single = np.stack([np.ones(150, dtype=bool), np.arange(150) < 140])
    table = pd.concat([rows(S1B_JOINT, bootstrapped(answers(0.9))), rows(S1B_SINGLE, bootstrapped(single))])
    assert judge(table)["verdict"]["C4", "expression"] == "not reproduced"


@pytest.mark.parametrize("single, testable", [(1 / 70, False), (11 / 150, False), (0.2, True)])
def test_a_network_that_guesses_cannot_be_matched(
    judge: ToTable, planted: ToTable, single: float, testable: bool
) -> None:
    """Chance is 1/70, the margin 0.02. 11 of 150 has its lower bound near 0.027: above each, below their sum."""
    found = judge(planted({C3_SINGLE: single, C3_JOINT: single})).loc[("C3", "identity")]
    if testable:
        assert (found["verdict"], found["reason"]) == ("reproduced", "")
    else:
        reason = "the identity network on identity is not itself above chance by more than 0.02: nothing could be lost"
        assert (found["verdict"], found["reason"]) == ("not testable on this data", reason)
        assert found["number"] == 0


def test_a_network_that_guesses_can_be_surpassed(judge: ToTable, planted: ToTable) -> None:
    assert judge(planted({C3_SINGLE: 1 / 70, C3_JOINT: 0.5}))["verdict"]["C3", "identity"] == "reproduced"


def test_no_accuracies_at_all(judge: ToTable, table: pd.DataFrame) -> None:
    found = judge(table.iloc[:0])
    assert set(found["verdict"]) == {"not testable on this data"} and set(found["source"]) == {"no faces"}
    assert found["reason"]["C3", "expression"] == "Figure 1C lacks the joint network on expression"


def test_sources_are_those_of_the_cells_compared(judge: ToTable, table: pd.DataFrame) -> None:
    found = judge(change("figure == '1B'", source="KDEF")(table))
    assert found["source"].to_dict() == {part: "KDEF" if part[0] in ("C1", "C2") else "FER2013" for part in found.index}
    assert judge(table[~table.eval(JOINT)])["source"]["C4", "expression"] == "FER2013"
