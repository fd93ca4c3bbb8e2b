"""At which depth do networks represent expressions and people? Four measures over the convolutions.

How accurately a layer's responses can be decoded, how many of its units are specific to a task, how large the effect of
a task on its median unit is, and how similar the same layer of two networks is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from facespec.figures.artists import DASHED, Style, draw_grid
from facespec.figures.estimates import describe_sources, select_rows
from facespec.figures.labels import choose_tick_step, set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import LAYER_DECODING, SIMILARITY, UNIT_SHARES, UNITS, UNTRAINED
from facespec.study.vocabulary import NETWORKS, Network, Task

OFFSET = 0.06  # between the curves of two networks, so that their ranges do not hide each other
PANEL_WIDTH = 215  # points
YLABELS = ("accuracy on held-out images", "share of units", "median eta squared", "similarity (debiased CKA)")


@dataclass(frozen=True)
class Curve:
    """How the curve of one network, or pair of networks, is drawn and called."""

    name: str
    label: str
    colour: str
    marker: str
    line_style: str = "-"


NETWORK_CURVES = {
    name: Curve(name, f"{name} network", LOOKS[name].colour, marker)
    for name, marker in zip(NETWORKS, ("o", "s", "D"), strict=True)
} | {UNTRAINED: Curve(UNTRAINED, "untrained network", LOOKS[UNTRAINED].colour, "x", ":")}
PAIR_CURVES = {
    (first, second): Curve(f"{first}-{second}", f"{first} and {second}", colour, marker, line_style)
    for first, second, colour, marker, line_style in (
        (Network.EXPRESSION, Network.IDENTITY, INK, "v", "-"),
        (Network.EXPRESSION, Network.JOINT, LOOKS[Network.EXPRESSION].colour, "^", "--"),
        (Network.IDENTITY, Network.JOINT, LOOKS[Network.IDENTITY].colour, ">", "--"),
    )
}


def draw_figure_depth(
    *, decoding: pd.DataFrame, shares: pd.DataFrame, units: pd.DataFrame, similarity: pd.DataFrame
) -> Figure:
    """Draw what each layer represents against its depth.

    Curves are means over seeds; vertical bars reach from the lowest to the highest seed. Layers of equal depth, as in
    networks with branches, are pooled.

    Parameters
    ----------
    decoding : DataFrame with the schema `study.tables.LAYER_DECODING`
    shares : DataFrame with the schema `study.tables.UNIT_SHARES`
    units : DataFrame with the schema `study.tables.UNITS`
    similarity : DataFrame with the schema `study.tables.SIMILARITY`

    Returns
    -------
    matplotlib.figure.Figure
        Axes in four rows and two columns. Rows 1 to 3: accuracy of decoding, share of specific units, median effect
        size, for expression (left) and identity (right). Row 4: debiased CKA between networks of one seed (left) and
        between seeds of one network (right).

    Raises
    ------
    StudyError
        If a table does not follow its schema.
    """
    decoding, shares, units = LAYER_DECODING.check(decoding), UNIT_SHARES.check(shares), UNITS.check(units)
    similarity = select_rows(SIMILARITY.check(similarity), estimator="debiased")
    with use_study_style():
        figure = Figure(figsize=(7.4, 9.2), layout="constrained")
        sources = describe_sources(pd.concat([decoding, shares, units, similarity]))
        set_suptitle(figure, "What the layers tell apart ({})", sources)
        grid = figure.subplots(4, 2, sharex=True, sharey="row")
        for task, column in zip(Task, grid[:3].T, strict=True):
            decoded = select_rows(decoding, tested_on=task)
            for chance in sorted(set(decoded["chance"])):
                column[0].axhline(chance, color=INK, ls=DASHED, lw=0.9, label="chance")
            _draw_networks(column[0], decoded, lambda rows: float(rows["accuracy"].mean()))
            _draw_networks(column[1], select_rows(shares, kind="specific", name=task), _pool_shares)
            _draw_networks(column[2], select_rows(units, factor=task), lambda rows: float(rows["eta"].median()))
            titles = (f"{task} read out", f"units specific to {task}", f"effect of {task}")
            for axes, title in zip(column, titles, strict=True):
                axes.set_title(title, fontsize=8)
        _draw_similarity(grid[3], similarity)
        _format_axes(grid, sorted(set(shares["depth"])))
        figure.legend(handles=_make_handles(), loc="outside lower center", ncols=3)
    return figure


def _pool_shares(rows: pd.DataFrame) -> float:
    units = rows["units"].sum()
    return float(rows["count"].sum() / units) if units else float("nan")


def _draw_networks(axes: Axes, rows: pd.DataFrame, measure: Callable[[pd.DataFrame], float]) -> None:
    """A curve per network: `measure` of its rows of every seed and depth."""
    curves = []
    for name, curve in NETWORK_CURVES.items():
        groups = select_rows(rows, trained_on=name).groupby(["seed", "depth"])
        curves.append((curve, pd.Series({key: measure(group) for key, group in groups}, dtype=float)))
    _draw_curves(axes, curves)


def _draw_similarity(panels: np.ndarray, rows: pd.DataFrame) -> None:
    """Left: a curve per pair of networks of one seed. Right: a curve per network, over all pairs of its seeds."""
    left, right = panels
    same_seed = rows[rows["first_seed"] == rows["second_seed"]]
    curves = []
    for (first, second), curve in PAIR_CURVES.items():
        pair = select_rows(same_seed, first_trained_on=first, second_trained_on=second)
        curves.append((curve, pair.groupby(["first_seed", "depth"])["cka"].mean()))
    _draw_curves(left, curves)
    left.set_title("two networks of one seed", fontsize=8)
    same_network = rows[rows["first_trained_on"] == rows["second_trained_on"]]
    curves = []
    for network in NETWORKS:
        pairs = select_rows(same_network, first_trained_on=network)
        seeds = pairs["first_seed"].astype(str) + "-" + pairs["second_seed"].astype(str)
        curves.append((NETWORK_CURVES[network], pairs.groupby([seeds, "depth"])["cka"].mean()))
    _draw_curves(right, curves)
    if same_network.empty:
        right.text(0.5, 0.5, "one seed only", transform=right.transAxes, ha="center", va="center", color=MUTED)
    right.set_title("two seeds of one network", fontsize=8)


def _draw_curves(axes: Axes, curves: Sequence[tuple[Curve, pd.Series]]) -> None:
    """Mean and range over replicates; values are indexed by (replicate, depth)."""
    for index, (curve, values) in enumerate(curves):
        values = values.dropna()
        if values.empty:
            continue
        by_depth = values.groupby(level=1)
        x = by_depth.mean().index.to_numpy(dtype=float) + OFFSET * (index - (len(curves) - 1) / 2)
        axes.vlines(x, by_depth.min(), by_depth.max(), colors=curve.colour, lw=1.5)
        style: Style = {"ls": curve.line_style, "lw": 1.2, "marker": curve.marker, "ms": 4.5, "color": curve.colour}
        axes.plot(x, by_depth.mean(), gid=curve.name, **style)


def _format_axes(grid: np.ndarray, depths: Sequence[int]) -> None:
    step = choose_tick_step([str(depth) for depth in depths], PANEL_WIDTH, size=8)
    for row, label in zip(grid, YLABELS, strict=True):
        low = min(0.0, *(axes.dataLim.y0 for axes in row))  # unlike shares, similarity may fall below 0
        row[0].set_ylim(low - 0.04, 1.04)
        row[0].set_ylabel(label)
        for axes in row:
            axes.set_xticks(depths[::step])
            draw_grid(axes)
    for axes in grid[-1]:
        axes.set_xlabel("convolution, from the image inwards")


def _make_handles() -> list[Line2D]:
    return [
        *(
            Line2D(
                [], [], ls=curve.line_style, lw=1.2, marker=curve.marker, ms=4.5, color=curve.colour, label=curve.label
            )
            for curve in (*NETWORK_CURVES.values(), *PAIR_CURVES.values())
        ),
        Line2D([], [], color=INK, ls=DASHED, lw=0.9, label="chance"),
        Line2D([], [], ls="none", marker="|", ms=10, mew=1.5, color=INK, label="lowest to highest seed"),
    ]
