"""The heatmap files of the original study: names, keys, shapes, colours, and refusal of damaged files."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.published.export import check_heatmap_results, colour_map, export_heatmaps, read_heatmap_results
from facespec.study.errors import StudyError
from facespec.study.examples import Example
from facespec.study.pickles import write_pickle
from facespec.study.tables import HEATMAPS

# spelled out, with the original's capitals: other programs read these keys
KEYS = {
    "Fig2A_dict.pickle": ["avg_img", "SPLIT Expression", "exp", "SPLIT id", "id"],
    "Fig2B_dict.pickle": ["SPLIT expression", "exp", "SPLIT id", "id"],
    "Fig2C_dict.pickle": ["avg_img", "SPLIT expression", "SPLIT id"],
}
A, B, C, D = *KEYS, "Fig2D_dict.pickle"
PAIRS = {
    "split expression": ("joint", "expression"),
    "exp": ("expression", "expression"),
    "split id": ("joint", "identity"),
    "id": ("identity", "identity"),
}
SIZE, CELLS = (7, 5), (3, 2)
RANDOM = np.random.Generator(np.random.PCG64(4))
MAPS = {(*pair, seed): RANDOM.random(CELLS) for pair in PAIRS.values() for seed in (7, 3)}
FACE = RANDOM.uniform(0, 255, (*SIZE, 3))
NAME = "BF01-happy-straight"
EXAMPLES = {
    name: Example(RANDOM.integers(256, size=SIZE, dtype=np.uint8), RANDOM.random(CELLS), RANDOM.random(CELLS))
    for name in ("BF00-happy-straight", NAME)
}


def make_rows(pair_and_seed: tuple[str, str, int], values: np.ndarray, **other: Any) -> pd.DataFrame:
    row, column = np.indices(values.shape)
    labels = dict(zip(("trained_on", "tested_on", "seed"), pair_and_seed, strict=True))
    labels |= {"source": "embedded faces", "layer": "trunk.relu4", "expression": "all", "scale": "scaled"}
    numbers = {"row": row.ravel(), "column": column.ravel(), "n": 9, "blank": 0, "mean": values.ravel(), "sd": 0.1}
    return pd.DataFrame(labels | numbers | other)


def make_table(maps: dict[tuple[str, str, int], np.ndarray] = MAPS) -> pd.DataFrame:
    """The maps, among rows that must not be used."""
    parts = [
        make_rows(key, shown, **other)
        for key, values in maps.items()
        for shown, other in ((9 + values, {"scale": "raw"}), (values, {}), (1 - values, {"expression": "happy"}))
    ]
    return HEATMAPS.check(pd.concat(parts, ignore_index=True))


def interpolate(key: str) -> np.ndarray:
    """The first seed's map at image size, by another library."""
    values = torch.from_numpy(MAPS[(*PAIRS[key.lower()], 7)])
    return torch.nn.functional.interpolate(values[None, None], SIZE, mode="bilinear")[0, 0].numpy()


@pytest.fixture(scope="module")
def files() -> dict[str, Any]:
    return export_heatmaps(make_table(), FACE, EXAMPLES)


def test_files_keys_shapes_and_types_are_the_original_ones(files: dict[str, Any]) -> None:
    assert list(files) == [A, B, C, D]
    assert {file: list(files[file]) for file in KEYS} == KEYS
    assert {(array.shape, array.dtype.name) for array in files[A].values()} == {((7, 5, 3), "float64")}
    assert {(array.shape, array.dtype.name) for array in files[B].values()} == {((35,), "float64")}
    assert [array.shape for array in files[C].values()] == [(7, 5, 3), (7, 5), (7, 5)]
    assert list(files[D]) == list(EXAMPLES)
    for models in files[D].values():
        assert list(models) == ["SPLIT", "exp"]
        for arrays in models.values():
            assert list(arrays) == ["heatmap", "img"] and arrays["heatmap"].shape == (3, 2)
            assert arrays["img"].shape == (7, 5, 3) and arrays["img"].dtype == np.uint8


