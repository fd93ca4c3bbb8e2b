"""Which directories can hold a study, and how one is known."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from facespec.study.artefacts import write_document
from facespec.study.errors import StudyError
from facespec.study.paths import Paths
from facespec.study.storage import write_bytes

DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"
FORBIDDEN = "{}"  # DVC takes them for its own placeholders, and stops with an internal error


def check_path(directory: Path) -> None:
    """Raise `StudyError` for a directory in whose path DVC cannot work."""
    path = Path(os.path.realpath(directory))  # Path.resolve raises for links in a circle
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise StudyError(
            f"{str(path).encode(errors='backslashreplace').decode()}: this path is not UTF-8, which DVC needs. "
            "Name a directory elsewhere, or rename the one that is not."
        ) from None
    if forbidden := [letter for letter in FORBIDDEN if letter in str(path)]:
        raise StudyError(
            f"{path}: DVC cannot work below a directory with {' and '.join(forbidden)} in its name. "
            "Name a directory elsewhere, or rename that one."
        )


def is_study(directory: Path) -> bool:
    """Whether `facespec init` made this directory."""
    return Paths(directory).marker.is_file()


def mark_study(directory: Path, *, profile: str) -> None:
    """Write the file by which a study directory is known."""
    write_document(Paths(directory).marker, {"version": 1, "profile": profile})


def write_dvc_config(directory: Path) -> None:
    """Make `directory` a place where DVC works: with the git repository around it, or without git."""
    config = DVC_CONFIG if _is_tracked(directory) else DVC_CONFIG + "    no_scm = true\n"
    write_bytes(directory / ".dvc" / "config", config.encode())


def _is_tracked(directory: Path) -> bool:
    """Whether git would track files of `directory`; DVC refuses a pipeline that git ignores."""
    command = ["git", "check-ignore", "--quiet", "dvc.yaml"]
    try:
        return subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 1
    except FileNotFoundError:
        return False
