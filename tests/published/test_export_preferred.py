"""The preferred-stimulus files of the original study hold one response per unit; damaged files are refused."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from facespec.published.export import check_preferred_results, export_preferred, read_preferred_results
from facespec.study.errors import StudyError
from facespec.study.pickles import write_pickle
from facespec.study.tables import PREFERRED

# spelled out: other programs read these names
FILES = {
    network: f"SFig2B_{name}_Layer_Names_and_Activations.pickle"
    for network, name in {"joint": "SPLIT", "expression": "exp", "identity": "id"}.items()
}
LAYERS = {
    "joint": {"trunk.relu1": (1, 2), "branches.expression.relu2": (2, 3), "branches.identity.relu2": (2, 3)},
    "expression": {"trunk.relu1": (1, 2), "trunk.relu2": (2, 11)},
    "identity": {"trunk.relu2": (2, 3), "trunk.relu1": (1, 2), "trunk.relu10": (10, 1)},
}


def make_response(network: str, layer: str, unit: int) -> float:
    """A different response for every unit; unit 1 of relu1 is dead."""
    if (layer, unit) == ("trunk.relu1", 1):
        return float("nan")
    return list(LAYERS).index(network) + list(LAYERS[network]).index(layer) / 8 + unit / 128


def make_table() -> pd.DataFrame:
    """Rows in no particular order, among others that must not be used."""
    rows = [
        {
            "trained_on": network,
            "seed": seed,
            "layer": layer,
            "depth": depth,
            "unit": unit,
            "kind": kind,
            "response": make_response(network, layer, unit) + 50 * (kind != "optimised") + 99 * (seed != 4),
        }
        for network, layers in LAYERS.items()
        for layer, (depth, units) in layers.items()
        for unit in reversed(range(units))
        for seed in (4, 2)
        for kind in ("optimised", "image", "start", "random")
    ]
    labels = {"source": "embedded faces", "stimulus": "", "row": np.nan, "column": np.nan, "reason": ""}
    return PREFERRED.check(pd.DataFrame(rows).assign(**labels))


def test_position_i_holds_the_response_of_unit_i_and_layers_are_in_order_of_depth(tmp_path: Path) -> None:
    files = export_preferred(make_table())
    assert files.keys() == set(FILES.values())
    for network, file in FILES.items():
        write_pickle(tmp_path / file, files[file])
        content = pickle.loads((tmp_path / file).read_bytes())  # plain pickle, as the original's notebooks read them
        assert list(content) == ["layer_names", "activations"]
        names = sorted(LAYERS[network], key=lambda name: LAYERS[network][name][0])
        assert content["layer_names"] == names
        for name, array in zip(names, content["activations"], strict=True):
            units = LAYERS[network][name][1]
            assert array.dtype == np.float64
            np.testing.assert_array_equal(array, [make_response(network, name, unit) for unit in range(units)])
    np.testing.assert_equal(read_preferred_results(tmp_path), files)


def test_units_without_a_rectifier_respond_below_zero(tmp_path: Path) -> None:
    table = make_table()
    table["response"] = -table["response"]
    files = export_preferred(table)
    for file, content in files.items():
        write_pickle(tmp_path / file, content)
    np.testing.assert_equal(read_preferred_results(tmp_path), files)
    assert min(np.nanmin(array) for content in files.values() for array in content["activations"]) < 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda table: table.query("not (trained_on == 'identity' and kind == 'optimised')"),
            "no optimised picture of the identity network. Make the preferred stimuli again",
        ),
        (
            lambda table: table.query("not (trained_on == 'expression' and layer == 'trunk.relu2' and unit == 4)"),
            "expression network, layer 'trunk.relu2': needs units 0, 1, ... without a gap, each once; the table has 10",
        ),
        (
            lambda table: pd.concat(
                [table, table.query("trained_on == 'joint' and layer == 'trunk.relu1' and unit == 0")]
            ),
            "joint network, layer 'trunk.relu1': needs units 0, 1, ... without a gap, each once; the table has 3 rows",
        ),
    ],
)
def test_missing_and_doubled_units_are_refused(damage: Any, message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        export_preferred(damage(make_table()))


FILE = FILES["joint"]
GOOD: dict[str, Any] = {"layer_names": ["a", "b"], "activations": [np.array([0.0, 2.5]), np.array([np.nan])]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], ": expected a dict of lists, got list"),
        ({"layer_names": ["a", "b"]}, ": lacks key 'activations'; it has ['layer_names']"),
        (GOOD | {"layers": []}, ": unknown key 'layers'; did you mean 'layer_names'?"),
        (
            GOOD | {"layer_names": ("a", "b")},
            ", key 'layer_names': expected a list with one entry per layer, got tuple",
        ),
        (
            GOOD | {"activations": []},
            ", key 'activations': expected a list with one entry per layer, got an empty list",
        ),
        (GOOD | {"layer_names": ["a", "a"]}, ", key 'layer_names', position 1: got 'a', allowed"),
        (GOOD | {"layer_names": [1, "a"]}, ", key 'layer_names', position 0: got 1, allowed"),
        (GOOD | {"layer_names": ["a"]}, ", key 'activations': 2 arrays for 1 layers"),
        (GOOD | {"activations": [np.ones(2), [1.0]]}, ", layer 'b': expected an array (units,) of numbers, got list"),
        (
            GOOD | {"activations": [np.ones((2, 1)), np.ones(1)]},
            ", layer 'a': expected an array (units,) of numbers, got",
        ),
        (GOOD | {"activations": [np.ones(2), np.ones(0)]}, ", layer 'b': expected an array (units,) of numbers, got"),
        (
            GOOD | {"activations": [np.array([1j]), np.ones(1)]},
            ", layer 'a': expected an array (units,) of numbers, got",
        ),
        (GOOD | {"activations": [np.ones(1), np.array([1, np.inf])]}, ", layer 'b': got inf, allowed: finite numbers"),
    ],
)
def test_damaged_content_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as error:
        check_preferred_results(FILE, content)
    assert str(error.value).startswith(FILE + message)
    write_pickle(tmp_path / FILE, content)
    with pytest.raises(StudyError) as read_error:
        read_preferred_results(tmp_path)
    assert str(read_error.value) == f"{tmp_path}: {error.value}"


def test_good_content_is_returned_and_unknown_files_are_refused(tmp_path: Path) -> None:
    np.testing.assert_equal(check_preferred_results(FILE, GOOD), GOOD)
    assert read_preferred_results(tmp_path) == {}
    with pytest.raises(StudyError, match=rf"SFig2B_SPLT_.*not one of the published files; did you mean '{FILE}'\?"):
        check_preferred_results("SFig2B_SPLT_Layer_Names_and_Activations.pickle", GOOD)
