"""Views, region maps, grey and colour, noise and blur of rendered faces."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.canvas import LUMINANCE, REGIONS
from facespec.data.embedded.production import render
from facespec.data.embedded.rendering import _develop, derive_person_seed
from facespec.data.embedded.stimuli import Stimuli, replace_expressions
from facespec.study.vocabulary import VIEWS, Role
from toys import draw_faces

FACIAL = ("hair", "outline", "brows", "eyes", "nose", "mouth", "marks")


def set_parameters(stimuli: Stimuli, **values: float) -> Stimuli:
    """A copy with identity or scene parameters set for everyone."""
    copy = stimuli.take(range(len(stimuli)))
    for name, value in values.items():
        table, names = (copy.scene, scenes.COLUMNS) if name in scenes.COLUMNS else (copy.people, anatomy.PARAMETERS)
        table[:, names.index(name)] = value
    return copy


@cache
def draw_portraits() -> Stimuli:
    """Ten neutral people x five views, view varying fastest."""
    labels = draw_faces(Role.PROBE).labels
    return draw_faces(Role.PROBE).take(np.flatnonzero((labels["expression"] == "neutral") & (labels["session"] == "A")))


def step_back(stimuli: Stimuli) -> Stimuli:
    """Seen from so far away that head, neck and clothes are in the picture."""
    return set_parameters(stimuli, scale=1.3, shift_x=0.0, shift_y=0.0)


def render_all(stimuli: Stimuli, *, size: int = 48, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return render(stimuli, range(len(stimuli)), size=size, channels=channels)


def count_parts(mask: np.ndarray) -> int:
    """Connected parts of more than two pixels."""
    labelled, n = ndimage.label(mask, np.ones((3, 3)))
    return sum(int((labelled == i + 1).sum() > 2) for i in range(n))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 49])
def test_shapes_and_kinds(size: int, channels: int) -> None:
    images, regions = render(draw_portraits(), [3, 1], size=size, channels=channels)
    assert images.dtype == regions.dtype == np.uint8
    assert images.shape == ((2, size, size) if channels == 1 else (2, size, size, 3))
    assert regions.shape == (2, size, size)
    assert render(draw_portraits(), [], size=size, channels=channels)[1].shape == (0, size, size)


def test_every_region_appears() -> None:
    (_, wild), (_, studio) = render_all(draw_faces(Role.EXPRESSION)), render_all(step_back(draw_portraits()), size=64)
    assert set(np.unique(wild)) | set(np.unique(studio)) == set(REGIONS.values())


def test_every_straight_face_has_every_facial_region() -> None:
    _, regions = render_all(draw_portraits(), size=64)
    for row in range(2, 50, 5):
        present = set(np.unique(regions[row]))
        assert {REGIONS[name] for name in FACIAL if name not in ("hair", "marks")} <= present
        assert REGIONS["occluder"] not in present


@pytest.mark.parametrize("mark", [{"scar": 1.0}, {"mole_size": 0.045}, {"glasses": 0.9}])
def test_marks_are_marked(mark: dict[str, float]) -> None:
    bare = set_parameters(draw_portraits(), scar=0.0, mole_size=0.0, glasses=0.0, beard=0.0, moustache=0.0)
    bare = set_parameters(bare, scar_x=0.25, scar_y=-0.3, mole_x=0.25, mole_y=-0.3).take(range(2, 50, 5))
    assert not (render_all(bare, size=64)[1] == REGIONS["marks"]).any()
    assert (render_all(set_parameters(bare, **mark), size=64)[1] == REGIONS["marks"]).any((1, 2)).all()


def test_straight_faces_have_two_eyes_and_profiles_at_most_one() -> None:
    _, regions = render_all(set_parameters(draw_portraits(), glasses=0.0, mole_size=0.0, scar=0.0), size=64)
    eyes = [count_parts(image == REGIONS["eyes"]) for image in regions]
    assert set(eyes[2::5]) == {2}
    assert set(eyes[0::5]) | set(eyes[4::5]) == {1}


def test_the_nose_points_where_the_view_says() -> None:
    _, regions = render_all(draw_portraits(), size=64)
    noses = regions == REGIONS["nose"]
    columns = (np.arange(64) * noses).sum((1, 2)) / noses.sum((1, 2))
    by_view = columns.reshape(10, 5)  # full left, half left, straight, half right, full right
    assert tuple(draw_portraits().labels["view"][:5]) == tuple(VIEWS)
    assert (np.diff(by_view, axis=1) > 3).all()
    assert (by_view[:, 0] < 20).all()
    assert (by_view[:, 4] > 44).all()
    np.testing.assert_allclose(by_view[:, 2], 32, atol=3.5)


def test_features_are_in_order_from_top_to_bottom() -> None:
    _, regions = render_all(draw_portraits(), size=64)
    masks = np.array([regions[2::5] == REGIONS[name] for name in ("brows", "eyes", "nose", "mouth")])
    rows = (np.arange(64)[:, None] * masks).sum((2, 3)) / masks.sum((2, 3))
    assert np.all(np.diff(rows, axis=0) > 2)


def test_a_mirrored_head_has_a_mirrored_region_map() -> None:
    """With all asymmetry set to zero, turning left is the mirror image of turning right."""
    asymmetric = (
        "asymmetry_brow",
        "asymmetry_mouth",
        "uneven_brow",
        "uneven_mouth",
        "hair_part",
        "hair_curl",
        "mole_size",
        "scar",
    )
    zero = dict.fromkeys([*asymmetric, "shift_x", "roll_s", "gaze_x"], 0)
    stimuli = set_parameters(draw_portraits(), **zero, roll_c=1)
    mirrored = set_parameters(stimuli)
    mirrored.scene[:, scenes.COLUMNS.index("yaw_s")] *= -1
    (_, regions), (_, mirrored_regions) = render_all(stimuli), render_all(mirrored)
    np.testing.assert_array_equal(regions, mirrored_regions[:, :, ::-1])


@pytest.mark.parametrize("role", [Role.EXPRESSION, Role.PROBE])
def test_grey_is_the_luminance_of_colour_up_to_rounding(role: Role) -> None:
    """Each of the two pictures is rounded once, so they differ by at most 1 where no channel was clipped."""
    stimuli = draw_faces(role).take(range(40))
    grey, regions = render_all(stimuli)
    colour, same_regions = render_all(stimuli, channels=3)
    np.testing.assert_array_equal(regions, same_regions)
    whole = ((colour > 0) & (colour < 255)).all(-1)
    luminance = colour.astype(np.float64) @ np.array(LUMINANCE)
    np.testing.assert_allclose(grey[whole], luminance[whole], atol=1.001, rtol=0)  # 0.001: float32
    assert whole.mean() > 0.8


def test_noise_is_independent_per_image_and_as_strong_as_requested() -> None:
    still = set_parameters(draw_portraits(), noise=0.0)
    clean, _ = render_all(still)
    noisy, _ = render_all(set_parameters(draw_portraits(), noise=6.0))
    inner = (clean > 30) & (clean < 225)
    difference = noisy.astype(int) - clean
    assert difference[inner].mean() == pytest.approx(0.0, abs=0.1)
    assert difference[inner].std() == pytest.approx(6.0, abs=0.15)
    both = inner[0] & inner[1]
    assert abs(np.corrcoef(difference[0][both], difference[1][both])[0, 1]) < 0.1
    across = inner[:, :, 1:] & inner[:, :, :-1]
    assert abs(np.corrcoef(difference[:, :, 1:][across], difference[:, :, :-1][across])[0, 1]) < 0.02


def test_light_becomes_the_nearest_grey_level() -> None:
    light = np.array([-3.0, 0.4, 0.6, 100.4, 100.6, 254.6, 400.0], np.float32)
    picture = np.resize(light / np.float32(255), (1, 1, 7, 7)).astype(np.float32)
    steady = {name: np.full((1, 1), value, np.float32) for name, value in (("gain", 1), ("lift", 0), ("noise", 0))}
    levels = _develop(picture, steady, np.zeros(1, np.uint64))
    assert levels[0, 0, 0].tolist() == [0, 0, 1, 100, 101, 255, 255]
    dim = steady | {"gain": np.full((1, 1), 0.5, np.float32), "lift": np.full((1, 1), 0.2, np.float32)}
    grey = _develop(np.full((1, 1, 7, 7), 0.6, np.float32), dim, np.zeros(1, np.uint64))
    assert set(grey.ravel()) == {112}  # (0.6 x 0.5 x 0.8 + 0.2) x 255 = 112.2


def test_noise_is_the_same_in_every_channel() -> None:
    clean, _ = render_all(set_parameters(draw_portraits(), noise=0.0), channels=3)
    noisy, _ = render_all(set_parameters(draw_portraits(), noise=6.0), channels=3)
    inner = ((clean > 30) & (clean < 225)).all(-1)
    difference = (noisy.astype(int) - clean)[inner]
    assert np.ptp(difference, axis=1).max() <= 1  # rounding


def test_gain_brightens_and_light_has_a_direction() -> None:
    plain = set_parameters(draw_portraits(), noise=0.0, blur=0.0)
    images = render_all(plain)[0].astype(int)
    bright = render_all(set_parameters(plain, gain=1.1))[0].astype(int)
    assert (bright >= images).all()
    assert bright.mean() == pytest.approx(1.1 * images.mean(), rel=0.03)
    straight = plain.take(range(2, 50, 5))
    from_left, from_right = (render_all(set_parameters(straight, light_x=x))[0].astype(int) for x in (-1.5, 1.5))
    difference = from_right - from_left
    assert difference[:, 20:30, 28:36].any()
    assert difference[:, :, 24:].mean() > difference[:, :, :24].mean() + 5


def test_full_blur_is_three_pixels_wide_at_48_pixels() -> None:
    """Against scipy's filter, along rows and columns, edges repeated; one grey level for rounding twice."""
    plain = set_parameters(draw_portraits(), noise=0.0, blur=0.0, lift=0.0)
    sharp, soft = render_all(plain)[0].astype(float), render_all(set_parameters(plain, blur=1.0))[0].astype(float)
    rows = ndimage.convolve1d(sharp, [0.25, 0.5, 0.25], axis=1, mode="nearest")
    expected = ndimage.convolve1d(rows, [0.25, 0.5, 0.25], axis=2, mode="nearest")
    whole = ndimage.maximum_filter(sharp, (1, 3, 3)) < 255  # what was clipped cannot be spread
    np.testing.assert_allclose(soft[whole], expected[whole], atol=1.001)


