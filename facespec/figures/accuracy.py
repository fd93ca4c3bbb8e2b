"""Figures 1B, 1C, S1A and S1B: how often are the networks, or decoders of them, right?

x = the task, one bar per network. Reproduced results, the same drawn the original's way, and the published numbers are
all `Panel`s (see `bars`), so one artist draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from facespec.figures.bars import PUBLISHED, SOUND, TITLES, Bar, Panel
from facespec.figures.labels import fill_template
from facespec.figures.style import INK, LOOKS, use_study_style
from facespec.study.vocabulary import NETWORKS

YLABEL = {"1B": "decoding accuracy", "1C": "accuracy", "S1A": "decoding accuracy", "S1B": "accuracy"}
WIDTH = 0.36
TITLE = 210  # width of a panel's title, points
DOTS_AT, ERROR_AT = -0.07, 0.10  # beside each other, so that neither hides the other
TOP = 1.10  # of the accuracy axis: room for the number above a bar at 1
NETWORK_LABELS = [f"{network} network" for network in NETWORKS]


def draw_panel(axes: Axes, panel: Panel) -> Axes:
    """Draw the bars of `panel` with numbers, error bars and dots; in sound style also the chance of each task."""
    with use_study_style():
        axes.grid(axis="y", color="#E4E4E4", lw=0.6)
        ticks = []
        for group, task in enumerate(panel.tasks):
            by_name = {bar.trained_on: bar for bar in panel.bars if bar.tested_on == task}
            own = [by_name[network] for network in NETWORKS if network in by_name]
            for slot, bar in enumerate(own):
                x = group + (slot - (len(own) - 1) / 2) * WIDTH
                (_published_bar if panel.style == PUBLISHED else _sound_bar)(axes, bar, x)
            if panel.style == SOUND:
                _chance(axes, own, group)
            ticks.append(_tick(task, own))
        axes.set_xticks(range(len(ticks)), ticks)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.58, len(ticks) - 0.42)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_ylim(0, TOP)
        axes.set_ylabel(YLABEL[panel.figure])
        axes.set_title(_titled("{}", panel.sources), fontsize=8)
    return axes


def _sound_bar(axes: Axes, bar: Bar, x: float) -> None:
    own = LOOKS[bar.trained_on]
    label = f"{bar.trained_on} network"
    axes.bar(x, bar.mean, WIDTH, color=own.colour, hatch=own.hatch, edgecolor="white", lw=0.8, label=label)
    middle, half = (bar.low + bar.high) / 2, (bar.high - bar.low) / 2
    beside = x + ERROR_AT if bar.dots else x
    error = axes.errorbar(
        beside,
        middle,
        half,
        fmt="none",
        ecolor=INK,
        elinewidth=1.2,
        capsize=3,
        capthick=1.2,
        zorder=5,
        label="95 % of resampled test sets",
    )
    for line in (*error.lines[1], *error.lines[2]):
        line.set_path_effects([_outline()])
    if bar.dots:
        places = x + DOTS_AT + np.linspace(-1, 1, len(bar.dots)) * min(0.06, 0.03 * (len(bar.dots) - 1))
        axes.plot(
            places, bar.dots, ls="none", marker="o", ms=3.6, mfc="white", mec=INK, mew=0.8, zorder=6, label="one seed"
        )
    _number(axes, bar.mean, x, above=max(bar.mean, bar.high, *bar.dots))


def _published_bar(axes: Axes, bar: Bar, x: float) -> None:
    axes.bar(x, bar.mean, WIDTH, color=LOOKS[bar.trained_on].published, label=f"{bar.trained_on} network")
    axes.errorbar(
        x,
        (bar.low + bar.high) / 2,
        (bar.high - bar.low) / 2,
        fmt="none",
        ecolor="#424242",
        elinewidth=1.8,
        label="95 % of means of 100 resamples",
    )
    _number(axes, bar.mean, x, above=max(bar.mean, bar.high))


def _chance(axes: Axes, bars: Sequence[Bar], group: int) -> None:
    reach = WIDTH * len(bars) / 2 + 0.05
    for chance in sorted({bar.chance for bar in bars}):
        line = axes.hlines(
            chance,
            group - reach,
            group + reach,
            colors=INK,
            linestyles=(0, (4, 2)),
            lw=0.9,
            zorder=4,
            label="chance",
            clip_on=False,
        )
        line.set_path_effects([_outline()])


def _outline() -> withStroke:
    return withStroke(linewidth=2.4, foreground="white")  # readable on dark bars too


def _number(axes: Axes, number: float, x: float, *, above: float) -> None:
    axes.annotate(
        _short(number),
        (x, above),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        path_effects=[_outline()],
    )


def _tick(task: str, bars: Sequence[Bar]) -> str:
    n = " / ".join(f"{size:,}" for size in sorted({bar.n for bar in bars}))
    chance = " / ".join(_short(level) for level in sorted({bar.chance for bar in bars}))
    return f"{task}\nn = {n}\nchance {chance}"


def _short(number: float) -> str:
    return f"{number:.3f}".removeprefix("0")


def draw_panels(panels: Mapping[str, Panel]) -> Figure:
    """Panels of one figure (what it is, such as "published" -> its panel) on the same accuracy axis."""
    (figure,) = {panel.figure for panel in panels.values()}
    with use_study_style():
        drawn = Figure(figsize=(0.6 + 3.1 * max(len(panels), 2), 4.0), layout="constrained")
        for index, (name, panel) in enumerate(panels.items()):
            axes = draw_panel(drawn.add_subplot(1, len(panels), index + 1), panel)
            axes.set_title(_titled("{}\n{}", name, panel.sources), fontsize=8)
            if index:
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
        drawn.suptitle(f"Figure {figure}. {TITLES[figure]}")
        _legend(drawn)
    return drawn


def draw_figure_1(panels: Sequence[Panel]) -> Figure:
    """Figures on one page, two by two, each named with its data."""
    rows = -(-len(panels) // 2)
    with use_study_style():
        drawn = Figure(figsize=(7.4, 0.5 + 3.3 * rows), layout="constrained")
        for index, panel in enumerate(panels):
            axes = draw_panel(drawn.add_subplot(rows, 2, index + 1), panel)
            heading = f"{panel.figure}  {TITLES[panel.figure]}\n{{}}"
            axes.set_title(_titled(heading, panel.sources), fontsize=8)
        _legend(drawn)
    return drawn


def _titled(template: str, *names: str) -> str:
    return fill_template(template, *names, width=TITLE, size=8)


def _legend(drawn: Figure) -> None:
    found: dict[str, Artist] = {}
    for axes in drawn.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    labels = [label for label in NETWORK_LABELS if label in found]
    labels += [label for label in found if label not in labels]
    drawn.legend([found[label] for label in labels], labels, loc="outside lower center", ncols=3, handleheight=1.2)
