"""Curves are read back from their artists, and compared with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from facespec.figures.lesion_classes import draw_figure_lesion_classes
from facespec.figures.style import LOOKS, MUTED
from facespec.study.errors import StudyError
from facespec.study.tables_lesions import LESION_CLASSES, LESIONS
from toys import combine, get_lines, make_table, read_legend, read_texts

TASKS = ("identity", "expression")  # in the table's order, not in the study's
SEEDS, FRACTIONS = (4, 9), (0.0, 0.1, 0.25)
DRAWS = 7
# "ranked_by tested_on" -> recalls of classes 0, 1, ... in the first layer at fraction 0.25, of both seeds; half of them
# in the second layer
RECALLS = {
    "expression expression": ((0, 1, 0.5), (1, 0, 0.25)),
    "identity expression": ((0.75, 0.25, 1), (0.5, 1, 0.75)),
    "identity identity": ((0, 1, 0, 0.5, 1), (1, 0, 0.25, 0, 0)),
    "expression identity": ((1, 0.5, 0.75, 0.5, 1), (0.25, 1, 1, 0.5, 0.75)),
}
WHOLE = {"expression": ((1, 0.5, 1), (0.75, 1, 0.5)), "identity": ((1, 1, 0.75, 1, 0.5), (1, 0.5, 1, 0.25, 1))}
# the same in percent, sorted from the best class to the worst in each seed; then the mean of both seeds, rank by rank
SORTED: dict[str, list[tuple[float, ...]]] = {
    "ranked expression expression": [(100, 50, 0), (100, 25, 0), (100, 37.5, 0)],
    "ranked identity expression": [(100, 75, 25), (100, 75, 50), (100, 75, 37.5)],
    "ranked identity identity": [(100, 100, 50, 0, 0), (100, 25, 0, 0, 0), (100, 62.5, 25, 0, 0)],
    "ranked expression identity": [(100, 100, 75, 50, 50), (100, 100, 75, 50, 25), (100, 100, 75, 50, 37.5)],
}
SORTED_WHOLE: dict[str, tuple[float, ...]] = {"expression": (100, 87.5, 50), "identity": (100, 100, 100, 62.5, 37.5)}


def make_classes(tasks: Sequence[str] = TASKS, *, seeds: Sequence[int] = SEEDS, depths: int = 2) -> pd.DataFrame:
    """At fraction 0.1 nothing is lost."""
    rows = []
    for row in combine(depth=range(1, depths + 1), seed=seeds, fraction=FRACTIONS, ranked_by=[0, 1], tested_on=[0, 1]):
        ranked_by, tested_on, seed = TASKS[row["ranked_by"]], TASKS[row["tested_on"]], SEEDS.index(row["seed"])
        lesioned = np.array(RECALLS[f"{ranked_by} {tested_on}"][seed]) / (2 if row["depth"] == 2 else 1)
        recalls = {0.0: WHOLE[tested_on][seed], 0.1: np.ones(len(lesioned)), 0.25: lesioned}[row["fraction"]]
        row |= {"layer": f"trunk.relu{row['depth']}", "ranked_by": tasks[row["ranked_by"]]}
        row |= {"tested_on": tasks[row["tested_on"]]}
        rows += [row | {"class": name, "recall": recall} for name, recall in enumerate(recalls)]
    table = make_table(LESION_CLASSES, rows, trained_on="joint", source="painted faces")
    return table.sample(frac=1, random_state=3, ignore_index=True)


def make_share(condition: str, ranked_by: int, tested_on: int, *, depth: int, seed: int, fraction: float) -> float:
    """All shares differ; tasks are indices into `TASKS`."""
    start = {"ranked": 0.0, "keep": 0.2, "shuffled": 0.3}[condition]
    return start + 0.1 * ranked_by + 0.05 * tested_on + 0.02 * depth + 0.04 * SEEDS.index(seed) + fraction * depth / 21


def make_lesions(tasks: Sequence[str] = TASKS, *, seeds: Sequence[int] = SEEDS, depths: int = 2) -> pd.DataFrame:
    """Drops are the shares plus a tenth; of random units, 0.01 for every draw; 0.5 more for all but random units."""
    rows = []
    for key, tested_on in product(combine(depth=range(1, depths + 1), seed=seeds, fraction=FRACTIONS), range(2)):
        row = key | {"tested_on": tasks[tested_on]}
        for condition, ranked_by in product(("ranked", "keep", "shuffled"), range(2)):
            share = make_share(condition, ranked_by, tested_on, **key)
            numbers = {"between_classes": share, "drop": share + 0.1}
            rows.append(row | numbers | {"condition": condition, "ranked_by": tasks[ranked_by]})
        for draw, (condition, higher) in product(range(DRAWS), {"random": 0.0, "keep": 0.5}.items()):
            numbers = {"between_classes": draw / 100 + tested_on / 1000, "drop": draw / 100 + higher}
            rows.append(row | numbers | {"condition": condition, "draw": draw})
    table = make_table(LESIONS, rows, trained_on="joint", source="painted faces")
    table = table.assign(layer="trunk.relu" + table["depth"].astype(str)).sample(frac=1, random_state=3)
    return table.sort_values("tested_on", key=lambda names: names.map(tasks.index), kind="stable", ignore_index=True)


def draw(classes: pd.DataFrame, lesions: pd.DataFrame) -> Figure:
    return draw_figure_lesion_classes(classes, lesions, fraction=0.25)


def draw_toys(seeds: Sequence[int] = SEEDS, depths: int = 2) -> Figure:
    return draw(make_classes(seeds=seeds, depths=depths), make_lesions(seeds=seeds, depths=depths))


@cache
def draw_usual() -> Figure:
    return draw_toys()


def get_grid(figure: Figure) -> list[list[Any]]:
    """The panels, a row per task: recalls of its classes, twice; then shares of variance between them, twice."""
    return [part.axes for part in figure.subfigs]


def read_heights(line: Any) -> Any:
    """Of the steps, which must fill the axis evenly from 0 to 100 %."""
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    np.testing.assert_allclose(x, np.linspace(0, 100, len(x)))
    assert line.get_drawstyle() == "steps-post" and y[-1] == y[-2]
    return y[:-1]


@pytest.mark.parametrize(("row", "task"), [(0, "expression"), (1, "identity")])
def test_recalls_are_sorted_in_each_seed_and_then_averaged_rank_by_rank(row: int, task: str) -> None:
    for depth, axes in enumerate(get_grid(draw_usual())[row], start=1):
        lines = get_lines(axes)
        same, other = (f"ranked {ranked_by} {task}" for ranked_by in (task, *({*TASKS} - {task})))
        assert set(lines) == {same, other, f"whole {task}", f"{same} seed 4", f"{same} seed 9"}
        np.testing.assert_allclose(read_heights(lines[f"whole {task}"]), SORTED_WHOLE[task])
        np.testing.assert_allclose(read_heights(lines[other]), np.array(SORTED[other][2]) / depth)
        for name, expected in zip((f"{same} seed 4", f"{same} seed 9", same), SORTED[same], strict=True):
            np.testing.assert_allclose(read_heights(lines[name]), np.array(expected) / depth)


def test_lesions_for_the_tested_task_stand_out_in_its_colour() -> None:
    for row, (task, panels) in enumerate(zip(("expression", "identity") * 2, get_grid(draw_usual()), strict=True)):
        colour = to_rgb(LOOKS[task].colour)
        for axes in panels:
            for name, line in get_lines(axes).items():
                condition, ranked_by, *_ = name.split()
                assert to_rgb(line.get_color()) == (colour if condition == "ranked" else to_rgb(MUTED))
                if condition == "ranked":
                    assert to_rgb(line.get_markerfacecolor()) == (colour if ranked_by == task else (1, 1, 1))
            if row < 2:
                lines = get_lines(axes)
                same = lines.pop(f"ranked {task} {task}")
                assert same.get_linestyle() == "-" and {line.get_marker() for line in axes.lines} == {"None"}
                for name, line in lines.items():
                    assert line.get_linewidth() < same.get_linewidth() and line.get_zorder() < same.get_zorder()
                    assert (line.get_linestyle() == "-") == ("whole" in name or "seed" in name)


@pytest.mark.parametrize(("row", "task"), [(2, "expression"), (3, "identity")])
def test_every_lesion_is_a_point_of_its_cost_and_its_share_between_classes(row: int, task: str) -> None:
    """Whatever its fraction; lesions of all but a task's units are not drawn."""
    tested_on, random_draws = TASKS.index(task), np.arange(DRAWS).repeat(len(SEEDS) * len(FRACTIONS[1:]))
    for depth, axes in enumerate(get_grid(draw_usual())[row], start=1):
        lines = get_lines(axes)
        random = lines.pop(f"random {task}")
        points = [(draw + percent, draw / 100 + tested_on / 1000) for draw in random_draws for percent in (0, 50)]
        np.testing.assert_allclose(sorted(zip(*random.get_data(), strict=True)), sorted(points))
        assert random.get_linestyle() == "None"
        assert all(random.get_zorder() < line.get_zorder() for line in lines.values())
        assert set(lines) == {f"ranked {ranked_by} {task} seed {seed}" for ranked_by in TASKS for seed in SEEDS}
        for (ranked_by, name), seed in product(enumerate(TASKS), SEEDS):
            shares = [
                make_share("ranked", ranked_by, tested_on, depth=depth, seed=seed, fraction=fraction)
                for fraction in FRACTIONS[1:]
            ]
            line = lines[f"ranked {name} {task} seed {seed}"]
            np.testing.assert_allclose(line.get_data(), [100 * (np.array(shares) + 0.1), shares])
            assert line.get_marker() == "o"


