"""Claim C8: what it compares, its intervals, when it holds, and when the data cannot decide."""

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
from toys import assert_percentiles, change_rows, drop_rows

Key = tuple[str, int]  # quantity, depth
SEEDS, RESAMPLES = (4, 2), 100
# all different; lesions dissociate the tasks in the two deeper convolutions, and not in the first
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
REPRODUCED, NOT_TESTABLE = "reproduced", "not testable on this data"
REFUTED, OPEN = "refuted", "undecided"
BELOW, UNDECIDED = "the interval lies at or below 0", "the interval includes 0"
ABOVE, AROUND = "the interval lies above 0.1", "the interval includes 0.1"
VERDICTS_BY_REASON = {"": REPRODUCED, BELOW: REFUTED, ABOVE: REFUTED, UNDECIDED: OPEN, AROUND: OPEN}


def make_rows(
    key: Key,
    numbers: np.ndarray,
    seeds: tuple[int, ...] = SEEDS,
    *,
    damage: float = 0.5,
    fraction: float = np.nan,
) -> pd.DataFrame:
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
            "damage": damage,
            "needed": np.nan,
            "quantity": quantity,
            "resample": np.tile(np.arange(-1, width - 1), len(seeds)),
            "number": numbers.ravel(),
            "reason": "",
        }
    )


