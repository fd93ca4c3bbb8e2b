from __future__ import annotations

from pathlib import Path

import pytest

from facespec.stages import init
from facespec.study.errors import StudyError
from facespec.study.params import read_params


def message(caught: pytest.ExceptionInfo, folder: Path) -> str:
    return str(caught.value).replace(str(folder), "DIR")


def test_a_study_directory_is_complete(tmp_path: Path, project: Path) -> None:
    directory = tmp_path / "mine"
    params = init.run(directory, profile="quick", settings=["train.epochs=2", "seeds=[4, 5]"])
    assert (params.profile, params.train.epochs, params.seeds) == ("quick", 2, [4, 5])
    assert params == read_params(directory / "params.yaml")
    own = read_params(project / "params.yaml")
    assert params.finetune.epochs == 3 and params.split == own.split and params.train.optimizer == own.train.optimizer
    assert (directory / "dvc.yaml").read_bytes() == (project / "dvc.yaml").read_bytes()
    for path in (project / "facespec").rglob("*.py"):
        assert (directory / path.relative_to(project)).read_bytes() == path.read_bytes()
    assert not list(directory.rglob("__pycache__"))


def test_marks_and_sources_stay_beside_the_numbers(tmp_path: Path) -> None:
    init.run(tmp_path / "mine", profile="quick")
    text = (tmp_path / "mine" / "params.yaml").read_text()
    assert "# [P] KDEF: 35 women, 35 men" in text and "profiles" not in text


def test_a_second_init_keeps_results_and_drops_stale_code(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    init.run(directory, profile="quick")
    (directory / "Results").mkdir()
    (directory / "Results" / "decoding.csv").write_text("kept")
    (directory / "facespec" / "old.py").touch()
    init.run(directory, settings=["train.epochs=3"])
    assert (directory / "Results" / "decoding.csv").read_text() == "kept"
    assert not (directory / "facespec" / "old.py").exists()
    assert read_params(directory / "params.yaml").profile == "default"


def test_paths_of_sources_hold_in_the_new_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = init.run(Path("mine"), settings=["data.expression.source=faces/fer2013.csv"])
    assert params.data.expression.source == str(tmp_path / "faces" / "fer2013.csv")
    assert init.run(Path("mine"), settings=["data.probe.source=embedded"]).data.probe.source == "embedded"


def test_unknown_profile(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        init.run(tmp_path / "mine", profile="quik")
    assert str(caught.value) == (
        "unknown profile 'quik': did you mean 'quick'? Allowed: 'default', 'quick', 'fer2013', 'paper'."
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


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(StudyError) as caught:
        init.run(tmp_path)
    assert message(caught, tmp_path) == "DIR: not empty and not a study directory. Name a new directory."
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_a_clone_of_the_project_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "params.yaml").touch()
    with pytest.raises(StudyError, match="not empty and not a study directory"):
        init.run(tmp_path)


def test_a_package_without_its_project(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        init.run(tmp_path / "mine", project=tmp_path)
    assert message(caught, tmp_path) == "DIR: no dvc.yaml beside the package. Run from a clone of the project."
