"""Figures are read back from their artists: what is drawn where, and what is written beside it."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from facespec.figures.accuracy import draw_figure_1, draw_panel, draw_panels
from facespec.figures.bars import Bar, Panel, make_reference_panel
from facespec.figures.style import LOOKS
from facespec.published.reference import read_reference_accuracy

# in another order than they are drawn in
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
LEFT_TO_RIGHT = [
    ("expression", "expression"),
    ("identity", "expression"),
    ("expression", "identity"),
    ("identity", "identity"),
]


def axes_of(panel: Panel) -> Axes:
    return draw_panel(Figure().add_subplot(), panel)


def in_order(panel: Panel, order: list[tuple[str, str]]) -> list[Bar]:
    by_name = {(bar.trained_on, bar.tested_on): bar for bar in panel.bars}
    return [by_name[names] for names in order]


def errors(axes: Axes) -> list[tuple[float, float]]:
    """(low, high) of every error bar, from left to right."""
    ends = [
        container.lines[2][0].get_segments()[0][:, 1] for container in axes.containers if hasattr(container, "has_yerr")
    ]
    return [(float(low), float(high)) for low, high in ends]


def test_bars_stand_for_the_tables_numbers() -> None:
    axes, bars = axes_of(DECODING), in_order(DECODING, LEFT_TO_RIGHT)
    assert [patch.get_height() for patch in axes.patches] == [bar.mean for bar in bars]
    assert [patch.get_y() for patch in axes.patches] == [0] * 4
    centres = [patch.get_x() + patch.get_width() / 2 for patch in axes.patches]
    assert centres == sorted(centres)
    assert [round(centre) for centre in centres] == [0, 0, 1, 1]
    assert np.mean(centres[:2]) == pytest.approx(0) and np.mean(centres[2:]) == pytest.approx(1)
    np.testing.assert_allclose(errors(axes), [(bar.low, bar.high) for bar in bars])
    assert [text.get_text() for text in axes.texts] == [".450", ".210", ".340", ".930"]
    for text, bar in zip(axes.texts, bars, strict=True):
        assert text.xy[1] == max(bar.high, *bar.dots)  # above everything of its bar


def test_bars_wear_their_networks_colours_and_patterns() -> None:
    for patch, (network, _) in zip(axes_of(DECODING).patches, LEFT_TO_RIGHT, strict=True):
        assert patch.get_facecolor()[:3] == pytest.approx(to_rgb(LOOKS[network].colour))
        assert (patch.get_hatch() or "") == LOOKS[network].hatch
        assert patch.get_facecolor()[:3] != pytest.approx(LOOKS[network].published)


def test_every_seed_is_a_dot_on_its_bar() -> None:
    axes = axes_of(DECODING)
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [tuple(line.get_ydata()) for line in dots] == [bar.dots for bar in in_order(DECODING, LEFT_TO_RIGHT)]
    for line, patch in zip(dots, axes.patches, strict=True):
        assert (line.get_xdata() > patch.get_x()).all() and (line.get_xdata() < patch.get_x() + patch.get_width()).all()
        assert len(set(line.get_xdata())) == 2


@pytest.mark.parametrize("seeds", [1, 2, 5, 40])
def test_dots_stay_on_their_bar_and_off_the_error_bar(seeds: int) -> None:
    axes = axes_of(Panel("1B", "sound", (Bar("joint", "identity", "KDEF", 70, 0.1, 0.5, 0.4, 0.6, (0.5,) * seeds),)))
    (dots,) = [line for line in axes.lines if line.get_marker() == "o"]
    (patch,) = axes.patches
    (error,) = [c.lines[2][0].get_segments()[0][0, 0] for c in axes.containers if hasattr(c, "has_yerr")]
    assert patch.get_x() < min(dots.get_xdata()) and max(dots.get_xdata()) < error < patch.get_x() + patch.get_width()


def test_without_dots_the_error_bar_is_central() -> None:
    axes = axes_of(HEADS)
    assert not [line for line in axes.lines if line.get_marker() == "o"]
    places = [c.lines[2][0].get_segments()[0][0, 0] for c in axes.containers if hasattr(c, "has_yerr")]
    np.testing.assert_allclose(places, [patch.get_x() + patch.get_width() / 2 for patch in axes.patches])


def test_chance_is_a_line_across_its_task() -> None:
    axes = axes_of(DECODING)
    lines = [line.get_segments()[0] for line in axes.collections if line.get_label() == "chance"]
    assert [line[0, 1] for line in lines] == [line[1, 1] for line in lines] == [1 / 7, 0.05]
    for task, line in enumerate(lines):
        own = axes.patches[2 * task : 2 * task + 2]
        assert line[0, 0] < own[0].get_x() and line[1, 0] > own[1].get_x() + own[1].get_width()
    assert lines[0][1, 0] < lines[1][0, 0]


def test_ticks_name_task_n_and_chance() -> None:
    axes = axes_of(DECODING)
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "expression\nn = 35\nchance .143",
        "identity\nn = 1,234\nchance .050",
    ]
    assert list(axes.get_xticks()) == [0, 1]
    assert axes.get_ylabel() == "decoding accuracy"
    assert axes.get_title() == "embedded faces"
    assert axes.get_ylim()[0] == 0 and 1 < axes.get_ylim()[1] < 1.2


def test_heads_draw_single_beside_joint_per_task() -> None:
    axes = axes_of(HEADS)
    order = [("expression", "expression"), ("joint", "expression"), ("identity", "identity"), ("joint", "identity")]
    assert [patch.get_height() for patch in axes.patches] == [bar.mean for bar in in_order(HEADS, order)]
    assert [patch.get_hatch() or "" for patch in axes.patches] == [LOOKS[network].hatch for network, _ in order]
    assert axes.get_ylabel() == "accuracy"
    assert axes.get_title() == "FER2013 (expression), KDEF (identity)"
    assert [text.get_text() for text in axes.texts] == [".546", ".547", ".978", "1.000"]


def test_a_mean_outside_its_interval_is_drawn_as_it_is() -> None:
    axes = axes_of(Panel("1B", "sound", (Bar("joint", "identity", "KDEF", 70, 0.1, 0.5, 0.6, 0.7),)))
    np.testing.assert_allclose(errors(axes), [(0.6, 0.7)])
    assert axes.patches[0].get_height() == 0.5


def test_published_style_is_pale_narrow_and_bare() -> None:
    axes = axes_of(Panel("1B", "published", DECODING.bars))
    bars = in_order(DECODING, LEFT_TO_RIGHT)
    assert [patch.get_height() for patch in axes.patches] == [bar.mean for bar in bars]
    for patch, bar in zip(axes.patches, bars, strict=True):
        assert patch.get_facecolor()[:3] == pytest.approx(LOOKS[bar.trained_on].published) and not patch.get_hatch()
    np.testing.assert_allclose(errors(axes), [(bar.low, bar.high) for bar in bars])
    assert not axes.lines and "chance" not in [line.get_label() for line in axes.collections]


def test_side_by_side_shares_the_axis_and_names_what_is_what() -> None:
    figure = draw_panels({"published": make_reference_panel(read_reference_accuracy(), "1B"), "reproduced": DECODING})
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim() and list(left.get_yticks()) == list(right.get_yticks())
    assert [axes.get_title() for axes in figure.axes] == ["published\nKDEF", "reproduced\nembedded faces"]
    assert figure.get_suptitle() == "Figure 1B. Decoding from frozen single-task networks"
    reference = read_reference_accuracy("1B").set_index(["trained_on", "tested_on"])
    assert [patch.get_height() for patch in left.patches] == [reference.loc[names, "mean"] for names in LEFT_TO_RIGHT]
    assert [patch.get_height() for patch in right.patches] == [0.45, 0.21, 0.34, 0.93]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "expression network",
        "identity network",
        "chance",
        "95 % of resampled test sets",
        "one seed",
    ]


def test_figures_of_two_kinds_do_not_stand_side_by_side() -> None:
    with pytest.raises(ValueError, match="too many values"):
        draw_panels({"one": DECODING, "two": HEADS})


def test_overview_names_every_figure_and_its_data() -> None:
    figure = draw_figure_1([DECODING, HEADS])
    assert [axes.get_title() for axes in figure.axes] == [
        "1B  Decoding from frozen single-task networks\nembedded faces",
        "1C  Single-task and joint networks, fine-tuned\nFER2013 (expression), KDEF (identity)",
    ]
    assert [len(axes.patches) for axes in figure.axes] == [4, 4]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == ["expression network", "identity network", "joint network"] and len(labels) == len(set(labels))


@pytest.mark.parametrize(
    "figure", [draw_figure_1([DECODING, HEADS, DECODING, HEADS]), draw_panels({"a": HEADS, "b": HEADS})]
)
def test_no_text_overlaps_another_or_leaves_the_page(figure: Figure) -> None:
    figure.draw_without_rendering()
    texts = [figure._suptitle] if figure._suptitle else []
    texts += figure.legends[0].get_texts()
    for axes in figure.axes:
        texts += [axes.title, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts]
    boxes = [text.get_window_extent() for text in texts if text.get_visible() and text.get_text()]
    for index, box in enumerate(boxes):
        assert (
            figure.bbox.x0 <= box.x0
            and box.x1 <= figure.bbox.x1
            and figure.bbox.y0 <= box.y0
            and box.y1 <= figure.bbox.y1
        )
        for other in boxes[:index]:
            assert not (box.x0 < other.x1 and other.x0 < box.x1 and box.y0 < other.y1 and other.y0 < box.y1)


def test_drawing_leaves_the_users_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    draw_figure_1([DECODING])
    assert dict(matplotlib.rcParams) == before


def test_one_panel_is_legible(legible: Callable[[Figure], None]) -> None:
    legible(draw_panels({"reproduced": DECODING}))
    legible(draw_figure_1([DECODING]))
