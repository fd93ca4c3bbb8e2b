from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from facespec.checks.verdicts import combine_parts, make_metrics, summarise
from facespec.study.errors import StudyError
from facespec.study.tables import VERDICTS

YES, NO, OPEN = "reproduced", "not reproduced", "not testable on this data"
LONG = (
    "the joint network is better at identity than the identity network (Figure S1B; published: 0.8855 against 0.8391)"
)


def part(claim: str, name: str, verdict: str, *numbers: float, reason: str = "") -> dict[str, object]:
    number, low, high, published = numbers
    return {
        "claim": claim,
        "part": name,
        "statement": LONG,
        "source": "embedded faces",
        "verdict": verdict,
        "number": number,
        "low": low,
        "high": high,
        "published": published,
        "rule": "-",
        "reason": reason,
    }


NAN = np.nan
TABLE = VERDICTS.check(
    pd.DataFrame(
        [
            part("C4", "expression", YES, 0.1234, 0.05, 0.2, 0.01344),
            part("C4", "identity", NO, -0.0101, -0.03, 0.0104, 0.046357, reason="undecided: the interval includes 0"),
            part("C1", "identity", OPEN, NAN, NAN, NAN, 0.626817, reason="Figure 1B lacks the joint network"),
            part("C2", "information", OPEN, 0.0, NAN, NAN, 0.285786, reason="no accuracy varies"),
            part("C3", "identity", YES, 0.02, 0.01, 0.03, 0.006612),
        ]
    )
)


@pytest.mark.parametrize("parts", [p for n in (1, 2, 3) for p in itertools.product((YES, NO, OPEN), repeat=n)])
def test_the_weakest_part_decides(parts: tuple[str, ...]) -> None:
    strength = {YES: 2, OPEN: 1, NO: 0}
    assert combine_parts(pd.Series(parts)) == min(parts, key=strength.__getitem__)


def test_metric_leaves_absent_numbers_out() -> None:
    expected = {
        "C4": {
            "verdict": NO,
            "parts": {
                "expression": {"number": 0.1234, "low": 0.05, "high": 0.2, "published": 0.01344, "verdict": YES},
                "identity": {"number": -0.0101, "low": -0.03, "high": 0.0104, "published": 0.046357, "verdict": NO},
            },
        },
        "C1": {"verdict": OPEN, "parts": {"identity": {"published": 0.626817, "verdict": OPEN}}},
        "C2": {"verdict": OPEN, "parts": {"information": {"number": 0.0, "published": 0.285786, "verdict": OPEN}}},
        "C3": {
            "verdict": YES,
            "parts": {"identity": {"number": 0.02, "low": 0.01, "high": 0.03, "published": 0.006612, "verdict": YES}},
        },
    }
    metric = make_metrics(TABLE)
    assert metric == expected and list(metric) == list(expected)
    assert json.loads(json.dumps(metric, allow_nan=False)) == expected  # plain floats, no NaN


def shown(table: pd.DataFrame, width: int, **how: bool) -> str:
    console = Console(width=width, highlight=False, **how)  # type: ignore[arg-type]
    with console.capture() as captured:
        console.print(summarise(table))
    return captured.get()


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("soft_wrap", [False, True])
def test_summary_fits_and_cuts_nothing_off(width: int, soft_wrap: bool) -> None:
    text = shown(TABLE, width, soft_wrap=soft_wrap)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for word in {
        "better",
        "0.8391)",
        "identity",
        "undecided:",
        "reproduced",
        "testable",
        "+0.123",
        "-0.010",
        "none",
    }:
        assert word in text
    assert text.count("0.8391)") == len(TABLE)


def test_summary_rows() -> None:
    """At a width where nothing wraps, every row can be read off."""
    lines = [line.split() for line in shown(TABLE, 300).splitlines()]
    assert " ".join(lines[0]) == "Published claims, judged on embedded faces"
    rows = [" ".join(words) for words in lines if " ".join(words).find(LONG) >= 0]
    assert rows == [
        f"C4 {LONG} +0.123 +0.050 to +0.200 +0.013 + reproduced",
        f"{LONG} - undecided: the interval includes 0 -0.010 -0.030 to +0.010 +0.046 - not reproduced",
        f"C1 {LONG} - Figure 1B lacks the joint network none none +0.627 ? not testable on this data",
        f"C2 {LONG} - no accuracy varies +0.000 none +0.286 ? not testable on this data",
        f"C3 {LONG} +0.020 +0.010 to +0.030 +0.007 + reproduced",
    ]
    claims = [" ".join(words) for words in lines[-4:]]
    assert claims == [f"C4 {NO}", f"C1 {OPEN}", f"C2 {OPEN}", f"C3 {YES}"]


def test_summary_prints_on_a_plain_terminal_and_takes_no_markup_from_the_table() -> None:
    table = TABLE.assign(source="[bold]faces[/bold]", statement="a [link] in brackets")
    text = shown(table, 200, force_terminal=False)
    assert "[link]" in text and "[bold]faces[/bold]" in text
    assert "\x1b" not in text


def test_a_claim_without_a_published_number() -> None:
    table = VERDICTS.check(pd.DataFrame([part("C6", "identity", YES, 0.3, 0.2, 0.4, NAN)]))
    assert make_metrics(table)["C6"]["parts"]["identity"] == {"number": 0.3, "low": 0.2, "high": 0.4, "verdict": YES}
    assert f"{LONG} +0.300 +0.200 to +0.400 none + reproduced" in " ".join(shown(table, 300).split())


def test_an_unknown_verdict_is_refused() -> None:
    with pytest.raises(StudyError) as caught:
        make_metrics(TABLE.assign(verdict="maybe"))
    assert str(caught.value) == (
        "table 'verdicts', column 'verdict', row 0: got 'maybe', allowed: one of ['reproduced', 'not reproduced', "
        "'not testable on this data']."
    )
