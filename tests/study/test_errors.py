"""Errors of the system become one sentence: which file, what is wrong, what to do."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facespec.study import errors
from facespec.study.errors import StudyError, explain_os_error, find_shortage, suggest_spelling
from facespec.study.vocabulary import EXPRESSIONS


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("hapy", "did you mean 'happy'? Allowed: 'happy', 'sad', 'fear'."),
        ("Sad", "did you mean 'sad'? Allowed: 'happy', 'sad', 'fear'."),
        ("joyful", "Allowed: 'happy', 'sad', 'fear'."),
        ("", "Allowed: 'happy', 'sad', 'fear'."),
    ],
)
def test_the_most_similar_word_is_suggested(word: str, sentence: str) -> None:
    assert suggest_spelling(word, iter(["happy", "sad", "fear"])) == sentence


def test_members_of_enumerations_are_spelled_as_texts() -> None:
    assert suggest_spelling("surprised", map(str, EXPRESSIONS)).startswith(
        "did you mean 'surprise'? Allowed: 'angry', "
    )


def test_a_study_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="what to do"):
        raise StudyError("what to do")


NO_DIRECTORY = "DIR/file: a file, where a directory belongs. Move it away, or name a directory."
CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "below a file": (lambda d: (d / "file" / "x" / "y.csv").read_bytes(), NO_DIRECTORY),
    "list a file": (lambda d: list((d / "file").iterdir()), NO_DIRECTORY),
    "copy into a file": (lambda d: shutil.copytree(d, d / "file" / "x"), NO_DIRECTORY),
    "read a directory": (
        lambda d: (d / "full").read_bytes(),
        "DIR/full: a directory, where a file belongs. Move it away",
    ),
    "exists": (lambda d: (d / "file").mkdir(), "DIR/file: something of this name is already here. Move it away, or"),
    "not empty": (
        lambda d: (d / "full").rmdir(),
        "DIR/full: not empty. Move away what is in it, or choose another name",
    ),
    "circle": (lambda d: (d / "circle").read_bytes(), "DIR/circle: its symbolic links lead in a circle. Remove one of"),
    "link": (lambda d: (d / "link").read_bytes(), "DIR/link: a link to gone, which does not exist. Mend the link, or"),
    "absent": (lambda d: (d / "none").read_bytes(), "DIR/none: no such file or directory. Check its name, or make it."),
    "long": (lambda d: (d / ("n" * 300)).touch(), f"DIR/{'n' * 300}: its name is longer than the disk allows. Choose"),
    "copy a link": (
        lambda d: shutil.copytree(d / "full", d / "to"),
        "DIR/to/gone: no such file or directory. Check its",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_of_the_system_is_explained(case: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    for link, target in (("circle", "circle"), ("link", "gone"), ("full/gone", "nowhere")):
        (tmp_path / link).symlink_to(target)
    action, sentence = CASES[case]
    with pytest.raises(OSError) as caught:
        action(tmp_path)
    assert explain_os_error(caught.value).replace(str(tmp_path), "DIR").startswith(sentence)


@pytest.mark.parametrize("number", [*errors.REMEDIES, errno.ENOSPC, errno.EDQUOT, errno.EPROTO, errno.ENODEV])
def test_every_sentence_names_the_file_and_a_remedy(number: int, tmp_path: Path) -> None:
    path, text = tmp_path / "a.csv", os.strerror(number)
    sentence = explain_os_error(OSError(number, text, str(path)))
    assert sentence.startswith(f"{path}: ") and sentence.endswith(".") and "\n" not in sentence
    assert ". " in sentence or ";" in sentence or ", so" in sentence
    assert explain_os_error(OSError(number, text, "other", None, str(path))) == sentence
    assert explain_os_error(OSError(number, text, os.fsencode(path))) == sentence
    assert explain_os_error(OSError(number, text), path) == sentence
    assert "None" not in explain_os_error(OSError(number, text))


def test_errors_without_a_remedy_are_quoted() -> None:
    assert explain_os_error(OSError(errno.EPROTO, "Protocol error", "x")) == (
        "x: Protocol error (EPROTO). That is what the system says: mend it, and run this again."
    )
    assert explain_os_error(OSError("cannot identify\n image file"), Path("x")) == "x: cannot identify image file."
    assert explain_os_error(OSError(), Path("x")) == "x: OSError."


def test_copying_errors_are_parsed() -> None:
    """`shutil.copytree` collects its errors as texts."""
    full = shutil.Error([("a", "b/c.py", "[Errno 28] No space left on device: 'b/c.py'")])
    assert explain_os_error(full).startswith("b/c.py: the disk is full, so it was not written.")
    assert explain_os_error(shutil.Error("same file")) == "same file."


WRITTEN = Path("Results", "t.csv")
NOT_WRITTEN = "the disk is full, so it was not written. Earlier files are untouched; free some space and run the same"
TEMPORARY = "TMP: the disk is full; temporary files lie there. Free some space, or set TMPDIR to a directory with more."
SHARED = "the shared memory is full. Remove what ended programs left there, or have it enlarged."


@pytest.mark.parametrize(
    ("name", "path", "full", "sentence"),
    [
        (None, WRITTEN, "Results", f"Results/t.csv: {NOT_WRITTEN}"),
        (None, WRITTEN, "TMP", TEMPORARY),
        (None, WRITTEN, "/dev/shm", f"/dev/shm: {SHARED}"),
        (None, WRITTEN, "no disk", f"Results/t.csv: {NOT_WRITTEN}"),
        (
            None,
            None,
            "no disk",
            "the disk is full: that of this directory, TMP or /dev/shm (df -h). Free some space and",
        ),
        *(
            (name, path, "Results", sentence)
            for path in (WRITTEN, None)
            for name, sentence in {
                "TMP/tmpa1b2": TEMPORARY,
                "TMP/tmpa1/x": TEMPORARY,
                "TMP/mine/x": f"TMP/mine/x: {NOT_WRITTEN}",
                "x": f"x: {NOT_WRITTEN}",
                "/dev/shm/sem.1": f"/dev/shm/sem.1: {SHARED}",
            }.items()
        ),
    ],
)
def test_the_full_disk_is_named(
    name: str | None, path: Path | None, full: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the file in the error, else the one without free space."""
    monkeypatch.setattr(tempfile, "tempdir", "TMP")
    monkeypatch.setattr(errors, "find_shortage", lambda path: "bytes" if str(path).startswith(full) else None)
    assert explain_os_error(OSError(errno.ENOSPC, "No space left on device", name), path).startswith(sentence)


