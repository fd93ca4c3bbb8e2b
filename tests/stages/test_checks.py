from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.published.reference import published_bars, role_of
from facespec.stages import checks
from facespec.study.errors import StudyError
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, VERDICTS


def accuracies(seeds: tuple[int, ...] = (2, 5)) -> pd.DataFrame:
    """The published means, resampled from 200 images; the same images for all networks of a role."""
    images = np.random.Generator(np.random.PCG64(3)).integers(200, size=(100, 200))
    tables = []
    for bar in published_bars():
        for seed in seeds:
            right = np.arange(200) < round(200 * bar.mean) - seed
            values = [right.mean(), *right[images].mean(axis=1)]
            tables.append(pd.DataFrame({
                "figure": bar.figure, "trained_on": bar.trained_on, "tested_on": bar.tested_on,
                "role": role_of(bar.figure, bar.tested_on), "source": "embedded faces", "seed": seed,
                "resample": range(-1, 100), "n": 200, "chance": 0.1, "accuracy": values,
            }))  # fmt: skip
    return ACCURACY.check(pd.concat(tables, ignore_index=True))


@pytest.fixture
def study(tmp_path: Path) -> Paths:
    paths, table = Paths(tmp_path), accuracies()
    write_table(paths.table("decoding"), table[table["figure"].isin(["1B", "S1A"])])
    write_table(paths.table("accuracy"), table[table["figure"].isin(["1C", "S1B"])])
    return paths


@pytest.fixture
def params(project: Path) -> Params:
    return read_params(project / "params.yaml")


def files(paths: Paths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.verdicts.parent.iterdir()}


def test_verdicts_of_both_tables_as_table_and_metric(study: Paths, params: Params) -> None:
    checks.run(study, params)
    assert files(study).keys() == {"verdicts.csv", "verdicts.json"}
    table = VERDICTS.read(study.verdicts.with_suffix(".csv"))
    assert list(table["claim"]) == ["C1", "C1", "C2", "C3", "C3", "C4", "C4"]
    # whole images of 200 behind the published means: 90 - 36 of 200, and so on
    assert table["number"].tolist() == pytest.approx(
        [54 / 200, 125 / 200, (68 - 36) / 180, 0, 1 / 200, 3 / 200, 9 / 200]
    )
    metric = json.loads(study.verdicts.read_text())
    assert list(metric) == ["C1", "C2", "C3", "C4"]
    for row in table.to_dict("records"):
        part = metric[row["claim"]]["parts"][row["part"]]
        assert part == {name: row[name] for name in ("number", "low", "high", "published", "verdict")}
    assert metric["C1"]["verdict"] == "reproduced"


def test_running_again_gives_the_same_bytes(study: Paths, params: Params) -> None:
    checks.run(study, params)
    first = files(study)
    checks.run(study, params)
    assert files(study) == first


@pytest.mark.parametrize("other", [{"seed": 96}, {"level": 0.8}, {"margin": 0.3}, {"draws": 101}])
def test_every_parameter_counts(study: Paths, params: Params, other: dict[str, float]) -> None:
    checks.run(study, params)
    before = files(study)
    checks.run(study, params.model_copy(update={"checks": params.checks.model_copy(update=other)}))
    assert files(study)["verdicts.csv"] != before["verdicts.csv"]


def test_a_missing_table_is_named_and_earlier_verdicts_stay(study: Paths, params: Params) -> None:
    checks.run(study, params)
    before = files(study)
    study.table("accuracy").unlink()
    with pytest.raises(StudyError) as caught:
        checks.run(study, params)
    assert str(caught.value) == f"{study.table('accuracy')}: no such file. `dvc repro` makes it."
    assert files(study) == before
