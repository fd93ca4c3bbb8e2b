"""The segregation index is read back from its artists; the whole figure is looked at for what lies on what."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from facespec.figures.lesions import RANKINGS, draw_figure_lesions, spread_evenly, thin_out
from facespec.figures.style import LOOKS, save_figure
from facespec.study.errors import StudyError
from facespec.study.tables_lesions import LESIONS, SEGREGATION

FRACTIONS = (0.1, 0.3)
TASKS = ("expression", "identity")


def lesions(
    layers: int = 3, *, trained_on: str = "joint", fractions: tuple[float, ...] = (0.0, 0.1, 0.3)
) -> pd.DataFrame:
    ways = [*((condition, task) for condition in ("ranked", "keep") for task in TASKS), ("random", ""), ("keep", "")]
    rows = [
        {
            "trained_on": trained_on,
            "source": "painted faces",
            "seed": 4,
            "layer": f"trunk.relu{depth}",
            "depth": depth,
            "condition": condition,
            "draw": 0,
            "ranked_by": by,
            "fraction": fraction,
            "units": 512,
            "silenced": 1,
            "tested_on": on,
            "n": 7,
            "chance": 0.1,
            "accuracy": 0.5,
            "drop": fraction,
            "reason": "",
            "between_classes": 0.4,
        }
        for depth in range(1, layers + 1)
        for fraction in fractions
        for on in TASKS
        for condition, by in ways
    ]
    return LESIONS.check(pd.DataFrame(rows))


def level(condition: str, depth: int, fraction: float) -> float:
    return 0.2 * list(RANKINGS).index(condition) - 0.1 * depth + fraction


def segregation(layers: int = 3, fractions: tuple[float, ...] = FRACTIONS) -> pd.DataFrame:
    """Deep layers first; the tasks' own quantities and fraction 0 are there as well, and not to be drawn."""
    rows = [
        {
            "trained_on": "joint",
            "source": "painted faces",
            "layer": f"trunk.relu{depth}",
            "depth": depth,
            "condition": condition,
            "fraction": fraction,
            "quantity": quantity,
            "people": 24,
            "defined": 1.0,
            "seeds": 1 if condition == "random" else 3,
            "number": number,
            "low": number - 0.1,
            "high": number + 0.05,
            "reason": "",
        }
        for depth in range(layers, 0, -1)
        for condition in reversed(RANKINGS)
        for fraction in (*fractions, 0.0)
        for quantity in ("identity", "index")
        for number in [level(condition, depth, fraction) if quantity == "index" else 0.9]
    ]
    return SEGREGATION.check(pd.DataFrame(rows))


@cache
def usual() -> Figure:
    return draw_figure_lesions(lesions(), segregation())


def panels(figure: Figure) -> list[Axes]:
    return figure.subfigs[-1].axes


def lines(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_gid()): line for line in axes.lines if line.get_gid()}


def test_every_fraction_has_its_panel_with_all_layers_their_intervals_and_the_controls() -> None:
    figure = usual()
    assert [axes.get_title() for axes in panels(figure)] == ["10 % silenced", "30 % silenced"]
    for axes, fraction in zip(panels(figure), FRACTIONS, strict=True):
        found = lines(axes)
        assert list(found) == ["ranked", "shuffled", "random"]
        for bars, (condition, line) in zip(axes.collections, found.items(), strict=True):
            numbers = np.array([level(condition, depth, fraction) for depth in (1, 2, 3)])
            x, y = line.get_data()
            np.testing.assert_allclose(y, numbers)
            assert np.round(x).tolist() == [0, 1, 2]
            ends = np.array(bars.get_segments())
            np.testing.assert_allclose(ends[:, :, 0], np.transpose([x, x]))
            np.testing.assert_allclose(ends[:, :, 1], np.transpose([numbers - 0.1, numbers + 0.05]))
            assert to_rgb(bars.get_color()[0][:3]) == to_rgb(line.get_color())
        assert len({line.get_marker() for line in found.values()}) == 3
        assert len({line.get_xdata()[0] for line in found.values()}) == 3  # beside each other
        assert to_rgb(found["ranked"].get_color()) == to_rgb(LOOKS["joint"].colour)
        greys = [to_rgb(found[control].get_color()) for control in ("shuffled", "random")]
        assert greys[0] != greys[1] and all(len(set(grey)) == 1 for grey in greys)
        assert [line.get_linewidth() > 0 for line in found.values()] == [True, False, False]


def test_scale_and_words() -> None:
    figure = usual()
    for axes in panels(figure):
        assert axes.get_ylim() == (-1.08, 1.08) and axes.get_xlabel() == "depth"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
        assert [line.get_ydata() for line in axes.lines if not line.get_gid()] == [[0, 0]]
        assert not axes.texts
    assert [(text.get_position()[1], text.get_text()) for text in panels(figure)[0].get_yticklabels()] == [
        (-1, "only the other\ntask suffers  −1"),
        (0, "both alike   0"),
        (1, "only its own\ntask suffers    1"),
    ]
    assert figure.subfigs[-1].get_suptitle() == (
        "Segregation index: does silencing harm the intended task only? (seeds: 3, n = 24)"
    )
    assert [text.get_text() for text in figure.subfigs[-1].legends[0].get_texts()] == [
        "units each task needs most",
        "control: classes of both tasks mixed",
        "control: random units",
        "95 % interval",
    ]