def test_quotas_and_inodes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quota = OSError(errno.EDQUOT, "Disk quota exceeded", "x")
    assert explain_os_error(quota).startswith("x: your quota of the disk is used up, so it was not written. ")
    monkeypatch.setattr(errors, "find_shortage", lambda path: "files")
    assert explain_os_error(OSError(errno.ENOSPC, "No space left on device"), Path("x")).startswith(
        "x: the disk has no room for another file, however small (its inodes are used up: df -i), so it was not written"
    )


@pytest.mark.parametrize("path", [Path("absent", "a", "b"), Path("\0" * 3), Path("n" * 5000)])
def test_a_path_that_does_not_exist_has_no_shortage(path: Path) -> None:
    assert find_shortage(path) is None


def test_a_missing_temporary_directory_is_explained() -> None:
    program = (
        "import tempfile; from facespec.study.errors import explain_os_error\n"
        "tempfile._candidate_tempdir_list = lambda: ['/proc/nowhere', '/proc']\n"
        "try: tempfile.mkdtemp()\n"
        "except OSError as error: print(explain_os_error(error))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("no directory for temporary files can be written: all are full, read-only or missing.")
    assert run.stdout.endswith("Set TMPDIR to one that can, on a disk with free space.\n")


def run_on_disk(options: str, program: str, folder: Path, before: str = "") -> list[str]:
    """Run `program` with a small disk mounted on `folder`, if the system permits that; return the lines it prints."""
    folder.mkdir()
    before = before.replace("{}", str(folder))
    mount = f"mount -t tmpfs -o {options} none {folder} && {before} exec {sys.executable} -c '{program}' {folder}"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Traceback" in run.stderr:
        raise AssertionError(run.stderr)
    if run.returncode:
        pytest.skip(f"no disk can be mounted here: {run.stderr}")
    return run.stdout.replace(str(folder), "DISK").splitlines()


LIBRARIES = """
import sys
from pathlib import Path
import numpy, torch
from safetensors.torch import save_file
from matplotlib.figure import Figure
from facespec.figures.style import save_figure
from facespec.study.errors import StudyError
from facespec.study.storage import atomic_write
folder = Path(sys.argv[1])
figure = Figure()
figure.subplots().imshow(numpy.random.default_rng(0).random((1500, 1500, 3)), interpolation="none")
def write(save):
    with atomic_write(folder / "x") as partial, partial.open("wb") as file:
        save(file, partial)
for action in (
    lambda: write(lambda file, partial: numpy.save(file, numpy.zeros(9**7))),
    lambda: write(lambda file, partial: torch.save(torch.zeros(9**7), partial)),
    lambda: write(lambda file, partial: save_file({"x": torch.zeros(9**7)}, partial)),
    lambda: save_figure(figure, folder / "x"),
):
    try:
        action()
    except StudyError as error:
        print(error)
print(*folder.iterdir())
"""
WRITE = """
import sys
from pathlib import Path
from facespec.study.errors import explain_os_error
from facespec.study.storage import write_bytes
try:
    for number in range(100):
        write_bytes(Path(sys.argv[1], f"{number}.csv"), b"1" * SIZE)
except OSError as error:
    print(explain_os_error(error))
except ValueError as error:
    print(error)
print(*sorted(file.name for file in Path(sys.argv[1]).iterdir()))
"""
SEMAPHORE = """
import multiprocessing
from pathlib import Path
from facespec.study.errors import explain_os_error
try:
    multiprocessing.get_context("spawn").Lock()
except OSError as error:
    print(explain_os_error(error, Path("/tmp/Results/a.csv")))
"""
READ_ONLY = "its disk can only be read. Name a place on another disk, or have this one mounted for writing."
needs_unshare = pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no unshare")


@needs_unshare
def test_a_full_disk_is_recognised_whatever_a_library_raises(tmp_path: Path) -> None:
    """numpy: OSError without a number; torch: RuntimeError; safetensors: its own; matplotlib: AttributeError."""
    *lines, files = run_on_disk("size=3m", LIBRARIES, tmp_path / "a")
    message = f": {NOT_WRITTEN} command again."
    assert (lines, files) == ([f"DISK/x{message}"] * 3 + [f"DISK/x.pdf{message}"], "")


@needs_unshare
@pytest.mark.parametrize(
    ("options", "size", "message", "files"),
    [
        ("size=64k", "25_000", f"DISK/2.csv: {NOT_WRITTEN} command again.", "0.csv 1.csv"),
        (
            "size=64m,nr_inodes=4",
            "1",
            "DISK/3.csv: the disk has no room for another file, however small (its",
            "0.csv 1.csv 2.csv",
        ),
        ("ro", "1", f"DISK/0.csv: {READ_ONLY}", ""),
    ],
)
def test_disks_that_are_full_or_read_only(tmp_path: Path, options: str, size: str, message: str, files: str) -> None:
    line, names = run_on_disk(options, WRITE.replace("SIZE", size), tmp_path / "a")
    assert line.startswith(message) and names == files


@needs_unshare
def test_shared_memory_that_is_full_or_read_only(tmp_path: Path) -> None:
    """Where processes are started, whatever they were to write."""
    mount = "mount --bind {} /dev/shm && "
    full = run_on_disk("size=4k", SEMAPHORE, tmp_path / "a", "head -c 4096 /dev/zero > {}/x; " + mount)
    assert full == [f"/dev/shm: {SHARED}"]
    assert run_on_disk("ro", SEMAPHORE, tmp_path / "b", mount) == [f"/dev/shm: {READ_ONLY}"]
