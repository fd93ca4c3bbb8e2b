"""Which predictions are correct, and the recall of classes: against scikit-learn, theory, and by hand."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, recall_score

from facespec.analyses.accuracy import mark_correct, tabulate_recall
from facespec.analyses.resampling import Cell, compute_chance
from facespec.study.errors import StudyError
from facespec.study.seeds import generator

CELL = Cell("S1B", "joint", "expression", "expression", "embedded faces", 2, 0.4)
NAMES = ("angry", "fear", "happy", "sad")


def tabulate(predicted: np.ndarray, true: np.ndarray, *, resamples: int = 100) -> pd.DataFrame:
    correct = mark_correct(predicted, true)
    return tabulate_recall(correct, true, CELL, names=NAMES, resamples=resamples, generator=generator(4))


def test_a_prediction_is_correct_if_it_equals_the_true_class() -> None:
    correct = mark_correct(np.array([0, 2, 2, 1, 6]), np.array([0, 2, 1, 1, 0]))
    assert correct.tolist() == [True, True, False, True, False] and correct.dtype == np.bool_
    assert mark_correct(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize(("predicted", "true"), [((3,), (4,)), ((3,), (1,)), ((3, 1), (3,))])
def test_other_shapes_are_refused(predicted: tuple[int, ...], true: tuple[int, ...]) -> None:
    """One true class for all predictions would broadcast silently."""
    with pytest.raises(StudyError, match=re.escape(f"got {predicted} and {true}")):
        mark_correct(np.zeros(predicted, np.int64), np.zeros(true, np.int64))


def test_recalls_by_hand() -> None:
    """Three images are angry, one is sad, four are happy; none shows fear."""
    true, predicted = np.array([0, 2, 3, 2, 0, 2, 0, 2]), np.array([0, 2, 1, 0, 0, 2, 2, 2])
    table = tabulate(predicted, true)
    assert table["class"].tolist() == ["", *NAMES] and table["n"].tolist() == [8, 3, 0, 4, 1]
    np.testing.assert_allclose(table["recall"], [(2 / 3 + 3 / 4 + 0) / 3, 2 / 3, np.nan, 3 / 4, 0])
    assert table["reason"].tolist() == ["", "", "no test image shows this class", "", ""]
    assert table.loc[2, ["low", "high"]].isna().all() and not table.drop(2)[["low", "high"]].isna().any(axis=None)
    about = table[["figure", "trained_on", "tested_on", "role", "source", "seed"]].drop_duplicates()
    assert about.to_numpy().tolist() == [["S1B", "joint", "expression", "expression", "embedded faces", 2]]


codes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40).map(np.array)


@given(codes)
def test_recalls_are_those_of_scikit_learn(pairs: np.ndarray) -> None:
    true, predicted = pairs.T
    table, tested = tabulate(predicted, true).set_index("class")["recall"], np.unique(true)
    assert table[""] == pytest.approx(recall_score(true, predicted, labels=tested, average="macro"))
    if len(tested) > 1 and set(predicted) <= set(tested):  # scikit-learn warns of the rest
        assert table[""] == pytest.approx(balanced_accuracy_score(true, predicted))
    by_class = recall_score(true, predicted, labels=tested, average=None)
    np.testing.assert_allclose(table[[NAMES[code] for code in tested]], by_class)


@given(codes)
def test_a_constant_answer_has_the_accuracy_chance_and_the_balanced_accuracy_of_its_share_of_classes(
    pairs: np.ndarray,
) -> None:
    true = pairs[:, 0]
    values, counts = np.unique(true, return_counts=True)
    constant = np.full(len(true), values[counts.argmax()])
    assert mark_correct(constant, true).mean() == pytest.approx(compute_chance(true))
    assert tabulate(constant, true)["recall"][0] == pytest.approx(1 / len(values))


def test_intervals_are_binomial_within_classes() -> None:
    """Theory: n images of one class, drawn again, give a binomial number of correct ones; classes are independent."""
    counts, right = np.array([40, 10, 200, 90]), np.array([30, 4, 60, 45])
    true = np.repeat(np.arange(4), counts)
    correct = np.concatenate([np.arange(n) < k for n, k in zip(counts, right, strict=True)])
    shuffled = np.random.default_rng(1).permutation(len(true))
    predicted = np.where(correct, true, (true + 1) % 4)[shuffled]
    table = tabulate(predicted, true[shuffled], resamples=4000).set_index("class")
    for name, n, k in zip(NAMES, counts, right, strict=True):
        bounds = stats.binom.ppf([0.025, 0.975], n, k / n) / n
        np.testing.assert_allclose(table.loc[name, ["low", "high"]].astype(float), bounds, atol=1.01 / n)
    error = np.sqrt((right / counts * (1 - right / counts) / counts).sum()) / 4
    bounds = table.loc["", "recall"] + 1.96 * error * np.array([-1, 1])
    np.testing.assert_allclose(table.loc["", ["low", "high"]].astype(float), bounds, atol=0.15 * error)
