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

from facespec.checks.claims_depth import bound_contrast, bound_share, count_needed_units, judge_depth_claims
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables import UNIT_SHARES, VERDICTS
from toys import change_rows, drop_rows

SEEDS = (4, 2)
UNITS = {1: 40, 2: 50, 3: 100}  # by depth
REPRODUCED, REFUTED, UNDECIDED = "reproduced", "refuted", "undecided"
NOT_TESTABLE = "not testable on this data"
MADE_TOGETHER = "; testable with tables that one run has made for all networks"
Counts = Mapping[tuple[str, int], tuple[int, ...]]  # (task, depth) -> specific units, seed by seed
# both tasks: hardly any unit of the first convolution, many of the deepest, all in between
COUNTS: Counts = {
    ("expression", 1): (0, 1),
    ("expression", 2): (50, 50),
    ("expression", 3): (38, 40),
    ("identity", 1): (1, 0),
    ("identity", 2): (50, 50),
    ("identity", 3): (78, 80),
}
# the untrained trunk: hardly any unit anywhere
BEFORE: Counts = {
    ("expression", 1): (0, 0),
    ("expression", 2): (9, 0),
    ("expression", 3): (2, 3),
    ("identity", 1): (0, 1),
    ("identity", 2): (0, 9),
    ("identity", 3): (4, 5),
}


def make_shares(
    counts: Counts | None = None, *, before: Counts | None = None, seeds: tuple[int, ...] = SEEDS
) -> pd.DataFrame:
    trunk = make_network(dict(BEFORE) | dict(before or {}), seeds).assign(trained_on="untrained")
    return pd.concat([make_network(dict(COUNTS) | dict(counts or {}), seeds), trunk], ignore_index=True)


