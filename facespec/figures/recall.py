"""Which expressions are recognised, and which are missed? The recall of every class, and its mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facespec.figures.artists import DASHED, Style, collect_handles, draw_error_bar, draw_grid, make_outline
from facespec.figures.estimates import describe_sources, select_rows
from facespec.figures.labels import format_short, set_suptitle
from facespec.figures.style import INK, LOOKS, use_study_style
from facespec.study.errors import StudyError
from facespec.study.tables import RECALL
from facespec.study.vocabulary import EXPRESSIONS, Network, Task

BARS_WIDTH = 0.8  # of a class
TITLES = {"S1B": "S1B: training role", "1C zero-shot": "probe, not fine-tuned", "1C": "1C: probe, fine-tuned"}


def draw_figure_recall(table: pd.DataFrame) -> Figure:
    """Draw which share of the images of every expression the networks' heads classify correctly.

    Balanced accuracy, the mean over expressions, is the group on the left. A head that always gives the same answer has
    a recall of 1 for one expression and 0 for all others; the dashed line is its balanced accuracy.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables.RECALL`

    Returns
    -------
    matplotlib.figure.Figure
        A row of axes for each figure of `TITLES` that the table has: bars are means over seeds, dots are seeds, error
        bars the seeds' intervals, averaged.

    Raises
    ------
    StudyError
        If the table has no recall of expressions, or does not follow its schema.
    """
    table = select_rows(RECALL.check(table), tested_on=Task.EXPRESSION)
    drawn = [figure for figure in TITLES if (table["figure"] == figure).any()]
    if not drawn:
        raise StudyError("the table has no recall of expressions to draw.")
    with use_study_style():
        figure = Figure(figsize=(7.4, 1.0 + 1.9 * len(drawn)), layout="constrained")
        set_suptitle(figure, "Recall of every expression ({})", describe_sources(table))
        panels = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
        for axes, name in zip(panels, drawn, strict=True):
            rows = select_rows(table, figure=name)
            _draw_panel(axes, rows)
            axes.set_title(TITLES[name], fontsize=8)
        handles = collect_handles(panels)
        figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=3, handleheight=1.2)
    return figure


def _draw_panel(axes: Axes, rows: pd.DataFrame) -> None:
    draw_grid(axes)
    names = ["", *EXPRESSIONS]
    networks = [network for network in Network if (rows["trained_on"] == network).any()]
    width = BARS_WIDTH / len(networks)
    for index, network in enumerate(networks):
        offset = (index - (len(networks) - 1) / 2) * width
        for x, name in enumerate(names):
            cell = rows[(rows["trained_on"] == network) & (rows["class"] == name)].dropna(subset="recall")
            if len(cell):
                _draw_bar(axes, cell, x + offset, width=width)
    tested = rows[(rows["class"] != "") & (rows["n"] > 0)]["class"].nunique()
    style: Style = {"colors": INK, "linestyles": DASHED, "lw": 0.9, "zorder": 4}
    line = axes.hlines(1 / tested, -0.45, 0.45, label="one constant answer", **style)
    line.set_path_effects([make_outline()])
    axes.set_xticks(range(len(names)), [_describe_class(rows, name) for name in names])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(names) - 0.45)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylim(0, 1.16)
    axes.set_ylabel("recall")


def _draw_bar(axes: Axes, cell: pd.DataFrame, x: float, *, width: float) -> None:
    """The bar of one network and class; `cell` has a row per seed."""
    network, recall = cell["trained_on"].iloc[0], cell.sort_values("seed")["recall"].to_numpy()
    look, bounds = LOOKS[network], (float(cell["low"].mean()), float(cell["high"].mean()))
    style: Style = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "lw": 0.8}
    axes.bar(x, recall.mean(), width, label=f"{network} network", gid=f"{network} {cell['class'].iloc[0]}", **style)
    draw_error_bar(axes, x + 0.25 * width, bounds, lw=1.0, cap=2).set_label(
        "95 % of resampled test sets, mean over seeds"
    )
    spread = np.linspace(-1, 1, len(recall)) * 0.15 * width * min(1.0, 0.5 * (len(recall) - 1))
    marker: Style = {"marker": "o", "ms": 2.8, "mfc": "white", "mec": INK, "mew": 0.7}
    axes.plot(x - 0.22 * width + spread, recall, ls="none", zorder=6, label="one seed", **marker)
    text: Style = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 6.5}
    axes.annotate(format_short(recall.mean()), (x, max(bounds[1], *recall)), path_effects=[make_outline()], **text)


def _describe_class(rows: pd.DataFrame, name: str) -> str:
    sizes: Sequence[int] = sorted(set(rows.loc[rows["class"] == name, "n"]))
    return f"{name or 'mean of all'}\nn = {' / '.join(f'{size:,}' for size in sizes)}"
