"""How is the mouth painted: two lips around a line that opens, with teeth and a dark inside?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facespec.data.embedded.canvas import REGIONS, Canvas, Palette
from facespec.data.embedded.features import Face
from facespec.data.embedded.geometry import Field, clip, cover, cover_band, cover_line, ellipse, smoothstep


@dataclass(frozen=True)
class Mouth:
    """Heights at every point of skin: the edges of lips and opening; `half` (n, 1) is the half width."""

    half: Field
    corner: Field
    middle: Field
    lip_top: Field
    inner_top: Field
    inner_bottom: Field
    lip_bottom: Field


def shape_mouth(face: Face) -> Mouth:
    """The mouth that identity and action units make."""
    person, units = face.person, face.units
    smile, sad, stretch = units["au12"], units["au15"], units["au20"]
    drop, tight, low = units["au26"], units["au23"], units["au16"]
    raised, chin, open_ = units["au10"], units["au17"], units["au25"]
    lean = 1.0 + (person["asymmetry_mouth"] + face.scene["uneven_mouth"]) * clip(face.x / 0.2, -1.0, 1.0)
    rounded = 0.22 * drop * (1.0 - clip(stretch + smile))
    half = person["mouth_width"] * (1.0 + 0.34 * smile + 0.30 * stretch - 0.16 * tight - rounded)
    s = clip(face.ax / half)
    ss = s * s
    # the opening: crescents with the jaw up, round with the jaw down, nearly a box where lips are stretched or bared
    round_ = np.sqrt(np.maximum(1.0 - ss, 0.0))
    bow = (1.0 - ss) + (round_ - 1.0 + ss) * clip(drop + low)
    bow = bow + (np.sqrt(round_) - bow) * clip(0.8 * stretch + 0.5 * low)
    corner = 0.150 * smile * lean - 0.120 * sad * lean - 0.055 * stretch - 0.045 * chin - 0.020 * raised
    height = person["mouth_height"] - 0.010 * sad + 0.025 * chin
    middle = height + corner * (ss - 0.35) + 0.015 * units["au9"]
    up = 0.060 * drop + 0.065 * units["au9"] + 0.015 * smile + 0.075 * raised + 0.012 * open_
    parted = np.maximum(smile - 0.35, 0.0)
    down = 0.22 * drop * (1.0 - 0.35 * clip(stretch)) + 0.075 * low + 0.15 * parted + 0.045 * stretch + 0.045 * open_
    down = down * (1.0 - 0.5 * clip(chin))
    thin = 1.0 - 0.60 * clip(tight)
    upper = person["lip_upper"] * thin * (1.0 - 0.30 * clip(smile) - 0.35 * clip(units["au9"]) - 0.25 * clip(raised))
    lower = person["lip_lower"] * thin * (1.0 - 0.20 * clip(smile)) * (1.0 + 0.25 * clip(chin))
    bow_dip = 1.0 - 0.30 * clip(1.0 - s / 0.22)
    lips = 1.0 - ss * ss * s
    inner_top, inner_bottom = middle + up * bow, middle - down * bow
    return Mouth(
        half,
        height + corner * 0.65,
        middle,
        inner_top + upper * lips * bow_dip,
        inner_top,
        inner_bottom,
        inner_bottom - lower * lips,
    )


def paint_mouth(face: Face, canvas: Canvas, palette: Palette) -> None:
    """Lips, opening, teeth, the line between the lips and the corners."""
    units, ax, y, soft = face.units, face.ax, face.y, face.soft
    mouth = shape_mouth(face)
    outside = ax - mouth.half
    lips = np.maximum(np.maximum(y - mouth.lip_top, mouth.lip_bottom - y), outside)
    canvas.mark(cover(lips - 0.03, soft) * face.front, REGIONS["mouth"])
    under = cover_band(y, mouth.lip_bottom - 0.10, mouth.lip_bottom - 0.015, 0.05) * smoothstep((0.20 - ax) / 0.12)
    canvas.paint((0.22 + 0.30 * clip(units["au17"])) * under * face.front, palette["skin_shadow"])
    _chin_boss(face, canvas, palette, mouth=mouth)
    canvas.paint(0.85 * cover(lips, soft * 1.2) * face.front, palette["lips"])
    gap = np.maximum(np.maximum(y - mouth.inner_top, mouth.inner_bottom - y), outside)
    opened = clip((mouth.inner_top - mouth.inner_bottom) / 0.03)
    inside = cover(gap, soft) * face.front * opened
    canvas.paint(inside, palette["mouth"])
    _teeth(face, canvas, palette, mouth=mouth, inside=inside)
    meet = cover_line(y - 0.5 * (mouth.inner_top + mouth.inner_bottom), 0.008 + 0.010 * clip(units["au23"]), soft)
    canvas.paint(0.75 * meet * cover(outside, soft) * face.front * (1.0 - opened), palette["skin_dark"])
    strength = 0.25 + 0.40 * clip(np.maximum(units["au12"], units["au15"]))
    dot = cover(ellipse(ax - mouth.half - 0.005, y - mouth.corner, 0.026, 0.022), soft)
    canvas.paint(strength * dot * face.front, palette["skin_dark"])


def _chin_boss(face: Face, canvas: Canvas, palette: Palette, *, mouth: Mouth) -> None:
    """The chin pushed up: a ring of shadow around it."""
    height = 0.5 * (mouth.lip_bottom + face.person["chin_length"])
    ring = cover_line(ellipse(face.ax, face.y - height, 0.13, 0.075), 0.012, face.soft * 1.3)
    canvas.paint(0.45 * clip(face.units["au17"]) * ring * face.front, palette["skin_shadow"])


def _teeth(face: Face, canvas: Canvas, palette: Palette, *, mouth: Mouth, inside: Field) -> None:
    """Upper teeth below the upper lip, more of them in a smile; lower ones when the lower lip is pulled down."""
    units, y, soft = face.units, face.y, face.soft
    width = 0.015 + 0.11 * clip(units["au12"]) + 0.045 * clip(units["au20"]) + 0.02 * clip(units["au9"])
    width = width + 0.02 * clip(units["au9"]) + 0.06 * clip(units["au10"])
    upper = inside * cover(mouth.inner_top - width - y, soft)
    canvas.paint(0.95 * upper * clip(width / 0.02), palette["teeth"])
    width = 0.05 * clip(units["au16"]) + 0.03 * clip(units["au20"]) - 0.05 * clip(units["au12"])
    lower = inside * cover(y - mouth.inner_bottom - width, soft) * clip(width / 0.02)
    canvas.paint(0.85 * lower, palette["teeth"])
    gaps = (face.x + 2.0) * 18.0
    seam = cover_line(np.abs(gaps - np.floor(gaps) - 0.5) * (1.0 / 18.0), 0.002, soft)
    canvas.paint(0.18 * np.maximum(upper, lower) * seam, palette["skin_dark"])
