from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.action_units import UNITS
from facespec.data.embedded.battery import (
    CONDITIONS,
    PARTS,
    SHAPE,
    SHOWN_UNITS,
    SURFACE,
    UPRIGHT,
    BatteryFaces,
    caricature_people,
    choose_norms,
    draw_single_units,
    draw_variants,
    enclose,
    find_split_rows,
    iterate_battery,
    name_part,
    shift_sideways,
)
from facespec.data.embedded.faces import draw_stimuli, render_stimuli
from facespec.data.embedded.rendering import UNIT_NAMES
from facespec.study.params import Battery
from facespec.study.vocabulary import Task

SIZE = 48
RECIPE = Battery(images=1, misalignment=0.25, anticaricature=0.5, caricature=1.5, draws=100, seed=1)


@pytest.fixture(scope="module")
def faces() -> BatteryFaces:
    everyone = draw_stimuli(6, ["happy", "neutral"], generator=np.random.default_rng(3))
    shown, donors = everyone.take([0, 6]), everyone.take([2, 8])  # women F01, F02; men M01, M02
    return BatteryFaces(shown, donors, ["surprise", "angry"], choose_norms(shown, everyone), everyone.take([1]), RECIPE)


@pytest.fixture(scope="module")
def pictures(faces: BatteryFaces) -> dict[str, np.ndarray]:
    chunks = list(iterate_battery(faces, size=SIZE, channels=1, workers=1))
    images = np.concatenate([chunk.images for chunk in chunks])
    names = [name for chunk in chunks for name in chunk.labels["stimulus"]]
    assert names == [*faces.manipulated["stimulus"], *faces.single_units["stimulus"]]
    n = len(faces.manipulated)
    manipulated = images[:n].reshape(2, len(CONDITIONS), SIZE, SIZE)
    return {name: manipulated[:, index] for index, name in enumerate(CONDITIONS)} | {"units": images[n:]}


def test_every_picture_is_described_once(faces: BatteryFaces) -> None:
    table = faces.manipulated
    assert table["stimulus"].is_unique and table["condition"].tolist() == list(CONDITIONS) * 2
    assert table["identity"].unique().tolist() == ["F01", "M01"]
    assert table["other_identity"].unique().tolist() == ["F02", "M02"]
    assert faces.single_units["unit"].tolist() == list(SHOWN_UNITS) == [0, *UNITS]


def test_inverted_faces_are_turned_by_half_a_circle(pictures: dict[str, np.ndarray]) -> None:
    upright, inverted = pictures[UPRIGHT], pictures["inverted"]
    np.testing.assert_array_equal(inverted, [np.rot90(face, 2) for face in upright])


@pytest.mark.parametrize("task", Task)
def test_composites_have_the_upper_half_of_the_face_and_the_lower_half_of_the_other(
    task: Task, faces: BatteryFaces, pictures: dict[str, np.ndarray]
) -> None:
    rows = find_split_rows(faces.stimuli, SIZE)
    variants = draw_variants(faces)
    for kind in ("halves aligned", "halves misaligned"):
        lower, _ = render_stimuli(variants[f"{task} {kind}"], size=SIZE)
        for face, row in enumerate(rows):
            shown = pictures[f"{task} {kind}"][face]
            np.testing.assert_array_equal(shown[:row], pictures[UPRIGHT][face][:row])
            np.testing.assert_array_equal(shown[row:], lower[face][row:])
    half = variants[f"{task} halves aligned"]
    if task is Task.IDENTITY:
        np.testing.assert_array_equal(half.people, faces.donors.people)
        np.testing.assert_array_equal(half.units, faces.stimuli.units)
    else:
        np.testing.assert_array_equal(half.people, faces.stimuli.people)
        assert half.labels["expression"].tolist() == faces.others
    np.testing.assert_array_equal(half.scene, faces.stimuli.scene)  # same light, same background


def test_faces_are_cut_below_the_eyes_and_above_the_nose_tip(faces: BatteryFaces) -> None:
    _, regions = render_stimuli(faces.stimuli, size=SIZE)
    for row, codes in zip(find_split_rows(faces.stimuli, SIZE), regions, strict=True):
        eyes, nose = (np.flatnonzero((codes == code).any(axis=1)) for code in (4, 5))
        assert eyes.max() <= row + 1 and row < nose.max()


def test_a_shifted_face_is_the_same_face_elsewhere(faces: BatteryFaces) -> None:
    still = replace(faces.stimuli, scene=_silence_noise(faces.stimuli.scene))
    here, there = (render_stimuli(stimuli, size=SIZE)[1] for stimuli in (still, shift_sideways(still, 0.25)))
    eyes = 4
    for before, after in zip(here, there, strict=True):
        columns = [np.flatnonzero((codes == eyes).any(axis=0)) for codes in (before, after)]
        assert columns[1].min() - columns[0].min() == SIZE // 4


