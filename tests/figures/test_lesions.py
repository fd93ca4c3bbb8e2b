"""Curves and indices are read back from their artists, and compared with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from facespec.figures.lesions import RANKINGS, draw_figure_lesions, spread_evenly, thin_out
from facespec.figures.style import LOOKS
from facespec.study.errors import StudyError
from facespec.study.tables_lesions import DAMAGE_CURVES, LESIONS, SEGREGATION
from toys import combine, get_lines, make_table, read_legend, read_texts

TASKS = ("identity", "expression")  # in the table's order, not in the study's
SEEDS, FRACTIONS = (4, 9), (0.0, 0.1, 0.25)
INDEX_FRACTIONS = (0.1, 0.3)
DRAWS = 41


def make_drop(condition: str, ranked_by: int, tested_on: int, *, depth: int, seed: int, fraction: float) -> float:
    """All drops differ; seeds are 0.04 apart; tasks are indices into `TASKS`."""
    start = {"ranked": 0.0, "keep": 0.3, "shuffled": 0.9}[condition]
    return start + 0.1 * ranked_by + 0.05 * tested_on + 0.02 * depth + 0.04 * SEEDS.index(seed) + fraction * depth / 7


def make_lesions(tasks: Sequence[str] = TASKS, *, seeds: Sequence[int] = SEEDS, depths: int = 2) -> pd.DataFrame:
    """Fraction 0 under "ranked" only; random drops are 0.00, 0.01, ... over all draws and seeds, lower for task 1.

    Those of all but random units are 0.02 higher.
    """
    rows = []
    for key in combine(depth=range(1, depths + 1), seed=seeds, fraction=FRACTIONS):
        conditions = ("ranked", "keep", "shuffled") if key["fraction"] else ("ranked",)
        for tested_on in range(2):
            row = key | {"tested_on": tasks[tested_on]}
            for condition, ranked_by in product(conditions, range(2)):
                drop = make_drop(condition, ranked_by, tested_on, **key)
                rows.append(row | {"condition": condition, "ranked_by": tasks[ranked_by], "drop": drop})
            for draw in range(DRAWS if key["fraction"] else 0):
                drop = (draw * len(seeds) + seeds.index(key["seed"])) / 100 - 0.1 * tested_on
                rows += [
                    row | {"condition": name, "draw": draw, "drop": drop + higher}
                    for name, higher in (("random", 0.0), ("keep", 0.02))
                ]
    table = make_table(LESIONS, rows, trained_on="joint", source="painted faces")
    table = table.assign(layer="trunk.relu" + table["depth"].astype(str), units=16 * table["depth"])
    table = table.sample(frac=1, random_state=3)
    return table.sort_values("tested_on", key=lambda names: names.map(tasks.index), kind="stable", ignore_index=True)


def make_number(condition: str, depth: int, fraction: float) -> float:
    return 0.2 * list(RANKINGS).index(condition) - 0.1 * depth + fraction


def make_segregation(layers: int = 3, fractions: Sequence[float] = INDEX_FRACTIONS) -> pd.DataFrame:
    """Deep layers first; single tasks' quantities and fraction 0 are in the table, too, and not to be drawn."""
    rows = combine(
        depth=range(layers, 0, -1),
        condition=list(RANKINGS)[::-1],
        fraction=[*fractions, 0.0],
        quantity=["identity", "index"],
    )
    for row in rows:
        condition, depth, fraction = row["condition"], row["depth"], row["fraction"]
        number = make_number(condition, depth, fraction) if row["quantity"] == "index" else 0.9
        row |= {"layer": f"trunk.relu{depth}", "seeds": 1 if condition == "random" else 3}
        row |= {"number": number, "low": number - 0.1, "high": number + 0.05}
    return make_table(SEGREGATION, rows, trained_on="joint", source="painted faces", people=24, defined=1.0)


SEGREGATION_TABLE = make_segregation(1, [0.1])


