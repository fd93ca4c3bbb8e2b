"""What is painted around the head: background, neck and clothes behind it, occluders in front of it?"""

from __future__ import annotations

import numpy as np

from facespec.data.embedded.canvas import REGIONS, Canvas, Palette
from facespec.data.embedded.geometry import Field, clip, cover, ellipse, smoothstep
from facespec.data.embedded.head import Columns
from facespec.data.embedded.scenes import OCCLUDERS, SHAPES
from facespec.data.embedded.view import Camera


def paint_background(scene: Columns, camera: Camera, palette: Palette) -> Canvas:
    """A wall of sloping brightness with soft and sharp shapes on it; it does not move with the head."""
    u, v = camera.u + scene["shift_x"], camera.v + scene["shift_y"]
    u, v = u / scene["scale"], v / scene["scale"]
    canvas = Canvas.create(palette["back"], region=REGIONS["background"], pixels=u.shape[1])
    canvas.colour = canvas.colour * (1.0 + scene["back_slope_x"] * u + scene["back_slope_y"] * v)
    for i in range(SHAPES):
        du, dv = u - scene[f"shape{i}_x"], v - scene[f"shape{i}_y"]
        rx, ry = scene[f"shape{i}_rx"], scene[f"shape{i}_ry"]
        box = np.maximum(np.abs(du) - rx, np.abs(dv) - ry)
        distance = np.where(scene[f"shape{i}_box"] > 0.0, box, ellipse(du, dv, rx, ry))
        softness = 0.06 + 0.3 * clip(-scene[f"shape{i}_box"])
        canvas.paint(scene[f"shape{i}_strength"] * cover(distance, softness), palette[f"shape{i}"])
    return canvas


def paint_body(person: Columns, scene: Columns, camera: Camera, *, canvas: Canvas, palette: Palette) -> Field:
    """Neck and shirt; returns the depth of the body's surface, far behind where there is none."""
    yaw_sine = scene["yaw_s"]
    hang_u = yaw_sine * -0.26
    du = camera.u - hang_u - 0.15 * yaw_sine * (camera.v + 1.2)
    radius = 0.30 + 0.45 * (person["jaw_width"] - 0.34) + 0.05 * np.abs(yaw_sine)
    round_ = np.sqrt(np.maximum(1.0 - (du / radius) * (du / radius), 0.0))
    neck = cover(
        np.maximum(np.abs(du) - radius - 0.25 * np.maximum(-1.05 - camera.v, 0.0), camera.v + 0.35), camera.pixel
    )
    light = 0.34 + 0.30 * round_ + 0.20 * clip(du / radius, -1.0, 1.0) * scene["light_x"]
    light = light * (0.55 + 0.45 * smoothstep((-0.80 - camera.v) / 0.5))
    canvas.paint(neck, palette["skin"] * clip(light, 0.12, 1.0))
    canvas.mark(neck, REGIONS["neck"])
    broad = 0.85 + 0.60 * np.abs(scene["yaw_c"])
    su, sv = camera.u - hang_u, camera.v + 1.96
    torso = ellipse(su, sv, broad, 0.80)
    collar = ellipse(du, camera.v + 1.12, radius * 1.12, 0.30)
    shirt = cover(np.maximum(torso, -collar), camera.pixel)
    folds = clip(0.80 + 0.25 * sv + 0.20 * su * scene["light_x"], 0.3, 1.1)
    canvas.paint(shirt, palette["clothes"] * folds)
    canvas.mark(shirt, REGIONS["clothes"])
    depth = np.where(neck > 0.5, -0.28 * scene["yaw_c"] + 0.40 * round_, np.float32(-3.0))
    return np.where(shirt > 0.5, np.float32(0.10), depth)


def paint_occluder(scene: Columns, camera: Camera, canvas: Canvas, palette: Palette) -> None:
    """A bar, the fingers of a hand or a scarf in front of the face (dark glasses are worn, see `marks`)."""
    du, dv = camera.u - scene["occluder_x"], camera.v - scene["occluder_y"]
    c, s = scene["occluder_c"], scene["occluder_s"]
    along, across = c * du + s * dv, c * dv - s * du
    width = scene["occluder_width"]
    kind = scene["occluder"]
    bar = np.abs(across) - 1.3 * width
    fingers = np.abs(across - width) - 0.55 * width
    for offset in (-1.0, 3.0, -3.0):
        fingers = np.minimum(fingers, np.abs(across - offset * width) - (0.75 + 0.05 * offset) * width)
    fingers = np.maximum(fingers, along - 0.1 * np.abs(across) - 0.15)
    scarf = np.maximum(camera.v + 0.40 + 0.12 * np.abs(camera.u), -1.6 - camera.v)
    scarf = np.maximum(scarf, np.abs(camera.u) - 0.72)
    kinds = {name: kind == np.float32(code) for code, name in enumerate(OCCLUDERS)}
    distance = np.where(kinds["bar"], bar, np.where(kinds["hand"], fingers, scarf))
    present = (kinds["bar"] | kinds["hand"] | kinds["scarf"]).astype(np.float32)
    alpha = cover(distance, camera.pixel) * present
    colour = np.where(kinds["hand"], palette["skin"] * np.float32(0.80), palette["occluder"])
    ripple = 0.82 + 0.18 * clip(-distance / 0.05)
    canvas.paint(alpha, colour * ripple)
    canvas.mark(alpha, REGIONS["occluder"])
