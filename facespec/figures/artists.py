"""Which artists do several figures share? Grid lines, error bars, white outlines, legends and notes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from facespec.figures.style import INK

Style = dict[str, Any]  # keyword arguments that set how an artist looks
DASHED = (0, (4, 2))


def draw_grid(axes: Axes, axis: Any = "y") -> None:
    """Pale lines at the ticks of `axis`."""
    axes.grid(axis=axis, color="#E4E4E4", lw=0.6)


def make_outline() -> withStroke:
    """A white outline, which makes text and lines readable on any colour."""
    return withStroke(linewidth=2.4, foreground="white")


def draw_error_bar(
    axes: Axes, position: float, bounds: tuple[float, float], *, along: str = "y", lw: float = 1.1, cap: float = 2
) -> ErrorbarContainer:
    """Draw an outlined error bar between `bounds` on one axis (`along`), at `position` on the other."""
    low, high = bounds
    middle, half = (low + high) / 2, (high - low) / 2
    x, y = (position, middle) if along == "y" else (middle, position)
    style: Style = {"ecolor": INK, "elinewidth": lw, "capsize": cap, "capthick": lw, "zorder": 5, f"{along}err": half}
    error_bar = axes.errorbar(x, y, fmt="none", **style)
    for line in (*error_bar.lines[1], *error_bar.lines[2]):
        line.set_path_effects([make_outline()])
    return error_bar


def collect_handles(panels: Iterable[Axes]) -> dict[str, Artist]:
    """The first artist of every label in `panels`: label -> artist."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    return handles


def write_reasons(figure: Figure, table: pd.DataFrame, *, default: str) -> None:
    """Write each `reason` of `table` once in the middle of an empty figure; `default` if there is none."""
    reasons = "\n".join(dict.fromkeys(text for text in table["reason"] if text)) or default
    figure.text(0.5, 0.5, reasons, ha="center", va="center", wrap=True)
