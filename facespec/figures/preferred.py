"""Which images do units prefer? Figures 3 and S2: the image optimised for a unit beside the image that drives it most.

Images are drawn without stretching their contrast: a faint image looks faint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageOps

from facespec.figures.artists import Style
from facespec.figures.estimates import select_rows
from facespec.figures.labels import fit_name, fit_names, set_suptitle
from facespec.figures.style import LOOKS, MUTED, use_study_style
from facespec.study.errors import StudyError
from facespec.study.preferred import PreferredSet
from facespec.study.tables import PREFERRED, UNIT_CLASSES, UNITS
from facespec.study.vocabulary import Network, Task

PAGE_WIDTH = 7.4  # inches
MARGIN, TITLE_HEIGHT, LEGEND_HEIGHT = 0.1, 0.28, 0.42  # inches
COLUMNS = {4: 7.5, 8: 6.0, 16: 3.8, 32: 2.0}  # units side by side -> font size, points
MAX_PIXELS = 900  # of images side by side
MAX_UNITS = 4  # of a task and layer in Figure 3
GAP = 1 / 16  # between images, of their width
EMPTY = 232  # grey of a missing image
# class of a unit -> letter and colour
LETTERS = {
    "expression": ("E", LOOKS[Task.EXPRESSION].colour),
    "identity": ("I", LOOKS[Task.IDENTITY].colour),
    "both": ("B", LOOKS[Network.JOINT].colour),
    "neither": ("-", MUTED),
    "": ("-", MUTED),
}


@dataclass(frozen=True, eq=False)
class UnitLayer:
    """The units of one layer of one network: their preferred images and what moves them.

    `optimised` float (units, h, w) or (units, h, w, 3) in [0, 1], NaN for a dead unit; `best` uint8 (units, H, W) or
    (units, H, W, 3): the image that drives the unit most. `properties` has a row per unit, in order: `task` (key of
    `LETTERS`), `specific` (a task, or empty), `lead` (`epsilon` for expression minus that for identity), `eta` (eta
    squared, of the one task that moves it, else the larger one) and `driven` (whether any image drives it).
    """

    network: Network
    seed: int
    source: str
    layer: str
    depth: int
    optimised: np.ndarray
    best: np.ndarray
    properties: pd.DataFrame

    def make_label(self, unit: int) -> tuple[str, str]:
        """The label above the images of `unit`, and its colour."""
        letter, colour = LETTERS[str(self.properties.at[unit, "task"])]
        eta = self.properties["eta"].to_numpy()[unit]
        return f"{unit} {letter} {'-' if np.isnan(eta) else f'{eta:.2f}'}", colour


def collect_unit_layers(
    pictures: PreferredSet, network: Network, *, table: pd.DataFrame, classes: pd.DataFrame, units: pd.DataFrame
) -> list[UnitLayer]:
    """All layers of `network` in order of depth, from `pictures` and PREFERRED, UNIT_CLASSES and UNITS tables.

    Raises `StudyError` if a table does not have each unit of a layer once.
    """
    table, classes, units = PREFERRED.check(table), UNIT_CLASSES.check(classes), UNITS.check(units)
    layers = []
    for layer in pictures.layers(network):
        optimised, best = pictures.optimised(network, layer), pictures.best(network, layer)
        images, unit_classes, effects = (
            _select_layer(rows, (network, pictures.seed, layer), units=len(best), repeats=repeats)
            for rows, repeats in ((select_rows(table, kind="image"), 1), (classes, 1), (units, len(Task)))
        )
        properties = _join_properties(images.set_index("unit"), unit_classes.set_index("unit"), effects)
        depth = int(images["depth"].iloc[0])
        layers.append(UnitLayer(network, pictures.seed, pictures.source, layer, depth, optimised, best, properties))
    return layers


def _select_layer(table: pd.DataFrame, key: tuple[Network, int, str], *, units: int, repeats: int) -> pd.DataFrame:
    """The rows of a network, seed and layer, of which there must be `repeats` per unit."""
    network, seed, layer = key
    rows = select_rows(table, trained_on=network, layer=layer).query("seed == @seed")
    if sorted(rows["unit"]) != [unit for unit in range(units) for _ in range(repeats)]:
        raise StudyError(
            f"{network.value} network, seed {seed}, layer {layer!r}: there are pictures of {units} units, and "
            f"{len(rows)} rows about them instead of {units * repeats}. `dvc repro depth preferred` makes both again."
        )
    return rows


def _join_properties(images: pd.DataFrame, classes: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """The `properties` of a `UnitLayer`."""
    etas, epsilons = (effects.pivot(index="unit", columns="factor", values=name) for name in ("eta", "epsilon"))
    eta = etas.max(axis=1)
    unit_task = classes["specific"].where(classes["specific"] != "", classes["class"])
    for task in Task:
        eta = eta.where(unit_task != task, etas[task])
    lead = epsilons[Task.EXPRESSION] - epsilons[Task.IDENTITY]
    columns = {"task": unit_task, "lead": lead, "eta": eta, "driven": images["response"] > 0}
    return classes[["specific"]].assign(**columns).sort_index()


def draw_unit_page(layer: UnitLayer) -> Figure:
    """One page of Figure S2: all units of `layer`, in the order of their numbers, each optimised beside best image."""
    count = len(layer.best)
    columns = next((n for n in COLUMNS if 2 * n * n >= count), max(COLUMNS))
    rows, size = -(-count // columns), COLUMNS[columns]
    side = min(layer.optimised.shape[1], MAX_PIXELS // columns)
    gap = _compute_gap(side)
    cell_width = 2 * side + 5 * gap
    dpi = columns * cell_width / (PAGE_WIDTH - 2 * MARGIN)
    label_height = round(1.45 * size / 72 * dpi)  # pixels
    cell_height = label_height + side + gap
    sheet = _Sheet(rows * cell_height, columns * cell_width, side=side, size=size)
    with use_study_style():
        height = rows * cell_height / dpi
        page_height = MARGIN + TITLE_HEIGHT + height + LEGEND_HEIGHT
        figure = Figure(figsize=(PAGE_WIDTH, page_height))
        bottom = LEGEND_HEIGHT / page_height
        axes = figure.add_axes((MARGIN / PAGE_WIDTH, bottom, 1 - 2 * MARGIN / PAGE_WIDTH, height / page_height))
        for unit in range(count):
            row, column = divmod(unit, columns)
            top, left = row * cell_height + label_height, column * cell_width + 2 * gap
            text, colour = layer.make_label(unit)
            axes.text(left, top - 0.22 * label_height, text, color=colour, fontsize=size)
            sheet.paste(axes, layer, unit=unit, corners=((top, left), (top, left + side + gap)))
        sheet.draw(axes)
        title = f"{layer.network} network, {{}} (depth {layer.depth}), seed {layer.seed}: {count} units ({{}})"
        set_suptitle(figure, title, layer.layer, layer.source, y=1 - MARGIN / page_height, va="top")
        _add_legend(figure, "Left: picture made for the unit; right: image that drives it most.")
    return figure


def draw_figure_3(layers: Sequence[UnitLayer], control: Sequence[UnitLayer] = ()) -> Figure:
    """Draw the most task-specific units of the first, a middle and the last layer of one network.

    Below them, those of the last layer of `control`, such as an untrained network.

    Of the units specific to a task, up to `MAX_UNITS` are drawn: those whose `epsilon` for it exceeds that for the
    other task most. Layers of equal depth, as in networks with branches, are pooled.

    Parameters
    ----------
    layers : sequence of UnitLayer
        All layers of one network.
    control : sequence of UnitLayer
        All layers of another network, or none.

    Returns
    -------
    matplotlib.figure.Figure
        Axes in a row per layer, the control's last; the expression's units on the left, the identity's on the right.
    """
    depths = sorted({layer.depth for layer in layers})
    depths = sorted({depths[0], depths[len(depths) // 2], depths[-1]})
    rows = [[layer for layer in layers if layer.depth == depth] for depth in depths]
    if control:
        rows.append([layer for layer in control if layer.depth == max(other.depth for other in control)])
    first = layers[0]
    with use_study_style():
        page_height = MARGIN + TITLE_HEIGHT + 0.3 + 1.87 * len(rows) + LEGEND_HEIGHT
        figure = Figure(figsize=(PAGE_WIDTH, page_height))
        grid = figure.subplots(len(rows), len(Task), squeeze=False)
        bottom, top = LEGEND_HEIGHT / page_height, 1 - (MARGIN + TITLE_HEIGHT + 0.3) / page_height
        figure.subplots_adjust(left=0.075, right=0.99, bottom=bottom, top=top, wspace=0.06, hspace=0.04)
        for row, same_depth in zip(grid, rows, strict=True):
            for axes, task in zip(row, Task, strict=True):
                _draw_most_specific(axes, same_depth, task)
            other = [f"{same_depth[0].network} network:"] if same_depth[0].network != first.network else []
            _label_row(row[0], [*other, *(layer.layer for layer in same_depth)])
        for axes, task in zip(grid[0], Task, strict=True):
            axes.set_title(f"most specific to {task}", color=LOOKS[task].colour, fontweight="bold", pad=4)
        title = f"Figure 3. What the most task-specific units of the {first.network} network prefer\n"
        set_suptitle(figure, f"{title}({{}}; seed {first.seed})", first.source, y=1 - MARGIN / page_height, va="top")
        _add_legend(figure, "Upper: picture made for the unit; lower: image that drives it most.")
    return figure


def _label_row(axes: Axes, layers: Sequence[str]) -> None:
    size = 7 if len(layers) <= 2 else 14 / len(layers)
    text = "\n".join(fit_names(layers, 125, size=size, bold=True))
    style: Style = {"ha": "center", "va": "center", "fontweight": "bold", "fontsize": size, "rotation": 90}
    axes.text(-0.12, 0.5, text, transform=axes.transAxes, **style)


def _draw_most_specific(axes: Axes, layers: Sequence[UnitLayer], task: Task) -> None:
    """The images of up to `MAX_UNITS` units of `layers` specific to `task`, the one with the largest lead first."""
    side = min(layers[0].optimised.shape[1], MAX_PIXELS // MAX_UNITS)
    gap, label_height, size = _compute_gap(side), round(0.19 * side), 7.0 if len(layers) == 1 else 4.8
    sheet = _Sheet(label_height + 2 * side + gap, MAX_UNITS * (side + gap) - gap, side=side, size=7.0)
    tops = (label_height, label_height + side + gap)
    units = []
    for index, layer in enumerate(layers):
        lead = layer.properties["lead"].abs().to_numpy()  # not selectivity, which is 1 for many units
        specific = np.flatnonzero(layer.properties["specific"] == task).tolist()
        units += [(-lead[unit], index, unit) for unit in specific]
    for column, (_, index, unit) in enumerate(sorted(units)[:MAX_UNITS]):
        layer, left = layers[index], column * (side + gap)
        text, colour = layer.make_label(unit)
        branch = f"{_get_branch(layer.layer)} " if len(layers) > 1 else ""
        axes.text(left, 0.75 * label_height, branch + text, color=colour, fontsize=size)
        sheet.paste(axes, layer, unit=unit, corners=[(top, left) for top in tops])
    if not units:
        axes.text(sheet.pixels.shape[1] / 2, tops[1] - gap / 2, "none", ha="center", va="center", color=MUTED)
    sheet.draw(axes)


def _get_branch(layer: str) -> str:
    """The part of the network that contains a layer, from the layer's dotted name."""
    *_, branch = layer.split(".")[-2:-1] or [layer]
    return fit_name(branch, 28, size=4.8)


