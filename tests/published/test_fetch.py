"""The published files are found in folders and repositories, verified, and never overwritten by altered ones."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from facespec.published import fetch as module
from facespec.published.fetch import compute_blob_id, fetch, read_blob_ids, refuse_altered
from facespec.study.errors import StudyError
from toys import run_git

FILES = {"README.md": b"# Faces\n", "Fig.pickle": b"\x80\x04K\x01.", "empty.txt": b"", "crlf.csv": b"a\r\nb\r\n"}
BLOBS = {name: compute_blob_id(content) for name, content in FILES.items()}


ALL_PRESENT = dict.fromkeys(sorted(FILES), "present")


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def read_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def fetch_statuses(source: str | Path, directory: Path, **options: str) -> dict[str, str]:
    report = fetch(source, directory, blobs=BLOBS, **options)
    assert list(report.columns) == ["file", "status"]
    return dict(zip(report["file"], report["status"], strict=True))


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 1000, b"line\r\n"])
def test_blob_id_is_gits(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    assert compute_blob_id(content) == run_git(tmp_path, "hash-object", "--no-filters", "f")


def test_the_published_files_are_17() -> None:
    assert len(read_blob_ids()) == 17
    assert all(len(blob) == 40 and int(blob, 16) for blob in read_blob_ids().values())
    assert read_blob_ids()["Fig2A_dict.pickle"] == "9876abd74fa66011526f1ecf915fe2273572d306"


def test_files_are_found_at_any_depth_and_beside_others_of_the_same_name(tmp_path: Path) -> None:
    flat = write_files(tmp_path / "flat", FILES)
    assert fetch_statuses(flat, tmp_path / "copy") == ALL_PRESENT
    assert read_files(tmp_path / "copy") == read_files(flat) == FILES
    deep = write_files(tmp_path / "deep", {f"a/b{i}/{name}": FILES[name] for i, name in enumerate(FILES)})
    write_files(deep, {"README.md": b"another", "zz/README.md": b"one more", "note.txt": b"not a published file"})
    assert fetch_statuses(deep, tmp_path / "deep copy") == ALL_PRESENT
    assert read_files(tmp_path / "deep copy") == FILES


def test_the_target_may_be_the_source_or_inside_it(tmp_path: Path) -> None:
    source = write_files(tmp_path / "here", FILES)
    assert fetch_statuses(source, source) == ALL_PRESENT
    assert fetch_statuses(source, source / "published") == ALL_PRESENT
    assert read_files(source / "published") == FILES


def test_an_altered_file_is_reported_and_not_written(tmp_path: Path) -> None:
    source = write_files(tmp_path / "from", {"README.md": b"# Faces\r\n", "Fig.pickle": FILES["Fig.pickle"]})
    write_files(tmp_path / "copy", {"README.md": b"an older file"})
    report = fetch(source, tmp_path / "copy", blobs=BLOBS)
    status = {"Fig.pickle": "present", "README.md": "altered", "crlf.csv": "absent", "empty.txt": "absent"}
    assert dict(report.values) == status
    assert read_files(tmp_path / "copy") == {"README.md": b"an older file", "Fig.pickle": FILES["Fig.pickle"]}
    with pytest.raises(StudyError, match=r"README\.md.*commit e570ea8; fetch from the original repository"):
        refuse_altered(report)
    refuse_altered(report[report["status"] != "altered"])


def test_the_readme_of_another_project_is_not_an_altered_one(tmp_path: Path) -> None:
    """Only beside another published file is it the study's."""
    source = write_files(tmp_path / "from", {"README.md": b"other project", "data/Fig.pickle": FILES["Fig.pickle"]})
    assert fetch_statuses(source, tmp_path / "copy")["README.md"] == "absent"
    write_files(source, {"data/README.md": b"altered"})
    assert fetch_statuses(source, tmp_path / "copy")["README.md"] == "altered"
    write_files(source, {"deep/README.md": FILES["README.md"]})
    assert fetch_statuses(source, tmp_path / "copy")["README.md"] == "present"
    other = write_files(tmp_path / "other", {"README.md": b"other project", "x/Fig.pickle": b"altered"})
    statuses = fetch_statuses(other, tmp_path / "other copy")
    assert (statuses["README.md"], statuses["Fig.pickle"]) == ("absent", "altered")


def test_a_file_larger_than_any_published_one_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_files(tmp_path / "from", FILES)
    with (source / "Fig.pickle").open("ab") as file:
        file.truncate(8 * 2**30)
    monkeypatch.setattr(module, "_read", lambda path: FILES[path.name] if path.name != "Fig.pickle" else pytest.fail())
    assert fetch_statuses(source, tmp_path / "copy") == ALL_PRESENT | {"Fig.pickle": "altered"}


