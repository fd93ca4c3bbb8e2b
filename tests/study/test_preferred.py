"""Preferred stimuli on disk: they are read as they were written, and what does not fit is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facespec.study.artefacts import write_document
from facespec.study.errors import StudyError
from facespec.study.preferred import HEADER_FILE, PreferredSet
from toys import edit_header, record_digests

LAYERS = {
    "expression": {"trunk.relu1": 3, "trunk.relu2": 3},
    "joint": {"trunk.relu1": 3, "branches.identity.relu2": 5},
}


def write_set(directory: Path, *, channels: int = 1, input_channels: int = 1) -> dict[str, np.ndarray]:
    """Write random stimuli of 7x7 px and faces of 6x5 px; return the arrays by file name."""
    random = np.random.Generator(np.random.PCG64(3))
    arrays = {}
    for network, layers in LAYERS.items():
        for layer, units in layers.items():
            optimised = random.random((units, 7, 7, 3)[: 3 + (input_channels == 3)], dtype=np.float32)
            optimised[0] = np.nan
            arrays[f"{network}-{layer}-optimised.npy"] = optimised
            shape = (units, 6, 5, 3)[: 3 + (channels == 3)]
            arrays[f"{network}-{layer}-best.npy"] = random.integers(256, size=shape, dtype=np.uint8)
    for name, array in arrays.items():
        np.save(directory / name, array)
    header = {"version": 2, "source": "embedded faces", "seed": 8, "height": 6, "width": 5, "channels": channels}
    header |= {"size": 7, "input_channels": input_channels, "digests": {}, "layers": {}}
    for network, layers in LAYERS.items():
        named = enumerate(layers.items(), start=1)
        header["layers"][network] = [{"name": name, "depth": depth, "units": units} for depth, (name, units) in named]
    write_document(directory / HEADER_FILE, header)
    record_digests(directory / HEADER_FILE)
    return arrays


@pytest.mark.parametrize(("channels", "input_channels"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_a_set_is_read_as_it_was_written(tmp_path: Path, channels: int, input_channels: int) -> None:
    arrays = write_set(tmp_path, channels=channels, input_channels=input_channels)
    stimuli = PreferredSet.open(tmp_path)
    assert (stimuli.source, stimuli.seed) == ("embedded faces", 8)
    for network, layers in LAYERS.items():
        assert stimuli.layers(network) == list(layers)
        for layer in layers:
            expected = arrays[f"{network}-{layer}-optimised.npy"]
            np.testing.assert_array_equal(stimuli.optimised(network, layer), expected, strict=True)
            np.testing.assert_array_equal(stimuli.best(network, layer), arrays[f"{network}-{layer}-best.npy"])


def test_layers_are_listed_without_reading_arrays(tmp_path: Path) -> None:
    for name in write_set(tmp_path):
        (tmp_path / name).unlink()
    assert PreferredSet.open(tmp_path).layers("joint") == ["trunk.relu1", "branches.identity.relu2"]


BEST, OPTIMISED = "expression-trunk.relu1-best.npy", "expression-trunk.relu1-optimised.npy"
CHANGED = "not the bytes that were written there: altered, cut or damaged. Remove the directory"
Spoil = Callable[[Path], object]


def exchange(first: str, second: str) -> Spoil:
    """Exchange arrays of layers with the same number of units, so that their shapes agree."""

    def spoil(directory: Path) -> None:
        (directory / first).rename(directory / "x")
        (directory / second).rename(directory / first)
        (directory / "x").rename(directory / second)

    return spoil


def save(name: str, array: np.ndarray) -> Spoil:
    def spoil(directory: Path) -> None:
        np.save(directory / name, array)
        record_digests(directory / HEADER_FILE)

    return spoil


def cut_and_record(directory: Path) -> None:
    (directory / BEST).write_bytes((directory / BEST).read_bytes()[:-9])
    record_digests(directory / HEADER_FILE)


HEADER_DAMAGE: list[tuple[Spoil, str]] = [
    (
        lambda d: (d / HEADER_FILE).unlink(),
        "no preferred stimuli here (no preferred.json in it). `dvc repro preferred`",
    ),
    (
        lambda d: edit_header(d / HEADER_FILE, version=1),
        "version: Input should be 2. Make the preferred stimuli again.",
    ),
    (
        lambda d: edit_header(d / HEADER_FILE, channels=2),
        "channels: Input should be 1 or 3. Make the preferred stimuli",
    ),
    (lambda d: edit_header(d / HEADER_FILE, layers={"SPLIT": []}), "layers.SPLIT.[key]: Input should be 'expression'"),
]
BEST_DAMAGE: list[tuple[Spoil, str]] = [
    (lambda d: (d / BEST).unlink(), f"{BEST}: no such file. Remove the directory"),
    (lambda d: (d / BEST).write_bytes((d / BEST).read_bytes()[:-9]), f"{BEST}: {CHANGED}"),
    (cut_and_record, f"{BEST}: not a readable array ("),
    (exchange(BEST, "expression-trunk.relu2-best.npy"), f"{BEST}: {CHANGED}"),
    (exchange(BEST, "joint-trunk.relu1-best.npy"), f"{BEST}: {CHANGED}"),
    (save(BEST, np.zeros((3, 6, 5))), "float64 of shape (3, 6, 5), expected uint8 (3, 6, 5). Make it again."),
    (save(BEST, np.zeros((3, 5, 6), "u1")), "uint8 of shape (3, 5, 6), expected uint8 (3, 6, 5). Make it again."),
]
OPTIMISED_DAMAGE: list[tuple[Spoil, str]] = [
    (exchange(OPTIMISED, "joint-trunk.relu1-optimised.npy"), f"{OPTIMISED}: {CHANGED}"),
    (
        save(OPTIMISED, np.zeros((4, 7, 7), "f4")),
        "float32 of shape (4, 7, 7), expected float32 (3, 7, 7). Make it again.",
    ),
    (
        save(OPTIMISED, np.zeros((3, 7, 7, 3), "f4")),
        "float32 of shape (3, 7, 7, 3), expected float32 (3, 7, 7). Make it",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "message", "method"),
    [
        *((*damage, "best") for damage in HEADER_DAMAGE + BEST_DAMAGE),
        *((*damage, "optimised") for damage in OPTIMISED_DAMAGE),
    ],
)
def test_damage_is_refused_by_name(tmp_path: Path, spoil: Spoil, message: str, method: str) -> None:
    write_set(tmp_path)
    spoil(tmp_path)
    with pytest.raises(StudyError, match=re.escape(message)):
        getattr(PreferredSet.open(tmp_path), method)("expression", "trunk.relu1")


def test_unknown_networks_and_layers_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    stimuli = PreferredSet.open(tmp_path)
    with pytest.raises(StudyError, match="network 'identity': Allowed: 'expression', 'joint'"):
        stimuli.layers("identity")
    with pytest.raises(
        StudyError, match=r"layer 'trunk\.conv2': did you mean 'trunk\.relu2'\? Allowed: 'trunk\.relu1',"
    ):
        stimuli.best("expression", "trunk.conv2")
