"""How focal are the mean heatmaps, and how far do the joint network's two overlap? Figure 2B, and the numbers of 2C.

All numbers are in the OVERLAP table or in the table of published numbers; none is computed from pixels here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    list_heatmap_pairs,
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
BAR_HEIGHT, GROUP_HEIGHT = 0.44, 0.88
INTERVAL_LABEL = "95 % of resampled people"
PUBLISHED_LABEL, REPRODUCED_LABEL = f"{PUBLISHED}, ± reading error", f"{REPRODUCED}, mean over seeds"
UNTRAINED_LABEL = "untrained network"
SEED_LABEL = "one seed"
_SINGLE_LABELS = [f"{task} networks" for task in Task]
# label of a bar of Figure 2C -> its quantity, the task or tasks, and the network
Quantities = Mapping[str, tuple[str, str, Network]]
AREAS: Quantities = {
    "expression mask": ("area", "expression", Network.JOINT),
    "identity mask": ("area", "identity", Network.JOINT),
    "both": ("intersection", "both", Network.JOINT),
}
OVERLAPS: Quantities = {
    "expression and identity": ("iou", "both", Network.JOINT),
    "the same, two halves of people": ("iou_halves", "both", Network.JOINT),
    "expression, two halves": ("iou_halves", "expression", Network.JOINT),
    "identity, two halves": ("iou_halves", "identity", Network.JOINT),
}
# claim C6: in every group, the overlap of tasks comes first, and below it those that it is compared with
YARDSTICKS: Quantities = {
    "two tasks": ("iou", "both", Network.JOINT),
    "two seeds, expression": ("iou_networks", "expression", Network.JOINT),
    "two seeds, identity": ("iou_networks", "identity", Network.JOINT),
    "two expression networks": ("iou_networks", "expression", Network.EXPRESSION),
    "two identity networks": ("iou_networks", "identity", Network.IDENTITY),
    "two tasks, faces of one expression": ("iou_tasks", "expression", Network.JOINT),
    "two expressions, expression": ("iou_classes", "expression", Network.JOINT),
    "two tasks, faces of one person": ("iou_tasks", "identity", Network.JOINT),
    "two people, identity": ("iou_classes", "identity", Network.JOINT),
}


def draw_figure_2B(overlap: pd.DataFrame, reference: pd.DataFrame) -> Figure:
    """Draw box plots of the pixels of the mean heatmaps, published beside reproduced, on one axis.

    Parameters
    ----------
    overlap : DataFrame with the schema `study.tables.OVERLAP`
        Rows of figure 2B are drawn: a box per network, task and seed, with the interval of its median over resamples;
        boxes of the untrained network, if there are any, beside the trained ones.
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
        share = len(list_heatmap_pairs(OVERLAP.check(overlap))) / len(HEATMAP_PAIRS)
        width = max(3.7 + 3.7 * share, 3.5 + 1.3 * share * overlap["seed"].nunique())
        figure = Figure(figsize=(width, 4.0), layout="constrained")
        draw_panel_2B(figure, overlap, reference=reference)
        figure.suptitle("Figure 2B. Pixels of the mean heatmaps")
    return figure


def draw_panel_2B(parent: FigureBase, overlap: pd.DataFrame, *, reference: pd.DataFrame) -> None:
    """Draw Figure 2B into `parent`, with its legend."""
    overlap = select_rows(OVERLAP.check(overlap), figure="2B")
    reference = select_rows(REFERENCE_HEATMAPS.check(reference), figure="2B")
    seeds, pairs = sorted(set(overlap["seed"])), list_heatmap_pairs(overlap)
    ratio = (1.3 + 0.65 * len(seeds)) * len(pairs) / len(HEATMAP_PAIRS)
    left, right = parent.subplots(1, 2, sharey=True, width_ratios=(1.6, ratio))
    width, offsets = 2 * HALF_WIDTH * BOX_SHARE, np.linspace(-1, 1, 2 * len(seeds) + 1)[1::2] * HALF_WIDTH
    for index, (trained_on, tested_on) in enumerate(HEATMAP_PAIRS):
        _draw_box(left, select_rows(reference, trained_on=trained_on, tested_on=tested_on), index, width=width)
    for index, (trained_on, tested_on) in enumerate(pairs):
        reproduced = select_rows(overlap, trained_on=trained_on, tested_on=tested_on)
        for x, seed in zip(index + offsets, seeds, strict=True):
            _draw_box(right, reproduced[reproduced["seed"] == seed], x, width=width / len(seeds))
    # the published heatmaps explain the networks of Figure 1C on the same faces
    _format_axes(left, f"{PUBLISHED}\n{read_published_bars('1C')[0].source}", HEATMAP_PAIRS)
    title = f"{REPRODUCED}\n{{}}; one box per seed: {', '.join(map(str, seeds))}"
    _format_axes(right, fill_template(title, describe_sources(overlap), width=240, size=8), pairs)
    left.set_ylabel("pixel of the mean heatmap")
    left.set_ylim(0, 1.08)
    handles: list[Any] = [
        Patch(facecolor=LOOKS[n].colour, hatch=LOOKS[n].hatch, edgecolor="white", label=f"{n} network")
        for n in Network
        if n in {network for network, _ in pairs}
    ]
    handles.append(draw_error_bar(right, np.nan, (np.nan, np.nan)))
    handles[-1].set_label(f"median: {INTERVAL_LABEL}")
    parent.legend(handles=handles, loc="outside lower center", ncols=len(handles), handleheight=1.2)


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


