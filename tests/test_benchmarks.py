"""Do the benchmarks compare equal work and report what they measured? How fast anything is, is no test."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from facespec.training.fit import fit
from toys import random_images

HEATMAPS = ["--trunk", "small_vgg", "--px", "32", "--images", "5", "--batch", "3", "--repeats", "2", "--threads", "1"]
PREFERRED = ["--trunk", "small_vgg", "--px", "24", "--steps", "3", "--units", "3", "--peer-units", "2", "--batch", "4"]
PREFERRED += ["--threads", "1"]


@pytest.fixture(scope="module")
def load_benchmark(load_script: Callable[[str], ModuleType]) -> Callable[[str], ModuleType]:
    """Load a program of `benchmarks/` by its name, once."""
    return cache(lambda name: load_script(f"benchmarks/{name}.py"))


@pytest.fixture
def heatmaps(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("heatmaps")


@pytest.fixture
def opening(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("opening")


@pytest.fixture
def preferred(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    module = load_benchmark("preferred")
    module.render = None  # lucent, where it is installed, uses global random states
    return module


@pytest.fixture
def strongest(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("strongest")


@pytest.fixture
def training(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("training")


def run_report(benchmark: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a benchmark prints; torch's number of threads must be as before."""
    threads = torch.get_num_threads()
    benchmark.main(arguments)
    assert torch.get_num_threads() == threads, "restore torch's number of threads"
    return capsys.readouterr().out.splitlines()


