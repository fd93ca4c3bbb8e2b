"""Claim C7: what it compares, its intervals, when it holds, and when the data cannot decide."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from facespec.checks.claims_depth import judge_depth_claims
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables import UNIT_SHARES, VERDICTS
from toys import change_rows, drop_rows

SEEDS = (4, 2)
UNITS = {1: 40, 2: 50, 3: 100}  # by depth
NOT_TESTABLE = "not testable on this data"
Counts = Mapping[tuple[str, int], tuple[int, ...]]  # (task, depth) -> specific units, seed by seed
# both tasks: hardly any unit of the first convolution, many of the deepest, all in between
COUNTS: Counts = {
    ("expression", 1): (0, 1),
    ("expression", 2): (50, 50),
    ("expression", 3): (30, 40),
    ("identity", 1): (1, 0),
    ("identity", 2): (50, 50),
    ("identity", 3): (61, 80),
}


def make_shares(counts: Counts | None = None, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    rows = [
        {
            "seed": seed,
            "layer": f"trunk.relu{depth}",
            "depth": depth,
            "name": name,
            "units": UNITS[depth],
            "count": count,
        }
        for (name, depth), specific in (dict(COUNTS) | dict(counts or {})).items()
        for seed, count in zip(seeds, specific, strict=False)
    ]
    table = pd.DataFrame(rows).assign(trained_on="joint", source="KDEF", kind="specific", silent=3)
    table["units"] = table["depth"].map(UNITS)
    return UNIT_SHARES.check(table.assign(share=table["count"] / table["units"]))


def judge(
    table: pd.DataFrame, *, level: float = 0.95, margin: float = 0.1, draws: int = 500, seed: int = 1
) -> pd.DataFrame:
    options = {"level": level, "margin": margin, "draws": draws}
    return judge_depth_claims(table, **options, generator=generator(seed, "claims")).set_index("part", drop=False)


def test_every_part_is_a_mean_over_seeds() -> None:
    verdicts = judge(make_shares())
    assert list(verdicts.columns) == list(VERDICTS.columns) and set(verdicts["claim"]) == {"C7"}
    assert verdicts["number"].to_dict() == pytest.approx(
        {
            "expression deeper": (0.30 + 0.40) / 2 - (0 + 1 / 40) / 2,
            "expression first": (0 + 1 / 40) / 2,
            "identity deeper": (0.61 + 0.80) / 2 - (1 / 40 + 0) / 2,
            "identity first": (1 / 40 + 0) / 2,
        },
        abs=1e-12,
    )
    assert (verdicts["verdict"] == "reproduced").all() and (verdicts["reason"] == "").all()
    assert verdicts["published"].isna().all() and set(verdicts["source"]) == {"KDEF"}
    assert (verdicts["low"] <= verdicts["number"]).all() and (verdicts["number"] <= verdicts["high"]).all()


def test_only_specific_units_of_the_joint_network_count_in_any_order() -> None:
    table = make_shares()
    before, verdicts = table.copy(), judge(table)
    other = make_shares({("expression", 1): (40, 40)})
    others = [other.assign(trained_on=name) for name in ("untrained", "expression", "identity")]
    mixed = pd.concat([*others, other.assign(kind="class"), table.iloc[::-1]], ignore_index=True)
    pd.testing.assert_frame_equal(judge(mixed), verdicts)
    pd.testing.assert_frame_equal(table, before)


def test_statements_and_rules() -> None:
    verdicts = judge(make_shares(), level=0.9, margin=0.07)
    assert verdicts["statement"].tolist()[:2] == [
        "the share of units specific to expression in the joint network's deepest convolution is larger than in its "
        "first (Figures 3 and S2; published: in words)",
        "the share of units specific to expression in the joint network's first convolution is negligible (Figures 3 "
        "and S2; published: in words)",
    ]
    tail = "interval: percentiles of 500 bootstrap draws of 2 seeds, and of the units within each"
    assert verdicts["rule"].tolist()[2:] == [
        "reproduced if the lower bound of the 90 % interval of the share of units specific to identity, deepest minus "
        f"first convolution, is above 0; {tail}",
        "reproduced if the upper bound of the 90 % interval of the share of units specific to identity in the first "
        f"convolution is at most 0.07; {tail}, or, if wider, the exact interval of the units of all seeds",
    ]
    one_seed = (
        "draws of seeds, and of the units within each (one seed: the interval covers the units only, not the spread "
        "between networks)"
    )
    assert judge(make_shares(seeds=(3,)))["rule"].iloc[::2].str.endswith(one_seed).all()


@pytest.mark.parametrize(
    ("counts", "part", "reason"),
    [
        ({("expression", 3): (0, 0)}, "expression deeper", "the interval lies at or below 0"),
        ({("expression", 3): (0, 4)}, "expression deeper", "undecided: the interval includes 0"),
        ({("identity", 3): (100, 0)}, "identity deeper", "undecided: the interval includes 0"),  # seeds disagree
        ({("identity", 1): (30, 30), ("identity", 3): (75, 75)}, "identity first", "the interval lies above 0.1"),
        ({("expression", 1): (4, 4)}, "expression first", "undecided: the interval includes 0.1"),
        ({("expression", 1): (0, 16)}, "expression first", "undecided: the interval includes 0.1"),
    ],
)
def test_verdicts_follow_the_interval(counts: Counts, part: str, reason: str) -> None:
    verdicts = judge(make_shares(counts))
    assert verdicts["reason"][part] == reason and verdicts["verdict"][part] == "not reproduced"


def test_the_interval_of_no_specific_unit_is_exact_and_not_empty() -> None:
    """The exact bound for 0 of n units is 1 - 0.025 ** (1 / n)."""
    none = dict.fromkeys(COUNTS, (0, 0))
    verdicts = judge(make_shares(none), margin=0.05)
    assert verdicts["verdict"].tolist() == 2 * ["not reproduced", "reproduced"] and (verdicts["number"] == 0).all()
    assert (verdicts.loc[["expression deeper", "identity deeper"], ["low", "high"]] == 0).all(axis=None)
    assert verdicts["high"]["identity first"] == pytest.approx(1 - 0.025 ** (1 / 80))
    assert verdicts["low"]["identity first"] == 0
    few = judge(make_shares(none, seeds=(4,)), margin=0.05)
    assert few["high"]["expression first"] == pytest.approx(1 - 0.025 ** (1 / 40))
    assert few["reason"]["expression first"] == "undecided: the interval includes 0.05"
    # a bound that is the margin itself is at most the margin
    assert judge(make_shares({("expression", 1): (40, 40)}), margin=1.0)["verdict"]["expression first"] == "reproduced"


def enumerate_differences(specific: list[tuple[int, int]], units: int) -> np.ndarray:
    """Probabilities that draws of seeds and units give a difference of -n, ..., n units of all seeds, deepest - first.

    `specific` is (first, deepest) of each seed. The sum of independent counts, over all ways to draw seeds.
    """
    per_seed = []
    for counts in specific:
        first, deepest = (stats.binom.pmf(np.arange(units + 1), units, count / units) for count in counts)
        per_seed.append(np.convolve(deepest, first[::-1]))
    draws = [functools.reduce(np.convolve, drawn) for drawn in itertools.product(per_seed, repeat=len(per_seed))]
    return np.mean(draws, axis=0)


@pytest.mark.parametrize("specific", [[(12, 20)], [(4, 8), (12, 32)], [(0, 3), (6, 2), (1, 30)]])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_are_percentiles_of_the_distribution_of_all_draws(
    specific: list[tuple[int, int]], level: float
) -> None:
    draws, seeds = 20_000, tuple(range(len(specific)))
    first, deepest = zip(*specific, strict=True)
    table = make_shares({("expression", 1): first, ("expression", 3): deepest}, seeds=seeds)
    row = judge(table[table["name"] == "expression"].assign(units=40), draws=draws, level=level).loc[
        "expression deeper"
    ]
    cumulative = np.cumsum(enumerate_differences(specific, 40))
    values = np.arange(-40 * len(seeds), 40 * len(seeds) + 1) / (40 * len(seeds))
    for bound, share in ((row["low"], (1 - level) / 2), (row["high"], (1 + level) / 2)):
        error = 4 * np.sqrt(share * (1 - share) / draws)  # of a sampled quantile: binomial standard errors
        low, high = (values[np.searchsorted(cumulative, quantile)] for quantile in (share - error, share + error))
        assert low - 1e-12 <= bound <= high + 1e-12


def test_layers_of_equal_depth_are_counted_together() -> None:
    table = make_shares()
    is_deepest = table["depth"] == 3
    branch = table[is_deepest].assign(units=30, count=10, share=1 / 3, layer="branches.identity.relu3")
    both = pd.concat([table.assign(layer=table["layer"].where(~is_deepest, "branches.expression.relu3")), branch])
    number = judge(both.reset_index(drop=True))["number"]["expression deeper"]
    assert number == pytest.approx(((30 + 10) / 130 + (40 + 10) / 130) / 2 - 1 / 80)


def list_reasons(table: pd.DataFrame) -> set[str]:
    verdicts = judge(table)
    assert set(verdicts["verdict"]) == {NOT_TESTABLE}
    assert verdicts[["number", "low", "high"]].isna().all(axis=None)
    return set(verdicts["reason"])


def test_missing_layers_seeds_and_responses_are_not_testable() -> None:
    table = make_shares()
    absent = "the table lacks the share of units specific to {} in the joint network"
    untrained = table.assign(trained_on="untrained")
    assert list_reasons(untrained) == {absent.format("expression"), absent.format("identity")}
    assert list_reasons(table[table["depth"] == 1]) == {"the networks have one convolution only"}
    assert list_reasons(drop_rows("depth == 3 and seed == 2")(table)) == {"convolution 3 of seed 2 is missing"}
    silent = table.assign(units=table["units"].where(table["depth"] > 1, 0), share=np.nan, count=0)
    assert list_reasons(silent) == {"no unit of convolution 1 of seed 2 and 4 answers to anything"}
    mixed = change_rows("depth == 1", source="embedded faces")(table)
    assert list_reasons(mixed) == {"the two sides were not tested on the same faces: source is embedded faces and KDEF"}
    assert set(judge(table.iloc[:0])["source"]) == {"no faces"}


def test_a_task_that_is_not_testable_does_not_change_the_other() -> None:
    table = make_shares()
    verdicts = judge(table[table["name"] == "identity"])
    assert verdicts["verdict"].tolist() == 2 * [NOT_TESTABLE] + 2 * ["reproduced"]
    pd.testing.assert_frame_equal(verdicts[2:], judge(table)[2:])


@settings(max_examples=6)
@given(st.integers(0, 40), st.integers(0, 100), st.integers(0, 40), st.integers(0, 100))
def test_complementary_units_give_the_negative_difference(a: int, b: int, c: int, d: int) -> None:
    counts = {("expression", 1): (a, c), ("expression", 3): (b, d)}
    others = {("expression", 1): (40 - a, 40 - c), ("expression", 3): (100 - b, 100 - d)}
    first, second = (judge(make_shares(each)).loc["expression deeper"] for each in (counts, others))
    assert first["number"] == pytest.approx(-second["number"], abs=1e-12)
    assert -1 <= first["low"] <= first["high"] <= 1
    assert [first["verdict"], second["verdict"]].count("reproduced") <= 1


def test_a_doubled_share_and_a_missing_column_are_refused() -> None:
    table = make_shares()
    message = (
        "'unit_shares' has two rows for trained_on joint, seed 4, layer trunk.relu1, kind specific, name expression"
    )
    with pytest.raises(StudyError, match=message):
        judge(pd.concat([table, table.head(1)], ignore_index=True))
    with pytest.raises(StudyError, match="table 'unit_shares' lacks column 'units'"):
        judge(table.drop(columns="units"))
