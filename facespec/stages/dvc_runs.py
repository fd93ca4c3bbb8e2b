"""Runs of DVC side by side: started, waited for, and stopped together with all that they started.

Each run is a process group of its own. A signal to end goes to all groups, and is answered when no process of them is
left. If `facespec repro` is killed, the runs and their stages notice it and end by themselves (`study.processes`).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from facespec.study.errors import StudyError
from facespec.study.processes import (
    END_SIGNALS,
    RUN_VARIABLE,
    Handler,
    RunEnded,
    await_processes,
    describe_process,
    end_with_run,
    handle_signals,
)

# glibc returns large arrays to the system and fetches them again, page by page, in every training step; told to keep
# them, a step takes half the time (1,300 instead of 700 images/s). Other systems ignore these variables.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
GRACE = 15.0  # seconds between SIGTERM and SIGKILL; a stage takes 5 at most
SAME_INTERRUPT = (
    0.5  # seconds: a second Ctrl-C within them is the first one, passed on by whatever started this process
)
STOPPED = "facespec: stopped; finished stages are kept: run the same command again."
PACKAGES = Path(__file__).resolve().parents[2]  # where the package lies that runs now

Process = subprocess.Popen[bytes]


def reproduce(root: Path, runs: Sequence[Sequence[str]], *, workers: int) -> None:
    """Concurrent runs of `dvc repro` in the study directory `root`, one for each list of targets; no targets: all.

    Each runs one stage at a time, and the `workers` are shared among them. Returns when all have ended, with every
    process that they started; raises `StudyError` if one failed, and `Ended` after SIGINT, SIGTERM or SIGHUP.
    """
    each = max(1, workers // len(runs))
    logs = [root / ".facespec" / f"repro-{number}.log" for number in range(1, len(runs))]
    received: list[tuple[int, float]] = []
    running: list[Process] = []
    started: list[Process] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append((number, time.monotonic()))

    def pause(_: int, __: FrameType | None) -> None:
        for run in running:
            _send(run, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        for run in running:  # here again after SIGCONT
            _send(run, signal.SIGCONT)

    handlers: dict[int, Handler] = dict.fromkeys(END_SIGNALS, remember)
    if hasattr(signal, "SIGTSTP"):
        handlers[signal.SIGTSTP] = pause
    with ExitStack() as files, handle_signals(handlers):
        # the first run shows its progress, the others would write across it
        outputs: list[TextIO | None] = [None, *(files.enter_context(log.open("w", encoding="utf-8")) for log in logs)]
        try:
            for targets, file in zip(runs, outputs, strict=True):
                if not received:
                    started.append(start_dvc(root, *targets, workers=each, output=file))
                    running.append(started[-1])
            while running and not received:
                time.sleep(0.05)
                for run in [run for run in running if run.poll() is not None]:
                    _stop([run], received)  # at once: later, its number may be another process's
                    running.remove(run)
        finally:
            _stop(running, received)
    if received:
        raise RunEnded(received[0][0])
    _check_status([run.returncode for run in started], logs)


def _check_status(statuses: Sequence[int], logs: Sequence[Path]) -> None:
    for status, log in zip(statuses[1:], logs, strict=True):
        if status:
            sys.stderr.write(log.read_text(encoding="utf-8"))
    if status := next(filter(None, statuses), 0):
        raise StudyError(
            f"dvc repro stopped (exit status {status}); the stage's own message stands above, before "
            "those of stages that lack what it did not make. "
            "Finished stages are kept: mend it and run the same command again."
        )


@contextmanager
def announce_stop() -> Iterator[None]:
    """When a signal ends the block, say what that means for finished work, and end with the signal's exit status."""
    try:
        yield
    except (KeyboardInterrupt, RunEnded) as stop:
        with suppress(OSError):  # the terminal may be gone
            print(STOPPED, file=sys.stderr, flush=True)
        raise RunEnded(getattr(stop, "number", signal.SIGINT)) from None


