from __future__ import annotations

import numpy as np
import pytest

from facespec.analyses.accuracy import mark_correct
from facespec.study.errors import StudyError


def test_an_answer_is_right_where_it_is_the_truth() -> None:
    right = mark_correct(np.array([0, 2, 2, 1, 6]), np.array([0, 2, 1, 1, 0]))
    assert right.tolist() == [True, True, False, True, False]
    assert right.dtype == np.bool_


def test_no_answer_is_no_error() -> None:
    assert mark_correct(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize(("given", "true"), [((3,), (4,)), ((3,), (1,)), ((3, 1), (3,))])
def test_answers_and_truth_pair_up(given: tuple[int, ...], true: tuple[int, ...]) -> None:
    """One true class for all answers would broadcast in silence."""
    with pytest.raises(StudyError) as caught:
        mark_correct(np.zeros(given, np.int64), np.zeros(true, np.int64))
    assert str(caught.value) == f"answers and truth must pair up, got {given} and {true}."
