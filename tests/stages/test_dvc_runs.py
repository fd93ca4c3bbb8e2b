"""Runs of DVC end when they are told to, or when whoever started them dies; no process and no stage outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from facespec.stages import dvc_runs, repro
from facespec.stages.dvc_runs import STOPPED
from facespec.study.errors import StudyError
from facespec.study.paths import Paths
from facespec.study.processes import PROCESSES_LOCK, RUN_VARIABLE

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups, which this system lacks")

# What a stage of ours does, without the work: `first` and `third` are at work until the file `go` is there.
STAGE = """
import pathlib, signal, sys, time
from facespec.study.processes import end_on_signals, end_with_run
name, *how = sys.argv[1:]
end_on_signals()
end_with_run()
if "stubborn" in how:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
half = pathlib.Path("Results", f".{name}.partial")
half.parent.mkdir(exist_ok=True)
try:
    half.write_text(name)
    pathlib.Path(f"{name}.begun").touch()
    while "waits" in how and not pathlib.Path("go").exists():
        time.sleep(0.02)
    half.replace(half.with_name(name))
finally:
    half.unlink(missing_ok=True)
"""
DRIVER = """
import pathlib, sys
from facespec.stages import dvc_runs
from facespec.study.processes import end_on_signals
dvc_runs.GRACE = float(sys.argv[1])
end_on_signals()
root = pathlib.Path("study")  # relative, as the default is
with dvc_runs.announce_stop():
    dvc_runs.await_earlier_runs(root)
    dvc_runs.reproduce(root, [words.split() for words in sys.argv[2:]], workers=2)
