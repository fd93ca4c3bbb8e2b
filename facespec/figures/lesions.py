"""Does silencing the units that one task needs spare the other? What lesions cost both tasks, and how far they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from facespec.figures.bars import PERCENTILES
from facespec.figures.boxes import describe_sources, select_reported
from facespec.figures.labels import choose_tick_step, fit_names, set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.errors import StudyError
from facespec.study.tables_lesions import INDEX, LESIONS, SEGREGATION
from facespec.study.vocabulary import TASKS, Network

SHOWN = 5  # layers with curves
FEW, MOST = 6, 12  # fractions with a whole title; fractions with an index
TICKS = 7  # numbers below a panel
REACH = (-50, 150)  # %: drops beyond are cut off, so that one network near chance does not flatten all curves
RANDOM = (0, (3, 1.5))  # the dashes of random units
PANELS = 475  # width of all panels of a row, points
TASK = 120  # width of a task's name in the legend, points
HEAD, ROW, FOOT, NOTE, INDICES = 0.35, 1.5, 0.46, 0.14, 2.45  # heights, inches


@dataclass(frozen=True)
class Ranking:
    """How the index under one way to choose units is drawn: `aside` keeps it from hiding the others."""

    label: str
    colour: str
    marker: str
    aside: float


RANKINGS = {
    "ranked": Ranking("units each task needs most", LOOKS[Network.JOINT].colour, "o", -0.22),
    "shuffled": Ranking("control: classes of both tasks mixed", MUTED, "s", 0.04),
    "random": Ranking("control: random units", "#A3A3A3", "^", 0.24),
}


def draw_figure_lesions(lesions: pd.DataFrame, segregation: pd.DataFrame) -> Figure:
    """A LESIONS and a SEGREGATION table of one network and two tasks.

    From top to bottom: what each task loses if the units that the first task needs most are silenced; the same for the
    second task; what each loses if only such units are kept (left out if the table has no such rows); behind all of
    them, random units. Columns: up to `SHOWN` convolutions from the shallowest to the deepest. At the bottom the
    segregation index of all convolutions, with its controls, a panel per fraction, up to `MOST` of them.

    Raises `StudyError` if the tables hold more than one network, other than two tasks, or no index.
    """
    lesions, segregation = LESIONS.check(lesions), SEGREGATION.check(segregation)
    colours, network = choose_task_colours(lesions), lesions["trained_on"].iloc[0]
    index = segregation[(segregation["trained_on"] == network) & (segregation["fraction"] > 0)]
    index = select_reported(index, quantity=INDEX)
    if index.empty:
        raise StudyError(
            f"table 'segregation' holds no index of the {network} network at a fraction above 0. "
            "Pass the table made from these lesions."
        )
    headings = dict.fromkeys(colours, "Silenced: the units that {} needs most")
    if (lesions["condition"] == "keep").any():
        headings[""] = "Kept: only the units that one task needs most; all others are silenced"
    with use_study_style():
        foot = FOOT + NOTE * lesions.loc[lesions["drop"].isna(), "tested_on"].nunique()  # see `_handles`
        heights = [ROW + HEAD, *[ROW] * (len(headings) - 2), ROW + foot, INDICES]
        figure = Figure(figsize=(7.4, HEAD + sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.03))
        title = "What the {} network loses when units are silenced ({})"
        set_suptitle(figure, title, network, describe_sources(lesions))
        parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        _curves(parts[:-1], lesions, headings=headings, colours=colours)
        _indices(parts[-1], index)
    return figure


def spread_evenly(names: Sequence[Any], shown: int) -> list[Any]:
    """Up to `shown` of `names`: the first, the last, and others as evenly between as can be."""
    return [names[round(place)] for place in np.linspace(0, len(names) - 1, min(len(names), shown))]


def thin_out(values: Any) -> Any:
    """Every value, or every second, third, ...: `TICKS` at most."""
    return values[:: -(-len(values) // TICKS)]


def choose_task_colours(lesions: pd.DataFrame) -> dict[str, str]:
    """Both tasks in the study's order, else the table's. Those the study does not know take a colour that is left."""
    networks, tasks = (list(dict.fromkeys(lesions[column])) for column in ("trained_on", "tested_on"))
    if len(networks) != 1 or len(tasks) != 2:
        raise StudyError(
            f"one network is drawn, tested on two tasks; the table 'lesions' holds the networks {networks} and the "
            f"tasks {tasks}. Pass the rows of one network and two tasks."
        )
    known = [str(task) for task in TASKS]
    tasks.sort(key=lambda task: known.index(task) if task in known else len(known))
    spare = iter(LOOKS[name].colour for name in known if name not in tasks)
    return {task: LOOKS[task].colour if task in known else next(spare) for task in tasks}


def choose_layers(lesions: pd.DataFrame) -> list[str]:
    """The layers whose curves are drawn, the shallowest first."""
    return spread_evenly(_layers(lesions), SHOWN)


def make_layer_titles(layers: Sequence[str]) -> list[str]:
    """Names of layers, as they fit above panels side by side."""
    return fit_names(layers, PANELS / len(layers) - 5, size=7.5)


def _layers(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table.sort_values("depth", kind="stable")["layer"]))


def _curves(
    parts: Sequence[SubFigure], lesions: pd.DataFrame, *, headings: Mapping[str, str], colours: Mapping[str, str]
) -> None:
    """A row of panels per heading: the task whose units are silenced, or "" for units kept."""
    layers = choose_layers(lesions)
    grid = np.array([part.subplots(1, len(layers), sharey=True, squeeze=False)[0] for part in parts])
    for part, row, (silenced, heading) in zip(parts, grid, headings.items(), strict=True):
        set_suptitle(part, heading, silenced, size=8.5, x=0.01, ha="left", color=colours.get(silenced, INK))
        for axes, layer in zip(row, layers, strict=True):
            own = lesions[lesions["layer"] == layer]
            for task, colour in colours.items():
                tested = select_reported(own, tested_on=task)
                _random(axes, select_reported(tested, condition="random" if silenced else "keep", ranked_by=""), colour)
                for chosen in [silenced] if silenced else colours:
                    rows = select_reported(tested, condition="ranked" if silenced else "keep", ranked_by=chosen)
                    _curve(axes, rows, colour, own=chosen == task)
            axes.set_xlabel("% of units silenced" if silenced else "% of units kept", fontsize=7, labelpad=1)
        row[0].set_ylabel("lost, % of what\nis above chance")
    for axes, layer, name in zip(grid[0], layers, make_layer_titles(layers), strict=True):
        place = lesions[lesions["layer"] == layer].iloc[0]
        axes.set_title(f"{name}\ndepth {place['depth']}, {place['units']} units", fontsize=7.5)
    _scale(grid, lesions)
    parts[-1].legend(
        *_handles(lesions, colours),
        loc="outside lower center",
        ncols=3,
        fontsize=7.5,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.4)},
    )


def _curve(axes: Axes, rows: pd.DataFrame, colour: str, *, own: bool) -> None:
    """The mean over seeds, over thin lines of every seed; `own`: the units were chosen for the task that is tested."""
    seeds = _percent(rows).pivot_table(index="fraction", columns="seed", values="drop")
    if seeds.empty:
        return
    x, told = 100 * seeds.index, " ".join(rows.iloc[0][["condition", "ranked_by", "tested_on"]])
    for seed in seeds.columns if seeds.shape[1] > 1 else ():
        axes.plot(x, seeds[seed], lw=0.6, alpha=0.5, color=colour, zorder=2, gid=f"{told} seed {seed}")
    axes.plot(x, seeds.mean(axis=1), color=colour, gid=told, zorder=4 if own else 3, **_line(own, colour))


def _line(own: bool, colour: str) -> dict[str, Any]:
    return {"lw": 1.9 if own else 1.0, "marker": "o", "ms": 4.2, "mec": colour, "mfc": colour if own else "white"}


def _random(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Mean and middle 95 % over draws and seeds."""
    rows = _percent(rows)
    if rows.empty:
        return
    drops, told = rows.groupby("fraction")["drop"], " ".join(rows.iloc[0][["condition", "tested_on"]])
    low, mean, high = (drops.quantile(PERCENTILES[0] / 100), drops.mean(), drops.quantile(PERCENTILES[1] / 100))
    x = 100 * mean.index.to_numpy(float)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, zorder=1)
    axes.plot(x, mean, ls=RANDOM, lw=0.9, color=colour, zorder=2, gid=told)


