"""Where do two networks look differently? Differences of their heatmaps, cell by cell over the mean face."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from facespec.figures.boxes import PUBLISHED, describe_sources, format_signed
from facespec.figures.heatmaps import convert_to_grey, overlay_map
from facespec.figures.labels import set_suptitle, wrap_text
from facespec.figures.style import INK, MUTED, use_study_style
from facespec.study.tables import CONTRASTS

LEVEL = 0.05  # family-wise
OPAQUE, PALE = 0.8, 0.35
WIDTH, LINE = 2.5, 0.12  # of a panel, and height of a line of type below it, inches


def draw_figure_contrasts(table: pd.DataFrame, face: np.ndarray) -> Figure:
    """Where two networks look differently: mean difference of their heatmaps over the mean face, people as units.

    `table` is a CONTRASTS table, `face` as in `figure_2A`. Cells with a family-wise p below .05 are framed and opaque.
    """
    table = CONTRASTS.check(table)
    names = ["first_trained_on", "first_tested_on", "second_trained_on", "second_tested_on"]
    contrasts = [own for _, own in table.groupby(names, sort=False)]
    with use_study_style():
        lines = max(_seeds(own).count("\n") for own in contrasts)
        figure = Figure(figsize=(max(WIDTH * len(contrasts), 4.8), 4.2 + LINE * lines), layout="constrained")
        for axes, own in zip(figure.subplots(1, len(contrasts), squeeze=False)[0], contrasts, strict=True):
            _contrast(axes, own, face)
        set_suptitle(figure, "Where two heatmaps differ ({})", describe_sources(table))
        figure.supxlabel(
            "opaque, framed: p < .05, corrected over the map (sign flips of people, largest t)", fontsize=7, color=MUTED
        )
    return figure


def _contrast(axes: Axes, rows: pd.DataFrame, face: np.ndarray) -> None:
    cells = rows[rows["style"] == "sound"]
    first = cells.iloc[0]
    overlay_map(axes, face, None)
    axes.set_title(
        f"{first['first_trained_on']} network, {first['first_tested_on']}\n"
        f"minus {first['second_trained_on']} network, {first['second_tested_on']}",
        fontsize=8,
    )
    axes.set_xlabel(f"{first['n']} people\ndifference of median pixels, seed by seed:\n{_seeds(rows)}", fontsize=7)
    if cells["difference"].isna().all():
        axes.text(0.5, 0.5, first["reason"], transform=axes.transAxes, ha="center", va="center", wrap_text=True)
        return
    difference, p = (cells.pivot(index="row", columns="column", values=name).to_numpy() for name in ("difference", "p"))
    reach = np.nanmax(np.abs(difference)) or 1.0
    height, width = convert_to_grey(face).shape
    shown = axes.imshow(
        difference,
        cmap="RdBu_r",
        vmin=-reach,
        vmax=reach,
        alpha=np.where(p < LEVEL, OPAQUE, PALE),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    scale = np.array([width / p.shape[1], height / p.shape[0]])
    edges = [np.array(edge) * scale - 0.5 for edge in find_borders(p < LEVEL)]
    for colour, width_in_points in (("white", 3.0), (INK, 1.4)):  # a white border, so that ink shows on any colour
        axes.add_collection(LineCollection(edges, colors=colour, linewidths=width_in_points, capstyle="projecting"))
    axes.figure.colorbar(
        shown, ax=axes, location="bottom", shrink=0.8, aspect=25, alpha=OPAQUE, label="difference of scaled heatmaps"
    )


def _seeds(rows: pd.DataFrame) -> str:
    """The differences of medians of all seeds, in lines that a panel has room for."""
    medians = rows[rows["style"] == PUBLISHED].sort_values("seed")["difference"].dropna()
    return wrap_text("  ".join(format_signed(number, 3) for number in medians), 72 * WIDTH - 12, size=7)


def find_borders(cells: np.ndarray) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Edges, as pairs of corners (x, y) in cells, between the true cells of a bool (h, w) and all that is not."""
    padded = np.pad(cells, 1)
    for y, x in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        yield (x, y), (x + 1, y)
    for y, x in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        yield (x, y), (x, y + 1)
