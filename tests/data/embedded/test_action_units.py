"""Action units: forms of expressions, how intensities add up, and that each changes its part of the face only."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.data.embedded import action_units
from facespec.data.embedded.action_units import STRONGEST, UNITS, compose
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.rendering import paint
from facespec.data.embedded.scenes import COLUMNS
from facespec.data.embedded.stimuli import Stimuli
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, Role
from toys import draw_faces

SIZE = 64

# Range of heights a unit may change, in head units above the eyes (mouth about -0.6, nose tip -0.4, brows 0.23)
BANDS = {
    1: (-0.15, 0.75),
    2: (-0.05, 0.75),
    4: (-0.15, 0.60),
    5: (-0.20, 0.25),
    6: (-0.55, 0.30),
    7: (-0.25, 0.25),
    9: (-0.95, 0.45),
    10: (-0.95, -0.10),
    12: (-0.95, -0.25),
    15: (-1.0, -0.15),
    16: (-1.30, -0.45),
    17: (-1.05, -0.45),
    20: (-0.95, -0.45),
    23: (-0.95, -0.45),
    25: (-0.95, -0.45),
    26: (-1.45, -0.40),
}
MOUTH = (12, 15, 16, 17, 20, 23, 25, 26)
BROW = (1, 2, 4)


def name_units(form: np.ndarray) -> set[int]:
    return {unit for unit, intensity in zip(UNITS, form, strict=True) if intensity}


def test_first_forms_are_ekman_s_prototypes() -> None:
    expected = {
        "happy": {6, 12},
        "sad": {1, 4, 15},
        "surprise": {1, 2, 5, 26},
        "fear": {1, 2, 4, 5, 7, 20, 26},
        "angry": {4, 5, 7, 23},
        "disgust": {9, 15, 16},
        "neutral": set(),
    }
    table = action_units.list_forms()
    assert table.shape == (7, 6, 16)
    assert {name.value: name_units(forms[0]) for name, forms in zip(EXPRESSIONS, table, strict=True)} == expected
    assert set(np.unique(table)) == {0.0, 1.0}


def test_expressions_that_people_confuse_share_units() -> None:
    def list_units(name: str) -> set[int]:
        return set().union(*(name_units(form) for form in action_units.list_forms()[EXPRESSIONS.index(name)]))

    assert {1, 2, 5, 26} <= list_units("fear") & list_units("surprise")
    assert {10, 17, 25} <= list_units("disgust") & list_units("angry")


def test_a_form_is_chosen_by_its_share() -> None:
    """The prototype in 40 % of the pictures, every other form equally often in the rest."""
    sad = np.full(10_000, EXPRESSIONS.index("sad"))
    form = (np.arange(10_000) + 0.5) / 10_000
    chosen = [tuple(sorted(name_units(row))) for row in action_units.choose_forms(sad, form)]
    shares = {units: chosen.count(units) / 10_000 for units in set(chosen)}
    assert shares == pytest.approx({(1, 4, 15): 0.4, (1, 4, 15, 17): 0.15, (1, 4): 0.15, (6, 15): 0.15, (15, 17): 0.15})
    happy, neutral = EXPRESSIONS.index("happy"), EXPRESSIONS.index("neutral")
    ends = action_units.choose_forms(np.array([happy, happy, neutral]), np.array([0.0, 1.0 - 2**-53, 0.99]))
    assert [name_units(row) for row in ends] == [{6, 12}, {12}, set()]


def test_intensities_are_prototype_times_intensity_times_style_plus_idle() -> None:
    happy, at = EXPRESSIONS.index("happy"), list(UNITS).index
    style, idle = np.full((2, 16), 0.9), np.zeros((2, 16))
    idle[1, at(26)] = 0.3
    composed = compose(np.array([happy, happy]), np.array([1.0, 0.5]), form=np.zeros(2), style=style, idle=idle)
    expected = np.zeros((2, 16))
    expected[0, [at(6), at(12)]] = 0.9
    expected[1, [at(6), at(12)]] = 0.45
    expected[1, at(26)] = 0.3
    np.testing.assert_allclose(composed, expected)


@given(st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_intensities_stay_between_0_and_the_strongest(seed: int, amount: float) -> None:
    random = generator(seed)
    codes = random.integers(0, 7, 50)
    idle = action_units.draw_idle(codes, random, amount=amount)
    style = action_units.vary_style(action_units.draw_style(50, random), random, amount=1.0)
    form = random.random(50)
    composed = compose(codes, random.random(50), form=form, style=style, idle=idle)
    assert composed.min() >= 0.0
    assert composed.max() <= STRONGEST
    assert compose(codes, np.full(50, 9.0), form=form, style=np.full((50, 16), 9.0), idle=idle).max() == STRONGEST
    assert compose(codes, np.ones(50), form=form, style=np.ones((50, 16)), idle=idle - 3.0).min() == 0.0


def test_style_varies_between_people_around_1() -> None:
    style = action_units.draw_style(400, generator(3))
    assert style.shape == (400, 16)
    assert style.min() >= 0.72
    assert style.max() <= 1.22
    np.testing.assert_allclose(style.mean(0), 0.97, atol=0.04)  # 5 standard errors of a uniform's mean
    assert np.ptp(style, axis=0).min() > 0.45


def test_units_of_one_picture_vary_on_their_own() -> None:
    style = np.ones((2000, 16))
    varied = action_units.vary_style(style, generator(4), amount=1.0)
    assert 0.4 <= varied.min() < 0.45
    assert 1.15 < varied.max() <= 1.2
    correlations = np.corrcoef(varied.T)[np.triu_indices(16, 1)]
    assert np.abs(correlations).max() < 0.12  # 5 standard errors
    np.testing.assert_array_equal(action_units.vary_style(style, generator(4), amount=0.0), style)


def test_idle_scales_with_its_amount_and_does_not_depend_on_the_expression() -> None:
    codes = np.zeros(300, np.int64)
    full = action_units.draw_idle(codes, generator(5), amount=1.0)
    np.testing.assert_array_equal(action_units.draw_idle(codes, generator(5), amount=0.0), np.zeros((300, 16)))
    np.testing.assert_allclose(action_units.draw_idle(codes, generator(5), amount=0.25), 0.25 * full)
    np.testing.assert_array_equal(action_units.draw_idle(codes + 3, generator(5), amount=1.0), full)
    assert (full > 0).any(0).all()  # every unit moves in some picture
    assert full.max() <= 0.28 + 0.35 + 0.40 + 1e-12  # a weak unit, a second expression, talking


@cache
def draw_neutral() -> Stimuli:
    """Straight views of four neutral people, without blur or noise."""
    probe = draw_faces(Role.PROBE, seed=12, probe=4)
    labels = probe.labels
    rows = (labels["view"] == "straight") & (labels["expression"] == "neutral") & (labels["session"] == "A")
    stimuli = probe.take(np.flatnonzero(rows))
    stimuli.scene[:, [COLUMNS.index("blur"), COLUMNS.index("noise")]] = 0.0
    return stimuli


def render_units(**intensities: float) -> tuple[np.ndarray, np.ndarray]:
    """The neutral people with some units (``au12=1.0``), all others 0."""
    stimuli = draw_neutral()
    units = np.zeros((len(stimuli), len(UNITS)))
    for name, intensity in intensities.items():
        units[:, list(UNITS).index(int(name[2:]))] = intensity
    images, regions = paint(stimuli.people, units, stimuli.scene, keys=stimuli.keys, size=SIZE, channels=1)
    return images.astype(np.int64), regions


def compute_heights() -> np.ndarray:
    """(4, SIZE) height of each pixel row above the eyes, in head units."""
    scene = draw_neutral().scene
    scale, shift = (scene[:, [COLUMNS.index(name)]] for name in ("scale", "shift_y"))
    return (1.0 - (np.arange(SIZE) + 0.5) / (SIZE / 2)) * scale - shift


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_changes_its_part_of_the_face_only(unit: int) -> None:
    rest, moved = render_units()[0], render_units(**{f"au{unit}": 1.0})[0]
    changed = rest != moved
    assert (np.abs(moved - rest) >= 12).any((1, 2)).all(), "not everybody's picture changes visibly"
    low, high = BANDS[unit]
    tilt = 0.12  # the head nods by up to 6 degrees
    outside = (compute_heights() < low - tilt) | (compute_heights() > high + tilt)
    assert not (changed & outside[:, :, None]).any()


@pytest.mark.parametrize("unit", MOUTH)
def test_mouth_units_move_neither_brows_nor_eyes_nor_hair(unit: int) -> None:
    (rest, before), (moved, after) = render_units(), render_units(**{f"au{unit}": 1.0})
    elsewhere = [REGIONS[name] for name in ("brows", "eyes")]
    untouched = np.isin(before, elsewhere) | np.isin(after, elsewhere)
    np.testing.assert_array_equal(rest[untouched], moved[untouched])


@pytest.mark.parametrize("unit", BROW)
def test_brow_units_move_neither_mouth_nor_ears(unit: int) -> None:
    (rest, before), (moved, after) = render_units(), render_units(**{f"au{unit}": 1.0})
    elsewhere = [REGIONS[name] for name in ("mouth", "ears")]
    untouched = np.isin(before, elsewhere) | np.isin(after, elsewhere)
    np.testing.assert_array_equal(rest[untouched], moved[untouched])


@pytest.mark.parametrize("unit", UNITS)
def test_a_stronger_unit_changes_more(unit: int) -> None:
    rest = render_units()[0]
    change = [np.abs(render_units(**{f"au{unit}": level})[0] - rest).sum() for level in (0.25, 0.5, 0.75, 1.0)]
    assert np.all(np.diff([0, *change]) > 0)


def compute_centre(regions: np.ndarray, name: str) -> np.ndarray:
    """(4,) mean height of a region, in head units."""
    at = regions == REGIONS[name]
    return np.array([(compute_heights()[i][:, None] * at[i]).sum() / at[i].sum() for i in range(len(at))])


def test_inner_and_outer_brow_raisers_raise_their_end_more() -> None:
    def ends(**units: float) -> np.ndarray:
        """Mean height of the brows beside the nose, and at the temples."""
        brows = render_units(**units)[1] == REGIONS["brows"]
        inner, outer = brows.copy(), brows.copy()
        inner[:, :, :23] = inner[:, :, 41:] = False
        outer[:, :, 18:46] = False
        return np.array(
            [[(compute_heights()[i][:, None] * m[i]).sum() / m[i].sum() for i in range(4)] for m in (inner, outer)]
        )

    rest = ends()
    inner_raised, outer_raised = ends(au1=1.0) - rest, ends(au2=1.0) - rest
    assert (inner_raised[0] > inner_raised[1] + 0.02).all()
    assert (outer_raised[1] > outer_raised[0] + 0.02).all()


def test_units_move_features_the_way_their_names_say() -> None:
    rest = render_units()[1]
    assert np.all(compute_centre(render_units(au1=1.0, au2=1.0)[1], "brows") > compute_centre(rest, "brows") + 0.03)
    assert np.all(compute_centre(render_units(au4=1.0)[1], "brows") < compute_centre(rest, "brows") - 0.03)
    dropped = render_units(au26=1.0)[1]
    assert np.all((dropped == REGIONS["mouth"]).sum((1, 2)) > 1.2 * (rest == REGIONS["mouth"]).sum((1, 2)))
    eyes = [(render_units(**{unit: 1.0})[1] == REGIONS["eyes"]).sum((1, 2)) for unit in ("au5", "au7")]
    assert np.all(eyes[0] > eyes[1])
    wide, tight = (
        np.ptp(np.argwhere(render_units(**{unit: 1.0})[1][0] == REGIONS["mouth"])[:, 1]) for unit in ("au20", "au23")
    )
    assert wide > tight
