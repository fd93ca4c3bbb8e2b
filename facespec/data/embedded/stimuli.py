"""What decides a picture, before any pixel: who, doing what, seen how; and how to change one of them alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """Everything that decides n pictures, row by row.

    `labels`: `study.tables.LABELS`; `people` (n, identity parameters, `anatomy.PARAMETERS`); `codes` (n,) expression in
    enum order; `intensity` (n,); `style`, `idle` (n, 13, see `action_units`); `scene` (n, `scenes.COLUMNS`);
    `keys` (n,) uint64, of the pixel noise.
    """

    role: Role
    labels: pd.DataFrame
    people: Floats
    codes: Codes
    intensity: Floats
    style: Floats
    idle: Floats
    scene: Floats
    keys: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def units(self) -> Floats:
        """(n, 13) intensities of the action units."""
        return action_units.compose(self.codes, self.intensity, style=self.style, idle=self.idle)

    def digest(self) -> str:
        """SHA-256 of the parameters, for provenance."""
        digest = hashlib.sha256()
        for part in (self.people, self.units, self.scene, self.keys):
            digest.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Stimuli:
        """The stimuli at `indices`, in that order."""
        at = np.asarray(indices, dtype=np.int64)
        return Stimuli(
            self.role,
            self.labels.iloc[at].reset_index(drop=True),
            self.people[at],
            self.codes[at],
            self.intensity[at],
            self.style[at],
            self.idle[at],
            self.scene[at],
            self.keys[at],
        )


def replace_expressions(stimuli: Stimuli, expressions: Sequence[Expression | str]) -> Stimuli:
    """The same people, scenes and noise, showing `expressions` (one per stimulus) instead; labels follow.

    How strongly, in which personal style and with which idle movements stays as it was.
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
    """The same expressions, scenes and noise on the faces of `people` (n, identity parameters); identity labels go."""
    expected = (len(stimuli), len(anatomy.PARAMETERS))
    if np.shape(people) != expected:
        raise StudyError(f"identity parameters of shape {np.shape(people)}, expected {expected}: one row per stimulus.")
    return replace(stimuli, people=np.asarray(people, np.float64), labels=stimuli.labels.assign(identity=""))
