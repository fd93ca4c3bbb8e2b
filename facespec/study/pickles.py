"""How are pickles written with equal bytes for equal values, and foreign pickles read without running code?

A pickle is a program. `pickle.Unpickler` runs it with real functions, and no list of allowed functions makes that safe:
numpy's constructors, called with forged arguments, read and write outside their memory, or allocate any amount of it.
The interpreter below replaces the functions that pickles of plain values name by stand-ins. It makes numbers, texts,
bytes, lists, tuples, dictionaries, and numeric arrays from bytes in the file; it calls nothing else.

Bounds: a file has at most `MAX_FILE_BYTES` bytes and `MAX_OPERATIONS` operations. Reading takes at most 400 bytes of
memory per operation and 10 per byte of the file, and about 5 microseconds per operation.
"""

from __future__ import annotations

import enum
import io
import math
import pickle
import pickletools
import reprlib
import stat
import textwrap
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from facespec.study.errors import StudyError
from facespec.study.storage import write_bytes

MAX_FILE_BYTES = 100 * 1024**2  # the published files are on GitHub, which refuses larger files
MAX_OPERATIONS = 2_000_000  # an array takes about 20, a number in a list 1 (built-in) to 8 (numpy)
MAX_NUMBER_KEYS = 5_000  # numbers with equal hashes are easily made, and slow a dictionary down quadratically
MAX_DEPTH = 50  # of nested lists, tuples and dictionaries; the published files have 3
MAX_DIMENSIONS = 64  # of numpy
MAX_INTEGER_BITS = 8 * 255  # the longest integer that has an operation of its own; Python can still print it

_DTYPES = {
    (code, order): np.dtype(order + code)
    for code in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    for order in ("|" if code.endswith("1") else "<>")  # single bytes have no order
}
_CODES = {code for code, _ in _DTYPES}
_NUMBERS = {type(None), bool, int, float, complex, *(dtype.type for dtype in _DTYPES.values())}
_TEXTS = {str, bytes}
_CONTAINERS = {list, tuple, dict}  # exactly these types, no subclasses


class _StandIn(enum.Enum):
    """Stand-ins for the functions and types that pickles of plain values name."""

    BYTES = "bytes"
    COMPLEX = "complex"
    ENCODE = "_codecs.encode"  # makes bytes in protocols 0 to 2
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    RECONSTRUCT = "numpy._reconstruct"
    SCALAR = "numpy.scalar"
    FROMBUFFER = "numpy._frombuffer"


_STAND_INS = {
    "__builtin__ bytes": _StandIn.BYTES,
    "builtins bytes": _StandIn.BYTES,
    "__builtin__ complex": _StandIn.COMPLEX,
    "builtins complex": _StandIn.COMPLEX,
    "_codecs encode": _StandIn.ENCODE,
    "numpy ndarray": _StandIn.NDARRAY,
    "numpy dtype": _StandIn.DTYPE,
    "numpy.core.multiarray _reconstruct": _StandIn.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _StandIn.RECONSTRUCT,
    "numpy.core.multiarray scalar": _StandIn.SCALAR,
    "numpy._core.multiarray scalar": _StandIn.SCALAR,
    "numpy.core.numeric _frombuffer": _StandIn.FROMBUFFER,
    "numpy._core.numeric _frombuffer": _StandIn.FROMBUFFER,
}


@dataclass(eq=False)
class _Dtype:
    """A numpy dtype; `dtype` is None until BUILD gives the byte order."""

    code: str
    dtype: np.dtype[Any] | None = None


@dataclass(eq=False)
class _Array:
    """A numpy array whose content BUILD gives; `index` is its index in the memo."""

    index: int | None = None


@dataclass(eq=False)
class _Buffer:
    """The bytes of an array in protocol 5."""

    content: bytearray


