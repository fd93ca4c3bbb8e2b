"""Responses to preferred stimuli in the original study's file names (Figure S2B), and a reader that checks such files.

What is inside the original's files is unknown; the keys are ours, after the files' names [O]. Layers are named by the
ReLU behind the convolution, as in all tables; position i of a layer's array is unit i. Dead units have NaN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facespec.published.export import check_keys, read_checked, select_first_seed
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.tables import PREFERRED
from facespec.study.vocabulary import Network

NAMES = {Network.JOINT: "SPLIT", Network.EXPRESSION: "exp", Network.IDENTITY: "id"}
FILES = {network: f"SFig2B_{name}_Layer_Names_and_Activations.pickle" for network, name in NAMES.items()}
LAYERS, RESPONSES = KEYS = ("layer_names", "activations")


def export_preferred(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The three published files' content, checked: file name -> key -> list.

    Of a PREFERRED table, the responses to optimised pictures count: ``activations`` holds one float64 array (units,)
    per layer of ``layer_names``, the shallowest first. Raises `StudyError` if a network or a unit is missing.
    """
    table = PREFERRED.check(table)
    optimised = table[(table["seed"] == select_first_seed(table)) & (table["kind"] == "optimised")]
    content = {file: _of(optimised[optimised["trained_on"] == network], network) for network, file in FILES.items()}
    return {file: check_preferred_results(file, one) for file, one in content.items()}


def _of(own: pd.DataFrame, network: Network) -> dict[str, Any]:
    responses = {}
    for layer, units in own.groupby("layer", sort=False):
        ordered = units.sort_values("unit")
        if ordered["unit"].tolist() != list(range(len(ordered))):
            raise StudyError(
                f"table 'preferred', {network.value} network, layer {layer!r}: needs units 0, 1, ... without a gap, "
                f"each once; the table has {len(ordered)} rows of them. Make the preferred stimuli again."
            )
        responses[str(layer)] = int(ordered["depth"].iloc[0]), ordered["response"].to_numpy(np.float64)
    if not responses:
        raise StudyError(
            f"table 'preferred' has no optimised picture of the {network.value} network. Make the preferred stimuli "
            "again."
        )
    names = sorted(responses, key=lambda name: responses[name][0])  # stable: branches of equal depth keep their order
    return {LAYERS: names, RESPONSES: [responses[name][1] for name in names]}


def check_preferred_results(file: str, content: Any) -> dict[str, Any]:
    """`content` of the published file `file`; refused by name if a key, shape or value is wrong."""
    if file not in FILES.values():
        raise StudyError(f"{file}: not one of the published files; {suggest_spelling(file, FILES.values())}")
    check_keys(file, content, KEYS, of="lists")
    names, arrays = (content[key] for key in KEYS)
    for key in KEYS:
        if not isinstance(content[key], list) or not content[key]:
            got = "an empty list" if isinstance(content[key], list) else type(content[key]).__name__
            raise StudyError(f"{file}, key {key!r}: expected a list with one entry per layer, got {got}.")
    for position, name in enumerate(names):
        if not isinstance(name, str) or name in names[:position]:
            raise StudyError(f"{file}, key {LAYERS!r}, position {position}: got {name!r}, allowed: a name of its own.")
    if len(arrays) != len(names):
        raise StudyError(f"{file}, key {RESPONSES!r}: {len(arrays)} arrays for {len(names)} layers.")
    for name, array in zip(names, arrays, strict=True):
        _check_array(f"{file}, layer {name!r}", array)
    return dict(content)


def _check_array(where: str, values: Any) -> None:
    wanted = "an array (units,) of numbers"
    if not isinstance(values, np.ndarray):
        raise StudyError(f"{where}: expected {wanted}, got {type(values).__name__}.")
    if values.ndim != 1 or not values.size or values.dtype.kind not in "iuf":
        raise StudyError(f"{where}: expected {wanted}, got {values.dtype} of shape {values.shape}.")
    wrong = values[(values < 0) | np.isinf(values)]
    if wrong.size:
        raise StudyError(f"{where}: got {wrong[0].item()!r}, allowed: finite numbers, 0 or more, and NaN.")


def read_preferred_results(directory: Path) -> dict[str, dict[str, Any]]:
    """The published files about preferred stimuli that `directory` holds, read safely and checked."""
    return read_checked(directory, FILES.values(), check_preferred_results)
