"""A damaged FaceSet is refused when it is opened, with a message that names the file and says what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.study.artefacts import read_document, write_document
from facespec.study.errors import StudyError
from facespec.study.vocabulary import Role

Damage = Callable[[Path], Any]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Seven grey faces of 17x11 px with regions, in shards of three."""
    make(tmp_path / "faces")
    return tmp_path / "faces"


def make(directory: Path) -> None:
    labels = pd.DataFrame(
        {
            "stimulus": list("abcdefg"),
            "split": "train",
            "identity": "p",
            "expression": "happy",
            "view": "straight",
            "session": "A",
        }
    )
    images = np.arange(7 * 17 * 11, dtype=np.int64).astype(np.uint8).reshape(7, 17, 11)
    chunk = FaceChunk(images, labels, images % 2)
    write_faceset(
        directory, [chunk], FaceSetDescription("probe", 3, {"none": 0, "face": 1}, {"source": "embedded faces"})
    )


def head(**changes: Any) -> Damage:
    """Change (or with ``...`` remove) entries of `faceset.json`, with a right digest."""

    def damage(directory: Path) -> None:
        values = read_document(directory / "faceset.json", remedy="") | changes
        left = {key: value for key, value in values.items() if value is not ...}
        write_document(directory / "faceset.json", left)

    return damage


def honest(damage: Damage) -> Damage:
    """Damage files, and record the digests that they have then."""

    def change(directory: Path) -> None:
        damage(directory)
        recorded = read_document(directory / "faceset.json", remedy="")["digests"]
        digests = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in recorded}
        head(digests=digests)(directory)

    return change


def text(name: str, content: str) -> Damage:
    return lambda directory: (directory / name).write_text(content)


def replaced(name: str, old: str, new: str) -> Damage:
    def damage(directory: Path) -> None:
        before = (directory / name).read_text()
        assert old in before
        (directory / name).write_text(before.replace(old, new, 1))

    return damage


def shard(name: str, array: np.ndarray) -> Damage:
    return lambda directory: np.save(directory / name, array)


def resized(name: str, by: int) -> Damage:
    def damage(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[:by] if by < 0 else content + b"x" * by)

    return damage


def gone(name: str) -> Damage:
    return lambda directory: (directory / name).unlink()


def exchange(first: str, second: str) -> Damage:
    def damage(directory: Path) -> None:
        (directory / first).rename(directory / "aside")
        (directory / second).rename(directory / first)
        (directory / "aside").rename(directory / second)

    return damage


