from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from facespec.study.threads import limit_threads


def count_threads() -> set[int]:
    np.ones((3, 3)) @ np.ones((3, 3))  # the library is loaded
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_threads_are_limited_and_restored_also_after_an_error() -> None:
    with threadpool_limits(3, user_api="blas"):
        with limit_threads():
            assert count_threads() == {1}
        assert count_threads() == {3}
        with pytest.raises(ZeroDivisionError), limit_threads(2):
            assert count_threads() == {2}
            1 / 0  # noqa: B018
        assert count_threads() == {3}
