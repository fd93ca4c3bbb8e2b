"""Claim C5: what it compares, its intervals, when it holds, and when the data cannot decide."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.checks.claims_heatmaps import judge_heatmap_claims
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables import OVERLAP, VERDICTS
from toys import assert_percentiles, change_rows, drop_rows

Key = tuple[str, str, str]  # quantity, trained_on, tested_on
SINGLE_E, SINGLE_I = ("median", "expression", "expression"), ("median", "identity", "identity")
JOINT_E, JOINT_I = ("median", "joint", "expression"), ("median", "joint", "identity")
# all differences are different; the claim holds by far
MEANS: dict[Key, float] = {
    SINGLE_E: 0.30,
    JOINT_E: 0.17,
    SINGLE_I: 0.42,
    JOINT_I: 0.22,
}
BY_HAND = {
    ("C5", "expression"): 0.30 - 0.17,
    ("C5", "identity"): 0.42 - 0.22,
}
SEEDS, RESAMPLES = (4, 2), 101
NOT_TESTABLE = "not testable on this data"
NOISE = {key: generator(3, "noise", *key).uniform(-0.02, 0.02, RESAMPLES) for key in MEANS}


def make_rows(key: Key, numbers: np.ndarray, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """`numbers` is (n_seeds, 1 + n_resamples), the first column about all people."""
    quantity, trained_on, tested_on = key
    width = numbers.shape[1]
    return pd.DataFrame(
        {
            "figure": "2B",
            "quantity": quantity,
            "trained_on": trained_on,
            "tested_on": tested_on,
            "rule": "",
            "source": "KDEF",
            "seed": np.repeat(seeds, width),
            "resample": np.tile(np.arange(-1, width - 1), len(seeds)),
            "number": numbers.ravel(),
        }
    )


def make_table(means: dict[Key, float] | None = None, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Seeds differ by a little, +-0.01; the same resamples for all seeds, at most 0.02 away; and rows of no claim."""
    tables = []
    for key, mean in (MEANS | (means or {})).items():
        per_seed = mean + 0.01 * (np.arange(len(seeds)) - (len(seeds) - 1) / 2)
        numbers = per_seed[:, None] + np.concatenate([[0.0], NOISE[key]])
        tables.append(make_rows(key, numbers, seeds))
        tables.append(make_rows(("q1", *key[1:]), 1 - numbers, seeds))
    return OVERLAP.check(pd.concat(tables, ignore_index=True))


def judge(table: pd.DataFrame, *, level: float = 0.95, draws: int = 400, seed: int = 1) -> pd.DataFrame:
    verdicts = judge_heatmap_claims(table, level=level, draws=draws, generator=generator(seed, "claims"))
    return verdicts.set_index(["claim", "part"], drop=False)


@pytest.fixture(scope="module")
def verdicts() -> pd.DataFrame:
    return judge(make_table())


def test_every_part_is_the_difference_its_claim_names(verdicts: pd.DataFrame) -> None:
    assert list(verdicts.index) == list(BY_HAND) and list(verdicts.columns) == list(VERDICTS.columns)
    assert verdicts["number"].to_dict() == pytest.approx(BY_HAND, abs=1e-12)
    assert (verdicts["verdict"] == "reproduced").all() and (verdicts["reason"] == "").all()
    assert (verdicts["low"] < verdicts["number"]).all() and (verdicts["number"] < verdicts["high"]).all()
    assert (verdicts["high"] - verdicts["low"] <= 0.08 + 1e-12).all() and set(verdicts["source"]) == {"KDEF"}


def test_published_numbers_and_statements(verdicts: pd.DataFrame) -> None:
    assert verdicts["published"]["C5"].to_dict() == pytest.approx({"expression": 0.0515, "identity": 0.0589}, abs=1e-9)
    assert verdicts["statement"].tolist()[1:] == [
        "the joint network's heatmap for identity is more focal than the identity network's: its median pixel is "
        "lower (Figure 2B; published: 0.0779 against 0.1368)",
    ]


def test_rules_say_level_direction_and_what_was_resampled() -> None:
    rules = judge(make_table(), level=0.9)["rule"]
    tail = (
        "lies above 0, refuted if it lies at or below, else undecided; interval: t with the variance between 2 seeds "
        "and that of the people, which all networks share; beside it: percentiles of 400 bootstrap draws of seeds and "
        "people, and t over seeds alone"
    )
    assert rules["C5", "identity"] == (
        "reproduced if the 90 % interval of the median pixel, identity network on identity minus joint network on "
        f"identity, {tail}"
    )
    one_seed = "of the people (one seed: the interval covers the people only, not the spread between networks)"
    assert judge(make_table(seeds=(3,)))["rule"].str.endswith(one_seed).all()


