from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from facespec.study import errors
from facespec.study.errors import StudyError, explain_os_error, lacks_room, suggest_spelling
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
def test_the_nearest_word_comes_first_if_any_is_near(word: str, sentence: str) -> None:
    assert suggest_spelling(word, iter(["happy", "sad", "fear"])) == sentence


def test_words_of_the_vocabulary_are_spelled_as_users_write_them() -> None:
    """Not as members of an enumeration."""
    assert suggest_spelling("surprised", map(str, EXPRESSIONS)).startswith(
        "did you mean 'surprise'? Allowed: 'angry', "
    )


def test_library_users_may_catch_a_value_error() -> None:
    with pytest.raises(ValueError, match="what to do"):
        raise StudyError("what to do")


def caught(action: Callable[[], object], folder: Path) -> str:
    with pytest.raises(OSError) as raised:
        action()
    return explain_os_error(raised.value).replace(str(folder), "DIR")


def test_what_the_system_says_becomes_what_to_do(tmp_path: Path) -> None:
    file, full = tmp_path / "file", tmp_path / "full"
    file.touch()
    (full / "inner").mkdir(parents=True)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "dangling").symlink_to("gone")
    needs_directory = "DIR/file: a file, where a directory belongs. Move it away, or name a directory."
    assert caught((file / "x" / "y.csv").read_bytes, tmp_path) == needs_directory
    assert caught(lambda: list(file.iterdir()), tmp_path) == needs_directory
    assert caught(full.read_bytes, tmp_path) == (
        "DIR/full: a directory, where a file belongs. Move it away, or name a file."
    )
    assert caught(file.mkdir, tmp_path) == (
        "DIR/file: something of this name is already here. Move it away, or choose another name."
    )
    assert caught(full.rmdir, tmp_path) == "DIR/full: not empty. Move away what is in it, or choose another name."
    assert caught((tmp_path / "circle").read_bytes, tmp_path) == (
        "DIR/circle: its symbolic links lead in a circle. Remove one of them, or name another place."
    )
    assert caught((tmp_path / "dangling").read_bytes, tmp_path) == (
        "DIR/dangling: a link to gone, which does not exist. Mend the link, or remove it."
    )
    assert caught((tmp_path / "none").read_bytes, tmp_path) == (
        "DIR/none: no such file or directory. Check its name, or make it."
    )
    assert caught((tmp_path / ("n" * 300)).touch, tmp_path).endswith(
        "n: its name is longer than the disk allows. Choose shorter names of files and directories."
    )
    assert caught(lambda: shutil.copytree(tmp_path, file / "x"), tmp_path) == needs_directory


@pytest.mark.parametrize("number", [*errors.REMEDIES, errno.ENOSPC, errno.EDQUOT, errno.EPROTO, errno.ENODEV])
def test_every_sentence_names_the_file_and_a_remedy(number: int, tmp_path: Path) -> None:
    for error in (
        OSError(number, os.strerror(number), str(tmp_path / "a.csv")),
        OSError(number, os.strerror(number), "other", None, str(tmp_path / "a.csv")),
        OSError(number, os.strerror(number), os.fsencode(tmp_path / "a.csv")),
    ):
        sentence = explain_os_error(error)
        assert sentence.startswith(f"{tmp_path / 'a.csv'}: ") and sentence.endswith(".") and "\n" not in sentence
        assert sentence.count(". ") >= 1 or ";" in sentence or ", so" in sentence
    unnamed = OSError(number, os.strerror(number))
    assert "None" not in explain_os_error(unnamed)
    assert explain_os_error(unnamed, tmp_path / "a.csv") == sentence


def test_what_no_sentence_is_known_for() -> None:
    assert explain_os_error(OSError(errno.EPROTO, "Protocol error", "x")) == (
        "x: Protocol error (EPROTO). That is what the system says: mend it, and run this again."
    )
    assert explain_os_error(OSError("cannot identify\n image file"), Path("x")) == "x: cannot identify image file."
    assert explain_os_error(OSError(), Path("x")) == "x: OSError."


