"""Widths are compared with those of texts that matplotlib has drawn."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from facespec.figures.labels import ELLIPSIS, fill_template, fit_name, fit_names, make_printable, measure_text
from facespec.figures.style import DPI, use_study_style

ROOM = 60.0  # points


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with use_study_style():
        yield


def drawn_width(text: str, *, size: float, weight: str, dpi: float) -> float:
    figure = Figure(dpi=dpi)
    shown = figure.text(0, 0, text, fontsize=size, fontweight=weight)
    figure.draw_without_rendering()
    return shown.get_window_extent().width * 72 / dpi


@pytest.mark.parametrize("text", ["trunk.conv1", "W" * 30, "i" * 30, "a_b$ \\frac{1}", "表情😀", "e\u0301"])
def test_widths_are_those_of_matplotlib(text: str) -> None:
    for size, weight in ((7, "normal"), (10, "bold")):
        widths = [drawn_width(text, size=size, weight=weight, dpi=dpi) for dpi in (100, DPI)]
        own = measure_text(text, size=size, bold=weight == "bold")
        assert max(widths) <= own + 1e-6 <= 1.2 * min(widths) + 1


def test_names_that_fit_stay_as_they_are() -> None:
    assert fit_names(["trunk.conv1", "$$", "表情"], ROOM, size=7) == ["trunk.conv1", "$$", "表情"]


@given(st.text(), st.sampled_from([7.0, 8.5]), st.booleans())
def test_every_name_fits_on_one_line(name: str, size: float, bold: bool) -> None:
    with use_study_style():
        fitted = fit_name(name, ROOM, size=size, bold=bold)
        assert len(fitted.splitlines()) <= 1
        assert measure_text(fitted, size=size, bold=bold) <= ROOM
        if ELLIPSIS not in fitted:
            assert fitted == make_printable(name)
        else:
            head, _, tail = fitted.partition(ELLIPSIS)
            assert make_printable(name).startswith(head) and make_printable(name).endswith(tail)


def test_the_middle_is_left_out_and_no_more_than_needed() -> None:
    name = "abcdefghijklmnopqrstuvwxyz"
    fitted = fit_name(name, ROOM, size=7)
    head, tail = fitted.split(ELLIPSIS)
    assert abs(len(head) - len(tail)) <= 1
    longer = name[: len(head) + 1] + ELLIPSIS + name[-len(tail) - 1 :]
    assert measure_text(fitted, size=7) <= ROOM < measure_text(longer, size=7)


@pytest.mark.parametrize(
    "names",
    [
        [f"encoder.layers.{block}.attention.output.dense" for block in range(12)],
        [f"{'x' * 40}{letter}{'y' * 40}" for letter in "abc"],
        [f"{letter}{'x' * 40}" for letter in "abc"],
        [f"{'x' * 40}{letter}" for letter in "abc"],
        ["a\nb", "a\\nb"],
    ],
)
def test_different_names_stay_different(names: list[str]) -> None:
    fitted = fit_names(names, ROOM, size=7)
    assert len(set(fitted)) == len(names)
    assert all(measure_text(name, size=7) <= ROOM for name in fitted)
    assert fit_names([names[0], *names, "short"], ROOM, size=7) == [fitted[0], *fitted, "short"]


def test_what_cannot_be_seen_is_spelled() -> None:
    assert make_printable("a\nb\t\x00\u202e\ud800 \xa0 \\frac 表情 e\u0301") == (
        "a\\nb\\t\\x00\\u202e\\ud800 \xa0 \\frac 表情 e\u0301"
    )


def test_the_longest_names_are_shortened_until_the_line_fits() -> None:
    template = "What the {} network loses\n({})"
    assert fill_template(template, "joint", "painted faces", width=300, size=10) == (
        "What the joint network loses\n(painted faces)"
    )
    text = fill_template(template, "x" * 99 + "joint", "my {faces}", width=300, size=10, bold=True)
    first, second = text.split("\n")
    assert first.startswith("What the xxx") and ELLIPSIS in first and first.endswith("joint network loses")
    assert second == "(my {faces})"
    assert 280 < measure_text(first, size=10, bold=True) <= 300


def test_a_letter_that_the_font_lacks_is_drawn_without_a_warning() -> None:
    figure = Figure()
    figure.text(0.1, 0.5, "表情😀 \u0378")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with use_study_style():
            for kind in ("png", "pdf"):
                figure.savefig(io.BytesIO(), format=kind)
