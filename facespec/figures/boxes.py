"""Figure 2B, and the numbers of 2C: how focal are the mean heatmaps, and how far do the joint network's two overlap?

Everything drawn is in the OVERLAP table, or in the table of published numbers; no box is computed from pixels here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from facespec.figures.bars import PERCENTILES
from facespec.figures.labels import fill_template
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.published.reference import read_published_bars
from facespec.study.tables import ALL_IMAGES, OVERLAP, REFERENCE_HEATMAPS
from facespec.study.vocabulary import Network, Task

# as published, the joint network before the single-task one
ORDER = tuple((network, task) for task in Task for network in (Network.JOINT, Network(task.value)))
PUBLISHED, REPRODUCED = "published", "reproduced"
# a box's numbers, and matplotlib's names for them
BOX = {"whisker_low": "whislo", "q1": "q1", "median": "med", "q3": "q3", "whisker_high": "whishi"}
SPREAD = 0.38  # half of the room for the boxes of one network, of which a share is filled
FILLED = 0.78
HEIGHT = 0.44  # of a bar
LIKELY = "95 % of resampled people"
READ, MADE, DOT = f"{PUBLISHED}, ± reading error", f"{REPRODUCED}, mean over seeds", "one seed"


@dataclass(frozen=True)
class Estimate:
    """A number, where it lies with 95 % (`low` to `high`; NaN if nothing is known of that), and its value per seed."""

    number: float
    low: float
    high: float
    dots: tuple[float, ...] = ()


def read_estimate(rows: pd.DataFrame) -> Estimate:
    """What OVERLAP rows of one quantity say: mean over seeds, and the percentiles of that mean over the resamples."""
    rows = rows.dropna(subset="number")
    dots = rows[rows["resample"] == ALL_IMAGES].groupby("seed")["number"].mean()
    resampled = rows[rows["resample"] != ALL_IMAGES].groupby("resample")["number"].mean()  # seeds share their draws
    low, high = np.percentile(resampled, PERCENTILES) if len(resampled) else (np.nan, np.nan)
    return Estimate(float(dots.mean()), float(low), float(high), tuple(map(float, dots)))


def select_reported(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The rows of `table` in which every named column holds the given value."""
    return table[np.logical_and.reduce([table[column] == value for column, value in values.items()])]


def describe_published_source() -> str:
    """The faces of the published Figure 2: those of 1C, whose networks it explains."""
    return read_published_bars("1C")[0].source


def describe_sources(table: pd.DataFrame) -> str:
    """Where the faces of a table come from."""
    return " and ".join(sorted(set(table["source"])))


def outline_text() -> withStroke:
    """A white border, so that ink is readable on any colour."""
    return withStroke(linewidth=2.4, foreground="white")


def format_short(number: float) -> str:
    """A share with three decimals, no leading zero; "-" for NaN."""
    return "-" if np.isnan(number) else f"{number:.3f}".removeprefix("0")


def format_signed(number: float, decimals: int) -> str:
    """A number with its sign, unless it is written as zero."""
    text = f"{number:+.{decimals}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def draw_figure_2B(overlap: pd.DataFrame, reference: pd.DataFrame) -> Figure:
    """Box plots of the pixels of the mean heatmaps: published beside reproduced, on one axis.

    `overlap` is an OVERLAP table, `reference` a REFERENCE_HEATMAPS table.
    """
    with use_study_style():
        figure = Figure(figsize=(max(7.4, 3.5 + 1.3 * overlap["seed"].nunique()), 4.0), layout="constrained")
        draw_panel_2B(figure, overlap, reference=reference)
        figure.suptitle("Figure 2B. Pixels of the mean heatmaps")
    return figure


