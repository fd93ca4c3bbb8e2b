"""Heatmaps on disk, scaled and upsampled: against torch, by hand, and refused by name if damaged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn import functional

from facespec.study.artefacts import write_document
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet, PersonMaps, name_map_file, scale_maps, upsample_maps
from facespec.study.vocabulary import PAIRS, Network, Task
from toys import edit_header, record_digests


def draw_noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).random(shape)


SIDE = st.integers(1, 9)


@given(SIDE, SIDE, st.integers(1, 40), st.integers(1, 40))
def test_upsampling_equals_torch(rows: int, columns: int, height: int, width: int) -> None:
    """Any two sizes, smaller ones included; close, as both round in float64."""
    maps = draw_noise(2, 3, rows, columns)
    expected = functional.interpolate(torch.from_numpy(maps), (height, width), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(upsample_maps(maps, (height, width)), expected.numpy(), rtol=1e-12, atol=1e-14)


def test_upsampling_by_hand() -> None:
    """Cells 0 and 4 are two pixels wide: centres at 1/2 and 5/2 px; edge values continue."""
    assert upsample_maps(np.array([[0.0, 4.0]]), (1, 4)).tolist() == [[0, 1, 3, 4]]
    assert upsample_maps(np.array([[3.0]]), (2, 3)).tolist() == [[3, 3, 3], [3, 3, 3]]
    maps = draw_noise(5, 7)
    np.testing.assert_array_equal(upsample_maps(maps, (5, 7)), maps)


def test_scaling_by_hand() -> None:
    maps = np.array([[[2, 4, 6]], [[-1, 0, 1]], [[0, 0, 0]], [[7, 7, 7]]], dtype=np.float32)
    scaled = scale_maps(maps)
    assert scaled.dtype == np.float64
    np.testing.assert_array_equal(scaled, [[[0, 0.5, 1]], [[0, 0.5, 1]], [[np.nan] * 3], [[np.nan] * 3]])
    assert scale_maps(np.zeros((0, 3, 5))).shape == (0, 3, 5)


def test_a_map_with_infinite_values_is_refused() -> None:
    with pytest.raises(StudyError, match=r"not finite.*Train it again\."):
        scale_maps(np.array([[[0.0, np.inf]]]))


SHAPE = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


@given(arrays.arrays(np.float32, SHAPE, elements=st.floats(0, 2**40, width=32)))
def test_scaled_maps_range_from_0_to_1_in_any_unit(maps: np.ndarray) -> None:
    """A factor that is a power of two keeps all bits, and each map is scaled by itself."""
    scaled = scale_maps(maps)
    for map_, scaled_map in zip(maps, scaled, strict=True):
        if map_.min() == map_.max():
            assert np.isnan(scaled_map).all()
        else:
            assert (scaled_map.min(), scaled_map.max()) == (0, 1)
        np.testing.assert_array_equal(scale_maps(map_[None])[0], scaled_map)
    np.testing.assert_array_equal(scale_maps(maps.astype(np.float64) * 2.0**-30), scaled)


def make_person_maps(total: np.ndarray, count: np.ndarray) -> PersonMaps:
    people = tuple(f"p{i}" for i in range(total.shape[2]))
    return PersonMaps(total, count, seeds=tuple(range(total.shape[1])), people=people, size=(9, 7), source="toy")


def test_means_by_hand() -> None:
    """Four pairs, one seed, three people with 2, 0 and 4 maps of 1x2 cells; pair p adds p to every map.

    Over images, (2, 4) of two and (0, 20) of four make (2, 24) / 6; drawn twice and once, (4, 28) / 8.
    """
    total = np.zeros((6, 1, 3, 1, 2))
    for pair in range(6):
        total[pair, 0, :, 0] = [[2 + 2 * pair, 4 + 2 * pair], [0, 0], [4 * pair, 20 + 4 * pair]]
    maps = make_person_maps(total, np.tile([2, 0, 4], (6, 1, 1)))
    person_means, means = maps.person_means(), maps.means()
    assert person_means.shape == (6, 1, 3, 1, 2) and means.shape == (6, 1, 1, 2)
    for pair in range(6):
        expected = [[1 + pair, 2 + pair], [np.nan] * 2, [pair, 5 + pair]]
        np.testing.assert_array_equal(person_means[pair, 0, :, 0], expected)
        np.testing.assert_allclose(means[pair, 0, 0], [2 / 6 + pair, 4 + pair])
    np.testing.assert_allclose(maps.means(np.array([2, 5, 1]))[3, 0, 0], [4 / 8 + 3, 28 / 8 + 3])
    np.testing.assert_array_equal(maps.means(np.array([0, 3, 0])), np.full((6, 1, 1, 2), np.nan))


def test_a_weight_of_two_equals_a_repeated_person() -> None:
    total, count = draw_noise(6, 2, 3, 3, 5), np.arange(1, 37).reshape(6, 2, 3)
    expected = make_person_maps(total[:, :, [0, 2, 2]], count[:, :, [0, 2, 2]]).means()
    np.testing.assert_allclose(make_person_maps(total, count).means(np.array([1, 0, 2])), expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("total", "count"), [((6, 2, 2, 3, 5), (6, 2, 3)), ((6, 2, 3, 3), (6, 2, 3)), ((6, 2, 3, 3, 5), (6, 3, 2))]
)
def test_sums_of_other_shapes_are_refused(total: tuple[int, ...], count: tuple[int, ...]) -> None:
    with pytest.raises(StudyError, match=re.escape(f"totals {total} and counts {count}, expected (6, 2, 3) first")):
        PersonMaps(np.zeros(total), np.zeros(count, np.int64), (1, 2), ("a", "b", "c"), size=(9, 7), source="toy")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of two images, one seed, 3x5 cells."""
    directory = tmp_path_factory.mktemp("maps") / "heatmaps"
    directory.mkdir()
    labels = pd.DataFrame({"stimulus": ["a", "b"], "split": "probe", "identity": ["x", "y"]})
    labels.assign(expression="sad", view="straight", session="A").to_csv(directory / "labels.csv", index=False)
    np.save(directory / "mean_face.npy", draw_noise(9, 7))
    for position, (network, task) in enumerate(PAIRS):
        np.save(directory / f"{network}-{task}-8.npy", draw_noise(2, 3, 5, seed=position).astype(np.float32))
    np.save(directory / "joint-identity-9.npy", draw_noise(2, 3, 5, seed=9).astype(np.float32))
    header = {"version": 2, "source": "toy faces", "height": 9, "width": 7, "n": 2, "seeds": [8, 9]}
    header |= {"target": "labelled", "layers": {"joint-identity": "trunk.relu2"}}
    write_document(directory / "heatmaps.json", header)
    record_digests(directory / "heatmaps.json")
    return directory


