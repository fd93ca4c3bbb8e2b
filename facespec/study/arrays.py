"""How are named arrays and their description stored in one file, so that any later change is noticed?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from facespec.study.errors import StudyError
from facespec.study.storage import write_bytes

METADATA_KEY = "facespec"  # the only one in the safetensors metadata, because the order of several is not fixed
DIGEST = "digest"

Arrays = Mapping[str, np.ndarray]


def write_arrays(path: Path, description: Mapping[str, Any], arrays: Arrays) -> None:
    """Write named `arrays` and their `description` (JSON values), atomically; equal content gives equal bytes.

    The file is in the safetensors format. Its metadata has one entry, ``facespec``: a JSON object with the description
    and a digest of the description and of the arrays' names, dtypes, shapes and values.
    """
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = {"description": description, DIGEST: _compute_digest(description, ordered)}
    write_bytes(path, save(ordered, {METADATA_KEY: json.dumps(header, sort_keys=True, allow_nan=False)}))


def read_arrays(path: Path, *, remedy: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the description and the arrays by name from a file that `write_arrays` wrote.

    Raises `StudyError`, naming the file and the `remedy`, for a foreign, truncated or altered file, and `OSError` for
    a file that is absent or cannot be read.
    """
    with path.open("rb"):
        pass  # safetensors calls every file that it cannot open "no such file"
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(METADATA_KEY, "")
            arrays = {name: file.get_tensor(name) for name in file.keys()} if text else {}  # noqa: SIM118
        header = json.loads(text) if text else None
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:  # also unknown dtypes
        raise StudyError(f"{path}: not a file of arrays ({error}). It may be cut or damaged. {remedy}") from None
    if not isinstance(header, dict) or not isinstance(header.get("description"), dict):
        raise StudyError(
            f"{path}: not a file of arrays with a description: its {METADATA_KEY!r} entry is absent. {remedy}"
        )
    try:
        unchanged = _compute_digest(header["description"], arrays) == header.get(DIGEST)
    except ValueError:  # NaN, which `write_arrays` refuses
        unchanged = False
    if not unchanged:
        raise StudyError(f"{path}: not the content that was written there: altered or damaged. {remedy}")
    return header["description"], arrays


def _compute_digest(description: Mapping[str, Any], arrays: Arrays) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, allow_nan=False).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
