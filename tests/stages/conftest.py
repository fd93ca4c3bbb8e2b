"""What the tests of stages share: tiny studies that are made once and read by many tests, and their parameters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from facespec.stages import finetune, train, untrained
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.vocabulary import NETWORKS
from toys import FitNetworks


@pytest.fixture(scope="session")
def params(tiny_study: Path) -> Params:
    """The parameters of the tiny study, and so of all the others."""
    return read_params(tiny_study / "params.yaml")


@pytest.fixture(scope="session")
def fit_networks() -> FitNetworks:
    """Make all checkpoints, as the pipeline does."""

    def fit(paths: Paths, params: Params) -> None:
        for seed in params.seeds:
            for network in NETWORKS:
                train.run(paths, params, network=network, seed=seed, device="cpu")
                finetune.run(paths, params, network=network, seed=seed, device="cpu")
            untrained.run(paths, params, seed=seed, device="cpu")

    return fit


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
