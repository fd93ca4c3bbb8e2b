"""Named arrays and a description of them in one file, with a digest of it all, which whoever reads it checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from facespec.study.errors import StudyError
from facespec.study.storage import write_bytes

ENTRY = "facespec"  # of a safetensors file's metadata; one only, because the order of several is not fixed
DIGEST = "digest"

Arrays = Mapping[str, np.ndarray]


def write_arrays(path: Path, description: Mapping[str, Any], arrays: Arrays) -> None:
    """Write named `arrays` and their `description` (JSON values), atomically; equal content gives equal bytes.

    The file is in the safetensors format. Its metadata has one entry, ``facespec``: a JSON object with the description
    and the digest of description, names, types, shapes and values.
    """
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    head = {"description": description, DIGEST: _digest(description, ordered)}
    write_bytes(path, to_bytes(ordered, {ENTRY: json.dumps(head, sort_keys=True, allow_nan=False)}))


def read_arrays(path: Path, *, remedy: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write_arrays` wrote: the description, and the arrays by name.

    Raises `StudyError`, naming the file and the `remedy`, for a foreign, truncated or altered file; `OSError` for one
    that is not there or cannot be read.
    """
    with path.open("rb"):
        pass  # safetensors calls every file that it cannot open "no such file"
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(ENTRY, "")
            arrays = {name: file.get_tensor(name) for name in file.keys()} if text else {}  # noqa: SIM118
        head = json.loads(text) if text else None
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:  # of foreign types also
        raise StudyError(f"{path}: not a file of arrays ({error}). It may be cut or damaged. {remedy}") from None
    if not isinstance(head, dict) or not isinstance(head.get("description"), dict):
        raise StudyError(f"{path}: not a file of arrays with a description: its {ENTRY!r} entry is absent. {remedy}")
    try:
        unchanged = _digest(head["description"], arrays) == head.get(DIGEST)
    except ValueError:  # NaN, which is not written
        unchanged = False
    if not unchanged:
        raise StudyError(f"{path}: not the content that was written there: altered or damaged. {remedy}")
    return head["description"], arrays


def _digest(description: Mapping[str, Any], arrays: Arrays) -> str:
    content = hashlib.sha256(json.dumps(description, sort_keys=True, allow_nan=False).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        content.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        content.update(array.reshape(-1).view(np.uint8).data)
    return content.hexdigest()
