"""A contact sheet: faces in labelled grids, so that a person can see what the networks see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from facespec.figures.labels import fill_template, fit_names
from facespec.figures.style import MUTED, use_study_style

# inches
CELL, GAP, MARGIN = 0.84, 0.03, 0.15
TITLE, HEADS, NAMES, LEGEND = 0.31, 0.16, 0.62, 0.45
PAD = 4  # between the name of a row and its first image, points

# for region codes in their order: light for what is no face, strong for the features
REGION_COLOURS = (
    "#ECECEC",
    "#8C564B",
    "#F6D7B8",
    "#222222",
    "#1F77B4",
    "#2CA02C",
    "#D62728",
    "#9467BD",
    "#FF9D3C",
    "#E3B78E",
    "#A9B4C2",
    "#6B6B6B",
)


@dataclass(frozen=True)
class Grid:
    """Images in rows: uint8 (H, W) grey or (H, W, 3) RGB, None where there is none; names of rows and columns.

    `names` are written into the ``{}`` of `title`. Names that are too long for their places are shortened.
    """

    title: str
    images: Sequence[Sequence[np.ndarray | None]]
    columns: Sequence[str] = ()
    rows: Sequence[str] = ()
    names: Sequence[str] = ()

    @property
    def width(self) -> float:
        """Inches, the rows' names included."""
        return NAMES + (CELL + GAP) * max(len(row) for row in self.images)

    @property
    def height(self) -> float:
        """Inches, title and the columns' names included."""
        return TITLE + (HEADS if self.columns else 0) + (CELL + GAP) * len(self.images)


def choose_region_colours(codes: Mapping[str, int]) -> dict[str, str]:
    """The colour of every region, in the order of their codes."""
    ordered = sorted(codes, key=lambda name: codes[name])
    return {name: REGION_COLOURS[place % len(REGION_COLOURS)] for place, name in enumerate(ordered)}


def paint_regions(regions: np.ndarray, codes: Mapping[str, int]) -> np.ndarray:
    """A region map uint8 (H, W) as an RGB picture uint8 (H, W, 3), in the colours of `choose_region_colours`."""
    table = np.zeros((256, 3), np.uint8)
    for name, colour in choose_region_colours(codes).items():
        table[codes[name]] = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return table[regions]


def paint_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two images differ: white where they are equal, the darker the larger the absolute difference."""
    return (255 - np.abs(one.astype(np.int16) - other.astype(np.int16))).astype(np.uint8)


def draw_contact_sheet(stacks: Sequence[Sequence[Grid]], *, regions: Mapping[str, int] | None = None) -> Figure:
    """One figure with the `stacks` of grids beside each other; `regions` (name -> code) are explained below them."""
    widths = [max(grid.width for grid in stack) for stack in stacks]
    height = max(sum(grid.height for grid in stack) for stack in stacks) + (LEGEND if regions else 0) + 2 * MARGIN
    with use_study_style():
        sheet = Figure(figsize=(sum(widths) + MARGIN * (len(stacks) + 1), height))
        left = MARGIN
        for stack, width in zip(stacks, widths, strict=True):
            top = height - MARGIN
            for grid in stack:
                _draw(sheet, grid, left, top, width=width)
                top -= grid.height
            left += width + MARGIN
        if regions:
            patches = [Patch(color=colour, label=name) for name, colour in choose_region_colours(regions).items()]
            sheet.legend(
                handles=patches,
                loc="lower center",
                ncols=len(patches),
                columnspacing=1.2,
                handlelength=1.2,
                title="facial regions",
            )
    return sheet


def _draw(sheet: Figure, grid: Grid, left: float, top: float, *, width: float) -> None:
    """`left`, `top`: of the grid; `width`: of its stack; all in inches."""
    title = fill_template(grid.title, *grid.names, width=72 * (width - NAMES), size=9, bold=True)
    columns = fit_names(grid.columns, 72 * CELL, size=7)
    rows = fit_names(grid.rows, 72 * NAMES - PAD, size=7)
    width, height = sheet.get_size_inches()
    sheet.text((left + NAMES) / width, (top - 0.1) / height, title, weight="bold", va="top", fontsize=9)
    first = top - TITLE - (HEADS if grid.columns else 0)
    for row, column, image in _cells(grid):
        x, y = left + NAMES + (CELL + GAP) * column, first - (CELL + GAP) * row - CELL
        axes = sheet.add_axes((x / width, y / height, CELL / width, CELL / height))
        if row == 0 and columns:
            axes.set_title(columns[column], fontsize=7, pad=2)
        if column == 0 and rows:
            axes.set_ylabel(rows[row], rotation=0, ha="right", va="center", fontsize=7)
        _show(axes, image)


def _cells(grid: Grid) -> Iterator[tuple[int, int, np.ndarray | None]]:
    for row, images in enumerate(grid.images):
        for column, image in enumerate(images):
            yield row, column, image


def _show(axes: Axes, image: np.ndarray | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if image is None:
        axes.text(0.5, 0.5, "none", color=MUTED, ha="center", va="center", fontsize=7, transform=axes.transAxes)
        return
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
