from __future__ import annotations

import pytest

from facespec.data.archives import UnusableArchive
from facespec.data.text_tables import Row, parse_table

TABLE = "name,class\nA. Ann, 1\n\n , \nZo\u00eb,2\n"


def test_rows_with_their_lines_and_without_spaces_around() -> None:
    rows = [Row(1, ["name", "class"]), Row(2, ["A. Ann", "1"]), Row(5, ["Zo\u00eb", "2"])]
    assert parse_table(TABLE.encode(), delimiter=",") == rows
    assert parse_table(TABLE.encode("utf-8-sig"), delimiter=",") == rows
    assert parse_table(TABLE.replace("\n", "\r\n").replace(",", "\t").encode(), delimiter="\t") == rows
    assert parse_table(b"", delimiter=",") == []


SAVE = "Save it as CSV in UTF-8"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TABLE.encode("latin-1"), f"no text in UTF-8 (byte 28 is 0xeb). {SAVE}"),
        (TABLE.encode("utf-16"), f"no text in UTF-8 (byte 0 is 0xff). {SAVE}"),
        (b"name,class\n".decode().encode("utf-16-le"), f"no text in UTF-8 (byte 1 is 0x00). {SAVE}"),
        (b"name,class\nA\0nn,1\n", f"no text in UTF-8 (byte 12 is 0x00). {SAVE}"),
        (b"name,class\nAnn\n", "line 2: cells: 1, in the header: 2. Give every row as many cells as the header has"),
        (
            b"name,class\n\nAnn,1,\n",
            "line 3: cells: 3, in the header: 2. Give every row as many cells as the header has",
        ),
        (
            b"name,class\n" + b"x" * 200_000 + b",1\n",
            "line 2: field larger than field limit (131072). Write one row to a line, with short cells",
        ),
        (
            b'name,class\n"' + b"x,1\n" * 100_000,
            "line 43692: field larger than field limit (131072). Write one row to a line, with short cells",
        ),
    ],
)
def test_what_no_table_may_be(content: bytes, reason: str) -> None:
    with pytest.raises(UnusableArchive) as caught:
        parse_table(content, delimiter=",")
    assert str(caught.value) == reason