def test_every_key_holds_its_map_of_the_first_seed(files: dict[str, Any]) -> None:
    for key in KEYS[B]:
        np.testing.assert_allclose(files[B][key], interpolate(key).ravel(), rtol=1e-12)
    for key in KEYS[C][1:]:
        np.testing.assert_allclose(files[C][key], interpolate(key), rtol=1e-12)
    for key in KEYS[A][1:]:
        np.testing.assert_allclose(files[A][key], colour_map(interpolate(key)), rtol=1e-9, atol=1e-9)


def test_faces_are_in_the_order_blue_green_red(files: dict[str, Any]) -> None:
    for file in (A, C):
        np.testing.assert_array_equal(files[file]["avg_img"], FACE[..., ::-1])
    image = RANDOM.integers(256, size=(4, 9, 3), dtype=np.uint8)
    grey = export_heatmaps(make_table(), FACE[..., 0], {"x": Example(image, np.eye(2), np.eye(3))})
    np.testing.assert_array_equal(grey[C]["avg_img"], np.stack([FACE[..., 0]] * 3, axis=-1))
    for model in ("SPLIT", "exp"):
        np.testing.assert_array_equal(grey[D]["x"][model]["img"], image[..., ::-1])


def test_examples_hold_the_joint_and_the_single_map_and_blank_ones_are_zero(files: dict[str, Any]) -> None:
    for name, models in files[D].items():
        np.testing.assert_array_equal(models["SPLIT"]["heatmap"], EXAMPLES[name].joint)
        np.testing.assert_array_equal(models["exp"]["heatmap"], EXAMPLES[name].single)
    maps = MAPS | {("identity", "identity", 7): np.full(CELLS, np.nan)}
    blank = Example(EXAMPLES[NAME].image, np.full((3, 3), np.nan), np.eye(2))
    with_blanks = export_heatmaps(make_table(maps), FACE, {"x": blank})
    np.testing.assert_array_equal(with_blanks[D]["x"]["SPLIT"]["heatmap"], np.zeros((3, 3)))
    assert (with_blanks[B]["id"] == 0).all() and (with_blanks[B]["exp"] > 0).all()


# OpenCV 5.0, applyColorMap(level, COLORMAP_JET), blue, green, red
OPENCV = {
    0: (128, 0, 0),
    1: (132, 0, 0),
    32: (255, 0, 0),
    33: (255, 4, 0),
    95: (255, 252, 0),
    96: (254, 255, 2),
    97: (250, 255, 6),
    128: (126, 255, 130),
    159: (1, 255, 254),
    160: (0, 252, 255),
    223: (0, 0, 255),
    224: (0, 0, 252),
    255: (0, 0, 128),
}


def test_colours_are_those_of_the_original_times_four_tenths() -> None:
    """OpenCV's colours are whole numbers: within half a level."""
    colours = colour_map(np.array(list(OPENCV))[None] / 255)[0]
    np.testing.assert_allclose(colours / 0.4, list(OPENCV.values()), atol=0.51)


@settings(max_examples=30)
@given(st.floats(0, 1))
def test_colours_stay_within_their_bounds_and_red_mirrors_blue(value: float) -> None:
    (colour,), (mirrored,) = colour_map(np.array([value])), colour_map(np.array([1 - value]))
    assert (colour >= 0).all() and (colour <= 0.4 * 255).all() and colour.max() >= 0.2 * 255
    np.testing.assert_allclose(colour, mirrored[::-1], atol=1e-9)


def test_the_order_of_rows_decides_the_seed_and_nothing_else(files: dict[str, Any]) -> None:
    table = make_table()
    is_first = table["seed"] == 7
    shuffled = pd.concat([table[is_first].sample(frac=1, random_state=1), table[~is_first]])
    np.testing.assert_equal(export_heatmaps(shuffled, FACE, EXAMPLES), files)
    other = export_heatmaps(pd.concat([table[~is_first], table[is_first]]), FACE, EXAMPLES)
    assert not np.allclose(other[B]["exp"], files[B]["exp"])


def is_cell(table: pd.DataFrame, condition: str = "row >= 0") -> pd.Series:
    """Rows of the joint network's mean scaled map of identity, seed 7."""
    return table.eval(
        "trained_on == 'joint' and tested_on == 'identity' and seed == 7 and scale == 'scaled' and expression == 'all' "
        f"and {condition}"
    )


