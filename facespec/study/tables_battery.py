"""Which tables of the stimulus battery pass between rooms: what do manipulated faces cost?"""

from __future__ import annotations

from facespec.study.schema import Column, Schema
from facespec.study.tables import NEAREST, UNTRAINED
from facespec.study.tables_calibration import SEED_COLUMNS
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, TASKS

NAMED, CHOSEN = "named", "chosen"  # how an observer is tested
EASY, NEITHER = "easy", "neither"  # what people find easier
OBSERVERS = (*NETWORKS, UNTRAINED, NEAREST)
_NUMBERS = {
    "number": Column("number", low=-1, high=1, optional=True),
    "low": Column("number", low=-1, high=1, optional=True),
    "high": Column("number", low=-1, high=1, optional=True),
    "reason": Column("text", optional=True),
}

# One row per observer, task and measure: `number` is the share of the `n` images for which the observer is right.
# `kind` "named": it names the identity or expression of the face (of its upper half); "chosen": of two pictures that
# differ in one part, it prefers that with the part of the class it is asked for; equal evidence counts half.
BATTERY = Schema(
    "battery",
    {
        "trained_on": Column("text", OBSERVERS),
        "tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "measure": Column("text"),
        "kind": Column("text", (NAMED, CHOSEN)),
        **SEED_COLUMNS,
        "chance": Column("number", low=0, high=1),
        **_NUMBERS,
    },
)

# One row per observer, task and effect: `number` is the share right by the measure `easy` less that by `hard`, image by
# image. `human`: which of them people find easier, as `reference` reports; "neither" where they find no difference.
BATTERY_EFFECTS = Schema(
    "battery_effects",
    {
        "trained_on": Column("text", OBSERVERS),
        "tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "effect": Column("text"),
        "easy": Column("text"),
        "hard": Column("text"),
        "human": Column("text", (EASY, NEITHER)),
        "reference": Column("text"),
        **SEED_COLUMNS,
        **_NUMBERS,
    },
)

# One row per observer, action unit and expression: `number` is the share of the `n` faces with only this unit (0: none)
# that are called by the name of the expression. `listed`: whether the faces' own table of forms, after FACS, has the
# unit in a form of this expression.
BATTERY_UNITS = Schema(
    "battery_units",
    {
        "trained_on": Column("text", OBSERVERS),
        "source": Column("text"),
        "unit": Column("integer", low=0),
        "expression": Column("text", tuple(EXPRESSIONS)),
        "listed": Column("text", ("yes", "no")),
        **SEED_COLUMNS,
        **_NUMBERS,
    },
)
