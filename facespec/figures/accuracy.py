"""How often are the networks, and decoders of their responses, correct? Figures 1B, 1C, S1A and S1B.

The x axis holds the tasks, with a bar per network. Reproduced results, the same results in the original's style, and
published numbers are all `Panel`s (see `bars`), which one function draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facespec.figures.artists import DASHED, Style, collect_handles, draw_error_bar, draw_grid, make_outline
from facespec.figures.bars import PUBLISHED, SOUND, TITLES, Bar, Panel
from facespec.figures.labels import fill_template, format_short
from facespec.figures.style import INK, LOOKS, use_study_style
from facespec.study.vocabulary import NETWORKS

YLABELS = {"1B": "decoding accuracy", "1C": "accuracy", "S1A": "decoding accuracy", "S1B": "accuracy"}
BAR_WIDTH = 0.36
TITLE_WIDTH = 210  # points
SEEDS_OFFSET, ERROR_OFFSET = -0.07, 0.10  # from the middle of a bar, so that neither hides the other
Y_MAX = 1.10  # leaves room for the number above a bar of height 1


def draw_panel(axes: Axes, panel: Panel) -> Axes:
    """Draw the bars of `panel` with numbers, error bars and seeds; in sound style also the tasks' chance levels."""
    with use_study_style():
        draw_grid(axes)
        ticks = []
        for group, task in enumerate(panel.tasks):
            by_network = {bar.trained_on: bar for bar in panel.bars if bar.tested_on == task}
            bars = [by_network[network] for network in NETWORKS if network in by_network]
            for index, bar in enumerate(bars):
                x = group + (index - (len(bars) - 1) / 2) * BAR_WIDTH
                (_draw_published_bar if panel.style == PUBLISHED else _draw_sound_bar)(axes, bar, x)
            chances = sorted({bar.chance for bar in bars})
            if panel.style == SOUND:
                _draw_chance(axes, chances, group, half_width=BAR_WIDTH * len(bars) / 2 + 0.05)
            sizes = " / ".join(f"{size:,}" for size in sorted({bar.n for bar in bars}))
            ticks.append(f"{task}\nn = {sizes}\nchance {' / '.join(map(format_short, chances))}")
        axes.set_xticks(range(len(ticks)), ticks)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.58, len(ticks) - 0.42)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_ylim(0, Y_MAX)
        axes.set_ylabel(YLABELS[panel.figure])
        _set_title(axes, "{}", panel.sources)
    return axes


def _draw_sound_bar(axes: Axes, bar: Bar, x: float) -> None:
    look = LOOKS[bar.trained_on]
    label = f"{bar.trained_on} network"
    axes.bar(x, bar.mean, BAR_WIDTH, color=look.colour, hatch=look.hatch, edgecolor="white", lw=0.8, label=label)
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


def _draw_chance(axes: Axes, chances: Sequence[float], group: int, *, half_width: float) -> None:
    style: Style = {"colors": INK, "linestyles": DASHED, "lw": 0.9, "zorder": 4, "clip_on": False}
    for chance in chances:
        line = axes.hlines(chance, group - half_width, group + half_width, label="chance", **style)
        line.set_path_effects([make_outline()])


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
        figure = Figure(figsize=(0.6 + 3.1 * max(len(panels), 2), 4.0), layout="constrained")
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
        figure = Figure(figsize=(7.4, 0.5 + 3.3 * rows), layout="constrained")
        for index, panel in enumerate(panels):
            axes = draw_panel(figure.add_subplot(rows, 2, index + 1), panel)
            _set_title(axes, f"{panel.figure}  {TITLES[panel.figure]}\n{{}}", panel.sources)
        _add_legend(figure)
    return figure


def _set_title(axes: Axes, template: str, *names: str) -> None:
    axes.set_title(fill_template(template, *names, width=TITLE_WIDTH, size=8), fontsize=8)


def _add_legend(figure: Figure) -> None:
    handles = collect_handles(figure.axes)
    networks = [label for network in NETWORKS if (label := f"{network} network") in handles]
    labels = [*networks, *(label for label in handles if label not in networks)]
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=3, handleheight=1.2)
