"""Bars and cells are read back from their artists, and compared with the tables' numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facespec.figures.calibration import draw_figure_calibration
from facespec.study.errors import StudyError
from facespec.study.tables_calibration import BASELINES, CONFUSIONS, CUE_SWAPS
from facespec.study.vocabulary import EXPRESSIONS
from toys import combine, make_table, read_texts

CUES = {"none": "none", "hair": "person", "light": "scene"}
NAMERS = ("identity", "joint", "untrained")
NAN = np.nan


def make_cues() -> pd.DataFrame:
    rows = []
    for index, (cue, kind) in enumerate(CUES.items()):
        for network in NAMERS:
            for measure in ("owner", "donor")[: 1 if cue == "none" else 2]:
                rows.append(
                    {"trained_on": network, "tested_on": "identity", "cue": cue, "kind": kind, "measure": measure}
                )
        for network in ("expression", "joint", "untrained"):
            rows.append(
                {"trained_on": network, "tested_on": "expression", "cue": cue, "kind": kind, "measure": "correct"}
            )
        for row in rows:
            row.setdefault(
                "number", 0.2 + 0.1 * index + 0.03 * NAMERS.index(row["trained_on"].replace("expression", "identity"))
            )
    for row in rows:
        row |= {"low": row["number"] - 0.05, "high": row["number"] + 0.1, "chance": 0.05, "seed": NAN}
    seeds = [row | {"seed": 5, "number": row["number"] - 0.01} for row in rows]
    return make_table(CUE_SWAPS, [*rows, *seeds], source="painted faces")


def make_baselines() -> pd.DataFrame:
    rows = combine(
        trained_on=("pixels_nearest", "pixels", "untrained"),
        tested_on=("expression", "identity"),
        split=("study", "sessions"),
    )
    numbers = [{"number": 0.3 + 0.05 * index, "low": 0.2, "high": 0.95} for index in range(len(rows))]
    rows = [row | number | {"seed": NAN, "chance": 0.1} for row, number in zip(rows, numbers, strict=True)]
    return make_table(BASELINES, rows, source="painted faces")


def make_confusions() -> pd.DataFrame:
    names = [name.value for name in EXPRESSIONS]
    rows = combine(role=("expression", "probe"), trained_on=("joint", "expression"), true=names, predicted=names)
    random = np.random.default_rng(1)
    rows = [row | {"number": random.random(), "seed": NAN} for row in rows]
    return make_table(CONFUSIONS, rows, source="painted faces")


@cache
def draw_usual() -> Figure:
    return draw_figure_calibration(make_cues(), make_baselines(), make_confusions())


def read_bars(axes: Axes) -> dict[str, float]:
    return {patch.get_gid(): patch.get_height() for patch in axes.patches if patch.get_gid()}


def test_bars_are_the_shares_of_owners_and_donors_and_of_expressions() -> None:
    means = make_cues().query("seed.isna()").set_index(["trained_on", "measure", "cue"])["number"]
    *identity, expression = draw_usual().subfigs[0].axes
    for axes, network in zip(identity, NAMERS, strict=True):
        keys = [key for key in means.index if key[0] == network and key[1] != "correct"]
        assert read_bars(axes) == {" ".join(key): means[key] for key in keys} and len(keys) == 5
    assert read_bars(expression) == {" ".join(key): means[key] for key in means.index if key[1] == "correct"}
    dots = [line.get_ydata() for line in identity[0].lines if line.get_marker() == "."]
    np.testing.assert_allclose(sorted(np.concatenate(dots)), sorted(means["identity"] - 0.01))
    assert read_texts(expression.get_xticklabels()) == ["nothing", "hair", "light"]


def test_classifiers_without_a_network_stand_beside_each_other() -> None:
    axes = draw_usual().subfigs[1].axes[0]
    table = make_baselines()
    expected = {f"{r['trained_on']} {r['tested_on']} {r['split']}": r["number"] for r in table.to_dict("records")}
    assert read_bars(axes) == expected
    assert read_texts(draw_usual().subfigs[1].legends[0].get_texts()) == [
        "nearest picture",
        "PCA + LDA of pixels",
        "untrained trunk",
    ]


def test_matrices_have_true_classes_in_rows() -> None:
    table = make_confusions()
    for axes, role in zip(draw_usual().subfigs[1].axes[1:], ("expression", "probe"), strict=True):
        rows = table[(table["role"] == role) & (table["trained_on"] == "expression")]
        np.testing.assert_array_equal(axes.images[0].get_array(), rows["number"].to_numpy().reshape(7, 7))
        assert len(axes.texts) == 49
        assert read_texts(axes.get_yticklabels()) == ["angr", "disg", "fear", "happ", "neut", "sad", "surp"]


def test_faces_that_cannot_be_drawn_again_leave_gaps_and_no_overlaps(legible: Callable[[Figure], None]) -> None:
    cues = make_cues()
    cues.loc[cues["cue"] != "none", ["number", "low", "high"]] = NAN
    baselines = make_baselines()
    baselines.loc[baselines["split"] == "sessions", ["number", "low", "high"]] = NAN
    figure = draw_figure_calibration(cues, baselines, make_confusions())
    legible(figure)
    assert [len(read_bars(axes)) for axes in figure.subfigs[0].axes] == [1, 1, 1, 3]
    assert [text.get_text() for text in figure.subfigs[1].axes[0].texts] == ["no number"] * 2
    assert "painted faces" in figure.get_suptitle()


def test_a_table_of_another_kind_is_refused() -> None:
    with pytest.raises(StudyError, match=r"'cue_swaps', column 'measure', row 0: got 'age'"):
        draw_figure_calibration(make_cues().assign(measure="age"), make_baselines(), make_confusions())
