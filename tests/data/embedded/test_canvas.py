"""Paint: mixing, marking, and grey that is the luminance of colour."""

from __future__ import annotations

import numpy as np

from facespec.data.embedded.anatomy import PARAMETERS, draw_people
from facespec.data.embedded.canvas import HAIR, REGIONS, SKIN, Canvas, build_palette
from facespec.data.embedded.scenes import COLUMNS, draw_wild
from facespec.study.seeds import generator


def test_regions_have_distinct_codes_from_0() -> None:
    assert sorted(REGIONS.values()) == list(range(len(REGIONS)))
    assert {"hair", "outline", "brows", "eyes", "nose", "mouth", "marks"} <= REGIONS.keys()


def test_paint_mixes_by_its_share_and_mark_needs_half() -> None:
    back = np.array([[[0.2]], [[0.4]], [[0.6]]], np.float32)
    canvas = Canvas.create(back, region=0, pixels=4)
    share = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    canvas.paint(share, np.ones((3, 1, 1), np.float32))
    np.testing.assert_allclose(canvas.colour[0], [[0.2, 0.4, 0.6, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(canvas.colour[2], [[0.6, 0.7, 0.8, 1.0]], rtol=1e-6)
    canvas.mark(share, 5)
    assert canvas.region.tolist() == [[0, 0, 5, 5]]
    assert canvas.region.dtype == np.uint8
    assert back.ravel().tolist() == np.float32([0.2, 0.4, 0.6]).tolist()  # the colour given is not painted over


def columns(n: int = 40) -> tuple[dict, dict]:
    person = draw_people(n, generator(8), male=np.arange(n) % 2 == 0)
    scene = draw_wild(n, generator(9), domain="web")
    return tuple(
        {name: table[:, [i]].astype(np.float32) for i, name in enumerate(names)}
        for names, table in ((PARAMETERS, person), (COLUMNS, scene))
    )  # type: ignore[return-value]


def test_grey_is_the_luminance_of_colour() -> None:
    """With the weights of ITU-R BT.601."""
    person, scene = columns()
    grey, colour = (build_palette(person, scene, channels=channels) for channels in (1, 3))
    assert grey.keys() == colour.keys()
    for name in grey:
        assert grey[name].shape == (1, 40, 1)
        assert colour[name].shape == (3, 40, 1)
        assert grey[name].dtype == colour[name].dtype == np.float32
        np.testing.assert_allclose(grey[name][0], np.tensordot((0.299, 0.587, 0.114), colour[name], 1), rtol=1e-5)


def test_tone_runs_from_the_lightest_to_the_darkest_stop() -> None:
    person, scene = columns(3)
    for name in ("skin_red", "hair_red", "hair_grey", "cap"):
        person[name][:] = 0.0
    scene["tint"][:] = 0.0
    person["skin_tone"][:, 0] = person["hair_tone"][:, 0] = [0.0, 0.625, 1.0]  # 0.625: half way between stops 2 and 3
    colours = build_palette(person, scene, channels=3)
    for name, stops in (("skin", SKIN), ("hair", HAIR)):
        expected = np.array([stops[0], (np.array(stops[2]) + stops[3]) / 2, stops[4]])
        if name == "skin":  # the camera exposes for the skin: its hue is the person's, its luminance is the picture's
            expected *= scene["skin_level"] / (expected @ (0.299, 0.587, 0.114))[:, None]
        np.testing.assert_allclose(colours[name][:, :, 0].T, expected, rtol=1e-5)


def test_grey_skin_tells_nothing_about_its_tone() -> None:
    person, scene = columns()
    person["skin_red"][:] = scene["tint"][:] = 0.0
    scene["skin_level"][:] = 0.6
    skin = build_palette(person, scene, channels=1)["skin"]
    assert np.ptp(person["skin_tone"]) > 0.8
    np.testing.assert_allclose(skin, 0.6, rtol=1e-5)


def test_a_cap_has_one_colour_for_everybody() -> None:
    person, scene = columns()
    person["cap"][:], scene["tint"][:] = 1.0, 0.0
    hair = build_palette(person, scene, channels=3)["hair"]
    np.testing.assert_allclose(hair, np.broadcast_to(hair[:, :1], hair.shape), rtol=1e-5)


def test_warm_light_is_redder_and_less_blue() -> None:
    person, scene = columns(2)
    for table in (person, scene):
        for name in table:
            table[name][1] = table[name][0]
    scene["tint"][:, 0] = [0.0, 0.1]
    white = build_palette(person, scene, channels=3)["white"]
    np.testing.assert_allclose(white[:, 1, 0] / white[:, 0, 0], [1.1, 1.0, 0.9], rtol=1e-6)
