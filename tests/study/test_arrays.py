"""Arrays and their description in one file: it is read as it was written, and any other file is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.errors import StudyError

REMEDY = "Make it again."
DESCRIPTION = {"version": 1, "name": "probe", "counts": {"images": 4}, "files": ["a", "b"]}
ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "steps": np.array(7),
    "correct": np.array([True, False, True]),
    "transposed": np.arange(6).reshape(2, 3).T,
    "empty": np.empty((0, 4)),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "a"
    write_arrays(path, DESCRIPTION, ARRAYS)
    return path


def test_arrays_and_their_description_are_read_as_they_were_written(path: Path) -> None:
    description, arrays = read_arrays(path, remedy=REMEDY)
    assert description == DESCRIPTION and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_equal_arrays_give_equal_bytes_in_any_order_and_layout(path: Path, tmp_path: Path) -> None:
    arrays = {name: np.asfortranarray(ARRAYS[name]) if ARRAYS[name].ndim else ARRAYS[name] for name in reversed(ARRAYS)}
    write_arrays(tmp_path / "b", dict(reversed(DESCRIPTION.items())), arrays)
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


@given(st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing(path: Path, data: st.DataObject) -> None:
    content, damaged = bytearray(path.read_bytes()), path.with_name("damaged")
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged.write_bytes(content)
    try:
        description, arrays = read_arrays(damaged, remedy=REMEDY)
    except StudyError as error:
        assert str(damaged) in str(error)
    else:  # white space of the header
        assert description == DESCRIPTION
        assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)


@pytest.mark.parametrize("content", [b"", b"not a file of arrays", (2**62).to_bytes(8, "little") + b"{}"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(StudyError, match="a: not a file of arrays"):
        read_arrays(tmp_path / "a", remedy=REMEDY)


@pytest.mark.parametrize(
    "entry",
    [
        *(None, "hello", "[1]", '{"description": 7, "digest": "0"}', '{"description": {}}'),
        *('{"description": {"a": NaN}, "digest": ""}', "[" * 100_000),
    ],
)
def test_a_foreign_description_is_refused(tmp_path: Path, entry: str | None) -> None:
    save_file({"x": np.zeros(2)}, tmp_path / "a", entry if entry is None else {"facespec": entry})
    with pytest.raises(StudyError, match=r"a: not (a file of arrays|the content that was written).*Make it again"):
        read_arrays(tmp_path / "a", remedy=REMEDY)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_a_dtype_that_numpy_or_safetensors_lacks_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    save_torch({"x": torch.zeros(2).to(dtype)}, tmp_path / "a", {"facespec": '{"description": {}}'})
    with pytest.raises(StudyError, match=r"a: not .*Make it again"):
        read_arrays(tmp_path / "a", remedy=REMEDY)


def test_absent_and_unreadable_files_raise_different_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "absent", remedy=REMEDY)
    with pytest.raises(IsADirectoryError):
        read_arrays(tmp_path, remedy=REMEDY)
