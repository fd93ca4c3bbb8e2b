"""What do manipulations of faces cost an observer, and do they cost people the same?

An observer is a network, an untrained network, or a comparison of pixels: whatever has evidence for every class. It is
tested as people are. It names a face, or the upper half of one; or it is shown two pictures that differ in one part and
chooses the one that looks more like the person, or the expression, that it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.data.embedded.action_units import FORMS
from facespec.data.embedded.battery import (
    ALIGNED,
    ANTICARICATURE,
    CARICATURE,
    CONDITIONS,
    INVERTED,
    MISALIGNED,
    PARTS,
    SHAPE_SWAPPED,
    SURFACE_SWAPPED,
    UPRIGHT,
    Part,
    name_condition,
    name_part,
)
from facespec.study.tables_battery import CHOSEN, EASY, NAMED, NEITHER
from facespec.study.vocabulary import Expression, Task

Floats = npt.NDArray[np.float64]

WHOLE, ALONE = "in the whole face", "alone"


@dataclass(frozen=True)
class Effect:
    """A difference between two measures of one task, and which of them people find easier, with the source."""

    name: str
    task: Task
    easy: str
    hard: str
    reference: str
    human: str = EASY


def name_measure(task: Task, part: str, where: str) -> str:
    """The name of a choice between two pictures that differ in a part; `part` "parts": the mean over parts."""
    return f"{task.value} {part} {where}"


def list_parts(task: Task) -> list[Part]:
    """The parts of the face in which pictures of a task differ."""
    return [part for part in PARTS if part.task is task]


def list_measures(task: Task) -> dict[str, str]:
    """All measures of a task, and of each whether faces are "named" or "chosen"."""
    kinds = (ALIGNED, MISALIGNED, ANTICARICATURE, CARICATURE)
    named = [UPRIGHT, INVERTED, *(name_condition(task, kind) for kind in kinds), SHAPE_SWAPPED, SURFACE_SWAPPED]
    parts = [*(part.name for part in list_parts(task)), "parts"]
    chosen = [name_measure(task, part, where) for part in parts for where in (WHOLE, ALONE)]
    return dict.fromkeys(named, NAMED) | dict.fromkeys(chosen, CHOSEN)


def _list_effects(task: Task, references: Sequence[str], *, parts: str) -> tuple[Effect, ...]:
    """The effects that both tasks have; `references` in their order. `parts`: what people find easier there."""
    pairs = {
        "inversion": (UPRIGHT, INVERTED),
        "composite": (name_condition(task, MISALIGNED), name_condition(task, ALIGNED)),
        "part and whole": (name_measure(task, "parts", WHOLE), name_measure(task, "parts", ALONE)),
        "caricature": (name_condition(task, CARICATURE), UPRIGHT),
        "anticaricature": (UPRIGHT, name_condition(task, ANTICARICATURE)),
    }
    human = {name: parts if name == "part and whole" else EASY for name in pairs}
    return tuple(
        Effect(name, task, easy, hard, reference, human[name])
        for (name, (easy, hard)), reference in zip(pairs.items(), references, strict=True)
    )


EFFECTS: tuple[Effect, ...] = (
    *_list_effects(
        Task.IDENTITY,
        (
            "Yin 1969",
            "Young, Hellawell & Hay 1987",
            "Tanaka & Farah 1993",
            "Lee, Byatt & Rhodes 2000",
            "Lee, Byatt & Rhodes 2000",
        ),
        parts=EASY,
    ),
    Effect("surface over shape", Task.IDENTITY, SHAPE_SWAPPED, SURFACE_SWAPPED, "Burton et al. 2015"),
    *_list_effects(
        Task.EXPRESSION,
        (
            "McKelvie 1995",
            "Calder et al. 2000",
            "Tanaka et al. 2012",
            "Calder et al. 1997",
            "Calder et al. 1997",
        ),
        parts=NEITHER,
    ),
)


def score_images(table: pd.DataFrame, evidence: Floats, *, task: Task, known: Sequence[str]) -> pd.DataFrame:
    """How often is an observer right, image by image?

    Parameters
    ----------
    table : DataFrame of n * c rows
        `data.embedded.battery.BatteryFaces.manipulated`: n images, each in all c conditions.
    evidence : array of float64 of shape (n * c, k)
        The observer's evidence for each of k classes: log-probabilities, or whatever is larger for likelier classes.
    task : Task
        Which property of the faces is asked for.
    known : sequence of str of length k
        The classes.

    Returns
    -------
    DataFrame of n rows
        A column for each of `list_measures`: 1 where right, 0 where wrong, 0.5 where both pictures of a choice have
        equal evidence; means of these for "parts". NaN where the class is unknown, and for neutral faces, which cannot
        be exaggerated, in caricatures of expression.

    Examples
    --------
    >>> table = pd.DataFrame({"condition": list(CONDITIONS), "identity": "Ann", "expression": "happy"})
    >>> evidence = np.tile([[0.0, 1.0]], (len(table), 1))
    >>> scores = score_images(table, evidence, task=Task.IDENTITY, known=["Ann", "Bob"])
    >>> scores[["upright", "identity parts alone"]].to_numpy().tolist()
    [[0.0, 0.5]]
    """
    by_condition = evidence.reshape(-1, len(CONDITIONS), len(known))
    wanted = table[task.value].to_numpy(str)[:: len(CONDITIONS)]
    column = {name: index for index, name in enumerate(CONDITIONS)}
    codes = pd.Index(known).get_indexer(pd.Index(wanted))
    of_wanted = np.take_along_axis(by_condition, np.maximum(codes, 0)[:, None, None], axis=2)[:, :, 0]
    named = (by_condition.argmax(axis=2) == codes[:, None]).astype(np.float64)

    def choose(right: str, wrong: str) -> Floats:
        difference = of_wanted[:, column[right]] - of_wanted[:, column[wrong]]
        return np.asarray(0.5 * (1.0 + np.sign(difference)))

    scores = {name: named[:, column[name]] for name, kind in list_measures(task).items() if kind == NAMED}
    pairs = {
        WHOLE: lambda part: (UPRIGHT, name_part(part, "foil")),
        ALONE: lambda part: (name_part(part, "alone"), name_part(part, "foil alone")),
    }
    parts = list_parts(task)
    for where, list_pair in pairs.items():
        for part in parts:
            scores[name_measure(task, part.name, where)] = choose(*list_pair(part))
        by_part = [scores[name_measure(task, part.name, where)] for part in parts]
        scores[name_measure(task, "parts", where)] = np.mean(by_part, axis=0)
    frame = pd.DataFrame(scores)[list(list_measures(task))]
    frame[codes < 0] = np.nan
    if task is Task.EXPRESSION:
        exaggerated = [name_condition(task, kind) for kind in (ANTICARICATURE, CARICATURE)]
        frame.loc[wanted == Expression.NEUTRAL.value, exaggerated] = np.nan
    return frame


def compute_effects(scores: Floats, task: Task) -> Floats:
    """The effects of a task, image by image: (..., n, effects) from scores (..., n, measures)."""
    column = {name: index for index, name in enumerate(list_measures(task))}
    pairs = [(column[effect.easy], column[effect.hard]) for effect in EFFECTS if effect.task is task]
    return np.stack([scores[..., easy] - scores[..., hard] for easy, hard in pairs], axis=-1)


def is_listed(unit: int, expression: Expression) -> bool:
    """Whether the embedded faces have the unit in a form of the expression; no unit (0) is in the neutral face.

    >>> is_listed(12, Expression.HAPPY), is_listed(12, Expression.SAD), is_listed(0, Expression.NEUTRAL)
    (True, False, True)
    """
    forms = FORMS[expression]
    return any(unit in form or (unit == 0 and not form) for form in forms)