def test_headings_labels_and_legend_explain_the_figure() -> None:
    figure: Any = draw_usual()
    assert figure.get_suptitle() == "Do lesions of the joint network take whole classes? (painted faces, seeds: 2)"
    share = "Lesions of all sizes: share of the variance of right and wrong answers between"
    assert [part.get_suptitle() for part in figure.subfigs] == [
        "25 % of units silenced: recall of 3 expression classes, best kept first",
        "25 % of units silenced: recall of 5 identity classes, best kept first",
        f"{share} expression classes",
        f"{share} identity classes",
    ]
    colours = [LOOKS["expression"].colour, LOOKS["identity"].colour]
    assert [part._suptitle.get_color() for part in figure.subfigs] == colours * 2
    note = "A step (see single seeds): whole classes are lost. Level or gently sloping: all suffer alike."
    assert figure.subfigs[1].get_supxlabel() == note
    rows = get_grid(figure)
    assert [axes.get_title() for axes in rows[0]] == ["trunk.relu1\ndepth 1", "trunk.relu2\ndepth 2"]
    limits = [("% of classes", (-3, 103), (-5, 105))] * 4 + [("lost above chance, %", (-8, 108), (-0.15, 1.08))] * 4
    assert [(axes.get_xlabel(), axes.get_xlim(), axes.get_ylim()) for row in rows for axes in row] == limits
    assert rows[0][0].get_ylabel() == rows[1][0].get_ylabel() == "recall, %"
    ticks = {0: "0: all alike", 1: "1: classes kept\nor lost whole"}
    for axes in (rows[2][0], rows[3][0]):
        assert {text.get_position()[1]: text.get_text() for text in axes.get_yticklabels()} == ticks
    ranked = ["units this task needs most", "units the other task needs most"]
    random = "random units, or all but random units"
    assert read_legend(figure.subfigs[-1]) == [*ranked, "whole network", "one seed", random]


