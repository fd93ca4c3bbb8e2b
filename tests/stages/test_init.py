from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from facespec.stages import init, template
from facespec.study.documents import read_json
from facespec.study.errors import StudyError
from facespec.study.fingerprints import fingerprint_stage
from facespec.study.params import Params, read_params

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # DVC's own, while it is imported
    from dvc.utils.serialize import load_yaml


def message(caught: pytest.ExceptionInfo, folder: Path) -> str:
    return str(caught.value).replace(str(folder), "DIR")


def test_a_study_directory_is_complete(tmp_path: Path, project: Path) -> None:
    directory = tmp_path / "mine"
    params = init.run(directory, profile="quick", settings=["train.epochs=2", "seeds=[4, 5]"])
    assert (params.profile, params.train.epochs, params.seeds) == ("quick", 2, [4, 5])
    assert params == read_params(directory / "params.yaml")
    own = read_params(project / "params.yaml")
    assert params.finetune.epochs == 3 and params.split == own.split and params.train.optimizer == own.train.optimizer
    for name in (*template.FILES[1:], "Analysis_Reproduction/Main_figures_Reproducibility.ipynb"):
        assert (directory / name).read_bytes() == (project / name).read_bytes()
    assert read_json(directory / "fingerprints.json")["train"] == fingerprint_stage("train")
    assert not (directory / "facespec").exists(), "a copy of the package would run instead of the installed one"


def test_marks_and_sources_stay_beside_the_numbers(tmp_path: Path) -> None:
    init.run(tmp_path / "mine", profile="quick")
    text = (tmp_path / "mine" / "params.yaml").read_text()
    assert "# [P] KDEF: 35 women, 35 men" in text and "profiles" not in text


