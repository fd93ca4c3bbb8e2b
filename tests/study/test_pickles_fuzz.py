"""A process that reads hostile pickles does not end, wait, grow or import, and makes nothing but plain data."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit on memory needs Linux")

SEED = int(os.environ.get("FACESPEC_FUZZ_SEED", f"{date.today():%Y%m%d}"))


class Reader:
    """The child process (`pickle_child.py`), which is started again after a sample ended it."""

    def __init__(self, directory: Path, *options: str) -> None:
        child = Path(__file__).with_name("pickle_child.py")
        self.command = [sys.executable, str(child), str(directory / "sample.pickle"), *options]
        self.process: subprocess.Popen[bytes] | None = None
        self.outcomes = {"read": 0, "refused": 0}

    def read(self, sample: bytes) -> dict[str, Any]:
        """Send the sample to the child and return its report; `faults` lists what must not happen."""
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(len(sample).to_bytes(4, "little") + sample)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            status = self.close()
            return {"outcome": "ended", "message": "", "faults": [f"ended with status {status}"]}
        report: dict[str, Any] = json.loads(line)
        self.outcomes[report["outcome"]] += 1
        return report

    def close(self) -> int:
        assert self.process
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.stdout.close()  # type: ignore[union-attr]
        status, self.process = self.process.wait(60), None
        return status


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("samples"))
    yield reader
    if reader.process:
        assert reader.close() == 0


def dump_name(dotted: str) -> bytes:
    module, last = dotted.rsplit(".", 1)
    return f"c{module}\n{last}\n".encode()


def dump_text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def dump_dtype(code: str, order: str = "<") -> bytes:
    """A dtype as numpy pickles it; without a byte order, as it is before its state is given."""
    state = b"(K\x03" + dump_text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return dump_name("numpy.dtype") + dump_text(code) + b"\x89\x88\x87R" + (state if order else b"")


def dump_array(content: bytes, dtype: bytes, shape: bytes) -> bytes:
    """An array as numpy pickles it in protocol 5."""
    bytes_ = b"B" + struct.pack("<I", len(content)) + content
    return dump_name("numpy._core.numeric._frombuffer") + b"(" + bytes_ + dtype + shape + dump_text("C") + b"tR"


RECONSTRUCT, SCALAR = dump_name("numpy._core.multiarray._reconstruct"), dump_name("numpy._core.multiarray.scalar")
NDARRAY, ENCODE = dump_name("numpy.ndarray"), dump_name("_codecs.encode")
F8, U1, BOOL = dump_dtype("f8"), dump_dtype("u1", "|"), dump_dtype("b1", "|")
NEST = b"]" + b"p0\ng0\n\x86" * 45  # each tuple holds the one before twice: 2**45 lists, if written out
FIELD = b"}" + dump_text("a") + F8 + b"J\xff\xff\xff\x7f\x86s"  # 2 GB after the first byte
FIELDS = b"(K\x03" + dump_text("|") + b"N" + dump_text("a") + b"\x85" + FIELD + b"K\x08K\x01K\x00tb"
HUGE, MEGABYTE = b"\x8a\xff" + b"\x7f" * 255, dump_text("x" * 1_000_000)
CHINESE = "".join(chr(0x4E00 + i % 20_000) for i in range(300_000))
EQUAL_HASHES = b"".join(b"L%dL\nN" % (i * (2**61 - 1)) for i in range(6000))
SCALARS = SCALAR + b"p0\n" + dump_dtype("c16") + b"C\x10" + b"\1" * 16 + b"\x86p1\n"  # the arguments of a scalar

ATTACKS = {
    # known attacks on readers with a list of allowed names: they crash, fill or block the process
    "objects over own bytes": (NDARRAY + b"(K\x01\x85\x8c\x01OC\x08AAAAAAAAtR.", "refused numpy.ndarray"),
    "fields outside the item": (dump_dtype("f8", "") + FIELDS + b".", "refused a state"),
    "fields of a structure": (dump_dtype("V8", "") + FIELDS + b".", "refused dtype V8"),
    "1.6 GB of zeros": (NDARRAY + b"J\x00\xc2\xeb\x0b\x85\x85R.", "refused numpy.ndarray"),
    "1.6 GB of bytes": (dump_name("builtins.bytes") + b"J\x00\xc2\xeb\x5f\x85R.", "refused bytes"),
    "endless refusal": (NEST + b"Q.", "refused the operation BINPERSID"),
    "punycode": (ENCODE + dump_text(CHINESE) + dump_text("punycode") + b"\x86R.", "refused _codecs.encode"),
    # arrays
    "dtype of objects": (dump_array(b"AAAAAAAA", dump_dtype("O8", "|"), b"K\x01\x85") + b".", "refused dtype O8"),
    "dtype of its state twice": (F8 + F8[F8.index(b"R") + 1 :] + b".", "refused a state"),
    "dtype as value": (F8 + b".", "refused a name or an array"),
    "dtype without order": (dump_array(b"AAAAAAAA", dump_dtype("f8", ""), b"K\x01\x85") + b".", "no byte order"),
    "too few bytes": (dump_array(b"AAAAAAAA", F8, b"K\x02\x85") + b".", "more or fewer bytes"),
    "too many bytes": (dump_array(b"A" * 16, F8, b")") + b".", "more or fewer bytes"),
    "negative sizes": (dump_array(b"AAAAAAAA", F8, b"J\xff\xff\xff\xff" * 2 + b"\x86") + b".", "at most 64 sizes"),
    "sizes that are booleans": (dump_array(b"AAAAAAAA", F8, b"\x88\x85") + b".", "at most 64 sizes"),
    "rows of no length": (dump_array(b"", F8, b"J\xff\xff\xff\x7fK\x00\x86") + b".", "too many rows"),
    "99 dimensions": (dump_array(b"A", U1, b"(" + b"K\x01" * 99 + b"t") + b".", "at most 64 sizes"),
    "30,000 huge sizes": (dump_array(b"", F8, b"(" + HUGE + b"p0\n" + b"g0\n" * 30_000 + b"t") + b".", "64 sizes"),
    "booleans of 255": (dump_array(b"\xff", BOOL, b"K\x01\x85") + b".", "other bytes than 0 and 1"),
    "bytes used 1,000 times": (b"(" + SCALARS + b"g0\ng1\nR" * 1000 + b"t.", "arrays of more bytes"),
    "array compared": (b"(" + dump_array(b"ab", U1, b"K\x02\x85") + b")R.", "refused a call"),
    "array as argument": (RECONSTRUCT + dump_array(b"ab", U1, b"K\x02\x85") + b"\x85R.", "refused arguments"),
    "array that is not complete": (RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R.", "not complete"),
    # calls, states and names
    "name of 1 MB": (b"c" + b"m" * 1_000_000 + b"\nn\n.", "refused 'mmmmm"),
    "name that writes to terminals": (b"cos\n\x1b[2J\n.", r"refused 'os.\x1b[2J'"),
    "instance": (b"(ios\nsystem\n.", "refused os.system"),
    "new object": (dump_name("numpy.dtype") + b")\x81.", "refused the operation NEWOBJ"),
    "state of a dictionary": (b"})b.", "refused a state"),
    "state of an array": (dump_array(b"A", U1, b"K\x01\x85") + b")b.", "refused a state"),
    "number of an extension": (b"\x82\x01.", "refused the operation EXT1"),
    "persistent id": (b"Pid\n.", "refused the operation PERSID"),
    # lengths and counts
    "bytes of 16 EB": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.", "not a readable pickle"),
    "frame of 16 EB": (b"\x80\x04\x95" + b"\xff" * 8 + b"(.", "not a readable pickle"),
    "buffer of 16 EB": (b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.", "not a readable pickle"),
    "memo of 4 GB": (b"Nr\xff\xff\xff\xff.", "no place 4294967295"),
    "integer of 8 million bits": (b"\x8b\x40\x42\x0f\x00" + b"\x7f" * 1_000_000 + b".", "more than 2,040 bits"),
    "integer of 1 million digits": (b"I" + b"1" * 1_000_000 + b"\n.", "not a readable pickle"),
    "long of 1 million digits": (b"L" + b"1" * 1_000_000 + b"L\n.", "not a readable pickle"),
    "number of 1 million digits": (b"(F" + b"1" * 1_000_000 + b"\n.", "not a readable pickle"),
    # containers
    "lists that repeat": (NEST + b".", "parts that repeat"),
    "text that repeats": (dump_text("x" * 10_000) + b"p0\n(" + b"g0\n" * 20_000 + b"t\x86.", "parts that repeat"),
    "lists that lie deep": (b"]" + b"\x85" * 50 + b".", "50 lists or dictionaries within each other"),
    "100,000 tuples": (b")" + b"\x85" * 100_000 + b".", "50 lists or dictionaries within each other"),
    "100,000 marks": (b"N" + b"(" * 100_000 + b".", "not complete"),
    "list within itself": (b"]p0\ng0\na.", "holds itself"),
    "tuple within itself": (b"]p0\n\x85p1\ng0\ng1\na\x86.", "holds itself"),
    "equal hashes": (b"}(" + EQUAL_HASHES + b"u.", "more than 5,000 keys that are numbers"),
    "list as key": (b"}]Ns.", "keys that are neither text nor numbers"),
    "tuple as key": (b"}" + NEST[1:].join([b")", b""]) + b"Ns.", "keys that are neither text nor numbers"),
    "key without value": (b"}(Nu.", "not a readable pickle"),
    "key twice": (b"}NNsNNs.", "a key twice"),
    "key of 1 MB, often": (b"}" + MEGABYTE + b"Ns" + MEGABYTE + b"p0\nNs" + b"g0\nNs" * 100_000 + b".", "twice"),
    "list that is a dictionary": (b"}Na.", "not a list"),
    # the end
    "half a character": (b"X\x03\x00\x00\x00\xed\xa0\x80.", "not a readable pickle"),
    "nothing": (b"", "not a readable pickle"),
    "no value": (b".", "without a value"),
    "two values": (b"NN.", "not complete"),
    "more after the end": (b"N.N.", "ends before the file"),
    "value below a mark": (b"]N(a.", "takes a value that is not there"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused(reader: Reader, attack: str) -> None:
    sample, reason = ATTACKS[attack]
    report = reader.read(sample)
    assert report["faults"] == [] and report["outcome"] == "refused"
    assert reason in report["message"] and report["message"].startswith("FILE: ")


def test_the_child_notices_what_an_unsafe_reader_does(tmp_path: Path) -> None:
    unsafe = Reader(tmp_path, "unsafe")
    for sample, fault in [
        (dump_name("colorsys.rgb_to_hsv") + b".", "colorsys"),
        (dump_name("os.getcwd") + b".", "builtin_function_or_method"),
        (dump_name("builtins.open") + dump_text("/dev/null") + b"\x85R.", "open"),
        (ATTACKS["objects over own bytes"][0], "array of object"),
        (ATTACKS["1.6 GB of zeros"][0], "MemoryError"),
        (b"}(" + EQUAL_HASHES * 60 + b"u.", "ended with status -27"),  # SIGPROF: more than a second
    ]:
        assert fault in " ".join(unsafe.read(sample)["faults"])
    assert unsafe.read(b"N.") == {"outcome": "read", "message": "", "faults": []}
    assert unsafe.close() == 0


VALUES: list[Any] = [
    {"a": [0.25, 1, -(2**40), 2**70], "b": (None, True, "é", b"\xff\x00", 1.5j), "c": {}, 7: [], "d": ()},
    {"x": np.arange(6.0).reshape(2, 3), "y": [np.float64(0.5), np.float32(2), np.int64(3), np.True_]},
    [np.arange(6, dtype=">i2").reshape(3, 2).T, np.array(True), np.zeros((0, 2), "c8"), np.arange(9)[::2]],
]
CORPUS = [pickle.dumps(value, protocol=protocol) for value in VALUES for protocol in range(6)]
WORDS = "numpy dtype ndarray numpy._core.multiarray _reconstruct scalar numpy._core.numeric _frombuffer _codecs encode "
WORDS += "builtins bytes complex os system latin1 punycode f8 O8 V8 U1 M8 < | C K b"

integers = st.sampled_from([0, 1, 2, 3, -1, 255, 2**31 - 1, -(2**31), 2**63]) | st.integers(-9, 99)
words = (st.sampled_from(WORDS.split()) | st.text(max_size=3)).map(str.encode)
contents = words | st.sampled_from([b"\0" * 8, b"A" * 8, b"\xff"]) | st.binary(max_size=24)


def pack(layout: str) -> st.SearchStrategy[bytes]:
    """Any integer as the bytes of `layout`, without the bytes that do not fit."""
    size = struct.calcsize(layout)
    return integers.map(lambda value: (value % 256**size).to_bytes(size, "little"))


def draw_counted(layout: str) -> st.SearchStrategy[bytes]:
    """Bytes after their length, which is sometimes wrong."""
    lengths = contents.map(lambda content: struct.pack(layout, len(content)) + content)
    return st.one_of(lengths, lengths, lengths, st.tuples(pack(layout), contents).map(b"".join))


ARGUMENTS: dict[str | None, st.SearchStrategy[bytes]] = {
    None: st.just(b""),
    "uint1": pack("<B"),
    "uint2": pack("<H"),
    "int4": pack("<i"),
    "uint4": pack("<I"),
    "uint8": pack("<Q"),
    "float8": st.floats().map(lambda value: struct.pack(">d", value)),
    "floatnl": st.floats().map(lambda value: f"{value!r}\n".encode()),
    "decimalnl_short": integers.map(lambda value: f"{value}\n".encode()),
    "decimalnl_long": integers.map(lambda value: f"{value}L\n".encode()),
    "stringnl": words.map(lambda word: b"'" + word + b"'\n"),
    "stringnl_noescape": words.map(lambda word: word + b"\n"),
    "stringnl_noescape_pair": st.tuples(words, words).map(lambda pair: b"\n".join([*pair, b""])),
    "unicodestringnl": words.map(lambda word: word + b"\n"),
    **dict.fromkeys(("string1", "bytes1", "unicodestring1", "long1"), draw_counted("<B")),
    **dict.fromkeys(("string4", "bytes4", "unicodestring4", "long4"), draw_counted("<I")),
    **dict.fromkeys(("bytes8", "unicodestring8", "bytearray8"), draw_counted("<Q")),
}


def split(program: bytes) -> list[bytes]:
    """A pickle's operations, each with its argument."""
    starts = [position for _, _, position in pickletools.genops(program)]
    return [program[start:end] for start, end in zip(starts, [*starts[1:], len(program)], strict=True)]


