"""On which parts of the face do the heatmaps lie, expression by expression? Facial biomarkers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from facespec.figures.artists import DASHED, Style, collect_handles, draw_grid, write_reasons
from facespec.figures.estimates import describe_sources, select_rows
from facespec.figures.labels import fill_template, fit_names, format_signed, set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import REGIONS
from facespec.study.vocabulary import EXPRESSIONS, Network, Task

INTERVAL_LABEL = "95 % over seeds and people"
LABEL_LENGTH = 90  # of a region's name, points
NEGLIGIBLE = 0.01  # a region is left out if its share of every heatmap is smaller
# from the top of the face to its bottom, then its surroundings; other regions follow under their own names
REGION_NAMES = {
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
MARKERS = {Network.JOINT: "D", Network.EXPRESSION: "o", Network.IDENTITY: "o", Network.UNTRAINED: "x"}
TITLES = ("share of the heatmap", "density (1: as much as anywhere)", "joint minus single, % points of share")


def draw_figure_regions(table: pd.DataFrame) -> Figure:
    """Draw how much of a heatmap lies on which region of the face.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables.REGIONS`

    Returns
    -------
    matplotlib.figure.Figure
        Axes in three columns and a row per expression, `ROWS`; regions from left to right. Left: share of the heatmap
        in every region; middle: its density; right: by how many percentage points of share the joint network differs
        from the single-task one. Intervals are the table's. Without any number in the table, a page with the reason.

    Raises
    ------
    StudyError
        If the table does not follow its schema.
    """
    table = REGIONS.check(table)
    names, negligible = choose_regions(table)
    with use_study_style():
        figure = Figure(figsize=(2.2 + 0.95 * max(len(names), 8), 8.8), layout="constrained")
        set_suptitle(figure, "Which parts of the face the heatmaps lie on ({})", describe_sources(table))
        if not names:
            write_reasons(figure, table, default="no heatmap lies on any region")
            return figure
        differences = select_rows(table[table["region"].isin(names)], measure="share", against="single")
        limit = differences["number"].abs().max()
        grid = figure.subplots(len(ROWS), 3, sharex="col", sharey="col", width_ratios=(1, 1, 1))
        for (task, expression), (left, middle, right) in zip(ROWS, grid, strict=True):
            rows = select_rows(table, tested_on=task, expression=expression)
            for axes, measure in ((left, "share"), (middle, "density")):
                _draw_points(axes, select_rows(rows, measure=measure, against=""), names)
            rows = select_rows(differences, tested_on=task, expression=expression)
            _draw_differences(right, rows, names, limit=limit if limit > 0 else 1.0)
            label = expression if task == Task.EXPRESSION and expression != "all" else f"all faces,\n{task} task"
            left.set_ylabel(label, rotation=0, ha="right", va="center")
        _format_axes(grid, names)
        note = f"regions: {' and '.join(sorted(set(table['regions'])))}"
        if negligible:
            note += "; left out, under 1 % everywhere: {}"
        left_out = ", ".join(REGION_NAMES.get(name, name) for name in negligible)
        _add_legend(figure, grid[:, 0], fill_template(note, left_out, width=70 * figure.get_figwidth(), size=7))
    return figure


def choose_regions(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The regions to draw, from the top of the face to its bottom, and those with a negligible share."""
    shares = select_rows(table, measure="share", against="").groupby("region", sort=False)["number"].max()
    order = {name: index for index, name in enumerate(REGION_NAMES)}
    regions = sorted(shares.index, key=lambda name: order.get(name, len(order)))
    names = [name for name in regions if shares[name] >= NEGLIGIBLE]
    return names, [name for name in regions if name not in names]


def _draw_points(axes: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    """The joint, the single-task and the untrained network side by side, region by region, with their intervals."""
    offsets = {Network.JOINT: 0.0, Network.UNTRAINED: 0.24}
    for network in (Network.JOINT, Network.EXPRESSION, Network.IDENTITY, Network.UNTRAINED):
        points = select_rows(rows, trained_on=network).set_index("region")
        if points.empty:
            continue
        number, low, high = (points[name].reindex(list(names)).to_numpy(float) for name in ("number", "low", "high"))
        x, errors = np.arange(len(names)) + offsets.get(network, -0.24), np.maximum([number - low, high - number], 0)
        colour = LOOKS[network].colour
        axes.errorbar(x, number, yerr=errors, fmt="none", ecolor=colour, elinewidth=1.6, label=INTERVAL_LABEL)
        edge = colour if MARKERS[network] == "x" else "white"  # a cross has no area
        marker: Style = {"marker": MARKERS[network], "ms": 5, "mec": edge, "mew": 0.5, "color": colour}
        axes.plot(x, number, ls="none", label=f"{network} network", **marker)


def _draw_differences(axes: Axes, rows: pd.DataFrame, names: Sequence[str], *, limit: float) -> None:
    """Joint minus single-task network in percentage points of share; framed if the interval excludes 0."""
    rows = rows.set_index("region").reindex(list(names))
    numbers = rows["number"].to_numpy(float)
    extent = (-0.5, len(names) - 0.5, 0, 1)
    axes.imshow(numbers[None], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", extent=extent)
    style: Style = {"ha": "center", "va": "center", "fontsize": 7}
    for x, (number, low, high) in enumerate(zip(numbers, rows["low"], rows["high"], strict=True)):
        if np.isnan(number):
            axes.text(x, 0.5, "none", color=MUTED, **style)
            continue
        colour = "white" if abs(number) > 0.65 * limit else INK
        text = axes.text(x, 0.5, format_signed(100 * number, 1), color=colour, **style)
        if low > 0 or high < 0:
            text.set_fontweight("bold")
            axes.add_patch(Rectangle((x - 0.46, 0.06), 0.92, 0.88, fill=False, ec=colour, lw=1.2))


def _format_axes(grid: np.ndarray, names: Sequence[str]) -> None:
    labels = fit_names([REGION_NAMES.get(name, name) for name in names], LABEL_LENGTH, size=7)
    for column, title in zip(grid.T, TITLES, strict=True):
        column[0].set_title(title, fontsize=8)
        column[-1].set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
        column[-1].set_xlim(-0.6, len(names) - 0.4)
        for axes in column:
            axes.tick_params(axis="x", length=0)
            axes.tick_params(axis="y", labelsize=7)
    for axes in grid[:, :2].flat:
        axes.set_ylim(0)
        draw_grid(axes)
    for axes in grid[:, 1]:
        axes.axhline(1, color=INK, lw=0.8, ls=DASHED, zorder=1)
    for axes in grid[:, 2]:
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def _add_legend(figure: Figure, panels: Sequence[Axes], title: str) -> None:
    handles = collect_handles(panels)
    for label in (f"{Network.UNTRAINED} network", INTERVAL_LABEL):  # after the trained networks
        if label in handles:
            handles[label] = handles.pop(label)
    handles["difference whose interval excludes 0"] = Patch(fill=False, ec=INK, lw=1.2)
    columns, style = min(len(handles), 4), {"title": title, "title_fontsize": 7}
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=columns, **style)
