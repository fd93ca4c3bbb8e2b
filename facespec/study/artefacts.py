"""Files that carry a digest of all they hold, which whoever opens them checks.

Two kinds: any file, whose digest is kept elsewhere; and a *document*, a JSON object with its own digest. Arrays with a
description have a file of their own kind: `study.arrays`. A digest finds damage and mistakes, such as a file that was
edited or cut; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facespec.study.documents import read_json
from facespec.study.errors import StudyError
from facespec.study.storage import encode_json, write_bytes

DIGEST = "digest"


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, digest: str | None, *, remedy: str) -> None:
    """Raise `StudyError` with the sentence `remedy` if the bytes of `path` do not have `digest` (None: none has)."""
    try:
        found = digest_file(path)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file. {remedy}") from None
    if found != digest:
        raise StudyError(f"{path}: not the bytes that were written there: altered, cut or damaged. {remedy}")


def load_array(path: Path, digest: str | None, *, remedy: str) -> np.ndarray:
    """The array in the ``.npy`` file `path`, memory-mapped, once its bytes are known to have this `digest`."""
    check_file(path, digest, remedy=remedy)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StudyError(f"{path}: not a readable array ({error}). {remedy}") from error


def digest_files(directory: Path) -> dict[str, str]:
    """Name -> digest of every file in `directory`."""
    return {path.name: digest_file(path) for path in sorted(directory.iterdir())}


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as a JSON object with an entry ``digest``, atomically; equal content gives equal bytes."""
    write_bytes(path, encode_document(content))


def encode_document(content: Mapping[str, Any]) -> bytes:
    """The bytes that `write_document` writes."""
    return encode_json({**content, DIGEST: _digest(content)})


def read_document(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read what `write_document` wrote, without its digest.

    Raises `StudyError`, naming the file and the `remedy`, for anything else.
    """
    content = read_json(path)
    digest = content.pop(DIGEST, None)
    if not isinstance(digest, str):
        raise StudyError(f"{path}: a JSON object with a digest of its content is expected here. {remedy}")
    if digest != _digest(content):
        raise StudyError(f"{path}: not the content that was written there: altered or damaged. {remedy}")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
