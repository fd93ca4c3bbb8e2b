"""Which table of geometry passes between rooms: do layers carry the two tasks in different directions?"""

from __future__ import annotations

from facespec.study.schema import Column, Schema
from facespec.study.tables import LAYER_COLUMNS
from facespec.study.vocabulary import TASKS

SHUFFLED = "shuffled"

# One row per layer, task `of` which variance is measured, subspace `inside` which it is, and resample of the people
# (-1: all of them): `number` is the share of the variance inside, a product of two independent estimates, and so not
# always between 0 and 1. `inside` "shuffled": the subspace of classes drawn at random. `dimensions` of the subspace, of
# the `directions` in which the layer's responses vary; `chance` is one divided by the other.
GEOMETRY = Schema(
    "depth_geometry",
    {
        **LAYER_COLUMNS,
        "of": Column("text", tuple(TASKS)),
        "inside": Column("text", (*TASKS, SHUFFLED)),
        "directions": Column("integer", low=0),
        "dimensions": Column("integer", low=0),
        "chance": Column("number", low=0, high=1),
        "resample": Column("integer", low=-1),
        "number": Column("number", optional=True),
    },
)