def _format_axes(axes: Axes, title: str, pairs: Sequence[tuple[Network, Task]]) -> None:
    """Name the `pairs` from left to right; each task has half of them."""
    draw_grid(axes)
    axes.set_title(title, fontsize=8, pad=16)
    axes.set_xticks(range(len(pairs)), [f"{network}\nnetwork" for network, _ in pairs], fontsize=7)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(pairs) - 0.45)
    middle = len(pairs) / 2 - 0.5
    axes.axvline(middle, color="#C8C8C8", lw=0.6)
    style: Style = {"ha": "center", "va": "bottom", "color": MUTED}
    for x, task in zip((middle - len(pairs) / 4, middle + len(pairs) / 4), Task, strict=True):
        axes.text(x, 1.01, f"{task} task", transform=axes.get_xaxis_transform(), **style)


def draw_overlap(parent: FigureBase, overlap: pd.DataFrame, *, reference: pd.DataFrame) -> None:
    """Draw the numbers of Figure 2C into `parent`: areas of the masks, and their overlap, published and reproduced.

    `overlap` and `reference` hold rows of 2C alone. Below, if the table has them, the overlaps that claim C6 compares:
    of masks of the strongest pixels of each map, whose number is not the published one.
    """
    has_yardsticks = bool(overlap["quantity"].eq("iou_networks").any())
    heights = (3, 4, 6.5) if has_yardsticks else (3, 4)
    panels = parent.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    by_published_rule = select_rows(overlap, rule=PUBLISHED)
    _draw_bars(panels[0], by_published_rule, reference, quantities=AREAS)
    panels[0].set_xlabel("share of the image", fontsize=7)
    _draw_bars(panels[1], by_published_rule, reference, quantities=OVERLAPS)
    panels[1].set_xlabel("overlap of two masks (IoU)", fontsize=7)
    if has_yardsticks:
        _draw_bars(panels[2], select_rows(overlap, rule="top"), reference.iloc[:0], quantities=YARDSTICKS)
        panels[2].set_xlabel("IoU of equally large masks (C6)", fontsize=7)
    for axes in panels[1:]:
        axes.set_xlim(0, 1.17)
    handles = collect_handles(list(panels))
    order = (PUBLISHED_LABEL, REPRODUCED_LABEL, *_SINGLE_LABELS, UNTRAINED_LABEL, SEED_LABEL, INTERVAL_LABEL)
    handles = {label: handles[label] for label in order if label in handles}
    legend: Style = {"loc": "outside lower center", "ncols": 2, "fontsize": 7, "handleheight": 1.2}
    parent.legend([*handles.values()], [*handles], **legend)


def _draw_bars(axes: Axes, overlap: pd.DataFrame, reference: pd.DataFrame, *, quantities: Quantities) -> None:
    """A group of bars per quantity from top to bottom: published, reproduced, and of the untrained network."""
    x_max = 0.0
    for index, (quantity, tested_on, network) in enumerate(quantities.values()):
        published, reproduced, untrained = (
            select_rows(table, quantity=quantity, trained_on=trained_on, tested_on=tested_on)
            for table, trained_on in ((reference, network), (overlap, network), (overlap, Network.UNTRAINED))
        )
        bars = [
            (PUBLISHED_LABEL, Network.JOINT, Estimate(number, max(number - error, 0), number + error))
            for number, error in published[["number", "reading_error"]].itertuples(index=False)
        ]
        label = REPRODUCED_LABEL if network is Network.JOINT else f"{network} networks"
        bars.append((label, network, read_estimate(reproduced)))
        if network is Network.JOINT and len(untrained):
            bars.append((UNTRAINED_LABEL, Network.UNTRAINED, read_estimate(untrained)))
        height = min(BAR_HEIGHT, GROUP_HEIGHT / len(bars))
        for position, (label, shown, estimate) in enumerate(bars):
            y = index + (position - (len(bars) - 1) / 2) * height
            x_max = max(x_max, _draw_bar(axes, y, estimate, network=shown, label=label, height=height))
    axes.set_yticks(range(len(quantities)), list(quantities), fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylim(len(quantities) - 0.5, -0.5)
    axes.set_xlim(0, x_max * 1.17 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    draw_grid(axes, "x")


def _draw_bar(axes: Axes, y: float, estimate: Estimate, *, network: Network, label: str, height: float) -> float:
    """Draw one bar with its number, error bar and seeds; returns the largest x of these."""
    look, published = LOOKS[network], label == PUBLISHED_LABEL
    if np.isnan(estimate.number):
        axes.text(0, y, " blank", va="center", color=MUTED, fontsize=7)
        return 0.0
    colour, hatch = (look.published, "") if published else (look.colour, look.hatch)
    axes.barh(y, estimate.number, height, color=colour, hatch=hatch, edgecolor="white", lw=0.6, label=label)
    if not np.isnan(estimate.low):
        error_y = y if published else y - height / 5
        error_bar = draw_error_bar(axes, error_y, (estimate.low, estimate.high), along="x")
        if not published:
            error_bar.set_label(INTERVAL_LABEL)
    if estimate.per_seed:
        seeds_y = np.full(len(estimate.per_seed), y + height / 5)
        marker: Style = {"marker": "o", "ms": 3.2, "mfc": "white", "mec": INK, "mew": 0.8}
        axes.plot(estimate.per_seed, seeds_y, ls="none", zorder=6, clip_on=False, label=SEED_LABEL, **marker)
    x_max = max(x for x in (estimate.number, estimate.high, *estimate.per_seed) if not np.isnan(x))
    offset: Style = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(format_short(estimate.number), (x_max, y), fontsize=6.5, **offset)
    return float(x_max)
