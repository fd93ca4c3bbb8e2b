"""Accuracies planted so that the verdicts on the claims are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest

from facespec.checks.claims import judge_accuracy_claims
from facespec.study.seeds import generator

Key = tuple[str, str, str]  # figure, trained_on, tested_on
N, RESAMPLES, SEEDS = 150, 101, (4, 2)
CHANCE = {"expression": 1 / 7, "identity": 1 / 70}
# one success rate per cell, all differences of their own; every claim holds by far
RATES: dict[Key, float] = {
    ("1B", "expression", "expression"): 0.70,
    ("1B", "identity", "expression"): 0.26,
    ("1B", "identity", "identity"): 0.90,
    ("1B", "expression", "identity"): 0.54,
    ("1C", "expression", "expression"): 0.60,
    ("1C", "joint", "expression"): 0.72,
    ("1C", "identity", "identity"): 0.80,
    ("1C", "joint", "identity"): 0.96,
    ("S1B", "expression", "expression"): 0.40,
    ("S1B", "joint", "expression"): 0.58,
    ("S1B", "identity", "identity"): 0.30,
    ("S1B", "joint", "identity"): 0.50,
}


def _rows(key: Key, accuracy: np.ndarray, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """`accuracy` is (n_seeds, 1 + n_resamples), the first column on the test images themselves."""
    figure, trained_on, tested_on = key
    width = accuracy.shape[1]
    return pd.DataFrame(
        {
            "figure": figure,
            "trained_on": trained_on,
            "tested_on": tested_on,
            "role": tested_on if figure == "S1B" else "probe",
            "source": "FER2013",
            "seed": np.repeat(seeds, width),
            "resample": np.tile(np.arange(-1, width - 1), len(seeds)),
            "n": N,
            "chance": CHANCE[tested_on],
            "accuracy": accuracy.ravel(),
        }
    )


def _bootstrapped(correct: np.ndarray, *, resamples: int = RESAMPLES, stream: str = "shared") -> np.ndarray:
    """(n_seeds, n) answers -> (n_seeds, 1 + resamples): the same images for every seed and every call of a stream."""
    n = correct.shape[1]
    images = generator(9, stream).integers(n, size=(resamples, n))
    return np.column_stack([correct.mean(axis=1), correct[:, images].mean(axis=2)])


def _answers(rate: float, seeds: int = 2, n: int = N) -> np.ndarray:
    """Exactly `rate` of the images right, the lowest-numbered ones, shifted a little from seed to seed."""
    return np.stack([np.roll(np.arange(n) < round(rate * n), 3 * seed) for seed in range(seeds)])


def _planted(rates: Mapping[Key, float] | None = None, *, seeds: tuple[int, ...] = SEEDS, n: int = N) -> pd.DataFrame:
    cells = RATES | dict(rates or {})
    tables = [_rows(key, _bootstrapped(_answers(rate, len(seeds), n)), seeds) for key, rate in cells.items()]
    return pd.concat(tables, ignore_index=True)


def _judge(
    table: pd.DataFrame, *, level: float = 0.95, margin: float = 0.02, draws: int = 400, seed: int = 1
) -> pd.DataFrame:
    found = judge_accuracy_claims(table, level=level, margin=margin, draws=draws, generator=generator(seed, "claims"))
    return found.set_index(["claim", "part"], drop=False)


@pytest.fixture(scope="session")
def rows() -> Callable[..., pd.DataFrame]:
    """(key, accuracy (n_seeds, 1 + n_resamples), seeds) -> the accuracy table of one cell."""
    return _rows


@pytest.fixture(scope="session")
def bootstrapped() -> Callable[..., np.ndarray]:
    """(answers (n_seeds, n), resamples, stream) -> accuracies (n_seeds, 1 + resamples)."""
    return _bootstrapped


@pytest.fixture(scope="session")
def answers() -> Callable[..., np.ndarray]:
    """(rate, seeds, n) -> answers (n_seeds, n), of which a share of `rate` is right."""
    return _answers


@pytest.fixture(scope="session")
def planted() -> Callable[..., pd.DataFrame]:
    """(rates by cell, seeds, n) -> the accuracy table of all cells; every claim holds where no rate is given."""
    return _planted


@pytest.fixture(scope="session")
def judge() -> Callable[..., pd.DataFrame]:
    """(table, level, margin, draws, seed) -> the verdicts, by claim and part."""
    return _judge


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    """Planted accuracies with one close call, the joint network on expression in Figure S1B; not to be written to."""
    return _planted({("S1B", "joint", "expression"): 0.45})