def draw(table: pd.DataFrame) -> Figure:
    return draw_figure_lesions(table, SEGREGATION_TABLE)


@cache
def draw_usual() -> Figure:
    return draw_figure_lesions(make_lesions(), make_segregation())


# --- matched damage

DAMAGES = 0.25, 0.5
CURVE = {2: 0.3, 5: 0.75, 9: 1.0}  # units silenced -> loss of the task that needs them; the other loses less


def make_curves(tasks: Sequence[str] = TASKS, *, seeds: Sequence[int] = SEEDS, depths: int = 2) -> pd.DataFrame:
    rows = combine(depth=range(1, depths + 1), seed=seeds, ranked_by=tasks, tested_on=tasks, silenced=[*CURVE][::-1])
    for row in rows:
        same = row["ranked_by"] == row["tested_on"]
        row |= {"drop": CURVE[row["silenced"]] * (1 if same else 0.1 * row["depth"]) - 0.01 * (row["seed"] == SEEDS[0])}
    rows += [row | {"condition": "random", "ranked_by": "", "drop": 0.9} for row in rows]
    table = make_table(DAMAGE_CURVES, [{"condition": "ranked"} | row for row in rows], trained_on="joint", units=9)
    return table.assign(layer="trunk.relu" + table["depth"].astype(str), source="painted faces")


def make_matched(tasks: Sequence[str] = TASKS, *, depths: int = 2) -> pd.DataFrame:
    """Rows of a fixed fraction, and of damages: the difference of the first task is .2, of the second .1; index .6."""
    number = dict(zip((*tasks, "index"), (0.2, 0.1, 0.6), strict=True))
    rows = combine(depth=range(1, depths + 1), condition=[*RANKINGS], damage=[np.nan, *DAMAGES], quantity=[*number])
    for row in rows:
        row |= {"number": number[row["quantity"]] - 0.3 * (row["condition"] == "random")}
        row |= {"low": row["number"] - 0.02, "high": row["number"] + 0.01}
        row |= {"layer": f"trunk.relu{row['depth']}", "fraction": 0.1 if np.isnan(row["damage"]) else np.nan}
    return make_table(SEGREGATION, rows, trained_on="joint", source="painted faces", people=24, seeds=2, defined=1.0)


def test_matched_damage_shows_the_other_task_against_the_task_whose_units_are_silenced() -> None:
    others = make_curves().assign(trained_on="untrained", drop=0.123)
    figure = draw_figure_lesions(make_lesions(), make_matched(), pd.concat([others, make_curves()]))
    *losses, damage, _ = figure.subfigs
    assert len(losses) == 3 and [axes.get_title() for axes in damage.axes] == ["trunk.relu1", "trunk.relu2"]
    for depth, axes in enumerate(damage.axes, start=1):
        lines, colours = get_lines(axes), [LOOKS[task].colour for task in TASKS]
        assert set(lines) == {
            name
            for task in TASKS
            for name in (f"ranked {task}", f"random {task}", *(f"curve {task} seed {seed}" for seed in SEEDS))
        }
        for task, difference, colour in zip(TASKS, (20, 10), colours, strict=True):
            for seed, lower in zip(SEEDS, (1, 0), strict=True):
                lost = 100 * np.array([*CURVE.values()])
                expected = [[0, *(lost - lower)], [0, *(0.1 * depth * lost - lower)]]
                np.testing.assert_allclose(lines[f"curve {task} seed {seed}"].get_data(), expected, atol=1e-9)
            np.testing.assert_allclose(
                lines[f"ranked {task}"].get_data(), [[25, 50], [25 - difference, 50 - difference]]
            )
            np.testing.assert_allclose(
                lines[f"random {task}"].get_ydata(), [25 - difference + 30, 50 - difference + 30]
            )
            assert {to_rgb(line.get_color()) for name, line in lines.items() if task in name} == {to_rgb(colour)}
        for bars, difference in zip(axes.collections, (10, 20), strict=True):  # the study's order of tasks
            ends = [[damage - difference - 1, damage - difference + 2] for damage in (25, 50)]
            np.testing.assert_allclose(np.array(bars.get_segments())[:, :, 1], ends)
    assert read_legend(damage)[:2] == ["units expression needs", "units identity needs"]


