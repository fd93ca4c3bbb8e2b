"""From the parts of a claim to the claim: what is printed, and what DVC keeps as a metric."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from facespec.study.tables import VERDICTS

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = VERDICTS.columns["verdict"].allowed

# a mark beside every colour: neither colour-blind readers nor plain terminals may miss the difference
LOOK = {REPRODUCED: ("+", "green"), NOT_REPRODUCED: ("-", "red"), NOT_TESTABLE: ("?", "yellow")}
NUMBERS = ("number", "low", "high", "published")


def combine_parts(parts: pd.Series) -> str:
    """The verdict on a claim from those on its parts: all must be reproduced; one that fails decides."""
    if (parts == REPRODUCED).all():
        return REPRODUCED
    return NOT_REPRODUCED if (parts == NOT_REPRODUCED).any() else NOT_TESTABLE


def make_metrics(table: pd.DataFrame) -> dict[str, Any]:
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
    """A VERDICTS table for the terminal: one row per part, the claims' own verdicts below; readable at 100 columns."""
    table = VERDICTS.check(table)
    claims = [f"{claim} {combine_parts(parts['verdict'])}" for claim, parts in table.groupby("claim", sort=False)]
    shown = Table(
        title=Text(f"Published claims, judged on {', '.join(table['source'].drop_duplicates())}"),
        title_justify="left",
        caption=Text("\n".join(claims)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown.add_column("", style="bold")  # the claim; a heading would cost the statement its room
    shown.add_column("statement", min_width=18)
    shown.add_column("number", justify="right", no_wrap=True)
    shown.add_column("interval", justify="right", no_wrap=True)
    shown.add_column("published", justify="right", no_wrap=True)
    shown.add_column("verdict", min_width=14)
    for claim, parts in table.groupby("claim", sort=False):
        for position, row in enumerate(parts.to_dict("records")):
            shown.add_row(Text(str(claim) if position == 0 else ""), *_cells(row))
        shown.add_section()
    return shown


def _cells(row: dict[Any, Any]) -> list[Text]:
    mark, colour = LOOK[row["verdict"]]
    verdict = Text(f"{mark} {row['verdict']}", style=colour)
    statement = Text(row["statement"])
    if isinstance(row["reason"], str) and row["reason"]:  # an empty reason read from elsewhere may be NaN
        statement.append(f" - {row['reason']}", style="dim")
    interval = f"{_shown(row['low'])} to {_shown(row['high'])}" if pd.notna(row["low"]) else "none"
    return [statement, Text(_shown(row["number"])), Text(interval), Text(_shown(row["published"])), verdict]


def _shown(number: float) -> str:
    return f"{number:+.3f}" if pd.notna(number) else "none"
