"""Claims C5 and C6: what they compare, when they hold, and when nobody can say."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.analyses.overlap import measure_overlap
from facespec.checks.claims_heatmaps import judge_heatmap_claims
from facespec.study.errors import StudyError
from facespec.study.maps import PersonMaps
from facespec.study.seeds import generator
from facespec.study.tables import OVERLAP, VERDICTS

Key = tuple[str, str, str]  # quantity, trained_on, tested_on
SINGLE_E, SINGLE_I = ("median", "expression", "expression"), ("median", "identity", "identity")
JOINT_E, JOINT_I = ("median", "joint", "expression"), ("median", "joint", "identity")
HALVES_E, HALVES_I, ACROSS = (("iou_halves", "joint", task) for task in ("expression", "identity", "both"))
# all differences of their own; both claims hold by far
MEANS: dict[Key, float] = {
    SINGLE_E: 0.30,
    JOINT_E: 0.17,
    SINGLE_I: 0.42,
    JOINT_I: 0.22,
    HALVES_E: 0.71,
    HALVES_I: 0.80,
    ACROSS: 0.10,
}
BY_HAND = {
    ("C5", "expression"): 0.30 - 0.17,
    ("C5", "identity"): 0.42 - 0.22,
    ("C6", "expression"): 0.71 - 0.10,
    ("C6", "identity"): 0.80 - 0.10,
}
SEEDS, RESAMPLES = (4, 2), 101
NOISE = {key: generator(3, "noise", *key).uniform(-0.02, 0.02, RESAMPLES) for key in MEANS}


def rows(key: Key, numbers: np.ndarray, seeds: tuple[int, ...] = SEEDS, rule: str | None = None) -> pd.DataFrame:
    """`numbers` is (n_seeds, 1 + n_resamples), the first column about all people."""
    quantity, trained_on, tested_on = key
    masks = quantity == "iou_halves"
    width = numbers.shape[1]
    return pd.DataFrame(
        {
            "figure": "2C" if masks else "2B",
            "quantity": quantity,
            "trained_on": trained_on,
            "tested_on": tested_on,
            "rule": rule if rule is not None else "top" if masks else "",
            "source": "KDEF",
            "seed": np.repeat(seeds, width),
            "resample": np.tile(np.arange(-1, width - 1), len(seeds)),
            "number": numbers.ravel(),
        }
    )


def planted(means: dict[Key, float] | None = None, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Seeds differ by a little, +-0.01; resamples alike for all seeds, at most 0.02 away; and rows of no claim."""
    tables = []
    for key, mean in (MEANS | (means or {})).items():
        each = mean + 0.01 * (np.arange(len(seeds)) - (len(seeds) - 1) / 2)
        numbers = each[:, None] + np.concatenate([[0.0], NOISE[key]])
        tables.append(rows(key, numbers, seeds))
        other = ("q1", *key[1:]) if key[0] == "median" else key
        tables.append(rows(other, 1 - numbers, seeds, rule="published" if key[0] == "iou_halves" else ""))
    return OVERLAP.check(pd.concat(tables, ignore_index=True))


def judge(table: pd.DataFrame, *, level: float = 0.95, draws: int = 400, seed: int = 1) -> pd.DataFrame:
    found = judge_heatmap_claims(table, level=level, draws=draws, generator=generator(seed, "claims"))
    return found.set_index(["claim", "part"], drop=False)


def test_every_part_is_the_difference_its_claim_names() -> None:
    found = judge(planted())
    assert list(found.index) == list(BY_HAND) and list(found.columns) == list(VERDICTS.columns)
    assert found["number"].to_dict() == pytest.approx(BY_HAND, abs=1e-12)
    assert (found["verdict"] == "reproduced").all() and (found["reason"] == "").all()
    assert (found["low"] < found["number"]).all() and (found["number"] < found["high"]).all()
    assert (found["high"] - found["low"] <= 0.08 + 1e-12).all() and set(found["source"]) == {"KDEF"}


