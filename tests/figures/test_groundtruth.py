"""Points and lines are read back from their artists, and compared with the table's numbers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from facespec.figures.groundtruth import draw_figure_groundtruth
from facespec.figures.style import LOOKS
from facespec.study.errors import StudyError
from facespec.study.tables import GROUNDTRUTH
from toys import combine, make_table, read_legend

# from left to right
NETWORKS = [("joint", "expression"), ("expression", "expression"), ("joint", "identity"), ("identity", "identity")]
POINTS = [*NETWORKS, ("random", ""), ("centre", "")]
TRUTHS, MEASURES = ("expression", "identity"), ("pointing", "mass", "auc")
AREA = {"expression": 0.08, "identity": 0.31}
# (looks, tested_on, truth): the only ones that surpass both baselines
BETTER = {("joint", "expression", "expression"), ("identity", "identity", "identity")}


def make_score(index: int, truth: str, measure: str) -> float:
    """All scores differ."""
    return 0.1 + 0.1 * index + 0.2 * TRUTHS.index(truth) + 0.01 * MEASURES.index(measure)


def make_scores() -> pd.DataFrame:
    rows = []
    for row in combine(truth=TRUTHS[::-1], measure=MEASURES[::-1], index=range(6)):
        score, (looks, tested_on) = make_score(row["index"], row["truth"], row["measure"]), POINTS[row.pop("index")]
        row |= {"looks": looks, "tested_on": tested_on, "area": AREA[row["truth"]]}
        rows.append(row | {"number": score, "low": score - 0.03, "high": score + 0.05})
        if tested_on:
            lows = {"random": 0.01, "centre": 0.01 if (looks, tested_on, row["truth"]) in BETTER else 0.0}
            rows += [row | {"against": name, "number": 0.1, "low": low, "high": 0.2} for name, low in lows.items()]
    return make_table(GROUNDTRUTH, rows, source="painted faces")


@cache
def draw_usual() -> Figure:
    return draw_figure_groundtruth(make_scores())


def get_points(axes: Axes) -> list[Line2D]:
    return sorted((line for line in axes.lines if line.get_gid()), key=lambda line: line.get_xdata()[0])


def test_every_network_and_baseline_is_a_point_for_each_truth() -> None:
    for axes, measure in zip(draw_usual().axes, MEASURES, strict=True):
        points = get_points(axes)
        assert [line.get_gid() for line in points] == 2 * ["-".join(names) for names in POINTS]
        scores = np.array([make_score(index, truth, measure) for truth in TRUTHS for index in range(6)])
        np.testing.assert_allclose([line.get_ydata()[0] for line in points], scores)
        assert [round(line.get_xdata()[0]) for line in points] == 6 * [0] + 6 * [1]
        ends = np.array([c.get_segments()[0][:, 1] for c in axes.collections if c.get_label() != "chance"])
        np.testing.assert_allclose(np.sort(ends, axis=0), np.sort([scores - 0.03, scores + 0.05]).T)
    titles = [axes.get_title().split("\n")[0] for axes in draw_usual().axes]
    assert titles == ["maximum on a true pixel", "heatmap on true pixels", "telling true pixels from others"]
    assert "painted faces" in draw_usual().get_suptitle()


def test_colours_are_networks_and_shapes_are_tasks() -> None:
    points = get_points(draw_usual().axes[0])[:6]
    assert [line.get_marker() for line in points] == ["o", "o", "s", "s", "x", "+"]
    colours = [to_rgb(line.get_color()) for line in points]
    assert colours[:4] == [to_rgb(LOOKS[network].colour) for network, _ in NETWORKS]
    assert colours[4] == colours[5] not in colours[:4]


@pytest.mark.parametrize("measure", range(3))
def test_filled_points_surpass_both_baselines(measure: int) -> None:
    keys = [(looks, task, truth) for truth in TRUTHS for looks, task in POINTS]
    for line, key in zip(get_points(draw_usual().axes[measure]), keys, strict=True):
        filled = to_rgb(line.get_markerfacecolor()) != to_rgb("white")
        assert filled == (key in BETTER or not key[1]), f"{key} is drawn as if it {'surpassed' if filled else 'failed'}"


def test_chance_is_the_true_pixels_share_and_one_half_for_the_auc() -> None:
    for axes, levels in zip(draw_usual().axes, ([0.08, 0.31], [0.08, 0.31], [0.5, 0.5]), strict=True):
        lines = [lines.get_segments()[0] for lines in axes.collections if lines.get_label() == "chance"]
        np.testing.assert_allclose([line[:, 1] for line in lines], [[level, level] for level in levels])
        for group, line in enumerate(lines):
            x = [point.get_xdata()[0] for point in get_points(axes)[6 * group : 6 * group + 6]]
            assert line[0, 0] < min(x) and max(x) < line[1, 0]
        assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 1


def test_the_legend_explains_everything() -> None:
    assert read_legend(draw_usual()) == [
        *(f"{network} network, {task} task" for network, task in NETWORKS),
        "random map",
        "centre of the image",
        "hollow: not above both baselines",
        "95 % over seeds and people",
        "share of true pixels; for AUC, one half",
    ]


def test_a_network_without_maps_is_left_out() -> None:
    table = make_scores()
    rows = (table["looks"] == "joint") & (table["tested_on"] == "identity")
    table.loc[rows, ["number", "low", "high"]] = np.nan
    names = ["-".join(names) for names in POINTS if names != ("joint", "identity")]
    for axes in draw_figure_groundtruth(table).axes:
        assert [line.get_gid() for line in get_points(axes)] == 2 * names


def test_without_any_truth_the_page_has_the_reason_once() -> None:
    reason = "only embedded faces can be drawn again with one thing changed; these are KDEF"
    missing = dict.fromkeys(("number", "low", "high", "area"), np.nan)
    figure = draw_figure_groundtruth(make_scores().assign(**missing, reason=reason))
    assert not figure.axes and [text.get_text() for text in figure.texts[-1:]] == [reason]
    assert len(figure.texts) <= 2


def test_a_table_of_another_kind_is_refused() -> None:
    with pytest.raises(StudyError, match=r"'groundtruth', column 'truth', row 0: got 'age', allowed: one of"):
        draw_figure_groundtruth(make_scores().assign(truth="age"))
