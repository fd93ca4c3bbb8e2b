"""Which tables do lesion sweeps make? Rankings of units, accuracies under lesions, and how the tasks dissociate.

Columns that name tasks are free text, because users test networks and tasks of their own. In the study, tasks are
`study.vocabulary.TASKS`, and `trained_on` is ``joint``, or ``untrained`` for the trunk before any training under linear
readouts of both tasks. `depth` 1 is the shallowest layer.
"""

from __future__ import annotations

from facespec.study.schema import Column, Schema
from facespec.study.tables import ALL_IMAGES

# Which units are lesioned. "ranked": those whose lesions raise a task's loss most; "keep": all but these; "shuffled":
# as "ranked", for classes shuffled over both tasks; "random": random units; "keep" without `ranked_by`: all but these.
CONDITIONS = ("ranked", "keep", "shuffled", "random")
MODES = ("exact", "screening")

_LAYER_COLUMNS = {
    "trained_on": Column("text"),
    "source": Column("text"),
    "seed": Column("integer", low=0),
    "layer": Column("text"),
    "depth": Column("integer", low=1),
}
_LESION_COLUMNS = {
    "condition": Column("text", CONDITIONS),
    "draw": Column("integer", low=0),  # number of the random draw; 0 if the condition draws nothing
    "ranked_by": Column("text", optional=True),  # a task; empty for random units; for "shuffled", the replaced task
}
_AMOUNT_COLUMNS = {
    "fraction": Column("number", low=0, high=1, optional=True),
    "damage": Column("number", low=0, high=1, optional=True),
    "needed": Column("number", low=0, high=1, optional=True),
}

# One row per unit, in the order of lesioning: `rank` 0 is first. `round`: of the greedy search. `increase`: of the mean
# cross-entropy on that round's images, in nats, when this unit is lesioned in addition to those of earlier rounds.
# `procedure` "one-pass": all units are ranked by their single lesions. `mode` "exact": every unit's increase was
# computed in every round; "screening": only that of candidates chosen by successive halving.
LESION_RANKING = Schema(
    "lesion_ranking",
    {
        **_LAYER_COLUMNS,
        "mode": Column("text", MODES),
        "procedure": Column("text", ("greedy", "one-pass")),
        **_LESION_COLUMNS,
        "rank": Column("integer", low=0),
        "unit": Column("integer", low=0),
        "round": Column("integer", low=0),
        "increase": Column("number"),
    },
)

# One row per lesion and test: accuracy of the lesioned network on `n` test images. `fraction`: of chosen units;
# `silenced`: number of lesioned units, of `units` in all. `drop`: lost share of the accuracy above chance, (whole -
# lesioned) / (whole - chance); negative if the lesion helps; NaN, with a reason, if the whole network is not above
# chance. `between_classes`: share of the variance of correct (1) and wrong (0) predictions between classes, corrected
# for chance (epsilon squared): 1 if every class is either spared or lost, around 0 if all classes have equal recalls;
# NaN if all predictions are correct or all wrong, if there is one class only, and if no class has two images.
LESIONS = Schema(
    "lesions",
    {
        **_LAYER_COLUMNS,
        **_LESION_COLUMNS,
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

# One row per lesion and class: share of the `n` test images of `class` (index of its logit) that are classified
# correctly, when the units ranked highest for the task `ranked_by` are lesioned.
LESION_CLASSES = Schema(
    "lesion_classes",
    {
        **_LAYER_COLUMNS,
        "ranked_by": Column("text"),
        "fraction": Column("number", low=0, high=1),
        "tested_on": Column("text"),
        "class": Column("integer", low=0),
        "n": Column("integer", low=1),
        "recall": Column("number", low=0, high=1),
    },
)

# One row per lesion and test, as in LESIONS: the lesions that make up the damage curve of an order of units. Its units
# are silenced one after the other; `silenced` of `units` are at this point of the curve, which begins with the whole
# network (no row) and ends with all units. An order is named by `condition`, `draw` and `ranked_by`.
DAMAGE_CURVES = Schema(
    "damage_curves",
    {
        **_LAYER_COLUMNS,
        **_LESION_COLUMNS,
        "units": Column("integer", low=1),
        "silenced": Column("integer", low=1),
        "tested_on": Column("text"),
        "n": Column("integer", low=1),
        "chance": Column("number", low=0, high=1),
        "accuracy": Column("number", low=0, high=1),
        "drop": Column("number", optional=True),
        "reason": Column("text", optional=True),
    },
)

INDEX = "index"  # the `quantity` of the segregation index
# One row per quantity and resample. `quantity` a task: drop of that task minus drop of the other, under lesions of the
# units ranked for it; "index": the segregation index, 1 if each lesion reduces its own task only, 0 if both tasks are
# reduced equally. `resample` -1: all people; 0, 1, ...: bootstrap draws of people, the same for all seeds, layers and
# quantities. Either `fraction` of the units are silenced, or as many as cost the task that they are ranked for `damage`
# of its accuracy above chance (matched damage): then `fraction` is empty, and `needed` is the share of units that it
# took, interpolated between the points of the damage curve.
DISSOCIATION = Schema(
    "dissociation",
    {
        **_LAYER_COLUMNS,
        **_AMOUNT_COLUMNS,
        "quantity": Column("text"),
        "resample": Column("integer", low=ALL_IMAGES),
        "number": Column("number", optional=True),
        "reason": Column("text", optional=True),
    },
)

# One row per quantity (see `DISSOCIATION`) and condition: mean with a 95 % interval over seeds, control draws and
# people. `needed`: mean share, as the number is. `defined`: share of bootstrap draws in which the quantity is a number.
SEGREGATION = Schema(
    "segregation",
    {
        **{name: column for name, column in _LAYER_COLUMNS.items() if name != "seed"},
        "condition": Column("text", ("ranked", "shuffled", "random")),
        **_AMOUNT_COLUMNS,
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
