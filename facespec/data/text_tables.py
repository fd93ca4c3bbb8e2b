"""A small table as people bring it: text in UTF-8, one row to a line, as many cells in every row as in the header."""

from __future__ import annotations

import csv
from typing import NamedTuple

from facespec.data.archives import UnusableArchive

SAVE = "Save it as CSV in UTF-8"


class Row(NamedTuple):
    """The cells of a row, without spaces around them, and the line of the file that it ends in, from 1."""

    line: int
    cells: list[str]


def parse_table(content: bytes, *, delimiter: str) -> list[Row]:
    """The rows of a table, the header being the first; rows without a word are left out.

    `Unusable`, with how to mend it, for what is no text in UTF-8, or a row with more or fewer cells than the header.
    """
    reader = csv.reader(decode_text(content).splitlines(), delimiter=delimiter)
    try:
        rows = [Row(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UnusableArchive(f"line {reader.line_num}: {error}. Write one row to a line, with short cells") from error
    rows = [row for row in rows if any(row.cells)]
    for row in rows:
        if len(row.cells) != len(rows[0].cells):
            raise UnusableArchive(
                f"line {row.line}: cells: {len(row.cells)}, in the header: {len(rows[0].cells)}. "
                "Give every row as many cells as the header has"
            )
    return rows


def decode_text(content: bytes) -> str:
    """`content` as text; `Unusable` if it is none in UTF-8, as what a spreadsheet saves as "Unicode text"."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableArchive(
            f"no text in UTF-8 (byte {error.start} is 0x{content[error.start]:02x}). {SAVE}"
        ) from None
    if "\0" in text:
        raise UnusableArchive(f"no text in UTF-8 (byte {content.index(0)} is 0x00). {SAVE}")
    return text
