"""Pickles of built-ins and numpy arrays: equal values give equal bytes, and foreign files are read as plain data.

A pickle is a program. `pickle.Unpickler` runs it with real functions, and no list of allowed ones makes that safe:
numpy's constructors, called with forged arguments, read and write outside their memory, or ask for any amount of it.
The interpreter below knows only stand-ins for the names that pickles of plain values use. It makes numbers, text,
bytes, lists, tuples and dictionaries, and numeric arrays from bytes that the file holds; it calls nothing else.

Bounds: a file has at most `LARGEST_FILE` bytes and `MOST_OPERATIONS` operations. Reading takes at most 400 bytes of
memory for each operation and 10 for each byte of the file, and time in proportion: 5 microseconds for each operation.
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
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from facespec.study.errors import StudyError
from facespec.study.storage import write_bytes

LARGEST_FILE = 100 * 1024**2  # bytes; the published files lie on GitHub, which takes none that is larger
MOST_OPERATIONS = 2_000_000  # an array takes about 20, a number in a list 1 (built-in) to 8 (of numpy)
MOST_NUMBER_KEYS = 5_000  # equal hashes of numbers can be chosen, and make a dictionary's time grow with the square
DEEPEST = 50  # lists, tuples and dictionaries within each other; the published files have 3
MOST_DIMENSIONS = 64  # numpy has no more
LONGEST_INTEGER = 8 * 255  # bits; the longest that has an operation of its own, and Python still prints it

_DTYPES = {
    (code, order): np.dtype(order + code)
    for code in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    for order in ("|" if code.endswith("1") else "<>")  # single bytes have none
}
_CODES = {code for code, _ in _DTYPES}
_NUMBERS = {type(None), bool, int, float, complex, *(dtype.type for dtype in _DTYPES.values())}
_TEXTS = {str, bytes}
_CONTAINERS = {list, tuple, dict}  # these exactly; everything else is a stand-in


class _Global(enum.Enum):
    """Stand-ins for what pickles of plain values name; none can be called."""

    BYTES = "bytes"
    COMPLEX = "complex"
    ENCODE = "_codecs.encode"  # how protocols 0 to 2 spell bytes
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    RECONSTRUCT = "numpy._reconstruct"
    SCALAR = "numpy.scalar"
    FROMBUFFER = "numpy._frombuffer"


_GLOBALS = {
    f"{module} {name}": stand_in
    for name, stand_in, modules in (
        ("bytes", _Global.BYTES, ("__builtin__", "builtins")),
        ("complex", _Global.COMPLEX, ("__builtin__", "builtins")),
        ("encode", _Global.ENCODE, ("_codecs",)),
        ("ndarray", _Global.NDARRAY, ("numpy",)),
        ("dtype", _Global.DTYPE, ("numpy",)),
        ("_reconstruct", _Global.RECONSTRUCT, ("numpy.core.multiarray", "numpy._core.multiarray")),
        ("scalar", _Global.SCALAR, ("numpy.core.multiarray", "numpy._core.multiarray")),
        ("_frombuffer", _Global.FROMBUFFER, ("numpy.core.numeric", "numpy._core.numeric")),
    )
    for module in modules
}


class _Dtype:
    """A dtype; BUILD gives its byte order, without which it is of no use."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.dtype: np.dtype[Any] | None = None


class _Array:
    """An array of which BUILD is to give the content; `index` is where the memo holds it."""

    def __init__(self) -> None:
        self.index: int | None = None


class _Buffer:
    """The bytes that an array of protocol 5 is made of."""

    def __init__(self, content: bytearray) -> None:
        self.content = content


