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

ANY = "0123456789" * 4


def git(cwd: Path, *words: str) -> str:
    who = ["-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, *words], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> tuple[str, str]:
    """The URL of a repository of two files, one of 3 MB of noise; and its commit."""
    place = tmp_path / "repository"
    (place / "a").mkdir(parents=True)
    (place / "a" / "Zo\u00eb.txt").write_bytes(b"text\r\n")
    (place / "noise").write_bytes(os.urandom(3_000_000))
    git(place, "init", "--quiet")
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--message", "first")
    return place.as_uri(), git(place, "rev-parse", "HEAD")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """All processes that the module starts."""
    processes: list[subprocess.Popen[bytes]] = []
    really = subprocess.Popen

    def starting(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
        processes.append(really(*arguments, **more))
        return processes[-1]

    monkeypatch.setattr(module.subprocess, "Popen", starting)
    return processes


def is_alive(group: int) -> bool:
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
def serving(*, trickle: float = 0.0) -> Iterator[str]:
    """The host and port of a server that accepts and says nothing, or a long line, a letter every `trickle` seconds."""
    stop = threading.Event()

    def answer(server: socket.socket) -> None:
        with server, server.accept()[0] as connection:
            connection.sendall(b"fff0" if trickle else b"")  # the length of a line of git's protocol
            while not stop.wait(trickle or 0.05):
                connection.sendall(b"x" if trickle else b"")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server.dup(),), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join(5)


def refused(url: str, commit: str = ANY, **limits: Any) -> str:
    with pytest.raises(StudyError) as error, fetch_repository(url, commit, **limits):
        pass
    return str(error.value).replace(url, "URL")


def test_files_of_the_commit(repository: tuple[str, str]) -> None:
    with fetch_repository(*repository) as copy:
        text, noise = sorted(copy.blobs())
        assert text == Blob("a/Zo\u00eb.txt", "fdc74c104b1bac8015228603b5eafc0208e4ee4f", 6)
        assert copy.read(text) == b"text\r\n" and len(copy.read(noise)) == noise.size == 3_000_000


@pytest.mark.parametrize("scheme", ["git", "http"])
def test_a_silent_server(scheme: str, begun: list[subprocess.Popen[bytes]]) -> None:
    with serving() as place:
        start = time.monotonic()
        assert refused(f"{scheme}://{place}/x", silence=0.5) == (
            "git could not get commit 0123456 from URL (nothing came for 0.5 seconds). "
            "Without a network, name a directory that holds the files."
        )
        assert time.monotonic() - start < 10
        assert begun and not any(is_alive(process.pid) for process in begun)  # those that git started, too


def test_a_server_that_never_comes_to_an_end(begun: list[subprocess.Popen[bytes]]) -> None:
    with serving(trickle=0.1) as place:
        assert "(not done after 1 seconds)" in refused(f"git://{place}/x", silence=30, longest=1)
        assert not any(is_alive(process.pid) for process in begun)


def test_processes_end_with_an_interrupt(begun: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    really = module._measure

    def interrupting(directory: Path) -> int:
        if len(begun) > 1:
            raise KeyboardInterrupt
        return really(directory)

    monkeypatch.setattr(module, "_measure", interrupting)
    with serving() as place, pytest.raises(KeyboardInterrupt), fetch_repository(f"git://{place}/x", ANY):
        pass
    assert len(begun) > 1 and not any(is_alive(process.pid) for process in begun)


def test_a_commit_larger_than_any_published(repository: tuple[str, str]) -> None:
    assert "(it gives more than 1 MiB; the published files are fewer)" in refused(*repository, largest=2**20)


def test_a_list_of_files_without_end(tmp_path: Path) -> None:
    """A hundred names for one folder, six folders deep: 10^12 files in a few kilobytes."""
    place = tmp_path / "bomb"
    place.mkdir()
    git(place, "init", "--quiet")

    def write(kind: str, content: str) -> str:
        command = ["git", "mktree"] if kind == "tree" else ["git", "hash-object", "-w", "--stdin"]
        return subprocess.run(
            command, cwd=place, input=content, check=True, capture_output=True, text=True
        ).stdout.strip()

    inner, mode = write("blob", "1"), "100644 blob"
    for _ in range(6):
        inner = write("tree", "".join(f"{mode} {inner}\t{name:03d}\n" for name in range(100)))
        mode = "040000 tree"
    commit = git(place, "commit-tree", "-m", "bomb", inner)
    git(place, "update-ref", "refs/heads/main", commit)
    with fetch_repository(place.as_uri(), commit) as copy, pytest.raises(StudyError, match=r"gives more than 16 MiB"):
        list(copy.blobs())


def test_what_the_surroundings_say_does_not_lead_git_elsewhere(
    repository: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "DIR",
        "WORK_TREE",
        "INDEX_FILE",
        "OBJECT_DIRECTORY",
        "COMMON_DIR",
        "NAMESPACE",
        "TEMPLATE_DIR",
        "ALTERNATE_OBJECT_DIRECTORIES",
        "CEILING_DIRECTORIES",
        "CONFIG",
        "CONFIG_GLOBAL",
        "SHALLOW_FILE",
        "TRACE",
    ):
        monkeypatch.setenv(f"GIT_{name}", str(tmp_path / "elsewhere"))
    for name, value in {"COUNT": "1", "KEY_0": "core.hooksPath", "VALUE_0": str(tmp_path)}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'no such thing")
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    with fetch_repository(*repository) as copy:
        assert len(list(copy.blobs())) == 2
    assert not (tmp_path / "elsewhere").exists()


def test_connections_stay_as_the_user_has_them() -> None:
    given = {
        "HOME": "/home/me",
        "https_proxy": "http://proxy",
        "GIT_SSH_COMMAND": "ssh -F x",
        "GIT_SSL_CAINFO": "/ca",
        "GIT_DIR": "/x",
        "GIT_CONFIG_COUNT": "1",
        "GIT_ALLOW_PROTOCOL": "ext",
        "GIT_TRACE": "1",
    }
    assert clean_environment(given) == {
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
    """All else of it applies: here, that a URL stands for another one."""
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
        assert len(list(copy.blobs())) == 2
        copy._run("update-ref", "refs/heads/main", commit, limit=0)  # what would run the first of the hooks
    assert "transport 'ext' not allowed" in refused("https://example.org/program", commit)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    "url",
    [
        "https://x.org/y",
        "http://u:p@x/y",
        "ssh://git@x.org/y",
        "git://[::1]:99/y",
        "git@github.com:a/b.git",
        "file:///",
    ],
)
def test_allowed_sources(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("said", "reason"),
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
def test_the_line_that_tells_why(said: str, reason: str) -> None:
    assert find_reason(said) == reason
