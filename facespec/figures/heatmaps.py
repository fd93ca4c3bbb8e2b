"""Where do the networks look? Heatmaps over faces: Figures 2A, 2C, 2D and the overview of Figure 2.

A heatmap is drawn half transparent over the grey face [O], so that the face stays visible and every colour is that of
the colour bar: the published sum of face and coloured map [P] saturates on light faces.
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

from facespec.figures.artists import make_outline
from facespec.figures.boxes import PUBLISHED, draw_overlap, draw_panel_2B
from facespec.figures.estimates import describe_sources, list_heatmap_pairs, select_rows
from facespec.figures.labels import fit_name, format_short, set_suptitle, wrap_text
from facespec.figures.style import LOOKS, use_study_style
from facespec.study.examples import Example
from facespec.study.maps import upsample_maps
from facespec.study.tables import ALL_IMAGES, HEATMAPS, OVERLAP
from facespec.study.vocabulary import Network, Task

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of red, green and blue
BAR_MARGIN = 50  # height above and below a colour bar, points
OPACITY = 0.5  # [O] of a heatmap over its face
# colours of masks: the tasks', and one that every reader can distinguish from both
MASKS = {
    "expression only": LOOKS[Task.EXPRESSION].colour,
    "identity only": LOOKS[Task.IDENTITY].colour,
    "both": "#FFD92F",
}


@dataclass(frozen=True, eq=False)
class MeanMap:
    """The mean (h, w) of the scaled heatmaps of one network, task and seed.

    `n` images were averaged; the maps of `blank` more images are without contrast and were left out.
    """

    network_task: tuple[str, str]
    seed: int
    n: int
    blank: int
    mean: np.ndarray


def read_mean_maps(table: pd.DataFrame) -> list[MeanMap]:
    """The mean scaled maps over all expressions in a HEATMAPS table, in the table's order."""
    rows = select_rows(HEATMAPS.check(table), scale="scaled", expression="all")
    maps = []
    for _, cells in rows.groupby(["trained_on", "tested_on", "seed"], sort=False):
        network, task, seed, n, blank = cells.iloc[0][["trained_on", "tested_on", "seed", "n", "blank"]]
        mean = cells.pivot(index="row", columns="column", values="mean").to_numpy(dtype=np.float64)
        maps.append(MeanMap((network, task), seed, n, blank, mean))
    return maps


def convert_to_grey(face: np.ndarray) -> np.ndarray:
    """A face (H, W) or RGB (H, W, 3) in grey, float64 (H, W)."""
    face = np.asarray(face, dtype=np.float64)
    return face @ np.array(LUMINANCE) if face.ndim == 3 else face