def write_pickle(path: Path, value: Any) -> None:
    """Write built-ins and numpy arrays as a pickle (protocol 4): equal values give equal bytes.

    Without a memo: it would record which equal objects are one object, which depends on how the value was computed.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True
    pickler.dump(value)
    write_bytes(path, buffer.getvalue())


def read_pickle(path: Path) -> Any:
    """Read a pickle of built-ins and numeric numpy arrays, of protocol 0 to 5, as plain data.

    Returns None, numbers (of numpy too), text, bytes, and lists, tuples, dictionaries and writable arrays of these: no
    subclasses, nothing that contains itself, at most `MAX_DEPTH` levels deep. Keys are text, bytes or numbers.

    Raises `StudyError`, naming the file, if it is absent, truncated, damaged or too large, or holds anything else.
    """
    try:
        return _Interpreter(_read_bytes(path)).run()
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    except MemoryError as error:
        raise StudyError(f"{path}: there is too little memory to read it. End other programs and try again.") from error
    except Exception as error:  # a damaged pickle can raise many types of errors
        reason = textwrap.shorten(str(error)[:300], 120, placeholder=" ...")
        message = f"{path}: not a readable pickle ({reason}). It may be truncated: fetch or make it again."
        raise StudyError(message) from error


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for a writer
            raise StudyError("not a file, so it is no pickle. Name a file.")
        if status.st_size > MAX_FILE_BYTES:
            _refuse_excess(f"more than {MAX_FILE_BYTES:,} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise StudyError("no such file.") from None
    except OSError as error:
        raise StudyError(f"cannot be read ({error.strerror}). Check its permissions and its disk.") from error


def _refuse(item: str) -> NoReturn:
    if len(item) > 100 or not item.isprintable():  # names may contain control characters of terminals
        item = reprlib.repr(item)
    raise StudyError(f"refused {item}: only built-in containers, numbers and numpy arrays are read.")


def _refuse_excess(item: str) -> NoReturn:
    raise StudyError(f"it has {item}, which no published file has. Fetch it again, or name another file.")


class _Interpreter:
    """Runs one pickle; `marks` holds the size of `stack` at each MARK whose list is not yet complete."""

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.bytes_budget = 2 * len(content)  # of arrays and of texts that some protocols encode to their bytes
        self.number_keys_budget = MAX_NUMBER_KEYS

    def run(self) -> Any:
        """Return the value that the pickle describes."""
        actions = self._list_actions()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            if count == MAX_OPERATIONS:
                _refuse_excess(f"more than {MAX_OPERATIONS:,} operations")
            if opcode.name not in actions:
                _refuse(f"the operation {opcode.name}")
            actions[opcode.name](argument)
        if self.file.read(1):
            raise ValueError("it ends before the file does")
        if len(self.stack) != 1 or self.marks:
            raise ValueError("it ends with a list that is not complete, or without a value")
        _check_value(self.stack[0])
        return self.stack[0]

    def _list_actions(self) -> dict[str, Callable[[Any], None]]:
        """Return what each allowed operation does with its argument, by the operation's name."""
        push = self.stack.append
        actions: dict[str, Callable[[Any], None]] = {
            "PROTO FRAME STOP": lambda _: None,
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "INT BININT BININT1 BININT2 LONG LONG1 LONG4": self._push_integer,
            "FLOAT BINFLOAT BINBYTES SHORT_BINBYTES BINBYTES8": push,
            "UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8": self._push_text,
            "BYTEARRAY8": lambda content: push(_Buffer(content)),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_TUPLE": lambda _: push(()),
            "EMPTY_DICT": lambda _: push({}),
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "LIST": lambda _: push(self._pop_mark()),
            "TUPLE": lambda _: push(tuple(self._pop_mark())),
            "TUPLE1": lambda _: push(tuple(self._pop(1))),
            "TUPLE2": lambda _: push(tuple(self._pop(2))),
            "TUPLE3": lambda _: push(tuple(self._pop(3))),
            "DICT": lambda _: self._push_dictionary(self._pop_mark()),
            "APPEND": lambda _: self._extend(self._pop(1)),
            "APPENDS": lambda _: self._extend(self._pop_mark()),
            "SETITEM": lambda _: self._set_items(self._pop(2)),
            "SETITEMS": lambda _: self._set_items(self._pop_mark()),
            "PUT BINPUT LONG_BINPUT": self._put,
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            "GET BINGET LONG_BINGET": self._get,
            "GLOBAL": self._push_stand_in,
            "STACK_GLOBAL": lambda _: self._push_stand_in(" ".join(self._pop(2))),
            "INST": lambda name: _refuse(name.replace(" ", ".")),
            "REDUCE": lambda _: push(self._make(*self._pop(2))),
            "BUILD": lambda _: self._fill(*self._pop(2)),
        }
        return {name: action for names, action in actions.items() for name in names.split()}

    def _pop(self, count: int) -> list[Any]:
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes a value that is not there")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _pop_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("it ends a list that it did not begin")
        return self._pop(len(self.stack) - self.marks.pop())

    def _get_top(self, expected: type) -> Any:
        (value,) = self._pop(1)
        self.stack.append(value)
        if type(value) is not expected:
            raise ValueError(f"it adds to a value that is not a {expected.__name__}")
        return value

    def _push_integer(self, value: int) -> None:
        if value.bit_length() > MAX_INTEGER_BITS:
            _refuse_excess(f"an integer of more than {MAX_INTEGER_BITS:,} bits")
        self.stack.append(value)

    def _push_text(self, text: str) -> None:
        if not text.isascii():
            text.encode()  # refuses half characters, which cannot be printed
        self.stack.append(text)

    def _push_stand_in(self, name: str) -> None:
        if name not in _STAND_INS:
            _refuse(name.replace(" ", "."))
        self.stack.append(_STAND_INS[name])

    def _extend(self, values: list[Any]) -> None:
        self._get_top(list).extend(values)

    def _push_dictionary(self, items: list[Any]) -> None:
        self.stack.append({})
        self._set_items(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._get_top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _TEXTS:
                if type(key) not in _NUMBERS:
                    _refuse_excess("a dictionary with keys that are neither text nor numbers")
                self.number_keys_budget -= 1
                if self.number_keys_budget < 0:
                    _refuse_excess(f"more than {MAX_NUMBER_KEYS:,} keys that are numbers")
            if key in target:  # comparing equal long texts takes long, so the first repeated key ends the reading
                raise ValueError("a dictionary has a key twice")
            target[key] = value

    def _put(self, index: int) -> None:
        if not 0 <= index < MAX_OPERATIONS or not self.stack:
            raise ValueError(f"its memo has no place {index}")
        value = self.memo[index] = self.stack[-1]
        if type(value) is _Array:
            value.index = index

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"its memo has no value {index}")
        self.stack.append(self.memo[index])

    def _make(self, function: Any, arguments: Any) -> Any:
        """Return the value that a call of the real function with `arguments` would return."""
        _check_arguments(arguments)
        if type(function) is not _StandIn:
            _refuse("a call of a value that is no function")
        match function, arguments:
            case _StandIn.BYTES, ():
                return b""
            case _StandIn.COMPLEX, (float(real), float(imaginary)):
                return complex(real, imaginary)
            case _StandIn.ENCODE, (str(text), "latin1" | "latin-1"):
                self._spend(len(text))
                return text.encode("latin-1")
            case _StandIn.DTYPE, (str(code), 0, 1):
                return _Dtype(code) if code in _CODES else _refuse(f"dtype {code}")
            case _StandIn.RECONSTRUCT, (_StandIn.NDARRAY, (0,), b"b"):
                return _Array()
            case _StandIn.SCALAR, (_Dtype() as dtype, bytes(content)):
                return self._make_array(content, dtype, ())[()]
            case _StandIn.FROMBUFFER, (content, _Dtype() as dtype, shape, "C" | "F" as order):
                return self._make_array(_get_bytes(content), dtype, shape, order)
            case _StandIn.FROMBUFFER, (content, _Dtype() as dtype, shape, "K", axes):
                array = self._make_array(_get_bytes(content), dtype, shape)
                if any(type(axis) is not int for axis in axes):
                    raise ValueError("an array's axes are not integers")
                return array.transpose(axes)
        return _refuse(f"{function.value} with other arguments than those of plain values")

    def _fill(self, target: Any, state: Any) -> None:
        """Push `target`, a value of `_make`, with the content that `state` describes."""
        _check_arguments(state)
        match target, state:
            case _Dtype(dtype=None), (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
                target.dtype = _DTYPES.get((target.code, order))
                self.stack.append(target)
            case _Array(), (1, shape, _Dtype() as dtype, 0 | 1 as fortran, bytes(content)):
                array = self._make_array(content, dtype, shape, "F" if fortran else "C")
                array = array.astype(array.dtype.newbyteorder("="), order="K", copy=False)  # as numpy does
                if target.index is not None:
                    self.memo[target.index] = array
                self.stack.append(array)
            case _:
                _refuse("a state of another object than an array or its dtype")

    def _make_array(self, content: bytes, dtype: _Dtype, shape: Any, order: Literal["C", "F"] = "C") -> Any:
        if dtype.dtype is None:
            raise ValueError("a dtype has no byte order")
        is_short = type(shape) is tuple and len(shape) <= MAX_DIMENSIONS
        if not is_short or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"an array's shape is not a tuple of at most {MAX_DIMENSIONS} sizes")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError("an array has more or fewer bytes than its shape needs")
        if math.prod(size for size in shape if size) > max(MAX_OPERATIONS, len(content)):
            raise ValueError("an empty array has too many rows of no length")
        if dtype.dtype.kind == "b" and content.translate(None, b"\0\1"):
            raise ValueError("an array of booleans has other bytes than 0 and 1")
        self._spend(len(content))
        return np.frombuffer(content, dtype.dtype).reshape(shape, order=order).copy(order="K")

    def _spend(self, count: int) -> None:
        self.bytes_budget -= count
        if self.bytes_budget < 0:
            _refuse_excess("arrays of more bytes than it holds itself")


