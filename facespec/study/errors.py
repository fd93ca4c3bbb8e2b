"""What does a user read when something fails? What was given, what is allowed, and what to do.

`StudyError` is the one error that facespec raises on purpose; `explain_os_error` does the same for errors of the
operating system.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # holds the semaphores of processes
MIN_FREE_BYTES = 2**20  # a disk with less is taken for the full one
OUT_OF_MEMORY = "the memory is used up. Close other programs, use fewer --workers, or make a smaller study."

# the number of the system's error -> what it means for a file, and what to do
REMEDIES = {
    errno.EACCES: "no permission to read or write it. Change its permissions (see ls -l), or name another place.",
    errno.EPERM: "the system does not permit this. Change the owner or attributes of the file, or name another place.",
    errno.EROFS: "its disk can only be read. Name a place on another disk, or have this one mounted for writing.",
    errno.ENOENT: "no such file or directory. Check its name, or make it.",
    errno.ENOTDIR: "a file, where a directory belongs. Move it away, or name a directory.",
    errno.EISDIR: "a directory, where a file belongs. Move it away, or name a file.",
    errno.EEXIST: "something of this name is already here. Move it away, or choose another name.",
    errno.ENOTEMPTY: "not empty. Move away what is in it, or choose another name.",
    errno.EMFILE: "too many files are open at once. Raise the limit (ulimit -n 4096), or use fewer --workers.",
    errno.ENFILE: "too many files are open on this machine. Close other programs, and run the same command again.",
    errno.ENAMETOOLONG: "its name is longer than the disk allows. Choose shorter names of files and directories.",
    errno.ELOOP: "its symbolic links lead in a circle. Remove one of them, or name another place.",
    errno.EIO: "the disk fails (input/output error). Copy what is on it to another, and run the same command there.",
    errno.ESTALE: "its network disk has lost it. Mount that anew, and run the same command again.",
    errno.EBUSY: "another program uses it. Close that, and run the same command again.",
    errno.EFBIG: "larger than the disk or the limit of the shell allows (ulimit -f). Raise it, or name another disk.",
    errno.ETIMEDOUT: "its network disk does not answer. Mount that anew, and run the same command again.",
    errno.ENOTCONN: "its network disk is not connected. Mount that anew, and run the same command again.",
    errno.EAGAIN: "the system starts no more processes. Raise the limit (ulimit -u), or use fewer --workers.",
    errno.ENOMEM: OUT_OF_MEMORY,
}


class StudyError(ValueError):
    """Input, a file or a setting that facespec refuses; the message says what to do.

    The command line prints the message alone (exit status 2); library users may catch it as `ValueError`.
    """


def suggest_spelling(word: str, allowed: Iterable[str]) -> str:
    """Name the allowed words, after the one most like `word`: ``did you mean 'x'? Allowed: 'x', 'y'.``"""
    options = list(allowed)
    nearest = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}Allowed: {', '.join(map(repr, options))}."


def explain_os_error(error: OSError, path: Path | None = None) -> str:
    """Say in one line which file an error of the operating system concerns, what it means and what to do.

    `path` is the file that was read or written, for errors that do not name it.
    """
    if isinstance(error, shutil.Error):
        error = _parse_copy_error(error)
    if error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
        return (
            "no directory for temporary files can be written: all are full, read-only or missing. "
            "Set TMPDIR to one that can, on a disk with free space."
        )
    name = error.filename if error.filename2 is None else error.filename2  # of two files, the one to be written
    file = Path(os.fsdecode(name)) if isinstance(name, str | bytes) and name else None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _explain_full_disk(error.errno, file, path)
    with suppress(OSError):
        if error.errno in (errno.EROFS, errno.EACCES) and file is None:
            unwritable = (each for each in _list_candidates(path) if not os.access(_find_existing(each), os.W_OK))
            file = next(unwritable, path)
        file = file or path
        if error.errno == errno.ENOENT and file and file.is_symlink():
            return f"{file}: a link to {file.readlink()}, which does not exist. Mend the link, or remove it."
        if error.errno == errno.ENOTDIR and file:
            parts = [*reversed(file.parents), file]
            file = next((part for part in parts if part.exists() and not part.is_dir()), file)
    file, remedy = file or path, _choose_remedy(error)
    return f"{file}: {remedy}" if file else remedy


def _choose_remedy(error: OSError) -> str:
    if remedy := REMEDIES.get(error.errno or 0):
        return remedy
    text = " ".join(str(error.strerror or error).split()).rstrip(".") or type(error).__name__
    code = errno.errorcode.get(error.errno or 0)
    return f"{text} ({code}). That is what the system says: mend it, and run this again." if code else f"{text}."


def _parse_copy_error(error: shutil.Error) -> OSError:
    """Return the first of the errors that copying a directory collects as (source, target, text)."""
    try:
        _, target, text = error.args[0][0]
        number = re.search(r"\[Errno (\d+)\] ([^:]*)", text)
        return OSError(int(number[1]), number[2], target) if number else OSError(f"{target}: {text}")
    except (IndexError, TypeError, ValueError):
        return OSError(str(error))


def _explain_full_disk(number: int, file: Path | None, path: Path | None) -> str:
    """Say which disk is full: that of the `file` in the error, else the first candidate without free space."""
    temporary = _find_temporary_directory()
    candidates = [file] if file else _list_candidates(path)
    full = next((each for each in candidates if find_shortage(each)), file or path)
    if number == errno.EDQUOT:
        problem = "your quota of the disk is used up"
    elif full and find_shortage(full) == "files":
        problem = "the disk has no room for another file, however small (its inodes are used up: df -i)"
    else:
        problem = "the disk is full"
    if full is None:
        disks = f"that of this directory, {temporary} or {SHARED_MEMORY} (df -h)"
        return f"{problem}: {disks}. Free some space and run the same command again."
    if SHARED_MEMORY in (full, *full.parents):
        return f"{full}: the shared memory is full. Remove what ended programs left there, or have it enlarged."
    if full == temporary or (
        temporary in full.parents and full.relative_to(temporary).parts[0].startswith(tempfile.gettempprefix())
    ):
        return (
            f"{temporary}: {problem}; temporary files lie there. "
            "Free some space, or set TMPDIR to a directory with more."
        )
    return (
        f"{full}: {problem}, so it was not written. Earlier files are untouched; "
        "free some space and run the same command again."
    )


def _find_temporary_directory() -> Path:
    """Return the directory of temporary files without testing whether it can be written."""
    return Path(tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp")


def _list_candidates(path: Path | None) -> list[Path]:
    """List what an error without a file may concern: `path`, temporary files, or the semaphores of processes."""
    return [each for each in (path, _find_temporary_directory(), SHARED_MEMORY) if each]


def _find_existing(path: Path) -> Path:
    """Return `path`, or the nearest directory above it that exists."""
    return next((each for each in (path, *path.parents) if each.exists()), Path())


def find_shortage(path: Path) -> str | None:
    """Return what the disk of `path` lacks: ``"bytes"``, ``"files"`` (its inodes are used up), or None."""
    try:
        disk = os.statvfs(_find_existing(path))
    except (OSError, AttributeError):  # Windows has no statvfs
        return None
    if disk.f_files and not disk.f_favail:
        return "files"
    return "bytes" if disk.f_blocks and disk.f_bavail * disk.f_frsize < MIN_FREE_BYTES else None
