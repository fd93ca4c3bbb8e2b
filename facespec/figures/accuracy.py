"""How often are the networks, and decoders of their responses, correct? Figures 1B, 1C, S1A and S1B.

The x axis holds the tasks, with a bar per network, hollow for a network before fine-tuning. Lines show what needs no
training: the best constant answer, decoders of the untrained trunk, and classifiers of pixels. Reproduced results, the
same results in the original's style, and published numbers are all `Panel`s (see `bars`), which one function draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facespec.figures.artists import DASHED, Style, collect_handles, draw_error_bar, draw_grid, make_outline
from facespec.figures.bars import PUBLISHED, SOUND, TITLES, Bar, Panel
from facespec.figures.labels import fill_template, format_short
from facespec.figures.style import INK, LOOKS, MUTED, use_study_style
from facespec.study.tables import NEAREST, PIXELS, UNTRAINED
from facespec.study.vocabulary import NETWORKS

YLABELS = {"1B": "decoding accuracy", "1C": "accuracy", "S1A": "decoding accuracy", "S1B": "accuracy"}
BAR_WIDTH = 0.36
GROUP_GAP = 0.28  # between the bars of two tasks
OVERHANG = 0.05  # of lines beyond the bars of their task
TITLE_WIDTH = 210  # points
SEEDS_OFFSET, ERROR_OFFSET = -0.07, 0.10  # from the middle of a bar, so that neither hides the other
Y_MAX = 1.10  # leaves room for the number above a bar of height 1


@dataclass(frozen=True)
class BaselineLook:
    """How the line of a baseline is drawn and called; `marked`: its left end (0), middle (1) or right end (2)."""

    label: str
    short: str
    line_style: Any
    marker: str
    marked: int


BASELINE_LOOKS = {
    UNTRAINED: BaselineLook("untrained network, decoded", "untrained", ":", "x", 1),
    PIXELS: BaselineLook("pixels, discriminants (LDA)", "pixels, LDA", (0, (6, 1.5, 1, 1.5)), "^", 2),
    NEAREST: BaselineLook("pixels, nearest face (1-NN)", "pixels, 1-NN", (0, (1, 2.5)), "v", 0),
}


def draw_panel(axes: Axes, panel: Panel) -> Axes:
    """Draw the bars of `panel` with numbers, error bars and seeds; in sound style also chance and baselines."""
    with use_study_style():
        draw_grid(axes)
        ticks, positions, right = [], [], -GROUP_GAP - BAR_WIDTH
        for task in panel.tasks:
            bars, zero_shot = (_order_bars(part, task) for part in (panel.bars, panel.zero_shot))
            left = right + GROUP_GAP
            right = left + BAR_WIDTH * (len(bars) + len(zero_shot))
            places = left + BAR_WIDTH * (np.arange(len(bars) + len(zero_shot)) + 0.5)
            for bar, x in zip(bars, places, strict=False):
                (_draw_published_bar if panel.style == PUBLISHED else _draw_sound_bar)(axes, bar, x)
            for bar, x in zip(zero_shot, places[len(bars) :], strict=True):
                _draw_sound_bar(axes, bar, x, zero_shot=True)
            baselines = {bar.trained_on: bar for bar in panel.baselines if bar.tested_on == task}
            if panel.style == SOUND:
                _draw_lines(axes, bars, baselines, (left - OVERHANG, right + OVERHANG))
            ticks.append(_describe_task(task, bars, baselines))
            positions.append((left + right) / 2)
        axes.set_xticks(positions, ticks)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-BAR_WIDTH - 0.22, right + 0.22)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_ylim(0, Y_MAX)
        axes.set_ylabel(YLABELS[panel.figure])
        _set_title(axes, "{}", panel.sources)
    return axes


def _order_bars(bars: Sequence[Bar], task: str) -> list[Bar]:
    by_network = {bar.trained_on: bar for bar in bars if bar.tested_on == task}
    return [by_network[network] for network in NETWORKS if network in by_network]


def _describe_task(task: str, bars: Sequence[Bar], baselines: Mapping[str, Bar]) -> str:
    """The text below the bars of one task."""
    sizes = " / ".join(f"{size:,}" for size in sorted({bar.n for bar in bars}))
    chances = " / ".join(map(format_short, sorted({bar.chance for bar in bars})))
    lines = [task, f"n = {sizes}", f"chance {chances}"]
    lines += [
        f"{look.short} {format_short(baselines[name].mean)}"
        for name, look in BASELINE_LOOKS.items()
        if name in baselines
    ]
    return "\n".join(lines)


def _draw_sound_bar(axes: Axes, bar: Bar, x: float, *, zero_shot: bool = False) -> None:
    look = LOOKS[bar.trained_on]
    style: Style = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "lw": 0.8}
    label = f"{bar.trained_on} network"
    if zero_shot:
        style = {"facecolor": "white", "edgecolor": look.colour, "lw": 1.4, "gid": "zero-shot"}
        label = f"{bar.trained_on}, not fine-tuned"
    axes.bar(x, bar.mean, BAR_WIDTH * (0.86 if zero_shot else 1), label=label, **style)
    error_x = x + ERROR_OFFSET if bar.per_seed else x
    draw_error_bar(axes, error_x, (bar.low, bar.high), lw=1.2, cap=3).set_label("95 % of resampled test sets")
    if bar.per_seed:
        count = len(bar.per_seed)
        seeds_x = x + SEEDS_OFFSET + np.linspace(-1, 1, count) * min(0.06, 0.03 * (count - 1))
        marker: Style = {"marker": "o", "ms": 3.6, "mfc": "white", "mec": INK, "mew": 0.8}
        axes.plot(seeds_x, bar.per_seed, ls="none", zorder=6, label="one seed", **marker)
    _write_number(axes, bar.mean, x, y=max(bar.mean, bar.high, *bar.per_seed))


def _draw_published_bar(axes: Axes, bar: Bar, x: float) -> None:
    axes.bar(x, bar.mean, BAR_WIDTH, color=LOOKS[bar.trained_on].published, label=f"{bar.trained_on} network")
    middle, half = (bar.low + bar.high) / 2, (bar.high - bar.low) / 2
    label = "95 % of means of 100 resamples"
    axes.errorbar(x, middle, half, fmt="none", ecolor="#424242", elinewidth=1.8, label=label)
    _write_number(axes, bar.mean, x, y=max(bar.mean, bar.high))


def _draw_lines(axes: Axes, bars: Sequence[Bar], baselines: Mapping[str, Bar], ends: tuple[float, float]) -> None:
    """Chance and baselines of one task, across its bars."""
    style: Style = {"colors": INK, "linestyles": DASHED, "lw": 0.9, "zorder": 4, "clip_on": False}
    for chance in sorted({bar.chance for bar in bars}):
        line = axes.hlines(chance, *ends, label="chance (best constant answer)", **style)
        line.set_path_effects([make_outline()])
    for name, look in BASELINE_LOOKS.items():
        if name in baselines:
            bar = baselines[name]
            style = {"color": MUTED, "ls": look.line_style, "lw": 1.1, "marker": look.marker, "ms": 5, "mew": 1.2}
            style |= {"markevery": [look.marked], "zorder": 4.5, "clip_on": False, "gid": f"{name} {bar.tested_on}"}
            x = [ends[0], sum(ends) / 2, ends[1]]
            (drawn,) = axes.plot(x, [bar.mean] * 3, label=look.label, **style)
            drawn.set_path_effects([make_outline()])


def _write_number(axes: Axes, number: float, x: float, *, y: float) -> None:
    offset: Style = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(format_short(number), (x, y), path_effects=[make_outline()], **offset)


def draw_panels(panels: Mapping[str, Panel]) -> Figure:
    """Draw panels of one figure side by side on the same accuracy axis.

    Parameters
    ----------
    panels : mapping of str to Panel
        Title, such as ``"published"`` or ``"reproduced"`` -> panel. All panels are of the same figure.

    Returns
    -------
    matplotlib.figure.Figure
        An axes per panel, from left to right, and one legend.

    Examples
    --------
    >>> from facespec.figures.bars import SOUND, Bar, Panel
    >>> bar = Bar("joint", "identity", "KDEF", n=70, chance=0.1, mean=0.9, low=0.8, high=1.0, per_seed=(0.85, 0.95))
    >>> figure = draw_panels({"reproduced": Panel("1C", SOUND, (bar,))})
    >>> figure.axes[0].get_title()
    'reproduced\\nKDEF'
    """
    (name,) = {panel.figure for panel in panels.values()}
    with use_study_style():
        figure = Figure(figsize=(0.6 + 3.1 * max(len(panels), 2), 4.7), layout="constrained")
        for index, (title, panel) in enumerate(panels.items()):
            axes = draw_panel(figure.add_subplot(1, len(panels), index + 1), panel)
            _set_title(axes, "{}\n{}", title, panel.sources)
            if index:
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
        figure.suptitle(f"Figure {name}. {TITLES[name]}")
        _add_legend(figure)
    return figure


def draw_figure_1(panels: Sequence[Panel]) -> Figure:
    """Draw panels of different figures on one page, two in a row.

    Parameters
    ----------
    panels : sequence of Panel
        Each is titled with its figure and the source of its faces.

    Returns
    -------
    matplotlib.figure.Figure
        An axes per panel and one legend.
    """
    rows = -(-len(panels) // 2)
    with use_study_style():
        figure = Figure(figsize=(7.4, 0.7 + 3.8 * rows), layout="constrained")
        for index, panel in enumerate(panels):
            axes = draw_panel(figure.add_subplot(rows, 2, index + 1), panel)
            _set_title(axes, f"{panel.figure}  {TITLES[panel.figure]}\n{{}}", panel.sources)
        _add_legend(figure)
    return figure


def _set_title(axes: Axes, template: str, *names: str) -> None:
    axes.set_title(fill_template(template, *names, width=TITLE_WIDTH, size=8), fontsize=8)


def _add_legend(figure: Figure) -> None:
    handles = collect_handles(figure.axes)
    bars = [f"{network}{ending}" for ending in (" network", ", not fine-tuned") for network in NETWORKS]
    networks = [label for label in bars if label in handles]
    labels = [*networks, *(label for label in handles if label not in networks)]
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=3, handleheight=1.2)
