from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.checks.claims import hierarchical_draws, judged
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables import ACCURACY, VERDICTS

Key = tuple[str, str, str]  # figure, trained_on, tested_on
N, RESAMPLES, SEEDS = 150, 101, (4, 2)
CHANCE = {"expression": 1 / 7, "identity": 1 / 70}
# one success rate per cell, all differences of their own; every claim holds by far
RATES: dict[Key, float] = {
    ("1B", "expression", "expression"): 0.70, ("1B", "identity", "expression"): 0.26,
    ("1B", "identity", "identity"): 0.90, ("1B", "expression", "identity"): 0.54,
    ("1C", "expression", "expression"): 0.60, ("1C", "joint", "expression"): 0.72,
    ("1C", "identity", "identity"): 0.80, ("1C", "joint", "identity"): 0.96,
    ("S1B", "expression", "expression"): 0.40, ("S1B", "joint", "expression"): 0.58,
    ("S1B", "identity", "identity"): 0.30, ("S1B", "joint", "identity"): 0.50,
}  # fmt: skip


def rows(key: Key, accuracy: np.ndarray, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """`accuracy` is (n_seeds, 1 + n_resamples), the first column on the test images themselves."""
    figure, trained_on, tested_on = key
    width = accuracy.shape[1]
    return pd.DataFrame({
        "figure": figure, "trained_on": trained_on, "tested_on": tested_on,
        "role": tested_on if figure == "S1B" else "probe", "source": "FER2013", "seed": np.repeat(seeds, width),
        "resample": np.tile(np.arange(-1, width - 1), len(seeds)), "n": N, "chance": CHANCE[tested_on],
        "accuracy": accuracy.ravel(),
    })  # fmt: skip


def bootstrapped(correct: np.ndarray, *, resamples: int = RESAMPLES, stream: str = "shared") -> np.ndarray:
    """(n_seeds, n) answers -> (n_seeds, 1 + resamples): the same images for every seed and every call of a stream."""
    n = correct.shape[1]
    images = generator(9, stream).integers(n, size=(resamples, n))
    return np.column_stack([correct.mean(axis=1), correct[:, images].mean(axis=2)])


def answers(rate: float, seeds: int = 2, n: int = N) -> np.ndarray:
    """Exactly `rate` of the images right, the lowest-numbered ones, shifted a little from seed to seed."""
    return np.stack([np.roll(np.arange(n) < round(rate * n), 3 * seed) for seed in range(seeds)])


def planted(rates: Mapping[Key, float] | None = None, *, seeds: tuple[int, ...] = SEEDS, n: int = N) -> pd.DataFrame:
    cells = RATES | dict(rates or {})
    tables = [rows(key, bootstrapped(answers(rate, len(seeds), n)), seeds) for key, rate in cells.items()]
    return pd.concat(tables, ignore_index=True)


def judge(
    table: pd.DataFrame, *, level: float = 0.95, margin: float = 0.02, draws: int = 400, seed: int = 1
) -> pd.DataFrame:
    found = judged(table, level=level, margin=margin, draws=draws, generator=generator(seed, "claims"))
    return found.set_index(["claim", "part"], drop=False)


def without(table: pd.DataFrame, key: Key) -> pd.DataFrame:
    return table[~table[["figure", "trained_on", "tested_on"]].eq(list(key)).all(axis=1)]


# --- what is compared with what ---------------------------------------------------------------------------------------

BY_HAND = {  # from RATES
    ("C1", "expression"): 0.70 - 0.26,
    ("C1", "identity"): 0.90 - 0.54,
    ("C2", "information"): (0.54 - 1 / 70) / (69 / 70) - (0.26 - 1 / 7) / (6 / 7),
    ("C3", "expression"): 0.72 - 0.60,
    ("C3", "identity"): 0.96 - 0.80,
    ("C4", "expression"): 0.58 - 0.40,
    ("C4", "identity"): 0.50 - 0.30,
}


def test_every_part_is_the_difference_its_claim_names() -> None:
    found = judge(planted())
    assert list(found.index) == list(BY_HAND)
    assert found["number"].to_dict() == pytest.approx(BY_HAND, abs=1e-12)
    assert (found["verdict"] == "reproduced").all() and (found["reason"] == "").all()
    assert (found["low"] <= found["number"]).all() and (found["number"] <= found["high"]).all()
    assert set(found["source"]) == {"FER2013"}


def test_published_numbers() -> None:
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


def test_statements_say_the_claim_and_the_published_comparison() -> None:
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


def test_rules_say_level_margin_direction_and_what_was_resampled() -> None:
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


# --- verdicts ---------------------------------------------------------------------------------------------------------

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
)  # fmt: skip
def test_verdicts_follow_the_interval(part: Key, rates: dict[Key, float], verdict: str, reason: str) -> None:
    """The single images' answers are nested, so that a difference of 0.01 is 1.5 images in 150."""
    found = judge(planted(rates)).loc[part]
    assert (found["verdict"], found["reason"]) == (verdict, reason)