CORNER = "row == 1 and column == 1"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t[~is_cell(t)], "0 x 0, each once; the table has 0"),
        (lambda t: t[~is_cell(t, CORNER)], "3 x 2, each once; the table has 5"),
        (lambda t: pd.concat([t, t[is_cell(t, "row == 1")]]), "3 x 2, each once; the table has 8"),
        (
            lambda t: pd.concat([t[~is_cell(t, "row == 0 and column == 1")], t[is_cell(t, CORNER)]]),
            "3 x 2, each once; the table has 6",
        ),
        (lambda t: t.iloc[:0], "a table without a row names no seed"),
    ],
)
def test_an_incomplete_map_is_refused(damage: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message) as error:
        export_heatmaps(damage(make_table()), FACE, EXAMPLES)
    assert "joint network on identity, seed 7" in str(error.value) or "no seed" in message


def test_the_notebooks_of_the_original_study_run_on_these_files(files: dict[str, Any], tmp_path: Path) -> None:
    """With nothing but pickle, numpy and matplotlib."""
    import matplotlib.pyplot as plt

    for file, content in files.items():
        write_pickle(tmp_path / file, content)
    a, b, c, d = (pickle.loads((tmp_path / file).read_bytes()) for file in (A, B, C, D))

    axes = plt.subplots(2, 3)[1].ravel()
    for ax, key in zip(axes, ["SPLIT Expression", "exp", "SPLIT id", "id"], strict=False):
        picture = ax.imshow(np.uint8(np.clip(a["avg_img"] + a[key], 0, 255))[..., ::-1])
        assert picture.get_array().shape == (7, 5, 3)
    boxes = axes[4].boxplot([b["SPLIT expression"], b["exp"], b["SPLIT id"], b["id"]])
    medians = [line.get_ydata()[0] for line in boxes["medians"]]
    np.testing.assert_allclose(medians, [np.median(interpolate(key)) for key in KEYS[B]])

    maps = [c["SPLIT expression"], c["SPLIT id"]]
    threshold = min(np.percentile(values, 95) for values in maps)
    first, second = (values >= threshold for values in maps)
    assert min(first.sum(), second.sum()) == 2  # of 35 pixels, 5 % and the interpolated one
    axes[5].imshow(np.uint8(c["avg_img"])[..., ::-1])
    axes[5].contour(first | second)

    for models, model in itertools.product(d.values(), ("SPLIT", "exp")):
        heatmap, img = models[model]["heatmap"], models[model]["img"]
        large = np.kron(heatmap, np.ones((3, 3)))[: img.shape[0], : img.shape[1]]
        overlay = 255 * plt.get_cmap("jet")(np.uint8(255 * large))[..., 2::-1] * 0.4 + img
        plt.figure()
        plt.imshow(np.uint8(np.clip(overlay, 0, 255))[..., ::-1])


def test_files_are_read_as_written_and_equal_content_gives_equal_bytes(files: dict[str, Any], tmp_path: Path) -> None:
    again = export_heatmaps(make_table(), FACE, EXAMPLES)
    for file, content in files.items():
        write_pickle(tmp_path / file, content)
        write_pickle(tmp_path / "again" / file, again[file])
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    np.testing.assert_equal(read_heatmap_results(tmp_path), files)
    (tmp_path / B).unlink()
    assert list(read_heatmap_results(tmp_path)) == [A, C, D]


