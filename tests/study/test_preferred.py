"""Preferred stimuli on disk: what was written is found, and what does not fit is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespec.study.artefacts import read_document, write_document
from facespec.study.errors import StudyError
from facespec.study.preferred import HEADER_FILE, PreferredSet, name_preferred_file

Layers = dict[str, list[tuple[str, int, int]]]
LAYERS: Layers = {
    "expression": [("trunk.relu1", 1, 3), ("trunk.relu2", 2, 4)],
    "joint": [("trunk.relu1", 1, 2), ("branches.identity.relu2", 2, 5)],
}


def made(
    directory: Path, *, channels: int = 1, input_channels: int = 1, layers: Layers = LAYERS
) -> tuple[Path, dict[str, np.ndarray]]:
    """A set of random pictures of 7x7 px and faces of 6x5 px."""
    random = np.random.Generator(np.random.PCG64(3))
    directory.mkdir()
    listed = {
        network: [dict(zip(("name", "depth", "units"), one, strict=True)) for one in own]
        for network, own in layers.items()
    }
    arrays = {}
    for network, own in layers.items():
        for name, _, units in own:
            pictures = random.random((units, 7, 7, *((3,) if input_channels == 3 else ())), dtype=np.float32)
            pictures[0] = np.nan
            faces = random.integers(256, size=(units, 6, 5, *((3,) if channels == 3 else ())), dtype=np.uint8)
            for what, array in (("optimised", pictures), ("best", faces)):
                file = f"{network}-{name}-{what}.npy"
                np.save(directory / file, array)
                arrays[file] = array
    head = {
        "version": 2,
        "source": "embedded faces",
        "seed": 8,
        "height": 6,
        "width": 5,
        "channels": channels,
        "size": 7,
        "input_channels": input_channels,
        "layers": listed,
        "digests": digests(directory),
    }
    write_document(directory / HEADER_FILE, head)
    return directory, arrays


def digests(directory: Path) -> dict[str, str]:
    files = [path for path in directory.iterdir() if path.name != HEADER_FILE]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("channels", "input_channels"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_what_was_written_is_found(tmp_path: Path, channels: int, input_channels: int) -> None:
    directory, arrays = made(tmp_path / "set", channels=channels, input_channels=input_channels)
    found = PreferredSet.open(directory)
    assert (found.source, found.seed) == ("embedded faces", 8)
    for network, own in LAYERS.items():
        assert found.layers(network) == [name for name, _, _ in own]
        for name, _, _ in own:
            np.testing.assert_array_equal(found.optimised(network, name), arrays[f"{network}-{name}-optimised.npy"])
            np.testing.assert_array_equal(found.best(network, name), arrays[f"{network}-{name}-best.npy"])
    assert name_preferred_file("joint", "trunk.relu1", "best") == "joint-trunk.relu1-best.npy"


def test_layers_need_not_be_read_to_be_listed(tmp_path: Path) -> None:
    directory, arrays = made(tmp_path / "set")
    for file in arrays:
        (directory / file).unlink()
    assert PreferredSet.open(directory).layers("joint") == ["trunk.relu1", "branches.identity.relu2"]


def changed(**values: Any) -> Callable[[Path], object]:
    """Change the head, with a right digest."""

    def change(directory: Path) -> None:
        write_document(directory / HEADER_FILE, read_document(directory / HEADER_FILE, remedy="") | values)

    return change


REMADE = "Remove the directory: `facespec repro` makes it again."


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: (d / HEADER_FILE).unlink(),
            "{d}: no preferred stimuli here (no preferred.json in it). `dvc repro preferred` makes them.",
        ),
        (changed(version=1), "{d}/preferred.json: version: Input should be 2. Make the preferred stimuli again."),
        (
            changed(channels=2),
            "{d}/preferred.json: channels: Input should be 1 or 3. Make the preferred stimuli again.",
        ),
        (
            changed(layers={"SPLIT": []}),
            "{d}/preferred.json: layers.SPLIT.[key]: Input should be 'expression', "
            "'identity' or 'joint'. Make the preferred stimuli again.",
        ),
        (
            lambda d: (d / HEADER_FILE).write_text("[]"),
            "{d}/preferred.json: expected a JSON object, got a list. Make it again.",
        ),
        (
            lambda d: (d / HEADER_FILE).write_text((d / HEADER_FILE).read_text().replace('"seed": 8', '"seed": 9')),
            "{d}/preferred.json: not the content that was written there: altered or damaged. " + REMADE,
        ),
        (
            lambda d: (d / HEADER_FILE).write_text("{"),
            "{d}/preferred.json: not a valid JSON file (Expecting property name "
            "enclosed in double quotes: line 1 column 2 (char 1)). It may be truncated: make it again.",
        ),
    ],
)
def test_another_head_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    directory, _ = made(tmp_path / "set")
    spoil(directory)
    with pytest.raises(StudyError) as caught:
        PreferredSet.open(directory)
    assert str(caught.value) == message.format(d=directory)


def test_unknown_networks_and_layers_are_refused(tmp_path: Path) -> None:
    directory, _ = made(tmp_path / "set")
    found = PreferredSet.open(directory)
    with pytest.raises(StudyError) as caught:
        found.layers("identity")
    assert str(caught.value) == (
        f"{directory}: no preferred stimuli of network 'identity': Allowed: 'expression', 'joint'."
    )
    with pytest.raises(StudyError) as caught:
        found.best("expression", "trunk.conv2")
    assert str(caught.value) == (
        f"{directory}: no preferred stimuli of layer 'trunk.conv2': did you mean 'trunk.relu2'? Allowed: "
        "'trunk.relu1', 'trunk.relu2'."
    )


BEST, OPTIMISED = "expression-trunk.relu1-best.npy", "expression-trunk.relu1-optimised.npy"
AGAIN = "Make it again."
CHANGED = f"not the bytes that were written there: altered, cut or damaged. {REMADE}"


@pytest.mark.parametrize(
    ("file", "array", "problem"),
    [
        (BEST, np.zeros((3, 6, 5)), f"float64 of shape (3, 6, 5), expected uint8 (3, 6, 5). {AGAIN}"),
        (BEST, np.zeros((3, 5, 6), np.uint8), f"uint8 of shape (3, 5, 6), expected uint8 (3, 6, 5). {AGAIN}"),
        (
            OPTIMISED,
            np.zeros((4, 7, 7), np.float32),
            f"float32 of shape (4, 7, 7), expected float32 (3, 7, 7). {AGAIN}",
        ),
        (
            OPTIMISED,
            np.zeros((3, 7, 7, 3), np.float32),
            f"float32 of shape (3, 7, 7, 3), expected float32 (3, 7, 7). {AGAIN}",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, file: str, array: np.ndarray, problem: str) -> None:
    directory, _ = made(tmp_path / "set")
    np.save(directory / file, array)
    changed(digests=digests(directory))(directory)
    found = PreferredSet.open(directory)
    with pytest.raises(StudyError) as caught:
        (found.best if file == BEST else found.optimised)("expression", "trunk.relu1")
    assert str(caught.value) == f"{directory / file}: {problem}"


def test_absent_and_damaged_arrays_are_named(tmp_path: Path) -> None:
    directory, _ = made(tmp_path / "set")
    found = PreferredSet.open(directory)
    (directory / BEST).unlink()
    with pytest.raises(StudyError) as caught:
        found.best("expression", "trunk.relu1")
    assert str(caught.value) == f"{directory / BEST}: no such file. {REMADE}"
    (directory / OPTIMISED).write_bytes((directory / OPTIMISED).read_bytes()[:-9])
    with pytest.raises(StudyError) as caught:
        found.optimised("expression", "trunk.relu1")
    assert str(caught.value) == f"{directory / OPTIMISED}: {CHANGED}"
    changed(digests=digests(directory))(directory)
    with pytest.raises(StudyError) as caught:
        PreferredSet.open(directory).optimised("expression", "trunk.relu1")
    assert str(caught.value).startswith(f"{directory / OPTIMISED}: not a readable array (")
    assert str(caught.value).endswith(REMADE)


@pytest.mark.parametrize("what", ["best", "optimised"])
def test_exchanged_arrays_of_two_layers_or_networks_are_refused(tmp_path: Path, what: str) -> None:
    """Of layers with the same number of units, so that shapes agree."""
    layers = {network: [("trunk.relu1", 1, 3), ("trunk.relu2", 2, 3)] for network in ("expression", "joint")}
    for number, other in enumerate(("expression-trunk.relu2", "joint-trunk.relu1")):
        directory, _ = made(tmp_path / f"{number}", layers=layers)
        one, two = directory / f"expression-trunk.relu1-{what}.npy", directory / f"{other}-{what}.npy"
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        with pytest.raises(StudyError) as caught:
            getattr(PreferredSet.open(directory), what)("expression", "trunk.relu1")
        assert str(caught.value) == f"{one}: {CHANGED}"
