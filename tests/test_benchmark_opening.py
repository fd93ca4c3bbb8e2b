"""The benchmark of opening checks runs stages, times every kind of check, and adds up; how fast they are is no test."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/opening.py")


def test_a_stopwatch_counts_nested_calls_once(benchmark: ModuleType) -> None:
    watch = benchmark.Stopwatch()
    inner = watch.time("files", lambda: time.sleep(0.02) or 7)
    outer = watch.time("rows", lambda: inner() + inner())
    assert outer() == 14 and inner() == 7
    assert watch.seconds["rows"] >= 0.04 and 0.02 <= watch.seconds["files"] < watch.seconds["rows"]
    assert watch.seconds["tables"] == 0

    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        watch.time("tables", fail)()
    assert watch.seconds["tables"] > 0
    before = watch.seconds["files"]
    inner()
    assert watch.seconds["files"] > before  # the failure has stopped the watch


def test_every_stage_of_the_pipeline_is_measured(benchmark: ModuleType, project: Path, tiny_study: Path) -> None:
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    commands = benchmark.list_commands(tiny_study)
    assert list(dict.fromkeys(command[0] for command in commands)) == list(stages)
    assert commands[:3] == [["train", network, "5"] for network in ("expression", "identity", "joint")]


@pytest.mark.pipeline
def test_the_report_of_a_tiny_study(
    benchmark: ModuleType, analysed_study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, seconds = benchmark.measure, {}
    monkeypatch.setattr(benchmark, "measure", lambda *args: seconds.setdefault(args[1][0], measure(*args)))
    before = (analysed_study / "Results" / "overlap.csv").stat().st_mtime_ns
    benchmark.main([str(analysed_study), "--stages", "decoding", "overlap", "export"])
    lines = capsys.readouterr().out.splitlines()
    rows = {
        row[0]: [float(cell.strip("%")) for cell in row[1:]]
        for row in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:-2])
    }
    assert list(rows) == ["decoding", "overlap", "export"]
    read = {
        "decoding": ["files", "documents", "arrays", "rows"],
        "overlap": ["files", "documents"],
        "export": ["files", "documents", "rows", "tables"],
    }
    for name, (process, stage, *parts, share, larger) in rows.items():
        assert [kind for kind, time_taken in seconds[name]["checks"].items() if time_taken > 0] == read[name]
        assert parts == [round(1000 * time_taken, 1) for time_taken in seconds[name]["checks"].values()]
        assert process > stage > 0 and 0 <= share <= larger
        assert share == pytest.approx(sum(parts) / 10 / process, abs=0.02)  # printed to 0.1 ms, 0.01 s and 0.01 %
    assert lines[-1] == f"Largest share of a process: {max(row[-2] for row in rows.values()):.2f}%; target: below 2%."
    assert (analysed_study / "Results" / "overlap.csv").stat().st_mtime_ns == before  # it worked in a copy