def test_missing_numbers_are_left_out() -> None:
    table = make_lesions()
    rows = table.eval("condition == 'ranked' and seed == 9 and depth == 2 and fraction == 0.25")
    table.loc[rows, "between_classes"] = np.nan
    rows = table.eval("condition != 'ranked' and ranked_by == '' and draw > 0")
    table.loc[rows, ["drop", "between_classes"]] = np.nan
    for row, task in ((2, "expression"), (3, "identity")):
        panels = [get_lines(axes) for axes in get_grid(draw(make_classes(), table))[row]]
        assert [len(lines[f"random {task}"].get_xdata()) for lines in panels] == [8, 8]
        for ranked_by in TASKS:
            assert [len(lines[f"ranked {ranked_by} {task} seed 9"].get_xdata()) for lines in panels] == [2, 1]


@pytest.mark.parametrize(
    ("column", "rows", "value", "text"),
    [
        ("drop", "depth == 2", np.nan, "no drop: not\nabove chance"),
        ("drop", "depth == 2 and draw == 3", 1.3, "cut off"),
        ("drop", "depth == 2 and draw == 3", -0.3, "cut off"),
        ("between_classes", "depth == 2 and seed == 9 and condition == 'ranked'", -0.4, "cut off"),
    ],
)
def test_panels_name_what_they_do_not_show(column: str, rows: str, value: float, text: str) -> None:
    """A network that is not above chance has no drops; points far outside the limits are cut off."""
    table = make_lesions()
    table.loc[table.eval(rows), column] = value
    for panels in get_grid(draw(make_classes(), table))[2:]:
        assert [read_texts(axes.texts) for axes in panels] == [[], [text]]


