"""How far is a stage? A progress bar, on terminals only."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """Make a bar with counts, a task's `numbers` (text) and the remaining time, on standard error.

    It prints nothing if standard error is not a terminal.
    """
    console = Console(stderr=True)
    texts = [TextColumn("{task.description}"), TextColumn("{task.fields[numbers]}")]
    columns = texts[0], BarColumn(), MofNCompleteColumn(), texts[1], TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
