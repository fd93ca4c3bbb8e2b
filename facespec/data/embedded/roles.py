"""Which faces fill the three roles: people, expressions and scenes, all drawn before any pixel is rendered?"""

from __future__ import annotations

from collections.abc import Sequence

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
    """All stimuli of `role`, in the numbers of `block`."""
    if role is Role.PROBE:
        return draw_studio(block.probe.people, generator, hair=block.probe.hair)
    return _draw_expression(block, generator) if role is Role.EXPRESSION else _draw_identity(block, generator)


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


def _draw_codes(n: int, generator: np.random.Generator) -> Codes:
    return generator.permutation(np.repeat(np.arange(len(EXPRESSIONS), dtype=np.int64), compute_quotas(n)))


def _draw_expression(block: Data, generator: np.random.Generator) -> Stimuli:
    """In the wild, about two images per person, nobody in both splits."""
    train, test = block.expression.train, block.expression.test
    n_people = [max(1, n // 2) for n in (train, test)]
    in_train = generator.integers(0, n_people[0], train)
    in_test = n_people[0] + generator.integers(0, n_people[1], test)
    person = np.concatenate([in_train, in_test])
    codes = np.concatenate([_draw_codes(train, generator), _draw_codes(test, generator)])
    names = np.array([f"e{index:05d}" for index in range(n_people[0] + n_people[1])])
    splits = [TRAIN] * train + [TEST] * test
    return _draw_wild(
        Role.EXPRESSION,
        names,
        person=person,
        codes=codes,
        splits=splits,
        generator=generator,
        domain=block.expression.scenes,
    )


def _draw_identity(block: Data, generator: np.random.Generator) -> Stimuli:
    """In the wild, the same number of images of every person, any expression."""
    train, test, n_people = block.identity.train, block.identity.test, block.identity.people
    person = np.repeat(np.arange(n_people, dtype=np.int64), train + test)
    codes = _draw_codes(len(person), generator)
    names = np.array([f"p{index:04d}" for index in range(n_people)])
    splits = ([TRAIN] * train + [TEST] * test) * n_people
    return _draw_wild(
        Role.IDENTITY,
        names,
        person=person,
        codes=codes,
        splits=splits,
        generator=generator,
        domain=block.identity.scenes,
    )


def _draw_wild(
    role: Role,
    names: npt.NDArray[np.str_],
    *,
    person: Codes,
    codes: Codes,
    splits: list[str],
    generator: np.random.Generator,
    domain: str,
) -> Stimuli:
    n, n_people = len(person), len(names)
    male = generator.random(n_people) < 0.5
    people = anatomy.draw_people(n_people, generator, male=male)
    style = action_units.draw_style(n_people, generator)
    labels = {
        "stimulus": [f"{names[row]}-{index:05d}" for index, row in enumerate(person)],
        "split": splits,
        "identity": names[person],
        "expression": [EXPRESSIONS[code].value for code in codes],
        "view": "",
        "session": "",
    }
    return Stimuli(
        role,
        LABELS.check(pd.DataFrame(labels)),
        anatomy.change_appearance(people[person], generator, male=male[person]),  # every picture is of another day
        codes,
        0.50 + 0.50 * generator.random(n),
        generator.random(n),
        action_units.vary_style(style[person], generator, amount=1.0),
        action_units.draw_idle(codes, generator, amount=1.0),
        scenes.draw_wild(n, generator, domain=domain),
        _draw_keys(n, generator),
    )


def draw_studio(
    n_people: int,
    generator: np.random.Generator,
    *,
    sessions: Sequence[str] = SESSIONS,
    expressions: Sequence[Expression] = EXPRESSIONS,
    views: Sequence[View] = VIEWS,
    hair: str = "cap",
) -> Stimuli:
    """In the studio: everyone in every session, with every expression, from every view; the first half are women.

    Between sessions people change hair, beard and glasses; with `hair` "cap" all wear the same cap, with "own" none.
    An expression is shown once per session, with a form and strengths of its own, and photographed from all views.
    """
    male = np.arange(n_people) >= (n_people + 1) // 2
    people = anatomy.draw_people(n_people, generator, male=male)
    style = action_units.draw_style(n_people, generator)
    names = [f"{'M' if is_male else 'F'}{index % ((n_people + 1) // 2) + 1:02d}" for index, is_male in enumerate(male)]
    cells = [
        (row, session, expression, view)
        for row in range(n_people)
        for session in sessions
        for expression in expressions
        for view in views
    ]
    n = len(cells)
    person = np.array([row for row, *_ in cells], dtype=np.int64)
    days = np.repeat(np.arange(n_people), len(sessions))  # a person's sessions, one after the other
    on_days = anatomy.change_appearance(people[days], generator, male=male[days])
    if hair == "cap":
        on_days = anatomy.put_on_caps(on_days)
    day = np.repeat(np.arange(len(days)), len(expressions) * len(views))
    shown = np.repeat(np.arange(len(days) * len(expressions)), len(views))  # the expression that is photographed
    styles = action_units.vary_style(np.repeat(style[days], len(expressions), axis=0), generator, amount=0.6)
    codes = np.array([EXPRESSIONS.index(expression) for _, _, expression, _ in cells], dtype=np.int64)
    labels = {
        "stimulus": [f"{session}{names[row]}-{name.value}-{view.value}" for row, session, name, view in cells],
        "split": "probe",
        "identity": [names[row] for row in person],
        "expression": [expression.value for _, _, expression, _ in cells],
        "view": [view.value for *_, view in cells],
        "session": [session for _, session, _, _ in cells],
    }
    return Stimuli(
        Role.PROBE,
        LABELS.check(pd.DataFrame(labels)),
        on_days[day],
        codes,
        (0.60 + 0.40 * generator.random(len(styles)))[shown],
        generator.random(len(styles))[shown],
        styles[shown],
        action_units.draw_idle(codes, generator, amount=0.30),
        scenes.draw_probe([view for *_, view in cells], [session for _, session, _, _ in cells], generator),
        _draw_keys(n, generator),
    )


def _draw_keys(n: int, generator: np.random.Generator) -> npt.NDArray[np.uint64]:
    return generator.integers(0, 2**64 - 1, n, dtype=np.uint64, endpoint=True)
