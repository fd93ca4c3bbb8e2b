from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from facespec.analyses.lesion_classes import measure_class_spread, tabulate_recalls

CLASSES = np.array([4, 0, 4, 2, 2, 4, 0, 2, 2])


def parse_rows(*rows: str) -> np.ndarray:
    return np.array([[digit == "1" for digit in row] for row in rows])


def test_recall_by_hand() -> None:
    table = tabulate_recalls(parse_rows("110001110", "000000000"), CLASSES)
    assert table.to_dict("list") == {
        "lesion": [0, 0, 0, 1, 1, 1],
        "class": [0, 2, 4] * 2,
        "n": [2, 4, 3] * 2,
        "recall": [1.0, 1 / 4, 2 / 3, 0.0, 0.0, 0.0],
    }


def test_spread_by_hand() -> None:
    """Of classes always or never recognised, all variance lies between them; equal recalls are below chance.

    Two classes of four, recalls 3/4 and 1/4: between 1/2, within 3/2 with 6 degrees of freedom, total 2.
    """
    spread = measure_class_spread(np.stack([CLASSES == 2, CLASSES != 0]), CLASSES)
    np.testing.assert_allclose(spread, 1, rtol=0, atol=1e-12)
    spread = measure_class_spread(parse_rows("11101000", "10011001"), np.repeat([0, 1], 4))
    np.testing.assert_allclose(spread, [(0.5 - 1.5 / 6) / 2, -(2 / 6) / 2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("row", "classes"), [("1111", [0, 0, 1, 1]), ("0000", [0, 0, 1, 1]), ("1001", [0, 1, 2, 3]), ("1001", [3] * 4)]
)
def test_without_variance_or_repeated_classes_there_is_no_spread(row: str, classes: list[int]) -> None:
    assert np.isnan(measure_class_spread(parse_rows(row), np.array(classes))).all()


@given(arrays.arrays(np.bool_, (3, 23)), arrays.arrays(np.int64, 23, elements=st.integers(0, 3)))
def test_spread_against_the_f_statistic_of_scipy(correct: np.ndarray, classes: np.ndarray) -> None:
    """Epsilon squared is (F - 1) (k - 1) / (F (k - 1) + n - k)."""
    groups = np.unique(classes)
    for row, spread in zip(correct, measure_class_spread(correct, classes), strict=True):
        parts = [row[classes == group].astype(float) for group in groups]
        if len(groups) == 1 or row.all() or not row.any():
            assert np.isnan(spread)
        elif all(part.all() or not part.any() for part in parts):
            np.testing.assert_allclose(spread, 1, rtol=0, atol=1e-12)
        else:
            f, k, n = stats.f_oneway(*parts).statistic, len(groups), len(row)
            np.testing.assert_allclose(spread, (f - 1) * (k - 1) / (f * (k - 1) + n - k), rtol=1e-9, atol=1e-12)


def test_by_chance_the_spread_is_0_on_average() -> None:
    """Unlike the uncorrected share, which would be 69 / 489 with 70 classes of 7 images."""
    correct = np.random.default_rng(5).random((2000, 490)) < 0.4
    spread = measure_class_spread(correct, np.repeat(np.arange(70), 7))
    error = spread.std() / np.sqrt(len(spread))
    assert abs(spread.mean()) < 4 * error < 0.01


@given(arrays.arrays(np.bool_, (2, 17)), arrays.arrays(np.int64, 17, elements=st.integers(0, 4)))
def test_names_and_order_do_not_matter(correct: np.ndarray, classes: np.ndarray) -> None:
    order = np.random.default_rng(3).permutation(17)
    changed = measure_class_spread(~correct[:, order], 90 - 7 * classes[order])
    np.testing.assert_allclose(changed, measure_class_spread(correct, classes), rtol=0, atol=1e-12)
