"""Verdicts on parts become verdicts on claims, metrics without NaN, and a summary that fits the terminal."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from facespec.checks.verdicts import MARKS, combine_parts, group_by_claim, make_metrics, summarise
from facespec.study.errors import StudyError
from facespec.study.tables import VERDICTS

YES, NO, OPEN, NEVER = "reproduced", "refuted", "undecided", "not testable on this data"
NAN = np.nan
LONG = (
    "the joint network is better at identity than the identity network (Figure S1B; published: 0.8855 against 0.8391)"
)


def make_row(claim: str, part: str, verdict: str, *numbers: float, reason: str = "") -> dict[str, object]:
    row: dict[str, object] = {"claim": claim, "part": part, "verdict": verdict, "reason": reason}
    row |= dict.fromkeys(("coverage", "bootstrap_low", "bootstrap_high", "seeds_low", "seeds_high"), NAN)
    row |= dict(zip(("number", "low", "high", "published"), numbers, strict=True))
    return row | {"statement": LONG, "source": "embedded faces", "rule": "-"}


TABLE = VERDICTS.check(
    pd.DataFrame(
        [
            make_row("C4", "expression", YES, 0.1234, 0.05, 0.2, 0.01344),
            make_row("C4", "identity", OPEN, -0.0101, -0.03, 0.0104, 0.046357, reason="the interval includes 0")
            | {"coverage": 0.9473, "bootstrap_low": -0.02, "bootstrap_high": 0.0},
            make_row("C1", "identity", NEVER, NAN, NAN, NAN, 0.626817, reason="Figure 1B lacks the joint network"),
            make_row("C2", "information", NEVER, 0.0, NAN, NAN, 0.285786, reason="no accuracy varies"),
            make_row("C3", "identity", YES, 0.02, 0.01, 0.03, 0.006612),
            make_row("C3", "expression", NO, -0.05, -0.06, -0.04, 0.000183, reason="the interval lies at or below 0"),
        ]
    )
)


@pytest.mark.parametrize("parts", [p for n in (1, 2, 3) for p in itertools.product((YES, NO, OPEN, NEVER), repeat=n)])
def test_a_claim_is_refuted_by_one_part_then_undecided_then_not_testable(parts: tuple[str, ...]) -> None:
    strength = {YES: 3, NEVER: 2, OPEN: 1, NO: 0}
    assert combine_parts(pd.Series(parts)) == min(parts, key=strength.__getitem__)


def test_numbers_that_are_missing_are_left_out() -> None:
    expected = {
        "C4": {
            "verdict": OPEN,
            "parts": {
                "expression": {"number": 0.1234, "low": 0.05, "high": 0.2, "published": 0.01344, "verdict": YES},
                "identity": {
                    "number": -0.0101,
                    "low": -0.03,
                    "high": 0.0104,
                    "coverage": 0.9473,
                    "published": 0.046357,
                    "bootstrap_low": -0.02,
                    "bootstrap_high": 0.0,
                    "verdict": OPEN,
                },
            },
        },
        "C1": {"verdict": NEVER, "parts": {"identity": {"published": 0.626817, "verdict": NEVER}}},
        "C2": {"verdict": NEVER, "parts": {"information": {"number": 0.0, "published": 0.285786, "verdict": NEVER}}},
        "C3": {
            "verdict": NO,
            "parts": {
                "identity": {"number": 0.02, "low": 0.01, "high": 0.03, "published": 0.006612, "verdict": YES},
                "expression": {"number": -0.05, "low": -0.06, "high": -0.04, "published": 0.000183, "verdict": NO},
            },
        },
    }
    claims = group_by_claim(TABLE)
    assert claims == expected and list(claims) == list(expected)
    assert json.loads(json.dumps(claims, allow_nan=False)) == expected  # plain floats, no NaN
    numbers = {"C4 expression": 0.1234, "C4 identity": -0.0101, "C2 information": 0.0, "C3 identity": 0.02}
    numbers["C3 expression"] = -0.05
    assert json.loads(json.dumps(make_metrics(TABLE), allow_nan=False)) == numbers


def print_summary(table: pd.DataFrame, width: int, **options: bool) -> str:
    console = Console(width=width, highlight=False, **options)  # type: ignore[arg-type]
    with console.capture() as captured:
        console.print(summarise(table))
    return captured.get()


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("soft_wrap", [False, True])
def test_the_summary_fits_and_truncates_nothing(width: int, soft_wrap: bool) -> None:
    text = print_summary(TABLE, width, soft_wrap=soft_wrap)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for word in [
        "better",
        "0.8391)",
        "identity",
        "undecided",
        "refuted",
        "reproduced",
        "testable",
        "+0.123",
        "-0.010",
        "none",
    ]:
        assert word in text
    assert text.count("0.8391)") == len(TABLE)


def test_the_summary_has_a_row_per_part_and_a_line_per_claim() -> None:
    """At a width at which nothing wraps."""
    lines = [line.split() for line in print_summary(TABLE, 300).splitlines()]
    assert " ".join(lines[0]) == "Published claims, judged on embedded faces"
    rows = [" ".join(words) for words in lines if " ".join(words).find(LONG) >= 0]
    assert rows == [
        f"C4 {LONG} +0.123 +0.050 to +0.200 none +0.013 + reproduced",
        f"{LONG} - the interval includes 0 -0.010 -0.030 to +0.010 0.95 +0.046 ~ undecided",
        f"C1 {LONG} - Figure 1B lacks the joint network none none none +0.627 ? not testable on this data",
        f"C2 {LONG} - no accuracy varies +0.000 none none +0.286 ? not testable on this data",
        f"C3 {LONG} +0.020 +0.010 to +0.030 none +0.007 + reproduced",
        f"{LONG} - the interval lies at or below 0 -0.050 -0.060 to -0.040 none +0.000 - refuted",
    ]
    claims = [" ".join(words) for words in lines[-4:]]
    assert claims == [f"C4 {OPEN}", f"C1 {NEVER}", f"C2 {NEVER}", f"C3 {NO}"]


def test_the_summary_prints_on_a_plain_terminal_and_interprets_no_markup() -> None:
    table = TABLE.assign(source="[bold]faces[/bold]", statement="a [link] in brackets")
    text = print_summary(table, 200, force_terminal=False)
    assert "[link]" in text and "[bold]faces[/bold]" in text
    assert "\x1b" not in text


def test_a_missing_published_number_is_no_metric_and_printed_as_none() -> None:
    table = VERDICTS.check(pd.DataFrame([make_row("C6", "identity", YES, 0.3, 0.2, 0.4, NAN)]))
    assert group_by_claim(table)["C6"]["parts"]["identity"] == {"number": 0.3, "low": 0.2, "high": 0.4, "verdict": YES}
    assert f"{LONG} +0.300 +0.200 to +0.400 none none + reproduced" in " ".join(print_summary(table, 300).split())


def test_an_unknown_verdict_is_refused() -> None:
    with pytest.raises(
        StudyError, match=r"got 'maybe', allowed: one of \['reproduced', 'refuted', 'undecided', 'not testable"
    ):
        group_by_claim(TABLE.assign(verdict="maybe"))


def test_every_verdict_has_its_mark_and_a_colour_that_colour_blind_readers_tell_apart() -> None:
    assert list(MARKS) == list(VERDICTS.columns["verdict"].allowed) and len({mark for mark, _ in MARKS.values()}) == 4
    okabe_ito = {"#56b4e9", "#d55e00", "#e69f00", "#999999"}  # sky blue, vermilion, orange, grey
    assert {colour for _, colour in MARKS.values()} == okabe_ito
