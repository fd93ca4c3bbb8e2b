"""How a process ends: in order when a signal asks for it, and together with the run that started it."""

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

RUN = "FACESPEC_RUN"  # environment variable: the run that started this process, see `describe_process`
PRESENCE = Path(".facespec", "processes.lock")  # in the study directory: every process of a run holds a shared lock
LIMIT = 5  # seconds for an end in order
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

Handler = Callable[[int, FrameType | None], Any]
_present: list[IO[str]] = []  # files whose locks end with this process


class RunEnded(SystemExit):
    """The signal `number` ends this process, with exit status 128 + `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise `RunEnded` in the main thread, so that nothing half-written stays behind.

    Whatever has not ended after `LIMIT` seconds, such as threads at long work, is ended by the system.
    """
    for number in ENDING:
        if number != signal.SIGINT and signal.getsignal(number) != signal.SIG_IGN:  # ignored, as under nohup
            signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    for each in ENDING:  # whoever asks twice must not interrupt the cleaning up
        signal.signal(each, signal.SIG_IGN)
    _limit()
    raise RunEnded(number)


def _limit() -> None:
    if hasattr(signal, "alarm"):  # no thread can miss it, and no lock can hold it up
        signal.alarm(LIMIT)


@contextmanager
def handle_signals(handlers: dict[int, Handler]) -> Iterator[None]:
    """Inside, `handlers` answer their signals; ignored ones, such as SIGHUP under nohup, stay ignored.

    In another thread than the main one, where Python lets nobody answer signals, nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in handlers if main}
    replaced = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    try:
        for number in replaced:
            signal.signal(number, handlers[number])
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def describe_process(pid: int) -> str:
    """``PID:START`` of a living process, empty for none; START tells apart processes that get one number in turn.

    START is in clock ticks since boot, and empty on systems other than Linux.
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
    except PermissionError:  # another user's
        pass
    return f"{pid}:"


def end_with_run(end: Callable[[], Any] | None = None) -> None:
    """If a run started this process (`RUN`), call `end` when that run ends, however it does; by default end as well.

    Raises `StudyError` if that run has ended already.
    """
    run = os.environ.get(RUN)
    if not run or os.name == "nt":
        return
    with suppress(OSError):  # run elsewhere than in the study
        _present.append(PRESENCE.open())
        fcntl.flock(_present[-1], fcntl.LOCK_SH)
    pid = run.partition(":")[0]
    if not pid.isdecimal() or describe_process(int(pid)) != run:
        raise StudyError(
            f"the run of facespec that this stage belongs to ({RUN}={run}) has ended, so it does not begin. "
            f"Start `facespec repro` again, or unset {RUN} to run a stage by itself."
        )

    def watch() -> None:
        _await_end(run)
        (end or _end_here)()

    threading.Thread(target=watch, name=f"end with {run}", daemon=True).start()


def _end_here() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    _limit()


def _await_end(process: str) -> None:
    pid = int(process.partition(":")[0])
    with suppress(AttributeError, OSError):  # where the system has no such files, one look a second follows
        file = os.pidfd_open(pid)
        if describe_process(pid) == process:
            ended = select.poll()
            ended.register(file, select.POLLIN)
            ended.poll()
        os.close(file)
    while describe_process(pid) == process:
        time.sleep(1)


def await_processes(root: Path, *, seconds: float) -> None:
    """Wait until every process of an earlier, killed run in `root` has ended; `StudyError` after `seconds`."""
    file = root / PRESENCE
    file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with file.open("a") as presence:
        while fcntl:
            try:
                fcntl.flock(presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StudyError(
                        f"{root}: processes of an earlier run are still at work here. Wait for them to end."
                    ) from None
                time.sleep(0.05)
            except OSError:  # a file system without locks
                return
