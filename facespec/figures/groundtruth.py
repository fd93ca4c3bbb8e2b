"""Do the heatmaps lie where the pictures really differ? Scores of every network beside those of looking anywhere."""

from __future__ import annotations

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from facespec.figures.boxes import ORDER, describe_sources, select_reported
from facespec.figures.labels import set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import GROUNDTRUTH
from facespec.study.vocabulary import Task

RANDOM, CENTRE = "random", "centre"
BASELINES = {RANDOM: "random map", CENTRE: "centre of the image"}
LOOKING = [*ORDER, *((name, "") for name in BASELINES)]
MARKERS = {Task.EXPRESSION: "o", Task.IDENTITY: "s", RANDOM: "x", CENTRE: "+"}
STEP = 0.13  # between two points
MEASURES = {
    "pointing": "maximum on a true pixel\n(share of images)",
    "mass": "heatmap on true pixels\n(share of its mass)",
    "auc": "telling true pixels from others\n(area under the ROC curve)",
}


def draw_figure_groundtruth(table: pd.DataFrame) -> Figure:
    """Pointing game, mass and AUC from a GROUNDTRUTH table, for each truth; or the reason why there is none.

    Points with the table's intervals; filled if the network surpasses both baselines, the paired differences' intervals
    lying above 0. Dashed: chance, which is the true pixels' share of the image, and one half for the AUC.
    """
    table = GROUNDTRUTH.check(table)
    with use_study_style():
        figure = Figure(figsize=(7.4, 4.4), layout="constrained")
        set_suptitle(figure, "Do the heatmaps lie where the faces really differ? ({})", describe_sources(table))
        if table["number"].isna().all():
            reasons = "\n".join(dict.fromkeys(text for text in table["reason"] if text)) or "the table has no numbers"
            figure.text(0.5, 0.5, reasons, ha="center", va="center", wrap=True)
            return figure
        for axes, measure in zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES, strict=True):
            _panel(axes, select_reported(table, measure=measure), measure)
        figure.legend(handles=_handles(), loc="outside lower center", ncols=3)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    for group, truth in enumerate(Task):
        own = select_reported(rows, truth=truth)
        for place, (looks, tested_on) in enumerate(LOOKING):
            x = group + (place - (len(LOOKING) - 1) / 2) * STEP
            _point(axes, select_reported(own, looks=looks, tested_on=tested_on), x)
        chance = 0.5 if measure == "auc" else own["area"].mean()
        reach = STEP * len(LOOKING) / 2
        axes.hlines(chance, group - reach, group + reach, colors=INK, linestyles=(0, (4, 2)), lw=0.9, label="chance")
    axes.set_title(MEASURES[measure], fontsize=8)
    axes.set_xticks(range(len(Task)), [f"where {truth}\nchanges the face" for truth in Task])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(Task) - 0.5)
    axes.set_ylim(0, 1.03)
    axes.grid(axis="y", color="#E4E4E4", lw=0.6)


def _point(axes: Axes, rows: pd.DataFrame, x: float) -> None:
    """The score of one network and task, or baseline, with its interval."""
    own = select_reported(rows, against="").dropna(subset="number")
    if own.empty:
        return
    first = own.iloc[0]
    colour = MUTED if first["looks"] in BASELINES else LOOKS[first["looks"]].colour
    axes.vlines(x, first["low"], first["high"], colors=colour, lw=1.5)
    above = rows[rows["against"] != ""]["low"]
    better = first["looks"] in BASELINES or (len(above) > 0 and bool((above > 0).all()))
    axes.plot(
        x,
        first["number"],
        ls="none",
        marker=MARKERS[first["tested_on"] or first["looks"]],
        ms=5.5,
        color=colour,
        mfc=colour if better else "white",
        mew=1.3,
        gid=f"{first['looks']}-{first['tested_on']}",
    )


def _handles() -> list[Artist]:
    """What the points are: networks and tasks, baselines, filling, chance."""
    points = {f"{network} network, {task} task": (LOOKS[network].colour, MARKERS[task]) for network, task in ORDER}
    points |= {label: (MUTED, MARKERS[name]) for name, label in BASELINES.items()}
    handles: list[Artist] = [
        Line2D([], [], ls="none", marker=marker, color=colour, mew=1.3, label=label)
        for label, (colour, marker) in points.items()
    ]
    handles.append(
        Line2D([], [], ls="none", marker="o", color=INK, mfc="white", mew=1.3, label="hollow: not above both baselines")
    )
    handles.append(Line2D([], [], color=INK, lw=1.5, label="95 % over seeds and people"))
    handles.append(Line2D([], [], color=INK, ls=(0, (4, 2)), lw=0.9, label="share of true pixels; for AUC, one half"))
    return handles
