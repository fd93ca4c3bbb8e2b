"""Where does the ray of each pixel meet the head or the hair (sphere tracing)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facespec.data.embedded.geometry import Field, clip
from facespec.data.embedded.head import Columns, Distance, Point, Solid

STEPS = 3  # of sphere tracing, for all rays
ROUNDS = (3, 4, 6)  # further steps; each round for the rays that have not arrived yet
HIT_DISTANCE = 0.004  # head units, a tenth of a pixel at 48 px
RETREAT = 0.12  # head units: a ray that is this much farther away than before has passed
FARTHEST = 1.45  # no part of head or hair is farther from the origin, in head units
MISS_DISTANCE = 9.0  # farther than anything


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

    def locate(self, depth: Field) -> Point:
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


class _PixelColumns(dict[str, Field]):
    """The parameters of single pixels, computed when first needed."""

    def __init__(self, columns: Columns, image: np.ndarray) -> None:
        super().__init__()
        self.columns, self.image = columns, image

    def __missing__(self, name: str) -> Field:
        self[name] = self.columns[name][self.image, 0]
        return self[name]


@dataclass(frozen=True)
class Rays:
    """Some pixels of a `Camera`, as flat arrays, with the distance to the solid."""

    pixels: np.ndarray
    origin: Point
    forward: Point
    distance: Distance

    @classmethod
    def select(cls, camera: Camera, pixels: np.ndarray, *, solid: Solid, person: Columns, units: Columns) -> Rays:
        """The rays through `pixels`, flat indices into (n, pixels)."""
        image = pixels // camera.u.shape[1]
        ox, oy, oz = (part.reshape(-1)[pixels] for part in camera.origin)
        fx, fy, fz = (part[image, 0] for part in camera.forward)
        return cls(pixels, (ox, oy, oz), (fx, fy, fz), solid(_PixelColumns(person, image), _PixelColumns(units, image)))

    def locate(self, depth: Field) -> Point:
        (ox, oy, oz), (fx, fy, fz) = self.origin, self.forward
        return ox + depth * fx, oy + depth * fy, oz + depth * fz


def trace_rays(
    camera: Camera, solid: Solid, person: Columns, *, units: Columns, until: Field | float
) -> tuple[Field, Field]:
    """Depth (n, pixels) of the surface along each ray, and how much of the pixel it covers.

    For rays that miss, it is the depth where they come nearest. Rays end at depth `until`: nothing behind is visible.
    """
    square = FARTHEST * FARTHEST - camera.u * camera.u - camera.v * camera.v
    depth = np.sqrt(np.maximum(square, 0.01))
    distance = solid(person, units)
    for _ in range(STEPS):
        gap = distance(camera.locate(depth))
        depth = depth - gap
    nearest = gap + np.where(square > 0.0, np.float32(0.0), np.float32(MISS_DISTANCE))
    best = depth.reshape(-1)
    depth, nearest, until = best.copy(), nearest.reshape(-1), (until + np.zeros_like(depth)).reshape(-1)
    active = np.flatnonzero((nearest > HIT_DISTANCE) & (nearest < MISS_DISTANCE / 2) & (depth > until))
    for steps in ROUNDS:
        rays = Rays.select(camera, active, solid=solid, person=person, units=units)
        current, smallest, best_depth = depth[active], nearest[active], best[active]
        for _ in range(steps):
            gap = rays.distance(rays.locate(current))
            closer = gap < smallest
            smallest, best_depth = np.where(closer, gap, smallest), np.where(closer, current, best_depth)
            current = current - gap
        depth[active], nearest[active], best[active] = current, smallest, best_depth
        active = active[(smallest > HIT_DISTANCE) & (gap < smallest + RETREAT) & (current > until[active])]
    shape = camera.u.shape
    return best.reshape(shape), clip(1.0 - np.maximum(nearest.reshape(shape) - HIT_DISTANCE, 0.0) / camera.pixel)


def compute_normals(
    camera: Camera, solid: Solid, person: Columns, *, units: Columns, depth: Field, alpha: Field
) -> Point:
    """Unit normals (n, pixels) in the frame of the head where `alpha` is positive, from differences of the distance."""
    step = np.float32(0.012)
    pixels = np.flatnonzero(alpha.reshape(-1) > 0.0)
    rays = Rays.select(camera, pixels, solid=solid, person=person, units=units)
    x, y, z = rays.locate(depth.reshape(-1)[pixels])
    distance = rays.distance((x, y, z))
    nx, ny = rays.distance((x + step, y, z)) - distance, rays.distance((x, y + step, z)) - distance
    nz = rays.distance((x, y, z + step)) - distance
    length = np.maximum(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-6)
    normals = []
    for part in (nx, ny, nz):
        normal = np.zeros(alpha.size, np.float32)
        normal[pixels] = part / length
        normals.append(normal.reshape(alpha.shape))
    return normals[0], normals[1], normals[2]
