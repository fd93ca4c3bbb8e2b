"""What can be read out of a network's responses? Multinomial logistic regression (Figures 1B and S1A)."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from facespec.study.errors import StudyError


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
    classes = np.unique(fit_codes)
    if len(classes) < 2:
        raise StudyError(
            f"a decoder needs at least 2 classes to tell apart, got {len(classes)} in {len(fit_codes)} images."
        )
    decoder = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=iterations))
    # float64: lbfgs stops on differences that float32 sums cannot resolve
    decoder.fit(fit_responses.astype(np.float64), fit_codes)
    return decoder.predict(test_responses.astype(np.float64))
