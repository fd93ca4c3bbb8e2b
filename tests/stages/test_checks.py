from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from facespec.checks.verdicts import make_metrics
from facespec.stages import checks
from facespec.stages.accuracies import read_accuracies
from facespec.study.errors import StudyError
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import OVERLAP, UNIT_SHARES, VERDICTS
from facespec.study.tables_geometry import GEOMETRY
from facespec.study.tables_lesions import DISSOCIATION
from toys import change_params, read_files

PARTS = {"C1": 2, "C2": 2, "C3": 2, "C4": 2, "C5": 2, "C6": 8, "C7": 4, "C8": 2, "C9": 2}


def read_verdicts(paths: Paths) -> pd.DataFrame:
    return VERDICTS.read(paths.verdicts.with_suffix(".csv"))


def test_verdicts_are_written_as_table_and_as_metric(analysed: Paths) -> None:
    assert read_files(analysed.verdicts.parent).keys() == {
        "metrics.json",
        "verdicts.csv",
        "verdicts.csv.sha256",
        "verdicts.json",
    }
    table, metric = read_verdicts(analysed), json.loads(analysed.verdicts.read_text())
    assert table["claim"].tolist() == [claim for claim, parts in PARTS.items() for _ in range(parts)]
    assert list(metric) == list(PARTS)
    numbers = [name for name, column in VERDICTS.columns.items() if column.kind == "number"]
    for row in table.to_dict("records"):
        known = {name: row[name] for name in numbers if not pd.isna(row[name])}
        assert metric[row["claim"]]["parts"][row["part"]] == {**known, "verdict": row["verdict"]}
    assert json.loads(analysed.metrics.read_text()) == make_metrics(table)


def test_every_table_parameter_and_stream_reaches_its_judge(
    analysed_copy: Paths, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of claims has a stream of its own, so that none changes with another's table."""
    calls: dict[str, tuple[pd.DataFrame, np.random.Generator, dict[str, float]]] = {}
    verdicts: list[pd.DataFrame] = []

    def record(name: str, judge: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
        def judge_and_record(table: pd.DataFrame, *, generator: np.random.Generator, **options: float) -> pd.DataFrame:
            calls[name] = table, generator.spawn(1)[0], options
            verdicts.append(judge(table, generator=generator, **options))
            return verdicts[-1]

        return judge_and_record

    kinds = ("accuracy", "heatmap", "overlap", "depth", "lesion", "geometry")
    for kind in kinds:
        name = f"judge_{kind}_claims"
        monkeypatch.setattr(checks, name, record(kind, getattr(checks, name)))
    values = {"level": 0.8, "draws": 101, "margin": 0.3, "early": 0.9, "dissociation": 0.02, "damage": 0.25}
    checks.run(analysed_copy, change_params(params, "checks", seed=96, **values))
    tables = {
        "accuracy": read_accuracies(analysed_copy),
        "heatmap": OVERLAP.read(analysed_copy.table("overlap")),
        "overlap": OVERLAP.read(analysed_copy.table("overlap")),
        "depth": UNIT_SHARES.read(analysed_copy.table("depth_shares")),
        "lesion": DISSOCIATION.read(analysed_copy.table("dissociation")),
        "geometry": GEOMETRY.read(analysed_copy.table("depth_geometry")),
    }
    labels = {"accuracy": (), "heatmap": ("heatmaps",), "overlap": ("overlap",)}
    labels |= {"depth": ("depth",), "lesion": ("lesions",), "geometry": ("geometry",)}
    margins = {
        "accuracy": {"margin": 0.3},
        "heatmap": {},
        "overlap": {},
        "depth": {"margin": 0.9},
        "lesion": {"margin": 0.02, "damage": 0.25},
        "geometry": {},
    }
    assert tuple(calls) == kinds
    for kind, (table, stream, options) in calls.items():
        pd.testing.assert_frame_equal(table, tables[kind])
        assert stream.integers(2**62) == generator(96, "claims", *labels[kind]).spawn(1)[0].integers(2**62), kind
        assert options == {"level": 0.8, "draws": 101, **margins[kind]}, kind
    expected = pd.concat(verdicts, ignore_index=True)
    pd.testing.assert_frame_equal(read_verdicts(analysed_copy), expected, check_dtype=False)


def test_heatmaps_that_cannot_be_judged_leave_the_other_verdicts(analysed_copy: Paths, params: Params) -> None:
    before = read_verdicts(analysed_copy)
    path = analysed_copy.table("overlap")
    write_table(path, OVERLAP.read(path).assign(number=np.nan))
    checks.run(analysed_copy, params)
    after, others = read_verdicts(analysed_copy), ~before["claim"].isin(["C5", "C6"])
    pd.testing.assert_frame_equal(after[others], before[others])
    assert set(after["verdict"][~others]) == {"not testable on this data"}


def test_a_missing_table_is_named_and_earlier_verdicts_stay(analysed_copy: Paths, params: Params) -> None:
    before = read_files(analysed_copy.verdicts.parent)
    for name in ("decoding", "accuracy", "overlap", "depth_shares", "dissociation"):
        path = analysed_copy.table(name)
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(StudyError, match=rf"{name}\.csv: no such file\. `dvc repro` makes it\."):
            checks.run(analysed_copy, params)
        path.write_bytes(content)
    assert read_files(analysed_copy.verdicts.parent) == before
