"""From tables of accuracies to the bars of Figures 1B, 1C, S1A and S1B: heights, error bars, dots, and of what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from facespec.published.export import RESAMPLES
from facespec.published.reference import read_published_chance
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.tables import ACCURACY, ALL_IMAGES, REFERENCE
from facespec.study.vocabulary import TASKS

TITLES = {
    "1B": "Decoding from frozen single-task networks",
    "1C": "Single-task and joint networks, fine-tuned",
    "S1A": "Decoding from frozen single-task networks, training roles",
    "S1B": "Single-task and joint networks, training roles",
}
SOUND, PUBLISHED = "sound", "published"
STYLES = (SOUND, PUBLISHED)
PERCENTILES = (2.5, 97.5)
MEAN_DRAWS = 1000  # [P] bootstrap draws behind the original's error bars


@dataclass(frozen=True)
class Bar:
    """One bar: its height (`mean`), error bar (`low` to `high`) and `dots`, the accuracy of each seed."""

    trained_on: str
    tested_on: str
    source: str
    n: int
    chance: float
    mean: float
    low: float
    high: float
    dots: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """The bars of one figure, and the style (``"sound"`` or ``"published"``) they are meant for."""

    figure: str
    style: str
    bars: tuple[Bar, ...]

    @property
    def tasks(self) -> list[str]:
        """The tasks tested, in the study's order."""
        return [task.value for task in TASKS if any(bar.tested_on == task for bar in self.bars)]

    @property
    def sources(self) -> str:
        """Where the data come from, as the table says: one name, or one per task."""
        names = {t: " and ".join(sorted({b.source for b in self.bars if b.tested_on == t})) for t in self.tasks}
        if len(set(names.values())) == 1:
            return next(iter(names.values()))
        return ", ".join(f"{source} ({task})" for task, source in names.items())


def make_accuracy_panel(
    table: pd.DataFrame, figure: str, *, style: str = SOUND, generator: np.random.Generator | None = None
) -> Panel:
    """The bars of one figure from an ACCURACY table.

    ``sound``: height = mean over seeds of the accuracy on the test images themselves, a dot per seed; error bar = 2.5
    to 97.5 percentile of the resamples, pooled over seeds. Where a table lacks the accuracy on the images themselves,
    as published files do, the height is the mean of the resamples, and there are no dots.

    ``published`` [P]: what the original draws from its result files, which hold the first 100 resamples of the first
    seed: their mean, with a bootstrap interval *of that mean* (drawn from `generator`). It says how well 100 resamples
    fix their own mean, not how well the test images fix the accuracy, and is about ten times too narrow.
    """
    if style not in STYLES:
        raise StudyError(f"style {style!r}: {suggest_spelling(style, STYLES)}")
    table = ACCURACY.check(table)
    _check_figure(table, figure)
    if style == SOUND:
        return Panel(figure, style, tuple(_sound(cell) for cell in _cells(table, figure)))
    if generator is None:
        raise StudyError("style 'published' resamples: it needs a generator.")
    first = table[(table["seed"] == table["seed"].iloc[0]) & table["resample"].between(0, RESAMPLES - 1)]
    if not (first["figure"] == figure).any():
        raise StudyError(f"figure {figure}: style 'published' draws resamples of the first seed; the table has none.")
    return Panel(figure, style, tuple(_published(cell, generator) for cell in _cells(first, figure)))


def make_reference_panel(table: pd.DataFrame, figure: str) -> Panel:
    """The bars of one figure from the REFERENCE table: published means, percentile intervals of their resamples."""
    table = REFERENCE.check(table)
    _check_figure(table, figure)
    rows = table[table["figure"] == figure].to_dict("records")
    return Panel(
        figure,
        SOUND,
        tuple(
            Bar(
                row["trained_on"],
                row["tested_on"],
                row["source"],
                row["n"],
                read_published_chance(figure, row["tested_on"]),
                row["mean"],
                row["low"],
                row["high"],
            )
            for row in rows
        ),
    )


def _check_figure(table: pd.DataFrame, figure: str) -> None:
    if figure not in TITLES:
        raise StudyError(f"no figure {figure!r} of accuracies: {suggest_spelling(figure, TITLES)}")
    if not (table["figure"] == figure).any():
        raise StudyError(f"figure {figure}: the table has no rows of it; it has {sorted(set(table['figure']))}.")


def _cells(table: pd.DataFrame, figure: str) -> Iterator[pd.DataFrame]:
    for _, cell in table[table["figure"] == figure].groupby(["tested_on", "trained_on"]):
        yield cell


def _sound(cell: pd.DataFrame) -> Bar:
    own = cell[cell["resample"] == ALL_IMAGES].sort_values("seed")["accuracy"]
    resampled = cell.loc[cell["resample"] != ALL_IMAGES, "accuracy"]
    mean = (own if len(own) else resampled).mean()
    low, high = np.percentile(resampled, PERCENTILES) if len(resampled) else (mean, mean)
    return _bar(cell, mean, low, high, dots=tuple(map(float, own)))


def _published(cell: pd.DataFrame, generator: np.random.Generator) -> Bar:
    values = cell["accuracy"].to_numpy()
    means = values[generator.integers(len(values), size=(MEAN_DRAWS, len(values)))].mean(axis=1)
    return _bar(cell, values.mean(), *np.percentile(means, PERCENTILES))


def _bar(cell: pd.DataFrame, mean: float, low: float, high: float, *, dots: tuple[float, ...] = ()) -> Bar:
    first = cell.iloc[0]
    for column in ("source", "n", "chance"):
        if cell[column].nunique() > 1:
            raise StudyError(
                f"figure {first['figure']}, {first['trained_on']} network tested on {first['tested_on']}: one bar, but "
                f"column {column!r} holds {cell[column].unique().tolist()}. Draw one study at a time."
            )
    about = str(first["source"]), int(first["n"]), float(first["chance"])
    return Bar(first["trained_on"], first["tested_on"], *about, float(mean), float(low), float(high), dots)
