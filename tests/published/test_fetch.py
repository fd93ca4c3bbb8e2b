from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from facespec.published import fetch as module
from facespec.published.fetch import compute_blob_id, fetch, read_blob_ids, refuse_altered
from facespec.study.errors import StudyError

FILES = {"README.md": b"# Faces\n", "Fig.pickle": b"\x80\x04K\x01.", "empty.txt": b"", "crlf.csv": b"a\r\nb\r\n"}
BLOBS = {name: compute_blob_id(content) for name, content in FILES.items()}


def git(cwd: Path, *words: str) -> str:
    who = ["-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, *words], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


def placed(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def statuses(source: str | Path, to: Path, **more: str) -> dict[str, str]:
    report = fetch(source, to, blobs=BLOBS, **more)
    assert list(report.columns) == ["file", "status"]
    return dict(zip(report["file"], report["status"], strict=True))


ALL_PRESENT = dict.fromkeys(sorted(FILES), "present")


@pytest.mark.parametrize("content", [b"", b"x", b"\x00\xff" * 1000, b"line\r\n"])
def test_blob_id_is_gits(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    assert compute_blob_id(content) == git(tmp_path, "hash-object", "--no-filters", "f")


def test_the_published_files_are_17() -> None:
    assert len(read_blob_ids()) == 17
    assert all(len(blob) == 40 and int(blob, 16) for blob in read_blob_ids().values())
    assert read_blob_ids()["Fig2A_dict.pickle"] == "9876abd74fa66011526f1ecf915fe2273572d306"


def test_from_a_flat_folder(tmp_path: Path) -> None:
    source = placed(tmp_path / "flat", FILES)
    assert statuses(source, tmp_path / "to") == ALL_PRESENT
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == FILES
    assert {path.name: path.read_bytes() for path in source.iterdir()} == FILES


def test_from_folders_within_folders_and_beside_others_of_the_same_name(tmp_path: Path) -> None:
    source = placed(tmp_path / "deep", {f"a/b{i}/{name}": content for i, (name, content) in enumerate(FILES.items())})
    placed(source, {"README.md": b"another", "zz/README.md": b"one more", "note.txt": b"not asked for"})
    assert statuses(source, tmp_path / "to") == ALL_PRESENT
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == FILES


def test_absent_and_altered_are_told_apart_and_altered_is_not_written(tmp_path: Path) -> None:
    source = placed(tmp_path / "from", {"README.md": b"# Faces\r\n", "Fig.pickle": FILES["Fig.pickle"]})
    placed(tmp_path / "to", {"README.md": b"what was here before"})
    report = fetch(source, tmp_path / "to", blobs=BLOBS)
    assert dict(report.values) == {
        "Fig.pickle": "present",
        "README.md": "altered",
        "crlf.csv": "absent",
        "empty.txt": "absent",
    }
    assert {p.name: p.read_bytes() for p in (tmp_path / "to").iterdir()} == {
        "README.md": b"what was here before",
        "Fig.pickle": FILES["Fig.pickle"],
    }
    with pytest.raises(StudyError) as error:
        refuse_altered(report)
    assert str(error.value) == (
        "refused, and not written: README.md. The bytes differ from those of commit e570ea8; "
        "fetch from the original repository, or name a directory with unaltered files."
    )
    refuse_altered(report[report["status"] != "altered"])


def test_a_readme_of_something_else_is_not_an_altered_one(tmp_path: Path) -> None:
    """Any folder may have one; only beside another published file is it the study's."""
    source = placed(tmp_path / "from", {"README.md": b"another project", "data/Fig.pickle": FILES["Fig.pickle"]})
    assert statuses(source, tmp_path / "to")["README.md"] == "absent"
    placed(source, {"data/README.md": b"altered"})
    assert statuses(source, tmp_path / "to")["README.md"] == "altered"
    placed(source, {"deep/README.md": FILES["README.md"]})
    assert statuses(source, tmp_path / "to")["README.md"] == "present"
    other = placed(tmp_path / "other", {"README.md": b"another project", "x/Fig.pickle": b"altered"})
    found = statuses(other, tmp_path / "other to")
    assert (found["README.md"], found["Fig.pickle"]) == ("absent", "altered")


def test_a_file_larger_than_any_published_one_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = placed(tmp_path / "from", FILES)
    with (source / "Fig.pickle").open("ab") as file:
        file.truncate(8 * 2**30)
    monkeypatch.setattr(module, "_read", lambda path: FILES[path.name] if path.name != "Fig.pickle" else pytest.fail())
    assert statuses(source, tmp_path / "to") == ALL_PRESENT | {"Fig.pickle": "altered"}


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all, so that a refusal is played."""
    source = placed(tmp_path / "from", {"README.md": FILES["README.md"], "closed/Fig.pickle": FILES["Fig.pickle"]})
    really = os.scandir

    def forbidding(place: str) -> Any:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", place)
        return really(place)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", forbidding)
        with pytest.raises(StudyError) as error:
            fetch(source, tmp_path / "to", blobs=BLOBS)
    assert str(error.value) == (
        f"{source}/closed: cannot be read (Permission denied). Change its permissions, or name a directory without it."
    )
    (source / "Fig.pickle").symlink_to("nowhere")
    with pytest.raises(StudyError, match=r"from/Fig.pickle: cannot be read \(No such file"):
        fetch(source, tmp_path / "to", blobs=BLOBS)


def test_the_target_may_be_the_source_or_lie_beneath_it(tmp_path: Path) -> None:
    source = placed(tmp_path / "here", FILES)
    assert statuses(source, source) == ALL_PRESENT
    assert statuses(source, source / "published") == ALL_PRESENT
    assert {path.name: path.read_bytes() for path in (source / "published").iterdir()} == FILES


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str]:
    """A checkout whose first commit holds the files (in folders) and whose tip has other content; and that commit."""
    checkout = placed(tmp_path / "checkout", {f"Analysis/{name}": content for name, content in FILES.items()})
    git(checkout, "init", "--quiet")
    git(checkout, "-c", "core.autocrlf=false", "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    placed(checkout, {"Analysis/README.md": b"later"})
    git(checkout, "commit", "--quiet", "--all", "--message", "later")
    return checkout, commit


def test_from_git_at_the_commit_not_the_tip(repository: tuple[Path, str], tmp_path: Path) -> None:
    checkout, commit = repository
    assert statuses(checkout.as_uri(), tmp_path / "to", commit=commit) == ALL_PRESENT
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == FILES


def test_from_a_bare_repository_by_its_path(
    repository: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, commit = repository
    git(tmp_path, "clone", "--quiet", "--bare", str(checkout), "bare.git")
    assert statuses(tmp_path / "bare.git", tmp_path / "to", commit=commit) == ALL_PRESENT
    monkeypatch.chdir(tmp_path)
    assert statuses("bare.git", tmp_path / "relative", commit=commit) == ALL_PRESENT


def test_a_checkout_is_read_as_it_lies(repository: tuple[Path, str], tmp_path: Path) -> None:
    assert statuses(repository[0], tmp_path / "to") == ALL_PRESENT | {"README.md": "altered"}


def test_offline(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"git://127.0.0.1:{server.getsockname()[1]}/x"
    with pytest.raises(StudyError) as error:
        fetch(url, tmp_path / "to")
    message = str(error.value)
    assert message.startswith(f"git could not get commit e570ea8 from {url} (fatal: unable to connect to 127.0.0.1:")
    assert message.endswith("). Without a network, name a directory that holds the files.")
    assert not (tmp_path / "to").exists()


def test_a_directory_that_is_no_repository(tmp_path: Path) -> None:
    """Git's last line, "and the repository exists.", tells nothing."""
    with pytest.raises(StudyError, match=r"\(fatal: '.*' does not appear to be a git repository\)"):
        fetch(tmp_path.as_uri(), tmp_path / "to")


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
def test_what_is_no_source(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.txt").touch()
    with pytest.raises(StudyError) as error:
        fetch(source, tmp_path / "to")
    assert str(error.value) == f"{source!r}: no such directory, and no git URL. {FORMS}"
    assert [path.name for path in tmp_path.iterdir()] == ["here.txt"]


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the working directory nor the network is meant."""
    monkeypatch.chdir(placed(tmp_path / "here", FILES))
    with pytest.raises(StudyError) as error:
        fetch(source, tmp_path / "to", blobs=BLOBS)
    assert str(error.value) == f"{source!r}: no source. {FORMS}"


def test_a_file_url_to_nowhere(tmp_path: Path) -> None:
    url = (tmp_path / "no where").as_uri()
    with pytest.raises(StudyError) as error:
        fetch(url, tmp_path / "to")
    assert str(error.value) == f"{url}: {tmp_path}/no where is no directory. {FORMS}"


def test_a_commit_that_is_not_there(repository: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="git could not get commit 0123456 from "):
        fetch(repository[0].as_uri(), tmp_path / "to", commit="0123456789" * 4)


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StudyError) as error:
        fetch("https://example.org/x.git", tmp_path / "to")
    assert str(error.value) == "git is not installed; install it, or name a directory that holds the files."


def test_the_published_pickles_verify(published: Path, tmp_path: Path) -> None:
    report = dict(fetch(published, tmp_path / "to").values)
    for name in (
        "Fig1B_KDEF_Lesioned_models_dict_results.pickle",
        "SFig1B_with_2_Other_Datasets_SPLIT_Accuracy_Results.pickle",
    ):
        assert report[name] == "present" and (tmp_path / "to" / name).read_bytes() == (published / name).read_bytes()
    assert "altered" not in report.values()
