"""Pictures: views, region maps, grey and colour, persons that stay themselves, noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.canvas import LUMINANCE, REGIONS
from facespec.data.embedded.production import render
from facespec.data.embedded.rendering import _developed, derive_person_seed
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli, replace_expressions
from facespec.study.params import Data, ExpressionFaces, IdentityFaces, ProbeFaces
from facespec.study.seeds import generator
from facespec.study.vocabulary import VIEWS, Role

FACIAL = ("hair", "outline", "brows", "eyes", "nose", "mouth", "marks")


@cache
def drawn(role: Role) -> Stimuli:
    block = Data(
        seed=2,
        size=48,
        channels=1,
        tolerated=0.0,
        expression=ExpressionFaces(source="embedded", train=60, test=1),
        identity=IdentityFaces(source="embedded", people=2, train=1, test=1),
        probe=ProbeFaces(source="embedded", people=10),
    )
    return draw_role(role, block, generator(2, "faces", role.value))


def put(stimuli: Stimuli, **values: float) -> Stimuli:
    """A copy with identity or scene parameters set for everyone."""
    part = stimuli.take(range(len(stimuli)))
    for name, value in values.items():
        table, names = (part.scene, scenes.COLUMNS) if name in scenes.COLUMNS else (part.people, anatomy.PARAMETERS)
        table[:, names.index(name)] = value
    return part


@cache
def portraits() -> Stimuli:
    """Ten neutral people x five views, view varying fastest."""
    labels = drawn(Role.PROBE).labels
    return drawn(Role.PROBE).take(np.flatnonzero((labels["expression"] == "neutral") & (labels["session"] == "A")))


def all_of(stimuli: Stimuli, *, size: int = 48, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return render(stimuli, range(len(stimuli)), size=size, channels=channels)


def parts(mask: np.ndarray) -> int:
    """Connected parts of more than two pixels."""
    labelled, n = ndimage.label(mask, np.ones((3, 3)))
    return sum(int((labelled == i + 1).sum() > 2) for i in range(n))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 49])
def test_shapes_and_kinds(size: int, channels: int) -> None:
    images, regions = render(portraits(), [3, 1], size=size, channels=channels)
    assert images.dtype == regions.dtype == np.uint8
    assert images.shape == ((2, size, size) if channels == 1 else (2, size, size, 3))
    assert regions.shape == (2, size, size)


def test_nothing_to_render_is_nothing() -> None:
    images, regions = render(portraits(), [], size=32, channels=3)
    assert images.shape == (0, 32, 32, 3)
    assert regions.shape == (0, 32, 32)


def test_every_region_appears() -> None:
    seen = set(np.unique(all_of(drawn(Role.EXPRESSION))[1])) | set(np.unique(all_of(portraits(), size=64)[1]))
    assert seen == set(REGIONS.values())


def test_every_straight_face_shows_every_facial_region_it_has() -> None:
    _, regions = all_of(portraits(), size=64)
    for row in range(2, 50, 5):
        shown = set(np.unique(regions[row]))
        assert {REGIONS[name] for name in FACIAL if name not in ("hair", "marks")} <= shown
        assert REGIONS["occluder"] not in shown


@pytest.mark.parametrize("mark", [{"scar": 1.0}, {"mole_size": 0.045}, {"glasses": 0.9}])
def test_marks_are_marked(mark: dict[str, float]) -> None:
    bare = put(portraits(), scar=0.0, mole_size=0.0, glasses=0.0, scar_x=0.25, scar_y=-0.3, mole_x=0.25, mole_y=-0.3)
    bare = put(bare, beard=0.0, moustache=0.0).take(range(2, 50, 5))
    assert not (all_of(bare, size=64)[1] == REGIONS["marks"]).any()
    assert (all_of(put(bare, **mark), size=64)[1] == REGIONS["marks"]).any((1, 2)).all()


def test_straight_faces_have_two_eyes_and_profiles_at_most_one() -> None:
    _, regions = all_of(put(portraits(), glasses=0.0, mole_size=0.0, scar=0.0), size=64)
    eyes = [parts(one == REGIONS["eyes"]) for one in regions]
    assert set(eyes[2::5]) == {2}
    assert set(eyes[0::5]) | set(eyes[4::5]) == {1}


def test_the_nose_points_where_the_view_says() -> None:
    _, regions = all_of(portraits(), size=64)
    columns = np.arange(64)
    place = np.array([(columns * (one == REGIONS["nose"])).sum() / (one == REGIONS["nose"]).sum() for one in regions])
    by_view = place.reshape(10, 5)  # full left, half left, straight, half right, full right
    assert tuple(portraits().labels["view"][:5]) == tuple(VIEWS)
    assert (np.diff(by_view, axis=1) > 3).all()
    assert (by_view[:, 0] < 16).all()
    assert (by_view[:, 4] > 48).all()
    np.testing.assert_allclose(by_view[:, 2], 32, atol=3.5)


def test_features_stand_in_their_order() -> None:
    _, regions = all_of(portraits(), size=64)
    rows = np.arange(64)[:, None]
    for one in regions[2::5]:
        heights = [
            (rows * (one == REGIONS[n])).sum() / (one == REGIONS[n]).sum() for n in ("brows", "eyes", "nose", "mouth")
        ]
        assert np.all(np.diff(heights) > 2)


def test_a_mirrored_head_has_a_mirrored_region_map() -> None:
    """With everything lopsided set to zero, turning left and turning right are one picture seen in a mirror."""
    even = {
        "asymmetry_brow": 0,
        "asymmetry_mouth": 0,
        "hair_part": 0,
        "hair_curl": 0,
        "mole_size": 0,
        "scar": 0,
        "shift_x": 0,
        "roll_s": 0,
        "roll_c": 1,
        "gaze_x": 0,
    }
    right = put(portraits(), **even)
    left = put(right)
    left.scene[:, scenes.COLUMNS.index("yaw_s")] *= -1
    (_, one), (_, other) = all_of(right), all_of(left)
    np.testing.assert_array_equal(one, other[:, :, ::-1])


@pytest.mark.parametrize("role", [Role.EXPRESSION, Role.PROBE])
def test_grey_is_the_luminance_of_colour_up_to_rounding(role: Role) -> None:
    """Each of the two pictures is rounded once, so they differ by at most 1 where no channel was cut off."""
    stimuli = drawn(role).take(range(40))
    grey, regions = all_of(stimuli)
    colour, same_regions = all_of(stimuli, channels=3)
    np.testing.assert_array_equal(regions, same_regions)
    whole = ((colour > 0) & (colour < 255)).all(-1)
    luminance = colour.astype(np.float64) @ np.array(LUMINANCE)
    np.testing.assert_allclose(grey[whole], luminance[whole], atol=1.001, rtol=0)  # 0.001: float32
    assert whole.mean() > 0.8


def test_a_colour_picture_has_colours() -> None:
    colour, _ = all_of(portraits(), channels=3)
    assert (np.ptp(colour.astype(int), axis=-1) > 20).mean() > 0.1


def test_noise_is_its_own_per_picture_and_as_strong_as_asked() -> None:
    still = put(portraits(), noise=0.0)
    clean, _ = all_of(still)
    noisy, _ = all_of(put(portraits(), noise=6.0))
    inner = (clean > 30) & (clean < 225)
    difference = noisy.astype(int) - clean
    assert difference[inner].mean() == pytest.approx(0.0, abs=0.1)
    assert difference[inner].std() == pytest.approx(6.0, abs=0.15)
    both = inner[0] & inner[1]
    assert abs(np.corrcoef(difference[0][both], difference[1][both])[0, 1]) < 0.1
    across = inner[:, :, 1:] & inner[:, :, :-1]
    assert abs(np.corrcoef(difference[:, :, 1:][across], difference[:, :, :-1][across])[0, 1]) < 0.02


def test_light_becomes_the_nearest_grey_level() -> None:
    levels = np.array([-3.0, 0.4, 0.6, 100.4, 100.6, 254.6, 400.0], np.float32)
    picture = np.resize(levels / np.float32(255), (1, 1, 7, 7)).astype(np.float32)
    steady = {name: np.full((1, 1), value, np.float32) for name, value in (("gain", 1), ("lift", 0), ("noise", 0))}
    found = _developed(picture, steady, np.zeros(1, np.uint64))
    assert found[0, 0, 0].tolist() == [0, 0, 1, 100, 101, 255, 255]
    dim = steady | {"gain": np.full((1, 1), 0.5, np.float32), "lift": np.full((1, 1), 0.2, np.float32)}
    grey = _developed(np.full((1, 1, 7, 7), 0.6, np.float32), dim, np.zeros(1, np.uint64))
    assert set(grey.ravel()) == {112}  # (0.6 x 0.5 x 0.8 + 0.2) x 255 = 112.2


def test_noise_falls_on_every_channel_alike() -> None:
    clean, _ = all_of(put(portraits(), noise=0.0), channels=3)
    noisy, _ = all_of(put(portraits(), noise=6.0), channels=3)
    inner = ((clean > 30) & (clean < 225)).all(-1)
    difference = (noisy.astype(int) - clean)[inner]
    assert np.ptp(difference, axis=1).max() <= 1  # rounding


def test_blur_smooths_and_light_lights() -> None:
    plain = put(portraits(), noise=0.0, blur=0.0)
    sharp = all_of(plain)[0].astype(int)
    soft = all_of(put(plain, blur=0.9))[0].astype(int)
    assert (np.diff(soft, axis=2) ** 2).sum() < 0.7 * (np.diff(sharp, axis=2) ** 2).sum()
    assert soft.mean() == pytest.approx(sharp.mean(), abs=0.5)
    bright = all_of(put(plain, gain=1.1))[0].astype(int)
    assert (bright >= sharp).all()
    assert bright.mean() == pytest.approx(1.1 * sharp.mean(), rel=0.03)
    straight = slice(2, None, 5)
    lit = [all_of(put(plain, light_x=x))[0][straight].astype(int) for x in (-1.5, 1.5)]
    assert (lit[1] - lit[0])[:, 20:30, 28:36].any()
    assert (lit[1] - lit[0])[:, :, 24:].mean() > (lit[1] - lit[0])[:, :, :24].mean() + 5


def test_full_blur_is_three_pixels_wide_at_48_pixels() -> None:
    """Against scipy's filter, along rows and columns, edges repeated; one grey level for rounding twice."""
    plain = put(portraits(), noise=0.0, blur=0.0, lift=0.0)
    sharp, soft = all_of(plain)[0].astype(float), all_of(put(plain, blur=1.0))[0].astype(float)
    rows = ndimage.convolve1d(sharp, [0.25, 0.5, 0.25], axis=1, mode="nearest")
    expected = ndimage.convolve1d(rows, [0.25, 0.5, 0.25], axis=2, mode="nearest")
    whole = ndimage.maximum_filter(sharp, (1, 3, 3)) < 255  # what was cut off cannot be spread
    np.testing.assert_allclose(soft[whole], expected[whole], atol=1.001)


