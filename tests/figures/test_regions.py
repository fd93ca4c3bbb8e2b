"""Points, cells and frames are read back from their artists, and compared with the tables' numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from facespec.figures.labels import format_signed
from facespec.figures.regions import choose_regions, draw_figure_regions
from facespec.figures.style import LOOKS
from facespec.study.tables import REGIONS as SCHEMA
from toys import combine, make_table, read_legend, read_texts

EXPRESSIONS = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
ROWS = [("expression", name) for name in (*EXPRESSIONS, "all")] + [("identity", "all")]
REGIONS = ["background", "moustache", "mouth", "eyes", "occluder"]  # in the table's order
DRAWN = ["eyes", "mouth", "background", "moustache"]
DIFFERENCES = {"eyes": -0.03, "mouth": 0.05, "background": 0.001, "moustache": -0.001, "occluder": 0.2}


def make_number(network: str, row: int, region: str, measure: str) -> float:
    """All numbers differ; those of the occluder are negligible."""
    if region == "occluder":
        return 0.009
    share = 0.02 + 0.01 * row + 0.1 * REGIONS.index(region) + (0.003 if network == "joint" else 0.0)
    return share if measure == "share" else 10 * share


def make_difference(row: int, region: str) -> np.ndarray:
    """Number, low, high: surely below 0 for the eyes, surely above for the mouth."""
    difference = DIFFERENCES[region]
    bounds = [-0.02, 0.02] if abs(difference) < 0.01 else [difference - 0.02, difference + 0.02]
    return np.array([difference * (1 + row / 10), *bounds])


def make_regions() -> pd.DataFrame:
    rows = []
    for key in combine(row=range(len(ROWS)), region=REGIONS, measure=["density", "share"]):
        row, (task, expression) = key["row"], ROWS[key.pop("row")]
        key |= {"tested_on": task, "expression": expression}
        for network in (task, "joint"):
            number = make_number(network, row, key["region"], key["measure"])
            rows.append(key | {"trained_on": network, "number": number, "low": number * 0.9, "high": number * 1.2})
        number, low, high = make_difference(row, key["region"]) * (1 if key["measure"] == "share" else 7)
        rows.append(key | {"trained_on": "joint", "against": "single", "number": number, "low": low, "high": high})
    return make_table(SCHEMA, rows, source="painted faces", regions="label maps")


def get_grid(figure: Figure) -> np.ndarray:
    return np.array(figure.axes).reshape(len(ROWS), 3)


@cache
def draw_usual() -> Figure:
    return draw_figure_regions(make_regions())


def read_points(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    lines = {line.get_label().removesuffix(" network"): line for line in axes.lines}
    return {network: line.get_data() for network, line in lines.items() if network in LOOKS}


def get_frames(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_regions_are_ordered_from_the_top_of_the_face_and_negligible_ones_left_out() -> None:
    table = make_regions()
    assert choose_regions(table) == (DRAWN, ["occluder"])
    rows = table.query("region == 'occluder' and expression == 'sad' and measure == 'share' and against == ''").index
    table.loc[rows[-1], "number"] = 0.01
    assert choose_regions(table) == (["eyes", "mouth", "occluder", "background", "moustache"], [])


def test_every_row_shows_both_networks_for_every_region() -> None:
    grid = get_grid(draw_usual())
    for row, (task, _) in enumerate(ROWS):
        for axes, measure in zip(grid[row], ("share", "density"), strict=False):
            points = read_points(axes)
            assert set(points) == {"joint", task}
            for network, (x, y) in points.items():
                np.testing.assert_allclose(y, [make_number(network, row, region, measure) for region in DRAWN])
                assert np.round(x).tolist() == [0, 1, 2, 3]
            assert (points[task][0] < points["joint"][0]).all()
    labels = [*EXPRESSIONS, "all faces,\nexpression task", "all faces,\nidentity task"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == labels
    for axes in grid[-1]:
        assert read_texts(axes.get_xticklabels()) == DRAWN
    assert "painted faces" in draw_usual().get_suptitle()
    (legend,) = draw_usual().legends
    assert legend.get_title().get_text() == "regions: label maps; left out, under 1 % everywhere: occluder"
    networks, interval = ["joint network", "expression network", "identity network"], "95 % over seeds and people"
    frame = "difference whose interval excludes 0"
    assert read_legend(draw_usual()) == [*networks, interval, frame]


def test_the_untrained_network_is_drawn_behind_the_others() -> None:
    table = make_regions()
    untrained = table.query("trained_on == 'joint' and against == ''").assign(trained_on="untrained", number=0.005)
    figure = draw_figure_regions(pd.concat([table, untrained], ignore_index=True))
    for row, (task, _) in enumerate(ROWS):
        points = read_points(get_grid(figure)[row, 0])
        assert set(points) == {"joint", task, "untrained"} and set(points["untrained"][1]) == {0.005}
        assert (points[task][0] < points["joint"][0]).all() and (points["joint"][0] < points["untrained"][0]).all()
        assert np.round(points["untrained"][0]).tolist() == [0, 1, 2, 3]
    networks = ["joint network", "expression network", "identity network", "untrained network"]
    assert read_legend(figure)[:4] == networks


def test_points_have_their_networks_colours_and_intervals_and_density_a_line_at_one() -> None:
    grid = get_grid(draw_usual())
    axes = grid[8, 0]
    colours = [to_rgb(line.get_color()) for line in axes.lines if line.get_label().endswith("network")]
    assert colours == [to_rgb(LOOKS[network].colour) for network in ("joint", "identity")]
    bars = [c.lines[2][0].get_segments() for c in axes.containers if isinstance(c, ErrorbarContainer)]
    for network, segments in zip(("joint", "identity"), bars, strict=True):
        numbers = np.array([make_number(network, 8, region, "share") for region in DRAWN])
        np.testing.assert_allclose([ends[:, 1] for ends in segments], np.transpose([0.9 * numbers, 1.2 * numbers]))
    for axes in grid[:, 1]:
        assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [1]
    assert {axes.get_ylim() for axes in grid[:, 0]} == {grid[0, 0].get_ylim()} and grid[0, 0].get_ylim()[0] == 0


def test_differences_are_points_of_share_and_framed_if_their_interval_excludes_zero() -> None:
    grid = get_grid(draw_usual())
    for row, axes in enumerate(grid[:, 2]):
        (image,) = axes.images
        numbers = [make_difference(row, region)[0] for region in DRAWN]
        np.testing.assert_allclose(image.get_array(), [numbers])
        assert image.get_clim() == pytest.approx((-0.09, 0.09))  # the largest that is drawn: 0.05 * 1.8
        assert read_texts(axes.texts) == [format_signed(100 * number, 1) for number in numbers]
        assert [round(frame.get_x() + frame.get_width() / 2) for frame in get_frames(axes)] == [0, 1]
        assert not any(frame.get_fill() for frame in get_frames(axes))
        assert [text.get_fontweight() for text in axes.texts] == ["bold", "bold", "normal", "normal"]
    assert [text.get_text() for text in grid[0, 2].texts] == ["−3.0", "+5.0", "+0.1", "−0.1"]


def test_a_region_that_no_image_of_a_row_shows_is_empty() -> None:
    table = make_regions()
    rows = (table["region"] == "eyes") & (table["expression"] == "happy")
    table.loc[rows, ["number", "low", "high"]] = np.nan
    share, _, difference = get_grid(draw_figure_regions(table))[3]
    assert [np.isnan(y[0]) for _, y in read_points(share).values()] == [True, True]
    assert difference.texts[0].get_text() == "none" and len(get_frames(difference)) == 1


def test_without_any_mass_the_page_has_the_reason() -> None:
    table = make_regions().assign(number=np.nan, low=np.nan, high=np.nan, reason="no heatmap has any mass")
    figure = draw_figure_regions(table)
    assert not figure.axes and "no heatmap has any mass" in read_texts(figure.texts)


@pytest.mark.parametrize("count", [1, 12, 25])
def test_any_number_of_regions_is_legible(count: int, legible: Callable[[Any], None]) -> None:
    eyes, occluder = (rows for _, rows in make_regions().query("region in ('eyes', 'occluder')").groupby("region"))
    large = [eyes.assign(region=f"{'part of the face ' * 9}{number}") for number in range(count)]
    negligible = [occluder.assign(region=f"small {number}") for number in range(30)]
    figure = draw_figure_regions(pd.concat([*large, *negligible]))
    legible(figure)
    assert len({text.get_text() for text in figure.axes[-1].get_xticklabels()}) == count
