"""Pictures are read back from their artists: image arrays, titles and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
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
from facespec.published.reference import read_reference_heatmaps
from facespec.study.examples import Example
from facespec.study.tables import HEATMAPS, OVERLAP
from toys import combine, make_table, read_texts

# in the order in which they are drawn
PAIRS = [("joint", "expression"), ("expression", "expression"), ("joint", "identity"), ("identity", "identity")]
SEEDS = (9, 4)
SIZE, CELLS = (17, 11), (3, 2)
FACE = np.linspace(0, 255, 17 * 11).reshape(SIZE)
REFERENCE = read_reference_heatmaps()
SHIFTS = {("scaled", "all"): 0, ("raw", "all"): 3, ("scaled", "fear"): 0.5}


def make_map(pair: tuple[str, str], seed: int) -> np.ndarray:
    """Another map in [0, 1] for every network, task and seed."""
    return np.random.default_rng([PAIRS.index(pair), seed]).random(CELLS)


def make_heatmaps() -> pd.DataFrame:
    """The rows to draw among others, in no order."""
    rows = []
    for index, pair in enumerate(PAIRS):
        for seed, ((scale, expression), shift) in ((seed, item) for seed in SEEDS for item in SHIFTS.items()):
            row = {"trained_on": pair[0], "tested_on": pair[1], "seed": seed, "scale": scale, "expression": expression}
            row |= {"n": 1000 + index - seed, "blank": seed}
            for (y, x), mean in np.ndenumerate(make_map(pair, seed) + shift):
                rows.append(row | {"row": y, "column": x, "mean": mean})
    return make_table(HEATMAPS, rows, source="painted faces", layer="trunk.relu2").sample(frac=1, random_state=2)


def make_blank(table: pd.DataFrame, pair: tuple[str, str], seed: int) -> pd.DataFrame:
    rows = (table["trained_on"] == pair[0]) & (table["tested_on"] == pair[1]) & (table["seed"] == seed)
    return table.assign(mean=table["mean"].where(~rows), n=table["n"].where(~rows, 0))


def enlarge(cells: np.ndarray) -> np.ndarray:
    """By another library."""
    image = torch.from_numpy(cells)[None, None]
    return torch.nn.functional.interpolate(image, SIZE, mode="bilinear", align_corners=False)[0, 0].numpy()


def read_images(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes.images]


def test_mean_maps_are_the_scaled_ones_over_all_expressions() -> None:
    maps = {(mean_map.network_task, mean_map.seed): mean_map for mean_map in read_mean_maps(make_heatmaps())}
    assert sorted(maps) == sorted((pair, seed) for pair in PAIRS for seed in SEEDS)
    for (pair, seed), mean_map in maps.items():
        np.testing.assert_array_equal(mean_map.mean, make_map(pair, seed))
        assert (mean_map.n, mean_map.blank) == (1000 + PAIRS.index(pair) - seed, seed)


def test_grey_is_the_luminance() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 10, 10]]], np.uint8)
    np.testing.assert_allclose(convert_to_grey(colours), [[76.245, 149.685], [29.07, 10.0]])
    np.testing.assert_array_equal(convert_to_grey(FACE), FACE)


def test_a_map_is_half_transparent_over_its_face() -> None:
    axes, cells = Figure().add_subplot(), make_map(PAIRS[0], 4)
    mappable = overlay_map(axes, FACE, cells)
    face, heatmap = axes.images
    np.testing.assert_array_equal(face.get_array(), FACE)
    assert (face.get_cmap().name, face.get_clim(), face.get_alpha()) == ("gray", (0, 255), None)
    np.testing.assert_allclose(heatmap.get_array(), enlarge(cells))
    assert mappable is heatmap and (heatmap.get_cmap().name, heatmap.get_clim()) == ("jet", (0, 1))
    assert 0.3 < heatmap.get_alpha() < 0.7 and heatmap.get_zorder() >= face.get_zorder()
    assert not axes.texts and not len(axes.get_xticks())


def test_a_blank_map_is_a_word_on_the_face() -> None:
    axes = Figure().add_subplot()
    assert overlay_map(axes, FACE, np.full(CELLS, np.nan)) is None
    assert len(axes.images) == 1 and read_texts(axes.texts) == ["blank"]


@cache
def draw_usual_2A() -> Figure:
    return draw_figure_2A(make_heatmaps(), FACE)


def get_grid(figure: Figure) -> np.ndarray:
    return np.array(figure.axes[:-1]).reshape(-1, 4)


def test_2A_shows_the_mean_over_seeds_and_every_seed() -> None:
    grid, bar = get_grid(draw_usual_2A()), draw_usual_2A().axes[-1]
    for index, (column, pair) in enumerate(zip(grid.T, PAIRS, strict=True)):
        maps = make_map(pair, 4), make_map(pair, 9)
        for axes, expected in zip(column, (np.mean(maps, axis=0), *maps), strict=True):
            np.testing.assert_allclose(read_images(axes)[1], enlarge(expected))
        assert column[0].get_title() == f"{pair[0]} network\n{pair[1]} task\n{1987 + 2 * index:,} maps, 13 blank"
        assert column[2].get_title() == f"{991 + index:,} images, 9 blank"
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["mean of\nseeds", "seed 4", "seed 9"]
    assert "painted faces" in bar.get_ylabel() and bar.get_ylim() == (0, 1)
    draw_usual_2A().draw_without_rendering()
    large, small = (axes.get_window_extent().width for axes in grid[:2, 0])
    assert large > 1.5 * small


def add_untrained(table: pd.DataFrame) -> pd.DataFrame:
    """The same table, with an untrained network whose maps are the joint network's, mirrored."""
    columns = table["column"].max() - table["column"]
    mirrored = table.assign(trained_on="untrained", column=columns)[table["trained_on"] == "joint"]
    return pd.concat([table, mirrored], ignore_index=True)


