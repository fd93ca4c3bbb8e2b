"""Curves are read back from their artists, and compared with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable

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

EVERYONE = ("expression", "identity", "joint", "untrained")
TASKS = ("expression", "identity")
SEEDS, DEPTHS = (4, 9), (1, 2, 3)
PAIRS = [("expression", "identity"), ("expression", "joint"), ("identity", "joint")]


def level(name: str, task: str, depth: int, seed: int) -> float:
    """Every number its own; seeds 0.02 apart."""
    return 0.1 + 0.15 * EVERYONE.index(name) + 0.06 * TASKS.index(task) + 0.05 * depth + 0.02 * SEEDS.index(seed)


def place(name: str, depth: int, seed: int) -> dict[str, object]:
    return {"trained_on": name, "source": "painted faces", "seed": seed, "layer": f"trunk.relu{depth}", "depth": depth}


def tables(seeds: tuple[int, ...] = SEEDS) -> dict[str, pd.DataFrame]:
    decoding, shares, units, similarity = [], [], [], []
    for name, task, depth, seed in ((n, t, d, s) for n in EVERYONE for t in TASKS for d in DEPTHS for s in seeds):
        own, about = level(name, task, depth, seed), place(name, depth, seed)
        chance = 0.14 if task == "expression" else 0.02
        decoding.append(about | {"tested_on": task, "n": 7, "chance": chance, "accuracy": own})
        count = round(200 * own)
        shares += [
            about | {"kind": kind, "name": task, "units": 200, "silent": 1, "count": of, "share": of / 200}
            for kind, of in (("specific", count), ("class", 200 - count))
        ]
        # an even number of units, of which half are far above: the median is not the mean
        etas = [own - 0.1, own - 0.01, own + 0.01, 1.0]
        units += [
            about
            | {
                "unit": unit,
                "factor": task,
                "people": 3,
                "eta": eta,
                "partial_eta": 0.5,
                "epsilon": 0.5,
                "f": 1.0,
                "p_parametric": 0.5,
                "p": 0.5,
                "p_fdr": 0.5,
                "reason": "",
            }
            for unit, eta in enumerate([*etas, np.nan])
        ]
    compared = [(a, s, b, s) for s in seeds for a, b in PAIRS]
    compared += [(name, seeds[0], name, other) for name in EVERYONE[:3] for other in seeds[1:]]
    for first, seed, second, other in compared:
        for depth in DEPTHS:
            cka = alike(first, second, depth, seed)
            about = {
                "first_trained_on": first,
                "first_seed": seed,
                "second_trained_on": second,
                "second_seed": other,
                "source": "painted faces",
                "layer": f"trunk.relu{depth}",
                "depth": depth,
                "n": 7,
                "reason": "",
            }
            similarity += [about | {"estimator": "debiased", "cka": cka}, about | {"estimator": "plain", "cka": 1.0}]
    made = zip((LAYER_DECODING, UNIT_SHARES, UNITS, SIMILARITY), (decoding, shares, units, similarity), strict=True)
    names = ("decoding", "shares", "units", "similarity")
    return {name: schema.check(pd.DataFrame(rows)) for name, (schema, rows) in zip(names, made, strict=True)}


def alike(first: str, second: str, depth: int, seed: int) -> float:
    return 0.9 - 0.3 * depth + 0.1 * EVERYONE.index(first) + 0.03 * EVERYONE.index(second) + 0.02 * SEEDS.index(seed)


def grid(figure: Figure) -> np.ndarray:
    return np.array(figure.axes).reshape(4, 2)


def curves(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {str(line.get_gid()): line.get_data() for line in axes.lines if line.get_gid()}


def spans(axes: Axes) -> np.ndarray:
    """(curves, depths, 2): lowest and highest."""
    return np.array([[ends[:, 1] for ends in lines.get_segments()] for lines in axes.collections])


def test_every_panel_shows_means_over_seeds_and_their_range() -> None:
    figure = draw_figure_depth(**tables())
    for row, slack in zip(grid(figure)[:3], (1e-9, 0.0026, 1e-9), strict=True):  # shares are of 200 units
        for axes, task in zip(row, TASKS, strict=True):
            found = curves(axes)
            assert list(found) == list(EVERYONE)
            for name, span in zip(EVERYONE, spans(axes), strict=True):
                x, y = found[name]
                each = np.array([[level(name, task, depth, seed) for seed in SEEDS] for depth in DEPTHS])
                assert np.round(x).tolist() == list(DEPTHS)
                np.testing.assert_allclose(y, each.mean(axis=1), atol=slack)
                np.testing.assert_allclose(span, each, atol=slack)


def test_similarity_of_networks_and_of_seeds() -> None:
    between, across = grid(draw_figure_depth(**tables()))[3]
    found = curves(between)
    assert list(found) == [f"{first}-{second}" for first, second in PAIRS]
    for first, second in PAIRS:
        expected = [np.mean([alike(first, second, depth, seed) for seed in SEEDS]) for depth in DEPTHS]
        np.testing.assert_allclose(found[f"{first}-{second}"][1], expected)
    found = curves(across)
    assert list(found) == list(EVERYONE[:3])
    for name in found:
        np.testing.assert_allclose(found[name][1], [alike(name, name, depth, SEEDS[0]) for depth in DEPTHS])
    low = min(line[1].min() for axes in (between, across) for line in curves(axes).values())
    assert low < between.get_ylim()[0] + 0.05 < 0.05 and between.get_ylim()[0] < low  # below 0 as well
    assert between.get_title() == "two networks of one seed" and across.get_title() == "two seeds of one network"


def test_networks_have_their_colours_and_curves_do_not_hide_each_other() -> None:
    figure = draw_figure_depth(**tables())
    for axes in grid(figure)[:3].flat:
        drawn = [line for line in axes.lines if line.get_gid()]
        for line in drawn:
            if line.get_gid() != "untrained":
                assert to_rgb(line.get_color()) == to_rgb(LOOKS[line.get_gid()].colour)
        assert len({line.get_marker() for line in drawn}) == len({line.get_xdata()[0] for line in drawn}) == 4


def test_chance_titles_and_legend() -> None:
    figure = draw_figure_depth(**tables())
    axes = grid(figure)
    for each, chance in zip(axes[0], (0.14, 0.02), strict=True):
        assert [line.get_ydata()[0] for line in each.lines if not line.get_gid()] == [chance]
    assert [each.get_title() for each in axes[:3].flat] == [
        "expression read out",
        "identity read out",
        "units specific to expression",
        "units specific to identity",
        "effect of expression",
        "effect of identity",
    ]
    assert [each.get_ylabel() for each in axes[:, 0]] == [
        "accuracy on held-out images",
        "share of units",
        "median eta squared",
        "similarity (debiased CKA)",
    ]
    assert all(each.get_xticks().tolist() == [1, 2, 3] for each in axes.flat)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "expression network",
        "identity network",
        "joint network",
        "before any training",
        "expression and identity",
        "expression and joint",
        "identity and joint",
        "chance",
        "lowest to highest seed",
    ]
    assert figure.get_suptitle() == "What the layers tell apart (painted faces)"


def test_layers_of_equal_depth_are_taken_together() -> None:
    """Shares of all their units; medians over all their units; means of accuracies."""
    given = tables()
    twin = {name: table[table["depth"] == 3].assign(layer="branches.identity.relu3") for name, table in given.items()}
    twin["shares"] = twin["shares"].assign(units=600, count=0, share=0.0)
    twin["decoding"] = twin["decoding"].assign(accuracy=0.0)
    twin["units"] = twin["units"].assign(eta=0.0)
    given = {name: pd.concat([given[name], twin[name]], ignore_index=True) for name in given}
    axes = grid(draw_figure_depth(**given))
    joint = np.mean([level("joint", "identity", 3, seed) for seed in SEEDS])
    assert curves(axes[0, 1])["joint"][1][2] == pytest.approx(joint / 2)
    assert curves(axes[1, 1])["joint"][1][2] == pytest.approx(joint / 4, abs=0.001)
    # of nine units five are at zero
    assert curves(axes[2, 1])["joint"][1][2] == pytest.approx(0.0)


def test_layers_without_an_answer_are_left_out() -> None:
    given = tables()
    silent = given["shares"].eval("trained_on == 'joint' and depth == 2")
    given["shares"].loc[silent, ["units", "count"]] = 0
    given["shares"].loc[silent, "share"] = np.nan
    nothing = given["units"].eval("trained_on == 'identity'")
    given["units"].loc[nothing, "eta"] = np.nan
    axes = grid(draw_figure_depth(**given))
    assert np.round(curves(axes[1, 0])["joint"][0]).tolist() == [1, 3]
    assert list(curves(axes[2, 0])) == ["expression", "joint", "untrained"]


def test_one_seed_has_no_other_to_be_compared_with() -> None:
    across = grid(draw_figure_depth(**tables(seeds=(4,))))[3, 1]
    assert not curves(across) and [text.get_text() for text in across.texts] == ["one seed only"]
    assert not grid(draw_figure_depth(**tables()))[3, 1].texts


def test_a_table_of_another_kind_is_refused() -> None:
    given = tables()
    given["decoding"] = given["decoding"].assign(tested_on="age")
    with pytest.raises(StudyError) as caught:
        draw_figure_depth(**given)
    assert str(caught.value) == (
        "table 'layer_decoding', column 'tested_on', row 0: got 'age', allowed: one of ['expression', 'identity']."
    )


@pytest.mark.parametrize("depths", [1, 13, 100])
def test_any_number_of_layers_is_legible(depths: int, legible: Callable[[Figure], None]) -> None:
    given = {
        name: pd.concat([table[table["depth"] == 1].assign(depth=depth) for depth in range(1, depths + 1)])
        for name, table in tables().items()
    }
    figure = draw_figure_depth(**given)
    legible(figure)
    assert (len(figure.axes[0].get_xticks()) == depths) == (depths < 14)
