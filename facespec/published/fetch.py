"""Where are the original study's files? They are fetched, each verified against its git blob id.

``git_blobs.txt`` lists the blob ids of every file of the original repository (`URL`) at `COMMIT`.
The repository has no licence: its files are fetched by users who need them, and are no part of this project.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

import pandas as pd

from facespec.published.git import IDLE_LIMIT, fetch_repository, is_directory
from facespec.study.errors import StudyError
from facespec.study.storage import write_bytes

URL = "https://github.com/yanistazi/Identity_Expression_Specialization"
COMMIT = "e570ea8947873746021d95eee5f9701ebcd023ed"
BLOBS = Path(__file__).with_name("git_blobs.txt")
PRESENT, ABSENT, ALTERED = "present", "absent", "altered"
COMMON_NAMES = frozenset({"README.md"})  # any project may have such a file
SIZE_LIMIT = 100 * 2**20  # bytes of one file; GitHub, which hosts the original, allows none larger


class _File(NamedTuple):
    """A file in the source that has the name of a published one."""

    path: PurePath
    size: int
    read: Callable[[], bytes]


def read_blob_ids() -> dict[str, str]:
    """File name -> git blob id of every published file."""
    lines = (line.split(" ", 1) for line in BLOBS.read_text(encoding="utf-8").splitlines())
    return {name: blob for blob, name in lines}


def compute_blob_id(content: bytes) -> str:
    """The id git gives to a file of this content: SHA-1 of a short header and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch(
    source: str | Path,
    directory: Path,
    *,
    commit: str = COMMIT,
    blobs: Mapping[str, str] | None = None,
    idle_limit: float = IDLE_LIMIT,
) -> pd.DataFrame:
    """Copy the published files from `source` into `directory`, each verified.

    `source` is a directory with the files at any depth (a checkout, or a plain folder), or a git URL (or bare
    repository) that `commit` is fetched from. `blobs` (file name -> blob id) are the files to copy; default: all.
    Returns one row per file, columns `file` and `status`: ``present`` (verified, now in `directory`), ``absent``, or
    ``altered`` (its bytes differ; not written). `refuse_altered` turns the last into an error. A file whose name any
    project may use (`COMMON_NAMES`) counts as altered only in a folder that holds another published file.

    Raises `StudyError` for a source that is neither, cannot be read, or sends nothing for `idle_limit` seconds.
    """
    blobs = read_blob_ids() if blobs is None else blobs
    status = dict.fromkeys(sorted(blobs), ABSENT)
    with _list_files(source, commit, set(blobs), idle_limit=idle_limit) as files:
        files_per_folder = Counter(file.path.parent for file in files)
        for file in files:
            name = file.path.name
            content = file.read() if file.size <= SIZE_LIMIT else b""
            if compute_blob_id(content) == blobs[name] and len(content) == file.size:
                write_bytes(directory / name, content)
                status[name] = PRESENT
            elif status[name] == ABSENT and (name not in COMMON_NAMES or files_per_folder[file.path.parent] > 1):
                status[name] = ALTERED  # unless another copy is the right one
    return pd.DataFrame({"file": list(status), "status": list(status.values())})


def refuse_altered(report: pd.DataFrame) -> None:
    """Raise `StudyError` naming the altered files in a report of `fetch`, if there are any."""
    altered = report.loc[report["status"] == ALTERED, "file"].tolist()
    if altered:
        raise StudyError(
            f"refused, and not written: {', '.join(altered)}. The bytes differ from those of commit {COMMIT[:7]}; "
            "fetch from the original repository, or name a directory with unaltered files."
        )


@contextmanager
def _list_files(source: str | Path, commit: str, names: set[str], *, idle_limit: float) -> Iterator[list[_File]]:
    """The files in `source` that have one of `names`, at any depth."""
    if _is_folder(source):
        # listed before anything is written: the target may be inside the source
        yield list(_walk(Path(source), names))
        return
    # git runs in another directory, so that a path must not be relative
    url = str(Path(source).resolve()) if str(source) and is_directory(source) else str(source)
    with fetch_repository(url, commit, idle_limit=idle_limit) as repository:
        yield [
            _File(PurePosixPath(blob.path), blob.size, partial(repository.read, blob))
            for blob in repository.list_blobs()
            if PurePosixPath(blob.path).name in names
        ]


def _is_folder(source: str | Path) -> bool:
    if not str(source) or not is_directory(source):  # an empty path would be the working directory
        return False
    return not ((Path(source) / "HEAD").is_file() and is_directory(Path(source) / "objects"))  # a bare repository


def _walk(folder: Path, names: set[str]) -> Iterator[_File]:
    for parent, folders, files in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = sorted(set(folders) - {".git"})
        for path in sorted(Path(parent, name) for name in names.intersection(files)):
            try:
                status = path.stat()
            except OSError as error:
                raise _explain_unreadable(error) from error
            if stat.S_ISREG(status.st_mode):
                yield _File(path, status.st_size, partial(_read, path))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SIZE_LIMIT)
    except OSError as error:
        raise _explain_unreadable(error) from error


def _refuse_unreadable(error: OSError) -> None:
    raise _explain_unreadable(error) from error


def _explain_unreadable(error: OSError) -> StudyError:
    return StudyError(
        f"{error.filename}: cannot be read ({error.strerror}). Change its permissions, or name a directory without it."
    )
