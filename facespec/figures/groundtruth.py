"""Do the heatmaps lie where the faces really differ? Scores of every network beside those of two baselines."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from facespec.figures.artists import DASHED, draw_grid, write_reasons
from facespec.figures.estimates import HEATMAP_PAIRS, describe_sources, select_rows
from facespec.figures.labels import set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import GROUNDTRUTH
from facespec.study.vocabulary import Task

RANDOM, CENTRE = "random", "centre"
BASELINES = {RANDOM: "random map", CENTRE: "centre of the image"}
POINTS = [*HEATMAP_PAIRS, *((name, "") for name in BASELINES)]  # from left to right: `looks`, `tested_on`
MARKERS = {Task.EXPRESSION: "o", Task.IDENTITY: "s", RANDOM: "x", CENTRE: "+"}
STEP = 0.13  # between two points
MEASURES = {
    "pointing": "maximum on a true pixel\n(share of images)",
    "mass": "heatmap on true pixels\n(share of its mass)",
    "auc": "telling true pixels from others\n(area under the ROC curve)",
}


def draw_figure_groundtruth(table: pd.DataFrame) -> Figure:
    """Draw how well heatmaps find the pixels that differ between two faces.

    Points have the table's intervals. They are filled if the network surpasses both baselines, that is if the intervals
    of both paired differences lie above 0. Dashed lines are chance levels: the true pixels' share of the image, and one
    half for the AUC.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables.GROUNDTRUTH`

    Returns
    -------
    matplotlib.figure.Figure
        An axes for each of pointing game, mass and AUC, with the points of either truth; without any number in the
        table, a page with the reason.

    Raises
    ------
    StudyError
        If the table does not follow its schema.
    """
    table = GROUNDTRUTH.check(table)
    with use_study_style():
        figure = Figure(figsize=(7.4, 4.4), layout="constrained")
        set_suptitle(figure, "Do the heatmaps lie where the faces really differ? ({})", describe_sources(table))
        if table["number"].isna().all():
            write_reasons(figure, table, default="the table has no numbers")
            return figure
        for axes, measure in zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES, strict=True):
            _draw_measure(axes, select_rows(table, measure=measure), measure)
        figure.legend(handles=_make_handles(), loc="outside lower center", ncols=3)
    return figure


def _draw_measure(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    half_width = STEP * len(POINTS) / 2
    for group, truth in enumerate(Task):
        scores = select_rows(rows, truth=truth)
        for index, (looks, tested_on) in enumerate(POINTS):
            x = group + (index - (len(POINTS) - 1) / 2) * STEP
            _draw_point(axes, select_rows(scores, looks=looks, tested_on=tested_on), x)
        chance = 0.5 if measure == "auc" else scores["area"].mean()
        ends = group - half_width, group + half_width
        axes.hlines(chance, *ends, colors=INK, linestyles=DASHED, lw=0.9, label="chance")
    axes.set_title(MEASURES[measure], fontsize=8)
    axes.set_xticks(range(len(Task)), [f"where {truth}\nchanges the face" for truth in Task])
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
    colour = MUTED if looks in BASELINES else LOOKS[looks].colour
    axes.vlines(x, score["low"], score["high"], colors=colour, lw=1.5)
    lows = rows[rows["against"] != ""]["low"]
    filled = looks in BASELINES or (len(lows) > 0 and bool((lows > 0).all()))
    marker, face = MARKERS[tested_on or looks], colour if filled else "white"
    axes.plot(
        x,
        score["number"],
        ls="none",
        marker=marker,
        ms=5.5,
        color=colour,
        mfc=face,
        mew=1.3,
        gid=f"{looks}-{tested_on}",
    )


def _make_handles() -> list[Line2D]:
    """Networks and tasks, baselines, hollow markers, intervals and chance levels."""
    points = {
        f"{network} network, {task} task": (LOOKS[network].colour, MARKERS[task]) for network, task in HEATMAP_PAIRS
    }
    points |= {label: (MUTED, MARKERS[name]) for name, label in BASELINES.items()}
    return [
        *(
            Line2D([], [], ls="none", marker=marker, color=colour, mew=1.3, label=label)
            for label, (colour, marker) in points.items()
        ),
        Line2D(
            [], [], ls="none", marker="o", color=INK, mfc="white", mew=1.3, label="hollow: not above both baselines"
        ),
        Line2D([], [], color=INK, lw=1.5, label="95 % over seeds and people"),
        Line2D([], [], color=INK, ls=DASHED, lw=0.9, label="share of true pixels; for AUC, one half"),
    ]
