"""Which files does one commit of a git repository have? Read from an untrusted server, within limits of size and time.

No shell is involved. The user's git configuration applies (proxies, certificates, credentials, rewritten URLs), because
the network may be unreachable without it, except hooks, templates and background maintenance. Of the variables
``GIT_*`` only those about a connection (`CONNECTION`) apply, because others point git to other repositories.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from facespec.study.errors import StudyError

IDLE_LIMIT = 60.0  # seconds without a byte from the server, or from git about its progress
TIME_LIMIT = 3600.0  # seconds in all: stops a server that sends a byte a minute
COMMIT_LIMIT = 2**31  # bytes of a packed commit; the original's 17 files need less
LISTING_LIMIT = 2**24  # bytes of the list of its files, which a few nested folders can make endless
MESSAGE_LIMIT = 2**20  # bytes of git's messages
TRANSPORTS = ("https", "http", "ssh", "git", "file")
FORMS = "Name a directory, or a git URL: https://, http://, ssh://, git://, file://, or user@host:path."
CONNECTION = (
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_PROXY_COMMAND",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSL_CERT",
    "GIT_SSL_KEY",
    "GIT_SSL_NO_VERIFY",
    "GIT_EXEC_PATH",
)
SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "fetch.unpackLimit": "1",  # a pack is written as it comes; single objects would wait in memory
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
}
POLL_INTERVAL = 0.05  # seconds between two measurements of what has arrived


class Blob(NamedTuple):
    """A file of a commit: its path, git's id, and its size in bytes."""

    path: str
    id: str
    size: int


