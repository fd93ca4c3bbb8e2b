"""Rays and surfaces against rotation matrices and a sphere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facespec.data.embedded.scenes import COLUMNS
from facespec.data.embedded.view import MISS_DISTANCE, compute_normals, place_camera, trace_rays

SIZE = 40
F = np.float32


def scene(**values: float) -> dict[str, np.ndarray]:
    """One scene: looking straight, unless said otherwise; ``yaw``, ``pitch``, ``roll`` in degrees."""
    plain = dict.fromkeys(COLUMNS, 0.0) | {"scale": 1.2}
    for axis in ("yaw", "pitch", "roll"):
        turned = math.radians(values.pop(axis, 0.0))
        plain |= {f"{axis}_c": math.cos(turned), f"{axis}_s": math.sin(turned)}
    return {name: np.full((1, 1), value, np.float32) for name, value in (plain | values).items()}


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """From the head's frame to the camera's: yaw about y (positive: nose to the right), then pitch, then roll."""
    y, p, r = (math.radians(value) for value in (yaw, pitch, roll))
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


@pytest.mark.parametrize("angles", [(0, 0, 0), (90, 0, 0), (-45, 0, 0), (20, -10, 5), (0, 15, -8)])
def test_rays_undo_the_head_s_rotation(angles: tuple[float, float, float]) -> None:
    camera = place_camera(
        scene(**dict(zip(("yaw", "pitch", "roll"), angles, strict=True)), shift_x=0.1, shift_y=-0.2), SIZE
    )
    centres = (np.arange(SIZE) + 0.5) / (SIZE / 2) - 1
    u, v = np.meshgrid(1.2 * centres - 0.1, -1.2 * centres + 0.2)
    np.testing.assert_allclose(camera.u[0], u.ravel(), atol=1e-6)
    np.testing.assert_allclose(camera.v[0], v.ravel(), atol=1e-6)
    depth = F(0.3)
    points = np.stack([u.ravel(), v.ravel(), np.full(u.size, depth)])
    expected = rotation(*angles).T @ points
    np.testing.assert_allclose([part[0] for part in camera.locate(depth)], expected, atol=1e-6)
    assert camera.pixel[0, 0] == pytest.approx(1.2 / (SIZE / 2))


def test_a_positive_yaw_turns_the_nose_to_the_right() -> None:
    nose = rotation(30, 0, 0) @ [0, 0, 1]
    assert nose[0] == pytest.approx(0.5)


def test_light_is_a_unit_vector_that_does_not_turn_with_the_head() -> None:
    camera = place_camera(scene(yaw=40, pitch=10, roll=-6, light_x=0.8, light_y=-0.4), SIZE)
    expected = rotation(40, 10, -6).T @ (np.array([0.8, -0.4, 1.0]) / math.sqrt(0.8**2 + 0.4**2 + 1))
    np.testing.assert_allclose([part[0, 0] for part in camera.light], expected, atol=1e-6)


def ball(person: dict, units: dict):
    """A solid: the distance to a sphere of radius ``who['radius']``."""

    def distance(point):
        x, y, z = point
        return np.sqrt(x * x + y * y + z * z) - person["radius"]

    return distance


@pytest.mark.parametrize("yaw", [0.0, 70.0])
def test_tracing_finds_a_sphere(yaw: float) -> None:
    camera, person = place_camera(scene(yaw=yaw), SIZE), {"radius": np.full((1, 1), 0.7, np.float32)}
    depth, alpha = trace_rays(camera, ball, person, units={}, until=-1.45)
    assert depth.dtype == alpha.dtype == np.float32
    radius = np.hypot(camera.u, camera.v)
    inside = radius < 0.66  # near the edge rays are tangential, and arrive later
    np.testing.assert_allclose(depth[inside], np.sqrt(0.49 - radius[inside] ** 2), atol=0.012)
    np.testing.assert_array_equal(alpha[inside], 1.0)
    pixel = float(camera.pixel[0, 0])
    assert not alpha[radius > 0.7 + pixel + 0.01].any()
    edge = (radius > 0.7) & (radius < 0.7 + pixel)
    np.testing.assert_allclose(alpha[edge], 1 - (radius[edge] - 0.7) / pixel, atol=0.12)
    normal = compute_normals(camera, ball, person, units={}, depth=depth, alpha=alpha)
    points = np.stack([part[0] for part in camera.locate(depth)])[:, inside[0]]
    expected = points / np.sqrt((points**2).sum(0))
    np.testing.assert_allclose([part[0, inside[0]] for part in normal], expected, atol=0.03)


def test_tracing_ends_at_the_given_depth() -> None:
    camera, person = place_camera(scene(), SIZE), {"radius": np.full((1, 1), 0.7, np.float32)}
    whole, _ = trace_rays(camera, ball, person, units={}, until=-1.45)
    early, _ = trace_rays(camera, ball, person, units={}, until=np.full(camera.u.shape, 0.2, np.float32))
    front = whole > 0.3
    np.testing.assert_array_equal(early[front], whole[front])


def test_rays_outside_of_everything_are_empty() -> None:
    camera, person = place_camera(scene(scale=3.0), SIZE), {"radius": np.full((1, 1), 1.44, np.float32)}
    _, alpha = trace_rays(camera, ball, person, units={}, until=-1.45)
    assert not alpha[np.hypot(camera.u, camera.v) > 1.45 + 3.0 / (SIZE / 2)].any()
    assert MISS_DISTANCE > 2 * 1.45
