"""Get the original study's files, each verified against its git blob id.

``git_blobs.txt`` lists the blob ids of every file of the original repository (`URL`) at `COMMIT`.
The repository has no licence: its files are fetched by whoever needs them, and are no part of this project.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from facespec.study.errors import StudyError
from facespec.study.storage import write_bytes

URL = "https://github.com/yanistazi/Identity_Expression_Specialization"
COMMIT = "e570ea8947873746021d95eee5f9701ebcd023ed"
BLOBS = Path(__file__).with_name("git_blobs.txt")
PRESENT, ABSENT, ALTERED = "present", "absent", "altered"


def blob_ids() -> dict[str, str]:
    """File name -> git blob id of every published file."""
    lines = (line.split(" ", 1) for line in BLOBS.read_text(encoding="utf-8").splitlines())
    return {name: blob for blob, name in lines}


def blob_id(content: bytes) -> str:
    """The id git gives to a file of this content: SHA-1 of a short header and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch(
    source: str | Path, to: Path, *, commit: str = COMMIT, blobs: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Copy the published files from `source` into the directory `to`, verified.

    `source` is a directory that holds the files anywhere beneath (a checkout, or a plain folder), or a git URL (or bare
    repository) that `commit` is fetched from. `blobs` (file name -> blob id) are the files wanted; default: all.
    Returns one row per file, columns `file` and `status`: ``present`` (verified, now in `to`), ``absent``, or
    ``altered`` (its bytes are others; not written). `refuse_altered` turns the last into an error.
    """
    blobs = blob_ids() if blobs is None else blobs
    folder = Path(source)
    candidates = _beneath(folder, set(blobs)) if _is_folder(folder) else _from_git(str(source), commit, set(blobs))
    status = dict.fromkeys(sorted(blobs), ABSENT)
    for name, content in candidates:
        if blob_id(content) == blobs[name]:
            write_bytes(to / name, content)
            status[name] = PRESENT
        elif status[name] == ABSENT:  # a README of something else does not count against the right one
            status[name] = ALTERED
    return pd.DataFrame({"file": list(status), "status": list(status.values())})


def refuse_altered(report: pd.DataFrame) -> None:
    """Raise `StudyError` naming the altered files in a report of `fetch`, if there are any."""
    altered = report.loc[report["status"] == ALTERED, "file"].tolist()
    if altered:
        raise StudyError(
            f"refused, and not written: {', '.join(altered)}. The bytes differ from those of commit {COMMIT[:7]}; "
            "fetch from the original repository, or name a directory with unaltered files."
        )


def _is_folder(path: Path) -> bool:
    bare_repository = (path / "HEAD").is_file() and (path / "objects").is_dir()
    return path.is_dir() and not bare_repository


def _beneath(folder: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    # listed before anything is written: the target may lie beneath the source
    paths = sorted(
        p for p in folder.rglob("*") if p.name in names and p.is_file() and ".git" not in p.relative_to(folder).parts
    )
    return ((path.name, path.read_bytes()) for path in paths)


def _from_git(url: str, commit: str, names: set[str]) -> Iterator[tuple[str, bytes]]:
    if url.startswith("-"):
        raise StudyError(f"{url!r}: neither a directory nor a git URL.")
    with tempfile.TemporaryDirectory() as directory:
        repository = Path(directory)
        try:
            _git(repository, "init", "--quiet", "--bare")
            # depth 1: the files of this commit and nothing else
            _git(repository, "fetch", "--quiet", "--no-tags", "--depth", "1", "--", url, commit)
        except FileNotFoundError:
            raise StudyError("git is not installed; install it, or name a directory that holds the files.") from None
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()
            raise StudyError(
                f"git could not get commit {commit[:7]} from {url} ({said[-1] if said else 'no message'}). "
                "Without a network, name a directory that holds the files."
            ) from None
        for entry in _git(repository, "ls-tree", "-r", "-z", commit).decode().rstrip("\0").split("\0"):
            description, path = entry.split("\t", 1)
            if Path(path).name in names:
                yield Path(path).name, _git(repository, "cat-file", "blob", description.split()[2])


def _git(repository: Path, *words: str) -> bytes:
    # no questions about passwords, and no waiting for ever on a line that is dead
    patience = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    environment.pop("GIT_DIR", None)
    command = ["git", *patience, *words]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, check=True).stdout
