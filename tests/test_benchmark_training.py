"""The benchmark of training compares equal work; how fast it is is no test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from facespec.training import fit as room


@pytest.fixture(scope="module")
def benchmark(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/training.py")


def test_the_report_of_a_toy_run(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--images", "20", "--px", "16", "--batch", "10", "--repeats", "2"])
    first, _, _, _, facespec, plain = capsys.readouterr().out.splitlines()
    assert first.startswith("Default joint network, 20 images of 16x16 px per task, batches of 10 per task; CPU, one")
    middle, low, high = (float(number) for number in re.findall(r"\d+\.\d+", facespec)[-3:])
    assert facespec.startswith("| facespec |") and 0 < low <= middle <= high
    assert plain.startswith("| plain loop |") and plain.endswith("| 1.00 |")


def test_both_take_as_many_steps_on_as_many_images(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = benchmark.write_noise(tmp_path, 20, 16), benchmark.make_plan(16, 10, 20)
    steps: list[str] = []
    honest = torch.optim.AdamW.step

    def counted(optimizer: torch.optim.AdamW, *rest: object) -> object:
        steps.append("fused" if optimizer.defaults["fused"] else "plain")
        return honest(optimizer, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    with torch.random.fork_rng(devices=[]):
        benchmark.train_plainly(benchmark.build_joint_network(), data, plan)
    room.fit(
        benchmark.build_joint_network(), data, plan, generator=benchmark.generator(3, "batches"), unfinished=tmp_path / "u"
    )
    assert steps == ["plain", "plain", "fused", "fused"]


def test_the_plain_loop_reads_the_images_that_facespec_reads(benchmark: ModuleType, tmp_path: Path) -> None:
    data = benchmark.write_noise(tmp_path, 5, 16)["identity"]
    with torch.random.fork_rng(devices=[]):
        image, code = benchmark.Shifted(data, 0)[3]
    face = torch.from_numpy(data.faces.images(np.array([3]))[0]).float() / 127.5 - 1
    assert code == data.codes[3] and image.shape == (1, 16, 16)
    assert torch.allclose(image[0], face) or torch.allclose(image[0].flip(1), face)  # flipped or not