def test_published_numbers_and_statements() -> None:
    found = judge(planted())
    assert found["published"]["C5"].to_dict() == pytest.approx({"expression": 0.0515, "identity": 0.0589}, abs=1e-9)
    assert found["published"]["C6"].isna().all()
    assert found["statement"].tolist() == [
        "the joint network's heatmap for expression is more focal than the expression network's: its median pixel is "
        "lower (Figure 2B; published: 0.0485 against 0.1000)",
        "the joint network's heatmap for identity is more focal than the identity network's: its median pixel is "
        "lower (Figure 2B; published: 0.0779 against 0.1368)",
        "the joint network looks at different places for the two tasks: masks for expression overlap more, between "
        "two halves of the people, than masks for the two tasks do (Figure 2C; published: 0.062 for the two tasks, "
        "nothing for halves)",
        "the joint network looks at different places for the two tasks: masks for identity overlap more, between "
        "two halves of the people, than masks for the two tasks do (Figure 2C; published: 0.062 for the two tasks, "
        "nothing for halves)",
    ]


def test_rules_say_level_direction_and_what_was_resampled() -> None:
    rules = judge(planted(), level=0.9)["rule"]
    tail = "percentiles of 400 bootstrap draws of 2 seeds, and of one resample of the people shared by both sides"
    assert rules["C5", "identity"] == (
        "reproduced if the lower bound of the 90 % interval of the median pixel, identity network on identity minus "
        f"joint network on identity, is above 0; interval: {tail}"
    )
    assert rules["C6", "expression"] == (
        "reproduced if the lower bound of the 90 % interval of the IoU of masks between two halves of the people, "
        f"joint network on expression minus joint network on both tasks, is above 0; interval: {tail}"
    )
    assert (
        judge(planted(seeds=(3,)))["rule"]
        .str.endswith(
            "shared by both sides (one seed: the interval covers the people only, not the spread between networks)"
        )
        .all()
    )


BELOW, UNDECIDED = "the interval lies at or below 0", "undecided: the interval includes 0"


@pytest.mark.parametrize(
    "part, means, reason",
    [
        (("C5", "expression"), {JOINT_E: 0.40}, BELOW),
        (("C5", "expression"), {JOINT_E: 0.30}, UNDECIDED),
        (("C5", "identity"), {SINGLE_I: 0.10}, BELOW),
        (("C6", "expression"), {HALVES_E: 0.05}, BELOW),
        (("C6", "identity"), {HALVES_I: 0.105}, UNDECIDED),
        (("C6", "identity"), {HALVES_I: 0.145}, ""),
    ],
)
def test_verdicts_follow_the_interval(part: tuple[str, str], means: dict[Key, float], reason: str) -> None:
    found = judge(planted(means))
    assert found["reason"][part] == reason
    assert found["verdict"][part] == ("not reproduced" if reason else "reproduced")
    assert (found["verdict"].drop(part) == "reproduced").all()


def test_equal_overlap_in_every_draw_is_no_difference() -> None:
    """A network with one map for both tasks."""
    numbers = 0.8 + np.concatenate([[0.0], NOISE[ACROSS]])[None].repeat(2, axis=0)
    table = pd.concat([rows(key, numbers) for key in (HALVES_E, HALVES_I, ACROSS)])
    found = judge(table).loc[[("C6", "expression"), ("C6", "identity")]]
    assert found["number"].tolist() == [0, 0] and set(found["reason"]) == {BELOW}


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_against_all_draws_there_are(n_seeds: int, level: float) -> None:
    draw, draws = generator(5, "planted", n_seeds), 20_000
    values = draw.random((2, n_seeds, 41))
    seeds = tuple(range(n_seeds))
    found = judge(
        pd.concat([rows(key, one, seeds) for key, one in zip((SINGLE_E, JOINT_E), values, strict=True)]),
        level=level,
        draws=draws,
    ).loc[("C5", "expression")]
    difference = values[0] - values[1]
    # a resample is shared by both sides and all seeds of a draw
    everything = [
        np.mean([difference[seed, r] for seed in some])
        for some in itertools.product(seeds, repeat=n_seeds)
        for r in range(1, 41)
    ]
    for bound, share in ((found["low"], (1 - level) / 2), (found["high"], (1 + level) / 2)):
        slack = 4 * np.sqrt(share * (1 - share) / draws)  # of a sampled quantile: binomial standard errors
        under, above = np.quantile(everything, [share - slack, share + slack], method="inverted_cdf")
        assert under - 1e-12 <= bound <= above + 1e-12
    assert found["number"] == pytest.approx(difference[:, 0].mean())