def test_a_map_set_is_read_as_it_was_written(written: Path) -> None:
    maps = MapSet.open(written)
    assert (maps.source, maps.seeds, maps.size, maps.header.n) == ("toy faces", (8, 9), (9, 7), 2)
    assert maps.labels["identity"].tolist() == ["x", "y"] and maps.header.layers == {"joint-identity": "trunk.relu2"}
    for position, (network, task) in enumerate(PAIRS):
        expected = draw_noise(2, 3, 5, seed=position).astype(np.float32)
        np.testing.assert_array_equal(maps.maps(network, task, 8), expected)
        np.testing.assert_array_equal(maps.maps(network.value, task.value, 8), expected)
    assert name_map_file(Network.JOINT, Task.IDENTITY, 8) == "joint-identity-8.npy"
    np.testing.assert_array_equal(maps.mean_face, draw_noise(9, 7))


HEADER, MAPS = "heatmaps.json", "joint-identity-8.npy"
Spoil = Callable[[Path], object]


def exchange(other: str) -> Spoil:
    def spoil(directory: Path) -> None:
        (directory / MAPS).rename(directory / "x")
        (directory / other).rename(directory / MAPS)
        (directory / "x").rename(directory / other)

    return spoil


def save(array: np.ndarray) -> Spoil:
    return lambda directory: np.save(directory / MAPS, array)