def test_the_index_has_panels_of_damages_and_the_untrained_network_as_a_control() -> None:
    untrained = make_matched(depths=1).assign(trained_on="untrained", number=0.05, seeds=1)
    figure = draw_figure_lesions(make_lesions(), pd.concat([make_matched(), untrained]), make_curves())
    panels = get_panels(figure)
    assert [axes.get_title() for axes in panels] == ["10 % silenced", "25 % lost", "50 % lost"]
    for axes in panels:
        lines = get_lines(axes)
        assert [name for name in lines if not name.startswith("undefined")] == [*RANKINGS, "untrained"]
        assert lines["ranked"].get_ydata().tolist() == [0.6, 0.6]
        assert lines["untrained"].get_ydata().tolist()[0] == 0.05 and np.isnan(lines["untrained"].get_ydata()[1])
        assert lines["untrained"].get_linewidth() == 0
    assert "control: before any training" in read_legend(figure.subfigs[-1])


@pytest.mark.parametrize(("layers", "long"), [(1, False), (5, True), (30, False)])
def test_figures_with_matched_damage_are_legible(layers: int, long: bool, legible: Callable[[Figure], None]) -> None:
    tasks = ("identity", "familiarity of the person in the picture") if long else TASKS
    untrained = make_matched(tasks, depths=layers).assign(trained_on="untrained")
    segregation = pd.concat([make_matched(tasks, depths=layers), untrained])
    lesions = make_lesions(tasks, seeds=[4], depths=layers).query("draw < 2")
    legible(draw_figure_lesions(lesions, segregation, make_curves(tasks, seeds=[4], depths=layers)))


def draw_index(segregation: pd.DataFrame) -> Figure:
    return draw_figure_lesions(make_lesions(seeds=[4], depths=1), segregation)


def get_grid(figure: Figure) -> list[list[Axes]]:
    """The panels of the losses, row by row."""
    return [part.axes for part in figure.subfigs[:-1]]


def get_panels(figure: Figure) -> list[Axes]:
    """The panels of the index."""
    return figure.subfigs[-1].axes


@pytest.mark.parametrize("tested_on", [0, 1])
def test_curves_are_means_over_seeds_of_the_loss_in_percent(tested_on: int) -> None:
    expression, identity, keep = get_grid(draw_usual())
    panels = [(expression, "ranked", 1), (identity, "ranked", 0), (keep, "keep", 0), (keep, "keep", 1)]
    for (row, condition, ranked_by), depth in product(panels, (1, 2)):
        name, lines = f"{condition} {TASKS[ranked_by]} {TASKS[tested_on]}", get_lines(row[depth - 1])
        fractions = FRACTIONS if condition == "ranked" else FRACTIONS[1:]
        drops = [
            [100 * make_drop(condition, ranked_by, tested_on, depth=depth, seed=seed, fraction=f) for f in fractions]
            for seed in SEEDS
        ]
        np.testing.assert_allclose(lines[name].get_data(), [100 * np.array(fractions), np.mean(drops, axis=0)])
        for seed, seed_drops in zip(SEEDS, drops, strict=True):
            line = lines[f"{name} seed {seed}"]
            np.testing.assert_allclose(line.get_ydata(), seed_drops)
            assert line.get_linewidth() < lines[name].get_linewidth() and line.get_marker() == "None"


