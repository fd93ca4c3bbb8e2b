"""What shape has the head: signed distances to its skin, from identity and action units?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facespec.data.embedded.geometry import Field, bump, clip, ellipsoid, smooth_min, smoothstep

Point = tuple[Field, Field, Field]
Distance = Callable[[Point], Field]
Columns = dict[str, Field]  # one (n, 1) array per parameter
Solid = Callable[[Columns, Columns], Distance]  # from identity and action units


def undo_jaw(units: Columns, y: Field) -> Field:
    """Height with the mouth closed of the skin now at `y`: below the mouth, the movement of the jaw is undone."""
    drop = 0.15 * units["au26"] + 0.02 * units["au16"]
    share = smoothstep((-0.56 - y) / 0.36) * smoothstep((y + 1.75) / 0.45)
    return y + drop * share


def normalise_height(person: Columns, y: Field) -> Field:
    """Height on an average face: below the eyes, faces differ in length."""
    return np.maximum(y, 0.0) + np.minimum(y, 0.0) / person["face_length"]


def skin_distance(person: Columns, units: Columns) -> Distance:
    """Signed distance to the skin of one head per image; expressions act only on bounded parts of space."""

    def distance(point: Point) -> Field:
        x, y, z = point
        ax = np.abs(x)
        skull = ellipsoid((x, y - 0.27, z + 0.10), (person["head_width"], 0.73, 0.80))
        y = undo_jaw(units, y)
        y = normalise_height(person, y)
        face = ellipsoid((x, y + 0.16, z - 0.08), (person["head_width"] * 0.87, 0.72, 0.62))
        jaw = ellipsoid((x, y - person["jaw_height"], z - 0.12), (person["jaw_width"], 0.36, 0.50))
        chin = ellipsoid((x, y - person["chin_length"], z - person["chin_forward"]), (person["chin_width"], 0.13, 0.16))
        solid = smooth_min(smooth_min(skull, face, 0.12), smooth_min(jaw, chin, 0.16), 0.16)
        solid = solid - _relief(person, units, (ax, y, z))
        solid = smooth_min(solid, _nose(person, units, (x, y, z)), 0.09)
        return np.minimum(solid, ear_distance(person, point))

    return distance


def _nose(person: Columns, units: Columns, point: Point) -> Field:
    """A leaning ridge and a rounded tip."""
    x, y, z = point
    lean = (person["nose_tip"] - person["nose_bridge"]) * 0.75
    t = clip((0.06 - y) / (0.06 - person["nose_length"]))
    ridge = ellipsoid(
        (x, y - 0.5 * person["nose_length"], z - (person["nose_bridge"] - 0.04) - lean * t),
        (0.055 + 0.2 * person["nose_width"], 0.05 - 0.55 * person["nose_length"], 0.13),
    )
    tip = ellipsoid(
        (x, y - person["nose_length"] - person["nose_upturn"] - 0.06, z - person["nose_tip"] + 0.04),
        (0.8 * person["nose_width"], 0.075, 0.12),
    )
    return smooth_min(ridge, tip, 0.06)


def _relief(person: Columns, units: Columns, point: Point) -> Field:
    """Hills and hollows of the face, mirrored at x = 0: cheekbones, brow ridge, eye sockets, lips, nose wings."""
    x, y, z = point
    mouth = person["mouth_height"]
    height = person["cheekbones"] * bump((x - 0.44, y + 0.16, z - 0.42), (0.26, 0.24, 0.5))
    height = height + person["cheek_fullness"] * bump((x - 0.38, y + 0.45, z - 0.40), (0.28, 0.30, 0.5))
    height = height + 0.07 * units["au6"] * bump((x - 0.34, y + 0.22, z - 0.55), (0.22, 0.17, 0.4))
    height = height + person["brow_ridge"] * bump((x - 0.20, y - 0.20, z - 0.62), (0.34, 0.13, 0.4))
    height = height - person["eye_depth"] * bump((x - 0.24, y - 0.03, z - 0.60), (0.24, 0.17, 0.4))
    height = height + 0.03 * bump((x - person["eye_spacing"], y - 0.01, z - 0.58), (0.15, 0.11, 0.3))
    wing = person["nose_length"] + 0.03 + 0.04 * units["au9"]
    height = height + 0.07 * bump((x - person["nose_width"], y - wing, z - 0.68), (0.09, 0.10, 0.22))
    press = 1.0 - 0.4 * clip(units["au23"])
    upper, lower = 0.4 * person["lip_upper"] + 0.035, 0.4 * person["lip_lower"] + 0.03
    height = height + upper * press * bump((x, y - mouth - 0.05, z - 0.62), (0.26, 0.09, 0.3))
    return height + lower * press * bump((x, y - mouth + 0.07, z - 0.62), (0.24, 0.09, 0.3))


def ear_distance(person: Columns, point: Point) -> Field:
    """Signed distance to both ears: flat ellipsoids that stand off the head."""
    x, y, z = point
    side = np.abs(x) - person["head_width"] * 0.98
    size = person["ear_size"]
    stand = person["ear_angle"]
    return ellipsoid((side - stand * (0.35 - (z + 0.06) * 3.0), y + 0.06, z + 0.06), (0.055, size, size * 0.62))