def overlay_map(axes: Axes, face: np.ndarray, cells: np.ndarray | None) -> AxesImage | None:
    """Draw `face` (H, W[, 3]) and over it the scaled map `cells` (h, w) in JET; the word "blank" if the map is NaN."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    grey = convert_to_grey(face)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    if cells is None:
        return None
    if np.isnan(cells).any():
        axes.text(0.5, 0.03, "blank", transform=axes.transAxes, ha="center", va="bottom", path_effects=[make_outline()])
        return None
    enlarged = upsample_maps(cells, grey.shape)
    return axes.imshow(enlarged, cmap="jet", vmin=0, vmax=1, alpha=OPACITY, interpolation="bilinear")


def draw_figure_2A(table: pd.DataFrame, face: np.ndarray) -> Figure:
    """Draw mean scaled heatmaps over the mean face: the mean over seeds, and below it every seed if there are several.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables.HEATMAPS`
    face : array of shape (height, width) or (height, width, 3)
        The mean image, grey or RGB, 0-255.

    Returns
    -------
    matplotlib.figure.Figure
        Axes in rows: the networks and tasks of `estimates.list_heatmap_pairs`; then the colour bar.

    Raises
    ------
    StudyError
        If the table does not follow its schema.
    """
    with use_study_style():
        figure = Figure(figsize=(_get_width(table), 2.7 + 0.95 * len(_list_small_rows(table))), layout="constrained")
        draw_panel_2A(figure, table, face=face)
        figure.suptitle("Figure 2A. Where the networks look: mean heatmaps")
    return figure


def _get_width(table: pd.DataFrame) -> float:
    """The width of Figure 2A, inches."""
    return 1.2 + 1.55 * len(list_heatmap_pairs(table))


def _list_small_rows(table: pd.DataFrame) -> list[int]:
    """The seeds drawn below the mean over seeds: none if there is only one."""
    seeds = sorted(set(table["seed"]))
    return seeds if len(seeds) > 1 else []


def draw_panel_2A(parent: Figure | SubFigure, table: pd.DataFrame, *, face: np.ndarray) -> None:
    """Draw Figure 2A into `parent`."""
    maps, seeds, pairs = read_mean_maps(table), _list_small_rows(table), list_heatmap_pairs(table)
    grid = parent.subplots(1 + len(seeds), len(pairs), height_ratios=(2, *[1] * len(seeds)), squeeze=False)
    for column, (network, task) in zip(grid.T, pairs, strict=True):
        by_seed = {mean_map.seed: mean_map for mean_map in maps if mean_map.network_task == (network, task)}
        means = [mean_map.mean for mean_map in by_seed.values() if mean_map.n]
        overlay_map(column[0], face, np.mean(means, axis=0) if means else np.full((1, 1), np.nan))
        n, blank = (sum(getattr(mean_map, name) for mean_map in by_seed.values()) for name in ("n", "blank"))
        column[0].set_title(f"{network} network\n{task} task\n{n:,} maps, {blank:,} blank", fontsize=8)
        for axes, seed in zip(column[1:], seeds, strict=True):
            overlay_map(axes, face, by_seed[seed].mean)
            axes.set_title(f"{by_seed[seed].n:,} images, {by_seed[seed].blank:,} blank", fontsize=6.5, pad=2)
    first = "mean of\nseeds" if seeds else f"seed {maps[0].seed}"
    _label_rows(grid, first, *(f"seed {seed}" for seed in seeds))
    layers = ", ".join(sorted(set(table["layer"])))
    _add_colour_bar(
        parent, grid, "at {}, scaled image by image,\nblank ones left out ({})", layers, describe_sources(table)
    )


def _label_rows(grid: np.ndarray, *labels: str) -> None:
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label, rotation=0, ha="right", va="center")


def _add_colour_bar(parent: Figure | SubFigure, grid: np.ndarray, template: str, *names: str) -> None:
    """Add the colour bar right of `grid`. Its label, `template` with `names`, has no line longer than the bar."""
    shrink = 0.6 if len(grid) > 1 else 0.75  # a single row is not high
    length = shrink * (72 * parent.bbox.height / parent.dpi - BAR_MARGIN)
    label = wrap_text(template.format(*(fit_name(name, length - 20, size=8) for name in names)), length, size=8)
    mappable = ScalarMappable(Normalize(0, 1), "jet")
    parent.colorbar(mappable, ax=grid, label=label, shrink=shrink, aspect=30, alpha=OPACITY, pad=0.02, panchor=False)


def draw_figure_2C(table: pd.DataFrame, overlap: pd.DataFrame, *, reference: pd.DataFrame, face: np.ndarray) -> Figure:
    """Draw the masks of two tasks' mean heatmaps over the mean face, and their areas and overlap.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables.HEATMAPS`
    overlap : DataFrame with the schema `study.tables.OVERLAP`
        Its thresholds cut the masks.
    reference : DataFrame with the schema `study.tables.REFERENCE_HEATMAPS`
        The published areas and overlap.
    face : array of shape (height, width) or (height, width, 3)
        The mean image, grey or RGB, 0-255.

    Returns
    -------
    matplotlib.figure.Figure
        An axes of masks per seed: of the joint network, and below of the untrained one; then two or three axes of bars,
        see `boxes.draw_overlap`.

    Raises
    ------
    StudyError
        If a table does not follow its schema.
    """
    with use_study_style():
        size = max(7.4, 3.8 + 1.3 * table["seed"].nunique()), _get_height_2C(overlap)
        figure = Figure(figsize=size, layout="constrained")
        draw_panel_2C(figure, table, overlap=overlap, reference=reference, face=face)
        title = "Figure 2C. Where the joint network looks most for each task ({})"
        set_suptitle(figure, title, describe_sources(table))
    return figure


def _get_height_2C(overlap: pd.DataFrame) -> float:
    """The height of Figure 2C, inches: more with the untrained network, and the overlaps that claim C6 is about."""
    return 7.9 if overlap["trained_on"].eq(Network.UNTRAINED).any() else 3.5


def draw_panel_2C(
    parent: FigureBase, table: pd.DataFrame, *, overlap: pd.DataFrame, reference: pd.DataFrame, face: np.ndarray
) -> None:
    """Draw Figure 2C into `parent`."""
    overlap = select_rows(OVERLAP.check(overlap), figure="2C")
    maps = {(mean_map.seed, mean_map.network_task): mean_map.mean for mean_map in read_mean_maps(table)}
    seeds = sorted({seed for seed, _ in maps})
    networks = [network for network in (Network.JOINT, Network.UNTRAINED) if network in set(overlap["trained_on"])]
    left, right = parent.subfigures(1, 2, width_ratios=(max(1.3 * len(seeds), 2.8), 3.5), squeeze=False)[0]
    grid = left.subplots(len(networks), len(seeds), squeeze=False)
    for row, network in zip(grid, networks, strict=True):
        for axes, seed in zip(row, seeds, strict=True):
            rows = select_rows(overlap, rule=PUBLISHED, trained_on=network)
            rows = rows[(rows["seed"] == seed) & (rows["resample"] == ALL_IMAGES)]
            expression, identity = (maps[seed, (network, task)] for task in Task)
            _draw_masks(axes, face, (expression, identity), rows.set_index(["quantity", "tested_on"])["number"])
            axes.set_title(f"seed {seed}", fontsize=8)
        row[0].set_ylabel(f"{network} network" if len(networks) > 1 else "", fontsize=8)
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
    draw_overlap(right, overlap, reference=select_rows(reference, figure="2C"))


def _draw_masks(axes: Axes, face: np.ndarray, maps: tuple[np.ndarray, np.ndarray], numbers: pd.Series) -> None:
    """The masks of a network's two mean maps (h, w) over `face`; below, their `numbers` by quantity and task."""
    overlay_map(axes, face, None)
    axes.imshow(paint_masks(*maps, threshold=numbers["threshold", "both"], size=face.shape[:2]))
    lines = [
        "share of the image:",
        *(f"{task} {format_short(numbers['area', task])}" for task in Task),
        f"both {format_short(numbers['intersection', 'both'])}",
        f"IoU {format_short(numbers['iou', 'both'])}",
    ]
    axes.set_xlabel("\n".join(lines), fontsize=7)


