from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facespec.published.export_heatmaps import (
    Example,
    colour_map,
    export_heatmaps,
    read_heatmap_results,
)
from facespec.study.errors import StudyError
from facespec.study.pickles import write_pickle
from facespec.study.tables import HEATMAPS

# spelled out, with the original's capitals: the contract is with whoever reads its files
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
EXAMPLES = {
    f"BF0{i}-happy-straight": Example(
        RANDOM.integers(256, size=SIZE, dtype=np.uint8), RANDOM.random(CELLS), RANDOM.random(CELLS)
    )
    for i in range(2)
}


def heatmap_rows(network: str, task: str, seed: int, values: np.ndarray, **other: Any) -> pd.DataFrame:
    row, column = np.indices(values.shape)
    return pd.DataFrame(
        {
            "trained_on": network,
            "tested_on": task,
            "source": "embedded faces",
            "seed": seed,
            "layer": "trunk.relu4",
            "expression": "all",
            "scale": "scaled",
            "row": row.ravel(),
            "column": column.ravel(),
            "n": 9,
            "blank": 0,
            "mean": values.ravel(),
            "sd": 0.1,
        }
        | other
    )


def table(maps: dict[tuple[str, str, int], np.ndarray] = MAPS) -> pd.DataFrame:
    """The maps, among others of which nothing may be taken."""
    parts = []
    for (network, task, seed), values in maps.items():
        parts += [
            heatmap_rows(network, task, seed, 9 + values, scale="raw"),
            heatmap_rows(network, task, seed, values),
            heatmap_rows(network, task, seed, 1 - values, expression="happy"),
        ]
    return HEATMAPS.check(pd.concat(parts, ignore_index=True))


def expected(key: str) -> np.ndarray:
    """The first seed's map at image size, by another library."""
    values = torch.from_numpy(MAPS[(*PAIRS[key.lower()], 7)])
    return torch.nn.functional.interpolate(values[None, None], SIZE, mode="bilinear")[0, 0].numpy()


def good(file: str) -> Any:
    return export_heatmaps(table(), FACE, EXAMPLES)[file]


def test_files_keys_shapes_and_types_are_the_original_ones() -> None:
    files = export_heatmaps(table(), FACE, EXAMPLES)
    assert list(files) == [A, B, C, D]
    assert {file: list(files[file]) for file in KEYS} == KEYS
    assert {(one.shape, one.dtype.name) for one in files[A].values()} == {((7, 5, 3), "float64")}
    assert {(one.shape, one.dtype.name) for one in files[B].values()} == {((35,), "float64")}
    assert [one.shape for one in files[C].values()] == [(7, 5, 3), (7, 5), (7, 5)]
    assert list(files[D]) == list(EXAMPLES)
    for models in files[D].values():
        assert list(models) == ["SPLIT", "exp"]
        for shown in models.values():
            assert list(shown) == ["heatmap", "img"] and shown["heatmap"].shape == (3, 2)
            assert shown["img"].shape == (7, 5, 3) and shown["img"].dtype == np.uint8


def test_every_key_holds_the_first_seeds_own_map() -> None:
    files = export_heatmaps(table(), FACE, EXAMPLES)
    for key in KEYS[B]:
        np.testing.assert_allclose(files[B][key], expected(key).ravel(), rtol=1e-12)
    for key in KEYS[C][1:]:
        np.testing.assert_allclose(files[C][key], expected(key), rtol=1e-12)
    for key in KEYS[A][1:]:
        np.testing.assert_allclose(files[A][key], colour_map(expected(key)), rtol=1e-9, atol=1e-9)


def test_the_mean_face_and_single_faces_are_in_the_order_blue_green_red() -> None:
    files = export_heatmaps(table(), FACE, EXAMPLES)
    for file, channel in itertools.product((A, C), range(3)):
        np.testing.assert_array_equal(files[file]["avg_img"][..., channel], FACE[..., 2 - channel])
    grey = export_heatmaps(table(), FACE[..., 0], EXAMPLES)
    for channel in range(3):
        np.testing.assert_array_equal(grey[C]["avg_img"][..., channel], FACE[..., 0])
    image = RANDOM.integers(256, size=(4, 9, 3), dtype=np.uint8)
    shown = export_heatmaps(table(), FACE, {"x": Example(image, np.eye(2), np.eye(3))})[D]["x"]
    for model, channel in itertools.product(("SPLIT", "exp"), range(3)):
        np.testing.assert_array_equal(shown[model]["img"][..., channel], image[..., 2 - channel])


def test_examples_hold_the_joint_and_the_single_map_and_blank_ones_are_black() -> None:
    for name, shown in good(D).items():
        np.testing.assert_array_equal(shown["SPLIT"]["heatmap"], EXAMPLES[name].joint)
        np.testing.assert_array_equal(shown["exp"]["heatmap"], EXAMPLES[name].single)
    blank = Example(EXAMPLES["BF00-happy-straight"].image, np.full((3, 3), np.nan), np.eye(2))
    shown = export_heatmaps(table(), FACE, {"x": blank})[D]["x"]
    np.testing.assert_array_equal(shown["SPLIT"]["heatmap"], np.zeros((3, 3)))
    np.testing.assert_array_equal(shown["exp"]["heatmap"], np.eye(2))


def test_a_mean_of_blank_maps_is_zero_everywhere() -> None:
    maps = MAPS | {("identity", "identity", 7): np.full(CELLS, np.nan)}
    files = export_heatmaps(table(maps), FACE, EXAMPLES)
    assert (files[B]["id"] == 0).all() and (files[B]["exp"] > 0).all()


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
    found = colour_map(np.array(list(OPENCV))[None] / 255)[0]
    np.testing.assert_allclose(found / 0.4, list(OPENCV.values()), atol=0.51)


