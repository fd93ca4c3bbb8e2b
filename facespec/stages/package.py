"""Which code computes, and how: what other code, or another code path, began is not continued by this one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import facespec
from facespec.study.code_path import get_code_path


def package_digest() -> str:
    """A digest of the package's source and of the code path on which it runs."""
    digest = hashlib.sha256(repr(get_code_path()).encode())
    for file in sorted(Path(facespec.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
