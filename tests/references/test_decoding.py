"""Decoding against a reference: the multinomial objective written out, minimised by another optimiser."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from facespec.analyses.decoding import decode_classes
from facespec.study.seeds import generator


def decode_slowly(fit: np.ndarray, codes: np.ndarray, test: np.ndarray, penalty: float) -> np.ndarray:
    """argmax of softmax regression: minimise C * sum of -log p + |W|^2 / 2 (intercept free) on standardised units."""
    mean, sd = fit.mean(axis=0), fit.std(axis=0)
    x, y, k = (fit - mean) / sd, np.eye(codes.max() + 1)[codes], codes.max() + 1

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[:-k].reshape(-1, k), flat[-k:]
        scores = x @ w + b
        log_p = scores - logsumexp(scores, axis=1, keepdims=True)
        error = penalty * (np.exp(log_p) - y)
        return -penalty * (y * log_p).sum() + (w * w).sum() / 2, np.r_[(x.T @ error + w).ravel(), error.sum(axis=0)]

    best = minimize(
        loss, np.zeros(x.shape[1] * k + k), jac=True, method="BFGS", options={"gtol": 1e-6, "maxiter": 5000}
    )
    w, b = best.x[:-k].reshape(-1, k), best.x[-k:]
    return ((test - mean) / sd @ w + b).argmax(axis=1)


def test_decoding_is_penalised_softmax_regression() -> None:
    for penalty in (0.02, 1.0):
        random = generator(3, str(penalty))
        centres = random.normal(size=(4, 6)) * 3
        codes = random.permutation(np.repeat(np.arange(4), [40, 30, 20, 10]))
        fit = centres[codes] * [1, 20, 0.1, 1, 1, 1] + random.normal(size=(100, 6)) * 2
        test = random.normal(size=(300, 6)) * fit.std(axis=0) + fit.mean(axis=0)
        predicted = decode_classes(fit, codes, test, penalty=penalty, iterations=2000)
        assert (predicted == decode_slowly(fit, codes, test, penalty)).mean() > 0.99  # both stop at a tolerance
