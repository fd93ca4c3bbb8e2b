"""Claim C8: what it compares, when it holds, and when nobody can say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.checks.claims_lesions import judge_lesion_claims
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables import VERDICTS
from facespec.study.tables_lesions import DISSOCIATION

Key = tuple[str, int]  # quantity, depth
SEEDS, RESAMPLES = (4, 2), 100
# all of their own; both tasks part in the deepest convolution and in the one between, neither does in the first
MEANS: dict[Key, float] = {
    ("expression", 1): 0.05,
    ("expression", 2): 0.60,
    ("expression", 3): 0.30,
    ("identity", 1): -0.20,
    ("identity", 2): 0.70,
    ("identity", 3): 0.45,
    ("index", 1): 0.90,
    ("index", 2): 0.10,
    ("index", 3): -0.90,
}
NOISE = {key: generator(3, "noise", *key).uniform(-0.02, 0.02, RESAMPLES) for key in MEANS}
PARTS = ["deepest", "first"]
NO, NOBODY = "not reproduced", "not testable on this data"


def rows(key: Key, numbers: np.ndarray, seeds: tuple[int, ...] = SEEDS, fraction: float = 0.2) -> pd.DataFrame:
    """`numbers` is (n_seeds, 1 + n_resamples), the first column about all people."""
    quantity, depth = key
    width = numbers.shape[1]
    return pd.DataFrame(
        {
            "trained_on": "joint",
            "source": "KDEF",
            "seed": np.repeat(seeds, width),
            "layer": f"trunk.relu{depth}",
            "depth": depth,
            "fraction": fraction,
            "quantity": quantity,
            "resample": np.tile(np.arange(-1, width - 1), len(seeds)),
            "number": numbers.ravel(),
            "reason": "",
        }
    )


def planted(means: Mapping[Key, float] | None = None, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Seeds differ by a little, +-0.01; resamples alike for all seeds, at most 0.02 away; and rows of other shares."""
    tables = []
    for key, mean in (MEANS | dict(means or {})).items():
        each = mean + 0.01 * (np.arange(len(seeds)) - (len(seeds) - 1) / 2)
        numbers = each[:, None] + np.concatenate([[0.0], NOISE[key]])
        tables += [rows(key, numbers, seeds), rows(key, -numbers, seeds, fraction=0.1)]
    return DISSOCIATION.check(pd.concat(tables, ignore_index=True))


def judge(
    table: pd.DataFrame, *, level: float = 0.95, margin: float = 0.1, fraction: float = 0.2, draws: int = 400
) -> pd.DataFrame:
    found = judge_lesion_claims(
        table, level=level, margin=margin, fraction=fraction, draws=draws, generator=generator(1, "claims")
    )
    return found.set_index("part", drop=False)


def test_every_part_is_a_mean_over_seeds_of_the_smaller_one() -> None:
    found = judge(planted())
    assert list(found.index) == PARTS and list(found.columns) == list(VERDICTS.columns)
    assert found["number"].tolist() == pytest.approx([0.30, -0.20], abs=1e-12)
    assert set(found["claim"]) == {"C8"} and set(found["source"]) == {"KDEF"} and found["published"].isna().all()
    assert (found["verdict"] == "reproduced").all() and (found["reason"] == "").all()
    assert (found["low"] < found["number"]).all() and (found["number"] < found["high"]).all()
    assert (found["high"] - found["low"] <= 0.05 + 1e-12).all()  # noise and seeds reach no further


def test_a_task_that_is_merely_fragile_dissociates_nothing() -> None:
    """It loses 0.9 to any lesion, the other 0.1: differences 0.8 and -0.8, whose units are silenced does not matter."""
    for fragile, other in itertools.permutations(("expression", "identity")):
        found = judge(planted({(fragile, 3): 0.8, (other, 3): -0.8})).loc["deepest"]
        assert (found["verdict"], found["reason"]) == (NO, BELOW)
        assert found["number"] == pytest.approx(-0.8) and found["high"] < -0.75


