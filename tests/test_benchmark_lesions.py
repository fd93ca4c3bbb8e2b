"""The benchmark of lesions compares equal work, and says what was run; how fast it is is no test."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from facespec.data.batches import make_small_preset
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import write_faceset
from facespec.models import trunks
from facespec.models.checkpoints import Checkpoint, Origin, save_checkpoint
from facespec.study.tables import LABELS
from facespec.study.vocabulary import EXPRESSIONS, Network

TOY = shlex.split(
    "--px 33 --images 3 --peer-units 2 --rank-images 7 --screen-images 16 --channels 3 5 11 6 --small-px 17 "
    "--widths 4 7 --growth-images 2 3 5 --batch 4 --repeats 1 --threads 1"
)
LAYERS = [f"trunk.conv{i}" for i in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def benchmark(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/lesions.py")


def make_ranking(benchmark: ModuleType, layer: str = "trunk.conv2", task: str = "identity") -> Any:
    network = benchmark.make_network("small_vgg", [3, 5, 11, 6], 1)
    return benchmark.Ranking(network, layer, benchmark.make_noise(13, 1, 17), task)


def test_the_report_of_a_toy_run(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", tuple((3 + i % 2,) * len(b) for i, b in enumerate(trunks.VGG16_BLOCKS)))
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    threads = torch.get_num_threads()
    benchmark.main([*TOY, "--study", str(tmp_path)])
    assert torch.get_num_threads() == threads
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"CPU, threads: 1; torch {torch.__version__}; batches of 4 images."
    tables: list[list[list[str]]] = [[]]
    for line in lines:
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    (heads, *a), (exact, *b), (_, *screened), (_, *c) = ([head, *rows] for head, _, *rows in tables)
    assert {len(row) for row in a} == {len(heads)} and {len(row) for row in b} == {len(exact)}

    assert [row[:2] for row in a] == [["fc6, fc7, linear", "3"], ["mean of the map, linear", "3"]]
    for row in a:  # largest difference, and largest increase; ranks that differ
        assert float(row[7]) <= 1e-6 < float(row[8]) and row[9] == "0"
        assert float(row[5]) == pytest.approx(float(row[4]) / float(row[2]), rel=0.002)  # of rounded numbers

    assert [row[0] for row in b] == [row[0] for row in screened] == [*LAYERS, "all"]
    assert [row[1] for row in b] == [row[1] for row in screened] == ["3", "5", "11", "6", "25"]
    # by hand, of both tasks: 1, 1, 2, 1 units are chosen one by one, and the others are ranked in a round of their own
    assert [row[2] for row in b] == ["14", "22", "66", "26", "128"]
    assert [row[2] for row in screened] == ["14", "22", "66", "26", "128"]
    for row in b:
        assert float(row[6]) <= 1e-6 and row[7] == "0"
        assert float(row[5]) == pytest.approx(float(row[3]) / float(row[4]), rel=0.002)
    for row in screened:
        assert all(0 <= float(index) <= 1 for index in row[8:]) and len(row) == 10
        loop, exact_, ratio, fast, faster = map(float, row[3:8])
        assert (ratio, faster) == pytest.approx((loop / exact_, loop / fast), rel=0.002)
    for rows, columns in ((b, (3, 4)), (screened, (3, 4, 6))):
        for column in columns:
            assert float(rows[-1][column]) == pytest.approx(sum(float(row[column]) for row in rows[:-1]), rel=0.002)
    for column in (8, 9):
        assert float(screened[-1][column]) == min(float(row[column]) for row in screened[:-1])

    assert [(row[0], row[1], row[2], row[3]) for row in c] == [
        *(("filters", "trunk.conv2", width, "3") for width in ("4", "7")),
        *(("images", "trunk.conv2", "5", images) for images in ("2", "3", "5")),
        *(("depth", layer, units, "3") for layer, units in zip(LAYERS, ("3", "5", "11", "6"), strict=True)),
    ]
    assert "B. random weights, images of noise; 32 images" in "\n".join(lines)
    assert "Exact mode" in "\n".join(lines) and "one-pass mode" in "\n".join(lines)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("task", ["expression", "identity"])
@pytest.mark.usefixtures("one_thread")
def test_both_rankings_are_equal(benchmark: ModuleType, layer: str, task: str) -> None:
    search = benchmark.Search(0.1, 0.5, 9, batch_size=4)
    ranking = make_ranking(benchmark, layer, task)
    table, expected = ranking.run_facespec(search), ranking.run_loop(search)
    assert table[["unit", "round"]].equals(expected[["unit", "round"]])
    np.testing.assert_allclose(table["increase"], expected["increase"], atol=1e-6)
    assert expected["increase"].abs().max() > 1e-4, "the layer has no influence"


@pytest.mark.usefixtures("one_thread")
def test_the_loss_of_the_loop_is_that_of_a_network_without_these_units(benchmark: ModuleType) -> None:
    """A norm with negative output everywhere gives 0 after its ReLU. The hook is removed."""
    ranking, rows = make_ranking(benchmark), np.array([4, 0, 9, 2, 11])
    whole, lesioned = ranking.compute_loss([], rows, 2), ranking.compute_loss([1, 3], rows, 2)
    assert ranking.compute_loss([], rows, 5) == pytest.approx(whole, rel=1e-6) and abs(whole - lesioned) > 1e-4
    norm = ranking.network.trunk.norm2
    with torch.no_grad():
        norm.weight[[1, 3]], norm.bias[[1, 3]] = 0.0, -1.0
        logits = ranking.network(ranking.images.images(rows))["identity"]
    expected = functional.cross_entropy(logits, torch.from_numpy(ranking.images.classes["identity"][rows]))
    assert lesioned == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("group", "greedy"), [(0.1, 0.5), (0.4, 0.7), (1, 0), (0.016, 0.2), (0.3, 1)])
def test_passes_are_those_of_the_loop(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, group: float, greedy: float
) -> None:
    calls = []
    monkeypatch.setattr(
        benchmark.Ranking, "compute_loss", lambda self, lesion, rows, batch: calls.append(lesion) or 0.0
    )
    search = benchmark.Search(group, greedy, 9)
    make_ranking(benchmark, "trunk.conv3").run_loop(search)
    assert len(calls) == benchmark.count_passes(search, 11)


def make_order(*units: int) -> pd.DataFrame:
    return pd.DataFrame({"unit": units, "increase": [0.5 - 0.125 * unit for unit in units]})


def test_rankings_are_compared_by_unit(benchmark: ModuleType) -> None:
    other = make_order(0, 2, 1, 3).assign(increase=[0.5, 0.25, 0.5, 0.125])  # unit 1: .125 more
    assert benchmark.compare_rankings(make_order(0, 1, 2, 3), other) == (0.125, 2)
    ten = list(range(10))
    assert benchmark.compute_jaccard(make_order(*ten), make_order(*ten)) == 1
    assert benchmark.compute_jaccard(make_order(*ten), make_order(1, 0, *ten[2:])) == 1  # the same fifth
    assert benchmark.compute_jaccard(make_order(*ten), make_order(0, 2, 1, *ten[3:])) == pytest.approx(1 / 3)
    assert benchmark.compute_jaccard(make_order(*ten), make_order(*ten[::-1])) == 0


@pytest.mark.usefixtures("one_thread")
def test_indices_and_times_are_of_what_was_run(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Screening that chooses the other end has index 0 for one of the tasks; each mode runs once per task."""
    runs = []

    def run_facespec(self: Any, search: Any) -> pd.DataFrame:
        runs.append((self.task, search.screening, search.images, search.greedy_p))
        return make_order(*range(11)[:: -1 if search.screening and self.task == "identity" else 1])

    monkeypatch.setattr(benchmark.Ranking, "run_facespec", run_facespec)
    rankings = [make_ranking(benchmark, "trunk.conv3", task) for task in benchmark.CLASSES]
    layer, units, passes, *_, expression, identity = benchmark.measure_screening(
        rankings, benchmark.parse_arguments(TOY)
    )
    assert (layer, units, passes, expression, identity) == ("trunk.conv3", 11, 66, 1, 0)
    assert runs == [(task, mode, 16, 0.2) for task in ("expression", "identity") for mode in (False, True)]


