"""Facial biomarkers: on which parts of the face do the networks look, expression by expression?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from facespec.figures.boxes import describe_sources, format_signed, select_reported
from facespec.figures.labels import fill_template, fit_names, set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import REGIONS
from facespec.study.vocabulary import EXPRESSIONS, Network, Task

LIKELY = "95 % over seeds and people"
LABEL = 90  # length of a region's name, points
NEGLIGIBLE = 0.01  # a region is left out if no network and no expression gives it as much of the heatmap
# from the top of the face down, then what surrounds it; others follow under their own names
NAMES = {
    "brows": "brows",
    "eyes": "eyes",
    "nose": "nose",
    "mouth": "mouth",
    "outline": "other skin",
    "marks": "moles, glasses",
    "ears": "ears",
    "hair": "hair",
    "neck": "neck",
    "clothes": "clothes",
    "occluder": "occluder",
    "background": "background",
}
ROWS = [(Task.EXPRESSION, name) for name in (*EXPRESSIONS, "all")] + [(Task.IDENTITY, "all")]
MARKERS = {Network.JOINT: "D", Network.EXPRESSION: "o", Network.IDENTITY: "o"}


def draw_figure_regions(table: pd.DataFrame) -> Figure:
    """Facial biomarkers from a REGIONS table: a row per expression, the regions of the face from left to right.

    Left: share of the heatmap in every region; middle: its density; right: by how many percentage points of share the
    joint network differs from the single-task one. Intervals as in the table.
    """
    table = REGIONS.check(table)
    names, dropped = choose_regions(table)
    with use_study_style():
        figure = Figure(figsize=(2.2 + 0.95 * max(len(names), 8), 8.8), layout="constrained")
        set_suptitle(figure, "Which parts of the face the heatmaps lie on ({})", describe_sources(table))
        if not names:
            _reason(figure, table)
            return figure
        differences = select_reported(table[table["region"].isin(names)], measure="share", against="single")
        reach = differences["number"].abs().max()
        axes = figure.subplots(len(ROWS), 3, sharex="col", sharey="col", width_ratios=(1, 1, 1))
        for (task, expression), row in zip(ROWS, axes, strict=True):
            own = select_reported(table, tested_on=task, expression=expression)
            for each, measure in zip(row, ("share", "density"), strict=False):
                _points(each, select_reported(own, measure=measure, against=""), names)
            own = select_reported(differences, tested_on=task, expression=expression)
            _differences(row[2], own, names, reach=reach if reach > 0 else 1.0)
            label = expression if task == Task.EXPRESSION and expression != "all" else f"all faces,\n{task} task"
            row[0].set_ylabel(label, rotation=0, ha="right", va="center")
        _finish(figure, axes, names)
        note = f"regions: {' and '.join(sorted(set(table['regions'])))}"
        if dropped:
            note += "; left out, under 1 % everywhere: {}"
        left_out = ", ".join(NAMES.get(name, name) for name in dropped)
        _legend(figure, axes[:, 0], title=fill_template(note, left_out, width=70 * figure.get_figwidth(), size=7))
    return figure


def choose_regions(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The regions to show, from the top of the face down, and those left out because their share is negligible."""
    shares = select_reported(table, measure="share", against="").groupby("region", sort=False)["number"].max()
    places = {name: place for place, name in enumerate(NAMES)}
    ordered = sorted(shares.index, key=lambda name: places.get(name, len(places)))
    names = [name for name in ordered if shares[name] >= NEGLIGIBLE]
    return names, [name for name in ordered if name not in names]


def _points(axes: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    """The joint and the single-task network beside each other, region by region, with their intervals."""
    for network, shift in ((Network.JOINT, 0.16), (None, -0.16)):
        own = rows[(rows["trained_on"] == Network.JOINT) == (network is Network.JOINT)].set_index("region")
        if own.empty:
            continue
        name = Network(own["trained_on"].iloc[0])
        number, low, high = (own[column].reindex(list(names)).to_numpy(float) for column in ("number", "low", "high"))
        axes.errorbar(
            np.arange(len(names)) + shift,
            number,
            fmt="none",
            ecolor=LOOKS[name].colour,
            elinewidth=1.6,
            yerr=np.maximum([number - low, high - number], 0),
            label=LIKELY,
        )
        axes.plot(
            np.arange(len(names)) + shift,
            number,
            ls="none",
            marker=MARKERS[name],
            ms=5,
            mec="white",
            mew=0.5,
            color=LOOKS[name].colour,
            label=f"{name} network",
        )


def _differences(axes: Axes, rows: pd.DataFrame, names: Sequence[str], *, reach: float) -> None:
    """Joint minus single-task network in percentage points of share; framed where the interval excludes 0."""
    own = rows.set_index("region").reindex(list(names))
    numbers = own["number"].to_numpy(float)
    axes.imshow(
        numbers[None], cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", extent=(-0.5, len(names) - 0.5, 0, 1)
    )
    for place, (number, low, high) in enumerate(zip(numbers, own["low"], own["high"], strict=True)):
        if np.isnan(number):
            axes.text(place, 0.5, "none", ha="center", va="center", fontsize=7, color=MUTED)
            continue
        text = axes.text(
            place,
            0.5,
            format_signed(100 * number, 1),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if abs(number) > 0.65 * reach else INK,
        )
        if low > 0 or high < 0:
            text.set_fontweight("bold")
            axes.add_patch(
                Rectangle((place - 0.46, 0.06), 0.92, 0.88, fill_template=False, ec=text.get_color(), lw=1.2)
            )


def _finish(figure: Figure, axes: np.ndarray, names: Sequence[str]) -> None:
    labels = fit_names([NAMES.get(name, name) for name in names], LABEL, size=7)
    titles = ("share of the heatmap", "density (1: as much as anywhere)", "joint minus single, % points of share")
    for column, title in zip(axes.T, titles, strict=True):
        column[0].set_title(title, fontsize=8)
        column[-1].set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
        column[-1].set_xlim(-0.6, len(names) - 0.4)
        for each in column:
            each.tick_params(axis="x", length=0)
            each.tick_params(axis="y", labelsize=7)
    for each in axes[:, :2].flat:
        each.set_ylim(0)
        each.grid(axis="y", color="#E4E4E4", lw=0.6)
    for each in axes[:, 1]:
        each.axhline(1, color=INK, lw=0.8, ls=(0, (4, 2)), zorder=1)
    for each in axes[:, 2]:
        each.set_yticks([])
        each.spines[:].set_visible(False)


def _legend(figure: Figure, axes: Sequence[Axes], *, title: str) -> None:
    found: dict[str, Artist] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    ordered = sorted(found, key=lambda label: label == LIKELY)
    sure = Patch(fill_template=False, ec=INK, lw=1.2, label="difference whose interval excludes 0")
    handles = [*(found[label] for label in ordered), sure]
    figure.legend(
        handles,
        [*ordered, str(sure.get_label())],
        loc="outside lower center",
        ncols=len(handles),
        title=title,
        title_fontsize=7,
    )


def _reason(figure: Figure, table: pd.DataFrame) -> None:
    reasons = "\n".join(dict.fromkeys(text for text in table["reason"] if text)) or "no heatmap lies on any region"
    figure.text(0.5, 0.5, reasons, ha="center", va="center", wrap=True)
