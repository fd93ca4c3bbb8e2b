"""Which parameters make an identity, and how is a population of people drawn?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# name -> (low, high) in head units unless said otherwise; drawn with most people in the middle ("peaked")
PEAKED: dict[str, tuple[float, float]] = {
    "head_width": (0.58, 0.76),
    "face_length": (0.86, 1.14),  # scales y below the eyes
    "jaw_width": (0.3, 0.64),
    "jaw_height": (-0.66, -0.46),
    "chin_width": (0.1, 0.32),
    "chin_length": (-0.94, -0.78),
    "chin_forward": (0.42, 0.58),
    "cheekbones": (0, 0.09),
    "cheek_fullness": (-0.05, 0.08),
    "brow_ridge": (0, 0.09),
    "brow_thickness": (0.012, 0.066),
    "brow_arch": (-0.03, 0.11),
    "brow_tilt": (-0.11, 0.11),
    "brow_inner": (0.04, 0.19),
    "brow_length": (0.26, 0.46),
    "brow_height": (0.15, 0.31),
    "eye_width": (0.11, 0.205),
    "eye_opening": (0.042, 0.112),
    "eye_spacing": (0.235, 0.365),
    "eye_tilt": (-0.18, 0.24),  # slope
    "eye_depth": (0.02, 0.11),
    "iris_size": (0.052, 0.086),
    "lid_crease": (0.02, 0.09),
    "nose_length": (-0.52, -0.28),
    "nose_width": (0.055, 0.165),
    "nose_bridge": (0.53, 0.69),
    "nose_tip": (0.68, 0.92),
    "nose_upturn": (-0.05, 0.07),
    "mouth_width": (0.16, 0.33),
    "mouth_height": (-0.7, -0.54),
    "lip_upper": (0.012, 0.085),
    "lip_lower": (0.022, 0.11),
    "lip_tone": (0.0, 1.0),  # share of the way from skin to deep red
    "ear_size": (0.15, 0.26),
    "ear_angle": (0.03, 0.11),
    "asymmetry_brow": (-0.30, 0.30),  # relative difference between the sides
    "asymmetry_mouth": (-0.30, 0.30),
}

# drawn evenly; shares of 1 unless said otherwise
EVEN: dict[str, tuple[float, float]] = {
    "skin_tone": (0.0, 1.0),  # light to dark
    "skin_red": (0.0, 1.0),
    "brow_tone": (0.0, 1.0),  # light to dark
    "hair_tone": (0.0, 1.0),
    "hair_red": (0.0, 1.0),
    "hair_grey": (0.0, 1.0),
    "hairline": (0.46, 0.72),
    "hair_recess": (-0.10, 0.45),
    "hair_part": (-0.28, 0.28),
    "hair_volume": (0.02, 0.20),
    "hair_length": (-1.60, -0.30),  # where the side hair ends
    "hair_curl": (0.0, 1.0),
    "hair_bun": (0.0, 0.30),
    "iris_tone": (0.0, 1.0),  # light to dark
    "iris_hue": (0.0, 1.0),  # blue to green
    "age": (0.0, 1.0),
    "mole_x": (-0.42, 0.42),
    "mole_y": (-0.80, 0.45),
    "mole_size": (0.0, 0.045),
    "freckles": (0.0, 1.0),
    "scar": (0.0, 1.0),
    "scar_x": (-0.40, 0.40),
    "scar_y": (-0.75, 0.45),
    "scar_slope": (-1.5, 1.5),
    "beard": (0.0, 1.0),
    "moustache": (0.0, 1.0),
    "glasses": (0.0, 1.0),  # darkness of the frame
    "glasses_width": (0.19, 0.26),
    "glasses_height": (0.13, 0.22),
    "cap": (0.0, 0.0),  # 1: all hair is under a cap
}

# What changes from one day to the next; everything else is the person's.
APPEARANCE: tuple[str, ...] = (
    *("hair_tone", "hair_red", "hair_grey", "hairline", "hair_recess", "hair_part", "hair_volume", "hair_length"),
    *("hair_curl", "hair_bun", "beard", "moustache", "glasses", "glasses_width", "glasses_height"),
)

# A tight cap of one kind for everybody: no hair is seen
CAP: dict[str, float] = {
    "cap": 1.0,
    "hairline": 0.52,
    "hair_recess": 0.0,
    "hair_part": 0.0,
    "hair_volume": 0.03,
    "hair_length": 0.0,
    "hair_curl": 0.0,
    "hair_bun": 0.0,
}

PARAMETERS: tuple[str, ...] = (*PEAKED, *EVEN)
COLUMN: dict[str, int] = {name: index for index, name in enumerate(PARAMETERS)}


def draw_people(n: int, generator: np.random.Generator, *, male: npt.NDArray[np.bool_]) -> Floats:
    """(n, len(PARAMETERS)) people; `male` (n,) shifts what differs between the sexes on average."""
    low, high = (np.array([bounds[end] for bounds in (*PEAKED.values(), *EVEN.values())]) for end in (0, 1))
    first, second = generator.random((n, len(PARAMETERS))), generator.random((n, len(PARAMETERS)))
    peaked = np.arange(len(PARAMETERS)) < len(PEAKED)
    share = np.where(peaked, 0.5 * (first + second), first)
    share = _shift_by_sex(share, male)
    people = low + (high - low) * share
    return _make_coherent(people, second, male)


def change_appearance(people: Floats, generator: np.random.Generator, *, male: npt.NDArray[np.bool_]) -> Floats:
    """The same (n, len(PARAMETERS)) people on other days: new hair, beard and glasses, the same face."""
    others = draw_people(len(people), generator, male=male)
    changed = people.copy()
    for name in APPEARANCE:
        changed[:, COLUMN[name]] = others[:, COLUMN[name]]
    return changed


def change_faces(people: Floats, others: Floats) -> Floats:
    """`people` with the faces of `others`, and with their own hair, beard and glasses."""
    changed = others.copy()
    for name in (*APPEARANCE, *CAP):
        changed[:, COLUMN[name]] = people[:, COLUMN[name]]
    return changed


def put_on_caps(people: Floats) -> Floats:
    """The same people with all hair under a cap."""
    capped = people.copy()
    for name, value in CAP.items():
        capped[:, COLUMN[name]] = value
    return capped


def _shift_by_sex(share: Floats, male: npt.NDArray[np.bool_]) -> Floats:
    """Shift some parameters by a fifth of their range, up or down, with sex."""
    larger = ("jaw_width", "chin_width", "brow_thickness", "brow_ridge", "nose_width")  # in men
    smaller = ("brow_arch", "lip_upper", "lip_lower", "eye_opening", "brow_height", "lip_tone")
    share = share.copy()
    for name in (*larger, *smaller):
        shift = np.where(male, 0.18, -0.18) if name in larger else np.where(male, -0.18, 0.18)
        share[:, COLUMN[name]] = np.minimum(np.maximum(share[:, COLUMN[name]] + shift, 0.0), 1.0)
    return share


def _make_coherent(people: Floats, chance: Floats, male: npt.NDArray[np.bool_]) -> Floats:
    """Correlate parameters: dark skin with dark hair and eyes, beards on some men, grey hair with age."""

    def set_column(name: str, values: Floats) -> None:
        people[:, COLUMN[name]] = values

    def get(name: str) -> Floats:
        return people[:, COLUMN[name]]

    def draw(name: str, share: float) -> npt.NDArray[np.bool_]:
        return chance[:, COLUMN[name]] < share

    tone = get("skin_tone")
    set_column("hair_tone", np.maximum(get("hair_tone"), np.minimum(tone * 1.6, 1.0)))
    set_column("brow_tone", np.maximum(get("brow_tone"), np.minimum(tone * 1.6, 1.0)))
    set_column("iris_tone", np.maximum(get("iris_tone"), np.minimum(tone * 1.8, 1.0)))
    set_column("hair_grey", np.where(draw("hair_grey", 0.4), np.maximum(get("age") - 0.55, 0.0) * 2.2, 0.0))
    set_column("beard", np.where(male & draw("beard", 0.38), 0.25 + 0.75 * get("beard"), 0.0))
    hairy_lip = male & (draw("moustache", 0.2) | (get("beard") > 0.3))
    set_column("moustache", np.where(hairy_lip, 0.4 + 0.6 * get("moustache"), 0.0))
    set_column("glasses", np.where(draw("glasses", 0.16), 0.4 + 0.6 * get("glasses"), 0.0))
    set_column("mole_size", np.where(draw("mole_size", 0.45), 0.014 + 0.4 * get("mole_size"), 0.0))
    set_column("freckles", np.where(draw("freckles", 0.3) & (tone < 0.5), get("freckles"), 0.0))
    set_column("scar", np.where(draw("scar", 0.12), 0.4 + 0.6 * get("scar"), 0.0))
    set_column("hair_bun", np.where(~male & draw("hair_bun", 0.25), 0.14 + 0.5 * get("hair_bun"), 0.0))
    short = np.where(male, ~draw("hair_length", 0.12), draw("hair_length", 0.25)) | (get("hair_bun") > 0)
    set_column("hair_length", np.where(short, 0.0, get("hair_length")))  # 0: none below the ears
    bald = male & draw("hair_volume", 0.12)
    set_column("hairline", np.where(bald, 1.5, np.where(male, get("hairline"), get("hairline") - 0.05)))
    set_column("hair_volume", get("hair_volume") + np.where(get("hair_curl") > 0.75, 0.12, 0.0))
    fringe = ~bald & draw("hairline", 0.22)
    set_column("hairline", np.where(fringe, 0.36 + 0.3 * (get("hairline") - 0.41), get("hairline")))
    set_column("hair_recess", np.where(male, get("hair_recess"), np.minimum(get("hair_recess"), 0.15)))
    return people
