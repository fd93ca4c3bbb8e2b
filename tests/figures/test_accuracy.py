"""Figures are read back from their artists: what is drawn at which position, and which texts label it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from facespec.figures.accuracy import draw_figure_1, draw_panel, draw_panels
from facespec.figures.bars import Bar, Panel, make_reference_panel
from facespec.figures.style import LOOKS
from facespec.published.reference import read_reference_accuracy
from toys import read_legend, read_texts

# not in the order in which they are drawn
DECODING = Panel(
    "1B",
    "sound",
    (
        Bar("identity", "identity", "embedded faces", 1234, 0.05, 0.93, 0.90, 0.95, (0.92, 0.94)),
        Bar("identity", "expression", "embedded faces", 35, 1 / 7, 0.21, 0.12, 0.31, (0.20, 0.22)),
        Bar("expression", "identity", "embedded faces", 1234, 0.05, 0.34, 0.30, 0.36, (0.33, 0.35)),
        Bar("expression", "expression", "embedded faces", 35, 1 / 7, 0.45, 0.39, 0.58, (0.41, 0.49)),
    ),
)
HEADS = Panel(
    "1C",
    "sound",
    (
        Bar("joint", "identity", "KDEF", 70, 1 / 70, 1.0, 0.96, 1.0),
        Bar("joint", "expression", "FER2013", 17, 1 / 7, 0.547, 0.49, 0.58),
        Bar("identity", "identity", "KDEF", 70, 1 / 70, 0.978, 0.967, 0.99),
        Bar("expression", "expression", "FER2013", 17, 1 / 7, 0.546, 0.50, 0.585),
    ),
)
LEFT_TO_RIGHT = [DECODING.bars[index] for index in (3, 1, 2, 0)]
NETWORKS = [bar.trained_on for bar in LEFT_TO_RIGHT]


def draw(panel: Panel) -> Axes:
    return draw_panel(Figure().add_subplot(), panel)


def draw_bar(*numbers: float, per_seed: tuple[float, ...] = ()) -> Axes:
    return draw(Panel("1B", "sound", (Bar("joint", "identity", "KDEF", 70, 0.1, *numbers, per_seed),)))


def read_errors(axes: Axes) -> np.ndarray:
    """(bars, low and high, x and y) of every error bar, from left to right."""
    return np.array([c.lines[2][0].get_segments()[0] for c in axes.containers if hasattr(c, "has_yerr")])


def read_bounds(bars: list[Bar]) -> list[tuple[float, float]]:
    return [(bar.low, bar.high) for bar in bars]


def test_bars_are_the_tables_numbers_in_their_networks_looks() -> None:
    axes = draw(DECODING)
    assert [(patch.get_y(), patch.get_height()) for patch in axes.patches] == [(0, bar.mean) for bar in LEFT_TO_RIGHT]
    centres = [patch.get_x() + patch.get_width() / 2 for patch in axes.patches]
    assert centres == sorted(centres) and [round(centre) for centre in centres] == [0, 0, 1, 1]
    assert np.mean(centres[:2]) == pytest.approx(0) and np.mean(centres[2:]) == pytest.approx(1)
    np.testing.assert_allclose(read_errors(axes)[:, :, 1], read_bounds(LEFT_TO_RIGHT))
    assert read_texts(axes.texts) == [".450", ".210", ".340", ".930"]
    assert [text.xy[1] for text in axes.texts] == [max(bar.high, *bar.per_seed) for bar in LEFT_TO_RIGHT]
    for patch, network in zip(axes.patches, NETWORKS, strict=True):
        assert patch.get_facecolor()[:3] == pytest.approx(to_rgb(LOOKS[network].colour))
        assert (patch.get_hatch() or "") == LOOKS[network].hatch


def test_every_seed_is_a_dot_on_its_bar() -> None:
    dots = [line for line in draw(DECODING).lines if line.get_marker() == "o"]
    assert [tuple(line.get_ydata()) for line in dots] == [bar.per_seed for bar in LEFT_TO_RIGHT]


@pytest.mark.parametrize("seeds", [1, 2, 5, 40])
def test_dots_lie_on_their_bar_beside_the_error_bar(seeds: int) -> None:
    axes = draw_bar(0.5, 0.4, 0.6, per_seed=(0.5,) * seeds)
    (dots,) = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    (patch,), error = axes.patches, read_errors(axes)[0, 0, 0]
    assert patch.get_x() < min(dots) and max(dots) < error < patch.get_x() + patch.get_width()
    assert len(set(dots)) == seeds


def test_without_dots_the_error_bar_is_central() -> None:
    axes = draw(HEADS)
    assert not [line for line in axes.lines if line.get_marker() == "o"]
    centres = [patch.get_x() + patch.get_width() / 2 for patch in axes.patches]
    np.testing.assert_allclose(read_errors(axes)[:, 0, 0], centres)


def test_chance_is_a_line_across_its_task() -> None:
    axes = draw(DECODING)
    lines = np.array([line.get_segments()[0] for line in axes.collections if "chance" in line.get_label()])
    assert lines[:, :, 1].tolist() == [[1 / 7] * 2, [0.05] * 2]
    for task, (left, right) in enumerate(lines[:, :, 0]):
        first, last = axes.patches[2 * task : 2 * task + 2]
        assert left < first.get_x() and right > last.get_x() + last.get_width()
    assert lines[0, 1, 0] < lines[1, 0, 0]


def test_texts_name_task_n_chance_and_source() -> None:
    axes = draw(DECODING)
    ticks = ["expression\nn = 35\nchance .143", "identity\nn = 1,234\nchance .050"]
    assert read_texts(axes.get_xticklabels()) == ticks and list(axes.get_xticks()) == [0, 1]
    assert (axes.get_ylabel(), axes.get_title()) == ("decoding accuracy", "embedded faces")
    assert axes.get_ylim()[0] == 0 and 1 < axes.get_ylim()[1] < 1.2


def test_single_task_networks_are_drawn_left_of_the_joint_one() -> None:
    axes = draw(HEADS)
    hatches = [LOOKS[network].hatch for network in ("expression", "joint", "identity", "joint")]
    assert [patch.get_hatch() or "" for patch in axes.patches] == hatches
    assert (axes.get_ylabel(), axes.get_title()) == ("accuracy", "FER2013 (expression), KDEF (identity)")
    assert read_texts(axes.texts) == [".546", ".547", ".978", "1.000"]


def test_a_mean_outside_its_interval_is_drawn_as_it_is() -> None:
    axes = draw_bar(0.5, 0.6, 0.7)
    np.testing.assert_allclose(read_errors(axes)[:, :, 1], [(0.6, 0.7)])
    assert axes.patches[0].get_height() == 0.5


def test_published_style_is_pale_without_hatches_seeds_and_chance() -> None:
    axes = draw(Panel("1B", "published", DECODING.bars))
    assert [patch.get_height() for patch in axes.patches] == [bar.mean for bar in LEFT_TO_RIGHT]
    for patch, network in zip(axes.patches, NETWORKS, strict=True):
        assert patch.get_facecolor()[:3] == pytest.approx(LOOKS[network].published) and not patch.get_hatch()
    np.testing.assert_allclose(read_errors(axes)[:, :, 1], read_bounds(LEFT_TO_RIGHT))
    assert not axes.lines and not [line for line in axes.collections if "chance" in str(line.get_label())]


def add_baselines(panel: Panel) -> Panel:
    """`panel` with lines at .30, .40, .50 (expression) and .11, .21, .31 (identity), and hollow bars for expression."""
    numbers = {"expression": (0.30, 0.40, 0.50), "identity": (0.11, 0.21, 0.31)}
    names = ("untrained", "pixels", "pixels_nearest")
    bars = [
        Bar(name, task, "KDEF", 70, 0.1, mean, mean, mean, (mean,))
        for task, means in numbers.items()
        for name, mean in zip(names, means, strict=True)
    ]
    zero_shot = (
        Bar("joint", "expression", "FER2013", 17, 1 / 7, 0.33, 0.25, 0.41, (0.32, 0.34)),
        Bar("expression", "expression", "FER2013", 17, 1 / 7, 0.36, 0.30, 0.43),
    )
    return replace(panel, baselines=tuple(bars[::-1]), zero_shot=zero_shot)


def test_baselines_are_marked_lines_across_their_task() -> None:
    axes = draw(replace(add_baselines(DECODING), zero_shot=()))
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    assert {name: set(line.get_ydata()) for name, line in lines.items()} == {
        "untrained expression": {0.30},
        "pixels expression": {0.40},
        "pixels_nearest expression": {0.50},
        "untrained identity": {0.11},
        "pixels identity": {0.21},
        "pixels_nearest identity": {0.31},
    }
    for task, bars in (("expression", axes.patches[:2]), ("identity", axes.patches[2:])):
        for name in ("untrained", "pixels", "pixels_nearest"):
            x = lines[f"{name} {task}"].get_xdata()
            assert min(x) < bars[0].get_x() and max(x) > bars[1].get_x() + bars[1].get_width()
    assert len({(line.get_marker(), str(line.get_linestyle())) for line in lines.values()}) == 3
    assert axes.get_xticklabels()[1].get_text() == (
        "identity\nn = 1,234\nchance .050\nuntrained .110\npixels, LDA .210\npixels, 1-NN .310"
    )


def test_networks_before_fine_tuning_are_hollow_bars_right_of_the_others() -> None:
    axes = draw(add_baselines(HEADS))
    assert [(patch.get_gid(), patch.get_height()) for patch in axes.patches] == [
        (None, 0.546),
        (None, 0.547),
        ("zero-shot", 0.36),
        ("zero-shot", 0.33),
        (None, 0.978),
        (None, 1.0),
    ]
    edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    assert all(right < left + 1e-9 for (_, right), (left, _) in itertools.pairwise(edges))
    for patch, network in zip(axes.patches[2:4], ("expression", "joint"), strict=True):
        assert patch.get_facecolor()[:3] == (1, 1, 1)
        assert patch.get_edgecolor()[:3] == pytest.approx(to_rgb(LOOKS[network].colour))
    first, second = axes.get_xticks()
    assert edges[1][1] == pytest.approx(first, abs=0.01) and edges[4][1] == pytest.approx(second)
    assert not any(
        p.get_gid() or line.get_gid() for p, line in zip(draw(HEADS).patches, axes.collections, strict=False)
    )


def test_the_legend_names_baselines_and_networks_before_fine_tuning() -> None:
    labels = read_legend(draw_panels({"reproduced": add_baselines(HEADS)}))
    assert labels[:5] == [
        "expression network",
        "identity network",
        "joint network",
        "expression, not fine-tuned",
        "joint, not fine-tuned",
    ]
    assert sorted(labels[5:]) == [
        "95 % of resampled test sets",
        "chance (best constant answer)",
        "one seed",
        "pixels, discriminants (LDA)",
        "pixels, nearest face (1-NN)",
        "untrained network, decoded",
    ]


def test_panels_side_by_side_share_the_axis_and_are_titled() -> None:
    figure = draw_panels({"published": make_reference_panel(read_reference_accuracy(), "1B"), "reproduced": DECODING})
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim() and list(left.get_yticks()) == list(right.get_yticks())
    assert [axes.get_title() for axes in figure.axes] == ["published\nKDEF", "reproduced\nembedded faces"]
    assert figure.get_suptitle() == "Figure 1B. Decoding from frozen single-task networks"
    means = read_reference_accuracy("1B").set_index(["trained_on", "tested_on"])["mean"]
    assert [p.get_height() for p in left.patches] == [means[bar.trained_on, bar.tested_on] for bar in LEFT_TO_RIGHT]
    assert [patch.get_height() for patch in right.patches] == [0.45, 0.21, 0.34, 0.93]
    networks = ["expression network", "identity network"]
    assert read_legend(figure) == [
        *networks,
        "chance (best constant answer)",
        "95 % of resampled test sets",
        "one seed",
    ]


def test_panels_of_two_figures_are_not_drawn_side_by_side() -> None:
    with pytest.raises(ValueError, match="too many values"):
        draw_panels({"one": DECODING, "two": HEADS})


def test_figure_1_names_every_panel_and_its_source() -> None:
    figure = draw_figure_1([DECODING, HEADS])
    assert [axes.get_title() for axes in figure.axes] == [
        "1B  Decoding from frozen single-task networks\nembedded faces",
        "1C  Single-task and joint networks, fine-tuned\nFER2013 (expression), KDEF (identity)",
    ]
    assert [len(axes.patches) for axes in figure.axes] == [4, 4]
    labels = read_legend(figure)
    assert labels[:3] == ["expression network", "identity network", "joint network"] and len(labels) == len(set(labels))


@pytest.mark.parametrize("panels", [[DECODING], [HEADS, HEADS], [HEADS, add_baselines(HEADS)]])
def test_figures_are_legible(panels: list[Panel], legible: Callable[[Figure], None]) -> None:
    legible(draw_panels(dict(zip("ab", panels, strict=False))))
    legible(draw_figure_1([*panels, *panels]))
