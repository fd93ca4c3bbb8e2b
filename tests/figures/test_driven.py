"""Boxes are read back from their artists, and compared with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from facespec.figures.driven import draw_figure_S2B
from facespec.figures.style import LOOKS
from facespec.study.tables import PREFERRED
from toys import combine, make_table, read_legend, read_texts

NETWORKS = ("expression", "identity", "joint", "untrained")
KINDS = {"optimised": 5.0, "image": 0.4, "start": 0.1, "random": 0.02}
DRAWN_KINDS = list(KINDS)[:3]
UNIT_COUNTS = {1: 5, 2: 7}  # by depth


def make_response(network: str, depth: int, kind: str, unit: int) -> float:
    """All responses differ; the weakest to an image is 0.4."""
    return KINDS[kind] * (1 + NETWORKS.index(network)) * depth * (1 + unit)


def make_responses() -> pd.DataFrame:
    rows = combine(trained_on=NETWORKS, depth=[1, 2], kind=KINDS, unit=range(7))
    rows = [
        row | {"layer": f"trunk.relu{row['depth']}", "response": make_response(*row.values())}
        for row in rows
        if row["unit"] < UNIT_COUNTS[row["depth"]]
    ]
    return make_table(PREFERRED, rows, source="painted faces", seed=3).sample(frac=1, random_state=4, ignore_index=True)


def read_medians(axes: Axes) -> list[float]:
    """From left to right. A median's line is as wide as its box, a cap is half as wide."""
    widest = max(np.ptp(line.get_xdata()) for line in axes.lines)
    medians = [line for line in axes.lines if np.isclose(np.ptp(line.get_xdata()), widest)]
    return [float(line.get_ydata()[0]) for line in sorted(medians, key=lambda line: line.get_xdata().mean())]


def test_boxes_show_the_units_of_every_layer() -> None:
    figure = draw_figure_S2B(make_responses())
    assert [axes.get_title() for axes in figure.axes] == [f"{network} network" for network in NETWORKS]
    for axes, network in zip(figure.axes, NETWORKS, strict=True):
        # the median of 5 units is the third, of 7 the fourth; responses to random images are not drawn
        medians = [make_response(network, depth, kind, 1 + depth) for depth in (1, 2) for kind in DRAWN_KINDS]
        np.testing.assert_allclose(read_medians(axes), medians)
        assert read_texts(axes.get_xticklabels()) == ["trunk.relu1\n5 units", "trunk.relu2\n7 units"]
        look = LOOKS[network]
        colours = [to_rgb(colour) for colour in (look.colour, look.published, "white")]
        assert [patch.get_facecolor()[:3] for patch in axes.patches] == colours * 2
        y = [float(value) for line in axes.lines for value in line.get_ydata()]
        assert min(y) == make_response(network, 1, "start", 0) and max(y) == make_response(network, 2, "optimised", 6)
        assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= max(y)
    assert figure.get_suptitle() == "Figure S2B. How strongly units are driven, and by what (painted faces; seed 3)"
    assert read_legend(figure) == [
        "picture made for the unit",
        "the image that drives it most",
        "the random picture that it was made from",
    ]


def test_zero_responses_are_drawn_on_the_linear_part_of_the_scale() -> None:
    table = make_responses()
    table.loc[table["kind"] == "start", "response"] = 0.0
    table.loc[(table["kind"] == "image") & (table["unit"] == 2), "response"] = 0.0
    axes = draw_figure_S2B(table).axes[0]
    assert axes.get_yscale() == "symlog" and axes.yaxis.get_transform().linthresh == 0.1  # 0.4 is the weakest image
    assert read_medians(axes)[2] == 0.0


def test_dead_units_are_counted_and_left_out() -> None:
    table = make_responses()
    dead = table.eval("trained_on == 'joint' and layer == 'trunk.relu2' and unit < 2")
    table.loc[dead & (table["kind"] == "optimised"), "response"] = np.nan
    joint = draw_figure_S2B(table).axes[2]
    assert read_texts(joint.get_xticklabels()) == ["trunk.relu1\n5 units", "trunk.relu2\n5 units, 2 dead"]
    np.testing.assert_allclose(read_medians(joint)[3:], [make_response("joint", 2, kind, 4) for kind in DRAWN_KINDS])


def test_networks_that_the_table_lacks_have_no_panel() -> None:
    figure = draw_figure_S2B(make_responses().query("trained_on != 'untrained'"))
    assert [axes.get_title() for axes in figure.axes] == ["expression network", "identity network", "joint network"]


def test_a_network_of_dead_units_has_an_empty_panel() -> None:
    table = make_responses()
    table["response"] = table["response"].where(table["kind"] != "optimised")
    table.loc[table["kind"] == "image", "response"] = 0.0
    figure = draw_figure_S2B(table)
    assert [len(axes.patches) for axes in figure.axes] == [0, 0, 0, 0]
    figure.draw_without_rendering()


@pytest.mark.parametrize("layers", [1, 8, 9, 24])
def test_any_number_of_layers_is_legible(layers: int, legible: Callable[[Figure], None]) -> None:
    table = make_responses().query("depth == 1")
    table.loc[(table["unit"] == 4) & (table["kind"] == "optimised"), "response"] = np.nan  # dead: a longer label
    names = {depth: f"encoder.block{depth}.attention.out" for depth in range(1, layers + 1)}
    figure = draw_figure_S2B(pd.concat([table.assign(depth=depth, layer=name) for depth, name in names.items()]))
    legible(figure)
    labels = read_texts(figure.axes[0].get_xticklabels())
    assert len(set(labels)) == len(labels) == layers and all("4 units, 1 dead" in label for label in labels)