def replace(content: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy with `value` at `path`; None removes the entry."""
    if not path:
        return value
    rest = {key: item for key, item in content.items() if key != path[0]}
    new = replace(content.get(path[0]), path[1:], value)
    return rest if new is None else {**content, path[0]: new}


MAP = np.linspace(0, 1, 7 * 5).reshape(7, 5)


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        (A, ("SPLIT Expression",), None, ": lacks key 'SPLIT Expression'; it has ['SPLIT id', 'avg_img', 'exp', 'id']"),
        (A, ("SPLIT expresion",), FACE, ": unknown key 'SPLIT expresion'; did you mean 'SPLIT Expression'?"),
        (A, ("id",), MAP, ", key 'id': expected an array (H, W, 3) of numbers, got float64 of shape (7, 5)"),
        (
            A,
            ("id",),
            FACE[..., :2],
            ", key 'id': expected an array (H, W, 3) of numbers, got float64 of shape (7, 5, 2",
        ),
        (A, ("exp",), FACE[:6], ", key 'exp': its size is (6, 5), that of 'avg_img' is (7, 5)"),
        (A, ("exp",), np.full((7, 5, 3), 255.5), ", key 'exp': got 255.5, allowed: numbers in [0, 255]"),
        (A, (), [FACE], ": expected a dict of arrays, got list"),
        (B, ("SPLIT expression",), None, ": lacks key 'SPLIT expression'"),
        (B, ("id",), MAP, ", key 'id': expected an array (n,) of numbers, got float64 of shape (7, 5)"),
        (B, ("id",), [0.5], ", key 'id': expected an array (n,) of numbers, got list"),
        (B, ("id",), np.array([]), ", key 'id': expected an array (n,) of numbers, got float64 of shape (0,)"),
        (B, ("id",), np.array([True]), ", key 'id': expected an array (n,) of numbers, got bool"),
        (B, ("id",), np.array([0.5, np.nan, 2]), ", key 'id': got nan, allowed: numbers in [0, 1]"),
        (B, ("id",), np.array([0, -1]), ", key 'id': got -1, allowed: numbers in [0, 1]"),
        (C, ("SPLIT id",), MAP[:, :4], ", key 'SPLIT id': its size is (7, 4), that of 'avg_img' is (7, 5)"),
        (C, ("SPLIT id",), MAP * 0 + 1.5, ", key 'SPLIT id': got 1.5, allowed: numbers in [0, 1]"),
        (C, ("exp",), MAP, ": unknown key 'exp'; Allowed: 'avg_img', 'SPLIT expression', 'SPLIT id'"),
        (C, ("avg_img",), MAP, ", key 'avg_img': expected an array (H, W, 3) of numbers, got float64 of shape (7, 5)"),
        (D, (), [], ": expected a dict of images, got list"),
        (D, (), {}, ": holds no image; at least 1 is needed"),
        (D, (NAME,), 3, f", image '{NAME}': expected a dict of networks, got int"),
        (D, (NAME, "SPLIT"), None, f", image '{NAME}': lacks key 'SPLIT'"),
        (D, (NAME, "exp", "heatmap"), None, f", image '{NAME}', key 'exp': lacks key 'heatmap'"),
        (D, (NAME, "exp", "heatmap"), MAP * 0 + 1.5, f", image '{NAME}', key 'exp', 'heatmap': got 1.5, allowed"),
        (D, (NAME, "SPLIT", "img"), MAP, f", image '{NAME}', key 'SPLIT', 'img': expected an array (H, W, 3)"),
    ],
)
def test_damaged_content_is_refused(
    files: dict[str, Any], file: str, path: tuple[str, ...], value: Any, message: str, tmp_path: Path
) -> None:
    content = replace(files[file], path, value)
    with pytest.raises(StudyError) as error:
        check_heatmap_results(file, content)
    assert str(error.value).startswith(f"{file}{message}")
    write_pickle(tmp_path / file, content)
    with pytest.raises(StudyError) as read_error:
        read_heatmap_results(tmp_path)
    assert str(read_error.value) == f"{tmp_path}: {error.value}"


def test_an_unknown_file_is_refused() -> None:
    with pytest.raises(StudyError, match=r"Fig2E_dict\.pickle: not one of .*; did you mean 'Fig2D_dict\.pickle'\?"):
        check_heatmap_results("Fig2E_dict.pickle", {})


def test_bounds_and_other_numeric_types_are_allowed() -> None:
    bounds = np.array([0, 1], dtype=np.float32)
    assert check_heatmap_results(B, dict.fromkeys(KEYS[B], bounds))["exp"] is bounds
    white = dict.fromkeys(KEYS[A], np.full((2, 3, 3), 255, dtype=np.uint8))
    assert check_heatmap_results(A, white) == white
