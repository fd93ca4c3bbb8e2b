"""Names that users choose, as they stand in a figure: on one line, and no wider than the place that is there."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from math import ceil
from typing import Any

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from facespec.figures.style import DPI, RC

ELLIPSIS = "…"
LEAST = 3  # letters that are left of a name, ellipsis included
HEADS = (0.5, 0.0, 1.0, 0.25, 0.75)  # shares of the letters kept that stand before the ellipsis, tried in this order
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: control, format, surrogate, line and paragraph ends
SUPTITLE = RC["figure.titlesize"]  # points
LAYOUT_DPI = 100  # matplotlib's, at which places are computed


def make_printable(name: str) -> str:
    r"""`name` on one line: what cannot be seen is spelled as in Python.

    >>> print(printable("a\nb"))
    a\nb
    """
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in INVISIBLE else letter
        for letter in name
    )


@lru_cache(maxsize=10_000)
def measure_text(text: str, *, size: float, bold: bool = False) -> float:
    """Width of one line in points, the largest of those in a PDF, in a PNG, and where the layout is computed.

    They differ by some percent, as letters are moved to whole pixels.
    """
    font = FontProperties(family=RC["font.family"], size=size, weight="bold" if bold else "normal")
    widths = [text_to_path.get_text_width_height_descent(text, font, False)[0]]
    for dpi in (LAYOUT_DPI, DPI):
        widths.append(_renderer(dpi).get_text_width_height_descent(text, font, False)[0] * 72 / dpi)
    return float(max(widths))


@cache
def _renderer(dpi: int) -> RendererAgg:
    return RendererAgg(1, 1, dpi)


def fit_name(name: str, width: float, *, size: float, bold: bool = False) -> str:
    """`name`, an ellipsis in its middle if it is wider than `width` points."""
    return fit_names([name], width, size=size, bold=bold)[0]


def fit_names(names: Sequence[str], width: float, *, size: float, bold: bool = False) -> list[str]:
    """As `fit_name`; different names stay different.

    Those that are alike at both ends are cut at one end, or elsewhere; those that differ in nothing but what is cut are
    numbered.
    """
    lines = [make_printable(name) for name in names]
    fitted: list[str] = []
    for head in HEADS:
        fitted = [_cut(line, width, head=head, size=size, bold=bold) for line in lines]
        if len(set(fitted)) == len(set(names)):
            return fitted
    texts = dict(zip(names, fitted, strict=True))
    alike = [name for name, text in texts.items() if list(texts.values()).count(text) > 1]
    numbers = {name: f"{number} " for number, name in enumerate(alike, start=1)}
    room = width - max(measure_text(number, size=size, bold=bold) for number in numbers.values())
    return [
        numbers[name] + _cut(line, room, head=HEADS[0], size=size, bold=bold) if name in numbers else text
        for name, line, text in zip(names, lines, fitted, strict=True)
    ]


def fill_template(template: str, *names: str, width: float, size: float, bold: bool = False) -> str:
    """`template` with `names` in its ``{}``, the longest shortened until lines with names are at most `width` points.

    What the template itself says is never shortened.
    """
    lines = [make_printable(name) for name in names]

    def filled(letters: int) -> str:
        return template.format(*(_keep(line, letters, HEADS[0]) for line in lines))

    def fits(letters: int) -> bool:
        named = zip(filled(letters).split("\n"), template.split("\n"), strict=True)
        return all(measure_text(line, size=size, bold=bold) <= width for line, given in named if "{}" in given)

    return filled(_most(max(map(len, lines), default=0), fits))


def set_suptitle(
    parent: Figure | SubFigure, template: str, *names: str, size: float = SUPTITLE, **options: Any
) -> None:
    """The title of a figure or subfigure, no wider than that: see `fill_template`. `options`: of the text."""
    width = 0.98 * parent.bbox.width * 72 / parent.dpi
    parent.suptitle(fill_template(template, *names, width=width, size=size, bold=True), fontsize=size, **options)


def wrap_text(text: str, width: float, *, size: float) -> str:
    """`text` in lines of at most `width` points, broken at spaces; words that are wider are shortened.

    Lines that fit already are not joined.
    """
    lines: list[str] = []
    for given in text.split("\n"):
        words = given.split(" ")
        lines.append(fit_name(words[0], width, size=size))
        for word in words[1:]:
            longer = f"{lines[-1]} {word}"
            if measure_text(longer, size=size) <= width:
                lines[-1] = longer
            else:
                lines.append(fit_name(word, width, size=size))
    return "\n".join(lines)


def choose_tick_step(labels: Sequence[str], width: float, *, size: float) -> int:
    """1 if all `labels` fit side by side on an axis of `width` points, 2 if every second does, and so on."""
    pitch = max(measure_text(label, size=size) for label in labels) + size / 2
    return max(1, ceil(len(labels) * pitch / width))


def _cut(line: str, width: float, *, head: float, size: float, bold: bool) -> str:
    return _keep(
        line, _most(len(line), lambda n: measure_text(_keep(line, n, head), size=size, bold=bold) <= width), head
    )


def _keep(line: str, letters: int, head: float) -> str:
    """At most so many letters of `line`, the ellipsis included."""
    if len(line) <= letters:
        return line
    before = round(head * (letters - 1))
    return line[:before] + ELLIPSIS + line[len(line) - (letters - 1 - before) :]


def _most(letters: int, fits: Callable[[int], bool]) -> int:
    """The largest number of letters that fits, up to `letters`; at least `LEAST`."""
    if letters <= LEAST or fits(letters):
        return letters
    fitting = bisect_left(range(LEAST, letters), True, key=lambda n: not fits(n))
    return LEAST + max(fitting - 1, 0)
