"""From parameters to pixels: pure, one image at a time whatever the batch, the same bytes everywhere."""

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
from facespec.data.embedded.hair import hair_distance, strands
from facespec.data.embedded.head import Columns, Point, ear_distance, skin_distance
from facespec.data.embedded.marks import paint_beard, paint_glasses, paint_marks
from facespec.data.embedded.mouth import paint_mouth
from facespec.data.embedded.view import FARTHEST, Camera, compute_normals, place_camera, trace_rays

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

TILE = 1 << 15  # pixels worked on at once: their arrays fit a processor's cache


def paint(
    people: Floats, units: Floats, scene: Floats, *, keys: npt.NDArray[np.uint64], size: int, channels: int
) -> tuple[Bytes, Bytes]:
    """Images (n, size, size[, 3]) and region codes (n, size, size) of n faces.

    `people` (n, identity parameters), `units` (n, 13), `scene` (n, scene parameters), `keys` (n,) of the noise.
    """
    n = len(keys)
    images = np.empty((n, size, size, channels), np.uint8)
    regions = np.empty((n, size, size), np.uint8)
    step = max(1, TILE // (size * size))
    for start in range(0, n, step):
        part = slice(start, start + step)
        colour, region = _tile(
            _columns(anatomy.PARAMETERS, people[part]),
            _columns(_UNIT_NAMES, units[part]),
            _columns(scenes.COLUMNS, scene[part]),
            keys=keys[part],
            size=size,
            channels=channels,
        )
        images[part] = np.moveaxis(colour, 0, -1)
        regions[part] = region
    return (images if channels == 3 else images[..., 0]), regions


_UNIT_NAMES = tuple(f"au{unit}" for unit in UNITS)


def _columns(names: tuple[str, ...], table: Floats) -> Columns:
    return {name: table[:, index : index + 1].astype(np.float32) for index, name in enumerate(names)}


@dataclass(frozen=True)
class _Shot:
    """Everything that a picture of n faces is made from: parameters as columns, the camera and the colours."""

    who: Columns
    act: Columns
    scene: Columns
    view: Camera
    colours: Palette

    @property
    def seed(self) -> Words:
        return derive_person_seed(self.who)

    def light(self, normal: Point) -> Field:
        """Wrapped diffuse light: soft, with a shadow side that is never black."""
        towards, scene = self.view.light, self.scene
        facing = normal[0] * towards[0] + normal[1] * towards[1] + normal[2] * towards[2]
        wrapped = clip(0.35 + 0.65 * facing)
        return scene["ambient"] * (0.85 + 0.15 * normal[1]) + scene["diffuse"] * wrapped


def _tile(
    who: Columns, act: Columns, scene: Columns, *, keys: npt.NDArray[np.uint64], size: int, channels: int
) -> tuple[Bytes, Bytes]:
    view = place_camera(scene, size)
    colours = build_palette(who, scene, channels=channels)
    canvas = paint_background(scene, view, colours)
    body = paint_body(who, scene, view, canvas=canvas, palette=colours)
    _paint_head(_Shot(who, act, scene, view, colours), canvas, body=body)
    paint_occluder(scene, view, canvas, colours)
    shape = (channels, len(keys), size, size)
    picture = _blurred(canvas.colour.reshape(shape), scene["blur"][:, :, None])
    return _developed(picture, scene, keys), canvas.region.reshape(shape[1:])


def _paint_head(shot: _Shot, canvas: Canvas, *, body: Field) -> None:
    """Skin, with hair behind and before it; `body` is the depth of neck and shirt."""
    view, who, act = shot.view, shot.who, shot.act
    skin_depth, skin_alpha = trace_rays(view, skin_distance, who, act=act, until=-FARTHEST)
    # only whole skin hides hair, here and below: where there is none, its depth must not show, it moves with the jaw
    hidden = np.where(skin_alpha >= 1.0, skin_depth - 0.1, np.float32(-FARTHEST))
    hair_depth, hair_alpha = trace_rays(view, hair_distance, who, act=act, until=hidden)
    hair_alpha = hair_alpha * (hair_depth > np.maximum(body, hidden))
    skin_alpha = skin_alpha * (skin_depth > body - 0.25)
    normal = compute_normals(view, hair_distance, who, act=act, depth=hair_depth, seen=hair_alpha)
    wisps = _lit_hair(shot, view.at(hair_depth), normal=normal)
    canvas.paint(hair_alpha, wisps)
    canvas.mark(hair_alpha, REGIONS["hair"])
    face = _painted_skin(shot, view.at(skin_depth))
    normal = compute_normals(view, skin_distance, who, act=act, depth=skin_depth, seen=skin_alpha)
    face.colour = face.colour * shot.light(normal)
    canvas.paint(skin_alpha, face.colour)
    canvas.mark(skin_alpha, face.region)
    before = hair_alpha * clip((hair_depth - skin_depth) / 0.02 + 0.5) * (skin_alpha > 0.0)
    canvas.paint(before, wisps)
    canvas.mark(before, REGIONS["hair"])


def derive_person_seed(who: Columns) -> Words:
    """A word per person from identity alone, for freckles and strands: the same in every picture of a person."""
    return scramble((who["head_width"] * np.float32(4.0e6)).astype(np.int32).view(np.uint32))


def _painted_skin(shot: _Shot, point: Point) -> Canvas:
    colours = shot.colours
    face = Face.seen(shot.who, shot.act, shot.scene, point=point, soft=shot.view.pixel * 1.1)
    canvas = Canvas.filled(colours["skin"], region=REGIONS["outline"], pixels=face.x.shape[1])
    _paint_ears(face, canvas, colours, point=point)
    cheek = clip(1.0 - ellipse(face.ax - 0.36, face.y + 0.24, 0.12, 0.10) / 0.12)
    canvas.paint(0.35 * cheek * face.front, colours["blush"])
    paint_folds(face, canvas, colours)
    paint_eye_folds(face, canvas, colours)
    paint_beard(face, canvas, colours, seed=shot.seed)
    paint_nose(face, canvas, colours)
    paint_marks(face, canvas, colours, seed=shot.seed)  # on skin: never on an eye, a brow or teeth
    paint_eyes(face, canvas, colours)
    paint_brows(face, canvas, colours)
    paint_mouth(face, canvas, colours)
    paint_glasses(face, canvas, colours)
    return canvas


def _paint_ears(face: Face, canvas: Canvas, colours: Palette, *, point: Point) -> None:
    size = face.who["ear_size"]
    ear = cover(ear_distance(face.who, point) - 0.012, face.soft)
    canvas.mark(ear, REGIONS["ears"])
    rim = ellipse(point[2] + 0.04, point[1] + 0.04, 0.36 * size, 0.66 * size)
    canvas.paint(0.45 * ear * cover(rim, 0.04), colours["skin_shadow"])
    hole = ellipse(point[2] - 0.01, point[1] + 0.07, 0.16 * size, 0.25 * size)
    canvas.paint(0.7 * ear * cover(hole, 0.03), colours["skin_dark"])


def _lit_hair(shot: _Shot, point: Point, *, normal: Point) -> Field:
    tone = strands(point, shot.seed)
    canvas = Canvas.filled(shot.colours["hair"], region=REGIONS["hair"], pixels=tone.shape[1])
    canvas.paint(0.55 * clip(-tone), shot.colours["hair_dark"])
    canvas.paint(0.45 * clip(tone), shot.colours["hair_light"])
    return canvas.colour * shot.light(normal)


def _blurred(picture: Field, share: Field) -> Field:
    """Mix each pixel with its neighbours 1, 2, 4, ... pixels away, out to 1/48 of the picture."""
    reach = 1
    while reach * 48 <= picture.shape[-1]:
        for axis in (2, 3):
            before, after = np.roll(picture, reach, axis), np.roll(picture, -reach, axis)
            if axis == 2:
                before[:, :, :reach], after[:, :, -reach:] = picture[:, :, :1], picture[:, :, -1:]
            else:
                before[..., :reach], after[..., -reach:] = picture[..., :1], picture[..., -1:]
            picture = picture + share * (np.float32(0.25) * (before + after) - np.float32(0.5) * picture)
        reach *= 2
    return picture


def _developed(picture: Field, scene: Columns, keys: npt.NDArray[np.uint64]) -> Bytes:
    """Exposure, haze and sensor noise; then whole grey levels."""
    size = picture.shape[-1]
    gain, lift = scene["gain"][:, :, None], scene["lift"][:, :, None]
    level = (picture * gain * (np.float32(1.0) - lift) + lift) * np.float32(255.0)
    low = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)[:, None]
    high = (keys >> np.uint64(32)).astype(np.uint32)[:, None]
    words = scramble(scramble(np.arange(size * size, dtype=np.uint32)[None] ^ low) + high)
    four = np.zeros(words.shape, np.int32)
    for shift in (0, 8, 16, 24):
        four += (words >> np.uint32(shift) & np.uint32(255)).astype(np.int32)
    grain = (four - 510).astype(np.float32) * np.float32(1.0 / 147.8)  # standard deviation 1
    level = level + (grain * scene["noise"]).reshape(len(keys), size, size)
    return np.floor(clip(level + np.float32(0.5), 0.0, 255.0)).astype(np.uint8)
