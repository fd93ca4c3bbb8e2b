from __future__ import annotations

import os
import pickle
import tempfile
import tracemalloc
from collections import OrderedDict
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


def read(content: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pickle"
        path.write_bytes(content)
        return read_pickle(path)


def refusal(content: bytes) -> str:
    """The message about a file of this content, without its name."""
    with pytest.raises(StudyError) as caught:
        read(content)
    return str(caught.value).split("x.pickle: ")[1]


def assert_same(found: Any, expected: Any) -> None:
    """Equal values of exactly equal types, and arrays of equal dtype, shape and layout."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert_same(list(found), list(expected))
        assert_same(list(found.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype.str, found.shape) == (expected.dtype.str, expected.shape)
        assert found.tobytes() == expected.tobytes() and found.flags.writeable and found.flags.aligned
        assert found.size == 0 or found.strides == expected.strides
    elif isinstance(expected, np.generic):
        assert found.tobytes() == expected.tobytes()
    else:
        assert repr(found) == repr(expected)


def laid_out(array: np.ndarray) -> st.SearchStrategy[np.ndarray]:
    """The array in C and Fortran order, transposed, and with gaps."""
    return st.sampled_from([array, np.asfortranarray(array), array.T, array[..., ::2] if array.ndim else array])


integers = st.integers() | st.integers(-(2**2039), 2**2039)
numbers = st.none() | st.booleans() | integers | st.floats() | st.complex_numbers()
scalars = st.sampled_from(CODES).flatmap(lambda code: arrays.from_dtype(np.dtype(code)))
texts = st.text(max_size=5) | st.binary(max_size=5)
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
numeric = st.sampled_from(CODES).flatmap(lambda code: arrays.arrays(code, shapes)).flatmap(laid_out)
values = st.recursive(
    numbers | scalars | texts | numeric,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts | st.integers() | st.booleans() | st.none(), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(values, st.sampled_from(PROTOCOLS))
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol=protocol)
    assert_same(read(content), pickle.loads(content))


@given(values)
def test_what_is_written_is_read_as_pickle_reads_it(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_pickle(Path(folder) / "x.pickle", value)
        content = (Path(folder) / "x.pickle").read_bytes()
    assert_same(read(content), pickle.loads(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", CODES)
def test_arrays_of_every_kind(protocol: int, code: str) -> None:
    three = np.arange(24).reshape(2, 3, 4).astype(code)
    axes = np.moveaxis(three, 2, 0)  # neither C nor Fortran order, which protocol 5 keeps
    value = [
        three,
        np.asfortranarray(three),
        axes,
        three[::-1, ::2],
        three[0, 0, :0],
        three[1, 1, 1],
        np.array(three[1, 1, 1]),
    ]
    content = pickle.dumps(value, protocol=protocol)
    assert_same(read(content), pickle.loads(content))


def test_names_of_older_numpy() -> None:
    content = pickle.dumps([np.arange(3), np.float64(0.5)], protocol=2)
    assert b"numpy._core.multiarray" in content
    assert_same(read(content.replace(b"numpy._core.", b"numpy.core.")), [np.arange(3), np.float64(0.5)])


def test_the_published_files_are_read_as_pickle_reads_them(published: Path) -> None:
    files = sorted(published.glob("*.pickle"))
    assert len(files) >= 4
    for file in files:
        assert_same(read_pickle(file), pickle.loads(file.read_bytes()))


def test_what_was_shared_stays_shared() -> None:
    shared = [1.5]
    found = read(pickle.dumps({"a": shared, "b": shared, "c": (shared, shared)}))
    assert found["a"] is found["b"] is found["c"][0] is found["c"][1]


def test_equal_values_give_equal_pickles(tmp_path: Path) -> None:
    shared, value = [0.25, 0.5], 0.5
    write_pickle(tmp_path / "a", {"x": shared, "y": shared, "z": [value, value]})
    write_pickle(tmp_path / "b", {"x": [0.25, 0.5], "y": [0.25, 0.5], "z": [0.5, float("0.5")]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_would_run_a_command_is_refused_by_name(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "ran"
    assert refusal(pickle.dumps({"a": [Malicious(proof)]}, protocol=protocol)) == (
        f"refused {os.system.__module__}.system: only built-in containers, numbers and numpy arrays are read."
    )
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"\x80\x04\x8c\x0cnumpy.dtypes\x8c\x0dsys.exitDType\x93.", "numpy.dtypes.sys.exitDType"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"cnumpy.dtypes\n__builtins__\n.", "numpy.dtypes.__builtins__"),
        (b"cnumpy\nndarray.tofile\n.", "numpy.ndarray.tofile"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile2\x93.", "numpy.ndarray.tofile2"),
    ],
)
def test_only_the_listed_names_pass(content: bytes, name: str) -> None:
    assert f"refused {name}: " in refusal(content)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.array([[1], "x"], dtype=object), "dtype O8"),
        (np.array(["ab"]), "dtype U2"),
        (np.zeros(2, [("a", "f8"), ("b", "i4")]), "dtype V12"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "dtype M8"),
        (np.longdouble(1), f"dtype {np.dtype('longdouble').str[1:]}"),
        (np.dtype("f8"), "a name or an array that is not complete"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "numpy.ma._mareconstruct"),
        ({1, 2}, "the operation EMPTY_SET"),
        (frozenset({1}), "the operation FROZENSET"),
        (bytearray(b"x"), "builtins.bytearray"),
        (range(3), "builtins.range"),
        (slice(3), "builtins.slice"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (len, "builtins.len"),
    ],
)
def test_values_of_other_types_are_refused_by_name(value: Any, what: str) -> None:
    message = refusal(pickle.dumps(value, protocol=4))
    assert message.startswith(f"refused {what}".replace("numpy.ma._", "numpy.ma.core._"))
    assert message.endswith(": only built-in containers, numbers and numpy arrays are read.")


def test_out_of_band_buffers_are_refused() -> None:
    buffers: list[Any] = []
    content = pickle.dumps(np.arange(3), protocol=5, buffer_callback=buffers.append)
    assert buffers and "refused the operation NEXT_BUFFER" in refusal(content)


def test_a_truncated_pickle_is_refused_wherever_it_ends() -> None:
    content = pickle.dumps({"a": np.arange(9.0), "b": [1, 2.5, "c", b"d"], "e": np.float32(1)}, protocol=4)
    for end in range(len(content)):
        message = refusal(content[:end])
        assert message.startswith("not a readable pickle (")
        assert message.endswith(" It may be truncated: fetch or make it again.")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=r"y: no such file\.$"):
        read_pickle(tmp_path / "y")
    with pytest.raises(StudyError, match=r": not a file, so it is no pickle\. Name a file\.$"):
        read_pickle(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StudyError, match=r"pipe: not a file"):
        read_pickle(tmp_path / "pipe")

    def fail(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    write_pickle(tmp_path / "x", 1)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(StudyError, match=r"x: cannot be read \(Permission denied\)\. Check its permissions"):
        read_pickle(tmp_path / "x")


def test_a_file_that_is_too_large_is_not_loaded(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(10**13)  # takes no room on the disk
    with pytest.raises(StudyError, match=r"x: it has more than 104,857,600 bytes, which no published file has\. Fetch"):
        read_pickle(tmp_path / "x")


@pytest.mark.parametrize(
    ("constant", "value", "content"),
    [
        ("MOST_OPERATIONS", "4 operations", "(NNt."),
        ("MOST_NUMBER_KEYS", "4 keys that are numbers", "}(" + "".join(f"I{key}\nN" for key in range(5)) + "u."),
        ("DEEPEST", "4 lists or dictionaries within each other", "]" + "\x85" * 4 + "."),
        ("LONGEST_INTEGER", "4 bits", "I31\n."),
        ("LARGEST_FILE", "4 bytes", "(NNt."),
        ("LARGEST_FILE", "34 bytes", "(Vxxxxxxxxxxxxxxxx\np0\n" + "g0\nt."),
    ],
)
def test_every_bound(monkeypatch: pytest.MonkeyPatch, constant: str, value: str, content: str) -> None:
    """One more than the bound is refused, the bound itself is not."""
    bound = int(value.split()[0])
    monkeypatch.setattr(pickles, constant, bound)
    assert f"more than {value}" in refusal(content.encode("latin-1"))
    monkeypatch.setattr(pickles, constant, bound + 1)
    read(content.encode("latin-1"))


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pickles, "_check_value", fail)
    assert refusal(b"N.") == "there is too little memory to read it. End other programs and try again."


@pytest.mark.parametrize(
    "content",
    [
        b"(" + b"}" * 20_000 + b"t.",
        b"(" + b"]\x94" * 20_000 + b"t.",
        b"(" + b"}\x8c\1xNs" * 20_000 + b"t.",
        b"(" + b"N\x85" * 20_000 + b"t.",
        b"(" * 20_000 + b".",
        b"X" + (2_000_000).to_bytes(4, "little") + "😀".encode() + b"a" * 1_999_996 + b".",
        pickle.dumps(np.arange(200_000.0), protocol=0),
        pickle.dumps(np.arange(200_000.0).astype(">f8"), protocol=2),
        pickle.dumps(np.arange(200_000.0), protocol=5),
    ],
)
def test_memory_is_bounded_as_stated(content: bytes) -> None:
    """400 bytes for each operation, 10 for each byte of the file (`facespec.study.pickles`)."""
    operations = min(len(content), 80_000) if content[:1] in b"(" else 50
    tracemalloc.start()
    try:
        read(content)
    except StudyError as error:
        assert "not complete" in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * operations + 10 * len(content) + 100_000