BELOW, UNDECIDED = "the interval lies at or below 0", "the interval includes 0"
VERDICTS_BY_REASON = {"": "reproduced", BELOW: "refuted", UNDECIDED: "undecided"}


@pytest.mark.parametrize(
    ("part", "means", "reason"),
    [
        (("C5", "expression"), {JOINT_E: 0.40}, BELOW),
        (("C5", "expression"), {JOINT_E: 0.30}, UNDECIDED),
        (("C5", "identity"), {SINGLE_I: 0.10}, BELOW),
        (("C5", "identity"), {SINGLE_I: 0.265}, ""),
    ],
)
def test_verdicts_follow_the_interval(part: tuple[str, str], means: dict[Key, float], reason: str) -> None:
    verdicts = judge(make_table(means))
    assert verdicts["reason"][part] == reason
    assert verdicts["verdict"][part] == VERDICTS_BY_REASON[reason]
    assert (verdicts["verdict"].drop(part) == "reproduced").all()


@pytest.mark.parametrize(
    ("lower", "verdict"), [(0.2, "reproduced"), (-0.2, "refuted"), (0.0, "undecided"), (np.nan, NOT_TESTABLE)]
)
@pytest.mark.parametrize(
    ("part", "more", "less"), [(("C5", "expression"), SINGLE_E, JOINT_E), (("C5", "identity"), SINGLE_I, JOINT_I)]
)
def test_every_part_comes_out_all_four_ways(
    part: tuple[str, str], more: Key, less: Key, lower: float, verdict: str
) -> None:
    row = judge(make_table({more: 0.5, less: 0.5 - lower})).loc[part]
    assert row["verdict"] == verdict
    assert (" testable with " in row["reason"]) == (verdict == NOT_TESTABLE)


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_are_percentiles_of_all_possible_draws(n_seeds: int, level: float) -> None:
    values = generator(5, "planted", n_seeds).random((2, n_seeds, 41))
    seeds = tuple(range(n_seeds))
    table = pd.concat([make_rows(key, side, seeds) for key, side in zip((SINGLE_E, JOINT_E), values, strict=True)])
    row = judge(table, level=level, draws=20_000).loc[("C5", "expression")]
    difference = values[0] - values[1]
    # a resample is shared by both sides and all seeds of a draw
    population = [
        difference[list(drawn), resample].mean()
        for drawn in itertools.product(seeds, repeat=n_seeds)
        for resample in range(1, 41)
    ]
    assert_percentiles([row["bootstrap_low"], row["bootstrap_high"]], population, level=level, draws=20_000)
    assert row["number"] == pytest.approx(difference[:, 0].mean())


IDENTITY, EXPRESSION = ("C5", "identity"), ("C5", "expression")
JOINT = "quantity == 'median' and trained_on == 'joint' and tested_on == 'identity'"
MEDIANS = "quantity == 'median' and tested_on == 'identity'"
SINGLE = "quantity == 'median' and trained_on == 'expression'"
MEDIAN = "the median pixel of the joint network on identity"
MADE_TOGETHER = "; testable with tables that one run has made for all networks"
NO_PAIRS = f"resamples differ between the two sides or between seeds, so that they are no pairs{MADE_TOGETHER}"
NO_RESAMPLES = f"resample -1 (all people) and at least one bootstrap resample are needed{MADE_TOGETHER}"
OTHER_FACES = f"the two sides were not tested on the same faces: source is KDEF and FER2013{MADE_TOGETHER}"
BLANK = "no heatmap but blank ones; testable with networks whose heatmaps are not blank"
LACKING = "; testable with a table that has it"


