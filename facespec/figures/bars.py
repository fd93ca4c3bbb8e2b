"""Which bars does a table of accuracies give? Heights, intervals and seeds of Figures 1B, 1C, S1A and S1B."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from facespec.figures.estimates import PERCENTILES
from facespec.published.export import RESAMPLES
from facespec.published.reference import read_published_chance
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.tables import ACCURACY, ALL_IMAGES, BASELINES, REFERENCE, ZERO_SHOT
from facespec.study.vocabulary import NETWORKS, TASKS

TITLES = {
    "1B": "Decoding from frozen single-task networks",
    "1C": "Single-task and joint networks, fine-tuned",
    "S1A": "Decoding from frozen single-task networks, training roles",
    "S1B": "Single-task and joint networks, training roles",
}
SOUND, PUBLISHED = "sound", "published"
STYLES = (SOUND, PUBLISHED)
# Baselines of 1C are those of 1B: the same held-out images, and decoders fitted to the images of fine-tuning. S1B has
# its own, because S1A tests only some of its images.
BASELINE_FIGURES = {"1C": "1B"}
ZERO_SHOT_FIGURES = {"1C": ZERO_SHOT}
MEAN_DRAWS = 1000  # [P] bootstrap draws behind the original's error bars


@dataclass(frozen=True)
class Bar:
    """One bar: its height (`mean`), its error bar (`low` to `high`) and the accuracy of each seed."""

    trained_on: str
    tested_on: str
    source: str
    n: int
    chance: float
    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """The bars of one figure, and the style in which they are drawn (``"sound"`` or ``"published"``).

    `baselines`: what is decoded, for the same task, from the untrained trunk and from pixels. `zero_shot`: the bars'
    networks before fine-tuning. Tables of older studies have neither.
    """

    figure: str
    style: str
    bars: tuple[Bar, ...]
    baselines: tuple[Bar, ...] = ()
    zero_shot: tuple[Bar, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """The tasks tested, in the study's order."""
        return [task.value for task in TASKS if any(bar.tested_on == task for bar in self.bars)]

    @property
    def sources(self) -> str:
        """The source of the faces, as in the table: one name, or one per task."""
        names = {t: " and ".join(sorted({b.source for b in self.bars if b.tested_on == t})) for t in self.tasks}
        if len(set(names.values())) == 1:
            return next(iter(names.values()))
        return ", ".join(f"{source} ({task})" for task, source in names.items())


def make_accuracy_panel(
    table: pd.DataFrame, figure: str, *, style: str = SOUND, generator: np.random.Generator | None = None
) -> Panel:
    """The bars of one figure from an ACCURACY table.

    The bars are the trained networks'. In ``sound`` style the panel has baselines and zero-shot transfer, too.

    ``sound``: height = mean over seeds of the accuracy on the test images themselves; error bar = 2.5 to 97.5
    percentile of the resamples, pooled over seeds. If a table lacks the accuracy on the images themselves, as published
    files do, the height is the mean of the resamples, and no seeds are drawn.

    ``published`` [P]: what the original draws from its result files, which hold the first 100 resamples of the first
    seed: their mean, with a bootstrap interval *of that mean* (drawn from `generator`). The interval shows how
    precisely 100 resamples fix their own mean, not how precisely the test images fix the accuracy, and is about ten
    times too narrow.

    Raises `StudyError` if the table lacks rows of `figure`, or holds more than one study.
    """
    if style not in STYLES:
        raise StudyError(f"style {style!r}: {suggest_spelling(style, STYLES)}")
    table = ACCURACY.check(table)
    rows = _select_figure(table[table["trained_on"].isin(NETWORKS)], figure)
    if style == PUBLISHED:
        if generator is None:
            raise StudyError("style 'published' resamples: it needs a generator.")
        rows = rows[(rows["seed"] == table["seed"].iloc[0]) & rows["resample"].between(0, RESAMPLES - 1)]
        if rows.empty:
            raise StudyError(
                f"figure {figure}: style 'published' draws resamples of the first seed; the table has none."
            )
    if style == PUBLISHED and generator is not None:
        return Panel(figure, style, tuple(_make_published_bar(cell, generator) for cell in _split_cells(rows)))
    bars = tuple(_make_sound_bar(cell) for cell in _split_cells(rows))
    baselines = table[table["trained_on"].isin(BASELINES) & (table["figure"] == BASELINE_FIGURES.get(figure, figure))]
    zero_shot = table[table["figure"] == ZERO_SHOT_FIGURES.get(figure, "")]
    return Panel(figure, style, bars, *(_make_comparisons(rows, bars) for rows in (baselines, zero_shot)))


