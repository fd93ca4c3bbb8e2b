"""Differences and frames are read back from their artists, and compared with the table's numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from facespec.figures.contrasts import draw_figure_contrasts, find_borders

FACE = np.linspace(0, 255, 17 * 11).reshape(17, 11)
SIDES = [
    ("joint", "expression", "expression", "expression"),
    ("joint", "identity", "identity", "identity"),
    ("joint", "expression", "joint", "identity"),
]
NAMES = ["first_trained_on", "first_tested_on", "second_trained_on", "second_tested_on"]
P = np.array([[0.001, 0.049], [0.05, 0.2], [0.9, 0.04]])


def contrasts_table() -> pd.DataFrame:
    rows = []
    for place, names in enumerate(SIDES):
        about = dict(
            zip(("first_trained_on", "first_tested_on", "second_trained_on", "second_tested_on"), names, strict=True)
        ) | {"source": "painted faces", "reason": ""}
        for (row, column), p in np.ndenumerate(P):
            rows.append(
                about
                | {
                    "style": "sound",
                    "seed": np.nan,
                    "row": row,
                    "column": column,
                    "n": 70 + place,
                    "difference": (place + 1) * (0.1 * row - 0.15 * column),
                    "low": -1,
                    "high": 1,
                    "statistic": 2.0,
                    "p": p,
                    "effect": 0.2,
                }
            )
        for seed in (9, 4):
            rows.append(
                about
                | {
                    "style": "published",
                    "seed": seed,
                    "row": np.nan,
                    "column": np.nan,
                    "n": 187,
                    "difference": 0.01 * seed - 0.05 - place,
                    "low": np.nan,
                    "high": np.nan,
                    "statistic": 5.0,
                    "p": 0.0,
                    "effect": 0.1,
                }
            )
    return pd.DataFrame(rows)


def test_contrasts_are_the_tables_differences_symmetric_about_zero() -> None:
    figure = draw_figure_contrasts(contrasts_table(), FACE)
    panels = [axes for axes in figure.axes if len(axes.images) == 2]
    for place, axes in enumerate(panels):
        face, shown = axes.images
        np.testing.assert_array_equal(face.get_array(), FACE)
        expected = (place + 1) * np.array([[0, -0.15], [0.1, -0.05], [0.2, 0.05]])
        np.testing.assert_allclose(shown.get_array(), expected, atol=1e-12)
        assert shown.get_clim() == pytest.approx((-0.2 * (place + 1), 0.2 * (place + 1)))
        assert shown.get_cmap().name == "RdBu_r" and list(shown.get_extent()) == [-0.5, 10.5, 16.5, -0.5]
        sure = np.asarray(shown.get_alpha()) > 0.5
        np.testing.assert_array_equal(sure, [[True, True], [False, False], [False, True]])
        assert f"{70 + place} people" in axes.get_xlabel()
    assert [axes.get_title() for axes in panels] == [
        "joint network, expression\nminus expression network, expression",
        "joint network, identity\nminus identity network, identity",
        "joint network, expression\nminus joint network, identity",
    ]
    assert panels[0].get_xlabel().endswith("\n−0.010  +0.040")  # seeds 4 and 9
    assert len([axes for axes in figure.axes if axes.get_label() == "<colorbar>"]) == 3
    assert "painted faces" in figure.get_suptitle()


def test_frames_run_along_the_sure_cells() -> None:
    axes = draw_figure_contrasts(contrasts_table(), FACE).axes[0]
    white, ink = axes.collections
    corners = {tuple(np.round(end, 6)) for edge in ink.get_segments() for end in edge}
    y = [-0.5, 17 / 3 - 0.5, 34 / 3 - 0.5, 16.5]
    upper = {(x, h) for x in (-0.5, 5.0, 10.5) for h in y[:2]}
    lower = {(x, h) for x in (5.0, 10.5) for h in y[2:]}
    assert corners == {(x, round(h, 6)) for x, h in upper | lower}
    assert len(ink.get_segments()) == len(white.get_segments()) == 10


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=5)))
def test_borders_part_the_true_cells_from_all_else(cells: np.ndarray) -> None:
    height, width = cells.shape

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and bool(cells[y, x])

    expected = {
        ((x, y), (x + 1, y)) for y in range(height + 1) for x in range(width) if inside(y, x) != inside(y - 1, x)
    }
    expected |= {
        ((x, y), (x, y + 1)) for y in range(height) for x in range(width + 1) if inside(y, x) != inside(y, x - 1)
    }
    found = [tuple(tuple(map(int, end)) for end in edge) for edge in find_borders(cells)]
    assert len(found) == len(set(found)) and set(found) == expected


def test_too_few_people_are_said_so() -> None:
    table = contrasts_table()
    first = (table["style"] == "sound") & (table["first_tested_on"] == "identity")
    table.loc[first, ["difference", "p"]] = np.nan
    table.loc[first, "reason"] = "1 of 3 people is left"
    figure = draw_figure_contrasts(table, FACE)
    axes = figure.axes[1]
    assert [text.get_text() for text in axes.texts] == ["1 of 3 people is left"] and len(axes.images) == 1


@pytest.mark.parametrize(("contrasts", "seeds"), [(1, 1), (2, 3), (3, 10), (3, 40)])
def test_any_number_of_contrasts_and_seeds_is_legible(
    contrasts: int, seeds: int, legible: Callable[[Any], None]
) -> None:
    table = contrasts_table()
    own = pd.concat([part for _, part in list(table.groupby(NAMES, sort=False))[:contrasts]])
    medians = own.query("seed == 9")
    figure = draw_figure_contrasts(
        pd.concat([own[own["style"] == "sound"], *(medians.assign(seed=seed) for seed in range(seeds))]), FACE
    )
    legible(figure)
    assert len(re.findall(r"\d\.\d{3}", figure.axes[0].get_xlabel())) == seeds
