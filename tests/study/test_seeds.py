"""Random streams are the same on every machine, and differ if their names do."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facespec.study.seeds import generator, integer_seed

labels = st.lists(st.one_of(st.text(max_size=4), st.integers(0, 9)), max_size=3).map(tuple)


def test_a_stream_is_the_same_on_every_machine() -> None:
    """PCG64 and SeedSequence are stable by numpy's promise; the numbers were computed once."""
    assert generator(7, "faces", 2).integers(0, 1000, 5).tolist() == [972, 871, 479, 110, 218]
    assert integer_seed(7, "faces", 2) == 5939367610958912695


@given(st.integers(0, 2**40), labels, labels)
def test_other_labels_name_other_streams(seed: int, first: tuple, second: tuple) -> None:
    equal = np.array_equal(generator(seed, *first).random(3), generator(seed, *second).random(3))
    assert equal == (first == second)
    assert 0 <= integer_seed(seed, *first) < 2**63


def test_labels_are_not_run_together() -> None:
    numbers = {integer_seed(1, *names) for names in [("ab",), ("a", "b"), ("a", "", "b"), ("1",), (1,), ()]}
    assert len(numbers) == 6
