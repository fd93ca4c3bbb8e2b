"""Claims C1-C4: what they compare, their intervals, when they hold, and when the data cannot decide."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from facespec.checks.claims import judge_accuracy_claims
from facespec.checks.intervals import judge_above, judge_negligible, resample_hierarchically
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables import VERDICTS
from toys import assert_percentiles, change_rows, drop_rows

Key = tuple[str, str, str]  # figure, trained_on, tested_on
N, RESAMPLES, SEEDS = 150, 101, (4, 2)
CHANCE = {"expression": 1 / 7, "identity": 1 / 70}
# one accuracy per cell, all differences different; every claim holds by far
RATES: dict[Key, float] = {
    ("1B", "expression", "expression"): 0.70,
    ("1B", "identity", "expression"): 0.26,
    ("1B", "identity", "identity"): 0.90,
    ("1B", "expression", "identity"): 0.54,
    ("1B", "untrained", "expression"): 0.24,
    ("1B", "untrained", "identity"): 0.20,
    ("1C", "expression", "expression"): 0.60,
    ("1C", "joint", "expression"): 0.72,
    ("1C", "identity", "identity"): 0.80,
    ("1C", "joint", "identity"): 0.96,
    ("S1B", "expression", "expression"): 0.40,
    ("S1B", "joint", "expression"): 0.58,
    ("S1B", "identity", "identity"): 0.30,
    ("S1B", "joint", "identity"): 0.50,
}
S1B_JOINT, S1B_SINGLE = ("S1B", "joint", "expression"), ("S1B", "expression", "expression")
C3_JOINT, C3_SINGLE = ("1C", "joint", "identity"), ("1C", "identity", "identity")
C4 = ("C4", "expression")
REPRODUCED, REFUTED, UNDECIDED = "reproduced", "refuted", "undecided"
NOT_TESTABLE = "not testable on this data"
BELOW, AROUND = "the interval lies at or below 0", "the interval includes 0"


def make_rows(key: Key, accuracy: np.ndarray, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Rows of one cell; `accuracy` is (n_seeds, 1 + n_resamples), the first column on the test images themselves."""
    figure, trained_on, tested_on = key
    width = accuracy.shape[1]
    return pd.DataFrame(
        {
            "figure": figure,
            "trained_on": trained_on,
            "tested_on": tested_on,
            "role": tested_on if figure == "S1B" else "probe",
            "source": "FER2013",
            "seed": np.repeat(seeds, width),
            "resample": np.tile(np.arange(-1, width - 1), len(seeds)),
            "n": N,
            "chance": CHANCE[tested_on],
            "accuracy": accuracy.ravel(),
        }
    )


def bootstrap(correct: np.ndarray, *, resamples: int = RESAMPLES, stream: str = "shared") -> np.ndarray:
    """(n_seeds, n) bool -> (n_seeds, 1 + resamples): the same images for every seed and every call of a stream."""
    n = correct.shape[1]
    images = generator(9, stream).integers(n, size=(resamples, n))
    return np.column_stack([correct.mean(axis=1), correct[:, images].mean(axis=2)])


def make_correct(rate: float, seeds: int = 2, n: int = N) -> np.ndarray:
    """Exactly `rate` of the images right, the lowest-numbered ones, shifted a little from seed to seed."""
    return np.stack([np.roll(np.arange(n) < round(rate * n), 3 * seed) for seed in range(seeds)])


