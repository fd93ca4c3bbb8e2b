"""The files of one commit of a git repository, which may be anyone's: bounded in size and time, without a shell.

What of the user's own git applies: its configuration (proxies, certificates, credentials, URLs written anew), as the
network may not be reached without, but no hook, no template, no maintenance in the background; and of the variables
``GIT_*`` only those about a connection (`CONNECTION`), as the others lead git to other repositories.
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

SILENCE = 60.0  # seconds without a byte from the other side, or from git about its work, after which it is given up
LONGEST = 3600.0  # seconds for all: one that sends a byte a minute is given up too
LARGEST_COMMIT = 2**31  # bytes of all that a commit holds, packed; the original's 17 files have less
LARGEST_LISTING = 2**24  # bytes of its list of files, which a few nested folders can make endless
LARGEST_MESSAGE = 2**20  # bytes of what git says while it works
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
LOOK = 0.05  # seconds between two looks at what has come


class Blob(NamedTuple):
    """A file of a commit: its path there, git's id, and its size in bytes."""

    path: str
    id: str
    size: int


class Repository:
    """A bare repository in a temporary directory that holds one commit of another one; see `fetch_repository`."""

    def __init__(self, directory: Path, url: str, commit: str, *, silence: float, longest: float) -> None:
        self._directory = directory
        self._url = url
        self._commit = commit
        self._silence = silence
        self._longest = longest
        self._stop = time.monotonic() + longest

    def fetch(self, *, largest: int) -> None:
        """Get the commit; `StudyError` if git cannot, or more than `largest` bytes come."""
        self._run("init", "--quiet", "--bare", "--template=", limit=largest)
        # depth 1: the files of this commit and nothing else; progress tells that the other side is at work
        options = ("--progress", "--no-tags", "--no-recurse-submodules", "--depth", "1")
        self._run("fetch", *options, "--", self._url, self._commit, limit=largest)

    def blobs(self) -> Iterator[Blob]:
        """All files of the commit."""
        listing = self._run("ls-tree", "-r", "-z", "-l", self._commit, limit=LARGEST_LISTING)
        for entry in listing.decode(errors="replace").split("\0"):
            description, _, path = entry.partition("\t")
            if description.split()[1:2] == ["blob"]:
                _, _, name, size = description.split()
                yield Blob(path, name, int(size))

    def read(self, blob: Blob) -> bytes:
        """The content of a file."""
        return self._run("cat-file", "blob", blob.id, limit=blob.size)

    def _run(self, *words: str, limit: int) -> bytes:
        """What ``git WORDS`` prints; `StudyError` if it fails, or leaves more than `limit` bytes."""
        errors, output = self._directory / "errors", self._directory / "output"
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with output.open("wb") as printed, errors.open("wb") as said:
            try:
                process = subprocess.Popen(
                    ["git", *settings, "--git-dir=repository", *words],
                    cwd=self._directory,
                    env=clean_environment(os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=said,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise StudyError(
                    "git is not installed; install it, or name a directory that holds the files."
                ) from None
            with _ended(process):
                self._watch(process, limit)
        if process.returncode:
            raise self._cannot_get(find_reason(errors.read_text(encoding="utf-8", errors="replace")))
        return output.read_bytes()

    def _watch(self, process: subprocess.Popen[bytes], limit: int) -> None:
        """Wait for `process` as long as what it leaves grows, and by less than `limit` and what git says meanwhile."""
        size, heard = _measure(self._directory), time.monotonic()
        most = size + limit + LARGEST_MESSAGE
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
            now, found = time.monotonic(), _measure(self._directory)
            if found > most:
                raise self._cannot_get(f"it gives more than {limit / 2**20:,.0f} MiB; the published files are fewer")
            if process.returncode is not None:
                return
            if found != size:
                size, heard = found, now
            if now - heard > self._silence:
                raise self._cannot_get(f"nothing came for {self._silence:g} seconds")
            if now > self._stop:
                raise self._cannot_get(f"not done after {self._longest:g} seconds")

    def _cannot_get(self, why: str) -> StudyError:
        return StudyError(
            f"git could not get commit {self._commit[:7]} from {self._url} ({why}). "
            "Without a network, name a directory that holds the files."
        )


@contextmanager
def fetch_repository(
    url: str, commit: str, *, silence: float = SILENCE, longest: float = LONGEST, largest: int = LARGEST_COMMIT
) -> Iterator[Repository]:
    """A repository that holds `commit` of `url`, and nothing else; gone with the context, as are git's processes.

    Raises `StudyError` for a `url` that `check_url` refuses, for what git cannot get, and if nothing comes for
    `silence` seconds, all is not done after `longest`, or more than `largest` bytes come.
    """
    check_url(url)
    with tempfile.TemporaryDirectory() as directory:
        repository = Repository(Path(directory), url, commit, silence=silence, longest=longest)
        repository.fetch(largest=largest)
        yield repository


def check_url(url: str) -> None:
    """Raise `StudyError` unless `url` is a directory, or a git URL of one of `TRANSPORTS`.

    Git's other transports, such as ``ext::`` and ``fd::``, run programs or read what the caller has open.
    """
    if not url.strip():
        raise StudyError(f"{url!r}: no source. {FORMS}")
    if re.match(rf"(?:{'|'.join(TRANSPORTS)})://(?!-)(?![^/]*@-)", url) is not None:
        try:
            place = unquote(urlsplit(url).path)
        except ValueError as error:
            raise StudyError(f"{url!r}: no URL ({error}). {FORMS}") from None
        if url.startswith("file:") and not is_directory(place):
            raise StudyError(f"{url}: {place} is no directory. {FORMS}")
    elif re.match(r"\w[\w.-]*@\w[\w.-]*:(?!:)", url) is None and not is_directory(url):
        raise StudyError(f"{url!r}: no such directory, and no git URL. {FORMS}")


def is_directory(path: str | Path) -> bool:
    """Whether a directory is at `path`; `StudyError` where that may not be looked at."""
    try:
        return Path(path).is_dir()
    except PermissionError as error:
        raise StudyError(f"{path}: may not be read. Change its permissions.") from error
    except OSError:  # a name too long
        return False


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without the variables that lead git elsewhere; no questions, no other transports, in English."""
    kept = {name: value for name, value in environment.items() if not name.startswith("GIT_") or name in CONNECTION}
    # no questions about passwords or hosts; nobody may be there to answer
    return kept | {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": ":".join(TRANSPORTS), "LC_ALL": "C"}


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End `process` and those that it started, if it still runs at the end of the context."""
    try:
        yield
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _measure(directory: Path) -> int:
    """The bytes of all files beneath `directory`, some of which may go meanwhile."""
    size = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def find_reason(said: str) -> str:
    """The line of what git said that tells why; its last ones give general advice."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for word in ("ssh: ", "fatal: ", "error: ", "remote: "):
        for line in lines:
            if line.startswith(word):
                return line
    return lines[-1] if lines else "no message"