def draw_panel_2B(parent: FigureBase, overlap: pd.DataFrame, *, reference: pd.DataFrame) -> None:
    """Draw Figure 2B into `parent`, with its legend."""
    overlap = select_reported(OVERLAP.check(overlap), figure="2B")
    reference = select_reported(REFERENCE_HEATMAPS.check(reference), figure="2B")
    seeds = sorted(set(overlap["seed"]))
    left, right = parent.subplots(1, 2, sharey=True, width_ratios=(1.6, 1.3 + 0.65 * len(seeds)))
    places = np.linspace(-1, 1, 2 * len(seeds) + 1)[1::2] * SPREAD
    for slot, (trained_on, tested_on) in enumerate(ORDER):
        _box(
            left,
            select_reported(reference, trained_on=trained_on, tested_on=tested_on),
            slot,
            width=2 * SPREAD * FILLED,
        )
        own = select_reported(overlap, trained_on=trained_on, tested_on=tested_on)
        for place, seed in zip(slot + places, seeds, strict=True):
            _box(right, own[own["seed"] == seed], place, width=2 * SPREAD * FILLED / len(seeds))
    _finish(left, f"{PUBLISHED}\n{describe_published_source()}")
    title = f"{REPRODUCED}\n{{}}; one box per seed: {', '.join(map(str, seeds))}"
    _finish(right, fill_template(title, describe_sources(overlap), width=240, size=8))
    left.set_ylabel("pixel of the mean heatmap")
    left.set_ylim(0, 1.08)
    handles: list[Any] = [
        Patch(facecolor=LOOKS[n].colour, hatch=LOOKS[n].hatch, edgecolor="white", label=f"{n} network") for n in Network
    ]
    handles.append(_error(right, np.nan, np.nan, np.nan, label=f"median: {LIKELY}"))
    parent.legend(handles=handles, loc="outside lower center", ncols=4, handleheight=1.2)


def _box(axes: Axes, rows: pd.DataFrame, x: float, *, width: float) -> None:
    """One box with its median in numbers, of rows of one network and task: published ones, or of one seed."""
    whole, resampled = rows, rows.iloc[:0]
    if "resample" in rows:
        whole, resampled = rows[rows["resample"] == ALL_IMAGES], rows[rows["resample"] != ALL_IMAGES]
    numbers = whole.set_index("quantity")["number"].reindex(list(BOX))
    if numbers.isna().any():
        axes.text(x, 0.02, "blank", rotation=90, ha="center", va="bottom", color=MUTED)
        return
    look = LOOKS[rows["trained_on"].iloc[0]]
    axes.bxp(
        [{name: float(numbers[quantity]) for quantity, name in BOX.items()}],
        positions=[x],
        widths=width,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        capwidths=width / 2,
        boxprops={"facecolor": look.colour, "hatch": look.hatch, "edgecolor": "white", "lw": 0.6},
        medianprops={"color": INK, "lw": 1.6, "path_effects": [outline_text()]},
        whiskerprops={"color": INK, "lw": 0.8},
        capprops={"color": INK, "lw": 0.8},
    )
    axes.annotate(
        format_short(numbers["median"]),
        (x, numbers["whisker_high"]),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=6.5,
    )
    medians = select_reported(resampled, quantity="median")["number"].dropna()
    if len(medians):
        _error(axes, x, *np.percentile(medians, PERCENTILES))


def _error(
    axes: Axes, place: float, low: float, high: float, *, label: str = "", along: str = "y"
) -> ErrorbarContainer:
    """An error bar from `low` to `high` along an axis, at `place` on the other."""
    middle, half = (low + high) / 2, (high - low) / 2
    look: dict[str, Any] = {"ecolor": INK, "elinewidth": 1.1, "capsize": 2, "capthick": 1.1, "zorder": 5}
    if along == "y":
        error = axes.errorbar(place, middle, yerr=half, fmt="none", label=label, **look)
    else:
        error = axes.errorbar(middle, place, xerr=half, fmt="none", label=label, **look)
    for line in (*error.lines[1], *error.lines[2]):
        line.set_path_effects([outline_text()])
    return error


def _finish(axes: Axes, title: str) -> None:
    axes.grid(axis="y", color="#E4E4E4", lw=0.6)
    axes.set_title(title, fontsize=8, pad=16)
    axes.set_xticks(range(len(ORDER)), [f"{network}\nnetwork" for network, _ in ORDER], fontsize=7)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(ORDER) - 0.45)
    axes.axvline(1.5, color="#C8C8C8", lw=0.6)
    for centre, task in zip((0.5, 2.5), Task, strict=True):
        axes.text(
            centre, 1.01, f"{task} task", transform=axes.get_xaxis_transform(), ha="center", va="bottom", color=MUTED
        )


