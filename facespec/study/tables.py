"""The tables that pass between rooms: which columns, which values. Checked at each door.

All are tidy: one number per row, columns spelled out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from facespec.study.errors import StudyError, did_you_mean
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, ROLES, TASKS, VIEWS

ALL_IMAGES = -1  # the `resample` of the number computed on the test images themselves


@dataclass(frozen=True)
class Column:
    """What a column may hold: `kind` is ``text``, ``integer`` or ``number``; `allowed` or `low`/`high` bound it."""

    kind: str
    allowed: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    optional: bool = False  # empty text or NaN is an answer

    @property
    def allows(self) -> str:
        """What may stand here, for messages."""
        if self.allowed:
            return f"one of {[str(word) for word in self.allowed]}"
        low = f", at least {self.low:g}" if self.low is not None else ""
        high = f", at most {self.high:g}" if self.high is not None else ""
        return f"{self.kind}{low}{high}"


@dataclass(frozen=True)
class Schema:
    """A named table: its columns, in order."""

    name: str
    columns: Mapping[str, Column] = field(default_factory=dict)

    def check(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return `table` with its columns in order; raise `StudyError` naming table, column, row and value."""
        for column in self.columns:
            if column not in table.columns:
                raise StudyError(f"table {self.name!r} lacks column {column!r}; it has {list(table.columns)}.")
        for column in table.columns:
            if column not in self.columns:
                raise StudyError(
                    f"table {self.name!r}: unknown column {column!r}; {did_you_mean(column, self.columns)}"
                )
        for column, rule in self.columns.items():
            self._check_column(table[column], rule)
        return table[list(self.columns)]

    def _check_column(self, values: pd.Series, rule: Column) -> None:
        empty = values.isna() | (values.astype(str) == "")
        wrong = empty & (not rule.optional)
        if rule.allowed:
            wrong |= ~values.isin(rule.allowed) & ~empty
        if rule.kind != "text":
            numbers = pd.to_numeric(values, errors="coerce")
            wrong |= numbers.isna() & ~empty
            if rule.kind == "integer":
                wrong |= (numbers % 1 != 0) & ~empty
            if rule.low is not None:
                wrong |= numbers < rule.low
            if rule.high is not None:
                wrong |= numbers > rule.high
        if wrong.any():
            row = values.index[wrong][0]
            got = values[row].item() if hasattr(values[row], "item") else values[row]
            raise StudyError(
                f"table {self.name!r}, column {values.name!r}, row {row}: got {got!r}, allowed: {rule.allows}."
            )

    def read(self, path: Path) -> pd.DataFrame:
        """Read and check a CSV file of this table."""
        text = {name: str for name, column in self.columns.items() if column.kind == "text"}
        empty = {name: [""] for name in self.columns if name not in text}
        try:
            table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=empty)
        except FileNotFoundError:
            raise StudyError(f"{path}: no such file. `dvc repro` makes it.") from None
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
            raise StudyError(f"{path}: not a readable table ({error}).") from error
        try:
            return self.check(table)
        except StudyError as error:
            raise StudyError(f"{path}: {error}") from None


# One row per image of a FaceSet. `identity`, `expression`, `view`, `session` are empty where unknown.
LABELS = Schema(
    "labels",
    {
        "stimulus": Column("text"),
        "split": Column("text", ("train", "test", "probe")),
        "identity": Column("text", optional=True),
        "expression": Column("text", tuple(EXPRESSIONS), optional=True),
        "view": Column("text", tuple(VIEWS), optional=True),
        "session": Column("text", optional=True),
    },
)

# One accuracy per row: of a decoder (Figures 1B, S1A) or of a network's own head (1C, S1B).
# `resample` -1 is the accuracy on the test images themselves, 0, 1, ... on bootstrap resamples of them;
# resample i draws the same images for every network tested on the same set, so that differences are paired.
ACCURACY = Schema(
    "accuracy",
    {
        "figure": Column("text", ("1B", "1C", "S1A", "S1B")),
        "trained_on": Column("text", tuple(NETWORKS)),
        "tested_on": Column("text", tuple(TASKS)),
        "role": Column("text", tuple(ROLES)),
        "source": Column("text"),
        "seed": Column("integer", low=0),
        "resample": Column("integer", low=ALL_IMAGES),
        "n": Column("integer", low=1),
        "chance": Column("number", low=0, high=1),
        "accuracy": Column("number", low=0, high=1),
    },
)

# The published accuracies, as facts.
REFERENCE = Schema(
    "reference",
    {
        "figure": Column("text", ("1B", "1C", "S1A", "S1B")),
        "trained_on": Column("text", tuple(NETWORKS)),
        "tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "mean": Column("number", low=0, high=1),
        "sd": Column("number", low=0, high=1),
        "low": Column("number", low=0, high=1),
        "high": Column("number", low=0, high=1),
        "resamples": Column("integer", low=1),
        "n": Column("integer", low=1),
        "file": Column("text"),
        "key": Column("text"),
    },
)

# One part of a claim per row; a claim holds if all its parts do.
VERDICTS = Schema(
    "verdicts",
    {
        "claim": Column("text"),
        "part": Column("text"),
        "statement": Column("text"),
        "source": Column("text"),
        "verdict": Column("text", ("reproduced", "not reproduced", "not testable on this data")),
        "number": Column("number", optional=True),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
        "published": Column("number", optional=True),
        "rule": Column("text"),
        "reason": Column("text", optional=True),
    },
)
