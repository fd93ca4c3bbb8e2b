"""Do lesions of the units that one task needs spare the other task? Losses of both tasks, and a segregation index.

Losses are drawn against the share of silenced units, and against each other: at matched damage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from facespec.figures.artists import Style, draw_grid
from facespec.figures.estimates import PERCENTILES, describe_sources, select_rows
from facespec.figures.labels import choose_tick_step, fit_names, set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.errors import StudyError
from facespec.study.tables import UNTRAINED
from facespec.study.tables_lesions import DAMAGE_CURVES, INDEX, LESIONS, SEGREGATION
from facespec.study.vocabulary import TASKS, Network

MAX_LAYERS = 5  # with curves
MAX_FRACTIONS, FEW_FRACTIONS = 12, 6  # with an index; with a whole title
MAX_HANDLES = 4  # in one row of the legend of indices
MAX_TICKS = 7  # with a label, of one axis
DROP_LIMITS = (-50, 150)  # %: drops outside are cut off, so that one network near chance does not flatten all curves
DAMAGE_LIMITS = (-15, 105)  # %: losses of the other task, at matched damage
RANDOM_DASHES = (0, (3, 1.5))
PANELS_WIDTH = 475  # of all panels of a row, points
TASK_WIDTH = 120  # of a task's name in the legend, points
TITLE_HEIGHT, ROW_HEIGHT, LEGEND_HEIGHT, NOTE_HEIGHT, INDEX_HEIGHT = 0.35, 1.5, 0.46, 0.14, 2.45  # inches
DAMAGE_HEIGHT = 2.4  # inches


@dataclass(frozen=True)
class Ranking:
    """How the index under one way to choose units is drawn; `offset` along x separates it from the others."""

    label: str
    colour: str
    marker: str
    offset: float


RANKINGS = {
    "ranked": Ranking("units each task needs most", LOOKS[Network.JOINT].colour, "o", -0.22),
    "shuffled": Ranking("control: classes of both tasks mixed", MUTED, "s", 0.04),
    "random": Ranking("control: random units", "#A3A3A3", "^", 0.24),
}
UNTRAINED_RANKING = Ranking("control: before any training", INK, "x", -0.09)  # units needed most, one network
AMOUNTS = {"fraction": "silenced", "damage": "lost"}  # column of an index -> what the titles of its panels say


def draw_figure_lesions(lesions: pd.DataFrame, segregation: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Draw what lesions cost both tasks of one network, and the segregation index.

    Parameters
    ----------
    lesions : DataFrame with the schema `study.tables_lesions.LESIONS`
        Rows of one network and two tasks.
    segregation : DataFrame with the schema `study.tables_lesions.SEGREGATION`
        The index of the same network; and, if it has rows of it, of the untrained network.
    curves : DataFrame with the schema `study.tables_lesions.DAMAGE_CURVES`, optional
        Rows of the same network and tasks.

    Returns
    -------
    matplotlib.figure.Figure
        A subfigure per row. From top to bottom: loss of each task when the units that the first task needs most are
        lesioned; the same for the second task; loss when all other units are lesioned (only if the table has such
        rows); behind all curves, random units. With `curves`, what the other task has lost when the task whose units
        are silenced has lost a given share. Columns: up to `MAX_LAYERS` convolutions from the shallowest to the
        deepest. Last row: the index of all convolutions with its controls, an axes per fraction and per damage, up to
        `MAX_FRACTIONS`.

    Raises
    ------
    StudyError
        If the tables hold more than one network, a number of tasks other than two, or no index.
    """
    lesions, segregation = LESIONS.check(lesions), SEGREGATION.check(segregation)
    colours, network = choose_task_colours(lesions), lesions["trained_on"].iloc[0]
    of_network = select_rows(segregation, trained_on=network)
    index = select_rows(of_network, quantity=INDEX)
    if not (index["fraction"] > 0).any():
        raise StudyError(
            f"table 'segregation' holds no index of the {network} network at a fraction above 0. "
            "Pass the table made from these lesions."
        )
    headings = dict.fromkeys(colours, "Silenced: the units that {} needs most")
    if (lesions["condition"] == "keep").any():
        headings[""] = "Kept: only the units that one task needs most; all others are silenced"
    with use_study_style():
        notes = lesions.loc[lesions["drop"].isna(), "tested_on"].nunique()  # see `_make_handles`
        heights = [ROW_HEIGHT + TITLE_HEIGHT, *[ROW_HEIGHT] * (len(headings) - 2)]
        heights += [ROW_HEIGHT + (LEGEND_HEIGHT + NOTE_HEIGHT * notes)]
        heights += [*([] if curves is None else [DAMAGE_HEIGHT]), INDEX_HEIGHT]
        size = (7.4, TITLE_HEIGHT + sum(heights))
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.03))
        title = "What the {} network loses when units are silenced ({})"
        set_suptitle(figure, title, network, describe_sources(lesions))
        parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        _draw_losses(parts[: len(headings)], lesions, headings=headings, colours=colours)
        if curves is not None:
            curves = DAMAGE_CURVES.check(curves[curves["trained_on"] == network])
            _draw_damage(parts[-2], curves, of_network, layers=choose_layers(lesions), colours=colours)
        untrained = select_rows(segregation, trained_on=UNTRAINED, quantity=INDEX, condition="ranked")
        _draw_indices(parts[-1], index, untrained)
    return figure


