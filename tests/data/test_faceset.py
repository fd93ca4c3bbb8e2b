"""A FaceSet keeps every pixel and label, is written completely or not at all, and does not depend on its chunks."""

from __future__ import annotations

import hashlib
import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.study.errors import StudyError
from facespec.study.tables import LABELS

CODES = {"none": 0, "eyes": 3, "mouth": 255}
N = 11  # images, in shards of 4: the last shard is short
GREY, RGB = (17, 11), (17, 11, 3)


def make_labels(n: int = N) -> pd.DataFrame:
    columns = {
        "stimulus": [f"face {i}" for i in range(n)],
        "split": ["train", "test"] * (n // 2) + ["probe"] * (n % 2),
        "identity": [f"NA{i % 3}" if i else "NA" for i in range(n)],
        "expression": ["happy", "", "sad"] * (n // 3) + [""] * (n % 3),
    }
    return pd.DataFrame(columns).assign(view="straight", session="")


def make_images(shape: tuple[int, ...], n: int = N) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(7)).integers(0, 256, (n, *shape), dtype=np.uint8)


def make_maps(n: int = N) -> np.ndarray:
    codes = np.array(list(CODES.values()), dtype=np.uint8)
    return codes[np.random.Generator(np.random.PCG64(8)).integers(0, 3, (n, *GREY))]


def make_chunk(**changes: Any) -> FaceChunk:
    return FaceChunk(**({"images": make_images(GREY, 3), "labels": make_labels(3), "regions": None} | changes))


def cut_chunks(shape: tuple[int, ...], bounds: Iterable[int], *, regions: bool) -> Iterator[FaceChunk]:
    """All images, a chunk between every two of `bounds`."""
    for start, stop in itertools.pairwise([0, *sorted(bounds), N]):
        rows = slice(start, stop)
        labels = make_labels().iloc[rows].reset_index(drop=True)
        yield FaceChunk(make_images(shape)[rows], labels, make_maps()[rows] if regions else None)


def describe(*, regions: bool = False, size: int = 4, **changes: Any) -> FaceSetDescription:
    provenance = {"source": "embedded faces", "excluded": []}
    values = {"role": "probe", "region_codes": CODES if regions else None, "provenance": provenance}
    return FaceSetDescription(**(values | {"shard_size": size} | changes))


def write(
    directory: Path, shape: tuple[int, ...] = GREY, *, regions: bool = False, bounds: Iterable[int] = (4, 6)
) -> FaceSet:
    return write_faceset(directory, cut_chunks(shape, bounds, regions=regions), describe(regions=regions))


def read_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("shape", [GREY, RGB])
def test_everything_is_read_back(tmp_path: Path, shape: tuple[int, ...], regions: bool) -> None:
    write(tmp_path / "faces", shape, regions=regions)
    faces = FaceSet.open(tmp_path / "faces")
    assert (faces.n, len(faces), faces.role, faces.height, faces.width) == (N, N, "probe", 17, 11)
    assert (faces.channels, faces.source) == (3 if shape == RGB else 1, "embedded faces")
    assert faces.provenance == {"source": "embedded faces", "excluded": []}
    assert faces.region_codes == (CODES if regions else {})
    pd.testing.assert_frame_equal(faces.labels, make_labels())
    order = np.array([10, 0, 7, 7, 3, 4])
    np.testing.assert_array_equal(faces.images(order), make_images(shape)[order], strict=True)
    if regions:
        np.testing.assert_array_equal(faces.regions(order), make_maps()[order], strict=True)
    else:
        with pytest.raises(StudyError, match=r"\(embedded faces\) have no region maps; only embedded faces have them"):
            faces.regions(order)


@pytest.mark.parametrize("shape", [GREY, RGB])
def test_files_are_those_of_numpy_with_digests_of_every_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A FaceSet can be read without this package; digests are the first half of the SHA-256 of each row."""
    write(tmp_path / "faces", shape, regions=True)
    content = read_bytes(tmp_path / "faces")
    for kind, array in (("images", make_images(shape)), ("regions", make_maps())):
        for number, start in enumerate((0, 4, 8)):
            np.save(tmp_path / "numpy.npy", array[start : start + 4])
            assert content.pop(f"{kind}-0000{number}.npy") == (tmp_path / "numpy.npy").read_bytes()
        digests = np.load(tmp_path / "faces" / f"{kind}-digests.npy")
        assert digests.dtype == np.uint8 and digests.shape == (N, 16)
        assert [row.tobytes() for row in digests] == [hashlib.sha256(row.tobytes()).digest()[:16] for row in array]
    assert sorted(content) == ["faceset.json", "images-digests.npy", "labels.csv", "regions-digests.npy"]


@settings(max_examples=10)
@given(bounds=st.lists(st.integers(0, N), max_size=6), regions=st.booleans(), shape=st.sampled_from([GREY, RGB]))
def test_files_do_not_depend_on_how_chunks_were_cut(bounds: list[int], regions: bool, shape: tuple[int, ...]) -> None:
    """Empty chunks, chunks of one image and chunks across shards all give the bytes of a single chunk."""
    with tempfile.TemporaryDirectory() as directory:
        cut = write(Path(directory) / "cut", shape, regions=regions, bounds=bounds)
        whole = write(Path(directory) / "whole", shape, regions=regions, bounds=[])
        assert read_bytes(cut.directory) == read_bytes(whole.directory)


def test_provenance_is_evaluated_after_the_last_chunk(tmp_path: Path) -> None:
    lengths: list[int] = []

    def iterate_and_count() -> Iterator[FaceChunk]:
        for chunk in cut_chunks(GREY, [5], regions=False):
            lengths.append(len(chunk.labels))
            yield chunk

    description = describe(provenance=lambda: {"source": "FER2013", "counts": list(lengths)})
    faces = write_faceset(tmp_path / "faces", iterate_and_count(), description)
    assert faces.provenance == {"source": "FER2013", "counts": [5, 6]}


def test_names_and_columns_of_labels(tmp_path: Path) -> None:
    """Any text without control characters; columns in any order come back in that of the schema."""
    labels = make_labels(3).assign(stimulus=['Zo\u00eb O\'Brien,"b"~', " \u00df \u9854 ", "nan"])
    reverse = labels[list(LABELS.columns)[::-1]]
    faces = write_faceset(tmp_path / "faces", [make_chunk(labels=reverse)], describe())
    pd.testing.assert_frame_equal(faces.labels, labels[list(LABELS.columns)])


def change_label(column: str, value: Any) -> pd.DataFrame:
    labels = make_labels(3)
    labels.loc[1, column] = value
    return labels


TOGETHER = "region maps and region codes come together or not at all."
REFUSED: list[tuple[list[FaceChunk], dict[str, Any], str]] = [
    ([], {}, "no images: a set of faces holds at least one."),
    ([make_chunk(images=make_images(GREY, 0), labels=make_labels(0))], {}, "no images: a set of faces holds at"),
    (
        [make_chunk(images=make_images((17, 11, 2), 3))],
        {},
        "images of shape (17, 11, 2), allowed: (height, width)",
    ),
    ([make_chunk(images=make_images((17,), 3))], {}, "images of shape (17,), allowed: (height, width)"),
    ([make_chunk(images=make_images(GREY, 3) / 255)], {}, "images are float64 (3, 17, 11), expected uint8"),
    ([make_chunk(images=make_images(GREY, 2))], {}, "images are uint8 (2, 17, 11), expected uint8 (3, 17, 11) for 3"),
    ([make_chunk(), make_chunk(images=make_images((11, 17), 3))], {}, "images are uint8 (3, 11, 17), expected uint8"),
    ([make_chunk(), make_chunk(images=make_images(RGB, 3))], {}, "images are uint8 (3, 17, 11, 3), expected uint8"),
    ([make_chunk(regions=make_maps(3))], {}, TOGETHER),
    ([make_chunk()], {"region_codes": CODES}, TOGETHER),
    (
        [make_chunk(regions=make_maps(3)[:, 1:])],
        {"region_codes": CODES},
        "regions are uint8 (3, 16, 11), expected",
    ),
    (
        [make_chunk(regions=make_maps(3).astype(np.int64))],
        {"region_codes": CODES},
        "regions are int64 (3, 17, 11)",
    ),
    (
        [make_chunk(regions=np.full((3, *GREY), 9, np.uint8))],
        {"region_codes": CODES},
        "regions hold [9], which",
    ),
    ([make_chunk(labels=change_label("expression", "bored"))], {}, "column 'expression', row 1: got 'bored', allowed:"),
    (
        [make_chunk(labels=change_label("stimulus", "face 2"))],
        {},
        "labels.csv: stimulus 'face 2' appears more",
    ),
    ([make_chunk(), make_chunk()], {}, "labels.csv: stimulus 'face 0' appears more than once."),
    *(
        (
            [make_chunk(labels=change_label(column, text))],
            {},
            f"{column} {text!r} holds a control character",
        )
        for column, text in (("stimulus", "a\rb"), ("identity", "a\udcffb"), ("session", "\x00"), ("identity", "\x7f"))
    ),
    (
        [make_chunk()],
        {"role": "probes"},
        "faceset.json: role: got 'probes'. Input should be 'expression',",
    ),
    ([make_chunk()], {"provenance": {}}, "faceset.json: provenance: expected a text 'source' in it, got {}."),
]


@pytest.mark.parametrize(("chunks", "changes", "fragment"), REFUSED)
def test_invalid_faces_are_refused_and_the_earlier_set_is_unchanged(
    tmp_path: Path, chunks: list[FaceChunk], changes: dict[str, Any], fragment: str
) -> None:
    write(tmp_path / "faces")
    before = read_bytes(tmp_path / "faces")
    with pytest.raises(StudyError, match=re.escape(fragment)):
        write_faceset(tmp_path / "faces", chunks, describe(**changes))
    assert read_bytes(tmp_path / "faces") == before
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_shards_of_no_images_are_refused() -> None:
    assert describe(size=1).shard_size == 1
    with pytest.raises(StudyError, match=r"^shards of 0 images, allowed: 1 or more\.$"):
        describe(size=0)


def test_a_new_set_replaces_the_earlier_one_entirely(tmp_path: Path) -> None:
    write(tmp_path / "faces", regions=True)
    assert write_faceset(tmp_path / "faces", [make_chunk()], describe()).n == 3
    names = ["faceset.json", "images-00000.npy", "images-digests.npy", "labels.csv"]
    assert sorted(read_bytes(tmp_path / "faces")) == names
