"""Curves are read back from their artists, and compared with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from facespec.figures.depth import draw_figure_depth
from facespec.figures.style import LOOKS
from facespec.study.errors import StudyError
from facespec.study.tables import LAYER_DECODING, SIMILARITY, UNIT_SHARES, UNITS
from toys import combine, get_lines, make_table, read_legend, read_texts

NETWORKS = ("expression", "identity", "joint", "untrained")
TASKS = ("expression", "identity")
SEEDS, DEPTHS = (4, 9), (1, 2, 3)
PAIRS = [("expression", "identity"), ("expression", "joint"), ("identity", "joint")]


def make_number(network: str, task: str, depth: int, seed: int) -> float:
    """All numbers differ; seeds are 0.02 apart."""
    return 0.1 + 0.15 * NETWORKS.index(network) + 0.06 * TASKS.index(task) + 0.05 * depth + 0.02 * SEEDS.index(seed)


def make_similarity(first: str, second: str, depth: int, seed: int) -> float:
    networks = 0.1 * NETWORKS.index(first) + 0.03 * NETWORKS.index(second)
    return 0.8 - 0.3 * depth + networks + 0.02 * SEEDS.index(seed)


def make_tables(seeds: Sequence[int] = SEEDS) -> dict[str, pd.DataFrame]:
    decoding, shares, units = [], [], []
    for row in combine(trained_on=NETWORKS, tested_on=TASKS, depth=DEPTHS, seed=seeds):
        task = row["tested_on"]
        number = make_number(*row.values())
        key = {name: row[name] for name in ("trained_on", "depth", "seed")}
        decoding.append(row | {"chance": 0.14 if task == "expression" else 0.02, "accuracy": number})
        count = round(200 * number)
        for kind, units_of_kind in (("specific", count), ("class", 200 - count)):
            shares.append(key | {"kind": kind, "name": task, "units": 200, "count": units_of_kind})
        # half of an even number of units are far above: the median is not the mean
        for unit, eta in enumerate([number - 0.1, number - 0.01, number + 0.01, 1.0, np.nan]):
            units.append(key | {"factor": task, "unit": unit, "people": 3, "eta": eta})
    similarity = []
    pairs = [(first, seed, second, seed) for seed in seeds for first, second in PAIRS]
    pairs += [(network, seeds[0], network, other) for network in NETWORKS[:3] for other in seeds[1:]]
    for (first, seed, second, other), depth in ((pair, depth) for pair in pairs for depth in DEPTHS):
        row = {"first_trained_on": first, "first_seed": seed, "second_trained_on": second, "second_seed": other}
        ckas = {"debiased": make_similarity(first, second, depth, seed), "plain": 1.0}
        similarity += [row | {"depth": depth, "estimator": name, "cka": cka} for name, cka in ckas.items()]
    shared = {"source": "painted faces", "layer": "trunk.relu"}
    return {
        "decoding": make_table(LAYER_DECODING, decoding, **shared),
        "shares": make_table(UNIT_SHARES, shares, **shared),
        "units": make_table(UNITS, units, **shared),
        "similarity": make_table(SIMILARITY, similarity, **shared),
    }


def draw(tables: dict[str, pd.DataFrame]) -> np.ndarray:
    """The axes, four rows of two."""
    return np.array(draw_figure_depth(**tables).axes).reshape(4, 2)


@cache
def draw_usual() -> np.ndarray:
    return draw(make_tables())


def read_curves(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {gid: line.get_data() for gid, line in get_lines(axes).items()}


def test_every_panel_shows_means_over_seeds_and_their_range() -> None:
    for row, tolerance in zip(draw_usual()[:3], (1e-9, 0.0026, 1e-9), strict=True):  # shares are of 200 units
        for axes, task in zip(row, TASKS, strict=True):
            curves = read_curves(axes)
            assert list(curves) == list(NETWORKS)
            for (network, (x, y)), lines in zip(curves.items(), axes.collections, strict=True):
                numbers = [[make_number(network, task, depth, seed) for seed in SEEDS] for depth in DEPTHS]
                assert np.round(x).tolist() == list(DEPTHS)
                np.testing.assert_allclose(y, np.mean(numbers, axis=1), atol=tolerance)
                ranges = [ends[:, 1] for ends in lines.get_segments()]
                np.testing.assert_allclose(ranges, numbers, atol=tolerance)


def test_similarity_of_networks_and_of_seeds() -> None:
    left, right = draw_usual()[3]
    curves = read_curves(left)
    assert list(curves) == [f"{first}-{second}" for first, second in PAIRS]
    for first, second in PAIRS:
        expected = [np.mean([make_similarity(first, second, depth, seed) for seed in SEEDS]) for depth in DEPTHS]
        np.testing.assert_allclose(curves[f"{first}-{second}"][1], expected)
    assert list(read_curves(right)) == list(NETWORKS[:3])
    for network, (_, y) in read_curves(right).items():
        np.testing.assert_allclose(y, [make_similarity(network, network, depth, SEEDS[0]) for depth in DEPTHS])
    lowest = min(y.min() for axes in (left, right) for _, y in read_curves(axes).values())
    assert lowest < 0 and lowest - 0.05 < left.get_ylim()[0] < lowest
    assert (left.get_title(), right.get_title()) == ("two networks of one seed", "two seeds of one network")


def test_networks_have_their_colours_and_curves_do_not_hide_each_other() -> None:
    for lines in map(get_lines, draw_usual()[:3].flat):
        for network, look in LOOKS.items():
            assert to_rgb(lines[network].get_color()) == to_rgb(look.colour)
        assert len({line.get_marker() for line in lines.values()}) == 4
        assert len({line.get_xdata()[0] for line in lines.values()}) == 4


def test_chance_titles_and_legend() -> None:
    grid = draw_usual()
    for axes, chance in zip(grid[0], (0.14, 0.02), strict=True):
        assert [line.get_ydata()[0] for line in axes.lines if not line.get_gid()] == [chance]
    templates = ("{} read out", "units specific to {}", "effect of {}")
    titles = [template.format(task) for template in templates for task in TASKS]
    assert [axes.get_title() for axes in grid[:3].flat] == titles
    labels = ["accuracy on held-out images", "share of units", "median eta squared", "similarity (debiased CKA)"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == labels
    assert all(axes.get_xticks().tolist() == [1, 2, 3] for axes in grid.flat)
    figure = grid[0, 0].figure
    networks = ["expression network", "identity network", "joint network", "untrained network"]
    pairs = ["expression and identity", "expression and joint", "identity and joint"]
    assert read_legend(figure) == [*networks, *pairs, "chance", "lowest to highest seed"]
    assert figure.get_suptitle() == "What the layers tell apart (painted faces)"


def test_layers_of_equal_depth_are_pooled() -> None:
    """Shares of all their units; medians over all their units; means of accuracies."""
    tables = make_tables()
    changes = {"shares": {"units": 600, "count": 0}, "decoding": {"accuracy": 0.0}, "units": {"eta": 0.0}}
    for name, columns in changes.items():
        other = tables[name].query("depth == 3").assign(layer="branches.identity.relu3", **columns)
        tables[name] = pd.concat([tables[name], other], ignore_index=True)
    decoding, shares, units = (read_curves(axes)["joint"][1][2] for axes in draw(tables)[:3, 1])
    joint = np.mean([make_number("joint", "identity", 3, seed) for seed in SEEDS])
    assert decoding == pytest.approx(joint / 2) and shares == pytest.approx(joint / 4, abs=0.001)
    assert units == pytest.approx(0.0)  # of nine units five have no effect


def test_layers_without_a_number_are_left_out() -> None:
    tables = make_tables()
    shares, units = tables["shares"], tables["units"]
    shares.loc[shares.eval("trained_on == 'joint' and depth == 2"), ["units", "count"]] = 0
    units.loc[units.eval("trained_on == 'identity'"), "eta"] = np.nan
    grid = draw(tables)
    assert np.round(read_curves(grid[1, 0])["joint"][0]).tolist() == [1, 3]
    assert list(read_curves(grid[2, 0])) == ["expression", "joint", "untrained"]


def test_one_seed_has_no_other_seed_to_be_compared_with() -> None:
    axes = draw(make_tables(seeds=[4]))[3, 1]
    assert not read_curves(axes) and read_texts(axes.texts) == ["one seed only"]
    assert not draw_usual()[3, 1].texts


def test_a_table_of_another_kind_is_refused() -> None:
    tables = make_tables()
    tables["decoding"]["tested_on"] = "age"
    with pytest.raises(StudyError, match=r"'layer_decoding', column 'tested_on', row 0: got 'age', allowed: one of"):
        draw(tables)


@pytest.mark.parametrize("depths", [1, 13, 50])
def test_any_number_of_layers_is_legible(depths: int, legible: Callable[[Figure], None]) -> None:
    tables = {
        name: pd.concat([table[table["depth"] == 1].assign(depth=depth) for depth in range(1, depths + 1)])
        for name, table in make_tables().items()
    }
    figure = draw_figure_depth(**tables)
    legible(figure)
    assert (len(figure.axes[0].get_xticks()) == depths) == (depths < 14)
