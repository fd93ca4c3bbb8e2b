"""What is kept of the reference study: the program that keeps it, and the record in docs/reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from facespec.stages.figure_list import FIGURES

RECORD = Path("docs/reference")


@pytest.fixture(scope="module")
def program(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script(".ci/reference.py")


def write_table(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    study = tmp_path / "study"
    write_table(study / "Results/accuracy.csv", pd.DataFrame({"resample": [-1, 0, 1], "accuracy": [0.5, 0.25, 1 / 3]}))
    write_table(study / "Results/large.csv", pd.DataFrame({"text": ["x" * 100] * 4000}))
    for name in ("dvc.lock", "params.yaml", "Results/checks/verdicts.json", "Results/checks/verdicts.csv"):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(name, encoding="utf-8")
    (study / "Results/figures").mkdir()
    picture = np.zeros((200, 3000, 3), np.uint8)
    picture[:, 1500:] = (200, 20, 20)
    Image.fromarray(picture).save(study / "Results/figures/figure_1.png")
    return study


def test_small_tables_lock_and_figures_are_kept(program: ModuleType, study: Path, tmp_path: Path) -> None:
    target = tmp_path / "record"
    (target / "tables").mkdir(parents=True)
    (target / "tables/old.csv").write_text("of an earlier run", encoding="utf-8")
    program.keep_study(study, target)
    assert {path.relative_to(target).as_posix() for path in target.rglob("*.*")} == {
        *("dvc.lock", "params.yaml", "verdicts.json", "verdicts.csv"),
        *("tables/accuracy.csv", "figures/figure_1.png"),
    }
    assert (target / "tables/accuracy.csv").read_text(encoding="utf-8") == "resample,accuracy\n-1,0.5\n"
    with Image.open(target / "figures/figure_1.png") as figure:
        assert figure.size == (1500, 100)
        colours = np.asarray(figure.convert("RGB"))[50]
    assert colours[10].tolist() == [0, 0, 0] and colours[-10].tolist() == [200, 20, 20]


def test_an_unfinished_study_is_refused(program: ModuleType, study: Path, tmp_path: Path) -> None:
    (study / "Results/figures/figure_1.png").unlink()
    with pytest.raises(SystemExit, match="no finished study"):
        program.keep_study(study, tmp_path / "record")
    assert not (tmp_path / "record").exists()


def test_the_record_is_of_the_reference_profile(project: Path) -> None:
    recorded = yaml.safe_load((project / RECORD / "params.yaml").read_text(encoding="utf-8"))
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    profile = params["profiles"]["reference"]
    assert recorded["profile"] == "reference" and recorded["seeds"] == profile["seeds"] and len(profile["seeds"]) == 10
    assert recorded["train"] == params["train"] | profile["train"] and recorded["train"]["epochs"] >= 24
    lock = yaml.safe_load((project / RECORD / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    fits = [name for name in lock if name.startswith(("train@", "finetune@"))]
    assert len(fits) == 2 * 3 * 10 and "checks" in lock


def test_the_record_has_all_figures_verdicts_and_tables(project: Path) -> None:
    record = project / RECORD
    assert {path.stem for path in (record / "figures").iterdir()} == set(FIGURES)
    verdicts = json.loads((record / "verdicts.json").read_text(encoding="utf-8"))
    assert list(verdicts) == [f"C{number}" for number in range(1, 10)]
    accuracy = pd.read_csv(record / "tables/accuracy.csv")
    assert set(accuracy["seed"]) == set(range(1, 11)) and set(accuracy["resample"]) == {-1}