def test_the_difference_shown_is_the_one_whose_deciding_bound_is_lower() -> None:
    """One task's numbers are wide: 0 or 1, mean 0.5. The other's are all but 0.4: lower in its mean and upper bound."""
    wide, narrow = np.tile([0.5, 0, 1], (2, 1)), np.tile([0.4, 0.39, 0.41], (2, 1))
    cells = itertools.product((("expression", wide), ("identity", narrow)), (1, 3))
    found = judge(pd.concat([rows((task, depth), numbers) for (task, numbers), depth in cells]))
    assert found[["number", "low", "high"]].to_numpy().tolist() == [[0.5, 0, 1], [0.4, 0.39, 0.41]]
    assert found["reason"].tolist() == [UNDECIDED, ABOVE]


def test_the_smaller_one_is_that_of_the_means_not_the_mean_of_smaller_ones() -> None:
    """Seeds that take turns: each has one small difference, their means are large."""
    noise = np.concatenate([[0.0], NOISE["index", 1]])
    turns = {"expression": (0.0, 0.8), "identity": (0.6, 0.0)}
    table = planted()
    first = [rows((task, 1), np.array(each)[:, None] + noise) for task, each in turns.items()]
    found = judge(pd.concat([table[table["depth"] > 1], *first], ignore_index=True))
    assert found["number"]["first"] == pytest.approx(min((0 + 0.8) / 2, (0.6 + 0) / 2))


def test_only_the_joint_network_and_the_share_asked_for_count() -> None:
    table = planted()
    others = [
        table.assign(trained_on=name, number=-table["number"], source="VoxCeleb1", depth=table["depth"] + 1)
        for name in ("untrained", "expression")
    ]
    pd.testing.assert_frame_equal(judge(pd.concat([*others, table], ignore_index=True)), judge(table))
    pd.testing.assert_frame_equal(judge(table[table["fraction"] == 0.2]), judge(table))
    assert judge(table, fraction=0.1)["number"].tolist() == pytest.approx([-0.45, -0.05], abs=1e-12)
    third = table.assign(fraction=table["fraction"].where(table["fraction"] != 0.2, 0.1 + 0.2))  # is not 0.3
    assert judge(third, fraction=0.3)["number"].tolist() == pytest.approx([0.30, -0.20], abs=1e-12)


def test_statements_and_rules() -> None:
    found = judge(planted(), level=0.9, margin=0.07)
    assert found["statement"].tolist() == [
        "silencing 20 % of the units of the joint network's deepest convolution, chosen for one task, harms this task "
        "more than the other, for both tasks (after Dobs et al. 2022; published: nothing)",
        "silencing 20 % of the units of the joint network's first convolution does not dissociate the tasks doubly "
        "(after Dobs et al. 2022; published: nothing)",
    ]
    tail = (
        "interval: percentiles of 400 bootstrap draws of 2 seeds, and of one resample of the people shared by seeds "
        "and tasks"
    )
    differences = (
        "of the two differences, of what the lesion for a task takes from this task and from the other, as shares of "
        "the accuracy above chance, with 20 % of the units of the joint network's"
    )
    assert found["rule"].tolist() == [
        f"reproduced if the lower bound of the 90 % interval of each {differences} deepest convolution silenced, is "
        f"above 0; shown is the one whose lower bound is lower; {tail}",
        f"reproduced if the upper bound of the 90 % interval of one {differences} first convolution silenced, is at "
        f"most 0.07; shown is the one whose upper bound is lower; {tail}",
    ]
    assert (
        judge(planted(seeds=(3,)))["rule"]
        .str.endswith(
            "draws of seeds, and of one resample of the people shared by seeds and tasks (one seed: the interval "
            "covers the people only, not the spread between networks)"
        )
        .all()
    )


BELOW, UNDECIDED = "the interval lies at or below 0", "undecided: the interval includes 0"
ABOVE, AROUND = "the interval lies above 0.1", "undecided: the interval includes 0.1"


