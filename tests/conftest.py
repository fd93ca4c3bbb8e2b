"""What every test may rely on: no window, no open figure, no disturbed random state, the published files if any."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from facespec.study.code_path import choose_code_path

choose_code_path()

import matplotlib
import rich.console  # noqa: F401  (draws from `random` when first imported)

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from facespec.models.device import deterministic_torch
from facespec.stages import (
    accuracy,
    battery,
    calibrate,
    checks,
    contrasts,
    data,
    decoding,
    depth,
    export,
    finetune,
    groundtruth,
    heatmaps,
    init,
    lesions,
    overlap,
    preferred,
    regions,
    train,
    untrained,
)
from facespec.study.artefacts import digest_file, read_document, write_document
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.storage import encode_table
from facespec.study.tables import LABELS
from facespec.study.vocabulary import NETWORKS
from toys import TINY, Analyse

# how long an example takes says something about the machine, and nothing about the code
settings.register_profile("facespec", deadline=None, max_examples=30)
settings.register_profile("fast", deadline=None, max_examples=15)  # of `make test-fast`
settings.load_profile("facespec")

PROJECT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)  # tests run side by side; threads of one would wait for those of the other


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Parallel workers take whole files (--dist=loadfile); those that take longest go first, so that all end together.

    While one worker waits for the quick study, the others do what needs no pipeline of DVC.
    """
    early = ("test_pipeline", "test_notebooks", "test_cli", "stages/", "test_main", "test_benchmarks", "test_damage")
    early += ("references/", "checks/", "figures/")
    items.sort(key=lambda item: next((i for i, name in enumerate(early) if name in item.path.as_posix()), len(early)))


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


@pytest.fixture
def legible() -> Callable[[Any], None]:
    """Fail where a text of a figure lies on another, or leaves the page."""

    def check(figure: Any) -> None:
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
        for index, (text, box) in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, f"{text!r} leaves the page"
            assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, f"{text!r} leaves the page"
            for other_text, other in boxes[:index]:
                apart = box.x0 >= other.x1 or other.x0 >= box.x1 or box.y0 >= other.y1 or other.y0 >= box.y1
                assert apart, f"{text!r} lies on {other_text!r}"
        assert boxes

    return check


def _texts(figure: Any) -> list[Any]:
    """All that is written on a page and seen."""
    found: list[Any] = []
    for part in (figure, *figure.subfigs):
        for inner in (part, *part.subfigs):
            found += [*inner.texts, *(text for own in inner.legends for text in (*own.get_texts(), own.get_title()))]
            found += [text for text in (inner._suptitle, inner._supxlabel) if text]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [tick.label2 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    unique = {id(text): text for text in found if text.get_visible() and text.get_text().strip()}
    return list(unique.values())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More would wait for each other longer than toys take."""
    with deterministic_torch():
        yield


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's top directory."""
    return PROJECT


@pytest.fixture(scope="session")
def load_script(project: Path) -> Callable[[str], ModuleType]:
    """Load a program of the project that is no part of the package, by its path there."""

    def load(name: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(Path(name).stem, project / name)
        assert specification and specification.loader
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def living() -> Callable[[str], list[int]]:
    """The processes, this one aside, whose environment holds an assignment such as ``NAME=value``; Linux alone."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("this system does not show the environments of processes in /proc")

    def find(assignment: str) -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile, or another user's; the environment of a zombie is empty
                words = (place / "environ").read_bytes().split(b"\0")
                if assignment.encode() in words and int(place.name) != os.getpid():
                    found.append(int(place.name))
        return found

    return find


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Wait until a condition holds; a busy machine may take its time, so the limit is generous."""

    def wait(holds: Callable[[], object], *, what: str = "", seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"did not come within {seconds} s: {what or holds}"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def published() -> Path:
    """The directory of the study's published pickles; the test is skipped where they are not at hand."""
    given = os.environ.get("FACESPEC_PUBLISHED")
    if not given or not Path(given).is_dir():
        pytest.skip("the published pickles are not here: set FACESPEC_PUBLISHED to the directory that holds them")
    return Path(given)


Make = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make a directory by a name once, whichever of the parallel workers asks first; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], object]) -> Path:
        directory, made = shared / name / "study", shared / f"{name}.made"
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(directory, ignore_errors=True)
                make(directory)
                made.touch()
        return directory

    return once


