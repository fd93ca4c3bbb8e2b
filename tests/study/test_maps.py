"""Heatmaps on disk, scaled and enlarged: against torch, by hand, and refused by name where damaged."""

from __future__ import annotations

import hashlib
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

from facespec.study.artefacts import read_document, write_document
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet, PersonMaps, name_map_file, scale_maps, upsample_maps
from facespec.study.vocabulary import PAIRS, Network, Task


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).random(shape)


SIDE = st.integers(1, 9)


@given(SIDE, SIDE, st.integers(1, 40), st.integers(1, 40))
def test_enlarged_as_torch_does_it(rows: int, columns: int, height: int, width: int) -> None:
    """Any two sizes, smaller ones included; close, as both round in float64."""
    maps = noise(2, 3, rows, columns)
    wanted = functional.interpolate(
        torch.from_numpy(maps), size=(height, width), mode="bilinear", align_corners=False
    ).numpy()
    got = upsample_maps(maps, (height, width))
    assert got.shape == (2, 3, height, width)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


def test_enlarged_by_hand() -> None:
    """Cells 0 and 4 wide two pixels each: centres at 1/2 and 5/2 px, edges go on."""
    assert upsample_maps(np.array([[0.0, 4.0]]), (1, 4)).tolist() == [[0, 1, 3, 4]]
    assert upsample_maps(np.array([[3.0]]), (2, 3)).tolist() == [[3, 3, 3], [3, 3, 3]]
    maps = noise(5, 7)
    np.testing.assert_array_equal(upsample_maps(maps, (5, 7)), maps)


def test_enlarging_is_linear() -> None:
    """So that means may be enlarged instead of maps."""
    maps = noise(6, 3, 5)
    np.testing.assert_allclose(upsample_maps(maps, (17, 11)).mean(axis=0), upsample_maps(maps.mean(axis=0), (17, 11)))


def test_enlarged_maps_stay_within_their_range_and_constants_are_kept() -> None:
    maps = upsample_maps(noise(4, 3, 5), (17, 11))
    assert maps.min() >= noise(4, 3, 5).min() - 1e-15 and maps.max() <= noise(4, 3, 5).max() + 1e-15
    np.testing.assert_allclose(upsample_maps(np.full((3, 5), 0.3), (17, 11)), 0.3, rtol=1e-14)


def test_scaled_by_hand() -> None:
    maps = np.array([[[2, 4, 6]], [[-1, 0, 1]], [[0, 0, 0]], [[7, 7, 7]]], dtype=np.float32)
    got = scale_maps(maps)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, [[[0, 0.5, 1]], [[0, 0.5, 1]], [[np.nan] * 3], [[np.nan] * 3]])
    assert scale_maps(np.zeros((0, 3, 5))).shape == (0, 3, 5)


SHAPE = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
finite = arrays.arrays(np.float32, SHAPE, elements=st.floats(0, 2**40, width=32))


@given(finite)
def test_scaled_maps_reach_from_nought_to_one_whatever_their_units(maps: np.ndarray) -> None:
    """Maps in other units (a power of two keeps all bits) are the same maps; neighbours do not matter."""
    got = scale_maps(maps)
    for own, given_ in zip(got, maps, strict=True):
        if given_.min() == given_.max():
            assert np.isnan(own).all()
        else:
            assert (own.min(), own.max()) == (0, 1)
        np.testing.assert_array_equal(scale_maps(given_[None])[0], own)
    np.testing.assert_array_equal(scale_maps(maps.astype(np.float64) * 2.0**-30), got)


def people(total: np.ndarray, count: np.ndarray) -> PersonMaps:
    names = tuple(f"p{i}" for i in range(total.shape[2]))
    return PersonMaps(total, count, seeds=tuple(range(total.shape[1])), people=names, size=(9, 7), source="toy")


def toy() -> PersonMaps:
    """Four pairs, one seed, three people with 2, 0 and 4 maps of 1x2 cells; pair p adds p to every map."""
    total = np.zeros((4, 1, 3, 1, 2))
    count = np.tile([2, 0, 4], (4, 1, 1))
    for pair in range(4):
        total[pair, 0, :, 0] = [[2 + 2 * pair, 4 + 2 * pair], [0, 0], [4 * pair, 20 + 4 * pair]]
    return people(total, count)


def test_means_of_people_by_hand() -> None:
    means = toy().person_means()
    assert means.shape == (4, 1, 3, 1, 2)
    for pair in range(4):
        np.testing.assert_array_equal(means[pair, 0, :, 0], [[1 + pair, 2 + pair], [np.nan] * 2, [pair, 5 + pair]])


def test_means_over_images_by_hand() -> None:
    """Images count alike: (2, 4) of two and (0, 20) of four make (2, 24) / 6; drawn twice and once, (4, 28) / 8."""
    means = toy().means()
    assert means.shape == (4, 1, 1, 2)
    for pair in range(4):
        np.testing.assert_allclose(means[pair, 0, 0], [2 / 6 + pair, 4 + pair])
    twice = toy().means(np.array([2, 5, 1]))
    np.testing.assert_allclose(twice[3, 0, 0], [4 / 8 + 3, 28 / 8 + 3])
    np.testing.assert_array_equal(toy().means(np.array([0, 3, 0])), np.full((4, 1, 1, 2), np.nan))


