from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from facespec.study.errors import StudyError
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, LABELS

ROW = {
    "figure": "1B",
    "trained_on": "joint",
    "tested_on": "identity",
    "role": "probe",
    "source": "embedded faces",
    "seed": 1,
    "resample": -1,
    "n": 490,
    "chance": 1 / 70,
    "accuracy": 0.5,
}


def test_round_trip_in_the_schemas_order(tmp_path: Path) -> None:
    table = pd.DataFrame([dict(reversed(ROW.items()))])
    write_table(tmp_path / "a.csv", ACCURACY.check(table))
    back = ACCURACY.read(tmp_path / "a.csv")
    assert list(back.columns) == list(ACCURACY.columns)
    assert back.iloc[0].to_dict() == ROW


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("figure", "1Z", "got '1Z', allowed: one of ['1B', '1C', 'S1A', 'S1B']."),
        ("accuracy", 1.01, "got 1.01, allowed: number, at least 0, at most 1."),
        ("accuracy", float("nan"), "got nan, allowed: number, at least 0, at most 1."),
        ("seed", 1.5, "got 1.5, allowed: integer, at least 0."),
        ("source", "", "got '', allowed: text."),
    ],
)
def test_a_wrong_value_is_named(column: str, value: object, said: str) -> None:
    with pytest.raises(StudyError) as caught:
        ACCURACY.check(pd.DataFrame([ROW, ROW | {column: value}]))
    assert str(caught.value) == f"table 'accuracy', column {column!r}, row 1: {said}"


def test_missing_and_unknown_columns() -> None:
    with pytest.raises(StudyError, match=r"table 'accuracy' lacks column 'seed'; it has \['figure'"):
        ACCURACY.check(pd.DataFrame([ROW]).drop(columns="seed"))
    with pytest.raises(StudyError, match=r"table 'accuracy': unknown column 'sede'; did you mean 'seed'\?"):
        ACCURACY.check(pd.DataFrame([ROW | {"sede": 1}]))


def test_names_that_look_like_numbers_or_nothing_stay_text(tmp_path: Path) -> None:
    row = {"stimulus": "007", "split": "train", "identity": "NA", "expression": "", "view": "", "session": "1.6"}
    write_table(tmp_path / "l.csv", LABELS.check(pd.DataFrame([row])))
    assert LABELS.read(tmp_path / "l.csv").iloc[0].to_dict() == row


def test_unreadable_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"a\.csv: no such file\. `dvc repro` makes it\."):
        ACCURACY.read(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"")
    with pytest.raises(StudyError, match=r"a\.csv\.sha256: no such file\. `dvc repro` makes it\."):
        ACCURACY.read(tmp_path / "a.csv")
    write_table(tmp_path / "a.csv", pd.DataFrame())
    with pytest.raises(StudyError, match=r"a\.csv: not a readable table"):
        ACCURACY.read(tmp_path / "a.csv")
    write_table(tmp_path / "a.csv", pd.DataFrame({"seed": [1]}))
    with pytest.raises(StudyError, match=r"a\.csv: table 'accuracy' lacks column 'figure'"):
        ACCURACY.read(tmp_path / "a.csv")


NOT_RECORDED = r"{0}: not the table that {0}\.sha256 beside it records: altered, cut or damaged\. Remove both"


def test_a_table_cut_at_the_end_of_a_line_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ACCURACY.check(pd.DataFrame([ROW, ROW | {"seed": 2}])))
    whole = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(StudyError, match=NOT_RECORDED.format(r"a\.csv")):
        ACCURACY.read(tmp_path / "a.csv")


def test_exchanged_tables_are_refused_though_their_digests_go_with_them(tmp_path: Path) -> None:
    """As `decoding` and `accuracy` have the same columns, nothing else would tell."""
    names = {"decoding.csv": "accuracy.csv", "accuracy.csv": "decoding.csv"}
    for seed, (name, other) in enumerate(names.items()):
        write_table(tmp_path / name, ACCURACY.check(pd.DataFrame([ROW | {"seed": seed}])))
        for suffix in ("", ".sha256"):
            (tmp_path / "exchanged").mkdir(exist_ok=True)
            (tmp_path / "exchanged" / f"{other}{suffix}").write_bytes((tmp_path / f"{name}{suffix}").read_bytes())
    for name in names:
        assert len(ACCURACY.read(tmp_path / name)) == 1
        with pytest.raises(StudyError, match=NOT_RECORDED.format(name.replace(".", r"\."))):
            ACCURACY.read(tmp_path / "exchanged" / name)


def test_the_digest_of_a_table_is_that_of_sha256sum(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", pd.DataFrame({"a": [1]}))
    # printf 'a\n1\n' | sha256sum
    digest = hashlib.sha256(b"a\n1\n").hexdigest()
    assert (tmp_path / "a.csv.sha256").read_text() == f"{digest}  a.csv\n"


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"0" * 64, b"0" * 64 + b"  a.csv\n"])
def test_a_damaged_digest_is_refused(tmp_path: Path, record: bytes) -> None:
    write_table(tmp_path / "a.csv", ACCURACY.check(pd.DataFrame([ROW])))
    (tmp_path / "a.csv.sha256").write_bytes(record)
    with pytest.raises(StudyError, match=NOT_RECORDED.format(r"a\.csv")):
        ACCURACY.read(tmp_path / "a.csv")
