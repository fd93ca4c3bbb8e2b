from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.study import storage
from facespec.study.errors import StudyError


def message(caught: pytest.ExceptionInfo, folder: Path) -> str:
    return str(caught.value).replace(str(folder), "DIR")


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    storage.write_bytes(path, b"earlier")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StudyError) as caught:
        storage.write_bytes(path, b"later")
    assert message(caught, tmp_path) == (
        "DIR/table.csv: the disk is full, so it was not written. Earlier files are untouched; "
        "free some space and run the same command again."
    )
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StudyError, match="the disk is full"), storage.replacing(tmp_path / "x.npy") as partial:
        partial.unlink()
        partial.symlink_to("/dev/full")
        with partial.open("wb") as file:
            file.write(b"1" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_any_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), storage.replacing(tmp_path / "a" / "b.bin") as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert list((tmp_path / "a").iterdir()) == []


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "x.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    (tmp_path / "y").touch()
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_truncated_json(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(StudyError) as caught:
        storage.read_json(tmp_path / "x.json")
    assert message(caught, tmp_path) == (
        "DIR/x.json: not a valid JSON file (Expecting value: line 1 column 7 (char 6)). "
        "It may be truncated: make it again."
    )


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_tables_keep_every_bit(values: list[float]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        storage.write_table(path, pd.DataFrame({"x": values}))
        assert b"\r" not in path.read_bytes()
        assert pd.read_csv(path)["x"].tolist() == values


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(plain)
def test_plain_pickles_come_back(value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pickle"
        storage.write_pickle(path, value)
        assert storage.read_pickle(path) == value


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_pickles_of_every_protocol_come_back(tmp_path: Path, protocol: int) -> None:
    value = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": [np.float64(0.5), np.float32(2), np.int64(3)],
        "c": np.array([True]),
    }
    (tmp_path / "x").write_bytes(pickle.dumps(value, protocol=protocol))
    back = storage.read_pickle(tmp_path / "x")
    assert back["b"] == value["b"] and back["a"].dtype == np.float64
    np.testing.assert_array_equal(back["a"], value["a"])
    np.testing.assert_array_equal(back["c"], value["c"])


def test_equal_values_give_equal_pickles(tmp_path: Path) -> None:
    shared, value = [0.25, 0.5], 0.5
    storage.write_pickle(tmp_path / "a", {"x": shared, "y": shared, "z": [value, value]})
    storage.write_pickle(tmp_path / "b", {"x": [0.25, 0.5], "y": [0.25, 0.5], "z": [0.5, float("0.5")]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_a_command_is_refused_by_name(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "ran"
    (tmp_path / "x.pickle").write_bytes(pickle.dumps({"a": [Malicious(proof)]}, protocol=protocol))
    with pytest.raises(StudyError) as caught:
        storage.read_pickle(tmp_path / "x.pickle")
    assert message(caught, tmp_path) == (
        f"DIR/x.pickle: refused {os.system.__module__}.system: "
        "only built-in containers, numbers and numpy arrays are read."
    )
    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n.", b"\x80\x04\x8c\x0cnumpy.dtypes\x8c\x0dsys.exitDType\x93.",
     b"cbuiltins\ngetattr\n.", b"cnumpy.dtypes\n__builtins__\n."],
)  # fmt: skip
def test_only_the_listed_names_pass(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(StudyError, match="refused"):
        storage.read_pickle(tmp_path / "x")


def test_truncated_and_absent_pickles(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps(list(range(100)))[:50])
    with pytest.raises(StudyError) as caught:
        storage.read_pickle(tmp_path / "x")
    assert message(caught, tmp_path).startswith("DIR/x: not a readable pickle (")
    assert message(caught, tmp_path).endswith("It may be truncated: fetch or make it again.")
    with pytest.raises(StudyError, match="no such file"):
        storage.read_pickle(tmp_path / "y")


def _hold(path: Path, ready: Any) -> None:
    with storage.only_one(path):
        ready.set()
        while True:
            os.sched_yield()


def test_two_at_once(tmp_path: Path) -> None:
    """The second is refused while the first lives, and let in when the first is killed."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    first = context.Process(target=_hold, args=(tmp_path / "data", ready), daemon=True)
    first.start()
    assert ready.wait(60)
    with pytest.raises(StudyError) as caught, storage.only_one(tmp_path / "data"):
        pass
    first.kill()
    first.join()
    assert message(caught, tmp_path) == (
        "DIR/data: another facespec run is making this. Wait for it to end, or use another study directory."
    )
    with storage.only_one(tmp_path / "data"):
        pass
