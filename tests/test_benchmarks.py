"""The benchmarks run, compare equal work, and report what they measured; how fast they are is no test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOY = ["--trunk", "small_vgg", "--px", "32", "--images", "5", "--batch", "3", "--repeats", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def heatmaps(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/heatmaps.py")


def test_the_report_of_a_toy_run(heatmaps: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    heatmaps.main([*TOY, "--memory-images"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "small_vgg, joint network (7 expressions, 70 people), 5 images of 32x32 px and 3 channels in batches of 3; "
        "CPU, threads: 1; torch "
    ) and lines[0].endswith("; 2 repeats, interleaved.")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert [row[0] for row in rows] == ["facespec", "captum", "pytorch-grad-cam"]
    assert [row[3] for row in rows] == ["-", "at least 1.5", "at least 3.0"] and rows[0][2] == "1.00"
    for row in rows:
        low, middle, high = (float(re.findall(r"[0-9.]+", row[1])[i]) for i in (1, 0, 2))
        assert 0 < low <= middle <= high and float(row[2]) > 0
    assert all(float(row[4]) < 1e-3 for row in rows[1:])  # equal work: the same maps, to float32


def test_all_libraries_find_the_same_means(heatmaps: ModuleType) -> None:
    """Of small maps enlarged: pytorch-grad-cam stretches them once more, which moves means a little."""
    network = heatmaps.network_of("small_vgg")
    means = {name: run(network, heatmaps.batches(5, 3, 32)) for name, run in heatmaps.RUNNERS.items()}
    for task in ("expression", "identity"):
        assert means["facespec"][task].shape == (32, 32) and means["facespec"][task].any()
        np.testing.assert_allclose(means["captum"][task], means["facespec"][task], rtol=0, atol=1e-5)
        np.testing.assert_allclose(means["pytorch-grad-cam"][task], means["facespec"][task], rtol=0, atol=0.2)


@pytest.mark.pipeline
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells a process's own peak memory")
def test_peak_memory_is_that_of_a_fresh_process(heatmaps: ModuleType) -> None:
    """Not that of the process that started it, which ru_maxrss would report where that one is the larger."""
    ballast = np.ones(300_000_000)  # 2,400 MB, touched
    peak = heatmaps.peak(2, heatmaps.parsed([*TOY, "--memory-px", "16"]))
    assert 50 < peak < ballast.nbytes / 1e6
