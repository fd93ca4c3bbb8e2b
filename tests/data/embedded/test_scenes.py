"""Rotations keep lengths, the studio is plain, the wild is varied."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facespec.data.embedded import scenes
from facespec.data.embedded.scenes import COLUMNS, DOMAINS, FACE_CENTRE, OCCLUDERS, SHAPES, YAWS, draw_probe, draw_wild
from facespec.study.seeds import generator
from facespec.study.vocabulary import SESSIONS, VIEWS, View

N = 3000


def columns(table: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(COLUMNS, table.T, strict=True))


def draw_wild_columns(domain: str = "web") -> dict[str, np.ndarray]:
    return columns(draw_wild(N, generator(3, "wild"), domain=domain))


def draw_studio_columns() -> dict[str, np.ndarray]:
    sessions = [SESSIONS[i // 5 % 2] for i in range(N)]
    return columns(draw_probe([VIEWS[i % 5] for i in range(N)], sessions, generator(3, "studio")))


def angle(scene: dict[str, np.ndarray], axis: str) -> np.ndarray:
    return np.degrees(np.arctan2(scene[f"{axis}_s"], scene[f"{axis}_c"]))


def test_there_is_a_yaw_for_every_view_in_order() -> None:
    assert tuple(YAWS) == VIEWS
    angles = [math.degrees(math.atan2(sine, cosine)) for cosine, sine in YAWS.values()]
    assert angles == pytest.approx([-90, -45, 0, 45, 90])


@pytest.mark.parametrize("draw", [draw_wild_columns, draw_studio_columns])
def test_rotations_keep_lengths(draw) -> None:
    scene = draw()
    for axis in ("yaw", "pitch", "roll"):
        np.testing.assert_allclose(scene[f"{axis}_c"] ** 2 + scene[f"{axis}_s"] ** 2, 1.0, atol=1e-12)
    for name, column in scene.items():
        assert np.isfinite(column).all(), name


@pytest.mark.parametrize("domain", DOMAINS)
def test_wild_heads_turn_up_to_their_limits_and_both_ways(domain: str) -> None:
    scene = draw_wild_columns(domain)
    for axis in ("yaw", "pitch", "roll"):
        limit = math.degrees(2 * math.atan(getattr(DOMAINS[domain], axis)))
        assert 0.85 * limit < angle(scene, axis).max() <= limit
        assert -limit <= angle(scene, axis).min() < -0.85 * limit


def test_studio_heads_stand_within_six_degrees_of_their_view() -> None:
    scene = draw_studio_columns()
    expected = np.tile([-90, -45, 0, 45, 90], N // 5)
    assert np.abs((angle(scene, "yaw") - expected + 180) % 360 - 180).max() < 6.0
    assert np.ptp(angle(scene, "yaw")[2::5]) > 4.0  # poses vary


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_wild_is_occluded_by_each_thing_equally_often(domain: str) -> None:
    kind, share = draw_wild_columns(domain)["occluder"], DOMAINS[domain].occluded
    assert set(np.unique(kind)) == set(range(len(OCCLUDERS)))
    shares = [np.mean(kind == code) for code in range(len(OCCLUDERS))]
    np.testing.assert_allclose(shares, [1 - share, *[share / 4] * 4], atol=0.025)  # 4 standard errors
    np.testing.assert_allclose(
        draw_wild_columns()["occluder_c"] ** 2 + draw_wild_columns()["occluder_s"] ** 2, 1.0, atol=1e-12
    )


def test_the_studio_is_plain() -> None:
    scene = draw_studio_columns()
    assert not scene["occluder"].any()
    for i in range(SHAPES):
        assert not scene[f"shape{i}_strength"].any()
        assert (scene[f"shape{i}_rx"] > 0).all()  # a division by zero would spoil every pixel
    for name in ("back_r", "back_g", "back_b", "clothes_r", "clothes_g", "clothes_b", "blink"):
        assert np.ptp(scene[name]) == 0.0, name


def test_the_wild_varies_more_than_the_studio_in_everything() -> None:
    plain, varied = draw_studio_columns(), draw_wild_columns()
    geometry = ("scale", "shift_x", "shift_y", "gaze_x", "gaze_y", "back_slope_x")
    light = ("light_x", "light_y", "ambient", "diffuse", "gain", "lift", "tint", "skin_level", "back_r", "clothes_g")
    geometry = tuple(name for name in geometry if name != "shift_x")  # profiles are cut out around the face
    for name in (*geometry, *light, "blur", "noise"):
        assert np.ptp(varied[name]) > 1.5 * np.ptp(plain[name]), name


def test_colours_are_between_black_and_white() -> None:
    scene = draw_wild_columns()
    for name in COLUMNS:
        if name[-2:] in ("_r", "_g", "_b"):
            assert scene[name].min() >= 0.02, name
            assert scene[name].max() <= 1.0, name


def test_the_two_domains_differ_in_pose_framing_and_sharpness() -> None:
    web, video = draw_wild_columns("web"), draw_wild_columns("video")
    assert np.ptp(angle(video, "yaw")) > 1.15 * np.ptp(angle(web, "yaw"))
    for name, larger in (("noise", web), ("light_x", web), ("skin_level", web)):
        assert np.ptp(larger[name]) > 1.2 * np.ptp((video if larger is web else web)[name]), name
    assert video["blur"].mean() > web["blur"].mean() + 0.08
    for scene in (web, video):
        assert scene["shift_y"].mean() == pytest.approx(FACE_CENTRE, abs=0.01)


def test_sessions_have_their_own_light_the_same_for_everybody() -> None:
    scene = draw_studio_columns()
    session = np.arange(N) // 5 % 2
    first, second = scene["light_x"][session == 0], scene["light_x"][session == 1]
    assert first.mean() == pytest.approx(-0.45, abs=0.03)
    assert second.mean() == pytest.approx(0.45, abs=0.03)
    assert first.max() < 0.0 < second.min()
    assert scene["skin_level"][session == 0].mean() > scene["skin_level"][session == 1].mean() + 0.04


def test_some_eyes_blink() -> None:
    assert 0.1 < np.mean(draw_wild_columns()["blink"] > 0) < 0.3


def test_the_range_of_a_column_does_not_change_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw_wild_columns()
    original = scenes._SceneTable.draw_even

    def wider(self: scenes._SceneTable, name: str, low: float, high: float) -> None:
        original(self, name, low, high + (5.0 if name == "noise" else 0.0))

    monkeypatch.setattr(scenes._SceneTable, "draw_even", wider)
    after = draw_wild_columns()
    assert [name for name in COLUMNS if (before[name] != after[name]).any()] == ["noise"]


def test_the_first_views_decide_nothing_about_the_random_part() -> None:
    turned, straight = (
        columns(draw_probe([view] * 4, ["A"] * 4, generator(1))) for view in (View.FULL_LEFT, View.STRAIGHT)
    )
    for name in COLUMNS:
        if not name.startswith("yaw") and name != "shift_x":
            np.testing.assert_array_equal(turned[name], straight[name])
