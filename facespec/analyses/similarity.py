"""How similar are the layers of two networks? Linear centred kernel alignment (CKA; Kornblith et al. 2019, ICML).

Two layers are similar if the same pairs of images have similar responses in both: rotating, reflecting, shifting, or
scaling all responses of a layer changes nothing, but scaling single units does. Computed from units rather than from
images x images kernels: equal, and cheaper.

Plain CKA grows with the number of units per image, so that layers of different width cannot be compared.
`compute_debiased_cka` replaces each of its terms by an unbiased one (Song et al. 2012, JMLR 13:1393-1434; Nguyen et al.
2021, ICLR): 0 on average for unrelated responses, and a little below zero at times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.study.errors import StudyError

Floats = npt.NDArray[np.float64]

MIN_IMAGES = 4  # the unbiased estimator divides by n - 3
SPREAD = 1e-6  # of the largest response: spread below it is rounding of float32, not a response to the images


def compute_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Compute linear CKA of two sets of responses to the same images.

    Parameters
    ----------
    first, second : arrays of shape (n, n_units) and (n, n_other_units)
        Responses to the same n images, 4 or more, in the same order.

    Returns
    -------
    float
        CKA in [0, 1]; NaN if the responses of one set are equal for all images.

    Raises
    ------
    StudyError
        If the numbers of images differ, or there are fewer than 4.

    References
    ----------
    Kornblith, Norouzi, Lee & Hinton (2019). Similarity of neural network representations revisited. ICML.

    Examples
    --------
    >>> responses = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 3.0], [4.0, 2.0]])
    >>> round(compute_cka(responses, 10 - 2 * responses), 6)
    1.0
    """
    return _compute(first, second, _compute_hsic)


def compute_debiased_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Compute linear CKA from unbiased terms, so that layers of different width can be compared.

    Parameters
    ----------
    first, second : arrays of shape (n, n_units) and (n, n_other_units)
        Responses to the same n images, 4 or more, in the same order.

    Returns
    -------
    float
        CKA in [-1, 1], 0 on average for unrelated responses; NaN if the responses of one set are equal for all images.

    Raises
    ------
    StudyError
        If the numbers of images differ, or there are fewer than 4.

    References
    ----------
    Song, Smola, Gretton, Bedo & Borgwardt (2012). Feature selection via dependence maximization. JMLR 13:1393-1434.
    Nguyen, Raghu & Kornblith (2021). Do wide and deep networks learn the same things? ICLR.

    Examples
    --------
    >>> responses = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 3.0], [4.0, 2.0], [3.0, 3.0]])
    >>> round(compute_debiased_cka(responses, 10 - 2 * responses), 6)
    1.0
    """
    return _compute(first, second, _compute_unbiased_hsic)


def compare_layers(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], depths: Mapping[str, int]
) -> pd.DataFrame:
    """Compare two networks layer by layer, with both estimators.

    Parameters
    ----------
    first, second : mapping of str to array of shape (n, n_units)
        Responses of each network to the same n images, by layer.
    depths : mapping of str to int
        The layers to compare, and their depths; 1 is the shallowest.

    Returns
    -------
    DataFrame
        Columns layer, depth, n, estimator (``plain`` or ``debiased``), cka and reason of `study.tables.SIMILARITY`.
        NaN and a `reason` if a layer's responses are equal for all images.

    Raises
    ------
    StudyError
        If a network lacks a layer, or the numbers of images differ.

    Examples
    --------
    >>> responses = {"relu1": np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 3.0], [4.0, 2.0]])}
    >>> compare_layers(responses, responses, {"relu1": 1})[["layer", "estimator", "cka"]].round(6)
       layer estimator  cka
    0  relu1     plain  1.0
    1  relu1  debiased  1.0
    """
    rows = []
    for layer, depth in depths.items():
        for responses in (first, second):
            if layer not in responses:
                raise StudyError(f"one network has no responses of layer {layer!r}; it has {list(responses)}.")
        common = {"layer": layer, "depth": depth, "n": len(first[layer])}
        for name, estimate in (("plain", compute_cka), ("debiased", compute_debiased_cka)):
            cka = estimate(first[layer], second[layer])
            reason = "a network answers all images alike" if np.isnan(cka) else ""
            rows.append(common | {"estimator": name, "cka": cka, "reason": reason})
    return pd.DataFrame(rows)


def _compute(first: np.ndarray, second: np.ndarray, criterion: Callable[[Floats, Floats], float]) -> float:
    if len(first) != len(second) or len(first) < MIN_IMAGES:
        raise StudyError(
            f"responses to {len(first)} and to {len(second)} images: similarity is between responses to the same "
            f"images, {MIN_IMAGES} or more."
        )
    x, y = (np.asarray(responses, dtype=np.float64) for responses in (first, second))
    if any(np.abs(one - one.mean(axis=0)).max() <= SPREAD * np.abs(one).max() for one in (x, y)):
        return float("nan")
    x, y = (one - one.mean(axis=0) for one in (x, y))
    x, y = (one / np.linalg.norm(one) for one in (x, y))  # lest fourth powers of large or small responses overflow
    product = criterion(x, x) * criterion(y, y)
    return float(np.clip(criterion(x, y) / np.sqrt(product), -1, 1)) if product > 0 else float("nan")


def _compute_hsic(x: Floats, y: Floats) -> float:
    """The Hilbert-Schmidt independence criterion of centred responses, times (n - 1)^2."""
    return float(((x.T @ y) ** 2).sum())


def _compute_unbiased_hsic(x: Floats, y: Floats) -> float:
    """The unbiased criterion (Song et al., their HSIC_1) of centred responses, times n (n - 3)."""
    n = len(x)
    rows_x, rows_y = (x**2).sum(axis=1), (y**2).sum(axis=1)
    correction = n / (n - 2) * (rows_x @ rows_y) - rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2))
    return _compute_hsic(x, y) - float(correction)
