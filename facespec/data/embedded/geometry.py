"""Which shapes, rotations and noise have the same bits on every platform?

Only operations that IEEE 754 defines exactly are used.

Lengths are in head units: half the height of an average head. Axes: x to the image's right, y up, z to the camera.
Allowed are + - * / sqrt, abs, minimum, maximum, floor, where, comparisons and integer arithmetic, element by element;
a test reads this package's syntax trees and refuses anything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating[Any]]  # float32 (n, pixels), or (n, 1) for one number per image
Words = npt.NDArray[np.uint32]

HALF_SQRT2 = 0.7071067811865476  # sine and cosine of 45 degrees


def clip(values: Field, low: float = 0.0, high: float = 1.0) -> Field:
    return np.minimum(np.maximum(values, low), high)


def smoothstep(t: Field) -> Field:
    """0 below 0, 1 above 1, a cubic between."""
    t = clip(t)
    return t * t * (3.0 - 2.0 * t)


def cover_band(values: Field, low: Field | float, high: Field | float, soft: Field | float) -> Field:
    """1 inside [low, high], 0 outside, with cubic flanks `soft` wide."""
    return smoothstep((values - low) / soft + 0.5) * smoothstep((high - values) / soft + 0.5)


def cover(distance: Field, soft: Field | float) -> Field:
    """How much of a pixel a shape covers: 1 inside (negative distance), 0 outside, linear over `soft`."""
    return clip(0.5 - distance / soft)


def cover_line(distance: Field, half_width: Field | float, soft: Field | float) -> Field:
    """Coverage of a stroke around distance 0."""
    return cover(np.abs(distance) - half_width, soft)


def ellipse(dx: Field, dy: Field, rx: Field | float, ry: Field | float) -> Field:
    """Near its edge the signed distance to an axis-parallel ellipse."""
    qx, qy = dx / rx, dy / ry
    k0 = np.sqrt(qx * qx + qy * qy)
    qx, qy = qx / rx, qy / ry
    k1 = np.sqrt(qx * qx + qy * qy)
    return k0 * (k0 - 1.0) / np.maximum(k1, 1e-6)


def ellipsoid(point: tuple[Field, Field, Field], radii: tuple[Field | float, ...]) -> Field:
    """Near its surface the signed distance from `point` to an ellipsoid around the origin."""
    sx, sy, sz = (np.float32(1.0) / r for r in radii)
    x, y, z = point[0] * sx, point[1] * sy, point[2] * sz
    x *= x  # in place from here: a quarter of the rendering time is spent in these lines
    y *= y
    z *= z
    k0 = x + y
    k0 += z
    np.sqrt(k0, out=k0)
    x *= sx * sx
    y *= sy * sy
    z *= sz * sz
    x += y
    x += z
    np.sqrt(x, out=x)
    np.maximum(x, np.float32(1e-6), out=x)
    np.subtract(k0, np.float32(1.0), out=y)
    k0 *= y
    k0 /= x
    return k0


def bump(point: tuple[Field, Field, Field], radii: tuple[Field | float, ...]) -> Field:
    """A hill of height 1 around the origin, exactly 0 from `radii` on: it changes a shape only there."""
    x, y, z = (p * (np.float32(1.0) / r) for p, r in zip(point, radii, strict=True))
    x *= x
    y *= y
    z *= z
    x += y
    x += z
    np.subtract(np.float32(1.0), x, out=x)
    np.maximum(x, np.float32(0.0), out=x)
    x *= x
    return x


def smooth_min(a: Field, b: Field, width: float) -> Field:
    """The minimum of two distances, rounded where they differ by less than `width`."""
    h = np.maximum(width - np.abs(a - b), 0.0)
    return np.minimum(a, b) - h * h * (0.25 / width)


def smooth_max(a: Field, b: Field, width: float) -> Field:
    h = np.maximum(width - np.abs(a - b), 0.0)
    return np.maximum(a, b) + h * h * (0.25 / width)


def compute_rotation(t: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Cosine and sine of the angle whose half has tangent `t`."""
    scale = 1.0 / (1.0 + t * t)
    return (1.0 - t * t) * scale, 2.0 * t * scale


def scramble(words: Words) -> Words:
    """A bijection of 32-bit words without visible pattern (the finaliser of MurmurHash3)."""
    words = words ^ (words >> np.uint32(16))
    words = words * np.uint32(0x85EBCA6B)
    words = words ^ (words >> np.uint32(13))
    words = words * np.uint32(0xC2B2AE35)
    return words ^ (words >> np.uint32(16))


def hash_cells(x: Field, y: Field, seed: Words) -> tuple[Words, Field, Field]:
    """A random word per unit cell of the plane, and the position in the cell (0 to 1)."""
    cell_x, cell_y = np.floor(x), np.floor(y)
    # negative cells go through int32: casting negative floats to unsigned is undefined
    ix, iy = cell_x.astype(np.int32).view(np.uint32), cell_y.astype(np.int32).view(np.uint32)
    word = scramble(ix * np.uint32(0x9E3779B1) ^ scramble(iy + seed))
    return word, x - cell_x, y - cell_y


def to_fraction(word: Words) -> Field:
    """A word as a number in [0, 1): its upper 24 bits, which float32 holds exactly."""
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(1.0 / 16777216.0)


def wave_noise(x: Field, seed: Words) -> Field:
    """Smooth noise along `x` in [0, 1] with one free value per unit length."""
    cell = np.floor(x)
    index = cell.astype(np.int32).view(np.uint32) + seed
    before, after = to_fraction(scramble(index)), to_fraction(scramble(index + np.uint32(1)))
    return before + (after - before) * smoothstep(x - cell)
