"""The benchmark of the strongest images compares equal work; how fast it is is no test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/strongest.py")


def test_the_report_of_a_toy_run(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    benchmark.main(["--images", "23", "--px", "16", "--k", "3", "--batch", "10", "--repeats", "3", "--threads", "1"])
    assert torch.get_num_threads() == threads
    first, _, _, _, row = capsys.readouterr().out.splitlines()
    assert first == (
        "The 3 strongest of 23 images of 16x16 px for each of 240 units; CPU, threads: 1; torch "
        f"{torch.__version__}; 3 repeats, interleaved."
    )
    times, target = re.findall(r"[0-9.]+", row)[2:5], row.split("|")[4].strip()
    middle, low, high = map(float, times)
    assert 0 < low <= middle <= high and target == "at most 1.3"


def test_both_pass_all_images_and_all_convolutions_are_ranked(benchmark: ModuleType, tmp_path: Path) -> None:
    network, faces = benchmark.network_of(), benchmark.faces_of(tmp_path / "faces", 23, 16)
    assert benchmark.plain(network, faces, 10) == 23
    found = benchmark.ranked(network, faces, 10, 23)
    assert {name: own.image.shape for name, own in found.items()} == {
        f"trunk.relu{i}": (units, 23) for i, units in enumerate((16, 32, 64, 128), start=1)
    }
    for own in found.values():
        assert all(sorted(images) == list(range(23)) for images in own.image.tolist())