def test_drawing_a_person_twice_is_having_them_twice() -> None:
    total, count = noise(4, 2, 3, 3, 5), np.arange(1, 25).reshape(4, 2, 3)
    drawn = [0, 2, 2]
    want = people(total[:, :, drawn], count[:, :, drawn]).means()
    np.testing.assert_allclose(people(total, count).means(np.array([1, 0, 2])), want, rtol=1e-13)


def test_people_and_sums_must_fit() -> None:
    good = {"seeds": (1, 2), "people": ("a", "b", "c"), "size": (9, 7), "source": "toy"}
    for total, count in (((4, 2, 2, 3, 5), (4, 2, 3)), ((4, 2, 3, 3), (4, 2, 3)), ((4, 2, 3, 3, 5), (4, 3, 2))):
        with pytest.raises(StudyError) as caught:
            PersonMaps(np.zeros(total), np.zeros(count, dtype=np.int64), **good)
        assert str(caught.value) == f"maps of people: totals {total} and counts {count}, expected (4, 2, 3) first."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of two images, one seed, 3x5 cells; written without the code under test."""
    directory = tmp_path_factory.mktemp("maps") / "heatmaps"
    directory.mkdir()
    labels = pd.DataFrame({"stimulus": ["a", "b"], "split": "probe", "identity": ["x", "y"]})
    labels.assign(expression="sad", view="straight", session="A").to_csv(directory / "labels.csv", index=False)
    np.save(directory / "mean_face.npy", noise(9, 7))
    for position, (network, task) in enumerate(PAIRS):
        np.save(directory / f"{network}-{task}-8.npy", noise(2, 3, 5, seed=position).astype(np.float32))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    head = {
        "version": 2,
        "source": "toy faces",
        "height": 9,
        "width": 7,
        "n": 2,
        "seeds": [8],
        "target": "labelled",
        "layers": {"joint-identity": "trunk.relu2"},
        "digests": digests,
    }
    write_document(directory / "heatmaps.json", head)
    return directory


def test_what_was_written_is_read(made: Path) -> None:
    maps = MapSet.open(made)
    assert (maps.source, maps.seeds, maps.size, maps.head.n) == ("toy faces", (8,), (9, 7), 2)
    assert maps.labels["identity"].tolist() == ["x", "y"] and maps.head.layers == {"joint-identity": "trunk.relu2"}
    for position, (network, task) in enumerate(PAIRS):
        own = noise(2, 3, 5, seed=position).astype(np.float32)
        for names in ((network, task), (network.value, task.value)):
            np.testing.assert_array_equal(maps.maps(*names, 8), own)
    assert name_map_file(Network.JOINT, Task.IDENTITY, 8) == "joint-identity-8.npy"
    np.testing.assert_array_equal(maps.mean_face, noise(9, 7))


def edit(**changes: object) -> Callable[[Path], None]:
    """Change the head, with a right digest."""

    def do(directory: Path) -> None:
        head = read_document(directory / "heatmaps.json", remedy="") | changes
        write_document(directory / "heatmaps.json", head)

    return do


def honest(do: Callable[[Path], object]) -> Callable[[Path], None]:
    """Damage files, and record the digests that they have then."""

    def damage(directory: Path) -> None:
        do(directory)
        files = [path for path in directory.iterdir() if path.name != "heatmaps.json"]
        edit(digests={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})(directory)

    return damage


def saved(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda directory: np.save(directory / name, array)


def cut(directory: Path) -> None:
    path = directory / "joint-identity-8.npy"
    path.write_bytes(path.read_bytes()[:-7])


def exchange(first: str, second: str) -> Callable[[Path], None]:
    def do(directory: Path) -> None:
        (directory / first).rename(directory / "aside")
        (directory / second).rename(directory / first)
        (directory / "aside").rename(directory / second)

    return do


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def do(directory: Path) -> None:
        before = (directory / name).read_text()
        assert old in before
        (directory / name).write_text(before.replace(old, new))

    return do


IDENTITY = "DIR/joint-identity-8.npy"
AGAIN = "Remove the directory: `facespec repro` makes it again."
CHANGED = f"not the bytes that were written there: altered, cut or damaged. {AGAIN}"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no head": (
        lambda d: (d / "heatmaps.json").unlink(),
        "DIR: no heatmaps here (no heatmaps.json in it). `dvc repro heatmaps` makes them.",
    ),
    "half a head": (
        lambda d: (d / "heatmaps.json").write_text("{"),
        "DIR/heatmaps.json: not a valid JSON file (Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)). It may be truncated: make it again.",
    ),
    "another version": (edit(version=1), "DIR/heatmaps.json: version: Input should be 2. Make the heatmaps again."),
    "another target": (
        edit(target="guessed"),
        "DIR/heatmaps.json: target: Input should be 'labelled' or 'predicted'. Make the heatmaps again.",
    ),
    "no list": (
        lambda d: (d / "heatmaps.json").write_text("[]"),
        "DIR/heatmaps.json: expected a JSON object, got a list. Make it again.",
    ),
    "no digest": (
        lambda d: (d / "heatmaps.json").write_text('{"version": 2}'),
        f"DIR/heatmaps.json: a JSON object with a digest of its content is expected here. {AGAIN}",
    ),
    "a changed head": (
        replaced("heatmaps.json", '"n": 2', '"n": 3'),
        f"DIR/heatmaps.json: not the content that was written there: altered or damaged. {AGAIN}",
    ),
    "images missing": (edit(n=3), "DIR/labels.csv: 2 rows for 3 images. Make them again."),
    "no labels": (lambda d: (d / "labels.csv").unlink(), f"DIR/labels.csv: no such file. {AGAIN}"),
    "other labels": (replaced("labels.csv", "sad", "happy"), f"DIR/labels.csv: {CHANGED}"),
    "labels cut at a line end": (
        replaced("labels.csv", "b,probe,y,sad,straight,A\n", ""),
        f"DIR/labels.csv: {CHANGED}",
    ),
    "a label too few": (
        honest(replaced("labels.csv", "b,probe,y,sad,straight,A\n", "")),
        "DIR/labels.csv: 1 rows for 2 images. Make them again.",
    ),
    "no maps": (lambda d: (d / "joint-identity-8.npy").unlink(), f"{IDENTITY}: no such file. {AGAIN}"),
    "maps nobody recorded": (edit(digests={}), f"DIR/labels.csv: {CHANGED}"),
    "maps of another network": (exchange("joint-identity-8.npy", "identity-identity-8.npy"), f"{IDENTITY}: {CHANGED}"),
    "maps of another task": (exchange("joint-identity-8.npy", "joint-expression-8.npy"), f"{IDENTITY}: {CHANGED}"),
    "other maps": (saved("joint-identity-8.npy", noise(2, 3, 5, seed=9).astype(np.float32)), f"{IDENTITY}: {CHANGED}"),
    "too few maps": (
        honest(saved("joint-identity-8.npy", np.zeros((1, 3, 5), np.float32))),
        f"{IDENTITY}: float32 of shape (1, 3, 5), expected float32 (2, h, w). Make it again.",
    ),
    "flat maps": (
        honest(saved("joint-identity-8.npy", np.zeros((2, 15), np.float32))),
        f"{IDENTITY}: float32 of shape (2, 15), expected float32 (2, h, w). Make it again.",
    ),
    "other numbers": (
        honest(saved("joint-identity-8.npy", np.zeros((2, 3, 5)))),
        f"{IDENTITY}: float64 of shape (2, 3, 5), expected float32 (2, h, w). Make it again.",
    ),
}


def refusal(directory: Path) -> str:
    with pytest.raises(StudyError) as caught:
        MapSet.open(directory).maps("joint", "identity", 8)
    return str(caught.value).replace(str(directory), "DIR")


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_by_name(made: Path, tmp_path: Path, case: str) -> None:
    do, wanted = DAMAGE[case]
    shutil.copytree(made, tmp_path / "heatmaps")
    do(tmp_path / "heatmaps")
    assert refusal(tmp_path / "heatmaps") == wanted


@pytest.mark.parametrize(
    "do",
    [
        cut,
        lambda d: (d / "joint-identity-8.npy").write_bytes(b""),
        saved("joint-identity-8.npy", np.array([{}], dtype=object)),
    ],
    ids=["cut", "empty", "objects"],
)
def test_an_array_that_cannot_be_read_is_refused_by_name(made: Path, tmp_path: Path, do: Callable[..., None]) -> None:
    """Numpy's own words stand in brackets; objects, which would run code, are never read."""
    shutil.copytree(made, tmp_path / "heatmaps")
    do(tmp_path / "heatmaps")
    assert refusal(tmp_path / "heatmaps") == f"{IDENTITY}: {CHANGED}"
    honest(do)(tmp_path / "heatmaps")
    message = refusal(tmp_path / "heatmaps")
    assert message.startswith(f"{IDENTITY}: not a readable array (") and message.endswith(AGAIN)


def test_maps_of_another_seed_are_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "heatmaps")
    np.save(tmp_path / "heatmaps" / "joint-identity-9.npy", noise(2, 3, 5, seed=9).astype(np.float32))
    honest(edit(seeds=[8, 9]))(tmp_path / "heatmaps")
    exchange("joint-identity-8.npy", "joint-identity-9.npy")(tmp_path / "heatmaps")
    assert refusal(tmp_path / "heatmaps") == f"{IDENTITY}: {CHANGED}"


def test_another_mean_face_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "heatmaps")
    np.save(tmp_path / "heatmaps" / "mean_face.npy", noise(9, 7, seed=2))
    with pytest.raises(StudyError) as caught:
        _ = MapSet.open(tmp_path / "heatmaps").mean_face
    assert str(caught.value) == f"{tmp_path}/heatmaps/mean_face.npy: {CHANGED}"