def test_one_layer_and_one_seed_are_enough() -> None:
    figure = draw_toys(seeds=[9], depths=1)
    (first,), (second,), (third,), _ = get_grid(figure)
    assert read_heights(get_lines(first)["ranked expression expression"]).tolist() == [100, 25, 0]
    assert set(get_lines(second)) == {"whole identity", "ranked identity identity", "ranked expression identity"}
    ranked = {f"ranked {ranked_by} expression seed 9" for ranked_by in TASKS}
    assert set(get_lines(third)) == ranked | {"random expression"}
    assert "one seed" not in read_legend(figure.subfigs[-1]) and figure.get_suptitle().endswith("seeds: 1)")


def test_tables_without_random_units_or_whole_network_have_no_such_curves() -> None:
    figure = draw(make_classes().query("fraction == 0.25"), make_lesions().query("condition == 'ranked'"))
    for axes in figure.axes:
        assert all(name.startswith("ranked") or not len(line.get_xdata()) for name, line in get_lines(axes).items())


def test_the_middle_fraction_is_the_default() -> None:
    classes, lesions = make_classes(), make_lesions()
    more = classes.query("fraction == 0.25").assign(fraction=0.3)
    for table, percent in ((classes, 25), (pd.concat([classes, more]), 25), (more, 30)):
        figure: Any = draw_figure_lesion_classes(table, lesions)
        assert figure.subfigs[0].get_suptitle().startswith(f"{percent} % of units silenced")


def test_fractions_need_only_be_close_and_tasks_may_be_the_users() -> None:
    tasks = ("age", "identity")
    first, second, *_ = get_grid(
        draw_figure_lesion_classes(make_classes(tasks), make_lesions(tasks), fraction=0.25 + 1e-12)
    )
    age = get_lines(second[0])["ranked age age"]  # after the task that the study knows; in the colour of an absent one
    assert to_rgb(age.get_color()) == to_rgb(LOOKS["expression"].colour)
    np.testing.assert_allclose(read_heights(age), SORTED["ranked identity identity"][2])
    identity = get_lines(first[0])["ranked age identity"]
    np.testing.assert_allclose(read_heights(identity), SORTED["ranked identity expression"][2])


@pytest.mark.parametrize(
    ("rows", "fraction", "message"),
    [
        ("fraction == 0", None, r"a fraction above 0; it holds the fractions \[0\.0\]\. Name one of them"),
        ("fraction < 0.2", 0.25, r"the fraction 0\.25; it holds the fractions \[0\.0, 0\.1\]\. Name one of them"),
    ],
)
def test_a_fraction_that_was_not_run_is_refused(rows: str, fraction: float | None, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        draw_figure_lesion_classes(make_classes().query(rows), make_lesions(), fraction=fraction)


def test_tables_of_different_networks_tasks_or_layers_are_refused() -> None:
    classes = make_classes()
    for table, message in (
        (classes.assign(trained_on="mine"), r"'lesion_classes' holds the networks \['mine'\]"),
        (pd.concat([classes, classes.assign(trained_on="mine")]), r"'lesion_classes' .* \['joint', 'mine'\]"),
        (make_classes(("age", "expression")), r"'lesion_classes' .* the tasks \['age', 'expression'\]"),
        (
            make_classes(depths=1),
            r"'lesion_classes' .* layers \['trunk\.relu1'\]\. Pass tables that were made together",
        ),
    ):
        with pytest.raises(StudyError, match=message):
            draw(table, make_lesions())


@pytest.mark.parametrize(("seeds", "depths", "count"), [((4,), 1, 1), (SEEDS, 4, 3), (SEEDS, 13, 100)])
def test_any_number_of_layers_and_classes_is_legible(
    seeds: Sequence[int], depths: int, count: int, legible: Callable[[Figure], None]
) -> None:
    one = make_classes(seeds=seeds, depths=depths).query("`class` == 0")
    classes = pd.concat([one.assign(**{"class": name}) for name in range(count)])
    figure: Any = draw(classes, make_lesions(seeds=seeds, depths=depths))
    legible(figure)
    assert f"recall of {count} " in figure.subfigs[0].get_suptitle()
    assert [len(panels) for panels in get_grid(figure)] == [min(depths, 5)] * 4
