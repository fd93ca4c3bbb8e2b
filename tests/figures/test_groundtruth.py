"""Points and lines are read back from their artists, and compared with the table's numbers."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from facespec.figures.groundtruth import draw_figure_groundtruth
from facespec.figures.style import INK, LOOKS
from facespec.study.errors import StudyError
from facespec.study.tables import GROUNDTRUTH, GROUNDTRUTH_MAPS, GROUNDTRUTH_OVERLAP
from toys import combine, make_table, read_legend

# from left to right
NETWORKS = [("joint", "expression"), ("expression", "expression"), ("joint", "identity"), ("identity", "identity")]
UNTRAINED = [("untrained", "expression"), ("untrained", "identity")]
BASELINES = ["random", "centre", "others", "others_pooled", "ceiling"]
POINTS = [*NETWORKS, *UNTRAINED, *((name, "") for name in BASELINES)]
RULES, TRUTHS = ("changes", "discriminability"), ("expression", "identity")
MEASURES = ("pointing", "mass", "auc")
AREA = {"expression": 0.08, "identity": 0.31}
# (looks, tested_on, truth): the only ones that surpass random maps, the centre and the pooled truth of others
BETTER = {("joint", "expression", "expression"), ("identity", "identity", "identity")}
FACE = np.full((3, 5), 90.0)


def make_score(index: int, rule: str, truth: str, measure: str) -> float:
    """All scores differ."""
    shift = 0.2 * TRUTHS.index(truth) + 0.04 * RULES.index(rule)
    return 0.1 + 0.05 * index + shift + 0.01 * MEASURES.index(measure)


def make_scores() -> pd.DataFrame:
    rows = []
    for row in combine(truth_rule=RULES[::-1], truth=TRUTHS[::-1], measure=MEASURES[::-1], index=range(len(POINTS))):
        score = make_score(row["index"], row["truth_rule"], row["truth"], row["measure"])
        looks, tested_on = POINTS[row.pop("index")]
        row |= {"looks": looks, "tested_on": tested_on, "area": AREA[row["truth"]]}
        rows.append(row | {"number": score, "low": score - 0.03, "high": score + 0.05})
        rows.append(row | {"against": "centre_to_ceiling", "number": 7.0, "low": -3.0, "high": 9.0})
        if tested_on:
            is_better = (looks, tested_on, row["truth"]) in BETTER
            # the truth of others at full resolution is not asked for
            lows = {"random": 0.01, "centre": 0.01, "others": -0.2, "others_pooled": 0.01 if is_better else 0.0}
            rows += [row | {"against": name, "number": 0.1, "low": low, "high": 0.2} for name, low in lows.items()]
    return make_table(GROUNDTRUTH, rows, source="painted faces")


def make_overlap() -> pd.DataFrame:
    rows = [
        {"first_rule": first, "second_rule": second, "first_truth": "expression", "second_truth": "identity"}
        | {"number": number, "low": number - 0.01, "high": number + 0.02, "expected": 0.11}
        for first, second, number in (("changes",) * 2 + (0.038,), (RULES[1],) * 2 + (0.25,), (*RULES, 0.7))
    ]
    return make_table(GROUNDTRUTH_OVERLAP, rows, source="painted faces")


def make_maps() -> pd.DataFrame:
    rows = combine(truth_rule=RULES, truth=TRUTHS, row=range(3), column=range(5))
    numbers = np.linspace(0, 1, len(rows))
    return make_table(GROUNDTRUTH_MAPS, [row | {"number": number} for row, number in zip(rows, numbers, strict=True)])


def draw(table: pd.DataFrame) -> Figure:
    return draw_figure_groundtruth(table, make_overlap(), make_maps(), FACE)


@cache
def draw_usual() -> Figure:
    return draw(make_scores())


def get_panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_label(): axes for axes in figure.axes}


def get_points(axes: Axes) -> list[Line2D]:
    return sorted((line for line in axes.lines if line.get_gid()), key=lambda line: line.get_xdata()[0])


def test_every_network_and_baseline_is_a_point_for_each_truth() -> None:
    panels = get_panels(draw_usual())
    for rule, measure in product(RULES, MEASURES):
        axes, n = panels[f"{rule} {measure}"], len(POINTS)
        points = get_points(axes)
        assert [line.get_gid() for line in points] == 2 * ["-".join(names) for names in POINTS]
        scores = np.array([make_score(index, rule, truth, measure) for truth in TRUTHS for index in range(n)])
        np.testing.assert_allclose([line.get_ydata()[0] for line in points], scores)
        assert [round(line.get_xdata()[0]) for line in points] == n * [0] + n * [1]
        ends = np.array([c.get_segments()[0][:, 1] for c in axes.collections if c.get_label() != "chance"])
        np.testing.assert_allclose(np.sort(ends, axis=0), np.sort([scores - 0.03, scores + 0.05]).T)
    titles = [panels[f"changes {measure}"].get_title().split("\n")[0] for measure in MEASURES]
    assert titles == ["maximum on a true pixel", "heatmap on true pixels", "telling true pixels from others"]
    assert [panels[f"{rule} pointing"].get_ylabel() for rule in RULES] == [
        "truth: pixels that change most",
        "truth: pixels that tell classes apart best",
    ]
    assert "painted faces" in draw_usual().get_suptitle()


def test_mean_truths_lie_over_the_face_beside_their_overlap() -> None:
    panels, numbers = get_panels(draw_usual()), np.linspace(0, 1, 60).reshape(2, 2, 3, 5)
    for (i, rule), (j, truth) in product(enumerate(RULES), enumerate(TRUTHS)):
        axes = panels[f"{rule} {truth}"]
        face, shares = axes.images
        np.testing.assert_array_equal(face.get_array(), FACE)
        np.testing.assert_allclose(shares.get_array(), numbers[i, j], atol=1e-12)
        assert shares.get_clim() == (0, 1) and axes.get_title().startswith(f"{truth}: pixels that\n")
    texts = [panels[f"{rule} {truth}"].xaxis.label.get_text() for rule in RULES for truth in TRUTHS]
    assert texts == [
        "overlap of both tasks: 0.038\n(0.028 to 0.058; by chance 0.110)",
        "",
        "overlap of both tasks: 0.250\n(0.240 to 0.270; by chance 0.110)",
        "",
    ]


def test_colours_are_networks_and_shapes_are_tasks_or_baselines() -> None:
    points = get_points(get_panels(draw_usual())["changes pointing"])[: len(POINTS)]
    assert [line.get_marker() for line in points] == [*"oossos", *"x+dD^"]
    colours = [to_rgb(line.get_color()) for line in points]
    assert colours[:4] == [to_rgb(LOOKS[network].colour) for network, _ in NETWORKS]
    untrained = LOOKS["untrained"].colour if "untrained" in LOOKS else INK
    assert set(colours[4:6]) == {to_rgb(untrained)}
    assert len(set(colours[6:])) == 1 and colours[6] not in colours[:6]


@pytest.mark.parametrize("measure", MEASURES)
def test_filled_points_surpass_what_knows_no_picture(measure: str) -> None:
    keys = [(looks, task, truth) for truth in TRUTHS for looks, task in POINTS]
    for rule in RULES:
        for line, key in zip(get_points(get_panels(draw_usual())[f"{rule} {measure}"]), keys, strict=True):
            filled = to_rgb(line.get_markerfacecolor()) != to_rgb("white")
            assert filled == (key in BETTER or not key[1]), f"{key} is drawn as if it {'won' if filled else 'failed'}"


@pytest.mark.parametrize("baseline", ["random", "centre", "others_pooled"])
def test_one_baseline_that_is_not_surpassed_makes_a_point_hollow(baseline: str) -> None:
    table = make_scores()
    table.loc[table["against"] == baseline, "low"] = -0.01
    for rule, measure in product(RULES, MEASURES):
        for line in get_points(get_panels(draw(table))[f"{rule} {measure}"]):
            is_baseline = line.get_gid().endswith("-")
            assert (to_rgb(line.get_markerfacecolor()) != to_rgb("white")) == is_baseline


def test_chance_is_the_true_pixels_share_and_one_half_for_the_auc() -> None:
    for (label, axes), rule in product(get_panels(draw_usual()).items(), RULES):
        measure = label.removeprefix(f"{rule} ")
        if measure not in MEASURES:
            continue
        levels = [0.5, 0.5] if measure == "auc" else [0.08, 0.31]
        lines = [lines.get_segments()[0] for lines in axes.collections if lines.get_label() == "chance"]
        np.testing.assert_allclose([line[:, 1] for line in lines], [[level, level] for level in levels])
        n = len(POINTS)
        for group, line in enumerate(lines):
            x = [point.get_xdata()[0] for point in get_points(axes)[n * group : n * group + n]]
            assert line[0, 0] < min(x) and max(x) < line[1, 0]
        assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 1


NAMES = [
    "random map",
    "centre of the image",
    "truth of other people",
    "the same, as coarse as heatmaps",
    "own truth, as coarse as heatmaps",
    "hollow: not above random, centre, coarse others",
    "95 % over seeds and people",
    "share of true pixels; for AUC, one half",
]


def test_the_legend_explains_everything() -> None:
    networks = [f"{network} network, {task} task" for network, task in (*NETWORKS, *UNTRAINED)]
    assert read_legend(draw_usual()) == [*networks, *NAMES]


def test_without_untrained_networks_nothing_is_said_about_them() -> None:
    table = make_scores()
    figure = draw(table[table["looks"] != "untrained"])
    assert read_legend(figure) == [*(f"{network} network, {task} task" for network, task in NETWORKS), *NAMES]
    points = get_points(get_panels(figure)["changes mass"])
    assert [line.get_gid() for line in points[4:6]] == ["random-", "centre-"]


def test_a_network_whose_maps_are_all_blank_is_left_out() -> None:
    table = make_scores()
    rows = (table["looks"] == "joint") & (table["tested_on"] == "identity")
    table.loc[rows, ["number", "low", "high"]] = np.nan
    names = ["-".join(names) for names in POINTS if names != ("joint", "identity")]
    panels = get_panels(draw(table))
    for rule, measure in product(RULES, MEASURES):
        assert [line.get_gid() for line in get_points(panels[f"{rule} {measure}"])] == 2 * names


def test_without_any_truth_the_page_has_the_reason_once() -> None:
    reason = "only embedded faces can be drawn again with one thing changed; these are KDEF"
    missing = dict.fromkeys(("number", "low", "high", "area"), np.nan)
    figure = draw(make_scores().assign(**missing, reason=reason))
    assert not figure.axes and [text.get_text() for text in figure.texts[-1:]] == [reason]
    assert len(figure.texts) <= 2


def test_tasks_without_an_overlap_have_its_reason() -> None:
    overlap = make_overlap().assign(number=np.nan, reason="in no image do pixels change")
    figure = draw_figure_groundtruth(make_scores(), overlap, make_maps(), FACE)
    text = get_panels(figure)["changes expression"].xaxis.label.get_text()
    assert text == "overlap of both tasks: in no image do pixels change"


def test_a_table_of_another_kind_is_refused() -> None:
    with pytest.raises(StudyError, match=r"'groundtruth', column 'truth', row 0: got 'age', allowed: one of"):
        draw(make_scores().assign(truth="age"))
