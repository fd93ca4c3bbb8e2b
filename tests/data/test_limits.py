"""What an archive claims is not believed, and what it gives is counted, before and while anything is written."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data import limits
from facespec.data.archives import UnusableArchive, open_files
from facespec.data.spool import Spool
from facespec.study.errors import StudyError

KEEP = (".jpg", ".csv")
KINDS = ["", ".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}
MIB = 2**20


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all pieces that were written to disk."""
    lengths: list[int] = []
    really = Spool.append

    def append(spool: Spool, content: Any) -> tuple[int, int]:
        place = really(spool, content)
        lengths.append(place[1])
        return place

    monkeypatch.setattr(Spool, "append", append)
    return lengths


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test reaches quickly: 2 MiB, and 50 bytes for each."""
    monkeypatch.setattr(limits, "SLACK", 2 * MIB)
    monkeypatch.setattr(limits, "RATIO", 50)


def refused(path: Path) -> str:
    with pytest.raises(StudyError) as caught, open_files(path, keep=KEEP) as files:
        for name in files.names:
            files.read(name)
    return str(caught.value).replace(str(path), "PATH")


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(dialect: str) -> bytes:
    """A member of a few bytes that claims 4 TB: the headers as GNU tar writes them, in one of its four dialects."""
    huge = 4 * 10**12
    if dialect == "gnu":
        block = bytearray(member("a.jpg", 512, tarfile.GNUTYPE_SPARSE))
        block[386:410] = b"%011o\0%011o\0" % (0, 512)  # one piece of 512 bytes; the rest is a hole
        block[483:495] = b"\x80\0\0\0" + huge.to_bytes(8, "big")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + bytes(512)
    records = {
        "0.0": {"GNU.sparse.size": huge, "GNU.sparse.numblocks": 1, "GNU.sparse.offset": 0, "GNU.sparse.numbytes": 512},
        "0.1": {"GNU.sparse.size": huge, "GNU.sparse.numblocks": 1, "GNU.sparse.map": "0,512"},
        "1.0": {"GNU.sparse.major": 1, "GNU.sparse.minor": 0, "GNU.sparse.realsize": huge, "GNU.sparse.name": "a.jpg"},
    }[dialect]
    info = tarfile.TarInfo("a.jpg")
    info.size = 1024
    info.pax_headers = {key: str(value) for key, value in records.items()}
    return info.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n512\n".ljust(1024, b"\0")


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("dialect", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_are_refused_as_such(dialect: str, kind: str, written: list[int], tmp_path: Path) -> None:
    path = tmp_path / f"faces{kind}"
    path.write_bytes(PACKERS[kind](sparse(dialect) + bytes(1024)))
    with tarfile.open(path) as archive:
        assert archive.next().issparse()  # type: ignore[union-attr]  # the file is what it is meant to be
    assert refused(path) == (
        "PATH: a.jpg is a sparse file, whose size is only claimed. "
        "Pack the data set anew without the option --sparse, or give its directory."
    )
    assert written == []


@pytest.mark.parametrize("size", [4 * 10**12, 2**62])
@pytest.mark.parametrize("name", ["a.jpg", "a.csv", "a.txt"])
@pytest.mark.parametrize("kind", PACKERS)
def test_a_member_that_only_claims_a_size_is_not_written(
    kind: str, name: str, size: int, written: list[int], tmp_path: Path
) -> None:
    path = tmp_path / f"faces{kind}"
    path.write_bytes(PACKERS[kind](member(name, size) + bytes(5000)))
    assert "PATH: not a whole zip or tar archive (it ends before its end mark)" in refused(path)
    assert written == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [2**40, -1])
def test_a_header_that_claims_a_length_is_not_read_into_memory(kind: bytes, size: int, tmp_path: Path) -> None:
    (tmp_path / "faces.tar").write_bytes(member("x", size, kind) + bytes(5000))
    assert f"(a header of {size:,} bytes)" in refused(tmp_path / "faces.tar")


@pytest.mark.parametrize(
    "records", [b"5 path", b"99999999999999999999999 path=a\n", b"0 path=a\n", b"-8 path=a\n", b"x"]
)
def test_a_header_that_is_no_header(records: bytes, tmp_path: Path) -> None:
    block = member("x", len(records), tarfile.XHDTYPE) + records.ljust(512, b"\0")
    (tmp_path / "faces.tar").write_bytes(block + member("a.jpg", 0) + bytes(1024))
    assert "not a whole zip or tar archive" in refused(tmp_path / "faces.tar")


@pytest.mark.parametrize("name", ["a.jpg", "a.txt"])
@pytest.mark.parametrize("kind", [".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
@pytest.mark.usefixtures("small")
def test_what_unpacks_to_many_times_its_size(
    packed: Callable[..., Path], kind: str, name: str, written: list[int], tmp_path: Path
) -> None:
    path = packed(tmp_path, kind, {name: bytes(30 * MIB)})
    packed_size = path.stat().st_size
    assert refused(path) == (
        f"PATH: {packed_size:,} bytes that unpack to more than {(2 * MIB + 50 * packed_size) // MIB} MiB; no set of "
        "faces does. Fetch it again, or unpack it yourself and give the directory."
    )
    assert sum(written) == 0


@pytest.mark.parametrize(("kind", "n"), [(".tar.bz2", 2000), (".tar.gz", 100), (".tar.xz", 500)])
def test_what_follows_the_end_mark_is_counted(kind: str, n: int, tmp_path: Path) -> None:
    """A tail of many small members of nothing but zeros, up to 20 GB in 90 kB, is not read to its end."""
    path = tmp_path / f"faces{kind}"
    compress = PACKERS[kind]
    path.write_bytes(compress(member("a.jpg", 0) + bytes(1024)) + compress(bytes(10 * MIB)) * n)
    assert "bytes that unpack to more than " in refused(path)


@pytest.mark.parametrize("kind", KINDS)
def test_more_members_than_any_data_set(
    packed: Callable[..., Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEMBERS", 5)
    path = packed(tmp_path, kind, {f"{number}.txt": b"1" for number in range(6)})
    assert refused(path) == (
        "PATH: holds more than 5 files and folders; the largest data set here has 1.2 million. "
        "Give the directory or archive that holds the faces alone."
    )
    monkeypatch.setattr(limits, "MEMBERS", 6)
    with open_files(path, keep=KEEP) as files:
        assert len(files.names) == 6


def test_links_between_folders_do_not_multiply_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten folders, each of which links to all others, have ten million paths."""
    monkeypatch.setattr(limits, "MEMBERS", 1000)
    for one in range(10):
        (tmp_path / "faces" / str(one)).mkdir(parents=True)
        for other in range(10):
            (tmp_path / "faces" / str(one) / f"to{other}").symlink_to(tmp_path / "faces" / str(other))
    assert "holds more than 1,000 files and folders" in refused(tmp_path / "faces")