def test_a_second_init_keeps_results_and_drops_stale_code(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    init.run(directory, profile="quick")
    (directory / "Results").mkdir()
    (directory / "Results" / "decoding.csv").write_text("kept")
    (directory / "facespec").mkdir()
    (directory / "facespec" / "old.py").touch()  # as studies of version 0.1 have
    (directory / "Analysis_Reproduction" / "old.ipynb").touch()
    init.run(directory, settings=["train.epochs=3"])
    assert (directory / "Results" / "decoding.csv").read_text() == "kept"
    assert not (directory / "facespec").exists() and not (directory / "Analysis_Reproduction" / "old.ipynb").exists()
    assert read_params(directory / "params.yaml").profile == "default"


def test_patterns_are_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pattern = r"[ab]: (?P<identity>\d+) #\."
    assert init.run(Path("mine"), settings=[f"data.probe.pattern={pattern}"]).data.probe.pattern == pattern
    assert read_params(Path("mine/params.yaml")).data.probe.pattern == pattern
    assert init.run(Path("mine"), settings=["data.probe.pattern=null"]).data.probe.pattern is None


def test_paths_of_sources_hold_in_the_new_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = init.run(Path("mine"), settings=["data.expression.source=faces/fer2013.csv"])
    assert params.data.expression.source == str(tmp_path / "faces" / "fer2013.csv")
    assert init.run(Path("mine"), settings=["data.probe.source=embedded"]).data.probe.source == "embedded"


def test_unknown_profile(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        init.run(tmp_path / "mine", profile="quik")
    assert str(caught.value) == (
        "unknown profile 'quik': did you mean 'quick'? Allowed: 'default', 'quick', 'reference', 'fer2013', 'paper'."
    )
    assert not (tmp_path / "mine").exists()


def test_a_refused_parameter_leaves_the_directorys_own(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    init.run(directory, profile="quick")
    before = (directory / "params.yaml").read_bytes()
    with pytest.raises(StudyError, match="unknown key 'epoch': did you mean 'epochs'"):
        init.run(directory, settings=["train.epoch=5"])
    assert (directory / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "train..epochs=3"])
def test_malformed_setting(tmp_path: Path, setting: str) -> None:
    with pytest.raises(StudyError) as caught:
        init.run(tmp_path / "mine", settings=[setting])
    assert str(caught.value) == f"setting {setting!r}: expected block.name=value, for example train.epochs=5."


def written(*settings: str) -> tuple[Params, dict]:
    """The parameters that `settings` lead to, as facespec and as DVC read the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        with path.open("w", encoding="utf-8") as file:
            init._make_yaml().dump(
                init._make_parameters(template.find_template() / "params.yaml", "quick", settings), file
            )
        return read_params(path), load_yaml(path)


@pytest.mark.parametrize("text", ["1e-5", "1e-2", "1E-5", "0.00001", "1e-300", "5e-324", "0", "1", "-0.0", "1_0e-2"])
def test_numbers_of_every_size_can_be_set(tmp_path: Path, text: str) -> None:
    params = init.run(tmp_path / "mine", settings=[f"train.weight_decay={text}"])
    assert params.train.weight_decay == float(text)
    assert load_yaml(tmp_path / "mine" / "params.yaml")["train"]["weight_decay"] == float(text)
    assert read_params(tmp_path / "mine" / "params.yaml") == params


@hypothesis_settings(max_examples=15)
@given(st.floats(0, 1), st.floats(0, 180), st.integers(0, 2**63 - 1))
def test_what_is_set_is_what_facespec_and_dvc_read(decay: float, turn: float, seed: int) -> None:
    ours, theirs = written(f"train.weight_decay={decay!r}", f"preferred.turn={turn!r}", f"data.seed={seed}")
    assert (ours.train.weight_decay, ours.preferred.turn, ours.data.seed) == (decay, turn, seed)
    assert (theirs["train"]["weight_decay"], theirs["preferred"]["turn"], theirs["data"]["seed"]) == (decay, turn, seed)


@hypothesis_settings(max_examples=15)
@given(st.text(st.characters(exclude_characters="/\0~\x85", exclude_categories=["Cs"]), min_size=1))
def test_any_path_is_what_facespec_and_dvc_read(name: str) -> None:
    ours, theirs = written(f"data.probe.source=/faces/{name}x")
    assert ours.data.probe.source == theirs["data"]["probe"]["source"] == f"/faces/{name}x"


@pytest.mark.parametrize(
    "text", ["a #b", "a: b", "'a'", '"a', "[1", "- x", "*x", "&x", "!x", "%x", "@x", "010", "yes", "~x", "2001-02-03"]
)
def test_paths_are_not_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert written(f"data.probe.source={text}")[0].data.probe.source == str(tmp_path.resolve() / text)


def test_texts_and_nothing(tmp_path: Path) -> None:
    assert written("heatmaps.layer='a #b: \"c\"'", "network.branch_after=")[0].heatmaps.layer == 'a #b: "c"'
    assert written("network.branch_after=")[0].network.branch_after is None
    assert written("heatmaps.layer=a=b")[0].heatmaps.layer == "a=b"
    assert written(" train . epochs = 010 ")[0].train.epochs == 10
    assert written("train={epochs: 3}", "train.batch_size=5")[0].train.epochs == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.weight_decay=fast"], "params.yaml: train.weight_decay: got 'fast'. Input should be a valid number."),
        (["train.weight_decay="], "params.yaml: train.weight_decay: got None. Input should be a valid number."),
        (
            ["train.weight_decay=.nan"],
            "params.yaml: train.weight_decay: got nan. Input should be less than or equal to 1.",
        ),
        (["train=5"], "params.yaml: train: got 5. Input should be a valid dictionary or instance of Train."),
        (["train.epochs.x=5"], "params.yaml: train.epochs: got {'x': 5}. Input should be a valid integer."),
        (
            ["train.epochs=[1"],
            "setting 'train.epochs=[1': not valid YAML: expected ',' or ']', but got '<stream end>' in line 1.",
        ),
        (
            ["train={epochs: 1, epochs: 2}"],
            "setting 'train={epochs: 1, epochs: 2}', line 1: the key 'epochs' is given twice: keep one of them.",
        ),
        (
            ["train.epochs=2", "train.epochs = 3"],
            "setting 'train.epochs = 3': train.epochs is set twice. Keep one of the settings.",
        ),
        (["profile=paper"], "setting 'profile=paper': a profile is chosen with --profile paper."),
        (["data.probe.source="], "setting 'data.probe.source=': expected embedded, or the path to real faces."),
        (
            ["data.probe.source=caf\udce9"],
            "setting 'data.probe.source=caf\\udce9': params.yaml cannot hold the character '\\udce9'. Rename what "
            "has it.",
        ),
    ],
)
def test_a_refused_setting_is_named(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        init.run(tmp_path / "mine", settings=settings)
    assert str(caught.value) == message
    assert not (tmp_path / "mine").exists()


def test_unknown_keys_of_settings(tmp_path: Path) -> None:
    for setting in ("profiles.quick=1", "trian.epochs=3"):
        with pytest.raises(StudyError, match=f"^params.yaml: unknown key '{setting.split('.')[0]}': did you mean '"):
            init.run(tmp_path / "mine", settings=[setting])


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def letters(directory: Path) -> None:
    (directory / "letter.txt").write_text("dear")


def another_pipeline(directory: Path) -> None:
    """Somebody's own DVC project."""
    (directory / ".dvc").mkdir()
    (directory / ".dvc" / "config").write_text("['remote \"theirs\"']\n    url = s3://theirs\n")
    (directory / "params.yaml").write_text("theirs: 1\n")
    (directory / "dvc.yaml").write_text("stages: {}\n")


def a_clone(directory: Path) -> None:
    (directory / ".git").mkdir()
    (directory / "params.yaml").touch()


@pytest.mark.parametrize("fill", [letters, another_pipeline, a_clone])
def test_somebody_elses_directory_is_left_alone(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    fill(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(StudyError) as caught:
        init.run(tmp_path)
    assert message(caught, tmp_path) == (
        "DIR: not empty, and not a study directory that `facespec init` made (it lacks .facespec/study.json), so "
        "nothing in it is touched. Name a new directory."
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "inner",
    [
        ".",
        "facespec",
        "facespec/study/new",
        "Analysis_Reproduction",
        "data/new",
        "checkpoints",
        "Results/new",
        "params.yaml/new",
        "Results",
    ],
)
def test_the_project_itself_is_not_overwritten(tmp_path: Path, project: Path, inner: str) -> None:
    """As a zip download has it: without .git, and with a marker that somebody copied there."""
    download = tmp_path / "facespec-main"
    shutil.copytree(project / "facespec", download / "facespec", ignore=shutil.ignore_patterns("__pycache__"))
    copy_template(project, download)
    shutil.copy(project / "pyproject.toml", download)
    before = contents(download)
    with pytest.raises(StudyError, match="this is the facespec project itself"):
        init.run(download / inner, template=download)
    assert contents(download) == before
    for place in ("mine", "runs/mine"):
        init.run(download / place, template=download)
    assert read_params(download / "runs" / "mine" / "params.yaml").profile == "default"


@pytest.mark.parametrize("inner", ["facespec/sub", "data/probe/x", "Results/new", "new"])
def test_a_study_holds_no_study(tmp_path: Path, inner: str) -> None:
    """The outer one would delete it when it makes its own files anew."""
    init.run(tmp_path / "mine", profile="quick")
    with pytest.raises(StudyError, match=f"{inner}: lies inside the study {tmp_path}/mine"):
        init.run(tmp_path / "mine" / inner)
    assert not (tmp_path / "mine" / inner).exists()


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StudyError, match="loop: a link to nothing"):
        init.run(tmp_path / "loop")


@pytest.mark.parametrize("name", ["facespec", "facespec/study"])
def test_a_folder_of_the_same_name_does_no_harm(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    script = Path(sys.executable).with_name("facespec")
    ended = subprocess.run([script, "init", "mine"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "mine" / "fingerprints.json").is_file()


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StudyError, match=r"file: a file\. Name a new directory\."):
        init.run(tmp_path / "file")
    with pytest.raises(StudyError, match=r"link: a link to nothing\. Name a new directory\."):
        init.run(tmp_path / "link")
    assert (tmp_path / "file").read_text() == "dear"


@pytest.mark.parametrize("name", ["a{b}", "x${y}z", "a}"])
def test_paths_that_dvc_cannot_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="DVC cannot work below a directory with"):
        init.run(tmp_path / name / "mine")
    assert not (tmp_path / name).exists()


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"a\\udcffb/mine: this path is not UTF-8"):
        init.run(tmp_path / "a\udcffb" / "mine")


@pytest.mark.parametrize("name", ["a b", "ü", "it's", "a$b", "a#b", "-a", "a'\"b"])
def test_unusual_paths_are_no_obstacle(tmp_path: Path, name: str) -> None:
    assert init.run(tmp_path / name, profile="quick") == read_params(tmp_path / name / "params.yaml")


def copy_template(project: Path, to: Path) -> Path:
    """A clone's template without the clone, as a wheel carries it."""
    for name in template.FILES:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, to / name)
    shutil.copytree(project / template.NOTEBOOKS, to / template.NOTEBOOKS)
    return to


def test_damaged_parameters_of_the_template_are_named(tmp_path: Path, project: Path) -> None:
    source = copy_template(project, tmp_path / "source")
    text = (source / "params.yaml").read_text()
    for damage, problem in {
        "\nseeds: [4]\n": ", line .*: the key 'seeds' is given twice",
        "\n  broken: [\n": ": not valid YAML: ",
        "\n<<<<<<< HEAD\n": ", line .*: holds conflict markers",
    }.items():
        (source / "params.yaml").write_text(text + damage)
        with pytest.raises(StudyError, match=f"^{source}/params.yaml{problem}"):
            init.run(tmp_path / "mine", template=source)


def test_an_installed_package_carries_its_template(tmp_path: Path, project: Path) -> None:
    package = tmp_path / "site-packages" / "facespec"
    copy_template(project, package / "template")
    assert template.find_template(package) == package / "template"
    assert not template.is_clone(package / "template") and template.is_clone(template.find_template())
    init.run(tmp_path / "mine", profile="quick", template=package / "template")
    assert read_params(tmp_path / "mine" / "params.yaml").profile == "quick"
    with pytest.raises(StudyError, match="Install it again"):
        template.find_template(tmp_path / "facespec")


@pytest.mark.parametrize(("ignored", "with_git"), [(False, True), (True, False)])
def test_dvc_uses_the_git_repository_that_tracks_the_study(tmp_path: Path, ignored: bool, with_git: bool) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    if ignored:
        (tmp_path / ".gitignore").write_text("/mine\n")
    init.run(tmp_path / "mine", profile="quick")
    assert ("no_scm" not in (tmp_path / "mine" / ".dvc" / "config").read_text()) == with_git