@pytest.mark.parametrize(
    ("damage", "part", "reason"),
    [
        (drop_rows(JOINT), IDENTITY, f"Figure 2B lacks {MEDIAN}{LACKING}"),
        (
            drop_rows(SINGLE),
            EXPRESSION,
            f"Figure 2B lacks the median pixel of the expression network on expression{LACKING}",
        ),
        (change_rows(JOINT, source="FER2013"), IDENTITY, OTHER_FACES),
        (
            change_rows(f"{JOINT} and seed == 4", seed=5),
            IDENTITY,
            f"seeds differ: 2 and 4 on one side, 2 and 5 on the other{MADE_TOGETHER}",
        ),
        (
            drop_rows(f"{SINGLE} and seed == 2"),
            EXPRESSION,
            f"seeds differ: 4 on one side, 2 and 4 on the other{MADE_TOGETHER}",
        ),
        (drop_rows(f"{SINGLE} and resample == 7"), EXPRESSION, NO_PAIRS),
        (drop_rows(f"{JOINT} and resample == 7 and seed == 4"), IDENTITY, NO_PAIRS),
        (drop_rows(f"{MEDIANS} and resample == -1"), IDENTITY, NO_RESAMPLES),
        (drop_rows(f"{MEDIANS} and resample >= 0"), IDENTITY, NO_RESAMPLES),
        (
            change_rows(f"{JOINT} and seed == 4", number=np.nan),
            IDENTITY,
            f"{MEDIAN} is not defined in 102 of 204 rows: {BLANK}",
        ),
    ],
)
def test_missing_unpaired_or_undefined_cells_are_not_testable(
    verdicts: pd.DataFrame, damage: Callable[[pd.DataFrame], pd.DataFrame], part: tuple[str, str], reason: str
) -> None:
    damaged = judge(damage(make_table()))
    row = damaged.loc[part]
    assert (row["verdict"], row["reason"], row["source"][:4]) == (NOT_TESTABLE, reason, "KDEF")
    assert row[["number", "low", "high"]].isna().all()
    assert "t with the variance between seeds and that of the people" in row["rule"]
    rest = [index for index in damaged.index if index != part]
    pd.testing.assert_frame_equal(damaged.loc[rest], verdicts.loc[rest])  # a part does not depend on the others


def test_without_variation_over_resamples_there_is_no_interval() -> None:
    table = make_table()
    constant = change_rows("figure == '2B'", number=0.3)(table)
    rows = judge(change_rows("figure == '2B' and trained_on == 'joint'", number=0.1)(constant)).loc["C5"]
    assert set(rows["verdict"]) == {NOT_TESTABLE} and rows[["low", "high"]].isna().all(axis=None)
    reason = (
        "no number varies over the resamples, on both sides: the people are too few, or too much alike; testable with "
        "more people"
    )
    assert set(rows["reason"]) == {reason} and rows["number"].tolist() == pytest.approx([0.2, 0.2])
    # it is enough that one side varies
    one_side = judge(change_rows("figure == '2B' and trained_on == 'joint'", number=0.1)(table))
    assert set(one_side["verdict"]["C5"]) == {"reproduced"} and (one_side["low"] < one_side["high"]).all()


def test_order_of_rows_and_names_of_seeds_do_not_matter(verdicts: pd.DataFrame) -> None:
    table = make_table()
    before = table.copy()
    pd.testing.assert_frame_equal(judge(table.iloc[::-1]), verdicts)
    pd.testing.assert_frame_equal(judge(table.assign(seed=table["seed"] + 10)), verdicts)
    pd.testing.assert_frame_equal(table, before)
    nothing = judge(table.iloc[:0])
    assert set(nothing["verdict"]) == {NOT_TESTABLE} and set(nothing["source"]) == {"no faces"}


@settings(max_examples=5)
@given(st.floats(0.1, 0.8), st.floats(0.1, 0.8))
def test_swapping_the_networks_flips_the_sign(one: float, other: float) -> None:
    first, second = (judge(make_table({SINGLE_E: a, JOINT_E: b})) for a, b in ((one, other), (other, one)))
    assert first["number"]["C5", "expression"] == pytest.approx(-second["number"]["C5", "expression"], abs=1e-12)
    results = [verdicts["verdict"]["C5", "expression"] for verdicts in (first, second)]
    # a draw is at most 0.04 from the mean: noise of both sides; seeds differ equally on both
    assert results.count("reproduced") <= 1 and ("reproduced" in results or abs(one - other) <= 0.04)


def test_a_doubled_number_and_a_missing_column_are_refused() -> None:
    table = make_table()
    message = (
        "'overlap' has two rows for figure 2B, quantity median, trained_on expression, tested_on expression, seed 4"
    )
    with pytest.raises(StudyError, match=message):
        judge(pd.concat([table, table[table["resample"] == 3].head(1)], ignore_index=True))
    with pytest.raises(StudyError, match="table 'overlap' lacks column 'rule'"):
        judge(table.drop(columns="rule"))