def test_panels_hold_these_curves_and_no_others() -> None:
    pairs, random = [f"{ranked_by} {tested_on}" for ranked_by in TASKS for tested_on in TASKS], set(TASKS)
    expected = [{f"ranked {task} {tested_on}" for tested_on in TASKS} for task in TASKS[::-1]]
    expected = [names | {f"random {task}" for task in random} for names in expected]
    expected.append({f"keep {name}" for name in (*pairs, *random)})
    for row, names in zip(get_grid(draw(make_lesions(seeds=[4]))), expected, strict=True):
        for axes in row:
            assert set(get_lines(axes)) == names  # with one seed there are no lines of seeds


def test_tasks_have_their_colours_and_lesions_for_the_tested_task_stand_out() -> None:
    for axes in (axes for row in get_grid(draw_usual()) for axes in row):
        for name, line in get_lines(axes).items():
            tasks = name.split(" seed ")[0].split()[1:]  # [ranked by,] tested on
            assert to_rgb(line.get_color()) == to_rgb(LOOKS[tasks[-1]].colour)
            assert (line.get_linestyle() == "--") == (len(tasks) == 1)
            if len(tasks) == 2 and "seed" not in name:
                same_task = tasks[0] == tasks[1]
                assert (line.get_linewidth(), line.get_zorder()) == ((1.9, 4) if same_task else (1.0, 3))
                face = line.get_color() if same_task else "white"
                assert to_rgb(line.get_markerfacecolor()) == to_rgb(face)


def test_random_units_have_mean_and_middle_95_percent_over_draws_and_seeds() -> None:
    """82 drops, 0.00 to 0.81: the 2.5th percentile lies 0.025 x 81 = 2.025 steps above the lowest."""
    for row, panels in enumerate(get_grid(draw_usual())):
        condition, higher = ("keep", 2) if row == 2 else ("random", 0)
        for axes in panels:
            for band, task, shift in zip(axes.collections, TASKS[::-1], (higher - 10, higher), strict=True):
                line = get_lines(axes)[f"{condition} {task}"]
                np.testing.assert_allclose(line.get_data(), [[10, 25], [40.5 + shift] * 2])
                assert line.get_linestyle() == "--"
                (path,) = band.get_paths()
                corners = {(x, y + shift) for x in (10, 25) for y in (2.025, 78.975)}
                assert {tuple(point) for point in path.vertices.round(6)} == corners
                assert to_rgb(band.get_facecolor()[0][:3]) == to_rgb(LOOKS[task].colour)


def test_headings_labels_and_legend_explain_the_losses() -> None:
    figure = draw_usual()
    assert figure.get_suptitle() == "What the joint network loses when units are silenced (painted faces)"
    assert [(part.get_suptitle(), part._suptitle.get_color()) for part in figure.subfigs[:-1]] == [
        ("Silenced: the units that expression needs most", LOOKS["expression"].colour),
        ("Silenced: the units that identity needs most", LOOKS["identity"].colour),
        ("Kept: only the units that one task needs most; all others are silenced", "#222222"),
    ]
    first, second, third = get_grid(figure)
    assert [axes.get_title() for axes in first] == [f"trunk.relu{d}\ndepth {d}, {16 * d} units" for d in (1, 2)]
    assert {axes.get_xlabel() for axes in (*first, *second)} == {"% of units silenced"}
    assert {axes.get_xlabel() for axes in third} == {"% of units kept"}
    assert {row[0].get_ylabel() for row in (first, second, third)} == {"lost, % of what\nis above chance"}
    assert {tuple(t.get_text() for t in axes.get_xticklabels()) for axes in (*first, *third)} == {("0", "10", "25")}
    assert read_legend(figure.subfigs[-2]) == [
        "loss in the expression task",
        "loss in the identity task",
        "one seed",
        "units chosen for this very task",
        "units chosen for the other task",
        "random units, 95 % of draws",
    ]


LOWEST = -10 + 2.025  # drop of the random units, %


