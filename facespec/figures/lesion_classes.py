"""Do lesions take a whole task, or single classes of it? Recall class by class, and its variance between classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from facespec.figures.boxes import describe_sources, select_reported
from facespec.figures.labels import set_suptitle
from facespec.figures.lesions import choose_layers, choose_task_colours, make_layer_titles
from facespec.figures.style import INK, MUTED, use_study_style
from facespec.study.errors import StudyError
from facespec.study.tables_lesions import LESION_CLASSES, LESIONS

SEED: dict[str, Any] = {"lw": 0.6, "alpha": 0.5, "zorder": 2}
ANY: dict[str, Any] = {"ls": "none", "marker": ".", "ms": 3, "mec": "none", "color": MUTED, "alpha": 0.4, "zorder": 1}
WHOLE: dict[str, Any] = {"lw": 0.9, "color": MUTED, "zorder": 1.5}
LEAST, MOST = (-8, -0.15), (108, 1.08)  # of drop, %, and share between classes
HEAD, ROW, NOTE, FOOT = 0.35, 1.5, 0.2, 0.4  # heights, inches


def draw_figure_lesion_classes(
    classes: pd.DataFrame, lesions: pd.DataFrame, *, fraction: float | None = None
) -> Figure:
    """A LESION_CLASSES and a LESIONS table of one network and two tasks.

    `fraction` of a layer's units is silenced in the upper rows; None: the middle one of the table.

    Upper rows, one per task: recall of its classes, sorted in every seed and lesion from the class kept best to the one
    kept worst, then averaged over seeds; for lesions of the units that this task needs most, of those that the other
    does, and for the whole network. A step says that whole classes are lost and others untouched, a slope that all
    suffer alike; few images per class make some slope by chance, and so does a mean of seeds that lose different
    numbers of classes. Lower rows: `between_classes` of lesions of all fractions against what they cost, because any
    lesion that costs much leaves some classes only: where points of units chosen for a task lie above those of random
    units at the same cost, their loss is more a matter of single classes than any damage. Columns: up to
    `lesions.SHOWN` layers from the shallowest to the deepest.

    Raises `StudyError` if the tables hold more than one network, other than two tasks, or no lesions of `fraction`.
    """
    classes, lesions = LESION_CLASSES.check(classes), LESIONS.check(lesions)
    colours, network = choose_task_colours(lesions), lesions["trained_on"].iloc[0]
    _same(lesions, classes)
    lesioned, whole = _at(classes, fraction), classes[classes["fraction"] == 0]
    seeds = lesioned["seed"].nunique()
    with use_study_style():
        heights = [ROW + HEAD, ROW + NOTE, ROW, ROW + FOOT]
        figure = Figure(figsize=(7.4, HEAD + sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.03))
        title = f"Do lesions of the {{}} network take whole classes? ({{}}, seeds: {seeds})"
        set_suptitle(figure, title, network, describe_sources(lesions))
        parts = list(figure.subfigures(4, 1, height_ratios=heights, squeeze=False)[:, 0])
        _recalls(parts[:2], lesioned, whole, colours=colours)
        _shares(parts[2:], lesions, colours=colours)
        handles = _handles(seeds)
        parts[-1].legend([*handles.values()], [*handles], loc="outside lower center", ncols=3, fontsize=7.5)
    return figure


def _same(lesions: pd.DataFrame, classes: pd.DataFrame) -> None:
    held = [[sorted(set(table[name])) for name in ("trained_on", "tested_on", "layer")] for table in (lesions, classes)]
    if held[0] != held[1]:
        told = ["holds the networks {}, the tasks {} and the layers {}".format(*own) for own in held]
        raise StudyError(
            f"both tables must be of one network, the same two tasks and layers; the table 'lesions' {told[0]}, the "
            f"table 'lesion_classes' {told[1]}. Pass tables that were made together."
        )


def _at(classes: pd.DataFrame, fraction: float | None) -> pd.DataFrame:
    fractions = classes["fraction"].to_numpy(float)
    if fraction is None:
        silenced = np.unique(fractions[fractions > 0])
        fraction = silenced[len(silenced) // 2] if len(silenced) else None
    own = classes[np.isclose(fractions, np.nan if fraction is None else fraction)]
    if own.empty:
        wanted = "a fraction above 0" if fraction is None else f"the fraction {fraction:g}"
        raise StudyError(
            f"table 'lesion_classes' holds no lesions of {wanted}; it holds the fractions "
            f"{np.unique(fractions).tolist()}. Name one of them."
        )
    return own


def _line(own: bool, colour: str) -> dict[str, Any]:
    """`own`: the units that the tested task itself needs most are silenced."""
    return {
        "color": colour,
        "mec": colour,
        "mfc": colour if own else "white",
        "ms": 4.2,
        "lw": 1.9 if own else 1.0,
        "ls": "-" if own else "--",
        "zorder": 4 if own else 3,
    }


def _recalls(
    rows: Sequence[SubFigure], lesioned: pd.DataFrame, whole: pd.DataFrame, *, colours: Mapping[str, str]
) -> None:
    """A row of panels per task, a panel per layer."""
    layers = choose_layers(lesioned)
    for part, (task, colour) in zip(rows, colours.items(), strict=True):
        tested, intact = select_reported(lesioned, tested_on=task), select_reported(whole, tested_on=task)
        share = 100 * tested["fraction"].iloc[0]
        title = f"{share:g} % of units silenced: recall of {tested['class'].nunique()} {{}} classes, best kept first"
        set_suptitle(part, title, task, size=8.5, x=0.01, ha="left", color=colour)
        panels = part.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        for axes, layer, name in zip(panels, layers, make_layer_titles(layers), strict=True):
            _steps(axes, intact, f"whole {task}", WHOLE)  # the same network, whichever layer is lesioned
            for by in colours:
                own = select_reported(tested, layer=layer, ranked_by=by)
                _steps(axes, own, f"ranked {by} {task}", _line(by == task, colour), single=by == task)
            axes.set(xlim=(-3, 103), ylim=(-5, 105), xticks=(0, 50, 100), yticks=(0, 50, 100))
            axes.set_xlabel("% of classes", fontsize=7, labelpad=1)
            axes.tick_params(labelsize=7)
            axes.grid(axis="y", color="#E4E4E4", lw=0.6)
            if part is rows[0]:
                depth = select_reported(lesioned, layer=layer)["depth"].iloc[0]
                axes.set_title(f"{name}\ndepth {depth}", fontsize=7.5)
        panels[0].set_ylabel("recall, %")
    told = "A step (see single seeds): whole classes are lost. Level or gently sloping: all suffer alike."
    rows[-1].supxlabel(told, fontsize=7.5, color=MUTED)


def _steps(axes: Axes, rows: pd.DataFrame, told: str, look: dict[str, Any], *, single: bool = False) -> None:
    """The mean over seeds, over thin lines of every seed if `single`; a step per class."""
    if rows.empty:
        return
    recalls = 100 * rows.pivot_table(index="class", columns="seed", values="recall", aggfunc="first")
    kept = recalls.apply(lambda own: -np.sort(-own))  # which classes they are may differ from seed to seed
    lines = {told: kept.mean(axis=1)}
    if single and kept.shape[1] > 1:
        lines |= {f"{told} seed {seed}": kept[seed] for seed in kept}
    for name, values in lines.items():
        x, y = np.linspace(0, 100, len(kept) + 1), [*values, values.iloc[-1]]
        axes.plot(x, y, drawstyle="steps-post", gid=name, **look | ({} if name == told else SEED))


def _shares(rows: Sequence[SubFigure], lesions: pd.DataFrame, *, colours: Mapping[str, str]) -> None:
    """A row of panels per task, a panel per layer: `between_classes` against the drop, a point per lesion."""
    layers = choose_layers(lesions)
    points = lesions[lesions["fraction"] > 0].dropna(subset=["drop", "between_classes"])
    points = points.assign(drop=100 * points["drop"].astype(float), share=points["between_classes"].astype(float))
    for part, (task, colour) in zip(rows, colours.items(), strict=True):
        title = "Lesions of all sizes: share of the variance of right and wrong answers between {} classes"
        set_suptitle(part, title, task, size=8.5, x=0.01, ha="left", color=colour)
        panels = part.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
        for axes, layer in zip(panels, layers, strict=True):
            tested = select_reported(points, tested_on=task, layer=layer)
            any_units = tested[tested["ranked_by"] == ""]
            axes.plot(any_units["drop"], any_units["share"], gid=f"random {task}", **ANY)
            for by in colours:
                chosen = select_reported(tested, condition="ranked", ranked_by=by).sort_values("fraction")
                for seed, own in chosen.groupby("seed"):
                    look = _line(by == task, colour) | {"lw": 0.6, "ls": "-", "marker": "o"}
                    axes.plot(own["drop"], own["share"], gid=f"ranked {by} {task} seed {seed}", **look)
            if tested.empty:
                axes.text(50, 0.5, "no drop: not\nabove chance", ha="center", va="center", fontsize=7, color=MUTED)
            elif not (axes.dataLim.min >= LEAST).all() or not (axes.dataLim.max <= MOST).all():
                axes.text(0.97, 0.03, "cut off", transform=axes.transAxes, ha="right", fontsize=6.5, color=MUTED)
            axes.axhline(0, color=INK, lw=0.6)
            axes.set(xlim=(LEAST[0], MOST[0]), ylim=(LEAST[1], MOST[1]), xticks=(0, 50, 100))
            axes.set_xlabel("lost above chance, %", fontsize=7, labelpad=1)
            axes.tick_params(labelsize=7)
            axes.grid(axis="y", color="#E4E4E4", lw=0.6)
        panels[0].set_yticks((0, 1), ("0: all alike", "1: classes kept\nor lost whole"))


def _handles(seeds: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "units this task needs most": Line2D([], [], marker="o", **_line(True, INK)),
        "units the other task needs most": Line2D([], [], marker="o", **_line(False, INK)),
        "whole network": Line2D([], [], **WHOLE),
    }
    if seeds > 1:
        made["one seed"] = Line2D([], [], color=INK, **SEED)
    made["random units, or all but random units"] = Line2D([], [], **ANY | {"ms": 7})
    return made
