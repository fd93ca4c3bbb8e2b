"""How many threads does linear algebra use? Other numbers of threads add floats in another order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def limit_threads(threads: int = 1) -> Iterator[None]:
    """Inside the context, numpy, scipy and scikit-learn use `threads` threads for linear algebra; restored at the end.

    For what computes without torch; `models.device.deterministic_torch` does the same, and sets torch as well.

    Examples
    --------
    >>> import numpy
    >>> from threadpoolctl import threadpool_info
    >>> with limit_threads():
    ...     {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
    {1}
    """
    with threadpool_limits(threads, user_api="blas"):
        yield
