"""What the tests of stages share: tiny studies that are made once and read by many tests, and their parameters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from facespec.study.params import Params, read_params
from facespec.study.paths import Paths


@pytest.fixture(scope="session")
def params(tiny_study: Path) -> Params:
    """The parameters of the tiny study, and so of all the others."""
    return read_params(tiny_study / "params.yaml")


@pytest.fixture(scope="session")
def fitted(explained_study: Path) -> Paths:
    """The tiny study with its fine-tuned networks and their heatmaps; not to be written into (see `explained`)."""
    return Paths(explained_study)


@pytest.fixture(scope="session")
def analysed(analysed_study: Path) -> Paths:
    """The tiny study with the output of every stage up to `export`; not to be written into."""
    return Paths(analysed_study)


@pytest.fixture
def analysed_copy(analysed: Paths, tmp_path: Path) -> Paths:
    """A copy of that study for one test."""
    shutil.copytree(analysed.root, tmp_path / "analysed")
    return Paths(tmp_path / "analysed")