def _percent(rows: pd.DataFrame) -> pd.DataFrame:
    """Those with a drop, in percent."""
    return rows.assign(drop=100 * rows["drop"].astype(float)).dropna(subset="drop")


def _scale(grid: np.ndarray, lesions: pd.DataFrame) -> None:
    """The same axes for all curves."""
    low = max(REACH[0], min(0.0, *(axes.dataLim.y0 for axes in grid.flat))) - 5
    high = min(REACH[1], max(100.0, *(axes.dataLim.y1 for axes in grid.flat))) + 5
    x = 100 * np.unique(lesions["fraction"].to_numpy(float))
    ticks = thin_out(x)
    ticks = ticks[:: choose_tick_step([f"{percent:.3g}" for percent in ticks], PANELS / grid.shape[1] - 20, size=7)]
    room = 0.06 * max(float(np.ptp(x)), 10)
    for axes in grid.flat:
        axes.axhline(0, color=INK, lw=0.6)
        axes.set(ylim=(low, high), xlim=(x[0] - room, x[-1] + room), yticks=(0, 50, 100))
        axes.set_xticks(ticks, [f"{percent:.3g}" for percent in ticks])
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", color="#E4E4E4", lw=0.6)
        if axes.dataLim.y0 < low or axes.dataLim.y1 > high:
            axes.text(0.97, 0.03, "cut off", transform=axes.transAxes, ha="right", fontsize=6.5, color=MUTED)