def drop_a_row(directory: Path) -> None:
    lines = (directory / "labels.csv").read_text().splitlines(keepends=True)
    (directory / "labels.csv").write_text("".join(lines[:-1]))


CHANGED = "not the bytes that were written there"
DAMAGE: dict[str, tuple[Spoil, str]] = {
    "no header": (lambda d: (d / HEADER).unlink(), "no heatmaps here (no heatmaps.json in it). `dvc repro heatmaps`"),
    "old version": (
        lambda d: edit_header(d / HEADER, version=1),
        f"{HEADER}: version: Input should be 2. Make the heatm",
    ),
    "more images": (lambda d: edit_header(d / HEADER, n=3), "labels.csv: 2 rows for 3 images. Make them again."),
    "no labels": (lambda d: (d / "labels.csv").unlink(), "labels.csv: no such file. Remove the directory"),
    "a row missing": (drop_a_row, f"labels.csv: {CHANGED}"),
    "no digests": (lambda d: edit_header(d / HEADER, digests={}), f"labels.csv: {CHANGED}"),
    "no maps": (lambda d: (d / MAPS).unlink(), f"{MAPS}: no such file. Remove the directory"),
    "another network": (exchange("identity-identity-8.npy"), f"{MAPS}: {CHANGED}"),
    "another task": (exchange("joint-expression-8.npy"), f"{MAPS}: {CHANGED}"),
    "another seed": (exchange("joint-identity-9.npy"), f"{MAPS}: {CHANGED}"),
}
RECORDED_DAMAGE: dict[str, tuple[Spoil, str]] = {
    "a row missing": (drop_a_row, "labels.csv: 1 rows for 2 images. Make them again."),
    "too few": (
        save(np.zeros((1, 3, 5), "f4")),
        f"{MAPS}: float32 of shape (1, 3, 5), expected float32 (2, h, w). Make",
    ),
    "flat": (
        save(np.zeros((2, 15), "f4")),
        f"{MAPS}: float32 of shape (2, 15), expected float32 (2, h, w). Make it again",
    ),
    "float64": (
        save(np.zeros((2, 3, 5))),
        f"{MAPS}: float64 of shape (2, 3, 5), expected float32 (2, h, w). Make it ag",
    ),
    "cut": (lambda d: (d / MAPS).write_bytes((d / MAPS).read_bytes()[:-7]), f"{MAPS}: not a readable array ("),
    "empty": (lambda d: (d / MAPS).write_bytes(b""), f"{MAPS}: not a readable array ("),
    "objects": (save(np.array([{}], dtype=object)), f"{MAPS}: not a readable array ("),  # pickled: reading runs code
}


CASES = [(case, False) for case in DAMAGE] + [(case, True) for case in RECORDED_DAMAGE]


@pytest.mark.parametrize(("case", "recorded"), CASES)
def test_damage_is_refused_by_name(written: Path, tmp_path: Path, case: str, recorded: bool) -> None:
    """Also if the header records the digests of the damaged files."""
    spoil, message = (RECORDED_DAMAGE if recorded else DAMAGE)[case]
    directory = tmp_path / "heatmaps"
    shutil.copytree(written, directory)
    spoil(directory)
    if recorded:
        record_digests(directory / HEADER)
    with pytest.raises(StudyError, match=re.escape(message)):
        MapSet.open(directory).maps("joint", "identity", 8)


def test_another_mean_face_is_refused(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "heatmaps")
    np.save(tmp_path / "heatmaps" / "mean_face.npy", draw_noise(9, 7, seed=2))
    with pytest.raises(StudyError, match=rf"mean_face\.npy: {CHANGED}"):
        _ = MapSet.open(tmp_path / "heatmaps").mean_face
