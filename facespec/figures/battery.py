"""What do manipulated faces cost each network, and which expression does a single action unit show?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from facespec.figures.artists import DASHED, draw_error_bar, draw_grid, write_reasons
from facespec.figures.estimates import describe_sources, select_rows
from facespec.figures.faces import Grid, draw_contact_sheet
from facespec.figures.labels import format_short, set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import NEAREST, UNTRAINED
from facespec.study.tables_battery import BATTERY_EFFECTS, BATTERY_UNITS, EASY, NEITHER
from facespec.study.vocabulary import EXPRESSIONS, Expression, Network, Task

COLOURS = {str(name): look.colour for name, look in LOOKS.items()} | {UNTRAINED: MUTED, NEAREST: "#C4C4C4"}
MARKERS = {"single": "o", Network.JOINT.value: "s", UNTRAINED: "D", NEAREST: "v"}
NAMES = {
    "single": "single-task network",
    Network.JOINT.value: "joint network",
    UNTRAINED: "untrained network",
    NEAREST: "nearest picture",
}
HUMAN = {EASY: "first is easier", NEITHER: "no difference"}
# pictures beside an effect: examples of its easy and its hard condition, by name
PAIRS = {
    "inversion": ("upright", "inverted"),
    "composite": ("{} halves misaligned", "{} halves aligned"),
    "part and whole": ("{part} foil", "{part} foil alone"),
    "caricature": ("{} caricature", "upright"),
    "anticaricature": ("upright", "{} anticaricature"),
    "surface over shape": ("shape swapped", "surface swapped"),
}
SHOWN_PARTS = {Task.IDENTITY: "identity eyes", Task.EXPRESSION: "expression lower face"}
MATRICES = {
    Network.EXPRESSION.value: "expression network",
    Network.JOINT.value: "joint network",
    UNTRAINED: "untrained network",
}
SHORT = {expression.value: expression.value[:4] for expression in EXPRESSIONS} | {"surprise": "surp", "disgust": "disg"}
UNIT_COLUMNS = 3


def draw_figure_battery(effects: pd.DataFrame, units: pd.DataFrame, examples: Mapping[str, np.ndarray]) -> Figure:
    """Draw the effects of the stimulus battery, and what networks call single action units.

    Top: for each task, the share right in the condition that comes first less that in the second, beside an example of
    both, and what people find easier.
    Bottom: the share of faces with one action unit that are called by each expression; outlined cells are those that
    the faces' forms of expressions have. Intervals are the tables'.

    Parameters
    ----------
    effects : DataFrame with the schema `study.tables_battery.BATTERY_EFFECTS`
    units : DataFrame with the schema `study.tables_battery.BATTERY_UNITS`
    examples : mapping of str to array of uint8 of shape (H, W) or (H, W, 3)
        Condition -> a picture; empty where faces cannot be manipulated.

    Returns
    -------
    matplotlib.figure.Figure
        A subfigure with the effects, one axes per row of pictures or effect, and one with three matrices; the reason
        alone, where there are no numbers.

    Raises
    ------
    StudyError
        If a table does not follow its schema.
    """
    effects, units = BATTERY_EFFECTS.check(effects), BATTERY_UNITS.check(units)
    with use_study_style():
        figure = Figure(figsize=(7.4, 10.6), layout="constrained")
        set_suptitle(figure, "What manipulated faces cost ({})", describe_sources(effects))
        if effects["number"].isna().all():
            write_reasons(figure, effects, default="no manipulated faces")
            return figure
        upper, lower = figure.subfigures(2, 1, height_ratios=(6.6, 4.0), squeeze=False)[:, 0]
        _draw_effects(upper, effects[effects["seed"].isna()], examples)
        means = units[units["seed"].isna()]
        for index, (axes, (network, name)) in enumerate(
            zip(lower.subplots(1, len(MATRICES), sharey=True), MATRICES.items(), strict=True)
        ):
            _draw_units(axes, select_rows(means, trained_on=network), name)
            if index == 0:
                axes.set_ylabel("action unit, alone on a neutral face")
    return figure


def draw_battery_sheet(examples: Mapping[str, np.ndarray], source: str) -> Figure:
    """Draw one face in every condition, and another with every single action unit.

    `examples` has a picture for each of `data.embedded.battery.CONDITIONS`, and for ``"unit 0"`` (none) and the others.
    """

    def show(title: str, rows: Mapping[str, Sequence[str]], columns: Sequence[str]) -> Grid:
        return Grid(title, [[examples[name] for name in names] for names in rows.values()], columns, list(rows))

    whole = ("upright", "inverted", "shape swapped", "surface swapped")
    kinds = ("halves aligned", "halves misaligned", "anticaricature", "caricature")
    short = ("aligned", "misaligned", *kinds[2:])
    places = {"in the face": "foil", "own, alone": "alone", "foil, alone": "foil alone"}
    parts = {Task.IDENTITY: ("eyes", "nose", "mouth"), Task.EXPRESSION: ("upper face", "lower face")}
    units = [name for name in examples if name.startswith("unit ")]
    first = [
        show(f"The stimulus battery ({source})", {"": whole}, whole),
        show("Halves and caricatures", {task: [f"{task} {kind}" for kind in kinds] for task in Task}, short),
        *(
            show(
                f"Parts of another {'person' if task is Task.IDENTITY else 'expression'}",
                {row: [f"{task} {part} {place}" for part in names] for row, place in places.items()},
                names,
            )
            for task, names in parts.items()
        ),
    ]
    shown = [units[start : start + UNIT_COLUMNS] for start in range(0, len(units), UNIT_COLUMNS)]
    return draw_contact_sheet(
        [first, [show("" if index else "Single action units", {"": part}, part) for index, part in enumerate(shown)]]
    )


def _draw_effects(part: SubFigure, effects: pd.DataFrame, examples: Mapping[str, np.ndarray]) -> None:
    """A row per effect: two pictures, and the effect of every observer."""
    rows = list(dict.fromkeys(zip(effects["tested_on"], effects["effect"], strict=True)))
    reach = 1.05 * float(np.nanmax(np.abs(effects[["number", "low", "high"]].to_numpy(float))))
    panels = part.subplots(len(rows), 3, width_ratios=(1, 1, 9), squeeze=False)
    for (easy, hard, axes), (task, effect) in zip(panels, rows, strict=True):
        names = [name.format(task, part=SHOWN_PARTS[Task(task)]) for name in PAIRS[effect]]
        for picture, name in zip((easy, hard), names, strict=True):
            picture.set(xticks=[], yticks=[])
            picture.spines[:].set_visible(False)
            if name in examples:
                picture.imshow(examples[name], cmap="gray", vmin=0, vmax=255)
        _draw_effect(axes, select_rows(effects, tested_on=task, effect=effect), task, reach=reach)
        axes.set_ylabel(f"{task}:\n{effect}", rotation=0, ha="right", va="center", fontsize=7.5)
        if (task, effect) != rows[-1]:
            axes.set_xticklabels([])
    panels[0][0].set_title("first", fontsize=7.5)
    panels[0][1].set_title("second", fontsize=7.5)
    panels[-1][2].set_xlabel("share right: first picture less second")
    handles, labels = panels[0][2].get_legend_handles_labels()
    part.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=7.5)


def _draw_effect(axes: Axes, rows: pd.DataFrame, task: str, *, reach: float) -> None:
    """The effect of every observer; positive where the first picture is easier."""
    names = {task: "single"}
    for index, (_, row) in enumerate(rows.iterrows()):
        observer = names.get(row["trained_on"], row["trained_on"])
        y, colour = -index, COLOURS[row["trained_on"]]
        gid = f"{row['trained_on']} {task} {row['effect']}"
        if not np.isnan(row["low"]):
            draw_error_bar(axes, y, (row["low"], row["high"]), along="x", lw=0.9, cap=1)
        axes.plot(row["number"], y, MARKERS[observer], color=colour, ms=5, gid=gid, label=NAMES[observer], zorder=6)
    axes.axvline(0, color=INK, lw=0.8, ls=DASHED, zorder=1)
    human, reference = rows["human"].iloc[0], rows["reference"].iloc[0]
    text = f"people: {HUMAN[human]}\n{reference}"
    axes.text(1.02, 0.5, text, transform=axes.transAxes, ha="left", va="center", fontsize=6.5)
    axes.set(xlim=(-reach, reach), ylim=(-len(rows) + 0.3, 0.9), yticks=[])
    draw_grid(axes, "x")


def _draw_units(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    """Shares of the faces with a unit (row) that are called by a name (column)."""
    shown, names = sorted(set(rows["unit"])), [name.value for name in Expression]
    cells = rows.pivot_table(index="unit", columns="expression", values="number", dropna=False)
    shares = cells.reindex(index=shown, columns=names).to_numpy(float)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1.3, aspect="auto")
    for (y, x), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = "white" if share > 0.65 else INK
            text = format_short(round(float(share), 2))[:3] if share < 0.995 else "1"
            axes.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)
    for _, row in rows[rows["listed"] == "yes"].iterrows():
        corner = names.index(row["expression"]) - 0.46, shown.index(row["unit"]) - 0.46
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, ec=LOOKS[Network.EXPRESSION].colour, lw=1.1))
    axes.set_xticks(range(len(names)), [SHORT[name] for name in names], rotation=90, fontsize=7)
    axes.set_yticks(range(len(shown)), [str(unit) if unit else "none" for unit in shown], fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("named", labelpad=1)
