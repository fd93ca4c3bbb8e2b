"""What shape has the hair: a cap with a hairline, side hair, a bun, and the beard that is painted on skin?"""

from __future__ import annotations

import numpy as np

from facespec.data.embedded.geometry import (
    Field,
    Words,
    bump,
    clip,
    cover_band,
    ellipsoid,
    hash_cells,
    smooth_max,
    smooth_min,
    smoothstep,
    to_fraction,
    wave_noise,
)
from facespec.data.embedded.head import Columns, Distance, Point


def hair_distance(person: Columns, units: Columns) -> Distance:
    """Signed distance to the hair; positive everywhere for the bald. Hair does not move with expressions."""
    volume = person["hair_volume"]
    curly = np.maximum(person["hair_curl"] - 0.45, 0.0)
    zero, far = np.float32(0.0), np.float32(2.0)  # hair that a person lacks is far away
    short_hair = np.where(person["hair_length"] < -0.2, zero, far)
    no_bun = np.where(person["hair_bun"] > 0.0, zero, far)
    bald = np.where(person["hairline"] > 1.0, far, zero)

    def distance(point: Point) -> Field:
        x, y, z = point
        width = person["head_width"] + 0.6 * volume
        cap = ellipsoid((x, y - 0.29, z + 0.11), (width, 0.73 + volume, 0.80 + 0.5 * volume))
        cap = cap + 0.35 * curly * volume * _curls(point)
        cap = smooth_max(cap, 0.6 * (_lower_edge(person, point) - y), 0.06)
        fall = ellipsoid((x, y + 0.15, z + 0.26), (width + 0.05 + 0.4 * volume, 1.6, 0.62 + 0.4 * volume))
        fall = smooth_max(fall, person["hair_length"] - y, 0.10)
        fall = smooth_max(fall, 0.8 * (z - 0.14 - 0.25 * (y - 0.3)), 0.08)
        fall = smooth_max(fall, y - 0.75, 0.3)
        cap = smooth_min(cap, fall + short_hair, 0.10)
        bx, by, bz = x, y - 0.82, z + 0.52
        bun = np.sqrt(bx * bx + by * by + bz * bz) - person["hair_bun"] + no_bun
        return smooth_min(cap, bun, 0.05) + bald

    return distance


def _curls(point: Point) -> Field:
    """Locks: waves along the three axes, between -1 and 1."""
    x, y, z = point
    return (_tents(x * 3.1 + 0.2) + _tents(y * 3.7) + _tents(z * 3.4)) * (1.0 / 3.0)


def _tents(t: Field) -> Field:
    """A rounded wave of period 1 between -1 and 1."""
    tent = np.abs(t - np.floor(t) - 0.5) * 4.0 - 1.0
    return tent * (1.5 - 0.5 * tent * tent)


def _lower_edge(person: Columns, point: Point) -> Field:
    """Height where the cap of hair ends: nape, ears, temples, forehead."""
    x, _, z = point
    front = person["hairline"] + person["hair_part"] * x
    recess = person["hair_recess"] * bump((np.abs(x) - 0.42, z - 0.5, z * 0.0), (0.30, 0.5, 1.0))
    front = front + 0.05 * person["hair_curl"] * (_tents(x * 5.3) + 0.5 * _tents(x * 11.7 + 0.3))
    sides = -0.42 + 0.44 * smoothstep((z + 0.22) / 0.16)
    return sides + (front + recess - sides) * smoothstep((z - 0.06) / 0.36)


def compute_strands(point: Point, seed: Words) -> Field:
    """Lighter and darker strands, about -1 to 1, falling from the crown to all sides."""
    x, y, z = point
    z = z + 0.12
    around = z / (np.abs(x) + np.abs(z) + 0.05)  # the square around the crown: 1 front, -1 back
    along = (around + 3.0) * np.where(x < 0.0, np.float32(-7.0), np.float32(7.0)) + y * 0.8
    return wave_noise(along, seed) + wave_noise(along * 2.7 + y * 2.0, seed + np.uint32(7)) - 1.0


def cover_beard(person: Columns, point: Point) -> Field:
    """How much of the skin at `point` (jaw movement undone) is covered by beard and moustache."""
    x, y, z = point
    ax = np.abs(x)
    edge = -0.50 + 0.62 * smoothstep((0.50 - z) / 0.50) - 0.25 * np.maximum(0.30 - ax, 0.0)
    cheeks = smoothstep((edge - y) / 0.14 + 0.5) * smoothstep((z + 0.06 - 0.3 * np.minimum(y + 0.5, 0.0)) / 0.10)
    mouth = person["mouth_height"]
    lip = mouth + 0.055
    above = cover_band(y, lip - 0.02, lip + 0.075 - 0.22 * np.maximum(ax - 0.08, 0.0), 0.05) * smoothstep(
        (0.34 - ax) / 0.08
    )
    sides = cover_band(ax, 0.24, 0.36, 0.10) * cover_band(y, mouth - 0.25, lip + 0.03, 0.10)
    front = smoothstep((z - 0.3) / 0.1)
    moustache = person["moustache"] * above * front
    beard = person["beard"] * np.maximum(cheeks, sides * front)
    return clip(np.maximum(beard, moustache))


def compute_stubble(point: Point, seed: Words) -> Field:
    """Fine grain between 0 and 1."""
    x, y, z = point
    word, _, _ = hash_cells(x * 38.0, y * 38.0 + z * 29.0, seed)
    return to_fraction(word)
