"""The published numbers are replayed from the published files, and differences are named."""

from __future__ import annotations

import io
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from facespec.checks.replay import REPLAY, list_absent, list_failures, replay_results, summarise
from facespec.published.export import read_results, tabulate_results
from facespec.published.reference import read_reference_accuracy
from facespec.study.tables import ACCURACY

FIG1C = "Fig1C_KDEF_SPLIT_Accuracy_Results.pickle"
KEYS = [f"avg_valid_prec_1_{joint}face_{task}" for task in ("expression", "identity") for joint in ("", "SPLIT_")]


def make_table(seed: int = 1) -> pd.DataFrame:
    """A file of Figure 1C with numbers that are not the published ones."""
    draws = np.random.default_rng(seed)
    return tabulate_results({FIG1C: {key: draws.uniform(0.4, 0.6, 100).tolist() for key in KEYS}})


def test_the_published_pickles_give_the_reference(published: Path) -> None:
    table = replay_results(tabulate_results(read_results(published)))
    assert len(table) == 16 * 4 and (table["ok"] == "yes").all()
    assert table["error"].max() <= 0.51e-6  # the reference's rounding and nothing else
    assert not list_failures(table) and not list_absent(tabulate_results(read_results(published)))
    reference = read_reference_accuracy()
    assert table.loc[table["statistic"] == "mean", "expected"].tolist() == reference["mean"].tolist()


def test_statistics_are_those_of_the_standard_library() -> None:
    accuracies = make_table()
    table = replay_results(accuracies)
    assert set(table["figure"]) == {"1C"} and set(table["file"]) == {FIG1C} and len(table) == 16
    values = accuracies.query("trained_on == 'joint' and tested_on == 'identity'")["accuracy"].tolist()
    bar = table[table["bar"] == "joint network, identity"].set_index("statistic")
    expected = [statistics.mean(values), statistics.stdev(values), *np.percentile(values, [2.5, 97.5])]
    np.testing.assert_allclose(bar.loc[["mean", "sd", "low", "high"], "number"], expected)
    assert bar.loc["mean", "expected"] == 0.984592 and bar.loc["sd", "expected"] == 0.005933
    np.testing.assert_allclose(table["error"], np.abs(table["number"] - table["expected"]))


def test_only_the_resamples_count() -> None:
    rows = make_table()
    on_images = rows.drop_duplicates(["trained_on", "tested_on"]).assign(resample=-1, accuracy=0.0)
    pd.testing.assert_frame_equal(replay_results(pd.concat([rows, on_images])), replay_results(rows))


@pytest.mark.parametrize("shift, ok", [(0.9e-6, "yes"), (-0.9e-6, "yes"), (1.1e-6, "no"), (-1.1e-6, "no")])
def test_a_millionth_is_the_limit(shift: float, ok: str) -> None:
    reference = read_reference_accuracy("1C").iloc[0]
    rows = make_table()
    cell = (rows["trained_on"] == reference["trained_on"]) & (rows["tested_on"] == reference["tested_on"])
    rows.loc[cell, "accuracy"] = reference["mean"] + shift
    first = replay_results(rows).iloc[0]
    assert (first["statistic"], first["ok"]) == ("mean", ok)


def test_failures_name_the_number() -> None:
    rows = make_table()
    rows["accuracy"] = 0.5
    failures = list_failures(replay_results(rows))
    assert len(failures) == 16
    assert failures[0] == "figure 1C, expression network, expression: mean is 0.500000, published 0.546429"


def test_a_bar_without_resamples_is_not_ok() -> None:
    rows = make_table().query("trained_on != 'joint'")
    table = replay_results(rows)
    missing = table[table["bar"].str.startswith("joint")]
    assert len(missing) == 8 and missing["number"].isna().all() and (missing["ok"] == "no").all()
    assert "figure 1C, joint network, identity: mean is nan, published 0.984592" in list_failures(table)


def test_absent_files_are_named() -> None:
    files = list(dict.fromkeys(read_reference_accuracy()["file"]))
    assert list_absent(make_table()) == [file for file in files if file != FIG1C]
    nothing = pd.DataFrame(columns=list(ACCURACY.columns))
    assert list_absent(nothing) == files
    assert replay_results(nothing).empty and list(replay_results(nothing).columns) == list(REPLAY.columns)


def test_the_summary_has_a_line_per_bar_with_its_largest_error() -> None:
    rows, text = make_table(), io.StringIO()
    Console(width=80, file=text).print(summarise(replay_results(rows)))
    lines = [line.split() for line in text.getvalue().splitlines()]
    bars = [line for line in lines if line and line[0] == "1C"]
    assert len(bars) == 4
    cell = replay_results(rows).query("bar == 'joint network, expression'")
    (joint,) = [line for line in bars if line[1:4] == ["joint", "network,", "expression"]]
    mean = cell.loc[cell["statistic"] == "mean", "number"].item()
    assert joint[4:] == [f"{mean:.6f}", "0.546612", f"{cell['error'].max():.1e}", "-", "other"]