def test_a_person_s_seed_is_identity_s_alone() -> None:
    stimuli = drawn(Role.PROBE)
    width = stimuli.people[:, [anatomy.COLUMN["head_width"]]].astype(np.float32)
    words = derive_person_seed({"head_width": width})[:, 0]
    people = stimuli.labels["identity"].to_numpy()
    assert {len(set(words[people == name])) for name in set(people)} == {1}
    assert len(set(words)) == 10


def test_hair_keeps_its_strands_whatever_the_face_does() -> None:
    still = put(portraits(), beard=0.0, moustache=0.0).take(range(2, 50, 5))
    (one, before), (other, after) = all_of(still), all_of(replace_expressions(still, ["surprise"] * 10))
    skin = np.array([name not in ("hair", "background", "neck", "clothes") for name in REGIONS])
    near = ndimage.binary_dilation(skin[before] | skin[after], np.ones((1, 3, 3)), iterations=2)
    hair = (before == REGIONS["hair"]) & ~near
    np.testing.assert_array_equal(one[hair], other[hair])
    assert hair.sum() > 300


def test_people_look_different() -> None:
    """Each straight portrait is nearest to the same person's other session, under a ruler as simple as pixels."""
    labels = drawn(Role.PROBE).labels
    straight = (labels["expression"] == "neutral") & (labels["view"] == "straight")
    first, second = (
        all_of(drawn(Role.PROBE).take(np.flatnonzero(straight & (labels["session"] == s))))[0]
        .reshape(10, -1)
        .astype(float)
        for s in "AB"
    )
    distance = np.sqrt(((first[:, None] - second[None]) ** 2).mean(-1))
    assert (distance.argmin(1) == np.arange(10)).mean() >= 0.9


@pytest.mark.parametrize(("kind", "least"), [("bar", 40), ("hand", 20), ("scarf", 100), ("dark glasses", 20)])
def test_occluders_cover_what_they_should(kind: str, least: int) -> None:
    code = scenes.OCCLUDERS.index(kind)
    plain = put(portraits(), occluder_x=0.0, occluder_y=0.0).take([2])
    _, free = all_of(plain)
    images, covered = all_of(put(plain, occluder=code))
    added = (covered == REGIONS["occluder"]) & (free != REGIONS["occluder"])
    assert added.sum() >= least
    if kind == "dark glasses":
        assert (added & (free == REGIONS["eyes"])).sum() > 0.7 * (free == REGIONS["eyes"]).sum()
        assert images[added].max() < 60
    if kind == "scarf":
        assert not (covered == REGIONS["mouth"]).any()
