"""At which depth do networks tell expressions and people apart? Four curves over the convolutions.

What can be read out of a layer, how many of its units are specific to a task, how strongly a task moves its median
unit, and how alike the layers of two networks are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from facespec.figures.boxes import describe_sources, select_reported
from facespec.figures.labels import choose_tick_step, set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import LAYER_DECODING, SIMILARITY, UNIT_SHARES, UNITS, UNTRAINED
from facespec.study.vocabulary import Network, Task

ASIDE = 0.06  # between the curves of two networks, so that their ranges do not hide each other
CHANCE = (0, (4, 2))
PANEL = 215  # width, points


@dataclass(frozen=True)
class Curve:
    """How one curve is drawn."""

    name: str
    label: str
    colour: str
    marker: str
    line: str = "-"


ALONE = {
    name: Curve(name, f"{name} network", LOOKS[name].colour, marker)
    for name, marker in zip(Network, ("o", "s", "D"), strict=True)
} | {UNTRAINED: Curve(UNTRAINED, "before any training", MUTED, "x", ":")}
PAIRS = {
    (Network.EXPRESSION, Network.IDENTITY): Curve("expression-identity", "expression and identity", INK, "v"),
    (Network.EXPRESSION, Network.JOINT): Curve(
        "expression-joint", "expression and joint", LOOKS[Network.EXPRESSION].colour, "^", "--"
    ),
    (Network.IDENTITY, Network.JOINT): Curve(
        "identity-joint", "identity and joint", LOOKS[Network.IDENTITY].colour, ">", "--"
    ),
}


def draw_figure_depth(
    *, decoding: pd.DataFrame, shares: pd.DataFrame, units: pd.DataFrame, similarity: pd.DataFrame
) -> Figure:
    """LAYER_DECODING, UNIT_SHARES, UNITS and SIMILARITY tables, a row of panels each, from top to bottom.

    Left panels: expression; right: identity; at the bottom debiased CKA between networks of one seed, and between seeds
    of one network. Curves are means over seeds; bars reach from the lowest to the highest. Layers of equal depth, as in
    networks with branches, are taken together.
    """
    decoding, shares, units = LAYER_DECODING.check(decoding), UNIT_SHARES.check(shares), UNITS.check(units)
    similarity = select_reported(SIMILARITY.check(similarity), estimator="debiased")
    with use_study_style():
        figure = Figure(figsize=(7.4, 9.2), layout="constrained")
        whole = pd.concat([decoding, shares, units, similarity])
        set_suptitle(figure, "What the layers tell apart ({})", describe_sources(whole))
        axes = figure.subplots(4, 2, sharex=True, sharey="row")
        for column, task in enumerate(Task):
            _readable(axes[0, column], select_reported(decoding, tested_on=task))
            _alone(axes[1, column], select_reported(shares, kind="specific", name=task), _specific)
            _alone(axes[2, column], select_reported(units, factor=task), lambda own: float(own["eta"].median()))
            for each, what in zip(
                axes[:3, column], ("{} read out", "units specific to {}", "effect of {}"), strict=True
            ):
                each.set_title(what.format(task), fontsize=8)
        _between(axes[3, 0], similarity)
        _across(axes[3, 1], similarity)
        _finish(figure, axes, sorted(set(shares["depth"])))
    return figure


def _readable(axes: Axes, rows: pd.DataFrame) -> None:
    for chance in sorted(set(rows["chance"])):
        axes.axhline(chance, color=INK, ls=CHANCE, lw=0.9, label="chance")
    _alone(axes, rows, lambda own: float(own["accuracy"].mean()))


def _specific(rows: pd.DataFrame) -> float:
    units = rows["units"].sum()
    return float(rows["count"].sum() / units) if units else float("nan")


def _alone(axes: Axes, rows: pd.DataFrame, number: Callable[[pd.DataFrame], float]) -> None:
    """A curve per network: `number` of its rows of every seed and depth."""
    for place, (name, curve) in enumerate(ALONE.items()):
        own = select_reported(rows, trained_on=name)
        values = {key: number(of) for key, of in own.groupby(["seed", "depth"])}
        _curve(axes, pd.Series(values, dtype=float), curve, aside=place - (len(ALONE) - 1) / 2)


def _between(axes: Axes, rows: pd.DataFrame) -> None:
    """A curve per pair of networks, which share their seed."""
    rows = rows[rows["first_seed"] == rows["second_seed"]]
    for place, ((first, second), curve) in enumerate(PAIRS.items()):
        own = select_reported(rows, first_trained_on=first, second_trained_on=second)
        _curve(axes, own.groupby(["first_seed", "depth"])["cka"].mean(), curve, aside=place - (len(PAIRS) - 1) / 2)
    axes.set_title("two networks of one seed", fontsize=8)


def _across(axes: Axes, rows: pd.DataFrame) -> None:
    """A curve per network, over all pairs of its seeds."""
    rows = rows[rows["first_trained_on"] == rows["second_trained_on"]]
    for place, network in enumerate(Network):
        own = select_reported(rows, first_trained_on=network)
        pairs = own["first_seed"].astype(str) + "-" + own["second_seed"].astype(str)
        _curve(axes, own.groupby([pairs, "depth"])["cka"].mean(), ALONE[network], aside=place - (len(Network) - 1) / 2)
    if rows.empty:
        axes.text(0.5, 0.5, "one seed only", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set_title("two seeds of one network", fontsize=8)


def _curve(axes: Axes, values: pd.Series, curve: Curve, *, aside: float) -> None:
    """Mean and range over replicates; `values` is indexed by (replicate, depth)."""
    values = values.dropna()
    if values.empty:
        return
    over = values.groupby(level=1)
    x = over.mean().index.to_numpy(dtype=float) + ASIDE * aside
    axes.vlines(x, over.min(), over.max(), colors=curve.colour, lw=1.5)
    axes.plot(x, over.mean(), ls=curve.line, lw=1.2, marker=curve.marker, ms=4.5, color=curve.colour, gid=curve.name)


def _finish(figure: Figure, axes: np.ndarray, depths: list[int]) -> None:
    words = ("accuracy on held-out images", "share of units", "median eta squared", "similarity (debiased CKA)")
    for row, label in zip(axes, words, strict=True):
        low = min(0.0, *(each.dataLim.y0 for each in row))  # unlike shares, similarity may fall below 0
        row[0].set_ylim(low - 0.04, 1.04)
        row[0].set_ylabel(label)
        for each in row:
            each.set_xticks(depths[:: choose_tick_step([str(depth) for depth in depths], PANEL, size=8)])
            each.grid(axis="y", color="#E4E4E4", lw=0.6)
    for each in axes[-1]:
        each.set_xlabel("convolution, from the image inwards")
    figure.legend(handles=_handles(), loc="outside lower center", ncols=3)


def _handles() -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], ls=curve.line, lw=1.2, marker=curve.marker, ms=4.5, color=curve.colour, label=curve.label)
        for curve in (*ALONE.values(), *PAIRS.values())
    ]
    handles.append(Line2D([], [], color=INK, ls=CHANCE, lw=0.9, label="chance"))
    handles.append(Line2D([], [], ls="none", marker="|", ms=10, mew=1.5, color=INK, label="lowest to highest seed"))
    return handles
