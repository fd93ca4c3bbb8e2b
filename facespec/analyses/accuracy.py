"""How often is a network right? Top-1 accuracy of its heads (Figures 1C and S1B)."""

from __future__ import annotations

import numpy as np

from facespec.study.errors import StudyError


def mark_correct(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Whether each prediction is right: two ``(n,)`` arrays of class codes in, ``(n,)`` bool out."""
    if predicted.shape != true.shape:
        raise StudyError(f"answers and truth must pair up, got {predicted.shape} and {true.shape}.")
    return predicted == true
