"""Differences and frames are read back from their artists, and compared with the table's numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from facespec.figures.contrasts import draw_figure_contrasts, find_borders
from facespec.study.tables import CONTRASTS
from toys import make_table, read_texts

FACE = np.linspace(0, 255, 17 * 11).reshape(17, 11)
NAMES = ["first_trained_on", "first_tested_on", "second_trained_on", "second_tested_on"]
PAIRS = [
    ("joint", "expression", "expression", "expression"),
    ("joint", "identity", "identity", "identity"),
    ("joint", "expression", "joint", "identity"),
]
P = np.array([[0.001, 0.049], [0.05, 0.2], [0.9, 0.04]])
DIFFERENCE = np.array([[0, -0.15], [0.1, -0.05], [0.2, 0.05]])  # of the first pair; twice and three times that follow


def make_contrasts() -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for index, pair in enumerate(PAIRS):
        names = dict(zip(NAMES, pair, strict=True))
        rows += [
            {
                **names,
                "style": "sound",
                "n": 70 + index,
                "row": row,
                "column": column,
                "p": p,
                "difference": (index + 1) * DIFFERENCE[row, column],
            }
            for (row, column), p in np.ndenumerate(P)
        ]
        rows += [
            {**names, "style": "published", "seed": seed, "n": 187, "difference": 0.01 * seed - 0.05 - index}
            for seed in (9, 4)
        ]
    return make_table(CONTRASTS, rows, source="painted faces")


def test_contrasts_are_the_tables_differences_symmetric_about_zero() -> None:
    figure = draw_figure_contrasts(make_contrasts(), FACE)
    panels = [axes for axes in figure.axes if len(axes.images) == 2]
    for index, axes in enumerate(panels):
        face, image = axes.images
        np.testing.assert_array_equal(face.get_array(), FACE)
        np.testing.assert_allclose(image.get_array(), (index + 1) * DIFFERENCE, atol=1e-12)
        assert image.get_clim() == pytest.approx((-0.2 * (index + 1), 0.2 * (index + 1)))
        assert image.get_cmap().name == "RdBu_r" and list(image.get_extent()) == [-0.5, 10.5, 16.5, -0.5]
        np.testing.assert_array_equal(np.asarray(image.get_alpha()) > 0.5, P < 0.05)
        assert f"{70 + index} people" in axes.get_xlabel()
    assert [axes.get_title() for axes in panels] == [
        "joint network, expression\nminus expression network, expression",
        "joint network, identity\nminus identity network, identity",
        "joint network, expression\nminus joint network, identity",
    ]
    assert panels[0].get_xlabel().endswith("\n−0.010  +0.040")  # seeds 4 and 9
    assert len([axes for axes in figure.axes if axes.get_label() == "<colorbar>"]) == 3
    assert "painted faces" in figure.get_suptitle()


def test_frames_surround_the_significant_cells() -> None:
    white, dark = draw_figure_contrasts(make_contrasts(), FACE).axes[0].collections
    corners = {tuple(np.round(end, 6)) for edge in dark.get_segments() for end in edge}
    y = np.round([-0.5, 17 / 3 - 0.5, 34 / 3 - 0.5, 16.5], 6)
    assert corners == {(x, h) for x in (-0.5, 5.0, 10.5) for h in y[:2]} | {(x, h) for x in (5.0, 10.5) for h in y[2:]}
    assert len(dark.get_segments()) == len(white.get_segments()) == 10


@settings(max_examples=30)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=5)))
def test_borders_separate_the_true_cells_from_all_others(cells: np.ndarray) -> None:
    height, width = cells.shape

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and bool(cells[y, x])

    corners = [(x, y) for y in range(height + 1) for x in range(width + 1)]
    expected = {((x, y), (x + 1, y)) for x, y in corners if inside(y, x) != inside(y - 1, x)}
    expected |= {((x, y), (x, y + 1)) for x, y in corners if inside(y, x) != inside(y, x - 1)}
    borders = [tuple(tuple(map(int, end)) for end in edge) for edge in find_borders(cells)]
    assert len(borders) == len(set(borders)) and set(borders) == expected


def test_a_contrast_of_too_few_people_has_its_reason() -> None:
    table = make_contrasts()
    rows = (table["style"] == "sound") & (table["first_tested_on"] == "identity")
    table.loc[rows, ["difference", "p"]] = np.nan
    table.loc[rows, "reason"] = "1 of 3 people is left"
    axes = draw_figure_contrasts(table, FACE).axes[1]
    assert read_texts(axes.texts) == ["1 of 3 people is left"] and len(axes.images) == 1


@pytest.mark.parametrize(("pairs", "seeds"), [(1, 1), (2, 3), (3, 40)])
def test_any_number_of_contrasts_and_seeds_is_legible(pairs: int, seeds: int, legible: Callable[[Any], None]) -> None:
    table = pd.concat([rows for _, rows in list(make_contrasts().groupby(NAMES, sort=False))[:pairs]])
    medians = [table.query("seed == 9").assign(seed=seed) for seed in range(seeds)]
    figure = draw_figure_contrasts(pd.concat([table.query("style == 'sound'"), *medians]), FACE)
    legible(figure)
    assert len(re.findall(r"\d\.\d{3}", figure.axes[0].get_xlabel())) == seeds
