"""Tables are read as they were written; wrong values and altered files are refused by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from facespec.study.errors import StudyError
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, LABELS

ROW = {"figure": "1B", "trained_on": "joint", "tested_on": "identity", "role": "probe", "source": "embedded faces"}
ROW |= {"seed": 1, "resample": -1, "n": 490, "chance": 1 / 70, "accuracy": 0.5}


def write_rows(path: Path, *rows: dict[str, object]) -> None:
    write_table(path, ACCURACY.check(pd.DataFrame(rows)))


def test_a_table_is_read_as_it_was_written_in_the_order_of_the_schema(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", dict(reversed(ROW.items())))
    table = ACCURACY.read(tmp_path / "a.csv")
    assert list(table.columns) == list(ACCURACY.columns) and table.iloc[0].to_dict() == ROW


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("figure", "1Z", "got '1Z', allowed: one of ['1B', '1C', 'S1A', 'S1B', '1C zero-shot']."),
        ("accuracy", 1.01, "got 1.01, allowed: number, at least 0, at most 1."),
        ("accuracy", float("nan"), "got nan, allowed: number, at least 0, at most 1."),
        ("accuracy", "high", "got 'high', allowed: number, at least 0, at most 1."),
        ("chance", -0.1, "got -0.1, allowed: number, at least 0, at most 1."),
        ("seed", 1.5, "got 1.5, allowed: integer, at least 0."),
        ("source", "", "got '', allowed: text."),
    ],
)
def test_a_wrong_value_is_named(column: str, value: object, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        ACCURACY.check(pd.DataFrame([ROW, ROW | {column: value}]))
    assert str(caught.value) == f"table 'accuracy', column {column!r}, row 1: {message}"


def test_missing_and_unknown_columns_are_named() -> None:
    with pytest.raises(StudyError, match=r"table 'accuracy' lacks column 'seed'; it has \['figure'"):
        ACCURACY.check(pd.DataFrame([ROW]).drop(columns="seed"))
    with pytest.raises(StudyError, match=r"table 'accuracy': unknown column 'sede'; did you mean 'seed'\?"):
        ACCURACY.check(pd.DataFrame([ROW | {"sede": 1}]))


def test_texts_that_look_like_numbers_or_nan_stay_texts(tmp_path: Path) -> None:
    row = {"stimulus": "007", "split": "train", "identity": "NA", "expression": "", "view": "", "session": "1.6"}
    write_table(tmp_path / "l.csv", LABELS.check(pd.DataFrame([row])))
    assert LABELS.read(tmp_path / "l.csv").iloc[0].to_dict() == row


def test_unreadable_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(StudyError, match=r"a\.csv: no such file\. `dvc repro` makes it\."):
        ACCURACY.read(path)
    path.write_bytes(b"")
    with pytest.raises(StudyError, match=r"a\.csv\.sha256: no such file\. `dvc repro` makes it\."):
        ACCURACY.read(path)
    write_table(path, pd.DataFrame())
    with pytest.raises(StudyError, match=r"a\.csv: not a readable table"):
        ACCURACY.read(path)
    write_table(path, pd.DataFrame({"seed": [1]}))
    with pytest.raises(StudyError, match=r"a\.csv: table 'accuracy' lacks column 'figure'"):
        ACCURACY.read(path)


ALTERED = r"{0}: not the table that {0}\.sha256 beside it records: altered, cut or damaged\. Remove both"


def test_a_table_cut_at_the_end_of_a_line_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", ROW, ROW | {"seed": 2})
    lines = (tmp_path / "a.csv").read_text().splitlines(keepends=True)
    (tmp_path / "a.csv").write_text("".join(lines[:-1]))
    with pytest.raises(StudyError, match=ALTERED.format(r"a\.csv")):
        ACCURACY.read(tmp_path / "a.csv")


def test_a_renamed_table_is_refused_although_its_digest_was_renamed_too(tmp_path: Path) -> None:
    """`decoding` and `accuracy` have the same columns, so that nothing else shows an exchange."""
    write_rows(tmp_path / "decoding.csv", ROW)
    for suffix in ("", ".sha256"):
        (tmp_path / f"decoding.csv{suffix}").rename(tmp_path / f"accuracy.csv{suffix}")
    with pytest.raises(StudyError, match=ALTERED.format(r"accuracy\.csv")):
        ACCURACY.read(tmp_path / "accuracy.csv")


def test_the_digest_of_a_table_is_that_of_sha256sum(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", pd.DataFrame({"a": [1]}))
    digest = hashlib.sha256(b"a\n1\n").hexdigest()  # printf 'a\n1\n' | sha256sum
    assert (tmp_path / "a.csv.sha256").read_text() == f"{digest}  a.csv\n"


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"0" * 64, b"0" * 64 + b"  a.csv\n"])
def test_a_damaged_digest_is_refused(tmp_path: Path, record: bytes) -> None:
    write_rows(tmp_path / "a.csv", ROW)
    (tmp_path / "a.csv.sha256").write_bytes(record)
    with pytest.raises(StudyError, match=ALTERED.format(r"a\.csv")):
        ACCURACY.read(tmp_path / "a.csv")