def test_the_margin_decides_for_not_worse_and_for_nothing_else() -> None:
    table = planted({C3_JOINT: 0.76, C3_SINGLE: 0.80, S1B_JOINT: 0.40, S1B_SINGLE: 0.42})
    strict, lenient = judge(table, margin=0.02), judge(table, margin=0.15)
    changed = strict["verdict"] != lenient["verdict"]
    assert list(changed[changed].index) == [("C3", "identity")]
    assert lenient["verdict"]["C3", "identity"] == "reproduced"


# --- intervals --------------------------------------------------------------------------------------------------------


def exact(difference: np.ndarray) -> np.ndarray:
    """The bootstrap written out: every choice of seeds, every resample, all equally likely."""
    n_seeds, n_resamples = difference.shape
    return np.array([
        sum(difference[s, r] for s in chosen) / n_seeds
        for chosen in itertools.product(range(n_seeds), repeat=n_seeds) for r in range(n_resamples)
    ])  # fmt: skip


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_against_all_draws_there_are(n_seeds: int, level: float) -> None:
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
    drawn = hierarchical_draws(values, draws=3000, generator=generator(1))
    assert drawn.shape == (2, 3000)
    np.testing.assert_array_equal(drawn[0], -drawn[1])
    allowed = {round(v, 6) for v in exact(values[0])}
    assert {round(v, 6) for v in drawn[0]} == allowed  # a resample per seed would give fractions besides


def test_pairing_narrows_the_interval() -> None:
    """Two networks that err on nearly the same images: their difference is surer than that of strangers."""
    right = answers(0.5, seeds=1, n=400)
    better = right.copy()
    better[0, 200:212] = True
    paired = pd.concat([rows(S1B_JOINT, bootstrapped(better), (1,)), rows(S1B_SINGLE, bootstrapped(right), (1,))])
    strangers = pd.concat(
        [rows(S1B_JOINT, bootstrapped(better), (1,)), rows(S1B_SINGLE, bootstrapped(right, stream="own"), (1,))]
    )
    width = {name: (f := judge(t).loc[("C4", "expression")])["high"] - f["low"]
             for name, t in {"paired": paired, "strangers": strangers}.items()}  # fmt: skip
    # binomial theory: sqrt(.03 * .97 / 400) against sqrt(.25 * 2 / 400)
    assert width["paired"] == pytest.approx(3.92 * np.sqrt(0.03 * 0.97 / 400), rel=0.25)
    assert width["strangers"] == pytest.approx(3.92 * np.sqrt(0.5 / 400), rel=0.25)
    assert judge(paired)["verdict"]["C4", "expression"] == "reproduced"


def test_the_accuracy_on_the_images_themselves_is_no_resample() -> None:
    """Five resamples of which one would be the fifth of all draws."""
    few = TABLE[TABLE["resample"] < 4]
    moved = few.assign(accuracy=few["accuracy"].where(few["resample"] >= 0, 0.5))
    there, back = judge(few), judge(moved)
    pd.testing.assert_frame_equal(there[["low", "high"]], back[["low", "high"]])
    assert (back["number"].drop(("C2", "information")) == 0).all()


def test_seeds_that_disagree_widen_the_interval() -> None:
    low, high = 0.30, 0.60
    joint = np.stack([answers(low, 1)[0], answers(high, 1)[0]])
    table = pd.concat([rows(S1B_JOINT, bootstrapped(joint)), rows(S1B_SINGLE, bootstrapped(answers(0.40)))])
    found = judge(table).loc[("C4", "expression")]
    assert found["number"] == pytest.approx((low + high) / 2 - 0.40)
    assert found["low"] < low - 0.40 and found["high"] > high - 0.40
    assert found["reason"] == UNDECIDED


