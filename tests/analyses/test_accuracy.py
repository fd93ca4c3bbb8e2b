"""A prediction is correct if it equals the true class."""

from __future__ import annotations

import re

import numpy as np
import pytest

from facespec.analyses.accuracy import mark_correct
from facespec.study.errors import StudyError


def test_a_prediction_is_correct_if_it_equals_the_true_class() -> None:
    correct = mark_correct(np.array([0, 2, 2, 1, 6]), np.array([0, 2, 1, 1, 0]))
    assert correct.tolist() == [True, True, False, True, False] and correct.dtype == np.bool_
    assert mark_correct(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize(("predicted", "true"), [((3,), (4,)), ((3,), (1,)), ((3, 1), (3,))])
def test_other_shapes_are_refused(predicted: tuple[int, ...], true: tuple[int, ...]) -> None:
    """One true class for all predictions would broadcast silently."""
    with pytest.raises(StudyError, match=re.escape(f"got {predicted} and {true}")):
        mark_correct(np.zeros(predicted, np.int64), np.zeros(true, np.int64))
