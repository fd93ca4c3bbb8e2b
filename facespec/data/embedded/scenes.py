"""Where and how a face is seen: pose, framing, light, background, occluders and sensor, per image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facespec.data.embedded.geometry import HALF_SQRT2, turn
from facespec.study.vocabulary import View

Floats = npt.NDArray[np.float64]

SHAPES = 5  # background objects
OCCLUDERS = ("none", "bar", "hand", "scarf", "dark glasses")

COLUMNS: tuple[str, ...] = (
    "yaw_c",
    "yaw_s",
    "pitch_c",
    "pitch_s",
    "roll_c",
    "roll_s",  # cosines and sines of the head's rotation
    "scale",  # head units from the image's centre to its edge
    "shift_x",
    "shift_y",  # of the head, in head units
    "light_x",
    "light_y",
    "ambient",
    "diffuse",  # where the light comes from (its z is 1), and how much
    "gain",
    "lift",
    "tint",  # exposure, haze, warmth
    "blur",
    "noise",  # share of full blur; standard deviation in grey levels
    "gaze_x",
    "gaze_y",
    "blink",
    "clothes_r",
    "clothes_g",
    "clothes_b",
    "back_r",
    "back_g",
    "back_b",
    "back_slope_x",
    "back_slope_y",
    *(f"shape{i}_{what}" for i in range(SHAPES) for what in ("x", "y", "rx", "ry", "box", "r", "g", "b", "strength")),
    "occluder",
    "occluder_x",
    "occluder_y",
    "occluder_c",
    "occluder_s",
    "occluder_width",
    "occluder_r",
    "occluder_g",
    "occluder_b",
)

# The camera around the head: cosine and sine of the yaw. Full left shows the left side of the face, nose to the
# image's left, which is -90 degrees.
YAWS: dict[View, tuple[float, float]] = {
    View.FULL_LEFT: (0.0, -1.0),
    View.HALF_LEFT: (HALF_SQRT2, -HALF_SQRT2),
    View.STRAIGHT: (1.0, 0.0),
    View.HALF_RIGHT: (HALF_SQRT2, HALF_SQRT2),
    View.FULL_RIGHT: (0.0, 1.0),
}


class _Draw:
    """Named columns from one block of uniforms, so that a column's range never shifts another column."""

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        self.uniforms = generator.random((n, len(COLUMNS)))
        self.more = generator.random((n, len(COLUMNS)))
        self.table = np.zeros((n, len(COLUMNS)))

    def even(self, name: str, low: float, high: float) -> None:
        self.put(name, low + (high - low) * self.uniforms[:, COLUMNS.index(name)])

    def peaked(self, name: str, low: float, high: float) -> None:
        column = COLUMNS.index(name)
        self.put(name, low + (high - low) * 0.5 * (self.uniforms[:, column] + self.more[:, column]))

    def put(self, name: str, values: npt.NDArray[np.floating] | float) -> None:
        self.table[:, COLUMNS.index(name)] = values

    def rotation(self, axis: str, half_tangent: float) -> None:
        """A rotation of at most twice the angle with tangent `half_tangent`, most near 0."""
        self.peaked(f"{axis}_c", -half_tangent, half_tangent)
        cosine, sine = turn(self.table[:, COLUMNS.index(f"{axis}_c")])
        self.put(f"{axis}_c", cosine)
        self.put(f"{axis}_s", sine)

    def colour(self, name: str) -> None:
        """Any brightness, pale: a level that the three primaries share, and a little of their own."""
        level = 0.04 + 0.86 * self.more[:, COLUMNS.index(f"{name}_g")]
        for part in "rgb":
            self.even(f"{name}_{part}", -0.14, 0.14)
            column = self.table[:, COLUMNS.index(f"{name}_{part}")]
            self.put(f"{name}_{part}", np.minimum(np.maximum(level + column, 0.02), 1.0))


