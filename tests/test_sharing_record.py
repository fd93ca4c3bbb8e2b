"""What is kept of the grid of networks: the program that keeps and restores it, and the record in docs/sharing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from facespec.study.grid import list_fits
from facespec.study.params import read_params
from facespec.study.tables_sharing import FITS, SHARING

RECORD = Path("docs/sharing")


@pytest.fixture(scope="module")
def program(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script(".ci/sharing.py")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    study = tmp_path / "study"
    for name in (
        "dvc.lock",
        "params.yaml",
        "Results/sharing.csv",
        "Results/figures/figure_sharing.png",
        "fits/a-1.csv",
    ):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(name, encoding="utf-8")
    (study / "fits" / ".a-1.csv.lock").touch()
    return study


def test_answers_are_kept_and_restored_where_there_are_none(program: ModuleType, study: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    (record / "fits").mkdir(parents=True)
    (record / "fits" / "old-1.csv").touch()
    program.keep(study, record)
    assert {path.name for path in record.iterdir()} == {
        "dvc.lock",
        "params.yaml",
        "sharing.csv",
        "figure_sharing.png",
        "fits",
    }
    assert [path.name for path in (record / "fits").iterdir()] == ["a-1.csv"]
    (tmp_path / "new").mkdir()
    program.restore(record, tmp_path / "new")
    assert (tmp_path / "new" / "fits" / "a-1.csv").read_text() == "fits/a-1.csv"
    assert (tmp_path / "new" / "dvc.lock").read_text() == "dvc.lock"
    (study / "dvc.lock").write_text("of its own")
    program.restore(record, study)
    assert (study / "dvc.lock").read_text() == "of its own"
    program.restore(tmp_path / "nothing", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_record_is_of_the_projects_grid(project: Path) -> None:
    """Not all of its networks need be there yet, but no others are; the table is made of those that are."""
    params, files = read_params(project / RECORD / "params.yaml"), list((project / RECORD / "fits").iterdir())
    own = read_params(project / "params.yaml")
    assert params.sharing == own.sharing and params.network == own.network and params.train == own.train
    assert files and {path.stem for path in files} <= set(list_fits(own))
    for path in files:
        table = FITS.parse(path.read_bytes(), path)
        assert len(table) in (2, 4)
    table = SHARING.parse((project / RECORD / "sharing.csv").read_bytes(), project / RECORD / "sharing.csv")
    assert set(table["tested_on"]) == {"expression", "identity"}