@pytest.mark.parametrize(
    "part, means, reason",
    [
        ("deepest", {("expression", 3): -0.30}, BELOW),
        ("deepest", {("expression", 3): 0.0, ("identity", 3): 0.90}, UNDECIDED),  # one of the two is not enough
        ("deepest", {("expression", 3): 0.90, ("identity", 3): -0.026}, BELOW),
        ("deepest", {("expression", 3): 0.90, ("identity", 3): 0.004}, UNDECIDED),
        ("deepest", {("expression", 3): 0.026}, ""),
        ("deepest", {("expression", 3): -0.30, ("identity", 3): -0.30}, BELOW),
        ("first", {("expression", 1): 0.20, ("identity", 1): 0.30}, ABOVE),
        ("first", {("expression", 1): 0.30, ("identity", 1): 0.20}, ABOVE),
        ("first", {("expression", 1): 0.10, ("identity", 1): 0.30}, AROUND),
        ("first", {("expression", 1): 0.90, ("identity", 1): 0.07}, ""),  # one of the two is enough
        ("first", {("expression", 1): -0.90, ("identity", 1): 0.90}, ""),
    ],
)
def test_verdicts_follow_the_interval(part: str, means: dict[Key, float], reason: str) -> None:
    found = judge(planted(means))
    assert found["reason"][part] == reason
    assert found["verdict"][part] == (NO if reason else "reproduced")
    assert (found["verdict"].drop(part) == "reproduced").all()


def test_seeds_that_disagree_leave_it_open() -> None:
    table = planted()
    hit = (table["seed"] == 2) & (table["quantity"] == "identity") & (table["depth"] == 3)
    found = judge(table.assign(number=table["number"].where(~hit, -0.2 + (table["number"] - 0.45)))).loc["deepest"]
    assert (found["verdict"], found["reason"]) == (NO, UNDECIDED)


@pytest.mark.parametrize("margin, reason", [(0.25, ""), (0.2499, "undecided: the interval includes 0.2499")])
def test_bounds_that_are_the_limit_itself(margin: float, reason: str) -> None:
    """A third of the draws each are 0, 0.125 and 0.25, exact in binary: not above 0, and at most the margin 0.25.

    The number of all people, 0.5, is never drawn. The other task of either end is 1 higher.
    """
    numbers = np.tile([0.5, 0.0, 0.125, 0.25], (2, 1))
    keys = itertools.product(("expression", "identity"), (1, 3))
    higher = (("expression", 1), ("identity", 3))
    found = judge(pd.concat([rows(key, numbers + (key in higher)) for key in keys]), margin=margin)
    assert (found["low"] == 0).all() and (found["high"] == 0.25).all()
    assert found["reason"].tolist() == [UNDECIDED, reason]


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_against_all_draws_there_are(n_seeds: int, level: float) -> None:
    draws, seeds = 20_000, tuple(range(n_seeds))
    values = generator(5, "planted", n_seeds).random((2, 2, n_seeds, 41))  # task, end
    values[0, 0] += 0.5  # no doubt which of the two is lower in the first convolution,
    values[1, 1] += 0.5  # and in the deepest
    found = judge(
        pd.concat(
            [
                rows((task, depth), values[t, e], seeds)
                for t, task in enumerate(("expression", "identity"))
                for e, depth in enumerate((2, 7))
            ]
        ),
        level=level,
        draws=draws,
    )
    some = [list(seeds) for seeds in itertools.product(seeds, repeat=n_seeds)]
    # (task, end, draws there are): seeds and resample are shared by both tasks, the resample by all seeds
    means = np.stack([values[:, :, few, r].mean(axis=-1) for few in some for r in range(1, 41)], axis=-1)
    everything = {"deepest": means[0, 1], "first": means[1, 0]}
    for part, row in found.iterrows():
        for bound, share in ((row["low"], (1 - level) / 2), (row["high"], (1 + level) / 2)):
            slack = 4 * np.sqrt(share * (1 - share) / draws)  # of a sampled quantile: binomial standard errors
            under, above = np.quantile(everything[str(part)], [share - slack, share + slack], method="inverted_cdf")
            assert under - 1e-12 <= bound <= above + 1e-12
    whole = values[..., 0].mean(axis=-1)
    assert found["number"].tolist() == pytest.approx([whole[0, 1], whole[1, 0]])