rates = st.floats(0.05, 0.95)


@settings(max_examples=15, deadline=None)
@given(rates, rates, st.integers(1, 3))
def test_swapping_the_networks_flips_the_sign(one: float, other: float, n_seeds: int) -> None:
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
def test_a_higher_level_is_never_narrower(one: float, other: float) -> None:
    narrow, wide = (judge(TABLE, level=level) for level in sorted((one, other)))
    assert (wide["low"] <= narrow["low"]).all() and (wide["high"] >= narrow["high"]).all()


TABLE = planted({S1B_JOINT: 0.45})


def test_order_of_rows_and_names_of_seeds_do_not_matter() -> None:
    found = judge(TABLE)
    pd.testing.assert_frame_equal(judge(TABLE.iloc[::-1]), found)
    pd.testing.assert_frame_equal(judge(TABLE.assign(seed=TABLE["seed"] + 10)), found)


def test_a_part_does_not_depend_on_the_others() -> None:
    found, fewer = judge(TABLE), judge(without(TABLE, ("1B", "identity", "identity")))
    rest = [part for part in found.index if part != ("C1", "identity")]
    pd.testing.assert_frame_equal(fewer.loc[rest], found.loc[rest])


def test_figure_s1a_is_no_part_of_any_claim() -> None:
    extra = TABLE[TABLE["figure"] == "1B"].assign(figure="S1A", accuracy=0.0, source="VoxCeleb1")
    pd.testing.assert_frame_equal(judge(pd.concat([extra, TABLE], ignore_index=True)), judge(TABLE))


# --- not testable -----------------------------------------------------------------------------------------------------


def change(where: str, **values: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def changed(table: pd.DataFrame) -> pd.DataFrame:
        chosen = table.eval(where)
        return table.assign(**{name: table[name].where(~chosen, value) for name, value in values.items()})

    return changed


JOINT = "figure == 'S1B' and trained_on == 'joint' and tested_on == 'expression'"
BOTH = "figure == 'S1B' and tested_on == 'expression'"
FLAT = "no accuracy varies over the resamples: all answers right or all wrong, on both sides"


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda t: without(t, S1B_JOINT), "Figure S1B lacks the joint network on expression"),
        (change(JOINT, n=149), "the two sides were not tested on the same faces: n is 149 and 150"),
        (change(JOINT, source="KDEF"), "the two sides were not tested on the same faces: source is KDEF and FER2013"),
        (change(JOINT, role="probe"), "the two sides were not tested on the same faces: role is probe and expression"),
        (change(BOTH, chance=1.0), "chance is 1.0 for the joint network on expression: one value below 1 is needed"),
        (change(f"{JOINT} and seed == 4", chance=0.5),
         f"chance is 0.5 and {1 / 7} for the joint network on expression: one value below 1 is needed"),
        (change(f"{JOINT} and seed == 4", seed=5), "seeds differ: 2 and 5 on one side, 2 and 4 on the other"),
        (lambda t: t[~t.eval(f"{JOINT} and seed == 4")], "seeds differ: 2 on one side, 2 and 4 on the other"),
        (lambda t: t[~t.eval(f"{JOINT} and resample == 7")],
         "resamples differ between the two sides or between seeds, so that they are no pairs"),
        (lambda t: t[~t.eval(f"{BOTH} and seed == 4 and resample == 7")],
         "resamples differ between the two sides or between seeds, so that they are no pairs"),
        (lambda t: t[~t.eval(f"{BOTH} and resample == -1")],
         "resample -1 (the test images themselves) and at least one bootstrap resample are needed"),
        (lambda t: t[~t.eval(f"{BOTH} and resample >= 0")],
         "resample -1 (the test images themselves) and at least one bootstrap resample are needed"),
    ],
)  # fmt: skip
def test_unpaired_or_missing_cells(damage: Callable[[pd.DataFrame], pd.DataFrame], reason: str) -> None:
    found = judge(damage(TABLE))
    part = found.loc[("C4", "expression")]
    assert (part["verdict"], part["reason"]) == ("not testable on this data", reason)
    assert part[["number", "low", "high"]].isna().all() and part["published"] == pytest.approx(0.013440)
    assert part["rule"].endswith(
        "bootstrap draws of seeds, and of one resample of the test images shared by both sides"
    )
    assert "not testable on this data" not in set(found["verdict"].drop(("C4", "expression")))


