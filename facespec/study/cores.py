"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMBERSHIP = Path("/proc/self/cgroup")  # Linux: the control groups of this process, a line per hierarchy
HIERARCHIES = Path("/sys/fs/cgroup")


def count_cores() -> int:
    """The cores that affinity and cpuset leave to this process, or fewer where a control group's quota allows fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """What each control group around this process allows, in cores: the tightest holds, be it the outermost."""
    for line in _read(MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        # in a container, the path may be that on its host; the limits then are those of the root
        for place in (group, *group.parents):
            if controllers:  # version 1
                directory = HIERARCHIES / controllers / place
                names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
                words = [word for name in names for word in _read(directory / name).split()]
            else:
                words = _read(HIERARCHIES / place / "cpu.max").split()
            if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):  # neither "max" nor "-1"
                yield int(words[0]) / int(words[1])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
