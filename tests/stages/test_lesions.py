from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from facespec.data.faceset import FaceSet
from facespec.data.splits import hold_out
from facespec.stages import lesions, sweep
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables import UNTRAINED
from facespec.study.tables_lesions import (
    DAMAGE_CURVES,
    DISSOCIATION,
    LESION_CLASSES,
    LESION_RANKING,
    LESIONS,
    SEGREGATION,
)

TABLES = (LESION_RANKING, LESIONS, LESION_CLASSES, DAMAGE_CURVES, DISSOCIATION, SEGREGATION)
SCHEMAS = {table.name: table for table in TABLES}
UNITS = {"trunk.conv1": 3, "trunk.conv2": 5}  # of the tiny networks
TASKS = {"expression", "identity"}


def link_study(explained_study: Path, directory: Path) -> Paths:
    """A study without results, with links to faces and networks."""
    (directory / "checkpoints").mkdir(parents=True)
    for name in ("data", "params.yaml", "checkpoints/finetune"):
        (directory / name).symlink_to(explained_study / name)
    return Paths(directory)


@pytest.fixture(scope="module")
def finished(explained_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A study with the six tables; not to be written to."""
    paths = link_study(explained_study, tmp_path_factory.mktemp("lesions") / "study")
    lesions.run(paths, read_params(paths.params), device="cpu", workers=1)
    return paths


@pytest.fixture
def study(explained_study: Path, tmp_path: Path) -> Paths:
    return link_study(explained_study, tmp_path / "study")


def read_tables(paths: Paths) -> dict[str, bytes]:
    return {name: paths.table(name).read_bytes() for name in SCHEMAS}


def list_jobs(paths: Paths) -> list[str]:
    """Files of unfinished work, locks aside."""
    return [str(path) for path in (paths.root / "checkpoints" / "unfinished").rglob("*") if path.suffix != ".lock"]


def test_every_convolution_of_every_joint_network_for_both_tasks(finished: Paths) -> None:
    tables = [schema.read(finished.table(name)) for name, schema in SCHEMAS.items()]
    for table in tables:
        assert set(table["trained_on"]) == {"joint"} and set(table["source"]) == {"embedded faces"}
        assert set(zip(table["layer"], table["depth"], strict=True)) == {("trunk.conv1", 1), ("trunk.conv2", 2)}
    ranking, tested, classes, curves, dissociation, segregation = tables
    # two networks; ranked by two tasks, and for one draw by two mixtures
    assert len(ranking) == 2 * 8 * (2 + 2)
    assert set(ranking["condition"]) == {"ranked", "shuffled"} and set(ranking["ranked_by"]) == TASKS
    for (_, layer, *_), rows in ranking.groupby(["seed", "layer", "condition", "draw", "ranked_by"]):
        for column in ("rank", "unit"):
            assert sorted(rows[column]) == list(range(UNITS[layer]))
        assert rows.sort_values("rank")["round"].is_monotonic_increasing
    # whole and 3 fractions for 2 tasks, 3 of their complements, 3 for 2 mixtures, 3 and complements for 2 draws
    assert len(tested) == 2 * 2 * 2 * (2 * (4 + 3) + 3 * 2 + 2 * 3 * 2)
    assert set(tested["seed"]) == set(ranking["seed"]) == set(dissociation["seed"]) == {5, 6}
    assert set(tested["condition"]) == {"ranked", "keep", "shuffled", "random"} and set(tested["tested_on"]) == TASKS
    assert set(tested["units"]) == {3, 5} and (tested["silenced"] <= tested["units"]).all()
    assert len(classes) == 2 * 2 * 2 * 4 * (7 + 3) and set(classes["seed"]) == {5, 6}
    # at 3 fractions and 3 damages
    assert len(dissociation) == 2 * 2 * (3 + 3) * 3 * 101 and len(segregation) == 2 * 3 * (3 + 3) * 3
    assert set(dissociation["quantity"]) == set(segregation["quantity"]) == {*TASKS, "index"}
    for table in (dissociation, segregation):
        for amount, values in (("fraction", [0.1, 0.2, 0.3]), ("damage", [0.25, 0.5, 0.75])):
            assert sorted(set(table[amount].dropna())) == values and table[amount].isna().sum() == len(table) / 2
    assert set(segregation["seeds"]) == {2} and set(curves["condition"]) == {"ranked", "shuffled", "random"}
    ends = curves[curves["silenced"] == curves["units"]]  # without all units
    assert len(ends) == 2 * 2 * 2 * (2 + 2 + 2) and (ends["drop"].dropna() >= 0).all()
    assert set(segregation["people"]) == {3}


def test_the_untrained_network_of_the_first_seed_is_lesioned_too(
    finished: Paths, study: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without shuffled classes, and with two random draws for each draw of these; other rows stay the same."""
    params, loaded, original = read_params(study.params), [], lesions.load_network
    params = params.model_copy(update={"lesions": params.lesions.model_copy(update={"random": 6})})
    (study.root / "checkpoints" / UNTRAINED).mkdir()
    (study.root / "checkpoints" / UNTRAINED / "untrained-5.safetensors").touch()

    def load_network(paths: Paths, stage: str, network: str, seed: int) -> Any:
        loaded.append((stage, network, seed))
        return original(paths, "finetune", "joint", seed)

    monkeypatch.setattr(lesions, "load_network", load_network)
    lesions.run(study, params, device="cpu", workers=1)
    assert loaded == [("finetune", "joint", 5), ("finetune", "joint", 6), (UNTRAINED, UNTRAINED, 5)]
    for name, schema in SCHEMAS.items():
        table = schema.read(study.table(name))
        rows, joint = (table[table["trained_on"] == network] for network in (UNTRAINED, "joint"))
        assert len(rows) and len(rows) + len(joint) == len(table)
        if "condition" in rows:
            assert set(rows["condition"]) <= {"ranked", "random", "keep"} and "shuffled" in set(joint["condition"])
        if "seed" in rows:
            assert set(rows["seed"]) == {5}
        if name != "segregation" and "draw" in rows:
            assert rows["draw"].max() <= 1
    before, after = (LESION_RANKING.read(paths.table("lesion_ranking")) for paths in (finished, study))
    pd.testing.assert_frame_equal(before, after[after["trained_on"] == "joint"])
    same = after[(after["seed"] == 5) & (after["condition"] == "ranked")].drop(columns="trained_on")
    half = len(same) // 2  # the same network under both names
    pd.testing.assert_frame_equal(same[:half].reset_index(drop=True), same[half:].reset_index(drop=True))
    assert list_jobs(study) == []


def test_units_are_ranked_on_fitted_images_and_tested_on_held_out_ones(
    study: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, read = read_params(study.params), FaceSet.images
    rows_read: dict[str, set[int]] = {"rank_units": set(), "mark_correct_under_lesions": set(), "": set()}
    current = [""]

    def read_images(faces: FaceSet, rows: Any = slice(None)) -> np.ndarray:
        rows_read[current[0]].update(np.asarray(rows).tolist())
        return read(faces, rows)

    def note(name: str, original: Any, *args: Any, **options: Any) -> Any:
        current[0] = name
        try:
            return original(*args, **options)
        finally:
            current[0] = ""

    monkeypatch.setattr(FaceSet, "images", read_images)
    for name in ("rank_units", "mark_correct_under_lesions"):
        monkeypatch.setattr(sweep, name, partial(note, name, getattr(sweep, name)))
    lesions.run(study, params, device="cpu", workers=1)
    labels = FaceSet.open(study.faces("probe")).labels
    fit, test = hold_out(labels, params.split, generator(params.split.seed, "split"))
    assert not set(fit) & set(test) and rows_read["mark_correct_under_lesions"] == set(test)
    assert rows_read["rank_units"] <= set(fit) and len(rows_read["rank_units"]) > 0.9 * len(fit)
    assert set(LESIONS.read(study.table("lesions"))["n"]) == {len(test)}


def test_a_second_run_gives_the_same_bytes_and_leaves_the_networks_unchanged(finished: Paths, explained: Paths) -> None:
    shutil.rmtree(explained.root / "checkpoints" / UNTRAINED)  # the finished study has none
    files = sorted((explained.root / "checkpoints").rglob("*.safetensors"))
    before = [file.read_bytes() for file in files]
    lesions.run(explained, read_params(explained.params), device="cpu", workers=2)
    assert read_tables(explained) == read_tables(finished)
    assert len(files) == 2 * 3 * 2 and [file.read_bytes() for file in files] == before
    assert list_jobs(explained) == []


def test_a_killed_run_continues(finished: Paths, study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    params, calls, original = read_params(study.params), [], sweep.rank_units

    def rank(*args: Any, **options: Any) -> pd.DataFrame:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(sweep, "rank_units", rank)
    with pytest.raises(KeyboardInterrupt):
        lesions.run(study, params, device="cpu", workers=1)
    assert list_jobs(study) and not any(study.table(name).exists() for name in SCHEMAS)
    lesions.run(study, params, device="cpu", workers=1)
    assert len(calls) - 7 <= 16 - 4, "of 2 networks, 2 layers, 2 tasks and 2 mixtures; 4 had been finished"
    assert read_tables(study) == read_tables(finished) and list_jobs(study) == []


@pytest.mark.parametrize(
    ("block", "values", "changed"),
    [
        ("lesions", {"images": 9, "draws": 120}, {"lesion_ranking", "dissociation"}),
        ("lesions", {"seed": 9}, {"lesion_ranking"}),
        ("lesions", {"greedy_p": 0.0}, {"lesion_ranking"}),
        ("lesions", {"fractions": [0.5], "random": 4}, {"lesions", "damage_curves", "dissociation", "segregation"}),
        ("lesions", {"damages": [0.6], "steps": []}, {"damage_curves", "dissociation", "segregation"}),
        ("split", {"seed": 3}, {"lesion_ranking", "lesions"}),
    ],
)
def test_parameters_change_the_tables(
    finished: Paths, study: Paths, block: str, values: dict[str, Any], changed: set[str]
) -> None:
    params: Params = read_params(study.params)
    values = {block: getattr(params, block).model_copy(update=values)}
    lesions.run(study, params.model_copy(update=values), device="cpu", workers=1)
    before, after = read_tables(finished), read_tables(study)
    assert changed <= {name for name in before if after[name] != before[name]}
