"""Which pose, framing, light, background, occluders and sensor noise does each image have?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facespec.data.embedded.geometry import HALF_SQRT2, compute_rotation
from facespec.study.vocabulary import SESSIONS, View

Floats = npt.NDArray[np.float64]

FACE_CENTRE = 0.17  # head units by which a head is raised, so that its face is in the middle of the picture
TURNED_SHIFT = 0.40  # head units to the side by which a face in profile is away from the middle of the skull
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
    "skin_level",  # luminance of skin in full light: the camera exposes for the face
    "uneven_brow",
    "uneven_mouth",  # relative difference between the sides of the expression, beside the person's own
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
    *(f"shape{i}_{name}" for i in range(SHAPES) for name in ("x", "y", "rx", "ry", "box", "r", "g", "b", "strength")),
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


class _SceneTable:
    """Scene parameters from one block of uniforms, so that the range of a column never changes another column."""

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        self.first = generator.random((n, len(COLUMNS)))
        self.second = generator.random((n, len(COLUMNS)))
        self.values = np.zeros((n, len(COLUMNS)))

    def draw_even(self, name: str, low: float, high: float) -> None:
        self.set(name, low + (high - low) * self.first[:, COLUMNS.index(name)])

    def draw_peaked(self, name: str, low: float, high: float) -> None:
        column = COLUMNS.index(name)
        self.set(name, low + (high - low) * 0.5 * (self.first[:, column] + self.second[:, column]))

    def set(self, name: str, values: npt.NDArray[np.floating] | float) -> None:
        self.values[:, COLUMNS.index(name)] = values

    def draw_rotation(self, axis: str, half_tangent: float) -> None:
        """Cosine and sine of an angle up to twice the arc tangent of `half_tangent`; small angles are most frequent."""
        self.draw_peaked(f"{axis}_c", -half_tangent, half_tangent)
        cosine, sine = compute_rotation(self.values[:, COLUMNS.index(f"{axis}_c")])
        self.set(f"{axis}_c", cosine)
        self.set(f"{axis}_s", sine)

    def draw_colour(self, name: str) -> None:
        """A pale colour of any brightness: a common level, and a small deviation of each primary."""
        level = 0.04 + 0.86 * self.second[:, COLUMNS.index(f"{name}_g")]
        for part in "rgb":
            self.draw_even(f"{name}_{part}", -0.14, 0.14)
            deviation = self.values[:, COLUMNS.index(f"{name}_{part}")]
            self.set(f"{name}_{part}", np.minimum(np.maximum(level + deviation, 0.02), 1.0))


@dataclass(frozen=True)
class Domain:
    """Where unposed photographs come from: ranges of what varies from one to the next.

    Rotations are half tangents; `yaw` 0.26 turns heads by up to 29 degrees. `occluded`: share of pictures in which
    something is in front of the face.
    """

    yaw: float
    pitch: float
    roll: float
    scale: tuple[float, float]
    shift: float
    light: float
    ambient: tuple[float, float]
    diffuse: tuple[float, float]
    gain: tuple[float, float]
    skin_level: tuple[float, float]
    blur: tuple[float, float]
    noise: tuple[float, float]
    occluded: float


# Two worlds that differ as those of FER2013 and VoxCeleb1 do. "web": faces found by a detector and cut out tightly,
# every kind of light and camera. "video": people who are interviewed, turned to all sides, in stage light, less sharp.
DOMAINS: dict[str, Domain] = {
    "web": Domain(
        yaw=0.20,
        pitch=0.10,
        roll=0.10,
        scale=(0.70, 0.92),
        shift=0.10,
        light=1.2,
        ambient=(0.30, 0.62),
        diffuse=(0.45, 0.85),
        gain=(0.80, 1.16),
        skin_level=(0.40, 0.80),
        blur=(0.0, 0.5),
        noise=(2.0, 7.0),
        occluded=0.10,
    ),
    "video": Domain(
        yaw=0.24,
        pitch=0.12,
        roll=0.08,
        scale=(0.74, 0.94),
        shift=0.08,
        light=0.8,
        ambient=(0.40, 0.60),
        diffuse=(0.40, 0.65),
        gain=(0.85, 1.10),
        skin_level=(0.45, 0.75),
        blur=(0.1, 0.6),
        noise=(1.0, 4.0),
        occluded=0.06,
    ),
}


def draw_wild(n: int, generator: np.random.Generator, *, domain: str) -> Floats:
    """(n, len(COLUMNS)) unposed photographs of a domain in `DOMAINS`."""
    table, world = _SceneTable(n, generator), DOMAINS[domain]
    table.draw_rotation("yaw", world.yaw)
    table.draw_rotation("pitch", world.pitch)
    table.draw_rotation("roll", world.roll)
    table.draw_peaked("scale", *world.scale)
    table.draw_peaked("shift_x", -world.shift, world.shift)
    table.draw_peaked("shift_y", FACE_CENTRE - world.shift, FACE_CENTRE + world.shift)
    _centre_turned_heads(table)
    table.draw_peaked("light_x", -world.light, world.light)
    table.draw_peaked("light_y", -0.5, 1.5)
    table.draw_even("ambient", *world.ambient)
    table.draw_even("diffuse", *world.diffuse)
    table.draw_even("skin_level", *world.skin_level)
    table.draw_even("blur", *world.blur)
    table.draw_even("noise", *world.noise)
    table.draw_peaked("gain", *world.gain)
    table.draw_even("lift", 0.0, 0.10)
    table.draw_peaked("tint", -0.07, 0.11)
    table.draw_peaked("gaze_x", -0.055, 0.055)
    table.draw_peaked("gaze_y", -0.02, 0.02)
    table.draw_even("blink", -3.2, 0.8)  # negative: eyes open
    table.draw_peaked("uneven_brow", -0.4, 0.4)
    table.draw_peaked("uneven_mouth", -0.4, 0.4)
    for name in ("clothes", "back", "occluder"):
        table.draw_colour(name)
    table.draw_even("back_slope_x", -0.25, 0.25)
    table.draw_even("back_slope_y", -0.25, 0.25)
    _draw_clutter(table)
    _draw_occluders(table, world.occluded)
    return table.values


def _centre_turned_heads(table: _SceneTable) -> None:
    """Cut turned heads out around the face, not around the skull."""
    column = COLUMNS.index("shift_x")
    table.values[:, column] -= TURNED_SHIFT * table.values[:, COLUMNS.index("yaw_s")]


def _draw_clutter(table: _SceneTable) -> None:
    for i in range(SHAPES):
        table.draw_even(f"shape{i}_x", -1.3, 1.3)
        table.draw_even(f"shape{i}_y", -1.3, 1.3)
        table.draw_even(f"shape{i}_rx", 0.08, 0.7)
        table.draw_even(f"shape{i}_ry", 0.08, 1.1)
        table.draw_even(f"shape{i}_box", -1.0, 1.0)  # positive: a box, otherwise an ellipse
        table.draw_even(f"shape{i}_strength", 0.2, 0.9)
        table.draw_colour(f"shape{i}")


def _draw_occluders(table: _SceneTable, share: float) -> None:
    kind = table.first[:, COLUMNS.index("occluder")]
    kinds = len(OCCLUDERS) - 1
    code = np.zeros_like(kind)
    for index in range(kinds):  # every kind is equally frequent
        code = code + (kind >= 1.0 - share * (kinds - index) / kinds)
    table.set("occluder", code)
    table.draw_even("occluder_x", -0.8, 0.8)
    table.draw_even("occluder_y", -1.0, 0.75)
    table.draw_even("occluder_width", 0.07, 0.14)
    table.draw_even("occluder_c", -0.9, 0.9)
    cosine, sine = compute_rotation(table.values[:, COLUMNS.index("occluder_c")])
    table.set("occluder_c", cosine)
    table.set("occluder_s", sine)


def draw_probe(views: list[View], sessions: list[str], generator: np.random.Generator) -> Floats:
    """(n, len(COLUMNS)) studio photographs: plain background, grey shirt; in every session its own light, for everyone.

    `views` and `sessions` have n entries.
    """
    n = len(views)
    table = _SceneTable(n, generator)
    table.draw_rotation("pitch", 0.05)
    table.draw_rotation("roll", 0.03)
    _set_views(table, views)
    table.draw_peaked("scale", 0.76, 0.86)
    table.draw_peaked("shift_x", -0.05, 0.05)
    table.draw_peaked("shift_y", FACE_CENTRE - 0.05, FACE_CENTRE + 0.05)
    _centre_turned_heads(table)
    _light_sessions(table, np.array([SESSIONS.index(session) for session in sessions]))
    table.draw_even("lift", 0.0, 0.04)
    table.draw_even("blur", 0.1, 0.3)
    table.draw_even("noise", 2.0, 4.0)
    table.draw_peaked("gaze_x", -0.012, 0.012)
    table.draw_peaked("gaze_y", -0.006, 0.006)
    table.draw_peaked("uneven_brow", -0.3, 0.3)
    table.draw_peaked("uneven_mouth", -0.3, 0.3)
    table.set("blink", -1.0)
    for part, level in zip("rgb", (0.80, 0.78, 0.72), strict=True):
        table.set(f"back_{part}", level)
        table.set(f"clothes_{part}", 0.50)
    table.set("back_slope_y", 0.06)
    for i in range(SHAPES):
        table.set(f"shape{i}_rx", 1.0)
        table.set(f"shape{i}_ry", 1.0)
    table.set("occluder_c", 1.0)
    table.set("occluder_width", 0.1)
    return table.values


def _light_sessions(table: _SceneTable, session: npt.NDArray[np.int64]) -> None:
    """Session A has its light at the left and is brighter, B at the right and darker; both vary from image to image."""
    side = np.where(session == 0, -1.0, 1.0)
    table.draw_peaked("light_x", -0.35, 0.35)
    table.set("light_x", table.values[:, COLUMNS.index("light_x")] + 0.45 * side)
    table.draw_peaked("light_y", 0.15, 0.95)
    table.draw_even("ambient", 0.42, 0.54)
    table.draw_even("diffuse", 0.52, 0.70)
    table.draw_peaked("gain", 0.90, 1.08)
    table.draw_even("skin_level", 0.52, 0.68)
    table.set("skin_level", table.values[:, COLUMNS.index("skin_level")] - 0.03 * side)


def _set_views(table: _SceneTable, views: list[View]) -> None:
    """Turn each head to its view, give or take a few degrees, by the addition theorems."""
    table.draw_rotation("yaw", 0.05)
    small_c, small_s = (table.values[:, COLUMNS.index(name)].copy() for name in ("yaw_c", "yaw_s"))
    cosine = np.array([YAWS[view][0] for view in views])
    sine = np.array([YAWS[view][1] for view in views])
    table.set("yaw_c", cosine * small_c - sine * small_s)
    table.set("yaw_s", sine * small_c + cosine * small_s)
