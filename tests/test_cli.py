from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from facespec import cli
from facespec.study.params import read_params
from facespec.study.paths import Paths

MODULE = (sys.executable, "-m", "facespec")
SCRIPT = (str(Path(sys.executable).with_name("facespec")),)  # as installed


def facespec(*words: str, cwd: Path, command: tuple[str, ...] = MODULE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *words], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["module", "script"])
def test_a_refusal_is_its_message_alone(command: tuple[str, ...], tmp_path: Path) -> None:
    ended = facespec("checks", cwd=tmp_path, command=command)
    assert ended.returncode == 2
    assert ended.stderr == (
        "facespec: params.yaml: no such file. Run inside a study directory; `facespec init DIR` makes one.\n"
    )


def test_an_unknown_network_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    ended = facespec("train", "SPLIT", "1", cwd=tmp_path)
    assert ended.returncode == 2
    for network in ("expression", "identity", "joint"):
        assert network in ended.stderr


@pytest.mark.parametrize("words", [(), ("data",), ("published",), ("train",)])
def test_every_command_explains_itself(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = facespec(*words, "--help", cwd=tmp_path)
    assert ended.returncode == 0 and "Usage" in ended.stdout


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    program = "import sys, facespec.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Exit status and output of a command run within this process."""
    monkeypatch.setattr(sys, "argv", ["facespec", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out + captured.err


@pytest.fixture
def inside(study_copy: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """The working directory is a study with faces."""
    monkeypatch.chdir(study_copy.root)
    return Paths()


def test_faces_are_pinned_checked_shown_and_described(
    inside: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, monkeypatch, "data", "pin") == (0, "data.dvc now pins data/.\n")
    assert said(capsys, monkeypatch, "data", "check") == (0, "data/ is what data.dvc pins, byte for byte.\n")
    (inside.faces("probe") / "labels.csv").unlink()
    assert said(capsys, monkeypatch, "data", "check") == (
        2,
        "facespec: data/ differs from data.dvc:\n  probe/labels.csv: absent\n",
    )
    assert said(capsys, monkeypatch, "data", "build", "--workers", "1")[0] == 0
    assert said(capsys, monkeypatch, "data", "check")[0] == 0
    status, text = said(capsys, monkeypatch, "data", "info")
    assert status == 0 and text.count("embedded faces") == 3
    assert said(capsys, monkeypatch, "data", "show", "--to", "sheet.png") == (0, "sheet.png: written.\n")
    assert Path("sheet.png").read_bytes()[:4] == b"\x89PNG"


def test_small_numbers_are_set(tmp_path: Path) -> None:
    words = ("init", "mine", "--set", "train.weight_decay=1e-5", "--set", "finetune.learning_rate=2E-4")
    ended = facespec(*words, cwd=tmp_path, command=SCRIPT)
    assert (ended.returncode, ended.stderr) == (0, "")
    params = read_params(tmp_path / "mine" / "params.yaml")
    assert (params.train.weight_decay, params.finetune.learning_rate) == (0.00001, 0.0002)


def no_traceback(*words: str, cwd: Path, command: tuple[str, ...] = SCRIPT) -> str:
    """The one line with which a command refuses."""
    ended = facespec(*words, cwd=cwd, command=command)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert ended.stderr.startswith("facespec: ") and ended.stderr.endswith(".\n")
    return ended.stderr.removeprefix("facespec: ").removesuffix("\n").replace(str(cwd), "DIR")


def test_a_document_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes("profile: caf\xe9 1".encode("latin-1"))
    assert no_traceback("checks", cwd=tmp_path) == (
        "params.yaml: not UTF-8 (invalid continuation byte at byte 12): save it as UTF-8."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "params.yaml: empty, where a mapping was expected. Restore it, or make it again."),
        (
            b"<<<<<<< HEAD\n",
            "params.yaml, line 1: holds conflict markers of an unfinished merge (<<<<<<<): resolve it.",
        ),
        (b"[" * 9999, "params.yaml, line 1: lists and mappings are nested more than 50 deep: use fewer."),
        (b"seeds: [1]\nseeds: [2]\n", "params.yaml, line 2: the key 'seeds' is given twice: keep one of them."),
        (None, "params.yaml: a directory, where a file belongs. Move it away, or name a file."),
    ],
)
def test_other_documents_that_cannot_be_read(
    content: bytes | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is None:
        Path("params.yaml").mkdir()
    else:
        Path("params.yaml").write_bytes(content)
    assert said(capsys, monkeypatch, "checks") == (2, f"facespec: {message}\n")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    no_traceback("init", "file", cwd=tmp_path)
    assert no_traceback("init", "file/mine", cwd=tmp_path) == (
        "file: a file, where a directory belongs. Move it away, or name a directory."
    )
    assert no_traceback("init", "n" * 300, cwd=tmp_path).endswith(
        "nnn: its name is longer than the disk allows. Choose shorter names of files and directories."
    )
    limited = ("sh", "-c", f'ulimit -f 2; exec {SCRIPT[0]} "$@"', "sh")
    assert no_traceback("init", "mine", cwd=tmp_path, command=limited) == (
        "mine/params.yaml: larger than the disk or the limit of the shell allows (ulimit -f). Raise it, or name "
        "another disk."
    )


def test_nobody_reads_what_is_printed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([*MODULE, "--help"], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert ended.stderr == b"" and ended.returncode != 0


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "Results/a.csv"),
            2,
            "Results/a.csv: no permission to read "
            "or write it. Change its permissions (see ls -l), or name another place.",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "Results"),
            2,
            "Results: its disk can only be read. Name a place on another disk, or have this one mounted for writing.",
        ),
        (
            OSError(errno.EMFILE, "Too many open files", "a"),
            2,
            "a: too many files are open at once. Raise the limit (ulimit -n 4096), or use fewer --workers.",
        ),
        (OSError("broken data stream\nwhen reading"), 2, "broken data stream when reading."),
        (
            MemoryError(),
            2,
            "the memory is used up. Close other programs, use fewer --workers, or make a smaller study.",
        ),
        (
            RecursionError("maximum recursion depth exceeded"),
            2,
            "an input is nested too deeply to be read. Make it flatter.",
        ),
        (KeyboardInterrupt(), 130, "interrupted. Run the same command again to go on."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_the_system_refuses_is_one_line(
    error: BaseException,
    status: int,
    message: str,
    inside: Paths,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from facespec.stages import checks

    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(checks, "run", fail)
    assert said(capsys, monkeypatch, "checks") == (status, f"facespec: {message}\n")


def test_errors_in_the_program_keep_their_traceback(inside: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespec.stages import checks

    monkeypatch.setattr(sys, "argv", ["facespec", "checks"])
    monkeypatch.setattr(checks, "run", lambda *_: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        cli.main()


@pytest.mark.pipeline
def test_stages_run_by_their_names(
    explained: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the pipeline are run so by tests/test_pipeline.py; here, one with an option, and one beside it."""
    monkeypatch.chdir(explained.root)
    assert said(capsys, monkeypatch, "finetune", "identity", "5", "--device", "cpu") == (0, "")
    words = ("--network", "joint", "--seed", "5", "--layer", "trunk.conv2", "--unit", "1", "--n", "3", "--to", "lab")
    assert said(capsys, monkeypatch, "stimuli", *words) == (0, "lab: 3 faces.\n")
    assert len(list(Path("lab").glob("*.png"))) == 6


@pytest.mark.parametrize("seed", ["99", "9999999999999999999999"])
def test_a_seed_that_the_study_does_not_have(
    seed: str, inside: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = f"facespec: this study has no networks of seed {seed}; its seeds are [5, 6] (params.yaml).\n"
    for stage in ("train", "finetune"):
        assert said(capsys, monkeypatch, stage, "joint", seed) == (2, message)


def test_a_device_that_is_not_there(
    inside: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, monkeypatch, "train", "joint", "5", "--device", "gpu") == (
        2,
        "facespec: unknown device 'gpu': did you mean 'cpu'? Allowed: 'auto', 'cpu', 'cuda'.\n",
    )


def test_a_mistyped_parameter_costs_nothing_but_a_message(
    inside: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.params.write_text(inside.params.read_text().replace("  epochs: 4 ", "  epoch: 4 "))
    status, text = said(capsys, monkeypatch, "repro")
    assert status == 2 and text.startswith("facespec: params.yaml: train: unknown key 'epoch': did you mean 'epochs'?")


@pytest.mark.parametrize("status", [0, 3])
def test_scripts_see_whether_results_are_the_recorded_ones(
    status: int, inside: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from facespec.stages import repro

    monkeypatch.setattr(repro, "run", lambda paths, *, workers: status)
    assert said(capsys, monkeypatch, "repro") == (status, "")


def test_init_says_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "mine"
    assert said(capsys, monkeypatch, "init", str(directory), "--profile", "quick") == (
        0,
        f"{directory}: ready. Next: facespec repro {directory}\n",
    )


def test_published_files_are_fetched_and_replayed(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = said(capsys, monkeypatch, "published", "fetch", "--from", str(published))
    assert status == 0 and "Fig1C_KDEF_SPLIT_Accuracy_Results.pickle" in text
    status, text = said(capsys, monkeypatch, "published", "replay", "published")
    assert status == 0 and list(Path("Results/published").glob("*.png"))
