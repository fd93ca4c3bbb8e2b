"""A FaceSet keeps every pixel and label, is written whole or not at all, and does not depend on how it was fed."""

from __future__ import annotations

import hashlib
import itertools
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

CODES = {"none": 0, "eyes": 3, "mouth": 7}
N = 11  # images, in shards of 4: the last shard is short
GREY, RGB = (17, 11), (17, 11, 3)


def labelled(n: int = N) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "stimulus": [f"face {i}" for i in range(n)],
            "split": ["train", "test"] * (n // 2) + ["probe"] * (n % 2),
            "identity": [f"NA{i % 3}" if i else "NA" for i in range(n)],
            "expression": ["happy", "", "sad"] * (n // 3) + [""] * (n % 3),
            "view": "straight",
            "session": "",
        }
    )


def pictures(shape: tuple[int, ...], n: int = N) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(7)).integers(0, 256, (n, *shape), dtype=np.uint8)


def maps(n: int = N) -> np.ndarray:
    codes = np.array(list(CODES.values()), dtype=np.uint8)
    return codes[np.random.Generator(np.random.PCG64(8)).integers(0, 3, (n, *GREY))]


def cut(shape: tuple[int, ...], bounds: Iterable[int], *, regions: bool) -> Iterator[FaceChunk]:
    """All images, a chunk between every two of `bounds`."""
    edges = [0, *sorted(bounds), N]
    for start, stop in itertools.pairwise(edges):
        rows = slice(start, stop)
        own = labelled().iloc[rows].reset_index(drop=True)
        yield FaceChunk(pictures(shape)[rows], own, maps()[rows] if regions else None)


def described(*, regions: bool, size: int = 4, **changes: Any) -> FaceSetDescription:
    given = {
        "role": "probe",
        "shard_size": size,
        "region_codes": CODES if regions else None,
        "provenance": {"source": "embedded faces", "excluded": []},
    }
    return FaceSetDescription(**(given | changes))


def write(directory: Path, shape: tuple[int, ...] = GREY, *, regions: bool = False) -> FaceSet:
    return write_faceset(directory, cut(shape, [4, 6], regions=regions), described(regions=regions))


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("shape", [GREY, RGB])
def test_everything_comes_back(tmp_path: Path, shape: tuple[int, ...], regions: bool) -> None:
    write(tmp_path / "faces", shape, regions=regions)
    faces = FaceSet.open(tmp_path / "faces")
    assert (faces.n, len(faces), faces.role, faces.height, faces.width) == (N, N, "probe", 17, 11)
    assert (faces.channels, faces.source) == (3 if shape == RGB else 1, "embedded faces")
    assert faces.provenance == {"source": "embedded faces", "excluded": []}
    assert faces.region_codes == (CODES if regions else {})
    pd.testing.assert_frame_equal(faces.labels, labelled())
    order = np.array([10, 0, 7, 7, 3, 4])
    np.testing.assert_array_equal(faces.images(order), pictures(shape)[order], strict=True)
    if regions:
        np.testing.assert_array_equal(faces.regions(order), maps()[order], strict=True)


def test_the_files_are_what_numpy_would_write(tmp_path: Path) -> None:
    """Anybody can read a FaceSet without this package: shards are plain `.npy` files, byte for byte."""
    write(tmp_path / "faces", RGB, regions=True)
    for kind, array in (("images", pictures(RGB)), ("regions", maps())):
        for number, start in enumerate((0, 4, 8)):
            np.save(tmp_path / "numpy.npy", array[start : start + 4])
            assert (tmp_path / "faces" / f"{kind}-0000{number}.npy").read_bytes() == (
                tmp_path / "numpy.npy"
            ).read_bytes()
    assert sorted(content(tmp_path / "faces")) == [
        "faceset.json",
        "images-00000.npy",
        "images-00001.npy",
        "images-00002.npy",
        "images-digests.npy",
        "labels.csv",
        "regions-00000.npy",
        "regions-00001.npy",
        "regions-00002.npy",
        "regions-digests.npy",
    ]