def test_2A_shows_the_untrained_network_beside_the_trained_ones() -> None:
    grid = np.array(draw_figure_2A(add_untrained(make_heatmaps()), FACE).axes[:-1]).reshape(-1, 6)
    networks = ["joint", "expression", "untrained", "joint", "identity", "untrained"]
    titles = [axes.get_title().split("\n")[:2] for axes in grid[0]]
    tasks = ["expression"] * 3 + ["identity"] * 3
    assert titles == [[f"{name} network", f"{task} task"] for name, task in zip(networks, tasks, strict=True)]
    for index, task in ((2, "expression"), (5, "identity")):
        expected = enlarge(np.fliplr(make_map(("joint", task), 9)).copy())
        np.testing.assert_allclose(read_images(grid[2, index])[1], expected)


def test_2A_leaves_blank_seeds_out_of_the_mean() -> None:
    table = make_blank(make_heatmaps(), PAIRS[2], 4)
    column = get_grid(draw_figure_2A(table, FACE))[:, 2]
    np.testing.assert_allclose(read_images(column[0])[1], enlarge(make_map(PAIRS[2], 9)))
    assert [read_texts(axes.texts) for axes in column] == [[], ["blank"], []]
    column = get_grid(draw_figure_2A(make_blank(table, PAIRS[2], 9), FACE))[:, 2]
    assert [read_texts(axes.texts) for axes in column] == [["blank"]] * 3


def test_2A_shows_a_single_seed_once() -> None:
    (row,) = get_grid(draw_figure_2A(make_heatmaps().query("seed == 9"), FACE))
    assert [axes.get_ylabel() for axes in row] == ["seed 9", "", "", ""]
    for axes, pair in zip(row, PAIRS, strict=True):
        np.testing.assert_allclose(read_images(axes)[1], enlarge(make_map(pair, 9)))


