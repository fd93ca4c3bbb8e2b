"""A damaged FaceSet is refused when it is opened or read, with a message that names the file and a remedy."""

from __future__ import annotations

import hashlib
import re
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
    write(tmp_path / "faces")
    return tmp_path / "faces"


def write(directory: Path) -> None:
    labels = pd.DataFrame({"stimulus": list("abcdefg"), "split": "train", "identity": "p", "expression": "happy"})
    images = np.arange(7 * 17 * 11, dtype=np.int64).astype(np.uint8).reshape(7, 17, 11)
    chunk = FaceChunk(images, labels.assign(view="straight", session="A"), images % 2)
    description = FaceSetDescription("probe", 3, {"none": 0, "face": 1}, {"source": "embedded faces"})
    write_faceset(directory, [chunk], description)


def change_header(**changes: Any) -> Damage:
    """Change (or with ``...`` remove) entries of `faceset.json`, with a right digest."""

    def damage(directory: Path) -> None:
        values = read_document(directory / "faceset.json", remedy="") | changes
        write_document(directory / "faceset.json", {key: value for key, value in values.items() if value is not ...})

    return damage


def renew_digests(damage: Damage) -> Damage:
    """Damage files, and record the digests that they have then."""

    def damage_and_record(directory: Path) -> None:
        damage(directory)
        recorded = read_document(directory / "faceset.json", remedy="")["digests"]
        digests = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in recorded}
        change_header(digests=digests)(directory)

    return damage_and_record


def write_text(name: str, content: str) -> Damage:
    return lambda directory: (directory / name).write_text(content)


def replace_text(name: str, old: str, new: str) -> Damage:
    def damage(directory: Path) -> None:
        before = (directory / name).read_text()
        assert old in before
        (directory / name).write_text(before.replace(old, new, 1))

    return damage


def save(name: str, array: np.ndarray) -> Damage:
    return lambda directory: np.save(directory / name, array)


def resize(name: str, by: int) -> Damage:
    def damage(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[:by] if by < 0 else content + b"x" * by)

    return damage


def remove(name: str) -> Damage:
    return lambda directory: (directory / name).unlink()


def exchange(first: str, second: str) -> Damage:
    def damage(directory: Path) -> None:
        content = (directory / first).read_bytes()
        (directory / second).rename(directory / first)
        (directory / second).write_bytes(content)

    return damage


CHANGED = "not the bytes that were written there: altered, cut or damaged. Make the faces again."
AGAIN = "Make the faces again."
ROW = "g,train,p,happy,straight,A\n"
ZEROS = np.zeros((3, 17, 11), np.uint8)
# fragments of the messages; a shard of three images has 128 + 3 * 17 * 11 = 689 bytes
DAMAGES: list[tuple[Damage, str]] = [
    (remove("faceset.json"), "DIR: no faces here (no faceset.json in it). `facespec data build` makes them."),
    (write_text("faceset.json", '{"n": 7'), "DIR/faceset.json: not a valid JSON file (Expecting ',' delimiter: line 1"),
    (write_text("faceset.json", "7"), "DIR/faceset.json: expected a JSON object, got a number. Make it again."),
    (replace_text("faceset.json", '"embedded faces"', '"KDEF"'), "DIR/faceset.json: not the content that was written"),
    (change_header(version=1), "DIR/faceset.json: version: got 1. Input should be 2."),
    (change_header(role=...), f"DIR/faceset.json: role: missing. {AGAIN}"),
    (
        change_header(hieght=3),
        "DIR/faceset.json: unknown key 'hieght': did you mean 'height'? Allowed: 'version', ",
    ),
    (change_header(n="7"), "DIR/faceset.json: n: got '7'. Input should be a valid integer."),
    (change_header(n=0), "DIR/faceset.json: n: got 0. Input should be greater than or equal to 1."),
    (change_header(channels=2), "DIR/faceset.json: channels: got 2. Input should be 1 or 3."),
    (
        change_header(regions={"a": 1, "b": 1}),
        "DIR/faceset.json: regions: expected null or names with distinct codes, got {'a': 1, 'b': 1}.",
    ),
    (change_header(regions={}), "DIR/faceset.json: regions: expected null or names with distinct codes, got {}."),
    (change_header(regions={"a": 256}), "DIR/faceset.json: regions.a: got 256. Input should be less"),
    (change_header(provenance={"source": 1}), "DIR/faceset.json: provenance: expected a text 'source' in it, got {"),
    (remove("labels.csv"), f"DIR/labels.csv: no such file. {AGAIN}"),
    (change_header(digests={}), f"DIR/labels.csv: {CHANGED}"),
    (replace_text("labels.csv", ROW, ""), f"DIR/labels.csv: {CHANGED}"),
    (replace_text("labels.csv", "c,train,p,happy", "c,train,p,sad"), f"DIR/labels.csv: {CHANGED}"),
    (remove("regions-digests.npy"), f"DIR/regions-digests.npy: no such file. {AGAIN}"),
    (exchange("images-digests.npy", "regions-digests.npy"), f"DIR/images-digests.npy: {CHANGED}"),
    (resize("images-digests.npy", -16), f"DIR/images-digests.npy: {CHANGED}"),
    (
        renew_digests(save("images-digests.npy", np.zeros((6, 16), np.uint8))),
        f"DIR/images-digests.npy: holds uint8 (6, 16), expected uint8 (7, 16). {AGAIN}",
    ),
    (renew_digests(replace_text("labels.csv", ROW, "")), f"DIR/labels.csv: 6 rows for 7 images. {AGAIN}"),
    (change_header(n=6), f"DIR/labels.csv: 7 rows for 6 images. {AGAIN}"),
    (renew_digests(replace_text("labels.csv", "\ng,", "\nb,")), "DIR/labels.csv: stimulus 'b' appears more than once."),
    (
        renew_digests(replace_text("labels.csv", "session", "sesion")),
        "DIR/labels.csv: table 'labels' lacks column 'session'; it has ['stimulus', 'split', 'identity', ",
    ),
    (
        renew_digests(replace_text("labels.csv", "session\n", "session,sex\n")),
        "DIR/labels.csv: table 'labels': unknown column 'sex'; Allowed: 'stimulus', 'split', 'identity', ",
    ),
    (
        renew_digests(replace_text("labels.csv", "c,train", "c,trian")),
        "DIR/labels.csv: table 'labels', column 'split', row 2: got 'trian', allowed: one of ['train', 'test', ",
    ),
    (remove("images-00001.npy"), f"DIR/images-00001.npy: no such file. {AGAIN}"),
    (remove("regions-00002.npy"), f"DIR/regions-00002.npy: no such file. {AGAIN}"),
    (resize("images-00000.npy", -1), f"DIR/images-00000.npy: 688 bytes instead of 689. {AGAIN}"),
    (resize("images-00000.npy", 1), f"DIR/images-00000.npy: 690 bytes instead of 689. {AGAIN}"),
    (resize("regions-00001.npy", -17), f"DIR/regions-00001.npy: 672 bytes instead of 689. {AGAIN}"),
    (
        write_text("images-00002.npy", "hello, no numpy file"),
        "DIR/images-00002.npy: not a numpy file (the magic",
    ),
    (
        write_text("images-00002.npy", ""),
        "DIR/images-00002.npy: not a numpy file (EOF: reading magic",
    ),
    (
        save("images-00000.npy", ZEROS.view(np.int8)),
        "DIR/images-00000.npy: holds int8 (3, 17, 11), expected uint8",
    ),
    (
        save("images-00000.npy", ZEROS.transpose(0, 2, 1).copy()),
        f"DIR/images-00000.npy: holds uint8 (3, 11, 17), expected uint8 (3, 17, 11). {AGAIN}",
    ),
    (save("images-00002.npy", ZEROS), "DIR/images-00002.npy: holds uint8 (3, 17, 11), expected uint8 (1, 17, 11)."),
    (
        save("images-00000.npy", np.asfortranarray(ZEROS)),
        "DIR/images-00000.npy: holds uint8 (3, 17, 11), columns first, expected uint8 (3, 17, 11).",
    ),
    (save("images-00003.npy", ZEROS[:1]), f"DIR/images-00003.npy: does not belong to this set of faces. {AGAIN}"),
    (change_header(regions=None), f"DIR/regions-00000.npy: does not belong to this set of faces. {AGAIN}"),
]