@pytest.mark.parametrize("shape", [GREY, RGB])
def test_digests_are_those_of_each_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """The first half of the SHA-256 of its bytes, row by row."""
    write(tmp_path / "faces", shape, regions=True)
    for kind, array in (("images", pictures(shape)), ("regions", maps())):
        digests = np.load(tmp_path / "faces" / f"{kind}-digests.npy")
        assert digests.dtype == np.uint8 and digests.shape == (N, 16)
        assert [row.tobytes() for row in digests] == [hashlib.sha256(row.tobytes()).digest()[:16] for row in array]


def test_faces_without_regions_say_so(tmp_path: Path) -> None:
    faces = write(tmp_path / "faces")
    with pytest.raises(StudyError) as caught:
        faces.regions(np.array([0]))
    assert str(caught.value) == (
        f"{tmp_path}/faces: these faces (embedded faces) have no region maps; only embedded faces have them."
    )


@settings(deadline=None, max_examples=25)
@given(bounds=st.lists(st.integers(0, N), max_size=6), regions=st.booleans(), shape=st.sampled_from([GREY, RGB]))
def test_files_do_not_depend_on_how_chunks_were_cut(bounds: list[int], regions: bool, shape: tuple[int, ...]) -> None:
    """Empty chunks, chunks of one image and chunks across shards all give the bytes of a single chunk."""
    with tempfile.TemporaryDirectory() as folder:
        write_faceset(Path(folder) / "cut", cut(shape, bounds, regions=regions), described(regions=regions))
        write_faceset(Path(folder) / "whole", cut(shape, [], regions=regions), described(regions=regions))
        assert content(Path(folder) / "cut") == content(Path(folder) / "whole")


def test_provenance_may_be_known_only_after_the_last_chunk(tmp_path: Path) -> None:
    seen: list[int] = []

    def counting() -> Iterator[FaceChunk]:
        for chunk in cut(GREY, [5], regions=False):
            seen.append(len(chunk.labels))
            yield chunk

    late = described(regions=False, provenance=lambda: {"source": "FER2013", "counts": list(seen)})
    assert write_faceset(tmp_path / "faces", counting(), late).provenance == {"source": "FER2013", "counts": [5, 6]}


def test_names_survive_commas_quotes_and_foreign_letters(tmp_path: Path) -> None:
    labels = labelled(3)
    labels["stimulus"] = ['a,"b"', " ß 顔 ", "nan"]
    write_faceset(tmp_path / "x", [FaceChunk(pictures(GREY, 3), labels)], described(regions=False))
    assert FaceSet.open(tmp_path / "x").labels["stimulus"].tolist() == ['a,"b"', " ß 顔 ", "nan"]


def chunk(**changes: Any) -> FaceChunk:
    return FaceChunk(**({"images": pictures(GREY, 3), "labels": labelled(3), "regions": None} | changes))


def named(column: str, value: Any) -> pd.DataFrame:
    labels = labelled(3)
    labels.loc[1, column] = value
    return labels