@pytest.mark.parametrize(
    ("drop", "limits", "texts"),
    [
        (None, (LOWEST - 5, 105), []),
        (1.3, (LOWEST - 5, 135), []),
        (-6.0, (-55, 105), ["cut off"]),
        (4.5, (LOWEST - 5, 155), ["cut off"]),
    ],
)
def test_all_panels_share_limits_and_drops_outside_are_labelled_cut_off(
    drop: float | None, limits: tuple[float, float], texts: list[str]
) -> None:
    table = make_lesions()
    rows = table.eval("condition == 'keep' and depth == 2 and seed == 4 and fraction == 0.1")
    grid = get_grid(draw(table if drop is None else table.assign(drop=table["drop"].mask(rows, drop))))
    panels = [axes for row in grid for axes in row]
    assert [axes.get_ylim() for axes in panels] == [pytest.approx(limits)] * 6
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert panels[0].get_xlim()[0] < 0 and panels[0].get_xlim()[1] > 25
    assert [read_texts(axes.texts) for axes in panels] == [[]] * 5 + [texts]


def test_seeds_not_above_chance_are_left_out_and_counted() -> None:
    table = make_lesions()
    table.loc[table.eval("tested_on == 'identity' and seed == 9"), "drop"] = np.nan
    figure = draw(table)
    lines = get_lines(get_grid(figure)[1][1])
    drops = [100 * make_drop("ranked", 0, 0, depth=2, seed=4, fraction=fraction) for fraction in FRACTIONS]
    np.testing.assert_allclose(lines["ranked identity identity"].get_ydata(), drops)
    assert "ranked identity identity seed 9" not in lines and "ranked identity expression seed 9" in lines
    np.testing.assert_allclose(lines["random identity"].get_ydata(), 40)  # 0, 2, ..., 80
    identity = "loss in the identity task\n(above chance: {} of 2 seeds)"
    assert read_legend(figure.subfigs[-2])[:2] == ["loss in the expression task", identity.format(1)]
    table.loc[table["tested_on"] == "identity", "drop"] = np.nan
    figure = draw(table)
    names = {name for row in get_grid(figure) for axes in row for name in get_lines(axes)}
    assert {name.split()[2] for name in names if name.startswith("ranked")} == {"expression"}
    assert "random expression" in names and "random identity" not in names
    assert read_legend(figure.subfigs[-2])[1] == identity.format(0)


def test_tables_without_rows_of_other_lesions_have_no_such_curves() -> None:
    *_, keep = get_grid(draw(make_lesions(seeds=[4]).query("condition != 'keep' or ranked_by != ''")))
    for axes in keep:
        assert set(get_lines(axes)) == {f"keep {one} {other}" for one in TASKS for other in TASKS}
        assert not axes.collections
    figure = draw(make_lesions().query("condition != 'keep'"))
    assert len(get_grid(figure)) == 2 and len(read_legend(figure.subfigs[-2])) == 6
    assert figure.get_figheight() < draw_usual().get_figheight()


@pytest.mark.parametrize(
    ("tasks", "order", "looks"),
    [
        (("sex", "age"), ["sex", "age"], ["expression", "identity"]),
        (("age", "identity"), ["identity", "age"], ["identity", "expression"]),
        (("joint", "expression"), ["expression", "joint"], ["expression", "identity"]),
    ],
)
def test_tasks_of_users_have_the_colours_of_absent_tasks(tasks: list[str], order: list[str], looks: list[str]) -> None:
    figure = draw(make_lesions(tasks))
    titles = [f"Silenced: the units that {task} needs most" for task in order]
    assert [part.get_suptitle() for part in figure.subfigs[:2]] == titles
    lines = get_lines(get_grid(figure)[0][0])
    colours = [lines[f"ranked {order[0]} {task}"].get_color() for task in order]
    assert colours == [LOOKS[look].colour for look in looks]


