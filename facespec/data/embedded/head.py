"""The solid head: distances to its skin, and the point of skin that each pixel sees (sphere tracing)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from facespec.data.embedded.geometry import Field, bump, clip, ellipsoid, smooth, smooth_min

Point = tuple[Field, Field, Field]
Distance = Callable[[Point], Field]
Columns = dict[str, Field]  # one (n, 1) array per parameter
Solid = Callable[[Columns, Columns], Distance]  # from identity and action units

STEPS, MORE_STEPS = 6, 18  # of sphere tracing: all rays, then those that are not there yet
ARRIVED = 0.004  # head units, a tenth of a pixel at 48 px
FARTHEST = 1.45  # no part of head or hair is farther from the origin, in head units


@dataclass(frozen=True)
class Camera:
    """Pixels in the frame of the head: pixel (u, v) at depth w lies at `origin` + w `forward`.

    `origin`: three (n, pixels) arrays; `forward`, `light`: three (n, 1) arrays; `pixel` (n, 1): a pixel's width;
    `u`, `v` (n, pixels): image coordinates in head units before the head is turned.
    """

    origin: Point
    forward: Point
    light: Point
    pixel: Field
    u: Field
    v: Field

    def at(self, depth: Field) -> Point:
        ox, oy, oz = self.origin
        fx, fy, fz = self.forward
        return ox + depth * fx, oy + depth * fy, oz + depth * fz


def camera(scene: Columns, size: int) -> Camera:
    """Rays of an image of `size` x `size` pixels, orthographic."""
    index = np.arange(size * size, dtype=np.int64)
    column, row = (index % size).astype(np.float32), (index // size).astype(np.float32)
    half = np.float32(size / 2)
    u = ((column[None] + np.float32(0.5)) / half - np.float32(1)) * scene["scale"] - scene["shift_x"]
    v = (np.float32(1) - (row[None] + np.float32(0.5)) / half) * scene["scale"] - scene["shift_y"]
    length = np.sqrt(scene["light_x"] * scene["light_x"] + scene["light_y"] * scene["light_y"] + 1.0)
    zero, one = np.zeros_like(length), np.ones_like(length)
    light = tuple(part / length for part in (scene["light_x"], scene["light_y"], one))
    return Camera(
        origin=_into_head(scene, (u, v, zero)),
        forward=_into_head(scene, (zero, zero, one)),
        light=_into_head(scene, (light[0], light[1], light[2])),
        pixel=scene["scale"] / half,
        u=u,
        v=v,
    )


def _into_head(scene: Columns, vector: Point) -> Point:
    """Undo roll (about z), then pitch (about x), then yaw (about y)."""
    x, y, z = vector
    c, s = scene["roll_c"], scene["roll_s"]
    x, y = c * x + s * y, c * y - s * x
    c, s = scene["pitch_c"], scene["pitch_s"]
    y, z = c * y + s * z, c * z - s * y
    c, s = scene["yaw_c"], scene["yaw_s"]
    return c * x - s * z, y, c * z + s * x


def jaw_drop(act: Columns, y: Field) -> Field:
    """Where the skin now at height `y` was with the mouth closed: below the mouth, the jaw's movement is undone."""
    drop = 0.15 * act["au26"] + 0.02 * act["au16"]
    share = smooth((-0.56 - y) / 0.36) * smooth((y + 1.75) / 0.45)
    return y + drop * share


def skin_distance(who: Columns, act: Columns) -> Distance:
    """Signed distance to the skin of one head per image; expressions act only on bounded parts of space."""

    def distance(point: Point) -> Field:
        x, y, z = point
        ax = np.abs(x)
        skull = ellipsoid((x, y - 0.27, z + 0.10), (who["head_width"], 0.73, 0.80))
        y = jaw_drop(act, y)
        y = np.where(y < 0.0, y / who["face_length"], y)
        face = ellipsoid((x, y + 0.16, z - 0.08), (who["head_width"] * 0.87, 0.72, 0.62))
        jaw = ellipsoid((x, y - who["jaw_height"], z - 0.12), (who["jaw_width"], 0.36, 0.50))
        chin = ellipsoid((x, y - who["chin_length"], z - who["chin_forward"]), (who["chin_width"], 0.13, 0.16))
        solid = smooth_min(smooth_min(skull, face, 0.12), smooth_min(jaw, chin, 0.16), 0.16)
        solid = solid - _relief(who, act, (ax, y, z))
        solid = smooth_min(solid, _nose(who, act, (x, y, z)), 0.09)
        return np.minimum(solid, ear_distance(who, point))

    return distance


