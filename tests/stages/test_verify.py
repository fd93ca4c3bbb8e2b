"""Files are compared with what is recorded, whatever their time stamps say."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from facespec.stages import verify
from facespec.stages.dvc_files import digest_listing
from facespec.study.errors import StudyError
from facespec.study.paths import Paths

PIPELINE = """stages:
  table:
    cmd: echo 1,2 > table.csv
    outs:
    - table.csv
  maps:
    cmd: mkdir -p maps && echo a > maps/a && echo b > maps/ö
    outs:
    - maps
  verdicts:
    cmd: cp table.csv verdicts.json
    deps:
    - table.csv
    metrics:
    - verdicts.json:
        cache: false
"""


def dvc(*words: str, cwd: Path) -> str:
    ended = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="session")
def finished_pipeline(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A small pipeline that DVC itself has run and recorded."""
    root = tmp_path_factory.mktemp("pipeline")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (root / "dvc.yaml").write_text(PIPELINE)
    shutil.copy(project / "params.yaml", root)
    dvc("repro", cwd=root)
    return root


@pytest.fixture
def root(finished_pipeline: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", str(finished_pipeline), str(tmp_path / "p")], check=True)
    return tmp_path / "p"


def change(path: Path, content: bytes) -> None:
    """Other bytes; size and time stamp stay."""
    then = path.stat()
    assert len(content) == then.st_size
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))


def cached(root: Path, content: bytes) -> Path:
    digest = hashlib.md5(content).hexdigest()
    return root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


def test_what_dvc_recorded_is_found(root: Path) -> None:
    assert verify.run(Paths(root)) == ([], 3)


@pytest.mark.parametrize(
    ("name", "content"), [("table.csv", b"1,3\n"), ("maps/a", b"x\n"), ("maps/ö", b"x\n"), ("verdicts.json", b"1,3\n")]
)
def test_other_bytes_are_named(root: Path, name: str, content: bytes) -> None:
    change(root / name, content)
    output = name.split("/")[0]
    expected = f"{output}: other bytes than dvc.lock records. `facespec repro` makes it again."
    assert verify.run(Paths(root)) == ([expected], 3)


def test_files_too_few_and_too_many_are_named(root: Path) -> None:
    (root / "table.csv").unlink()
    (root / "maps" / "c").write_text("c\n")
    assert verify.run(Paths(root)) == (
        [
            "table.csv: absent. `facespec repro` makes it again.",
            "maps: other bytes than dvc.lock records. `facespec repro` makes it again.",
        ],
        3,
    )


def test_a_file_in_place_of_a_directory(root: Path) -> None:
    (root / "table.csv").unlink()
    (root / "table.csv").mkdir()
    assert verify.run(Paths(root))[0] == [
        "table.csv: other bytes than dvc.lock records. `facespec repro` makes it again."
    ]


@pytest.mark.parametrize("content", [b"1,2\n", b"a\n"])
def test_a_damaged_copy_in_the_cache_is_named(root: Path, content: bytes) -> None:
    copy = cached(root, content)
    change(copy, b"?" * len(content))
    output = {b"1,2\n": "table.csv", b"a\n": "maps"}[content]
    lines, _ = verify.run(Paths(root))
    assert lines[0].startswith(f"{copy}: damaged, and DVC would put it in the place of {output}.")


def test_what_was_changed_in_silence_is_made_again(root: Path) -> None:
    """DVC alone does not notice, as times and sizes are the same."""
    dvc("repro", cwd=root)  # which remembers times and sizes here
    change(root / "table.csv", b"1,3\n")
    change(root / "maps" / "a", b"x\n")
    dvc("repro", cwd=root)
    assert (root / "table.csv").read_bytes() == b"1,3\n"
    said: list[str] = []
    verify.prepare(root, said.append)
    assert said == [
        "table.csv: other bytes than dvc.lock records; it is made again.",
        "maps: other bytes than dvc.lock records; it is made again.",
    ]
    dvc("repro", cwd=root)
    assert verify.run(Paths(root)) == ([], 3)
    assert (root / "table.csv").read_bytes() == b"1,2\n"


@pytest.mark.parametrize("content", [b"1,2\n", b"a\n"])
def test_a_damaged_copy_is_not_restored(root: Path, content: bytes) -> None:
    copy = cached(root, content)
    change(copy, b"?" * len(content))
    copy.chmod(0o444)  # as DVC leaves it, which takes that for a proof
    (root / "table.csv").unlink()
    subprocess.run(["rm", "-r", str(root / "maps")], check=True)
    said: list[str] = []
    verify.prepare(root, said.append)
    assert said == [f"{copy}: damaged copy in DVC's cache; removed."]
    dvc("repro", cwd=root)
    assert verify.run(Paths(root)) == ([], 3)