@pytest.mark.parametrize(("damage", "fragment"), DAMAGES)
def test_a_damaged_file_is_named(directory: Path, damage: Damage, fragment: str) -> None:
    damage(directory)
    with pytest.raises(StudyError, match=re.escape(fragment.replace("DIR", str(directory)))):
        FaceSet.open(directory)


@settings(max_examples=40)
@given(position=st.integers(0, 127), byte=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    """One wrong byte is either refused as a `StudyError`, or changes nothing about the array that is read."""
    directory = tmp_path_factory.getbasetemp() / "headers"
    if not directory.exists():
        write(directory)
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


@pytest.mark.parametrize("kind", ["images", "regions"])
def test_rows_that_were_not_written_there_are_refused_when_they_are_read(directory: Path, kind: str) -> None:
    """Altered or exchanged, within a file and between files; the other rows can be read."""
    path = directory / f"{kind}-00001.npy"
    whole = path.read_bytes()
    original = getattr(FaceSet.open(directory), kind)(np.arange(7))
    for row in (0, 2):
        changed = np.load(path)
        changed[row, 16, 10] ^= 1
        np.save(path, changed)
        faces = FaceSet.open(directory)
        others = np.delete(np.arange(7), 3 + row)
        refusal = re.escape(f"{path}: row {row} is not what was written there: altered or damaged. {AGAIN}")
        with pytest.raises(StudyError, match=refusal):
            getattr(faces, kind)(np.arange(7))
        np.testing.assert_array_equal(getattr(faces, kind)(others), original[others])
        with pytest.raises(StudyError, match=refusal):
            getattr(faces, kind)(np.array([3 + row]))
        with pytest.raises(StudyError, match=refusal):
            FaceSet.open(directory).check_pixels()
        path.write_bytes(whole)
    exchange(f"{kind}-00000.npy", f"{kind}-00001.npy")(directory)
    with pytest.raises(StudyError, match=f"{kind}-00000.npy: row 0 is not what was written there"):
        getattr(FaceSet.open(directory), kind)(np.arange(7))


def test_faces_of_another_role_are_refused(directory: Path) -> None:
    assert FaceSet.open(directory, role="probe").role == "probe"
    with pytest.raises(StudyError, match=rf"faces of the probe role, expected those of the identity role\. {AGAIN}"):
        FaceSet.open(directory, role=Role.IDENTITY)
