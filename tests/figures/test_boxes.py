"""Boxes and bars are read back from their artists, and compared with the table's numbers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from facespec.figures.boxes import draw_figure_2B, draw_overlap
from facespec.figures.estimates import read_estimate, select_rows
from facespec.figures.labels import format_short
from facespec.figures.style import LOOKS
from facespec.published.reference import read_reference_heatmaps
from facespec.study.errors import StudyError
from facespec.study.tables import OVERLAP
from toys import combine, make_table, read_texts

# in the order in which they are drawn
PAIRS = [("joint", "expression"), ("expression", "expression"), ("joint", "identity"), ("identity", "identity")]
QUANTITIES = ["whisker_low", "q1", "median", "q3", "whisker_high"]
SEEDS = (9, 4)  # drawn in ascending order


def make_numbers(pair: tuple[str, str], seed: int) -> np.ndarray:
    """The numbers of a box; all differ."""
    return 0.05 + 0.07 * PAIRS.index(pair) + 0.01 * seed + np.array([0, 0.03, 0.051, 0.1, 0.2])


NUMBERS = [make_numbers(pair, seed) for pair in PAIRS for seed in sorted(SEEDS)]


def make_boxes() -> pd.DataFrame:
    shifts = {-1: 0.0, 0: -0.02, 1: 0.01, 2: 0.02}
    rows = [
        {"trained_on": pair[0], "tested_on": pair[1], "seed": seed, "resample": resample, "quantity": name, "number": n}
        for pair in PAIRS[::-1]
        for seed in SEEDS
        for resample, shift in shifts.items()
        for name, n in zip(QUANTITIES, make_numbers(pair, seed) + shift, strict=True)
    ]
    return make_table(OVERLAP, rows, figure="2B", source="painted faces")


def draw_boxes(table: pd.DataFrame) -> list[Axes]:
    return draw_figure_2B(table, read_reference_heatmaps()).axes


@cache
def draw_usual_boxes() -> list[Axes]:
    return draw_boxes(make_boxes())


def get_boxes(axes: Axes) -> list[PathPatch]:
    return [patch for patch in axes.patches if isinstance(patch, PathPatch)]


def read_boxes(axes: Axes) -> tuple[list[float], list[list[float]]]:
    """The centre of every box and its five numbers, from left to right."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    boxes = []
    for box in get_boxes(axes):
        x, y = box.get_path().vertices[:4].T
        centre = (x.min() + x.max()) / 2
        here = [line for line in lines if abs(np.mean(line.get_xdata()) - centre) < 1e-9]
        (median,) = [line.get_ydata()[0] for line in here if np.ptp(line.get_xdata()) > 0 and line.get_linewidth() > 1]
        whiskers = [end for line in here if np.ptp(line.get_xdata()) == 0 for end in line.get_ydata()]
        boxes.append((centre, [min(whiskers), y.min(), median, y.max(), max(whiskers)]))
    centres, numbers = zip(*sorted(boxes), strict=True)
    return list(centres), list(numbers)


def read_intervals(axes: Axes, *, along: int = 1) -> list[tuple[float, float]]:
    """(low, high) of every error bar that is not empty."""
    segments = [c.lines[2][0].get_segments()[0] for c in axes.containers if isinstance(c, ErrorbarContainer)]
    return [(float(ends[0, along]), float(ends[1, along])) for ends in segments if np.size(ends)]


def test_an_estimate_is_the_mean_over_seeds_with_its_resamples() -> None:
    numbers = [0.2, 0.1, 0.3, np.nan, 0.6, 0.5, 0.7]
    table = pd.DataFrame({"seed": [3] * 4 + [5] * 3, "resample": [-1, 0, 1, 2, -1, 0, 1], "number": numbers})
    estimate = read_estimate(table)
    assert estimate.number == pytest.approx(0.4) and estimate.per_seed == (0.2, 0.6)
    # means over seeds of the two complete resamples are .3 and .5; by hand: 0.025 of the gap between them
    assert (estimate.low, estimate.high) == pytest.approx((0.3 + 0.025 * 0.2, 0.5 - 0.025 * 0.2))


def test_an_estimate_of_nothing_is_nan() -> None:
    estimate = read_estimate(pd.DataFrame({"seed": [3], "resample": [-1], "number": [np.nan]}))
    assert np.isnan([estimate.number, estimate.low, estimate.high]).all() and estimate.per_seed == ()


def test_rows_are_selected_by_all_of_their_values() -> None:
    table = pd.DataFrame({"a": ["x", "x", "y"], "b": ["u", "v", "u"]})
    assert select_rows(table, a="x", b="u").index.tolist() == [0]


