from __future__ import annotations

import io
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.data.archives import open_files
from facespec.data.spool import Spool

KEEP = (".jpg", ".csv")
KINDS = ["", ".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]
FILES = {"b/two.jpg": b"2" * 1000, "a/one.JPG": b"1", "table.csv": b"x,y\n" * 5000, "a/zero.jpg": b"", "read.me": b"?"}


def contents(path: Path) -> dict[str, bytes]:
    with open_files(path, keep=KEEP) as files:
        return {name: files.read(name) for name in files.names if name.lower().endswith(KEEP)}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_however_packed(packed: Callable[..., Path], kind: str, order: int, tmp_path: Path) -> None:
    path = packed(tmp_path, kind, dict(list(FILES.items())[::order]))
    with open_files(path, keep=KEEP) as files:
        assert files.names == ("a/one.JPG", "a/zero.jpg", "b/two.jpg", "read.me", "table.csv")
        assert files.refused == ()
        for name in ("table.csv", "a/one.JPG", "b/two.jpg", "a/zero.jpg", "a/one.JPG"):
            assert files.read(name) == FILES[name]
        with files.open("table.csv") as table, files.open("b/two.jpg") as picture:
            assert (table.read(3), picture.read(2)) == (b"x,y", b"22")
            assert (table.read(3), picture.read()) == (b"\nx,", b"2" * 998)


def test_one_other_file_is_its_own_data_set(tmp_path: Path) -> None:
    (tmp_path / "faces.csv").write_bytes(b"x,y\n")
    assert contents(tmp_path / "faces.csv") == {"faces.csv": b"x,y\n"}


@pytest.mark.parametrize("kind", [".zip", ".tar.xz"])
def test_the_first_bytes_tell_the_kind_not_the_name(packed: Callable[..., Path], kind: str, tmp_path: Path) -> None:
    path = packed(tmp_path, kind, FILES).rename(tmp_path / "download")
    assert contents(path)["b/two.jpg"] == FILES["b/two.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_system_files_are_left_out(packed: Callable[..., Path], kind: str, tmp_path: Path) -> None:
    system = ["__MACOSX/a/._one.jpg", "a/.DS_Store", ".git/x.jpg", "a/.ipynb_checkpoints/one.jpg", "Thumbs.db"]
    path = packed(tmp_path, kind, dict.fromkeys([*system, "a/one.jpg"], b"1"))
    with open_files(path, keep=KEEP) as files:
        assert (files.names, files.refused) == (("a/one.jpg",), ())


@pytest.mark.parametrize("kind", [".zip", ".tar.xz"])
def test_names_that_lead_out_are_refused_and_nothing_is_written(
    packed: Callable[..., Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.chdir(room)
    names = ["../out.jpg", "a/../../out.jpg", "/etc/out.jpg", "./a/one.jpg"]
    path = packed(tmp_path, kind, dict.fromkeys(names, b"1"))
    with open_files(path, keep=KEEP) as files:
        assert files.names == ("a/one.jpg",)
        assert files.refused == tuple((name, "a name that leads out of the archive") for name in sorted(names[:3]))
    assert sorted(tmp_path.rglob("*")) == [path, room]


def test_windows_separators_in_a_zip(packed: Callable[..., Path], tmp_path: Path) -> None:
    path = packed(tmp_path, ".zip", {"a\\one.jpg": b"1", "..\\out.jpg": b"1"})
    with open_files(path, keep=KEEP) as files:
        assert files.names == ("a/one.jpg",)
        assert files.refused == (("../out.jpg", "a name that leads out of the archive"),)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_looking_names_are_one_name(packed: Callable[..., Path], kind: str, tmp_path: Path) -> None:
    """macOS spells an accent as its own character."""
    path = packed(tmp_path, kind, {"Zoe\u0308/1.jpg": b"1"})
    assert contents(path) == {"Zo\u00eb/1.jpg": b"1"}


@pytest.mark.parametrize("kind", ["", ".tar"])
def test_names_that_are_no_text_become_text(packed: Callable[..., Path], kind: str, tmp_path: Path) -> None:
    path = packed(tmp_path, kind, {os.fsdecode(b"a\xff.jpg"): b"1"})
    assert contents(path) == {"a\\udcff.jpg": b"1"}


def test_links_and_devices_in_archives_are_refused(tmp_path: Path) -> None:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    with tarfile.open(tmp_path / "t.tar.xz", "w:xz") as archive:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with open_files(tmp_path / "t.tar.xz", keep=KEEP) as files:
        assert files.names == ()
        assert files.refused == tuple((f"{n}.jpg", "a link or a device, not a file") for n in range(4))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with open_files(tmp_path / "z.zip", keep=KEEP) as files:
        assert (files.names, files.refused) == ((), (("link.jpg", "a link or a device, not a file"),))


def test_directories_follow_links_but_not_in_circles(packed: Callable[..., Path], tmp_path: Path) -> None:
    elsewhere = packed(tmp_path, "", {"one.jpg": b"1"}).rename(tmp_path / "elsewhere")
    path = packed(tmp_path, "", {"b/two.jpg": b"2"})
    (path / "a").symlink_to(elsewhere)
    (path / "again").symlink_to(elsewhere)
    (path / "b" / "circle").symlink_to(path)
    (path / "b" / "narrow circle").symlink_to(path / "b")
    (path / "three.jpg").symlink_to(elsewhere / "one.jpg")
    (path / "broken.jpg").symlink_to(elsewhere / "none.jpg")
    os.mkfifo(path / "pipe.jpg")
    assert contents(path) == {"a/one.jpg": b"1", "again/one.jpg": b"1", "b/two.jpg": b"2", "three.jpg": b"1"}
    with open_files(path, keep=KEEP) as files:
        assert [name for name, _ in files.refused] == ["broken.jpg", "pipe.jpg"]


def test_a_compressed_tar_is_read_once_and_leaves_nothing_behind(
    packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, ".tar.xz", FILES)
    waiting = tmp_path / "tmp"
    waiting.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(waiting))
    times = []
    really: Callable[..., Any] = lzma.open
    monkeypatch.setattr(lzma, "open", lambda *a, **k: times.append(a) or really(*a, **k))
    assert contents(path) == {name: content for name, content in FILES.items() if name != "read.me"}
    assert len(times) == 1
    assert list(waiting.iterdir()) == []


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_both_dialects_of_tar(form: int, tmp_path: Path) -> None:
    """Names of 255 characters and more, and names in other scripts, need a header of their own; links do too."""
    names = ["a" * 150 + ".jpg", "f/" * 150 + "b.jpg", "Zo\u00eb/\u4e00.jpg", "short.jpg"]
    with tarfile.open(tmp_path / "t.tar", "w", format=form, pax_headers={"comment": "of all"}) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 600 + number
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname, link.size = tarfile.SYMTYPE, "x" * 200, 700
        archive.addfile(link)
        last = tarfile.TarInfo("last.jpg")
        last.size, last.mtime = 1, 1.5
        archive.addfile(last, io.BytesIO(b"z"))
    expected = {name: bytes([number]) * (600 + number) for number, name in enumerate(names)} | {"last.jpg": b"z"}
    assert contents(tmp_path / "t.tar") == expected


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_a_spool_gives_back_what_it_got(pieces: list[bytes], data: st.DataObject) -> None:
    with ExitStack() as stack:
        spool = Spool(stack)
        places = [spool.append(piece) for piece in pieces]
        for index in data.draw(st.permutations(range(len(pieces)))):
            assert spool.open(*places[index]).read() == pieces[index]
