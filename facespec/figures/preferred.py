"""Figures 3 and S2: what every unit prefers to see. An optimised picture beside the image that drives the unit most.

Pictures are drawn as they are, without stretching their contrast: what looks faint is faint.
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

from facespec.figures.boxes import select_reported
from facespec.figures.labels import fit_name, fit_names, set_suptitle
from facespec.figures.style import LOOKS, MUTED, use_study_style
from facespec.study.errors import StudyError
from facespec.study.preferred import PreferredSet
from facespec.study.tables import PREFERRED, UNIT_CLASSES, UNITS
from facespec.study.vocabulary import Network, Task

WIDTH = 7.4  # of a page, inches
MARGIN, HEAD, FOOT = 0.1, 0.28, 0.42  # around the pictures of a page, inches
COLUMNS = {4: 7.5, 8: 6.0, 16: 3.8, 32: 2.0}  # units beside each other -> size of type, points
DETAIL = 900  # px: no page shows more of its pictures side by side
SHOWN = 4  # units of a task and layer in Figure 3
GAP = 1 / 16  # between pictures, of their width
EMPTY = 232  # grey in which there is no picture
# what a unit answers to -> letter and colour
LETTERS = {
    "expression": ("E", LOOKS[Task.EXPRESSION].colour),
    "identity": ("I", LOOKS[Task.IDENTITY].colour),
    "both": ("B", LOOKS[Network.JOINT].colour),
    "neither": ("-", MUTED),
    "": ("-", MUTED),
}


@dataclass(frozen=True, eq=False)
class UnitLayer:
    """The units of one layer of one network: their pictures, and what they answer to.

    `optimised` float (units, h, w) or (units, h, w, 3) in [0, 1], NaN for a dead unit; `best` uint8 (units, H, W) or
    (units, H, W, 3): the image that drives the unit most. `about` has a row per unit, in order: `task` (key of
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
    about: pd.DataFrame

    def label(self, unit: int) -> tuple[str, str]:
        """What is written over the pictures of `unit`, and in which colour."""
        letter, colour = LETTERS[str(self.about.at[unit, "task"])]
        eta = self.about["eta"].to_numpy()[unit]
        return f"{unit} {letter} {'-' if np.isnan(eta) else f'{eta:.2f}'}", colour


def collect_unit_layers(
    pictures: PreferredSet, network: Network, *, table: pd.DataFrame, classes: pd.DataFrame, units: pd.DataFrame
) -> list[UnitLayer]:
    """All layers of `network` in depth order; PREFERRED, UNIT_CLASSES and UNITS tables say what their units answer to.

    Raises `StudyError` where a table does not have each unit of a layer once.
    """
    table, classes, units = PREFERRED.check(table), UNIT_CLASSES.check(classes), UNITS.check(units)
    found = []
    for layer in pictures.layers(network):
        optimised, best = pictures.optimised(network, layer), pictures.best(network, layer)
        images, own, effects = (
            _rows(rows, (network, pictures.seed, layer), units=len(best), each=each)
            for rows, each in ((select_reported(table, kind="image"), 1), (classes, 1), (units, len(Task)))
        )
        about = _about(images.set_index("unit"), own.set_index("unit"), effects)
        depth = int(images["depth"].iloc[0])
        found.append(UnitLayer(network, pictures.seed, pictures.source, layer, depth, optimised, best, about))
    return found


def _rows(table: pd.DataFrame, place: tuple[Network, int, str], *, units: int, each: int) -> pd.DataFrame:
    network, seed, layer = place
    rows = select_reported(table, trained_on=network, layer=layer).query("seed == @seed")
    if sorted(rows["unit"]) != [unit for unit in range(units) for _ in range(each)]:
        raise StudyError(
            f"{network.value} network, seed {seed}, layer {layer!r}: there are pictures of {units} units, and "
            f"{len(rows)} rows about them instead of {units * each}. `dvc repro depth preferred` makes both again."
        )
    return rows


def _about(images: pd.DataFrame, classes: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    etas = effects.pivot(index="unit", columns="factor", values="eta")
    eta = etas.max(axis=1)
    moves = classes["specific"].where(classes["specific"] != "", classes["class"])
    for task in Task:
        eta = eta.where(moves != task, etas[task])
    epsilons = effects.pivot(index="unit", columns="factor", values="epsilon")
    lead = epsilons[Task.EXPRESSION] - epsilons[Task.IDENTITY]
    about = classes[["specific"]].assign(task=moves, lead=lead, eta=eta, driven=images["response"] > 0)
    return about.sort_index()


def draw_unit_page(layer: UnitLayer) -> Figure:
    """One page of Figure S2: all units of `layer`, in the order of their numbers, each optimised beside best image."""
    count = len(layer.best)
    columns = next((n for n in COLUMNS if 2 * n * n >= count), max(COLUMNS))
    rows, size = -(-count // columns), COLUMNS[columns]
    side = min(layer.optimised.shape[1], DETAIL // columns)
    gap = _gap(side)
    across = 2 * side + 5 * gap
    px = columns * across / (WIDTH - 2 * MARGIN)  # per inch
    line = round(1.45 * size / 72 * px)  # of type
    down = line + side + gap
    sheet = _Sheet(rows * down, columns * across, side=side, size=size)
    with use_study_style():
        high = rows * down / px
        page = MARGIN + HEAD + high + FOOT
        figure = Figure(figsize=(WIDTH, page))
        axes = figure.add_axes((MARGIN / WIDTH, FOOT / page, 1 - 2 * MARGIN / WIDTH, high / page))
        for unit in range(count):
            row, column = divmod(unit, columns)
            top, left = row * down + line, column * across + 2 * gap
            text, colour = layer.label(unit)
            axes.text(left, top - 0.22 * line, text, color=colour, fontsize=size)
            sheet.paste(axes, layer, unit=unit, corners=((top, left), (top, left + side + gap)))
        sheet.show(axes)
        title = f"{layer.network} network, {{}} (depth {layer.depth}), seed {layer.seed}: {count} units ({{}})"
        set_suptitle(figure, title, layer.layer, layer.source, y=1 - MARGIN / page, va="top")
        _explain(figure, "Left: picture made for the unit; right: image that drives it most.")
    return figure


def draw_figure_3(layers: Sequence[UnitLayer]) -> Figure:
    """The most task-specific units of the first, a middle and the last of `layers`, all of one network.

    Among the units specific to a task those whose `epsilon` for it exceeds that for the other task most, up to `SHOWN`.
    Layers of equal depth, as in networks with branches, are taken together.
    """
    depths = sorted({layer.depth for layer in layers})
    depths = sorted({depths[0], depths[len(depths) // 2], depths[-1]})
    first = layers[0]
    with use_study_style():
        page = MARGIN + HEAD + 0.3 + 1.87 * len(depths) + FOOT
        figure = Figure(figsize=(WIDTH, page))
        grid = figure.subplots(len(depths), len(Task), squeeze=False)
        figure.subplots_adjust(
            left=0.075, right=0.99, bottom=FOOT / page, top=1 - (MARGIN + HEAD + 0.3) / page, wspace=0.06, hspace=0.04
        )
        for row, depth in zip(grid, depths, strict=True):
            own = [layer for layer in layers if layer.depth == depth]
            for axes, task in zip(row, Task, strict=True):
                _most_specific(axes, own, task)
            size = 7 if len(own) <= 2 else 14 / len(own)  # of lines beside each other
            names = fit_names([layer.layer for layer in own], 125, size=size, bold=True)
            row[0].text(
                -0.12,
                0.5,
                "\n".join(names),
                transform=row[0].transAxes,
                rotation=90,
                ha="center",
                va="center",
                fontweight="bold",
                fontsize=size,
            )
        for axes, task in zip(grid[0], Task, strict=True):
            axes.set_title(f"most specific to {task}", color=LOOKS[task].colour, fontweight="bold", pad=4)
        title = f"Figure 3. What the most task-specific units of the {first.network} network prefer\n"
        set_suptitle(figure, f"{title}({{}}; seed {first.seed})", first.source, y=1 - MARGIN / page, va="top")
        _explain(figure, "Upper: picture made for the unit; lower: image that drives it most.")
    return figure


def _most_specific(axes: Axes, layers: Sequence[UnitLayer], task: Task) -> None:
    """The pictures of up to `SHOWN` units of `layers` specific to `task`, the one with the largest lead first."""
    side = min(layers[0].optimised.shape[1], DETAIL // SHOWN)
    gap, line, size = _gap(side), round(0.19 * side), 7.0 if len(layers) == 1 else 4.8
    sheet = _Sheet(line + 2 * side + gap, SHOWN * (side + gap) - gap, side=side, size=7.0)
    tops = (line, line + side + gap)
    found = []
    for place, layer in enumerate(layers):
        own = layer.about["lead"].abs().to_numpy()  # not selectivity: that ends at 1, where many units are equal
        found += [(-own[unit], place, unit) for unit in np.flatnonzero(layer.about["specific"] == task).tolist()]
    for column, (_, place, unit) in enumerate(sorted(found)[:SHOWN]):
        layer, left = layers[place], column * (side + gap)
        text, colour = layer.label(unit)
        section = f"{_branch(layer.layer)} " if len(layers) > 1 else ""
        axes.text(left, 0.75 * line, section + text, color=colour, fontsize=size)
        sheet.paste(axes, layer, unit=unit, corners=[(top, left) for top in tops])
    if not found:
        axes.text(sheet.pixels.shape[1] / 2, tops[1] - gap / 2, "none", ha="center", va="center", color=MUTED)
    sheet.show(axes)


def _branch(layer: str) -> str:
    """The part of a network that a layer is in, by the layer's dotted name."""
    *_, section = layer.split(".")[-2:-1] or [layer]
    return fit_name(section, 28, size=4.8)


class _Sheet:
    """White paper, pixel by pixel, for pictures `side` px high and wide; `size` of the type on it, in points.

    One picture of all makes files far smaller, and faster, than a picture of each.
    """

    def __init__(self, height: int, width: int, *, side: int, size: float) -> None:
        self.pixels = np.full((height, width, 3), 255, dtype=np.uint8)
        self.side, self.size = side, size

    def paste(self, axes: Axes, layer: UnitLayer, *, unit: int, corners: Sequence[tuple[int, int]]) -> None:
        """Both pictures of `unit`, their upper left corners at (top, left); a word in `axes` where there is none."""
        dead = bool(np.isnan(layer.optimised[unit]).any())
        optimised = np.rint(np.nan_to_num(layer.optimised[unit]) * 255).astype(np.uint8)
        words = ("dead" if dead else "", "" if layer.about.loc[unit, "driven"] else "none")
        for (top, left), word, picture in zip(corners, words, (optimised, layer.best[unit]), strict=True):
            box = self.pixels[top : top + self.side, left : left + self.side]
            box[:] = EMPTY if word else _fitted(picture, self.side)
            middle = left + self.side / 2, top + self.side / 2
            if word:
                axes.text(*middle, word, ha="center", va="center", color=MUTED, fontsize=self.size)

    def show(self, axes: Axes) -> None:
        """Draw it, so that coordinates are pixels from the upper left corner."""
        height, width = self.pixels.shape[:2]
        axes.imshow(self.pixels, interpolation="none", extent=(0, width, height, 0))
        axes.set_axis_off()


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture uint8 (H, W) or (H, W, 3) as (side, side, 3), white beside it if it is not square."""
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    return np.asarray(ImageOps.pad(image, (side, side), method=Image.Resampling.BOX, color="white"))


def _gap(side: int) -> int:
    return max(1, round(GAP * side))


def _explain(figure: Figure, pictures: str) -> None:
    names = {"expression": "expression", "identity": "identity", "both": "both", "neither": "neither"}
    handles = [Patch(color=LETTERS[task][1], label=f"{LETTERS[task][0]}: {name}") for task, name in names.items()]
    title = f"{pictures} Labels: number of the unit, what moves it, eta squared."
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(names),
        fontsize=7,
        handlelength=1,
        title=title,
        title_fontsize=7,
        borderaxespad=0.4,
    )
