"""Shapes and noise against trigonometry, sampling, and integers computed by Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.data.embedded import geometry

F = np.float32
WORD = st.integers(0, 2**32 - 1)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_smoothstep_is_the_cubic_from_0_to_1() -> None:
    np.testing.assert_allclose(
        geometry.smoothstep(column(-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 9.0)),
        [0, 0, 0.15625, 0.5, 0.84375, 1, 1],
        rtol=1e-6,
    )


def test_cover_is_half_at_the_edge_and_linear_over_its_softness() -> None:
    covered = geometry.cover(column(-3.0, -0.1, 0.0, 0.1, 3.0), 0.4)
    np.testing.assert_allclose(covered, [1.0, 0.75, 0.5, 0.25, 0.0], rtol=1e-6)


def test_line_covers_both_sides_of_0() -> None:
    np.testing.assert_allclose(
        geometry.cover_line(column(-0.5, -0.1, 0.0, 0.1, 0.2), 0.1, 0.2), [0, 0.5, 1, 0.5, 0], atol=1e-6
    )


def test_a_band_is_1_inside_and_0_outside() -> None:
    covered = geometry.cover_band(column(-9.0, -1.0, 0.5, 2.0, 9.0), -1.0, 2.0, 0.5)
    np.testing.assert_allclose(covered, [0, 0.5, 1, 0.5, 0], atol=1e-6)


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.floats(0.2, 2.0))
def test_an_ellipsoid_with_equal_radii_is_a_sphere(x: float, y: float, z: float, radius: float) -> None:
    if math.hypot(x, y, z) < 0.05:
        return  # at the centre itself the estimate has no direction
    distance = geometry.ellipsoid((column(x), column(y), column(z)), (radius, radius, radius))
    assert distance[0] == pytest.approx(math.hypot(x, y, z) - radius, abs=1e-4)


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.floats(0.2, 2.0))
def test_an_ellipse_with_equal_radii_is_a_circle(x: float, y: float, radius: float) -> None:
    if math.hypot(x, y) < 0.05:
        return
    distance = geometry.ellipse(column(x), column(y), radius, radius)
    assert distance[0] == pytest.approx(math.hypot(x, y) - radius, abs=1e-4)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.1, math.pi / 2, 2.7])
def test_ellipse_and_ellipsoid_are_0_on_their_surface_and_grow_along_the_normal(angle: float) -> None:
    rx, ry, rz, step = 0.7, 0.3, 1.9, 0.01
    x, y = rx * math.cos(angle), ry * math.sin(angle)
    nx, ny = x / rx**2, y / ry**2
    nx, ny = nx / math.hypot(nx, ny), ny / math.hypot(nx, ny)
    at = (column(x, x + step * nx, x - step * nx), column(y, y + step * ny, y - step * ny))
    # in float32, and curved by at most half step^2 / smallest radius of curvature (ry^2 / rx)
    np.testing.assert_allclose(geometry.ellipse(*at, rx, ry), [0.0, step, -step], atol=1e-3)
    np.testing.assert_allclose(geometry.ellipsoid((*at, 0 * at[0]), (rx, ry, rz)), [0.0, step, -step], atol=1e-3)


def test_shapes_do_not_change_their_point() -> None:
    point = (column(0.1, 0.2), column(0.3, 0.4), column(0.5, 0.6))
    before = [part.copy() for part in point]
    geometry.ellipsoid(point, (1.0, 0.5, column(0.3)))
    geometry.bump(point, (1.0, 0.5, column(0.3)))
    for part, original in zip(point, before, strict=True):
        np.testing.assert_array_equal(part, original)


def test_a_bump_is_1_at_its_centre_and_exactly_0_from_its_radii_on() -> None:
    zero = column(0.0)
    assert geometry.bump((zero, zero, zero), (0.3, 0.2, 0.1))[0] == 1.0
    assert geometry.bump((zero, column(0.1), zero), (0.3, 0.2, 0.1))[0] == pytest.approx(0.75**2)
    for edge in ((0.301, 0, 0), (0, -0.201, 0), (0, 0, 0.101), (0.25, 0.15, 0.0)):
        assert geometry.bump(tuple(column(part) for part in edge), (0.3, 0.2, 0.1))[0] == 0.0


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.01, 0.5))
def test_smooth_minima_round_only_where_both_are_near(a: float, b: float, width: float) -> None:
    low = geometry.smooth_min(column(a), column(b), width)[0]
    high = geometry.smooth_max(column(a), column(b), width)[0]
    assert min(a, b) - width / 4 - 1e-5 <= low <= min(a, b) + 1e-5
    assert max(a, b) - 1e-5 <= high <= max(a, b) + width / 4 + 1e-5
    if abs(a - b) >= width:
        assert low == F(min(a, b))
        assert high == F(max(a, b))
    assert geometry.smooth_min(column(a), column(a), width)[0] == pytest.approx(a - width / 4, abs=1e-5)


@given(st.floats(-3.0, 3.0))
def test_a_rotation_is_that_by_twice_the_arc_tangent(t: float) -> None:
    cosine, sine = geometry.compute_rotation(np.array([t]))
    assert cosine[0] == pytest.approx(math.cos(2 * math.atan(t)), abs=1e-14)
    assert sine[0] == pytest.approx(math.sin(2 * math.atan(t)), abs=1e-14)


def murmur(word: int) -> int:
    """The finaliser of MurmurHash3 in whole numbers."""
    word ^= word >> 16
    word = word * 0x85EBCA6B % 2**32
    word ^= word >> 13
    word = word * 0xC2B2AE35 % 2**32
    return word ^ word >> 16


@given(WORD)
def test_scramble_is_the_published_finaliser(word: int) -> None:
    assert int(geometry.scramble(np.array([word], np.uint32))[0]) == murmur(word)


def test_scramble_of_1_is_known() -> None:
    assert int(geometry.scramble(np.array([1], np.uint32))[0]) == 0x514E28B7  # published test value of fmix32(1)


@given(WORD)
def test_a_fraction_keeps_24_bits(word: int) -> None:
    fraction = geometry.to_fraction(np.array([word], np.uint32))
    assert fraction.dtype == np.float32
    assert float(fraction[0]) == (word >> 8) / 2**24


def test_cells_are_distinct_also_left_and_below_of_0() -> None:
    across, up = np.meshgrid(np.arange(-9, 9) + 0.25, np.arange(-9, 9) + 0.75)
    word, x, y = geometry.hash_cells(F(across), F(up), np.uint32([5]))
    assert len(np.unique(word)) == 18 * 18
    np.testing.assert_array_equal(x, F(0.25))
    np.testing.assert_array_equal(y, F(0.75))
    again, _, _ = geometry.hash_cells(F(across) + F(0.5), F(up) - F(0.5), np.uint32([5]))
    np.testing.assert_array_equal(word, again)  # one word per cell
    other, _, _ = geometry.hash_cells(F(across), F(up), np.uint32([6]))
    assert (word == other).mean() < 0.01


def test_a_wave_passes_through_one_free_value_per_unit_without_jumps() -> None:
    seed = np.uint32([11])
    x = F(np.arange(-4000, 4000) / 1000.0)
    wave_noise = geometry.wave_noise(x, seed)
    assert wave_noise.min() >= 0.0
    assert wave_noise.max() <= 1.0
    assert np.abs(np.diff(wave_noise)).max() <= 1.5 / 1000 + 1e-6  # the cubic's steepest slope is 1.5
    knots = geometry.wave_noise(F(np.arange(-4, 4)), seed)
    expected = [(murmur((i + 11) % 2**32) >> 8) / 2**24 for i in range(-4, 4)]
    np.testing.assert_array_equal(knots, F(expected))
