"""The same files are read however they are packed; what cannot be read is refused with the reason."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data.archives import UnusableFile, open_files
from facespec.study.errors import StudyError

ENDINGS = (".jpg", ".csv")
KINDS = ["", ".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]
FILES = {"b/two.jpg": b"2" * 1000, "a/one.JPG": b"1", "table.csv": b"x,y\n" * 5000, "a/zero.jpg": b"", "read.me": b"?"}
OUTSIDE, IRREGULAR = "a name that leads out of the archive", "a link or a device, not a file"
Pack = Callable[..., Path]


def read_all(path: Path) -> dict[str, bytes]:
    with open_files(path, endings=ENDINGS) as files:
        return {name: files.read(name) for name in files.names if name.lower().endswith(ENDINGS)}


def list_names(path: Path) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    with open_files(path, endings=ENDINGS) as files:
        return files.names, files.refused


def check_refused(path: Path, fragment: str) -> None:
    with pytest.raises(StudyError, match=re.escape(fragment)) as caught, open_files(path, endings=ENDINGS):
        pass
    assert str(caught.value).startswith(str(path)), "the message must begin with the path"


def raise_os_error(number: int, path: Path) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number), str(path))

    return fail


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_however_packed(pack: Pack, kind: str, order: int, tmp_path: Path) -> None:
    path = pack(tmp_path, kind, dict(list(FILES.items())[::order]))
    with open_files(path, endings=ENDINGS) as files:
        assert files.names == ("a/one.JPG", "a/zero.jpg", "b/two.jpg", "read.me", "table.csv")
        assert files.refused == ()
        for name in ("table.csv", "a/one.JPG", "b/two.jpg", "a/zero.jpg", "a/one.JPG"):
            assert files.read(name) == FILES[name]
        with files.open("table.csv") as table, files.open("b/two.jpg") as picture:
            assert (table.read(3), picture.read(2)) == (b"x,y", b"22")
            assert (table.read(3), picture.read()) == (b"\nx,", b"2" * 998)


def test_another_file_is_a_data_set_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "faces.csv").write_bytes(b"x,y\n")
    assert read_all(tmp_path / "faces.csv") == {"faces.csv": b"x,y\n"}


@pytest.mark.parametrize("kind", [".zip", ".tar.xz"])
def test_the_kind_is_recognised_by_the_first_bytes_not_the_name(pack: Pack, kind: str, tmp_path: Path) -> None:
    path = pack(tmp_path, kind, FILES).rename(tmp_path / "download")
    assert read_all(path)["b/two.jpg"] == FILES["b/two.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_system_files_are_omitted_and_accents_are_one_character(pack: Pack, kind: str, tmp_path: Path) -> None:
    """macOS spells an accent as a character of its own."""
    system = ["__MACOSX/a/._one.jpg", "a/.DS_Store", ".git/x.jpg", "a/.ipynb_checkpoints/one.jpg", "Thumbs.db"]
    path = pack(tmp_path, kind, dict.fromkeys([*system, "Zoe\u0308/1.jpg"], b"1"))
    assert list_names(path) == (("Zo\u00eb/1.jpg",), ())
    assert read_all(path) == {"Zo\u00eb/1.jpg": b"1"}


@pytest.mark.parametrize("kind", [".zip", ".tar.xz"])
def test_names_that_lead_out_are_refused_and_nothing_is_written(
    pack: Pack, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    names = ["../out.jpg", "a/../../out.jpg", "/etc/out.jpg", "./a/one.jpg"]
    path = pack(tmp_path, kind, dict.fromkeys(names, b"1"))
    assert list_names(path) == (("a/one.jpg",), tuple((name, OUTSIDE) for name in sorted(names[:3])))
    assert sorted(tmp_path.rglob("*")) == [path, tmp_path / "work"]


def test_windows_separators_in_a_zip(pack: Pack, tmp_path: Path) -> None:
    path = pack(tmp_path, ".zip", {"a\\one.jpg": b"1", "..\\out.jpg": b"1"})
    assert list_names(path) == (("a/one.jpg",), (("../out.jpg", OUTSIDE),))


@pytest.mark.parametrize("kind", ["", ".tar"])
def test_names_that_are_no_text_become_text(pack: Pack, kind: str, tmp_path: Path) -> None:
    path = pack(tmp_path, kind, {os.fsdecode(b"a\xff.jpg"): b"1"})
    assert read_all(path) == {"a\\udcff.jpg": b"1"}


def test_links_and_devices_in_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar.xz", "w:xz") as archive:
        for number, kind in enumerate([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert list_names(tmp_path / "t.tar.xz") == ((), tuple((f"{n}.jpg", IRREGULAR) for n in range(4)))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert list_names(tmp_path / "z.zip") == ((), (("link.jpg", IRREGULAR),))


def test_directories_follow_links_but_not_in_circles(pack: Pack, tmp_path: Path) -> None:
    elsewhere = pack(tmp_path, "", {"one.jpg": b"1"}).rename(tmp_path / "elsewhere")
    path = pack(tmp_path, "", {"b/two.jpg": b"2"})
    for name, target in {
        "a": elsewhere,
        "again": elsewhere,
        "b/circle": path,
        "b/narrow circle": path / "b",
        "three.jpg": elsewhere / "one.jpg",
        "broken.jpg": elsewhere / "none.jpg",
    }.items():
        (path / name).symlink_to(target)
    os.mkfifo(path / "pipe.jpg")
    assert read_all(path) == {"a/one.jpg": b"1", "again/one.jpg": b"1", "b/two.jpg": b"2", "three.jpg": b"1"}
    assert list_names(path)[1] == (("broken.jpg", IRREGULAR), ("pipe.jpg", IRREGULAR))


def test_a_compressed_tar_is_read_once_and_leaves_no_temporary_file(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path, ".tar.xz", FILES)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    calls = []
    open_lzma: Callable[..., Any] = lzma.open
    monkeypatch.setattr(lzma, "open", lambda *args, **kwargs: calls.append(args) or open_lzma(*args, **kwargs))
    assert read_all(path) == {name: content for name, content in FILES.items() if name != "read.me"}
    assert len(calls) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_both_dialects_of_tar(form: int, tmp_path: Path) -> None:
    """Names of 255 characters and more, and names in other scripts, need an extra header; links do too."""
    names = ["a" * 150 + ".jpg", "f/" * 150 + "b.jpg", "Zo\u00eb/\u4e00.jpg", "short.jpg"]
    expected = {name: bytes([number]) * (600 + number) for number, name in enumerate(names)} | {"last.jpg": b"z"}
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname, link.size = tarfile.SYMTYPE, "x" * 200, 700
    with tarfile.open(tmp_path / "t.tar", "w", format=form, pax_headers={"comment": "of all"}) as archive:
        for name, content in expected.items():
            if name == "last.jpg":
                archive.addfile(link)
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5
            archive.addfile(info, io.BytesIO(content))
    assert read_all(tmp_path / "t.tar") == expected


def test_a_path_without_readable_files_is_refused(tmp_path: Path) -> None:
    check_refused(tmp_path / "faces", "no such file or directory. Give the path of the data set; see docs/data.md.")
    check_refused(tmp_path / ("x" * 300), "cannot be read (File name too long). Give another path")
    os.mkfifo(tmp_path / "pipe")
    check_refused(tmp_path / "pipe", "neither a file nor a directory. Give the path of the data set")
    for link, target in (("broken", "none"), ("circle", "circle")):
        (tmp_path / link).symlink_to(tmp_path / target)
        check_refused(tmp_path / link, "a symbolic link that leads nowhere. Give the path of the data set")


@pytest.mark.parametrize(
    ("number", "fragment"),
    [
        (errno.EACCES, "may not be read. Change its permissions."),
        (errno.ENOENT, "was there, and is gone. Run the same command again when nothing changes it."),
        (errno.EIO, "cannot be read (Input/output error). Give another path, or copy the data set anew."),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_the_system_are_explained(
    pack: Pack, kind: str, number: int, fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path, kind, FILES)
    monkeypatch.setattr(Path, "open" if kind else "iterdir", raise_os_error(number, path))
    check_refused(path, fragment)


def test_a_failing_disk_is_not_called_a_damaged_archive(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def read(self, n: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    path = pack(tmp_path, ".tar.gz", FILES)
    monkeypatch.setattr(gzip, "open", lambda _: Failing())
    check_refused(path, f"{path}: cannot be read (Input/output error). Give another path, or copy the data set anew.")


def test_a_directory_below_that_may_not_be_searched(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated, as root may search all directories."""
    path = pack(tmp_path, "", FILES)
    iterate, fail = Path.iterdir, raise_os_error(errno.EACCES, path / "b")
    monkeypatch.setattr(Path, "iterdir", lambda directory: fail() if directory.name == "b" else iterate(directory))
    check_refused(path, f"{path}/b: may not be read. Change its permissions.")


