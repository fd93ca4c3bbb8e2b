"""Pictures are read back from their artists: image arrays, titles, and what is written beside them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure

from facespec.figures.heatmaps import (
    MASKS,
    convert_to_grey,
    draw_figure_2,
    draw_figure_2A,
    draw_figure_2C,
    draw_figure_2D,
    overlay_map,
    paint_masks,
    read_mean_maps,
)
from facespec.published.export_heatmaps import Example
from facespec.published.reference import read_reference_heatmaps

# as they stand from left to right
PAIRS = [("joint", "expression"), ("expression", "expression"), ("joint", "identity"), ("identity", "identity")]
SEEDS = (9, 4)
SIZE, CELLS = (17, 11), (3, 2)
FACE = np.linspace(0, 255, 17 * 11).reshape(SIZE)


def cells(pair: tuple[str, str], seed: int) -> np.ndarray:
    """A map of its own for every network, task and seed, in [0, 1]."""
    return np.random.default_rng([PAIRS.index(pair), seed]).random(CELLS)


def heatmaps_table() -> pd.DataFrame:
    """The wanted rows among others, in no order."""
    rows = []
    for place, pair in enumerate(PAIRS):
        for seed in SEEDS:
            for scale, expression, shift in (("scaled", "all", 0), ("raw", "all", 3), ("scaled", "fear", 0.5)):
                for (row, column), mean in np.ndenumerate(cells(pair, seed)):
                    rows.append(
                        {
                            "trained_on": pair[0],
                            "tested_on": pair[1],
                            "source": "painted faces",
                            "seed": seed,
                            "layer": "trunk.relu2",
                            "expression": expression,
                            "scale": scale,
                            "row": row,
                            "column": column,
                            "n": 1000 + place - seed,
                            "blank": seed,
                            "mean": mean + shift,
                            "sd": 0.1,
                        }
                    )
    return pd.DataFrame(rows).sample(frac=1, random_state=2)


def blank(table: pd.DataFrame, pair: tuple[str, str], seed: int) -> pd.DataFrame:
    own = (table["trained_on"] == pair[0]) & (table["tested_on"] == pair[1]) & (table["seed"] == seed)
    return table.assign(mean=table["mean"].where(~own), n=table["n"].where(~own, 0))


def enlarged(one: np.ndarray) -> np.ndarray:
    """By another library."""
    shown = torch.from_numpy(one)[None, None]
    return torch.nn.functional.interpolate(shown, SIZE, mode="bilinear", align_corners=False)[0, 0].numpy()


def layers(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes.images]


def test_mean_maps_are_the_scaled_ones_over_all_expressions() -> None:
    found = read_mean_maps(heatmaps_table())
    assert sorted((each.pair, each.seed) for each in found) == sorted((pair, seed) for pair in PAIRS for seed in SEEDS)
    for each in found:
        np.testing.assert_array_equal(each.mean, cells(each.pair, each.seed))
        assert (each.n, each.blank) == (1000 + PAIRS.index(each.pair) - each.seed, each.seed)


def test_grey_is_the_luminance() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 10, 10]]], np.uint8)
    np.testing.assert_allclose(convert_to_grey(colours), [[76.245, 149.685], [29.07, 10.0]])
    np.testing.assert_array_equal(convert_to_grey(FACE), FACE)


def test_a_map_lies_half_transparent_over_its_face() -> None:
    axes = Figure().add_subplot()
    one = cells(PAIRS[0], 4)
    mappable = overlay_map(axes, FACE, one)
    face, shown = axes.images
    np.testing.assert_array_equal(face.get_array(), FACE)
    assert (face.get_cmap().name, face.get_clim(), face.get_alpha()) == ("gray", (0, 255), None)
    np.testing.assert_allclose(shown.get_array(), enlarged(one))
    assert mappable is shown and (shown.get_cmap().name, shown.get_clim()) == ("jet", (0, 1))
    assert 0.3 < shown.get_alpha() < 0.7 and shown.get_zorder() >= face.get_zorder()
    assert not axes.texts and not len(axes.get_xticks())


def test_a_blank_map_is_a_word_on_the_face() -> None:
    axes = Figure().add_subplot()
    assert overlay_map(axes, FACE, np.full(CELLS, np.nan)) is None
    assert len(axes.images) == 1 and [text.get_text() for text in axes.texts] == ["blank"]


def test_2A_shows_the_mean_over_seeds_and_every_seed() -> None:
    figure = draw_figure_2A(heatmaps_table(), FACE)
    *panels, bar = figure.axes
    grid = np.array(panels).reshape(3, 4)
    for column, pair in enumerate(PAIRS):
        mean = (cells(pair, 4) + cells(pair, 9)) / 2
        for axes, expected in zip(grid[:, column], (mean, cells(pair, 4), cells(pair, 9)), strict=True):
            np.testing.assert_allclose(layers(axes)[1], enlarged(expected))
        n = 2000 + 2 * column - 13
        assert grid[0, column].get_title() == f"{pair[0]} network\n{pair[1]} task\n{n:,} maps, 13 blank"
        assert grid[2, column].get_title() == f"{1000 + column - 9:,} images, 9 blank"
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["mean of\nseeds", "seed 4", "seed 9"]
    assert "painted faces" in bar.get_ylabel() and bar.get_ylim() == (0, 1)
    figure.draw_without_rendering()
    large, small = (axes.get_window_extent().width for axes in grid[:2, 0])
    assert large > 1.5 * small


def test_2A_leaves_blank_seeds_out_of_the_mean() -> None:
    pair = PAIRS[2]
    grid = np.array(draw_figure_2A(blank(heatmaps_table(), pair, 4), FACE).axes[:-1]).reshape(3, 4)
    np.testing.assert_allclose(layers(grid[0, 2])[1], enlarged(cells(pair, 9)))
    assert [text.get_text() for text in grid[1, 2].texts] == ["blank"] and not grid[0, 2].texts
    grid = np.array(draw_figure_2A(blank(blank(heatmaps_table(), pair, 4), pair, 9), FACE).axes[:-1]).reshape(3, 4)
    assert [len(axes.texts) for axes in grid[:, 2]] == [1, 1, 1]


def test_2A_shows_a_single_seed_once() -> None:
    table = heatmaps_table()
    *panels, _ = draw_figure_2A(table[table["seed"] == 9], FACE).axes
    assert [axes.get_ylabel() for axes in panels] == ["seed 9", "", "", ""]
    for axes, pair in zip(panels, PAIRS, strict=True):
        np.testing.assert_allclose(layers(axes)[1], enlarged(cells(pair, 9)))


@pytest.mark.parametrize("names", [("trunk.relu2", "embedded faces"), ("layer" * 60, "my faces " * 30)])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_colour_bar_is_as_long_as_its_label(
    seeds: int, names: tuple[str, str], legible: Callable[[Figure], None]
) -> None:
    table = heatmaps_table().query("seed == 9").assign(layer=names[0], source=names[1])
    table, face = pd.concat([table.assign(seed=seed) for seed in range(seeds)]), np.zeros((16, 16))
    overlap = overlap_table(dict.fromkeys(range(seeds), 0.5))
    whole = draw_figure_2(table, overlap, reference=read_reference_heatmaps(), face=face, examples=examples())
    for figure in (draw_figure_2A(table, face), whole):
        legible(figure)
        (bar,) = (axes for axes in figure.axes if "left out" in axes.get_ylabel().replace("\n", " "))
        assert bar.yaxis.label.get_window_extent().height <= bar.get_window_extent().height
        assert bar.get_ylabel().startswith("at ") and bar.get_ylabel().endswith(")")


def test_masks_hold_the_pixels_that_reach_the_threshold() -> None:
    expression, identity = np.array([[0.5, 0.2, 0.9], [0.49, 0.1, 0.7]]), np.array([[0.5, 0.8, 0.1], [0.2, 0.3, 0.6]])
    picture = paint_masks(expression, identity, threshold=0.5, size=(2, 3))
    one, other, both, none = *(to_rgba(colour, 0.8) for colour in MASKS.values()), (0, 0, 0, 0)
    np.testing.assert_allclose(picture, [[both, other, one], [none, none, both]])
    assert list(MASKS) == ["expression only", "identity only", "both"]


def test_a_pixel_whose_last_bits_differ_still_reaches_the_threshold() -> None:
    value = np.full((1, 1), np.nextafter(0.3, 0))
    assert paint_masks(value, value, threshold=0.3, size=(1, 1))[0, 0, 3] > 0


def overlap_table(thresholds: dict[int, float]) -> pd.DataFrame:
    rows = []
    for seed, threshold in thresholds.items():
        numbers = {
            ("threshold", "both"): threshold,
            ("area", "expression"): 0.01 * seed,
            ("iou", "both"): 0.03 * seed,
            ("area", "identity"): 0.02 * seed,
            ("intersection", "both"): 0.005 * seed,
        }
        for (quantity, tested_on), number in numbers.items():
            for rule, resample, shift in (("published", -1, 0), ("published", 0, 0.2), ("top", -1, 0.3)):
                rows.append(
                    {
                        "figure": "2C",
                        "quantity": quantity,
                        "trained_on": "joint",
                        "tested_on": tested_on,
                        "rule": rule,
                        "source": "painted faces",
                        "seed": seed,
                        "resample": resample,
                        "number": number + shift,
                    }
                )
    boxes = [
        {
            "figure": "2B",
            "quantity": name,
            "trained_on": pair[0],
            "tested_on": pair[1],
            "rule": "",
            "source": "painted faces",
            "seed": seed,
            "resample": -1,
            "number": 0.1 * (place + 1),
        }
        for seed in thresholds
        for pair in PAIRS
        for place, name in enumerate(("whisker_low", "q1", "median", "q3", "whisker_high"))
    ]
    return pd.DataFrame(rows + boxes)


def test_2C_cuts_every_seeds_maps_at_its_own_published_threshold() -> None:
    thresholds = {9: 0.55, 4: 0.35}
    figure = draw_figure_2C(
        heatmaps_table(), overlap_table(thresholds), reference=read_reference_heatmaps(), face=np.dstack([FACE] * 3)
    )
    for axes, seed in zip(figure.axes, (4, 9), strict=False):
        one, other = (enlarged(cells(("joint", task), seed)) >= thresholds[seed] for task in ("expression", "identity"))
        expected = np.zeros((*SIZE, 4))
        for where, colour in zip((one & ~other, other & ~one, one & other), MASKS.values(), strict=True):
            expected[where] = to_rgba(colour, 0.8)
        face, masks = layers(axes)
        np.testing.assert_allclose(face, FACE)
        np.testing.assert_allclose(masks, expected)
        assert 0 < (one & other).sum() < one.sum() < one.size  # all kinds are there
        assert axes.get_title() == f"seed {seed}"
        assert axes.get_xlabel().split("\n") == [
            "share of the image:",
            f"expression {0.01 * seed:.3f}".replace("0.", "."),
            f"identity {0.02 * seed:.3f}".replace("0.", "."),
            f"both {0.005 * seed:.3f}".replace("0.", "."),
            f"IoU {0.03 * seed:.3f}".replace("0.", "."),
        ]
    assert figure.get_suptitle() == "Figure 2C. Where the joint network looks most for each task (painted faces)"
    lengths = [patch.get_width() for patch in figure.axes[2].patches]
    np.testing.assert_allclose(sorted(lengths), sorted([0.043, 0.065, 0.1367, 0.13, 0.0104, 0.0325]))


@pytest.mark.parametrize("seeds", [(9,), (4, 9)])
def test_2Cs_legends_stay_on_the_page(seeds: tuple[int, ...]) -> None:
    table, overlap = heatmaps_table(), overlap_table(dict.fromkeys(seeds, 0.5))
    table = table[table["seed"].isin(seeds)]
    figure = draw_figure_2C(table, overlap, reference=read_reference_heatmaps(), face=FACE)
    figure.draw_without_rendering()
    legends = [legend.get_window_extent() for part in figure.subfigs for legend in part.legends]
    assert len(legends) == 2 and legends[0].x1 < legends[1].x0
    assert legends[0].x0 >= 0 and legends[1].x1 <= figure.bbox.x1


# what readers without red or green cones see: Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(rgb, 0, 1) / to_xyz.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", BLINDNESS)
def test_masks_differ_for_every_reader(eyes: str) -> None:
    linear = [
        np.where((c := np.array(to_rgb(m))) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for m in MASKS.values()
    ]
    for one, other in combinations([lab(BLINDNESS[eyes] @ colour) for colour in linear], 2):
        assert np.linalg.norm(one - other) > 25  # a difference of 2 is just noticeable


def examples() -> dict[str, Example]:
    draws = np.random.default_rng(3)
    return {
        name: Example(draws.integers(0, 256, (*SIZE, *colour), dtype=np.uint8), draws.random(CELLS), single)
        for name, colour, single in (("fear", (), draws.random(CELLS)), ("sad", (3,), np.full(CELLS, np.nan)))
    }


def test_2D_shows_face_joint_and_single_network() -> None:
    figure = draw_figure_2D(examples(), "painted faces", seed=9)
    grid = np.array(figure.axes[:-1]).reshape(3, 2)
    for column, example in zip(grid.T, examples().values(), strict=True):
        for axes in column:
            np.testing.assert_allclose(layers(axes)[0], convert_to_grey(example.image))
        assert len(layers(column[0])) == 1
        np.testing.assert_allclose(layers(column[1])[1], enlarged(example.joint))
    np.testing.assert_allclose(layers(grid[2, 0])[1], enlarged(examples()["fear"].single))
    assert [text.get_text() for text in grid[2, 1].texts] == ["blank"] and len(layers(grid[2, 1])) == 1
    assert [axes.get_title() for axes in grid[0]] == ["fear", "sad"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["face", "joint\nnetwork", "expression\nnetwork"]
    assert figure.get_suptitle() == "Figure 2D. Single faces, expression task (painted faces, seed 9)"


def test_the_overview_holds_all_four() -> None:
    table, overlap = heatmaps_table(), overlap_table({9: 0.55, 4: 0.35})
    figure = draw_figure_2(table, overlap, reference=read_reference_heatmaps(), face=FACE, examples=examples())
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert [title[:2] for title in titles] == ["2A", "2B", "2C", "2D"]
    alone = [
        draw_figure_2A(table, FACE),
        draw_figure_2C(table, overlap, reference=read_reference_heatmaps(), face=FACE),
        draw_figure_2D(examples(), "painted faces", seed=9),
    ]
    images = [image for one in alone for axes in one.axes for image in layers(axes)]
    shown = [image for axes in figure.axes for image in layers(axes)]
    assert len(shown) == len(images) and all(np.array_equal(a, b) for a, b in zip(shown, images, strict=True))
    assert "painted faces" in titles[2] and "painted faces" in titles[3]