def make_table(rates: Mapping[Key, float] | None = None, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    cells = RATES | dict(rates or {})
    tables = [make_rows(key, bootstrap(make_correct(rate, len(seeds))), seeds) for key, rate in cells.items()]
    return pd.concat(tables, ignore_index=True)


def judge(
    table: pd.DataFrame, *, level: float = 0.95, margin: float = 0.02, draws: int = 400, seed: int = 1
) -> pd.DataFrame:
    options = {"level": level, "margin": margin, "draws": draws}
    verdicts = judge_accuracy_claims(table, **options, generator=generator(seed, "claims"))
    return verdicts.set_index(["claim", "part"], drop=False)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Accuracies with one undecided part, the joint network on expression in Figure S1B; not to be written to."""
    return make_table({S1B_JOINT: 0.45})


@pytest.fixture(scope="module")
def verdicts() -> pd.DataFrame:
    return judge(make_table())


def test_every_part_is_the_difference_its_claim_names(verdicts: pd.DataFrame) -> None:
    by_hand = {  # from `RATES`
        ("C1", "expression"): 0.70 - 0.26,
        ("C1", "identity"): 0.90 - 0.54,
        ("C2", "information"): (0.54 - 1 / 70) / (69 / 70) - (0.26 - 1 / 7) / (6 / 7),
        ("C2", "gain"): (0.54 - 0.20) / (69 / 70) - (0.26 - 0.24) / (6 / 7),
        ("C3", "expression"): 0.72 - 0.60,
        ("C3", "identity"): 0.96 - 0.80,
        ("C4", "expression"): 0.58 - 0.40,
        ("C4", "identity"): 0.50 - 0.30,
    }
    assert list(verdicts.index) == list(by_hand) and list(verdicts.columns) == list(VERDICTS.columns)
    assert verdicts["number"].to_dict() == pytest.approx(by_hand, abs=1e-12)
    assert (verdicts["verdict"] == "reproduced").all() and (verdicts["reason"] == "").all()
    assert (verdicts["low"] <= verdicts["number"]).all() and (verdicts["number"] <= verdicts["high"]).all()
    assert set(verdicts["source"]) == {"FER2013"}


def test_published_numbers_are_those_of_the_published_pickles(verdicts: pd.DataFrame) -> None:
    expected = {
        ("C1", "expression"): 0.270490,
        ("C1", "identity"): 0.626817,
        ("C2", "information"): (0.340510 * 70 - 1) / 69 - (0.181571 * 7 - 1) / 6,
        ("C3", "expression"): 0.000183,
        ("C3", "identity"): 0.006612,
        ("C4", "expression"): 0.013440,
        ("C4", "identity"): 0.046357,
    }
    assert verdicts["published"].drop(("C2", "gain")).to_dict() == pytest.approx(expected, abs=1e-9)
    assert np.isnan(verdicts["published"]["C2", "gain"])


def test_statements_give_the_claim_and_the_published_comparison(verdicts: pd.DataFrame) -> None:
    statements = verdicts["statement"]
    assert statements["C1", "identity"] == (
        "identity is decoded better from the identity network than from the expression network "
        "(Figure 1B; published: 0.9673 against 0.3405)"
    )
    assert statements["C2", "information"] == (
        "the expression network carries more information about identity, above chance, than the identity network about "
        "expression (Figure 1B; published: 0.3405 (chance 0.0143) against 0.1816 (chance 0.1429))"
    )
    assert statements["C2", "gain"] == (
        "training for expression adds more information about identity to what the untrained trunk has, than training "
        "for identity adds about expression (Figure 1B; published: no untrained trunk)"
    )
    assert statements["C3", "expression"] == (
        "the joint network is not worse at expression than the expression network "
        "(Figure 1C; published: 0.5466 against 0.5464)"
    )
    assert statements["C4", "identity"] == (
        "the joint network is better at identity than the identity network, on faces of its training role "
        "(Figure S1B; published: 0.8855 against 0.8391)"
    )


def test_rules_give_level_margin_direction_and_what_was_resampled() -> None:
    rules = judge(make_table(), level=0.9, margin=0.03)["rule"]
    tail = (
        "refuted if it lies at or below, else undecided; interval: t with the variance between 2 seeds and that of the "
        "test images, which all networks share; beside it: percentiles of 400 bootstrap draws of seeds and test "
        "images, and t over seeds alone"
    )
    assert rules["C1", "expression"] == (
        "reproduced if the 90 % interval of accuracy, expression network on expression minus identity network on "
        f"expression, lies above 0, {tail}"
    )
    assert rules["C2", "information"] == (
        "reproduced if the 90 % interval of (accuracy - chance) / (1 - chance), expression network on identity minus "
        f"identity network on expression, lies above 0, {tail}"
    )
    assert rules["C2", "gain"] == (
        "reproduced if the 90 % interval of (accuracy - chance) / (1 - chance), gained over the untrained trunk, "
        f"expression network on identity minus identity network on expression, lies above 0, {tail}"
    )
    assert rules["C3", "identity"] == (
        "reproduced if the 90 % interval of accuracy, joint network on identity minus identity network on identity, "
        f"lies above -0.03 (not worse by more than 0.03), {tail}"
    )
    one_seed = (
        "interval: percentiles of 400 bootstrap draws of the test images (one seed: the interval covers the test "
        "images only, not the spread between networks)"
    )
    assert judge(make_table(seeds=(3,)))["rule"].str.endswith(one_seed).all()


@pytest.mark.parametrize(
    ("part", "rates", "verdict", "reason"),
    [
        (C4, {S1B_JOINT: 0.40, S1B_SINGLE: 0.58}, REFUTED, BELOW),
        (C4, {S1B_JOINT: 0.41, S1B_SINGLE: 0.40}, UNDECIDED, AROUND),
        (C4, {S1B_JOINT: 0.40, S1B_SINGLE: 0.40}, REFUTED, BELOW),
        (("C1", "identity"), {("1B", "identity", "identity"): 0.1}, REFUTED, BELOW),
        (("C2", "information"), {("1B", "expression", "identity"): 0.02}, REFUTED, BELOW),
        # an untrained trunk that decodes identity as well leaves no gain
        (("C2", "gain"), {("1B", "untrained", "identity"): 0.90}, REFUTED, BELOW),
        (("C2", "gain"), {("1B", "untrained", "identity"): 0.52}, UNDECIDED, AROUND),
        (("C2", "gain"), {("1B", "untrained", "expression"): 0.90}, REPRODUCED, ""),
        (("C3", "identity"), {C3_JOINT: 0.80, C3_SINGLE: 0.80}, "reproduced", ""),
        (("C3", "identity"), {C3_JOINT: 0.78, C3_SINGLE: 0.80}, UNDECIDED, AROUND.replace("0", "-0.02")),
        (("C3", "identity"), {C3_JOINT: 0.60, C3_SINGLE: 0.80}, REFUTED, BELOW.replace("0", "-0.02")),
        (("C3", "identity"), {C3_JOINT: 1.00, C3_SINGLE: 0.80}, "reproduced", ""),
        # a network at chance can be surpassed, but not matched: chance is 1/70, the margin 0.02
        (("C3", "identity"), {C3_JOINT: 0.50, C3_SINGLE: 1 / 70}, "reproduced", ""),
        (("C3", "identity"), {C3_JOINT: 0.20, C3_SINGLE: 0.20}, "reproduced", ""),
    ],
)
def test_verdicts_follow_the_interval(part: Key, rates: dict[Key, float], verdict: str, reason: str) -> None:
    """Correct images are nested, so that a difference of 0.01 is 1.5 images in 150."""
    row = judge(make_table(rates)).loc[part]
    assert (row["verdict"], row["reason"]) == (verdict, reason)


def test_the_margin_applies_to_not_worse_and_to_nothing_else() -> None:
    table = make_table({C3_JOINT: 0.76, C3_SINGLE: 0.80, S1B_JOINT: 0.40, S1B_SINGLE: 0.42})
    strict, lenient = judge(table, margin=0.02), judge(table, margin=0.15)
    changed = strict["verdict"] != lenient["verdict"]
    assert list(changed[changed].index) == [("C3", "identity")]
    assert lenient["verdict"]["C3", "identity"] == "reproduced"


@pytest.mark.parametrize(
    ("low", "high", "verdict", "reason"),
    [
        (-0.3, 0.05, "reproduced", ""),
        (-0.3, 0.125, "reproduced", ""),  # the margin itself is negligible
        (-0.3, 0.13, "undecided", "the interval includes 0.125"),
        (0.125, 0.13, "undecided", "the interval includes 0.125"),
        (0.13, 0.2, "refuted", "the interval lies above 0.125"),
    ],
)
def test_negligible_is_at_most_the_margin(low: float, high: float, verdict: str, reason: str) -> None:
    assert judge_negligible(low, high, 0.125) == {"verdict": verdict, "reason": reason}


@pytest.mark.parametrize(
    ("low", "high", "verdict", "reason"),
    [
        (0.13, 0.2, "reproduced", ""),
        (0.125, 0.2, "undecided", "the interval includes 0.125"),  # the bound itself is not above it
        (-0.1, 0.13, "undecided", "the interval includes 0.125"),
        (-0.3, 0.125, "refuted", "the interval lies at or below 0.125"),
    ],
)
def test_above_is_more_than_the_bound(low: float, high: float, verdict: str, reason: str) -> None:
    assert judge_above(low, high, 0.125) == {"verdict": verdict, "reason": reason}


# per part: the cell that is claimed to be larger, that to be surpassed or matched, and their accuracies
OUTCOMES = {REPRODUCED: (0.9, 0.5), REFUTED: (0.4, 0.8), UNDECIDED: (0.51, 0.50), NOT_TESTABLE: (1.0, 1.0)}


@pytest.mark.parametrize(("verdict", "accuracies"), OUTCOMES.items())
@pytest.mark.parametrize(
    ("part", "more", "less"),
    [
        (("C1", "expression"), ("1B", "expression", "expression"), ("1B", "identity", "expression")),
        (("C1", "identity"), ("1B", "identity", "identity"), ("1B", "expression", "identity")),
        (("C2", "information"), ("1B", "expression", "identity"), ("1B", "identity", "expression")),
        (("C2", "gain"), ("1B", "expression", "identity"), ("1B", "untrained", "identity")),
        (("C3", "expression"), ("1C", "joint", "expression"), ("1C", "expression", "expression")),
        (("C3", "identity"), C3_JOINT, C3_SINGLE),
        (C4, S1B_JOINT, S1B_SINGLE),
        (("C4", "identity"), ("S1B", "joint", "identity"), ("S1B", "identity", "identity")),
    ],
)
def test_every_part_comes_out_all_four_ways(
    part: tuple[str, str], more: Key, less: Key, verdict: str, accuracies: tuple[float, float]
) -> None:
    better, worse = accuracies
    if part == ("C2", "information") and verdict == UNDECIDED:
        worse += 0.07  # chance is 1/7 on this side
    table = make_table({more: better, less: worse, ("1B", "untrained", "expression"): 0.26})
    if part == ("C2", "gain") and verdict == NOT_TESTABLE:
        table = make_table({more: 0.9, less: 1.0})
    row = judge(table, margin=0.02).loc[part]
    assert row["verdict"] == verdict
    assert (row["reason"] == "") == (verdict == REPRODUCED)
    assert (" testable with " in row["reason"]) == (verdict == NOT_TESTABLE)


def enumerate_draws(differences: np.ndarray) -> np.ndarray:
    """Means in all equally likely draws of seeds and of one resample; `differences` (n_seeds, n_resamples)."""
    seeds = itertools.product(range(len(differences)), repeat=len(differences))
    return np.concatenate([differences[list(drawn)].mean(axis=0) for drawn in seeds])


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_are_percentiles_of_all_possible_draws(n_seeds: int, level: float) -> None:
    random = generator(5, "planted", n_seeds)
    correct = random.random((2, n_seeds, 80)) < np.array([0.6, 0.5])[:, None, None] + random.random((2, n_seeds, 1)) / 5
    joint, single = (bootstrap(side, resamples=60) for side in correct)
    seeds = tuple(range(n_seeds))
    table = pd.concat([make_rows(S1B_JOINT, joint, seeds), make_rows(S1B_SINGLE, single, seeds)])
    row = judge(table, level=level, draws=20_000).loc[C4]
    population = enumerate_draws(joint[:, 1:] - single[:, 1:])
    assert_percentiles([row["bootstrap_low"], row["bootstrap_high"]], population, level=level, draws=20_000)
    assert row["number"] == pytest.approx((correct[0].mean(axis=1) - correct[1].mean(axis=1)).mean())
    if n_seeds == 1:  # the interval that judges is then that of the bootstrap, and says nothing about networks
        assert (row["low"], row["high"]) == (row["bootstrap_low"], row["bootstrap_high"])
        assert row[["seeds_low", "seeds_high", "coverage"]].isna().all()


@pytest.mark.parametrize("n_seeds", [2, 3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_that_judges_has_the_variance_of_seeds_and_of_images(n_seeds: int, level: float) -> None:
    """By scipy and numpy: sem over seeds, covariances of pairs of seeds, and the two quantiles weighted."""
    random = generator(6, "planted", n_seeds)
    hard = random.random((1, 1, 80)) / 2  # images that are hard for all networks
    correct = random.random((2, n_seeds, 80)) < np.array([0.7, 0.5])[:, None, None] - hard
    joint, single = (bootstrap(side, resamples=60) for side in correct)
    seeds = tuple(range(n_seeds))
    table = pd.concat([make_rows(S1B_JOINT, joint, seeds), make_rows(S1B_SINGLE, single, seeds)])
    row = judge(table, level=level).loc[C4]
    means, resampled = joint[:, 0] - single[:, 0], joint[:, 1:] - single[:, 1:]
    shared = max(np.mean([np.cov(*resampled[list(pair)])[0, 1] for pair in itertools.combinations(seeds, 2)]), 0)
    spread = stats.sem(means) ** 2
    quantiles = stats.t.ppf((1 + level) / 2, n_seeds - 1), stats.norm.ppf((1 + level) / 2)
    half = (spread * quantiles[0] + shared * quantiles[1]) / np.sqrt(spread + shared)
    assert (row["low"], row["high"]) == pytest.approx((means.mean() - half, means.mean() + half))
    alone = stats.t.interval(level, n_seeds - 1, loc=means.mean(), scale=stats.sem(means))
    assert (row["seeds_low"], row["seeds_high"]) == pytest.approx(alone)
    assert level - 0.06 < row["coverage"] <= 1


def test_draws_take_whole_seeds_and_share_one_resample() -> None:
    """Every value encodes its seed and resample."""
    values = np.array([[[s * 1000 + r for r in range(7)] for s in (0, 1, 3)]] * 2, dtype=float)
    values[1] *= -1
    means = resample_hierarchically(values, draws=3000, generator=generator(1))
    assert means.shape == (2, 3000)
    np.testing.assert_array_equal(means[0], -means[1])
    # a resample per seed would give other fractions, too
    assert set(means[0].round(6)) == set(enumerate_draws(values[0]).round(6))


def test_pairing_narrows_the_interval() -> None:
    """Two networks that err on nearly the same images, tested on the same resamples and on different ones."""
    correct = make_correct(0.5, seeds=1, n=400)
    better = correct.copy()
    better[0, 200:212] = True
    joint = make_rows(S1B_JOINT, bootstrap(better), (1,))
    # binomial theory: sqrt(.03 * .97 / 400) against sqrt(.25 * 2 / 400)
    for stream, variance in (("shared", 0.03 * 0.97), ("other", 0.5)):
        verdicts = judge(pd.concat([joint, make_rows(S1B_SINGLE, bootstrap(correct, stream=stream), (1,))]))
        width = verdicts["high"][C4] - verdicts["low"][C4]
        assert width == pytest.approx(3.92 * np.sqrt(variance / 400), rel=0.25)
        assert verdicts["verdict"][C4] == ("reproduced" if stream == "shared" else "undecided")


def test_the_accuracy_on_the_images_themselves_is_no_resample(table: pd.DataFrame) -> None:
    """With four resamples it would be a fifth of all draws."""
    few = table[table["resample"] < 4]
    verdicts, changed = judge(few), judge(change_rows("resample < 0", accuracy=0.5)(few))
    drawn = ["bootstrap_low", "bootstrap_high"]
    pd.testing.assert_frame_equal(verdicts[drawn], changed[drawn])
    assert (changed["number"].drop("C2") == 0).all()


def test_seeds_that_disagree_widen_the_interval() -> None:
    joint = np.concatenate([make_correct(0.30, 1), make_correct(0.60, 1)])
    row = judge(
        pd.concat([make_rows(S1B_JOINT, bootstrap(joint)), make_rows(S1B_SINGLE, bootstrap(make_correct(0.40)))])
    ).loc[C4]
    assert row["number"] == pytest.approx((0.30 + 0.60) / 2 - 0.40)
    assert row["low"] < 0.30 - 0.40 and row["high"] > 0.60 - 0.40 and row["reason"] == AROUND


@settings(max_examples=8)
@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(1, 3))
def test_swapping_the_networks_flips_the_sign(one: float, other: float, n_seeds: int) -> None:
    keys = [("1B", "expression", "expression"), ("1B", "identity", "expression")]
    first, second = (
        judge(
            pd.concat(
                [
                    make_rows(key, bootstrap(make_correct(rate, n_seeds)), tuple(range(n_seeds)))
                    for key, rate in zip(keys, rates, strict=True)
                ]
            )
        ).loc[("C1", "expression")]
        for rates in ((one, other), (other, one))
    )
    assert first["number"] == pytest.approx(-second["number"], abs=1e-12)
    if first["verdict"] != NOT_TESTABLE:
        assert (first["low"], first["high"]) == pytest.approx((-second["high"], -second["low"]), abs=1e-12)
    assert (first["verdict"], second["verdict"]) != ("reproduced", "reproduced")


def test_a_higher_level_is_never_narrower(table: pd.DataFrame) -> None:
    intervals = [judge(table, level=level) for level in (0.51, 0.8, 0.95, 0.99)]
    for narrow, wide in itertools.pairwise(intervals):
        assert (wide["low"] <= narrow["low"]).all() and (wide["high"] >= narrow["high"]).all()


def test_order_of_rows_names_of_seeds_other_figures_and_other_parts_do_not_matter(table: pd.DataFrame) -> None:
    before, verdicts = table.copy(), judge(table)
    pd.testing.assert_frame_equal(judge(table.iloc[::-1]), verdicts)
    pd.testing.assert_frame_equal(judge(table.assign(seed=table["seed"] + 10)), verdicts)
    other = table[table["figure"] == "1B"].assign(figure="S1A", accuracy=0.0, source="VoxCeleb1")
    pd.testing.assert_frame_equal(judge(pd.concat([other, table], ignore_index=True)), verdicts)
    fewer = judge(drop_rows("figure == '1B' and trained_on == 'identity' and tested_on == 'identity'")(table))
    rest = [part for part in verdicts.index if part != ("C1", "identity")]
    pd.testing.assert_frame_equal(fewer.loc[rest], verdicts.loc[rest])
    pd.testing.assert_frame_equal(table, before)


def test_a_doubled_accuracy_and_a_missing_column_are_refused(table: pd.DataFrame) -> None:
    doubled = pd.concat([table, table[table["resample"] == 3].head(1)], ignore_index=True)
    message = "'accuracy' has two rows for figure 1B, trained_on expression, tested_on expression, seed 4, resample 3"
    with pytest.raises(StudyError, match=f"{message}; one accuracy is allowed"):
        judge(doubled)
    with pytest.raises(StudyError, match="table 'accuracy' lacks column 'chance'"):
        judge(table.drop(columns="chance"))


MADE_TOGETHER = "; testable with tables that one run has made for all networks"
JOINT = "figure == 'S1B' and trained_on == 'joint' and tested_on == 'expression'"
BOTH = "figure == 'S1B' and tested_on == 'expression'"
NO_PAIRS = "resamples differ between the two sides or between seeds, so that they are no pairs" + MADE_TOGETHER
NO_RESAMPLES = "resample -1 (the test images themselves) and at least one bootstrap resample are needed" + MADE_TOGETHER
OTHER_FACES = "the two sides were not tested on the same faces: "


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            drop_rows(JOINT),
            "Figure S1B lacks the joint network on expression; testable with a table that has the joint network on "
            "expression",
        ),
        (change_rows(JOINT, n=149), f"{OTHER_FACES}n is 149 and 150{MADE_TOGETHER}"),
        (change_rows(JOINT, source="KDEF"), f"{OTHER_FACES}source is KDEF and FER2013{MADE_TOGETHER}"),
        (change_rows(JOINT, role="probe"), f"{OTHER_FACES}role is probe and expression{MADE_TOGETHER}"),
        (
            change_rows(BOTH, chance=1.0),
            "chance is 1.0 for the joint network on expression: one value below 1 is needed; testable with two classes "
            "or more, the same for all networks",
        ),
        (
            change_rows(f"{JOINT} and seed == 4", chance=0.5),
            f"chance is 0.5 and {1 / 7} for the joint network on expression: one value below 1 is needed; testable "
            "with two classes or more, the same for all networks",
        ),
        (
            change_rows(f"{JOINT} and seed == 4", seed=5),
            f"seeds differ: 2 and 5 on one side, 2 and 4 on the other{MADE_TOGETHER}",
        ),
        (drop_rows(f"{JOINT} and seed == 4"), f"seeds differ: 2 on one side, 2 and 4 on the other{MADE_TOGETHER}"),
        (drop_rows(f"{JOINT} and resample == 7"), NO_PAIRS),
        (drop_rows(f"{BOTH} and seed == 4 and resample == 7"), NO_PAIRS),
        (drop_rows(f"{BOTH} and resample == -1"), NO_RESAMPLES),
        (drop_rows(f"{BOTH} and resample >= 0"), NO_RESAMPLES),
    ],
)
def test_missing_or_unpaired_cells_are_not_testable(
    table: pd.DataFrame, damage: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    verdicts = judge(damage(table))
    row = verdicts.loc[C4]
    assert (row["verdict"], row["reason"]) == (NOT_TESTABLE, reason)
    assert row[["number", "low", "high"]].isna().all() and row["published"] == pytest.approx(0.013440)
    assert "t with the variance between seeds and that of the test images" in row["rule"]
    assert NOT_TESTABLE not in set(verdicts["verdict"].drop(C4))


@pytest.mark.parametrize(("joint", "single"), [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)])
def test_without_variation_over_resamples_there_is_no_interval(joint: float, single: float) -> None:
    row = judge(make_table({S1B_JOINT: joint, S1B_SINGLE: single})).loc[C4]
    assert row["verdict"] == NOT_TESTABLE
    assert row["reason"] == (
        "no accuracy varies over the resamples: all answers right or all wrong, on both sides; testable with test "
        "images that are neither all easy nor all hard"
    )
    assert row["number"] == joint - single and np.isnan(row["low"]) and np.isnan(row["high"])


def test_nothing_can_be_better_than_perfect_but_it_can_be_worse() -> None:
    verdicts = judge(make_table({S1B_SINGLE: 1.0, S1B_JOINT: 0.9, C3_SINGLE: 1.0, C3_JOINT: 0.9}))
    row = verdicts.loc[C4]
    assert row["verdict"] == NOT_TESTABLE
    assert row["reason"] == (
        "the expression network on expression makes no mistake: nothing could be gained; testable with a harder task"
    )
    assert row["number"] == pytest.approx(-0.1) and row["low"] < -0.1 < row["high"]
    assert verdicts["verdict"]["C3", "identity"] == "refuted"
    one_imperfect_seed = np.stack([np.ones(150, dtype=bool), np.arange(150) < 140])
    cells = [(S1B_JOINT, make_correct(0.9)), (S1B_SINGLE, one_imperfect_seed)]
    assert judge(pd.concat([make_rows(k, bootstrap(c)) for k, c in cells]))["verdict"][C4] == UNDECIDED


@pytest.mark.parametrize("rate", [1 / 70, 11 / 150])
def test_a_network_at_chance_cannot_be_matched(rate: float) -> None:
    """Chance is 1/70, the margin 0.02. 11 of 150 has its lower bound near 0.027: above each, below their sum."""
    row: Any = judge(make_table({C3_SINGLE: rate, C3_JOINT: rate})).loc[("C3", "identity")]
    reason = (
        "the identity network on identity is not itself above chance by more than 0.02: nothing could be lost; "
        "testable with longer training, more test images or more seeds"
    )
    assert (row["verdict"], row["reason"], row["number"]) == (NOT_TESTABLE, reason, 0)


def test_sources_are_those_of_the_compared_cells(table: pd.DataFrame) -> None:
    verdicts = judge(change_rows("figure == '1B'", source="KDEF")(table))
    expected = {part: "KDEF" if part[0] in ("C1", "C2") else "FER2013" for part in verdicts.index}
    assert verdicts["source"].to_dict() == expected
    nothing = judge(table.iloc[:0])
    assert set(nothing["verdict"]) == {NOT_TESTABLE} and set(nothing["source"]) == {"no faces"}
    assert nothing["reason"]["C3", "expression"].startswith("Figure 1C lacks the joint network on expression; testable")

    # older tables have no untrained trunk: the published reading of C2 is judged all the same
    older = judge(drop_rows("trained_on == 'untrained'")(table))["verdict"]["C2"]
    assert older.to_dict() == {"information": REPRODUCED, "gain": NOT_TESTABLE}