def make_table(means: Mapping[Key, float] | None = None, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Seeds differ by a little, +-0.01; equal resamples for all seeds, at most 0.02 away.

    And rows of another damage, and of a fixed share of units that equals the damage.
    """
    tables = []
    for key, mean in (MEANS | dict(means or {})).items():
        per_seed = mean + 0.01 * (np.arange(len(seeds)) - (len(seeds) - 1) / 2)
        numbers = per_seed[:, None] + np.concatenate([[0.0], NOISE[key]])
        tables += [make_rows(key, numbers, seeds), make_rows(key, -numbers, seeds, damage=0.25)]
        tables.append(make_rows(key, 1 - numbers, seeds, damage=np.nan, fraction=0.5))
    return DISSOCIATION.check(pd.concat(tables, ignore_index=True))


def judge(
    table: pd.DataFrame, *, level: float = 0.95, margin: float = 0.1, damage: float = 0.5, draws: int = 400
) -> pd.DataFrame:
    options = {"level": level, "margin": margin, "damage": damage, "draws": draws}
    return judge_lesion_claims(table, **options, generator=generator(1, "claims")).set_index("part", drop=False)


def test_every_part_is_a_mean_over_seeds_of_the_smaller_one() -> None:
    verdicts = judge(make_table())
    assert list(verdicts.index) == PARTS and list(verdicts.columns) == list(VERDICTS.columns)
    assert verdicts["number"].tolist() == pytest.approx([0.30, -0.20], abs=1e-12)
    assert (
        set(verdicts["claim"]) == {"C8"} and set(verdicts["source"]) == {"KDEF"} and verdicts["published"].isna().all()
    )
    assert (verdicts["verdict"] == "reproduced").all() and (verdicts["reason"] == "").all()
    assert (verdicts["low"] < verdicts["number"]).all() and (verdicts["number"] < verdicts["high"]).all()
    assert (verdicts["high"] - verdicts["low"] <= 0.18).all()  # t of two seeds is 12.7 and their standard error .005


def test_a_task_that_is_merely_fragile_dissociates_nothing() -> None:
    """Where it has lost 0.5, the other has lost 0.1, and where the other has, it has lost 0.9, by any lesion."""
    for fragile, other in itertools.permutations(("expression", "identity")):
        verdicts = judge(make_table({(fragile, 3): 0.4, (other, 3): -0.4})).loc["deepest"]
        assert (verdicts["verdict"], verdicts["reason"]) == (REFUTED, BELOW)
        assert verdicts["number"] == pytest.approx(-0.4) and verdicts["high"] < -0.35


def test_the_row_gives_the_difference_that_decides() -> None:
    """One task's numbers are wide: 0.5 on average. The other's are all but 0.4, or 0.4 lower.

    In the deepest convolution both must be above 0, so that the wide one leaves it undecided, and the narrow one
    refutes it. In the first it is enough that one is at most 0.1, so that the wide one leaves it undecided.
    """
    wide, narrow = np.tile([0.5, 0, 1], (2, 1)), np.tile([0.4, 0.39, 0.41], (2, 1))

    def judge_both(shift: float) -> pd.DataFrame:
        cells = itertools.product((("expression", wide), ("identity", narrow + shift)), (1, 3))
        return judge(pd.concat([make_rows((task, depth), numbers) for (task, numbers), depth in cells]))

    verdicts = judge_both(0)
    assert verdicts["number"].tolist() == [0.5, 0.5] and verdicts["reason"].tolist() == [UNDECIDED, AROUND]
    lower = judge_both(-0.5)
    assert lower["number"].tolist() == pytest.approx([-0.1, -0.1]) and lower["reason"].tolist() == [BELOW, ""]


@pytest.mark.parametrize("verdict", ["reproduced", "refuted", "undecided", NOT_TESTABLE])
def test_both_parts_come_out_all_four_ways(verdict: str) -> None:
    deepest = {"reproduced": 0.3, "refuted": -0.3, "undecided": 0.0, NOT_TESTABLE: np.nan}[verdict]
    first = {"reproduced": -0.3, "refuted": 0.3, "undecided": 0.1, NOT_TESTABLE: np.nan}[verdict]
    verdicts = judge(make_table({("identity", 3): deepest, ("identity", 1): first, ("expression", 1): 0.5}))
    assert verdicts["verdict"].tolist() == [verdict, verdict]


def test_the_smaller_one_is_that_of_the_means_not_the_mean_of_smaller_ones() -> None:
    """Each seed has one small difference, the means over seeds are large."""
    noise = np.concatenate([[0.0], NOISE["index", 1]])
    per_seed = {"expression": (0.0, 0.8), "identity": (0.6, 0.0)}
    table = make_table()
    first = [make_rows((task, 1), np.array(numbers)[:, None] + noise) for task, numbers in per_seed.items()]
    verdicts = judge(pd.concat([table[table["depth"] > 1], *first], ignore_index=True))
    assert verdicts["number"]["first"] == pytest.approx(min((0 + 0.8) / 2, (0.6 + 0) / 2))


def test_only_the_joint_network_and_the_given_damage_count() -> None:
    table = make_table()
    others = [
        table.assign(trained_on=name, number=-table["number"], source="VoxCeleb1", depth=table["depth"] + 1)
        for name in ("untrained", "expression")
    ]
    pd.testing.assert_frame_equal(judge(pd.concat([*others, table], ignore_index=True)), judge(table))
    pd.testing.assert_frame_equal(judge(table[table["damage"] == 0.5]), judge(table))
    assert judge(table, damage=0.25)["number"].tolist() == pytest.approx([-0.45, -0.05], abs=1e-12)
    third = table.assign(damage=table["damage"].where(table["damage"] != 0.5, 0.1 + 0.2))  # is not 0.3
    assert judge(third, damage=0.3)["number"].tolist() == pytest.approx([0.30, -0.20], abs=1e-12)


def test_statements_and_rules() -> None:
    verdicts = judge(make_table(), level=0.9, margin=0.07)
    assert verdicts["statement"].tolist() == [
        "units of the joint network's deepest convolution, silenced until the task that needs them has lost 50 % of "
        "its accuracy above chance, cost this task more than the other, for both tasks (after Dobs et al. 2022; "
        "published: nothing)",
        "units of the joint network's first convolution, silenced until the task that needs them has lost 50 % of its "
        "accuracy above chance, do not dissociate the tasks doubly (after Dobs et al. 2022; published: nothing)",
    ]
    tail = (
        "else undecided; shown is the one that decides; interval: t with the variance between 2 seeds and that of the "
        "people, which all networks share; beside it: percentiles of 400 bootstrap draws of seeds and people, and t "
        "over seeds alone"
    )
    differences = (
        "of the two differences, of what a task and the other one have lost, as shares of their accuracies above "
        "chance, when so many units of the joint network's"
    )
    loss = "are silenced that the first, which needs them most, has lost 50 % of its accuracy above chance"
    assert verdicts["rule"].tolist() == [
        f"reproduced if the 90 % interval of each {differences} deepest convolution {loss}, lies above 0, refuted if "
        f"one lies at or below, {tail}",
        f"reproduced if the 90 % interval of one {differences} first convolution {loss}, lies at or below 0.07, "
        f"refuted if both lie above, {tail}",
    ]
    one_seed = (
        "400 bootstrap draws of the people (one seed: the interval covers the people only, not the spread between "
        "networks)"
    )
    assert judge(make_table(seeds=(3,)))["rule"].str.endswith(one_seed).all()


@pytest.mark.parametrize(
    ("part", "means", "reason"),
    [
        ("deepest", {("expression", 3): -0.30}, BELOW),
        ("deepest", {("expression", 3): 0.0, ("identity", 3): 0.90}, UNDECIDED),  # one of the two is not enough
        ("deepest", {("expression", 3): 0.90, ("identity", 3): -0.09}, BELOW),
        ("deepest", {("expression", 3): 0.90, ("identity", 3): 0.004}, UNDECIDED),
        ("deepest", {("expression", 3): 0.09}, ""),
        ("deepest", {("expression", 3): -0.30, ("identity", 3): -0.30}, BELOW),
        ("first", {("expression", 1): 0.20, ("identity", 1): 0.30}, ABOVE),
        ("first", {("expression", 1): 0.30, ("identity", 1): 0.20}, ABOVE),
        ("first", {("expression", 1): 0.10, ("identity", 1): 0.30}, AROUND),
        ("first", {("expression", 1): 0.90, ("identity", 1): 0.01}, ""),  # one of the two is enough
        ("first", {("expression", 1): -0.90, ("identity", 1): 0.90}, ""),
    ],
)
def test_verdicts_follow_the_interval(part: str, means: dict[Key, float], reason: str) -> None:
    verdicts = judge(make_table(means))
    assert verdicts["reason"][part] == reason
    assert verdicts["verdict"][part] == VERDICTS_BY_REASON[reason]
    assert (verdicts["verdict"].drop(part) == "reproduced").all()


def test_seeds_that_disagree_leave_the_claim_undecided() -> None:
    table = make_table()
    lower = change_rows("seed == 2 and quantity == 'identity' and depth == 3", number=table["number"] - 0.65)
    verdicts = judge(lower(table)).loc["deepest"]
    assert (verdicts["verdict"], verdicts["reason"]) == (OPEN, UNDECIDED)


@pytest.mark.parametrize(("margin", "reason"), [(0.25, ""), (0.2499, AROUND.replace("0.1", "0.2499"))])
def test_bounds_that_are_the_limit_itself(margin: float, reason: str) -> None:
    """With one seed a third of the draws each are 0, 0.125 and 0.25, exact in binary: not above 0, at most the margin.

    The number of all people, 0.5, is never drawn. The other task of either end is 1 higher.
    """
    numbers = np.array([[0.5, 0.0, 0.125, 0.25]])
    keys = itertools.product(("expression", "identity"), (1, 3))
    higher = (("expression", 1), ("identity", 3))
    verdicts = judge(pd.concat([make_rows(key, numbers + (key in higher), (4,)) for key in keys]), margin=margin)
    assert (verdicts["low"] == 0).all() and (verdicts["high"] == 0.25).all()
    assert verdicts["reason"].tolist() == [UNDECIDED, reason]


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_are_percentiles_of_all_possible_draws(n_seeds: int, level: float) -> None:
    seeds = tuple(range(n_seeds))
    values = generator(5, "planted", n_seeds).random((2, 2, n_seeds, 41))  # task, end
    values[0, 0] += 0.5  # makes clear which of the two is lower in the first convolution,
    values[1, 1] += 0.5  # and in the deepest
    cells = itertools.product(enumerate(("expression", "identity")), enumerate((2, 7)))
    table = pd.concat([make_rows((task, depth), values[t, e], seeds) for (t, task), (e, depth) in cells])
    verdicts = judge(table, level=level, draws=20_000)
    drawn_seeds = [list(drawn) for drawn in itertools.product(seeds, repeat=n_seeds)]
    # (task, end, all possible draws): seeds and resample are shared by both tasks, the resample by all seeds
    means = np.stack([values[:, :, drawn, r].mean(axis=-1) for drawn in drawn_seeds for r in range(1, 41)], axis=-1)
    for part, population in (("deepest", means[0, 1]), ("first", means[1, 0])):
        assert_percentiles(
            verdicts.loc[part, ["bootstrap_low", "bootstrap_high"]], population, level=level, draws=20_000
        )
    number = values[..., 0].mean(axis=-1)
    assert verdicts["number"].tolist() == pytest.approx([number[0, 1], number[1, 0]])


FIRST, DEEPEST = "damage == 0.5 and depth == 1", "damage == 0.5 and depth == 3"
DEEP_IDENTITY, FIRST_EXPRESSION = f"{DEEPEST} and quantity == 'identity'", f"{FIRST} and quantity == 'expression'"
MADE_TOGETHER = "; testable with tables that one run has made for all networks"
NO_PAIRS = f"resamples differ between the two sides or between seeds, so that they are no pairs{MADE_TOGETHER}"
NO_RESAMPLES = f"resample -1 (all people) and at least one bootstrap resample are needed{MADE_TOGETHER}"
NO_LESIONS = "the table has no lesions of units of the joint network's {} convolution that cost 50 %: only of {}"
TOO_FEW = "the difference of expression or identity is not defined in 6 of 100 resamples: more than 5 %"
AT_CHANCE = "the whole network is not above chance"


def undefine(condition: str, reason: object = AT_CHANCE) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return change_rows(condition, number=np.nan, reason=reason)


@pytest.mark.parametrize(
    ("damage", "parts", "reason"),
    [
        (drop_rows(DEEPEST), ["deepest"], NO_LESIONS.format("deepest", "25 %")),
        (drop_rows("damage > 0 and depth == 1"), ["first"], NO_LESIONS.format("first", "fixed shares")),
        (
            drop_rows(f"{DEEP_IDENTITY} and seed == 2"),
            ["deepest"],
            "the difference of identity in convolution 3 of seed 2 is missing",
        ),
        (
            drop_rows(DEEP_IDENTITY),
            ["deepest"],
            "the difference of identity in convolution 3 of seed 2 and 4 is missing",
        ),
        (
            drop_rows("depth == 1 and seed == 4"),
            ["first"],
            "the difference of expression in convolution 1 of seed 4 is missing",
        ),
        (
            change_rows("depth == 3 and quantity == 'identity'", layer="branches.identity.relu3"),
            ["deepest"],
            "convolution 3 exists once per task (branches.identity.relu3 and trunk.relu3): a lesion in one branch "
            "cannot harm the other's task",
        ),
        (
            change_rows("depth == 1 and seed == 4", layer="branches.face.relu1"),
            ["first"],
            "convolution 1 exists once per task (branches.face.relu1 and trunk.relu1): a lesion in one branch cannot "
            "harm the other's task",
        ),
        (
            undefine(f"{DEEP_IDENTITY} and resample == -1 and seed == 4"),
            ["deepest"],
            f"the difference of identity is not defined for seed 4: {AT_CHANCE}",
        ),
        (
            undefine(f"{DEEP_IDENTITY} and resample == -1"),
            ["deepest"],
            f"the difference of identity is not defined for seed 2 and 4: {AT_CHANCE}",
        ),
        (
            undefine(f"{FIRST_EXPRESSION} and resample == -1 and seed == 2", reason=np.nan),
            ["first"],
            "the difference of expression is not defined for seed 2: no reason given",
        ),
        (undefine(f"{DEEP_IDENTITY} and 20 <= resample < 26 and seed == 2"), ["deepest"], TOO_FEW),
        (  # three of each task, none of them shared
            undefine(
                f"{FIRST} and quantity == 'identity' and 20 <= resample < 23 "
                f"or {FIRST_EXPRESSION} and 60 <= resample < 63"
            ),
            ["first"],
            TOO_FEW,
        ),
        (drop_rows(f"{DEEP_IDENTITY} and resample == 7 and seed == 2"), ["deepest"], NO_PAIRS),
        (drop_rows(f"{FIRST_EXPRESSION} and resample == 7"), ["first"], NO_PAIRS),
        (drop_rows(f"{FIRST_EXPRESSION} and resample == -1 and seed == 2"), ["first"], NO_PAIRS),
        (drop_rows(f"{DEEPEST} and resample == -1"), ["deepest"], NO_RESAMPLES),
        (drop_rows(f"{FIRST} and resample >= 0"), ["first"], NO_RESAMPLES),
        (lambda table: table.assign(trained_on="untrained"), PARTS, "the table has no lesions of the joint network"),
        (drop_rows("depth != 3"), PARTS, "the networks have one convolution only"),
        (
            change_rows("seed == 2", source="FER2013"),
            PARTS,
            f"the two sides were not tested on the same faces: source is KDEF and FER2013{MADE_TOGETHER}",
        ),
    ],
)
def test_missing_undefined_or_unpaired_numbers_are_not_testable(
    damage: Callable[[pd.DataFrame], pd.DataFrame], parts: list[str], reason: str
) -> None:
    verdicts = judge(damage(make_table()))
    rows = verdicts.loc[parts]
    assert set(rows["verdict"]) == {NOT_TESTABLE} and set(rows["reason"]) == {reason}
    assert rows[["number", "low", "high"]].isna().all(axis=None)
    assert set(rows["source"]) == {"KDEF, FER2013" if "FER2013" in reason else "KDEF"}
    assert rows["rule"].str.contains("t with the variance between seeds and that of the people").all()
    # a part does not depend on the others: neither its verdict nor its random stream
    pd.testing.assert_frame_equal(verdicts.drop(parts), judge(make_table()).drop(parts))


def test_the_damages_in_the_table_are_listed() -> None:
    table = make_table()
    more = table[table["damage"] > 0].assign(damage=table["damage"] + 0.3)
    verdicts = judge(pd.concat([table, more]), damage=0.2)
    assert verdicts["reason"]["first"] == (
        "the table has no lesions of units of the joint network's first convolution that cost 20 %: only of 25 % and "
        "50 % and 55 % and 80 %"
    )


def test_five_undefined_resamples_in_a_hundred_are_left_out() -> None:
    """As if they had not been drawn."""
    some = "20 <= resample < 25"
    table = undefine(f"{DEEP_IDENTITY} and {some} and seed == 2")(make_table())
    table = undefine(f"{FIRST_EXPRESSION} and {some}")(table)
    pd.testing.assert_frame_equal(judge(table), judge(drop_rows(some)(make_table())))


CONSTANT = "does not vary over the resamples: the people are too few, or too much alike"


def test_without_variation_over_resamples_there_is_no_interval() -> None:
    table = change_rows(DEEPEST, number=0.5)(make_table())
    table = change_rows(FIRST, number=0.25)(table)
    verdicts = judge(table)
    assert set(verdicts["verdict"]) == {NOT_TESTABLE} and verdicts[["low", "high"]].isna().all(axis=None)
    assert set(verdicts["reason"]) == {f"the difference of expression and identity {CONSTANT}"}
    assert verdicts["number"].tolist() == [0.5, 0.25] and verdicts["rule"].str.contains("between 2 seeds").all()


def test_in_the_deepest_convolution_both_differences_must_vary() -> None:
    verdicts = judge(change_rows(DEEP_IDENTITY, number=0.25)(change_rows(FIRST_EXPRESSION, number=0.0)(make_table())))
    assert verdicts["verdict"].tolist() == [NOT_TESTABLE, "reproduced"] and verdicts["number"]["deepest"] == 0.25
    assert verdicts["reason"].tolist() == [f"the difference of identity {CONSTANT}", ""]


def test_each_part_has_its_own_random_stream() -> None:
    """The same numbers in both parts and tasks, other draws."""
    numbers = make_table().query("quantity == 'expression' and depth == 3")
    cells = itertools.product(("expression", "identity"), (1, 3))
    verdicts = judge(
        pd.concat([numbers.assign(quantity=task, depth=depth, layer=f"relu{depth}") for task, depth in cells])
    )
    assert verdicts["number"].nunique() == 1 and verdicts["bootstrap_low"].nunique() == 2


@settings(max_examples=4)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_tasks_can_be_swapped(expression: float, identity: float) -> None:
    numbers = {"expression": expression, "identity": identity}
    table = make_table({(task, depth): number for task, number in numbers.items() for depth in (1, 3)})
    names = {"expression": "identity", "identity": "expression", "index": "index"}
    pd.testing.assert_frame_equal(judge(table), judge(table.assign(quantity=table["quantity"].map(names))))


def test_order_of_rows_and_names_of_seeds_do_not_matter() -> None:
    table = make_table()
    before, verdicts = table.copy(), judge(table)
    pd.testing.assert_frame_equal(judge(table.iloc[::-1]), verdicts)
    pd.testing.assert_frame_equal(judge(table.assign(seed=table["seed"] + 10)), verdicts)
    pd.testing.assert_frame_equal(table, before)
    nothing = judge(table.iloc[:0])
    assert list(nothing.index) == PARTS and set(nothing["verdict"]) == {NOT_TESTABLE}
    assert set(nothing["source"]) == {"no faces"}


def test_a_doubled_number_and_a_missing_column_are_refused() -> None:
    table = make_table()
    message = "'dissociation' has two rows for trained_on joint, seed 4, layer trunk.relu1, damage 0.5, quantity expr"
    with pytest.raises(StudyError, match=message):
        judge(pd.concat([table, table[table["resample"] == 3].head(1)], ignore_index=True))
    with pytest.raises(StudyError, match="table 'dissociation' lacks column 'fraction'"):
        judge(table.drop(columns="fraction"))