def make_reference_panel(table: pd.DataFrame, figure: str) -> Panel:
    """The bars of one figure from the REFERENCE table: published means, percentile intervals of their resamples."""
    rows = _select_figure(REFERENCE.check(table), figure)
    chances = rows["tested_on"].map(lambda task: read_published_chance(figure, task))
    columns = ["trained_on", "tested_on", "source", "n", "chance", "mean", "low", "high"]
    return Panel(
        figure, SOUND, tuple(Bar(*row) for row in rows.assign(chance=chances)[columns].itertuples(index=False))
    )


def _select_figure(table: pd.DataFrame, figure: str) -> pd.DataFrame:
    if figure not in TITLES:
        raise StudyError(f"no figure {figure!r} of accuracies: {suggest_spelling(figure, TITLES)}")
    rows = table[table["figure"] == figure]
    if rows.empty:
        raise StudyError(f"figure {figure}: the table has no rows of it; it has {sorted(set(table['figure']))}.")
    return rows


def _split_cells(rows: pd.DataFrame) -> list[pd.DataFrame]:
    return [cell for _, cell in rows.groupby(["tested_on", "trained_on"])]


def _make_comparisons(rows: pd.DataFrame, bars: tuple[Bar, ...]) -> tuple[Bar, ...]:
    """Bars of `rows` that are about the faces of one of `bars`: the same task, source and number of images."""
    faces = {(bar.tested_on, bar.source, bar.n) for bar in bars}
    made = (_make_sound_bar(cell) for cell in _split_cells(rows))
    return tuple(bar for bar in made if (bar.tested_on, bar.source, bar.n) in faces)


def _make_sound_bar(cell: pd.DataFrame) -> Bar:
    per_seed = cell[cell["resample"] == ALL_IMAGES].sort_values("seed")["accuracy"]
    resampled = cell.loc[cell["resample"] != ALL_IMAGES, "accuracy"]
    mean = (per_seed if len(per_seed) else resampled).mean()
    low, high = np.percentile(resampled, PERCENTILES) if len(resampled) else (mean, mean)
    return _make_bar(cell, mean, low, high, per_seed=tuple(map(float, per_seed)))


def _make_published_bar(cell: pd.DataFrame, generator: np.random.Generator) -> Bar:
    values = cell["accuracy"].to_numpy()
    means = values[generator.integers(len(values), size=(MEAN_DRAWS, len(values)))].mean(axis=1)
    return _make_bar(cell, values.mean(), *np.percentile(means, PERCENTILES))


def _make_bar(cell: pd.DataFrame, mean: float, low: float, high: float, *, per_seed: tuple[float, ...] = ()) -> Bar:
    first = cell.iloc[0]
    for column in ("source", "n", "chance"):
        if cell[column].nunique() > 1:
            raise StudyError(
                f"figure {first['figure']}, {first['trained_on']} network tested on {first['tested_on']}: one bar, but "
                f"column {column!r} holds {cell[column].unique().tolist()}. Draw one study at a time."
            )
    description = str(first["source"]), int(first["n"]), float(first["chance"])
    return Bar(first["trained_on"], first["tested_on"], *description, float(mean), float(low), float(high), per_seed)