operations = st.sampled_from(pickletools.opcodes).flatmap(
    lambda opcode: ARGUMENTS[opcode.arg and opcode.arg.name].map(opcode.code.encode("latin-1").__add__)
)
known = st.sampled_from(sorted({operation for program in CORPUS for operation in split(program)}))


@st.composite
def edit_pickle(draw: st.DrawFn) -> bytes:
    """A valid pickle with some operations removed, repeated, or replaced."""
    program = split(draw(st.sampled_from(CORPUS)))
    for position in draw(st.lists(st.integers(0, len(program) - 1), min_size=1, max_size=4)):
        old = program[position]
        replacements = [st.just(b""), operations, known, st.just(old * 2), st.sampled_from(program)]
        program[position] = draw(st.one_of(*replacements, operations.map(old.__add__)))
    return b"".join(program)


programs = st.lists(operations | known, max_size=40).map(lambda parts: b"".join(parts) + b".")


def test_every_operation_is_drawn() -> None:
    assert {opcode.arg and opcode.arg.name for opcode in pickletools.opcodes} == set(ARGUMENTS)


@seed(SEED)
@settings(max_examples=6 * settings.default.max_examples, database=None)
@given(programs | edit_pickle() | edit_pickle())
def check_programs(reader: Reader, program: bytes) -> None:
    report = reader.read(program)
    assert report["faults"] == [], f"FACESPEC_FUZZ_SEED={SEED}: {report}"


def test_no_program_makes_other_than_plain_values(reader: Reader) -> None:
    """Any operations in any order, and valid pickles with edited operations; the seed changes every day."""
    print(f"FACESPEC_FUZZ_SEED={SEED}")
    before = dict(reader.outcomes)
    check_programs(reader)
    outcomes = {outcome: count - before[outcome] for outcome, count in reader.outcomes.items()}
    assert min(outcomes.values()) > sum(outcomes.values()) / 50, outcomes  # neither all valid nor all invalid


def test_no_damaged_pickle_makes_other_than_plain_values(reader: Reader) -> None:
    """Valid pickles with 1 to 3 bits flipped, and some truncated; the seed changes every day."""
    random = Random(SEED)
    for _ in range(20 * settings.default.max_examples):
        sample = bytearray(random.choice(CORPUS))
        for bit in random.sample(range(8 * len(sample)), random.randint(1, 3)):
            sample[bit // 8] ^= 1 << bit % 8
        if random.random() < 0.1:
            del sample[random.randrange(len(sample)) :]
        report = reader.read(bytes(sample))
        assert report["faults"] == [], f"FACESPEC_FUZZ_SEED={SEED}: {report}, {bytes(sample)!r}"
