"""How alike are the layers of two networks? Linear centred kernel alignment (CKA; Kornblith et al. 2019, ICML).

Two layers are alike if they find the same images alike: rotating, reflecting, shifting, or scaling all responses of a
layer changes nothing, but scaling single units does. Computed from units rather than from images x images kernels:
equal, and cheaper.

Plain CKA grows with the number of units per image, so that layers of different width cannot be compared. `compute_debiased_cka`
replaces each of its terms by an unbiased one (Song et al. 2012, JMLR 13:1393-1434; Nguyen et al. 2021, ICLR): 0 on
average for unrelated responses, and a little below zero at times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.study.errors import StudyError

Floats = npt.NDArray[np.float64]

LEAST = 4  # images: the unbiased estimator divides by n - 3
SPREAD = 1e-6  # of the largest response: spread below it is float32's rounding, not an answer


def compute_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA in [0, 1] of responses (n, units) and (n, other units) to the same images; NaN if one is constant."""
    return _aligned(first, second, _shared)


def compute_debiased_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA of responses (n, units) and (n, other units) by unbiased terms; NaN if one is constant."""
    return _aligned(first, second, _shared_unbiased)


def compare_layers(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], depths: Mapping[str, int]
) -> pd.DataFrame:
    """Both estimators for every layer of `depths`: columns layer, depth, n, estimator, cka, reason of SIMILARITY.

    `first` and `second` map layers to responses (n, units) of two networks to the same images. NaN and a `reason`
    where a layer answers all images alike. Raises `StudyError` if a network lacks the layer, or images do not pair up.
    """
    rows = []
    for layer, depth in depths.items():
        for responses in (first, second):
            if layer not in responses:
                raise StudyError(f"one network has no responses of layer {layer!r}; it has {list(responses)}.")
        for name, estimate in (("plain", compute_cka), ("debiased", compute_debiased_cka)):
            cka = estimate(first[layer], second[layer])
            reason = "a network answers all images alike" if np.isnan(cka) else ""
            rows.append(
                {
                    "layer": layer,
                    "depth": depth,
                    "n": len(first[layer]),
                    "estimator": name,
                    "cka": cka,
                    "reason": reason,
                }
            )
    return pd.DataFrame(rows)


def _aligned(first: np.ndarray, second: np.ndarray, shared: Callable[[Floats, Floats], float]) -> float:
    if len(first) != len(second) or len(first) < LEAST:
        raise StudyError(
            f"responses to {len(first)} and to {len(second)} images: similarity is between responses to the same "
            f"images, {LEAST} or more."
        )
    x, y = (np.asarray(responses, dtype=np.float64) for responses in (first, second))
    if any(np.abs(one - one.mean(axis=0)).max() <= SPREAD * np.abs(one).max() for one in (x, y)):
        return float("nan")
    x, y = (one - one.mean(axis=0) for one in (x, y))
    x, y = (one / np.linalg.norm(one) for one in (x, y))  # lest fourth powers of large or small responses overflow
    own = shared(x, x) * shared(y, y)
    return float(np.clip(shared(x, y) / np.sqrt(own), -1, 1)) if own > 0 else float("nan")


def _shared(x: Floats, y: Floats) -> float:
    """The Hilbert-Schmidt independence criterion of centred responses, times (n - 1)^2."""
    return float(((x.T @ y) ** 2).sum())


def _shared_unbiased(x: Floats, y: Floats) -> float:
    """The unbiased criterion (Song et al., their HSIC_1) of centred responses, times n (n - 3)."""
    n = len(x)
    rows_x, rows_y = (x**2).sum(axis=1), (y**2).sum(axis=1)
    correction = n / (n - 2) * (rows_x @ rows_y) - rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2))
    return _shared(x, y) - float(correction)