@pytest.mark.parametrize(
    ("seeds", "layer", "source"),
    [(1, "trunk.relu2", "embedded faces"), (1, "layer" * 60, "my faces " * 30), (4, "layer" * 60, "my faces " * 30)],
)
def test_the_colour_bar_is_as_long_as_its_label(
    seeds: int, layer: str, source: str, legible: Callable[[Figure], None]
) -> None:
    table = make_heatmaps().query("seed == 9").assign(layer=layer, source=source)
    table, face = pd.concat([table.assign(seed=seed) for seed in range(seeds)]), np.zeros((16, 16))
    overlap = make_overlap(dict.fromkeys(range(seeds), 0.5))
    whole = draw_figure_2(table, overlap, reference=REFERENCE, face=face, examples=make_examples())
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


def test_a_pixel_that_differs_in_its_last_bits_reaches_the_threshold() -> None:
    value = np.full((1, 1), np.nextafter(0.3, 0))
    assert paint_masks(value, value, threshold=0.3, size=(1, 1))[0, 0, 3] > 0


def make_overlap(thresholds: dict[int, float]) -> pd.DataFrame:
    """Rows of 2C with the thresholds of seeds, beside rows that are not to be drawn, and of 2B."""
    rows = combine(seed=thresholds, rule=["published", "top"], resample=[-1, 0])
    masks = []
    for row in rows:
        seed, shift = row["seed"], 0.3 if row["rule"] == "top" else 0.2 * (row["resample"] == 0)
        numbers = {
            ("threshold", "both"): thresholds[seed],
            ("area", "expression"): 0.01 * seed,
            ("area", "identity"): 0.02 * seed,
            ("intersection", "both"): 0.005 * seed,
            ("iou", "both"): 0.03 * seed,
        }
        masks += [
            row | {"figure": "2C", "trained_on": "joint", "quantity": name, "tested_on": task, "number": number + shift}
            for (name, task), number in numbers.items()
        ]
    boxes = combine(seed=thresholds, pair=PAIRS, quantity=["whisker_low", "q1", "median", "q3", "whisker_high"])
    for index, row in enumerate(boxes):
        row["trained_on"], row["tested_on"] = row.pop("pair")
        row["number"] = 0.1 * (index % 5 + 1)
    return make_table(OVERLAP, masks + boxes, source="painted faces")


def test_2C_cuts_every_seeds_maps_at_its_published_threshold() -> None:
    thresholds = {9: 0.55, 4: 0.35}
    colour_face = np.dstack([FACE] * 3)
    figure = draw_figure_2C(make_heatmaps(), make_overlap(thresholds), reference=REFERENCE, face=colour_face)
    for axes, seed in zip(figure.axes, (4, 9), strict=False):
        expression, identity = (enlarge(make_map(("joint", task), seed)) for task in ("expression", "identity"))
        one, other = expression >= thresholds[seed], identity >= thresholds[seed]
        assert 0 < (one & other).sum() < one.sum() < one.size  # all kinds of pixels are there
        expected = np.zeros((*SIZE, 4))
        for mask, colour in zip((one & ~other, other & ~one, one & other), MASKS.values(), strict=True):
            expected[mask] = to_rgba(colour, 0.8)
        face, masks = read_images(axes)
        np.testing.assert_allclose(face, FACE)
        np.testing.assert_allclose(masks, expected)
        assert axes.get_title() == f"seed {seed}"
        numbers = {"expression": 0.01 * seed, "identity": 0.02 * seed, "both": 0.005 * seed, "IoU": 0.03 * seed}
        lines = [f"{name} {number:.3f}".replace("0.", ".") for name, number in numbers.items()]
        assert axes.get_xlabel().split("\n") == ["share of the image:", *lines]
    assert figure.get_suptitle() == "Figure 2C. Where the joint network looks most for each task (painted faces)"
    lengths = [patch.get_width() for patch in figure.axes[2].patches]
    np.testing.assert_allclose(sorted(lengths), sorted([0.043, 0.065, 0.1367, 0.13, 0.0104, 0.0325]))
    figure.draw_without_rendering()
    left, right = (legend.get_window_extent() for part in figure.subfigs for legend in part.legends)
    assert left.x0 >= 0 and left.x1 < right.x0 and right.x1 <= figure.bbox.x1


