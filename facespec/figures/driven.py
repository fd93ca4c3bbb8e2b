"""Figure S2B: how strongly units answer to the pictures made for them, to the best image there is, and to noise."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from facespec.figures.boxes import describe_sources, outline_text, select_reported
from facespec.figures.labels import fit_names, measure_text, set_suptitle
from facespec.figures.style import INK, LOOKS, use_study_style
from facespec.study.tables import PREFERRED
from facespec.study.vocabulary import Network

KINDS = {
    "optimised": "picture made for the unit",
    "image": "the image that drives it most",
    "start": "the random picture that it was made from",
}
SHADES = {"optimised": "#444444", "image": "#BBBBBB", "start": "#FFFFFF"}  # in the legend, for all networks
WIDTH = 0.24  # of a box
PANEL, UPRIGHT = 470, 60  # width of a panel, and height of a layer's name on end, points
LARGE, SMALL, FEW = 7.0, 4.5, 8  # sizes of type, points; the first for so many layers


def draw_figure_S2B(table: pd.DataFrame) -> Figure:
    """Box plots over the units of each layer, from a PREFERRED table: a panel per network, layers from left to right.

    Boxes reach over the middle half of the units, whiskers from the lowest to the highest. Responses are logarithmic
    down to the decade of the weakest best image, and linear below it, as some random pictures move nothing. Dead units
    have no optimised picture: they are counted and left out.
    """
    table = PREFERRED.check(table)
    seeds = ", ".join(map(str, sorted(set(table["seed"]))))
    with use_study_style():
        figure = Figure(figsize=(7.4, 7.8), layout="constrained")
        title = f"Figure S2B. How strongly units are driven, and by what ({{}}; seed {seeds})"
        set_suptitle(figure, title, describe_sources(table))
        panels = figure.subplots(len(Network), 1, sharey=True)
        panels[0].set_yscale("symlog", linthresh=_weakest(table), linscale=0.6)
        for axes, network in zip(panels, Network, strict=True):
            _panel(axes, select_reported(table, trained_on=network), network)
            axes.set_ylabel("mean response over the map")
        panels[0].set_ylim(bottom=0)  # of all, once every panel is drawn: a limit that is set no longer grows
        for tick in (tick for axes in panels for tick in axes.yaxis.get_major_ticks()):
            tick.label1.set_parse_math(True)  # powers of ten, which no user has named
        handles = [Patch(facecolor=SHADES[kind], edgecolor=INK, lw=0.8, label=label) for kind, label in KINDS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS))
    return figure


def _weakest(table: pd.DataFrame) -> float:
    """The power of ten below the smallest response of any unit to its best image that is not 0; 1 if all are."""
    images = select_reported(table, kind="image")["response"]
    images = images[images > 0]
    return float(10 ** np.floor(np.log10(images.min()))) if len(images) else 1.0


def _panel(axes: Axes, rows: pd.DataFrame, network: Network) -> None:
    look, counts = LOOKS[network], []
    colours = dict(zip(KINDS, (look.colour, look.published, "white"), strict=True))
    layers = rows.sort_values("depth", kind="stable")["layer"].drop_duplicates()
    for place, layer in enumerate(layers):
        own = select_reported(rows, layer=layer).pivot(index=["seed", "unit"], columns="kind", values="response")
        alive = own[own["optimised"].notna()]
        dead = len(own) - len(alive)
        counts.append(f"{len(alive)} units" + (f", {dead} dead" if dead else ""))
        for aside, kind in enumerate(KINDS, start=-1):
            _box(axes, alive[kind].dropna().to_numpy(), place + 1.15 * WIDTH * aside, colour=colours[kind])
    axes.set_title(f"{network} network", color=look.colour, fontweight="bold")
    _name_layers(axes, list(layers), counts)
    axes.set_xlim(-0.5, len(counts) - 0.5)
    axes.grid(axis="y", color="#E4E4E4", lw=0.6)


def _name_layers(axes: Axes, layers: list[str], counts: list[str]) -> None:
    """Names above counts of units; upright in one line, and not for every layer, if there are too many layers."""
    pitch = PANEL / max(len(layers), 1)
    axes.tick_params(axis="x", length=0)
    for size in (LARGE, SMALL) if len(layers) <= FEW else (SMALL,):
        if all(measure_text(count, size=size) < pitch - 3 for count in counts):
            names = fit_names(layers, pitch - 3, size=size)
            lines = [f"{name}\n{count}" for name, count in zip(names, counts, strict=True)]
            axes.set_xticks(range(len(lines)), lines, fontsize=size)
            return
    names = fit_names(layers, UPRIGHT, size=SMALL)
    shown = range(0, len(names), ceil(1.4 * SMALL / pitch))
    axes.set_xticks(shown, [f"{names[place]}: {counts[place]}" for place in shown], fontsize=SMALL, rotation=90)


def _box(axes: Axes, values: np.ndarray, x: float, *, colour: Any) -> None:
    if len(values):
        line = {"color": INK, "lw": 0.7}
        axes.boxplot(
            [values],
            positions=[x],
            widths=WIDTH,
            whis=(0, 100),
            showfliers=False,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": colour, "edgecolor": INK, "lw": 0.7},
            whiskerprops=line,
            capprops=line,
            medianprops={"color": INK, "lw": 1.4, "solid_capstyle": "butt", "path_effects": [outline_text()]},
        )
