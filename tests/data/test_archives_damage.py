from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data import limits, tars
from facespec.data.archives import UnusableArchive, open_files
from facespec.study.errors import StudyError

KEEP = (".jpg", ".csv")
KINDS = ["", ".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]
FILES = {"b/two.jpg": b"2" * 1000, "a/one.JPG": b"1", "table.csv": b"x,y\n" * 5000, "a/zero.jpg": b"", "read.me": b"?"}


def refused(path: Path) -> str:
    with pytest.raises(StudyError) as caught, open_files(path, keep=KEEP):
        pass
    return str(caught.value).replace(str(path), "PATH")


def test_missing_path(tmp_path: Path) -> None:
    assert refused(tmp_path / "faces") == (
        "PATH: no such file or directory. Give the path of the data set; see docs/data.md."
    )


@pytest.mark.parametrize("kind", ["", ".zip"])
def test_path_that_may_not_be_read(
    packed: Callable[..., Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, kind, FILES)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open" if kind else "iterdir", forbidden)
    assert refused(path) == "PATH: may not be read. Change its permissions."


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOENT, "was there, and is gone. Run the same command again when nothing changes it."),
        (errno.EIO, "cannot be read (Input/output error). Give another path, or copy the data set anew."),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_else_the_system_says(
    packed: Callable[..., Path], kind: str, number: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, kind, FILES)

    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open" if kind else "iterdir", failing)
    assert refused(path) == f"PATH: {sentence}"


def test_a_disk_that_fails_is_not_called_a_damaged_archive(
    packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def read(self, n: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    path = packed(tmp_path, ".tar", FILES)
    monkeypatch.setattr(tars, "_plain", lambda _: Failing())
    assert refused(path) == "PATH: cannot be read (Input/output error). Give another path, or copy the data set anew."


def test_a_directory_below_that_may_not_be_searched(
    packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may search all, so that a refusal is played."""
    path = packed(tmp_path, "", FILES)
    really = Path.iterdir

    def forbidding(directory: Path) -> Any:
        if directory.name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(directory))
        return really(directory)

    monkeypatch.setattr(Path, "iterdir", forbidding)
    assert refused(path) == "PATH/b: may not be read. Change its permissions."


@pytest.mark.parametrize("to", ["none", "faces"])
def test_a_link_that_leads_nowhere(to: str, tmp_path: Path) -> None:
    (tmp_path / "faces").symlink_to(tmp_path / to)
    assert refused(tmp_path / "faces") == (
        "PATH: a symbolic link that leads nowhere. Give the path of the data set; see docs/data.md."
    )


def test_a_path_that_the_system_does_not_take(tmp_path: Path) -> None:
    assert refused(tmp_path / ("x" * 300)) == (
        "PATH: cannot be read (File name too long). Give another path, or copy the data set anew."
    )


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "faces")
    assert refused(tmp_path / "faces") == (
        "PATH: neither a file nor a directory. Give the path of the data set; see docs/data.md."
    )


def test_files_that_vanish_or_may_not_be_read_spoil_only_themselves(
    packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, "", FILES)
    with open_files(path, keep=KEEP) as files:
        (path / "b" / "two.jpg").unlink()
        with pytest.raises(UnusableArchive, match=r"^no longer there$"):
            files.read("b/two.jpg")
        assert files.read("a/one.JPG") == b"1"

        def forbidden(*_: Any, **__: Any) -> Any:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "open", forbidden)
        with pytest.raises(UnusableArchive, match=r"^may not be read$"):
            files.read("a/one.JPG")


@pytest.mark.parametrize("files", [{}, {".DS_Store": b"1"}])
@pytest.mark.parametrize("kind", ["", ".zip", ".tar.gz", ".tar.xz"])
def test_nothing_in_it(packed: Callable[..., Path], kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = packed(tmp_path, kind, files)
    assert refused(path) == "PATH: no files in it. Give the directory or archive that holds the data set."


WHOLE = "PATH: not a whole zip or tar archive ({}). It may be truncated: fetch it again."


@pytest.mark.parametrize("name", ["faces.zip", "faces.tar", "faces.TAR.XZ", "faces.tgz"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_what_only_calls_itself_an_archive(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name) == WHOLE.format("it does not begin as one")


def test_a_compressed_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "faces.csv.gz").write_bytes(gzip.compress(b"emotion,pixels,Usage\n" * 100))
    assert refused(tmp_path / "faces.csv.gz") == WHOLE.format("invalid header")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (".zip", "File is not a zip file"),
        (".tar", "it ends before its end mark"),
        (".tar.gz", "Compressed file ended before the end-of-stream marker was reached"),
        (".tar.bz2", "Compressed file ended before the end-of-stream marker was reached"),
        (".tar.xz", "Compressed file ended before the end-of-stream marker was reached"),
    ],
)
def test_truncated_archive(packed: Callable[..., Path], kind: str, why: str, tmp_path: Path) -> None:
    noise = {f"{i}.jpg": os.urandom(3000) for i in range(20)}
    path = packed(tmp_path, kind, noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path) == WHOLE.format(why)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(KINDS[1:]))
def test_wherever_an_archive_is_cut_it_is_noticed(packed: Callable[..., Path], data: st.DataObject, kind: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = packed(Path(directory), kind, FILES)
        whole = path.read_bytes()
        # a tar ends in zeros beyond its end mark: nothing is lost with those
        last = len(whole.rstrip(b"\0")) if kind == ".tar" else len(whole) - 1
        path.write_bytes(whole[: data.draw(st.integers(0, last))])
        with pytest.raises(StudyError, match="not a whole zip or tar archive"), open_files(path, keep=KEEP):
            pass


def test_a_damaged_header_is_not_taken_for_the_end(packed: Callable[..., Path], tmp_path: Path) -> None:
    path = packed(tmp_path, ".tar", {"a.jpg": b"1", "b.jpg": b"2"})
    content = bytearray(path.read_bytes())
    content[1024 + 150] ^= 0xFF  # in the second header's checksum
    path.write_bytes(content)
    with tarfile.open(path, "r|") as archive:
        assert [info.name for info in archive] == ["a.jpg"]  # why the check is needed
    assert refused(path) == WHOLE.format("invalid header")


def test_one_damaged_file_in_a_zip_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in ("a.jpg", "b.jpg"):
            archive.writestr(name, name * 100)
    content = bytearray(path.read_bytes())
    content[content.index(b"b.jpgb.jpg") + 50] ^= 0xFF
    path.write_bytes(content)
    with open_files(path, keep=KEEP) as files:
        assert files.read("a.jpg") == b"a.jpg" * 100
        with pytest.raises(UnusableArchive, match=r"^damaged in the archive$"):
            files.read("b.jpg")


def test_a_file_with_a_password(packed: Callable[..., Path], tmp_path: Path) -> None:
    path = packed(tmp_path, ".zip", {"a.jpg": b"1"})
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    path.write_bytes(content)
    with open_files(path, keep=KEEP) as files, pytest.raises(UnusableArchive, match=r"^cannot be opened$"):
        files.read("a.jpg")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_larger_than_any_face_is_not_read_whole(
    packed: Callable[..., Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LARGEST", 2**20)
    path = packed(tmp_path, kind, {"a.jpg": bytes(2**20 + 1), "b.jpg": bytes(2**20)})
    with open_files(path, keep=KEEP) as files:
        assert len(files.read("b.jpg")) == 2**20
        with pytest.raises(UnusableArchive, match=r"^larger than 1 MiB$"):
            files.read("a.jpg")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_where_unpacked_files_wait(
    packed: Callable[..., Path], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(number, "full")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    assert refused(packed(tmp_path, ".tar.xz", FILES)).replace(tempfile.gettempdir(), "TMP") == (
        "TMP: the disk is full; unpacked files wait there. Free some space, or set TMPDIR to a directory with more."
    )


def test_nowhere_to_unpack(packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path, ".tar.xz", FILES)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert refused(path).replace(str(tmp_path), "AT") == (
        "AT/none: cannot be written (No such file or directory); unpacked files wait there. "
        "Set TMPDIR to a directory that you may write to."
    )
