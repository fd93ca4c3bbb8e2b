"""Curves are read back from their artists, and compared with numbers by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from facespec.figures.lesion_classes import draw_figure_lesion_classes
from facespec.figures.style import LOOKS, MUTED, save_figure
from facespec.study.errors import StudyError
from facespec.study.tables_lesions import LESION_CLASSES, LESIONS

TASKS = ("identity", "expression")  # as they come in the table, not in the study's order
SEEDS, FRACTIONS = (4, 9), (0.0, 0.1, 0.25)
DRAWS = 7
# recalls of classes 0, 1, ... in the first layer at fraction 0.25, of both seeds; half of them in the second layer
RECALLS = {
    "expression expression": ((0, 1, 0.5), (1, 0, 0.25)),
    "identity expression": ((0.75, 0.25, 1), (0.5, 1, 0.75)),
    "identity identity": ((0, 1, 0, 0.5, 1), (1, 0, 0.25, 0, 0)),
    "expression identity": ((1, 0.5, 0.75, 0.5, 1), (0.25, 1, 1, 0.5, 0.75)),
}
WHOLE = {"expression": ((1, 0.5, 1), (0.75, 1, 0.5)), "identity": ((1, 1, 0.75, 1, 0.5), (1, 0.5, 1, 0.25, 1))}
# the same in percent, the class kept best first in each seed; then the mean of both seeds, rank by rank
KEPT: dict[str, list[tuple[float, ...]]] = {
    "ranked expression expression": [(100, 50, 0), (100, 25, 0), (100, 37.5, 0)],
    "ranked identity expression": [(100, 75, 25), (100, 75, 50), (100, 75, 37.5)],
    "ranked identity identity": [(100, 100, 50, 0, 0), (100, 25, 0, 0, 0), (100, 62.5, 25, 0, 0)],
    "ranked expression identity": [(100, 100, 75, 50, 50), (100, 100, 75, 50, 25), (100, 100, 75, 50, 37.5)],
}
KEPT_WHOLE: dict[str, tuple[float, ...]] = {"expression": (100, 87.5, 50), "identity": (100, 100, 100, 62.5, 37.5)}


def classes(tasks: Sequence[str] = TASKS, *, seeds: Sequence[int] = SEEDS, depths: int = 2) -> pd.DataFrame:
    """At fraction 0.1 nothing is lost."""
    rows = []
    for depth, seed, fraction, by, on in product(range(1, depths + 1), seeds, FRACTIONS, range(2), range(2)):
        lesioned = np.array(RECALLS[f"{TASKS[by]} {TASKS[on]}"][SEEDS.index(seed)]) / (2 if depth == 2 else 1)
        recalls = {0.0: WHOLE[TASKS[on]][SEEDS.index(seed)], 0.1: np.ones(len(lesioned)), 0.25: lesioned}[fraction]
        rows += [
            {
                "trained_on": "joint",
                "source": "painted faces",
                "seed": seed,
                "layer": f"trunk.relu{depth}",
                "depth": depth,
                "ranked_by": tasks[by],
                "fraction": fraction,
                "tested_on": tasks[on],
                "class": name,
                "n": 4,
                "recall": recall,
            }
            for name, recall in enumerate(recalls)
        ]
    return LESION_CLASSES.check(pd.DataFrame(rows).sample(frac=1, random_state=3, ignore_index=True))


def between(condition: str, by: int, on: int, *, depth: int, seed: int, fraction: float) -> float:
    """Every number its own; of tasks by their place in `TASKS`."""
    start = {"ranked": 0.0, "keep": 0.2, "shuffled": 0.3}[condition]
    return start + 0.1 * by + 0.05 * on + 0.02 * depth + 0.04 * SEEDS.index(seed) + fraction * depth / 21


def lesions(tasks: Sequence[str] = TASKS, *, seeds: Sequence[int] = SEEDS, depths: int = 2) -> pd.DataFrame:
    """Drops are those shares and a tenth; of random units, 0.01 for every draw and 0.5 more if they are kept."""
    rows = []
    for depth, seed, fraction, on in product(range(1, depths + 1), seeds, FRACTIONS, range(2)):
        place = {
            "trained_on": "joint",
            "source": "painted faces",
            "seed": seed,
            "layer": f"trunk.relu{depth}",
            "depth": depth,
            "fraction": fraction,
            "units": 16 * depth,
            "silenced": 1,
            "tested_on": tasks[on],
            "n": 12,
            "chance": 0.1,
            "accuracy": 0.5,
            "reason": "",
        }
        for condition, by in product(("ranked", "keep", "shuffled"), range(2)):
            value = between(condition, by, on, depth=depth, seed=seed, fraction=fraction)
            own = {"draw": 0, "ranked_by": tasks[by], "between_classes": value, "drop": value + 0.1}
            rows.append(place | own | {"condition": condition})
        for draw, (condition, more) in product(range(DRAWS), {"random": 0.0, "keep": 0.5}.items()):
            own = {"draw": draw, "ranked_by": "", "between_classes": draw / 100 + on / 1000, "drop": draw / 100 + more}
            rows.append(place | own | {"condition": condition})
    table = pd.DataFrame(rows).sample(frac=1, random_state=3, ignore_index=True)
    return LESIONS.check(
        table.sort_values("tested_on", key=lambda names: names.map(list(tasks).index), kind="stable", ignore_index=True)
    )


def shown(recalls: pd.DataFrame, shares: pd.DataFrame) -> Figure:
    return draw_figure_lesion_classes(recalls, shares, fraction=0.25)


def drawn(seeds: Sequence[int] = SEEDS, depths: int = 2) -> Figure:
    return shown(classes(seeds=seeds, depths=depths), lesions(seeds=seeds, depths=depths))


@cache
def usual() -> Figure:
    return drawn()


def grid(figure: Figure) -> list[list[Any]]:
    """The panels, a row per task: recalls of its classes, twice; then shares of variance between them, twice."""
    return [part.axes for part in figure.subfigs]


def curves(axes: Any) -> dict[str, Any]:
    return {str(line.get_gid()): line for line in axes.lines if line.get_gid()}


def heights(line: Any) -> Any:
    """Of the steps, which must fill the axis evenly from 0 to 100 %."""
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    np.testing.assert_allclose(x, np.linspace(0, 100, len(x)))
    assert line.get_drawstyle() == "steps-post" and y[-1] == y[-2]
    return y[:-1]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.subfigs[-1].legends[0].get_texts()]


@pytest.mark.parametrize(("row", "task"), [(0, "expression"), (1, "identity")])
def test_recalls_are_sorted_in_each_seed_and_then_averaged_rank_by_rank(row: int, task: str) -> None:
    for depth, axes in enumerate(grid(usual())[row], start=1):
        found = curves(axes)
        own, other = (f"ranked {by} {task}" for by in (task, *({*TASKS} - {task})))
        assert set(found) == {own, other, f"whole {task}", f"{own} seed 4", f"{own} seed 9"}
        np.testing.assert_allclose(heights(found[f"whole {task}"]), KEPT_WHOLE[task])
        np.testing.assert_allclose(heights(found[other]), np.array(KEPT[other][2]) / depth)
        for name, expected in zip((f"{own} seed 4", f"{own} seed 9", own), KEPT[own], strict=True):
            np.testing.assert_allclose(heights(found[name]), np.array(expected) / depth)


def test_the_own_lesion_stands_out_in_its_tasks_colour() -> None:
    for task, panels in zip(("expression", "identity") * 2, grid(usual()), strict=True):
        colour = to_rgb(LOOKS[task].colour)
        for name, line in [item for axes in panels for item in curves(axes).items()]:
            chosen, by, *_ = name.split()
            assert to_rgb(line.get_color()) == (colour if chosen == "ranked" else to_rgb(MUTED))
            if chosen == "ranked":
                assert to_rgb(line.get_markerfacecolor()) == (colour if by == task else (1, 1, 1))
    for task, panels in zip(("expression", "identity"), grid(usual()), strict=False):
        for axes in panels:
            found = curves(axes)
            own = found.pop(f"ranked {task} {task}")
            assert own.get_linestyle() == "-" and {line.get_marker() for line in axes.lines} == {"None"}
            for name, line in found.items():
                assert line.get_linewidth() < own.get_linewidth() and line.get_zorder() < own.get_zorder()
                assert (line.get_linestyle() == "-") == ("whole" in name or "seed" in name)


@pytest.mark.parametrize(("row", "task"), [(2, "expression"), (3, "identity")])
def test_every_lesion_is_a_point_of_its_cost_and_its_share_between_classes(row: int, task: str) -> None:
    """Whatever share was silenced; of units of a task that were kept there is none."""
    for depth, axes in enumerate(grid(usual())[row], start=1):
        found = curves(axes)
        on = TASKS.index(task)
        draws = np.arange(DRAWS).repeat(2 * 2)  # seeds, fractions
        points = [(draw / 100 + more, draw / 100 + on / 1000) for draw in draws for more in (0, 0.5)]
        line = found.pop(f"random {task}")
        np.testing.assert_allclose(sorted(zip(*line.get_data(), strict=True)), sorted((100 * x, y) for x, y in points))
        assert line.get_linestyle() == "None"
        assert all(line.get_zorder() < other.get_zorder() for other in found.values())
        assert set(found) == {f"ranked {by} {task} seed {seed}" for by in TASKS for seed in SEEDS}
        for (by, name), seed in product(enumerate(TASKS), SEEDS):
            told = np.array([between("ranked", by, on, depth=depth, seed=seed, fraction=own) for own in FRACTIONS[1:]])
            line = found[f"ranked {name} {task} seed {seed}"]
            np.testing.assert_allclose(line.get_data(), [100 * (told + 0.1), told])
            assert line.get_marker() == "o"


def test_headings_labels_and_legend_explain_the_figure() -> None:
    figure = usual()
    parts: list[Any] = figure.subfigs
    assert figure.get_suptitle() == "Do lesions of the joint network take whole classes? (painted faces, seeds: 2)"
    share = "Lesions of all sizes: share of the variance of right and wrong answers between"
    assert [part.get_suptitle() for part in parts] == [
        "25 % of units silenced: recall of 3 expression classes, best kept first",
        "25 % of units silenced: recall of 5 identity classes, best kept first",
        f"{share} expression classes",
        f"{share} identity classes",
    ]
    looks = [LOOKS["expression"].colour, LOOKS["identity"].colour]
    assert [part._suptitle.get_color() for part in parts] == looks * 2
    assert parts[1].get_supxlabel() == (
        "A step (see single seeds): whole classes are lost. Level or gently sloping: all suffer alike."
    )
    rows = grid(figure)
    assert [axes.get_title() for axes in rows[0]] == ["trunk.relu1\ndepth 1", "trunk.relu2\ndepth 2"]
    for axes in (*rows[0], *rows[1]):
        assert axes.get_xlabel() == "% of classes" and axes.get_xlim() == (-3, 103) and axes.get_ylim() == (-5, 105)
    for axes in (*rows[2], *rows[3]):
        assert axes.get_xlabel() == "lost above chance, %"
        assert axes.get_xlim() == (-8, 108) and axes.get_ylim() == (-0.15, 1.08)
    assert rows[0][0].get_ylabel() == rows[1][0].get_ylabel() == "recall, %"
    for axes in (rows[2][0], rows[3][0]):
        assert [(text.get_position()[1], text.get_text()) for text in axes.get_yticklabels()] == [
            (0, "0: all alike"),
            (1, "1: classes kept\nor lost whole"),
        ]
    assert legend_texts(figure) == [
        "units this task needs most",
        "units the other task needs most",
        "whole network",
        "one seed",
        "random units, or all but random units",
    ]


def test_numbers_that_are_missing_are_left_out() -> None:
    given = lesions()
    lost = given.query("condition == 'ranked' and seed == 9 and depth == 2 and fraction == 0.25").index
    given.loc[lost, "between_classes"] = np.nan
    lost = given.query("condition != 'ranked' and ranked_by == '' and draw > 0").index
    given.loc[lost, ["drop", "between_classes"]] = np.nan
    for row, task in ((2, "expression"), (3, "identity")):
        found = [curves(axes) for axes in grid(shown(classes(), given))[row]]
        assert [len(own[f"random {task}"].get_xdata()) for own in found] == [8, 8]
        for by in TASKS:
            assert [len(own[f"ranked {by} {task} seed 9"].get_xdata()) for own in found] == [2, 1]


def test_panels_say_what_they_do_not_show() -> None:
    """A network that is not above chance has no drops; what lies outside is cut off, and may be far away."""
    for column, row, value, told in (
        ("drop", "depth == 2", np.nan, "no drop: not\nabove chance"),
        ("drop", "depth == 2 and draw == 3", 1.3, "cut off"),
        ("drop", "depth == 2 and draw == 3", -0.3, "cut off"),
        ("between_classes", "depth == 2 and seed == 9 and condition == 'ranked'", -0.4, "cut off"),
    ):
        given = lesions()
        given.loc[given.query(row).index, column] = value
        for panels in grid(shown(classes(), given))[2:]:
            assert [[text.get_text() for text in axes.texts] for axes in panels] == [[], [told]]


def test_one_layer_and_one_seed_are_enough() -> None:
    figure = drawn(seeds=(9,), depths=1)
    (first,), (second,), (third,), _ = grid(figure)
    assert heights(curves(first)["ranked expression expression"]).tolist() == [100, 25, 0]
    assert set(curves(second)) == {"whole identity", "ranked identity identity", "ranked expression identity"}
    assert set(curves(third)) == {*(f"ranked {by} expression seed 9" for by in TASKS), "random expression"}
    assert "one seed" not in legend_texts(figure) and figure.get_suptitle().endswith("seeds: 1)")


def test_tables_without_random_units_or_whole_network_have_no_such_curves() -> None:
    figure = shown(classes().query("fraction == 0.25"), lesions().query("condition == 'ranked'"))
    for axes in figure.axes:
        assert all(name.startswith("ranked") or not len(line.get_xdata()) for name, line in curves(axes).items())


def test_of_many_layers_some_have_panels() -> None:
    rows = grid(drawn(depths=9))
    assert [axes.get_title().split("\n")[0] for axes in rows[0]] == [f"trunk.relu{depth}" for depth in (1, 3, 5, 7, 9)]
    assert [len(panels) for panels in rows] == [5] * 4
    told = [between("ranked", 1, 1, depth=7, seed=4, fraction=fraction) for fraction in FRACTIONS[1:]]
    np.testing.assert_allclose(curves(rows[2][3])["ranked expression expression seed 4"].get_ydata(), told)


def test_long_names_of_layers_are_shortened_in_the_middle() -> None:
    names = {"layer": {"trunk.relu1": "my.trunk.block1.conv.relu", "trunk.relu2": "a" * 300}}
    first, *_ = grid(shown(classes().replace(names), lesions().replace(names)))
    whole, long = (axes.get_title() for axes in first)
    assert whole == "my.trunk.block1.conv.relu\ndepth 1" and re.fullmatch(r"a+…a+\ndepth 2", long)
    assert len(long) < 60


def test_the_middle_fraction_is_shown_if_none_is_named() -> None:
    tables = classes(), lesions()
    more = classes().query("fraction == 0.25").assign(fraction=0.3)
    for recalls, told in (tables[0], 25), (pd.concat([tables[0], more]), 25), (more, 30):
        figure: Any = draw_figure_lesion_classes(recalls, tables[1])
        assert figure.subfigs[0].get_suptitle().startswith(f"{told} % of units silenced")
    with pytest.raises(StudyError, match=r"holds no lesions of a fraction above 0; it holds the fractions \[0\.0\]\."):
        draw_figure_lesion_classes(classes().query("fraction == 0"), tables[1])


def test_fractions_need_only_be_close_and_tasks_may_be_the_users_own() -> None:
    tasks = ("age", "identity")
    first, second, *_ = grid(draw_figure_lesion_classes(classes(tasks), lesions(tasks), fraction=0.25 + 1e-12))
    age = curves(second[0])["ranked age age"]  # after the task that the study knows; in the colour that is left
    assert to_rgb(age.get_color()) == to_rgb(LOOKS["expression"].colour)
    np.testing.assert_allclose(heights(age), KEPT["ranked identity identity"][2])
    np.testing.assert_allclose(heights(curves(first[0])["ranked age identity"]), KEPT["ranked identity expression"][2])


def test_a_fraction_that_was_not_run_is_refused() -> None:
    with pytest.raises(StudyError) as caught:
        shown(classes().query("fraction < 0.2"), lesions())
    assert str(caught.value) == (
        "table 'lesion_classes' holds no lesions of the fraction 0.25; it holds the fractions [0.0, 0.1]. Name one of "
        "them."
    )


def test_other_networks_and_tasks_are_refused() -> None:
    both = pd.concat([lesions(), lesions().assign(trained_on="mine")])
    for table, networks, tasks in (
        (both, ["joint", "mine"], ["identity", "expression"]),
        (lesions().query("tested_on == 'identity'"), ["joint"], ["identity"]),
    ):
        with pytest.raises(StudyError) as caught:
            shown(classes(), table)
        assert str(caught.value) == (
            f"one network is drawn, tested on two tasks; the table 'lesions' holds the networks {networks} and the "
            f"tasks {tasks}. Pass the rows of one network and two tasks."
        )


def test_tables_of_different_networks_or_tasks_are_refused() -> None:
    for table, networks, tasks in (
        (classes().assign(trained_on="mine"), ["mine"], ["expression", "identity"]),
        (pd.concat([classes(), classes().assign(trained_on="mine")]), ["joint", "mine"], ["expression", "identity"]),
        (classes(("age", "expression")), ["joint"], ["age", "expression"]),
        (classes(depths=1), ["joint"], ["expression", "identity"]),
    ):
        with pytest.raises(StudyError) as caught:
            shown(table, lesions())
        assert str(caught.value) == (
            "both tables must be of one network, the same two tasks and layers; the table 'lesions' holds the networks "
            "['joint'], the tasks ['expression', 'identity'] and the layers ['trunk.relu1', 'trunk.relu2'], the table "
            f"'lesion_classes' holds the networks {networks}, the tasks {tasks} and the layers "
            f"{sorted(set(table['layer']))}. Pass tables that were made together."
        )


@pytest.mark.parametrize(("seeds", "depths"), [((4,), 1), (SEEDS, 4), (SEEDS, 13)])
def test_no_text_overlaps_another_or_leaves_the_page(
    seeds: Sequence[int], depths: int, legible: Callable[[Figure], None]
) -> None:
    figure: Any = drawn(seeds, depths)
    legible(figure)


@pytest.mark.parametrize("count", [1, 100])
def test_any_number_of_classes_is_legible(count: int, legible: Callable[[Figure], None]) -> None:
    one = classes().query("`class` == 0")
    figure = shown(pd.concat([one.assign(**{"class": name}) for name in range(count)]), lesions())
    legible(figure)
    assert f"recall of {count} " in figure.subfigs[0].get_suptitle()


def test_equal_tables_give_equal_files(tmp_path: Path) -> None:
    written = [save_figure(drawn(depths=1), tmp_path / name) for name in ("one", "again")]
    for one, again in zip(*written, strict=True):
        assert one.read_bytes() == again.read_bytes()
