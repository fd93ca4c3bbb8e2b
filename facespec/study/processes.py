"""How does a process end? Cleanly after a signal, and whenever the run that started it ends."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from facespec.study.errors import StudyError

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

RUN_VARIABLE = "FACESPEC_RUN"  # environment variable: the run that started this process, see `describe_process`
PROCESSES_LOCK = Path(".facespec", "processes.lock")  # in the study directory; every process of a run locks it, shared
END_SECONDS = 5  # time for a process to end cleanly after a signal
END_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

Handler = Callable[[int, FrameType | None], Any]
_locked_files: list[IO[str]] = []  # their locks are released when this process ends


class RunEnded(SystemExit):
    """The signal `number` ends this process, with exit status 128 + `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise `RunEnded` in the main thread, so that temporary files are removed.

    After `END_SECONDS`, the system ends a process that is still running, for example because a thread is busy.
    """

    def end(number: int, _: FrameType | None) -> None:
        for each in END_SIGNALS:  # a second signal must not interrupt the cleaning up
            signal.signal(each, signal.SIG_IGN)
        _set_alarm()
        raise RunEnded(number)

    for number in END_SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) != signal.SIG_IGN:  # ignored, as under nohup
            signal.signal(number, end)


def _set_alarm() -> None:
    if hasattr(signal, "alarm"):  # its signal ends the process whatever threads and locks do
        signal.alarm(END_SECONDS)


@contextmanager
def handle_signals(handlers: dict[int, Handler]) -> Iterator[None]:
    """Install `handlers` by signal number inside the context; ignored signals, as SIGHUP under nohup, stay ignored.

    Outside the main thread, where Python installs no handlers, nothing changes.
    """
    current = {number: signal.getsignal(number) for number in handlers}
    main = threading.current_thread() is threading.main_thread()
    previous = {number: handler for number, handler in current.items() if main and handler != signal.SIG_IGN}
    try:
        for number in previous:
            signal.signal(number, handlers[number])
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def describe_process(pid: int) -> str:
    """Return ``PID:START`` for a living process, else an empty text.

    START, in clock ticks since boot, differs between processes that have the same number one after the other. It is
    empty on systems other than Linux.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{pid}:{fields[19]}"
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:  # another user's process
        pass
    return f"{pid}:"


def end_with_run(end: Callable[[], Any] | None = None) -> None:
    """If a run started this process (`RUN_VARIABLE`), call `end` when that run ends; by default, end this process.

    Raises `StudyError` if that run has ended already.
    """
    run = os.environ.get(RUN_VARIABLE)
    if not run or os.name == "nt":
        return
    with suppress(OSError):  # the working directory is not a study
        _locked_files.append(PROCESSES_LOCK.open())
        fcntl.flock(_locked_files[-1], fcntl.LOCK_SH)
    pid = run.partition(":")[0]
    if not pid.isdecimal() or describe_process(int(pid)) != run:
        raise StudyError(
            f"the run of facespec that this stage belongs to ({RUN_VARIABLE}={run}) has ended, so it does not begin. "
            f"Start `facespec repro` again, or unset {RUN_VARIABLE} to run a stage by itself."
        )

    def watch() -> None:
        _await_end(run)
        (end or _end_self)()

    threading.Thread(target=watch, name=f"end with {run}", daemon=True).start()


def _end_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    _set_alarm()


def _await_end(process: str) -> None:
    pid = int(process.partition(":")[0])
    with suppress(AttributeError, OSError):  # systems without such descriptors: look once a second
        descriptor = os.pidfd_open(pid)
        if describe_process(pid) == process:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll()
        os.close(descriptor)
    while describe_process(pid) == process:
        time.sleep(1)


def await_processes(root: Path, *, seconds: float) -> None:
    """Wait until every process of an earlier, killed run in `root` has ended; raises `StudyError` after `seconds`."""
    path = root / PROCESSES_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with path.open("a") as file:
        while fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StudyError(
                        f"{root}: processes of an earlier run are still at work here. Wait for them to end."
                    ) from None
                time.sleep(0.05)
            except OSError:  # a file system without locks
                return