def await_earlier_runs(root: Path) -> None:
    """Wait until what an earlier run started has noticed that this run was killed, and has ended."""
    await_processes(root, seconds=GRACE + 5)


def start_dvc(root: Path, *targets: str, workers: int, output: TextIO | None) -> Process:
    """Start `dvc repro` in a process group of its own."""
    # single items: what lies upstream of them, the faces, is locked by whichever run looks at it
    how = ("--single-item", "--keep-going", *targets) if targets else ()
    # `python` in dvc.yaml is the interpreter that runs now, whatever the shell calls python
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "facespec.stages.dvc_runs", str(root.resolve()), "--wait-for-lock", "repro", *how]
    environment = {**os.environ, **MEMORY, "PATH": path, "FACESPEC_WORKERS": str(workers)}
    if (PACKAGES / "pyproject.toml").is_file():  # a clone: its stages run its own code, whatever else is installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    environment["DVC_NO_ANALYTICS"] = "1"  # a daemon that would outlive the run
    environment[RUN_VARIABLE] = describe_process(os.getpid())
    return subprocess.Popen(
        command, cwd=PACKAGES, env=environment, stdout=output, stderr=output, start_new_session=True
    )


def _stop(runs: Sequence[Process], received: Sequence[tuple[int, float]]) -> None:
    """End what is left of the groups of `runs`, and wait until nothing is."""
    start, sent = time.monotonic(), -float("inf")
    while alive := [run for run in runs if _is_alive(run)]:
        now = time.monotonic()
        kill = now - start > GRACE or _is_impatient(received)
        if now - start > GRACE + 5:
            return  # the system does not end it
        if kill or now - sent > 1:  # again: a process that was just being started may not have heard it
            sent = now
            for run in alive:
                _send(run, signal.SIGKILL if kill and os.name != "nt" else signal.SIGTERM)
        time.sleep(0.05)


def _is_impatient(received: Sequence[tuple[int, float]]) -> bool:
    """Whether Ctrl-C followed after the signal that asked for an end."""
    return any(number == signal.SIGINT and at - received[0][1] > SAME_INTERRUPT for number, at in received[1:])


def _is_alive(run: Process) -> bool:
    """Whether any process of the group of `run` is alive."""
    if run.poll() is None:
        return True
    if not hasattr(os, "killpg"):
        return False
    try:
        os.killpg(run.pid, 0)
    except (ProcessLookupError, PermissionError):  # macOS refuses signals to processes that have ended
        return False
    if not Path("/proc/self/stat").exists():
        return True
    # some containers have nobody who takes note of ended processes, which then stay in their group
    stats = (_read(path / "stat").rpartition(")")[2].split() for path in Path("/proc").iterdir() if path.name.isdigit())
    return any(fields[2] == str(run.pid) and fields[0] not in "ZX" for fields in stats if fields)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # ended meanwhile
        return ""


def _send(run: Process, number: int) -> None:
    if not hasattr(os, "killpg"):
        run.terminate()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(run.pid, number)
        if number == signal.SIGTERM:  # which a paused process hears when it goes on
            os.killpg(run.pid, signal.SIGCONT)


def run_dvc(root: str, arguments: Sequence[str]) -> int:
    """In a process of its own: DVC in the study directory `root`, which starts no further stage after SIGTERM.

    DVC itself is not interrupted, so that its files stay whole: it ends when it would start the next stage.
    """
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        logging.disable()  # that a stage was ended is no fault of the stage

    def refuse(event: str, _: tuple[Any, ...]) -> None:
        if stopped and event == "subprocess.Popen":
            raise RunEnded(stopped[0])

    sys.addaudithook(refuse)
    signal.signal(signal.SIGTERM, stop)
    os.chdir(root)
    end_with_run(_end_group)
    from dvc.cli import main

    status = main(list(arguments))
    return 128 + stopped[0] if stopped else status


def _end_group() -> None:
    """End this run as `facespec repro` would, which is gone."""
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        sys.exit(run_dvc(sys.argv[1], sys.argv[2:]))
    except StudyError as refusal:
        sys.exit(f"facespec: {refusal}")