def test_the_seed_of_a_person_depends_on_identity_only() -> None:
    stimuli = draw_faces(Role.PROBE)
    width = stimuli.people[:, [anatomy.COLUMN["head_width"]]].astype(np.float32)
    words = derive_person_seed({"head_width": width})[:, 0]
    people = stimuli.labels["identity"].to_numpy()
    assert {len(set(words[people == name])) for name in set(people)} == {1}
    assert len(set(words)) == 10


def test_strands_of_hair_do_not_depend_on_the_expression() -> None:
    still = set_parameters(draw_portraits(), beard=0.0, moustache=0.0).take(range(2, 50, 5))
    (one, before), (other, after) = render_all(still), render_all(replace_expressions(still, ["surprise"] * 10))
    skin = np.array([name not in ("hair", "background", "neck", "clothes") for name in REGIONS])
    near = ndimage.binary_dilation(skin[before] | skin[after], np.ones((1, 3, 3)), iterations=2)
    hair = (before == REGIONS["hair"]) & ~near
    np.testing.assert_array_equal(one[hair], other[hair])
    assert hair.sum() > 300


def test_people_look_different() -> None:
    """In the same light and pose, a happy portrait is nearest to the same person's neutral one, by pixels."""
    straight = set_parameters(draw_portraits().take(range(2, 50, 5)), noise=0.0)
    straight.scene[:] = straight.scene[0]
    neutral, happy = (
        render_all(stimuli)[0].reshape(10, -1).astype(float)
        for stimuli in (straight, replace_expressions(straight, ["happy"] * 10))
    )
    distance = np.sqrt(((neutral[:, None] - happy[None]) ** 2).mean(-1))
    assert (distance.argmin(1) == np.arange(10)).all()


@pytest.mark.parametrize(("kind", "least"), [("bar", 40), ("hand", 20), ("scarf", 100), ("dark glasses", 20)])
def test_occluders_cover_their_part_of_the_face(kind: str, least: int) -> None:
    code = scenes.OCCLUDERS.index(kind)
    plain = set_parameters(draw_portraits(), occluder_x=0.0, occluder_y=0.0).take([2])
    _, free = render_all(plain)
    images, covered = render_all(set_parameters(plain, occluder=code))
    added = (covered == REGIONS["occluder"]) & (free != REGIONS["occluder"])
    assert added.sum() >= least
    if kind == "dark glasses":
        assert (added & (free == REGIONS["eyes"])).sum() > 0.7 * (free == REGIONS["eyes"]).sum()
        assert images[added].max() < 60
    if kind == "scarf":
        assert not (covered == REGIONS["mouth"]).any()
