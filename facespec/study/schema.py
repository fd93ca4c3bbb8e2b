"""What may a table hold? Named columns in order, each with allowed values; checked whenever a table is passed on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.storage import digest_path


@dataclass(frozen=True)
class Column:
    """The values of a column: `kind` is ``text``, ``integer`` or ``number``; `allowed` texts, or `low` and `high`."""

    kind: str
    allowed: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    optional: bool = False  # may be an empty text or NaN

    def describe(self) -> str:
        """Describe the allowed values, for messages."""
        if self.allowed:
            return f"one of {[str(word) for word in self.allowed]}"
        low = f", at least {self.low:g}" if self.low is not None else ""
        high = f", at most {self.high:g}" if self.high is not None else ""
        return f"{self.kind}{low}{high}"


@dataclass(frozen=True)
class Schema:
    """The columns of a named table, in order."""

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
                    f"table {self.name!r}: unknown column {column!r}; {suggest_spelling(column, self.columns)}"
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
            value = values[row].item() if hasattr(values[row], "item") else values[row]
            raise StudyError(
                f"table {self.name!r}, column {values.name!r}, row {row}: got {value!r}, allowed: {rule.describe()}."
            )

    def read(self, path: Path) -> pd.DataFrame:
        """Read and check a table that `study.storage.write_table` wrote.

        Raises `StudyError`, naming the file, if it is absent, cut or altered, or if `check` refuses the table.
        """
        try:
            content, record = path.read_bytes(), digest_path(path).read_bytes().decode(errors="replace")
        except FileNotFoundError as error:
            raise StudyError(f"{error.filename}: no such file. `dvc repro` makes it.") from None
        if record.split() != [hashlib.sha256(content).hexdigest(), path.name]:
            raise StudyError(
                f"{path}: not the table that {digest_path(path).name} beside it records: altered, cut or damaged. "
                "Remove both: `facespec repro` makes them again."
            )
        return self.parse(content, path)

    def parse(self, content: bytes, path: Path) -> pd.DataFrame:
        """Parse and check the bytes `content` of a CSV file, which messages call `path`."""
        text = {name: str for name, column in self.columns.items() if column.kind == "text"}
        empty = {name: [""] for name in self.columns if name not in text}
        try:
            table = pd.read_csv(io.BytesIO(content), dtype=text, keep_default_na=False, na_values=empty)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
            raise StudyError(f"{path}: not a readable table ({error}).") from error
        try:
            return self.check(table)
        except StudyError as error:
            raise StudyError(f"{path}: {error}") from None
