"""Claim C6: what its parts compare, that each may have every verdict, and pairs of seeds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facespec.analyses.overlap import measure_overlap
from facespec.checks.claims_overlap import judge_overlap_claims, make_pseudo_values
from facespec.checks.verdicts import combine_parts
from facespec.study.errors import StudyError
from facespec.study.maps import PersonMaps
from facespec.study.seeds import generator
from facespec.study.tables import OVERLAP, VERDICTS
from toys import change_rows, drop_rows

Key = tuple[str, str, str]  # quantity, trained_on, tested_on
TASKS = ("expression", "identity")
# all are different, and the claim holds by far
MEANS: dict[Key, float] = {
    ("iou", "joint", "both"): 0.20,
    ("iou_networks", "joint", "expression"): 0.71,
    ("iou_networks", "joint", "identity"): 0.62,
    ("iou_networks", "expression", "expression"): 0.53,
    ("iou_networks", "identity", "identity"): 0.84,
    ("iou_classes", "joint", "expression"): 0.66,
    ("iou_classes", "joint", "identity"): 0.58,
    ("iou_tasks", "joint", "expression"): 0.12,
    ("iou_tasks", "joint", "identity"): 0.15,
    ("iou_classes", "untrained", "expression"): 0.44,
    ("iou_classes", "untrained", "identity"): 0.47,
    ("iou_tasks", "untrained", "expression"): 0.31,
    ("iou_tasks", "untrained", "identity"): 0.37,
}
BY_HAND = {
    "expression networks": 0.71 - 0.20,
    "identity networks": 0.62 - 0.20,
    "expression single": 0.53 - 0.20,
    "identity single": 0.84 - 0.20,
    "expression classes": 0.66 - 0.12,
    "identity classes": 0.58 - 0.15,
    "expression untrained": (0.66 - 0.12) - (0.44 - 0.31),
    "identity untrained": (0.58 - 0.15) - (0.47 - 0.37),
}
SEEDS, RESAMPLES = (4, 2, 9), 101
NOISE = {key: generator(3, "noise", *key).uniform(-0.02, 0.02, RESAMPLES) for key in MEANS}
REPRODUCED, NOT_TESTABLE = "reproduced", "not testable on this data"
REFUTED = "refuted", "the interval lies at or below 0"
UNDECIDED = "undecided", "the interval includes 0"


def make_rows(key: Key, numbers: np.ndarray, seeds: tuple[int, ...]) -> pd.DataFrame:
    """`numbers` is (n_seeds, 1 + n_resamples), the first column about all people."""
    width = numbers.shape[1]
    columns = dict(zip(("quantity", "trained_on", "tested_on"), key, strict=True))
    seed, resample = np.repeat(seeds, width), np.tile(np.arange(-1, width - 1), len(seeds))
    rows = {"seed": seed, "resample": resample, "number": numbers.ravel()}
    return pd.DataFrame(columns | {"figure": "2C", "rule": "top", "source": "KDEF"} | rows)


def make_table(means: dict[Key, float] | None = None, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Seeds differ by .002 from one to the next, resamples by up to .02; rows of the published rule are of no claim."""
    tables = []
    for key, mean in (MEANS | (means or {})).items():
        per_seed = mean + 0.002 * (np.arange(len(seeds)) - (len(seeds) - 1) / 2)
        numbers = per_seed[:, None] + np.concatenate([[0.0], NOISE[key]])
        tables.append(make_rows(key, numbers, seeds))
        if key[0] == "iou":
            tables.append(make_rows(key, 1 - numbers, seeds).assign(rule="published"))
    return OVERLAP.check(pd.concat(tables, ignore_index=True))


def judge(table: pd.DataFrame, *, level: float = 0.95, draws: int = 400, seed: int = 1) -> pd.DataFrame:
    verdicts = judge_overlap_claims(table, level=level, draws=draws, generator=generator(seed, "claims"))
    return verdicts.set_index("part", drop=False)


@pytest.fixture(scope="module")
def verdicts() -> pd.DataFrame:
    return judge(make_table())


def test_every_part_is_the_difference_its_words_name(verdicts: pd.DataFrame) -> None:
    assert list(verdicts.index) == list(BY_HAND) and list(verdicts.columns) == list(VERDICTS.columns)
    assert verdicts["number"].to_dict() == pytest.approx(BY_HAND, abs=1e-12)
    assert set(verdicts["verdict"]) == {REPRODUCED} and set(verdicts["claim"]) == {"C6"}
    assert (verdicts["low"] < verdicts["number"]).all() and (verdicts["number"] < verdicts["high"]).all()
    assert verdicts["published"].isna().all() and set(verdicts["source"]) == {"KDEF"}
    published = " (Figure 2C; published: 0.062 for the two tasks, nothing to compare it with)"
    assert verdicts["statement"].str.endswith(published).all()
    assert verdicts["statement"].str.removesuffix(published).iloc[[2, 5, 6]].tolist() == [
        "the joint network looks at different places for the two tasks: its masks for them overlap less than those of "
        "two expression networks for expression do",
        "the joint network's masks for the two tasks, on the faces of one person, overlap less than its masks for "
        "identity on the faces of two people do",
        "the joint network's masks for the two tasks, on the faces of one expression, overlap less than its masks for "
        "expression on the faces of two expressions do, by more than those of the untrained network",
    ]


