from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from facespec.models import checkpoints
from facespec.models.checkpoints import Origin
from facespec.stages import train
from facespec.stages.fitting import FitJob
from facespec.study.arrays import read_arrays
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.vocabulary import Network
from facespec.training.fit import TaskData

COMMAND = [sys.executable, "-m", "facespec", "train", "joint", "5"]


def trained(paths: Paths, network: Network, seed: int = 5) -> bytes:
    train.run(paths, read_params(paths.params), network=network, seed=seed, device="cpu")
    return paths.checkpoint("train", network, seed).read_bytes()


def test_weights_travel_with_all_it_takes_to_use_them(study_copy: Paths) -> None:
    trained(study_copy, Network.JOINT)
    checkpoint = checkpoints.load_checkpoint(
        study_copy.checkpoint("train", "joint", 5), expect=Origin("train", Network.JOINT, 5)
    )
    params = read_params(study_copy.params)
    assert checkpoint.classes["identity"] == ("p0000", "p0001", "p0002", "p0003")
    assert checkpoint.classes["expression"][0] == "angry" and len(checkpoint.classes["expression"]) == 7
    assert checkpoint.params == {"network": params.network.model_dump(), "train": params.train.model_dump()}
    assert checkpoint.preset["size"] == 32 and checkpoint.preset["channels"] == 1
    history = pd.read_csv(study_copy.history("train", "joint", 5))
    assert history.to_dict("records") == checkpoint.history
    assert history[["epoch", "task"]].values.tolist() == [
        [e, t] for e in range(1, 5) for t in ("expression", "identity")
    ]
    assert {path.name for path in study_copy.checkpoint("train", "joint", 5).parent.iterdir()} == {
        "joint-5.safetensors",
        "joint-5.csv",
    }
    assert not study_copy.progress("train", "joint", 5).exists()


def test_networks_of_one_seed_start_alike_and_replicates_do_not(
    study_copy: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: dict[tuple[str, int], torch.Tensor] = {}

    def remembering(paths: Paths, job: object, model: torch.nn.Module, data: object, **how: object) -> None:
        first[job.network.value, job.seed] = model.trunk.conv1.weight.clone()  # type: ignore[attr-defined, union-attr]

    monkeypatch.setattr(train, "run_fit", remembering)
    params = read_params(study_copy.params)
    for network, seed in (("expression", 5), ("joint", 5), ("identity", 5), ("joint", 6)):
        train.run(study_copy, params, network=Network(network), seed=seed, device="cpu")
    assert torch.equal(first["joint", 5], first["expression", 5]) and torch.equal(
        first["joint", 5], first["identity", 5]
    )
    assert not torch.equal(first["joint", 5], first["joint", 6])


def test_all_networks_of_a_study_are_trained_for_the_same_number_of_steps(
    study_copy: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """70 images of expression and 36 of identity, in batches of 16: five steps an epoch, also for identity alone."""
    jobs: dict[str, tuple[int, dict[str, int]]] = {}

    def remembering(paths: Paths, job: FitJob, model: object, data: dict[str, TaskData], **how: object) -> None:
        jobs[job.network.value] = job.epoch_steps, {task: len(own.rows) for task, own in data.items()}

    monkeypatch.setattr(train, "run_fit", remembering)
    for network in Network:
        train.run(study_copy, read_params(study_copy.params), network=network, seed=5, device="cpu")
    assert jobs == {
        "expression": (5, {"expression": 70}),
        "identity": (5, {"identity": 36}),
        "joint": (5, {"expression": 70, "identity": 36}),
    }


def test_training_twice_gives_the_same_bytes(study_copy: Paths) -> None:
    first = trained(study_copy, Network.EXPRESSION)
    study_copy.checkpoint("train", "expression", 5).unlink()
    assert trained(study_copy, Network.EXPRESSION) == first
    assert trained(study_copy, Network.EXPRESSION, seed=6) != first


def started(paths: Paths) -> subprocess.Popen[bytes]:
    return subprocess.Popen(COMMAND, cwd=paths.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.pipeline
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL, which this system lacks")
def test_a_killed_run_resumes_and_ends_in_the_same_bytes(study_copy: Paths, tmp_path: Path) -> None:
    """Killed once at some moment after the first epoch, as a power cut would; the rest of the epochs follow."""
    text = study_copy.params.read_text()
    study_copy.params.write_text(text.replace("  epochs: 4 ", "  epochs: 25 "))  # long enough to be caught at it
    whole = trained(study_copy, Network.JOINT)
    study_copy.checkpoint("train", "joint", 5).unlink()
    study_copy.history("train", "joint", 5).unlink()
    unfinished = study_copy.progress("train", "joint", 5)
    killed = started(study_copy)
    while not unfinished.exists():
        assert killed.poll() is None, killed.stdout and killed.stdout.read().decode()
        time.sleep(0.01)
    time.sleep(random.Random(os.getpid()).random() * 0.3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    done = len(read_arrays(unfinished, remedy="")[0]["history"]) // 2
    assert 1 <= done < 25
    assert not study_copy.checkpoint("train", "joint", 5).exists()
    ended = subprocess.run(COMMAND, cwd=study_copy.root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert study_copy.checkpoint("train", "joint", 5).read_bytes() == whole
    assert not unfinished.exists()


@pytest.mark.pipeline
def test_two_runs_at_once_are_refused(study_copy: Paths) -> None:
    import filelock

    target = study_copy.checkpoint("train", "joint", 5)
    target.parent.mkdir(parents=True)
    with filelock.FileLock(target.parent / f".{target.name}.lock"):
        ended = subprocess.run(COMMAND, cwd=study_copy.root, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        "facespec: checkpoints/train/joint-5.safetensors: another facespec run is making this. Wait for it to end, or "
        "use another study directory.\n"
    )


def test_an_expression_without_an_image_is_refused(study_copy: Paths, relabel: Callable[..., None]) -> None:
    relabel(study_copy.faces("expression"), lambda table: table.replace({"expression": {"disgust": "fear"}}))
    with pytest.raises(StudyError) as caught:
        trained(study_copy, Network.EXPRESSION)
    assert str(caught.value) == "no image shows 'disgust': the study needs all seven expressions."


def test_without_faces(study_copy: Paths) -> None:
    (study_copy.faces("identity") / "faceset.json").unlink()
    with pytest.raises(StudyError) as caught:
        trained(study_copy, Network.IDENTITY)
    assert str(caught.value) == (
        f"{study_copy.faces('identity')}: no faces here (no faceset.json in it). `facespec data build` makes them."
    )
