"""Does this project's code compute the published numbers from the published files?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from facespec.published.reference import read_published_bars
from facespec.study.schema import Column, Schema
from facespec.study.tables import ACCURACY, ACCURACY_FIGURES

TOLERANCE = 1e-6  # absolute; the reference is rounded to 6 decimals, so half of this is rounding

# One number per row: a statistic of the resamples of one bar, beside that of the reference table.
REPLAY = Schema(
    "replay",
    {
        "file": Column("text"),
        "figure": Column("text", ACCURACY_FIGURES),
        "bar": Column("text"),
        "statistic": Column("text", ("mean", "sd", "low", "high")),
        "number": Column("number", optional=True),
        "expected": Column("number", low=0, high=1),
        "error": Column("number", optional=True, low=0),
        "ok": Column("text", ("yes", "no")),
    },
)


def replay_results(table: pd.DataFrame) -> pd.DataFrame:
    """The REPLAY table of an ACCURACY table made from published files: four rows per bar of each file that has rows.

    `error` is absolute; `ok` is "yes" up to `TOLERANCE`. The statistics are those of `published.reference`: mean, sd
    (divisor n - 1) and the 2.5 and 97.5 percentiles of the resamples. Files of which `table` has no row are left out
    (see `list_absent`).
    """
    return REPLAY.check(pd.DataFrame(list(_rows(ACCURACY.check(table))), columns=list(REPLAY.columns)))


def _rows(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for bar in read_published_bars():
        if not (table["figure"] == bar.figure).any():
            continue
        is_bar = (table["trained_on"] == bar.trained_on) & (table["tested_on"] == bar.tested_on)
        values = table.loc[is_bar & (table["figure"] == bar.figure) & (table["resample"] >= 0), "accuracy"]
        low, high = values.quantile([0.025, 0.975])
        for statistic, number in {"mean": values.mean(), "sd": values.std(), "low": low, "high": high}.items():
            expected = getattr(bar, statistic)
            error = abs(number - expected)
            yield {
                "file": bar.file,
                "figure": bar.figure,
                "bar": f"{bar.trained_on} network, {bar.tested_on}",
                "statistic": statistic,
                "number": number,
                "expected": expected,
                "error": error,
                "ok": "yes" if error <= TOLERANCE else "no",  # NaN, for a bar without resamples, is not ok
            }


def list_absent(table: pd.DataFrame) -> list[str]:
    """The published accuracy files of which an ACCURACY table has no row."""
    bars = read_published_bars()
    return list(dict.fromkeys(bar.file for bar in bars if not (table["figure"] == bar.figure).any()))


def list_failures(table: pd.DataFrame) -> list[str]:
    """One sentence per number of a REPLAY table that differs from the published one."""
    return [
        f"figure {row['figure']}, {row['bar']}: {row['statistic']} is {row['number']:.6f}, "
        f"published {row['expected']:.6f}"
        for row in table[table["ok"] == "no"].to_dict("records")
    ]


def summarise(table: pd.DataFrame) -> Table:
    """A REPLAY table for the terminal: one row per bar; the error is the largest over mean, sd, low and high."""
    table = REPLAY.check(table)
    summary = Table(
        title=f"Published accuracies, replayed (tolerance {TOLERANCE:.0e})",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    summary.add_column("fig.", no_wrap=True)
    summary.add_column("bar", no_wrap=True)
    for name in ("replayed", "published", "error"):
        summary.add_column(name, justify="right", no_wrap=True)
    summary.add_column("verdict", no_wrap=True)
    for (figure, bar), rows in table.groupby(["figure", "bar"], sort=False):
        mean = rows[rows["statistic"] == "mean"].iloc[0]
        is_same = (rows["ok"] == "yes").all()
        verdict = Text("+ same", style="green") if is_same else Text("- other", style="red")
        summary.add_row(
            str(figure),
            str(bar),
            f"{mean['number']:.6f}",
            f"{mean['expected']:.6f}",
            f"{rows['error'].max():.1e}",
            verdict,
        )
    return summary