def _nose(who: Columns, act: Columns, point: Point) -> Field:
    """A leaning ridge and a rounded tip."""
    x, y, z = point
    lean = (who["nose_tip"] - who["nose_bridge"]) * 0.75
    t = clip((0.06 - y) / (0.06 - who["nose_length"]))
    ridge = ellipsoid((x, y - 0.5 * who["nose_length"], z - (who["nose_bridge"] - 0.04) - lean * t),
                      (0.055 + 0.2 * who["nose_width"], 0.05 - 0.55 * who["nose_length"], 0.13))  # fmt: skip
    tip = ellipsoid((x, y - who["nose_length"] - who["nose_upturn"] - 0.06, z - who["nose_tip"] + 0.04),
                    (0.8 * who["nose_width"], 0.075, 0.12))  # fmt: skip
    return smooth_min(ridge, tip, 0.06)


def _relief(who: Columns, act: Columns, point: Point) -> Field:
    """Hills and hollows of the face, mirrored at x = 0: cheekbones, brow ridge, eye sockets, lips, nose wings."""
    x, y, z = point
    mouth = who["mouth_height"]
    height = who["cheekbones"] * bump((x - 0.44, y + 0.16, z - 0.42), (0.26, 0.24, 0.5))
    height = height + who["cheek_fullness"] * bump((x - 0.38, y + 0.45, z - 0.40), (0.28, 0.30, 0.5))
    height = height + 0.07 * act["au6"] * bump((x - 0.34, y + 0.22, z - 0.55), (0.22, 0.17, 0.4))
    height = height + who["brow_ridge"] * bump((x - 0.20, y - 0.20, z - 0.62), (0.34, 0.13, 0.4))
    height = height - who["eye_depth"] * bump((x - 0.24, y - 0.03, z - 0.60), (0.24, 0.17, 0.4))
    height = height + 0.03 * bump((x - who["eye_spacing"], y - 0.01, z - 0.58), (0.15, 0.11, 0.3))
    wing = who["nose_length"] + 0.03 + 0.04 * act["au9"]
    height = height + 0.07 * bump((x - who["nose_width"], y - wing, z - 0.68), (0.09, 0.10, 0.22))
    press = 1.0 - 0.4 * clip(act["au23"])
    height = height + (0.4 * who["lip_upper"] + 0.035) * press * bump((x, y - mouth - 0.05, z - 0.62), (0.26, 0.09, 0.3))
    return height + (0.4 * who["lip_lower"] + 0.03) * press * bump((x, y - mouth + 0.07, z - 0.62), (0.24, 0.09, 0.3))


def ear_distance(who: Columns, point: Point) -> Field:
    """Signed distance to both ears: flat ellipsoids that stand off the head."""
    x, y, z = point
    beyond = np.abs(x) - who["head_width"] * 0.98
    size = who["ear_size"]
    stand = who["ear_angle"]
    return ellipsoid((beyond - stand * (0.35 - (z + 0.06) * 3.0), y + 0.06, z + 0.06), (0.055, size, size * 0.62))


def trace(view: Camera, solid: Solid, who: Columns, act: Columns) -> tuple[Field, Field]:
    """Depth of the surface along each ray, and how much of the pixel it covers; misses are seen at their nearest."""
    square = FARTHEST * FARTHEST - view.u * view.u - view.v * view.v
    depth = np.sqrt(np.maximum(square, 0.01))
    march = _march(view.at, solid(who, act), depth=depth, steps=STEPS)
    on_way = (march.nearest > ARRIVED) & (march.depth > -FARTHEST) & (square > 0.0)
    image, _ = np.nonzero(on_way)
    origin = tuple(part[on_way] for part in view.origin)
    forward = tuple(part[image, 0] for part in view.forward)
    few = solid({name: column[image, 0] for name, column in who.items()},
                {name: column[image, 0] for name, column in act.items()})  # fmt: skip

    def at(depth: Field) -> Point:
        x, y, z = (o + depth * f for o, f in zip(origin, forward, strict=True))
        return x, y, z

    rest = _march(at, few, depth=march.depth[on_way], steps=MORE_STEPS)
    closer = rest.nearest < march.nearest[on_way]
    march.best[on_way] = np.where(closer, rest.best, march.best[on_way])
    march.nearest[on_way] = np.where(closer, rest.nearest, march.nearest[on_way])
    return march.best, clip(1.0 - np.maximum(march.nearest - ARRIVED, 0.0) / view.pixel)


@dataclass(frozen=True)
class _March:
    """Where rays are, and where on their way they came nearest."""

    depth: Field
    nearest: Field
    best: Field


def _march(at: Callable[[Field], Point], distance: Distance, *, depth: Field, steps: int) -> _March:
    nearest, best = np.full_like(depth, 9.0), depth
    for _ in range(steps):
        d = distance(at(depth))
        closer = d < nearest
        nearest, best = np.where(closer, d, nearest), np.where(closer, depth, best)
        depth = depth - d
    return _March(depth, nearest, best)


def normals(point: Point, distance: Distance) -> Point:
    """Unit normals in the frame of the head, from differences of the distance."""
    step = np.float32(0.012)
    x, y, z = point
    here = distance(point)
    nx, ny, nz = (distance((x + step, y, z)) - here, distance((x, y + step, z)) - here, distance((x, y, z + step)) - here)
    length = np.maximum(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-6)
    return nx / length, ny / length, nz / length