def test_unreadable_folders_and_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so that the refusal is simulated."""
    source = write_files(tmp_path / "from", {"README.md": FILES["README.md"], "closed/Fig.pickle": b""})
    scandir = os.scandir

    def refuse_closed(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse_closed)
        with pytest.raises(
            StudyError, match=r"from/closed: cannot be read \(Permission denied\)\. Change its permissions"
        ):
            fetch(source, tmp_path / "copy", blobs=BLOBS)
    (source / "Fig.pickle").symlink_to("nowhere")
    with pytest.raises(StudyError, match=r"from/Fig.pickle: cannot be read \(No such file"):
        fetch(source, tmp_path / "copy", blobs=BLOBS)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str]:
    """A checkout whose first commit holds the files (in folders) and whose tip has other content; and that commit."""
    checkout = write_files(tmp_path / "checkout", {f"Analysis/{name}": content for name, content in FILES.items()})
    run_git(checkout, "init", "--quiet")
    run_git(checkout, "-c", "core.autocrlf=false", "add", "--all")
    run_git(checkout, "commit", "--quiet", "--message", "first")
    commit = run_git(checkout, "rev-parse", "HEAD")
    write_files(checkout, {"Analysis/README.md": b"later"})
    run_git(checkout, "commit", "--quiet", "--all", "--message", "later")
    return checkout, commit


def test_a_repository_is_read_at_the_commit_and_a_checkout_as_its_files_are(
    repository: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, commit = repository
    assert fetch_statuses(checkout.as_uri(), tmp_path / "copy", commit=commit) == ALL_PRESENT
    assert read_files(tmp_path / "copy") == FILES
    assert fetch_statuses(checkout, tmp_path / "tip") == ALL_PRESENT | {"README.md": "altered"}
    run_git(tmp_path, "clone", "--quiet", "--bare", str(checkout), "bare.git")
    assert fetch_statuses(tmp_path / "bare.git", tmp_path / "bare copy", commit=commit) == ALL_PRESENT
    monkeypatch.chdir(tmp_path)
    assert fetch_statuses("bare.git", tmp_path / "relative", commit=commit) == ALL_PRESENT


def test_without_a_network_a_directory_is_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"git://127.0.0.1:{server.getsockname()[1]}/x"
    message = rf"commit e570ea8 from {url} \(fatal: unable to connect to 127\.0\.0\.1.* name a directory that holds"
    with pytest.raises(StudyError, match=f"(?s){message}"):
        fetch(url, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_missing_repository_or_commit_is_refused(repository: tuple[Path, str], tmp_path: Path) -> None:
    """Git's last line, "and the repository exists.", says nothing."""
    with pytest.raises(StudyError, match=r"\(fatal: '.*' does not appear to be a git repository\)"):
        fetch(tmp_path.as_uri(), tmp_path / "copy")
    with pytest.raises(StudyError, match="git could not get commit 0123456 from "):
        fetch(repository[0].as_uri(), tmp_path / "copy", commit="0123456789" * 4)


FORMS = "Name a directory, or a git URL: https://, http://, ssh://, git://, file://, or user@host:path."


@pytest.mark.parametrize(
    "source",
    [
        "none",
        "/none/here",
        "here.txt",
        "fd::17",
        "ext::touch it_ran",
        "--upload-pack=touch it_ran",
        "ftp://x/y",
        "a@b::c",
        "ssh://-oProxyCommand=touch/x",
        "ssh://a@-oProxyCommand=touch/x",
        "-oProxyCommand=touch@b:x",
        "host:path",
        "C:\\faces",
        "x" * 300,
        "a\0b",
    ],
)
def test_neither_a_directory_nor_a_safe_url(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.txt").touch()
    with pytest.raises(StudyError, match=re.escape(f"{source!r}: no such directory, and no git URL. {FORMS}")):
        fetch(source, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["here.txt"]


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_not_the_working_directory(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_files(tmp_path / "here", FILES))
    with pytest.raises(StudyError, match=re.escape(f"{source!r}: no source. {FORMS}")):
        fetch(source, tmp_path / "copy", blobs=BLOBS)


def test_a_file_url_without_a_directory_is_refused(tmp_path: Path) -> None:
    url = (tmp_path / "no where").as_uri()
    with pytest.raises(StudyError, match=re.escape(f"{url}: {tmp_path}/no where is no directory. {FORMS}")):
        fetch(url, tmp_path / "copy")


def test_without_git_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StudyError, match="git is not installed; install it, or name a directory"):
        fetch("https://example.org/x.git", tmp_path / "copy")


def test_the_published_pickles_verify(published: Path, tmp_path: Path) -> None:
    report = dict(fetch(published, tmp_path / "copy").values)
    for name in (
        "Fig1B_KDEF_Lesioned_models_dict_results.pickle",
        "SFig1B_with_2_Other_Datasets_SPLIT_Accuracy_Results.pickle",
    ):
        assert report[name] == "present" and (tmp_path / "copy" / name).read_bytes() == (published / name).read_bytes()
    assert "altered" not in report.values()
