from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from facespec.analyses.lesion_classes import measure_class_spread, tabulate_recalls

CLASSES = np.array([4, 0, 4, 2, 2, 4, 0, 2, 2])


def rows(*told: str) -> np.ndarray:
    return np.array([[letter == "1" for letter in row] for row in told])


def test_recall_by_hand() -> None:
    table = tabulate_recalls(rows("110001110", "000000000"), CLASSES)
    assert table.to_dict("list") == {
        "lesion": [0, 0, 0, 1, 1, 1],
        "class": [0, 2, 4] * 2,
        "n": [2, 4, 3] * 2,
        "recall": [1.0, 1 / 4, 2 / 3, 0.0, 0.0, 0.0],
    }


def test_classes_kept_or_lost_whole() -> None:
    """All variance lies between classes."""
    kept = np.stack([CLASSES == 2, CLASSES != 0])
    np.testing.assert_allclose(measure_class_spread(kept, CLASSES), 1, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    """Two classes of four, recalls 3/4 and 1/4: between 1/2, within 3/2 with 6 degrees of freedom, total 2."""
    found = measure_class_spread(rows("11101000"), np.repeat([0, 1], 4))
    np.testing.assert_allclose(found, (0.5 - 1.5 / 6) / 2, rtol=0, atol=1e-12)


def test_all_classes_alike_are_less_than_chance_would_give() -> None:
    found = measure_class_spread(rows("10011001"), np.repeat([0, 1], 4))
    np.testing.assert_allclose(found, -(2 / 6) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("told", "classes"), [("1111", [0, 0, 1, 1]), ("0000", [0, 0, 1, 1]), ("1001", [0, 1, 2, 3]), ("1001", [3] * 4)]
)
def test_nothing_to_explain_or_nothing_within(told: str, classes: list[int]) -> None:
    assert np.isnan(measure_class_spread(rows(told), np.array(classes))).all()


@given(arrays.arrays(np.bool_, (3, 23)), arrays.arrays(np.int64, 23, elements=st.integers(0, 3)))
def test_against_the_f_of_scipy(right: np.ndarray, classes: np.ndarray) -> None:
    """Epsilon squared is (F - 1) (k - 1) / (F (k - 1) + n - k)."""
    groups = np.unique(classes)
    for own, found in zip(right, measure_class_spread(right, classes), strict=True):
        parts = [own[classes == group].astype(float) for group in groups]
        if len(groups) == 1 or own.all() or not own.any():
            assert np.isnan(found)
        elif all(part.all() or not part.any() for part in parts):
            np.testing.assert_allclose(found, 1, rtol=0, atol=1e-12)
        else:
            f, k, n = stats.f_oneway(*parts).statistic, len(groups), len(own)
            np.testing.assert_allclose(found, (f - 1) * (k - 1) / (f * (k - 1) + n - k), rtol=1e-9, atol=1e-12)


def test_chance_gives_none_on_average() -> None:
    """Unlike the plain share, which would be 69 / 489 with 70 classes of 7 images."""
    right = np.random.default_rng(5).random((2000, 490)) < 0.4
    found = measure_class_spread(right, np.repeat(np.arange(70), 7))
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean()) < 4 * error < 0.01


@given(arrays.arrays(np.bool_, (2, 17)), arrays.arrays(np.int64, 17, elements=st.integers(0, 4)))
def test_names_and_order_do_not_matter(right: np.ndarray, classes: np.ndarray) -> None:
    order = np.random.default_rng(3).permutation(17)
    found = measure_class_spread(right, classes)
    np.testing.assert_allclose(
        measure_class_spread(~right[:, order], 90 - 7 * classes[order]), found, rtol=0, atol=1e-12
    )
