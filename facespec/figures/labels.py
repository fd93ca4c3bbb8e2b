"""How are numbers, and names that users choose, written in a figure: on one line, no wider than a given width?"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from math import ceil
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from facespec.figures.style import DPI, RC

ELLIPSIS = "…"
MIN_LETTERS = 3  # of a shortened name, ellipsis included
HEAD_SHARES = (0.5, 0.0, 1.0, 0.25, 0.75)  # of a shortened name's letters, before the ellipsis; tried in this order
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: control, format, surrogate, line and paragraph ends
SUPTITLE_SIZE = RC["figure.titlesize"]  # points
LAYOUT_DPI = 100  # at which matplotlib computes the layout


def format_short(number: float) -> str:
    """A share with three decimals and no leading zero; "-" for NaN.

    >>> format_short(0.0431)
    '.043'
    """
    return "-" if np.isnan(number) else f"{number:.3f}".removeprefix("0")


def format_signed(number: float, decimals: int) -> str:
    """A number with its sign, without one if it is rounded to zero.

    >>> format_signed(2.96, 1), format_signed(-0.04, 1)
    ('+3.0', '0.0')
    """
    text = f"{number:+.{decimals}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def make_printable(name: str) -> str:
    r"""`name` on one line: invisible characters are escaped as in Python.

    >>> print(make_printable("a\nb"))
    a\nb
    """
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in INVISIBLE else letter
        for letter in name
    )


@lru_cache(maxsize=10_000)
def measure_text(text: str, *, size: float, bold: bool = False) -> float:
    """Width of one line in points: the largest of its widths in a PDF, in a PNG, and in the layout's computation.

    They differ by some percent, because letters are moved to whole pixels.
    """
    font = FontProperties(family=RC["font.family"], size=size, weight="bold" if bold else "normal")
    widths = [text_to_path.get_text_width_height_descent(text, font, False)[0]]
    for dpi in (LAYOUT_DPI, DPI):
        widths.append(_get_renderer(dpi).get_text_width_height_descent(text, font, False)[0] * 72 / dpi)
    return float(max(widths))


@cache
def _get_renderer(dpi: int) -> RendererAgg:
    return RendererAgg(1, 1, dpi)


def fit_name(name: str, width: float, *, size: float, bold: bool = False) -> str:
    """`name`, with an ellipsis in its middle if it is wider than `width` points."""
    return fit_names([name], width, size=size, bold=bold)[0]


def fit_names(names: Sequence[str], width: float, *, size: float, bold: bool = False) -> list[str]:
    """As `fit_name`; different names remain different.

    Names that are equal after shortening in the middle are shortened at one end or elsewhere; if that does not
    distinguish them either, they are numbered.
    """
    lines = [make_printable(name) for name in names]
    shortened: list[str] = []
    for head_share in HEAD_SHARES:
        shortened = [_shorten_to_width(line, width, head_share=head_share, size=size, bold=bold) for line in lines]
        if len(set(shortened)) == len(set(names)):
            return shortened
    texts = dict(zip(names, shortened, strict=True))
    ambiguous = [name for name, text in texts.items() if list(texts.values()).count(text) > 1]
    numbers = {name: f"{number} " for number, name in enumerate(ambiguous, start=1)}
    width -= max(measure_text(number, size=size, bold=bold) for number in numbers.values())
    return [
        numbers[name] + _shorten_to_width(line, width, head_share=HEAD_SHARES[0], size=size, bold=bold)
        if name in numbers
        else text
        for name, line, text in zip(names, lines, shortened, strict=True)
    ]


def fill_template(template: str, *names: str, width: float, size: float, bold: bool = False) -> str:
    """`template` with `names` in its ``{}``; the longest are shortened until lines with names fit in `width` points.

    The text of the template itself is never shortened.
    """
    names = tuple(make_printable(name) for name in names)

    def fill(letters: int) -> str:
        return template.format(*(_shorten(name, letters, HEAD_SHARES[0]) for name in names))

    def fits(letters: int) -> bool:
        lines = zip(fill(letters).split("\n"), template.split("\n"), strict=True)
        return all(measure_text(line, size=size, bold=bold) <= width for line, part in lines if "{}" in part)

    return fill(_find_most_letters(max(map(len, names), default=0), fits))


def set_suptitle(
    parent: Figure | SubFigure, template: str, *names: str, size: float = SUPTITLE_SIZE, **options: Any
) -> None:
    """Set the title of a figure or subfigure, no wider than the figure: see `fill_template`. `options`: of the text."""
    width = 0.98 * parent.bbox.width * 72 / parent.dpi
    parent.suptitle(fill_template(template, *names, width=width, size=size, bold=True), fontsize=size, **options)


def wrap_text(text: str, width: float, *, size: float) -> str:
    """`text` in lines of at most `width` points, broken at spaces; wider words are shortened.

    Lines of the text are never joined.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        words = paragraph.split(" ")
        lines.append(fit_name(words[0], width, size=size))
        for word in words[1:]:
            longer = f"{lines[-1]} {word}"
            if measure_text(longer, size=size) <= width:
                lines[-1] = longer
            else:
                lines.append(fit_name(word, width, size=size))
    return "\n".join(lines)


def choose_tick_step(labels: Sequence[str], width: float, *, size: float) -> int:
    """1 if all `labels` fit side by side on an axis of `width` points, 2 if every second label does, and so on."""
    pitch = max(measure_text(label, size=size) for label in labels) + size / 2
    return max(1, ceil(len(labels) * pitch / width))


def _shorten_to_width(line: str, width: float, *, head_share: float, size: float, bold: bool) -> str:
    def fits(letters: int) -> bool:
        return measure_text(_shorten(line, letters, head_share), size=size, bold=bold) <= width

    return _shorten(line, _find_most_letters(len(line), fits), head_share)


def _shorten(line: str, letters: int, head_share: float) -> str:
    """At most `letters` letters of `line`, ellipsis included."""
    if len(line) <= letters:
        return line
    head = round(head_share * (letters - 1))
    return line[:head] + ELLIPSIS + line[len(line) - (letters - 1 - head) :]


def _find_most_letters(letters: int, fits: Callable[[int], bool]) -> int:
    """The largest number of letters that fits, at most `letters`, at least `MIN_LETTERS`."""
    if letters <= MIN_LETTERS or fits(letters):
        return letters
    index = bisect_left(range(MIN_LETTERS, letters), True, key=lambda count: not fits(count))
    return MIN_LETTERS + max(index - 1, 0)
