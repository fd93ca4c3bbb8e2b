"""What do networks name a face by, what do pixels tell without any network, and which expressions are confused?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from facespec.figures.artists import DASHED, Style, collect_handles, draw_error_bar, draw_grid
from facespec.figures.estimates import describe_sources, select_rows
from facespec.figures.labels import fit_names, format_short, set_suptitle
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import NEAREST, PIXELS, UNTRAINED
from facespec.study.tables_calibration import BASELINES, CONFUSIONS, CORRECT, CUE_SWAPS, DONOR, OWNER
from facespec.study.vocabulary import EXPRESSIONS, Network, Task

# cues that are not drawn under their own names
CUE_NAMES = {"none": "nothing", "everything": "whole face", "inner": "inner features", "session": "other session"}
LABEL_LENGTH = 72  # of a cue's name, points
NAMERS = {
    Network.IDENTITY.value: "identity network",
    Network.JOINT.value: "joint network",
    UNTRAINED: "untrained trunk",
}
READERS = {Network.EXPRESSION.value: "expression network", **dict(list(NAMERS.items())[1:])}
COLOURS = {str(name): look.colour for name, look in LOOKS.items()} | {UNTRAINED: MUTED}
CLASSIFIERS = {NEAREST: "nearest picture", PIXELS: "PCA + LDA of pixels", UNTRAINED: "untrained trunk"}
SHADES = {NEAREST: "#C4C4C4", PIXELS: "#949494", UNTRAINED: MUTED}
SPLIT_NAMES = {"study": "study's split", "sessions": "A to B"}
MATRICES = {"expression": "training role", "probe": "probe, fine-tuned"}
SHORT = {expression.value: expression.value[:4] for expression in EXPRESSIONS} | {"surprise": "surp", "disgust": "disg"}
NO_NUMBER = "no number"
SEED_STYLE: Style = {"ls": "none", "marker": ".", "ms": 2.5, "color": INK, "mec": "none", "zorder": 6}


def draw_figure_calibration(cues: pd.DataFrame, baselines: pd.DataFrame, confusions: pd.DataFrame) -> Figure:
    """Draw what numbers about these faces are about.

    Upper rows: who is named where one cue of a face is another person's. Full bars are the owner's name, pale ones that
    of the cue's donor; dots are the networks of single seeds. The fourth row: how often the expression is named.
    Bottom: identity and expression by classifiers of pixels and by untrained networks; confusions of the expression
    network, true classes in rows. Intervals are the tables'; dashed lines are chance.

    Parameters
    ----------
    cues : DataFrame with the schema `study.tables_calibration.CUE_SWAPS`
    baselines : DataFrame with the schema `study.tables_calibration.BASELINES`
    confusions : DataFrame with the schema `study.tables_calibration.CONFUSIONS`

    Returns
    -------
    matplotlib.figure.Figure
        A subfigure of four axes with the cues from left to right, and one of three axes.

    Raises
    ------
    StudyError
        If a table does not follow its schema.
    """
    cues, baselines, confusions = CUE_SWAPS.check(cues), BASELINES.check(baselines), CONFUSIONS.check(confusions)
    with use_study_style():
        figure = Figure(figsize=(7.4, 9.4), layout="constrained")
        title = "What a face is named by, and what needs no network ({})"
        set_suptitle(figure, title, describe_sources(pd.concat([cues[["source"]], confusions[["source"]]])))
        upper, lower = figure.subfigures(2, 1, height_ratios=(6.2, 3.2), squeeze=False)[:, 0]
        _draw_cues(upper, cues)
        panels = lower.subplots(1, 3, width_ratios=(1.25, 1, 1))
        _draw_baselines(panels[0], baselines)
        for axes, (role, name) in zip(panels[1:], MATRICES.items(), strict=True):
            rows = confusions[confusions["seed"].isna()]
            rows = select_rows(rows, role=role, trained_on=Network.EXPRESSION.value)
            _draw_matrix(axes, rows, f"expression network,\n{name}")
        panels[1].set_ylabel("true", labelpad=3)
        handles = collect_handles([panels[0]])
        lower.legend([*handles.values()], [*handles], loc="outside lower center", ncols=len(handles), fontsize=7.5)
    return figure


def _draw_cues(part: SubFigure, cues: pd.DataFrame) -> None:
    """A row of bars per network, and a row for expression; cues from left to right in the table's order."""
    names = list(dict.fromkeys(cues["cue"]))
    panels = part.subplots(len(NAMERS) + 1, 1, sharex=True, sharey=True)
    identity = select_rows(cues, tested_on=Task.IDENTITY.value)
    for axes, (network, name) in zip(panels, NAMERS.items(), strict=False):
        rows = select_rows(identity, trained_on=network)
        for measure, offset, alpha in ((OWNER, -0.2, 1.0), (DONOR, 0.2, 0.4)):
            bars = select_rows(rows, measure=measure)
            _draw_bars(axes, bars, names, offset, color=COLOURS[network], alpha=alpha, width=0.38)
        _format_row(axes, rows, f"{name}\nnames")
    expression = select_rows(cues, measure=CORRECT)
    for index, network in enumerate(READERS):
        rows = select_rows(expression, trained_on=network)
        _draw_bars(panels[-1], rows, names, (index - 1) * 0.27, color=COLOURS[network], width=0.25)
    _format_row(panels[-1], expression, "expression\nnamed")
    labels = fit_names([CUE_NAMES.get(name, name) for name in names], LABEL_LENGTH, size=8)
    panels[-1].set_xticks(range(len(names)), labels, rotation=90)
    panels[-1].set_xlim(-0.6, len(names) - 0.4)
    panels[-1].set_xlabel("cue that is another person's, or another scene's")
    handles = [
        Patch(color=INK, label="owner of the face"),
        Patch(color=INK, alpha=0.4, label="donor of the cue"),
        *(Patch(color=COLOURS[name], label=label) for name, label in (READERS | NAMERS).items()),
    ]
    part.legend(handles=handles, loc="outside upper center", ncols=3)