def _silence_noise(scene: np.ndarray) -> np.ndarray:
    quiet = scene.copy()
    quiet[:, scenes.COLUMNS.index("noise")] = 0.0
    return quiet


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.task}-{part.name}")
def test_parts_alone_are_the_same_pixels_on_even_grey(
    part, faces: BatteryFaces, pictures: dict[str, np.ndarray]
) -> None:
    for face in range(2):
        whole, foil = pictures[UPRIGHT][face], pictures[name_part(part, "foil")][face]
        alone, foil_alone = (pictures[name_part(part, kind)][face] for kind in ("alone", "foil alone"))
        grey = int(whole.astype(int).sum()) // whole.size
        outside = (alone == grey) & (foil_alone == grey)
        inside = np.argwhere(~outside)
        top, left, bottom, right = *inside.min(axis=0), *inside.max(axis=0)
        window = np.zeros_like(outside)
        window[top : bottom + 1, left : right + 1] = True
        assert window.mean() < 0.4
        np.testing.assert_array_equal(alone[window], whole[window])
        np.testing.assert_array_equal(foil_alone[window], foil[window])


def test_foils_differ_in_their_part_alone(faces: BatteryFaces) -> None:
    variants = draw_variants(faces)
    by_name = {name_part(part, "foil"): part for part in PARTS}
    for name, part in by_name.items():
        people = np.array(anatomy.PARAMETERS)[(variants[name].people != faces.stimuli.people).any(axis=0)]
        units = {int(UNIT_NAMES[i][2:]) for i in np.flatnonzero((variants[name].units != faces.stimuli.units).any(0))}
        if part.task is Task.IDENTITY:
            prefix = {"eyes": ("eye", "brow", "iris", "lid", "asymmetry_brow")}.get(
                part.name, (part.name, "lip", "asym")
            )
            assert len(people) > 3 and all(word.startswith(prefix) for word in people) and not units
        else:
            assert units and units <= set(part.units) and not len(people)


@given(factor=st.floats(0.0, 3.0))
def test_caricatures_differ_from_the_norm_as_many_times_as_much_within_what_people_have(factor: float) -> None:
    stimuli = draw_stimuli(4, ["sad"], generator=np.random.default_rng(5))
    norms = choose_norms(stimuli, stimuli)
    people = caricature_people(stimuli, norms, factor).people
    ranges = np.array([*anatomy.PEAKED.values(), *anatomy.EVEN.values()])
    face = np.isin(anatomy.PARAMETERS, (*SHAPE, *SURFACE))
    np.testing.assert_array_equal(people[:, ~face], stimuli.people[:, ~face])
    exact = norms + factor * (stimuli.people - norms)
    free = (exact > ranges[:, 0]) & (exact < ranges[:, 1]) & face
    np.testing.assert_array_equal(people[free], exact[free])
    low, high = np.minimum(ranges[:, 0], stimuli.people), np.maximum(ranges[:, 1], stimuli.people)
    assert ((people >= low) & (people <= high)).all()


def test_the_norm_of_a_woman_is_the_mean_woman() -> None:
    stimuli = draw_stimuli(5, ["sad"], generator=np.random.default_rng(5))  # three women, two men
    norms = choose_norms(stimuli, stimuli)
    np.testing.assert_allclose(norms[0], stimuli.people[:3].mean(axis=0))
    np.testing.assert_allclose(norms[4], stimuli.people[3:].mean(axis=0))


def test_shape_and_surface_are_all_of_the_face_and_share_nothing() -> None:
    assert not set(SHAPE) & set(SURFACE)
    assert set(SHAPE) | set(SURFACE) == set(anatomy.PARAMETERS) - {*anatomy.APPEARANCE, *anatomy.CAP}


def test_single_units_are_alone(faces: BatteryFaces, pictures: dict[str, np.ndarray]) -> None:
    units = draw_single_units(faces.neutrals).units
    np.testing.assert_array_equal(units[0], 0)
    np.testing.assert_array_equal(units[1:], np.eye(len(UNITS)))
    changed = (pictures["units"] != pictures["units"][0]).any(axis=(1, 2))
    assert changed.tolist() == [False, *[True] * len(UNITS)]


def test_windows_are_the_smallest_rectangles_with_a_margin() -> None:
    masks = np.zeros((2, 48, 96), bool)
    masks[0, 5, 8] = masks[0, 9, 20] = True
    expected = np.zeros_like(masks)
    expected[0, 4:11, 6:23] = True  # a forty-eighth: 1 row, 2 columns
    np.testing.assert_array_equal(enclose(masks), expected)
    masks[1, 0, 95] = True
    assert np.argwhere(enclose(masks)[1]).tolist() == [[y, x] for y in (0, 1) for x in (93, 94, 95)]
