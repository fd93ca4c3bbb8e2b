from __future__ import annotations

import pytest

from facespec.data.archives import UnusableFile
from facespec.data.text_tables import Row, parse_table

TABLE = "name,class\nA. Ann, 1\n\n , \nZo\u00eb,2\n"


def test_rows_with_their_lines_and_without_surrounding_spaces() -> None:
    rows = [Row(1, ["name", "class"]), Row(2, ["A. Ann", "1"]), Row(5, ["Zo\u00eb", "2"])]
    assert parse_table(TABLE.encode(), delimiter=",") == rows
    assert parse_table(TABLE.encode("utf-8-sig"), delimiter=",") == rows
    assert parse_table(TABLE.replace("\n", "\r\n").replace(",", "\t").encode(), delimiter="\t") == rows
    assert parse_table(b"", delimiter=",") == []


SAVE = r"Save it as CSV in UTF-8$"
CELLS = "Give every row as many cells as the header has$"
LONG = r"field larger than field limit \(131072\). Write one row to a line, with short cells$"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TABLE.encode("latin-1"), rf"no text in UTF-8 \(byte 28 is 0xeb\). {SAVE}"),
        (TABLE.encode("utf-16"), rf"no text in UTF-8 \(byte 0 is 0xff\). {SAVE}"),
        ("name,class\n".encode("utf-16-le"), rf"no text in UTF-8 \(byte 1 is 0x00\). {SAVE}"),
        (b"name,class\nA\0nn,1\n", rf"no text in UTF-8 \(byte 12 is 0x00\). {SAVE}"),
        (b"name,class\nAnn\n", f"line 2: cells: 1, in the header: 2. {CELLS}"),
        (b"name,class\n\nAnn,1,\n", f"line 3: cells: 3, in the header: 2. {CELLS}"),
        (b"name,class\n" + b"x" * 200_000 + b",1\n", f"line 2: {LONG}"),
        (b'name,class\n"' + b"x,1\n" * 100_000, f"line 43692: {LONG}"),
    ],
)
def test_an_unusable_table_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(UnusableFile, match=f"^{reason}"):
        parse_table(content, delimiter=",")
