"""Do the heatmaps lie where the faces really differ? Scores of every network beside those of maps that did not look."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

from facespec.figures.artists import DASHED, draw_grid, write_reasons
from facespec.figures.estimates import HEATMAP_PAIRS, describe_sources, select_rows
from facespec.figures.heatmaps import OPACITY, overlay_map
from facespec.figures.labels import set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import CEILING, GROUNDTRUTH, GROUNDTRUTH_MAPS, GROUNDTRUTH_OVERLAP, TRUTH_RULES, UNTRAINED
from facespec.study.vocabulary import Task

BASELINES = {
    "random": "random map",
    "centre": "centre of the image",
    "others": "truth of other people",
    "others_pooled": "the same, as coarse as heatmaps",
    CEILING: "own truth, as coarse as heatmaps",
}
SURPASSED = ("random", "centre", "others_pooled")  # a heatmap cannot be finer than its cells
# from left to right: `looks`, `tested_on`
POINTS = list(
    dict.fromkeys([*HEATMAP_PAIRS, *((UNTRAINED, task) for task in Task), *((name, "") for name in BASELINES)])
)
MARKERS = {
    Task.EXPRESSION: "o",
    Task.IDENTITY: "s",
    **dict(zip(BASELINES, ("x", "+", "d", "D", "^"), strict=True)),
}
SPAN = 0.88  # of the points of one truth
MEASURES = {
    "pointing": "maximum on a true pixel\n(share of images)",
    "mass": "heatmap on true pixels\n(share of its mass)",
    "auc": "telling true pixels from others\n(area under the ROC curve)",
}
RULES = {"changes": "change most", "discriminability": "tell classes apart best"}  # pixels that ...


def draw_figure_groundtruth(table: pd.DataFrame, overlap: pd.DataFrame, maps: pd.DataFrame, face: np.ndarray) -> Figure:
    """Draw which pixels carry the tasks, and how well heatmaps find them.

    Points have the table's intervals. They are filled if the network surpasses random maps, the centre and, at the
    resolution of heatmaps, the truth of other people, that is if the intervals of all these paired differences lie
    above 0. Dashed lines are chance levels: the true pixels' share of the image, and one half for the AUC.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables.GROUNDTRUTH`
    overlap : DataFrame with the schema `study.tables.GROUNDTRUTH_OVERLAP`
    maps : DataFrame with the schema `study.tables.GROUNDTRUTH_MAPS`
    face : array of shape (height, width) or (height, width, 3)
        The mean image, grey or RGB, 0-255.

    Returns
    -------
    matplotlib.figure.Figure
        An axes for the mean truth of every rule and task; then, for every rule, an axes for each of pointing game, mass
        and AUC, with the points of either truth. Labels of axes are the rule and the task or measure. Without any
        number in the table, a page with the reason.

    Raises
    ------
    StudyError
        If a table does not follow its schema.
    """
    table, overlap, maps = GROUNDTRUTH.check(table), GROUNDTRUTH_OVERLAP.check(overlap), GROUNDTRUTH_MAPS.check(maps)
    with use_study_style():
        figure = Figure(figsize=(7.4, 8.6), layout="constrained")
        set_suptitle(figure, "Do the heatmaps lie where the faces really differ? ({})", describe_sources(table))
        if table["number"].isna().all():
            write_reasons(figure, table, default="the table has no numbers")
            return figure
        grid = figure.add_gridspec(1 + len(TRUTH_RULES), len(MEASURES), height_ratios=(1.1, 1.5, 1.5))
        _draw_mean_truths(figure, grid[0, :], overlap=overlap, maps=maps, face=face)
        for row, rule in enumerate(TRUTH_RULES):
            for column, measure in enumerate(MEASURES):
                axes = figure.add_subplot(grid[1 + row, column], label=f"{rule} {measure}")
                _draw_measure(axes, select_rows(table, truth_rule=rule, measure=measure), measure)
                axes.set_ylabel(f"truth: pixels that {RULES[rule]}" if column == 0 else "")
        figure.legend(handles=_make_handles(table), loc="outside lower center", ncols=3, fontsize=7)
    return figure


def _draw_mean_truths(
    figure: Figure, place: SubplotSpec, *, overlap: pd.DataFrame, maps: pd.DataFrame, face: np.ndarray
) -> None:
    """The mean truth of every rule and task over the mean face, and how far the tasks' truths overlap."""
    grid = place.subgridspec(1, len(TRUTH_RULES) * len(Task))
    panels = []
    for index, (rule, truth) in enumerate((rule, truth) for rule in TRUTH_RULES for truth in Task):
        axes = figure.add_subplot(grid[index], label=f"{rule} {truth}")
        cells = select_rows(maps, truth_rule=rule, truth=truth).pivot(index="row", columns="column", values="number")
        image = overlay_map(axes, face, cells.to_numpy(dtype=np.float64))
        axes.set_title(f"{truth}: pixels that\n{RULES[rule]}", fontsize=7.5)
        if truth is Task.EXPRESSION:
            axes.set_xlabel(_describe_overlap(overlap, rule), fontsize=6.5, loc="left")
        panels.append(axes)
    if image is not None:
        figure.colorbar(image, ax=panels, shrink=0.8, aspect=14, alpha=OPACITY, label="share of images")