def test_an_undefined_index_leaves_a_gap_and_is_said_to_be_undefined() -> None:
    given = segregation()
    nothing = given.eval("condition != 'shuffled' and depth == 2 and fraction == 0.3 and quantity == 'index'")
    given.loc[nothing, ["number", "low", "high", "defined", "reason"]] = [
        np.nan,
        np.nan,
        np.nan,
        0.0,
        "no task suffers",
    ]
    without, axes = panels(draw_figure_lesions(lesions(1), given))
    found = lines(axes)
    assert set(found) - set(lines(without)) == {"undefined ranked", "undefined random"} and not without.texts
    for condition in ("ranked", "random"):
        own, mark = found[condition], found[f"undefined {condition}"]
        assert np.isnan(own.get_ydata()).tolist() == [False, True, False]
        assert mark.get_xdata().tolist() == [own.get_xdata()[1]]
        assert mark.get_ydata().tolist() == [axes.get_ylim()[0]] and not mark.get_clip_on()
        assert to_rgb(mark.get_markerfacecolor()) == (1, 1, 1) and mark.get_marker() == own.get_marker()
        assert to_rgb(mark.get_markeredgecolor()) == to_rgb(own.get_color())
    assert [len(bars.get_segments()) for bars in axes.collections] == [2, 3, 2]
    assert [text.get_text() for text in axes.texts] == ["open: undefined"]


def test_an_index_without_interval_has_no_bar() -> None:
    given = segregation().assign(low=np.nan)
    for axes in panels(draw_figure_lesions(lesions(1), given)):
        assert [len(bars.get_segments()) for bars in axes.collections] == [0, 0, 0]
        assert not np.isnan(lines(axes)["ranked"].get_ydata()).any()


def test_controls_that_were_not_run_are_not_named() -> None:
    figure = draw_figure_lesions(lesions(1), segregation().query("condition != 'shuffled' and fraction == 0.3"))
    (axes,) = panels(figure)
    assert list(lines(axes)) == ["ranked", "random"]
    assert [text.get_text() for text in figure.subfigs[-1].legends[0].get_texts()] == [
        "units each task needs most",
        "control: random units",
        "95 % interval",
    ]


def test_of_many_layers_some_have_curves_and_all_an_index() -> None:
    figure = draw_figure_lesions(lesions(9), segregation(9))
    titles = [axes.get_title().split("\n")[0] for axes in figure.subfigs[0].axes]
    assert titles == [f"trunk.relu{depth}" for depth in (1, 3, 5, 7, 9)]
    for axes in panels(figure):
        assert len(lines(axes)["ranked"].get_xdata()) == 9
        assert axes.get_xticks().tolist() == [0, 2, 4, 6, 8]
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "3", "5", "7", "9"]


def test_long_names_of_layers_are_shortened_and_stay_apart(legible: Callable[[Figure], None]) -> None:
    given = lesions(5)
    names = {f"trunk.relu{depth}": f"encoder.layers.{depth}.attention.output.dense" for depth in range(1, 5)}
    given["layer"] = given["layer"].replace(names)
    figure = draw_figure_lesions(given, segregation(5))
    titles = [axes.get_title().split("\n")[0] for axes in figure.subfigs[0].axes]
    assert len(set(titles)) == 5 and titles[4] == "trunk.relu5" and all("…" in title for title in titles[:4])
    legible(figure)


def test_names_and_numbers_are_thinned_out_evenly() -> None:
    for count, shown in ((1, "a"), (4, "abcd"), (5, "abcde"), (6, "abcef"), (13, "adgjm")):
        assert "".join(spread_evenly("abcdefghijklm"[:count], 5)) == shown
    for count, numbers in ((1, [0]), (7, [*range(7)]), (8, [0, 2, 4, 6]), (15, [0, 3, 6, 9, 12])):
        assert list(thin_out(range(count))) == numbers


def test_an_index_of_another_network_or_of_whole_networks_is_refused() -> None:
    for given in (lesions(trained_on="mine"), lesions()):
        with pytest.raises(StudyError) as caught:
            draw_figure_lesions(given, segregation().query("fraction == 0 or quantity == 'identity'"))
        assert str(caught.value) == (
            f"table 'segregation' holds no index of the {given['trained_on'][0]} network at a fraction above 0. Pass "
            "the table made from these lesions."
        )
    with pytest.raises(StudyError, match="no index of the mine network"):
        draw_figure_lesions(lesions(trained_on="mine"), segregation())


@pytest.mark.parametrize(
    ("layers", "fractions", "known"),
    [
        (1, (0.1,), True),
        (4, (0.05, 0.1, 0.2, 0.3, 0.5), False),
        (13, (0.1, 0.2, 0.3), True),
        (100, (1 / 3,), True),
        (5, tuple(place / 11 for place in range(1, 11)), True),
    ],
)
def test_no_text_overlaps_another_or_leaves_the_page(
    layers: int, fractions: tuple[float, ...], known: bool, legible: Callable[[Figure], None]
) -> None:
    given = lesions(layers, fractions=(0.0, *fractions))
    if not known:
        given["drop"] = np.nan
    figure = draw_figure_lesions(given, segregation(layers, fractions).assign(low=-1.0, high=1.0))
    legible(figure)


def test_equal_tables_give_equal_files(tmp_path: Path) -> None:
    written = [
        save_figure(draw_figure_lesions(lesions(1), segregation(1)), tmp_path / name) for name in ("one", "again")
    ]
    for one, again in zip(*written, strict=True):
        assert one.read_bytes() == again.read_bytes()