@pytest.fixture(scope="session")
def tiny_study(make_once: Make) -> Path:
    """A study directory with faces and the smallest of everything; a test that writes into it works on a copy."""

    def make(directory: Path) -> None:
        params = init.run(directory, settings=TINY)
        data.build(Paths(directory), params.data, sources={}, workers=1)

    return make_once("tiny", make)


@pytest.fixture
def study_copy(tiny_study: Path, tmp_path: Path) -> Paths:
    """A copy of the tiny study for one test."""
    shutil.copytree(tiny_study, tmp_path / "study")
    return Paths(tmp_path / "study")


Relabel = Callable[[Path, Callable[[pd.DataFrame], pd.DataFrame]], None]


@pytest.fixture(scope="session")
def relabel() -> Relabel:
    """Change the labels of a FaceSet or a MapSet as if they had been written so: with a right digest."""

    def relabel(directory: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        (head,) = directory.glob("*.json")
        labels, content = directory / "labels.csv", read_document(head, remedy="")
        changed = change(before := LABELS.parse(labels.read_bytes(), labels))
        assert not changed.equals(before)
        labels.write_bytes(encode_table(changed))
        write_document(head, content | {"digests": content["digests"] | {labels.name: digest_file(labels)}})

    return relabel


@pytest.fixture(scope="session")
def explained_study(tiny_study: Path, make_once: Make) -> Path:
    """Two seeds of every network, fine-tuned, with their heatmaps; a test that writes into it works on a copy."""

    def make(directory: Path) -> None:
        shutil.copytree(tiny_study, directory)
        paths, params = Paths(directory), read_params(directory / "params.yaml")
        for network in NETWORKS:
            for seed in params.seeds:
                train.run(paths, params, network=network, seed=seed, device="cpu")
                finetune.run(paths, params, network=network, seed=seed, device="cpu")
        for seed in params.seeds:
            untrained.run(paths, params, seed=seed, device="cpu")
        heatmaps.run(paths, params, device="cpu")

    return make_once("explained", make)


def run_analyses(paths: Paths, params: Params) -> None:
    """Run every stage from `decoding` to `export`, but `heatmaps`."""
    for network_stage in (decoding, accuracy, depth, preferred):
        network_stage.run(paths, params, device="cpu")
    for table_stage in (overlap, contrasts, regions):
        table_stage.run(paths, params)
    groundtruth.run(paths, params, workers=1)
    calibrate.run(paths, params, device="cpu", workers=1)
    battery.run(paths, params, device="cpu", workers=1)
    lesions.run(paths, params, device="cpu", workers=1)
    checks.run(paths, params)
    export.run(paths)


@pytest.fixture(scope="session")
def analyse() -> Analyse:
    """Make all tables, as the pipeline does."""
    return run_analyses


@pytest.fixture(scope="session")
def analysed_study(explained_study: Path, make_once: Make) -> Path:
    """That study with everything that is computed from its networks; a test that writes into it works on a copy."""

    def make(directory: Path) -> None:
        shutil.copytree(explained_study, directory)
        paths, params = Paths(directory), read_params(directory / "params.yaml")
        run_analyses(paths, params)

    return make_once("analysed", make)


@pytest.fixture
def explained(explained_study: Path, tmp_path: Path) -> Paths:
    """A copy of that study for one test."""
    shutil.copytree(explained_study, tmp_path / "explained")
    return Paths(tmp_path / "explained")
