"""There are enough identity parameters, in their ranges, correlated as documented, and each is visible."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.data.embedded.action_units import UNITS
from facespec.data.embedded.anatomy import (
    APPEARANCE,
    CAP,
    COLUMN,
    EVEN,
    PARAMETERS,
    PEAKED,
    change_appearance,
    change_faces,
    draw_people,
    put_on_caps,
)
from facespec.data.embedded.rendering import paint
from facespec.data.embedded.scenes import COLUMNS, draw_probe
from facespec.study.seeds import generator
from facespec.study.vocabulary import View

RANGES = {**PEAKED, **EVEN, "cap": (0.0, 1.0)}
# Parameters that `_make_coherent` makes absent (0) or shifts leave the range that they are drawn from
REACH = {
    "hair_grey": (0.0, 0.99),
    "mole_size": (0.0, 0.032),
    "hair_bun": (0.0, 0.29),
    "hair_length": (-1.6, 0.0),
    "hairline": (0.345, 1.5),
    "hair_volume": (0.02, 0.32),
}


def draw_crowd(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    male = np.arange(n) % 2 == 1
    return draw_people(n, generator(4, "crowd"), male=male), male


def test_there_are_at_least_25_parameters_with_sound_ranges() -> None:
    assert len(PARAMETERS) >= 25
    assert len(set(PARAMETERS)) == len(PARAMETERS) == len(PEAKED) + len(EVEN)
    assert all(low < high for low, high in RANGES.values())
    assert [PARAMETERS[COLUMN[name]] for name in PARAMETERS] == list(PARAMETERS)


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_people_stay_in_range(seed: int, n: int) -> None:
    random = generator(seed)
    people = draw_people(n, random, male=random.random(n) < 0.5)
    assert people.shape == (n, len(PARAMETERS))
    for name, column in zip(PARAMETERS, people.T, strict=True):
        low, high = REACH.get(name, RANGES[name])
        assert low - 1e-9 <= column.min(), name
        assert column.max() <= high + 1e-9, name


def test_the_whole_range_is_used() -> None:
    people, _ = draw_crowd()
    for name, column in zip(PARAMETERS, people.T, strict=True):
        low, high = RANGES[name]
        if name == "cap":
            continue
        used = column[column != 0.0] if name in ("beard", "moustache", "glasses", "scar", "freckles") else column
        assert np.ptp(used) > 0.55 * (high - low), name


def test_peaked_parameters_crowd_the_middle_and_even_ones_do_not() -> None:
    people, _ = draw_crowd()

    def compute_share(name: str) -> np.ndarray:
        low, high = RANGES[name]
        return (people[:, COLUMN[name]] - low) / (high - low)

    def compute_middle(*names: str) -> list[float]:
        return [np.mean(np.abs(compute_share(name) - 0.5) < 0.25) for name in names]

    peaked = compute_middle("head_width", "eye_spacing", "mouth_width")
    np.testing.assert_allclose(peaked, 0.75, atol=0.05)  # the sum of two uniforms, 5 standard errors
    even = compute_middle("skin_tone", "age", "hair_curl")
    np.testing.assert_allclose(even, 0.50, atol=0.06)


def test_parameters_are_correlated() -> None:
    people, male = draw_crowd()

    def get(name: str) -> np.ndarray:
        return people[:, COLUMN[name]]

    assert not get("beard")[~male].any()
    assert not get("moustache")[~male].any()
    assert not get("hair_bun")[male].any()
    assert not (get("hairline")[~male] > 1.0).any()
    assert 0.08 < np.mean(get("hairline")[male] > 1.0) < 0.16  # bald
    assert 0.30 < np.mean(get("beard")[male] > 0) < 0.46
    assert 0.11 < np.mean(get("glasses") > 0) < 0.21
    assert not get("hair_grey")[get("age") < 0.55].any()
    assert not get("freckles")[get("skin_tone") >= 0.5].any()
    assert np.all(get("hair_tone") >= np.minimum(1.6 * get("skin_tone"), 1.0) - 1e-12)
    assert np.all(get("brow_tone") >= np.minimum(1.6 * get("skin_tone"), 1.0) - 1e-12)
    assert np.all(get("iris_tone") >= np.minimum(1.8 * get("skin_tone"), 1.0) - 1e-12)
    for name, sign in (("jaw_width", 1), ("brow_thickness", 1), ("lip_upper", -1), ("brow_arch", -1)):
        low, high = RANGES[name]
        gap = (get(name)[male].mean() - get(name)[~male].mean()) / (high - low)
        assert 0.2 < sign * gap < 0.4, name


def test_no_two_people_are_alike() -> None:
    people, _ = draw_crowd(300)
    low, high = (np.array([bounds[end] for bounds in RANGES.values()]) for end in (0, 1))
    shares = (people - low) / (high - low)
    differences = (np.abs(shares[:, None] - shares[None]) > 0.05).sum(-1)[np.triu_indices(300, 1)]
    assert differences.min() >= 25


def test_another_day_changes_the_appearance_only() -> None:
    people, male = draw_crowd(400)
    changed = change_appearance(people, generator(6), male=male)
    appearance = [COLUMN[name] for name in APPEARANCE]
    face = np.setdiff1d(np.arange(len(PARAMETERS)), appearance)
    np.testing.assert_array_equal(changed[:, face], people[:, face])
    assert (changed[:, COLUMN["hairline"]] != people[:, COLUMN["hairline"]]).mean() > 0.95
    for name in ("hair_tone", "hair_volume", "hair_curl"):
        assert abs(np.corrcoef(changed[male, COLUMN[name]], people[male, COLUMN[name]])[0, 1]) < 0.4, name
    assert not changed[~male, COLUMN["beard"]].any()


def test_another_face_under_one_s_own_hair() -> None:
    people, male = draw_crowd(20)
    changed = change_faces(people, people[::-1])
    np.testing.assert_array_equal(
        change_appearance(changed, generator(7), male=male),
        change_appearance(people[::-1].copy(), generator(7), male=male),
    )
    np.testing.assert_array_equal(changed[:, COLUMN["hair_volume"]], people[:, COLUMN["hair_volume"]])
    np.testing.assert_array_equal(changed[:, COLUMN["eye_spacing"]], people[::-1, COLUMN["eye_spacing"]])


def test_a_cap_hides_all_that_hair_says() -> None:
    people, _ = draw_crowd(50)
    capped = put_on_caps(people)
    for name in PARAMETERS:
        if name in CAP:
            assert set(capped[:, COLUMN[name]]) == {CAP[name]}
        else:
            np.testing.assert_array_equal(capped[:, COLUMN[name]], people[:, COLUMN[name]])


@cache
def make_scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """People with every mark, expressions that use mouth and brows, and scenes without noise: nothing is hidden."""
    n = 3
    people = draw_people(n, generator(9, "stage"), male=np.array([False, True, False]))
    values = {
        "mole_size": 0.03,
        "mole_x": 0.2,
        "mole_y": -0.3,
        "scar": 1.0,
        "scar_x": -0.2,
        "scar_y": -0.2,
        "hair_grey": 0.2,
        "hair_length": 0.0,
        "hair_volume": 0.15,
        "hair_recess": 0.1,
        "hair_bun": 0.0,
        "glasses": 0.8,
        "freckles": 0.8,
        "hairline": 0.6,
        "skin_tone": 0.2,
        "iris_tone": 0.2,
        "eye_opening": 0.09,
        "moustache": 0.0,
        "beard": 0.0,
    }
    for name, value in values.items():
        people[:, COLUMN[name]] = value
    units = np.zeros((n, len(UNITS)))
    for row, moving in enumerate(((6, 12), (1, 2, 5), ())):
        units[row, [list(UNITS).index(unit) for unit in moving]] = 1.0
    scene = draw_probe([View.STRAIGHT, View.STRAIGHT, View.HALF_LEFT], ["A", "B", "A"], generator(9, "scene"))
    scene[:, COLUMNS.index("scale")] = 1.2  # the whole head is seen
    scene[:, [COLUMNS.index("noise"), COLUMNS.index("blur")]] = 0.0
    return people, units, scene


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_visible(name: str) -> None:
    """Some face changes by at least 8 of 255 grey levels when nothing but this parameter goes from low to high."""
    people, units, scene = make_scene()
    pictures = []
    for value in RANGES[name]:
        changed = people.copy()
        changed[:, COLUMN[name]] = value
        keys = np.zeros(len(people), np.uint64)
        pictures.append(paint(changed, units, scene, keys=keys, size=64, channels=3)[0].astype(np.int64))
    assert np.abs(pictures[1] - pictures[0]).max() >= 8