def test_copies_of_directories(tmp_path: Path) -> None:
    """`shutil.copytree` collects what went wrong as text."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "gone").symlink_to("nowhere")
    assert caught(lambda: shutil.copytree(tmp_path / "from", tmp_path / "to"), tmp_path) == (
        "DIR/to/gone: no such file or directory. Check its name, or make it."
    )
    full = shutil.Error([("a", "b/c.py", "[Errno 28] No space left on device: 'b/c.py'")])
    assert explain_os_error(full).startswith("b/c.py: the disk is full, so it was not written.")
    assert explain_os_error(shutil.Error("same file")) == "same file."


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
WRITTEN = Path("Results", "t.csv")


@pytest.mark.parametrize(
    ("full", "sentence"),
    [
        (
            "Results",
            "Results/t.csv: the disk is full, so it was not written. Earlier files are untouched; free some "
            "space and run the same command again.",
        ),
        (
            "TMP",
            "TMP: the disk is full; temporary files lie there. Free some space, or set TMPDIR to a directory "
            "with more.",
        ),
        (
            "/dev/shm",
            "/dev/shm: the shared memory is full. Remove what ended programs left there, or have it enlarged.",
        ),
        (
            "",
            "Results/t.csv: the disk is full, so it was not written. Earlier files are untouched; free some space and "
            "run the same command again.",
        ),
    ],
)
def test_the_full_disk_is_named(full: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "TMP")
    monkeypatch.setattr(errors, "lacks_room", lambda path: "bytes" if full and str(path).startswith(full) else None)
    assert explain_os_error(NO_SPACE, WRITTEN) == sentence


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("TMP/tmpa1b2", "TMP: the disk is full; temporary"),
        ("TMP/tmpa1/x", "TMP: the disk is full; temporary"),
        ("TMP/mine/x", "TMP/mine/x: the disk is full, so"),
        ("x", "x: the disk is full, so"),
        ("/dev/shm/sem.1", "/dev/shm/sem.1: the shared memory is full."),
    ],
)
def test_a_name_in_the_error_counts_more_than_what_was_written(
    name: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "TMP")
    error = OSError(errno.ENOSPC, "No space left on device", name)
    assert explain_os_error(error, WRITTEN).startswith(start)
    assert explain_os_error(error).startswith(start)


def test_a_full_disk_that_nobody_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "TMP")
    monkeypatch.setattr(errors, "lacks_room", lambda path: None)
    assert explain_os_error(NO_SPACE) == (
        "the disk is full: that of this directory, TMP or /dev/shm (df -h). Free some space and run the same command "
        "again."
    )


def test_quotas_and_inodes(monkeypatch: pytest.MonkeyPatch) -> None:
    quota = OSError(errno.EDQUOT, "Disk quota exceeded", "x")
    assert explain_os_error(quota).startswith("x: your quota of the disk is used up, so it was not written. ")
    monkeypatch.setattr(errors, "lacks_room", lambda path: "files")
    assert explain_os_error(NO_SPACE, Path("x")).startswith(
        "x: the disk has no room for another file, however small (its inodes are used up: df -i), so it was not written"
    )


def test_no_temporary_directory(tmp_path: Path) -> None:
    program = (
        "import tempfile; from facespec.study.errors import explain_os_error\n"
        "tempfile._candidate_tempdir_list = lambda: ['/proc/nowhere', '/proc']\n"
        "try: tempfile.mkdtemp()\n"
        "except OSError as error: print(explain_os_error(error))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "no directory for temporary files can be written: all are full, read-only or missing. "
        "Set TMPDIR to one that can, on a disk with free space.\n"
    )


def run_beside_disk(options: str, program: str, folder: Path, before: str = "") -> str:
    """What `program` prints when a small disk of its own is mounted on `folder`, where the system permits that."""
    folder.mkdir()
    before = before.replace("{}", str(folder))
    mount = f"mount -t tmpfs -o {options} none {folder} && {before} exec {sys.executable} -c '{program}' {folder}"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mount], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout.replace(str(folder), "DISK")
    if "Traceback" in done.stderr:
        raise AssertionError(done.stderr)
    pytest.skip(f"no disk can be mounted here: {done.stderr}")


LIBRARIES = """
import sys
from pathlib import Path
import numpy, torch
from safetensors.torch import save_file
from matplotlib.figure import Figure
from facespec.figures.style import save
from facespec.study.errors import StudyError
from facespec.study.storage import atomic_write
folder = Path(sys.argv[1])
figure = Figure()
figure.subplots().imshow(numpy.random.default_rng(0).random((1500, 1500, 3)), interpolation="none")
def writes(write):
    with atomic_write(folder / "x") as partial, partial.open("wb") as file:
        write(file, partial)