def test_other_numbers_of_networks_and_tasks_are_refused() -> None:
    table = make_lesions()
    for rows, message in (
        (
            pd.concat([table, table.assign(tested_on="age")]),
            r"tasks \['identity', 'expression', 'age'\]\. Pass the rows",
        ),
        (table.query("tested_on == 'identity'"), r"networks \['joint'\] and the tasks \['identity'\]\. Pass the rows"),
        (pd.concat([table, table.assign(trained_on="mine")]), r"networks \['joint', 'mine'\] .* Pass the rows of one"),
    ):
        with pytest.raises(StudyError, match=message):
            draw(rows)


def test_every_fraction_has_a_panel_of_the_index_of_all_layers_with_its_controls() -> None:
    panels = get_panels(draw_usual())
    assert [axes.get_title() for axes in panels] == ["10 % silenced", "30 % silenced"]
    for axes, fraction in zip(panels, INDEX_FRACTIONS, strict=True):
        lines = get_lines(axes)
        assert list(lines) == ["ranked", "shuffled", "random"]
        for bars, (condition, line) in zip(axes.collections, lines.items(), strict=True):
            numbers = np.array([make_number(condition, depth, fraction) for depth in (1, 2, 3)])
            x, y = line.get_data()
            np.testing.assert_allclose(y, numbers)
            assert np.round(x).tolist() == [0, 1, 2]
            ends = np.array(bars.get_segments())
            np.testing.assert_allclose(ends[:, :, 0], np.transpose([x, x]))
            np.testing.assert_allclose(ends[:, :, 1], np.transpose([numbers - 0.1, numbers + 0.05]))
            assert to_rgb(bars.get_color()[0][:3]) == to_rgb(line.get_color())
        assert len({line.get_marker() for line in lines.values()}) == 3
        assert len({line.get_xdata()[0] for line in lines.values()}) == 3  # side by side
        ranked, *greys = (to_rgb(line.get_color()) for line in lines.values())
        assert ranked == to_rgb(LOOKS["joint"].colour)
        assert greys[0] != greys[1] and all(len(set(grey)) == 1 for grey in greys)
        assert [line.get_linewidth() > 0 for line in lines.values()] == [True, False, False]


def test_scale_and_texts_explain_the_index() -> None:
    figure = draw_usual()
    for axes in get_panels(figure):
        assert axes.get_ylim() == (-1.08, 1.08) and axes.get_xlabel() == "depth"
        assert read_texts(axes.get_xticklabels()) == ["1", "2", "3"]
        assert [line.get_ydata() for line in axes.lines if not line.get_gid()] == [[0, 0]]
        assert not axes.texts
    labels = get_panels(figure)[0].get_yticklabels()
    assert {text.get_position()[1]: text.get_text() for text in labels} == {
        -1: "only the other\ntask suffers  −1",
        0: "both alike   0",
        1: "only its own\ntask suffers    1",
    }
    title = "Segregation index: does silencing harm the intended task only? (seeds: 3, n = 24)"
    assert figure.subfigs[-1].get_suptitle() == title
    controls = ["control: classes of both tasks mixed", "control: random units"]
    assert read_legend(figure.subfigs[-1]) == ["units each task needs most", *controls, "95 % interval"]


def test_an_undefined_index_is_marked_on_the_lower_edge() -> None:
    table = make_segregation()
    rows = table.eval("condition != 'shuffled' and depth == 2 and fraction == 0.3 and quantity == 'index'")
    table.loc[rows, ["number", "low", "high"]] = np.nan
    defined, axes = get_panels(draw_index(table))
    lines = get_lines(axes)
    assert set(lines) - set(get_lines(defined)) == {"undefined ranked", "undefined random"} and not defined.texts
    for condition in ("ranked", "random"):
        line, mark = lines[condition], lines[f"undefined {condition}"]
        assert np.isnan(line.get_ydata()).tolist() == [False, True, False]
        assert mark.get_xdata().tolist() == [line.get_xdata()[1]]
        assert mark.get_ydata().tolist() == [axes.get_ylim()[0]] and not mark.get_clip_on()
        assert to_rgb(mark.get_markerfacecolor()) == (1, 1, 1) and mark.get_marker() == line.get_marker()
        assert to_rgb(mark.get_markeredgecolor()) == to_rgb(line.get_color())
    assert [len(bars.get_segments()) for bars in axes.collections] == [2, 3, 2]
    assert read_texts(axes.texts) == ["open: undefined"]


