"""Claim C9: what it compares, when it holds, and when the data cannot decide."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from facespec.checks.claims_geometry import judge_geometry_claims
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables_geometry import GEOMETRY
from facespec.study.vocabulary import Task
from toys import change_rows, combine, drop_rows, make_table

SEEDS, RESAMPLES = (4, 2, 9), 60
# share of expression inside identity, by network and depth; that of identity is half of it
SHARES = {("joint", 1): 0.8, ("joint", 2): 0.4, ("joint", 3): 0.1, ("untrained", 1): 0.9}
SHARES |= {("untrained", 2): 0.2, ("untrained", 3): 0.6}


def make_geometry(shares: dict[tuple[str, int], float] | None = None, *, spread: float = 0.01) -> pd.DataFrame:
    rows = combine(
        trained_on=("joint", "untrained"),
        depth=(1, 2, 3),
        of=("expression", "identity"),
        seed=SEEDS,
        resample=range(-1, RESAMPLES),
    )
    table = make_table(
        GEOMETRY, rows, source="toys", layer="x", inside="identity", directions=20, dimensions=2, chance=0.1
    )
    table["layer"] = "trunk.relu" + table["depth"].astype(str)
    table["inside"] = table["of"].map({"expression": "identity", "identity": "expression"})
    means = pd.Series(SHARES | (shares or {}))
    number = means.loc[list(zip(table["trained_on"], table["depth"], strict=True))].to_numpy()
    number = np.where(table["of"] == "identity", number / 2, number)
    noise = spread * generator(3).standard_normal(len(table))
    return table.assign(number=number + np.where(table["resample"] == -1, table["seed"] * spread / 10, noise))


def judge(table: pd.DataFrame) -> pd.DataFrame:
    return judge_geometry_claims(table, level=0.95, draws=300, generator=generator(1)).set_index("part")


def test_the_number_is_the_fall_beyond_that_of_the_untrained_trunk() -> None:
    """(.8 - .1) - (.9 - .6) = .4; the convolution between does not count."""
    verdicts = judge(make_geometry())
    assert verdicts["number"].to_dict() == pytest.approx({"expression": 0.4, "identity": 0.2}, abs=1e-9)
    assert verdicts["verdict"].tolist() == ["reproduced"] * 2
    row = verdicts.loc["expression"]
    assert row["low"] < 0.4 < row["high"] and row["claim"] == "C9" and np.isnan(row["published"])
    assert "first minus deepest convolution, joint network minus untrained trunk" in row["rule"]


def test_it_is_refuted_where_the_untrained_trunk_falls_more_and_undecided_between() -> None:
    assert judge(make_geometry({("untrained", 3): 0.05}))["verdict"].tolist() == ["refuted"] * 2
    nothing = make_geometry({("untrained", 3): 0.2}, spread=0.05)
    assert judge(nothing)["verdict"].tolist() == ["undecided"] * 2


def test_layers_of_equal_depth_are_averaged() -> None:
    table = make_geometry()
    branch = table[(table["trained_on"] == "joint") & (table["depth"] == 3)]
    other = branch.assign(layer="branches.identity.relu3", number=branch["number"] + 0.2)
    assert judge(pd.concat([table, other]))["number"]["expression"] == pytest.approx(0.3, abs=1e-9)


def test_where_it_cannot_be_tested() -> None:
    table = make_geometry()
    for changed, reason in (
        (drop_rows("trained_on == 'untrained'")(table), "the table lacks the geometry of the untrained trunk"),
        (
            drop_rows("trained_on == 'untrained' and depth == 3")(table),
            "convolutions are 1 and 2 and 3 on one side, 1 and 2 on",
        ),
        (table[table["depth"] == 2], "the networks have one convolution only"),
        (drop_rows("trained_on == 'joint' and seed == 2")(table), "seeds differ"),
        (
            change_rows("trained_on == 'joint' and depth == 1 and resample == 5", number=np.nan)(table),
            "cannot be told from noise in the joint network",
        ),
        (change_rows("trained_on == 'joint'", source="others")(table), "not tested on the same faces"),
    ):
        verdicts = judge(changed)
        assert set(verdicts["verdict"]) == {"not testable on this data"}
        assert all(reason in text for text in verdicts["reason"]), verdicts["reason"].tolist()


def test_other_subspaces_and_networks_do_not_matter() -> None:
    table = make_geometry()
    extra = table[table["trained_on"] == "joint"].assign(trained_on="identity", number=0.7)
    shuffled = table.assign(inside="shuffled", number=0.3)
    pd.testing.assert_frame_equal(judge(pd.concat([table, extra, shuffled])), judge(table))


def test_doubled_rows_are_refused() -> None:
    table = make_geometry()
    with pytest.raises(StudyError, match="table 'depth_geometry' has two rows for trained_on joint, seed 4"):
        judge(pd.concat([table, table.iloc[:1]]))
    assert set(judge(table).index) == {task.value for task in Task}
