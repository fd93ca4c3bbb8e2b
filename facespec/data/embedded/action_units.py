"""Which facial movements make an expression: action units (FACS), from named expressions to intensities per image?

An image's intensities are ``prototype x intensity x personal style + idle``: the same smile differs between people,
and small other movements (talking, a second expression) are always added.
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
    12: "lip corner puller",
    15: "lip corner depressor",
    16: "lower lip depressor",
    20: "lip stretcher",
    23: "lip tightener",
    26: "jaw drop",
}

# Units of each expression: Ekman's prototypes as given in the method.
PROTOTYPES: dict[Expression, tuple[int, ...]] = {
    Expression.ANGRY: (4, 5, 7, 23),
    Expression.DISGUST: (9, 15, 16),
    Expression.FEAR: (1, 2, 4, 5, 7, 20, 26),
    Expression.HAPPY: (6, 12),
    Expression.NEUTRAL: (),
    Expression.SAD: (1, 4, 15),
    Expression.SURPRISE: (1, 2, 5, 26),
}

STRONGEST = 1.25  # above this the geometry of the face folds over itself


def build_prototypes() -> Floats:
    """(7, 13) intensities at full expression, expressions in enum order, units in the order of `UNITS`."""
    return np.array([[float(unit in PROTOTYPES[name]) for unit in UNITS] for name in EXPRESSIONS])


def compose(codes: npt.NDArray[np.int64], intensity: Floats, *, style: Floats, idle: Floats) -> Floats:
    """(n, 13) unit intensities in [0, STRONGEST].

    `codes` (n,): expression in enum order; `intensity` (n,): 0 to 1; `style` (n, 13): a person's gain per unit;
    `idle` (n, 13): intensities that do not depend on the expression.
    """
    return np.minimum(np.maximum(build_prototypes()[codes] * intensity[:, None] * style + idle, 0.0), STRONGEST)


def draw_style(people: int, generator: np.random.Generator) -> Floats:
    """(people, 13) gains around 1."""
    return 0.72 + 0.50 * generator.random((people, len(UNITS)))


def draw_idle(codes: npt.NDArray[np.int64], generator: np.random.Generator, *, amount: float) -> Floats:
    """(n, 13) idle movements: weak random units, some talking, and a fraction of a second, random expression.

    `amount` scales all of it; 0 is a perfectly posed face. The random numbers do not depend on `codes`.
    """
    n = len(codes)
    spontaneous = generator.random((n, len(UNITS)))
    active = generator.random((n, len(UNITS))) < 0.25
    talking = np.maximum(generator.random(n) * 1.0 - 0.6, 0.0)
    second = generator.integers(0, len(EXPRESSIONS), n)
    blend = np.maximum(generator.random(n) * 1.05 - 0.6, 0.0)
    idle = np.where(active, 0.28 * spontaneous, 0.0) + blend[:, None] * build_prototypes()[second]
    idle[:, list(UNITS).index(26)] += talking
    return amount * idle