def read_row(line: str) -> list[str]:
    """The cells of a Markdown table's row."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def assert_median_between_extremes(cell: str) -> None:
    """A cell such as '1.24 (1.11 to 1.28)': the median lies between the least and the most."""
    median, least, most = (float(number.replace(",", "")) for number in re.findall(r"[0-9.,]+", cell))
    assert 0 < least <= median <= most


def test_heatmaps_reports_three_libraries_that_compute_the_same_maps(
    heatmaps: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run_report(heatmaps, [*HEATMAPS, "--memory-images"], capsys)
    assert lines[0].startswith(
        "small_vgg, joint network (7 expressions, 70 people), 5 images of 32x32 px and 3 channels in batches of 3; "
        "CPU, threads: 1; torch "
    ) and lines[0].endswith("; 2 repeats, interleaved.")
    rows = [read_row(line) for line in lines[4:]]
    assert [row[0] for row in rows] == ["facespec", "captum", "pytorch-grad-cam"]
    assert [row[3] for row in rows] == ["-", "at least 1.5", "at least 3.0"] and rows[0][2] == "1.00"
    for row in rows:
        assert_median_between_extremes(row[1])
        assert float(row[2]) > 0
    assert all(float(row[4]) < 1e-3 for row in rows[1:])  # equal work: the same maps, to float32


def test_heatmaps_of_all_libraries_have_the_same_means(heatmaps: ModuleType) -> None:
    """pytorch-grad-cam scales its maps once more after enlarging them, which moves small means a little."""
    network = heatmaps.build_joint_network("small_vgg")
    means = {name: run(network, heatmaps.iterate_noise(5, 3, 32)) for name, run in heatmaps.RUNNERS.items()}
    for task in ("expression", "identity"):
        assert means["facespec"][task].shape == (32, 32) and means["facespec"][task].any()
        np.testing.assert_allclose(means["captum"][task], means["facespec"][task], rtol=0, atol=1e-5)
        np.testing.assert_allclose(means["pytorch-grad-cam"][task], means["facespec"][task], rtol=0, atol=0.2)


@pytest.mark.pipeline
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux reports a process's own peak memory")
def test_peak_memory_is_that_of_a_fresh_process(heatmaps: ModuleType) -> None:
    """Not that of its parent, which ru_maxrss would report where the parent is larger."""
    ballast = np.ones(300_000_000)  # 2,400 MB, written to
    peak = heatmaps.measure_peak_memory(2, heatmaps.parse_arguments([*HEATMAPS, "--memory-px", "16"]))
    assert 50 < peak < ballast.nbytes / 1e6


def test_a_stopwatch_counts_nested_calls_once(opening: ModuleType) -> None:
    watch = opening.Stopwatch()
    inner = watch.time("files", lambda: time.sleep(0.02) or 7)
    outer = watch.time("rows", lambda: inner() + inner())
    assert outer() == 14 and inner() == 7
    assert watch.seconds["rows"] >= 0.04 and 0.02 <= watch.seconds["files"] < watch.seconds["rows"]
    assert watch.seconds["tables"] == 0

    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        watch.time("tables", fail)()
    before = watch.seconds["files"]
    inner()
    assert watch.seconds["tables"] > 0 and watch.seconds["files"] > before, "the failure must stop the watch"


def test_opening_measures_every_stage_of_the_pipeline(opening: ModuleType, project: Path, tiny_study: Path) -> None:
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    commands = opening.list_commands(tiny_study)
    assert list(dict.fromkeys(command[0] for command in commands)) == [
        name for name in stages if name not in ("fingerprints", "data")
    ], "list the stage in opening.py"
    assert commands[:3] == [["train", network, "5"] for network in ("expression", "identity", "joint")]


@pytest.mark.pipeline
def test_opening_reports_the_checks_of_a_tiny_study(
    opening: ModuleType, analysed_study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, measured = opening.measure, {}
    monkeypatch.setattr(opening, "measure", lambda *args: measured.setdefault(args[1][0], measure(*args)))
    before = (analysed_study / "Results" / "overlap.csv").stat().st_mtime_ns
    opening.main([str(analysed_study), "--stages", "decoding", "overlap", "export"])
    lines = capsys.readouterr().out.splitlines()
    rows = {name: [float(cell.strip("%")) for cell in cells] for name, *cells in map(read_row, lines[2:-2])}
    checked = {
        "decoding": ["files", "documents", "arrays", "rows"],
        "overlap": ["files", "documents"],
        "export": ["files", "documents", "rows", "tables"],
    }
    assert list(rows) == list(checked)
    for name, (process, stage, *parts, share, larger_share) in rows.items():
        seconds = measured[name]["checks"]
        assert [kind for kind, value in seconds.items() if value > 0] == checked[name]
        assert parts == [round(1000 * value, 1) for value in seconds.values()]
        assert process > stage > 0 and 0 <= share <= larger_share
        assert share == pytest.approx(sum(parts) / 10 / process, abs=0.02)  # printed to 0.1 ms, 0.01 s and 0.01 %
    assert lines[-1] == f"Largest share of a process: {max(row[-2] for row in rows.values()):.2f}%; target: below 2%."
    assert (analysed_study / "Results" / "overlap.csv").stat().st_mtime_ns == before, "work in a copy of the study"


def test_preferred_reports_every_convolution(preferred: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    first, _, header, _, *rows, _, last = run_report(preferred, PREFERRED, capsys)
    assert first == (
        "small_vgg, random weights, 24x24 px, 3 channels, 3 steps; facespec: 3 units per layer, 4 at once; a loop "
        f"after lucent: 2 units per layer, one at a time; CPU, threads: 1; torch {torch.__version__}."
    )
    assert [read_row(row)[0] for row in rows] == [f"trunk.relu{i}" for i in (1, 2, 3, 4)]
    for row in rows:
        assert len(read_row(row)) == len(read_row(header))
        ours, theirs, ratio = (float(cell) for cell in read_row(row)[1:4])
        assert ratio == pytest.approx(ours / theirs, rel=0.05, abs=0.06)  # printed with one decimal
    assert re.search(r"target: at least 5. Response not lower for \d of 8 units.$", last)


@pytest.mark.parametrize("draw", ["draw_with_facespec", "draw_with_loop"])
def test_more_steps_drive_the_units_more(preferred: ModuleType, draw: str) -> None:
    network, responses = preferred.build_joint_network("small_vgg"), []
    for steps in ("1", "24"):
        options = preferred.parse_arguments([*PREFERRED, "--steps", steps])
        images = getattr(preferred, draw)(network, "trunk.relu2", 3, options)
        assert images.shape == (3, 24, 24, 3) and images.min() >= 0 and images.max() <= 1
        responses.append(preferred.measure_responses(network, "trunk.relu2", images))
    assert (responses[1] > responses[0]).all()


def test_each_picture_is_judged_by_the_unit_it_was_made_for(preferred: ModuleType) -> None:
    network = preferred.build_joint_network("small_vgg")
    inputs = random_images(3, 3, 24, 24)
    with torch.no_grad():
        maps = network.trunk[:3](inputs)
    responses = preferred.measure_responses(network, "trunk.relu1", (inputs.permute(0, 2, 3, 1).numpy() + 1) / 2)
    np.testing.assert_allclose(responses, [maps[i, i].mean() for i in range(3)], rtol=1e-4)


def test_strongest_reports_the_ratio_of_both_passes(strongest: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--images", "23", "--px", "16", "--k", "3", "--batch", "10", "--repeats", "3", "--threads", "1"]
    first, _, _, _, row = run_report(strongest, arguments, capsys)
    assert first == (
        "The 3 strongest of 23 images of 16x16 px for each of 240 units; CPU, threads: 1; torch "
        f"{torch.__version__}; 3 repeats, interleaved."
    )
    assert_median_between_extremes(read_row(row)[2])
    assert read_row(row)[3] == "at most 1.3"


def test_both_passes_cover_all_images_and_all_convolutions(strongest: ModuleType, tmp_path: Path) -> None:
    network, faces = strongest.build_joint_network(), strongest.write_noise(tmp_path / "faces", 23, 16)
    assert strongest.pass_images(network, faces, 10) == 23
    ranking = strongest.rank_images(network, faces, 10, 23)
    assert {name: layer.image.shape for name, layer in ranking.items()} == {
        f"trunk.relu{i}": (units, 23) for i, units in enumerate((16, 32, 64, 128), start=1)
    }
    for layer in ranking.values():
        assert all(sorted(images) == list(range(23)) for images in layer.image.tolist())


def test_training_reports_both_loops(training: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run_report(training, ["--images", "20", "--px", "16", "--batch", "10", "--repeats", "2"], capsys)
    assert lines[0].startswith(
        "Default joint network, 20 images of 16x16 px per task, batches of 10 per task; CPU, one"
    )
    facespec, plain = map(read_row, lines[4:])
    assert facespec[0] == "facespec" and plain[0] == "plain loop" and plain[2] == "1.00"
    for cell in (facespec[1], plain[1], facespec[2]):
        assert_median_between_extremes(cell)


def test_both_loops_take_as_many_steps_on_as_many_images(
    training: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = training.write_noise(tmp_path, 20, 16), training.make_plan(16, 10, 20)
    steps: list[str] = []
    original_step = torch.optim.AdamW.step

    def count_step(optimizer: torch.optim.AdamW, *arguments: object) -> object:
        steps.append("fused" if optimizer.defaults["fused"] else "plain")
        return original_step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", count_step)
    with torch.random.fork_rng(devices=[]):
        training.train_plainly(training.build_joint_network(), data, plan)
    draws = training.generator(3, "batches")
    fit(training.build_joint_network(), data, plan, generator=draws, progress_file=tmp_path / "unfinished")
    assert steps == ["plain", "plain", "fused", "fused"]


def test_the_plain_loop_reads_the_images_that_facespec_reads(training: ModuleType, tmp_path: Path) -> None:
    data = training.write_noise(tmp_path, 5, 16)["identity"]
    with torch.random.fork_rng(devices=[]):
        image, code = training.ShiftedFaces(data, 0)[3]
    face = torch.from_numpy(data.faces.images(np.array([3]))[0]).float() / 127.5 - 1
    assert code == data.codes[3] and image.shape == (1, 16, 16)
    assert torch.allclose(image[0], face) or torch.allclose(image[0].flip(1), face)  # flipped or not