REFUSED = {
    "no chunk at all": ([], {}, "no images: a set of faces holds at least one."),
    "only empty chunks": (
        [chunk(images=pictures(GREY, 0), labels=labelled(0))],
        {},
        "no images: a set of faces holds at least one.",
    ),
    "two channels": (
        [chunk(images=pictures((17, 11, 2), 3))],
        {},
        "images of shape (17, 11, 2), allowed: (height, width) grey or (height, width, 3) RGB.",
    ),
    "no picture": (
        [chunk(images=pictures((17,), 3))],
        {},
        "images of shape (17,), allowed: (height, width) grey or (height, width, 3) RGB.",
    ),
    "floats": (
        [chunk(images=pictures(GREY, 3) / 255)],
        {},
        "images are float64 (3, 17, 11), expected uint8 (3, 17, 11) for 3 labels.",
    ),
    "more labels than images": (
        [chunk(images=pictures(GREY, 2))],
        {},
        "images are uint8 (2, 17, 11), expected uint8 (3, 17, 11) for 3 labels.",
    ),
    "another size later": (
        [chunk(), chunk(images=pictures((11, 17), 3))],
        {},
        "images are uint8 (3, 11, 17), expected uint8 (3, 17, 11) for 3 labels.",
    ),
    "another mode later": (
        [chunk(), chunk(images=pictures(RGB, 3))],
        {},
        "images are uint8 (3, 17, 11, 3), expected uint8 (3, 17, 11) for 3 labels.",
    ),
    "regions without codes": (
        [chunk(regions=maps(3))],
        {},
        "region maps and region codes come together or not at all.",
    ),
    "codes without regions": (
        [chunk()],
        {"region_codes": CODES},
        "region maps and region codes come together or not at all.",
    ),
    "regions of another size": (
        [chunk(regions=maps(3)[:, 1:])],
        {"region_codes": CODES},
        "regions are uint8 (3, 16, 11), expected uint8 (3, 17, 11).",
    ),
    "regions of another type": (
        [chunk(regions=maps(3).astype(np.int64))],
        {"region_codes": CODES},
        "regions are int64 (3, 17, 11), expected uint8 (3, 17, 11).",
    ),
    "a region without a name": (
        [chunk(regions=np.full((3, *GREY), 9, np.uint8))],
        {"region_codes": CODES},
        "regions hold [9], which the region codes {'none': 0, 'eyes': 3, 'mouth': 7} do not name.",
    ),
    "an unknown expression": (
        [chunk(labels=named("expression", "bored"))],
        {},
        "table 'labels', column 'expression', row 1: got 'bored', allowed: one of ['angry', 'disgust', 'fear', "
        "'happy', 'neutral', 'sad', 'surprise'].",
    ),
    "a repeated name": (
        [chunk(labels=named("stimulus", "face 2"))],
        {},
        "DIR/labels.csv: stimulus 'face 2' appears more than once.",
    ),
    "a repeated name in the next chunk": (
        [chunk(), chunk()],
        {},
        "DIR/labels.csv: stimulus 'face 0' appears more than once.",
    ),
    "a name that would break the table": (
        [chunk(labels=named("stimulus", "a\rb"))],
        {},
        "stimulus 'a\\rb' holds a control character or an undecodable byte. Rename it.",
    ),
    "a name that is no text": (
        [chunk(labels=named("identity", "a\udcffb"))],
        {},
        "identity 'a\\udcffb' holds a control character or an undecodable byte. Rename it.",
    ),
    "an unknown role": (
        [chunk()],
        {"role": "probes"},
        "DIR/faceset.json: role: got 'probes'. Input should be 'expression', 'identity' or 'probe'.",
    ),
    "no source": (
        [chunk()],
        {"provenance": {}},
        "DIR/faceset.json: provenance: expected a text 'source' in it, got {}.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_the_earlier_set_stays(tmp_path: Path, case: str) -> None:
    chunks, changes, wanted = REFUSED[case]
    write(tmp_path / "faces")
    before = content(tmp_path / "faces")
    with pytest.raises(StudyError) as caught:
        write_faceset(tmp_path / "faces", chunks, described(**({"regions": False} | changes)))
    assert str(caught.value).replace(str(tmp_path / "faces"), "DIR") == wanted
    assert content(tmp_path / "faces") == before
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_shards_of_no_images_are_refused() -> None:
    assert described(regions=False, size=1).shard_size == 1
    with pytest.raises(StudyError) as caught:
        described(regions=False, size=0)
    assert str(caught.value) == "shards of 0 images, allowed: 1 or more."


def test_a_new_set_replaces_the_earlier_one_entirely(tmp_path: Path) -> None:
    write(tmp_path / "faces", regions=True)
    write_faceset(tmp_path / "faces", [chunk()], described(regions=False))
    assert FaceSet.open(tmp_path / "faces").n == 3
    assert sorted(content(tmp_path / "faces")) == [
        "faceset.json",
        "images-00000.npy",
        "images-digests.npy",
        "labels.csv",
    ]


def test_labels_are_kept_in_the_schemas_order(tmp_path: Path) -> None:
    reversed_columns = labelled(3)[list(LABELS.columns)[::-1]]
    faces = write_faceset(tmp_path / "faces", [chunk(labels=reversed_columns)], described(regions=False))
    assert list(faces.labels) == list(LABELS.columns)
