"""Points and lines are read back from their artists, and compared with the table's numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from facespec.figures.groundtruth import draw_figure_groundtruth
from facespec.figures.style import LOOKS
from facespec.study.errors import StudyError

# as they stand from left to right
LOOKING = [
    ("joint", "expression"),
    ("expression", "expression"),
    ("joint", "identity"),
    ("identity", "identity"),
    ("random", ""),
    ("centre", ""),
]
TRUTHS, MEASURES = ("expression", "identity"), ("pointing", "mass", "auc")
AREA = {"expression": 0.08, "identity": 0.31}
# the only ones that surpass both baselines
BETTER = {("joint", "expression", "expression"), ("identity", "identity", "identity")}


def score(place: int, truth: str, measure: str) -> float:
    """Every number its own."""
    return 0.1 + 0.1 * place + 0.2 * TRUTHS.index(truth) + 0.01 * MEASURES.index(measure)


def scores_table() -> pd.DataFrame:
    rows = []
    for truth in TRUTHS[::-1]:
        for measure in MEASURES[::-1]:
            for place, (looks, tested_on) in enumerate(LOOKING):
                about = {
                    "looks": looks,
                    "tested_on": tested_on,
                    "truth": truth,
                    "measure": measure,
                    "source": "painted faces",
                    "seeds": 2,
                    "people": 3,
                    "n": 21,
                    "blank": 0,
                    "area": AREA[truth],
                    "reason": "",
                }
                own = score(place, truth, measure)
                rows.append(about | {"against": "", "number": own, "low": own - 0.03, "high": own + 0.05})
                if tested_on:
                    lows = {"random": 0.01, "centre": 0.01 if (looks, tested_on, truth) in BETTER else 0.0}
                    rows += [
                        about | {"against": name, "number": 0.1, "low": low, "high": 0.2} for name, low in lows.items()
                    ]
    return pd.DataFrame(rows)


def points(axes: Axes) -> list[Line2D]:
    return sorted((line for line in axes.lines if line.get_gid()), key=lambda line: line.get_xdata()[0])


def dashed(axes: Axes) -> list[np.ndarray]:
    return [lines.get_segments()[0] for lines in axes.collections if lines.get_label() == "chance"]


def test_every_network_and_baseline_is_a_point_for_each_truth() -> None:
    figure = draw_figure_groundtruth(scores_table())
    assert len(figure.axes) == 3
    for axes, measure in zip(figure.axes, MEASURES, strict=True):
        found = points(axes)
        assert [line.get_gid() for line in found] == 2 * ["-".join(names) for names in LOOKING]
        expected = [score(place, truth, measure) for truth in TRUTHS for place in range(6)]
        np.testing.assert_allclose([line.get_ydata()[0] for line in found], expected)
        assert [round(line.get_xdata()[0]) for line in found] == 6 * [0] + 6 * [1]
        spans = [c.get_segments()[0] for c in axes.collections if c.get_label() != "chance"]
        np.testing.assert_allclose(sorted(ends[0, 1] for ends in spans), sorted(np.array(expected) - 0.03))
        np.testing.assert_allclose(sorted(ends[1, 1] for ends in spans), sorted(np.array(expected) + 0.05))
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == ["maximum on a true pixel", "heatmap on true pixels", "telling true pixels from others"]
    assert "painted faces" in figure.get_suptitle()


def test_colours_are_networks_and_shapes_are_tasks() -> None:
    found = points(draw_figure_groundtruth(scores_table()).axes[0])[:6]
    assert [line.get_marker() for line in found] == ["o", "o", "s", "s", "x", "+"]
    for line, (network, task) in zip(found, LOOKING, strict=True):
        if task:
            assert to_rgb(line.get_color()) == to_rgb(LOOKS[network].colour)
    assert to_rgb(found[4].get_color()) == to_rgb(found[5].get_color()) != to_rgb(found[0].get_color())


@pytest.mark.parametrize("measure", range(3))
def test_filled_points_surpass_both_baselines(measure: int) -> None:
    found = points(draw_figure_groundtruth(scores_table()).axes[measure])
    for line, (truth, (looks, task)) in zip(found, [(t, who) for t in TRUTHS for who in LOOKING], strict=True):
        if task:
            filled = to_rgb(line.get_markerfacecolor()) != to_rgb("white")
            assert filled == ((looks, task, truth) in BETTER)


def test_chance_is_the_true_pixels_share_and_one_half_for_the_auc() -> None:
    axes = draw_figure_groundtruth(scores_table()).axes
    for each, levels in zip(axes, ([0.08, 0.31], [0.08, 0.31], [0.5, 0.5]), strict=True):
        lines = dashed(each)
        np.testing.assert_allclose([line[:, 1] for line in lines], [[level, level] for level in levels])
        for group, line in enumerate(lines):
            own = [point.get_xdata()[0] for point in points(each)[6 * group : 6 * group + 6]]
            assert line[0, 0] < min(own) and max(own) < line[1, 0]
        assert each.get_ylim()[0] == 0 and each.get_ylim()[1] >= 1


def test_the_legend_explains_everything() -> None:
    (legend,) = draw_figure_groundtruth(scores_table()).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "joint network, expression task",
        "expression network, expression task",
        "joint network, identity task",
        "identity network, identity task",
        "random map",
        "centre of the image",
        "hollow: not above both baselines",
        "95 % over seeds and people",
        "share of true pixels; for AUC, one half",
    ]


def test_a_network_without_maps_is_left_out() -> None:
    table = scores_table()
    gone = (table["looks"] == "joint") & (table["tested_on"] == "identity")
    table.loc[gone, ["number", "low", "high"]] = np.nan
    table.loc[gone, "reason"] = "no heatmap has any mass"
    for axes in draw_figure_groundtruth(table).axes:
        assert [line.get_gid() for line in points(axes)] == 2 * [
            "-".join(names) for names in LOOKING if names != ("joint", "identity")
        ]


def test_without_any_truth_the_page_says_why() -> None:
    reason = "only embedded faces can be drawn again with one thing changed; these are KDEF"
    nothing = dict.fromkeys(("number", "low", "high", "area"), np.nan)
    figure = draw_figure_groundtruth(scores_table().assign(**nothing, reason=reason))
    assert not figure.axes and [text.get_text() for text in figure.texts[-1:]] == [reason]
    assert len(figure.texts) <= 2  # once, not once per row


def test_a_table_of_another_kind_is_refused() -> None:
    with pytest.raises(StudyError) as caught:
        draw_figure_groundtruth(scores_table().assign(truth="age"))
    assert str(caught.value) == (
        "table 'groundtruth', column 'truth', row 0: got 'age', allowed: one of ['expression', 'identity']."
    )
