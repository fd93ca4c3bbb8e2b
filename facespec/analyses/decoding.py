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
    """Classes that a decoder fitted on some images reads from the responses to others.

    `fit_responses` is ``(n_fit, n_units)``, `fit_codes` ``(n_fit,)`` integer classes, `test_responses`
    ``(n_test, n_units)``; returns ``(n_test,)`` classes. `penalty` is scikit-learn's C (inverse strength of the L2
    penalty), `iterations` bounds lbfgs; a fit that has not converged by then says so with a `ConvergenceWarning`.

    Where we deviate [O]: units are scaled to unit variance over the fitting images, because networks differ in the
    scale of their responses and the penalty does not know it. The study says only that scikit-learn was used.
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
