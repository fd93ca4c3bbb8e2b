"""Points, cells and frames are read back from their artists, and compared with the tables' numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle

from facespec.figures.boxes import format_signed
from facespec.figures.regions import choose_regions, draw_figure_regions
from facespec.figures.style import LOOKS

EXPRESSIONS = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
ROWS = [("expression", name) for name in (*EXPRESSIONS, "all")] + [("identity", "all")]
REGIONS = ["background", "moustache", "mouth", "eyes", "occluder"]  # in the table's order
SHOWN = ["eyes", "mouth", "background", "moustache"]
LABELS = ["eyes", "mouth", "background", "moustache"]


def number(network: str, place: int, region: str, measure: str) -> float:
    """Every number its own; the occluder gets next to nothing."""
    if region == "occluder":
        return 0.009
    own = 0.02 + 0.01 * place + 0.1 * REGIONS.index(region) + (0.003 if network == "joint" else 0.0)
    return own if measure == "share" else 10 * own


def difference(place: int, region: str) -> tuple[float, float, float]:
    """Number, low, high: surely below 0 for eyes, surely above for the mouth, unsure for the rest."""
    own = {"eyes": -0.03, "mouth": 0.05, "background": 0.001, "moustache": -0.001, "occluder": 0.2}[region]
    if region in ("background", "moustache"):
        return own * (1 + place / 10), -0.02, 0.02
    return own * (1 + place / 10), own - 0.02, own + 0.02


def regions_table() -> pd.DataFrame:
    rows = []
    for place, (task, expression) in enumerate(ROWS):
        for region in REGIONS:
            for measure in ("density", "share"):
                about = {
                    "tested_on": task,
                    "expression": expression,
                    "region": region,
                    "measure": measure,
                    "source": "painted faces",
                    "regions": "label maps",
                    "seeds": 2,
                    "people": 3,
                    "n": 21,
                    "blank": 0,
                    "reason": "",
                }
                for network in (task, "joint"):
                    own = number(network, place, region, measure)
                    rows.append(
                        about
                        | {"trained_on": network, "against": "", "number": own, "low": own * 0.9, "high": own * 1.2}
                    )
                own, low, high = difference(place, region)
                factor = 1 if measure == "share" else 7
                rows.append(
                    about
                    | {
                        "trained_on": "joint",
                        "against": "single",
                        "number": own * factor,
                        "low": low * factor,
                        "high": high * factor,
                    }
                )
    return pd.DataFrame(rows)


def points(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): line.get_xydata().T for line in axes.lines if line.get_label().endswith("network")}


def test_regions_stand_from_the_top_of_the_face_down_and_the_negligible_are_named() -> None:
    assert choose_regions(regions_table()) == (SHOWN, ["occluder"])
    table = regions_table()
    one = (table["region"] == "occluder") & (table["expression"] == "sad") & (table["measure"] == "share")
    table.loc[one & (table["against"] == "") & (table["trained_on"] == "joint"), "number"] = 0.01
    assert choose_regions(table) == (["eyes", "mouth", "occluder", "background", "moustache"], [])


def test_every_row_shows_both_networks_for_every_region() -> None:
    figure = draw_figure_regions(regions_table())
    grid = np.array(figure.axes).reshape(len(ROWS), 3)
    for place, (task, _) in enumerate(ROWS):
        for axes, measure in zip(grid[place], ("share", "density"), strict=False):
            found = points(axes)
            assert set(found) == {"joint network", f"{task} network"}
            for label, (x, y) in found.items():
                network = label.removesuffix(" network")
                np.testing.assert_allclose(y, [number(network, place, region, measure) for region in SHOWN])
                assert np.round(x).tolist() == [0, 1, 2, 3]
            assert (found[f"{task} network"][0] < found["joint network"][0]).all()
    names = [axes.get_ylabel() for axes in grid[:, 0]]
    assert names == [*EXPRESSIONS, "all faces,\nexpression task", "all faces,\nidentity task"]
    for axes in grid[-1]:
        assert [label.get_text() for label in axes.get_xticklabels()] == LABELS
    assert "painted faces" in figure.get_suptitle()
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "regions: label maps; left out, under 1 % everywhere: occluder"
    assert [text.get_text() for text in legend.get_texts()] == [
        "joint network",
        "expression network",
        "identity network",
        "95 % over seeds and people",
        "difference whose interval excludes 0",
    ]


def test_points_wear_their_networks_colours_and_intervals() -> None:
    axes = np.array(draw_figure_regions(regions_table()).axes).reshape(len(ROWS), 3)[8, 0]
    for line in axes.lines:
        if line.get_label().endswith("network"):
            network = line.get_label().removesuffix(" network")
            assert to_rgb(line.get_color()) == to_rgb(LOOKS[network].colour)
    bars = [c.lines[2][0].get_segments() for c in axes.containers if isinstance(c, ErrorbarContainer)]
    for network, segments in zip(("joint", "identity"), bars, strict=True):
        own = [number(network, 8, region, "share") for region in SHOWN]
        np.testing.assert_allclose([ends[:, 1] for ends in segments], [(0.9 * n, 1.2 * n) for n in own])


def test_density_has_a_line_at_one_and_axes_begin_at_zero() -> None:
    grid = np.array(draw_figure_regions(regions_table()).axes).reshape(len(ROWS), 3)
    for axes in grid[:, 1]:
        assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [1]
    assert {axes.get_ylim() for axes in grid[:, 0]} == {grid[0, 0].get_ylim()} and grid[0, 0].get_ylim()[0] == 0


def test_differences_are_points_of_share_and_framed_where_sure() -> None:
    grid = np.array(draw_figure_regions(regions_table()).axes).reshape(len(ROWS), 3)
    for place, axes in enumerate(grid[:, 2]):
        (image,) = axes.images
        own = [difference(place, region)[0] for region in SHOWN]
        np.testing.assert_allclose(image.get_array(), [own])
        assert image.get_clim() == pytest.approx((-0.09, 0.09))  # the largest that is shown: 0.05 * 1.8
        assert [text.get_text() for text in axes.texts] == [format_signed(100 * n, 1) for n in own]
        frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert [round(frame.get_x() + frame.get_width() / 2) for frame in frames] == [0, 1]
        assert [text.get_fontweight() for text in axes.texts] == ["bold", "bold", "normal", "normal"]
    assert [text.get_text() for text in grid[0, 2].texts] == ["−3.0", "+5.0", "+0.1", "−0.1"]


def test_a_region_that_no_picture_of_a_row_shows_is_left_empty() -> None:
    table = regions_table()
    gone = (table["region"] == "eyes") & (table["expression"] == "happy")
    table.loc[gone, ["number", "low", "high"]] = np.nan
    table.loc[gone, "reason"] = "no image shows this region"
    grid = np.array(draw_figure_regions(table).axes).reshape(len(ROWS), 3)
    assert [np.isnan(y[0]) for _, y in points(grid[3, 0]).values()] == [True, True]
    assert grid[3, 2].texts[0].get_text() == "none"
    assert len([patch for patch in grid[3, 2].patches if isinstance(patch, Rectangle)]) == 1


def test_without_any_mass_the_page_says_why() -> None:
    table = regions_table().assign(number=np.nan, low=np.nan, high=np.nan, reason="no heatmap has any mass")
    figure = draw_figure_regions(table)
    assert not figure.axes and "no heatmap has any mass" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("count", [1, 4, 12, 40])
def test_any_number_of_regions_is_legible(count: int, legible: Callable[[Any], None]) -> None:
    table = regions_table()
    eyes, dropped = table[table["region"] == "eyes"], table[table["region"] == "occluder"]
    shown = [eyes.assign(region=f"{'part of the face ' * 9}{number}") for number in range(count)]
    figure = draw_figure_regions(
        pd.concat([*shown, *(dropped.assign(region=f"small {number}") for number in range(30))])
    )
    legible(figure)
    labels = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert len(set(labels)) == count
