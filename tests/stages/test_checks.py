from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.checks.claims import judge_accuracy_claims
from facespec.checks.claims_depth import judge_depth_claims
from facespec.checks.claims_heatmaps import judge_heatmap_claims
from facespec.checks.claims_lesions import judge_lesion_claims
from facespec.published.reference import find_role, read_published_bars
from facespec.stages import checks
from facespec.study.errors import StudyError
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, OVERLAP, UNIT_SHARES, VERDICTS
from facespec.study.tables_lesions import DISSOCIATION


def accuracies(seeds: tuple[int, ...] = (2, 5)) -> pd.DataFrame:
    """The published means, resampled from 200 images; the same images for all networks of a role."""
    images = np.random.Generator(np.random.PCG64(3)).integers(200, size=(100, 200))
    tables = []
    for bar in read_published_bars():
        for seed in seeds:
            right = np.arange(200) < round(200 * bar.mean) - seed
            values = [right.mean(), *right[images].mean(axis=1)]
            tables.append(
                pd.DataFrame(
                    {
                        "figure": bar.figure,
                        "trained_on": bar.trained_on,
                        "tested_on": bar.tested_on,
                        "role": find_role(bar.figure, bar.tested_on),
                        "source": "embedded faces",
                        "seed": seed,
                        "resample": range(-1, 100),
                        "n": 200,
                        "chance": 0.1,
                        "accuracy": values,
                    }
                )
            )
    return ACCURACY.check(pd.concat(tables, ignore_index=True))


# (quantity, trained_on, tested_on) -> the number for all people
NUMBERS = {
    ("median", "expression", "expression"): 0.31,
    ("median", "joint", "expression"): 0.20,
    ("median", "identity", "identity"): 0.25,
    ("median", "joint", "identity"): 0.26,
    ("iou_halves", "joint", "expression"): 0.70,
    ("iou_halves", "joint", "identity"): 0.80,
    ("iou_halves", "joint", "both"): 0.10,
}


def overlaps(seeds: tuple[int, ...] = (2, 5)) -> pd.DataFrame:
    """`NUMBERS`, each with resamples up to 0.02 away."""
    draw = np.random.Generator(np.random.PCG64(8))
    tables = []
    for (quantity, trained_on, tested_on), number in NUMBERS.items():
        masks = quantity == "iou_halves"
        noise = np.concatenate([[0.0], draw.uniform(-0.02, 0.02, 100)])
        tables += [
            pd.DataFrame(
                {
                    "figure": "2C" if masks else "2B",
                    "quantity": quantity,
                    "trained_on": trained_on,
                    "tested_on": tested_on,
                    "rule": "top" if masks else "",
                    "source": "embedded faces",
                    "seed": seed,
                    "resample": range(-1, 100),
                    "number": number + noise,
                }
            )
            for seed in seeds
        ]
    return OVERLAP.check(pd.concat(tables, ignore_index=True))


# (name, depth) -> how many of 40 units
SPECIFIC = {("expression", 1): 1, ("expression", 2): 20, ("identity", 1): 30, ("identity", 2): 10}


def specific_units(seeds: tuple[int, ...] = (2, 5)) -> pd.DataFrame:
    """`SPECIFIC`, alike in all seeds."""
    return UNIT_SHARES.check(
        pd.DataFrame(
            [
                {
                    "trained_on": "joint",
                    "source": "embedded faces",
                    "seed": seed,
                    "layer": f"trunk.relu{depth}",
                    "depth": depth,
                    "kind": "specific",
                    "name": name,
                    "units": 40,
                    "silent": 0,
                    "count": count,
                    "share": count / 40,
                }
                for (name, depth), count in SPECIFIC.items()
                for seed in seeds
            ]
        )
    )


# (quantity, depth) -> the difference of drops
DIFFERENCES = {("expression", 1): 0.05, ("expression", 4): 0.60, ("identity", 1): 0.30, ("identity", 4): 0.40}


def dissociations(seeds: tuple[int, ...] = (2, 5)) -> pd.DataFrame:
    """`DIFFERENCES` where a fifth of the units is silenced, each with resamples up to 0.02 away."""
    draw = np.random.Generator(np.random.PCG64(9))
    tables = []
    for (quantity, depth), number in DIFFERENCES.items():
        noise = np.concatenate([[0.0], draw.uniform(-0.02, 0.02, 100)])
        tables += [
            pd.DataFrame(
                {
                    "trained_on": "joint",
                    "source": "embedded faces",
                    "seed": seed,
                    "layer": f"trunk.conv{depth}",
                    "depth": depth,
                    "fraction": 0.2,
                    "quantity": quantity,
                    "resample": range(-1, 100),
                    "number": number + noise,
                    "reason": "",
                }
            )
            for seed in seeds
        ]
    return DISSOCIATION.check(pd.concat(tables, ignore_index=True))


@pytest.fixture
def study(tmp_path: Path) -> Paths:
    paths, table = Paths(tmp_path), accuracies()
    write_table(paths.table("decoding"), table[table["figure"].isin(["1B", "S1A"])])
    write_table(paths.table("accuracy"), table[table["figure"].isin(["1C", "S1B"])])
    write_table(paths.table("overlap"), overlaps())
    write_table(paths.table("depth_shares"), specific_units())
    write_table(paths.table("dissociation"), dissociations())
    return paths


@pytest.fixture
def params(project: Path) -> Params:
    return read_params(project / "params.yaml")


def files(paths: Paths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.verdicts.parent.iterdir()}


