from __future__ import annotations

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
from facespec.study.tables_lesions import DISSOCIATION, LESION_CLASSES, LESION_RANKING, LESIONS, SEGREGATION

SCHEMAS = {
    "lesion_ranking": LESION_RANKING,
    "lesions": LESIONS,
    "lesion_classes": LESION_CLASSES,
    "dissociation": DISSOCIATION,
    "segregation": SEGREGATION,
}
UNITS = {"trunk.conv1": 3, "trunk.conv2": 5}  # of the tiny networks
TASKS = {"expression", "identity"}
FRACTIONS = [0.1, 0.2, 0.3]


@pytest.fixture(scope="module")
def finished(explained_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The tables of that study beside links to what they are made of; not to be written to."""
    paths = Paths(tmp_path_factory.mktemp("lesions"))
    (paths.root / "checkpoints").mkdir()
    for name in ("data", "params.yaml", "checkpoints/finetune"):
        (paths.root / name).symlink_to(explained_study / name)
    lesions.run(paths, read_params(paths.params), device="cpu", workers=1)
    return paths


def written(paths: Paths) -> dict[str, bytes]:
    return {name: paths.table(name).read_bytes() for name in SCHEMAS}


def tables(paths: Paths) -> dict[str, pd.DataFrame]:
    return {name: schema.read(paths.table(name)) for name, schema in SCHEMAS.items()}


def changed(params: Params, block: str, **values: object) -> Params:
    return params.model_copy(update={block: getattr(params, block).model_copy(update=values)})


def left_over(paths: Paths) -> list[str]:
    """What a later run would find of this one; locks, which are files without content, aside."""
    found = (paths.root / "checkpoints" / "unfinished").rglob("*")
    return [str(path) for path in found if path.suffix != ".lock"]


def test_every_convolution_of_every_joint_network_for_both_tasks(finished: Paths) -> None:
    found = tables(finished)
    for table in found.values():
        assert set(table["trained_on"]) == {"joint"} and set(table["source"]) == {"embedded faces"}
        assert set(zip(table["layer"], table["depth"], strict=True)) == {("trunk.conv1", 1), ("trunk.conv2", 2)}
    ranking, tested, classes, alone, overall = found.values()
    # two networks; ranked by two tasks, and for one draw by two mixtures
    assert len(ranking) == 2 * 8 * (2 + 2)
    assert set(ranking["condition"]) == {"ranked", "shuffled"} and set(ranking["ranked_by"]) == TASKS
    for (_, layer, *_), own in ranking.groupby(["seed", "layer", "condition", "draw", "ranked_by"]):
        for column in ("rank", "unit"):
            assert sorted(own[column]) == list(range(UNITS[layer]))
        assert own.sort_values("rank")["round"].is_monotonic_increasing
    # whole and 3 fractions for 2 tasks, 3 of their complements, 3 for 2 mixtures, 3 and complements for 2 draws
    assert len(tested) == 2 * 2 * 2 * (2 * (4 + 3) + 3 * 2 + 2 * 3 * 2)
    assert set(tested["seed"]) == set(ranking["seed"]) == set(alone["seed"]) == {5, 6}
    assert set(tested["condition"]) == {"ranked", "keep", "shuffled", "random"} and set(tested["tested_on"]) == TASKS
    assert set(tested["units"]) == {3, 5} and (tested["silenced"] <= tested["units"]).all()
    assert len(classes) == 2 * 2 * 2 * 4 * (7 + 3) and set(classes["seed"]) == {5, 6}
    assert len(alone) == 2 * 2 * 3 * 3 * 101 and len(overall) == 2 * 3 * 3 * 3
    assert set(alone["quantity"]) == set(overall["quantity"]) == {*TASKS, "index"}
    assert sorted(set(overall["fraction"])) == FRACTIONS and set(overall["seeds"]) == {2}
    assert set(overall["people"]) == {3}


def test_units_are_ranked_on_fitted_images_and_tested_on_held_out_ones(
    explained: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, asked, doing = (
        read_params(explained.params),
        {"rank_units": set(), "mark_correct_under_lesions": set()},
        [""],
    )
    read = FaceSet.images

    def images(faces: FaceSet, rows: Any = slice(None)) -> np.ndarray:
        if doing[0]:
            asked[doing[0]].update(np.asarray(rows).tolist())
        return read(faces, rows)

    monkeypatch.setattr(FaceSet, "images", images)

    def spied(name: str, original: Any, *args: Any, **options: Any) -> Any:
        doing[0] = name
        try:
            return original(*args, **options)
        finally:
            doing[0] = ""

    for name in asked:
        monkeypatch.setattr(sweep, name, partial(spied, name, getattr(sweep, name)))
    lesions.run(explained, params, device="cpu", workers=1)
    labels = FaceSet.open(explained.faces("probe")).labels
    fit, test = hold_out(labels, params.split, generator(params.split.seed, "split"))
    assert not set(fit) & set(test) and asked["mark_correct_under_lesions"] == set(test)
    assert asked["rank_units"] <= set(fit) and len(asked["rank_units"]) > 0.9 * len(fit)
    assert set(LESIONS.read(explained.table("lesions"))["n"]) == {len(test)}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bytes_twice_and_networks_as_they_were(finished: Paths, explained: Paths, workers: int) -> None:
    files = sorted((explained.root / "checkpoints").rglob("*.safetensors"))
    before = [file.read_bytes() for file in files]
    lesions.run(explained, read_params(explained.params), device="cpu", workers=workers)
    assert written(explained) == written(finished)
    assert len(files) == 2 * 3 * 2 and [file.read_bytes() for file in files] == before
    assert left_over(explained) == []


def test_a_killed_run_goes_on(finished: Paths, explained: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    params, calls, original = read_params(explained.params), [], sweep.rank_units

    def ranking(*args: Any, **options: Any) -> pd.DataFrame:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(*args, **options)

    with monkeypatch.context() as until_killed, pytest.raises(KeyboardInterrupt):
        until_killed.setattr(sweep, "rank_units", ranking)
        lesions.run(explained, params, device="cpu", workers=1)
    assert left_over(explained) and not any(explained.table(name).exists() for name in SCHEMAS)
    monkeypatch.setattr(sweep, "rank_units", ranking)
    stopped_at = len(calls)
    lesions.run(explained, params, device="cpu", workers=1)
    assert len(calls) - stopped_at <= 16 - 4  # of 2 networks, 2 layers, 2 tasks and 2 mixtures
    assert written(explained) == written(finished) and left_over(explained) == []


def test_parameters_count(finished: Paths, explained: Paths) -> None:
    params, before = read_params(explained.params), written(finished)
    for block, values, touched in (
        ("lesions", {"images": 9, "draws": 120}, {"lesion_ranking", "dissociation"}),
        ("lesions", {"seed": 9}, {"lesion_ranking"}),
        ("lesions", {"greedy_p": 0.0}, {"lesion_ranking"}),
        ("lesions", {"fractions": [0.5], "random": 4}, {"lesions", "dissociation", "segregation"}),
        ("split", {"seed": 3}, {"lesion_ranking", "lesions"}),
    ):
        lesions.run(explained, changed(params, block, **values), device="cpu", workers=1)
        after = written(explained)
        assert touched <= {name for name in before if after[name] != before[name]}, values
