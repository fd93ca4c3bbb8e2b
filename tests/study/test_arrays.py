"""Arrays and their description in one file: what is written is read, and nothing else is."""

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
CONTENT = {"version": 1, "name": "probe", "counts": {"images": 4}, "files": ["a", "b"]}
ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "steps": np.array(7),
    "right": np.array([True, False, True]),
    "turned": np.arange(6).reshape(2, 3).T,
    "none": np.empty((0, 4)),
}


def test_arrays_and_their_description_are_read_as_they_were_written(tmp_path):
    write_arrays(tmp_path / "a", CONTENT, ARRAYS)
    description, arrays = read_arrays(tmp_path / "a", remedy=REMEDY)

    assert description == CONTENT
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(arrays[name], array)


def test_equal_arrays_give_equal_bytes_in_any_order_and_layout(tmp_path):
    write_arrays(tmp_path / "a", CONTENT, ARRAYS)
    again = {name: np.asfortranarray(ARRAYS[name]) if ARRAYS[name].ndim else ARRAYS[name] for name in reversed(ARRAYS)}
    write_arrays(tmp_path / "b", dict(reversed(CONTENT.items())), again)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(st.data())
def test_no_flipped_bit_is_read_as_something_else(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "a"
    write_arrays(path, CONTENT, ARRAYS)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    try:
        description, arrays = read_arrays(path, remedy=REMEDY)
    except StudyError as error:
        assert str(path) in str(error)
    else:  # white space of the header
        assert description == CONTENT
        assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)


@pytest.mark.parametrize("content", [b"", b"not a file of arrays", (2**62).to_bytes(8, "little") + b"{}"])
def test_what_is_no_file_of_arrays_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)

    with pytest.raises(StudyError, match=r"a: not a file of arrays"):
        read_arrays(tmp_path / "a", remedy=REMEDY)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "hello",
        "[1]",
        "7",
        '{"digest": "0"}',
        '{"description": 7, "digest": "0"}',
        '{"description": {}}',
        '{"description": {"a": NaN}}',
        '{"description": {"a": NaN}, "digest": ""}',
        "[" * 100_000,
    ],
)
def test_a_foreign_description_is_refused(tmp_path, entry):
    save_file({"x": np.zeros(2)}, tmp_path / "a", entry if entry is None else {"facespec": entry})

    with pytest.raises(StudyError, match=r"a: not (a file of arrays|the content that was written).*Make it again"):
        read_arrays(tmp_path / "a", remedy=REMEDY)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_a_type_that_numpy_or_safetensors_lacks_is_refused(tmp_path, kind):
    save_torch({"x": torch.zeros(2).to(kind)}, tmp_path / "a", {"facespec": '{"description": {}}'})

    with pytest.raises(StudyError, match=r"a: not .*Make it again"):
        read_arrays(tmp_path / "a", remedy=REMEDY)


def test_a_file_that_is_not_there_is_told_from_one_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "absent", remedy=REMEDY)
    with pytest.raises(IsADirectoryError):
        read_arrays(tmp_path, remedy=REMEDY)
