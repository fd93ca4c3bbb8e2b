from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.published.export import check_results, export_accuracy, read_results, tabulate_results
from facespec.published.reference import read_reference_accuracy
from facespec.study.errors import StudyError
from facespec.study.pickles import write_pickle
from facespec.study.tables import ACCURACY

FIG1C = "Fig1C_KDEF_SPLIT_Accuracy_Results.pickle"
CALLED = ("expression", "recognition")
# spelled out: the contract is with whoever reads the original's files
CONTRACT = {
    "Fig1B_KDEF_Lesioned_models_dict_results.pickle": [
        f"precision_score_face_{a}_model_face_{b}_data" for a in CALLED for b in CALLED
    ],
    FIG1C: [f"avg_valid_prec_1_{joint}face_{t}" for t in ("expression", "identity") for joint in ("", "SPLIT_")],
    "SFig1A_with_2_Other_Datasets_Lesioned_models_dict_results.pickle": [
        f"precision_score_face_{a}_model_face_{b}_data" for a in CALLED for b in CALLED
    ],
    "SFig1B_with_2_Other_Datasets_SPLIT_Accuracy_Results.pickle": [
        f"avg_valid_prec_1_{joint}face_{t}" for t in ("expression", "identity") for joint in ("", "SPLIT_")
    ],
}


def meaning(key: str) -> tuple[str, str]:
    """Which bar a key is, by another road: parsed from its words."""
    words = key.replace("recognition", "identity").split("_")
    if key.startswith("precision"):
        return words[3], words[6]
    return ("joint" if "SPLIT" in words else words[-1]), words[-1]


def table(seeds: tuple[int, ...] = (3, 1), resamples: int = 103) -> pd.DataFrame:
    """Every bar, seed and resample with a number of its own, from its position alone."""
    rows = []
    for bar, row in enumerate(read_reference_accuracy().itertuples()):
        for seed in seeds:
            for resample in range(-1, resamples):
                rows.append(
                    {
                        "figure": row.figure,
                        "trained_on": row.trained_on,
                        "tested_on": row.tested_on,
                        "role": "probe",
                        "source": "embedded faces",
                        "seed": seed,
                        "resample": resample,
                        "n": 17,
                        "chance": 0.1,
                        "accuracy": (bar * 997 + seed * 331 + resample + 1) / 20000,
                    }
                )
    return ACCURACY.check(pd.DataFrame(rows))


def test_files_keys_and_order_are_the_original_ones() -> None:
    files = export_accuracy(table())
    assert {file: list(content) for file, content in files.items()} == CONTRACT
    for content in files.values():
        for values in content.values():
            assert type(values) is list and len(values) == 100 and all(type(value) is float for value in values)


def test_every_key_holds_its_own_bar_of_the_first_seed() -> None:
    whole = table(seeds=(3, 1)).query("seed == 3 and 0 <= resample < 100")
    for figure, content in zip(("1B", "1C", "S1A", "S1B"), export_accuracy(table(seeds=(3, 1))).values(), strict=True):
        for key, values in content.items():
            trained_on, tested_on = meaning(key)
            own = (whole["figure"] == figure) & (whole["trained_on"] == trained_on) & (whole["tested_on"] == tested_on)
            assert values == whole[own].sort_values("resample")["accuracy"].tolist()


def test_order_of_resamples_is_by_number_not_by_row() -> None:
    whole = table(seeds=(3,))
    assert export_accuracy(whole.iloc[::-1]) == export_accuracy(whole)


def test_only_the_figures_at_hand() -> None:
    assert list(export_accuracy(table().query("figure == '1C'"))) == [FIG1C]
    assert export_accuracy(table().iloc[:0]) == {}
    assert tabulate_results({}).empty


@pytest.mark.parametrize("drop, left", [("resample == 42", 99), ("resample >= 0", 0)])
def test_a_missing_resample_is_refused(drop: str, left: int) -> None:
    whole = table()
    cut = whole.drop(
        whole.query(f"figure == '1C' and trained_on == 'joint' and tested_on == 'identity' and {drop}").index
    )
    with pytest.raises(StudyError) as error:
        export_accuracy(cut)
    assert str(error.value) == (
        "figure 1C, joint network tested on identity, seed 3: Fig1C_KDEF_SPLIT_Accuracy_Results.pickle needs resamples "
        f"0 to 99, each once; the table has {left} rows of them."
    )


def test_a_doubled_resample_is_refused() -> None:
    whole = table()
    doubled = pd.concat([whole, whole.query("figure == '1B' and resample == 7").head(1)], ignore_index=True)
    with pytest.raises(StudyError, match="each once; the table has 101 rows"):
        export_accuracy(doubled)


values = st.lists(st.floats(0, 1), min_size=100, max_size=100)


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    """Files -> table -> files gives the same numbers, bit for bit, for any choice of files."""
    chosen = data.draw(st.sets(st.sampled_from(sorted(CONTRACT)), min_size=1, max_size=2))
    lists = [data.draw(values) for _ in range(2)]
    files = {file: {key: lists[i % 2] for i, key in enumerate(CONTRACT[file])} for file in CONTRACT if file in chosen}
    assert export_accuracy(tabulate_results(files)) == files


