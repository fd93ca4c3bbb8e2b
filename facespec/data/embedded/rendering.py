"""How do parameters become pixels? An image depends on its own parameters only, and has the same bytes everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.action_units import UNITS
from facespec.data.embedded.backdrop import paint_background, paint_body, paint_occluder
from facespec.data.embedded.canvas import REGIONS, Canvas, Palette, build_palette
from facespec.data.embedded.features import Face, paint_brows, paint_eye_folds, paint_eyes, paint_folds, paint_nose
from facespec.data.embedded.geometry import Field, Words, clip, cover, ellipse, scramble
from facespec.data.embedded.hair import compute_strands, hair_distance
from facespec.data.embedded.head import Columns, Point, ear_distance, skin_distance
from facespec.data.embedded.marks import paint_beard, paint_glasses, paint_marks
from facespec.data.embedded.mouth import paint_mouth
from facespec.data.embedded.view import FARTHEST, Camera, compute_normals, place_camera, trace_rays

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

UNIT_NAMES = tuple(f"au{unit}" for unit in UNITS)
TILE = 1 << 15  # pixels worked on at once: their arrays fit a processor's cache


def paint(
    people: Floats, units: Floats, scene: Floats, *, keys: npt.NDArray[np.uint64], size: int, channels: int
) -> tuple[Bytes, Bytes]:
    """Images uint8 (n, size, size[, 3]) and region codes uint8 (n, size, size) of n faces.

    `people` (n, identity parameters), `units` (n, 16), `scene` (n, scene parameters), `keys` (n,) of the noise.
    """
    n = len(keys)
    images = np.empty((n, size, size, channels), np.uint8)
    regions = np.empty((n, size, size), np.uint8)
    step = max(1, TILE // (size * size))
    for start in range(0, n, step):
        part = slice(start, start + step)
        colour, region = _render_tile(
            _columns(anatomy.PARAMETERS, people[part]),
            _columns(UNIT_NAMES, units[part]),
            _columns(scenes.COLUMNS, scene[part]),
            keys=keys[part],
            size=size,
            channels=channels,
        )
        images[part] = np.moveaxis(colour, 0, -1)
        regions[part] = region
    return (images if channels == 3 else images[..., 0]), regions


def _columns(names: tuple[str, ...], table: Floats) -> Columns:
    return {name: table[:, index : index + 1].astype(np.float32) for index, name in enumerate(names)}


@dataclass(frozen=True)
class _Portraits:
    """Everything that the pictures of n heads are made from: parameters as columns, the camera and the colours."""

    person: Columns
    units: Columns
    scene: Columns
    camera: Camera
    palette: Palette

    @property
    def seed(self) -> Words:
        return derive_person_seed(self.person)

    def compute_light(self, normal: Point) -> Field:
        """Wrapped diffuse light: soft, with a shadow side that is never black."""
        light, scene = self.camera.light, self.scene
        facing = normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2]
        wrapped = clip(0.35 + 0.65 * facing)
        return scene["ambient"] * (0.85 + 0.15 * normal[1]) + scene["diffuse"] * wrapped


def _render_tile(
    person: Columns, units: Columns, scene: Columns, *, keys: npt.NDArray[np.uint64], size: int, channels: int
) -> tuple[Bytes, Bytes]:
    camera = place_camera(scene, size)
    palette = build_palette(person, scene, channels=channels)
    canvas = paint_background(scene, camera, palette)
    body = paint_body(person, scene, camera, canvas=canvas, palette=palette)
    _paint_head(_Portraits(person, units, scene, camera, palette), canvas, body=body)
    paint_occluder(scene, camera, canvas, palette)
    shape = (channels, len(keys), size, size)
    picture = _blur(canvas.colour.reshape(shape), scene["blur"][:, :, None])
    return _develop(picture, scene, keys), canvas.region.reshape(shape[1:])


def _paint_head(portraits: _Portraits, canvas: Canvas, *, body: Field) -> None:
    """Skin, with hair behind and in front of it; `body` is the depth of neck and shirt."""
    camera, person, units = portraits.camera, portraits.person, portraits.units
    skin_depth, skin_alpha = trace_rays(camera, skin_distance, person, units=units, until=-FARTHEST)
    # only pixels fully covered by skin hide hair: elsewhere the depth of the skin moves with the jaw, and must not show
    hidden = np.where(skin_alpha >= 1.0, skin_depth - 0.1, np.float32(-FARTHEST))
    hair_depth, hair_alpha = trace_rays(camera, hair_distance, person, units=units, until=hidden)
    hair_alpha = hair_alpha * (hair_depth > np.maximum(body, hidden))
    skin_alpha = skin_alpha * (skin_depth > body - 0.25)
    normal = compute_normals(camera, hair_distance, person, units=units, depth=hair_depth, alpha=hair_alpha)
    hair = _shade_hair(portraits, camera.locate(hair_depth), normal=normal)
    canvas.paint(hair_alpha, hair)
    canvas.mark(hair_alpha, REGIONS["hair"])
    face = _paint_skin(portraits, camera.locate(skin_depth))
    normal = compute_normals(camera, skin_distance, person, units=units, depth=skin_depth, alpha=skin_alpha)
    face.colour = face.colour * portraits.compute_light(normal)
    canvas.paint(skin_alpha, face.colour)
    canvas.mark(skin_alpha, face.region)
    front_hair = hair_alpha * clip((hair_depth - skin_depth) / 0.02 + 0.5) * (skin_alpha > 0.0)
    canvas.paint(front_hair, hair)
    canvas.mark(front_hair, REGIONS["hair"])


def derive_person_seed(person: Columns) -> Words:
    """uint32 (n, 1) from identity alone, for freckles and strands: the same in every picture of a person."""
    return scramble((person["head_width"] * np.float32(4.0e6)).astype(np.int32).view(np.uint32))


def _paint_skin(portraits: _Portraits, point: Point) -> Canvas:
    palette = portraits.palette
    face = Face.from_point(
        portraits.person, portraits.units, portraits.scene, point=point, soft=portraits.camera.pixel * 1.1
    )
    canvas = Canvas.create(palette["skin"], region=REGIONS["outline"], pixels=face.x.shape[1])
    _paint_ears(face, canvas, palette, point=point)
    cheek = clip(1.0 - ellipse(face.ax - 0.36, face.y + 0.24, 0.12, 0.10) / 0.12)
    canvas.paint(0.35 * cheek * face.front, palette["blush"])
    paint_folds(face, canvas, palette)
    paint_eye_folds(face, canvas, palette)
    paint_beard(face, canvas, palette, seed=portraits.seed)
    paint_nose(face, canvas, palette)
    paint_marks(face, canvas, palette, seed=portraits.seed)  # before the features: never on an eye, a brow or teeth
    paint_eyes(face, canvas, palette)
    paint_brows(face, canvas, palette)
    paint_mouth(face, canvas, palette)
    paint_glasses(face, canvas, palette)
    return canvas


def _paint_ears(face: Face, canvas: Canvas, palette: Palette, *, point: Point) -> None:
    size = face.person["ear_size"]
    ear = cover(ear_distance(face.person, point) - 0.012, face.soft)
    canvas.mark(ear, REGIONS["ears"])
    rim = ellipse(point[2] + 0.04, point[1] + 0.04, 0.36 * size, 0.66 * size)
    canvas.paint(0.45 * ear * cover(rim, 0.04), palette["skin_shadow"])
    hole = ellipse(point[2] - 0.01, point[1] + 0.07, 0.16 * size, 0.25 * size)
    canvas.paint(0.7 * ear * cover(hole, 0.03), palette["skin_dark"])


def _shade_hair(portraits: _Portraits, point: Point, *, normal: Point) -> Field:
    tone = compute_strands(point, portraits.seed)
    canvas = Canvas.create(portraits.palette["hair"], region=REGIONS["hair"], pixels=tone.shape[1])
    strands = 1.0 - portraits.person["cap"]  # a cap is smooth
    canvas.paint(0.55 * clip(-tone) * strands, portraits.palette["hair_dark"])
    canvas.paint(0.45 * clip(tone) * strands, portraits.palette["hair_light"])
    return canvas.colour * portraits.compute_light(normal)


def _blur(picture: Field, share: Field) -> Field:
    """Mix each pixel with its neighbours at 1, 2, 4, ... pixels, up to 1/48 of the picture."""
    step = 1
    while step * 48 <= picture.shape[-1]:
        for axis in (2, 3):
            before, after = np.roll(picture, step, axis), np.roll(picture, -step, axis)
            if axis == 2:
                before[:, :, :step], after[:, :, -step:] = picture[:, :, :1], picture[:, :, -1:]
            else:
                before[..., :step], after[..., -step:] = picture[..., :1], picture[..., -1:]
            picture = picture + share * (np.float32(0.25) * (before + after) - np.float32(0.5) * picture)
        step *= 2
    return picture


def _develop(picture: Field, scene: Columns, keys: npt.NDArray[np.uint64]) -> Bytes:
    """Exposure, haze and sensor noise; then whole grey levels."""
    size = picture.shape[-1]
    gain, lift = scene["gain"][:, :, None], scene["lift"][:, :, None]
    level = (picture * gain * (np.float32(1.0) - lift) + lift) * np.float32(255.0)
    low = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)[:, None]
    high = (keys >> np.uint64(32)).astype(np.uint32)[:, None]
    words = scramble(scramble(np.arange(size * size, dtype=np.uint32)[None] ^ low) + high)
    total = np.zeros(words.shape, np.int32)
    for shift in (0, 8, 16, 24):
        total += (words >> np.uint32(shift) & np.uint32(255)).astype(np.int32)
    grain = (total - 510).astype(np.float32) * np.float32(1.0 / 147.8)  # standard deviation 1
    level = level + (grain * scene["noise"]).reshape(len(keys), size, size)
    return np.floor(clip(level + np.float32(0.5), 0.0, 255.0)).astype(np.uint8)
