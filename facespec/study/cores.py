"""How many processor cores may this process use?"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS_FILE = Path("/proc/self/cgroup")  # Linux: the control groups of this process, one line per hierarchy
CGROUPS_ROOT = Path("/sys/fs/cgroup")  # Linux: the limits of all control groups


def count_cores() -> int:
    """Count the cores that this process may use: by its affinity, and by the quotas of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _read_quotas())]))


def _read_quotas() -> Iterator[float]:
    """Yield the quota, in cores, of each control group of this process and of each group that encloses it."""
    for line in _read_text(CGROUPS_FILE).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        for enclosing in (group, *group.parents):  # a container may know only the root, not its path on the host
            if controllers:  # version 1
                directory = CGROUPS_ROOT / controllers / enclosing
                text = _read_text(directory / "cpu.cfs_quota_us") + " " + _read_text(directory / "cpu.cfs_period_us")
            else:
                text = _read_text(CGROUPS_ROOT / enclosing / "cpu.max")
            words = text.split()
            if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):  # neither "max" nor "-1"
                yield int(words[0]) / int(words[1])


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
