"""Which parameters decide an image: the person, the expression and the scene; and how is one of them changed alone?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.data.embedded import action_units, anatomy
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.vocabulary import EXPRESSIONS, Expression, Role

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stimuli:
    """The parameters of n images, row by row; `faces.render_stimuli` renders them.

    Attributes
    ----------
    role : Role
        What the images are for.
    labels : pandas.DataFrame
        One row per image, with the columns of `facespec.study.tables.LABELS`.
    people : array of float64 of shape (n, n_parameters)
        Identity parameters, columns as in `anatomy.PARAMETERS`, in head units (half the height of a head) or shares.
    codes : array of int64 of shape (n,)
        Expression, as index of `facespec.study.vocabulary.EXPRESSIONS`.
    intensity : array of float64 of shape (n,)
        How strong the expression is, 0 (neutral) to 1.
    form : array of float64 of shape (n,)
        Which of its forms an expression has (`action_units.choose_forms`), 0 to 1.
    style : array of float64 of shape (n, 16)
        The gain of each action unit (`action_units.UNITS`), around 1: the person's, varied in every image.
    idle : array of float64 of shape (n, 16)
        Intensity of each action unit that is added to any expression.
    scene : array of float64 of shape (n, n_scene_parameters)
        Pose, framing, light, background and occluders, columns as in `scenes.COLUMNS`.
    keys : array of uint64 of shape (n,)
        Keys of the pixel noise.

    Examples
    --------
    >>> from facespec.data.embedded.faces import draw_stimuli
    >>> stimuli = draw_stimuli(2, ["neutral", "happy"], generator=np.random.default_rng(0))
    >>> len(stimuli), stimuli.units.shape, stimuli.labels["stimulus"].tolist()
    (4, (4, 16), ['F01-neutral', 'F01-happy', 'M01-neutral', 'M01-happy'])
    """

    role: Role
    labels: pd.DataFrame
    people: Floats
    codes: Codes
    intensity: Floats
    form: Floats
    style: Floats
    idle: Floats
    scene: Floats
    keys: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def units(self) -> Floats:
        """Intensities of the action units, (n, 16)."""
        return action_units.compose(self.codes, self.intensity, form=self.form, style=self.style, idle=self.idle)

    def digest(self) -> str:
        """SHA-256 of the parameters, for provenance."""
        digest = hashlib.sha256()
        for part in (self.people, self.units, self.scene, self.keys):
            digest.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Stimuli:
        """The stimuli at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return Stimuli(
            self.role,
            self.labels.iloc[rows].reset_index(drop=True),
            self.people[rows],
            self.codes[rows],
            self.intensity[rows],
            self.form[rows],
            self.style[rows],
            self.idle[rows],
            self.scene[rows],
            self.keys[rows],
        )


def concatenate(parts: Sequence[Stimuli]) -> Stimuli:
    """The stimuli of all `parts` (one or more, of one role), one part behind the other.

    >>> from facespec.data.embedded.faces import draw_stimuli
    >>> stimuli = draw_stimuli(2, ["happy"], generator=np.random.default_rng(0))
    >>> len(concatenate([stimuli, stimuli.take([1])]))
    3
    """
    arrays: dict[str, Any] = {
        item.name: np.concatenate([vars(part)[item.name] for part in parts])
        for item in fields(Stimuli)
        if item.name not in ("role", "labels")
    }
    return replace(parts[0], labels=pd.concat([part.labels for part in parts], ignore_index=True), **arrays)


def replace_expressions(stimuli: Stimuli, expressions: Sequence[Expression | str]) -> Stimuli:
    """Change only the expressions: the same people, scenes and noise, and labels to match.

    Intensity, form, style and idle movements stay the same. Stimulus names are not changed.

    Parameters
    ----------
    stimuli : Stimuli
        n stimuli.
    expressions : sequence of str of length n
        The new expression of each stimulus.

    Returns
    -------
    Stimuli

    Raises
    ------
    StudyError
        For another number of expressions than of stimuli, or an unknown expression.

    Examples
    --------
    >>> from facespec.data.embedded.faces import draw_stimuli
    >>> neutral = draw_stimuli(3, ["neutral"], generator=np.random.default_rng(0))
    >>> happy = replace_expressions(neutral, ["happy"] * 3)
    >>> happy.people is neutral.people, happy.labels["expression"].tolist()
    (True, ['happy', 'happy', 'happy'])
    """
    if len(expressions) != len(stimuli):
        raise StudyError(f"{len(expressions)} expressions for {len(stimuli)} stimuli; give one for each.")
    for name in expressions:
        if name not in EXPRESSIONS:
            raise StudyError(f"unknown expression {str(name)!r}: {suggest_spelling(str(name), map(str, EXPRESSIONS))}")
    codes = np.array([EXPRESSIONS.index(Expression(name)) for name in expressions], dtype=np.int64)
    labels = stimuli.labels.assign(expression=[EXPRESSIONS[code].value for code in codes])
    return replace(stimuli, codes=codes, labels=labels)


def replace_people(stimuli: Stimuli, people: Floats) -> Stimuli:
    """Change only the identities: the same expressions, scenes and noise on other faces.

    The ``identity`` labels become empty. Stimulus names are not changed.

    Parameters
    ----------
    stimuli : Stimuli
        n stimuli.
    people : array of float64 of shape (n, n_parameters)
        The new identity parameters, as in `Stimuli.people` of other stimuli.

    Returns
    -------
    Stimuli

    Raises
    ------
    StudyError
        For `people` of another shape.

    Examples
    --------
    >>> from facespec.data.embedded.faces import draw_stimuli
    >>> stimuli = draw_stimuli(2, ["happy"], generator=np.random.default_rng(0))
    >>> swapped = replace_people(stimuli, stimuli.people[[1, 0]])
    >>> bool((swapped.units == stimuli.units).all()), swapped.labels["identity"].tolist()
    (True, ['', ''])
    """
    expected = (len(stimuli), len(anatomy.PARAMETERS))
    if np.shape(people) != expected:
        raise StudyError(f"identity parameters of shape {np.shape(people)}, expected {expected}: one row per stimulus.")
    return replace(stimuli, people=np.asarray(people, np.float64), labels=stimuli.labels.assign(identity=""))