class _Sheet:
    """A white sheet of pixels for images `side` px high and wide; `size` of the text on it, in points.

    One picture of all images makes files much smaller, and faster, than one picture per image.
    """

    def __init__(self, height: int, width: int, *, side: int, size: float) -> None:
        self.pixels = np.full((height, width, 3), 255, dtype=np.uint8)
        self.side, self.size = side, size

    def paste(self, axes: Axes, layer: UnitLayer, *, unit: int, corners: Sequence[tuple[int, int]]) -> None:
        """Both images of `unit`, their upper left corners at (top, left); a word in `axes` instead of a missing one."""
        dead = bool(np.isnan(layer.optimised[unit]).any())
        optimised = np.rint(np.nan_to_num(layer.optimised[unit]) * 255).astype(np.uint8)
        words = ("dead" if dead else "", "" if layer.properties.loc[unit, "driven"] else "none")
        for (top, left), word, image in zip(corners, words, (optimised, layer.best[unit]), strict=True):
            box = self.pixels[top : top + self.side, left : left + self.side]
            box[:] = EMPTY if word else _fit_image(image, self.side)
            if word:
                x, y = left + self.side / 2, top + self.side / 2
                axes.text(x, y, word, ha="center", va="center", color=MUTED, fontsize=self.size)

    def draw(self, axes: Axes) -> None:
        """Draw the sheet; coordinates are pixels from the upper left corner."""
        height, width = self.pixels.shape[:2]
        axes.imshow(self.pixels, interpolation="none", extent=(0, width, height, 0))
        axes.set_axis_off()


def _fit_image(image: np.ndarray, side: int) -> np.ndarray:
    """An image uint8 (H, W) or (H, W, 3) as (side, side, 3), with white margins if it is not square."""
    rgb = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
    return np.asarray(ImageOps.pad(rgb, (side, side), method=Image.Resampling.BOX, color="white"))


def _compute_gap(side: int) -> int:
    return max(1, round(GAP * side))


def _add_legend(figure: Figure, text: str) -> None:
    handles = [Patch(color=colour, label=f"{letter}: {name}") for name, (letter, colour) in LETTERS.items() if name]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        fontsize=7,
        handlelength=1,
        title=f"{text} Labels: number of the unit, what moves it, eta squared.",
        title_fontsize=7,
        borderaxespad=0.4,
    )
