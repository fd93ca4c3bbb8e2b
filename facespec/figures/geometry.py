"""Do layers carry the two tasks in different directions? The share of one's variance inside the other's subspace."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facespec.figures.artists import DASHED, Style, collect_handles, draw_error_bar, draw_grid
from facespec.figures.depth import NETWORK_CURVES, OFFSET
from facespec.figures.estimates import PERCENTILES, describe_sources, select_rows
from facespec.figures.labels import set_suptitle
from facespec.figures.style import INK, use_study_style
from facespec.study.tables import ALL_IMAGES
from facespec.study.tables_geometry import GEOMETRY, SHUFFLED
from facespec.study.vocabulary import TASKS, Task

DOTTED = (0, (1, 2))


def draw_figure_geometry(table: pd.DataFrame) -> Figure:
    """Draw, layer by layer, how much of each task's variance lies inside the other task's subspace.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables_geometry.GEOMETRY`

    Returns
    -------
    matplotlib.figure.Figure
        An axes per task: a curve per network, means over seeds, with 95 % percentile intervals over people; dashed, the
        share inside the subspace of classes drawn at random; dotted, that of a random subspace if responses varied
        equally in all directions. Layers of equal depth, as in networks with branches, are averaged.

    Raises
    ------
    StudyError
        If the table does not follow its schema.
    """
    table = GEOMETRY.check(table)
    with use_study_style():
        figure = Figure(figsize=(7.4, 3.6), layout="constrained")
        set_suptitle(figure, "Do the tasks share directions? ({})", describe_sources(table))
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, task, other in zip(panels, TASKS, reversed(TASKS), strict=True):
            _draw_task(axes, select_rows(table, of=task.value), task, other)
        panels[0].set_ylabel("share of the variance")
        handles = collect_handles(panels)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
    return figure


def _draw_task(axes: Axes, rows: pd.DataFrame, task: Task, other: Task) -> None:
    inside = select_rows(rows, inside=other.value)
    depths = sorted(set(rows["depth"]))
    for number, (name, curve) in enumerate(NETWORK_CURVES.items()):
        x_shift = OFFSET * (number - 1.5)
        means = _average(select_rows(inside, trained_on=name))
        if means.empty:
            continue
        all_people = means[ALL_IMAGES]
        x = all_people.index.to_numpy() + x_shift
        style: Style = {"color": curve.colour, "zorder": 6}
        axes.plot(x, all_people, ls=curve.line_style, marker=curve.marker, ms=4, label=curve.label, **style)
        resampled = means.drop(columns=ALL_IMAGES)
        for position, numbers in zip(x, resampled.to_numpy(), strict=True):
            if np.isfinite(numbers).any():
                low, high = np.nanpercentile(numbers, PERCENTILES)
                draw_error_bar(axes, position, (low, high), lw=0.8, cap=1.5)
        shuffled = _average(select_rows(rows, trained_on=name, inside=SHUFFLED))
        axes.plot(x, shuffled[ALL_IMAGES], ls=DASHED, lw=0.8, **style)
    chance = rows.groupby("depth")["chance"].mean()
    axes.plot(chance.index, chance, ls=DOTTED, lw=1.2, color=INK, label="equal variance in all directions")
    axes.plot([], [], ls=DASHED, lw=0.8, color=INK, label="classes drawn at random")
    axes.set(title=f"{task} inside the subspace of {other}", xlabel="convolution", xticks=depths)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
    draw_grid(axes)


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and over layers of one depth: a row per depth, a column per resample."""
    return rows.pivot_table(index="depth", columns="resample", values="number", dropna=False)