for action in (
    lambda: writes(lambda file, partial: numpy.save(file, numpy.zeros(9**7))),
    lambda: writes(lambda file, partial: torch.save(torch.zeros(9**7), partial)),
    lambda: writes(lambda file, partial: save_file({"x": torch.zeros(9**7)}, partial)),
    lambda: save(figure, folder / "x"),
):
    try:
        action()
    except StudyError as error:
        print(error)
print(*folder.iterdir())
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no unshare")
def test_a_full_disk_that_libraries_name_otherwise_or_not_at_all(tmp_path: Path) -> None:
    """numpy: OSError without a number; torch: RuntimeError; safetensors: its own; matplotlib: AttributeError."""
    rest = ": the disk is full, so it was not written. Earlier files are untouched; free some space and run the same "
    rest += "command again.\n"
    printed = run_beside_disk("size=3m", LIBRARIES, tmp_path / "a")
    assert printed == f"DISK/x{rest}" * 3 + f"DISK/x.pdf{rest}\n"


WRITE = """
import sys
from pathlib import Path
from facespec.study.errors import StudyError
from facespec.study.storage import write_bytes
try:
    for number in range(100):
        write_bytes(Path(sys.argv[1], f"{number}.csv"), b"1" * SIZE)
except StudyError as error:
    print(error)
print(*sorted(file.name for file in Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no unshare")
def test_disks_that_are_really_full(tmp_path: Path) -> None:
    rest = ", so it was not written. Earlier files are untouched; free some space and run the same command again.\n"
    bytes_ = run_beside_disk("size=64k", WRITE.replace("SIZE", "25_000"), tmp_path / "a")
    assert bytes_ == f"DISK/2.csv: the disk is full{rest}0.csv 1.csv\n"
    files = run_beside_disk("size=64m,nr_inodes=4", WRITE.replace("SIZE", "1"), tmp_path / "b")
    assert files == (
        f"DISK/3.csv: the disk has no room for another file, however small (its inodes are used up: df -i){rest}"
        "0.csv 1.csv 2.csv\n"
    )


READ_ONLY = """
import sys
from pathlib import Path
from facespec.study.errors import explain_os_error
from facespec.study.storage import write_bytes
try:
    write_bytes(Path(sys.argv[1], "Results.csv"), b"1")
except OSError as error:
    print(explain_os_error(error))
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no unshare")
def test_a_disk_that_can_only_be_read(tmp_path: Path) -> None:
    assert run_beside_disk("ro", READ_ONLY, tmp_path / "a") == (
        "DISK/Results.csv: its disk can only be read. Name a place on another disk, or have this one mounted for "
        "writing.\n"
    )


SEMAPHORE = """
import multiprocessing
from pathlib import Path
from facespec.study.errors import explain_os_error
try:
    multiprocessing.get_context("spawn").Lock()
except OSError as error:
    print(explain_os_error(error, Path("/tmp/Results/a.csv")))
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no unshare")
def test_shared_memory_that_is_full_or_read_only(tmp_path: Path) -> None:
    """Where processes are started, whatever they were to write."""
    end = "mount --bind {} /dev/shm && "
    assert run_beside_disk("size=4k", SEMAPHORE, tmp_path / "a", "head -c 4096 /dev/zero > {}/x; " + end) == (
        "/dev/shm: the shared memory is full. Remove what ended programs left there, or have it enlarged.\n"
    )
    assert run_beside_disk("ro", SEMAPHORE, tmp_path / "b", end) == (
        "/dev/shm: its disk can only be read. Name a place on another disk, or have this one mounted for writing.\n"
    )


def test_a_place_that_does_not_exist_has_the_room_of_what_does(tmp_path: Path) -> None:
    assert lacks_room(tmp_path / "a" / "b") is None
    assert lacks_room(Path("\0" * 3)) is None
    assert lacks_room(Path("n" * 5000)) is None