def test_missing_intervals_and_controls_are_neither_drawn_nor_named() -> None:
    table = make_segregation().query("condition != 'shuffled' and fraction == 0.3").assign(low=np.nan)
    figure = draw_index(table)
    (axes,) = get_panels(figure)
    assert list(get_lines(axes)) == ["ranked", "random"]
    assert [len(bars.get_segments()) for bars in axes.collections] == [0, 0]
    assert not np.isnan(get_lines(axes)["ranked"].get_ydata()).any()
    assert read_legend(figure.subfigs[-1]) == ["units each task needs most", "control: random units", "95 % interval"]


def test_of_many_layers_some_have_curves_and_all_an_index() -> None:
    figure = draw_figure_lesions(make_lesions(seeds=[4], depths=9), make_segregation(9))
    titles = [axes.get_title().split("\n")[0] for axes in figure.subfigs[0].axes]
    assert titles == [f"trunk.relu{depth}" for depth in (1, 3, 5, 7, 9)]
    for axes in get_panels(figure):
        assert len(get_lines(axes)["ranked"].get_xdata()) == 9
        assert axes.get_xticks().tolist() == [0, 2, 4, 6, 8]
        assert read_texts(axes.get_xticklabels()) == ["1", "3", "5", "7", "9"]


def test_names_and_numbers_are_thinned_out_evenly() -> None:
    for count, names in ((1, "a"), (4, "abcd"), (5, "abcde"), (6, "abcef"), (13, "adgjm")):
        assert "".join(spread_evenly("abcdefghijklm"[:count], 5)) == names
    for count, numbers in ((1, [0]), (7, [*range(7)]), (8, [0, 2, 4, 6]), (15, [0, 3, 6, 9, 12])):
        assert list(thin_out(range(count))) == numbers


@pytest.mark.parametrize(
    ("network", "rows"), [("joint", "fraction == 0 or quantity == 'identity'"), ("mine", "fraction > 0")]
)
def test_a_table_without_an_index_of_the_network_is_refused(network: str, rows: str) -> None:
    message = f"'segregation' holds no index of the {network} network at a fraction above 0. Pass the table made from"
    with pytest.raises(StudyError, match=message):
        draw_figure_lesions(make_lesions().assign(trained_on=network), make_segregation().query(rows))


@pytest.mark.parametrize(
    ("layers", "fractions", "above_chance"),
    [
        (1, (0.1,), True),
        (4, (0.05, 0.1, 0.2, 0.3, 0.5), False),
        (30, (1 / 3,), True),
        (5, tuple(number / 11 for number in range(1, 11)), True),
    ],
)
def test_figures_are_legible_and_layers_remain_different(
    layers: int, fractions: Sequence[float], above_chance: bool, legible: Callable[[Figure], None]
) -> None:
    table = make_lesions(seeds=[4], depths=layers).query("draw < 2 and fraction != 0.25")
    table = pd.concat([table.assign(fraction=fraction, units=512) for fraction in (0.0, *fractions)])
    names = {f"trunk.relu{depth}": f"encoder.layers.{depth}.attention.output.dense" for depth in range(1, 5)}
    table = table.replace({"layer": names}).assign(drop=table["drop"] if above_chance else np.nan)
    figure = draw_figure_lesions(table, make_segregation(layers, fractions).assign(low=-1.0, high=1.0))
    legible(figure)
    titles = [axes.get_title().split("\n")[0] for axes in figure.subfigs[0].axes]
    assert len(set(titles)) == min(layers, 5)
