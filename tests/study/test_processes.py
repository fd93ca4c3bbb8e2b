"""A process ends cleanly on a signal, and with the run that started it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facespec.study import processes
from facespec.study.errors import StudyError
from facespec.study.processes import RUN_VARIABLE, describe_process, handle_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, which this system lacks")

WORK = """
import os, pathlib, threading, time
{early}
from facespec.study import processes
processes.END_SECONDS = 1
processes.end_on_signals()
processes.end_with_run()
{before}
try:
    pathlib.Path("started").touch()
    while True:
        time.sleep(0.1)  # a signal that comes just before a sleep does not end it
finally:
    pathlib.Path("ended").touch()
    {after}
"""
Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Start]:
    """Start a process that works until a signal ends it, and wait until it works."""
    started: list[Process] = []

    def start_process(early: str = "", before: str = "", after: str = "", run: str = "", **options: object) -> Process:
        command = [sys.executable, "-c", WORK.format(early=early, before=before, after=after)]
        options |= {"cwd": tmp_path, "env": os.environ | {RUN_VARIABLE: run}, "text": True, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
        started.append(process)
        wait_until(lambda: (tmp_path / "started").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    yield start_process
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which does nothing."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_cleanly(start: Start, number: signal.Signals, tmp_path: Path) -> None:
    process = start()
    process.send_signal(number)
    assert process.communicate(timeout=120)[1] == "" and process.returncode == 128 + number
    assert (tmp_path / "ended").exists()


def test_a_second_signal_does_not_interrupt_the_cleaning_up(
    start: Start, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    process = start(after="time.sleep(.5); pathlib.Path('cleaned').touch()")
    process.terminate()
    wait_until((tmp_path / "ended").exists)
    process.terminate()
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 143 and (tmp_path / "cleaned").exists()


@pytest.mark.parametrize(
    "code",
    [{"after": "time.sleep(1000)"}, {"before": "threading.Thread(target=time.sleep, args=(1000,)).start()"}],
    ids=["slow cleaning up", "busy thread"],
)
def test_a_process_that_does_not_end_in_time_is_ended(start: Start, code: dict[str, str]) -> None:
    process = start(**code)
    process.terminate()
    assert process.wait(120) == -signal.SIGALRM


def test_ignored_hangups_stay_ignored(start: Start) -> None:
    process = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # as nohup does
    process.send_signal(signal.SIGHUP)
    process.terminate()
    assert process.wait(120) == 143


@pytest.mark.parametrize("early", ["", "del os.pidfd_open"], ids=["pidfd_open", "without pidfd_open"])
def test_a_process_ends_with_its_run(
    start: Start, sleeper: subprocess.Popen[bytes], tmp_path: Path, early: str
) -> None:
    if early and not hasattr(os, "pidfd_open"):
        pytest.skip("this system has no pidfd_open")
    process = start(early=early, run=describe_process(sleeper.pid))
    sleeper.kill()  # its parent has not waited for it yet: it is a zombie
    assert process.wait(120) == 143 and (tmp_path / "ended").exists()


@pytest.mark.parametrize("case", ["ended", "another process with its number", "no process"])
def test_a_stage_of_an_ended_run_is_refused(
    case: str, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = describe_process(sleeper.pid)
    if case == "ended":
        sleeper.kill()
        sleeper.wait()
    elif case == "another process with its number":
        if run.endswith(":"):
            pytest.skip("this system does not say when a process started")
        run = f"{sleeper.pid}:{int(run.partition(':')[2]) - 1}"
    else:
        run = "yes"
    monkeypatch.setenv(RUN_VARIABLE, run)
    with pytest.raises(StudyError, match=re.escape(f"(FACESPEC_RUN={run}) has ended") + ".*unset FACESPEC_RUN to run"):
        processes.end_with_run()


def test_without_a_run_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    before = threading.active_count()
    processes.end_with_run()
    assert threading.active_count() == before


def test_handlers_are_restored_and_ignored_signals_stay_ignored() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    handlers = dict.fromkeys((signal.SIGHUP, signal.SIGTERM), lambda number, _: received.append(number))
    try:
        with pytest.raises(ZeroDivisionError), handle_signals(handlers):
            for number in handlers:
                signal.raise_signal(number)
            raise ZeroDivisionError
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGHUP, before[0])


def test_another_thread_installs_no_handlers() -> None:
    handlers: list[object] = []

    def work() -> None:
        with handle_signals({signal.SIGTERM: lambda *_: None}):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
