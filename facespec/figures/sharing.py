"""When does a joint network pay? Its accuracy less that of single-task networks, a panel per question."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facespec.figures.artists import collect_handles, draw_error_bar, draw_grid
from facespec.figures.estimates import describe_sources, select_rows
from facespec.figures.labels import set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables_sharing import CELL, SHARING
from facespec.study.vocabulary import TASKS, TEST, Network, Task

# panel: the column that varies, its title, and the label of its axis
PANELS = {
    "branch_after": ("Where tasks part", "last layer that they share"),
    "epochs": ("Training", "epochs"),
    "width": ("Width of all networks", "factor of the units of every layer"),
    "images": ("Scarce faces", "training images of expression"),
    "single_width": ("Other rivals", "width of the single-task networks"),
}
MARKERS = "osD^v"  # by number of epochs, ascending
HEADS_ONLY, ALL = "all but\nheads", "all"


def draw_figure_sharing(table: pd.DataFrame) -> Figure:
    """Draw what it costs that two tasks share a network, and when.

    Parameters
    ----------
    table : DataFrame with the schema `study.tables_sharing.SHARING`
        The first row's cell is the one that the others are variations of.

    Returns
    -------
    matplotlib.figure.Figure
        Five panels with differences of test accuracies, joint less single-task: points of single seeds, and means with
        their intervals; a column that does not vary has an empty panel. A sixth panel with both accuracies of joint
        networks of other weights of the two losses.

    Raises
    ------
    StudyError
        If the table does not follow its schema.
    """
    table = SHARING.check(table)
    tested = table[table["split"] == TEST]
    with use_study_style():
        figure = Figure(figsize=(7.4, 5.6), layout="constrained")
        if tested.empty:
            figure.text(0.5, 0.5, "no joint network with its single-task networks", ha="center", va="center")
            return figure
        set_suptitle(figure, "Joint less single-task networks ({})", describe_sources(table))
        base = tested.iloc[0]
        panels = figure.subplots(2, 3).ravel()
        for axes in panels[1:-1]:
            axes.sharey(panels[0])
        markers = dict(zip(sorted(set(tested["epochs"])), MARKERS, strict=False))
        for axes, (column, (title, label)) in zip(panels, PANELS.items(), strict=False):
            _draw_differences(axes, _select_variations(tested, base, column), column, markers)
            axes.set(title=title, xlabel=label)
        for axes in (panels[0], panels[3]):
            axes.set_ylabel("joint less single-task accuracy")
        _draw_front(panels[-1], tested, base)
        handles = collect_handles(panels)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    return figure


def _select_variations(tested: pd.DataFrame, base: pd.Series, column: str) -> pd.DataFrame:
    """Rows that differ from the cell of `base` in `column` and in epochs only, where `column` varies."""
    fixed = [name for name in (*CELL, "single_width") if name not in (column, "epochs")]
    if column == "width":  # single-task networks are as wide as the joint one
        fixed.remove("single_width")
        tested = tested[tested["single_width"] == tested["width"]]
    rows = tested[(tested[fixed] == base[fixed]).all(axis=1)]
    if column == "epochs":
        return rows
    varies = rows.groupby("epochs")[column].transform("nunique") > 1
    return rows[varies]


def _draw_differences(axes: Axes, rows: pd.DataFrame, column: str, markers: dict[int, str]) -> None:
    values = _order_values(rows[column])
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_xticks(range(len(values)), [_name_value(value, column) for value in values])
    axes.set_xlim(-0.5, max(len(values), 1) - 0.5)
    draw_grid(axes)
    parts = [rows] if column == "epochs" else [part for _, part in rows.groupby("epochs")]
    series = [(task, select_rows(part, tested_on=task.value)) for part in parts for task in TASKS]
    for number, (task, points) in enumerate(series):
        shift = 0.6 * ((number + 0.5) / len(series) - 0.5)
        for row in points.to_dict("records"):
            x = values.index(row[column]) + shift
            _draw_difference(axes, row, x, task, markers[row["epochs"]])


def _draw_difference(axes: Axes, row: Mapping[Hashable, Any], x: float, task: Task, marker: str) -> None:
    colour = LOOKS[Network(task.value)].colour
    if pd.notna(row["seed"]):
        axes.plot(x, row["difference"], "o", color=colour, alpha=0.5, ms=2.2, mew=0)
        return
    label = f"{task}, {row['epochs']} epochs"
    axes.plot(x, row["difference"], marker, color=colour, ms=4.5, zorder=6, mec="white", mew=0.4, ls="", label=label)
    if pd.notna(row["low"]):
        draw_error_bar(axes, x, (row["low"], row["high"]), lw=0.8, cap=1.5)


def _draw_front(axes: Axes, tested: pd.DataFrame, base: pd.Series) -> None:
    """Accuracies of joint networks by the weight of the loss of expression, and of single-task networks by width."""
    fixed = [name for name in CELL if name != "weight"]
    rows = tested[(tested[fixed] == base[fixed]).all(axis=1) & tested["seed"].isna()]
    front = _pivot_tasks(rows[rows["single_width"] == base["single_width"]], "weight", "joint")
    single = _pivot_tasks(rows[rows["weight"] == base["weight"]], "single_width", "single")
    colour = LOOKS[Network.JOINT].colour
    axes.plot(front["identity"], front["expression"], "-o", color=colour, ms=3.5, lw=1, label="joint, by weight")
    axes.plot(single["identity"], single["expression"], "x", color=MUTED, ms=5, label="two single-task, by width")
    for points, prefix in ((front, "×"), (single, "width ")):
        for value, row in points.iterrows():
            axes.annotate(
                f"{prefix}{value:g}",
                (row["identity"], row["expression"]),
                textcoords="offset points",
                xytext=(4, -7),
                fontsize=6.5,
            )
    axes.set(title="Weight of the loss of expression", xlabel="accuracy, identity", ylabel="accuracy, expression")
    axes.margins(0.15)
    draw_grid(axes, "both")


def _pivot_tasks(rows: pd.DataFrame, index: str, values: str) -> pd.DataFrame:
    """A row per value of `index`, ascending, a column per task."""
    return rows.pivot_table(index=index, columns="tested_on", values=values).dropna().sort_index()


def _order_values(values: pd.Series) -> list[Any]:
    """Ascending; what stands for all comes last."""
    return sorted(set(values), key=lambda value: (value in ("", 0), value))


def _name_value(value: Any, column: str) -> str:
    if column == "branch_after":
        return value or HEADS_ONLY
    return ALL if column == "images" and value == 0 else f"{value:g}"
