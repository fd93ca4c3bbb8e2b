"""How are colour and region of every pixel painted, and which colours does a person have in a scene?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facespec.data.embedded.geometry import Field, clip
from facespec.data.embedded.head import Columns

# Codes of the regions. The first eight are the study's facial regions; "outline" is the skin around the features.
REGIONS: dict[str, int] = {
    "background": 0,
    "hair": 1,
    "outline": 2,
    "brows": 3,
    "eyes": 4,
    "nose": 5,
    "mouth": 6,
    "marks": 7,
    "ears": 8,
    "neck": 9,
    "clothes": 10,
    "occluder": 11,
}

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of red, green and blue

Colour = Field  # (channels, n, 1)
Palette = dict[str, Colour]

SKIN = ((0.97, 0.83, 0.74), (0.91, 0.72, 0.58), (0.78, 0.57, 0.42), (0.62, 0.43, 0.31), (0.47, 0.32, 0.24))
HAIR = ((0.85, 0.72, 0.48), (0.62, 0.44, 0.25), (0.36, 0.22, 0.13), (0.19, 0.12, 0.08), (0.07, 0.06, 0.06))
IRIS = ((0.55, 0.70, 0.80), (0.42, 0.55, 0.45), (0.45, 0.32, 0.16), (0.25, 0.15, 0.08), (0.14, 0.08, 0.05))


class Canvas:
    """Colour (channels, n, pixels) and region (n, pixels), painted over from back to front."""

    def __init__(self, colour: Field, region: npt.NDArray[np.uint8]) -> None:
        self.colour = colour
        self.region = region

    @classmethod
    def create(cls, colour: Colour, *, region: int, pixels: int) -> Canvas:
        channels, n, _ = colour.shape
        fill = np.empty((channels, n, pixels), np.float32)
        fill[...] = colour
        return cls(fill, np.full((n, pixels), region, np.uint8))

    def paint(self, alpha: Field, colour: Field) -> None:
        """Mix `colour` (channels, n, 1 or pixels) in by `alpha` (n, pixels)."""
        for channel, new in zip(self.colour, colour, strict=True):
            channel += alpha * (new - channel)

    def mark(self, alpha: Field, region: int | npt.NDArray[np.uint8]) -> None:
        """Assign the pixels with `alpha` of at least 0.5 to `region`."""
        self.region = np.where(alpha >= 0.5, np.asarray(region, np.uint8), self.region)


def _blend(stops: tuple[tuple[float, float, float], ...], t: Field) -> Colour:
    """(3, n, 1) colours along `stops` at `t` in [0, 1]."""
    at = clip(t) * np.float32(len(stops) - 1)
    colour = np.empty((3, *t.shape), np.float32)
    for channel in range(3):
        value = np.full_like(at, stops[0][channel])
        for index in range(1, len(stops)):
            rise = np.float32(stops[index][channel] - stops[index - 1][channel])
            value = value + rise * clip(at - np.float32(index - 1))
        colour[channel] = value
    return colour


def _rgb(red: Field, green: Field, blue: Field) -> Colour:
    return np.stack([red, green, blue])


def _mix(a: Colour, b: Colour, share: Field | float) -> Colour:
    return a + (b - a) * share


def build_palette(person: Columns, scene: Columns, *, channels: int) -> Palette:
    """All colours of n faces, as RGB or as its luminance: painting mixes linearly, so both give the same grey."""
    one = np.ones_like(person["age"])
    skin = _blend(SKIN, person["skin_tone"])
    skin = skin * _rgb(one, 1.0 - 0.07 * person["skin_red"], 1.0 - 0.10 * person["skin_red"])
    skin = skin * (scene["skin_level"] / _measure_luminance(skin))  # the camera exposes for the skin, whatever its tone
    brow = _blend(HAIR, person["brow_tone"])
    hair = _blend(HAIR, person["hair_tone"])
    hair = hair * _rgb(1.0 + 0.30 * person["hair_red"], one, 1.0 - 0.25 * person["hair_red"])
    hair = _mix(hair, _rgb(0.74 * one, 0.74 * one, 0.76 * one), person["hair_grey"])
    hair = _mix(hair, _rgb(0.30 * one, 0.31 * one, 0.34 * one), person["cap"])
    iris = _blend(IRIS, person["iris_tone"]) * _rgb(
        one, 1.0 + 0.15 * person["iris_hue"], 1.15 - 0.30 * person["iris_hue"]
    )
    red_lips = skin * _rgb(0.86 * one, 0.50 * one, 0.52 * one)
    colours = {
        "skin": skin,
        "skin_shadow": skin * _rgb(0.52 * one, 0.42 * one, 0.38 * one),
        "skin_dark": skin * _rgb(0.24 * one, 0.15 * one, 0.14 * one),
        "blush": skin * _rgb(one, 0.80 * one, 0.80 * one),
        "lips": _mix(skin * _rgb(0.88 * one, 0.66 * one, 0.64 * one), red_lips, person["lip_tone"]),
        "mouth": _rgb(0.16 * one, 0.04 * one, 0.05 * one),
        "teeth": _rgb(0.97 * one, 0.95 * one, 0.90 * one),
        "sclera": _rgb(0.94 * one, 0.93 * one, 0.92 * one),
        "iris": iris,
        "black": _rgb(0.03 * one, 0.03 * one, 0.03 * one),
        "white": _rgb(one, one, one),
        "lash": _mix(brow * 0.25, skin * 0.12, 0.5),
        "hair": hair,
        "hair_light": _mix(hair * 1.35, _rgb(one, 0.95 * one, 0.85 * one), 0.05),
        "hair_dark": hair * 0.45,
        "brow": _mix(brow * 0.60, skin * _rgb(0.20 * one, 0.14 * one, 0.11 * one), 0.5),
        "frame": _mix(skin * 0.5, _rgb(0.06 * one, 0.05 * one, 0.05 * one), person["glasses"]),
    }
    for name in ("clothes", "back", "occluder", *sorted({key[:6] for key in scene if key.startswith("shape")})):
        colours[name] = _rgb(*(scene[f"{name}_{part}"] for part in "rgb"))
    warm = _rgb(1.0 + scene["tint"], one, 1.0 - scene["tint"])
    return {name: _convert(colour * warm, channels) for name, colour in colours.items()}


def _convert(colour: Colour, channels: int) -> Colour:
    if channels == 3:
        return colour.astype(np.float32)
    return _measure_luminance(colour)[None].astype(np.float32)


def _measure_luminance(colour: Colour) -> Field:
    red, green, blue = LUMINANCE
    return red * colour[0] + green * colour[1] + blue * colour[2]
