"""Which marks distinguish people: freckles, a mole, a scar, glasses, the beard?"""

from __future__ import annotations

import numpy as np

from facespec.data.embedded.canvas import REGIONS, Canvas, Palette
from facespec.data.embedded.features import Face
from facespec.data.embedded.geometry import (
    Words,
    clip,
    cover,
    cover_line,
    ellipse,
    hash_cells,
    scramble,
    smoothstep,
    to_fraction,
)
from facespec.data.embedded.hair import compute_stubble, cover_beard
from facespec.data.embedded.head import undo_jaw


def paint_marks(face: Face, canvas: Canvas, palette: Palette, *, seed: Words) -> None:
    """Freckles, mole and scar; the lower ones move with the jaw. `seed` (n, 1) places a person's freckles."""
    person, x, soft = face.person, face.x, face.soft
    y = undo_jaw(face.units, face.y)
    word, in_x, in_y = hash_cells(x * 15.0, y * 15.0, seed)
    spot_x, spot_y = 0.25 + 0.5 * to_fraction(scramble(word)), 0.25 + 0.5 * to_fraction(scramble(word + np.uint32(1)))
    spot = cover(ellipse(in_x - spot_x, in_y - spot_y, 0.22, 0.22), soft * 15.0) * (to_fraction(word) < 0.6)
    area = clip(1.0 - np.abs(ellipse(face.ax - 0.22, y + 0.16, 0.30, 0.16)) / 0.30) * smoothstep((0.05 - y) / 0.06)
    canvas.paint(0.42 * person["freckles"] * spot * area * face.front, palette["skin_shadow"])
    scar_y = y - person["scar_y"] - person["scar_slope"] * (x - person["scar_x"])
    steep = np.sqrt(1.0 + person["scar_slope"] * person["scar_slope"])
    scar = (
        cover_line(scar_y / steep, 0.012, soft) * smoothstep((0.10 - np.abs(x - person["scar_x"])) / 0.04) * face.front
    )
    canvas.paint(0.6 * person["scar"] * scar, palette["skin_shadow"])
    canvas.mark(scar * (person["scar"] > 0.0), REGIONS["marks"])
    size = np.maximum(person["mole_size"], 0.001)
    mole = cover(ellipse(x - person["mole_x"], y - person["mole_y"], size, size), soft)
    mole = mole * face.front * (person["mole_size"] > 0.0)
    canvas.paint(0.85 * mole, palette["skin_dark"])
    canvas.mark(mole, REGIONS["marks"])


def paint_beard(face: Face, canvas: Canvas, palette: Palette, *, seed: Words) -> None:
    """Beard and moustache, which count as hair."""
    y = undo_jaw(face.units, face.y)
    beard = cover_beard(face.person, (face.x, y, face.z))
    grain = 0.62 + 0.38 * compute_stubble((face.x, y, face.z), seed)
    canvas.paint(0.95 * beard * grain, palette["hair_dark"])
    canvas.mark(beard, REGIONS["hair"])


def paint_glasses(face: Face, canvas: Canvas, palette: Palette) -> None:
    """Rims, bridge and temples; dark lenses where the scene asks for them."""
    person, ax, y, soft = face.person, face.ax, face.y, face.soft
    shaded = (face.scene["occluder"] == 4.0).astype(np.float32)
    worn = np.maximum((person["glasses"] > 0.0).astype(np.float32), shaded)
    rx, ry = person["glasses_width"] * (1.0 + 0.1 * shaded), person["glasses_height"] * (1.0 + 0.1 * shaded)
    dx = ax - person["eye_spacing"] - 0.01
    lens = ellipse(dx, y, rx, ry)
    boxy = np.maximum(np.abs(dx) - rx, np.abs(y) - ry)
    lens = 0.5 * (lens + boxy)
    rim = cover_line(lens, 0.012, soft) * face.front
    bridge = cover_line(y - 0.05, 0.014, soft) * cover(np.maximum(dx + rx, -lens), soft)
    temple = (
        cover_line(y - 0.055, 0.014, soft) * smoothstep((dx + 0.01 - rx) / 0.03) * smoothstep((face.z + 0.10) / 0.05)
    )
    frame = np.maximum(np.maximum(rim, bridge * face.front), temple) * worn
    canvas.paint((0.45 + 0.5 * np.maximum(person["glasses"], shaded)) * frame, palette["frame"])
    canvas.mark(frame, REGIONS["marks"])
    dark = cover(lens, soft) * shaded * face.front
    canvas.paint(0.94 * dark, palette["black"])
    canvas.mark(dark, REGIONS["occluder"])
