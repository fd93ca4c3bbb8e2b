"""How is a small table of users read: text in UTF-8, one row per line, as many cells in every row as in the header?"""

from __future__ import annotations

import csv
from typing import NamedTuple

from facespec.data.archives import UnusableFile

SAVE = "Save it as CSV in UTF-8"


class Row(NamedTuple):
    """The cells of a row, without spaces around them, and the line of the file that it ends in, from 1."""

    line: int
    cells: list[str]


def parse_table(content: bytes, *, delimiter: str) -> list[Row]:
    """The rows of a table, the header first; empty rows are omitted.

    Raises `UnusableFile`, with a remedy, for what is not text in UTF-8, or a row with more or fewer cells than the
    header.
    """
    reader = csv.reader(_decode_text(content).splitlines(), delimiter=delimiter)
    try:
        rows = [Row(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UnusableFile(f"line {reader.line_num}: {error}. Write one row to a line, with short cells") from error
    rows = [row for row in rows if any(row.cells)]
    for row in rows:
        if len(row.cells) != len(rows[0].cells):
            raise UnusableFile(
                f"line {row.line}: cells: {len(row.cells)}, in the header: {len(rows[0].cells)}. "
                "Give every row as many cells as the header has"
            )
    return rows


def guess_delimiter(content: bytes) -> str:
    """The one of tab, comma and semicolon that the first line of a table has most of."""
    line = content[:4096].decode(errors="replace").partition("\n")[0]
    return max(",\t;", key=line.count)


def _decode_text(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
        position = content.index(0) if "\0" in text else None  # as in UTF-16, a spreadsheet's "Unicode text"
    except UnicodeDecodeError as error:
        position = error.start
    if position is not None:
        raise UnusableFile(f"no text in UTF-8 (byte {position} is 0x{content[position]:02x}). {SAVE}")
    return text
