from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from facespec.models import device as devices
from facespec.stages import dvc_runs, repro
from facespec.stages.repro import ANALYSES, DIFFERENT, compare_runs, count_networks, share_lines
from facespec.study.code_path import CodePath
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths


@pytest.mark.pipeline
def test_a_stage_that_stops_costs_nobody_elses_work(study_copy: Paths, capfd: pytest.CaptureFixture[str]) -> None:
    params = study_copy.params.read_text()
    study_copy.params.write_text(re.sub(r"seeds:\n?.*?(?=\n[a-z])", "seeds: [5]", params, count=1, flags=re.DOTALL))
    stopped = [study_copy.progress("train", network, 5) for network in ("expression", "joint")]
    for file in stopped:
        file.mkdir(parents=True)  # where the fit keeps its state
    with pytest.raises(StudyError) as caught:
        repro.run(study_copy, workers=2)
    assert re.fullmatch(
        r"dvc repro stopped \(exit status \d+\); the stage's own message stands above, "
        r"before those of stages that lack what it did not make\. "
        r"Finished stages are kept: mend it and run the same command again\.",
        str(caught.value),
    )
    said = capfd.readouterr().err  # of the run in the foreground and of the one in the background alike
    assert all(said.count(f"facespec: {file.relative_to(study_copy.root)}: a directory") == 1 for file in stopped)
    assert study_copy.checkpoint("finetune", "identity", 5).is_file()
    assert not study_copy.checkpoint("train", "expression", 5).exists()


def run(digest: str, number: float = 0.5, *, path: str = "Results/decoding.csv") -> dict[str, Any]:
    outs = [{"path": path, "md5": digest}, {"path": "Results/figures", "md5": "f.dir"}]
    part = {"number": number, "low": 0.4, "high": 0.6}
    return {
        "lock": {"stages": {"decoding": {"outs": outs}, "init": {}}},
        "verdicts": {"C1": {"parts": {"identity": part}}},
    }


def compared(recorded: dict[str, Any], now: dict[str, Any], reason: str = "") -> tuple[str, int]:
    return compare_runs(recorded, now, order=["data", "init", "train", "decoding"], reason=reason)


def test_equal_bytes() -> None:
    assert compared(run("a"), run("a")) == ("All 2 outputs are bit-identical to dvc.lock.", 0)


def test_an_earlier_run_that_was_interrupted_is_no_other_study() -> None:
    """Its stages and parameters are the same, as far as they go."""
    complete = run("a")
    weights = {"outs": [{"path": "weights", "md5": "w"}], "params": {"params.yaml": {"epochs": 3}}}
    complete["lock"]["stages"]["train"] = weights
    assert compared(run("a"), complete) == (
        "The earlier run here had ended after 2 of 3 stages; this one kept their 2 outputs and made the others: there "
        "is nothing to compare with.",
        0,
    )
    assert compared(run("b"), complete)[0].startswith("Not comparable")
    changed = run("a")
    changed["lock"]["stages"]["decoding"]["params"] = {"params.yaml": {"seed": 3}}
    assert compared(changed, complete)[0].startswith("Not comparable")


def test_other_bytes_where_they_should_be_equal() -> None:
    line, status = compared(run("a"), run("b"))
    assert line.startswith("1 of 2 outputs differ from dvc.lock, those of `decoding` first.") and status == DIFFERENT
    assert "requirements.lock" in line and line.endswith("The claims' numbers are within the recorded intervals.")


def test_other_bytes_where_they_may_differ() -> None:
    line, status = compared(run("a"), run("b", 0.6), "this processor has no AVX2")
    assert "That is to be expected, because this processor has no AVX2" in line
    assert line.endswith("The claims' numbers are within the recorded intervals.") and status == 0


@pytest.mark.parametrize("reason", ["", "networks run on a GPU"])
def test_other_bytes_outside_the_intervals(reason: str) -> None:
    line, status = compared(run("a"), run("b", 0.61), reason)
    assert line.endswith("outside the recorded intervals: C1 (identity): +0.610, recorded +0.400 to +0.600.")
    assert status == DIFFERENT


def add_stage(content: dict[str, Any], stage: str, digest: str, *, code: str = "same") -> None:
    entry = {"outs": [{"path": stage, "md5": digest}], "params": {"fingerprints.json": {stage: code}}}
    content["lock"]["stages"][stage] = entry


def test_other_faces_are_not_compared() -> None:
    """Unless it is the code that makes other faces."""
    then, now = run("a"), run("b")
    add_stage(then, "data@probe", "c")
    add_stage(now, "data@probe", "d")
    assert compared(then, now) == ("Not comparable with the recorded run: its faces are others.", 0)
    add_stage(now, "data@probe", "d", code="changed")
    line, status = compared(then, now)
    assert line.startswith("2 of 3 outputs differ from dvc.lock, those of `data@probe` first.") and status == DIFFERENT


def test_other_code_is_named() -> None:
    then, now = run("a"), run("b")
    for stage in ("heatmaps", "depth"):
        add_stage(then, stage, "c")
        add_stage(now, stage, "c", code="changed")
    line, status = compared(then, now)
    assert "The code is not the recorded one: that of `heatmaps` and 1 more stages." in line and status == DIFFERENT


def test_outputs_that_are_kept_from_a_run_with_other_bits_are_remembered(tmp_path: Path) -> None:
    file = tmp_path / repro.OTHER_BITS
    assert repro._recall_reason(file, "") == "" and not file.exists()
    assert repro._recall_reason(file, "networks run on a GPU") == "networks run on a GPU"
    assert "kept (networks run on a GPU; remove checkpoints/, Results/" in repro._recall_reason(file, "")