def draw_wild(n: int, generator: np.random.Generator) -> Floats:
    """(n, len(COLUMNS)) unposed photographs: tight crops, turned heads, any light, clutter, occluders, blur, noise."""
    draw = _Draw(n, generator)
    draw.rotation("yaw", 0.26)
    draw.rotation("pitch", 0.12)
    draw.rotation("roll", 0.12)
    draw.peaked("scale", 0.98, 1.32)
    draw.peaked("shift_x", -0.17, 0.17)
    draw.peaked("shift_y", -0.16, 0.20)
    draw.peaked("light_x", -1.2, 1.2)
    draw.peaked("light_y", -0.5, 1.5)
    draw.even("ambient", 0.30, 0.62)
    draw.even("diffuse", 0.45, 0.80)
    draw.peaked("gain", 0.80, 1.16)
    draw.even("lift", 0.0, 0.10)
    draw.peaked("tint", -0.07, 0.11)
    draw.even("blur", 0.0, 0.7)
    draw.even("noise", 2.0, 7.0)
    draw.peaked("gaze_x", -0.055, 0.055)
    draw.peaked("gaze_y", -0.02, 0.02)
    draw.even("blink", -3.2, 0.8)  # negative: eyes open
    for name in ("clothes", "back", "occluder"):
        draw.colour(name)
    draw.even("back_slope_x", -0.25, 0.25)
    draw.even("back_slope_y", -0.25, 0.25)
    _clutter(draw)
    _occluders(draw)
    return draw.table


def _clutter(draw: _Draw) -> None:
    for i in range(SHAPES):
        draw.even(f"shape{i}_x", -1.3, 1.3)
        draw.even(f"shape{i}_y", -1.3, 1.3)
        draw.even(f"shape{i}_rx", 0.08, 0.7)
        draw.even(f"shape{i}_ry", 0.08, 1.1)
        draw.even(f"shape{i}_box", -1.0, 1.0)  # positive: a box, otherwise an ellipse
        draw.even(f"shape{i}_strength", 0.2, 0.9)
        draw.colour(f"shape{i}")


def _occluders(draw: _Draw) -> None:
    kind = draw.uniforms[:, COLUMNS.index("occluder")]
    edges = (0.88, 0.91, 0.94, 0.97)  # an eighth of the photographs has something in the way
    code = (kind >= edges[0]) * 1.0
    for edge in edges[1:]:
        code = code + (kind >= edge)
    draw.put("occluder", code)
    draw.even("occluder_x", -0.8, 0.8)
    draw.even("occluder_y", -1.0, 0.75)
    draw.even("occluder_width", 0.07, 0.14)
    draw.even("occluder_c", -0.9, 0.9)
    cosine, sine = turn(draw.table[:, COLUMNS.index("occluder_c")])
    draw.put("occluder_c", cosine)
    draw.put("occluder_s", sine)


def draw_probe(views: list[View], generator: np.random.Generator) -> Floats:
    """(n, len(COLUMNS)) studio photographs, one per entry of `views`: plain background, grey shirt, steady light."""
    n = len(views)
    draw = _Draw(n, generator)
    draw.rotation("pitch", 0.03)
    draw.rotation("roll", 0.02)
    _view(draw, views)
    draw.peaked("scale", 1.13, 1.20)
    draw.peaked("shift_x", -0.05, 0.05)
    draw.peaked("shift_y", -0.02, 0.06)
    draw.peaked("light_x", -0.55, 0.25)
    draw.peaked("light_y", 0.35, 0.85)
    draw.even("ambient", 0.46, 0.54)
    draw.even("diffuse", 0.58, 0.68)
    draw.peaked("gain", 0.93, 1.05)
    draw.even("lift", 0.0, 0.02)
    draw.even("blur", 0.1, 0.3)
    draw.even("noise", 2.0, 4.0)
    draw.peaked("gaze_x", -0.012, 0.012)
    draw.peaked("gaze_y", -0.006, 0.006)
    draw.put("blink", -1.0)
    for part, level in zip("rgb", (0.80, 0.78, 0.72), strict=True):
        draw.put(f"back_{part}", level)
        draw.put(f"clothes_{part}", 0.50)
    draw.put("back_slope_y", 0.06)
    for i in range(SHAPES):
        draw.put(f"shape{i}_rx", 1.0)
        draw.put(f"shape{i}_ry", 1.0)
    draw.put("occluder_c", 1.0)
    draw.put("occluder_width", 0.1)
    return draw.table


def _view(draw: _Draw, views: list[View]) -> None:
    """Turn each head to its view, give or take a degree or two, by the addition theorems."""
    draw.rotation("yaw", 0.025)
    small_c, small_s = (draw.table[:, COLUMNS.index(name)].copy() for name in ("yaw_c", "yaw_s"))
    cosine = np.array([YAWS[view][0] for view in views])
    sine = np.array([YAWS[view][1] for view in views])
    draw.put("yaw_c", cosine * small_c - sine * small_s)
    draw.put("yaw_s", sine * small_c + cosine * small_s)
