"""How focal are the mean heatmaps, and how far do the joint network's two overlap? Figure 2B, and the numbers of 2C.

All numbers are in the OVERLAP table or in the table of published numbers; none is computed from pixels here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from facespec.figures.artists import Style, collect_handles, draw_error_bar, draw_grid, make_outline
from facespec.figures.estimates import (
    HEATMAP_PAIRS,
    PERCENTILES,
    Estimate,
    describe_sources,
    read_estimate,
    select_rows,
)
from facespec.figures.labels import fill_template, format_short
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.published.reference import read_published_bars
from facespec.study.tables import ALL_IMAGES, OVERLAP, REFERENCE_HEATMAPS
from facespec.study.vocabulary import Network, Task

PUBLISHED, REPRODUCED = "published", "reproduced"
# a box's quantities -> matplotlib's names for them
BOX_QUANTITIES = {"whisker_low": "whislo", "q1": "q1", "median": "med", "q3": "q3", "whisker_high": "whishi"}
HALF_WIDTH = 0.38  # half of the width for all boxes of one network, of which BOX_SHARE is filled
BOX_SHARE = 0.78
BAR_HEIGHT = 0.44
INTERVAL_LABEL = "95 % of resampled people"
PUBLISHED_LABEL, REPRODUCED_LABEL = f"{PUBLISHED}, ± reading error", f"{REPRODUCED}, mean over seeds"
SEED_LABEL = "one seed"
# label of a bar of Figure 2C -> its quantity, and the task or tasks of the joint network
AREAS = {
    "expression mask": ("area", "expression"),
    "identity mask": ("area", "identity"),
    "both": ("intersection", "both"),
}
OVERLAPS = {
    "expression and identity": ("iou", "both"),
    "the same, two halves of people": ("iou_halves", "both"),
    "expression, two halves": ("iou_halves", "expression"),
    "identity, two halves": ("iou_halves", "identity"),
}


def draw_figure_2B(overlap: pd.DataFrame, reference: pd.DataFrame) -> Figure:
    """Draw box plots of the pixels of the mean heatmaps, published beside reproduced, on one axis.

    Parameters
    ----------
    overlap : DataFrame with the schema `study.tables.OVERLAP`
        Rows of figure 2B are drawn: a box per network, task and seed, with the interval of its median over resamples.
    reference : DataFrame with the schema `study.tables.REFERENCE_HEATMAPS`
        The published boxes.

    Returns
    -------
    matplotlib.figure.Figure
        Two axes: published and reproduced boxes.

    Raises
    ------
    StudyError
        If a table does not follow its schema.
    """
    with use_study_style():
        figure = Figure(figsize=(max(7.4, 3.5 + 1.3 * overlap["seed"].nunique()), 4.0), layout="constrained")
        draw_panel_2B(figure, overlap, reference=reference)
        figure.suptitle("Figure 2B. Pixels of the mean heatmaps")
    return figure


def draw_panel_2B(parent: FigureBase, overlap: pd.DataFrame, *, reference: pd.DataFrame) -> None:
    """Draw Figure 2B into `parent`, with its legend."""
    overlap = select_rows(OVERLAP.check(overlap), figure="2B")
    reference = select_rows(REFERENCE_HEATMAPS.check(reference), figure="2B")
    seeds = sorted(set(overlap["seed"]))
    left, right = parent.subplots(1, 2, sharey=True, width_ratios=(1.6, 1.3 + 0.65 * len(seeds)))
    width, offsets = 2 * HALF_WIDTH * BOX_SHARE, np.linspace(-1, 1, 2 * len(seeds) + 1)[1::2] * HALF_WIDTH
    for index, (trained_on, tested_on) in enumerate(HEATMAP_PAIRS):
        published, reproduced = (
            select_rows(table, trained_on=trained_on, tested_on=tested_on) for table in (reference, overlap)
        )
        _draw_box(left, published, index, width=width)
        for x, seed in zip(index + offsets, seeds, strict=True):
            _draw_box(right, reproduced[reproduced["seed"] == seed], x, width=width / len(seeds))
    # the published heatmaps explain the networks of Figure 1C on the same faces
    _format_axes(left, f"{PUBLISHED}\n{read_published_bars('1C')[0].source}")
    title = f"{REPRODUCED}\n{{}}; one box per seed: {', '.join(map(str, seeds))}"
    _format_axes(right, fill_template(title, describe_sources(overlap), width=240, size=8))
    left.set_ylabel("pixel of the mean heatmap")
    left.set_ylim(0, 1.08)
    handles: list[Any] = [
        Patch(facecolor=LOOKS[n].colour, hatch=LOOKS[n].hatch, edgecolor="white", label=f"{n} network") for n in Network
    ]
    handles.append(draw_error_bar(right, np.nan, (np.nan, np.nan)))
    handles[-1].set_label(f"median: {INTERVAL_LABEL}")
    parent.legend(handles=handles, loc="outside lower center", ncols=4, handleheight=1.2)


def _draw_box(axes: Axes, rows: pd.DataFrame, x: float, *, width: float) -> None:
    """Draw one box and write its median; `rows` are of one network, task and seed, or published."""
    is_resample = rows["resample"] != ALL_IMAGES if "resample" in rows else np.zeros(len(rows), dtype=bool)
    numbers = rows[~is_resample].set_index("quantity")["number"].reindex(list(BOX_QUANTITIES))
    if numbers.isna().any():
        axes.text(x, 0.02, "blank", rotation=90, ha="center", va="bottom", color=MUTED)
        return
    look, line = LOOKS[rows["trained_on"].iloc[0]], {"color": INK, "lw": 0.8}
    axes.bxp(
        [{name: float(numbers[quantity]) for quantity, name in BOX_QUANTITIES.items()}],
        positions=[x],
        widths=width,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        capwidths=width / 2,
        boxprops={"facecolor": look.colour, "hatch": look.hatch, "edgecolor": "white", "lw": 0.6},
        medianprops={"color": INK, "lw": 1.6, "path_effects": [make_outline()]},
        whiskerprops=line,
        capprops=line,
    )
    offset: Style = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(format_short(numbers["median"]), (x, numbers["whisker_high"]), fontsize=6.5, **offset)
    medians = select_rows(rows[is_resample], quantity="median")["number"].dropna()
    if len(medians):
        low, high = np.percentile(medians, PERCENTILES)
        draw_error_bar(axes, x, (low, high))


def _format_axes(axes: Axes, title: str) -> None:
    draw_grid(axes)
    axes.set_title(title, fontsize=8, pad=16)
    axes.set_xticks(range(len(HEATMAP_PAIRS)), [f"{network}\nnetwork" for network, _ in HEATMAP_PAIRS], fontsize=7)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(HEATMAP_PAIRS) - 0.45)
    axes.axvline(1.5, color="#C8C8C8", lw=0.6)
    style: Style = {"ha": "center", "va": "bottom", "color": MUTED}
    for x, task in zip((0.5, 2.5), Task, strict=True):
        axes.text(x, 1.01, f"{task} task", transform=axes.get_xaxis_transform(), **style)


def draw_overlap(parent: FigureBase, overlap: pd.DataFrame, *, reference: pd.DataFrame) -> None:
    """Draw the numbers of Figure 2C into `parent`: areas of the masks, and their overlap, published and reproduced.

    `overlap` and `reference` hold rows of 2C alone, `overlap` of one rule.
    """
    upper, lower = parent.subplots(2, 1, height_ratios=(3, 4))
    _draw_bars(upper, overlap, reference, quantities=AREAS)
    upper.set_xlabel("share of the image", fontsize=7)
    _draw_bars(lower, overlap, reference, quantities=OVERLAPS)
    lower.set_xlabel("overlap of two masks (IoU)", fontsize=7)
    lower.set_xlim(0, 1.17)
    handles, order = collect_handles([upper]), (PUBLISHED_LABEL, REPRODUCED_LABEL, SEED_LABEL, INTERVAL_LABEL)
    handles = {label: handles[label] for label in order if label in handles}
    legend: Style = {"loc": "outside lower center", "ncols": 2, "fontsize": 7, "handleheight": 1.2}
    parent.legend([*handles.values()], [*handles], **legend)


def _draw_bars(
    axes: Axes, overlap: pd.DataFrame, reference: pd.DataFrame, *, quantities: Mapping[str, tuple[str, str]]
) -> None:
    """A group of bars per quantity from top to bottom; `quantities`: see `AREAS`."""
    x_max = 0.0
    for index, (quantity, tested_on) in enumerate(quantities.values()):
        published, reproduced = (
            select_rows(table, quantity=quantity, trained_on=Network.JOINT, tested_on=tested_on)
            for table in (reference, overlap)
        )
        for number, error in published[["number", "reading_error"]].itertuples(index=False):
            estimate = Estimate(number, max(number - error, 0), number + error)
            x_max = max(x_max, _draw_bar(axes, index - BAR_HEIGHT / 2, estimate, published=True))
        y = index + (BAR_HEIGHT / 2 if len(published) else 0)
        x_max = max(x_max, _draw_bar(axes, y, read_estimate(reproduced), published=False))
    axes.set_yticks(range(len(quantities)), list(quantities), fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylim(len(quantities) - 0.5, -0.5)
    axes.set_xlim(0, x_max * 1.17 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    draw_grid(axes, "x")


def _draw_bar(axes: Axes, y: float, estimate: Estimate, *, published: bool) -> float:
    """Draw one bar with its number, error bar and seeds; returns the largest x of these."""
    look = LOOKS[Network.JOINT]
    if np.isnan(estimate.number):
        axes.text(0, y, " blank", va="center", color=MUTED, fontsize=7)
        return 0.0
    colour, hatch = (look.published, "") if published else (look.colour, look.hatch)
    label = PUBLISHED_LABEL if published else REPRODUCED_LABEL
    axes.barh(y, estimate.number, BAR_HEIGHT, color=colour, hatch=hatch, edgecolor="white", lw=0.6, label=label)
    if not np.isnan(estimate.low):
        error_y = y if published else y - BAR_HEIGHT / 5
        error_bar = draw_error_bar(axes, error_y, (estimate.low, estimate.high), along="x")
        if not published:
            error_bar.set_label(INTERVAL_LABEL)
    if estimate.per_seed:
        seeds_y = np.full(len(estimate.per_seed), y + BAR_HEIGHT / 5)
        marker: Style = {"marker": "o", "ms": 3.2, "mfc": "white", "mec": INK, "mew": 0.8}
        axes.plot(estimate.per_seed, seeds_y, ls="none", zorder=6, clip_on=False, label=SEED_LABEL, **marker)
    x_max = max(x for x in (estimate.number, estimate.high, *estimate.per_seed) if not np.isnan(x))
    offset: Style = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(format_short(estimate.number), (x_max, y), fontsize=6.5, **offset)
    return float(x_max)
