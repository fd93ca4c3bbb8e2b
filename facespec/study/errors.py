"""The one error a user meets: what was given, what is allowed, how to fix it; and what the system's errors ask for."""

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

SHARED_MEMORY = Path("/dev/shm")  # where processes keep their semaphores
ROOM = 2**20  # bytes; a disk with less is taken for the full one
OUT_OF_MEMORY = "the memory is used up. Close other programs, use fewer --workers, or make a smaller study."

# what the system says -> what it means for a file, and what to do
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
    """Input, a file or a setting that facespec refuses; the message says how to mend it.

    The command line prints the message alone (exit status 2); library users may catch it as `ValueError`.
    """


def suggest_spelling(word: str, allowed: Iterable[str]) -> str:
    """The allowed words as a sentence, the nearest spelling first: ``did you mean 'x'? Allowed: 'x', 'y'.``"""
    options = list(allowed)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(map(repr, options))}."


def explain_os_error(error: OSError, path: Path | None = None) -> str:
    """What `error` of the operating system means and what to do, in one line that names the file.

    `path`: the file that was read or written, for errors that do not say which.
    """
    if isinstance(error, shutil.Error):
        error = _pick_first(error)
    if error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
        return (
            "no directory for temporary files can be written: all are full, read-only or missing. "
            "Set TMPDIR to one that can, on a disk with free space."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _explain_full_disk(error.errno, _find_file(error), path)
    file = _find_file(error) or path
    with suppress(OSError):
        if error.errno in (errno.EROFS, errno.EACCES) and _find_file(error) is None:
            file = next((place for place in _list_places(path) if not os.access(_climb(place), os.W_OK)), path)
        if error.errno == errno.ENOENT and file and file.is_symlink():
            return f"{file}: a link to {file.readlink()}, which does not exist. Mend the link, or remove it."
        if error.errno == errno.ENOTDIR and file:
            file = next(
                (place for place in [*reversed(file.parents), file] if place.exists() and not place.is_dir()), file
            )
    return f"{file}: {_choose_remedy(error)}" if file else _choose_remedy(error)


def _choose_remedy(error: OSError) -> str:
    if remedy := REMEDIES.get(error.errno or 0):
        return remedy
    text = " ".join(str(error.strerror or error).split()).rstrip(".") or type(error).__name__
    code = errno.errorcode.get(error.errno or 0)
    return f"{text} ({code}). That is what the system says: mend it, and run this again." if code else f"{text}."


def _pick_first(error: shutil.Error) -> OSError:
    """The first of the errors that copying a directory collects as (source, target, text)."""
    try:
        _, target, text = error.args[0][0]
        number = re.search(r"\[Errno (\d+)\] ([^:]*)", text)
        return OSError(int(number[1]), number[2], target) if number else OSError(f"{target}: {text}")
    except (IndexError, TypeError, ValueError):
        return OSError(str(error))


def _find_file(error: OSError) -> Path | None:
    """The file that `error` names; of two, the one that was to be made."""
    name = error.filename if error.filename2 is None else error.filename2
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) and name else None


def _explain_full_disk(number: int, named: Path | None, path: Path | None) -> str:
    """Which disk is full: the one of the file that the system names, else the first that has no room left."""
    temporary = _find_temporary()
    places = [named] if named else _list_places(path)
    place = next((place for place in places if lacks_room(place)), named or path)
    if number == errno.EDQUOT:
        what = "your quota of the disk is used up"
    elif place and lacks_room(place) == "files":
        what = "the disk has no room for another file, however small (its inodes are used up: df -i)"
    else:
        what = "the disk is full"
    if place is None:
        disks = f"that of this directory, {temporary} or {SHARED_MEMORY} (df -h)"
        return f"{what}: {disks}. Free some space and run the same command again."
    if SHARED_MEMORY in (place, *place.parents):
        return f"{place}: the shared memory is full. Remove what ended programs left there, or have it enlarged."
    if place == temporary or _is_temporary(place, temporary):
        return (
            f"{temporary}: {what}; temporary files lie there. Free some space, or set TMPDIR to a directory with more."
        )
    return (
        f"{place}: {what}, so it was not written. Earlier files are untouched; "
        "free some space and run the same command again."
    )


def _find_temporary() -> Path:
    """The directory of temporary files, without a trial of whether it can be written."""
    return Path(tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp")


def _list_places(path: Path | None) -> list[Path]:
    """Where an error that names no file may have come from: `path`, temporary files, or the semaphores of processes."""
    return [place for place in (path, _find_temporary(), SHARED_MEMORY) if place]


def _climb(path: Path) -> Path:
    """`path`, or the first directory above it that exists."""
    return next((place for place in (path, *path.parents) if place.exists()), Path())


def _is_temporary(file: Path, temporary: Path) -> bool:
    return temporary in file.parents and file.relative_to(temporary).parts[0].startswith(tempfile.gettempprefix())


def lacks_room(path: Path) -> str | None:
    """What the disk of `path` has no room for: ``"bytes"``, ``"files"`` (its inodes are used up), or None."""
    try:
        disk = os.statvfs(_climb(path))
    except (OSError, AttributeError):  # Windows has no statvfs
        return None
    if disk.f_files and not disk.f_favail:
        return "files"
    return "bytes" if disk.f_blocks and disk.f_bavail * disk.f_frsize < ROOM else None
