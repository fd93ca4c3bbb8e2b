"""Sizes that an archive claims are not trusted, and what it yields is counted, before and while anything is written."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data import unpacking
from facespec.data.archives import UnusableFile, open_files
from facespec.data.unpacking import BoundedReader, Spool
from facespec.study.errors import StudyError

ENDINGS = (".jpg", ".csv")
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}
KINDS = ["", ".zip", *COMPRESS]
MIB = 2**20
Pack = Callable[..., Path]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all pieces that were written to disk."""
    lengths: list[int] = []
    append = Spool.append

    def append_and_count(spool: Spool, content: Any) -> tuple[int, int]:
        span = append(spool, content)
        lengths.append(span[1])
        return span

    monkeypatch.setattr(Spool, "append", append_and_count)
    return lengths


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive may unpack to 2 MiB, and 50 bytes for each of its own."""
    monkeypatch.setattr(unpacking, "SLACK", 2 * MIB)
    monkeypatch.setattr(unpacking, "RATIO", 50)


def check_refused(path: Path, fragment: str) -> None:
    with pytest.raises(StudyError, match=re.escape(fragment)), open_files(path, endings=ENDINGS) as files:
        for name in files.names:
            files.read(name)


def make_member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def make_sparse_member(dialect: str) -> bytes:
    """A member of a few bytes that claims 4 TB: the headers as GNU tar writes them, in one of its four dialects."""
    huge = 4 * 10**12
    if dialect == "gnu":
        block = bytearray(make_member("a.jpg", 512, tarfile.GNUTYPE_SPARSE))
        block[386:410] = b"%011o\0%011o\0" % (0, 512)  # one piece of 512 bytes; the rest is a hole
        block[483:495] = b"\x80\0\0\0" + huge.to_bytes(8, "big")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + bytes(512)
    records = {
        "0.0": {"size": huge, "numblocks": 1, "offset": 0, "numbytes": 512},
        "0.1": {"size": huge, "numblocks": 1, "map": "0,512"},
        "1.0": {"major": 1, "minor": 0, "realsize": huge, "name": "a.jpg"},
    }[dialect]
    info = tarfile.TarInfo("a.jpg")
    info.size = 1024
    info.pax_headers = {f"GNU.sparse.{key}": str(value) for key, value in records.items()}
    return info.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n512\n".ljust(1024, b"\0")


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("dialect", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_are_refused(dialect: str, kind: str, written: list[int], tmp_path: Path) -> None:
    path = tmp_path / f"faces{kind}"
    path.write_bytes(COMPRESS[kind](make_sparse_member(dialect) + bytes(1024)))
    with tarfile.open(path) as archive:
        assert archive.next().issparse()  # type: ignore[union-attr]  # the file is what it is meant to be
    check_refused(path, "a.jpg is a sparse file, whose size is only claimed. Pack the data set anew without the option")
    assert written == []


@pytest.mark.parametrize("size", [4 * 10**12, 2**62])
@pytest.mark.parametrize("name", ["a.jpg", "a.csv", "a.txt"])
@pytest.mark.parametrize("kind", COMPRESS)
def test_a_member_of_a_claimed_size_is_not_written(
    kind: str, name: str, size: int, written: list[int], tmp_path: Path
) -> None:
    path = tmp_path / f"faces{kind}"
    path.write_bytes(COMPRESS[kind](make_member(name, size) + bytes(5000)))
    check_refused(path, "not a whole zip or tar archive (it ends before its end mark)")
    assert written == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [2**40, -1])
def test_a_header_of_a_claimed_length_is_not_read_into_memory(kind: bytes, size: int, tmp_path: Path) -> None:
    (tmp_path / "faces.tar").write_bytes(make_member("x", size, kind) + bytes(5000))
    check_refused(tmp_path / "faces.tar", f"(a header of {size:,} bytes)")


@pytest.mark.parametrize(
    "records", [b"5 path", b"99999999999999999999999 path=a\n", b"0 path=a\n", b"-8 path=a\n", b"x"]
)
def test_an_invalid_extended_header_is_refused(records: bytes, tmp_path: Path) -> None:
    block = make_member("x", len(records), tarfile.XHDTYPE) + records.ljust(512, b"\0")
    (tmp_path / "faces.tar").write_bytes(block + make_member("a.jpg", 0) + bytes(1024))
    check_refused(tmp_path / "faces.tar", "not a whole zip or tar archive")


@pytest.mark.parametrize("name", ["a.jpg", "a.txt"])
@pytest.mark.parametrize("kind", [".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
@pytest.mark.usefixtures("low_limits")
def test_what_unpacks_to_many_times_its_size(
    pack: Pack, kind: str, name: str, written: list[int], tmp_path: Path
) -> None:
    path = pack(tmp_path, kind, {name: bytes(30 * MIB)})
    packed = path.stat().st_size
    limit = (2 * MIB + 50 * packed) // MIB
    check_refused(path, f"{packed:,} bytes that unpack to more than {limit} MiB; no set of faces does. Fetch it again")
    assert sum(written) == 0


@pytest.mark.parametrize(("kind", "n"), [(".tar.bz2", 2000), (".tar.gz", 100), (".tar.xz", 500)])
def test_what_follows_the_end_mark_is_counted(kind: str, n: int, tmp_path: Path) -> None:
    """A tail of many small members of nothing but zeros, up to 20 GB in 90 kB, is not read to its end."""
    compress = COMPRESS[kind]
    path = tmp_path / f"faces{kind}"
    path.write_bytes(compress(make_member("a.jpg", 0) + bytes(1024)) + compress(bytes(10 * MIB)) * n)
    check_refused(path, "bytes that unpack to more than ")


@pytest.mark.parametrize("kind", KINDS)
def test_more_members_than_any_data_set(pack: Pack, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path, kind, {f"{number}.txt": b"1" for number in range(6)})
    monkeypatch.setattr(unpacking, "MEMBERS", 5)
    check_refused(path, "holds more than 5 files and folders; the largest data set here has 1.2 million. Give the")
    monkeypatch.setattr(unpacking, "MEMBERS", 6)
    with open_files(path, endings=ENDINGS) as files:
        assert len(files.names) == 6


def test_paths_through_links_between_folders_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten folders, each of which links to all others, have ten million paths."""
    monkeypatch.setattr(unpacking, "MEMBERS", 1000)
    for one in range(10):
        (tmp_path / "faces" / str(one)).mkdir(parents=True)
        for other in range(10):
            (tmp_path / "faces" / str(one) / f"to{other}").symlink_to(tmp_path / "faces" / str(other))
    check_refused(tmp_path / "faces", "holds more than 1,000 files and folders")


