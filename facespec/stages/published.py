"""What did the original study publish? Fetch its files, replay their figures, check their numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from facespec.checks import replay as check
from facespec.figures.accuracy import draw_panels
from facespec.figures.bars import PUBLISHED, TITLES, Panel, make_accuracy_panel
from facespec.figures.style import save_figure
from facespec.published import fetch as fetching
from facespec.published.export import read_results, tabulate_results
from facespec.study.errors import StudyError
from facespec.study.seeds import generator

SEED = 0  # of the published style's error bars, which no verdict depends on; a replay needs no params.yaml


def fetch(source: str | None, to: Path, console: Console) -> None:
    """Copy the published files from `source` (git URL or directory; None: the original repository) into `to`, verified.

    Prints the status of every file. Raises `StudyError` if a file's bytes are altered, or none is there.
    """
    source = fetching.URL if source is None else source
    report = fetching.fetch(source, to)
    title = f"{source}, commit {fetching.COMMIT[:7]}"
    table = Table("file", "status", title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in report.to_dict("records"):
        table.add_row(row["file"], row["status"])
    console.print(table)
    fetching.refuse_altered(report)
    present = (report["status"] == fetching.PRESENT).sum()
    if not present:
        raise StudyError(
            f"{source}: none of the {len(report)} published files is there. Name the directory that holds them."
        )
    console.print(f"{to}: the {present} files that are present, verified.")


def replay(directory: Path, to: Path, console: Console) -> None:
    """Draw the figures whose files `directory` holds into `to`, and check their numbers against the reference table.

    Each figure shows the percentile intervals beside the original's error bars. Prints the check, the absent files
    and the paths of the figures. Raises `StudyError` if a file is refused, a number differs, or no file is there.
    """
    table = tabulate_results(read_results(directory))
    absent = check.list_absent(table)
    if table.empty:
        raise StudyError(
            f"{directory}: none of the published accuracy files is there ({', '.join(absent)}). "
            f"`facespec published fetch --to {directory}` gets them."
        )
    comparison = check.replay_results(table)
    console.print(check.summarise(comparison))
    for figure in TITLES:
        if (table["figure"] == figure).any():
            for path in save_figure(draw_panels(make_panels(table, figure)), to / f"figure_{figure}"):
                console.print(f"figure  {path}")
    for file in absent:
        console.print(f"absent  {file}")
    if failures := check.list_failures(comparison):
        raise StudyError(f"{directory}: not the published numbers:\n" + "\n".join(f"  {line}" for line in failures))


def make_panels(table: pd.DataFrame, figure: str) -> dict[str, Panel]:
    """Make the panels of one figure by title: the same numbers with both kinds of error bars."""
    stream = generator(SEED, "published error bars", figure)
    return {
        "published, with percentile intervals": make_accuracy_panel(table, figure),
        "published, as the original drew it": make_accuracy_panel(table, figure, style=PUBLISHED, generator=stream),
    }
