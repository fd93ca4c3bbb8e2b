from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from facespec import cli
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
        2, "facespec: data/ differs from data.dvc:\n  probe/labels.csv: absent\n",
    )  # fmt: skip
    assert said(capsys, monkeypatch, "data", "build", "--workers", "1")[0] == 0
    assert said(capsys, monkeypatch, "data", "check")[0] == 0
    status, text = said(capsys, monkeypatch, "data", "info")
    assert status == 0 and text.count("embedded faces") == 3
    assert said(capsys, monkeypatch, "data", "show", "--to", "sheet.png") == (0, "sheet.png: written.\n")
    assert Path("sheet.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.pipeline
def test_every_stage_runs_by_its_name(
    explained: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(explained.root)
    inside = Paths()
    assert said(capsys, monkeypatch, "train", "identity", "5") == (0, "")
    assert said(capsys, monkeypatch, "finetune", "identity", "5", "--device", "cpu") == (0, "")
    stages = "decoding accuracy heatmaps overlap contrasts regions groundtruth depth preferred lesions export "
    stages += "figures checks"
    for stage in stages.split():
        assert said(capsys, monkeypatch, stage) == (0, "")
    assert inside.verdicts.is_file() and inside.figure("figure_1B", "pdf").is_file()
    assert len(list(inside.results.glob("*.pickle"))) == 11
    words = ("--network", "joint", "--seed", "5", "--layer", "trunk.conv2", "--unit", "1", "--n", "3", "--to", "lab")
    assert said(capsys, monkeypatch, "stimuli", *words) == (0, "lab: 3 faces.\n")
    assert len(list(Path("lab").glob("*.png"))) == 6


def test_a_device_that_is_not_there(
    inside: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, monkeypatch, "train", "joint", "5", "--device", "gpu") == (
        2, "facespec: unknown device 'gpu': did you mean 'cpu'? Allowed: 'auto', 'cpu', 'cuda'.\n",
    )  # fmt: skip


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
        0, f"{directory}: ready. Next: facespec repro {directory}\n",
    )  # fmt: skip


def test_published_files_are_fetched_and_replayed(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = said(capsys, monkeypatch, "published", "fetch", "--from", str(published))
    assert status == 0 and "Fig1C_KDEF_SPLIT_Accuracy_Results.pickle" in text
    status, text = said(capsys, monkeypatch, "published", "replay", "published")
    assert status == 0 and list(Path("Results/published").glob("*.png"))
