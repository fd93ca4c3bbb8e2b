"""Which parameters make each cue of a face, and how does a picture get one cue of another person or scene?

A cue is what a network could read a class from: the brows, the hair, the light. One cue is swapped, everything else
stays, noise included. Networks that name the owner of a face by a cue name the cue's donor afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.stimuli import Codes, Floats, Stimuli
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.vocabulary import SESSIONS

# Every identity parameter belongs to exactly one of these. Strands of hair and places of freckles follow the head's
# width (`rendering.derive_person_seed`), and so the outline.
PERSON_CUES: dict[str, tuple[str, ...]] = {
    "brows": (
        "brow_ridge",
        "brow_thickness",
        "brow_arch",
        "brow_tilt",
        "brow_inner",
        "brow_length",
        "brow_height",
        "brow_tone",
        "asymmetry_brow",
    ),
    "eyes": (
        "eye_width",
        "eye_opening",
        "eye_spacing",
        "eye_tilt",
        "eye_depth",
        "iris_size",
        "iris_tone",
        "iris_hue",
        "lid_crease",
    ),
    "nose": ("nose_length", "nose_width", "nose_bridge", "nose_tip", "nose_upturn"),
    "mouth": ("mouth_width", "mouth_height", "lip_upper", "lip_lower", "lip_tone", "asymmetry_mouth"),
    "outline": (
        "head_width",
        "face_length",
        "jaw_width",
        "jaw_height",
        "chin_width",
        "chin_length",
        "chin_forward",
        "cheekbones",
        "cheek_fullness",
        "ear_size",
        "ear_angle",
    ),
    "hair": (
        "hair_tone",
        "hair_red",
        "hair_grey",
        "hairline",
        "hair_recess",
        "hair_part",
        "hair_volume",
        "hair_length",
        "hair_curl",
        "hair_bun",
        "cap",
    ),
    "skin": ("skin_tone", "skin_red"),
    "marks": ("age", "mole_x", "mole_y", "mole_size", "freckles", "scar", "scar_x", "scar_y", "scar_slope"),
    "beard": ("beard", "moustache"),
    "glasses": ("glasses", "glasses_width", "glasses_height"),
}
# several at once
COMBINED_CUES: dict[str, tuple[str, ...]] = {
    "inner": ("brows", "eyes", "nose", "mouth"),
    "everything": tuple(PERSON_CUES),
}
# Every scene parameter belongs to exactly one of these.
SCENE_CUES: dict[str, tuple[str, ...]] = {
    "light": ("light_x", "light_y", "ambient", "diffuse", "gain", "lift", "tint", "skin_level"),
    "background": (
        "back_r",
        "back_g",
        "back_b",
        "back_slope_x",
        "back_slope_y",
        "clothes_r",
        "clothes_g",
        "clothes_b",
        *(name for name in scenes.COLUMNS if name.startswith("shape")),
    ),
    "pose": ("yaw_c", "yaw_s", "pitch_c", "pitch_s", "roll_c", "roll_s", "gaze_x", "gaze_y", "blink"),
    "framing": ("scale", "shift_x", "shift_y"),
    "sensor": ("blur", "noise"),
    "unevenness": ("uneven_brow", "uneven_mouth"),
    "occluder": tuple(name for name in scenes.COLUMNS if name.startswith("occluder")),
}
SESSION = "session"  # the owner's look and the scene of the other session, but for its expression; nobody donates


def list_parameters(cue: str) -> tuple[str, ...]:
    """The identity or scene parameters of a cue, or of several at once (`COMBINED_CUES`).

    Raises `StudyError` for an unknown cue, and for `SESSION`, which is no fixed set of parameters.

    >>> list_parameters("skin")
    ('skin_tone', 'skin_red')
    >>> len(list_parameters("everything")) == len(anatomy.PARAMETERS)
    True
    """
    if cue in COMBINED_CUES:
        return tuple(name for part in COMBINED_CUES[cue] for name in PERSON_CUES[part])
    cues = PERSON_CUES | SCENE_CUES
    if cue not in cues:
        raise StudyError(f"unknown cue {cue!r}: {suggest_spelling(cue, (*cues, *COMBINED_CUES))}")
    return cues[cue]


def draw_donors(identities: pd.Series, people: Iterable[str], generator: np.random.Generator) -> npt.NDArray[np.str_]:
    """Draw another person for every image, of the same sex if there is one.

    Parameters
    ----------
    identities : Series of str of length n
        The person of each image; the first letter says the sex, as in ``F01`` and ``M01``.
    people : iterable of str
        Who may donate; repeats do not count.
    generator : numpy.random.Generator
        The source of the donors.

    Returns
    -------
    array of str of shape (n,)
        One of `people` for each image, as likely as any other that is possible.

    Raises
    ------
    StudyError
        If nobody but the person of an image may donate.

    Examples
    --------
    >>> draw_donors(pd.Series(["F01", "F02"]), ["F01", "F02", "M01"], np.random.default_rng(0)).tolist()
    ['F02', 'F01']
    """
    possible = {}
    for person in sorted(set(identities)):
        others = [other for other in sorted(set(people)) if other != person]
        if not others:
            raise StudyError(f"nobody can donate a cue to {person!r}: a cue is swapped between two people.")
        possible[person] = [other for other in others if other[:1] == person[:1]] or others
    return np.array([possible[person][generator.integers(len(possible[person]))] for person in identities])


def find_rows(
    labels: pd.DataFrame, rows: npt.NDArray[np.integer], people: npt.NDArray[np.str_], *, other_session: bool
) -> Codes:
    """The row of each of `people` (n,) that is labelled like the row in `rows` (n,): same session, view and expression.

    With `other_session`, of the other session. Where there is none, the person's first row. Raises `StudyError` for a
    person without rows.
    """
    wanted = labels.iloc[rows][["session", "view", "expression"]].assign(identity=people)
    if other_session:
        wanted["session"] = wanted["session"].replace(dict(zip(SESSIONS, reversed(SESSIONS), strict=True)))
    columns = ["identity", "session", "view", "expression"]
    first = labels.reset_index(drop=True).drop_duplicates(columns)
    found = pd.MultiIndex.from_frame(first[columns]).get_indexer(pd.MultiIndex.from_frame(wanted[columns]))
    anyone = labels.reset_index(drop=True).drop_duplicates("identity")
    persons = pd.Index(anyone["identity"]).get_indexer(pd.Index(people))
    if (persons < 0).any():
        raise StudyError(f"no image shows {str(people[persons < 0][0])!r}, who is to donate a cue.")
    matched = first.index.to_numpy()[np.maximum(found, 0)]
    return np.where(found >= 0, matched, anyone.index.to_numpy()[persons]).astype(np.int64)


def swap_cue(stimuli: Stimuli, cue: str, donors: Stimuli) -> Stimuli:
    """Change only one cue: that of stimulus i becomes that of donor i.

    Parameters
    ----------
    stimuli : Stimuli
        n stimuli.
    cue : str
        A name of `PERSON_CUES`, `COMBINED_CUES` or `SCENE_CUES`; or `SESSION`: all identity and scene parameters but
        "unevenness", which is of the expression.
    donors : Stimuli
        n stimuli.

    Returns
    -------
    Stimuli
        Expressions, noise and labels are those of `stimuli`, the identity included.

    Raises
    ------
    StudyError
        For an unknown cue, or another number of donors than of stimuli.

    Examples
    --------
    >>> from facespec.data.embedded.faces import draw_stimuli
    >>> stimuli = draw_stimuli(2, ["happy"], generator=np.random.default_rng(0))
    >>> swapped = swap_cue(stimuli, "nose", stimuli.take([1, 0]))
    >>> changed = (swapped.people != stimuli.people).any(axis=0)
    >>> [name for name, other in zip(anatomy.PARAMETERS, changed, strict=True) if other] == list(PERSON_CUES["nose"])
    True
    """
    if len(donors) != len(stimuli):
        raise StudyError(f"{len(donors)} donors for {len(stimuli)} stimuli; give one for each.")
    if cue == SESSION:
        names = tuple(name for name in scenes.COLUMNS if name not in SCENE_CUES["unevenness"])  # that is expression
        return replace(stimuli, people=donors.people, scene=_mix(stimuli.scene, donors.scene, names, scenes.COLUMNS))
    names = list_parameters(cue)
    if cue in SCENE_CUES:
        return replace(stimuli, scene=_mix(stimuli.scene, donors.scene, names, scenes.COLUMNS))
    return replace(stimuli, people=_mix(stimuli.people, donors.people, names, anatomy.PARAMETERS))


def _mix(values: Floats, others: Floats, names: tuple[str, ...], columns: tuple[str, ...]) -> Floats:
    """`values` with the columns `names` of `others`."""
    return np.where(np.isin(columns, names), others, values)
