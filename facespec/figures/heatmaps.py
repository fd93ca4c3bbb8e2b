"""Figures 2A, 2C, 2D and their statistics: heatmaps over the faces they are of.

A heatmap is laid over the grey face half transparent [O], so that the face shows through and every colour is that of
the colour bar: the published sum of face and coloured map [P] saturates where the face is light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from facespec.figures.boxes import (
    ORDER,
    PUBLISHED,
    describe_sources,
    draw_overlap,
    draw_panel_2B,
    format_short,
    outline_text,
    select_reported,
)
from facespec.figures.labels import fit_name, set_suptitle, wrap_text
from facespec.figures.style import LOOKS, use_study_style
from facespec.published.export_heatmaps import Example
from facespec.study.maps import upsample_maps
from facespec.study.tables import ALL_IMAGES, HEATMAPS, OVERLAP
from facespec.study.vocabulary import Network, Task

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of red, green and blue
AROUND = 50  # height of what is above and below a colour bar, points
OPACITY = 0.5  # [O] of a heatmap over its face
# of masks: the tasks' colours, and one far from both for every reader
MASKS = {
    "expression only": LOOKS[Task.EXPRESSION].colour,
    "identity only": LOOKS[Task.IDENTITY].colour,
    "both": "#FFD92F",
}


@dataclass(frozen=True, eq=False)
class MeanMap:
    """The mean (h, w) of the scaled heatmaps of one network, task and seed; of `n` images, `blank` more left out."""

    pair: tuple[str, str]
    seed: int
    n: int
    blank: int
    mean: np.ndarray


def read_mean_maps(table: pd.DataFrame) -> list[MeanMap]:
    """The mean scaled maps over all expressions in a HEATMAPS table, in the table's order."""
    rows = select_reported(HEATMAPS.check(table), scale="scaled", expression="all")
    return [_mean_map(own) for _, own in rows.groupby(["trained_on", "tested_on", "seed"], sort=False)]


def _mean_map(rows: pd.DataFrame) -> MeanMap:
    first = rows.iloc[0]
    cells = rows.pivot(index="row", columns="column", values="mean").to_numpy(dtype=np.float64)
    return MeanMap((first["trained_on"], first["tested_on"]), first["seed"], first["n"], first["blank"], cells)


def convert_to_grey(face: np.ndarray) -> np.ndarray:
    """A face (H, W) or RGB (H, W, 3) in grey, float64 (H, W)."""
    face = np.asarray(face, dtype=np.float64)
    return face @ np.array(LUMINANCE) if face.ndim == 3 else face


