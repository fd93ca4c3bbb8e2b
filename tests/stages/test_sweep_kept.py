"""A sweep that is killed goes on where it stopped, and with nothing that is not its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.analyses.lesions import LabelledImages
from facespec.models.device import deterministic_torch
from facespec.stages import sweep as sweeping
from facespec.stages.sweep import remove_kept_jobs, run_sweep
from facespec.stages.sweep_jobs import Subject, Sweep
from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.params import Lesions
from facespec.study.pickles import write_pickle

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = Lesions(
    group_p=0.2, greedy_p=0.4, images=20, mode="exact", fractions=[0.2, 0.5], random=4, shuffled=2, draws=100, seed=3
)
RANKINGS = 2 * 2 * (2 + 2 * 2)  # in 2 networks, 2 layers: by 2 tasks, and 2 draws of 2 mixtures
JOBS = 2 * 2 * (2 + 2 + 1)


class Small(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.low, self.flat, self.high = nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 15, 5)
            self.relu, self.shape, self.colour = nn.ReLU(), nn.Linear(5, 3), nn.Linear(5, 2)
        draw = torch.Generator().manual_seed(seed)
        self.to_empty(device="cpu")
        self.load_state_dict({name: torch.randn(own.shape, generator=draw) for name, own in self.state_dict().items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        shown = self.relu(self.high(self.flat(self.low(images))))
        return {"shape": self.shape(shown), "colour": self.colour(shown)}


def trials(n: int, *, seed: int) -> LabelledImages:
    draw = np.random.default_rng(seed)
    images = torch.from_numpy(draw.normal(size=(n, 1, 7, 5)).astype(np.float32))
    return LabelledImages(lambda rows: images[rows], {"shape": np.arange(n) % 3, "colour": np.arange(n) % 2})


@pytest.fixture(scope="module")
def little() -> Sweep:
    train, test = trials(30, seed=1), trials(42, seed=2)
    subjects = [Subject(Small(seed), seed, {"low": 1, "high": 2}, train, test, f"digest {seed}") for seed in (5, 8)]
    return Sweep("joint", "noise", subjects, pd.Series(np.repeat(list("gbadcfe"), 6)), PLAN)


@pytest.fixture(scope="module")
def found(little: Sweep) -> dict[str, pd.DataFrame]:
    with deterministic_torch():
        return run_sweep(little, workers=1, report=lambda: None)


class Counted:
    """How often units were ranked; the first `until` times without delay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, until: int = 1000) -> None:
        self.calls, self.lock, original = 0, threading.Lock(), sweeping.rank_units

        def counted(*args: Any, **options: Any) -> pd.DataFrame:
            with self.lock:
                self.calls += 1
            if self.calls > until:
                time.sleep(0.05)
            return original(*args, **options)

        monkeypatch.setattr(sweeping, "rank_units", counted)


def same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    assert list(one) == list(other)
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, other[name], check_exact=True)