def test_table_round_trip() -> None:
    """Table -> files -> table keeps the first seed's first 100 resamples; the rest becomes as published."""
    back = tabulate_results(export_accuracy(table()))
    cell = ["figure", "trained_on", "tested_on", "resample"]
    own = table().query("seed == 3 and 0 <= resample < 100").set_index(cell)["accuracy"].sort_index()
    pd.testing.assert_series_equal(back.set_index(cell)["accuracy"].sort_index(), own)
    assert set(back["seed"]) == {0}
    assert set(back.query("figure == 'S1B' and tested_on == 'identity'")["source"]) == {"VoxCeleb1"}
    assert set(back.query("figure == 'S1A' and tested_on == 'expression'")["n"]) == {140}
    assert set(back.query("figure == '1B' and tested_on == 'identity'")["chance"]) == {1 / 70}
    assert set(back.query("figure == 'S1B' and tested_on == 'identity'")["role"]) == {"identity"}


def good() -> dict[str, Any]:
    return {key: [0.25] * 100 for key in CONTRACT[FIG1C]}


def spoilt(what: str) -> Any:
    content, key = good(), "avg_valid_prec_1_face_identity"
    if what == "type":
        return [1.0]
    if what == "missing":
        del content[key]
    if what == "extra":
        content["avg_valid_prec_1_face_identiti"] = [0.5] * 100
    if what == "array":
        content[key] = np.full(100, 0.5)
    if what == "short":
        content[key] = [0.5] * 99
    if what in ("nan", "high", "text", "bool"):
        content[key] = [0.5] * 98 + [
            {"nan": float("nan"), "high": np.float64(1.5), "text": "0.5", "bool": True}[what],
            0.5,
        ]
    return content


KEYS = "'avg_valid_prec_1_face_expression', 'avg_valid_prec_1_SPLIT_face_expression', 'avg_valid_prec_1_face_identity', 'avg_valid_prec_1_SPLIT_face_identity'"  # noqa: E501
SPOILT = [
    ("type", "expected a dict of lists, got list."),
    (
        "missing",
        "lacks key 'avg_valid_prec_1_face_identity'; it has ['avg_valid_prec_1_SPLIT_face_expression', "
        "'avg_valid_prec_1_SPLIT_face_identity', 'avg_valid_prec_1_face_expression'].",
    ),
    (
        "extra",
        f"unknown key 'avg_valid_prec_1_face_identiti'; did you mean 'avg_valid_prec_1_face_identity'? "
        f"Allowed: {KEYS}.",
    ),
]
SPOILT_LISTS = [
    ("array", ": expected a list of 100 numbers, got ndarray."),
    ("short", ": expected 100 numbers, got 99."),
    ("nan", ", position 98: got nan, allowed: a number in [0, 1]."),
    ("high", ", position 98: got 1.5, allowed: a number in [0, 1]."),
    ("text", ", position 98: got '0.5', allowed: a number in [0, 1]."),
    ("bool", ", position 98: got True, allowed: a number in [0, 1]."),
]


@pytest.mark.parametrize(
    "what, message", SPOILT + [(w, f"key 'avg_valid_prec_1_face_identity'{m}") for w, m in SPOILT_LISTS]
)
def test_spoilt_content_is_refused_by_name(what: str, message: str, tmp_path: Path) -> None:
    whole = f"{FIG1C}{', ' if message.startswith('key') else ': '}{message}"
    with pytest.raises(StudyError) as error:
        check_results(FIG1C, spoilt(what))
    assert str(error.value) == whole
    with pytest.raises(StudyError) as error:
        tabulate_results({FIG1C: spoilt(what)})
    assert str(error.value) == whole
    write_pickle(tmp_path / FIG1C, spoilt(what))
    with pytest.raises(StudyError) as error:
        read_results(tmp_path)
    assert str(error.value) == f"{tmp_path}: {whole}"


def test_unknown_file() -> None:
    with pytest.raises(StudyError) as error:
        tabulate_results({"Fig1C.pickle": good()})
    assert str(error.value).startswith("Fig1C.pickle: not one of the published accuracy files; ")


def test_bounds_are_allowed_and_numpy_floats_become_plain() -> None:
    content = good() | {"avg_valid_prec_1_face_identity": [np.float64(0.0)] * 50 + [1] * 50}
    read = check_results(FIG1C, content)["avg_valid_prec_1_face_identity"]
    assert read == [0.0] * 50 + [1.0] * 50 and {type(value) for value in read} == {float}


class Malice:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_a_malicious_file_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    trace = tmp_path / "it_ran"
    content = good() | {"avg_valid_prec_1_face_identity": Malice(f"touch {trace}")}
    (tmp_path / FIG1C).write_bytes(pickle.dumps(content))
    with pytest.raises(StudyError) as error:
        read_results(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / FIG1C}: refused {os.system.__module__}.system: "
        "only built-in containers, numbers and numpy arrays are read."
    )
    assert not trace.exists()
    pickle.loads((tmp_path / FIG1C).read_bytes())  # the file is a real one: a trusting reader runs it
    assert trace.exists()


def test_a_truncated_file(tmp_path: Path) -> None:
    (tmp_path / FIG1C).write_bytes(pickle.dumps(good())[:-40])
    with pytest.raises(StudyError) as error:
        read_results(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / FIG1C}: not a readable pickle (")
    assert str(error.value).endswith(" It may be truncated: fetch or make it again.")


def test_checking_leaves_the_content_alone() -> None:
    content = good()
    before = copy.deepcopy(content)
    check_results(FIG1C, content)["avg_valid_prec_1_face_identity"].append(2.0)
    assert content == before


def test_the_published_files_come_back_bit_for_bit(published: Path) -> None:
    files = read_results(published)
    assert list(files) == list(CONTRACT)
    assert export_accuracy(tabulate_results(files)) == files
