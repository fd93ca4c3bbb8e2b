"""The figure of what sharing costs, read back from its artists."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from facespec.figures.sharing import draw_figure_sharing
from facespec.figures.style import LOOKS
from facespec.study.errors import StudyError
from facespec.study.tables_sharing import SHARING
from facespec.study.vocabulary import Network
from toys import make_table, read_legend

BASE = {"epochs": 8, "width": 1.0, "branch_after": "", "weight": 1.0, "images": 0, "single_width": 1.0}
CHANGES: list[dict[str, object]] = [
    {},
    {"branch_after": "conv1"},
    {"branch_after": "conv2", "epochs": 24},  # alone at its epochs: no comparison of branches
    {"epochs": 24},
    {"width": 0.5, "single_width": 0.5},
    {"images": 30},
    {"weight": 4.0},
    {"single_width": 0.5},
]


def make_sharing() -> pd.DataFrame:
    """A seed and the mean of every cell, task and split, with numbers of their own."""
    rows = [
        {**BASE, **change, "tested_on": task, "split": split, "seed": seed, "seeds": 1}
        for change in CHANGES
        for task in ("expression", "identity")
        for split in ("train", "test")
        for seed in (3, math.nan)
    ]
    table = make_table(SHARING, rows, source="embedded faces", n=50)
    draw = np.random.default_rng(4)
    table = table.assign(joint=draw.uniform(0.2, 0.8, len(table)), single=draw.uniform(0.2, 0.8, len(table)))
    table["difference"] = table["joint"] - table["single"]
    is_mean = table["seed"].isna()
    return table.assign(
        low=(table["difference"] - 0.05).where(is_mean), high=(table["difference"] + 0.02).where(is_mean)
    )


def select(table: pd.DataFrame, task: str, **cell: object) -> pd.Series:
    rows = table[(table["tested_on"] == task) & (table["split"] == "test") & table["seed"].isna()]
    for column, value in (BASE | cell).items():
        rows = rows[rows[column] == value]
    (index,) = rows.index
    return rows.loc[index]


@pytest.mark.parametrize(
    ("panel", "title", "ticks", "cells"),
    [
        (0, "Where tasks part", ["conv1", "conv2", "all but\nheads"], None),
        (1, "Training", ["8", "24"], [{}, {"epochs": 24}]),
        (2, "Width of all networks", ["0.5", "1"], [{"width": 0.5, "single_width": 0.5}, {}]),
        (3, "Scarce faces", ["30", "all"], [{"images": 30}, {}]),
        (4, "Other rivals", ["0.5", "1"], [{"single_width": 0.5}, {}]),
    ],
)
def test_points_are_the_mean_differences_of_test_images(
    panel: int, title: str, ticks: list[str], cells: list[dict[str, object]] | None
) -> None:
    table = make_sharing()
    axes = draw_figure_sharing(table).axes[panel]
    assert axes.get_title() == title
    assert [label.get_text() for label in axes.get_xticklabels()] == ticks
    for task in ("expression", "identity"):
        colour = LOOKS[Network(task)].colour
        drawn = [line for line in axes.lines if line.get_color() == colour and str(line.get_label()).startswith(task)]
        points = sorted((round(float(line.get_xdata()[0])), float(line.get_ydata()[0])) for line in drawn)
        if cells is None:  # at 24 epochs: conv2, and all but heads
            cells_here = [{"branch_after": "conv1"}, {"branch_after": "conv2", "epochs": 24}, {}, {"epochs": 24}]
            expected = [float(select(table, task, **cell)["difference"]) for cell in cells_here]
            assert sorted(y for _, y in points) == pytest.approx(sorted(expected))
        else:
            expected = [float(select(table, task, **cell)["difference"]) for cell in cells]
            assert [y for _, y in points] == pytest.approx(expected)


def test_the_front_has_a_point_per_weight_beside_the_single_networks() -> None:
    table = make_sharing()
    axes = draw_figure_sharing(table).axes[5]
    joint, single = axes.lines
    expected = [[select(table, task, weight=w)["joint"] for w in (1.0, 4.0)] for task in ("identity", "expression")]
    np.testing.assert_allclose([joint.get_xdata(), joint.get_ydata()], expected)
    widths = [
        [select(table, task, single_width=w)["single"] for w in (0.5, 1.0)] for task in ("identity", "expression")
    ]
    np.testing.assert_allclose([single.get_xdata(), single.get_ydata()], widths)
    assert [text.get_text() for text in axes.texts] == ["×1", "×4", "width 0.5", "width 1"]


def test_the_legend_names_tasks_and_epochs() -> None:
    legend = read_legend(draw_figure_sharing(make_sharing()))
    assert {"expression, 8 epochs", "identity, 24 epochs", "joint, by weight"} <= set(legend)


def test_nothing_to_compare_is_said_and_strange_tables_are_refused() -> None:
    figure = draw_figure_sharing(make_sharing().iloc[:0])
    assert [text.get_text() for text in figure.texts] == ["no joint network with its single-task networks"]
    with pytest.raises(StudyError, match="lacks column 'epochs'"):
        draw_figure_sharing(make_sharing().drop(columns="epochs"))