@given(st.floats(0, 1))
def test_colours_stay_within_their_bounds_and_red_follows_blue(value: float) -> None:
    (found,), (mirrored,) = colour_map(np.array([value])), colour_map(np.array([1 - value]))
    assert (found >= 0).all() and (found <= 0.4 * 255).all() and found.max() >= 0.2 * 255
    np.testing.assert_allclose(found, mirrored[::-1], atol=1e-9)


def test_order_of_rows_decides_the_seed_and_nothing_else() -> None:
    whole = table()
    first = whole["seed"] == 7
    shuffled = pd.concat([whole[first].sample(frac=1, random_state=1), whole[~first]])
    for there, back in zip(
        export_heatmaps(whole, FACE, {"x": EXAMPLES["BF01-happy-straight"]}).values(),
        export_heatmaps(shuffled, FACE, {"x": EXAMPLES["BF01-happy-straight"]}).values(),
        strict=True,
    ):
        np.testing.assert_equal(there, back)
    other = export_heatmaps(pd.concat([whole[~first], whole[first]]), FACE, EXAMPLES)
    assert not np.allclose(other[B]["exp"], good(B)["exp"])


SCALED = "trained_on == 'joint' and tested_on == 'identity' and seed == 7 and scale == 'scaled' and expression == 'all'"


@pytest.mark.parametrize(
    "damage, found",
    [
        (lambda t: t[~t.eval(SCALED)], "0 x 0, each once; the table has 0"),
        (lambda t: t[~t.eval(f"{SCALED} and row == 1 and column == 1")], "3 x 2, each once; the table has 5"),
        (lambda t: pd.concat([t, t[t.eval(f"{SCALED} and row == 1")]]), "3 x 2, each once; the table has 8"),
        (
            lambda t: pd.concat(
                [
                    t[~t.eval(f"{SCALED} and row == 0 and column == 1")],
                    t[t.eval(f"{SCALED} and row == 1 and column == 1")],
                ]
            ),
            "3 x 2, each once; the table has 6",
        ),
    ],
)
def test_an_incomplete_map_is_refused(damage: Any, found: str) -> None:
    with pytest.raises(StudyError) as error:
        export_heatmaps(damage(table()), FACE, EXAMPLES)
    assert str(error.value) == (
        "table 'heatmaps', joint network on identity, seed 7: the mean scaled map needs every cell of "
        f"{found} rows of it. Make the heatmaps again."
    )


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(StudyError) as error:
        export_heatmaps(table().iloc[:0], FACE, EXAMPLES)
    assert str(error.value) == "a table without a row names no seed. Make the tables again."


def test_a_notebook_of_the_original_runs_on_ours(tmp_path: Path) -> None:
    """What one does with the published files, and nothing but pickle, numpy and matplotlib."""
    import matplotlib.pyplot as plt

    for file, content in export_heatmaps(table(), FACE, EXAMPLES).items():
        write_pickle(tmp_path / file, content)
    a, b, c, d = (pickle.loads((tmp_path / file).read_bytes()) for file in (A, B, C, D))

    axes = plt.subplots(2, 3)[1].ravel()
    for ax, key in zip(axes, ["SPLIT Expression", "exp", "SPLIT id", "id"], strict=False):
        picture = np.uint8(np.clip(a["avg_img"] + a[key], 0, 255))[..., ::-1]
        shown = ax.imshow(picture)
        assert shown.get_array().shape == (7, 5, 3)
    drawn = axes[4].boxplot([b["SPLIT expression"], b["exp"], b["SPLIT id"], b["id"]])
    medians = [line.get_ydata()[0] for line in drawn["medians"]]
    np.testing.assert_allclose(medians, [np.median(expected(key)) for key in KEYS[B]])

    maps = [c["SPLIT expression"], c["SPLIT id"]]
    threshold = min(np.percentile(one, 95) for one in maps)
    first, second = (one >= threshold for one in maps)
    assert min(first.sum(), second.sum()) == 2  # of 35 pixels, 5 % and the interpolated one
    axes[5].imshow(np.uint8(c["avg_img"])[..., ::-1])
    axes[5].contour(first | second)

    for models in d.values():
        for model in ("SPLIT", "exp"):
            heatmap, img = models[model]["heatmap"], models[model]["img"]
            large = heatmap.repeat(-(-img.shape[0] // heatmap.shape[0]), 0).repeat(
                -(-img.shape[1] // heatmap.shape[1]), 1
            )
            jet = plt.get_cmap("jet")(np.uint8(255 * large[: img.shape[0], : img.shape[1]]))[..., 2::-1]
            overlay = 255 * jet * 0.4 + img
            plt.figure()
            plt.imshow(np.uint8(np.clip(overlay, 0, 255))[..., ::-1])
            plt.imshow(img[..., ::-1])


def test_files_come_back_as_they_were_written_and_equal_ones_are_equal_bytes(tmp_path: Path) -> None:
    for file, content in export_heatmaps(table(), FACE, EXAMPLES).items():
        write_pickle(tmp_path / file, content)
        write_pickle(tmp_path / "again" / file, good(file))
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    np.testing.assert_equal(read_heatmap_results(tmp_path), export_heatmaps(table(), FACE, EXAMPLES))
    (tmp_path / B).unlink()
    assert list(read_heatmap_results(tmp_path)) == [A, C, D]