def _check_arguments(arguments: Any) -> None:
    if type(arguments) is not tuple or any(type(argument) is np.ndarray for argument in arguments):
        _refuse("arguments that are not those of plain values")  # comparing an array would compare its elements


def _get_bytes(content: Any) -> bytes:
    if type(content) is _Buffer:
        return bytes(content.content)
    if type(content) is not bytes:
        raise ValueError("an array is made of something else than bytes")
    return content


def _check_value(value: Any) -> None:
    """Refuse stand-ins, and containers that hold themselves, are nested too deeply, or are too large if written out."""
    whole = [value]
    measures: dict[int, tuple[int, int]] = {}  # id of a container -> its depth, and its size if nothing were shared
    visited: set[int] = set()
    pending: list[Any] = [whole]
    while pending:
        container = pending[-1]
        if id(container) in measures:
            pending.pop()
            continue
        parts = [*container, *container.values()] if type(container) is dict else container
        inner = [part for part in parts if type(part) in _CONTAINERS]
        unmeasured = [part for part in inner if id(part) not in measures]
        if not unmeasured:
            measures[id(container)] = _measure(parts, [measures[id(part)] for part in inner])
        elif id(container) in visited:
            _refuse_excess("a list or dictionary that holds itself")
        visited.add(id(container))
        pending += unmeasured


def _measure(parts: Collection[Any], inner: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the depth and size of a container from its `parts` and the depths and sizes of its `inner` containers."""
    depth = 1 + max((depth for depth, _ in inner), default=0)
    size = sum(size for _, size in inner) + sum(_measure_part(part) for part in parts)
    if depth > 1 + MAX_DEPTH:  # 1: the list around the whole value
        _refuse_excess(f"more than {MAX_DEPTH} lists or dictionaries within each other")
    if size > MAX_FILE_BYTES:
        _refuse_excess(f"parts that repeat until the whole is more than {MAX_FILE_BYTES:,} bytes")
    return depth, size


def _measure_part(part: Any) -> int:
    if type(part) in _NUMBERS or type(part) in _CONTAINERS:
        return 1
    if type(part) in _TEXTS:
        return 1 + len(part)
    if type(part) is np.ndarray:
        return 1 + int(part.nbytes)
    return _refuse("a name or an array that is not complete")
