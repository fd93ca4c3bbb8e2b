"""Commands as processes: told to end, they leave nothing half-made, and the next run makes the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facespec.stages import finetune, train
from facespec.stages.sweep import SUFFIX
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.processes import RUN_VARIABLE
from facespec.study.vocabulary import Network

MARK = "FACESPEC_TEST"
Start = Callable[..., subprocess.Popen[str]]


def command(*words: str, paths: Paths, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facespec", *words],
        cwd=paths.root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "environment, sentence",
    [
        ({"FACESPEC_CODE_PATH": "native-ish"}, "unknown code path 'native-ish' (FACESPEC_CODE_PATH): did you mean"),
        (
            {RUN_VARIABLE: "4194305:1"},
            "the run of facespec that this stage belongs to (FACESPEC_RUN=4194305:1) has ended, so it ",
        ),
    ],
)
def test_what_is_refused_before_the_command_is_read_is_one_line_too(
    environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    ended = command("checks", paths=Paths(tmp_path), **environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"facespec: {sentence}") and ended.stderr.count("\n") == 1


@pytest.fixture
def start(study_copy: Paths, living: Callable[[str], list[int]]) -> Iterator[Start]:
    """Start a command in the study, in a process group of its own; afterwards no process of it is left."""
    started: list[subprocess.Popen[str]] = []
    mark = str(study_copy.root)

    def begin(*words: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "facespec", *words],
                cwd=study_copy.root,
                env=os.environ | {MARK: mark},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
    for pid in living(f"{MARK}={mark}"):  # where a test has found that they outlive it
        os.kill(pid, signal.SIGKILL)


def leftovers(paths: Paths) -> list[Path]:
    return sorted(paths.root.rglob(".*.partial"))


def bytes_below(directory: Path) -> dict[str, bytes]:
    files = {file.relative_to(directory): file for file in directory.rglob("*") if file.is_file()}
    return {str(name): file.read_bytes() for name, file in files.items() if not name.parts[0].startswith(".")}


@pytest.mark.pipeline
@pytest.mark.parametrize("stage", ["train", "finetune"])
def test_a_fit_that_is_told_to_end(
    stage: str, study_copy: Paths, start: Start, wait_until: Callable[..., None]
) -> None:
    text = study_copy.params.read_text()  # long enough to be caught at it
    text = text.replace("  epochs: 4 ", f"  epochs: {12 if stage == 'train' else 1} ")
    text = text.replace("  epochs: 2 ", "  epochs: 12 ")
    params, stages = read_params(study_copy.params), [train, finetune][: 1 + (stage == "finetune")]
    for module in stages:
        module.run(study_copy, params, network=Network.IDENTITY, seed=5, device="cpu")
    made = study_copy.checkpoint(stage, "identity", 5), study_copy.history(stage, "identity", 5)
    expected = [file.read_bytes() for file in made]
    for file in made:
        file.unlink()
    work = start(stage, "identity", "5")
    unfinished = study_copy.progress(stage, "identity", 5)
    wait_until(lambda: unfinished.exists() or work.poll() is not None)
    work.terminate()
    said = work.communicate(timeout=120)
    assert (work.returncode, *said) == (143, "", "")
    assert unfinished.exists() and not made[0].exists() and leftovers(study_copy) == []
    stages[-1].run(study_copy, params, network=Network.IDENTITY, seed=5, device="cpu")
    assert [file.read_bytes() for file in made] == expected and leftovers(study_copy) == []


@pytest.mark.pipeline
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_faces_that_are_told_to_end_or_killed(
    number: signal.Signals,
    study_copy: Paths,
    start: Start,
    living: Callable[[str], list[int]],
    wait_until: Callable[..., None],
) -> None:
    """The signal goes to the command alone; the processes that render for it end with it."""
    text = study_copy.params.read_text()
    assert "train: 70" in text
    study_copy.params.write_text(text.replace("train: 70", "train: 4000"))  # long enough to be caught at it
    before = bytes_below(study_copy.data)
    work = start("data", "build", "--workers", "2")

    def is_rendering() -> bool:  # the first pictures are there: all workers have been started
        return any(file.stat().st_size > 512 * 32 * 32 for file in study_copy.data.glob(".*.partial/new/images*"))

    wait_until(lambda: is_rendering() or work.poll() is not None)
    assert work.poll() is None
    work.send_signal(number)
    said = work.communicate(timeout=120)
    # a worker that ends while it hands over a picture may hold its parent up, which the system then ends after 5 s
    in_order = number == signal.SIGTERM and work.returncode != -signal.SIGALRM
    if in_order:
        assert (work.returncode, *said) == (143, "", "")
    wait_until(lambda: not living(f"{MARK}={study_copy.root}"), what="the end of the workers")
    assert bytes_below(study_copy.data) == before
    assert bool(leftovers(study_copy)) != in_order
    study_copy.params.write_text(text)
    ended = command("data", "build", "--workers", "1", paths=study_copy)
    assert ended.returncode == 0, ended.stderr
    assert bytes_below(study_copy.data) == before and leftovers(study_copy) == []


@pytest.mark.pipeline
def test_a_sweep_of_lesions_that_is_told_to_end(explained: Paths, wait_until: Callable[..., None]) -> None:
    """Jobs in threads are not waited for longer than an end may take; finished ones are kept."""
    command_line = [sys.executable, "-m", "facespec", "lesions", "--workers", "2"]
    work = subprocess.Popen(command_line, cwd=explained.root, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(explained.lesions.glob(f"*{SUFFIX}")) or work.poll() is not None)
    work.terminate()
    _, said = work.communicate(timeout=120)
    assert (work.returncode, said) == (143, "") and leftovers(explained) == []
    assert list(explained.lesions.iterdir())