def _handles(lesions: pd.DataFrame, colours: Mapping[str, str]) -> tuple[list[Any], list[str]]:
    made: dict[str, Any] = {}
    for (task, colour), name in zip(colours.items(), fit_names(list(colours), TASK, size=7.5), strict=True):
        own = select_reported(lesions, tested_on=task)
        of, told = own["seed"].nunique(), own.dropna(subset="drop")["seed"].nunique()
        note = "" if told == of else f"\n(above chance: {told} of {of} seeds)"
        made[f"loss in the {name} task{note}"] = Patch(color=colour)
    made["one seed"] = Line2D([], [], color=INK, lw=0.6, alpha=0.5)
    made["units chosen for this very task"] = Line2D([], [], color=INK, **_line(True, INK))
    made["units chosen for the other task"] = Line2D([], [], color=INK, **_line(False, INK))
    band, mean = Patch(color=INK, alpha=0.15, lw=0), Line2D([], [], color=INK, ls=RANDOM, lw=0.9)
    made["random units, 95 % of draws"] = (band, mean)
    return list(made.values()), list(made)


def _indices(part: SubFigure, index: pd.DataFrame) -> None:
    """A panel per fraction: the index of every layer under each `RANKINGS`, with its interval."""
    layers, fractions = _layers(index), spread_evenly(sorted(set(index["fraction"])), MOST)
    counts = f"seeds: {index['seeds'].max()}, n = {index['people'].max()}"  # n: people, or what else counts as one
    told = f"Segregation index: does silencing harm the intended task only? ({counts})"
    part.suptitle(told, x=0.01, ha="left", fontsize=8.5)
    grid = part.subplots(1, len(fractions), sharey=True, squeeze=False)[0]
    depths = index.drop_duplicates("layer").set_index("layer")["depth"]
    for axes, fraction in zip(grid, fractions, strict=True):
        axes.axhline(0, color=INK, lw=0.8)
        for condition in RANKINGS:
            own = index[(index["condition"] == condition) & (index["fraction"] == fraction)]
            if len(own):
                _index(axes, own.set_index("layer").reindex(layers), condition)
        axes.set_title(f"{100 * fraction:.3g} %" + (" silenced" if len(fractions) <= FEW else ""), fontsize=8)
        axes.set(ylim=(-1.08, 1.08), xlim=(-0.6, len(layers) - 0.4), xlabel="depth")
        names = [str(depths[layer]) for layer in thin_out(layers)]
        step = choose_tick_step(names, PANELS / len(fractions) - 12, size=7)
        axes.set_xticks(thin_out(range(len(layers)))[::step], names[::step])
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", color="#E4E4E4", lw=0.6)
    grid[0].set_yticks(
        (-1, 0, 1), ("only the other\ntask suffers  −1", "both alike   0", "only its own\ntask suffers    1")
    )
    found = {str(line.get_label()): line for axes in grid for line in axes.lines if line.get_gid()}
    handles: list[Artist] = [found[ranking.label] for ranking in RANKINGS.values() if ranking.label in found]
    handles.append(Line2D([], [], ls="none", marker="|", ms=10, mew=1.4, color=INK, label="95 % interval"))
    part.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7, columnspacing=1.2)


def _index(axes: Axes, rows: pd.DataFrame, condition: str) -> None:
    """`rows`: one per layer, in order; layers without a number are marked on the lower edge."""
    look = RANKINGS[condition]
    x = np.arange(len(rows)) + look.aside
    number, low, high = (rows[name].to_numpy(float) for name in ("number", "low", "high"))
    sure = ~np.isnan(low + high)
    axes.vlines(x[sure], low[sure], high[sure], colors=look.colour, lw=1.4)
    axes.plot(
        x,
        number,
        lw=1.2 if condition == "ranked" else 0,
        marker=look.marker,
        ms=4.5,
        color=look.colour,
        label=look.label,
        gid=condition,
    )
    none = np.isnan(number)
    if none.any():
        axes.plot(
            x[none],
            np.full(none.sum(), -1.08),
            ls="none",
            marker=look.marker,
            ms=4.5,
            mfc="white",
            mec=look.colour,
            clip_on=False,
            gid=f"undefined {condition}",
        )
        if not axes.texts:
            axes.text(0.97, 0.04, "open: undefined", transform=axes.transAxes, ha="right", fontsize=6.5, color=MUTED)
