"""The cores that a process may use, if affinity or control groups allow fewer than there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facespec.study import cores
from facespec.study.cores import count_cores

V2, V1 = "0::{}\n", "3:memory:/other\n2:cpu,cpuacct:{}\n1:name=systemd:/init.scope\n"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 cores, all of them allowed, whose control groups the test writes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "CGROUPS_FILE", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "CGROUPS_ROOT", tmp_path / "fs")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.rstrip() + "\n")


def test_a_system_without_control_groups(groups: Path) -> None:
    assert count_cores() == 64


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        *(("200000 100000", 2), ("250000 100000", 3), ("1000 100000", 1), ("9900000 100000", 64)),
        *(("max 100000", 64), ("", 64), ("nonsense", 64), ("100000 0", 64)),
    ],
)
def test_a_container(groups: Path, quota: str, expected: int) -> None:
    """Its limits are those of the root; a part of a core counts as one."""
    write(groups / "cgroup", V2.format("/"))
    write(groups / "fs" / "cpu.max", quota)
    assert count_cores() == expected


def test_the_smallest_quota_of_nested_groups_counts(groups: Path) -> None:
    """As on a login node with a limit for each user, or for all of them."""
    write(groups / "cgroup", V2.format("/user.slice/user-7.slice/session.scope"))
    users = groups / "fs" / "user.slice"
    write(users / "user-7.slice" / "session.scope" / "cpu.max", "max 100000")
    write(users / "user-7.slice" / "cpu.max", "800000 100000")
    assert count_cores() == 8
    write(users / "cpu.max", "400000 100000")
    assert count_cores() == 4
    write(users / "user-7.slice" / "session.scope" / "cpu.max", "150000 50000")
    assert count_cores() == 3


@pytest.mark.parametrize("path", ["/", "/docker/0123", "/job/step"], ids=["root", "path on the host", "nested"])
def test_the_first_version_of_control_groups(groups: Path, path: str) -> None:
    """A container may know its path on the host, which it cannot read."""
    write(groups / "cgroup", V1.format(path))
    directory = groups / "fs" / "cpu,cpuacct" / ("job/step" if path == "/job/step" else "")
    write(directory / "cpu.cfs_period_us", "100000")
    write(directory / "cpu.cfs_quota_us", "-1")
    assert count_cores() == 64
    write(directory / "cpu.cfs_quota_us", "500000")
    assert count_cores() == 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity, which this system lacks")
def test_affinity_is_the_default_of_every_command_and_an_option_overrides_it() -> None:
    program = """if True:
        import os, sys
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from facespec import cli
        from facespec.stages import repro
        repro.run = lambda paths, *, workers: print(workers) or 0
        os.environ.pop("FACESPEC_WORKERS", None)
        for words, workers in ([], ""), (["--workers", "3"], ""), ([], "5"):
            sys.argv, os.environ["FACESPEC_WORKERS"] = ["facespec", "repro", *words], workers
            try:
                cli.main()
            except SystemExit as end:
                assert not end.code
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.stdout.split(), run.stderr) == (["1", "3", "5"], "")
