"""How strongly do units respond to the images optimised for them, to the best probe image, and to noise? Figure S2B."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from facespec.figures.artists import draw_grid, make_outline
from facespec.figures.estimates import describe_sources, select_rows
from facespec.figures.labels import fit_names, measure_text, set_suptitle
from facespec.figures.style import INK, LOOKS, use_study_style
from facespec.study.tables import PREFERRED
from facespec.study.vocabulary import Network

KINDS = {
    "optimised": "picture made for the unit",
    "image": "the image that drives it most",
    "start": "the random picture that it was made from",
}
LEGEND_COLOURS = ("#444444", "#BBBBBB", "#FFFFFF")  # of the kinds, for all networks
BOX_WIDTH = 0.24
PANEL_WIDTH, ROTATED_HEIGHT = 470, 60  # points; ROTATED_HEIGHT is for the rotated name of a layer
LARGE, SMALL, FEW = 7.0, 4.5, 8  # font sizes, points; LARGE is for at most FEW layers


def draw_figure_S2B(table: pd.DataFrame) -> Figure:
    """Draw box plots of the responses of the units of each layer.

    Boxes reach over the middle half of the units, whiskers from the lowest to the highest. The scale is logarithmic
    down to the decade of the weakest best image and linear below it, because some random images cause no response.
    Dead units have no optimised image: they are counted and left out.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables.PREFERRED`

    Returns
    -------
    matplotlib.figure.Figure
        An axes per network, from top to bottom; layers from left to right.

    Raises
    ------
    StudyError
        If the table does not follow its schema.
    """
    table = PREFERRED.check(table)
    seeds = ", ".join(map(str, sorted(set(table["seed"]))))
    with use_study_style():
        networks = [network for network in Network if (table["trained_on"] == network).any()]
        figure = Figure(figsize=(7.4, 2.6 * max(len(networks), 3)), layout="constrained")
        title = f"Figure S2B. How strongly units are driven, and by what ({{}}; seed {seeds})"
        set_suptitle(figure, title, describe_sources(table))
        panels = figure.subplots(len(networks), 1, sharey=True, squeeze=False)[:, 0]
        panels[0].set_yscale("symlog", linthresh=_find_linear_limit(table), linscale=0.6)
        for axes, network in zip(panels, networks, strict=True):
            _draw_network(axes, select_rows(table, trained_on=network), network)
            axes.set_ylabel("mean response over the map")
        panels[0].set_ylim(bottom=0)  # of all panels, after they are drawn: a limit that was set no longer grows
        for tick in (tick for axes in panels for tick in axes.yaxis.get_major_ticks()):
            tick.label1.set_parse_math(True)  # powers of ten, which are no names of users
        handles = [
            Patch(facecolor=colour, edgecolor=INK, lw=0.8, label=label)
            for colour, label in zip(LEGEND_COLOURS, KINDS.values(), strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS))
    return figure


def _find_linear_limit(table: pd.DataFrame) -> float:
    """The power of ten below the smallest non-zero response of any unit to its best image; 1 if all are 0."""
    responses = select_rows(table, kind="image")["response"]
    responses = responses[responses > 0]
    return float(10 ** np.floor(np.log10(responses.min()))) if len(responses) else 1.0


def _draw_network(axes: Axes, rows: pd.DataFrame, network: Network) -> None:
    look, counts = LOOKS[network], []
    layers = rows.sort_values("depth", kind="stable")["layer"].drop_duplicates()
    for index, layer in enumerate(layers):
        responses = select_rows(rows, layer=layer).pivot(index=["seed", "unit"], columns="kind", values="response")
        alive = responses[responses["optimised"].notna()]
        dead = len(responses) - len(alive)
        counts.append(f"{len(alive)} units" + (f", {dead} dead" if dead else ""))
        for offset, kind, colour in zip((-1, 0, 1), KINDS, (look.colour, look.published, "white"), strict=True):
            _draw_box(axes, alive[kind].dropna().to_numpy(), index + 1.15 * BOX_WIDTH * offset, colour=colour)
    axes.set_title(f"{network} network", color=look.colour, fontweight="bold")
    _label_layers(axes, list(layers), counts)
    axes.set_xlim(-0.5, len(counts) - 0.5)
    draw_grid(axes)


def _label_layers(axes: Axes, layers: Sequence[str], counts: Sequence[str]) -> None:
    """Names above counts of units; rotated, on one line and not for every layer if there are too many layers."""
    width = PANEL_WIDTH / max(len(layers), 1)
    axes.tick_params(axis="x", length=0)
    for size in (LARGE, SMALL) if len(layers) <= FEW else (SMALL,):
        if all(measure_text(count, size=size) < width - 3 for count in counts):
            names = fit_names(layers, width - 3, size=size)
            labels = [f"{name}\n{count}" for name, count in zip(names, counts, strict=True)]
            axes.set_xticks(range(len(labels)), labels, fontsize=size)
            return
    names = fit_names(layers, ROTATED_HEIGHT, size=SMALL)
    ticks = range(0, len(names), ceil(1.4 * SMALL / width))
    axes.set_xticks(ticks, [f"{names[tick]}: {counts[tick]}" for tick in ticks], fontsize=SMALL, rotation=90)


def _draw_box(axes: Axes, values: np.ndarray, x: float, *, colour: Any) -> None:
    if not len(values):
        return
    line = {"color": INK, "lw": 0.7}
    axes.boxplot(
        [values],
        positions=[x],
        widths=BOX_WIDTH,
        whis=(0, 100),
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "edgecolor": INK, "lw": 0.7},
        whiskerprops=line,
        capprops=line,
        medianprops={"color": INK, "lw": 1.4, "solid_capstyle": "butt", "path_effects": [make_outline()]},
    )
