from __future__ import annotations

from typing import Any

from facespec.stages.repro import comparison


def run(digest: str, number: float = 0.5, *, path: str = "Results/decoding.csv") -> dict[str, Any]:
    outs = [{"path": path, "md5": digest}, {"path": "Results/figures", "md5": "f.dir"}]
    part = {"number": number, "low": 0.4, "high": 0.6}
    return {"lock": {"stages": {"decoding": {"outs": outs}, "init": {}}}, "verdicts": {"C1": {"parts": {"identity": part}}}}


def test_equal_bytes() -> None:
    assert comparison(run("a"), run("a")) == "All 2 outputs are bit-identical to dvc.lock."


def test_other_bytes_within_the_intervals() -> None:
    assert comparison(run("a"), run("b", 0.6)) == (
        "1 of 2 outputs differ from dvc.lock (another kind of machine, other data or parameters); "
        "the claims' numbers are within the recorded intervals."
    )


def test_other_bytes_outside_the_intervals() -> None:
    assert comparison(run("a"), run("b", 0.61)).endswith(
        "the claims' numbers are outside the recorded intervals: C1 (identity)."
    )


def test_nothing_recorded() -> None:
    assert comparison({"lock": {}, "verdicts": {}}, run("a")) == (
        "No recorded run to compare with: there was no dvc.lock."
    )


def test_other_outputs() -> None:
    assert comparison(run("a"), run("a", path="other.csv")) == (
        "Not comparable with the recorded run: its outputs are others (other seeds or stages)."
    )