def spread_evenly(names: Sequence[Any], count: int) -> list[Any]:
    """Up to `count` of `names`, evenly spaced: the first, the last, and others between."""
    return [names[round(index)] for index in np.linspace(0, len(names) - 1, min(len(names), count))]


def thin_out(values: Any) -> Any:
    """Every value, or every second, third, ...: at most `MAX_TICKS`."""
    return values[:: -(-len(values) // MAX_TICKS)]


def choose_task_colours(lesions: pd.DataFrame) -> dict[str, str]:
    """The colours of both tasks, the study's tasks first. A task of the user's takes the colour of an absent one."""
    networks, tasks = (list(dict.fromkeys(lesions[column])) for column in ("trained_on", "tested_on"))
    if len(networks) != 1 or len(tasks) != 2:
        raise StudyError(
            f"one network is drawn, tested on two tasks; the table 'lesions' holds the networks {networks} and the "
            f"tasks {tasks}. Pass the rows of one network and two tasks."
        )
    known = [str(task) for task in TASKS]
    tasks.sort(key=lambda task: known.index(task) if task in known else len(known))
    unused = iter(LOOKS[task].colour for task in known if task not in tasks)
    return {task: LOOKS[task].colour if task in known else next(unused) for task in tasks}


def choose_layers(lesions: pd.DataFrame) -> list[str]:
    """The layers whose curves are drawn, the shallowest first."""
    return spread_evenly(_list_layers(lesions), MAX_LAYERS)


def make_layer_titles(layers: Sequence[str]) -> list[str]:
    """Names of layers, shortened to the width of panels side by side."""
    return fit_names(layers, PANELS_WIDTH / len(layers) - 5, size=7.5)


def style_small_axes(axes: Axes) -> None:
    """Small tick labels and grid lines."""
    axes.tick_params(labelsize=7)
    draw_grid(axes)


def write_cut_off(axes: Axes) -> None:
    """Say that some of the data lies outside the limits."""
    axes.text(0.97, 0.03, "cut off", transform=axes.transAxes, ha="right", fontsize=6.5, color=MUTED)


def _list_layers(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table.sort_values("depth", kind="stable")["layer"]))


def _draw_losses(
    parts: Sequence[SubFigure], lesions: pd.DataFrame, *, headings: Mapping[str, str], colours: Mapping[str, str]
) -> None:
    """A row of panels per heading: the task whose units are lesioned, or "" where the others are."""
    layers = choose_layers(lesions)
    grid = np.array([part.subplots(1, len(layers), sharey=True, squeeze=False)[0] for part in parts])
    for part, row, (lesioned, heading) in zip(parts, grid, headings.items(), strict=True):
        set_suptitle(part, heading, lesioned, size=8.5, x=0.01, ha="left", color=colours.get(lesioned, INK))
        random, ranked = ("random", "ranked") if lesioned else ("keep", "keep")
        for axes, layer in zip(row, layers, strict=True):
            for task, colour in colours.items():
                tested = select_rows(lesions, layer=layer, tested_on=task)
                _draw_random_units(axes, select_rows(tested, condition=random, ranked_by=""), colour)
                for ranked_by in [lesioned] if lesioned else colours:
                    rows = select_rows(tested, condition=ranked, ranked_by=ranked_by)
                    _draw_ranked_units(axes, rows, colour, same_task=ranked_by == task)
            axes.set_xlabel("% of units silenced" if lesioned else "% of units kept", fontsize=7, labelpad=1)
        row[0].set_ylabel("lost, % of what\nis above chance")
    for axes, layer, title in zip(grid[0], layers, make_layer_titles(layers), strict=True):
        first = lesions[lesions["layer"] == layer].iloc[0]
        axes.set_title(f"{title}\ndepth {first['depth']}, {first['units']} units", fontsize=7.5)
    _share_axes(grid, lesions)
    handles, style = _make_handles(lesions, colours), {tuple: HandlerTuple(ndivide=None, pad=0.4)}
    legend: Style = {"loc": "outside lower center", "ncols": 3, "fontsize": 7.5, "handler_map": style}
    parts[-1].legend([*handles.values()], [*handles], **legend)


def _draw_ranked_units(axes: Axes, rows: pd.DataFrame, colour: str, *, same_task: bool) -> None:
    """The mean over seeds, over thin lines of every seed; `same_task`: units were ranked by the task that is tested."""
    by_seed = _convert_to_percent(rows).pivot_table(index="fraction", columns="seed", values="drop")
    if by_seed.empty:
        return
    x, gid = 100 * by_seed.index, " ".join(rows.iloc[0][["condition", "ranked_by", "tested_on"]])
    for seed in by_seed.columns if by_seed.shape[1] > 1 else ():
        axes.plot(x, by_seed[seed], lw=0.6, alpha=0.5, color=colour, zorder=2, gid=f"{gid} seed {seed}")
    style, zorder = _make_line_style(colour, same_task=same_task), 4 if same_task else 3
    axes.plot(x, by_seed.mean(axis=1), color=colour, gid=gid, zorder=zorder, **style)


def _make_line_style(colour: str, *, same_task: bool) -> Style:
    lw, face = (1.9, colour) if same_task else (1.0, "white")
    return {"lw": lw, "marker": "o", "ms": 4.2, "mec": colour, "mfc": face}


def _draw_random_units(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Mean and middle 95 % over draws and seeds."""
    rows = _convert_to_percent(rows)
    if rows.empty:
        return
    drops, gid = rows.groupby("fraction")["drop"], " ".join(rows.iloc[0][["condition", "tested_on"]])
    low, mean, high = (drops.quantile(PERCENTILES[0] / 100), drops.mean(), drops.quantile(PERCENTILES[1] / 100))
    x = 100 * mean.index.to_numpy(float)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, zorder=1)
    axes.plot(x, mean, ls=RANDOM_DASHES, lw=0.9, color=colour, zorder=2, gid=gid)


def _convert_to_percent(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a drop, with the drop in percent."""
    return rows.assign(drop=100 * rows["drop"].astype(float)).dropna(subset="drop")


def _share_axes(grid: np.ndarray, lesions: pd.DataFrame) -> None:
    """The same limits and ticks for all panels."""
    low = max(DROP_LIMITS[0], min(0.0, *(axes.dataLim.y0 for axes in grid.flat))) - 5
    high = min(DROP_LIMITS[1], max(100.0, *(axes.dataLim.y1 for axes in grid.flat))) + 5
    x = 100 * np.unique(lesions["fraction"].to_numpy(float))
    ticks = thin_out(x)
    labels = [f"{percent:.3g}" for percent in ticks]
    step = choose_tick_step(labels, PANELS_WIDTH / grid.shape[1] - 20, size=7)
    margin = 0.06 * max(float(np.ptp(x)), 10)
    for axes in grid.flat:
        axes.axhline(0, color=INK, lw=0.6)
        axes.set(ylim=(low, high), xlim=(x[0] - margin, x[-1] + margin), yticks=(0, 50, 100))
        axes.set_xticks(ticks[::step], labels[::step])
        style_small_axes(axes)
        if axes.dataLim.y0 < low or axes.dataLim.y1 > high:
            write_cut_off(axes)


def _make_handles(lesions: pd.DataFrame, colours: Mapping[str, str]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for (task, colour), name in zip(colours.items(), fit_names(list(colours), TASK_WIDTH, size=7.5), strict=True):
        rows = select_rows(lesions, tested_on=task)
        seeds, above_chance = rows["seed"].nunique(), rows.dropna(subset="drop")["seed"].nunique()
        note = "" if above_chance == seeds else f"\n(above chance: {above_chance} of {seeds} seeds)"
        handles[f"loss in the {name} task{note}"] = Patch(color=colour)
    handles["one seed"] = Line2D([], [], color=INK, lw=0.6, alpha=0.5)
    handles["units chosen for this very task"] = Line2D([], [], color=INK, **_make_line_style(INK, same_task=True))
    handles["units chosen for the other task"] = Line2D([], [], color=INK, **_make_line_style(INK, same_task=False))
    band, mean = Patch(color=INK, alpha=0.15, lw=0), Line2D([], [], color=INK, ls=RANDOM_DASHES, lw=0.9)
    handles["random units, 95 % of draws"] = (band, mean)
    return handles


def _draw_damage(
    part: SubFigure,
    curves: pd.DataFrame,
    differences: pd.DataFrame,
    *,
    layers: Sequence[str],
    colours: Mapping[str, str],
) -> None:
    """A panel per layer: what the other task has lost against what the task whose units are silenced has lost.

    Colours are those of the latter. `differences`: rows of SEGREGATION.
    """
    heading = "Matched damage: when silencing its units has cost a task so much, what has the other lost?"
    part.suptitle(heading, fontsize=8.5, x=0.01, ha="left")
    panels = part.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
    for axes, layer, title in zip(panels, layers, make_layer_titles(layers), strict=True):
        axes.axline((0, 0), (100, 100), color=INK, lw=0.6)
        for (task, colour), other in zip(colours.items(), list(colours)[::-1], strict=True):
            _draw_damage_curves(axes, select_rows(curves, layer=layer, ranked_by=task), (task, other), colour)
            matched = select_rows(differences, layer=layer, quantity=task).dropna(subset=["damage", "number"])
            _draw_matched(axes, matched.sort_values("damage"), task, colour)
        axes.set_title(title, fontsize=7.5)
        axes.set(xlim=(-5, 105), ylim=DAMAGE_LIMITS, xticks=(0, 50, 100), yticks=(0, 50, 100))
        axes.set_xlabel("% lost in this task", fontsize=7, labelpad=1)
        style_small_axes(axes)
    panels[0].set_ylabel("% lost in the\nother task")
    names = fit_names(list(colours), TASK_WIDTH, size=7)
    handles: list[Any] = [
        Patch(color=colours[task], label=f"units {name} needs") for task, name in zip(colours, names, strict=True)
    ]
    handles.append(Line2D([], [], color=INK, lw=0, marker="o", ms=4.2, label="at the damages, 95 % interval"))
    handles.append(Line2D([], [], color=INK, ls=RANDOM_DASHES, lw=0.9, label="random units"))
    handles.append(Line2D([], [], color=INK, lw=0.6, label="both alike"))
    part.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7, columnspacing=1.2)


def _draw_damage_curves(axes: Axes, rows: pd.DataFrame, tasks: tuple[str, str], colour: str) -> None:
    """Thin curves of every seed, from no loss on; `tasks`: the one whose units are silenced, and the other."""
    for seed, curve in select_rows(rows, condition="ranked").groupby("seed"):
        lost = curve.assign(drop=100 * curve["drop"].astype(float)).pivot(
            index="silenced", columns="tested_on", values="drop"
        )
        x, y = (np.append(0.0, lost[task].to_numpy()) for task in tasks)
        axes.plot(x, y, lw=0.7, alpha=0.6, color=colour, zorder=2, gid=f"curve {tasks[0]} seed {seed}")


def _draw_matched(axes: Axes, rows: pd.DataFrame, task: str, colour: str) -> None:
    """The other task's loss at every damage: damage minus difference, of the ranked units and of random ones."""
    styles: dict[str, Style] = {
        "ranked": {"ls": "none", "marker": "o", "ms": 4.2},
        "random": {"ls": RANDOM_DASHES, "lw": 0.9},
    }
    for condition, style in styles.items():
        chosen = select_rows(rows, condition=condition)
        damage = chosen["damage"].to_numpy(float)
        number, high, low = (100 * (damage - chosen[name].to_numpy(float)) for name in ("number", "low", "high"))
        if condition == "ranked":
            axes.vlines(100 * damage, low, high, colors=colour, lw=1.4, zorder=3)
        axes.plot(100 * damage, number, color=colour, zorder=4, gid=f"{condition} {task}", **style)


def _draw_indices(part: SubFigure, index: pd.DataFrame, untrained: pd.DataFrame) -> None:
    """A panel per fraction and damage: the index of every layer under each of `RANKINGS`, with its interval.

    `untrained` is the index of the untrained network, as "ranked"; it may be empty.
    """
    layers = _list_layers(index)
    amounts = [(name, value) for name in AMOUNTS for value in sorted(set(index[name].dropna())) if value > 0]
    amounts = spread_evenly(amounts, MAX_FRACTIONS)
    counts = f"seeds: {index['seeds'].max()}, n = {index['people'].max()}"  # n: people, or another unit of resampling
    title = f"Segregation index: does silencing harm the intended task only? ({counts})"
    part.suptitle(title, x=0.01, ha="left", fontsize=8.5)
    depths = index.drop_duplicates("layer").set_index("layer")["depth"]
    ticks, labels = thin_out(range(len(layers))), [str(depths[layer]) for layer in thin_out(layers)]
    step = choose_tick_step(labels, PANELS_WIDTH / len(amounts) - 12, size=7)
    panels = part.subplots(1, len(amounts), sharey=True, squeeze=False)[0]
    sources = [(condition, look, select_rows(index, condition=condition)) for condition, look in RANKINGS.items()]
    sources.append((UNTRAINED, UNTRAINED_RANKING, untrained))
    for axes, (name, amount) in zip(panels, amounts, strict=True):
        axes.axhline(0, color=INK, lw=0.8)
        for gid, look, table in sources:
            rows = table[table[name] == amount]
            if len(rows):
                _draw_index(axes, rows.set_index("layer").reindex(layers), look, gid)
        short = len(amounts) > FEW_FRACTIONS and name == "fraction"
        axes.set_title(f"{100 * amount:.3g} %" + ("" if short else f" {AMOUNTS[name]}"), fontsize=8)
        axes.set(ylim=(-1.08, 1.08), xlim=(-0.6, len(layers) - 0.4), xlabel="depth")
        axes.set_xticks(ticks[::step], labels[::step])
        style_small_axes(axes)
    y_labels = ("only the other\ntask suffers  −1", "both alike   0", "only its own\ntask suffers    1")
    panels[0].set_yticks((-1, 0, 1), y_labels)
    lines = {str(line.get_label()): line for axes in panels for line in axes.lines if line.get_gid()}
    handles = [lines[look.label] for _, look, _ in sources if look.label in lines]
    handles.append(Line2D([], [], ls="none", marker="|", ms=10, mew=1.4, color=INK, label="95 % interval"))
    columns = len(handles) if len(handles) <= MAX_HANDLES else 3
    part.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=7, columnspacing=1.2)


def _draw_index(axes: Axes, rows: pd.DataFrame, look: Ranking, gid: str) -> None:
    """`rows`: one per layer, in order; layers without a number are marked on the lower edge."""
    x = np.arange(len(rows)) + look.offset
    number, low, high = (rows[name].to_numpy(float) for name in ("number", "low", "high"))
    has_interval, undefined = ~np.isnan(low + high), np.isnan(number)
    axes.vlines(x[has_interval], low[has_interval], high[has_interval], colors=look.colour, lw=1.4)
    style: Style = {"marker": look.marker, "ms": 4.5, "color": look.colour}
    axes.plot(x, number, lw=1.2 if gid == "ranked" else 0, label=look.label, gid=gid, **style)
    if undefined.any():
        y = np.full(undefined.sum(), -1.08)
        axes.plot(x[undefined], y, ls="none", mfc="white", clip_on=False, gid=f"undefined {gid}", **style)
        if not axes.texts:
            axes.text(0.97, 0.04, "open: undefined", transform=axes.transAxes, ha="right", fontsize=6.5, color=MUTED)