def test_files_that_vanish_or_may_not_be_read_spoil_only_themselves(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path, "", FILES)
    with open_files(path, endings=ENDINGS) as files:
        (path / "b" / "two.jpg").unlink()
        with pytest.raises(UnusableFile, match=r"^no longer there$"):
            files.read("b/two.jpg")
        assert files.read("a/one.JPG") == b"1"
        for number, reason in ((errno.EACCES, "may not be read"), (errno.EIO, "cannot be opened")):
            monkeypatch.setattr(Path, "open", raise_os_error(number, path))
            with pytest.raises(UnusableFile, match=f"^{reason}$"):
                files.read("a/one.JPG")


@pytest.mark.parametrize("files", [{}, {".DS_Store": b"1"}])
@pytest.mark.parametrize("kind", ["", ".zip", ".tar.gz", ".tar.xz"])
def test_an_empty_data_set_is_refused(pack: Pack, kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = pack(tmp_path, kind, files)
    check_refused(path, "no files in it. Give the directory or archive that holds the data set.")


@pytest.mark.parametrize("name", ["faces.zip", "faces.tar", "faces.TAR.XZ", "faces.tgz"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_an_archive_by_its_name_only(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    check_refused(tmp_path / name, "(it does not begin as one). It may be truncated: fetch it again.")


def test_a_compressed_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "faces.csv.gz").write_bytes(gzip.compress(b"emotion,pixels,Usage\n" * 100))
    check_refused(tmp_path / "faces.csv.gz", "not a whole zip or tar archive (invalid header).")


TRUNCATED = "Compressed file ended before the end-of-stream marker was reached"
REASONS = {".zip": "File is not a zip file", ".tar": "it ends before its end mark"}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_truncated_archive_is_named_with_the_reason(pack: Pack, kind: str, tmp_path: Path) -> None:
    path = pack(tmp_path, kind, {f"{i}.jpg": os.urandom(3000) for i in range(20)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reason = REASONS.get(kind, TRUNCATED)
    check_refused(path, f"not a whole zip or tar archive ({reason}). It may be truncated: fetch it again.")


@settings(max_examples=40)
@given(st.data(), st.sampled_from(KINDS[1:]))
def test_an_archive_cut_anywhere_is_refused(pack: Pack, data: st.DataObject, kind: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = pack(Path(directory), kind, FILES)
        whole = path.read_bytes()
        # a tar ends in zeros behind its end mark: nothing is lost with those
        last = len(whole.rstrip(b"\0")) if kind == ".tar" else len(whole) - 1
        path.write_bytes(whole[: data.draw(st.integers(0, last))])
        check_refused(path, "not a whole zip or tar archive")


def test_a_damaged_header_is_not_taken_for_the_end(pack: Pack, tmp_path: Path) -> None:
    path = pack(tmp_path, ".tar", {"a.jpg": b"1", "b.jpg": b"2"})
    content = bytearray(path.read_bytes())
    content[1024 + 150] ^= 0xFF  # in the second header's checksum
    path.write_bytes(content)
    with tarfile.open(path, "r|") as archive:
        assert [info.name for info in archive] == ["a.jpg"], "tarfile now refuses this: the parser may be replaced"
    check_refused(path, "not a whole zip or tar archive (invalid header)")


def test_one_damaged_file_in_a_zip_spoils_only_itself(pack: Pack, tmp_path: Path) -> None:
    files = {name: name.encode() * 100 for name in ("a.jpg", "b.jpg")}
    path = pack(tmp_path, ".zip", files, method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"b.jpgb.jpgb.jpg") + 50] ^= 0xFF
    path.write_bytes(content)
    with open_files(path, endings=ENDINGS) as archive:
        assert archive.read("a.jpg") == files["a.jpg"]
        with pytest.raises(UnusableFile, match=r"^damaged in the archive$"):
            archive.read("b.jpg")


def test_a_file_with_a_password(pack: Pack, tmp_path: Path) -> None:
    path = pack(tmp_path, ".zip", {"a.jpg": b"1"})
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    path.write_bytes(content)
    with open_files(path, endings=ENDINGS) as files, pytest.raises(UnusableFile, match=r"^cannot be opened$"):
        files.read("a.jpg")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_for_temporary_files(
    pack: Pack, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(number, "full")

    path = pack(tmp_path, ".tar.xz", FILES)
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(StudyError, match=rf"^{tempfile.gettempdir()}: the disk is full; .* set TMPDIR"):
        read_all(path)


def test_no_directory_for_temporary_files(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path, ".tar.xz", FILES)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    reason = re.escape(f"{tmp_path}/none: cannot be written (No such file or directory)")
    with pytest.raises(StudyError, match=f"^{reason}; .* Set TMPDIR"):
        read_all(path)
