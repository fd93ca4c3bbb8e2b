"""How are eyes, brows, nose and the folds of expressions painted on the skin?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facespec.data.embedded.canvas import REGIONS, Canvas, Palette
from facespec.data.embedded.geometry import Field, clip, cover, cover_band, cover_line, ellipse, smoothstep
from facespec.data.embedded.head import Columns, Point, normalise_height


@dataclass(frozen=True)
class Face:
    """The visible points of skin and the parameters, from which features are painted.

    `ax` = |x|; `side` -1 or 1; `front` 1 where the skin belongs to the face and not to the head's sides; `soft` (n, 1)
    the width of an edge; `y` is the height on an average face (`normalise_height`).
    """

    person: Columns
    units: Columns
    scene: Columns
    x: Field
    y: Field
    z: Field
    soft: Field
    ax: Field
    side: Field
    front: Field

    @classmethod
    def from_point(cls, person: Columns, units: Columns, scene: Columns, *, point: Point, soft: Field) -> Face:
        x, y, z = point
        side = np.where(x < 0.0, np.float32(-1.0), np.float32(1.0))
        return cls(
            person,
            units,
            scene,
            x,
            normalise_height(person, y),
            z,
            soft,
            np.abs(x),
            side,
            smoothstep((z - 0.18) / 0.10),
        )


def paint_nose(face: Face, canvas: Canvas, palette: Palette) -> None:
    """Shadow below the tip, nostrils, and the wrinkles of a nose pulled up."""
    person, units, ax, y = face.person, face.units, face.ax, face.y
    width, base = person["nose_width"], person["nose_length"] + 0.055 * units["au9"]
    t = clip((0.12 - y) / (0.12 - person["nose_length"]))
    body = np.maximum(ax - (0.055 + (1.0 * width - 0.02) * t * t), np.maximum(y - 0.14, base - 0.05 - y))
    canvas.mark(cover(body, face.soft) * face.front, REGIONS["nose"])
    shade = clip(1.0 - np.abs(ellipse(ax, y - base + 0.055, width * 1.25, 0.05) + 0.02) / 0.06)
    canvas.paint(0.30 * shade * face.front, palette["skin_shadow"])
    wing = cover_line(ellipse(ax - 1.02 * width, y - base - 0.02, 0.05, 0.07), 0.004, face.soft * 1.2)
    canvas.paint(
        (0.22 + 0.35 * units["au9"] + 0.25 * units["au10"]) * wing * smoothstep((ax - width) / 0.02) * face.front,
        palette["skin_shadow"],
    )
    hole = cover(ellipse(ax - 0.55 * width, y - base + 0.035, 0.40 * width, 0.026), face.soft)
    canvas.paint(0.75 * hole * face.front, palette["skin_dark"])
    for height in (0.00, 0.065, 0.13):
        fold = cover_line(y - height - 0.35 * ax, 0.016, face.soft) * smoothstep((0.17 - ax) / 0.05)
        canvas.paint(clip(units["au9"]) * fold * face.front, palette["skin_shadow"])


def paint_eyes(face: Face, canvas: Canvas, palette: Palette) -> None:
    """Eyeball, iris, pupil and glint between two lids."""
    person, scene, y, soft = face.person, face.scene, face.y, face.soft
    dx = face.ax - person["eye_spacing"]
    s = dx / person["eye_width"]
    middle = 0.02 + person["eye_tilt"] * dx
    upper, lower = _lids(face)
    round_ = np.maximum(1.0 - s * s, 0.0)
    top, bottom = middle + upper * round_, middle - lower * round_
    eye_region = ellipse(dx, y - middle, person["eye_width"] * 1.22, upper + 0.055)
    canvas.mark(cover(eye_region, soft) * face.front, REGIONS["eyes"])
    canvas.paint(0.30 * cover(ellipse(dx, y - middle - 0.02, 0.20, 0.12), 0.10) * face.front, palette["skin_shadow"])
    open_ = cover(np.maximum(np.maximum(y - top, bottom - y), np.abs(dx) - person["eye_width"]), soft) * face.front
    canvas.paint(open_, palette["sclera"])
    gaze = face.side * scene["gaze_x"]
    iris_x, iris_y = dx - gaze, y - middle - 0.012 - scene["gaze_y"]
    canvas.paint(
        open_ * cover(ellipse(iris_x, iris_y, person["iris_size"], person["iris_size"]), soft), palette["iris"]
    )
    pupil = cover(ellipse(iris_x, iris_y, 0.45 * person["iris_size"], 0.45 * person["iris_size"]), soft)
    canvas.paint(open_ * pupil, palette["black"])
    glint = cover(ellipse(iris_x + face.side * 0.025, iris_y - 0.026, 0.016, 0.016), soft)
    canvas.paint(0.9 * open_ * glint, palette["white"])
    within = smoothstep((1.08 - np.abs(s)) / 0.12) * face.front
    canvas.paint(0.92 * cover_line(y - top - 0.008, 0.013, soft) * within, palette["lash"])
    canvas.paint(0.40 * cover_line(y - bottom + 0.004, 0.004, soft) * within, palette["skin_dark"])
    crease = cover_line(y - top - person["lid_crease"] * (1.0 - 0.5 * face.units["au5"]), 0.005, soft)
    canvas.paint((0.35 + 0.25 * person["age"]) * crease * within, palette["skin_shadow"])


def _lids(face: Face) -> tuple[Field, Field]:
    """Height of the upper lid above, and depth of the lower lid below, the line between the corners of the eye."""
    units, scene = face.units, face.scene
    opening = face.person["eye_opening"]
    wide = 1.0 + 0.70 * units["au5"] * (1.0 - 0.25 * units["au4"])
    narrow = 0.32 * units["au7"] * (1.0 - 0.6 * units["au5"]) + 0.30 * units["au6"] + 0.40 * units["au9"]
    narrow = narrow + 0.22 * units["au1"] * units["au4"] * (1.0 - units["au5"])
    shut = clip(scene["blink"])
    upper = opening * np.maximum(wide - narrow, 0.18) * (1.0 - 0.95 * shut)
    pushed = 0.55 * units["au6"] + 0.45 * units["au7"] + 0.5 * units["au9"]
    lower = opening * 0.62 * np.maximum(1.0 + 0.20 * units["au5"] - pushed, 0.1)
    return upper, lower * (1.0 - 0.6 * shut)


def paint_brows(face: Face, canvas: Canvas, palette: Palette) -> None:
    """One tapered arc per side: raised inside (1), outside (2), lowered and drawn together (4, 9)."""
    person, ax, y = face.person, face.ax, face.y
    gain = 1.0 + (person["asymmetry_brow"] + face.scene["uneven_brow"]) * face.side
    inner_up, outer_up, down = face.units["au1"] * gain, face.units["au2"] * gain, face.units["au4"]
    start = person["brow_inner"] - 0.045 * clip(down)
    s = clip((ax - start) / person["brow_length"])

    def height_at(s: Field) -> Field:
        rest = 1.0 - s
        height = person["brow_height"] + person["brow_tilt"] * (s - 0.5) + 4.0 * person["brow_arch"] * s * rest
        height = height + 0.11 * inner_up * rest + 0.05 * inner_up * rest * down + 0.11 * outer_up * (0.35 + 0.65 * s)
        height = height - down * (0.125 * rest * (1.0 - 0.85 * clip(inner_up)) + 0.025)
        height = height - 0.095 * face.units["au9"] * (0.4 + 0.6 * rest)
        return height - 0.05 * clip(down) * clip(inner_up) * (1.0 - clip(outer_up)) * s

    height = height_at(s)
    slope = (height_at(s + 0.05) - height) * 20.0 / person["brow_length"]
    half = person["brow_thickness"] * (0.55 + 1.1 * s * (1.0 - s) + 0.45 * (1.0 - s)) * np.sqrt(1.0 + slope * slope)
    outside = np.maximum(start - ax, ax - start - person["brow_length"])
    distance = np.maximum(np.abs(y - height) - half, outside)
    hair = cover(distance, face.soft * 1.1) * face.front
    canvas.paint(0.88 * hair, palette["brow"])
    canvas.mark(cover(distance - 0.025, face.soft) * face.front, REGIONS["brows"])


def paint_folds(face: Face, canvas: Canvas, palette: Palette) -> None:
    """Lines that movements and years fold into cheeks and forehead."""
    person, units, ax, y = face.person, face.units, face.ax, face.y
    old = 0.45 * np.maximum(person["age"] - 0.45, 0.0)
    corner_x, corner_y = (
        person["mouth_width"] * (1.0 + 0.2 * units["au12"]) + 0.07,
        person["mouth_height"] + 0.06 * units["au12"],
    )
    top = person["nose_length"] + 0.06
    t = clip((top - y) / (top - corner_y))
    wing_x = 1.05 * person["nose_width"] + 0.035
    path = wing_x + (corner_x - wing_x) * t + 0.12 * units["au12"] * t * (1.0 - t)
    depth = 0.10 + old + 0.55 * units["au12"] + 0.85 * units["au9"] + 0.15 * units["au15"]
    depth = depth + 0.65 * units["au10"]
    fold = cover_line(ax - path, 0.010, face.soft * 1.1) * cover_band(y, corner_y, top, 0.09) * face.front
    canvas.paint(clip(depth, 0.0, 0.85) * fold, palette["skin_shadow"])
    frown = cover_line(ax - 0.045 - 0.12 * np.maximum(y - 0.2, 0.0), 0.009, face.soft) * cover_band(y, 0.10, 0.31, 0.08)
    canvas.paint(clip(0.70 * units["au4"] + 0.5 * old, 0.0, 0.7) * frown * face.front, palette["skin_shadow"])
    for row in (0.39, 0.46, 0.53):
        width = smoothstep((0.42 - ax) / 0.12)
        wrinkle = cover_line(y - row + 0.10 * ax * ax - 0.05 * units["au1"], 0.007, face.soft) * width * face.front
        strength = clip(0.35 * units["au1"] + 0.3 * units["au2"] + old, 0.0, 0.6)
        canvas.paint(strength * wrinkle, palette["skin_shadow"])


def paint_eye_folds(face: Face, canvas: Canvas, palette: Palette) -> None:
    """Crow's feet and the pouch below the eye."""
    person, units, ax, y = face.person, face.units, face.ax, face.y
    old = 0.45 * np.maximum(person["age"] - 0.45, 0.0)
    outer = person["eye_spacing"] + person["eye_width"]
    for slope in (-0.55, 0.0, 0.55):
        ray = cover_line(y - 0.02 - slope * (ax - outer + 0.03), 0.006, face.soft)
        ray = ray * cover_band(ax, outer + 0.035, outer + 0.14, 0.03)
        canvas.paint(clip(0.55 * units["au6"] + 0.8 * old, 0.0, 0.6) * ray * face.front, palette["skin_shadow"])
    pouch = cover_line(ellipse(ax - person["eye_spacing"], y, 0.17, 0.125), 0.008, face.soft) * smoothstep(
        (-0.03 - y) / 0.04
    )
    canvas.paint(
        clip(0.10 + 0.8 * old + 0.40 * units["au6"] + 0.15 * units["au7"], 0.0, 0.6) * pouch * face.front,
        palette["skin_shadow"],
    )
