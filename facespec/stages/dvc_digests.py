"""DVC's digests of files and directories: MD5, because that is what ``dvc.lock`` and ``data.dvc`` hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def digest_output(path: Path) -> str:
    """The digest of a file, or of a directory and all below it."""
    return digest_listing(digest_below(path)) if path.is_dir() else digest_file(path)


def digest_below(directory: Path) -> dict[str, str]:
    """MD5 of every file below a directory, by its path there."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): digest_file(path) for path in files}


def digest_listing(files: Mapping[str, str]) -> str:
    """DVC's digest of a directory: the MD5 of its files' digests and paths as JSON, with the suffix ``.dir``."""
    rows = ", ".join(f'{{"md5": "{digest}", "relpath": {json.dumps(name)}}}' for name, digest in sorted(files.items()))
    return hashlib.md5(f"[{rows}]".encode()).hexdigest() + ".dir"


def digest_file(path: Path) -> str:
    """MD5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
