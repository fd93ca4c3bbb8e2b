from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pandas as pd
import pytest
import torch

from facespec.models import checkpoints
from facespec.models.checkpoints import Origin
from facespec.stages import train
from facespec.stages.fitting import FitJob
from facespec.study.arrays import read_arrays
from facespec.study.errors import StudyError
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.vocabulary import NETWORKS, Network
from facespec.training.fit import TaskData

COMMAND = [sys.executable, "-m", "facespec", "train", "joint", "5"]


def run(paths: Paths, network: Network, seed: int = 5) -> bytes:
    """Train a network and read its checkpoint."""
    train.run(paths, read_params(paths.params), network=network, seed=seed, device="cpu")
    return paths.checkpoint("train", network, seed).read_bytes()


def test_weights_travel_with_all_it_takes_to_use_them(fitted: Paths, params: Params) -> None:
    origin = Origin("train", Network.JOINT, 5)
    checkpoint = checkpoints.load_checkpoint(fitted.checkpoint(*origin), expect=origin)
    assert checkpoint.classes["identity"] == ("p0000", "p0001", "p0002", "p0003")
    assert checkpoint.classes["expression"][0] == "angry" and len(checkpoint.classes["expression"]) == 7
    assert checkpoint.params == {"network": params.network.model_dump(), "train": params.train.model_dump()}
    assert checkpoint.preset.size == 32 and checkpoint.preset.channels == 1
    history = pd.read_csv(fitted.history(*origin))
    assert history.to_dict("records") == checkpoint.history
    epochs = [[epoch, task] for epoch in range(1, 5) for task in ("expression", "identity")]
    assert history[["epoch", "task"]].values.tolist() == epochs


def test_networks_of_one_seed_have_equal_starts_and_equal_numbers_of_steps(
    tiny_study: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """70 images of expression and 36 of identity, in batches of 16: five steps an epoch, also for identity alone."""
    weights: dict[tuple[str, int], torch.Tensor] = {}
    fits: dict[str, tuple[int, dict[str, int]]] = {}

    def record(paths: Paths, job: FitJob, model: torch.nn.Module, data: dict[str, TaskData], **_: object) -> None:
        weights[job.network.value, job.seed] = model.trunk.conv1.weight.clone()  # type: ignore[union-attr]
        fits[job.network.value] = job.epoch_steps, {task: len(task_data.rows) for task, task_data in data.items()}

    monkeypatch.setattr(train, "run_fit", record)
    for network, seed in [*((network, 5) for network in NETWORKS), (Network.JOINT, 6)]:
        train.run(Paths(tiny_study), params, network=network, seed=seed, device="cpu")
    assert all(torch.equal(weights["joint", 5], weights[name, 5]) for name in ("expression", "identity"))
    assert not torch.equal(weights["joint", 5], weights["joint", 6])
    assert fits == {
        "expression": (5, {"expression": 70}),
        "identity": (5, {"identity": 36}),
        "joint": (5, {"expression": 70, "identity": 36}),
    }


def test_training_again_gives_the_same_bytes(study_copy: Paths, fitted: Paths) -> None:
    trained = run(study_copy, Network.EXPRESSION)
    assert trained == fitted.checkpoint("train", "expression", 5).read_bytes()
    assert trained != fitted.checkpoint("train", "expression", 6).read_bytes()
    directory = study_copy.checkpoint("train", "expression", 5).parent
    assert {path.name for path in directory.iterdir()} == {"expression-5.safetensors", "expression-5.csv"}
    assert not study_copy.progress("train", "expression", 5).exists()


@pytest.mark.pipeline
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL, which this system lacks")
def test_a_killed_run_resumes_and_ends_in_the_same_bytes(study_copy: Paths) -> None:
    """Killed once at some moment after the first epoch, as a power cut would; the rest of the epochs follow."""
    text = study_copy.params.read_text()
    study_copy.params.write_text(text.replace("  epochs: 4 ", "  epochs: 25 "))  # long enough to be killed during it
    expected = run(study_copy, Network.JOINT)
    checkpoint, progress = study_copy.checkpoint("train", "joint", 5), study_copy.progress("train", "joint", 5)
    checkpoint.unlink()
    study_copy.history("train", "joint", 5).unlink()
    process = subprocess.Popen(COMMAND, cwd=study_copy.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not progress.exists():
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        time.sleep(0.01)
    time.sleep(random.Random(os.getpid()).random() * 0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= len(read_arrays(progress, remedy="")[0]["history"]) // 2 < 25
    assert not checkpoint.exists()
    ended = subprocess.run(COMMAND, cwd=study_copy.root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert checkpoint.read_bytes() == expected
    assert not progress.exists()


@pytest.mark.pipeline
def test_two_runs_at_once_are_refused(study_copy: Paths) -> None:
    target = study_copy.checkpoint("train", "joint", 5)
    target.parent.mkdir(parents=True)
    with filelock.FileLock(target.parent / f".{target.name}.lock"):
        ended = subprocess.run(COMMAND, cwd=study_copy.root, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        "facespec: checkpoints/train/joint-5.safetensors: another facespec run is making this. Wait for it to end, or "
        "use another study directory.\n"
    )


def test_faces_without_an_expression_and_missing_faces_are_refused(
    study_copy: Paths, relabel: Callable[..., None]
) -> None:
    relabel(study_copy.faces("expression"), lambda table: table.replace({"expression": {"disgust": "fear"}}))
    with pytest.raises(StudyError, match=r"no image shows 'disgust': the study needs all seven expressions\."):
        run(study_copy, Network.EXPRESSION)
    (study_copy.faces("identity") / "faceset.json").unlink()
    with pytest.raises(StudyError, match=r"identity: no faces here .* `facespec data build` makes them\."):
        run(study_copy, Network.IDENTITY)
