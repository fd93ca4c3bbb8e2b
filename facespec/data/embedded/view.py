"""What each pixel sees: rays through the head, and where they meet a solid (sphere tracing)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facespec.data.embedded.geometry import Field, clip
from facespec.data.embedded.head import Columns, Distance, Point, Solid

STEPS = 3  # of sphere tracing, for all rays
ROUNDS = (3, 4, 6)  # further steps, each round for the rays that are not there yet
ARRIVED = 0.004  # head units, a tenth of a pixel at 48 px
PASSED = 0.12  # head units: a ray that is this much farther away than it was has gone by
FARTHEST = 1.45  # no part of head or hair is farther from the origin, in head units
ABSENT = 9.0  # farther than anything


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


def place_camera(scene: Columns, size: int) -> Camera:
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


class _Chosen(dict[str, Field]):
    """The parameters of single pixels, looked up when first asked for."""

    def __init__(self, columns: Columns, image: np.ndarray) -> None:
        super().__init__()
        self.columns, self.image = columns, image

    def __missing__(self, name: str) -> Field:
        self[name] = self.columns[name][self.image, 0]
        return self[name]


@dataclass(frozen=True)
class Rays:
    """Some pixels of a `Camera`, as flat arrays, with the solid as they meet it."""

    pixels: np.ndarray
    origin: Point
    forward: Point
    distance: Distance

    @classmethod
    def chosen(cls, view: Camera, pixels: np.ndarray, *, solid: Solid, who: Columns, act: Columns) -> Rays:
        """The rays through `pixels`, flat indices into (n, pixels)."""
        image = pixels // view.u.shape[1]
        ox, oy, oz = (part.reshape(-1)[pixels] for part in view.origin)
        fx, fy, fz = (part[image, 0] for part in view.forward)
        return cls(pixels, (ox, oy, oz), (fx, fy, fz), solid(_Chosen(who, image), _Chosen(act, image)))

    def at(self, depth: Field) -> Point:
        (ox, oy, oz), (fx, fy, fz) = self.origin, self.forward
        return ox + depth * fx, oy + depth * fy, oz + depth * fz


def trace_rays(view: Camera, solid: Solid, who: Columns, *, act: Columns, until: Field | float) -> tuple[Field, Field]:
    """Depth (n, pixels) of the surface along each ray, and how much of the pixel it covers.

    Rays that miss are seen where they come nearest. Rays end at depth `until`, beyond which nothing would be visible.
    """
    square = FARTHEST * FARTHEST - view.u * view.u - view.v * view.v
    depth = np.sqrt(np.maximum(square, 0.01))
    distance = solid(who, act)
    for _ in range(STEPS):
        gap = distance(view.at(depth))
        depth = depth - gap
    nearest = gap + np.where(square > 0.0, np.float32(0.0), np.float32(ABSENT))
    best = depth.reshape(-1)
    depth, nearest, until = best.copy(), nearest.reshape(-1), (until + np.zeros_like(depth)).reshape(-1)
    on_way = np.flatnonzero((nearest > ARRIVED) & (nearest < ABSENT / 2) & (depth > until))
    for steps in ROUNDS:
        rays = Rays.chosen(view, on_way, solid=solid, who=who, act=act)
        at, near, there = depth[on_way], nearest[on_way], best[on_way]
        for _ in range(steps):
            gap = rays.distance(rays.at(at))
            closer = gap < near
            near, there = np.where(closer, gap, near), np.where(closer, at, there)
            at = at - gap
        depth[on_way], nearest[on_way], best[on_way] = at, near, there
        on_way = on_way[(near > ARRIVED) & (gap < near + PASSED) & (at > until[on_way])]
    shape = view.u.shape
    return best.reshape(shape), clip(1.0 - np.maximum(nearest.reshape(shape) - ARRIVED, 0.0) / view.pixel)


def compute_normals(view: Camera, solid: Solid, who: Columns, *, act: Columns, depth: Field, seen: Field) -> Point:
    """Unit normals (n, pixels) in the frame of the head where `seen` is positive, from differences of the distance."""
    step = np.float32(0.012)
    pixels = np.flatnonzero(seen.reshape(-1) > 0.0)
    rays = Rays.chosen(view, pixels, solid=solid, who=who, act=act)
    x, y, z = rays.at(depth.reshape(-1)[pixels])
    here = rays.distance((x, y, z))
    nx, ny = rays.distance((x + step, y, z)) - here, rays.distance((x, y + step, z)) - here
    nz = rays.distance((x, y, z + step)) - here
    length = np.maximum(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-6)
    whole = []
    for part in (nx, ny, nz):
        normal = np.zeros(seen.size, np.float32)
        normal[pixels] = part / length
        whole.append(normal.reshape(seen.shape))
    return whole[0], whole[1], whole[2]