def test_a_sweep_goes_on_where_it_stopped(
    little: Sweep, found: dict[str, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = replace(little, kept=tmp_path / "kept")
    before = Counted(monkeypatch, until=4)  # then slower than it takes to stop
    done: list[int] = []

    def report() -> None:
        done.append(1)
        if len(done) == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_sweep(kept, workers=1, report=report)
    assert 3 <= len(list(kept.jobs_directory.iterdir())) < JOBS  # what was running has ended
    monkeypatch.undo()
    after, reported = Counted(monkeypatch), []
    same(run_sweep(kept, workers=2, report=lambda: reported.append(1)), found)
    assert before.calls >= 4 and after.calls > 0 and before.calls + after.calls == RANKINGS
    assert len(reported) == JOBS == len(list(kept.jobs_directory.iterdir()))
    monkeypatch.undo()
    again = Counted(monkeypatch)
    same(run_sweep(kept, workers=1, report=lambda: None), found)
    assert again.calls == 0


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def replace_by_a_pickle(file: Path) -> None:
    """As an earlier version of the program kept results."""
    write_pickle(file, {"begun": "long ago", "result": {"units": 5}})


def replace_by_another(file: Path) -> None:
    """That of another job: whole, but not begun alike."""
    others = [other for other in sorted(file.parent.iterdir()) if other.read_bytes() != file.read_bytes()]
    file.write_bytes(others[0].read_bytes())


def rewrite(file: Path) -> None:
    """As if another version of the program had kept something else."""
    write_arrays(file, {"begun": "long ago", "units": 5}, {})


def make_unreadable(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


@pytest.mark.parametrize(
    "harm", [damage, flip_a_bit, replace_by_a_pickle, replace_by_another, rewrite, make_unreadable, Path.unlink]
)
def test_what_is_not_ones_own_is_done_again(
    little: Sweep,
    found: dict[str, pd.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
) -> None:
    kept = replace(little, kept=tmp_path)
    run_sweep(kept, workers=1, report=lambda: None)
    ranked = [file for file in sorted(tmp_path.iterdir()) if read_arrays(file, remedy="")[0]["rankings"] == 1]
    assert len(ranked) == 8
    for file in ranked[:3]:
        harm(file)
    counted = Counted(monkeypatch)
    same(run_sweep(kept, workers=1, report=lambda: None), found)
    assert counted.calls == 3


def test_results_of_another_plan_network_or_program_are_not_used(
    little: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(little, subjects=[replace(little.subjects[0], layers={"high": 2})], kept=tmp_path)
    run_sweep(one, workers=1, report=lambda: None)
    other = replace(one, plan=PLAN.model_copy(update={"seed": 4}))
    renewed = replace(one, subjects=[replace(one.subjects[0], digest="other weights")])
    counted = Counted(monkeypatch)
    for changed in (other, renewed, one):  # each in the place of the one before
        counted.calls = 0
        tables = run_sweep(changed, workers=1, report=lambda: None)
        assert counted.calls == RANKINGS // 4
        same(tables, run_sweep(replace(changed, kept=None), workers=1, report=lambda: None))
    monkeypatch.setattr(sweeping, "package_digest", lambda: "another version")
    counted.calls = 0
    run_sweep(one, workers=1, report=lambda: None)
    assert counted.calls == RANKINGS // 4


def test_only_kept_jobs_are_removed_and_their_directory_if_nothing_else_is_in_it(
    little: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "kept"
    kept = replace(little, kept=directory)
    run_sweep(kept, workers=1, report=lambda: None)
    (job, *_) = sorted(directory.iterdir())
    (directory / f".{job.name}.x1_y2z3w.partial").write_bytes(b"of a run that was killed while it wrote")
    foreign = {
        "notes.txt",
        "0123456789abcdef",
        "0123456789ABCDEF" + job.suffix,
        "12" + job.name,
        f".{job.name}.partial",
        "photos" + job.suffix,
    }
    for name in foreign:
        (directory / name).write_text("mine")
    (directory / ("f" * 16 + job.suffix)).mkdir()
    remove_kept_jobs(directory)
    assert {path.name for path in directory.iterdir()} == foreign | {"f" * 16 + job.suffix}
    for path in directory.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    job.write_bytes(b"")
    remove_kept_jobs(directory)
    assert not directory.exists()
    remove_kept_jobs(directory)  # a sweep without jobs has none


def test_jobs_are_removed_behind_a_link_which_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / f"{0:016x}{sweeping.SUFFIX}").touch()
    (tmp_path / "kept").symlink_to("disk")
    remove_kept_jobs(tmp_path / "kept")
    assert (tmp_path / "kept").is_symlink() and not any((tmp_path / "disk").iterdir())


class Named(nn.Module):
    """Layers and tasks of any name."""

    def __init__(self, layers: list[str], tasks: list[str]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in layers})
            self.heads = nn.ModuleDict({name: nn.Linear(4, 3) for name in tasks})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers.values():
            images = torch.relu(layer(images))
        return {name: head(images) for name, head in self.heads.items()}


def test_layers_and_tasks_with_hyphens_are_not_confused(tmp_path: Path) -> None:
    """Joined by hyphens, the first layer ranked by the second task reads as the second ranked by the first."""
    layers, tasks = ["x", "x-ranked-0-y"], ["t", "y-ranked-0-t"]
    images = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    given = LabelledImages(lambda rows: images[rows], {tasks[0]: np.arange(12) % 3, tasks[1]: np.arange(12) % 2})
    depths = {f"layers.{name}": depth for depth, name in enumerate(layers, start=1)}
    subject = Subject(Named(layers, tasks).eval(), 0, depths, given, given, "digest")
    one = Sweep("named", "noise", [subject], pd.Series(range(12)), PLAN, tmp_path / "kept")
    tables = run_sweep(one, workers=1, report=lambda: None)
    assert len(list((tmp_path / "kept").iterdir())) == len(one.jobs()) == 2 * (2 + 2 + 1)
    same(tables, run_sweep(replace(one, kept=None), workers=1, report=lambda: None))
