"""In which cells do the heatmaps of two networks differ? Differences of mean heatmaps over the mean face."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from facespec.figures.boxes import PUBLISHED
from facespec.figures.estimates import describe_sources
from facespec.figures.heatmaps import convert_to_grey, overlay_map
from facespec.figures.labels import format_signed, set_suptitle, wrap_text
from facespec.figures.style import INK, MUTED, use_study_style
from facespec.study.tables import CONTRASTS

LEVEL = 0.05  # family-wise
OPAQUE, PALE = 0.8, 0.35
PANEL_WIDTH, LINE_HEIGHT = 2.5, 0.12  # inches
COLUMNS = 3


def draw_figure_contrasts(table: pd.DataFrame, face: np.ndarray) -> Figure:
    """Draw the mean difference of two heatmaps over the mean face, for every contrast, with people as units.

    Cells with a family-wise p below .05 are framed and opaque.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables.CONTRASTS`
        One or more contrasts of two heatmaps.
    face : array of shape (height, width) or (height, width, 3)
        The mean image, grey or RGB, 0-255.

    Returns
    -------
    matplotlib.figure.Figure
        An axes per contrast, in the table's order, three in a row, each with a colour bar. A contrast of too few people
        has its reason instead.

    Raises
    ------
    StudyError
        If the table does not follow its schema.
    """
    table = CONTRASTS.check(table)
    names = ["first_trained_on", "first_tested_on", "second_trained_on", "second_tested_on"]
    contrasts = [rows for _, rows in table.groupby(names, sort=False)]
    with use_study_style():
        lines = max(_list_medians(rows).count("\n") for rows in contrasts)
        n_rows, n_columns = math.ceil(len(contrasts) / COLUMNS), min(len(contrasts), COLUMNS)
        size = (max(PANEL_WIDTH * n_columns, 4.8), 0.1 + n_rows * (4.1 + LINE_HEIGHT * lines))
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(hspace=0.04))
        panels = figure.subplots(n_rows, n_columns, squeeze=False).flat
        for axes, rows in zip(panels, contrasts, strict=False):
            _draw_contrast(axes, rows, face)
        for axes in panels[len(contrasts) :]:
            axes.remove()
        set_suptitle(figure, "Where two heatmaps differ ({})", describe_sources(table))
        note = "opaque, framed: p < .05, corrected over the map (sign flips of people, largest t)"
        figure.supxlabel(note, fontsize=7, color=MUTED)
    return figure


def _draw_contrast(axes: Axes, rows: pd.DataFrame, face: np.ndarray) -> None:
    cells = rows[rows["style"] == "sound"]
    first = cells.iloc[0]
    overlay_map(axes, face, None)
    minuend = f"{first['first_trained_on']} network, {first['first_tested_on']}"
    axes.set_title(f"{minuend}\nminus {first['second_trained_on']} network, {first['second_tested_on']}", fontsize=8)
    medians = f"difference of median pixels, seed by seed:\n{_list_medians(rows)}"
    axes.set_xlabel(f"{first['n']} people\n{medians}", fontsize=7)
    if cells["difference"].isna().all():
        reason = wrap_text(first["reason"], 72 * PANEL_WIDTH - 24, size=7)  # matplotlib wraps at the figure's edge only
        axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=7, in_layout=False)
        return
    difference, p = (cells.pivot(index="row", columns="column", values=name).to_numpy() for name in ("difference", "p"))
    limit = np.nanmax(np.abs(difference)) or 1.0
    height, width = convert_to_grey(face).shape
    image = axes.imshow(
        difference,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        alpha=np.where(p < LEVEL, OPAQUE, PALE),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    scale = np.array([width / p.shape[1], height / p.shape[0]])
    edges = [np.array(edge) * scale - 0.5 for edge in find_borders(p < LEVEL)]
    for colour, line_width in (("white", 3.0), (INK, 1.4)):  # a white border makes the dark one visible on any colour
        axes.add_collection(LineCollection(edges, colors=colour, linewidths=line_width, capstyle="projecting"))
    label = "difference of scaled heatmaps"
    axes.figure.colorbar(image, ax=axes, location="bottom", shrink=0.8, aspect=25, alpha=OPAQUE, label=label)


def _list_medians(rows: pd.DataFrame) -> str:
    """The differences of medians of all seeds, in lines no wider than a panel."""
    medians = rows[rows["style"] == PUBLISHED].sort_values("seed")["difference"].dropna()
    return wrap_text("  ".join(format_signed(number, 3) for number in medians), 72 * PANEL_WIDTH - 12, size=7)


def find_borders(cells: np.ndarray) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Edges between the true and all other cells of a bool (h, w), as pairs of corners (x, y) in cells."""
    padded = np.pad(cells, 1)
    for y, x in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        yield (x, y), (x + 1, y)
    for y, x in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        yield (x, y), (x, y + 1)
