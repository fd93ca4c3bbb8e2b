"""Claim C7: what it compares, when it holds, and when nobody can say."""

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

SEEDS = (4, 2)
UNITS = {1: 40, 2: 50, 3: 100}  # by depth
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


def shares(
    counts: Counts | None = None, *, seeds: tuple[int, ...] = SEEDS, trained_on: str = "joint", kind: str = "specific"
) -> pd.DataFrame:
    rows = []
    for (name, depth), specific in (dict(COUNTS) | dict(counts or {})).items():
        for seed, count in zip(seeds, specific, strict=False):
            rows.append(
                {
                    "trained_on": trained_on,
                    "source": "KDEF",
                    "seed": seed,
                    "layer": f"trunk.relu{depth}",
                    "depth": depth,
                    "kind": kind,
                    "name": name,
                    "units": UNITS[depth],
                    "silent": 3,
                    "count": count,
                    "share": count / UNITS[depth],
                }
            )
    return UNIT_SHARES.check(pd.DataFrame(rows))


def judge(
    table: pd.DataFrame, *, level: float = 0.95, margin: float = 0.1, draws: int = 500, seed: int = 1
) -> pd.DataFrame:
    found = judge_depth_claims(table, level=level, margin=margin, draws=draws, generator=generator(seed, "claims"))
    return found.set_index("part", drop=False)


def test_every_part_is_a_mean_over_seeds() -> None:
    found = judge(shares())
    assert list(found.columns) == list(VERDICTS.columns) and set(found["claim"]) == {"C7"}
    assert found["number"].to_dict() == pytest.approx(
        {
            "expression deeper": (0.30 + 0.40) / 2 - (0 + 1 / 40) / 2,
            "expression first": (0 + 1 / 40) / 2,
            "identity deeper": (0.61 + 0.80) / 2 - (1 / 40 + 0) / 2,
            "identity first": (1 / 40 + 0) / 2,
        },
        abs=1e-12,
    )
    assert (found["verdict"] == "reproduced").all() and (found["reason"] == "").all()
    assert found["published"].isna().all() and set(found["source"]) == {"KDEF"}
    assert (found["low"] <= found["number"]).all() and (found["number"] <= found["high"]).all()


def test_only_specific_units_of_the_joint_network_count() -> None:
    others = [
        shares({("expression", 1): (40, 40)}, trained_on=name) for name in ("untrained", "expression", "identity")
    ]
    others.append(shares({("expression", 1): (40, 40)}, kind="class"))
    pd.testing.assert_frame_equal(judge(pd.concat([*others, shares()], ignore_index=True)), judge(shares()))


def test_statements_and_rules() -> None:
    found = judge(shares(), level=0.9, margin=0.07)
    assert found["statement"].tolist()[:2] == [
        "the share of units specific to expression in the joint network's deepest convolution is larger than in its "
        "first (Figures 3 and S2; published: in words)",
        "the share of units specific to expression in the joint network's first convolution is negligible (Figures 3 "
        "and S2; published: in words)",
    ]
    tail = "interval: percentiles of 500 bootstrap draws of 2 seeds, and of the units within each"
    assert found["rule"].tolist()[2:] == [
        "reproduced if the lower bound of the 90 % interval of the share of units specific to identity, deepest minus "
        f"first convolution, is above 0; {tail}",
        "reproduced if the upper bound of the 90 % interval of the share of units specific to identity in the first "
        f"convolution is at most 0.07; {tail}, or, if wider, the exact interval of the units of all seeds",
    ]
    assert (
        judge(shares(seeds=(3,)))["rule"]
        .iloc[::2]
        .str.endswith(
            "draws of seeds, and of the units within each (one seed: the interval covers the units only, not the "
            "spread between networks)"
        )
        .all()
    )


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
    found = judge(shares(counts))
    assert found["reason"][part] == reason and found["verdict"][part] == "not reproduced"


def test_no_specific_unit_among_few_is_no_proof_that_there_are_few() -> None:
    """The exact bound for 0 of n units is 1 - 0.025 ** (1 / n)."""
    nothing = dict.fromkeys(COUNTS, (0, 0))
    found = judge(shares(nothing), margin=0.05)
    assert found["verdict"].tolist() == 2 * ["not reproduced", "reproduced"] and (found["number"] == 0).all()
    assert (found.loc[["expression deeper", "identity deeper"], ["low", "high"]] == 0).all(axis=None)
    assert (
        found["high"]["identity first"] == pytest.approx(1 - 0.025 ** (1 / 80)) and found["low"]["identity first"] == 0
    )
    few = judge(shares(nothing, seeds=(4,)), margin=0.05)
    assert few["high"]["expression first"] == pytest.approx(1 - 0.025 ** (1 / 40))
    assert few["reason"]["expression first"] == "undecided: the interval includes 0.05"
    # a bound that is the margin itself is at most the margin
    assert judge(shares({("expression", 1): (40, 40)}), margin=1.0)["verdict"]["expression first"] == "reproduced"


