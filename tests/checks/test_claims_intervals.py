"""The intervals: paired, over seeds and resamples, and whatever the order of the rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.checks.intervals import is_negligible, resample_hierarchically
from facespec.study.seeds import generator

ToTable = Callable[..., pd.DataFrame]
ToArray = Callable[..., np.ndarray]
S1B_JOINT, S1B_SINGLE = ("S1B", "joint", "expression"), ("S1B", "expression", "expression")


def exact(difference: np.ndarray) -> np.ndarray:
    """The bootstrap written out: every choice of seeds, every resample, all equally likely."""
    n_seeds, n_resamples = difference.shape
    return np.array(
        [
            sum(difference[s, r] for s in chosen) / n_seeds
            for chosen in itertools.product(range(n_seeds), repeat=n_seeds)
            for r in range(n_resamples)
        ]
    )


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_against_all_draws_there_are(
    judge: ToTable, rows: ToTable, bootstrapped: ToArray, n_seeds: int, level: float
) -> None:
    draw = generator(5, "planted", n_seeds)
    right = draw.random((2, n_seeds, 80)) < np.array([0.6, 0.5])[:, None, None] + draw.random((2, n_seeds, 1)) / 5
    joint, single = (bootstrapped(one, resamples=60) for one in right)
    seeds = tuple(range(n_seeds))
    table = pd.concat([rows(S1B_JOINT, joint, seeds), rows(S1B_SINGLE, single, seeds)])
    draws = 20_000
    found = judge(table, level=level, draws=draws).loc[("C4", "expression")]
    everything = exact(joint[:, 1:] - single[:, 1:])
    # a sampled quantile lies between the exact ones a few binomial standard errors away; few values: no interpolation
    for bound, share in ((found["low"], (1 - level) / 2), (found["high"], (1 + level) / 2)):
        slack = 4 * np.sqrt(share * (1 - share) / draws)
        under, above = np.quantile(everything, [share - slack, share + slack], method="inverted_cdf")
        assert under - 1e-12 <= bound <= above + 1e-12
    assert found["number"] == pytest.approx((right[0].mean(axis=1) - right[1].mean(axis=1)).mean())


def test_draws_take_whole_seeds_and_share_one_resample() -> None:
    """Every value names its seed and resample, so that a draw tells where it came from."""
    values = np.array([[[s * 1000 + r for r in range(7)] for s in (0, 1, 3)]] * 2, dtype=float)
    values[1] *= -1
    drawn = resample_hierarchically(values, draws=3000, generator=generator(1))
    assert drawn.shape == (2, 3000)
    np.testing.assert_array_equal(drawn[0], -drawn[1])
    allowed = {round(v, 6) for v in exact(values[0])}
    assert {round(v, 6) for v in drawn[0]} == allowed  # a resample per seed would give fractions besides


def test_pairing_narrows_the_interval(judge: ToTable, rows: ToTable, bootstrapped: ToArray, answers: ToArray) -> None:
    """Two networks that err on nearly the same images: their difference is surer than that of strangers."""
    right = answers(0.5, seeds=1, n=400)
    better = right.copy()
    better[0, 200:212] = True
    paired = pd.concat([rows(S1B_JOINT, bootstrapped(better), (1,)), rows(S1B_SINGLE, bootstrapped(right), (1,))])
    strangers = pd.concat(
        [rows(S1B_JOINT, bootstrapped(better), (1,)), rows(S1B_SINGLE, bootstrapped(right, stream="own"), (1,))]
    )
    width = {
        name: (f := judge(t).loc[("C4", "expression")])["high"] - f["low"]
        for name, t in {"paired": paired, "strangers": strangers}.items()
    }
    # binomial theory: sqrt(.03 * .97 / 400) against sqrt(.25 * 2 / 400)
    assert width["paired"] == pytest.approx(3.92 * np.sqrt(0.03 * 0.97 / 400), rel=0.25)
    assert width["strangers"] == pytest.approx(3.92 * np.sqrt(0.5 / 400), rel=0.25)
    assert judge(paired)["verdict"]["C4", "expression"] == "reproduced"


def test_the_accuracy_on_the_images_themselves_is_no_resample(judge: ToTable, table: pd.DataFrame) -> None:
    """Five resamples of which one would be the fifth of all draws."""
    few = table[table["resample"] < 4]
    moved = few.assign(accuracy=few["accuracy"].where(few["resample"] >= 0, 0.5))
    there, back = judge(few), judge(moved)
    pd.testing.assert_frame_equal(there[["low", "high"]], back[["low", "high"]])
    assert (back["number"].drop(("C2", "information")) == 0).all()


def test_seeds_that_disagree_widen_the_interval(
    judge: ToTable, rows: ToTable, bootstrapped: ToArray, answers: ToArray
) -> None:
    low, high = 0.30, 0.60
    joint = np.stack([answers(low, 1)[0], answers(high, 1)[0]])
    table = pd.concat([rows(S1B_JOINT, bootstrapped(joint)), rows(S1B_SINGLE, bootstrapped(answers(0.40)))])
    found = judge(table).loc[("C4", "expression")]
    assert found["number"] == pytest.approx((low + high) / 2 - 0.40)
    assert found["low"] < low - 0.40 and found["high"] > high - 0.40
    assert found["reason"] == "undecided: the interval includes 0"


rates = st.floats(0.05, 0.95)


@settings(max_examples=15, deadline=None)
@given(rates, rates, st.integers(1, 3))
def test_swapping_the_networks_flips_the_sign(
    judge: ToTable, planted: ToTable, one: float, other: float, n_seeds: int
) -> None:
    seeds = tuple(range(n_seeds))
    table = planted({("1B", "expression", "expression"): one, ("1B", "identity", "expression"): other}, seeds=seeds)
    others = table["trained_on"].map({"expression": "identity", "identity": "expression"})
    swapped = table.assign(trained_on=table["trained_on"].where(table["figure"] != "1B", others))
    there, back = judge(table).loc[("C1", "expression")], judge(swapped).loc[("C1", "expression")]
    assert there["number"] == pytest.approx(-back["number"], abs=1e-12)
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]), abs=1e-12)
    assert (there["verdict"], back["verdict"]) != ("reproduced", "reproduced")


@settings(max_examples=15, deadline=None)
@given(st.floats(0.51, 0.99), st.floats(0.51, 0.99))
def test_a_higher_level_is_never_narrower(judge: ToTable, table: pd.DataFrame, one: float, other: float) -> None:
    narrow, wide = (judge(table, level=level) for level in sorted((one, other)))
    assert (wide["low"] <= narrow["low"]).all() and (wide["high"] >= narrow["high"]).all()


def test_order_of_rows_and_names_of_seeds_do_not_matter(judge: ToTable, table: pd.DataFrame) -> None:
    found = judge(table)
    pd.testing.assert_frame_equal(judge(table.iloc[::-1]), found)
    pd.testing.assert_frame_equal(judge(table.assign(seed=table["seed"] + 10)), found)


def test_a_part_does_not_depend_on_the_others(judge: ToTable, table: pd.DataFrame) -> None:
    identity = table.eval("figure == '1B' and trained_on == 'identity' and tested_on == 'identity'")
    found, fewer = judge(table), judge(table[~identity])
    rest = [part for part in found.index if part != ("C1", "identity")]
    pd.testing.assert_frame_equal(fewer.loc[rest], found.loc[rest])


def test_figure_s1a_is_no_part_of_any_claim(judge: ToTable, table: pd.DataFrame) -> None:
    extra = table[table["figure"] == "1B"].assign(figure="S1A", accuracy=0.0, source="VoxCeleb1")
    pd.testing.assert_frame_equal(judge(pd.concat([extra, table], ignore_index=True)), judge(table))


@pytest.mark.parametrize(
    "low, high, verdict, reason",
    [
        (-0.3, 0.05, "reproduced", ""),
        (-0.3, 0.125, "reproduced", ""),  # the margin itself is negligible
        (-0.3, 0.13, "not reproduced", "undecided: the interval includes 0.125"),
        (0.125, 0.13, "not reproduced", "undecided: the interval includes 0.125"),
        (0.13, 0.2, "not reproduced", "the interval lies above 0.125"),
    ],
)
def test_what_is_negligible(low: float, high: float, verdict: str, reason: str) -> None:
    assert is_negligible(low, high, 0.125) == {"verdict": verdict, "reason": reason}
