"""Points and cells are read back from their artists, and compared with the tables' numbers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from facespec.analyses.battery import EFFECTS, is_listed
from facespec.data.embedded.battery import CONDITIONS, SHOWN_UNITS
from facespec.figures.battery import draw_battery_sheet, draw_figure_battery
from facespec.study.errors import StudyError
from facespec.study.tables_battery import BATTERY_EFFECTS, BATTERY_UNITS
from facespec.study.vocabulary import EXPRESSIONS
from toys import make_table, read_texts

NAN = np.nan


def make_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effects and units, all numbers different."""
    rows = []
    for effect in EFFECTS:
        for observer in (effect.task.value, "joint", "untrained", "pixels_nearest"):
            names = {"tested_on": effect.task.value, "effect": effect.name, "easy": effect.easy, "hard": effect.hard}
            number = -0.4 + 0.02 * len(rows)
            rows.append(
                {"trained_on": observer, **names, "human": effect.human, "reference": effect.reference}
                | {"number": number, "low": number - 0.05, "high": number + 0.07, "seed": NAN}
            )
    rows += [row | {"seed": 3, "number": 0.9} for row in rows]
    units = [
        {
            "trained_on": network,
            "unit": unit,
            "expression": name.value,
            "listed": "yes" if is_listed(unit, name) else "no",
        }
        | {"number": 0.01 + 0.1 * (index + place) % 1, "seed": NAN}
        for index, network in enumerate(("expression", "joint", "untrained"))
        for unit in SHOWN_UNITS
        for place, name in enumerate(EXPRESSIONS)
    ]
    return make_table(BATTERY_EFFECTS, rows, source="painted faces"), make_table(
        BATTERY_UNITS, units, source="painted faces"
    )


def make_examples() -> dict[str, np.ndarray]:
    names = [*CONDITIONS, *(f"unit {unit}" for unit in SHOWN_UNITS)]
    return {name: np.full((17, 11), index, np.uint8) for index, name in enumerate(names)}


@cache
def draw_usual() -> Figure:
    return draw_figure_battery(*make_tables(), make_examples())


def list_effect_axes() -> list[Axes]:
    return draw_usual().subfigs[0].axes[2::3]


def test_points_are_the_means_of_the_table() -> None:
    effects, _ = make_tables()
    means = effects[effects["seed"].isna()]
    drawn = {
        line.get_gid(): line.get_xdata()[0] for axes in list_effect_axes() for line in axes.lines if line.get_gid()
    }
    keys = means["trained_on"] + " " + means["tested_on"] + " " + means["effect"]
    assert drawn == dict(zip(keys, means["number"], strict=True)) and len(drawn) == 4 * len(EFFECTS)


def test_intervals_are_the_tables() -> None:
    effects, _ = make_tables()
    means = effects[effects["seed"].isna()]
    found = []
    for axes in list_effect_axes():
        for container in axes.containers:
            ((start, stop),) = container.lines[2][0].get_segments()
            found.append((start[0], stop[0]))
    np.testing.assert_allclose(found, means[["low", "high"]])
    reach = list_effect_axes()[0].get_xlim()[1]
    assert reach > means[["number", "low", "high"]].abs().max(axis=None)


def test_people_stand_beside_every_effect() -> None:
    for axes, effect in zip(list_effect_axes(), EFFECTS, strict=True):
        (text,) = (text.get_text() for text in axes.texts)
        assert text.endswith(effect.reference) and ("first is easier" in text) == (effect.human == "easy")


def test_example_pictures_are_those_of_the_two_conditions() -> None:
    examples = make_examples()
    pairs = {"inversion": ("upright", "inverted"), "surface over shape": ("shape swapped", "surface swapped")}
    axes = draw_usual().subfigs[0].axes
    for index, effect in enumerate(EFFECTS):
        shown = [part.images[0].get_array() for part in axes[3 * index : 3 * index + 2]]
        for picture, name in zip(shown, pairs.get(effect.name, ()), strict=False):
            np.testing.assert_array_equal(picture, examples[name])


def test_cells_are_shares_and_listed_ones_are_outlined() -> None:
    _, units = make_tables()
    for axes, network in zip(draw_usual().subfigs[1].axes, ("expression", "joint", "untrained"), strict=True):
        rows = units[units["trained_on"] == network]
        expected = rows["number"].to_numpy().reshape(len(SHOWN_UNITS), len(EXPRESSIONS))
        np.testing.assert_allclose(axes.images[0].get_array(), expected)
        outlined = {
            (SHOWN_UNITS[round(patch.get_y() + 0.46)], EXPRESSIONS[round(patch.get_x() + 0.46)])
            for patch in axes.patches
            if isinstance(patch, Rectangle)
        }
        assert outlined == {(unit, name) for unit in SHOWN_UNITS for name in EXPRESSIONS if is_listed(unit, name)}


def test_without_numbers_the_reason_is_drawn() -> None:
    effects, units = make_tables()
    effects = effects.assign(number=NAN, low=NAN, high=NAN, reason="these are photographs")
    figure = draw_figure_battery(effects, units.assign(number=NAN), {})
    assert "these are photographs" in read_texts(figure.texts) and not figure.axes


def test_the_sheet_shows_every_condition_once() -> None:
    examples = make_examples()
    figure = draw_battery_sheet(examples, "painted faces")
    shown = sorted(int(axes.images[0].get_array()[0, 0]) for axes in figure.axes if axes.images)
    assert shown == list(range(len(examples))) and "The stimulus battery (painted faces)" in read_texts(figure.texts)


@pytest.mark.parametrize("index", [0, 1])
def test_other_tables_are_refused(index: int) -> None:
    tables = list(make_tables())
    tables[index] = tables[index].drop(columns="number")
    with pytest.raises(StudyError, match="number"):
        draw_figure_battery(*tables, make_examples())
