"""Boxes and bars are read back from their artists, and compared with the table's numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from facespec.figures.boxes import (
    draw_figure_2B,
    draw_overlap,
    format_short,
    format_signed,
    read_estimate,
    select_reported,
)
from facespec.figures.style import LOOKS
from facespec.published.reference import read_reference_heatmaps
from facespec.study.errors import StudyError

# as they stand from left to right
PAIRS = [("joint", "expression"), ("expression", "expression"), ("joint", "identity"), ("identity", "identity")]
FIVE = ["whisker_low", "q1", "median", "q3", "whisker_high"]
SEEDS = (9, 4)  # drawn in order all the same


def five(pair: tuple[str, str], seed: int) -> list[float]:
    """Every number its own, so that none can stand for another."""
    start = 0.05 + 0.07 * PAIRS.index(pair) + 0.01 * seed
    return [start, start + 0.03, start + 0.051, start + 0.1, start + 0.2]


def boxes_table() -> pd.DataFrame:
    rows = []
    for pair in PAIRS[::-1]:
        for seed in SEEDS:
            for resample, shift in ((-1, 0.0), (0, -0.02), (1, 0.01), (2, 0.02)):
                for quantity, number in zip(FIVE, five(pair, seed), strict=True):
                    rows.append(
                        {
                            "figure": "2B",
                            "quantity": quantity,
                            "trained_on": pair[0],
                            "tested_on": pair[1],
                            "rule": "",
                            "source": "painted faces",
                            "seed": seed,
                            "resample": resample,
                            "number": number + shift,
                        }
                    )
    return pd.DataFrame(rows)


def drawn_boxes(axes: Axes) -> list[tuple[float, list[float]]]:
    """Place and five numbers of every box, from left to right."""
    boxes = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    found = []
    for box in boxes:
        x, y = box.get_path().vertices[:4].T
        centre = (x.min() + x.max()) / 2
        own = [line for line in lines if abs(np.mean(line.get_xdata()) - centre) < 1e-9]
        (median,) = [line.get_ydata()[0] for line in own if np.ptp(line.get_xdata()) > 0 and line.get_linewidth() > 1]
        ends = [end for line in own if np.ptp(line.get_xdata()) == 0 for end in line.get_ydata()]
        found.append((centre, [min(ends), y.min(), median, y.max(), max(ends)]))
    return sorted(found)


def intervals(axes: Axes, *, along: int = 1) -> list[tuple[float, float]]:
    """(low, high) of every error bar that says something."""
    segments = [c.lines[2][0].get_segments()[0] for c in axes.containers if isinstance(c, ErrorbarContainer)]
    return [(float(ends[0, along]), float(ends[1, along])) for ends in segments if np.size(ends)]


def test_an_estimate_is_the_mean_over_seeds_with_its_resamples() -> None:
    table = pd.DataFrame(
        {
            "seed": [3, 3, 3, 3, 5, 5, 5],
            "resample": [-1, 0, 1, 2, -1, 0, 1],
            "number": [0.2, 0.1, 0.3, np.nan, 0.6, 0.5, 0.7],
        }
    )
    own = read_estimate(table)
    assert own.number == pytest.approx(0.4) and own.dots == (0.2, 0.6)
    # means over seeds of the two resamples that there are, .3 and .5; by hand: 0.025 of the gap between them
    assert (own.low, own.high) == pytest.approx((0.3 + 0.025 * 0.2, 0.5 - 0.025 * 0.2))


def test_an_estimate_of_nothing_is_nan() -> None:
    own = read_estimate(pd.DataFrame({"seed": [3], "resample": [-1], "number": [np.nan]}))
    assert np.isnan([own.number, own.low, own.high]).all() and own.dots == ()


def test_shares_are_written_short() -> None:
    assert [format_short(number) for number in (0.0431, 0.9996, 1.0, 0.0, np.nan)] == [
        ".043",
        "1.000",
        "1.000",
        ".000",
        "-",
    ]


def test_rows_are_selected_by_all_of_their_values() -> None:
    table = pd.DataFrame({"a": ["x", "x", "y"], "b": ["u", "v", "u"]})
    assert select_reported(table, a="x", b="u").index.tolist() == [0]


def test_boxes_are_the_tables_numbers_one_per_seed() -> None:
    figure = draw_figure_2B(boxes_table(), read_reference_heatmaps())
    _, right = figure.axes
    found = drawn_boxes(right)
    expected = [five(pair, seed) for pair in PAIRS for seed in sorted(SEEDS)]
    np.testing.assert_allclose([numbers for _, numbers in found], expected, atol=1e-12)
    assert [round(place) for place, _ in found] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.mean([place for place, _ in found[:2]]) == pytest.approx(0)
    assert [t.get_text() for t in right.texts if t.get_text()[0] == "."] == [
        format_short(five(pair, seed)[2]) for pair in PAIRS for seed in sorted(SEEDS)
    ]
    assert right.get_title() == "reproduced\npainted faces; one box per seed: 4, 9"


def test_published_boxes_are_the_published_numbers_on_the_same_axis() -> None:
    left, right = draw_figure_2B(boxes_table(), read_reference_heatmaps()).axes
    reference = read_reference_heatmaps("2B").set_index(["trained_on", "tested_on", "quantity"])["number"]
    found = drawn_boxes(left)
    np.testing.assert_allclose(
        [numbers for _, numbers in found], [[reference[(*pair, name)] for name in FIVE] for pair in PAIRS]
    )
    assert found[0][1][2] == 0.0485 and found[3][1][2] == 0.1368  # by hand, from the paper
    assert left.get_ylim() == right.get_ylim() and left.get_ylim()[0] == 0 and left.get_ylim()[1] > 1
    assert left.get_title() == "published\nKDEF" and intervals(left) == []
    ticks = [label.get_text() for label in left.get_xticklabels()]
    assert ticks == ["joint\nnetwork", "expression\nnetwork", "joint\nnetwork", "identity\nnetwork"]
    assert [text.get_text() for text in left.texts if "task" in text.get_text()] == ["expression task", "identity task"]


def test_boxes_wear_their_networks_colours_and_patterns() -> None:
    for axes, each in zip(draw_figure_2B(boxes_table(), read_reference_heatmaps()).axes, (1, 2), strict=True):
        boxes = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
        for box, (network, _) in zip(boxes, [pair for pair in PAIRS for _ in range(each)], strict=True):
            assert box.get_facecolor()[:3] == pytest.approx(to_rgb(LOOKS[network].colour))
            assert (box.get_hatch() or "") == LOOKS[network].hatch


def test_medians_carry_the_interval_of_their_own_resamples() -> None:
    _, right = draw_figure_2B(boxes_table(), read_reference_heatmaps()).axes
    expected = [
        np.percentile(five(pair, seed)[2] + np.array([-0.02, 0.01, 0.02]), [2.5, 97.5])
        for pair in PAIRS
        for seed in sorted(SEEDS)
    ]
    np.testing.assert_allclose(intervals(right), expected)


def test_a_blank_network_has_no_box_but_a_word() -> None:
    table = boxes_table()
    table.loc[(table["trained_on"] == "identity") & (table["seed"] == 9), "number"] = np.nan
    _, right = draw_figure_2B(table, read_reference_heatmaps()).axes
    assert len(drawn_boxes(right)) == 7
    (word,) = [text for text in right.texts if text.get_text() == "blank"]
    assert 3 < word.get_position()[0] < 3.4


def test_a_table_of_another_kind_is_refused() -> None:
    with pytest.raises(StudyError, match="table 'overlap' lacks column 'rule'"):
        draw_figure_2B(boxes_table().drop(columns="rule"), read_reference_heatmaps())


QUANTITIES = [
    ("area", "expression"),
    ("area", "identity"),
    ("intersection", "both"),
    ("iou", "both"),
    ("iou_halves", "both"),
    ("iou_halves", "expression"),
    ("iou_halves", "identity"),
]


def masks_table() -> pd.DataFrame:
    rows = []
    for place, (quantity, tested_on) in enumerate(QUANTITIES):
        for seed, shift in ((1, -0.004), (2, 0.004)):
            for resample in (-1, 0, 1):
                number = 0.1 * (place + 1) + shift + 0.02 * resample * (resample >= 0)
                rows.append(
                    {
                        "figure": "2C",
                        "quantity": quantity,
                        "trained_on": "joint",
                        "tested_on": tested_on,
                        "rule": "published",
                        "source": "painted faces",
                        "seed": seed,
                        "resample": resample,
                        "number": number,
                    }
                )
    return pd.DataFrame(rows)


def bars(axes: Axes) -> dict[str, list[float]]:
    """How long the bars of every label are, from top to bottom."""
    found: dict[str, list[float]] = {}
    for container in axes.containers:
        if isinstance(container, BarContainer):
            found.setdefault(container.get_label(), []).extend(patch.get_width() for patch in container)
    return found


def masks_axes(table: pd.DataFrame) -> tuple[Axes, Axes]:
    figure = Figure(figsize=(4, 3), layout="constrained")
    draw_overlap(figure, table, reference=read_reference_heatmaps("2C"))
    upper, lower = figure.axes
    return upper, lower


def test_bars_of_areas_and_overlaps_stand_beside_the_published_ones() -> None:
    upper, lower = masks_axes(masks_table())
    ours, theirs = "reproduced, mean over seeds", "published, ± reading error"
    assert bars(upper)[theirs] == [0.043, 0.1367, 0.0104] and bars(lower)[theirs] == [0.062]  # from the paper
    np.testing.assert_allclose(bars(upper)[ours], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(bars(lower)[ours], [0.4, 0.5, 0.6, 0.7])
    assert [label.get_text() for label in upper.get_yticklabels()] == ["expression mask", "identity mask", "both"]
    assert len(lower.get_yticklabels()) == 4 and upper.yaxis_inverted() and lower.yaxis_inverted()
    assert lower.get_xlim()[0] == 0 and lower.get_xlim()[1] > 1
    written = [text.get_text() for text in upper.texts]
    assert written == [".043", ".100", ".137", ".200", ".010", ".300"]


def test_bars_carry_intervals_reading_errors_and_seeds() -> None:
    upper, lower = masks_axes(masks_table())
    low, high = 0.0005, 0.0195  # by hand: of the means over seeds of two resamples, 0 and .02 away, 0.025 of the gap
    np.testing.assert_allclose(
        intervals(upper, along=0),
        [
            (0.039, 0.047),
            (0.1 + low, 0.1 + high),
            (0.1327, 0.1407),
            (0.2 + low, 0.2 + high),
            (0.0064, 0.0144),
            (0.3 + low, 0.3 + high),
        ],
    )
    assert intervals(lower, along=0)[0] == pytest.approx((0.042, 0.082))
    dots = [line.get_xdata() for line in lower.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [[0.1 * n - 0.004, 0.1 * n + 0.004] for n in (4, 5, 6, 7)])


def test_a_reading_error_never_reaches_below_zero() -> None:
    reference = read_reference_heatmaps("2C").assign(reading_error=0.05)
    figure = Figure(layout="constrained")
    draw_overlap(figure, masks_table(), reference=reference)
    assert intervals(figure.axes[0], along=0)[0] == pytest.approx((0, 0.093))


def test_missing_overlaps_are_said_to_be_blank() -> None:
    table = masks_table()
    table.loc[table["quantity"] == "iou_halves", "number"] = np.nan
    _, lower = masks_axes(table)
    assert [text.get_text().strip() for text in lower.texts] == [".062", ".400", "blank", "blank", "blank"]


def test_signs_are_written_unless_of_zero() -> None:
    assert [format_signed(n, 1) for n in (-3.04, 2.96, 0.04, -0.04, 10.0)] == ["−3.0", "+3.0", "0.0", "0.0", "+10.0"]


@given(st.floats(-0.5, 0.5))
def test_a_written_sign_is_the_numbers(value: float) -> None:
    text = format_signed(value, 3)
    assert float(text.replace("−", "-")) == pytest.approx(value, abs=0.00051)
    assert (text[0] in "+−") == (float(text.replace("−", "-")) != 0)