def test_rules_name_both_overlaps_and_how_seeds_count(verdicts: pd.DataFrame) -> None:
    for part, words in {
        "identity networks": "the IoU of masks of networks of two seeds, joint network on identity, minus the IoU of "
        "masks, joint network on both tasks (seeds by their jackknife pseudo-values, 3 or more)",
        "expression classes": "of the IoU of masks of two classes, joint network on expression, minus the IoU of masks "
        "of the two tasks, class by class, joint network on expression",
        "identity untrained": "joint network on identity, and minus the same of the untrained network",
    }.items():
        assert words in verdicts["rule"][part]


# the mean of which cell decides about a part, and at which value the difference is zero
DECISIVE: dict[str, tuple[Key, float]] = {
    "expression networks": (("iou_networks", "joint", "expression"), 0.20),
    "identity networks": (("iou_networks", "joint", "identity"), 0.20),
    "expression single": (("iou_networks", "expression", "expression"), 0.20),
    "identity single": (("iou_networks", "identity", "identity"), 0.20),
    "expression classes": (("iou_classes", "joint", "expression"), 0.12),
    "identity classes": (("iou_classes", "joint", "identity"), 0.15),
    "expression untrained": (("iou_classes", "untrained", "expression"), 0.66 - 0.12 + 0.31),
    "identity untrained": (("iou_classes", "untrained", "identity"), 0.58 - 0.15 + 0.37),
}


@pytest.mark.parametrize("part", DECISIVE)
def test_every_part_may_be_reproduced_refuted_undecided_or_not_testable(part: str, verdicts: pd.DataFrame) -> None:
    key, zero = DECISIVE[part]
    sign = -1 if part.endswith("untrained") else 1  # the untrained network's difference is subtracted
    affected = [part, part.replace("classes", "untrained")]  # these two have cells in common
    rest = [name for name in BY_HAND if name not in affected]
    for shift, outcome in ((0.08, (REPRODUCED, "")), (-0.08, REFUTED), (0.0, UNDECIDED)):
        found = judge(make_table({key: zero + sign * shift}))
        assert tuple(found.loc[part, ["verdict", "reason"]]) == outcome, shift
        pd.testing.assert_frame_equal(found.loc[rest], verdicts.loc[rest])  # a part does not depend on the others
    where = f"quantity == '{key[0]}' and trained_on == '{key[1]}' and tested_on == '{key[2]}'"
    row = judge(drop_rows(where)(make_table())).loc[part]
    assert row["verdict"] == NOT_TESTABLE and row["reason"].startswith("Figure 2C lacks the IoU of masks of ")
    assert row[["number", "low", "high"]].isna().all()


NETWORKS = "quantity == 'iou_networks' and trained_on == 'joint' and tested_on == 'identity'"
CLASSES = "quantity == 'iou_classes' and trained_on == 'joint' and tested_on == 'expression'"
CONTROL = "quantity == 'iou_tasks' and trained_on == 'untrained' and tested_on == 'expression'"
UNDEFINED = "rows: too few people, or no heatmap but blank ones"


@pytest.mark.parametrize(
    ("damage", "part", "reason"),
    [
        (
            change_rows(NETWORKS, source="FER2013"),
            "identity networks",
            "not tested on the same faces: source is FER2013",
        ),
        (drop_rows(f"{CLASSES} and seed == 2"), "expression classes", "seeds differ: 4 and 9 on one side"),
        (drop_rows(f"{CONTROL} and seed == 2"), "expression untrained", "seeds differ"),
        (drop_rows("trained_on == 'untrained' and seed == 2"), "identity untrained", "seeds differ: 2 and 4 and 9 on"),
        (
            drop_rows("trained_on == 'untrained'"),
            "identity untrained",
            "lacks the IoU of masks of two classes of the unt",
        ),
        (drop_rows(f"{CLASSES} and resample == 7"), "expression classes", "resamples differ between the two sides"),
        (change_rows(f"{CLASSES} and resample == 7", number=np.nan), "expression classes", f"in 3 of 306 {UNDEFINED}"),
        (change_rows(f"{CONTROL} and seed == 4", number=np.nan), "expression untrained", f"in 102 of 306 {UNDEFINED}"),
        (drop_rows("seed == 2"), "identity networks", "pairs of 2 seeds have no spread; testable with 3 seeds"),
        (drop_rows("seed != 2"), "identity single", "pairs of 1 seed have no spread; testable with 3 seeds"),
        (change_rows("number >= 0", number=0.2), "identity classes", "no number varies over the resamples"),
        (change_rows("number >= 0", number=0.2), "identity untrained", "no number varies over the resamples"),
    ],
)
def test_what_cannot_be_compared_is_not_testable(
    damage: Callable[[pd.DataFrame], pd.DataFrame], part: str, reason: str
) -> None:
    row = judge(damage(make_table())).loc[part]
    assert row["verdict"] == NOT_TESTABLE and reason in row["reason"]
    assert row[["low", "high"]].isna().all()