def exact(specific: list[tuple[int, int]], units: int) -> np.ndarray:
    """Chances that the draws of seeds and units give a difference of -n, ..., n: units of all seeds, deepest - first.

    `specific` is (first, deepest) of each seed. The sum of independent counts, over all ways to draw seeds.
    """
    each = []
    for first, deepest in specific:
        lost, won = (stats.binom.pmf(np.arange(units + 1), units, count / units) for count in (first, deepest))
        each.append(np.convolve(won, lost[::-1]))
    ways = [functools.reduce(np.convolve, drawn) for drawn in itertools.product(each, repeat=len(each))]
    return np.mean(ways, axis=0)


@pytest.mark.parametrize("specific", [[(12, 20)], [(4, 8), (12, 32)], [(0, 3), (6, 2), (1, 30)]])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_against_the_distribution_of_all_draws(specific: list[tuple[int, int]], level: float) -> None:
    draws, seeds = 20_000, tuple(range(len(specific)))
    first, deepest = zip(*specific, strict=True)
    table = shares({("expression", 1): first, ("expression", 3): deepest}, seeds=seeds)
    own = table[table["name"] == "expression"].assign(units=40)
    found = judge(own, draws=draws, level=level).loc["expression deeper"]
    below = np.cumsum(exact(specific, 40))
    values = np.arange(-40 * len(seeds), 40 * len(seeds) + 1) / (40 * len(seeds))
    for bound, share in ((found["low"], (1 - level) / 2), (found["high"], (1 + level) / 2)):
        slack = 4 * np.sqrt(share * (1 - share) / draws)  # of a sampled quantile: binomial standard errors
        under, above = (values[np.searchsorted(below, one)] for one in (share - slack, share + slack))
        assert under - 1e-12 <= bound <= above + 1e-12


def test_layers_of_equal_depth_are_counted_together() -> None:
    table = shares()
    deepest = table["depth"] == 3
    half = table[deepest].assign(units=30, count=10, share=1 / 3, layer="branches.identity.relu3")
    both = pd.concat([table.assign(layer=table["layer"].where(~deepest, "branches.expression.relu3")), half])
    number = judge(both.reset_index(drop=True))["number"]["expression deeper"]
    assert number == pytest.approx(((30 + 10) / 130 + (40 + 10) / 130) / 2 - 1 / 80)


def refused(table: pd.DataFrame) -> set[str]:
    found = judge(table)
    assert set(found["verdict"]) == {"not testable on this data"}
    assert found[["number", "low", "high"]].isna().all(axis=None)
    return set(found["reason"])


def test_what_cannot_be_tested() -> None:
    table = shares()
    gone = "the table lacks the share of units specific to {} in the joint network"
    assert refused(shares(trained_on="untrained")) == {gone.format("expression"), gone.format("identity")}
    assert refused(table[table["depth"] == 1]) == {"the networks have one convolution only"}
    assert refused(table[(table["depth"] < 3) | (table["seed"] == 4)]) == {"convolution 3 of seed 2 is missing"}
    silent = table.assign(units=table["units"].where(table["depth"] > 1, 0), share=np.nan, count=0)
    assert refused(silent) == {"no unit of convolution 1 of seed 2 and 4 answers to anything"}
    mixed = table.assign(source=table["source"].where(table["depth"] > 1, "embedded faces"))
    assert refused(mixed) == {"the two sides were not tested on the same faces: source is embedded faces and KDEF"}
    assert set(judge(table.iloc[:0])["source"]) == {"no faces"}


def test_one_task_that_cannot_be_tested_moves_nothing_of_the_other() -> None:
    table = shares()
    found = judge(table[table["name"] == "identity"])
    assert found["verdict"].tolist() == 2 * ["not testable on this data"] + 2 * ["reproduced"]
    pd.testing.assert_frame_equal(found[2:], judge(table)[2:])


@settings(max_examples=10)
@given(st.integers(0, 40), st.integers(0, 100), st.integers(0, 40), st.integers(0, 100))
def test_the_mirrored_units_give_the_mirrored_difference(a: int, b: int, c: int, d: int) -> None:
    there = judge(shares({("expression", 1): (a, c), ("expression", 3): (b, d)})).loc["expression deeper"]
    back = judge(shares({("expression", 1): (40 - a, 40 - c), ("expression", 3): (100 - b, 100 - d)})).loc[
        "expression deeper"
    ]
    assert there["number"] == pytest.approx(-back["number"], abs=1e-12)
    assert -1 <= there["low"] <= there["high"] <= 1
    assert [there["verdict"], back["verdict"]].count("reproduced") <= 1


def test_order_of_rows_does_not_matter_and_tables_are_left_alone() -> None:
    table = shares()
    before = table.copy()
    pd.testing.assert_frame_equal(judge(table.iloc[::-1]), judge(table))
    pd.testing.assert_frame_equal(table, before)


def test_refusals() -> None:
    with pytest.raises(StudyError) as caught:
        judge(pd.concat([shares(), shares().head(1)], ignore_index=True))
    assert str(caught.value) == (
        "table 'unit_shares' has two rows for trained_on joint, seed 4, layer trunk.relu1, kind specific, name "
        "expression; one share is allowed. Make the tables again."
    )
    with pytest.raises(StudyError, match="table 'unit_shares' lacks column 'units'"):
        judge(shares().drop(columns="units"))
