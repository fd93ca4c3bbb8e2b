"""Against scikit-learn's confusion matrix, and against all bootstrap draws of a few people."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from facespec.analyses.confusions import (
    compute_shares,
    count_confusions,
    find_lowest_recall,
    rank_confusion,
    resample_shares,
    tabulate_confusions,
)
from toys import assert_percentiles

DRAWS = 4000


def draw_answers(n: int = 60, seed: int = 1) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    random = np.random.default_rng(seed)
    return random.integers(4, size=n), random.integers(4, size=n), pd.Series(random.choice(list("dacb"), n))


def test_counts_and_shares_are_those_of_scikit_learn() -> None:
    true, predicted, people = draw_answers()
    counts = count_confusions(true, predicted, people, classes=4)
    for person, table in zip("abcd", counts, strict=True):
        mine = people == person
        np.testing.assert_array_equal(table, confusion_matrix(true[mine], predicted[mine], labels=range(4)))
    expected = confusion_matrix(true, predicted, normalize="true")
    np.testing.assert_allclose(compute_shares(counts.sum(axis=0)), expected, rtol=1e-12)


def test_a_class_without_images_has_no_shares() -> None:
    shares = compute_shares(np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(shares, [[0.75, 0.25], [np.nan, np.nan]])
    assert np.isnan(find_lowest_recall(shares)) and np.isnan(rank_confusion(shares, 0, 1))


def test_intervals_are_percentiles_over_all_draws_of_networks_and_people() -> None:
    counts = np.array([[[[3, 1], [0, 2]], [[1, 3], [1, 1]], [[2, 0], [4, 0]]], [[[4, 0], [1, 1]]] * 3])
    everything = []
    for people in product(range(3), repeat=3):
        shares = [compute_shares(counts[seed][list(people)].sum(axis=0)) for seed in (0, 1)]
        everything += [(shares[a] + shares[b]) / 2 for a, b in product((0, 1), repeat=2)]
    shares, _ = resample_shares(counts, draws=1, generator=np.random.default_rng(1))
    table = tabulate_confusions(counts, "xy", seeds=[5, 8], draws=DRAWS, generator=np.random.default_rng(1))
    mean = table[table["seed"].isna()]
    np.testing.assert_array_equal(mean["number"].to_numpy().reshape(2, 2), shares)
    first, second = (counts[seed].sum(axis=0) for seed in (0, 1))  # by hand: 6 of 10 and 12 of 12; 5 of 8 and 3 of 6
    assert first.tolist() == [[6, 4], [5, 3]] and second.tolist() == [[12, 0], [3, 3]]
    np.testing.assert_allclose(shares, [[0.8, 0.2], [(5 / 8 + 1 / 2) / 2, (3 / 8 + 1 / 2) / 2]])
    for (_, row), cells in zip(mean.iterrows(), np.reshape(everything, (-1, 4)).T, strict=True):
        assert_percentiles((row["low"], row["high"]), cells, level=0.95, draws=DRAWS)
    assert mean[["seeds", "people"]].drop_duplicates().to_numpy().tolist() == [[2, 3]]
    assert table[table["seed"] == 5]["number"].tolist() == [0.6, 0.4, 5 / 8, 3 / 8]
    assert table.groupby("true")["n"].unique().map(list).to_dict() == {"x": [10], "y": [8]}


def test_too_few_people_and_absent_classes_have_a_reason() -> None:
    counts = np.array([[[[3, 1], [0, 0]]]])
    table = tabulate_confusions(counts, "xy", seeds=[5], draws=100, generator=np.random.default_rng(1))
    rows = table[table["seed"].isna()].set_index("true")
    assert rows.loc["x", "number"].tolist() == [0.75, 0.25] and rows["low"].isna().all()
    assert rows.loc["x", "reason"].tolist() == ["1 person only: no interval"] * 2
    assert rows.loc["y", "reason"].tolist() == ["no test image shows it"] * 2 and rows.loc["y", "number"].isna().all()


def test_the_rank_of_a_confusion_counts_both_directions() -> None:
    shares = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.0, 0.6]])  # pairs: .2, .3, .05
    assert [float(rank_confusion(shares, *pair)) for pair in ((0, 1), (0, 2), (1, 2), (2, 1))] == [2, 1, 3, 3]
    assert find_lowest_recall(shares) == 0.5
    assert rank_confusion(np.full((3, 3), 1 / 3), 0, 2) == 1  # all equal


@given(st.integers(0, 2**32))
def test_ranks_are_a_permutation_without_ties(seed: int) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.ones(5), size=(2, 5))
    ranks = np.array([rank_confusion(shares, a, b) for a in range(5) for b in range(a)])
    np.testing.assert_array_equal(np.sort(ranks, axis=0), np.tile(np.arange(1, 11)[:, None], 2))


def test_a_draw_without_a_class_does_not_count_for_it() -> None:
    counts = np.array([[[[1, 0], [0, 0]], [[0, 0], [0, 2]]]])  # one person per class
    _, drawn = resample_shares(counts, draws=400, generator=np.random.default_rng(2))
    assert np.isnan(drawn[:, 0, 0]).mean() == pytest.approx(1 / 4, abs=4 * np.sqrt(3 / 16 / 400))
    assert set(drawn[:, 0, 0][~np.isnan(drawn[:, 0, 0])]) == {1.0}
