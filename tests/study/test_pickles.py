"""Plain pickles are read as `pickle` reads them, and all others are refused by name."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from facespec.study import pickles
from facespec.study.errors import StudyError
from facespec.study.pickles import read_pickle, write_pickle

PROTOCOLS = range(6)
CODES = ["?", "i1", "i2", "<i4", ">i8", "u1", ">u2", "u4", "u8", "f2", ">f4", "f8", ">c8", "c16"]
Read = Callable[[bytes], Any]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    path = tmp_path_factory.mktemp("pickles") / "x.pickle"

    def read_content(content: bytes) -> Any:
        path.write_bytes(content)
        return read_pickle(path)

    return read_content


def refusal(read: Read, content: bytes) -> str:
    """The message about a file of this content, after its name."""
    with pytest.raises(StudyError) as caught:
        read(content)
    return str(caught.value).split("x.pickle: ")[1]


def assert_same(value: Any, expected: Any) -> None:
    """Equal values of exactly equal types, and arrays of equal dtype, shape and layout."""
    assert type(value) is type(expected)
    if isinstance(expected, dict):
        assert_same([*value.items()], [*expected.items()])
    elif isinstance(expected, list | tuple):
        assert len(value) == len(expected)
        for part, expected_part in zip(value, expected, strict=True):
            assert_same(part, expected_part)
    elif isinstance(expected, np.ndarray):
        assert (value.dtype.str, value.shape) == (expected.dtype.str, expected.shape)
        assert value.tobytes() == expected.tobytes() and value.flags.writeable and value.flags.aligned
        assert value.size == 0 or value.strides == expected.strides
    elif isinstance(expected, np.generic):
        assert value.tobytes() == expected.tobytes()
    else:
        assert repr(value) == repr(expected)


def draw_layout(array: np.ndarray) -> st.SearchStrategy[np.ndarray]:
    """The array in C and Fortran order, transposed, and with gaps."""
    return st.sampled_from([array, np.asfortranarray(array), array.T, array[..., ::2] if array.ndim else array])


numbers = st.none() | st.booleans() | st.integers() | st.integers(-(2**2039), 2**2039) | st.floats()
scalars = st.sampled_from(CODES).flatmap(lambda code: arrays.from_dtype(np.dtype(code)))
texts = st.text(max_size=5) | st.binary(max_size=5)
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
numeric = st.sampled_from(CODES).flatmap(lambda code: arrays.arrays(code, shapes)).flatmap(draw_layout)
values = st.recursive(
    numbers | st.complex_numbers() | scalars | texts | numeric,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts | st.integers() | st.booleans() | st.none(), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(values, st.sampled_from([None, *PROTOCOLS]))
def test_plain_values_are_read_as_pickle_reads_them(
    read: Read, tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int | None
) -> None:
    """Written by `write_pickle` or by `pickle`."""
    if protocol is None:
        path = tmp_path_factory.getbasetemp() / "written.pickle"
        write_pickle(path, value)
    content = path.read_bytes() if protocol is None else pickle.dumps(value, protocol=protocol)
    assert_same(read(content), pickle.loads(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", CODES)
def test_arrays_of_every_dtype_and_layout_are_read(read: Read, protocol: int, code: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(code)
    moved = np.moveaxis(array, 2, 0)  # neither C nor Fortran order, which protocol 5 keeps
    value = [array, np.asfortranarray(array), moved, array[::-1, ::2], array[0, 0, :0], array[1, 1, 1]]
    content = pickle.dumps([*value, np.array(array[1, 1, 1])], protocol=protocol)
    assert_same(read(content), pickle.loads(content))


def test_names_of_older_numpy_are_read(read: Read) -> None:
    content = pickle.dumps([np.arange(3), np.float64(0.5)], protocol=2)
    assert b"numpy._core.multiarray" in content
    assert_same(read(content.replace(b"numpy._core.", b"numpy.core.")), [np.arange(3), np.float64(0.5)])


def test_the_published_files_are_read_as_pickle_reads_them(published: Path) -> None:
    files = sorted(published.glob("*.pickle"))
    assert len(files) >= 4
    for file in files:
        assert_same(read_pickle(file), pickle.loads(file.read_bytes()))


def test_shared_objects_stay_shared(read: Read) -> None:
    shared = [1.5]
    value = read(pickle.dumps({"a": shared, "b": shared, "c": (shared, shared)}))
    assert value["a"] is value["b"] is value["c"][0] is value["c"][1]


def test_equal_values_give_equal_pickles(tmp_path: Path) -> None:
    shared, number = [0.25, 0.5], 0.5
    write_pickle(tmp_path / "a", {"x": shared, "y": shared, "z": [number, number]})
    write_pickle(tmp_path / "b", {"x": [0.25, 0.5], "y": [0.25, 0.5], "z": [0.5, float("0.5")]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Malicious:
    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_runs_a_command_is_refused(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(read, pickle.dumps({"a": [Malicious()]}, protocol=protocol)) == (
        f"refused {os.system.__module__}.system: only built-in containers, numbers and numpy arrays are read."
    )
    assert not list(tmp_path.iterdir())


OTHER_NAMES = "builtins.eval builtins.getattr numpy.load numpy.dtypes.sys.exitDType numpy.dtypes.__builtins__"


@pytest.mark.parametrize("name", [*OTHER_NAMES.split(), "numpy.ndarray.tofile", "numpy.ma.core._mareconstruct"])
def test_other_names_are_refused(read: Read, name: str) -> None:
    for dot in (index for index, character in enumerate(name) if character == "."):
        module, attribute = name[:dot], name[dot + 1 :]
        assert f"refused {name}: " in refusal(read, f"c{module}\n{attribute}\n.".encode())
        stacked = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute))
        assert f"refused {name}: " in refusal(read, b"\x80\x04" + stacked + b"\x93.")


@pytest.mark.parametrize(
    ("value", "item"),
    [
        (np.array([[1], "x"], dtype=object), "dtype O8"),
        (np.array(["ab"]), "dtype U2"),
        (np.zeros(2, [("a", "f8"), ("b", "i4")]), "dtype V12"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "dtype M8"),
        (np.longdouble(1), f"dtype {np.dtype('longdouble').str[1:]}"),
        (np.dtype("f8"), "a name or an array that is not complete"),
        ({1, 2}, "the operation EMPTY_SET"),
        (frozenset({1}), "the operation FROZENSET"),
        (bytearray(b"x"), "builtins.bytearray"),
        (range(3), "builtins.range"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (len, "builtins.len"),
    ],
)
def test_values_of_other_types_are_refused(read: Read, value: Any, item: str) -> None:
    message = refusal(read, pickle.dumps(value, protocol=4))
    assert message == f"refused {item}: only built-in containers, numbers and numpy arrays are read."


def test_out_of_band_buffers_are_refused(read: Read) -> None:
    buffers: list[Any] = []
    content = pickle.dumps(np.arange(3), protocol=5, buffer_callback=buffers.append)
    assert buffers and "refused the operation NEXT_BUFFER" in refusal(read, content)


def test_a_truncated_pickle_is_refused_wherever_it_ends(read: Read) -> None:
    content = pickle.dumps({"a": np.arange(9.0), "b": [1, 2.5, "c", b"d"], "e": np.float32(1)}, protocol=4)
    for end in range(len(content)):
        message = refusal(read, content[:end])
        assert message.startswith("not a readable pickle (")
        assert message.endswith(" It may be truncated: fetch or make it again.")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(10**13)  # takes no space on the disk
    write_pickle(tmp_path / "x", 1)
    for path, message in {
        tmp_path / "y": r"y: no such file\.$",
        tmp_path: r": not a file, so it is no pickle\. Name a file\.$",
        tmp_path / "pipe": "pipe: not a file",
        tmp_path / "large": r"it has more than 104,857,600 bytes, which no published file has\. Fetch",
    }.items():
        with pytest.raises(StudyError, match=message):
            read_pickle(path)

    def fail(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(StudyError, match=r"x: cannot be read \(Permission denied\)\. Check its permissions"):
        read_pickle(tmp_path / "x")


@pytest.mark.parametrize(
    ("constant", "item", "content"),
    [
        ("MAX_OPERATIONS", "4 operations", "(NNt."),
        ("MAX_NUMBER_KEYS", "4 keys that are numbers", "}(" + "".join(f"I{key}\nN" for key in range(5)) + "u."),
        ("MAX_DEPTH", "4 lists or dictionaries within each other", "]" + "\x85" * 4 + "."),
        ("MAX_INTEGER_BITS", "4 bits", "I31\n."),
        ("MAX_FILE_BYTES", "4 bytes", "(NNt."),
        ("MAX_FILE_BYTES", "34 bytes", "(Vxxxxxxxxxxxxxxxx\np0\n" + "g0\nt."),
    ],
)
def test_one_more_than_a_bound_is_refused(
    read: Read, monkeypatch: pytest.MonkeyPatch, constant: str, item: str, content: str
) -> None:
    bound = int(item.split()[0])
    monkeypatch.setattr(pickles, constant, bound)
    assert f"more than {item}" in refusal(read, content.encode("latin-1"))
    monkeypatch.setattr(pickles, constant, bound + 1)
    read(content.encode("latin-1"))


def test_a_lack_of_memory_is_explained(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pickles, "_check_value", fail)
    assert refusal(read, b"N.") == "there is too little memory to read it. End other programs and try again."


@pytest.mark.parametrize(
    "content",
    [
        *(b"(" + unit * 5_000 + b"t." for unit in (b"}", b"]\x94", b"}\x8c\1xNs", b"N\x85")),
        b"(" * 20_000 + b".",
        b"X" + (2_000_000).to_bytes(4, "little") + "😀".encode() + b"a" * 1_999_996 + b".",
        pickle.dumps(np.arange(200_000.0), protocol=0),
        pickle.dumps(np.arange(200_000.0).astype(">f8"), protocol=2),
        pickle.dumps(np.arange(200_000.0), protocol=5),
    ],
)
def test_memory_is_bounded_as_stated(read: Read, content: bytes) -> None:
    """400 bytes for each operation, 10 for each byte of the file (`facespec.study.pickles`)."""
    operations = min(len(content), 20_000) if content[:1] == b"(" else 50
    tracemalloc.start()
    try:
        read(content)
    except StudyError as error:
        assert "not complete" in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * operations + 10 * len(content) + 100_000