def test_verdicts_of_all_tables_as_table_and_metric(study: Paths, params: Params) -> None:
    checks.run(study, params)
    assert files(study).keys() == {"verdicts.csv", "verdicts.csv.sha256", "verdicts.json"}
    table = VERDICTS.read(study.verdicts.with_suffix(".csv"))
    assert list(table["claim"]) == [
        "C1",
        "C1",
        "C2",
        "C3",
        "C3",
        "C4",
        "C4",
        "C5",
        "C5",
        "C6",
        "C6",
        *4 * ["C7"],
        "C8",
        "C8",
    ]
    # whole images of 200 behind the published means: 90 - 36 of 200, and so on
    assert table["number"].tolist() == pytest.approx(
        [
            54 / 200,
            125 / 200,
            (68 - 36) / 180,
            0,
            1 / 200,
            3 / 200,
            9 / 200,
            0.11,
            -0.01,
            0.60,
            0.70,
            19 / 40,
            1 / 40,
            -20 / 40,
            30 / 40,
            0.40,
            0.05,
        ]
    )
    metric = json.loads(study.verdicts.read_text())
    assert list(metric) == ["C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8"]
    for row in table.to_dict("records"):
        part = metric[row["claim"]]["parts"][row["part"]]
        given = ["number", "low", "high", "verdict"] + ["published"] * (row["claim"] not in ("C6", "C7", "C8"))
        assert part == {name: row[name] for name in given}
    assert metric["C1"]["verdict"] == "reproduced"
    assert metric["C5"]["verdict"] == "not reproduced" and metric["C6"]["verdict"] == "reproduced"
    assert metric["C7"]["verdict"] == "not reproduced" and metric["C8"]["verdict"] == "reproduced"


def test_each_kind_of_claims_has_a_stream_of_its_own(study: Paths, params: Params) -> None:
    """The accuracies' is the one they have always had; neither moves with the other's table."""
    checks.run(study, params)
    before = VERDICTS.read(study.verdicts.with_suffix(".csv"))
    block, table = params.checks, pd.concat([ACCURACY.read(study.table(name)) for name in ("decoding", "accuracy")])
    kept = judge_accuracy_claims(
        table, level=block.level, margin=block.margin, draws=block.draws, generator=generator(block.seed, "claims")
    )
    np.testing.assert_array_equal(before[["low", "high"]][:7], kept[["low", "high"]])
    own = judge_heatmap_claims(
        overlaps(), level=block.level, draws=block.draws, generator=generator(block.seed, "claims", "heatmaps")
    )
    np.testing.assert_array_equal(before[["low", "high"]][7:11], own[["low", "high"]])
    units = judge_depth_claims(
        specific_units(),
        level=block.level,
        margin=block.early,
        draws=block.draws,
        generator=generator(block.seed, "claims", "depth"),
    )
    np.testing.assert_array_equal(before[["low", "high"]][11:15], units[["low", "high"]])
    lesions = judge_lesion_claims(
        dissociations(),
        level=block.level,
        margin=block.dissociation,
        fraction=block.lesioned,
        draws=block.draws,
        generator=generator(block.seed, "claims", "lesions"),
    )
    np.testing.assert_array_equal(before[["low", "high"]][15:], lesions[["low", "high"]])


def test_heatmaps_that_cannot_be_judged_leave_the_other_verdicts(study: Paths, params: Params) -> None:
    checks.run(study, params)
    before = VERDICTS.read(study.verdicts.with_suffix(".csv"))
    write_table(study.table("overlap"), overlaps().assign(number=np.nan))
    checks.run(study, params)
    after = VERDICTS.read(study.verdicts.with_suffix(".csv"))
    pd.testing.assert_frame_equal(after[:7], before[:7])
    pd.testing.assert_frame_equal(after[11:], before[11:])
    assert set(after["verdict"][7:11]) == {"not testable on this data"}
    assert json.loads(study.verdicts.read_text())["C6"]["parts"]["identity"] == {"verdict": "not testable on this data"}


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


def test_claim_c7_has_a_margin_of_its_own(study: Paths, params: Params) -> None:
    verdicts = []
    for early in (0.02, 0.9):
        checks.run(study, params.model_copy(update={"checks": params.checks.model_copy(update={"early": early})}))
        verdicts.append(VERDICTS.read(study.verdicts.with_suffix(".csv"))["verdict"].tolist()[11:15])
    assert verdicts == [
        ["reproduced", "not reproduced", "not reproduced", "not reproduced"],
        ["reproduced", "reproduced", "not reproduced", "reproduced"],
    ]


def test_claim_c8_has_a_margin_and_a_share_of_its_own(study: Paths, params: Params) -> None:
    verdicts = []
    for other in ({}, {"dissociation": 0.02}, {"lesioned": 0.3}):
        checks.run(study, params.model_copy(update={"checks": params.checks.model_copy(update=other)}))
        verdicts.append(VERDICTS.read(study.verdicts.with_suffix(".csv"))["verdict"].tolist()[15:])
    nobody = "not testable on this data"
    assert verdicts == [["reproduced", "reproduced"], ["reproduced", "not reproduced"], [nobody, nobody]]


@pytest.mark.parametrize("name", ["decoding", "accuracy", "overlap", "depth_shares", "dissociation"])
def test_a_missing_table_is_named_and_earlier_verdicts_stay(study: Paths, params: Params, name: str) -> None:
    checks.run(study, params)
    before = files(study)
    study.table(name).unlink()
    with pytest.raises(StudyError) as caught:
        checks.run(study, params)
    assert str(caught.value) == f"{study.table(name)}: no such file. `dvc repro` makes it."
    assert files(study) == before