CHANGED = "not the bytes that were written there: altered, cut or damaged. Make the faces again."
# a shard of three images has 128 + 3 * 17 * 11 = 689 bytes
AGAIN = "Make the faces again."
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no description": (
        gone("faceset.json"),
        "DIR: no faces here (no faceset.json in it). `facespec data build` makes them.",
    ),
    "description cut short": (
        text("faceset.json", '{"n": 7'),
        "DIR/faceset.json: not a valid JSON file (Expecting ',' delimiter: line 1 column 8 (char 7)). It may be "
        "truncated: make it again.",
    ),
    "description of nothing": (
        text("faceset.json", "7"),
        "DIR/faceset.json: expected a JSON object, got a number. Make it again.",
    ),
    "a changed description": (
        replaced("faceset.json", '"source": "embedded faces"', '"source": "FER2013"'),
        "DIR/faceset.json: not the content that was written there: altered or damaged. Make the faces again.",
    ),
    "another version": (head(version=1), "DIR/faceset.json: version: got 1. Input should be 2."),
    "lacks a key": (head(role=...), "DIR/faceset.json: role: missing. Make the faces again."),
    "unknown key": (
        head(hieght=3),
        "DIR/faceset.json: unknown key 'hieght': did you mean 'height'? Allowed: 'version', 'role', 'height', "
        "'width', 'channels', 'n', 'shard_size', 'regions', 'provenance', 'digests'.",
    ),
    "n is no number": (head(n="7"), "DIR/faceset.json: n: got '7'. Input should be a valid integer."),
    "no images": (head(n=0), "DIR/faceset.json: n: got 0. Input should be greater than or equal to 1."),
    "two channels": (head(channels=2), "DIR/faceset.json: channels: got 2. Input should be 1 or 3."),
    "two regions of one code": (
        head(regions={"a": 1, "b": 1}),
        "DIR/faceset.json: regions: expected null or names with distinct codes, got {'a': 1, 'b': 1}.",
    ),
    "regions without names": (
        head(regions={}),
        "DIR/faceset.json: regions: expected null or names with distinct codes, got {}.",
    ),
    "code beyond a byte": (
        head(regions={"a": 256}),
        "DIR/faceset.json: regions.a: got 256. Input should be less than or equal to 255.",
    ),
    "no source": (
        head(provenance={"source": 1}),
        "DIR/faceset.json: provenance: expected a text 'source' in it, got {'source': 1}.",
    ),
    "no labels": (gone("labels.csv"), "DIR/labels.csv: no such file. Make the faces again."),
    "labels of nobody": (head(digests={}), f"DIR/labels.csv: {CHANGED}"),
    "labels cut at a line end": (
        replaced("labels.csv", "g,train,p,happy,straight,A\n", ""),
        f"DIR/labels.csv: {CHANGED}",
    ),
    "another label": (replaced("labels.csv", "c,train,p,happy", "c,train,p,sad"), f"DIR/labels.csv: {CHANGED}"),
    "digests gone": (gone("regions-digests.npy"), "DIR/regions-digests.npy: no such file. Make the faces again."),
    "digests exchanged": (exchange("images-digests.npy", "regions-digests.npy"), f"DIR/images-digests.npy: {CHANGED}"),
    "digests cut": (resized("images-digests.npy", -16), f"DIR/images-digests.npy: {CHANGED}"),
    "digests of fewer images": (
        honest(shard("images-digests.npy", np.zeros((6, 16), np.uint8))),
        "DIR/images-digests.npy: holds uint8 (6, 16), expected uint8 (7, 16). Make the faces again.",
    ),
    "a row too few": (
        honest(replaced("labels.csv", "g,train,p,happy,straight,A\n", "")),
        "DIR/labels.csv: 6 rows for 7 images. Make the faces again.",
    ),
    "more rows than images": (head(n=6), "DIR/labels.csv: 7 rows for 6 images. Make the faces again."),
    "repeated stimulus": (
        honest(replaced("labels.csv", "\ng,", "\nb,")),
        "DIR/labels.csv: stimulus 'b' appears more than once.",
    ),
    "unknown column": (
        honest(replaced("labels.csv", "session", "sesion")),
        "DIR/labels.csv: table 'labels' lacks column 'session'; it has ['stimulus', 'split', 'identity', "
        "'expression', 'view', 'sesion'].",
    ),
    "superfluous column": (
        honest(replaced("labels.csv", "session\n", "session,sex\n")),
        "DIR/labels.csv: table 'labels': unknown column 'sex'; Allowed: 'stimulus', 'split', 'identity', "
        "'expression', 'view', 'session'.",
    ),
    "unknown value": (
        honest(replaced("labels.csv", "c,train", "c,trian")),
        "DIR/labels.csv: table 'labels', column 'split', row 2: got 'trian', allowed: one of ['train', 'test', "
        "'probe'].",
    ),
    "shard gone": (gone("images-00001.npy"), "DIR/images-00001.npy: no such file. Make the faces again."),
    "regions gone": (gone("regions-00002.npy"), "DIR/regions-00002.npy: no such file. Make the faces again."),
    "shard cut short": (
        resized("images-00000.npy", -1),
        "DIR/images-00000.npy: 688 bytes instead of 689. Make the faces again.",
    ),
    "shard too long": (
        resized("images-00000.npy", 1),
        "DIR/images-00000.npy: 690 bytes instead of 689. Make the faces again.",
    ),
    "regions cut short": (
        resized("regions-00001.npy", -17),
        "DIR/regions-00001.npy: 672 bytes instead of 689. Make the faces again.",
    ),
    "no numpy file": (
        text("images-00002.npy", "hello, this is no numpy file"),
        "DIR/images-00002.npy: not a numpy file (the magic string is not correct; expected b'\\x93NUMPY', got "
        "b'hello,'). Make the faces again.",
    ),
    "empty file": (
        text("images-00002.npy", ""),
        "DIR/images-00002.npy: not a numpy file (EOF: reading magic string, expected 8 bytes got 0). Make the faces "
        "again.",
    ),
    "another type": (
        shard("images-00000.npy", np.zeros((3, 17, 11), np.int8)),
        "DIR/images-00000.npy: holds int8 (3, 17, 11), expected uint8 (3, 17, 11). Make the faces again.",
    ),
    "another size": (
        shard("images-00000.npy", np.zeros((3, 11, 17), np.uint8)),
        "DIR/images-00000.npy: holds uint8 (3, 11, 17), expected uint8 (3, 17, 11). Make the faces again.",
    ),
    "too many in the last": (
        shard("images-00002.npy", np.zeros((3, 17, 11), np.uint8)),
        "DIR/images-00002.npy: holds uint8 (3, 17, 11), expected uint8 (1, 17, 11). Make the faces again.",
    ),
    "columns first": (
        shard("images-00000.npy", np.zeros((3, 17, 11), np.uint8, order="F")),
        "DIR/images-00000.npy: holds uint8 (3, 17, 11), columns first, expected uint8 (3, 17, 11). Make the faces "
        "again.",
    ),
    "a shard too many": (
        shard("images-00003.npy", np.zeros((1, 17, 11), np.uint8)),
        "DIR/images-00003.npy: does not belong to this set of faces. Make the faces again.",
    ),
    "regions that nobody names": (
        head(regions=None),
        "DIR/regions-00000.npy: does not belong to this set of faces. Make the faces again.",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named(directory: Path, case: str) -> None:
    damage, wanted = DAMAGES[case]
    FaceSet.open(directory)
    damage(directory)
    with pytest.raises(StudyError) as caught:
        FaceSet.open(directory)
    assert str(caught.value).replace(str(directory), "DIR") == wanted


@settings(deadline=None, max_examples=60)
@given(position=st.integers(0, 127), byte=st.integers(0, 255))
def test_a_damaged_header_never_passes_for_another_array(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    """One wrong byte is either refused as a `StudyError`, or changes nothing about the array that is read."""
    directory = tmp_path_factory.getbasetemp() / "headers"
    if not directory.exists():
        make(directory)
    path = directory / "images-00000.npy"
    whole = path.read_bytes()
    before = FaceSet.open(directory).images(np.arange(7))
    try:
        path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
        np.testing.assert_array_equal(FaceSet.open(directory).images(np.arange(7)), before)
    except StudyError as error:
        assert str(error).startswith(f"{path}: ")
        assert str(error).endswith(AGAIN)
    finally:
        path.write_bytes(whole)


def test_nothing_is_read_from_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        FaceSet.open(tmp_path / "faces")
    assert str(caught.value) == (
        f"{tmp_path}/faces: no faces here (no faceset.json in it). `facespec data build` makes them."
    )


@pytest.mark.parametrize("kind", ["images", "regions"])
def test_rows_that_were_not_written_there_are_refused_when_they_are_read(directory: Path, kind: str) -> None:
    """Altered or exchanged, within a file and between files; rows that were not touched are read."""
    path = directory / f"{kind}-00001.npy"
    whole = path.read_bytes()
    shown = getattr(FaceSet.open(directory), kind)(np.arange(7))
    for row in (0, 2):
        changed = np.load(path)
        changed[row, 16, 10] ^= 1
        np.save(path, changed)
        faces = FaceSet.open(directory)
        with pytest.raises(StudyError) as caught:
            getattr(faces, kind)(np.arange(7))
        assert str(caught.value) == (f"{path}: row {row} is not what was written there: altered or damaged. {AGAIN}")
        others = np.delete(np.arange(7), 3 + row)
        np.testing.assert_array_equal(getattr(faces, kind)(others), shown[others])
        with pytest.raises(StudyError):
            getattr(faces, kind)(np.array([3 + row]))
        path.write_bytes(whole)
    exchange(f"{kind}-00000.npy", f"{kind}-00001.npy")(directory)
    with pytest.raises(StudyError, match=f"{kind}-00000.npy: row 0 is not what was written there"):
        getattr(FaceSet.open(directory), kind)(np.arange(7))


def test_faces_of_another_role_are_refused(directory: Path) -> None:
    assert FaceSet.open(directory, role="probe").role == "probe"
    with pytest.raises(StudyError) as caught:
        FaceSet.open(directory, role=Role.IDENTITY)
    assert str(caught.value) == f"{directory}: faces of the probe role, expected those of the identity role. {AGAIN}"
