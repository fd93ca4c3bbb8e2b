"""The published numbers are those that the paper prints and the published files give."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.published.reference import (
    HEATMAPS_TABLE,
    TABLE,
    find_role,
    read_published_chance,
    read_reference_accuracy,
    read_reference_heatmaps,
)
from facespec.study.errors import StudyError
from facespec.study.pickles import read_pickle


def test_every_bar_has_one_row() -> None:
    table = read_reference_accuracy()
    assert len(table) == 16
    assert not table.duplicated(["figure", "trained_on", "tested_on"]).any()
    assert not table.duplicated(["file", "key"]).any()
    assert table.groupby("figure")["file"].nunique().eq(1).all()


@pytest.mark.parametrize(
    "figure, trained_on, tested_on, mean, n, source",
    [
        ("1B", "expression", "identity", 0.341, 490, "KDEF"),
        ("1B", "identity", "expression", 0.182, 490, "KDEF"),
        ("1C", "joint", "identity", 0.985, 490, "KDEF"),
        ("1C", "joint", "expression", 0.5466, 490, "KDEF"),
        ("S1A", "expression", "expression", 0.433, 140, "FER2013"),
        ("S1A", "identity", "identity", 0.900, 500, "VoxCeleb1"),
        ("S1B", "joint", "expression", 0.558, 7178, "FER2013"),
        ("S1B", "identity", "identity", 0.839, 40032, "VoxCeleb1"),
    ],
)
def test_bars_as_the_paper_prints_them(
    figure: str, trained_on: str, tested_on: str, mean: float, n: int, source: str
) -> None:
    row = read_reference_accuracy(figure).query("trained_on == @trained_on and tested_on == @tested_on").iloc[0]
    decimals = 4 if figure == "1C" and tested_on == "expression" else 3
    assert (round(row["mean"], decimals), row["n"], row["source"]) == (mean, n, source)


def test_the_numbers_follow_from_the_pickles(published: Path) -> None:
    """Rounded to 6 decimals, so within half a millionth."""
    for row in read_reference_accuracy().itertuples():
        values = np.array(read_pickle(published / row.file)[row.key])
        computed = [values.mean(), values.std(ddof=1), *np.percentile(values, [2.5, 97.5]), len(values)]
        np.testing.assert_allclose([row.mean, row.sd, row.low, row.high, row.resamples], computed, atol=0.51e-6, rtol=0)
        assert np.allclose(values * row.n, np.round(values * row.n), atol=0.02), "n images make multiples of 1 / n"


def test_sd_is_nearly_that_of_resampled_images() -> None:
    """Another road [D]: the bootstrap of n images has binomial sd, and 100 draws estimate it within 25 %."""
    table = read_reference_accuracy()
    binomial = np.sqrt(table["mean"] * (1 - table["mean"]) / table["n"])
    assert (np.abs(table["sd"] / binomial - 1) < 0.25).all()


def test_roles_and_chance() -> None:
    assert [find_role(f, t) for f in ("1B", "1C", "S1A", "S1B") for t in ("expression", "identity")] == (
        ["probe"] * 4 + ["expression", "identity"] * 2
    )
    assert round(read_published_chance("1B", "expression"), 3) == 0.143
    assert round(read_published_chance("1C", "identity"), 3) == 0.014
    assert read_published_chance("S1B", "identity") == 1 / 1251
    assert round(read_published_chance("S1A", "expression"), 3) == 0.143  # 20 images of each
    # FER2013's own counts, part by part: angry, disgust, fear, happy, sad, surprise, neutral
    counts = np.array([[467, 56, 496, 895, 653, 415, 607], [491, 55, 528, 879, 594, 416, 626]])
    assert counts.sum() == read_reference_accuracy("S1B").query("tested_on == 'expression'")["n"].iloc[0]
    assert read_published_chance("S1B", "expression") == counts.sum(axis=0).max() / counts.sum()


@pytest.mark.parametrize(
    ("read", "figure", "message"),
    [
        (
            read_reference_accuracy,
            "1D",
            "accuracies of figure '1D': did you mean '1C'? Allowed: '1B', '1C', 'S1A', 'S1B'",
        ),
        (read_reference_heatmaps, "2A", "heatmaps of figure '2A': did you mean '2C'? Allowed: '2B', '2C'"),
    ],
)
def test_an_unknown_figure_is_refused(read: Callable[[str], pd.DataFrame], figure: str, message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        read(figure)


def test_published_heatmap_numbers_are_those_read_off_the_picture(published: Path) -> None:
    """Row by row against the transcription, which names things differently."""
    quantities = {"mask_area_fraction": "area", "mask_iou": "iou"}
    networks = {
        "expression": ("expression", "expression"),
        "identity": ("identity", "identity"),
        "joint, expression head": ("joint", "expression"),
        "joint, identity head": ("joint", "identity"),
        "both": ("joint", "both"),
    }
    read = pd.read_csv(published / "reference_heatmaps.csv")
    expected = {}
    for row in read.to_dict("records"):
        quantity = quantities.get(row["quantity"], row["quantity"])
        if row["network"] == "both" and quantity == "area":
            quantity = "intersection"
        expected[(row["figure"], quantity, *networks[row["network"]])] = (row["value"], row["reading_error"])
    table = read_reference_heatmaps()
    numbers = {tuple(row[:4]): tuple(row[4:]) for row in table.itertuples(index=False, name=None)}
    assert numbers == expected and len(table) == len(read) == 24


@pytest.mark.parametrize(
    "trained_on, tested_on, median",
    [
        ("joint", "expression", 0.048),
        ("expression", "expression", 0.100),
        ("joint", "identity", 0.078),
        ("identity", "identity", 0.137),
    ],
)
def test_medians_as_the_claim_cites_them(trained_on: str, tested_on: str, median: float) -> None:
    boxes = read_reference_heatmaps("2B").query("trained_on == @trained_on and tested_on == @tested_on")
    box = boxes.set_index("quantity")["number"]
    assert box["median"] == pytest.approx(median, abs=0.0006)
    assert box[["whisker_low", "q1", "median", "q3", "whisker_high"]].is_monotonic_increasing
    assert max(box["q1"] - box["whisker_low"], box["whisker_high"] - box["q3"]) <= 1.5 * (box["q3"] - box["q1"]) + 0.005


def test_published_masks_fit_together() -> None:
    """Intersection over union from the three areas: within what reading them off allows."""
    numbers = read_reference_heatmaps("2C").set_index(["quantity", "tested_on"])["number"]
    common = numbers["intersection", "both"]
    union = numbers["area", "expression"] + numbers["area", "identity"] - common
    assert numbers["iou", "both"] == pytest.approx(common / union, abs=0.001)
    assert min(numbers["area"]) == pytest.approx(0.05, abs=0.01)  # one map's 95th percentile is the threshold


def test_transcribed_tables_are_unchanged() -> None:
    assert hashlib.sha256(TABLE.read_bytes()).hexdigest().startswith("acf03d8db9306296")
    assert hashlib.sha256(HEATMAPS_TABLE.read_bytes()).hexdigest().startswith("d3a1527d60b7f82a")