def test_boxes_are_the_tables_numbers_one_per_seed() -> None:
    _, right = draw_usual_boxes()
    centres, numbers = read_boxes(right)
    np.testing.assert_allclose(numbers, NUMBERS, atol=1e-12)
    assert [round(centre) for centre in centres] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.mean(centres[:2]) == pytest.approx(0)
    medians = [format_short(box[2]) for box in NUMBERS]
    assert [text.get_text() for text in right.texts if text.get_text()[0] == "."] == medians
    assert right.get_title() == "reproduced\npainted faces; one box per seed: 4, 9"
    bounds = [np.percentile(box[2] + np.array([-0.02, 0.01, 0.02]), [2.5, 97.5]) for box in NUMBERS]
    np.testing.assert_allclose(read_intervals(right), bounds)


def test_published_boxes_are_the_published_numbers_on_the_same_axis() -> None:
    left, right = draw_usual_boxes()
    reference = read_reference_heatmaps("2B").set_index(["trained_on", "tested_on", "quantity"])["number"]
    _, numbers = read_boxes(left)
    np.testing.assert_allclose(numbers, [[reference[(*pair, name)] for name in QUANTITIES] for pair in PAIRS])
    assert numbers[0][2] == 0.0485 and numbers[3][2] == 0.1368  # by hand, from the paper
    assert left.get_ylim() == right.get_ylim() and left.get_ylim()[0] == 0 and left.get_ylim()[1] > 1
    assert left.get_title() == "published\nKDEF" and read_intervals(left) == []
    ticks = read_texts(left.get_xticklabels())
    assert ticks == ["joint\nnetwork", "expression\nnetwork", "joint\nnetwork", "identity\nnetwork"]
    assert [text.get_text() for text in left.texts if "task" in text.get_text()] == ["expression task", "identity task"]


def test_boxes_have_their_networks_colours_and_hatches() -> None:
    for axes, count in zip(draw_usual_boxes(), (1, 2), strict=True):
        networks = [network for network, _ in PAIRS for _ in range(count)]
        for box, network in zip(get_boxes(axes), networks, strict=True):
            assert box.get_facecolor()[:3] == pytest.approx(to_rgb(LOOKS[network].colour))
            assert (box.get_hatch() or "") == LOOKS[network].hatch


def test_the_untrained_network_stands_beside_the_trained_ones() -> None:
    table = make_boxes()
    untrained = table[table["trained_on"] == "joint"].assign(
        trained_on="untrained", number=lambda rows: rows["number"] / 2
    )
    left, right = draw_boxes(pd.concat([table, untrained], ignore_index=True))
    assert len(get_boxes(left)) == 4 and len(get_boxes(right)) == 12
    names = ["joint", "expression", "untrained", "joint", "identity", "untrained"]
    assert read_texts(right.get_xticklabels()) == [f"{name}\nnetwork" for name in names]
    tasks = {text.get_text(): text.get_position()[0] for text in right.texts if "task" in text.get_text()}
    assert tasks == {"expression task": 1, "identity task": 4}
    _, numbers = read_boxes(right)
    np.testing.assert_allclose(numbers[4:6], np.array(NUMBERS[:2]) / 2)
    (legend,) = right.figure.legends
    assert "untrained network" in read_texts(legend.get_texts())


def test_a_blank_network_has_a_word_instead_of_a_box() -> None:
    table = make_boxes()
    table.loc[(table["trained_on"] == "identity") & (table["seed"] == 9), "number"] = np.nan
    _, right = draw_boxes(table)
    assert len(get_boxes(right)) == 7
    (word,) = [text for text in right.texts if text.get_text() == "blank"]
    assert 3 < word.get_position()[0] < 3.4


def test_a_table_of_another_kind_is_refused() -> None:
    with pytest.raises(StudyError, match="table 'overlap' lacks column 'rule'"):
        draw_boxes(make_boxes().drop(columns="rule"))


MASK_QUANTITIES = [
    *(("area", "expression"), ("area", "identity"), ("intersection", "both"), ("iou", "both")),
    *(("iou_halves", "both"), ("iou_halves", "expression"), ("iou_halves", "identity")),
]


def make_masks() -> pd.DataFrame:
    """Numbers 0.1, 0.2, ...; seeds 0.004 above and below."""
    rows = combine(quantity=MASK_QUANTITIES, seed=[1, 2], resample=[-1, 0, 1])
    for row in rows:
        shift = 0.004 * (2 * row["seed"] - 3) + 0.02 * max(row["resample"], 0)
        row["number"] = 0.1 * (MASK_QUANTITIES.index(row["quantity"]) + 1) + shift
        row["quantity"], row["tested_on"] = row["quantity"]
    return make_table(OVERLAP, rows, figure="2C", trained_on="joint", rule="published")


