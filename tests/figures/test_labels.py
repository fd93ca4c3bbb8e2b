"""Widths are compared with those of texts that matplotlib has drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from facespec.figures.labels import (
    ELLIPSIS,
    fill_template,
    fit_name,
    fit_names,
    format_short,
    format_signed,
    make_printable,
    measure_text,
)
from facespec.figures.style import DPI, use_study_style

WIDTH = 60.0  # points


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with use_study_style():
        yield


def test_shares_are_written_without_a_leading_zero() -> None:
    texts = [format_short(number) for number in (0.0431, 0.9996, 1.0, 0.0, np.nan)]
    assert texts == [".043", "1.000", "1.000", ".000", "-"]


def test_signs_are_written_except_of_zero() -> None:
    assert [format_signed(n, 1) for n in (-3.04, 2.96, 0.04, -0.04, 10.0)] == ["−3.0", "+3.0", "0.0", "0.0", "+10.0"]


@given(st.floats(-0.5, 0.5))
def test_a_written_sign_is_the_numbers(value: float) -> None:
    text = format_signed(value, 3)
    number = float(text.replace("−", "-"))
    assert number == pytest.approx(value, abs=0.00051) and (text[0] in "+−") == (number != 0)


@pytest.mark.parametrize("text", ["trunk.conv1", "W" * 30, "i" * 30, "a_b$ \\frac{1}", "表情😀", "e\u0301"])
def test_widths_are_those_of_matplotlib(text: str) -> None:
    for size, weight in ((7, "normal"), (10, "bold")):
        widths = []
        for dpi in (100, DPI):
            figure = Figure(dpi=dpi)
            artist = figure.text(0, 0, text, fontsize=size, fontweight=weight)
            figure.draw_without_rendering()
            widths.append(artist.get_window_extent().width * 72 / dpi)
        measured = measure_text(text, size=size, bold=weight == "bold")
        assert max(widths) <= measured + 1e-6 <= 1.2 * min(widths) + 1


def test_names_that_fit_remain_as_they_are() -> None:
    assert fit_names(["trunk.conv1", "$$", "表情"], WIDTH, size=7) == ["trunk.conv1", "$$", "表情"]


@settings(max_examples=40)
@given(st.text(), st.sampled_from([7.0, 8.5]), st.booleans())
def test_every_name_fits_on_one_line(name: str, size: float, bold: bool) -> None:
    with use_study_style():
        fitted = fit_name(name, WIDTH, size=size, bold=bold)
        assert len(fitted.splitlines()) <= 1 and measure_text(fitted, size=size, bold=bold) <= WIDTH
    head, ellipsis, tail = fitted.partition(ELLIPSIS)
    assert make_printable(name).startswith(head) and make_printable(name).endswith(tail)
    assert ellipsis or fitted == make_printable(name)


def test_names_are_shortened_in_the_middle_and_no_more_than_needed() -> None:
    name = "abcdefghijklmnopqrstuvwxyz"
    fitted = fit_name(name, WIDTH, size=7)
    head, tail = fitted.split(ELLIPSIS)
    assert abs(len(head) - len(tail)) <= 1
    longer = name[: len(head) + 1] + ELLIPSIS + name[-len(tail) - 1 :]
    assert measure_text(fitted, size=7) <= WIDTH < measure_text(longer, size=7)


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
def test_different_names_remain_different(names: list[str]) -> None:
    fitted = fit_names(names, WIDTH, size=7)
    assert len(set(fitted)) == len(names)
    assert all(measure_text(name, size=7) <= WIDTH for name in fitted)
    assert fit_names([names[0], *names, "short"], WIDTH, size=7) == [fitted[0], *fitted, "short"]


def test_invisible_characters_are_escaped() -> None:
    assert make_printable("a\nb\t\x00\u202e\ud800 \xa0 \\frac 表情 e\u0301") == (
        "a\\nb\\t\\x00\\u202e\\ud800 \xa0 \\frac 表情 e\u0301"
    )


def test_the_longest_names_are_shortened_until_the_line_fits() -> None:
    template = "What the {} network loses\n({})"
    whole = fill_template(template, "joint", "painted faces", width=300, size=10)
    assert whole == "What the joint network loses\n(painted faces)"
    text = fill_template(template, "x" * 99 + "joint", "my {faces}", width=300, size=10, bold=True)
    first, second = text.split("\n")
    assert first.startswith("What the xxx") and ELLIPSIS in first and first.endswith("joint network loses")
    assert second == "(my {faces})" and 280 < measure_text(first, size=10, bold=True) <= 300
