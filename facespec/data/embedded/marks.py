"""What lies on the skin and tells people apart: freckles, a mole, a scar, glasses, the beard."""

from __future__ import annotations

import numpy as np

from facespec.data.embedded.canvas import REGIONS, Canvas, Palette
from facespec.data.embedded.features import Face
from facespec.data.embedded.geometry import Words, clip, cover, ellipse, lattice, line, scramble, smooth, unit
from facespec.data.embedded.hair import beard_cover, stubble
from facespec.data.embedded.head import jaw_drop


def paint_marks(face: Face, canvas: Canvas, palette: Palette, *, seed: Words) -> None:
    """Freckles, mole and scar; the lower ones move with the jaw. `seed` (n, 1) places a person's freckles."""
    who, x, soft = face.who, face.x, face.soft
    y = jaw_drop(face.act, face.y)
    word, in_x, in_y = lattice(x * 15.0, y * 15.0, seed)
    spot_x, spot_y = 0.25 + 0.5 * unit(scramble(word)), 0.25 + 0.5 * unit(scramble(word + np.uint32(1)))
    spot = cover(ellipse(in_x - spot_x, in_y - spot_y, 0.22, 0.22), soft * 15.0) * (unit(word) < 0.6)
    where = clip(1.0 - np.abs(ellipse(face.ax - 0.22, y + 0.16, 0.30, 0.16)) / 0.30) * smooth((0.05 - y) / 0.06)
    canvas.paint(0.42 * who["freckles"] * spot * where * face.front, palette["skin_shadow"])
    scar_y = y - who["scar_y"] - who["scar_slope"] * (x - who["scar_x"])
    steep = np.sqrt(1.0 + who["scar_slope"] * who["scar_slope"])
    scar = line(scar_y / steep, 0.012, soft) * smooth((0.10 - np.abs(x - who["scar_x"])) / 0.04) * face.front
    canvas.paint(0.6 * who["scar"] * scar, palette["skin_shadow"])
    canvas.mark(scar * (who["scar"] > 0.0), REGIONS["marks"])
    size = np.maximum(who["mole_size"], 0.001)
    mole = cover(ellipse(x - who["mole_x"], y - who["mole_y"], size, size), soft)
    mole = mole * face.front * (who["mole_size"] > 0.0)
    canvas.paint(0.85 * mole, palette["skin_dark"])
    canvas.mark(mole, REGIONS["marks"])


def paint_beard(face: Face, canvas: Canvas, palette: Palette, *, seed: Words) -> None:
    """Beard and moustache, which count as hair."""
    y = jaw_drop(face.act, face.y)
    hidden = beard_cover(face.who, (face.x, y, face.z))
    grain = 0.62 + 0.38 * stubble((face.x, y, face.z), seed)
    canvas.paint(0.95 * hidden * grain, palette["hair_dark"])
    canvas.mark(hidden, REGIONS["hair"])


def paint_glasses(face: Face, canvas: Canvas, palette: Palette) -> None:
    """Rims, bridge and temples; dark lenses where the scene asks for them."""
    who, ax, y, soft = face.who, face.ax, face.y, face.soft
    shaded = (face.scene["occluder"] == 4.0).astype(np.float32)
    worn = np.maximum((who["glasses"] > 0.0).astype(np.float32), shaded)
    rx, ry = who["glasses_width"] * (1.0 + 0.1 * shaded), who["glasses_height"] * (1.0 + 0.1 * shaded)
    dx = ax - who["eye_spacing"] - 0.01
    lens = ellipse(dx, y, rx, ry)
    boxy = np.maximum(np.abs(dx) - rx, np.abs(y) - ry)
    lens = 0.5 * (lens + boxy)
    rim = line(lens, 0.012, soft) * face.front
    bridge = line(y - 0.05, 0.014, soft) * cover(np.maximum(dx + rx, -lens), soft)
    temple = line(y - 0.055, 0.014, soft) * smooth((dx + 0.01 - rx) / 0.03) * smooth((face.z + 0.10) / 0.05)
    frame = np.maximum(np.maximum(rim, bridge * face.front), temple) * worn
    canvas.paint((0.45 + 0.5 * np.maximum(who["glasses"], shaded)) * frame, palette["frame"])
    canvas.mark(frame, REGIONS["marks"])
    dark = cover(lens, soft) * shaded * face.front
    canvas.paint(0.94 * dark, palette["black"])
    canvas.mark(dark, REGIONS["occluder"])
