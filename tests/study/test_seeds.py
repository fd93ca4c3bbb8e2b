from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facespec.study.seeds import generator, integer_seed

labels = st.lists(st.one_of(st.text(max_size=4), st.integers(0, 9)), max_size=3).map(tuple)


def test_a_stream_is_the_same_on_every_machine() -> None:
    """Constants computed once; PCG64 and SeedSequence are stable by numpy's promise."""
    assert generator(7, "faces", 2).integers(0, 1000, 5).tolist() == FACES
    assert integer_seed(7, "faces", 2) == NUMBER


@given(st.integers(0, 2**40), labels, labels)
def test_other_names_are_other_streams(seed: int, one: tuple, other: tuple) -> None:
    same = np.array_equal(generator(seed, *one).random(3), generator(seed, *other).random(3))
    assert same == (one == other)


def test_labels_cannot_run_together() -> None:
    numbers = {integer_seed(1, *names) for names in [("ab",), ("a", "b"), ("a", "", "b"), ("1",), (1,), ()]}
    assert len(numbers) == 6


@given(st.integers(0, 2**40))
def test_integer_seeds_suit_torch(seed: int) -> None:
    assert 0 <= integer_seed(seed, "x") < 2**63


FACES = [972, 871, 479, 110, 218]
NUMBER = 5939367610958912695
