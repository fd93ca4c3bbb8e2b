"""Which faces fill the three roles: people, expressions, scenes; all random numbers are drawn before any pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.data.embedded import action_units, anatomy, scenes
from facespec.data.embedded.stimuli import Codes, Stimuli
from facespec.study.params import Data
from facespec.study.tables import LABELS
from facespec.study.vocabulary import EXPRESSIONS, SESSIONS, TEST, TRAIN, VIEWS, Expression, Role, View

# FER2013's training images per expression [P], of 28,709
FREQUENCIES: dict[Expression, int] = {
    Expression.ANGRY: 3995,
    Expression.DISGUST: 436,
    Expression.FEAR: 4097,
    Expression.HAPPY: 7215,
    Expression.NEUTRAL: 4965,
    Expression.SAD: 4830,
    Expression.SURPRISE: 3171,
}


def draw_role(role: Role, block: Data, generator: np.random.Generator) -> Stimuli:
    """All stimuli of `role`, as many as `block` asks for."""
    if role is Role.EXPRESSION:
        return _expression(block, generator)
    return _identity(block, generator) if role is Role.IDENTITY else _probe(block, generator)


def compute_quotas(n: int) -> Codes:
    """(7,) images per expression: FER2013's shares of `n`, by largest remainders, at least one each if n allows."""
    weights = np.array([FREQUENCIES[name] for name in EXPRESSIONS], dtype=np.int64)
    total = int(weights.sum())
    counts, rest = n * weights // total, n * weights % total
    order = np.argsort(-rest, kind="stable")
    counts[order[: n - int(counts.sum())]] += 1
    if n >= len(counts):
        for index in np.flatnonzero(counts == 0):
            counts[index] += 1
            counts[np.argmax(counts)] -= 1
    return counts


def _skewed(n: int, generator: np.random.Generator) -> Codes:
    return generator.permutation(np.repeat(np.arange(len(EXPRESSIONS), dtype=np.int64), compute_quotas(n)))


def _expression(block: Data, generator: np.random.Generator) -> Stimuli:
    """In the wild, about two pictures per person, nobody in both splits."""
    train, test = block.expression.train, block.expression.test
    crowd = [max(1, n // 2) for n in (train, test)]
    person = np.concatenate([generator.integers(0, crowd[0], train), crowd[0] + generator.integers(0, crowd[1], test)])
    codes = np.concatenate([_skewed(train, generator), _skewed(test, generator)])
    names = np.array([f"e{index:05d}" for index in range(crowd[0] + crowd[1])])
    splits = [TRAIN] * train + [TEST] * test
    return _wild(Role.EXPRESSION, names, person=person, codes=codes, splits=splits, generator=generator)


def _identity(block: Data, generator: np.random.Generator) -> Stimuli:
    """In the wild, the same number of pictures of every person, any expression."""
    train, test = block.identity.train, block.identity.test
    person = np.repeat(np.arange(block.identity.people, dtype=np.int64), train + test)
    codes = _skewed(len(person), generator)
    names = np.array([f"p{index:04d}" for index in range(block.identity.people)])
    splits = ([TRAIN] * train + [TEST] * test) * block.identity.people
    return _wild(Role.IDENTITY, names, person=person, codes=codes, splits=splits, generator=generator)


def _wild(
    role: Role,
    names: npt.NDArray[np.str_],
    *,
    person: Codes,
    codes: Codes,
    splits: list[str],
    generator: np.random.Generator,
) -> Stimuli:
    n, crowd = len(person), len(names)
    people = anatomy.draw_people(crowd, generator, male=generator.random(crowd) < 0.5)
    style = action_units.draw_style(crowd, generator)
    labels = LABELS.check(
        pd.DataFrame(
            {
                "stimulus": [f"{names[who]}-{index:05d}" for index, who in enumerate(person)],
                "split": splits,
                "identity": names[person],
                "expression": [EXPRESSIONS[code].value for code in codes],
                "view": "",
                "session": "",
            }
        )
    )
    return Stimuli(
        role,
        labels,
        people[person],
        codes,
        0.30 + 0.70 * generator.random(n),
        style[person],
        action_units.draw_idle(codes, generator, amount=1.0),
        scenes.draw_wild(n, generator),
        _keys(n, generator),
    )


def _probe(block: Data, generator: np.random.Generator) -> Stimuli:
    """In the studio: everyone with every expression, from five views, in two sessions."""
    crowd = block.probe.people
    male = np.arange(crowd) >= (crowd + 1) // 2
    people = anatomy.draw_people(crowd, generator, male=male)
    style = action_units.draw_style(crowd, generator)
    names = [f"{'M' if is_male else 'F'}{index % ((crowd + 1) // 2) + 1:02d}" for index, is_male in enumerate(male)]
    cells = [
        (who, session, code, view)
        for who in range(crowd)
        for session in SESSIONS
        for code in range(len(EXPRESSIONS))
        for view in VIEWS
    ]
    person = np.array([cell[0] for cell in cells], dtype=np.int64)
    codes = np.array([cell[2] for cell in cells], dtype=np.int64)
    views: list[View] = [cell[3] for cell in cells]
    labels = LABELS.check(
        pd.DataFrame(
            {
                "stimulus": [
                    f"{at}{names[who]}-{EXPRESSIONS[code].value}-{view.value}" for who, at, code, view in cells
                ],
                "split": "probe",
                "identity": [names[who] for who in person],
                "expression": [EXPRESSIONS[code].value for code in codes],
                "view": [view.value for view in views],
                "session": [cell[1] for cell in cells],
            }
        )
    )
    return Stimuli(
        Role.PROBE,
        labels,
        people[person],
        codes,
        0.70 + 0.30 * generator.random(len(cells)),
        style[person],
        action_units.draw_idle(codes, generator, amount=0.25),
        scenes.draw_probe(views, generator),
        _keys(len(cells), generator),
    )


def _keys(n: int, generator: np.random.Generator) -> npt.NDArray[np.uint64]:
    return generator.integers(0, 2**64 - 1, n, dtype=np.uint64, endpoint=True)