def draw_overlap(parent: FigureBase, overlap: pd.DataFrame, *, reference: pd.DataFrame) -> None:
    """Draw the numbers of Figure 2C into `parent`: areas of the masks, and their overlap, published and reproduced.

    `overlap` and `reference` hold rows of 2C alone, `overlap` of one rule.
    """
    upper, lower = parent.subplots(2, 1, height_ratios=(3, 4))
    _bars(
        upper,
        overlap,
        reference,
        quantities={
            "expression mask": ("area", "expression"),
            "identity mask": ("area", "identity"),
            "both": ("intersection", "both"),
        },
    )
    upper.set_xlabel("share of the image", fontsize=7)
    _bars(
        lower,
        overlap,
        reference,
        quantities={
            "expression and identity": ("iou", "both"),
            "the same, two halves of people": ("iou_halves", "both"),
            "expression, two halves": ("iou_halves", "expression"),
            "identity, two halves": ("iou_halves", "identity"),
        },
    )
    lower.set_xlabel("overlap of two masks (IoU)", fontsize=7)
    lower.set_xlim(0, 1.17)
    handles, labels = upper.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    ordered = [label for label in (READ, MADE, DOT, LIKELY) if label in found]
    parent.legend(
        [found[label] for label in ordered], ordered, loc="outside lower center", ncols=2, fontsize=7, handleheight=1.2
    )


def _bars(
    axes: Axes, overlap: pd.DataFrame, reference: pd.DataFrame, *, quantities: Mapping[str, tuple[str, str]]
) -> None:
    """From top to bottom a group per quantity: label -> quantity and tested_on of the joint network's rows."""
    reach = 0.0
    for slot, (quantity, tested_on) in enumerate(quantities.values()):
        known = select_reported(reference, quantity=quantity, trained_on=Network.JOINT, tested_on=tested_on)
        for number, error in known[["number", "reading_error"]].itertuples(index=False):
            own = Estimate(number, max(number - error, 0), number + error)
            reach = max(reach, _bar(axes, slot - HEIGHT / 2, own, published=True))
        own = read_estimate(select_reported(overlap, quantity=quantity, trained_on=Network.JOINT, tested_on=tested_on))
        reach = max(reach, _bar(axes, slot + (HEIGHT / 2 if len(known) else 0), own, published=False))
    axes.set_yticks(range(len(quantities)), list(quantities), fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylim(len(quantities) - 0.5, -0.5)
    axes.set_xlim(0, reach * 1.17 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", color="#E4E4E4", lw=0.6)


def _bar(axes: Axes, y: float, own: Estimate, *, published: bool) -> float:
    """Draw one bar with number and error bar; returns how far it all reaches."""
    look = LOOKS[Network.JOINT]
    if np.isnan(own.number):
        axes.text(0, y, " blank", va="center", color=MUTED, fontsize=7)
        return 0.0
    colour, hatch = (look.published, "") if published else (look.colour, look.hatch)
    axes.barh(
        y, own.number, HEIGHT, color=colour, hatch=hatch, edgecolor="white", lw=0.6, label=READ if published else MADE
    )
    ends = [end for end in (own.number, own.high, *own.dots) if not np.isnan(end)]
    if not np.isnan(own.low):
        _error(
            axes, y if published else y - HEIGHT / 5, own.low, own.high, label="" if published else LIKELY, along="x"
        )
    if own.dots:
        axes.plot(
            own.dots,
            np.full(len(own.dots), y + HEIGHT / 5),
            ls="none",
            marker="o",
            ms=3.2,
            mfc="white",
            mec=INK,
            mew=0.8,
            zorder=6,
            clip_on=False,
            label=DOT,
        )
    axes.annotate(
        format_short(own.number), (max(ends), y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=6.5
    )
    return float(max(ends))
