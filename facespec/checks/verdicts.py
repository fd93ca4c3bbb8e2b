"""What is the verdict on a claim? From the verdicts on its parts to those on claims, to a summary and DVC's metrics."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from facespec.study.tables import VERDICTS

REPRODUCED, REFUTED, UNDECIDED, NOT_TESTABLE = VERDICTS.columns["verdict"].allowed

# a mark beside every colour, for plain terminals; colours that colour-blind readers tell apart (Okabe & Ito 2008)
MARKS = {
    REPRODUCED: ("+", "#56b4e9"),
    REFUTED: ("-", "#d55e00"),
    UNDECIDED: ("~", "#e69f00"),
    NOT_TESTABLE: ("?", "#999999"),
}
NUMBERS = tuple(name for name, column in VERDICTS.columns.items() if column.kind == "number")
# the verdict on a claim is the first of these that one of its parts has
PRECEDENCE = (REFUTED, UNDECIDED, NOT_TESTABLE, REPRODUCED)


def combine_parts(parts: pd.Series) -> str:
    """The verdict on a claim from those on its parts: the first of `PRECEDENCE` that one of them has."""
    return min(parts, key=PRECEDENCE.index)


def make_metrics(table: pd.DataFrame) -> dict[str, float]:
    """The numbers of a VERDICTS table in one level, ``claim part`` -> number; those that are missing are left out."""
    rows = VERDICTS.check(table).dropna(subset=["number"])
    return {f"{row['claim']} {row['part']}": float(row["number"]) for row in rows.to_dict("records")}


def group_by_claim(table: pd.DataFrame) -> dict[str, Any]:
    """A VERDICTS table as nested dictionaries for JSON: claim -> `verdict`, `parts` -> part -> numbers and `verdict`.

    A number that a part lacks is left out, as JSON has no NaN.
    """
    table = VERDICTS.check(table)
    return {
        str(claim): {
            "verdict": combine_parts(parts["verdict"]),
            "parts": {
                row["part"]: {name: float(row[name]) for name in NUMBERS if pd.notna(row[name])}
                | {"verdict": row["verdict"]}
                for row in parts.to_dict("records")
            },
        }
        for claim, parts in table.groupby("claim", sort=False)
    }


def summarise(table: pd.DataFrame) -> Table:
    """A VERDICTS table for the terminal: one row per part, the verdicts on claims below; readable at 100 columns.

    The column "cov." is the simulated coverage of the interval.
    """
    table = VERDICTS.check(table)
    claims = [f"{claim} {combine_parts(parts['verdict'])}" for claim, parts in table.groupby("claim", sort=False)]
    summary = Table(
        title=Text(f"Published claims, judged on {', '.join(table['source'].drop_duplicates())}"),
        title_justify="left",
        caption=Text("\n".join(claims)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    summary.add_column("", style="bold")  # the claim; without a heading, so that the statement has more room
    summary.add_column("statement", min_width=14)
    summary.add_column("number", justify="right", no_wrap=True)
    summary.add_column("interval", justify="right", no_wrap=True)
    summary.add_column("cov.", justify="right", no_wrap=True)
    summary.add_column("published", justify="right", no_wrap=True)
    summary.add_column("verdict", min_width=12)
    for claim, parts in table.groupby("claim", sort=False):
        for position, row in enumerate(parts.to_dict("records")):
            summary.add_row(Text(str(claim) if position == 0 else ""), *_cells(row))
        summary.add_section()
    return summary


def _cells(row: dict[Any, Any]) -> list[Text]:
    mark, colour = MARKS[row["verdict"]]
    verdict = Text(f"{mark} {row['verdict']}", style=colour)
    statement = Text(row["statement"])
    if isinstance(row["reason"], str) and row["reason"]:  # an empty reason read by other means may be NaN
        statement.append(f" - {row['reason']}", style="dim")
    number, low, high, published = (
        f"{row[name]:+.3f}" if pd.notna(row[name]) else "none" for name in ("number", "low", "high", "published")
    )
    coverage = f"{row['coverage']:.2f}" if pd.notna(row["coverage"]) else "none"
    interval = "none" if low == "none" else f"{low} to {high}"
    return [statement, *map(Text, (number, interval, coverage, published)), verdict]
