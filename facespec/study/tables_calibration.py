"""Which tables of calibration pass between rooms: what numbers about these faces are about?"""

from __future__ import annotations

from facespec.study.schema import Column, Schema
from facespec.study.tables import NEAREST, PIXELS, UNTRAINED
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, TASKS

OWNER, DONOR, CORRECT = "owner", "donor", "correct"
_NUMBERS = {
    "number": Column("number", optional=True),
    "low": Column("number", optional=True),
    "high": Column("number", optional=True),
    "reason": Column("text", optional=True),
}
# `seed` empty: the mean over `seeds` networks, with a 95 % interval over seeds and people; else one network, with an
# interval over people. `seeds` is 0 for what has no seed, such as comparisons of pixels.
SEED_COLUMNS = {
    "seed": Column("integer", low=0, optional=True),
    "seeds": Column("integer", low=0),
    "people": Column("integer", low=0),
    "n": Column("integer", low=0),
}

# One row per network, task, swapped cue and measure. `cue`: of `data.embedded.cues`; "none": the pictures as they are.
# `kind` "person": the cue of another person's face; "scene": of another picture; "none" with `cue` "none". `measure`
# "owner": share of the `n` held-out probe images that are given the name of the person to whom all but the cue
# belongs; "donor": the name of the person from whom the cue is; "correct": share of images whose expression is named.
# `changed`: mean absolute change of the pictures, in grey levels.
CUE_SWAPS = Schema(
    "cue_swaps",
    {
        "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
        "tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "cue": Column("text"),
        "kind": Column("text", ("none", "person", "scene")),
        "measure": Column("text", (OWNER, DONOR, CORRECT)),
        **SEED_COLUMNS,
        "chance": Column("number", low=0, high=1),
        "changed": Column("number", low=0, high=255, optional=True),
        **_NUMBERS,
    },
)

# One row per classifier without a trained network, task and split of the probe images. `split` "study": that of the
# networks (params.yaml); "sessions": fitted to session A, tested on session B. `trained_on` "untrained": the networks'
# common trunk before training, decoded as in Figure 1B. `seeds` is 0 for classifiers of pixels, which have no seed.
BASELINES = Schema(
    "baselines",
    {
        "trained_on": Column("text", (NEAREST, PIXELS, UNTRAINED)),
        "tested_on": Column("text", tuple(TASKS)),
        "split": Column("text", ("study", "sessions")),
        "source": Column("text"),
        **SEED_COLUMNS,
        "chance": Column("number", low=0, high=1),
        **_NUMBERS,
    },
)

# One row per cell of a confusion matrix of expressions: `number` is the share of the `n` test images that show `true`
# which are called `predicted`; where both are equal, the recall. `role` "expression": test images of the training role,
# before fine-tuning; "probe": held-out probe images, after it.
CONFUSIONS = Schema(
    "confusions",
    {
        "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
        "role": Column("text", ("expression", "probe")),
        "source": Column("text"),
        "true": Column("text", tuple(EXPRESSIONS)),
        "predicted": Column("text", tuple(EXPRESSIONS)),
        **SEED_COLUMNS,
        **_NUMBERS,
    },
)

# One row per target of the embedded faces: `number` lies from `at_least` to `at_most` (either may be empty) where the
# target is `met`; empty, with a reason, where it cannot be computed.
TARGETS = Schema(
    "targets",
    {
        "target": Column("text"),
        "statement": Column("text"),
        "source": Column("text"),
        "seeds": Column("integer", low=0),
        "n": Column("integer", low=0),
        "number": Column("number", optional=True),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
        "at_least": Column("number", optional=True),
        "at_most": Column("number", optional=True),
        "met": Column("text", ("yes", "no"), optional=True),
        "reason": Column("text", optional=True),
    },
)
