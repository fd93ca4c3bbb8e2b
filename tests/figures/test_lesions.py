"""Curves are read back from their artists, and compared with numbers by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from facespec.figures.lesions import draw_figure_lesions
from facespec.figures.style import LOOKS
from facespec.study.errors import StudyError
from facespec.study.tables_lesions import LESIONS, SEGREGATION

TASKS = ("identity", "expression")  # as they come in the table, not in the study's order
SEEDS, FRACTIONS = (4, 9), (0.0, 0.1, 0.25)
DRAWS = 41
INDEX_ROW = {
    "trained_on": "joint",
    "source": "painted faces",
    "layer": "trunk.relu1",
    "depth": 1,
    "condition": "ranked",
    "fraction": 0.1,
    "quantity": "index",
    "seeds": 2,
    "people": 7,
    "number": 0.5,
    "low": 0.25,
    "high": 0.75,
    "defined": 1.0,
    "reason": "",
}
SEGREGATION_TABLE = SEGREGATION.check(pd.DataFrame([INDEX_ROW]))


def drop(condition: str, by: int, on: int, *, depth: int, seed: int, fraction: float) -> float:
    """Every number its own; seeds 0.04 apart; of tasks by their place in `TASKS`."""
    start = {"ranked": 0.0, "keep": 0.3, "shuffled": 0.9}[condition]
    return start + 0.1 * by + 0.05 * on + 0.02 * depth + 0.04 * SEEDS.index(seed) + fraction * depth / 7


def lesions(tasks: Sequence[str] = TASKS, *, seeds: Sequence[int] = SEEDS, depths: int = 2) -> pd.DataFrame:
    """Fraction 0 under "ranked" only; random drops are 0.00, 0.01, ... over all draws and seeds, lower for task 1.

    Those of units kept at random are 0.02 higher.
    """
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
            "n": 7,
            "chance": 0.1,
            "accuracy": 0.5,
            "reason": "",
            "between_classes": 0.4,
        }
        conditions = ("ranked", "keep", "shuffled") if fraction else ("ranked",)
        rows += [
            place
            | {
                "condition": condition,
                "draw": 0,
                "ranked_by": tasks[by],
                "drop": drop(condition, by, on, depth=depth, seed=seed, fraction=fraction),
            }
            for condition in conditions
            for by in range(2)
        ]
        for draw in range(DRAWS if fraction else 0):
            value = (draw * len(seeds) + seeds.index(seed)) / 100 - 0.1 * on
            rows += [
                place | {"condition": condition, "draw": draw, "ranked_by": "", "drop": value + more}
                for condition, more in (("random", 0.0), ("keep", 0.02))
            ]
    return LESIONS.check(
        pd.DataFrame(rows)
        .sample(frac=1, random_state=3, ignore_index=True)
        .sort_values("tested_on", key=lambda names: names.map(list(tasks).index), kind="stable", ignore_index=True)
    )


def drawn(table: pd.DataFrame) -> Figure:
    return draw_figure_lesions(table, SEGREGATION_TABLE)


@cache
def usual() -> Figure:
    return drawn(lesions())


def grid(figure: Figure) -> list[list[Axes]]:
    """The panels of the curves, row by row."""
    return [part.axes for part in figure.subfigs[:-1]]


def curves(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_gid()): line for line in axes.lines if line.get_gid()}


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.subfigs[-2].legends[0].get_texts()]


@pytest.mark.parametrize("on", [0, 1])
def test_curves_are_means_over_seeds_of_the_loss_in_percent(on: int) -> None:
    expression, identity, kept = grid(usual())
    for depth, (first, second, third) in enumerate(zip(expression, identity, kept, strict=True), start=1):
        for axes, condition, by in (
            (first, "ranked", 1),
            (second, "ranked", 0),
            (third, "keep", 0),
            (third, "keep", 1),
        ):
            name, of = f"{condition} {TASKS[by]} {TASKS[on]}", curves(axes)
            fractions = FRACTIONS if condition == "ranked" else FRACTIONS[1:]
            each = np.array(
                [
                    [100 * drop(condition, by, on, depth=depth, seed=seed, fraction=fraction) for fraction in fractions]
                    for seed in SEEDS
                ]
            )
            np.testing.assert_allclose(of[name].get_xdata(), 100 * np.array(fractions))
            np.testing.assert_allclose(of[name].get_ydata(), each.mean(axis=0))
            for seed, own in zip(SEEDS, each, strict=True):
                line = of[f"{name} seed {seed}"]
                np.testing.assert_allclose(line.get_ydata(), own)
                assert line.get_linewidth() < of[name].get_linewidth() and line.get_marker() == "None"


def test_panels_hold_these_curves_and_no_others() -> None:
    for row, names in zip(
        grid(drawn(lesions(seeds=(4,)))),
        (
            {"ranked expression expression", "ranked expression identity", "random expression", "random identity"},
            {"ranked identity expression", "ranked identity identity", "random expression", "random identity"},
            {f"keep {by} {on}" for by in TASKS for on in TASKS} | {"keep expression", "keep identity"},
        ),
        strict=True,
    ):
        for axes in row:
            assert set(curves(axes)) == names  # with one seed there are no lines of seeds


def test_tasks_have_their_colours_and_units_of_the_tested_task_stand_out() -> None:
    for axes in (axes for row in grid(usual()) for axes in row):
        for name, line in curves(axes).items():
            words = name.split(" seed ")[0].split()[1:]  # [chosen for,] tested on
            assert to_rgb(line.get_color()) == to_rgb(LOOKS[words[-1]].colour)
            assert (line.get_linestyle() == "--") == (len(words) == 1)
            if len(words) == 2 and "seed" not in name:
                own = words[0] == words[1]
                assert (line.get_linewidth(), line.get_zorder()) == ((1.9, 4) if own else (1.0, 3))
                assert to_rgb(line.get_markerfacecolor()) == to_rgb(line.get_color() if own else "white")


def test_random_units_have_mean_and_middle_95_percent_over_draws_and_seeds() -> None:
    """82 drops, 0.00 to 0.81: the 2.5th percentile lies 0.025 x 81 = 2.025 steps above the lowest."""
    for axes, kept in ((axes, row) for row, panels in enumerate(grid(usual())) for axes in panels):
        assert len(axes.collections) == 2
        condition, more = ("keep", 2) if kept == 2 else ("random", 0)
        for band, task, shift in zip(axes.collections, ("expression", "identity"), (more - 10, more), strict=True):
            line = curves(axes)[f"{condition} {task}"]
            np.testing.assert_allclose(line.get_xdata(), [10, 25])
            np.testing.assert_allclose(line.get_ydata(), [40.5 + shift] * 2)
            assert line.get_linestyle() == "--"
            (path,) = band.get_paths()
            assert {tuple(point) for point in path.vertices.round(6)} == {
                (x, y + shift) for x in (10, 25) for y in (2.025, 78.975)
            }
            assert to_rgb(band.get_facecolor()[0][:3]) == to_rgb(LOOKS[task].colour)


def test_headings_labels_and_legend_explain_the_figure() -> None:
    figure = usual()
    assert figure.get_suptitle() == "What the joint network loses when units are silenced (painted faces)"
    assert [(part.get_suptitle(), part._suptitle.get_color()) for part in figure.subfigs[:-1]] == [
        ("Silenced: the units that expression needs most", LOOKS["expression"].colour),
        ("Silenced: the units that identity needs most", LOOKS["identity"].colour),
        ("Kept: only the units that one task needs most; all others are silenced", "#222222"),
    ]
    first, second, third = grid(figure)
    assert [axes.get_title() for axes in first] == [f"trunk.relu{d}\ndepth {d}, {16 * d} units" for d in (1, 2)]
    assert {axes.get_xlabel() for axes in (*first, *second)} == {"% of units silenced"}
    assert {axes.get_xlabel() for axes in third} == {"% of units kept"}
    assert {row[0].get_ylabel() for row in (first, second, third)} == {"lost, % of what\nis above chance"}
    assert {tuple(t.get_text() for t in axes.get_xticklabels()) for axes in (*first, *third)} == {("0", "10", "25")}
    assert legend_texts(figure) == [
        "loss in the expression task",
        "loss in the identity task",
        "one seed",
        "units chosen for this very task",
        "units chosen for the other task",
        "random units, 95 % of draws",
    ]


def test_all_panels_share_axes_that_hold_0_to_100_percent_and_every_curve() -> None:
    given = lesions()
    panels = [axes for row in grid(usual()) for axes in row]
    lowest = -10 + 2.025  # of the random units
    assert [axes.get_ylim() for axes in panels] == [pytest.approx((lowest - 5, 105))] * 6
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert panels[0].get_xlim()[0] < 0 and panels[0].get_xlim()[1] > 25
    assert not any(axes.texts for axes in panels)
    above = given.eval("condition == 'keep' and depth == 2 and seed == 4 and fraction == 0.1")
    figure = drawn(given.assign(drop=given["drop"].mask(above, 1.3)))
    assert {axes.get_ylim()[1] for row in grid(figure) for axes in row} == {135.0}


@pytest.mark.parametrize(("value", "limits"), [(-6.0, (-55, 105)), (4.5, (-12.975, 155))])
def test_drops_far_out_are_cut_off_and_said_to_be(value: float, limits: tuple[float, float]) -> None:
    given = lesions()
    far = given.eval("condition == 'keep' and depth == 2 and seed == 4 and fraction == 0.1")
    rows = grid(drawn(given.assign(drop=given["drop"].mask(far, value))))
    assert [axes.get_ylim() for row in rows for axes in row] == [pytest.approx(limits)] * 6
    told = [[text.get_text() for axes in row for text in axes.texts] for row in rows]
    assert told == [[], [], ["cut off"]] and rows[2][1].texts


def test_seeds_not_above_chance_are_left_out_and_counted() -> None:
    given = lesions()
    given.loc[given.eval("tested_on == 'identity' and seed == 9"), ["drop", "reason"]] = [np.nan, "not above chance"]
    figure = drawn(given)
    found = curves(grid(figure)[1][1])
    alone = [100 * drop("ranked", 0, 0, depth=2, seed=4, fraction=fraction) for fraction in FRACTIONS]
    np.testing.assert_allclose(found["ranked identity identity"].get_ydata(), alone)
    assert "ranked identity identity seed 9" not in found and "ranked identity expression seed 9" in found
    np.testing.assert_allclose(found["random identity"].get_ydata(), 40)  # 0, 2, ..., 80
    assert legend_texts(figure)[:2] == [
        "loss in the expression task",
        "loss in the identity task\n(above chance: 1 of 2 seeds)",
    ]


def test_a_task_without_any_drop_has_no_curve() -> None:
    given = lesions()
    given.loc[given["tested_on"] == "identity", "drop"] = np.nan
    figure = drawn(given)
    assert not any(name.split()[-1] == "identity" for row in grid(figure) for axes in row for name in curves(axes))
    assert set(curves(grid(figure)[1][0])) > {"ranked identity expression", "random expression"}
    assert legend_texts(figure)[1] == "loss in the identity task\n(above chance: 0 of 2 seeds)"


def test_tables_without_units_kept_at_random_have_no_such_curve() -> None:
    (*_, kept) = grid(drawn(lesions(seeds=(4,)).query("condition != 'keep' or ranked_by != ''")))
    for axes in kept:
        assert set(curves(axes)) == {f"keep {by} {on}" for by in TASKS for on in TASKS} and not axes.collections


def test_tables_without_units_kept_have_no_such_row() -> None:
    figure = drawn(lesions().query("condition != 'keep'"))
    assert len(grid(figure)) == 2 and len(legend_texts(figure)) == 6
    assert figure.get_figheight() < usual().get_figheight()


@pytest.mark.parametrize(
    ("tasks", "headed", "looks"),
    [
        (("sex", "age"), ["sex", "age"], ["expression", "identity"]),
        (("age", "identity"), ["identity", "age"], ["identity", "expression"]),
        (("joint", "expression"), ["expression", "joint"], ["expression", "identity"]),
    ],
)
def test_tasks_of_users_take_the_colours_that_are_left(tasks: list[str], headed: list[str], looks: list[str]) -> None:
    figure = drawn(lesions(tasks))
    assert [part.get_suptitle() for part in figure.subfigs[:2]] == [
        f"Silenced: the units that {task} needs most" for task in headed
    ]
    (first, *_), *_ = grid(figure)
    colours = [curves(first)[f"ranked {headed[0]} {task}"].get_color() for task in headed]
    assert colours == [LOOKS[look].colour for look in looks]


def test_other_tables_are_refused() -> None:
    given = lesions()
    other = pd.concat([given, given.assign(tested_on="age")])
    for table, networks, tasks in (
        (other, ["joint"], ["identity", "expression", "age"]),
        (given.query("tested_on == 'identity'"), ["joint"], ["identity"]),
        (pd.concat([given, given.assign(trained_on="mine")]), ["joint", "mine"], ["identity", "expression"]),
    ):
        with pytest.raises(StudyError) as caught:
            drawn(table)
        assert str(caught.value) == (
            f"one network is drawn, tested on two tasks; the table 'lesions' holds the networks {networks} and the "
            f"tasks {tasks}. Pass the rows of one network and two tasks."
        )