def make_network(counts: Counts, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    rows = [
        {
            "seed": seed,
            "layer": f"trunk.relu{depth}",
            "depth": depth,
            "name": name,
            "units": UNITS[depth],
            "count": count,
        }
        for (name, depth), specific in counts.items()
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
    verdicts = judge(make_shares(), margin=0.2)
    assert list(verdicts.columns) == list(VERDICTS.columns) and set(verdicts["claim"]) == {"C7"}
    assert verdicts["number"].to_dict() == pytest.approx(
        {
            "expression deeper": (0.38 + 0.40) / 2 - (0 + 1 / 40) / 2 - (0.02 + 0.03) / 2,
            "expression first": (0 + 1 / 40) / 2,
            "identity deeper": (0.78 + 0.80) / 2 - (1 / 40 + 0) / 2 - ((0.04 + 0.05) / 2 - (0 + 1 / 40) / 2),
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
    others = [make_network(dict(COUNTS)).assign(trained_on=name, count=40) for name in ("expression", "identity")]
    mixed = pd.concat([*others, other.assign(kind="class"), table.iloc[::-1]], ignore_index=True)
    pd.testing.assert_frame_equal(judge(mixed), verdicts)
    pd.testing.assert_frame_equal(table, before)


def test_statements_and_rules() -> None:
    verdicts = judge(make_shares(), level=0.9, margin=0.07)
    assert verdicts["statement"].tolist()[:2] == [
        "the share of units specific to expression grows more from the joint network's first convolution to its "
        "deepest than in the untrained trunk (Figures 3 and S2; published: in words)",
        "the share of units specific to expression in the joint network's first convolution is negligible (Figures 3 "
        "and S2; published: in words)",
    ]
    tail = "beside it: percentiles of 500 bootstrap draws of seeds, and of the units within each"
    assert verdicts["rule"].tolist()[2:] == [
        "reproduced if the 90 % interval of the share of units specific to identity, deepest minus first convolution, "
        "joint network minus untrained trunk, lies above 0, refuted if it lies at or below, else undecided; interval: "
        f"t over 2 seeds, or, if wider, the interval of the units of all seeds (Price & Bonett 2004); {tail}",
        "reproduced if the 90 % interval of the share of units specific to identity in the first convolution lies at "
        "or below 0.07, refuted if it lies above, else undecided; interval: t over 2 seeds, or, if wider, the exact "
        f"interval of the units of all seeds; {tail}",
    ]
    one_seed = "(one seed: the interval covers the units only, not the spread between networks)"
    assert judge(make_shares(seeds=(3,)))["rule"].str.contains(one_seed, regex=False).all()


FEW = "40 units are too few: even without a specific one among them the interval would include 0.05"


@pytest.mark.parametrize(
    ("half", "counts", "before", "verdict", "reason"),
    [
        ("deeper", {1: (0, 0), 3: (50, 50)}, {}, REPRODUCED, ""),
        ("deeper", {1: (0, 0), 3: (3, 3)}, {3: (50, 50)}, REFUTED, "the interval lies at or below 0"),
        ("deeper", {1: (0, 0), 3: (50, 50)}, {3: (50, 50)}, UNDECIDED, "the interval includes 0"),
        ("deeper", {1: (0, 0), 3: (100, 0)}, {}, UNDECIDED, "the interval includes 0"),  # seeds disagree
        # what the untrained trunk loses over depth counts for the joint network
        ("deeper", {1: (20, 20), 3: (50, 50)}, {1: (20, 20), 3: (5, 5)}, REPRODUCED, ""),
        (
            "deeper",
            {3: (100, 100)},
            {3: (96, 96)},
            NOT_TESTABLE,
            "already 96 % of the units of the untrained trunk's deepest convolution are specific to identity: nothing "
            "could be gained; testable with faces with which these are less than 95 %",
        ),
        ("first", {1: (0, 0)}, {}, REPRODUCED, ""),
        ("first", {1: (20, 20)}, {}, REFUTED, "the interval lies above 0.05"),
        ("first", {1: (1, 1)}, {}, UNDECIDED, "the interval includes 0.05"),
        ("first", {1: (0, 16)}, {}, UNDECIDED, "the interval includes 0.05"),
        (
            "first",
            {1: (40, 40)},
            {1: (38, 40)},
            NOT_TESTABLE,
            "already 98 % of the units of the untrained trunk's first convolution are specific to identity: training "
            "has not made them; testable with faces with which these are at most 5 %",
        ),
    ],
)
def test_every_part_comes_out_all_four_ways(
    half: str, counts: dict[int, tuple[int, int]], before: dict[int, tuple[int, int]], verdict: str, reason: str
) -> None:
    """With two seeds of 40 units in the first convolution: 80 are enough for a margin of 5 %, as 72 would be."""
    nothing = {1: (0, 0), 3: (0, 0)}
    for task in ("expression", "identity"):
        rows = [{(task, depth): n for depth, n in (nothing | each).items()} for each in (counts, before)]
        row = judge(make_shares(rows[0], before=rows[1]), margin=0.05).loc[f"{task} {half}"]
        assert (row["verdict"], row["reason"]) == (verdict, reason.replace("identity", task))


@pytest.mark.parametrize(("specific", "verdict"), [(0, NOT_TESTABLE), (1, NOT_TESTABLE), (20, REFUTED)])
def test_too_few_units_can_refute_but_not_confirm(specific: int, verdict: str) -> None:
    row = judge(make_shares({("expression", 1): (specific,)}, seeds=(4,)), margin=0.05).loc["expression first"]
    assert row["verdict"] == verdict
    needs = "; testable with 72 units or more, such as 2 seeds of these networks"
    assert row["reason"] == (FEW + needs if verdict == NOT_TESTABLE else "the interval lies above 0.05")


@pytest.mark.parametrize(("margin", "level"), [(0.05, 0.95), (0.1, 0.95), (0.05, 0.8), (0.5, 0.99)])
def test_the_units_that_are_needed_are_the_fewest_whose_exact_bound_is_low_enough(margin: float, level: float) -> None:
    bounds = [stats.binomtest(0, n).proportion_ci(level).high for n in range(1, 200)]
    assert count_needed_units(margin, level) == 1 + next(n for n, bound in enumerate(bounds) if bound <= margin)


@pytest.mark.parametrize("specific", [0, 1, 17, 39, 40])
def test_bounds_of_a_share_are_those_of_scipy(specific: int) -> None:
    exact = stats.binomtest(specific, 40).proportion_ci(0.9)
    assert bound_share(np.array(specific), 40, level=0.9) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_bounds_of_a_contrast_are_those_of_price_and_bonett() -> None:
    """By hand: half a success and one trial more in each of four groups, a normal interval around their contrast."""
    specific, units = np.array([[0, 30], [2, 10]]), np.array([[40, 100], [40, 100]])
    shares = [0.5 / 41, 30.5 / 101, 2.5 / 41, 10.5 / 101]
    centre = shares[1] - shares[0] - (shares[3] - shares[2])
    variance = sum(p * (1 - p) / n for p, n in zip(shares, (41, 101, 41, 101), strict=True))
    half = 1.959964 * np.sqrt(variance)
    assert bound_contrast(specific, units, level=0.95) == pytest.approx((centre - half, centre + half), rel=1e-5)


def test_the_interval_of_no_specific_unit_is_exact_and_not_empty() -> None:
    """The exact bound for 0 of n units is 1 - 0.025 ** (1 / n)."""
    none = dict.fromkeys(COUNTS, (0, 0))
    verdicts = judge(make_shares(none, before=none), margin=0.05)
    assert verdicts["verdict"].tolist() == 2 * [UNDECIDED, REPRODUCED] and (verdicts["number"] == 0).all()
    assert (verdicts["low"][::2] < 0).all() and (verdicts["high"][::2] > 0).all()
    assert verdicts["high"]["identity first"] == pytest.approx(1 - 0.025 ** (1 / 80))
    assert verdicts["low"]["identity first"] == 0
    assert (verdicts[["bootstrap_low", "bootstrap_high", "seeds_low", "seeds_high"]] == 0).all(axis=None)


def test_coverage_of_a_share_counts_simulated_studies() -> None:
    """Without specific units every study includes 0; two seeds that agree have at least the exact interval's."""
    none = judge(make_shares(dict.fromkeys(COUNTS, (0, 0))))
    assert none["coverage"]["identity first"] == 1
    agree = judge(make_shares({("identity", 1): (10, 10)}), draws=4000)
    assert 0.95 <= agree["coverage"]["identity first"] <= 1
    differ = judge(make_shares({("identity", 1): (8, 14)}), draws=4000)
    assert 0.9 <= differ["coverage"]["identity first"] <= 1
    assert judge(make_shares(seeds=(3,)))["coverage"].isna().all()


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
def test_bootstrapped_bounds_are_percentiles_of_the_distribution_of_all_draws(
    specific: list[tuple[int, int]], level: float
) -> None:
    """An untrained trunk without specific units adds nothing to the draws."""
    draws, seeds = 20_000, tuple(range(len(specific)))
    first, deepest = zip(*specific, strict=True)
    none = dict.fromkeys(COUNTS, (0, 0, 0))
    table = make_shares({("expression", 1): first, ("expression", 3): deepest}, before=none, seeds=seeds)
    row = judge(table[table["name"] == "expression"].assign(units=40), draws=draws, level=level).loc[
        "expression deeper"
    ]
    cumulative = np.cumsum(enumerate_differences(specific, 40))
    values = np.arange(-40 * len(seeds), 40 * len(seeds) + 1) / (40 * len(seeds))
    bounds = (row["bootstrap_low"], (1 - level) / 2), (row["bootstrap_high"], (1 + level) / 2)
    for bound, share in bounds:
        error = 4 * np.sqrt(share * (1 - share) / draws)  # of a sampled quantile: binomial standard errors
        low, high = (values[np.searchsorted(cumulative, quantile)] for quantile in (share - error, share + error))
        assert low - 1e-12 <= bound <= high + 1e-12


def test_the_interval_over_seeds_is_students() -> None:
    counts = {("expression", 1): (0, 0, 0), ("expression", 3): (10, 40, 90)}
    before = {("expression", 1): (0, 0, 0), ("expression", 3): (0, 10, 0)}
    row = judge(make_shares(counts, before=before, seeds=(1, 2, 3))).loc["expression deeper"]
    values = np.array([0.1, 0.3, 0.9])
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (row["seeds_low"], row["seeds_high"]) == pytest.approx(expected)
    assert (row["low"], row["high"]) == pytest.approx(expected)  # wider than that of the units
    assert row["coverage"] == pytest.approx(0.95, abs=0.04)


def test_layers_of_equal_depth_are_counted_together() -> None:
    table = make_shares(before=dict.fromkeys(BEFORE, (0, 0)))
    is_deepest = (table["depth"] == 3) & (table["trained_on"] == "joint")
    assert judge(table)["number"]["expression deeper"] == pytest.approx((0.38 + 0.40) / 2 - 1 / 80)
    branch = table[is_deepest].assign(units=30, count=10, share=1 / 3, layer="branches.identity.relu3")
    both = pd.concat([table.assign(layer=table["layer"].where(~is_deepest, "branches.expression.relu3")), branch])
    number = judge(both.reset_index(drop=True))["number"]["expression deeper"]
    assert number == pytest.approx(((38 + 10) / 130 + (40 + 10) / 130) / 2 - 1 / 80)


def list_reasons(table: pd.DataFrame) -> set[str]:
    verdicts = judge(table)
    assert set(verdicts["verdict"]) == {NOT_TESTABLE}
    assert verdicts[["number", "low", "high"]].isna().all(axis=None)
    return set(verdicts["reason"])


def test_missing_layers_seeds_and_responses_are_not_testable() -> None:
    table = make_shares()
    tasks = ("expression", "identity")
    for trained_on, words in (("joint", "joint network"), ("untrained", "untrained trunk")):
        absent = (
            f"the table lacks the share of units specific to {{}} in the {words}; testable with a table that has it"
        )
        assert list_reasons(table[table["trained_on"] != trained_on]) == {absent.format(task) for task in tasks}
        missing = drop_rows(f"trained_on == '{trained_on}' and depth == 3 and seed == 2")(table)
        assert list_reasons(missing) == {f"convolution 3 of seed 2 is missing{MADE_TOGETHER}"}
    one = "the networks have one convolution only; testable with networks that have more"
    assert list_reasons(table[table["depth"] == 1]) == {one}
    silent = table.assign(units=table["units"].where(table["depth"] > 1, 0), share=np.nan, count=0)
    nothing = "no unit of convolution 1 of seed 2 and 4 answers to anything; testable with networks that respond"
    assert list_reasons(silent) == {f"{nothing} to the faces"}
    mixed = change_rows("depth == 1", source="embedded faces")(table)
    faces = "the two sides were not tested on the same faces: source is embedded faces and KDEF"
    assert list_reasons(mixed) == {faces + MADE_TOGETHER}
    other_seed = change_rows("trained_on == 'untrained' and seed == 4", seed=5)(table)
    assert list_reasons(other_seed) == {f"seeds differ: 2 and 4 on one side, 2 and 5 on the other{MADE_TOGETHER}"}
    deeper = change_rows("trained_on == 'untrained' and depth == 3", depth=4)(table)
    depths = "first and deepest convolution are 1 and 3 in the joint network, 1 and 4 in the untrained trunk"
    assert list_reasons(deeper) == {depths + MADE_TOGETHER}
    assert set(judge(table.iloc[:0])["source"]) == {"no faces"}


def test_a_task_that_is_not_testable_does_not_change_the_other() -> None:
    table = make_shares()
    verdicts = judge(table[table["name"] == "identity"], margin=0.2)
    assert verdicts["verdict"].tolist() == 2 * [NOT_TESTABLE] + 2 * [REPRODUCED]
    pd.testing.assert_frame_equal(verdicts[2:], judge(table, margin=0.2)[2:])


@settings(max_examples=6)
@given(st.integers(0, 40), st.integers(0, 100), st.integers(0, 40), st.integers(0, 100))
def test_complementary_units_give_the_negative_difference(a: int, b: int, c: int, d: int) -> None:
    counts = {("expression", 1): (a, c), ("expression", 3): (b, d)}
    others = {("expression", 1): (40 - a, 40 - c), ("expression", 3): (100 - b, 100 - d)}
    even = dict.fromkeys(BEFORE, (0, 0))
    first, second = (judge(make_shares(each, before=even)).loc["expression deeper"] for each in (counts, others))
    assert first["number"] == pytest.approx(-second["number"], abs=1e-12)
    assert first["low"] <= first["number"] <= first["high"]
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
