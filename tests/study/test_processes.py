"""A process ends in order on a signal, and with the run that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facespec.study import processes
from facespec.study.errors import StudyError
from facespec.study.processes import RUN, describe_process, handle_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, which this system lacks")

WORK = """
import os, pathlib, threading, time
{early}
from facespec.study import processes
processes.LIMIT = 1
processes.end_on_signals()
processes.end_with_run()
{before}
try:
    pathlib.Path("begun").touch()
    while True:
        time.sleep(60)
finally:
    pathlib.Path("ended").touch()
    {after}
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Start]:
    """Start a process that works until it is told to end, and wait until it is at work."""
    started: list[subprocess.Popen[str]] = []

    def begin(
        early: str = "", before: str = "", after: str = "", run: str = "", **how: object
    ) -> subprocess.Popen[str]:
        program, environment = WORK.format(early=early, before=before, after=after), os.environ | {RUN: run}
        command = [sys.executable, "-c", program]
        work = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            text=True,
            stderr=subprocess.PIPE,
            **how,  # type: ignore[call-overload]
        )
        started.append(work)
        wait_until(lambda: (tmp_path / "begun").exists() or work.poll() is not None)
        assert work.poll() is None, work.communicate()
        return work

    yield begin
    for work in started:
        work.kill()
        work.communicate()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which does nothing."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_in_order(start: Start, number: signal.Signals, tmp_path: Path) -> None:
    work = start()
    work.send_signal(number)
    assert work.communicate(timeout=120)[1] == "" and work.returncode == 128 + number
    assert (tmp_path / "ended").exists()


def test_a_second_signal_does_not_interrupt_the_end(start: Start, tmp_path: Path, wait_until: Callable) -> None:
    work = start(after="time.sleep(.5); pathlib.Path('cleaned').touch()")
    work.terminate()
    wait_until((tmp_path / "ended").exists)
    work.terminate()
    work.send_signal(signal.SIGHUP)
    work.communicate(timeout=120)
    assert work.returncode == 143 and (tmp_path / "cleaned").exists()


@pytest.mark.parametrize(
    "how",
    [
        {"after": "time.sleep(1000)"},
        {"before": "threading.Thread(target=time.sleep, args=(1000,)).start()"},
    ],
    ids=["a long end", "a thread at work"],
)
def test_an_end_takes_seconds_at_most(start: Start, how: dict[str, str]) -> None:
    work = start(**how)
    work.terminate()
    work.communicate(timeout=120)
    assert work.returncode == -signal.SIGALRM


def test_what_ignores_hangups_goes_on_ignoring_them(start: Start) -> None:
    work = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # as nohup does
    work.send_signal(signal.SIGHUP)
    work.terminate()
    work.communicate(timeout=120)
    assert work.returncode == 143


@pytest.mark.parametrize("early", ["", "del os.pidfd_open"], ids=["as here", "without pidfd_open"])
def test_a_process_ends_with_its_run(
    start: Start, sleeper: subprocess.Popen[bytes], tmp_path: Path, early: str
) -> None:
    if early and not hasattr(os, "pidfd_open"):
        pytest.skip("this system has no pidfd_open")
    work = start(early=early, run=describe_process(sleeper.pid))
    sleeper.kill()  # nobody has taken note of its end yet: it is a zombie
    work.communicate(timeout=120)
    assert work.returncode == 143 and (tmp_path / "ended").exists()


@pytest.mark.parametrize("what", ["has ended", "another process has its number", "no process"])
def test_what_belongs_to_a_run_that_has_ended_does_not_begin(
    what: str, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = describe_process(sleeper.pid)
    if what == "has ended":
        sleeper.kill()
        sleeper.wait()
    elif what == "another process has its number":
        if run.endswith(":"):
            pytest.skip("this system does not say when a process began")
        run = f"{sleeper.pid}:{int(run.partition(':')[2]) - 1}"
    else:
        run = "yes"
    monkeypatch.setenv(RUN, run)
    with pytest.raises(StudyError) as caught:
        processes.end_with_run()
    assert str(caught.value) == (
        f"the run of facespec that this stage belongs to (FACESPEC_RUN={run}) has ended, so it does not begin. "
        "Start `facespec repro` again, or unset FACESPEC_RUN to run a stage by itself."
    )


def test_by_hand_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN, raising=False)
    before = threading.active_count()
    processes.end_with_run()
    assert threading.active_count() == before


def test_handlers_are_lent_and_ignored_signals_stay_ignored() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        numbers = signal.SIGHUP, signal.SIGTERM
        with (
            pytest.raises(ZeroDivisionError),
            handle_signals(dict.fromkeys(numbers, lambda number, _: heard.append(number))),
        ):
            for number in numbers:
                signal.raise_signal(number)
            raise ZeroDivisionError
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGHUP, before[0])


def test_in_another_thread_signals_are_left_alone() -> None:
    found: list[object] = []

    def work() -> None:
        with handle_signals({signal.SIGTERM: lambda *_: None}):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