def test_theory_by_hand(benchmark: ModuleType) -> None:
    """Maps of 17, 8, 4 and 2 px; 77 classes."""
    network = benchmark.make_network("small_vgg", [3, 5, 11, 6], 1)
    first, second = 17 * 17 * 9 * 3, 8 * 8 * 9 * 3 * 5
    third, fourth, heads = 4 * 4 * 9 * 5 * 11, 2 * 2 * 9 * 11 * 6, 6 * 77
    total = first + second + third + fourth + heads
    for layer, expected in (
        ("trunk.conv2", (total + third, third / 5, fourth + heads)),
        ("trunk.conv4", (total + heads, heads / 6, 0)),
    ):
        np.testing.assert_allclose(benchmark.count_multiplications(network, layer, 17), np.array(expected) / 1e6)


def test_part_b_uses_the_network_and_faces_of_a_study(benchmark: ModuleType, project: Path, tmp_path: Path) -> None:
    network, people = benchmark.make_network("small_vgg", [3, 5, 11, 6], 1), [f"p{i:02d}" for i in range(70)]
    kinds = [kind.value for kind in EXPRESSIONS]
    classes = {"expression": tuple(kinds), "identity": tuple(people)}
    save_checkpoint(
        tmp_path / "checkpoints" / "finetune" / "joint-1.safetensors",
        Checkpoint(network, Origin("finetune", Network.JOINT, 1), classes, make_small_preset(17, 1), {}, []),
    )
    n = 2 * 7 * 70  # two of each cell, one of which is held out
    labels = pd.DataFrame("", index=range(n), columns=list(LABELS.columns))
    labels = labels.assign(
        stimulus=[f"{i:04d}" for i in range(n)], split="probe", identity=people * 14, expression=np.repeat(kinds, 140)
    )
    pixels = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (n, 17, 17), dtype=np.uint8)
    description = FaceSetDescription("probe", 2048, None, {"source": "noisy faces"})
    write_faceset(tmp_path / "data" / "probe", [FaceChunk(pixels, labels)], description)
    (tmp_path / "params.yaml").write_text((project / "params.yaml").read_text())
    label, loaded, images = benchmark.open_study(benchmark.parse_arguments([*TOY, "--study", str(tmp_path)]))
    assert label == "fine-tuned weights (joint, seed 1), noisy faces" and len(images) == n // 2
    assert torch.equal(loaded.trunk.conv2.weight, network.trunk.conv2.weight)
    assert {task: np.bincount(codes).tolist() for task, codes in images.classes.items()} == {
        "expression": [70] * 7,
        "identity": [7] * 70,
    }
    assert images.images(np.arange(3)).shape == (3, 1, 17, 17)
    assert math.isclose(float(images.images(np.arange(490)).mean()), 0, abs_tol=0.05)
