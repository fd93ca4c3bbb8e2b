"""What can be read out of a network's responses? Multinomial logistic regression (Figures 1B and S1A)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from facespec.study.errors import StudyError

Floats = npt.NDArray[np.float64]
NEVER = float(np.finfo(np.float32).min) / 2  # a finite logit below all others, also in the float32 of a network


def decode_classes(
    fit_responses: np.ndarray,
    fit_codes: np.ndarray,
    test_responses: np.ndarray,
    *,
    penalty: float,
    iterations: int,
) -> np.ndarray:
    """Fit a decoder to the responses to some images and predict the classes of others.

    Parameters
    ----------
    fit_responses : array of shape (n_fit, n_units)
        Responses to the images to which the decoder is fitted.
    fit_codes : integer array of shape (n_fit,)
        Their classes; 2 different ones or more.
    test_responses : array of shape (n_test, n_units)
        Responses to the images whose classes are predicted.
    penalty : float
        scikit-learn's C, the inverse strength of the L2 penalty; above 0.
    iterations : int
        Limit for lbfgs; a fit that has not converged by then warns (`ConvergenceWarning`).

    Returns
    -------
    integer array of shape (n_test,)
        Predicted classes.

    Raises
    ------
    StudyError
        If there are fewer than 2 classes.

    Notes
    -----
    Where we deviate [O]: units are scaled to unit variance over the fitting images, because networks differ in the
    scale of their responses and the penalty is on that scale. The study says only that scikit-learn was used.

    Examples
    --------
    >>> responses = np.array([[0.0], [1.0], [4.0], [5.0]])
    >>> decode_classes(responses, np.array([0, 0, 1, 1]), np.array([[0.5], [9.0]]), penalty=1.0, iterations=100)
    array([0, 1])
    """
    decoder = _fit_decoder(fit_responses, fit_codes, penalty=penalty, iterations=iterations)
    return decoder.predict(test_responses.astype(np.float64))


def fit_linear_head(
    responses: np.ndarray, codes: np.ndarray, *, classes: int, penalty: float, iterations: int
) -> tuple[Floats, Floats]:
    """Fit the decoder of `decode_classes` and write it as a linear head of a network.

    Parameters
    ----------
    responses : array of shape (n, n_units)
        Responses to the images to which the head is fitted.
    codes : integer array of shape (n,)
        Their classes, from 0; 2 different ones or more.
    classes : int
        Number of classes of the head.
    penalty, iterations
        As in `decode_classes`.

    Returns
    -------
    weight : float64 array of shape (classes, n_units)
    bias : float64 array of shape (classes,)
        Logits are ``responses @ weight.T + bias``: the scaling of units is part of the weights and the bias. A class
        without an image has weights of 0, and a bias so low that it is never the largest logit.

    Raises
    ------
    StudyError
        If there are fewer than 2 classes.

    Examples
    --------
    >>> responses = np.array([[0.0], [1.0], [4.0], [5.0]])
    >>> weight, bias = fit_linear_head(responses, np.array([0, 0, 2, 2]), classes=3, penalty=1.0, iterations=100)
    >>> (np.array([[0.5], [9.0]]) @ weight.T + bias).argmax(axis=1)
    array([0, 2])
    """
    scaler, regression = _fit_decoder(responses, codes, penalty=penalty, iterations=iterations)
    coefficients, intercepts = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn keeps one row, for the difference of the two logits
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight, bias = np.zeros((classes, responses.shape[1])), np.full(classes, NEVER)
    weight[regression.classes_] = coefficients / scaler.scale_
    bias[regression.classes_] = intercepts - coefficients @ (scaler.mean_ / scaler.scale_)
    return weight, bias


def _fit_decoder(responses: np.ndarray, codes: np.ndarray, *, penalty: float, iterations: int) -> Pipeline:
    classes = np.unique(codes)
    if len(classes) < 2:
        raise StudyError(
            f"a decoder needs at least 2 classes to tell apart, got {len(classes)} in {len(codes)} images."
        )
    decoder = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=iterations))
    # float64: lbfgs stops on differences that float32 sums cannot resolve
    return decoder.fit(responses.astype(np.float64), codes)