def paint_masks(expression: np.ndarray, identity: np.ndarray, *, threshold: float, size: tuple[int, ...]) -> np.ndarray:
    """RGBA (H, W, 4): the pixels at which one or both of two mean maps (h, w) reach the threshold."""
    # the table's maps were summed in another order than these, and may differ in their last bits
    height, width = size
    one, other = (upsample_maps(cells, (height, width)) >= threshold * (1 - 1e-12) for cells in (expression, identity))
    picture = np.zeros((height, width, 4))
    for mask, colour in zip((one & ~other, other & ~one, one & other), MASKS.values(), strict=True):
        picture[mask] = to_rgba(colour, 0.8)
    return picture


def draw_figure_2D(examples: Mapping[str, Example], source: str, *, seed: int) -> Figure:
    """Draw single faces with the expression task's heatmaps of the joint, the expression and the untrained network.

    Parameters
    ----------
    examples : mapping of str to Example
        Name of the expression -> face and its scaled maps.
    source : str
        The source of the faces.
    seed : int
        The seed of the networks.

    Returns
    -------
    matplotlib.figure.Figure
        Axes in rows (face, joint network, expression network, and the untrained one where examples have its maps), a
        column per example; then the colour bar.
    """
    with use_study_style():
        figure = Figure(figsize=(0.9 + 0.95 * max(len(examples), 6), 4.4), layout="constrained")
        draw_panel_2D(figure, examples)
        set_suptitle(figure, f"Figure 2D. Single faces, expression task ({{}}, seed {seed})", source)
    return figure


def draw_panel_2D(parent: Figure | SubFigure, examples: Mapping[str, Example]) -> None:
    """Draw Figure 2D into `parent`."""
    labels = ["face", "joint\nnetwork", "expression\nnetwork"]
    if any(example.untrained is not None for example in examples.values()):
        labels.append("untrained\nnetwork")
    grid = parent.subplots(len(labels), len(examples), squeeze=False)
    for column, (name, example) in zip(grid.T, examples.items(), strict=True):
        maps = (None, example.joint, example.single, example.untrained)
        for axes, cells in zip(column, maps, strict=False):
            overlay_map(axes, example.image, cells)
        column[0].set_title(name, fontsize=8)
    _label_rows(grid, *labels)
    _add_colour_bar(parent, grid, "heatmap, scaled")


def draw_figure_2(
    table: pd.DataFrame,
    overlap: pd.DataFrame,
    *,
    reference: pd.DataFrame,
    face: np.ndarray,
    examples: Mapping[str, Example],
) -> Figure:
    """Draw Figures 2A to 2D on one page.

    Parameters
    ----------
    table, overlap, reference, face
        As in `draw_figure_2C`.
    examples : mapping of str to Example
        As in `draw_figure_2D`.

    Returns
    -------
    matplotlib.figure.Figure
        A subfigure per panel, from top to bottom.

    Raises
    ------
    StudyError
        If a table does not follow its schema.
    """
    heights = (2.5 + 0.85 * len(_list_small_rows(table)), 3.5, _get_height_2C(overlap) + 0.1, 3.4)
    with use_study_style():
        width = max(_get_width(table), 3.8 + 1.3 * table["seed"].nunique())
        figure = Figure(figsize=(width, sum(heights)), layout="constrained")
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
