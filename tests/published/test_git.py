"""A commit is read from an untrusted server: within limits, with no other program run, and no process left."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from facespec.published import git as module
from facespec.published.git import Blob, check_url, clean_environment, fetch_repository, find_reason
from facespec.study.errors import StudyError
from toys import run_git

ANY = "0123456789" * 4


@pytest.fixture
def repository(tmp_path: Path) -> tuple[str, str]:
    """The URL of a repository of two files, one of 3 MB of noise; and its commit."""
    directory = tmp_path / "repository"
    (directory / "a").mkdir(parents=True)
    (directory / "a" / "Zo\u00eb.txt").write_bytes(b"text\r\n")
    (directory / "noise").write_bytes(os.urandom(3_000_000))
    run_git(directory, "init", "--quiet")
    run_git(directory, "add", "--all")
    run_git(directory, "commit", "--quiet", "--message", "first")
    return directory.as_uri(), run_git(directory, "rev-parse", "HEAD")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """All processes that the module starts."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(module.subprocess, "Popen", start)
    return processes


def runs(group: int) -> bool:
    """Whether a process of the group runs; a dead child of no parent may wait a moment to be collected."""
    for _ in range(50):
        states = [
            path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()
        ]
        if not any(int(state[2]) == group and state[0] != "Z" for state in states):
            return False
        time.sleep(0.1)
    return True


@contextmanager
def serve(*, interval: float = 0.0) -> Iterator[str]:
    """The address of a server that accepts and sends nothing, or an endless line, a letter every `interval` seconds."""
    stop = threading.Event()

    def answer(server: socket.socket) -> None:
        with server, server.accept()[0] as connection:
            connection.sendall(b"fff0" if interval else b"")  # the length of a line of git's protocol
            while not stop.wait(interval or 0.05):
                connection.sendall(b"x" if interval else b"")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server.dup(),), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join(5)


def fetch_error(url: str, commit: str = ANY, **limits: Any) -> str:
    with pytest.raises(StudyError) as error, fetch_repository(url, commit, **limits):
        pass
    return str(error.value).replace(url, "URL")


def test_files_of_the_commit_are_listed_and_read(repository: tuple[str, str]) -> None:
    with fetch_repository(*repository) as copy:
        text, noise = sorted(copy.list_blobs())
        assert text == Blob("a/Zo\u00eb.txt", "fdc74c104b1bac8015228603b5eafc0208e4ee4f", 6)
        assert copy.read(text) == b"text\r\n" and len(copy.read(noise)) == noise.size == 3_000_000


@pytest.mark.parametrize("scheme", ["git", "http"])
def test_a_server_that_sends_nothing_is_given_up(scheme: str, processes: list[subprocess.Popen[bytes]]) -> None:
    with serve() as address:
        start = time.monotonic()
        message = fetch_error(f"{scheme}://{address}/x", idle_limit=0.5)
        assert "commit 0123456 from URL (nothing came for 0.5 seconds). Without a network, name a directory" in message
        assert time.monotonic() - start < 10
        assert processes and not any(runs(process.pid) for process in processes)  # nor any that git started


def test_a_server_that_sends_without_end_is_given_up(processes: list[subprocess.Popen[bytes]]) -> None:
    with serve(interval=0.1) as address:
        assert "(not done after 1 seconds)" in fetch_error(f"git://{address}/x", idle_limit=30, time_limit=1)
        assert not any(runs(process.pid) for process in processes)