def test_stages_of_another_pipeline_do_not_count(root: Path) -> None:
    """DVC keeps them in its lock; and what has not run yet is named."""
    matrix = "  train:\n    matrix:\n      network: [a, b]\n      seed: ${seeds}\n    cmd: x\n"
    (root / "dvc.yaml").write_text(PIPELINE.replace("  table:\n", "  other:\n") + matrix)
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("seeds: [1, 2, 3]", "seeds: [1, 3]"))
    (root / "table.csv").unlink()
    lines, n = verify.run(Paths(root))
    jobs = ["other", "train@a-1", "train@a-3", "train@b-1", "train@b-3"]
    assert (lines, n) == ([f"{job}: not run yet. `facespec repro` runs it." for job in jobs], 2)


def test_nothing_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"dvc\.lock: no such file, so nothing is recorded yet\. `facespec repro`"):
        verify.run(Paths(tmp_path))


@pytest.mark.parametrize(
    "lock",
    [
        "- 1\n",
        "stages: 3\n",
        "stages:\n  a: 1\n",
        "stages:\n  a:\n    outs:\n    - path: x\n",
        "schema: '2.0'\n",
        "stages:\n  a:\n    outs:\n    - path: 3\n      md5: 4\n",
        "stages:\n  a:\n    outs:\n    - path: /etc/passwd\n      md5: a\n",
        "stages:\n  a:\n    outs:\n    - path: ../x\n      md5: a\n",
    ],
)
def test_what_is_no_lock_is_refused(root: Path, lock: str) -> None:
    (root / "dvc.lock").write_text(lock)
    with pytest.raises(StudyError, match=r"dvc\.lock"):
        verify.run(Paths(root))


@pytest.mark.parametrize(
    "pipeline",
    [
        "x: 1\n",
        "stages:\n",
        "stages: [a]\n",
        "stages: {a: b}\n",
        "stages: {}\n",
        "stages: {a: {matrix: 3}}\n",
        'stages: {a: {matrix: {x: "${foo}"}}}\n',
        "stages: {a: {matrix: {x: 5}}}\n",
    ],
)
def test_what_is_no_pipeline_is_refused(root: Path, pipeline: str) -> None:
    (root / "dvc.yaml").write_text(pipeline)
    with pytest.raises(StudyError, match=r"dvc\.yaml"):
        verify.run(Paths(root))


def test_outputs_of_stages_that_the_pipeline_has_lost_are_named(root: Path) -> None:
    """As where dvc.yaml was cut at the end of a line."""
    (root / "dvc.yaml").write_text(PIPELINE[: PIPELINE.index("  maps:")])
    assert verify.run(Paths(root)) == (
        [
            f"{name}: made by the stage {stage}, which dvc.yaml lacks. Restore dvc.yaml, or remove the file."
            for name, stage in (("maps", "maps"), ("verdicts.json", "verdicts"))
        ],
        1,
    )


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(root: Path) -> None:
    (root / "table.csv").unlink()
    os.mkfifo(root / "table.csv")
    assert verify.run(Paths(root))[0] == [
        "table.csv: other bytes than dvc.lock records. `facespec repro` makes it again."
    ]


@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_faces_have_a_remedy_of_their_own(root: Path, harm: str) -> None:
    look = "  data:\n    cmd: mkdir -p data/probe && printf faces > data/probe/images\n    outs:\n    - data/probe\n"
    (root / "dvc.yaml").write_text(PIPELINE + look)
    dvc("repro", cwd=root)
    assert verify.run(Paths(root)) == ([], 4)
    if harm == "flipped":
        change(root / "data" / "probe" / "images", b"fades")
    else:
        subprocess.run(["rm", "-r", str(root / "data")], check=True)
    problem = "other bytes than dvc.lock records" if harm == "flipped" else "absent"
    assert verify.run(Paths(root))[0] == [
        f"data/probe: {problem}. `facespec repro` makes embedded faces again, and says what to do about real ones."
    ]


def test_the_command(root: Path) -> None:
    command = [sys.executable, "-m", "facespec", "verify", str(root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "3 outputs compared with dvc.lock, 0 differences found.\n")
    change(root / "table.csv", b"1,3\n")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (
        3,
        "3 outputs compared with dvc.lock, 1 differences found.",
    )


def test_a_listing_has_dvcs_digest() -> None:
    """By hand: what DVC writes for a directory of two files."""
    files = {"b": "2" * 32, "ä": "3" * 32, "a/c": "1" * 32}
    rows = [{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]
    assert digest_listing(files) == hashlib.md5(json.dumps(rows).encode()).hexdigest() + ".dir"
