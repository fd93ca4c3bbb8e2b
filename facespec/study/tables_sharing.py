"""Which tables of the grid of networks pass between rooms: what does it cost that two tasks share a network?"""

from __future__ import annotations

from facespec.study.schema import Column, Schema
from facespec.study.vocabulary import NETWORKS, TASKS, TEST, TRAIN

_CELL = {
    "epochs": Column("integer", low=1),
    "width": Column("number", low=0),
    "branch_after": Column("text", optional=True),
    "weight": Column("number", low=0),
    "images": Column("integer", low=0),
}
CELL = tuple(_CELL)  # the settings of a network, as in `study.grid.Cell`

# One row per network of the grid, task and split of the task's faces: `accuracy` on the `n` images of the split.
# `parameters`: how many weights the network has. `correct`: whether each test image is classified correctly, in the
# order of the FaceSet, as bits in hexadecimal digits, the first bit first.
FITS = Schema(
    "fits",
    {
        "trained_on": Column("text", tuple(NETWORKS)),
        "seed": Column("integer", low=0),
        **_CELL,
        "parameters": Column("integer", low=1),
        "tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "split": Column("text", (TRAIN, TEST)),
        "n": Column("integer", low=1),
        "chance": Column("number", low=0, high=1),
        "accuracy": Column("number", low=0, high=1),
        "correct": Column("text", optional=True),
    },
)

# One row per cell of joint networks, width of the single-task networks beside them, task, split and seed: accuracy of
# the joint network and of the single-task network for the same task, and the first less the second. `seed` empty: the
# mean over `seeds` networks of each kind, with an interval: t with the variance between seeds and that of the test
# images, which all networks share (`checks.crossed`); training images are given, so that their interval is t over
# seeds. No interval with one seed, beyond that of the test images. `joint_parameters` and `single_parameters`: weights
# of the joint network and of the pair of single-task networks.
SHARING = Schema(
    "sharing",
    {
        **_CELL,
        "single_width": Column("number", low=0),
        "joint_parameters": Column("integer", low=1),
        "single_parameters": Column("integer", low=1),
        "tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "split": Column("text", (TRAIN, TEST)),
        "seed": Column("integer", low=0, optional=True),
        "seeds": Column("integer", low=1),
        "n": Column("integer", low=1),
        "joint": Column("number", low=0, high=1),
        "single": Column("number", low=0, high=1),
        "difference": Column("number", low=-1, high=1),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
    },
)
