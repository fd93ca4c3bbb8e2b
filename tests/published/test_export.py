"""The accuracy files of the original study: names, keys, shapes, and refusal of damaged files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.published.export import check_results, export_accuracy, read_results, tabulate_results
from facespec.published.reference import read_reference_accuracy
from facespec.study.errors import StudyError
from facespec.study.pickles import write_pickle
from facespec.study.tables import ACCURACY

FIG1C = "Fig1C_KDEF_SPLIT_Accuracy_Results.pickle"
DECODING_KEYS = [
    f"precision_score_face_{task}_model_face_{other}_data"
    for task in ("expression", "recognition")
    for other in ("expression", "recognition")
]
TOP1_KEYS = [f"avg_valid_prec_1_{joint}face_{task}" for task in ("expression", "identity") for joint in ("", "SPLIT_")]
# spelled out: other programs read these names and keys
CONTRACT = {
    "Fig1B_KDEF_Lesioned_models_dict_results.pickle": DECODING_KEYS,
    FIG1C: TOP1_KEYS,
    "SFig1A_with_2_Other_Datasets_Lesioned_models_dict_results.pickle": DECODING_KEYS,
    "SFig1B_with_2_Other_Datasets_SPLIT_Accuracy_Results.pickle": TOP1_KEYS,
}
KEY = "avg_valid_prec_1_face_identity"
GOOD: dict[str, Any] = {key: [0.25] * 100 for key in TOP1_KEYS}


def parse_key(key: str) -> tuple[str, str]:
    """(trained_on, tested_on) of a key, read from its words."""
    words = key.replace("recognition", "identity").split("_")
    if key.startswith("precision"):
        return words[3], words[6]
    return ("joint" if "SPLIT" in words else words[-1]), words[-1]


def make_table(seeds: tuple[int, ...] = (3, 1), resamples: int = 103) -> pd.DataFrame:
    """Every bar, seed and resample with a different accuracy."""
    bars = read_reference_accuracy()[["figure", "trained_on", "tested_on"]].assign(bar=range(16))
    rows = bars.merge(pd.DataFrame({"seed": seeds}), how="cross")
    rows = rows.merge(pd.DataFrame({"resample": range(-1, resamples)}), how="cross")
    rows["accuracy"] = (rows.pop("bar") * 997 + rows["seed"] * 331 + rows["resample"] + 1) / 20000
    return ACCURACY.check(rows.assign(role="probe", source="embedded faces", n=17, chance=0.1))


def test_files_keys_and_order_are_the_original_ones() -> None:
    files = export_accuracy(make_table())
    assert {file: list(content) for file, content in files.items()} == CONTRACT
    for content in files.values():
        for values in content.values():
            assert type(values) is list and len(values) == 100 and all(type(value) is float for value in values)


def test_every_key_holds_its_bar_of_the_first_seed_in_order_of_resamples() -> None:
    table = make_table(seeds=(3, 1))
    expected = table.query("seed == 3 and 0 <= resample < 100").set_index(["figure", "trained_on", "tested_on"])
    files = export_accuracy(table)
    for figure, content in zip(("1B", "1C", "S1A", "S1B"), files.values(), strict=True):
        for key, values in content.items():
            assert values == expected.sort_index().loc[(figure, *parse_key(key)), "accuracy"].tolist()
    only = make_table(seeds=(3,))
    assert export_accuracy(only.iloc[::-1]) == export_accuracy(only) == files


def test_only_trained_networks_are_exported() -> None:
    """Baselines stand in the same table, and zero-shot transfer has a figure of its own."""
    table = make_table(seeds=(3,))
    rows = table.query("trained_on == 'expression'")
    baselines = [rows.assign(trained_on=name, accuracy=0.99) for name in ("untrained", "pixels", "pixels_nearest")]
    zero_shot = table.query("figure == '1C'").assign(figure="1C zero-shot", accuracy=0.99)
    assert export_accuracy(pd.concat([table, *baselines, zero_shot], ignore_index=True)) == export_accuracy(table)


def test_figures_without_rows_are_left_out() -> None:
    assert list(export_accuracy(make_table().query("figure == '1C'"))) == [FIG1C]
    assert export_accuracy(make_table().iloc[:0]) == {}
    assert tabulate_results({}).empty


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        (lambda cell: cell.query("resample != 42"), 99),
        (lambda cell: cell.query("resample < 0"), 0),
        (lambda cell: pd.concat([cell, cell.query("resample == 7")]), 101),
    ],
)
def test_missing_and_doubled_resamples_are_refused(damage: Any, rows: int) -> None:
    table = make_table(seeds=(3,))
    is_damaged = table.eval("figure == '1C' and trained_on == 'joint' and tested_on == 'identity'")
    damaged = pd.concat([table[~is_damaged], damage(table[is_damaged])], ignore_index=True)
    message = f"figure 1C, joint network tested on identity, seed 3: {FIG1C} needs .* the table has {rows} rows"
    with pytest.raises(StudyError, match=message):
        export_accuracy(damaged)


LISTS = st.lists(st.floats(0, 1), min_size=100, max_size=100)


@settings(max_examples=20)
@given(st.sets(st.sampled_from(sorted(CONTRACT)), min_size=1, max_size=2), LISTS, LISTS)
def test_files_come_back_from_their_table_bit_for_bit(names: set[str], first: list[float], second: list[float]) -> None:
    files = {
        file: {key: (first, second)[i % 2] for i, key in enumerate(CONTRACT[file])}
        for file in CONTRACT
        if file in names
    }
    assert export_accuracy(tabulate_results(files)) == files


def test_a_table_comes_back_with_the_published_studys_labels() -> None:
    table = tabulate_results(export_accuracy(make_table()))
    cell = ["figure", "trained_on", "tested_on", "resample"]
    first_seed = make_table().query("seed == 3 and 0 <= resample < 100").set_index(cell)["accuracy"].sort_index()
    pd.testing.assert_series_equal(table.set_index(cell)["accuracy"].sort_index(), first_seed)
    assert set(table["seed"]) == {0}
    voxceleb = table.query("figure == 'S1B' and tested_on == 'identity'")
    assert set(voxceleb["source"]) == {"VoxCeleb1"} and set(voxceleb["role"]) == {"identity"}
    assert set(table.query("figure == 'S1A' and tested_on == 'expression'")["n"]) == {140}
    assert set(table.query("figure == '1B' and tested_on == 'identity'")["chance"]) == {1 / 70}


def spoil(value: Any) -> dict[str, Any]:
    return GOOD | {KEY: [0.5] * 98 + [value, 0.5]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1.0], ": expected a dict of lists, got list"),
        ({key: GOOD[key] for key in TOP1_KEYS if key != KEY}, f": lacks key '{KEY}'; it has ['avg_valid_prec_1_SPLIT"),
        (GOOD | {KEY[:-1] + "i": [0.5] * 100}, f": unknown key '{KEY[:-1]}i'; did you mean '{KEY}'?"),
        (GOOD | {KEY: np.full(100, 0.5)}, f", key '{KEY}': expected a list of 100 numbers, got ndarray"),
        (GOOD | {KEY: [0.5] * 99}, f", key '{KEY}': expected 100 numbers, got 99"),
        (spoil(float("nan")), f", key '{KEY}', position 98: got nan, allowed: a number in [0, 1]"),
        (spoil(np.float64(1.5)), f", key '{KEY}', position 98: got 1.5, allowed"),
        (spoil("0.5"), f", key '{KEY}', position 98: got '0.5', allowed"),
        (spoil(True), f", key '{KEY}', position 98: got True, allowed"),
    ],
)
def test_damaged_content_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    write_pickle(tmp_path / FIG1C, content)
    for call in (
        lambda: check_results(FIG1C, content),
        lambda: tabulate_results({FIG1C: content}),
        lambda: read_results(tmp_path),
    ):
        with pytest.raises(StudyError) as error:
            call()
        assert f"{FIG1C}{message}" in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}: ")


def test_an_unknown_file_is_refused() -> None:
    with pytest.raises(StudyError, match=r"^Fig1C\.pickle: not one of the published accuracy files"):
        tabulate_results({"Fig1C.pickle": GOOD})


def test_bounds_are_allowed_numpy_floats_become_plain_and_the_content_is_copied() -> None:
    content = GOOD | {KEY: [np.float64(0.0)] * 50 + [1] * 50}
    values = check_results(FIG1C, content)[KEY]
    assert values == [0.0] * 50 + [1.0] * 50 and {type(value) for value in values} == {float}
    values.append(2.0)
    assert len(content[KEY]) == 100


class MaliciousObject:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_a_malicious_file_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    trace = tmp_path / "it_ran"
    (tmp_path / FIG1C).write_bytes(pickle.dumps(GOOD | {KEY: MaliciousObject(f"touch {trace}")}))
    with pytest.raises(StudyError, match=rf"{FIG1C}: refused {os.system.__module__}\.system: only built-in"):
        read_results(tmp_path)
    assert not trace.exists()
    pickle.loads((tmp_path / FIG1C).read_bytes())  # the attack works: plain pickle runs it
    assert trace.exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FIG1C).write_bytes(pickle.dumps(GOOD)[:-40])
    with pytest.raises(StudyError, match=rf"{FIG1C}: not a readable pickle .* It may be truncated: fetch or make it"):
        read_results(tmp_path)


def test_the_published_files_come_back_bit_for_bit(published: Path) -> None:
    files = read_results(published)
    assert list(files) == list(CONTRACT)
    assert export_accuracy(tabulate_results(files)) == files
