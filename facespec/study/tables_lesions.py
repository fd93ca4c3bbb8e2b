"""The tables about lesions: units in the order of their silence, what it costs, class by class, and how tasks part.

Columns that name tasks are free text, because users bring networks and tasks of their own; in the study they are
`study.vocabulary.TASKS`, and `trained_on` is ``joint``. `depth` 1 is the shallowest layer.
"""

from __future__ import annotations

from facespec.study.schema import Column, Schema
from facespec.study.tables import ALL_IMAGES

# Which units are silenced. "ranked": those whose silence raises the loss of a task most; "keep": all but those;
# "shuffled": as "ranked", by a mixture of both tasks' classes; "random": any. "keep" without `ranked_by`: all but any.
CONDITIONS = ("ranked", "keep", "shuffled", "random")
MODES = ("exact", "screening")

_PLACE = {
    "trained_on": Column("text"),
    "source": Column("text"),
    "seed": Column("integer", low=0),
    "layer": Column("text"),
    "depth": Column("integer", low=1),
}
_SILENCED = {
    "condition": Column("text", CONDITIONS),
    "draw": Column("integer", low=0),  # of the condition's random choices; 0 where nothing is drawn
    "ranked_by": Column("text", optional=True),  # a task; empty for any units; for "shuffled", whose place it takes
}

# The order in which units are silenced, a row per unit; `rank` 0 goes first. `round`: of the greedy search; `increase`:
# of the mean cross-entropy on that round's images, in nats, when this unit joins those of the rounds before.
# `procedure` "one-pass": all units are ranked by their increase alone. `mode` "exact": every unit's increase was
# computed in every round; "screening": that of candidates only, left over by successive halving.
LESION_RANKING = Schema(
    "lesion_ranking",
    {
        **_PLACE,
        "mode": Column("text", MODES),
        "procedure": Column("text", ("greedy", "one-pass")),
        **_SILENCED,
        "rank": Column("integer", low=0),
        "unit": Column("integer", low=0),
        "round": Column("integer", low=0),
        "increase": Column("number"),
    },
)

# Accuracy of a lesioned network on `n` test images. `fraction`: of chosen units; `silenced`: of `units`. `drop`: lost
# share of the accuracy above chance, (whole - lesioned) / (whole - chance); negative where the lesion helps; NaN, with
# a reason, where the whole network is not above chance. `between_classes`: share of the variance of right (1) and wrong
# (0) answers that lies between classes, corrected for chance (epsilon squared): 1 where every class is either kept or
# lost, around 0 where all are answered right equally often; NaN where all answers are right, or all wrong, where all
# images are of one class, and where no class has two.
LESIONS = Schema(
    "lesions",
    {
        **_PLACE,
        **_SILENCED,
        "fraction": Column("number", low=0, high=1),
        "units": Column("integer", low=1),
        "silenced": Column("integer", low=0),
        "tested_on": Column("text"),
        "n": Column("integer", low=1),
        "chance": Column("number", low=0, high=1),
        "accuracy": Column("number", low=0, high=1),
        "drop": Column("number", optional=True),
        "reason": Column("text", optional=True),
        "between_classes": Column("number", high=1, optional=True),
    },
)

# Which classes lesions take: the share of the `n` test images of each `class` that are answered right, when the units
# that the task `ranked_by` needs most are silenced. `class` is the index of the class's logit.
LESION_CLASSES = Schema(
    "lesion_classes",
    {
        **_PLACE,
        "ranked_by": Column("text"),
        "fraction": Column("number", low=0, high=1),
        "tested_on": Column("text"),
        "class": Column("integer", low=0),
        "n": Column("integer", low=1),
        "recall": Column("number", low=0, high=1),
    },
)

INDEX = "index"
# How far the tasks part under lesions. `quantity` a task: drop of that task minus drop of the other, when units chosen
# for that task are silenced; "index": the segregation index, 1 where each lesion harms its own task only, 0 where both
# tasks suffer alike. `resample` -1: all people; 0, 1, ...: bootstrap draws of people, the same for all seeds, layers
# and quantities.
DISSOCIATION = Schema(
    "dissociation",
    {
        **_PLACE,
        "fraction": Column("number", low=0, high=1),
        "quantity": Column("text"),
        "resample": Column("integer", low=ALL_IMAGES),
        "number": Column("number", optional=True),
        "reason": Column("text", optional=True),
    },
)

# The same quantities over all seeds and, for controls, draws: means with a 95 % interval over seeds, draws and people.
# `defined`: share of bootstrap draws in which the quantity is a number.
SEGREGATION = Schema(
    "segregation",
    {
        **{name: column for name, column in _PLACE.items() if name != "seed"},
        "condition": Column("text", ("ranked", "shuffled", "random")),
        "fraction": Column("number", low=0, high=1),
        "quantity": Column("text"),
        "seeds": Column("integer", low=1),
        "people": Column("integer", low=0),
        "number": Column("number", optional=True),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
        "defined": Column("number", low=0, high=1),
        "reason": Column("text", optional=True),
    },
)