def test_the_first_stage_that_differs_is_named_whatever_the_order_of_the_lock() -> None:
    then, now = run("a"), run("b")
    for content, digest in ((then, "c"), (now, "d")):
        content["lock"]["stages"]["train@joint-1"] = {"outs": [{"path": "checkpoints/x", "md5": digest}]}
    assert compared(then, now)[0].startswith("2 of 3 outputs differ from dvc.lock, those of `train@joint-1` first.")


def test_nothing_recorded() -> None:
    line, status = compared({"lock": {}, "verdicts": {}}, run("a"))
    assert (line, status) == ("No recorded run to compare with: there was no dvc.lock.", 0)


def test_other_outputs() -> None:
    line, status = compared(run("a"), run("a", path="other.csv"))
    assert (line, status) == ("Not comparable with the recorded run: its parameters or stages are others.", 0)


@pytest.mark.parametrize("device, reason", [("cpu", ""), ("cuda", "networks run on a GPU")])
def test_a_gpu_has_bits_of_its_own(device: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPEC_DEVICE", device)
    monkeypatch.setattr(devices, "pick_device", lambda name: torch.device(name))
    monkeypatch.setattr(repro, "get_code_path", lambda: CodePath("portable", ""))
    assert repro.explain_other_bits() == reason


def test_the_native_code_path_has_bits_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPEC_DEVICE", "cpu")
    monkeypatch.setattr(repro, "get_code_path", lambda: CodePath("native", "it runs on the native code path"))
    assert repro.explain_other_bits() == "it runs on the native code path"


@given(st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True), st.integers(1, 20))
def test_every_network_is_fitted_once_and_the_work_is_shared_evenly(seeds: list[int], workers: int) -> None:
    lines = share_lines(count_networks(seeds), workers)
    untrained = sorted(name for line in lines for name in line if name.startswith("untrained@"))
    assert untrained == sorted(f"untrained@{seed}" for seed in seeds)
    runs = [[name for name in line if name not in untrained] for line in lines]
    names = ["expression", "identity", "joint"]
    for run in runs:  # trained first, fine-tuned next
        assert [name.replace("train@", "finetune@") for name in run[::2]] == run[1::2]
    assert sorted(name for run in runs for name in run[1::2]) == sorted(
        f"finetune@{n}-{s}" for n in names for s in seeds
    )
    # a trained network has two stages; what it costs is 3 or 6
    loads = [sum(1 if "untrained" in name else 3 if "joint" in name else 1.5 for name in line) for line in lines]
    assert len(loads) <= workers and min(loads) > 0 and max(loads) - min(loads) <= 6


def test_the_longest_line_goes_first_and_lines_stay_together() -> None:
    lines = {("a", "b"): 2, ("c",): 3, ("d",): 6, ("e", "f", "g"): 2}
    assert share_lines(lines, 1) == [["d", "c", "a", "b", "e", "f", "g"]]
    assert share_lines(lines, 2) == [["d"], ["c", "a", "b", "e", "f", "g"]]
    assert share_lines(lines, 9) == [["d"], ["c"], ["a", "b"], ["e", "f", "g"]]
    ordered = [(("a",), 1), (("b",), 9), (("c",), 2), (("d",), 3)]
    assert share_lines(dict(ordered), 1, in_order=True) == [["a", "b", "c", "d"]]
    assert share_lines(dict(ordered), 2, in_order=True) == [["a", "c", "d"], ["b"]]


def test_analyses_run_at_once_only_where_none_needs_the_other() -> None:
    stages = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]
    made = {
        Path(out): name
        for name, stage in stages.items()
        if "matrix" not in stage
        for out in stage["outs"]
        if isinstance(out, str)
    }
    for line in ANALYSES:
        for place, name in enumerate(line):
            files = [Path(dep) for dep in stages[name]["deps"]]
            needs = {
                maker
                for out, maker in made.items()
                for file in files
                if file.is_relative_to(out) or out.is_relative_to(file)
            }
            assert needs <= set(line[:place]), f"{name} needs what is not made before it in its line"
    assert len([name for line in ANALYSES for name in line]) == len({name for line in ANALYSES for name in line})


@pytest.mark.parametrize("workers, each", [(1, [1, 1, 1]), (2, [1, 1, 2]), (17, [2, 2, 17])])
def test_networks_then_analyses_then_all_the_rest(
    workers: int, each: list[int], study_copy: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are shared by the runs that go on at once."""
    called: list[tuple[int, tuple[str, ...]]] = []

    def dvc(root: Path, *targets: str, workers: int, output: object) -> subprocess.Popen[bytes]:
        called.append((workers, targets))
        return subprocess.Popen(["true"])

    monkeypatch.setattr(dvc_runs, "start_dvc", dvc)
    with pytest.raises(StudyError, match="verdicts"):  # nothing was run
        repro.run(study_copy, workers=workers)
    seeds = read_params(study_copy.params).seeds
    fits, analyses = share_lines(count_networks(seeds), workers), share_lines(ANALYSES, workers)
    shared = [each[0]] * len(fits) + [each[1]] * len(analyses) + [each[2]]
    targets = [*map(tuple, fits), *map(tuple, analyses), ()]
    faces = ("fingerprints", "data@expression", "data@identity", "data@probe")
    assert called == [(workers, faces), *zip(shared, targets, strict=True)]


def test_other_parameters() -> None:
    """Old entries stay in a lock: equal outputs alone do not show that the same study was run."""
    now = run("b")
    now["lock"]["stages"]["decoding"]["params"] = {"params.yaml": {"seeds": [1]}}
    assert compared(run("a"), now)[0] == "Not comparable with the recorded run: its parameters or stages are others."