@pytest.mark.parametrize("kind", KINDS)
def test_tables_may_be_larger_than_pictures_but_not_without_end(
    packed: Callable[..., Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LARGEST", MIB)
    monkeypatch.setattr(limits, "LARGEST_TABLE", 3 * MIB)
    path = packed(tmp_path, kind, {"a.csv": bytes(3 * MIB), "b.csv": bytes(3 * MIB + 1), "c.jpg": bytes(MIB + 1)})
    with open_files(path, keep=KEEP) as files:
        with files.open("a.csv") as table:
            assert len(table.read()) == 3 * MIB
        for name, size in (("b.csv", 3), ("c.jpg", 1)):
            with pytest.raises(UnusableArchive, match=f"^larger than {size} MiB$"), files.open(name) as file:
                file.read()


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_file_that_is_too_large_takes_no_room(
    packed: Callable[..., Path], kind: str, written: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LARGEST", MIB)
    path = packed(tmp_path, kind, {"a.jpg": bytes(MIB + 1), "b.jpg": bytes(5)})
    with open_files(path, keep=KEEP) as files:
        assert files.read("b.jpg") == bytes(5)
    assert written == [5]


def test_the_total_is_bounded_whatever_the_ratio(
    packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOTAL", 3 * MIB)
    for kind in (".zip", ".tar", ".tar.gz"):
        path = packed(tmp_path, kind, {f"{n}.jpg": bytes([n]) * MIB for n in range(4)})
        assert "bytes that unpack to more than 3 MiB; no set of faces does." in refused(path)


def test_real_sizes_pass() -> None:
    """FER2013's table in its archive, VoxCeleb1 in one, KDEF; and a set of a few flat pictures."""
    for packed_size, unpacked in ((60e6, 301e6), (300e9, 305e9), (600e6, 620e6), (2000, 30e6)):
        assert limits.find_unpacked_limit(int(packed_size)) > unpacked
    assert limits.find_limit("fer2013.CSV") > 301e6 and limits.MEMBERS > 1_300_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_a_block_at_once_into_memory(
    packed: Callable[..., Path], method: int, tmp_path: Path
) -> None:
    path = packed(tmp_path, ".zip", {"a.jpg": b"1"}, method=method)
    assert refused(path) == (
        "PATH: a.jpg is packed by another method than deflate. "
        "Unpack it yourself and give the directory, or pack it anew."
    )


@pytest.mark.usefixtures("small")
def test_members_of_a_zip_that_share_their_bytes(packed: Callable[..., Path], tmp_path: Path) -> None:
    """All names of the list at its end lead to one member, whose bytes would be read once for each."""
    path = packed(tmp_path, ".zip", {f"{n:03d}.jpg": bytes(40_000) for n in range(100)})
    content = bytearray(path.read_bytes())
    start = 0
    while (start := content.find(b"PK\1\2", start)) >= 0:
        content[start + 42 : start + 46] = struct.pack("<L", 0)
        start += 46
    path.write_bytes(content)
    assert "bytes that unpack to more than 2 MiB" in refused(path)


@given(st.data(), st.sampled_from(KINDS[1:]))
@settings(max_examples=150, deadline=None)
def test_whatever_bits_flip_only_refusals_follow(
    packed: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    path = packed(
        tmp_path_factory.mktemp("flip"), kind, {"a.csv": b"x,y\n" * 300, "b/\u4e00.jpg": b"1" * 700, "c.jpg": b"2"}
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with suppress(StudyError), open_files(path, keep=KEEP) as files:
        for name in files.names:
            with suppress(UnusableArchive):
                files.read(name)


@pytest.mark.usefixtures("small")
def test_a_bounded_file_gives_exactly_what_it_may() -> None:
    excess = UnusableArchive("too much")
    assert io.BufferedReader(limits.BoundedReader(io.BytesIO(bytes(5)), 5, excess)).read() == bytes(5)
    with pytest.raises(UnusableArchive):
        io.BufferedReader(limits.BoundedReader(io.BytesIO(bytes(6)), 5, excess)).read()