def _describe_overlap(overlap: pd.DataFrame, rule: str) -> str:
    """How far the truths of both tasks overlap, in two lines."""
    row = select_rows(overlap, first_rule=rule, second_rule=rule).iloc[0]
    if np.isnan(row["number"]):
        return f"overlap of both tasks: {row['reason']}"
    interval = "" if np.isnan(row["low"]) else f"({row['low']:.3f} to {row['high']:.3f}; "
    return f"overlap of both tasks: {row['number']:.3f}\n{interval or '('}by chance {row['expected']:.3f})"


def _draw_measure(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    has_rows = set(zip(rows["looks"], rows["tested_on"], strict=True))
    points = [point for point in POINTS if point in has_rows]
    step = SPAN / len(points)
    for group, truth in enumerate(Task):
        scores = select_rows(rows, truth=truth)
        for index, (looks, tested_on) in enumerate(points):
            x = group + (index - (len(points) - 1) / 2) * step
            _draw_point(axes, select_rows(scores, looks=looks, tested_on=tested_on), x)
        chance = 0.5 if measure == "auc" else scores["area"].mean()
        axes.hlines(chance, group - SPAN / 2, group + SPAN / 2, colors=INK, linestyles=DASHED, lw=0.9, label="chance")
    axes.set_title(MEASURES[measure], fontsize=8)
    axes.set_xticks(range(len(Task)), [f"truth of\n{truth}" for truth in Task])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(Task) - 0.5)
    axes.set_ylim(0, 1.03)
    draw_grid(axes)


def _draw_point(axes: Axes, rows: pd.DataFrame, x: float) -> None:
    """The score of one network and task, or of one baseline, with its interval."""
    scores = select_rows(rows, against="").dropna(subset="number")
    if scores.empty:
        return
    score = scores.iloc[0]
    looks, tested_on = score["looks"], score["tested_on"]
    colour = _choose_colour(looks)
    axes.vlines(x, score["low"], score["high"], colors=colour, lw=1.5)
    lows = rows[rows["against"].isin(SURPASSED)]["low"]
    filled = looks in BASELINES or (len(lows) > 0 and bool((lows > 0).all()))
    axes.plot(
        x,
        score["number"],
        ls="none",
        marker=MARKERS[tested_on or looks],
        ms=4.5,
        color=colour,
        mfc=colour if filled else "white",
        mew=1.1,
        gid=f"{looks}-{tested_on}",
    )


def _choose_colour(looks: str) -> str:
    if looks in BASELINES:
        return MUTED
    return LOOKS[looks].colour if looks in LOOKS else INK


def _make_handles(table: pd.DataFrame) -> list[Line2D]:
    """Networks and tasks that have rows, baselines, hollow markers, intervals and chance levels."""
    has_rows = set(zip(table["looks"], table["tested_on"], strict=True))
    points = {
        f"{looks} network, {tested_on} task" if tested_on else BASELINES[looks]: (looks, tested_on)
        for looks, tested_on in POINTS
        if (looks, tested_on) in has_rows
    }
    symbols = [
        Line2D([], [], ls="none", marker=MARKERS[tested_on or looks], color=_choose_colour(looks), mew=1.1, label=label)
        for label, (looks, tested_on) in points.items()
    ]
    hollow = Line2D([], [], ls="none", marker="o", color=INK, mfc="white", mew=1.1)
    hollow.set_label("hollow: not above random, centre, coarse others")
    interval = Line2D([], [], color=INK, lw=1.5, label="95 % over seeds and people")
    chance = Line2D([], [], color=INK, ls=DASHED, lw=0.9, label="share of true pixels; for AUC, one half")
    return [*symbols, hollow, interval, chance]
