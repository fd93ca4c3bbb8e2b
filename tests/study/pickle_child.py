"""Reads pickles that a test sends, and reports what the reader did; an attack may end this process.

Standard input holds samples, each after its length (4 bytes). For each, one JSON line is printed: `outcome` ("read" or
"refused"), `message` of a refusal, and `faults`: what must never happen. After a second of processor time, the system
ends the process. With the argument `unsafe`, Python's own reader reads, so that a test can check that faults are found.
"""

from __future__ import annotations

import json
import pickle
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from facespec.study.errors import StudyError
from facespec.study.pickles import read_pickle

MEMORY = 64 * 1024**2  # bytes, in addition to those of the process before the first sample
SECONDS = 1.0
HARMLESS = {"builtins.id"}  # of the audited events of Python, https://docs.python.org/3/library/audit_events.html
SCALARS = {type(None), bool, int, float, complex, str, bytes}
SCALARS |= {np.dtype(code).type for code in ["?", "b", "h", "i", "l", "B", "H", "I", "L", "e", "f", "d", "F", "D"]}

events: list[str] = []
path = Path(sys.argv[1])
read = (lambda path: pickle.loads(path.read_bytes())) if "unsafe" in sys.argv else read_pickle
auditing = False


def record(event: str, arguments: tuple[Any, ...]) -> None:
    opens_sample = event == "open" and arguments[0] == str(path) and arguments[1] in ("r", "rb")
    if auditing and not opens_sample and event not in HARMLESS:
        events.append(event)


def find_foreign_types(value: Any) -> set[str]:
    """Return the names of the types in `value` that no reader may make."""
    foreign, pending, seen = set(), [value], set()
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if type(part) in (list, tuple):
            pending += part
        elif type(part) is dict:
            pending += [*part, *part.values()]
        elif type(part) is np.ndarray:
            plain = part.dtype.type in SCALARS and part.dtype.names is None and part.flags.writeable
            foreign |= set() if plain else {f"array of {part.dtype}"}
        elif type(part) not in SCALARS:
            foreign.add(str(type(part)))
    return foreign


def report(sample: bytes) -> dict[str, Any]:
    global auditing
    path.write_bytes(sample)
    modules = set(sys.modules)
    events.clear()
    outcome, message, faults = "read", "", []
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    auditing = True
    try:
        value = read(path)
    except StudyError as error:
        outcome, message = "refused", str(error)
        if isinstance(error.__cause__, MemoryError):
            faults.append("more memory than stated")
    except BaseException as error:
        faults.append(f"{type(error).__name__} escaped")
    else:
        faults += find_foreign_types(value)
    auditing = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    faults += sorted(set(events)) + sorted(set(sys.modules) - modules)
    if len(message) > len(str(path)) + 300 or (message and not message.isprintable()):
        faults.append("a message that is no single line of text")
    return {"outcome": outcome, "message": message.replace(str(path), "FILE"), "faults": faults}


def main() -> None:
    sys.addaudithook(record)
    report(b"Vx\n.")  # loads a codec of the standard library, once
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    while header := sys.stdin.buffer.read(4):
        print(json.dumps(report(sys.stdin.buffer.read(int.from_bytes(header, "little")))), flush=True)


if __name__ == "__main__":
    main()
