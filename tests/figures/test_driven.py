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

NETWORKS = ("expression", "identity", "joint")
KINDS = {"optimised": 5.0, "image": 0.4, "start": 0.1, "random": 0.02}
LAYERS = {"trunk.relu1": 5, "trunk.relu2": 7}


def response(network: str, depth: int, kind: str, unit: int) -> float:
    """Every number its own; the weakest image gives 0.4."""
    return KINDS[kind] * (1 + NETWORKS.index(network)) * depth * (1 + unit)


def table() -> pd.DataFrame:
    rows = [
        {
            "trained_on": network,
            "source": "painted faces",
            "seed": 3,
            "layer": layer,
            "depth": depth,
            "unit": unit,
            "kind": kind,
            "response": response(network, depth, kind, unit),
            "stimulus": "",
            "row": np.nan,
            "column": np.nan,
            "reason": "",
        }
        for network in NETWORKS
        for depth, (layer, units) in enumerate(LAYERS.items(), start=1)
        for unit in range(units)
        for kind in KINDS
    ]
    return PREFERRED.check(pd.DataFrame(rows).sample(frac=1, random_state=4, ignore_index=True))


def medians(axes: Axes) -> list[float]:
    """From left to right; a median's line is level and as wide as its box, a cap is half as wide."""
    widest = max(np.ptp(line.get_xdata()) for line in axes.lines)
    drawn = [line for line in axes.lines if np.isclose(np.ptp(line.get_xdata()), widest)]
    return [float(line.get_ydata()[0]) for line in sorted(drawn, key=lambda line: line.get_xdata().mean())]


def test_boxes_show_the_units_of_every_layer() -> None:
    figure = draw_figure_S2B(table())
    assert [axes.get_title() for axes in figure.axes] == [f"{network} network" for network in NETWORKS]
    for axes, network in zip(figure.axes, NETWORKS, strict=True):
        # of 5 units the third, of 7 the fourth; random pictures on average are not drawn
        expected = [
            response(network, depth, kind, 1 + depth) for depth in (1, 2) for kind in ("optimised", "image", "start")
        ]
        np.testing.assert_allclose(medians(axes), expected)
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["trunk.relu1\n5 units", "trunk.relu2\n7 units"]
        faces = [patch.get_facecolor()[:3] for patch in axes.patches]
        look = LOOKS[network]
        assert faces == [to_rgb(colour) for colour in (look.colour, look.published, "white")] * 2
        reach = [float(y) for line in axes.lines for y in line.get_ydata()]
        assert min(reach) == response(network, 1, "start", 0) and max(reach) == response(network, 2, "optimised", 6)
        lowest, highest = axes.get_ylim()
        assert lowest == 0 and highest >= max(reach)
    assert figure.get_suptitle() == "Figure S2B. How strongly units are driven, and by what (painted faces; seed 3)"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "picture made for the unit",
        "the image that drives it most",
        "the random picture that it was made from",
    ]


def test_small_responses_keep_a_place_though_they_are_zero() -> None:
    given = table()
    given.loc[given["kind"] == "start", "response"] = 0.0
    given.loc[(given["kind"] == "image") & (given["unit"] == 2), "response"] = 0.0
    axes = draw_figure_S2B(given).axes[0]
    assert axes.get_yscale() == "symlog" and axes.yaxis.get_transform().linthresh == 0.1  # 0.4 is the weakest image
    assert medians(axes)[2] == 0.0


def test_dead_units_are_counted_and_left_out() -> None:
    given = table()
    dead = given.eval("trained_on == 'joint' and layer == 'trunk.relu2' and unit < 2")
    given.loc[dead & (given["kind"] == "optimised"), "response"] = np.nan
    joint = draw_figure_S2B(given).axes[2]
    assert [tick.get_text() for tick in joint.get_xticklabels()] == [
        "trunk.relu1\n5 units",
        "trunk.relu2\n5 units, 2 dead",
    ]
    np.testing.assert_allclose(medians(joint)[3:], [response("joint", 2, kind, 4) for kind in list(KINDS)[:3]])


def test_a_network_that_nothing_drives_has_an_empty_panel() -> None:
    given = table()
    given["response"] = given["response"].where(given["kind"] != "optimised")
    given.loc[given["kind"] == "image", "response"] = 0.0
    figure = draw_figure_S2B(given)
    assert [len(axes.patches) for axes in figure.axes] == [0, 0, 0]
    figure.draw_without_rendering()


@pytest.mark.parametrize("layers", [1, 8, 9, 50])
def test_any_number_of_layers_is_legible(layers: int, legible: Callable[[Figure], None]) -> None:
    given = table()
    given.loc[(given["unit"] == 4) & (given["kind"] == "optimised"), "response"] = np.nan  # dead: a longer label
    first = given[given["depth"] == 1]
    names = {depth: f"encoder.block{depth}.attention.out" for depth in range(1, layers + 1)}
    figure = draw_figure_S2B(pd.concat([first.assign(depth=depth, layer=name) for depth, name in names.items()]))
    legible(figure)
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert len(set(labels)) == len(labels) and all("4 units, 1 dead" in label for label in labels)
    assert len(labels) == layers or layers == 100
