"""Figure S2B's pickles hold what the table says, unit by unit, and nothing else passes for them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from facespec.published.export_preferred import (
    check_preferred_results,
    export_preferred,
    read_preferred_results,
)
from facespec.study.errors import StudyError
from facespec.study.pickles import write_pickle
from facespec.study.tables import PREFERRED

# spelled out: the contract is with whoever reads the files
FILES = {
    network: f"SFig2B_{name}_Layer_Names_and_Activations.pickle"
    for network, name in {"joint": "SPLIT", "expression": "exp", "identity": "id"}.items()
}
LAYERS = {
    "joint": {"trunk.relu1": (1, 2), "branches.expression.relu2": (2, 3), "branches.identity.relu2": (2, 3)},
    "expression": {"trunk.relu1": (1, 2), "trunk.relu2": (2, 11)},
    "identity": {"trunk.relu2": (2, 3), "trunk.relu1": (1, 2), "trunk.relu10": (10, 1)},
}


def number(network: str, layer: str, unit: int) -> float:
    """A response of its own for every unit; unit 1 of relu1 is dead."""
    if (layer, unit) == ("trunk.relu1", 1):
        return float("nan")
    return list(LAYERS).index(network) + list(LAYERS[network]).index(layer) / 8 + unit / 128


def table() -> pd.DataFrame:
    """Rows in no particular order, among others of which nothing may be taken."""
    rows = [
        {
            "trained_on": network,
            "source": "embedded faces",
            "seed": seed,
            "layer": layer,
            "depth": depth,
            "unit": unit,
            "kind": kind,
            "response": number(network, layer, unit) + 50 * (kind != "optimised") + 99 * (seed != 4),
            "stimulus": "",
            "row": np.nan,
            "column": np.nan,
            "reason": "",
        }
        for network, layers in LAYERS.items()
        for layer, (depth, units) in layers.items()
        for unit in reversed(range(units))
        for seed in (4, 2)
        for kind in ("optimised", "image", "start", "random")
    ]
    return PREFERRED.check(pd.DataFrame(rows))


def test_every_unit_is_in_its_place(tmp_path: Path) -> None:
    found = export_preferred(table())
    assert found.keys() == set(FILES.values())
    for network, file in FILES.items():
        write_pickle(tmp_path / file, found[file])
        content = pickle.loads((tmp_path / file).read_bytes())  # plain pickle, as the original's own cells read them
        assert list(content) == ["layer_names", "activations"]
        names = sorted(LAYERS[network], key=lambda name: LAYERS[network][name][0])
        assert content["layer_names"] == names
        for name, array in zip(names, content["activations"], strict=True):
            units = LAYERS[network][name][1]
            assert array.dtype == np.float64
            np.testing.assert_array_equal(array, [number(network, name, unit) for unit in range(units)])
    np.testing.assert_equal(read_preferred_results(tmp_path), found)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (
            "trained_on == 'identity' and kind == 'optimised'",
            "table 'preferred' has no optimised picture of the identity network. Make the preferred stimuli again.",
        ),
        (
            "trained_on == 'expression' and layer == 'trunk.relu2' and unit == 4",
            "table 'preferred', expression network, layer 'trunk.relu2': needs units 0, 1, ... without a gap, each "
            "once; the table has 10 rows of them. Make the preferred stimuli again.",
        ),
    ],
)
def test_what_is_missing_is_named(gone: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        export_preferred(table().query(f"not ({gone})"))
    assert str(caught.value) == message


def test_a_unit_that_comes_twice_is_refused() -> None:
    twice = pd.concat([table(), table().query("trained_on == 'joint' and layer == 'trunk.relu1' and unit == 0")])
    with pytest.raises(StudyError, match=r"joint network, layer 'trunk\.relu1': .* the table has 3 rows of them\."):
        export_preferred(twice)


FILE = FILES["joint"]
GOOD: dict[str, Any] = {"layer_names": ["a", "b"], "activations": [np.array([0.0, 2.5]), np.array([np.nan])]}


def spoilt(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in (GOOD | values).items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], ": expected a dict of lists, got list."),
        (spoilt(activations=None), ": lacks key 'activations'; it has ['layer_names']."),
        (
            spoilt(layers=[]),
            ": unknown key 'layers'; did you mean 'layer_names'? Allowed: 'layer_names', 'activations'.",
        ),
        (spoilt(layer_names=("a", "b")), ", key 'layer_names': expected a list with one entry per layer, got tuple."),
        (spoilt(activations=[]), ", key 'activations': expected a list with one entry per layer, got an empty list."),
        (spoilt(layer_names=["a", "a"]), ", key 'layer_names', position 1: got 'a', allowed: a name of its own."),
        (spoilt(layer_names=[1, "a"]), ", key 'layer_names', position 0: got 1, allowed: a name of its own."),
        (spoilt(layer_names=["a"]), ", key 'activations': 2 arrays for 1 layers."),
        (spoilt(activations=[np.ones(2), [1.0]]), ", layer 'b': expected an array (units,) of numbers, got list."),
        (
            spoilt(activations=[np.ones((2, 1)), np.ones(1)]),
            ", layer 'a': expected an array (units,) of numbers, got float64 of shape (2, 1).",
        ),
        (
            spoilt(activations=[np.ones(2), np.ones(0)]),
            ", layer 'b': expected an array (units,) of numbers, got float64 of shape (0,).",
        ),
        (
            spoilt(activations=[np.array([1j]), np.ones(1)]),
            ", layer 'a': expected an array (units,) of numbers, got complex128 of shape (1,).",
        ),
        (
            spoilt(activations=[np.array([1, -0.5]), np.ones(1)]),
            ", layer 'a': got -0.5, allowed: finite numbers, 0 or more, and NaN.",
        ),
        (
            spoilt(activations=[np.ones(1), np.array([1, np.inf])]),
            ", layer 'b': got inf, allowed: finite numbers, 0 or more, and NaN.",
        ),
    ],
)
def test_damaged_content_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        check_preferred_results(FILE, content)
    assert str(caught.value) == FILE + message
    write_pickle(tmp_path / FILE, content)
    with pytest.raises(StudyError) as caught:
        read_preferred_results(tmp_path)
    assert str(caught.value) == f"{tmp_path}: {FILE}{message}"


def test_good_content_comes_through_and_other_files_do_not(tmp_path: Path) -> None:
    np.testing.assert_equal(check_preferred_results(FILE, GOOD), GOOD)
    assert read_preferred_results(tmp_path) == {}
    with pytest.raises(StudyError) as caught:
        check_preferred_results("SFig2B_SPLT_Layer_Names_and_Activations.pickle", GOOD)
    assert str(caught.value) == (
        "SFig2B_SPLT_Layer_Names_and_Activations.pickle: not one of the published files; did you mean "
        f"'{FILE}'? Allowed: '{FILE}', '{FILES['expression']}', '{FILES['identity']}'."
    )