@pytest.mark.parametrize("kind", KINDS)
def test_tables_may_be_larger_than_pictures_but_are_limited_too(
    pack: Pack, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "LARGEST", MIB)
    monkeypatch.setattr(unpacking, "LARGEST_TABLE", 3 * MIB)
    sizes = {"a.csv": 3 * MIB, "b.csv": 3 * MIB + 1, "c.jpg": MIB + 1, "d.jpg": MIB}
    path = pack(tmp_path, kind, {name: bytes(size) for name, size in sizes.items()})
    with open_files(path, endings=ENDINGS) as files:
        with files.open("a.csv") as table:
            assert len(table.read()) == 3 * MIB
        with pytest.raises(UnusableFile, match=r"^larger than 3 MiB$"), files.open("b.csv") as table:
            table.read()
        assert len(files.read("d.jpg")) == MIB
        with pytest.raises(UnusableFile, match=r"^larger than 1 MiB$"):
            files.read("c.jpg")


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_file_that_is_too_large_is_not_written(
    pack: Pack, kind: str, written: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "LARGEST", MIB)
    path = pack(tmp_path, kind, {"a.jpg": bytes(MIB + 1), "b.jpg": bytes(5)})
    with open_files(path, endings=ENDINGS) as files:
        assert files.read("b.jpg") == bytes(5)
    assert written == [5]


def test_the_total_is_limited_whatever_the_ratio(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "TOTAL", 3 * MIB)
    for kind in (".zip", ".tar", ".tar.gz"):
        path = pack(tmp_path, kind, {f"{n}.jpg": bytes([n]) * MIB for n in range(4)})
        check_refused(path, "bytes that unpack to more than 3 MiB; no set of faces does.")


def test_sizes_of_real_data_sets_are_allowed() -> None:
    """FER2013's table in its archive, VoxCeleb1 in one, KDEF; and a set of a few flat pictures."""
    for packed, unpacked in ((60e6, 301e6), (300e9, 305e9), (600e6, 620e6), (2000, 30e6)):
        assert unpacking.find_unpacked_limit(int(packed)) > unpacked
    assert unpacking.find_limit("fer2013.CSV") > 301e6 and unpacking.MEMBERS > 1_300_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_a_block_at_once_into_memory(pack: Pack, method: int, tmp_path: Path) -> None:
    path = pack(tmp_path, ".zip", {"a.jpg": b"1"}, method=method)
    check_refused(path, "a.jpg is packed by another method than deflate. Unpack it yourself and give the directory")


@pytest.mark.usefixtures("low_limits")
def test_members_of_a_zip_that_share_their_bytes(pack: Pack, tmp_path: Path) -> None:
    """All names of the list at its end lead to one member, whose bytes would be read once for each."""
    path = pack(tmp_path, ".zip", {f"{n:03d}.jpg": bytes(40_000) for n in range(100)})
    content = bytearray(path.read_bytes())
    start = 0
    while (start := content.find(b"PK\1\2", start)) >= 0:
        content[start + 42 : start + 46] = struct.pack("<L", 0)
        start += 46
    path.write_bytes(content)
    check_refused(path, "bytes that unpack to more than 2 MiB")


@given(st.data(), st.sampled_from(KINDS[1:]))
@settings(max_examples=100)
def test_flipped_bits_lead_to_refusals_and_no_other_error(
    pack: Pack, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    files = {"a.csv": b"x,y\n" * 300, "b/\u4e00.jpg": b"1" * 700, "c.jpg": b"2"}
    path = pack(tmp_path_factory.mktemp("flip"), kind, files)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with suppress(StudyError), open_files(path, endings=ENDINGS) as archive:
        for name in archive.names:
            with suppress(UnusableFile):
                archive.read(name)


def test_a_bounded_reader_gives_exactly_its_limit() -> None:
    error = UnusableFile("too much")
    assert io.BufferedReader(BoundedReader(io.BytesIO(bytes(5)), 5, error)).read() == bytes(5)
    with pytest.raises(UnusableFile):
        io.BufferedReader(BoundedReader(io.BytesIO(bytes(6)), 5, error)).read()


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_a_spool_returns_its_pieces_in_any_order(pieces: list[bytes], data: st.DataObject) -> None:
    with ExitStack() as stack:
        spool = Spool(stack)
        spans = [spool.append(piece) for piece in pieces]
        for index in data.draw(st.permutations(range(len(pieces)))):
            assert spool.open(*spans[index]).read() == pieces[index]