def change(where: str, **values: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def changed(table: pd.DataFrame) -> pd.DataFrame:
        hit = table.eval(where)
        return table.assign(**{name: table[name].where(~hit, value) for name, value in values.items()})

    return changed


def without(where: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table[~table.eval(where)]


FIRST, DEEPEST = "fraction == 0.2 and depth == 1", "fraction == 0.2 and depth == 3"
FACES, PEOPLE = f"{DEEPEST} and quantity == 'identity'", f"{FIRST} and quantity == 'expression'"
PAIRS = "resamples differ between the two sides or between seeds, so that they are no pairs"
NEEDED = "resample -1 (all people) and at least one bootstrap resample are needed"
DIED = "the whole network is not above chance"
UNTESTABLE = [
    (
        without(DEEPEST),
        PARTS[:1],
        "the table has no lesions of 20 % of the units of the joint network's deepest convolution: only of 10 %",
    ),
    (
        without(FIRST),
        PARTS[1:],
        "the table has no lesions of 20 % of the units of the joint network's first convolution: only of 10 %",
    ),
    (without(f"{FACES} and seed == 2"), PARTS[:1], "the difference of identity in convolution 3 of seed 2 is missing"),
    (without(FACES), PARTS[:1], "the difference of identity in convolution 3 of seed 2 and 4 is missing"),
    (
        without("depth == 1 and seed == 4"),
        PARTS[1:],
        "the difference of expression in convolution 1 of seed 4 is missing",
    ),
    (
        change("depth == 3 and quantity == 'identity'", layer="branches.identity.relu3"),
        PARTS[:1],
        "convolution 3 exists once per task (branches.identity.relu3 and trunk.relu3): a lesion in one branch cannot "
        "harm the other's task",
    ),
    (
        change("depth == 1 and seed == 4", layer="branches.face.relu1"),
        PARTS[1:],
        "convolution 1 exists once per task (branches.face.relu1 and trunk.relu1): a lesion in one branch cannot "
        "harm the other's task",
    ),
    (
        change(f"{FACES} and resample == -1 and seed == 4", number=np.nan, reason=DIED),
        PARTS[:1],
        f"the difference of identity is not defined for seed 4: {DIED}",
    ),
    (
        change(f"{FACES} and resample == -1", number=np.nan, reason=DIED),
        PARTS[:1],
        f"the difference of identity is not defined for seed 2 and 4: {DIED}",
    ),
    (
        change(f"{PEOPLE} and resample == -1 and seed == 2", number=np.nan, reason=np.nan),
        PARTS[1:],
        "the difference of expression is not defined for seed 2: no reason given",
    ),
    (
        change(f"{FACES} and 20 <= resample < 26 and seed == 2", number=np.nan, reason=DIED),
        PARTS[:1],
        "the difference of expression or identity is not defined in 6 of 100 resamples: more than 5 %",
    ),
    # three at each task, none of them shared
    (
        change(
            f"{FIRST} and quantity == 'identity' and 20 <= resample < 23 or {PEOPLE} and 60 <= resample < 63",
            number=np.nan,
            reason=DIED,
        ),
        PARTS[1:],
        "the difference of expression or identity is not defined in 6 of 100 resamples: more than 5 %",
    ),
    (without(f"{FACES} and resample == 7 and seed == 2"), PARTS[:1], PAIRS),
    (without(f"{PEOPLE} and resample == 7"), PARTS[1:], PAIRS),
    (without(f"{PEOPLE} and resample == -1 and seed == 2"), PARTS[1:], PAIRS),
    (without(f"{DEEPEST} and resample == -1"), PARTS[:1], NEEDED),
    (without(f"{FIRST} and resample >= 0"), PARTS[1:], NEEDED),
    (lambda t: t.assign(trained_on="untrained"), PARTS, "the table has no lesions of the joint network"),
    (without("depth != 3"), PARTS, "the networks have one convolution only"),
    (
        change("seed == 2", source="FER2013"),
        PARTS,
        "the two sides were not tested on the same faces: source is KDEF and FER2013",
    ),
]


@pytest.mark.parametrize("damage, parts, reason", UNTESTABLE)
def test_missing_undefined_or_unpaired_numbers(
    damage: Callable[[pd.DataFrame], pd.DataFrame], parts: list[str], reason: str
) -> None:
    whole, found = judge(planted()), judge(damage(planted()))
    own = found.loc[parts]
    assert set(own["verdict"]) == {NOBODY} and set(own["reason"]) == {reason}
    assert own[["number", "low", "high"]].isna().all(axis=None)
    assert set(own["source"]) == {"KDEF, FER2013" if "FER2013" in reason else "KDEF"}
    assert own["rule"].str.contains("bootstrap draws of seeds, and of one resample").all()
    # a part does not depend on the others: neither its verdict nor its random stream
    pd.testing.assert_frame_equal(found.drop(parts), whole.drop(parts))


def test_the_shares_there_are_are_listed() -> None:
    table = planted()
    found = judge(pd.concat([table, table.assign(fraction=table["fraction"] + 0.5)]), fraction=0.25)
    assert found["reason"]["first"] == (
        "the table has no lesions of 25 % of the units of the joint network's first convolution: only of 10 % and 20 % "
        "and 60 % and 70 %"
    )


def test_five_undefined_resamples_in_a_hundred_are_left_out() -> None:
    """As if nobody had drawn them."""
    some = "20 <= resample < 25"
    table = change(f"{FACES} and {some} and seed == 2", number=np.nan, reason=DIED)(planted())
    table = change(f"{PEOPLE} and {some}", number=np.nan, reason=DIED)(table)
    pd.testing.assert_frame_equal(judge(table), judge(without(some)(planted())))


STILL = "does not vary over the resamples: the people are too few, or too much alike"


def test_where_no_resample_varies_there_is_no_interval() -> None:
    table = change(DEEPEST, number=0.5)(planted())
    table = change(FIRST, number=0.25)(table)
    found = judge(table)
    assert set(found["verdict"]) == {NOBODY} and found[["low", "high"]].isna().all(axis=None)
    assert set(found["reason"]) == {f"the difference of expression and identity {STILL}"}
    assert found["number"].tolist() == [0.5, 0.25] and found["rule"].str.contains("draws of 2 seeds").all()


def test_both_must_vary_where_both_must_pass() -> None:
    found = judge(change(FACES, number=0.25)(change(PEOPLE, number=0.0)(planted())))
    assert found["verdict"].tolist() == [NOBODY, "reproduced"] and found["number"]["deepest"] == 0.25
    assert found["reason"].tolist() == [f"the difference of identity {STILL}", ""]


def test_no_numbers_at_all() -> None:
    found = judge(planted().iloc[:0])
    assert list(found.index) == PARTS and set(found["verdict"]) == {NOBODY} and set(found["source"]) == {"no faces"}


def test_parts_draw_from_streams_of_their_own() -> None:
    """The same numbers in both parts and tasks, other draws."""
    one = planted().query("quantity == 'expression' and depth == 3")
    cells = itertools.product(("expression", "identity"), (1, 3))
    found = judge(pd.concat([one.assign(quantity=task, depth=depth, layer=f"relu{depth}") for task, depth in cells]))
    assert found["number"].nunique() == 1 and found["low"].nunique() == 2


@settings(max_examples=8, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_tasks_can_be_swapped(one: float, other: float) -> None:
    table = planted(
        {(task, depth): number for task, number in (("expression", one), ("identity", other)) for depth in (1, 3)}
    )
    names = {"expression": "identity", "identity": "expression", "index": "index"}
    there, back = judge(table), judge(table.assign(quantity=table["quantity"].map(names)))
    pd.testing.assert_frame_equal(there, back)


def test_order_of_rows_and_names_of_seeds_do_not_matter_and_tables_are_left_alone() -> None:
    table = planted()
    before = table.copy()
    pd.testing.assert_frame_equal(judge(table.iloc[::-1]), judge(table))
    pd.testing.assert_frame_equal(judge(table.assign(seed=table["seed"] + 10)), judge(table))
    pd.testing.assert_frame_equal(table, before)


def test_refusals() -> None:
    table = planted()
    with pytest.raises(StudyError) as caught:
        judge(pd.concat([table, table[table["resample"] == 3].head(1)], ignore_index=True))
    assert str(caught.value) == (
        "table 'dissociation' has two rows for trained_on joint, seed 4, layer trunk.relu1, fraction 0.2, quantity "
        "expression, resample 3; one number is allowed. Make the tables again."
    )
    with pytest.raises(StudyError, match="table 'dissociation' lacks column 'fraction'"):
        judge(table.drop(columns="fraction"))