def read_bars(axes: Axes) -> dict[str, list[float]]:
    """The lengths of the bars of every label, from top to bottom."""
    lengths: dict[str, list[float]] = {}
    for container in axes.containers:
        if isinstance(container, BarContainer):
            lengths.setdefault(container.get_label(), []).extend(patch.get_width() for patch in container)
    return lengths


def draw_masks(table: pd.DataFrame, **changes: float) -> list[Axes]:
    figure = Figure(figsize=(4, 3), layout="constrained")
    draw_overlap(figure, table, reference=read_reference_heatmaps("2C").assign(**changes))
    return figure.axes


def test_bars_of_areas_and_overlaps_are_drawn_beside_the_published_ones() -> None:
    upper, lower = draw_masks(make_masks())
    reproduced, published = "reproduced, mean over seeds", "published, ± reading error"
    assert read_bars(upper)[published] == [0.043, 0.1367, 0.0104] and read_bars(lower)[published] == [0.062]  # paper
    np.testing.assert_allclose(read_bars(upper)[reproduced], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(read_bars(lower)[reproduced], [0.4, 0.5, 0.6, 0.7])
    assert read_texts(upper.get_yticklabels()) == ["expression mask", "identity mask", "both"]
    assert len(lower.get_yticklabels()) == 4 and upper.yaxis_inverted() and lower.yaxis_inverted()
    assert lower.get_xlim()[0] == 0 and lower.get_xlim()[1] > 1
    assert read_texts(upper.texts) == [".043", ".100", ".137", ".200", ".010", ".300"]


def test_bars_have_intervals_reading_errors_and_seeds() -> None:
    upper, lower = draw_masks(make_masks())
    low, high = 0.0005, 0.0195  # by hand: of the means over seeds of two resamples, 0 and .02 away, 0.025 of the gap
    reproduced = [(number + low, number + high) for number in (0.1, 0.2, 0.3)]
    published = [(0.039, 0.047), (0.1327, 0.1407), (0.0064, 0.0144)]
    np.testing.assert_allclose(read_intervals(upper, along=0)[::2], published)
    np.testing.assert_allclose(read_intervals(upper, along=0)[1::2], reproduced)
    assert read_intervals(lower, along=0)[0] == pytest.approx((0.042, 0.082))
    dots = [line.get_xdata() for line in lower.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [[0.1 * n - 0.004, 0.1 * n + 0.004] for n in (4, 5, 6, 7)])


def test_a_reading_error_never_reaches_below_zero() -> None:
    upper, _ = draw_masks(make_masks(), reading_error=0.05)
    assert read_intervals(upper, along=0)[0] == pytest.approx((0, 0.093))


def test_missing_overlaps_are_labelled_blank() -> None:
    table = make_masks()
    table.loc[table["quantity"] == "iou_halves", "number"] = np.nan
    _, lower = draw_masks(table)
    assert [text.get_text().strip() for text in lower.texts] == [".062", ".400", "blank", "blank", "blank"]


YARDSTICKS = [
    ("iou", "joint", "both"),
    *(("iou_networks", "joint", task) for task in ("expression", "identity")),
    *(("iou_networks", task, task) for task in ("expression", "identity")),
    *((name, "joint", task) for task in ("expression", "identity") for name in ("iou_tasks", "iou_classes")),
]


def test_overlaps_that_C6_compares_are_of_the_rule_top_and_beside_the_untrained_networks() -> None:
    """Numbers .05, .10, ...; the untrained network's are half of that."""
    rows = [
        {
            "quantity": quantity,
            "trained_on": name,
            "tested_on": task,
            "seed": seed,
            "number": share * (0.05 * index + 0.05),
        }
        for index, (quantity, network, task) in enumerate(YARDSTICKS)
        for name, share in ((network, 1.0), ("untrained", 0.5))[: 2 if network == "joint" else 1]
        for seed in (1, 2)
    ]
    yardsticks = make_table(OVERLAP, rows, figure="2C", rule="top", resample=-1)
    upper, middle, lower = draw_masks(pd.concat([make_masks(), yardsticks], ignore_index=True))
    bars = read_bars(lower)
    np.testing.assert_allclose(bars["reproduced, mean over seeds"], 0.05 * np.array([1, 2, 3, 6, 7, 8, 9]))
    np.testing.assert_allclose(bars["expression networks"] + bars["identity networks"], [0.2, 0.25])
    np.testing.assert_allclose(bars["untrained network"], 0.025 * np.array([1, 2, 3, 6, 7, 8, 9]))
    assert len(lower.get_yticklabels()) == 9 and "published, ± reading error" not in bars
    for axes, rows_before in ((upper, 3), (middle, 4)):
        assert len(read_bars(axes)["reproduced, mean over seeds"]) == rows_before
    centres = [patch.get_y() + patch.get_height() / 2 for patch in lower.patches]
    assert len(set(np.round(centres, 6))) == 16  # no bar hides another
