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

from facespec.analyses.lesions import Trials
from facespec.models.device import deterministic
from facespec.stages import sweep as sweeping
from facespec.stages.sweep import swept
from facespec.stages.sweep_jobs import Subject, Sweep
from facespec.study.params import Lesions
from facespec.study.storage import read_pickle, write_pickle

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = Lesions(group_p=0.2, greedy_p=0.4, images=20, mode="exact", fractions=[0.2, 0.5], random=4, shuffled=2,
               draws=100, seed=3)  # fmt: skip
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


def trials(n: int, *, seed: int) -> Trials:
    draw = np.random.default_rng(seed)
    images = torch.from_numpy(draw.normal(size=(n, 1, 7, 5)).astype(np.float32))
    return Trials(lambda rows: images[rows], {"shape": np.arange(n) % 3, "colour": np.arange(n) % 2})


@pytest.fixture(scope="module")
def little() -> Sweep:
    train, test = trials(30, seed=1), trials(42, seed=2)
    subjects = [Subject(Small(seed), seed, {"low": 1, "high": 2}, train, test, f"digest {seed}") for seed in (5, 8)]
    return Sweep("joint", "noise", subjects, pd.Series(np.repeat(list("gbadcfe"), 6)), PLAN)


@pytest.fixture(scope="module")
def found(little: Sweep) -> dict[str, pd.DataFrame]:
    with deterministic():
        return swept(little, workers=1, report=lambda: None)


class Counted:
    """How often units were ranked; the first `until` times without delay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, until: int = 1000) -> None:
        self.calls, self.lock, original = 0, threading.Lock(), sweeping.ranking

        def counted(*args: Any, **options: Any) -> pd.DataFrame:
            with self.lock:
                self.calls += 1
            if self.calls > until:
                time.sleep(0.05)
            return original(*args, **options)

        monkeypatch.setattr(sweeping, "ranking", counted)


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
        swept(kept, workers=1, report=report)
    assert 3 <= len(list(kept.kept.iterdir())) < JOBS  # what was running has ended
    monkeypatch.undo()
    after, reported = Counted(monkeypatch), []
    same(swept(kept, workers=2, report=lambda: reported.append(1)), found)
    assert before.calls >= 4 and after.calls > 0 and before.calls + after.calls == RANKINGS
    assert len(reported) == JOBS == len(list(kept.kept.iterdir()))
    monkeypatch.undo()
    again = Counted(monkeypatch)
    same(swept(kept, workers=1, report=lambda: None), found)
    assert again.calls == 0


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def spoil(file: Path) -> None:
    """As if another version of the program had kept something else."""
    write_pickle(file, {"begun": "long ago", "result": {"units": 5}})


def replace_by_a_list(file: Path) -> None:
    write_pickle(file, [1, 2])


@pytest.mark.parametrize("harm", [damage, spoil, replace_by_a_list, Path.unlink])
def test_what_is_not_ones_own_is_done_again(
    little: Sweep, found: dict[str, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
) -> None:  # fmt: skip
    kept = replace(little, kept=tmp_path)
    swept(kept, workers=1, report=lambda: None)
    ranked = [file for file in sorted(tmp_path.iterdir()) if len(read_pickle(file)["result"]["ranking"]) == 1]
    assert len(ranked) == 8
    for file in ranked[:3]:
        harm(file)
    counted = Counted(monkeypatch)
    same(swept(kept, workers=1, report=lambda: None), found)
    assert counted.calls == 3


def test_results_of_another_plan_network_or_program_are_not_used(
    little: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(little, subjects=[replace(little.subjects[0], layers={"high": 2})], kept=tmp_path)
    swept(one, workers=1, report=lambda: None)
    other = replace(one, plan=PLAN.model_copy(update={"seed": 4}))
    renewed = replace(one, subjects=[replace(one.subjects[0], digest="other weights")])
    counted = Counted(monkeypatch)
    for changed in (other, renewed, one):  # each in the place of the one before
        counted.calls = 0
        tables = swept(changed, workers=1, report=lambda: None)
        assert counted.calls == RANKINGS // 4
        same(tables, swept(replace(changed, kept=None), workers=1, report=lambda: None))
    monkeypatch.setattr(sweeping, "package_digest", lambda: "another version")
    counted.calls = 0
    swept(one, workers=1, report=lambda: None)
    assert counted.calls == RANKINGS // 4