def test_2C_has_the_untrained_networks_masks_below_and_the_overlaps_that_C6_compares() -> None:
    overlap = make_overlap({9: 0.55, 4: 0.35})
    untrained = overlap[overlap["figure"] == "2C"].assign(trained_on="untrained")
    yardstick = overlap[overlap["quantity"] == "iou"].assign(quantity="iou_networks", tested_on="identity")
    overlap = pd.concat([overlap, untrained, yardstick.assign(number=0.8)], ignore_index=True)
    table = add_untrained(make_heatmaps())
    figure = draw_figure_2C(table, overlap, reference=REFERENCE, face=FACE)
    grid, bars = np.array(figure.axes[:4]).reshape(2, 2), figure.axes[4:]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["joint network", "untrained network"]
    for seed, above, below in zip((4, 9), *grid, strict=True):
        assert above.get_title() == below.get_title() == f"seed {seed}"
        np.testing.assert_allclose(read_images(below)[1], read_images(above)[1][:, ::-1])  # symmetric pixels
        assert above.get_xlabel() == below.get_xlabel()
    assert len(bars) == 3 and bars[2].get_xlabel() == "IoU of equally large masks (C6)"
    figure.draw_without_rendering()
    for axes in bars:
        extent = axes.xaxis.label.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1


def make_examples() -> dict[str, Example]:
    draws = np.random.default_rng(3)
    return {
        name: Example(
            draws.integers(0, 256, (*SIZE, *channels), dtype=np.uint8), draws.random(CELLS), single, draws.random(CELLS)
        )
        for name, channels, single in (("fear", (), draws.random(CELLS)), ("sad", (3,), np.full(CELLS, np.nan)))
    }


def test_2D_shows_face_joint_single_and_untrained_network() -> None:
    figure, examples = draw_figure_2D(make_examples(), "painted faces", seed=9), make_examples()
    grid = np.array(figure.axes[:-1]).reshape(4, 2)
    for column, example in zip(grid.T, examples.values(), strict=True):
        for axes in column:
            np.testing.assert_allclose(read_images(axes)[0], convert_to_grey(example.image))
        assert len(read_images(column[0])) == 1
        np.testing.assert_allclose(read_images(column[1])[1], enlarge(example.joint))
        np.testing.assert_allclose(read_images(column[3])[1], enlarge(example.untrained))
    np.testing.assert_allclose(read_images(grid[2, 0])[1], enlarge(examples["fear"].single))
    assert read_texts(grid[2, 1].texts) == ["blank"] and len(read_images(grid[2, 1])) == 1
    assert [axes.get_title() for axes in grid[0]] == ["fear", "sad"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == [
        *("face", "joint\nnetwork", "expression\nnetwork", "untrained\nnetwork")
    ]
    assert figure.get_suptitle() == "Figure 2D. Single faces, expression task (painted faces, seed 9)"


def test_2D_without_maps_of_the_untrained_network_has_a_row_less() -> None:
    examples = {name: replace(example, untrained=None) for name, example in make_examples().items()}
    assert len(draw_figure_2D(examples, "painted faces", seed=9).axes) == 3 * 2 + 1


def test_figure_2_holds_all_four_panels() -> None:
    table, overlap = make_heatmaps(), make_overlap({9: 0.55, 4: 0.35})
    figure = draw_figure_2(table, overlap, reference=REFERENCE, face=FACE, examples=make_examples())
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert [title[:2] for title in titles] == ["2A", "2B", "2C", "2D"]
    assert "painted faces" in titles[2] and "painted faces" in titles[3]
    single = [
        draw_usual_2A(),
        draw_figure_2C(table, overlap, reference=REFERENCE, face=FACE),
        draw_figure_2D(make_examples(), "painted faces", seed=9),
    ]
    expected = [image for one in single for axes in one.axes for image in read_images(axes)]
    images = [image for axes in figure.axes for image in read_images(axes)]
    assert len(images) == len(expected) and all(np.array_equal(a, b) for a, b in zip(images, expected, strict=True))
