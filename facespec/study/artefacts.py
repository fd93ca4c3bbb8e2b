"""How does a reader notice that a file was damaged, edited or exchanged? By a SHA-256 digest, checked when it is read.

A *document* is a JSON object that holds its own digest. The digest of any other file stands in such a document. Arrays
with a description have a file format of their own: `study.arrays`. A digest is no signature: it does not show who
wrote a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from facespec.study.documents import read_json
from facespec.study.errors import StudyError
from facespec.study.storage import encode_json, write_bytes

DIGEST = "digest"
REMAKE_DIRECTORY = "Remove the directory: `facespec repro` makes it again."

Header = TypeVar("Header", bound=BaseModel)


def digest_file(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, digest: str | None, *, remedy: str) -> None:
    """Raise `StudyError`, ending with `remedy`, if `path` is absent or its bytes do not have `digest` (None: never)."""
    try:
        actual = digest_file(path)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file. {remedy}") from None
    if actual != digest:
        raise StudyError(f"{path}: not the bytes that were written there: altered, cut or damaged. {remedy}")


def load_array(path: Path, digest: str | None, *, remedy: str) -> np.ndarray:
    """Check the digest of the ``.npy`` file `path` (see `check_file`), and return its array, memory-mapped."""
    check_file(path, digest, remedy=remedy)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StudyError(f"{path}: not a readable array ({error}). {remedy}") from error


def digest_files(directory: Path) -> dict[str, str]:
    """Compute the digest of every file in `directory`, by name."""
    return {path.name: digest_file(path) for path in sorted(directory.iterdir())}


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as a JSON object with an entry ``digest``, atomically; equal content gives equal bytes."""
    write_bytes(path, encode_document(content))


def encode_document(content: Mapping[str, Any]) -> bytes:
    """Return the bytes that `write_document` writes."""
    return encode_json({**content, DIGEST: _compute_digest(content)})


def read_document(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read a file that `write_document` wrote, and return its content without the digest.

    Raises `StudyError`, naming the file, for any other file.
    """
    content = read_json(path)
    digest = content.pop(DIGEST, None)
    if not isinstance(digest, str):
        raise StudyError(f"{path}: a JSON object with a digest of its content is expected here. {remedy}")
    if digest != _compute_digest(content):
        raise StudyError(f"{path}: not the content that was written there: altered or damaged. {remedy}")
    return content


def read_header(path: Path, header_type: type[Header], *, content: str, stage: str) -> Header:
    """Read and validate the document that describes its directory and holds the digests of the files there.

    `content` is what the directory holds and `stage` the stage that makes it, as messages name them. Raises
    `StudyError`, naming the directory or the file, if the document is absent, altered, or no valid `header_type`.
    """
    if not path.is_file():
        raise StudyError(f"{path.parent}: no {content} here (no {path.name} in it). `dvc repro {stage}` makes them.")
    try:
        return header_type.model_validate(read_document(path, remedy=REMAKE_DIRECTORY))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "the whole file"
        raise StudyError(f"{path}: {key}: {problem['msg']}. Make the {content} again.") from None


def _compute_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
