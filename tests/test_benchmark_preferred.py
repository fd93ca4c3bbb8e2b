"""The benchmark of preferred stimuli compares equal work; how fast it is is no test."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

TOY = [
    "--trunk",
    "small_vgg",
    "--px",
    "24",
    "--steps",
    "3",
    "--units",
    "3",
    "--peer-units",
    "2",
    "--batch",
    "4",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def benchmark(load_script: Callable[[str], ModuleType]) -> ModuleType:
    module = load_script("benchmarks/preferred.py")
    module.render = None  # lucent, where it is installed, draws from global random states
    return module


def test_the_report_of_a_toy_run(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    benchmark.main(TOY)
    assert torch.get_num_threads() == threads
    first, _, head, _, *table, _, last = capsys.readouterr().out.splitlines()
    assert first == (
        "small_vgg, random weights, 24x24 px, 3 channels, 3 steps; facespec: 3 units per layer, 4 at once; a loop "
        f"after lucent: 2 units per layer, one at a time; CPU, threads: 1; torch {torch.__version__}."
    )
    assert [row.split("|")[1].strip() for row in table] == [f"trunk.relu{i}" for i in (1, 2, 3, 4)]
    assert head.count("|") == table[0].count("|")
    for row in table:
        ours, theirs, ratio = (float(cell) for cell in row.split("|")[2:5])
        assert ratio == pytest.approx(ours / theirs, rel=0.05, abs=0.06)  # printed with one decimal
    assert re.search(r"target: at least 5. Response not lower for \d of 8 units.$", last)


@pytest.mark.parametrize("draws", ["drawn_by_facespec", "drawn_by_loop"])
def test_both_draw_pictures_of_one_size_that_drive_their_units(benchmark: ModuleType, draws: str) -> None:
    """More steps, more response: both are at work on the units they are asked for."""
    network, seen = benchmark.network_of("small_vgg"), []
    for steps in ("1", "24"):
        options = benchmark.parsed([*TOY, "--steps", steps])
        images = getattr(benchmark, draws)(network, "trunk.relu2", 3, options)
        assert images.shape == (3, 24, 24, 3) and images.min() >= 0 and images.max() <= 1
        seen.append(benchmark.responses(network, "trunk.relu2", images))
    assert (seen[1] > seen[0]).all()


def test_pictures_are_judged_by_the_unit_they_are_for(benchmark: ModuleType) -> None:
    network = benchmark.network_of("small_vgg")
    images = np.random.Generator(np.random.PCG64(1)).random((3, 24, 24, 3), dtype=np.float32)
    inputs = torch.from_numpy(images * 2 - 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        maps = network.trunk[:3](inputs)
    np.testing.assert_allclose(
        benchmark.responses(network, "trunk.relu1", images), [maps[i, i].mean() for i in range(3)], rtol=1e-5
    )