def test_processes_end_with_an_interrupt(
    processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = module._measure

    def interrupt(directory: Path) -> int:
        if len(processes) > 1:
            raise KeyboardInterrupt
        return measure(directory)

    monkeypatch.setattr(module, "_measure", interrupt)
    with serve() as address, pytest.raises(KeyboardInterrupt), fetch_repository(f"git://{address}/x", ANY):
        pass
    assert len(processes) > 1 and not any(runs(process.pid) for process in processes)


def test_a_commit_larger_than_any_published_one_is_refused(repository: tuple[str, str]) -> None:
    assert "(it gives more than 1 MiB; the published files are fewer)" in fetch_error(*repository, size_limit=2**20)


def test_an_endless_list_of_files_is_refused(tmp_path: Path) -> None:
    """A hundred names for one folder, six folders deep: 10^12 files in a few kilobytes."""
    directory = tmp_path / "bomb"
    directory.mkdir()
    run_git(directory, "init", "--quiet")

    def write(kind: str, content: str) -> str:
        command = ["git", "mktree"] if kind == "tree" else ["git", "hash-object", "-w", "--stdin"]
        options: dict[str, Any] = {"cwd": directory, "check": True, "capture_output": True, "text": True}
        return subprocess.run(command, input=content, **options).stdout.strip()

    inner, mode = write("blob", "1"), "100644 blob"
    for _ in range(6):
        inner = write("tree", "".join(f"{mode} {inner}\t{name:03d}\n" for name in range(100)))
        mode = "040000 tree"
    commit = run_git(directory, "commit-tree", "-m", "bomb", inner)
    run_git(directory, "update-ref", "refs/heads/main", commit)
    with fetch_repository(directory.as_uri(), commit) as copy, pytest.raises(StudyError, match="more than 16 MiB"):
        list(copy.list_blobs())


def test_environment_variables_do_not_point_git_to_other_repositories(
    repository: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "DIR WORK_TREE INDEX_FILE OBJECT_DIRECTORY COMMON_DIR NAMESPACE TEMPLATE_DIR ALTERNATE_OBJECT_DIRECTORIES "
    for name in (names + "CEILING_DIRECTORIES CONFIG CONFIG_GLOBAL SHALLOW_FILE TRACE").split():
        monkeypatch.setenv(f"GIT_{name}", str(tmp_path / "elsewhere"))
    for name, value in {"COUNT": "1", "KEY_0": "core.hooksPath", "VALUE_0": str(tmp_path)}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'no such thing")
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    with fetch_repository(*repository) as copy:
        assert len(list(copy.list_blobs())) == 2
    assert not (tmp_path / "elsewhere").exists()


def test_variables_about_connections_apply() -> None:
    environment = {
        "HOME": "/home/me",
        "https_proxy": "http://proxy",
        "GIT_SSH_COMMAND": "ssh -F x",
        "GIT_SSL_CAINFO": "/ca",
        "GIT_DIR": "/x",
        "GIT_CONFIG_COUNT": "1",
        "GIT_ALLOW_PROTOCOL": "ext",
        "GIT_TRACE": "1",
    }
    assert clean_environment(environment) == {
        "HOME": "/home/me",
        "https_proxy": "http://proxy",
        "GIT_SSH_COMMAND": "ssh -F x",
        "GIT_SSL_CAINFO": "/ca",
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def test_hooks_and_templates_of_the_users_configuration_do_not_run(
    repository: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of it applies: here, that a URL is rewritten."""
    hooks = tmp_path / "template" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("reference-transaction", "post-merge", "post-checkout", "pre-auto-gc", "fsmonitor"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'it_ran'}\n")
        (hooks / name).chmod(0o755)
    url, commit = repository
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / ".gitconfig").write_text(
        f"[core]\nhooksPath = {hooks}\nfsmonitor = {hooks}/fsmonitor\n[init]\ntemplateDir = {hooks.parent}\n"
        f'[safe]\nbareRepository = explicit\n[url "{url}"]\ninsteadOf = https://example.org/faces\n'
        '[url "ext::touch it_ran "]\ninsteadOf = https://example.org/program\n[protocol]\nallow = always\n'
    )
    with fetch_repository("https://example.org/faces", commit) as copy:
        assert len(list(copy.list_blobs())) == 2
        copy._run("update-ref", "refs/heads/main", commit, limit=0)  # what would run the first of the hooks
    assert "transport 'ext' not allowed" in fetch_error("https://example.org/program", commit)
    assert not (tmp_path / "it_ran").exists()


def test_allowed_sources() -> None:
    for url in [
        "https://x.org/y",
        "http://u:p@x/y",
        "ssh://git@x.org/y",
        "git://[::1]:99/y",
        "git@github.com:a/b.git",
        "file:///",
    ]:
        check_url(url)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("", "no message"),
        ("remote: Counting objects: 3\rremote: Counting objects: 4\nfatal: early EOF\n", "fatal: early EOF"),
        (
            "ssh: Could not resolve hostname x\nfatal: Could not read from remote repository.\n\nPlease make sure you "
            "have the correct access rights\nand the repository exists.\n",
            "ssh: Could not resolve hostname x",
        ),
        ("a riddle\nits end\n", "its end"),
    ],
)
def test_the_line_with_the_reason_is_found(messages: str, reason: str) -> None:
    assert find_reason(messages) == reason