def test_without_an_untrained_network_the_other_parts_are_judged(verdicts: pd.DataFrame) -> None:
    """As in tables that an earlier version wrote."""
    found = judge(drop_rows("trained_on == 'untrained'")(make_table()))
    assert found["verdict"].tolist() == [REPRODUCED] * 6 + [NOT_TESTABLE] * 2
    pd.testing.assert_frame_equal(found.iloc[:6], verdicts.iloc[:6])
    nothing = judge(make_table().iloc[:0])
    assert set(nothing["verdict"]) == {NOT_TESTABLE} and set(nothing["source"]) == {"no faces"}


def test_a_doubled_number_is_refused() -> None:
    table = make_table()
    with pytest.raises(StudyError, match="'overlap' has two rows for figure 2C, quantity iou, trained_on joint"):
        judge(pd.concat([table, table.head(1)], ignore_index=True))


@settings(max_examples=20)
@given(st.integers(3, 9).flatmap(lambda n: arrays(float, (n, n), elements=st.floats(0, 1, width=16))))
def test_pseudo_values_are_those_of_leaving_out_one_seed_after_the_other(pairs: np.ndarray) -> None:
    n = len(pairs)

    def average(members: list[int]) -> float:
        return float(np.mean([pairs[i, j] for i, j in combinations(members, 2)]))

    whole = average(list(range(n)))
    expected = [n * whole - (n - 1) * average([j for j in range(n) if j != i]) for i in range(n)]
    means = [np.mean([pairs[min(i, j), max(i, j)] for j in range(n) if j != i]) for i in range(n)]
    np.testing.assert_allclose(make_pseudo_values(np.array(means)), expected, atol=1e-12)


@settings(max_examples=20)
@given(arrays(float, st.integers(3, 9), elements=st.floats(-1, 1, width=16)))
def test_where_seeds_add_up_pseudo_values_are_independent(values: np.ndarray) -> None:
    """The overlap of a pair is the sum of two seeds' values: its mean has the standard error of twice their mean."""
    n = len(values)
    means = values + (values.sum() - values) / (n - 1)
    np.testing.assert_allclose(make_pseudo_values(np.stack([means, means], axis=1))[:, 1], 2 * values, atol=1e-12)


def draw_people(bumps: np.ndarray, noise: float) -> PersonMaps:
    """Three seeds of twelve people, with the maps `bumps` (pairs, h, w) and noise."""
    shape = (len(bumps), 3, 12, *bumps.shape[1:])
    maps = bumps[:, None, None] + generator(5, "people", *bumps.ravel().round(3).astype(str)).uniform(0, noise, shape)
    count = np.ones(shape[:3], np.int64)
    return PersonMaps(maps, count, (1, 2, 3), tuple("abcdefghijkl"), (36, 28), "bumps")


def judge_bumps(expression: float, identity: float, *, untrained: float) -> pd.Series:
    """From maps, not from numbers: bumps at these columns; the untrained network's two at 3 and at `untrained`."""
    y, x = np.indices((9, 7))
    columns = [expression, identity, expression, identity, 3, untrained]  # in the order of `PAIRS`
    bumps = np.stack([np.exp(-((y - 4) ** 2 + (x - column) ** 2) / 4) for column in columns])
    groups = [draw_people(bumps + 0.01 * i, 0.05) for i in range(7)]
    whole = PersonMaps(
        np.sum([maps.total for maps in groups], axis=0),
        np.sum([maps.count for maps in groups], axis=0),
        *(groups[0].seeds, groups[0].people, groups[0].size, groups[0].source),
    )
    table = measure_overlap(whole, groups, quantile=0.95, top=0.05, resamples=60, generator=generator(6))
    return judge(table)["verdict"]


def test_two_places_pass_and_one_place_or_what_needs_no_training_fail() -> None:
    assert combine_parts(judge_bumps(1, 5, untrained=3)) == REPRODUCED
    assert combine_parts(judge_bumps(3, 3, untrained=3)) in (REFUTED[0], UNDECIDED[0])
    as_before_training = judge_bumps(1, 5, untrained=0)
    assert (as_before_training.iloc[:6] == REPRODUCED).all() and REPRODUCED not in set(as_before_training.iloc[6:])