class Repository:
    """A bare repository in a temporary directory, with one commit of another repository; see `fetch_repository`."""

    def __init__(self, directory: Path, url: str, commit: str, *, idle_limit: float, time_limit: float) -> None:
        self._directory = directory
        self._url = url
        self._commit = commit
        self._idle_limit = idle_limit
        self._time_limit = time_limit
        self._deadline = time.monotonic() + time_limit

    def fetch(self, *, limit: int) -> None:
        """Get the commit; `StudyError` if git cannot, or more than `limit` bytes arrive."""
        self._run("init", "--quiet", "--bare", "--template=", limit=limit)
        # depth 1: the files of this commit and nothing else; progress messages show that the server is at work
        options = ("--progress", "--no-tags", "--no-recurse-submodules", "--depth", "1")
        self._run("fetch", *options, "--", self._url, self._commit, limit=limit)

    def list_blobs(self) -> Iterator[Blob]:
        """All files of the commit."""
        listing = self._run("ls-tree", "-r", "-z", "-l", self._commit, limit=LISTING_LIMIT)
        for entry in listing.decode(errors="replace").split("\0"):
            description, _, path = entry.partition("\t")
            if description.split()[1:2] == ["blob"]:
                _, _, name, size = description.split()
                yield Blob(path, name, int(size))

    def read(self, blob: Blob) -> bytes:
        """The content of a file."""
        return self._run("cat-file", "blob", blob.id, limit=blob.size)

    def _run(self, *arguments: str, limit: int) -> bytes:
        """The output of ``git ARGUMENTS``; `StudyError` if it fails, or writes more than `limit` bytes."""
        errors, output = self._directory / "errors", self._directory / "output"
        settings = [option for name, value in SETTINGS.items() for option in ("-c", f"{name}={value}")]
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            try:
                process = subprocess.Popen(
                    ["git", *settings, "--git-dir=repository", *arguments],
                    cwd=self._directory,
                    env=clean_environment(os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise StudyError(
                    "git is not installed; install it, or name a directory that holds the files."
                ) from None
            with _kill_at_exit(process):
                self._watch(process, limit)
        if process.returncode:
            raise self._explain_failure(find_reason(errors.read_text(encoding="utf-8", errors="replace")))
        return output.read_bytes()

    def _watch(self, process: subprocess.Popen[bytes], limit: int) -> None:
        """Wait for `process` while its files grow, but by less than `limit` plus `MESSAGE_LIMIT` bytes."""
        size, last_growth = _measure(self._directory), time.monotonic()
        size_limit = size + limit + MESSAGE_LIMIT
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_INTERVAL)
            now, new_size = time.monotonic(), _measure(self._directory)
            if new_size > size_limit:
                raise self._explain_failure(
                    f"it gives more than {limit / 2**20:,.0f} MiB; the published files are fewer"
                )
            if process.returncode is not None:
                return
            if new_size != size:
                size, last_growth = new_size, now
            if now - last_growth > self._idle_limit:
                raise self._explain_failure(f"nothing came for {self._idle_limit:g} seconds")
            if now > self._deadline:
                raise self._explain_failure(f"not done after {self._time_limit:g} seconds")

    def _explain_failure(self, reason: str) -> StudyError:
        return StudyError(
            f"git could not get commit {self._commit[:7]} from {self._url} ({reason}). "
            "Without a network, name a directory that holds the files."
        )


@contextmanager
def fetch_repository(
    url: str,
    commit: str,
    *,
    idle_limit: float = IDLE_LIMIT,
    time_limit: float = TIME_LIMIT,
    size_limit: int = COMMIT_LIMIT,
) -> Iterator[Repository]:
    """A repository with `commit` of `url` and nothing else; removed at the end of the context, with git's processes.

    Raises `StudyError` for a `url` that `check_url` refuses, if git fails, if nothing arrives for `idle_limit`
    seconds, if the commit is not complete after `time_limit` seconds, and if it has more than `size_limit` bytes.
    """
    check_url(url)
    with tempfile.TemporaryDirectory() as directory:
        repository = Repository(Path(directory), url, commit, idle_limit=idle_limit, time_limit=time_limit)
        repository.fetch(limit=size_limit)
        yield repository


def check_url(url: str) -> None:
    """Raise `StudyError` unless `url` is a directory, or a git URL of one of `TRANSPORTS`.

    Git's other transports, such as ``ext::`` and ``fd::``, run programs or read open files of the caller.
    """
    if not url.strip():
        raise StudyError(f"{url!r}: no source. {FORMS}")
    if re.match(rf"(?:{'|'.join(TRANSPORTS)})://(?!-)(?![^/]*@-)", url) is not None:
        try:
            path = unquote(urlsplit(url).path)
        except ValueError as error:
            raise StudyError(f"{url!r}: no URL ({error}). {FORMS}") from None
        if url.startswith("file:") and not is_directory(path):
            raise StudyError(f"{url}: {path} is no directory. {FORMS}")
    elif re.match(r"\w[\w.-]*@\w[\w.-]*:(?!:)", url) is None and not is_directory(url):
        raise StudyError(f"{url!r}: no such directory, and no git URL. {FORMS}")


def is_directory(path: str | Path) -> bool:
    """Whether `path` is a directory; `StudyError` without the permission to find out."""
    try:
        return Path(path).is_dir()
    except PermissionError as error:
        raise StudyError(f"{path}: may not be read. Change its permissions.") from error
    except OSError:  # a name too long
        return False


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for git: no variables that point to other repositories, no prompts, safe transports, English."""
    allowed = {name: value for name, value in environment.items() if not name.startswith("GIT_") or name in CONNECTION}
    # a prompt for a password or a host key would wait for ever if nobody answers it
    return allowed | {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": ":".join(TRANSPORTS), "LC_ALL": "C"}


@contextmanager
def _kill_at_exit(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill `process` and those that it started, if it still runs at the end of the context."""
    try:
        yield
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _measure(directory: Path) -> int:
    """The bytes of all files in `directory`, some of which may be removed meanwhile."""
    size = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def find_reason(messages: str) -> str:
    """The line of git's `messages` that says why it failed; the last lines give general advice."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    for prefix in ("ssh: ", "fatal: ", "error: ", "remote: "):
        for line in lines:
            if line.startswith(prefix):
                return line
    return lines[-1] if lines else "no message"
