"""What do the networks get to see? A contact sheet: images of faces in labelled grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from facespec.figures.labels import fill_template, fit_names
from facespec.figures.style import MUTED, use_study_style

CELL, GAP, MARGIN = 0.84, 0.03, 0.15  # inches
TITLE_HEIGHT, COLUMN_LABEL_HEIGHT, ROW_LABEL_WIDTH, LEGEND_HEIGHT = 0.31, 0.16, 0.62, 0.45  # inches
LABEL_PAD = 4  # between the name of a row and its first image, points
# of region codes in their order: light for what is not the face, strong for the facial features
REGION_COLOURS = (
    *("#ECECEC", "#8C564B", "#F6D7B8", "#222222", "#1F77B4", "#2CA02C"),
    *("#D62728", "#9467BD", "#FF9D3C", "#E3B78E", "#A9B4C2", "#6B6B6B"),
)


@dataclass(frozen=True)
class Grid:
    """Images in rows: uint8 (H, W) grey or (H, W, 3) RGB, None for a missing one; names of rows and columns.

    `names` are written into the ``{}`` of `title`. Names that are too long are shortened.
    """

    title: str
    images: Sequence[Sequence[np.ndarray | None]]
    columns: Sequence[str] = ()
    rows: Sequence[str] = ()
    names: Sequence[str] = ()

    @property
    def width(self) -> float:
        """Inches, the rows' names included."""
        return ROW_LABEL_WIDTH + (CELL + GAP) * max(len(row) for row in self.images)

    @property
    def height(self) -> float:
        """Inches, title and the columns' names included."""
        return TITLE_HEIGHT + (COLUMN_LABEL_HEIGHT if self.columns else 0) + (CELL + GAP) * len(self.images)


def choose_region_colours(codes: Mapping[str, int]) -> dict[str, str]:
    """The colour of every region, in the order of their codes."""
    names = sorted(codes, key=lambda name: codes[name])
    return {name: REGION_COLOURS[index % len(REGION_COLOURS)] for index, name in enumerate(names)}


def paint_regions(regions: np.ndarray, codes: Mapping[str, int]) -> np.ndarray:
    """A region map uint8 (H, W) as an RGB picture uint8 (H, W, 3), in the colours of `choose_region_colours`."""
    palette = np.zeros((256, 3), np.uint8)
    for name, colour in choose_region_colours(codes).items():
        palette[codes[name]] = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return palette[regions]


def paint_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The absolute difference of two uint8 images: white for equal pixels, the darker the larger the difference."""
    return (255 - np.abs(one.astype(np.int16) - other.astype(np.int16))).astype(np.uint8)


def draw_contact_sheet(stacks: Sequence[Sequence[Grid]], *, regions: Mapping[str, int] | None = None) -> Figure:
    """Draw stacks of grids side by side.

    Parameters
    ----------
    stacks : sequence of sequence of Grid
        Stacks from left to right; the grids of a stack from top to bottom.
    regions : mapping of str to int, optional
        Region -> code in region maps; explained in a legend below the grids.

    Returns
    -------
    matplotlib.figure.Figure
        An axes per image, grid by grid and row by row.

    Examples
    --------
    >>> face = np.zeros((17, 11), np.uint8)
    >>> figure = draw_contact_sheet([[Grid("people", [[face, face]], columns=["happy", "sad"])]])
    >>> [axes.get_title() for axes in figure.axes]
    ['happy', 'sad']
    """
    widths = [max(grid.width for grid in stack) for stack in stacks]
    height = max(sum(grid.height for grid in stack) for stack in stacks)
    height = height + (LEGEND_HEIGHT if regions else 0) + 2 * MARGIN
    with use_study_style():
        figure = Figure(figsize=(sum(widths) + MARGIN * (len(stacks) + 1), height))
        left = MARGIN
        for stack, width in zip(stacks, widths, strict=True):
            top = height - MARGIN
            for grid in stack:
                _draw_grid(figure, grid, (left, top), width=width)
                top -= grid.height
            left += width + MARGIN
        if regions:
            patches = [Patch(color=colour, label=name) for name, colour in choose_region_colours(regions).items()]
            columns, title = len(patches), "facial regions"
            figure.legend(
                handles=patches, loc="lower center", ncols=columns, columnspacing=1.2, handlelength=1.2, title=title
            )
    return figure


def _draw_grid(figure: Figure, grid: Grid, corner: tuple[float, float], *, width: float) -> None:
    """`corner`: left and top of the grid; `width`: of its stack; all in inches."""
    (left, top), size = corner, figure.get_size_inches()
    left += ROW_LABEL_WIDTH
    title = fill_template(grid.title, *grid.names, width=72 * (width - ROW_LABEL_WIDTH), size=9, bold=True)
    figure.text(left / size[0], (top - 0.1) / size[1], title, weight="bold", va="top", fontsize=9)
    columns = fit_names(grid.columns, 72 * CELL, size=7)
    rows = fit_names(grid.rows, 72 * ROW_LABEL_WIDTH - LABEL_PAD, size=7)
    top = top - TITLE_HEIGHT - (COLUMN_LABEL_HEIGHT if grid.columns else 0)
    for row, images in enumerate(grid.images):
        for column, image in enumerate(images):
            x, y = left + (CELL + GAP) * column, top - (CELL + GAP) * row - CELL
            axes = figure.add_axes((x / size[0], y / size[1], CELL / size[0], CELL / size[1]))
            if row == 0 and columns:
                axes.set_title(columns[column], fontsize=7, pad=2)
            if column == 0 and rows:
                axes.set_ylabel(rows[row], rotation=0, ha="right", va="center", fontsize=7)
            _draw_image(axes, image)


def _draw_image(axes: Axes, image: np.ndarray | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if image is None:
        axes.text(0.5, 0.5, "none", color=MUTED, ha="center", va="center", fontsize=7, transform=axes.transAxes)
    else:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
