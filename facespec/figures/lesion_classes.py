"""Do lesions impair a whole task or single classes of it? Recall by class, and the variance between classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from facespec.figures.artists import Style
from facespec.figures.estimates import describe_sources, select_rows
from facespec.figures.labels import set_suptitle
from facespec.figures.lesions import (
    choose_layers,
    choose_task_colours,
    make_layer_titles,
    style_small_axes,
    write_cut_off,
)
from facespec.figures.style import INK, MUTED, use_study_style
from facespec.study.errors import StudyError
from facespec.study.tables_lesions import LESION_CLASSES, LESIONS

SEED_STYLE: Style = {"lw": 0.6, "alpha": 0.5, "zorder": 2}
RANDOM_STYLE: Style = {"ls": "none", "marker": ".", "ms": 3, "mec": "none", "color": MUTED, "alpha": 0.4, "zorder": 1}
WHOLE_STYLE: Style = {"lw": 0.9, "color": MUTED, "zorder": 1.5}
LOW, HIGH = (-8, -0.15), (108, 1.08)  # limits of drop, %, and share between classes
TITLE_HEIGHT, ROW_HEIGHT, NOTE_HEIGHT, LEGEND_HEIGHT = 0.35, 1.5, 0.2, 0.4  # inches


def draw_figure_lesion_classes(
    classes: pd.DataFrame, lesions: pd.DataFrame, *, fraction: float | None = None
) -> Figure:
    """Draw the recall of every class under lesions, and the variance between classes against the cost of a lesion.

    Upper rows, one per task: recall of its classes, sorted in every seed and lesion from best to worst, then averaged
    over seeds; for lesions of the units that this task needs most, of those that the other task needs most, and for the
    whole network. A step shows that lesions impair whole classes, a slope that they impair all classes. Few images per
    class cause some slope by chance, and so does a mean over seeds in which different numbers of classes are impaired.

    Lower rows: `between_classes` of lesions of all fractions against their cost, because any lesion of large cost
    leaves only some classes. If points of units chosen for a task lie above those of random units at the same cost,
    their lesion impairs single classes more than any damage of that cost does.

    Parameters
    ----------
    classes : DataFrame with the schema `study.tables_lesions.LESION_CLASSES`
    lesions : DataFrame with the schema `study.tables_lesions.LESIONS`
        Rows of the same network, two tasks and layers.
    fraction : float, optional
        Fraction of a layer's units that is lesioned in the upper rows, in (0, 1]; by default the middle one of the
        table.

    Returns
    -------
    matplotlib.figure.Figure
        A subfigure per row. Columns: up to `lesions.MAX_LAYERS` layers from the shallowest to the deepest.

    Raises
    ------
    StudyError
        If the tables hold more than one network, a number of tasks other than two, or no lesions of `fraction`.
    """
    classes, lesions = LESION_CLASSES.check(classes), LESIONS.check(lesions)
    colours, network = choose_task_colours(lesions), lesions["trained_on"].iloc[0]
    _check_same_networks(lesions, classes)
    lesioned, whole = _select_fraction(classes, fraction), classes[classes["fraction"] == 0]
    seeds = lesioned["seed"].nunique()
    with use_study_style():
        heights = [ROW_HEIGHT + TITLE_HEIGHT, ROW_HEIGHT + NOTE_HEIGHT, ROW_HEIGHT, ROW_HEIGHT + LEGEND_HEIGHT]
        size = (7.4, TITLE_HEIGHT + sum(heights))
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.03))
        title = f"Do lesions of the {{}} network take whole classes? ({{}}, seeds: {seeds})"
        set_suptitle(figure, title, network, describe_sources(lesions))
        parts = list(figure.subfigures(4, 1, height_ratios=heights, squeeze=False)[:, 0])
        _draw_recalls(parts[:2], lesioned, whole, colours=colours)
        _draw_shares(parts[2:], lesions, colours=colours)
        handles = _make_handles(seeds)
        parts[-1].legend([*handles.values()], [*handles], loc="outside lower center", ncols=3, fontsize=7.5)
    return figure


def _check_same_networks(lesions: pd.DataFrame, classes: pd.DataFrame) -> None:
    contents = [
        [sorted(set(table[name])) for name in ("trained_on", "tested_on", "layer")] for table in (lesions, classes)
    ]
    if contents[0] != contents[1]:
        texts = ["holds the networks {}, the tasks {} and the layers {}".format(*content) for content in contents]
        raise StudyError(
            f"both tables must be of one network, the same two tasks and layers; the table 'lesions' {texts[0]}, the "
            f"table 'lesion_classes' {texts[1]}. Pass tables that were made together."
        )


def _select_fraction(classes: pd.DataFrame, fraction: float | None) -> pd.DataFrame:
    fractions = classes["fraction"].to_numpy(float)
    if fraction is None:
        lesioned = np.unique(fractions[fractions > 0])
        fraction = lesioned[len(lesioned) // 2] if len(lesioned) else None
    rows = classes[np.isclose(fractions, np.nan if fraction is None else fraction)]
    if rows.empty:
        missing = "a fraction above 0" if fraction is None else f"the fraction {fraction:g}"
        raise StudyError(
            f"table 'lesion_classes' holds no lesions of {missing}; it holds the fractions "
            f"{np.unique(fractions).tolist()}. Name one of them."
        )
    return rows


def _make_line_style(colour: str, *, same_task: bool) -> Style:
    """`same_task`: the units that the tested task itself needs most are lesioned."""
    style = {"color": colour, "mec": colour, "ms": 4.2}
    if same_task:
        return style | {"mfc": colour, "lw": 1.9, "ls": "-", "zorder": 4}
    return style | {"mfc": "white", "lw": 1.0, "ls": "--", "zorder": 3}


def _draw_recalls(
    rows: Sequence[SubFigure], lesioned: pd.DataFrame, whole: pd.DataFrame, *, colours: Mapping[str, str]
) -> None:
    """A row of panels per task, a panel per layer."""
    layers = choose_layers(lesioned)
    for part, (task, colour) in zip(rows, colours.items(), strict=True):
        tested, intact = select_rows(lesioned, tested_on=task), select_rows(whole, tested_on=task)
        percent = 100 * tested["fraction"].iloc[0]
        title = f"{percent:g} % of units silenced: recall of {tested['class'].nunique()} {{}} classes, best kept first"
        set_suptitle(part, title, task, size=8.5, x=0.01, ha="left", color=colour)
        panels = part.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        for axes, layer, title in zip(panels, layers, make_layer_titles(layers), strict=True):
            _draw_steps(axes, intact, f"whole {task}", WHOLE_STYLE)  # the same in every layer
            for ranked_by in colours:
                same_task = ranked_by == task
                style = _make_line_style(colour, same_task=same_task)
                recalls = select_rows(tested, layer=layer, ranked_by=ranked_by)
                _draw_steps(axes, recalls, f"ranked {ranked_by} {task}", style, with_seeds=same_task)
            axes.set(xlim=(-3, 103), ylim=(-5, 105), xticks=(0, 50, 100), yticks=(0, 50, 100))
            axes.set_xlabel("% of classes", fontsize=7, labelpad=1)
            style_small_axes(axes)
            if part is rows[0]:
                depth = select_rows(lesioned, layer=layer)["depth"].iloc[0]
                axes.set_title(f"{title}\ndepth {depth}", fontsize=7.5)
        panels[0].set_ylabel("recall, %")
    note = "A step (see single seeds): whole classes are lost. Level or gently sloping: all suffer alike."
    rows[-1].supxlabel(note, fontsize=7.5, color=MUTED)


def _draw_steps(axes: Axes, rows: pd.DataFrame, gid: str, style: Style, *, with_seeds: bool = False) -> None:
    """The mean over seeds, over thin lines of every seed if `with_seeds`; a step per class."""
    if rows.empty:
        return
    recalls = 100 * rows.pivot_table(index="class", columns="seed", values="recall", aggfunc="first")
    by_rank = recalls.apply(lambda column: -np.sort(-column))  # the order of classes may differ from seed to seed
    lines = {gid: (by_rank.mean(axis=1), style)}
    if with_seeds and by_rank.shape[1] > 1:
        lines |= {f"{gid} seed {seed}": (by_rank[seed], {**style, **SEED_STYLE}) for seed in by_rank}
    x = np.linspace(0, 100, len(by_rank) + 1)
    for name, (values, line_style) in lines.items():
        axes.plot(x, [*values, values.iloc[-1]], drawstyle="steps-post", gid=name, **line_style)


def _draw_shares(rows: Sequence[SubFigure], lesions: pd.DataFrame, *, colours: Mapping[str, str]) -> None:
    """A row of panels per task, a panel per layer: `between_classes` against the drop, a point per lesion."""
    layers = choose_layers(lesions)
    points = lesions[lesions["fraction"] > 0].dropna(subset=["drop", "between_classes"])
    points = points.assign(drop=100 * points["drop"].astype(float), share=points["between_classes"].astype(float))
    for part, (task, colour) in zip(rows, colours.items(), strict=True):
        title = "Lesions of all sizes: share of the variance of right and wrong answers between {} classes"
        set_suptitle(part, title, task, size=8.5, x=0.01, ha="left", color=colour)
        panels = part.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
        for axes, layer in zip(panels, layers, strict=True):
            tested = select_rows(points, tested_on=task, layer=layer)
            random = select_rows(tested, ranked_by="")
            axes.plot(random["drop"], random["share"], gid=f"random {task}", **RANDOM_STYLE)
            for ranked_by in colours:
                ranked = select_rows(tested, condition="ranked", ranked_by=ranked_by).sort_values("fraction")
                style = _make_line_style(colour, same_task=ranked_by == task) | {"lw": 0.6, "ls": "-", "marker": "o"}
                for seed, line in ranked.groupby("seed"):
                    axes.plot(line["drop"], line["share"], gid=f"ranked {ranked_by} {task} seed {seed}", **style)
            if tested.empty:
                axes.text(50, 0.5, "no drop: not\nabove chance", ha="center", va="center", fontsize=7, color=MUTED)
            elif not (axes.dataLim.min >= LOW).all() or not (axes.dataLim.max <= HIGH).all():
                write_cut_off(axes)
            axes.axhline(0, color=INK, lw=0.6)
            axes.set(xlim=(LOW[0], HIGH[0]), ylim=(LOW[1], HIGH[1]), xticks=(0, 50, 100))
            axes.set_xlabel("lost above chance, %", fontsize=7, labelpad=1)
            style_small_axes(axes)
        panels[0].set_yticks((0, 1), ("0: all alike", "1: classes kept\nor lost whole"))


def _make_handles(seeds: int) -> dict[str, Line2D]:
    handles = {
        "units this task needs most": Line2D([], [], marker="o", **_make_line_style(INK, same_task=True)),
        "units the other task needs most": Line2D([], [], marker="o", **_make_line_style(INK, same_task=False)),
        "whole network": Line2D([], [], **WHOLE_STYLE),
    }
    if seeds > 1:
        handles["one seed"] = Line2D([], [], color=INK, **SEED_STYLE)
    handles["random units, or all but random units"] = Line2D([], [], **RANDOM_STYLE | {"ms": 7})
    return handles