def change(where: str, **values: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def changed(table: pd.DataFrame) -> pd.DataFrame:
        hit = table.eval(where)
        return table.assign(**{name: table[name].where(~hit, value) for name, value in values.items()})

    return changed


JOINT = "quantity == 'median' and trained_on == 'joint' and tested_on == 'identity'"
HALF = "quantity == 'iou_halves' and rule == 'top' and tested_on == 'expression'"
IOU = "the IoU of masks between two halves of the people"
PAIRS = "resamples differ between the two sides or between seeds, so that they are no pairs"
NEEDED = "resample -1 (all people) and at least one bootstrap resample are needed"
UNTESTABLE = [
    (
        lambda t: t[~t.eval(JOINT)],
        "C5",
        "identity",
        "Figure 2B lacks the median pixel of the joint network on identity",
    ),
    (lambda t: t[~t.eval(HALF)], "C6", "expression", f"Figure 2C lacks {IOU} of the joint network on expression"),
    (
        change(JOINT, source="FER2013"),
        "C5",
        "identity",
        "the two sides were not tested on the same faces: source is KDEF and FER2013",
    ),
    (
        change(f"{JOINT} and seed == 4", seed=5),
        "C5",
        "identity",
        "seeds differ: 2 and 4 on one side, 2 and 5 on the other",
    ),
    (
        lambda t: t[~t.eval(f"{HALF} and seed == 2")],
        "C6",
        "expression",
        "seeds differ: 4 on one side, 2 and 4 on the other",
    ),
    (lambda t: t[~t.eval(f"{HALF} and resample == 7")], "C6", "expression", PAIRS),
    (lambda t: t[~t.eval(f"{JOINT} and resample == 7 and seed == 4")], "C5", "identity", PAIRS),
    (
        lambda t: t[~t.eval("quantity == 'median' and tested_on == 'identity' and resample == -1")],
        "C5",
        "identity",
        NEEDED,
    ),
    (
        lambda t: t[~t.eval("quantity == 'median' and tested_on == 'identity' and resample >= 0")],
        "C5",
        "identity",
        NEEDED,
    ),
    (
        change(f"{JOINT} and seed == 4", number=np.nan),
        "C5",
        "identity",
        "the median pixel of the joint network on "
        "identity is not defined in 102 of 204 rows: no heatmap but blank ones",
    ),
    (
        change(f"{HALF} and resample == 3", number=np.nan),
        "C6",
        "expression",
        f"{IOU} of the joint network on "
        "expression is not defined in 2 of 204 rows: too few people, or no heatmap but blank ones",
    ),
]


@pytest.mark.parametrize("damage, claim, part, reason", UNTESTABLE)
def test_unpaired_missing_or_undefined_cells(
    damage: Callable[[pd.DataFrame], pd.DataFrame], claim: str, part: str, reason: str
) -> None:
    whole, found = judge(planted()), judge(damage(planted()))
    own = found.loc[(claim, part)]
    assert (own["verdict"], own["reason"], own["source"][:4]) == ("not testable on this data", reason, "KDEF")
    assert own[["number", "low", "high"]].isna().all()
    assert own["rule"].endswith("bootstrap draws of seeds, and of one resample of the people shared by both sides")
    rest = [index for index in found.index if index != (claim, part)]
    pd.testing.assert_frame_equal(found.loc[rest], whole.loc[rest])  # a part does not depend on the others


def test_where_no_resample_varies_there_is_no_interval() -> None:
    table = planted()
    one = change("figure == '2B'", number=0.3)(table)
    found = judge(change("figure == '2B' and trained_on == 'joint'", number=0.1)(one)).loc["C5"]
    assert set(found["verdict"]) == {"not testable on this data"} and found[["low", "high"]].isna().all(axis=None)
    assert set(found["reason"]) == {
        "no number varies over the resamples, on both sides: the people are too few, or too much alike"
    }
    assert found["number"].tolist() == pytest.approx([0.2, 0.2])
    # that one side varies is enough
    half = judge(change("figure == '2B' and trained_on == 'joint'", number=0.1)(table))
    assert set(half["verdict"]["C5"]) == {"reproduced"} and (half["low"] < half["high"]).all()


def test_no_numbers_at_all() -> None:
    found = judge(planted().iloc[:0])
    assert set(found["verdict"]) == {"not testable on this data"} and set(found["source"]) == {"no faces"}


def test_order_of_rows_and_names_of_seeds_do_not_matter() -> None:
    table = planted()
    pd.testing.assert_frame_equal(judge(table.iloc[::-1]), judge(table))
    pd.testing.assert_frame_equal(judge(table.assign(seed=table["seed"] + 10)), judge(table))


@settings(max_examples=10)
@given(st.floats(0.1, 0.8), st.floats(0.1, 0.8))
def test_swapping_the_networks_flips_the_sign(one: float, other: float) -> None:
    there, back = (judge(planted({SINGLE_E: a, JOINT_E: b})) for a, b in ((one, other), (other, one)))
    assert there["number"]["C5", "expression"] == pytest.approx(-back["number"]["C5", "expression"], abs=1e-12)
    verdicts = [found["verdict"]["C5", "expression"] for found in (there, back)]
    # a draw is at most 0.04 away from the mean: noise of both sides; seeds differ alike on both
    assert verdicts.count("reproduced") <= 1 and ("reproduced" in verdicts or abs(one - other) <= 0.04)


def test_a_doubled_number_is_refused() -> None:
    table = planted()
    with pytest.raises(StudyError) as caught:
        judge(pd.concat([table, table[table["resample"] == 3].head(1)], ignore_index=True))
    assert str(caught.value) == (
        "table 'overlap' has two rows for figure 2B, quantity median, trained_on expression, tested_on expression, "
        "seed 4, resample 3; one number is allowed. Make the tables again."
    )


def test_tables_are_checked_at_the_door_and_left_alone() -> None:
    table = planted()
    before = table.copy()
    judge(table)
    pd.testing.assert_frame_equal(table, before)
    with pytest.raises(StudyError, match="table 'overlap' lacks column 'rule'"):
        judge(table.drop(columns="rule"))


def test_one_place_at_two_levels_is_one_place() -> None:
    """By maps, not by planted overlaps: one bump, for identity stretched and raised. Only its masks' sizes differ."""
    y, x = np.indices((9, 7))
    bump = np.exp(-((y - 4) ** 2 + (x - 3) ** 2) / 4)
    maps = np.stack([bump, bump, 0.5 * bump, 0.8 * bump + 0.1])  # in the order of `PAIRS`: the last two are joint
    people = maps[:, None, None] + generator(5, "people").uniform(0, 0.02, (4, 2, 12, 9, 7))
    given_maps = PersonMaps(people, np.ones((4, 2, 12), np.int64), (1, 2), tuple("abcdefghijkl"), (36, 28), "bumps")
    table = measure_overlap(given_maps, quantile=0.95, top=0.05, resamples=100, generator=generator(6))
    halves = table[(table["quantity"] == "iou_halves") & (table["resample"] == -1)]
    across = halves[halves["tested_on"] == "both"].groupby("rule")["number"].mean()
    assert across["published"] < 0.3 and across["top"] > 0.7
    assert (judge(table)["verdict"]["C6"] == "not reproduced").all()