"""
RUNS = ("first second", "third")


class Study:
    """A study of three small stages, and the run of its pipeline."""

    def __init__(self, directory: Path, living: Callable[[str], list[int]], wait_until: Callable[..., None]) -> None:
        self.root, self.living, self.wait_until = directory / "study", living, wait_until
        (self.root / ".dvc").mkdir(parents=True)
        (self.root / ".dvc" / "config").write_text(
            "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
        )
        (self.root / "stage.py").write_text(STAGE)
        stages = {"first": "waits", "second": "", "third": "waits"}
        self.describe({name: f"python stage.py {name} {how}" for name, how in stages.items()})

    def describe(self, commands: dict[str, str]) -> None:
        stages = {name: {"cmd": command, "outs": [f"Results/{name}"]} for name, command in commands.items()}
        (self.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))

    def start(self, *runs: str, grace: float = 60) -> subprocess.Popen[str]:
        self.run = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(grace), *(runs or RUNS)],
            cwd=self.root.parent,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.assignment = f"{RUN_VARIABLE}={dvc_runs.describe_process(self.run.pid)}"
        return self.run

    def begun(self, *names: str) -> None:
        """Wait until stages are at work."""

        def ready() -> bool:
            assert self.run.poll() is None, self.run.communicate()
            return all((self.root / f"{name}.begun").exists() for name in names)

        self.wait_until(ready, what=f"the beginning of {names}")

    def members(self) -> list[int]:
        """Every living process that the run started, itself or through others."""
        return self.living(self.assignment)

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.root / "Results").iterdir())

    def outputs(self) -> dict[str, object]:
        """Content of every output, and of the lock, in which stages are in the order in which they ended."""
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())
        return {"lock": lock, **{name: (self.root / "Results" / name).read_bytes() for name in self.files()}}


@pytest.fixture
def study(tmp_path: Path, living: Callable[[str], list[int]], wait_until: Callable[..., None]) -> Study:
    return Study(tmp_path, living, wait_until)


def completed(study: Study) -> dict[str, object]:
    """The outputs after a run that nobody stops."""
    (study.root / "go").touch()
    ended = study.start()
    said = ended.communicate(timeout=300)
    assert ended.returncode == 0, said
    assert study.files() == ["first", "second", "third"]
    return study.outputs()


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "number, runs",
    [
        (signal.SIGTERM, ("first second", "third")),
        (signal.SIGINT, ("first second",)),
        (signal.SIGHUP, ("first second",)),
    ],
)
def test_a_signal_ends_everything_in_order(study: Study, number: signal.Signals, runs: tuple[str, ...]) -> None:
    """Runs of DVC, their stages, and what DVC would have begun next, `--keep-going`."""
    run = study.start(*runs)
    study.begun(*(names.split()[0] for names in runs))
    alive = study.members()
    assert len(alive) >= 2 * len(runs)
    run.send_signal(number)
    _, said = run.communicate(timeout=300)
    assert (run.returncode, said) == (128 + number, f"{STOPPED}\n")
    assert not any(map(dvc_runs.describe_process, alive))
    assert not (study.root / "second.begun").exists()
    assert study.files() == []  # no half-written file either


@pytest.mark.pipeline
def test_what_was_stopped_or_killed_goes_on_to_the_same_bytes(
    study: Study, tmp_path: Path, living: Callable[[str], list[int]], wait_until: Callable[..., None]
) -> None:
    (tmp_path / "whole").mkdir()
    expected = completed(Study(tmp_path / "whole", living, wait_until))
    study.start()
    study.begun("first", "third")
    assert len(study.members()) >= 4
    study.run.kill()
    study.run.communicate()
    killed = study.assignment
    assert completed(study) == expected  # started at once, it waits until the others have noticed
    assert living(killed) == []


@pytest.mark.pipeline
def test_stages_notice_the_end_of_the_run_although_dvc_is_killed_too(study: Study) -> None:
    study.start()
    study.begun("first", "third")
    groups = {os.getpgid(pid) for pid in study.members()}
    assert len(groups) == 2
    for pid in (study.run.pid, *groups):
        os.kill(pid, signal.SIGKILL)
    study.run.communicate()
    study.wait_until(lambda: not study.members(), what="the end of the stages")
    assert study.files() == []


@pytest.mark.pipeline
def test_stages_end_when_dvc_alone_is_killed(study: Study) -> None:
    run = study.start("first second")
    study.begun("first")
    (group,) = {os.getpgid(pid) for pid in study.members()}
    os.kill(group, signal.SIGKILL)
    _, said = run.communicate(timeout=300)
    assert run.returncode == 1 and "dvc repro stopped (exit status -9)" in said
    assert study.members() == [] and study.files() == []


@pytest.mark.pipeline
def test_what_does_not_end_is_killed_at_last_or_at_a_second_interrupt(study: Study) -> None:
    study.describe({"first": "python stage.py first waits stubborn", "second": "python stage.py second"})
    run = study.start("first second", grace=1)
    study.begun("first")
    run.terminate()
    run.communicate(timeout=300)
    assert run.returncode == 128 + signal.SIGTERM
    (study.root / "first.begun").unlink()
    began = time.monotonic()
    run = study.start("first second", grace=1000)
    study.begun("first")
    alive = study.members()
    run.send_signal(signal.SIGINT)
    while run.poll() is None:  # on a busy machine, the first may be heard late
        time.sleep(0.6)
        run.send_signal(signal.SIGINT)
    assert run.returncode == 128 + signal.SIGINT and time.monotonic() - began < 500
    assert STOPPED in run.communicate()[1]
    assert alive and not any(map(dvc_runs.describe_process, alive))
    assert not (study.root / "second.begun").exists()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.pipeline
def test_a_pause_pauses_everything(study: Study) -> None:
    """Ctrl-Z, then `fg`; a run that is paused ends as well when it is told to."""
    run = study.start("first")
    study.begun("first")
    alive = [run.pid, *study.members()]
    run.send_signal(signal.SIGTSTP)
    study.wait_until(lambda: all(state(pid) == "T" for pid in alive))
    run.send_signal(signal.SIGCONT)
    study.wait_until(lambda: not any(state(pid) == "T" for pid in alive))
    for pid in alive[1:]:
        os.kill(pid, signal.SIGSTOP)
    run.terminate()
    run.communicate(timeout=300)
    assert run.returncode == 128 + signal.SIGTERM and study.files() == []


@pytest.mark.parametrize(
    "received, impatient",
    [
        ([], False),
        ([("SIGINT", 0)], False),
        ([("SIGINT", 0), ("SIGINT", 0.01)], False),
        ([("SIGINT", 0), ("SIGINT", 1)], True),
        ([("SIGTERM", 0), ("SIGINT", 1)], True),
        ([("SIGHUP", 0), ("SIGHUP", 1)], False),
        ([("SIGTERM", 0), ("SIGTERM", 1)], False),
    ],
)
def test_only_a_later_interrupt_is_impatience(received: list[tuple[str, float]], impatient: bool) -> None:
    """`timeout` sends its signal twice, a closed terminal too, and some programs pass on the Ctrl-C that all hear."""
    numbered = [(getattr(signal, name), at) for name, at in received]
    assert dvc_runs._is_impatient(numbered) == impatient


def test_an_earlier_run_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    dvc_runs.await_earlier_runs(tmp_path)
    monkeypatch.setattr(dvc_runs, "GRACE", -5)
    with (tmp_path / PROCESSES_LOCK).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(StudyError) as caught:
            dvc_runs.await_earlier_runs(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: processes of an earlier run are still at work here. Wait for them to end."
    )
    dvc_runs.await_earlier_runs(tmp_path)


def test_a_run_begins_by_removing_what_dead_ones_left(study_copy: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setattr(dvc_runs, "start_dvc", lambda *_, **__: subprocess.Popen(["true"]))
    left = study_copy.data / ".probe.abc_1234.partial"
    left.mkdir()
    with pytest.raises(StudyError, match="verdicts"):  # nothing was run
        repro.run(study_copy, workers=1)
    assert not left.exists()