def write_pickle(path: Path, value: Any) -> None:
    """Write built-ins and numpy arrays as a pickle (protocol 4): equal values give equal bytes.

    Memoisation is off: a memo would record which equal objects are shared, and so leak how the value was computed.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True
    pickler.dump(value)
    write_bytes(path, buffer.getvalue())


def read_pickle(path: Path) -> Any:
    """Read a pickle of built-ins and numeric numpy arrays, of protocol 0 to 5, as plain data.

    Parameters
    ----------
    path
        A file of at most `LARGEST_FILE` bytes.

    Returns
    -------
    value
        None, numbers (of numpy too), text, bytes, and lists, tuples, dictionaries and writable arrays of these: no
        subclasses, nothing that contains itself, at most `DEEPEST` within each other. Keys are text, bytes or numbers.

    Raises
    ------
    StudyError
        Naming the file, if it is missing, truncated, damaged or too large, or holds anything else.
    """
    try:
        return _Interpreter(_read_bytes(path)).run()
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    except MemoryError as error:
        raise StudyError(f"{path}: there is too little memory to read it. End other programs and try again.") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = textwrap.shorten(str(error)[:300], 120, placeholder=" ...")
        message = f"{path}: not a readable pickle ({reason}). It may be truncated: fetch or make it again."
        raise StudyError(message) from error


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise StudyError("not a file, so it is no pickle. Name a file.")
        if status.st_size > LARGEST_FILE:
            _exceed(f"more than {LARGEST_FILE:,} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise StudyError("no such file.") from None
    except OSError as error:
        raise StudyError(f"cannot be read ({error.strerror}). Check its permissions and its disk.") from error


def _refuse(what: str) -> NoReturn:
    if len(what) > 100 or not what.isprintable():  # a hostile name is no text for a terminal
        what = reprlib.repr(what)
    raise StudyError(f"refused {what}: only built-in containers, numbers and numpy arrays are read.")


def _exceed(what: str) -> NoReturn:
    raise StudyError(f"it has {what}, which no published file has. Fetch it again, or name another file.")


class _Interpreter:
    """Runs one pickle; `marks` are the sizes that `stack` had at each mark that is still open."""

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = 2 * len(content)  # a file holds the bytes of its arrays, which some protocols encode first
        self.keys_left = MOST_NUMBER_KEYS

    def run(self) -> Any:
        """Return the value that the pickle describes."""
        operations = self._list_operations()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            if count == MOST_OPERATIONS:
                _exceed(f"more than {MOST_OPERATIONS:,} operations")
            if opcode.name not in operations:
                _refuse(f"the operation {opcode.name}")
            operations[opcode.name](argument)
        if self.file.read(1):
            raise ValueError("it ends before the file does")
        if len(self.stack) != 1 or self.marks:
            raise ValueError("it ends with a list that is not complete, or without a value")
        _check_value(self.stack[0])
        return self.stack[0]

    def _list_operations(self) -> dict[str, Callable[[Any], None]]:
        """Name of an operation -> what it does with its argument; all others are refused."""
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
            "DICT": lambda _: self._make_dictionary(self._pop_mark()),
            "APPEND": lambda _: self._extend(self._pop(1)),
            "APPENDS": lambda _: self._extend(self._pop_mark()),
            "SETITEM": lambda _: self._set_items(self._pop(2)),
            "SETITEMS": lambda _: self._set_items(self._pop_mark()),
            "PUT BINPUT LONG_BINPUT": self._put,
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            "GET BINGET LONG_BINGET": self._get,
            "GLOBAL": self._push_global,
            "STACK_GLOBAL": lambda _: self._push_global(" ".join(self._pop(2))),
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

    def _top(self, kind: type) -> Any:
        (value,) = self._pop(1)
        self.stack.append(value)
        if type(value) is not kind:
            raise ValueError(f"it adds to a value that is not a {kind.__name__}")
        return value

    def _push_integer(self, value: int) -> None:
        if value.bit_length() > LONGEST_INTEGER:
            _exceed(f"an integer of more than {LONGEST_INTEGER:,} bits")
        self.stack.append(value)

    def _push_text(self, text: str) -> None:
        if not text.isascii():
            text.encode()  # half characters cannot be printed
        self.stack.append(text)

    def _push_global(self, name: str) -> None:
        if name not in _GLOBALS:
            _refuse(name.replace(" ", "."))
        self.stack.append(_GLOBALS[name])

    def _extend(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _make_dictionary(self, items: list[Any]) -> None:
        self.stack.append({})
        self._set_items(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _TEXTS:
                self._count_key(key)
            if key in target:  # which takes long for long ones
                raise ValueError("a dictionary has a key twice")
            target[key] = value

    def _count_key(self, key: Any) -> None:
        if type(key) not in _NUMBERS:
            _exceed("a dictionary with keys that are neither text nor numbers")
        self.keys_left -= 1
        if self.keys_left < 0:
            _exceed(f"more than {MOST_NUMBER_KEYS:,} keys that are numbers")

    def _put(self, index: int) -> None:
        if not 0 <= index < MOST_OPERATIONS or not self.stack:
            raise ValueError(f"its memo has no place {index}")
        value = self.memo[index] = self.stack[-1]
        if type(value) is _Array:
            value.index = index

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"its memo has no value {index}")
        self.stack.append(self.memo[index])

    def _make(self, function: Any, arguments: Any) -> Any:
        """Return what the stand-in `function` stands for, made of `arguments`."""
        _check_arguments(arguments)
        if type(function) is not _Global:
            _refuse("a call of a value that is no function")
        match function, arguments:
            case _Global.BYTES, ():
                return b""
            case _Global.COMPLEX, (float(real), float(imaginary)):
                return complex(real, imaginary)
            case _Global.ENCODE, (str(text), "latin1" | "latin-1"):
                self._spend(len(text))
                return text.encode("latin-1")
            case _Global.DTYPE, (str(code), 0, 1):
                return _Dtype(code) if code in _CODES else _refuse(f"dtype {code}")
            case _Global.RECONSTRUCT, (_Global.NDARRAY, (0,), b"b"):
                return _Array()
            case _Global.SCALAR, (_Dtype() as dtype, bytes(content)):
                return self._make_array(content, dtype, ())[()]
            case _Global.FROMBUFFER, (content, _Dtype() as dtype, shape, "C" | "F" as order):
                return self._make_array(_unwrap(content), dtype, shape, order)
            case _Global.FROMBUFFER, (content, _Dtype() as dtype, shape, "K", axes):
                array = self._make_array(_unwrap(content), dtype, shape)
                if any(type(axis) is not int for axis in axes):
                    raise ValueError("an array's axes are not integers")
                return array.transpose(axes)
        return _refuse(f"{function.value} with other arguments than those of plain values")

    def _fill(self, target: Any, state: Any) -> None:
        """Give `target`, which `_make` has made, the content that `state` describes, and put it back."""
        _check_arguments(state)
        match target, state:
            case _Dtype(dtype=None), (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
                target.dtype = _DTYPES.get((target.code, order))
                self.stack.append(target)
            case _Array(), (1, shape, _Dtype() as dtype, 0 | 1 as fortran, bytes(content)):
                array = self._make_array(content, dtype, shape, "F" if fortran else "C")
                array = array.astype(array.dtype.newbyteorder("="), order="K", copy=False)  # as numpy does here
                if target.index is not None:
                    self.memo[target.index] = array
                self.stack.append(array)
            case _:
                _refuse("a state of another object than an array or its dtype")

    def _make_array(self, content: bytes, dtype: _Dtype, shape: Any, order: Literal["C", "F"] = "C") -> Any:
        if dtype.dtype is None:
            raise ValueError("a dtype has no byte order")
        few = type(shape) is tuple and len(shape) <= MOST_DIMENSIONS
        if not few or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"an array's shape is not a tuple of at most {MOST_DIMENSIONS} sizes")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError("an array has more or fewer bytes than its shape needs")
        if math.prod(size for size in shape if size) > max(MOST_OPERATIONS, len(content)):
            raise ValueError("an empty array has too many rows of no length")
        if dtype.dtype.kind == "b" and content.translate(None, b"\0\1"):
            raise ValueError("an array of booleans has other bytes than 0 and 1")
        self._spend(len(content))
        return np.frombuffer(content, dtype.dtype).reshape(shape, order=order).copy(order="K")

    def _spend(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            _exceed("arrays of more bytes than it holds itself")


def _check_arguments(arguments: Any) -> None:
    if type(arguments) is not tuple or any(type(argument) is np.ndarray for argument in arguments):
        _refuse("arguments that are not those of plain values")  # to compare an array would compare its elements


def _unwrap(content: Any) -> bytes:
    if type(content) is _Buffer:
        return bytes(content.content)
    if type(content) is not bytes:
        raise ValueError("an array is made of something else than bytes")
    return content


def _check_value(value: Any) -> None:
    """Refuse stand-ins, and containers that hold themselves, lie too deep, or repeat so much that a copy explodes."""
    whole = [value]
    measured: dict[int, tuple[int, int]] = {}  # id of a container -> its depth, and its size if nothing were shared
    entered: set[int] = set()
    ahead: list[Any] = [whole]
    while ahead:
        container = ahead[-1]
        if id(container) in measured:
            ahead.pop()
            continue
        parts = [*container, *container.values()] if type(container) is dict else container
        inner = [part for part in parts if type(part) in _CONTAINERS]
        unknown = [part for part in inner if id(part) not in measured]
        if not unknown:
            measured[id(container)] = _measure(parts, [measured[id(part)] for part in inner])
        elif id(container) in entered:
            _exceed("a list or dictionary that holds itself")
        entered.add(id(container))
        ahead += unknown


def _measure(parts: Collection[Any], inner: list[tuple[int, int]]) -> tuple[int, int]:
    depth = 1 + max((depth for depth, _ in inner), default=0)
    size = sum(size for _, size in inner) + sum(_measure_part(part) for part in parts)
    if depth > 1 + DEEPEST:  # 1: the list around the whole value
        _exceed(f"more than {DEEPEST} lists or dictionaries within each other")
    if size > LARGEST_FILE:
        _exceed(f"parts that repeat until the whole is more than {LARGEST_FILE:,} bytes")
    return depth, size


def _measure_part(part: Any) -> int:
    kind = type(part)
    if kind in _NUMBERS or kind in _CONTAINERS:
        return 1
    if kind in _TEXTS:
        return 1 + len(part)
    if kind is np.ndarray:
        return 1 + int(part.nbytes)
    return _refuse("a name or an array that is not complete")
