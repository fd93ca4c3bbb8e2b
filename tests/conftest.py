"""What every test may rely on: no window, no open figure, no disturbed random state, the published files if any."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import rich.console  # noqa: F401  (draws from `random` when first imported)

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _clean_world() -> Iterator[None]:
    """Close figures; restore the global random states, which no code of ours may touch, and fail if one moved."""
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    yield
    plt.close("all")
    moved = []
    if random.getstate() != before[0]:
        moved.append("random")
    if not np.array_equal(np.random.get_state()[1], before[1]):
        moved.append("numpy.random")
    if not torch.equal(torch.get_rng_state(), before[2]):
        moved.append("torch")
        torch.set_rng_state(before[2])
    # hypothesis seeds `random` and numpy around its examples and restores them itself
    assert not moved, f"global random state moved: {moved}"


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's top directory."""
    return PROJECT


@pytest.fixture(scope="session")
def published() -> Path:
    """The directory of the study's published pickles; the test is skipped where they are not at hand."""
    given = os.environ.get("FACESPEC_PUBLISHED")
    directory = Path(given) if given else PROJECT.parent / "shared" / "published"
    if not directory.is_dir():
        pytest.skip("the published pickles are not here: set FACESPEC_PUBLISHED to the directory that holds them")
    return directory