def overlay_map(axes: Axes, face: np.ndarray, cells: np.ndarray | None) -> AxesImage | None:
    """Show `face` (H, W[, 3]), and over it the scaled map `cells` (h, w) in JET; "blank" over it if the map is NaN."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    shown = convert_to_grey(face)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
    if cells is None:
        return None
    if np.isnan(cells).any():
        axes.text(0.5, 0.03, "blank", transform=axes.transAxes, ha="center", va="bottom", path_effects=[outline_text()])
        return None
    return axes.imshow(
        upsample_maps(cells, shown.shape), cmap="jet", vmin=0, vmax=1, alpha=OPACITY, interpolation="bilinear"
    )


def draw_figure_2A(table: pd.DataFrame, face: np.ndarray) -> Figure:
    """Mean scaled heatmaps over the mean face: the mean over seeds, and below it every seed if there are several.

    `table` is a HEATMAPS table, `face` float (H, W) or RGB (H, W, 3), 0-255: the mean image.
    """
    with use_study_style():
        figure = Figure(figsize=(7.4, 2.7 + 0.95 * len(_small_rows(table))), layout="constrained")
        draw_panel_2A(figure, table, face=face)
        figure.suptitle("Figure 2A. Where the networks look: mean heatmaps")
    return figure


def _small_rows(table: pd.DataFrame) -> list[int]:
    seeds = sorted(set(table["seed"]))
    return seeds if len(seeds) > 1 else []  # one seed is its own mean


def draw_panel_2A(parent: Figure | SubFigure, table: pd.DataFrame, *, face: np.ndarray) -> None:
    """Draw Figure 2A into `parent`."""
    maps, small = read_mean_maps(table), _small_rows(table)
    axes = parent.subplots(1 + len(small), len(ORDER), height_ratios=(2, *[1] * len(small)), squeeze=False)
    for column, pair in enumerate(ORDER):
        own = {each.seed: each for each in maps if each.pair == pair}
        seen = [each.mean for each in own.values() if each.n]
        overlay_map(axes[0, column], face, np.mean(seen, axis=0) if seen else np.full((1, 1), np.nan))
        n, blank = (sum(getattr(each, name) for each in own.values()) for name in ("n", "blank"))
        axes[0, column].set_title(f"{pair[0]} network\n{pair[1]} task\n{_counted(n, blank, 'maps')}", fontsize=8)
        for row, seed in enumerate(small, start=1):
            overlay_map(axes[row, column], face, own[seed].mean)
            axes[row, column].set_title(_counted(own[seed].n, own[seed].blank, "images"), fontsize=6.5, pad=2)
    first = "mean of\nseeds" if small else f"seed {maps[0].seed}"
    for label, each in zip([first, *[f"seed {seed}" for seed in small]], axes[:, 0], strict=True):
        each.set_ylabel(label, rotation=0, ha="right", va="center")
    taken_at = ", ".join(sorted(set(table["layer"])))
    _jet_bar(parent, axes, "at {}, scaled image by image,\nblank ones left out ({})", taken_at, describe_sources(table))


def _counted(n: int, blank: int, what: str) -> str:
    return f"{n:,} {what}, {blank:,} blank"


def _jet_bar(parent: Figure | SubFigure, axes: np.ndarray, template: str, *names: str) -> None:
    """The colour bar right of `axes`. Its label, `template` with `names`, has no line longer than the bar."""
    shrink = 0.6 if len(axes) > 1 else 0.75  # a single row is not high
    length = shrink * (72 * parent.bbox.height / parent.dpi - AROUND)
    label = wrap_text(template.format(*(fit_name(name, length - 20, size=8) for name in names)), length, size=8)
    mappable = ScalarMappable(Normalize(0, 1), "jet")
    parent.colorbar(mappable, ax=axes, label=label, shrink=shrink, aspect=30, alpha=OPACITY, pad=0.02, panchor=False)


def draw_figure_2C(table: pd.DataFrame, overlap: pd.DataFrame, *, reference: pd.DataFrame, face: np.ndarray) -> Figure:
    """Masks of the joint network's two mean heatmaps over the mean face, per seed; their areas and overlap beside.

    `table` is a HEATMAPS table, `overlap` an OVERLAP table (its thresholds cut the masks), `reference` a
    REFERENCE_HEATMAPS table, `face` as in `draw_figure_2A`.
    """
    with use_study_style():
        figure = Figure(figsize=(max(7.4, 3.8 + 1.3 * table["seed"].nunique()), 3.5), layout="constrained")
        draw_panel_2C(figure, table, overlap=overlap, reference=reference, face=face)
        set_suptitle(
            figure, "Figure 2C. Where the joint network looks most for each task ({})", describe_sources(table)
        )
    return figure


def draw_panel_2C(
    parent: FigureBase, table: pd.DataFrame, *, overlap: pd.DataFrame, reference: pd.DataFrame, face: np.ndarray
) -> None:
    """Draw Figure 2C into `parent`."""
    overlap = select_reported(OVERLAP.check(overlap), figure="2C", rule=PUBLISHED)
    maps = {(each.seed, each.pair): each.mean for each in read_mean_maps(table)}
    seeds = sorted({seed for seed, _ in maps})
    left, right = parent.subfigures(1, 2, width_ratios=(max(1.3 * len(seeds), 2.8), 3.5), squeeze=False)[0]
    for axes, seed in zip(left.subplots(1, len(seeds), squeeze=False)[0], seeds, strict=True):
        whole = overlap[(overlap["seed"] == seed) & (overlap["resample"] == ALL_IMAGES)]
        number = whole.set_index(["quantity", "tested_on"])["number"]
        overlay_map(axes, face, None)
        expression, identity = (maps[seed, (Network.JOINT, task)] for task in Task)
        axes.imshow(paint_masks(expression, identity, threshold=number["threshold", "both"], size=face.shape[:2]))
        axes.set_title(f"seed {seed}", fontsize=8)
        shares = [
            format_short(number[which]) for which in (*(("area", task) for task in Task), ("intersection", "both"))
        ]
        axes.set_xlabel(
            "share of the image:\nexpression {}\nidentity {}\nboth {}\n".format(*shares)
            + f"IoU {format_short(number['iou', 'both'])}",
            fontsize=7,
        )
    left.legend(
        handles=[Patch(color=colour, label=name) for name, colour in MASKS.items()],
        fontsize=7,
        title="mean heatmap at or above the threshold",
        title_fontsize=7,
        loc="outside lower center",
        ncols=3,
        handlelength=1.2,
        columnspacing=1,
    )
    draw_overlap(right, overlap, reference=select_reported(reference, figure="2C"))


def paint_masks(expression: np.ndarray, identity: np.ndarray, *, threshold: float, size: tuple[int, ...]) -> np.ndarray:
    """RGBA (H, W, 4): which of two mean maps (h, w) reach the threshold; transparent where none does."""
    # the table's maps were summed in another order than these, and may differ in their last bits
    height, width = size
    one, other = (upsample_maps(cells, (height, width)) >= threshold * (1 - 1e-12) for cells in (expression, identity))
    picture = np.zeros((height, width, 4))
    for where, colour in zip((one & ~other, other & ~one, one & other), MASKS.values(), strict=True):
        picture[where] = to_rgba(colour, 0.8)
    return picture


def draw_figure_2D(examples: Mapping[str, Example], source: str, *, seed: int) -> Figure:
    """Single faces: where the joint and the expression network of `seed` look to name the expression.

    `examples` maps each face's expression to the face and its scaled maps, `source` says whence the faces are.
    """
    with use_study_style():
        figure = Figure(figsize=(0.9 + 0.95 * max(len(examples), 6), 3.5), layout="constrained")
        draw_panel_2D(figure, examples)
        set_suptitle(figure, f"Figure 2D. Single faces, expression task ({{}}, seed {seed})", source)
    return figure


def draw_panel_2D(parent: Figure | SubFigure, examples: Mapping[str, Example]) -> None:
    """Draw Figure 2D into `parent`."""
    axes = parent.subplots(3, len(examples), squeeze=False)
    for column, (name, example) in zip(axes.T, examples.items(), strict=True):
        for each, cells in zip(column, (None, example.joint, example.single), strict=True):
            overlay_map(each, example.image, cells)
        column[0].set_title(name, fontsize=8)
    for label, each in zip(("face", "joint\nnetwork", "expression\nnetwork"), axes[:, 0], strict=True):
        each.set_ylabel(label, rotation=0, ha="right", va="center")
    _jet_bar(parent, axes, "heatmap, scaled")


def draw_figure_2(
    table: pd.DataFrame,
    overlap: pd.DataFrame,
    *,
    reference: pd.DataFrame,
    face: np.ndarray,
    examples: Mapping[str, Example],
) -> Figure:
    """Figures 2A to 2D on one page; arguments as there."""
    seeds = table["seed"].nunique()
    heights = (2.5 + 0.85 * len(_small_rows(table)), 3.5, 3.6, 3.4)
    with use_study_style():
        figure = Figure(figsize=(max(7.4, 3.8 + 1.3 * seeds), sum(heights)), layout="constrained")
        parts = figure.subfigures(4, 1, height_ratios=heights, squeeze=False)[:, 0]
        draw_panel_2A(parts[0], table, face=face)
        draw_panel_2B(parts[1], overlap, reference=reference)
        draw_panel_2C(parts[2], table, overlap=overlap, reference=reference, face=face)
        draw_panel_2D(parts[3], examples)
        titles = (
            "2A  Mean heatmaps",
            "2B  Pixels of the mean heatmaps",
            "2C  Where the joint network looks most for each task ({})",
            "2D  Single faces, expression task ({})",
        )
        for part, title in zip(parts, titles, strict=True):
            set_suptitle(part, title, describe_sources(table), size=9, x=0.01, ha="left")
    return figure
