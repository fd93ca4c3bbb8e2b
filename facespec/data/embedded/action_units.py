"""Which facial movements make an expression: action units (FACS), from named expressions to intensities per image?

An image's intensities are ``form x intensity x style + idle``. An expression has several forms, as people show it in
several ways; some units are shared by two expressions, which are therefore confused. Every unit varies on its own, and
small other movements (talking, a second expression) are always added.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facespec.study.vocabulary import EXPRESSIONS, Expression

Floats = npt.NDArray[np.float64]

UNITS = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    12: "lip corner puller",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    20: "lip stretcher",
    23: "lip tightener",
    25: "lips part",
    26: "jaw drop",
}

# Forms of each expression: first the prototype given in the method, then prototypes and major variants of Ekman,
# Friesen & Hager 2002, Facial Action Coding System: Investigator's Guide, Table 10-1. Units that are not modelled are
# left out (11, 22) or taken for their neighbour (24 for 23, 27 for 26).
FORMS: dict[Expression, tuple[tuple[int, ...], ...]] = {
    Expression.ANGRY: ((4, 5, 7, 23), (4, 5, 7, 17, 23), (4, 5, 7, 10, 23, 25), (4, 7, 17, 23), (4, 7, 10, 25)),
    Expression.DISGUST: ((9, 15, 16), (9,), (9, 17), (9, 10, 25), (10, 16, 25), (10, 17)),
    Expression.FEAR: ((1, 2, 4, 5, 7, 20, 26), (1, 2, 4, 5, 20, 25), (1, 2, 4, 5, 26), (1, 2, 5, 26), (1, 2, 5, 25)),
    Expression.HAPPY: ((6, 12), (6, 12, 25), (12,)),
    Expression.NEUTRAL: ((),),
    Expression.SAD: ((1, 4, 15), (1, 4, 15, 17), (1, 4), (6, 15), (15, 17)),
    Expression.SURPRISE: ((1, 2, 5, 26), (1, 2, 5), (1, 2, 26), (5, 26)),
}
FIRST_SHARE = 0.4  # how often the prototype of the method is shown; the other forms share the rest evenly

STRONGEST = 1.25  # above this the geometry of the face folds over itself


def list_forms() -> Floats:
    """(7, 6, 16) intensities: expressions in enum order, their forms (the last one repeated), units as in `UNITS`."""
    most = max(map(len, FORMS.values()))
    padded = [FORMS[name] + FORMS[name][-1:] * (most - len(FORMS[name])) for name in EXPRESSIONS]
    return np.array([[[float(unit in form) for unit in UNITS] for form in forms] for forms in padded])


def choose_forms(codes: npt.NDArray[np.int64], form: Floats) -> Floats:
    """(n, 16) intensities at full expression of the form that `form` (n,), in [0, 1), chooses for each of `codes`."""
    others = np.array([len(FORMS[name]) - 1 for name in EXPRESSIONS], dtype=np.int64)[codes]
    rest = np.maximum(form - FIRST_SHARE, 0.0) * (1.0 / (1.0 - FIRST_SHARE))
    chosen = np.where((form < FIRST_SHARE) | (others == 0), 0, 1 + np.floor(rest * others).astype(np.int64))
    return list_forms()[codes, np.minimum(chosen, others)]


def compose(codes: npt.NDArray[np.int64], intensity: Floats, *, form: Floats, style: Floats, idle: Floats) -> Floats:
    """(n, 16) unit intensities in [0, STRONGEST].

    `codes` (n,): expression in enum order; `intensity`, `form` (n,): 0 to 1; `style` (n, 16): gain of every unit;
    `idle` (n, 16): intensities that do not depend on the expression.
    """
    return np.minimum(np.maximum(choose_forms(codes, form) * intensity[:, None] * style + idle, 0.0), STRONGEST)


def draw_style(people: int, generator: np.random.Generator) -> Floats:
    """(people, 16) personal gains around 1."""
    return 0.72 + 0.50 * generator.random((people, len(UNITS)))


def vary_style(style: Floats, generator: np.random.Generator, *, amount: float) -> Floats:
    """(n, 16) gains of single images around personal ones: every unit on its own, at `amount` 1 from 0.4 to 1.2."""
    return style * (1.0 + amount * (0.80 * generator.random(style.shape) - 0.60))


def draw_idle(codes: npt.NDArray[np.int64], generator: np.random.Generator, *, amount: float) -> Floats:
    """(n, 16) idle movements: weak random units, some talking, and a fraction of a second, random expression.

    `amount` scales all of it; 0 is a perfectly posed face. The random numbers do not depend on `codes`.
    """
    n = len(codes)
    spontaneous = generator.random((n, len(UNITS)))
    active = generator.random((n, len(UNITS))) < 0.25
    talking = np.maximum(generator.random(n) * 1.0 - 0.6, 0.0)
    second = generator.integers(0, len(EXPRESSIONS), n)
    blend = np.maximum(generator.random(n) * 1.05 - 0.7, 0.0)
    idle = np.where(active, 0.28 * spontaneous, 0.0) + blend[:, None] * list_forms()[second, 0]
    idle[:, list(UNITS).index(26)] += talking
    return amount * idle