@pytest.mark.parametrize("joint, single", [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)])
def test_where_no_resample_varies_there_is_no_interval(joint: float, single: float) -> None:
    found = judge(planted({S1B_JOINT: joint, S1B_SINGLE: single})).loc[("C4", "expression")]
    assert (found["verdict"], found["reason"]) == ("not testable on this data", FLAT)
    assert found["number"] == joint - single and np.isnan(found["low"]) and np.isnan(found["high"])


def test_nothing_can_be_better_than_perfect() -> None:
    found = judge(planted({S1B_SINGLE: 1.0, S1B_JOINT: 0.9, C3_SINGLE: 1.0, C3_JOINT: 0.9}))
    part = found.loc[("C4", "expression")]
    assert part["verdict"] == "not testable on this data"
    assert part["reason"] == "the expression network on expression makes no mistake: nothing could be gained"
    assert part["number"] == pytest.approx(-0.1) and part["low"] < -0.1 < part["high"]
    # but it can be worse
    assert found["verdict"]["C3", "identity"] == "not reproduced"


def test_one_imperfect_seed_leaves_room() -> None:
    single = np.stack([np.ones(N, dtype=bool), np.arange(N) < 140])
    table = pd.concat([rows(S1B_JOINT, bootstrapped(answers(0.9))), rows(S1B_SINGLE, bootstrapped(single))])
    assert judge(table)["verdict"]["C4", "expression"] == "not reproduced"


@pytest.mark.parametrize("single, testable", [(1 / 70, False), (11 / 150, False), (0.2, True)])
def test_a_network_that_guesses_cannot_be_matched(single: float, testable: bool) -> None:
    """Chance is 1/70, the margin 0.02. 11 of 150 has its lower bound near 0.027: above each, below their sum."""
    found = judge(planted({C3_SINGLE: single, C3_JOINT: single})).loc[("C3", "identity")]
    if testable:
        assert (found["verdict"], found["reason"]) == ("reproduced", "")
    else:
        reason = "the identity network on identity is not itself above chance by more than 0.02: nothing could be lost"
        assert (found["verdict"], found["reason"]) == ("not testable on this data", reason)
        assert found["number"] == 0


def test_a_network_that_guesses_can_be_surpassed() -> None:
    assert judge(planted({C3_SINGLE: 1 / 70, C3_JOINT: 0.5}))["verdict"]["C3", "identity"] == "reproduced"


def test_no_accuracies_at_all() -> None:
    found = judge(TABLE.iloc[:0])
    assert set(found["verdict"]) == {"not testable on this data"} and set(found["source"]) == {"no faces"}
    assert found["reason"]["C3", "expression"] == "Figure 1C lacks the joint network on expression"


def test_sources_are_those_of_the_cells_compared() -> None:
    found = judge(change("figure == '1B'", source="KDEF")(TABLE))
    assert found["source"].to_dict() == {part: "KDEF" if part[0] in ("C1", "C2") else "FER2013" for part in found.index}
    assert judge(without(TABLE, S1B_JOINT))["source"]["C4", "expression"] == "FER2013"


def test_a_doubled_accuracy_is_refused() -> None:
    first = TABLE[TABLE["resample"] == 3].head(1)
    with pytest.raises(StudyError) as caught:
        judge(pd.concat([TABLE, first], ignore_index=True))
    assert str(caught.value) == (
        "table 'accuracy' has two rows for figure 1B, trained_on expression, tested_on expression, seed 4, resample 3; "
        "one accuracy is allowed. Make the tables again."
    )


def test_tables_are_checked_at_the_door_and_left_alone() -> None:
    before = TABLE.copy()
    assert list(judge(TABLE).columns) == list(VERDICTS.columns)
    pd.testing.assert_frame_equal(TABLE, before)
    with pytest.raises(StudyError, match="table 'accuracy' lacks column 'chance'"):
        judge(TABLE.drop(columns="chance"))
    ACCURACY.check(TABLE)