def _format_row(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    for chance in sorted(set(rows["chance"])):
        axes.axhline(chance, color=INK, lw=0.8, ls=DASHED, zorder=1)
    axes.set_ylabel(label, fontsize=7.5)
    axes.set_ylim(0, 1.04)
    axes.set_yticks((0, 0.5, 1))
    axes.tick_params(axis="x", length=0)
    draw_grid(axes)


def _draw_bars(axes: Axes, rows: pd.DataFrame, names: Sequence[str], offset: float, **style: Any) -> None:
    """The mean over seeds of each cue with its interval, and a dot per seed; nothing where there is no number."""
    means = rows[rows["seed"].isna()].set_index("cue")
    for x, name in enumerate(names):
        if name not in means.index or np.isnan(means["number"][name]):
            continue
        row: dict[Any, Any] = means.loc[name].to_dict()
        position = x + offset
        gid = f"{row['trained_on']} {row['measure']} {name}"
        axes.bar(position, row["number"], gid=gid, zorder=2, **style)
        if not np.isnan(row["low"]):
            draw_error_bar(axes, position, (row["low"], row["high"]), lw=0.9, cap=1)
        seeds = rows[(rows["cue"] == name) & rows["seed"].notna()]["number"]
        axes.plot(np.full(len(seeds), position), seeds, **SEED_STYLE)


def _draw_baselines(axes: Axes, baselines: pd.DataFrame) -> None:
    """Three classifiers for either task, in either split."""
    means = baselines[baselines["seed"].isna()]
    groups = [(task, split) for task in Task for split in SPLIT_NAMES]
    for x, (task, split) in enumerate(groups):
        rows = select_rows(means, tested_on=task.value, split=split)
        for index, (name, label) in enumerate(CLASSIFIERS.items()):
            row, position = select_rows(rows, trained_on=name).iloc[0], x + (index - 1) * 0.27
            height = 0.0 if np.isnan(row["number"]) else row["number"]
            gid = f"{name} {task} {split}"
            axes.bar(position, height, 0.25, color=SHADES[name], label=label, gid=gid, zorder=2)
            if not np.isnan(row["low"]):
                draw_error_bar(axes, position, (row["low"], row["high"]), lw=0.9, cap=1)
        if rows["number"].isna().all():
            axes.text(x, 0.03, NO_NUMBER, rotation=90, ha="center", va="bottom", fontsize=7, color=MUTED)
        axes.hlines(rows["chance"].iloc[0], x - 0.42, x + 0.42, colors=INK, linestyles=DASHED, lw=0.9, zorder=3)
    labels = [f"{task},\n{SPLIT_NAMES[split]}" for task, split in groups]
    axes.set_xticks(range(len(groups)), labels, rotation=90, fontsize=7)
    axes.set(ylim=(0, 1.04), yticks=(0, 0.5, 1), title="no trained network")
    axes.set_ylabel("accuracy")
    axes.tick_params(axis="x", length=0)
    draw_grid(axes)


def _draw_matrix(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    """Shares of the images of a true class (row) that are called by a name (column)."""
    names = [expression.value for expression in EXPRESSIONS]
    cells = rows.pivot_table(index="true", columns="predicted", values="number", dropna=False)
    shares = cells.reindex(index=names, columns=names).to_numpy(float)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1.3)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.65 else INK
        text = format_short(round(share, 2))[:3] if share < 0.995 else "1"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    labels = [SHORT[name] for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), labels, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("named", labelpad=1)
