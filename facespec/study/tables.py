"""The tables that pass between rooms: which columns, which values. Checked at each door (`study.schema`).

All are tidy: one number per row, columns spelled out.
"""

from __future__ import annotations

from facespec.study.schema import Column, Schema
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, ROLES, TASKS, VIEWS

ALL_IMAGES = -1  # the `resample` of the number computed on the test images themselves

# One row per image of a FaceSet. `identity`, `expression`, `view`, `session` are empty where unknown.
LABELS = Schema(
    "labels",
    {
        "stimulus": Column("text"),
        "split": Column("text", ("train", "test", "probe")),
        "identity": Column("text", optional=True),
        "expression": Column("text", tuple(EXPRESSIONS), optional=True),
        "view": Column("text", tuple(VIEWS), optional=True),
        "session": Column("text", optional=True),
    },
)

# One accuracy per row: of a decoder (Figures 1B, S1A) or of a network's own head (1C, S1B).
# `resample` -1 is the accuracy on the test images themselves, 0, 1, ... on bootstrap resamples of them;
# resample i draws the same images for every network tested on the same set, so that differences are paired.
ACCURACY = Schema(
    "accuracy",
    {
        "figure": Column("text", ("1B", "1C", "S1A", "S1B")),
        "trained_on": Column("text", tuple(NETWORKS)),
        "tested_on": Column("text", tuple(TASKS)),
        "role": Column("text", tuple(ROLES)),
        "source": Column("text"),
        "seed": Column("integer", low=0),
        "resample": Column("integer", low=ALL_IMAGES),
        "n": Column("integer", low=1),
        "chance": Column("number", low=0, high=1),
        "accuracy": Column("number", low=0, high=1),
    },
)

# Mean heatmaps at map resolution, a cell of the map per row; `row` 0 is the top, `column` 0 the image's left.
# `scale`: "raw" maps as Grad-CAM gives them, over all images; "scaled" to [0, 1] image by image, over those not blank.
# `n` images were averaged, `blank` of the group's maps were without contrast; `expression` is "all" or one of them.
HEATMAPS = Schema(
    "heatmaps",
    {
        "trained_on": Column("text", tuple(NETWORKS)),
        "tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "seed": Column("integer", low=0),
        "layer": Column("text"),
        "expression": Column("text", ("all", *EXPRESSIONS)),
        "scale": Column("text", ("raw", "scaled")),
        "row": Column("integer", low=0),
        "column": Column("integer", low=0),
        "n": Column("integer", low=0),
        "blank": Column("integer", low=0),
        "mean": Column("number", low=0, optional=True),
        "sd": Column("number", low=0, optional=True),
    },
)

# Numbers about the mean scaled heatmaps at image resolution (Figures 2B, 2C). `tested_on` "both": about the two maps of
# the joint network together. `rule`: how masks were made, empty where there is no mask. `resample` -1: all people;
# 0, 1, ...: bootstrap draws of people, the same for all networks. For `iou_halves`, a draw splits the people first.
OVERLAP = Schema(
    "overlap",
    {
        "figure": Column("text", ("2B", "2C")),
        "quantity": Column(
            "text",
            (
                "whisker_low",
                "q1",
                "median",
                "q3",
                "whisker_high",
                "threshold",
                "area",
                "intersection",
                "iou",
                "dice",
                "iou_halves",
            ),
        ),
        "trained_on": Column("text", tuple(NETWORKS)),
        "tested_on": Column("text", (*TASKS, "both")),
        "rule": Column("text", ("published", "top"), optional=True),
        "source": Column("text"),
        "seed": Column("integer", low=0),
        "resample": Column("integer", low=ALL_IMAGES),
        "number": Column("number", low=0, high=1, optional=True),
    },
)

# Two heatmaps compared: `first` minus `second`. `style` "sound": people are the units (`n`), a row per cell of the map,
# `seed` empty (mean over seeds), `p` corrected over the map, `effect` Cohen's d of the people's differences.
# "published": pixels are the units, a row per seed, `row` and `column` empty, `difference` of medians, `statistic`
# Mann-Whitney's U, `effect` the rank-biserial correlation.
CONTRASTS = Schema(
    "contrasts",
    {
        "style": Column("text", ("sound", "published")),
        "first_trained_on": Column("text", tuple(NETWORKS)),
        "first_tested_on": Column("text", tuple(TASKS)),
        "second_trained_on": Column("text", tuple(NETWORKS)),
        "second_tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "seed": Column("integer", low=0, optional=True),
        "row": Column("integer", low=0, optional=True),
        "column": Column("integer", low=0, optional=True),
        "n": Column("integer", low=0),
        "difference": Column("number", optional=True),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
        "statistic": Column("number", optional=True),
        "p": Column("number", low=0, high=1, optional=True),
        "effect": Column("number", optional=True),
        "reason": Column("text", optional=True),
    },
)

# Facial biomarkers. `measure` "share": of a heatmap's mass that lies in the region; "density": share divided by the
# region's share of the image (1: as much as anywhere). `against` empty: the network itself; "single": the joint network
# minus the single-task network. `regions`: whence they come. Mean over seeds and people; 95 % interval over both.
REGIONS = Schema(
    "regions",
    {
        "trained_on": Column("text", tuple(NETWORKS)),
        "tested_on": Column("text", tuple(TASKS)),
        "expression": Column("text", ("all", *EXPRESSIONS)),
        "region": Column("text"),
        "measure": Column("text", ("share", "density")),
        "against": Column("text", ("single",), optional=True),
        "source": Column("text"),
        "regions": Column("text", ("label maps", "template")),
        "seeds": Column("integer", low=1),
        "people": Column("integer", low=0),
        "n": Column("integer", low=0),
        "blank": Column("integer", low=0),
        "number": Column("number", optional=True),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
        "reason": Column("text", optional=True),
    },
)

# Heatmaps against the truth about embedded faces. `truth`: what was changed to find the pixels that carry it.
# `looks` "random" and "centre" are baselines, `tested_on` then empty. `measure` "pointing": share of images whose
# maximum lies on such a pixel; "mass": share of the heatmap's mass there; "auc": area under the ROC curve of its
# pixels. `against` empty: the score itself; else the score minus that baseline's. `area`: mean share of true pixels.
GROUNDTRUTH = Schema(
    "groundtruth",
    {
        "looks": Column("text", (*NETWORKS, "random", "centre")),
        "tested_on": Column("text", tuple(TASKS), optional=True),
        "truth": Column("text", tuple(TASKS)),
        "measure": Column("text", ("pointing", "mass", "auc")),
        "against": Column("text", ("random", "centre"), optional=True),
        "source": Column("text"),
        "seeds": Column("integer", low=1),
        "people": Column("integer", low=0),
        "n": Column("integer", low=0),
        "blank": Column("integer", low=0),
        "area": Column("number", low=0, high=1, optional=True),
        "number": Column("number", low=-1, high=1, optional=True),
        "low": Column("number", low=-1, high=1, optional=True),
        "high": Column("number", low=-1, high=1, optional=True),
        "reason": Column("text", optional=True),
    },
)

UNTRAINED = "untrained"  # beside the networks in `trained_on`: their common trunk before training, as a control

# Whose units the tables about depth are about; `depth` 1 is the shallowest convolution.
_PLACE = {
    "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
    "source": Column("text"),
    "seed": Column("integer", low=0),
    "layer": Column("text"),
    "depth": Column("integer", low=1),
}
_SHARE = Column("number", low=0, high=1, optional=True)

# Effects of identity and expression on every unit, a row per unit and factor. `eta`: eta squared; `partial_eta`:
# partial eta squared; `epsilon`: eta squared less what permuted labels give. `f`, `p_parametric`: F test against the
# residual; `p`: permuted labels; `p_fdr`: the same, Benjamini-Hochberg over the units of the layer. `people`: how many.
UNITS = Schema(
    "units",
    {
        **_PLACE,
        "unit": Column("integer", low=0),
        "factor": Column("text", tuple(TASKS)),
        "people": Column("integer", low=2),
        "eta": _SHARE,
        "partial_eta": _SHARE,
        "epsilon": Column("number", low=-1, high=1, optional=True),
        "f": Column("number", low=0, optional=True),
        "p_parametric": _SHARE,
        "p": _SHARE,
        "p_fdr": _SHARE,
        "reason": Column("text", optional=True),
    },
)

CLASSES = ("expression", "identity", "both", "neither")

# What every unit answers to. `class`: by significance alone, empty where nothing can be tested; `selectivity`: from -1
# (identity only) to 1 (expression only), empty without any effect; `specific`: to which task, by both; empty: to none.
UNIT_CLASSES = Schema(
    "unit_classes",
    {
        **_PLACE,
        "unit": Column("integer", low=0),
        "class": Column("text", CLASSES, optional=True),
        "selectivity": Column("number", low=-1, high=1, optional=True),
        "specific": Column("text", tuple(TASKS), optional=True),
        "reason": Column("text", optional=True),
    },
)

# Shares of a layer's units, silent ones aside: of each class (`kind` "class"), or specific to a task ("specific").
UNIT_SHARES = Schema(
    "unit_shares",
    {
        **_PLACE,
        "kind": Column("text", ("class", "specific")),
        "name": Column("text", CLASSES),
        "units": Column("integer", low=0),
        "silent": Column("integer", low=0),
        "count": Column("integer", low=0),
        "share": _SHARE,
    },
)

# How well a task can be read out of a layer, from its units' mean responses to `n` held-out images.
LAYER_DECODING = Schema(
    "layer_decoding",
    {
        **_PLACE,
        "tested_on": Column("text", tuple(TASKS)),
        "n": Column("integer", low=1),
        "chance": Column("number", low=0, high=1),
        "accuracy": Column("number", low=0, high=1),
    },
)

# The same layer of two networks compared, a row per estimator; `layer` as the first network calls it.
SIMILARITY = Schema(
    "similarity",
    {
        "first_trained_on": Column("text", tuple(NETWORKS)),
        "first_seed": Column("integer", low=0),
        "second_trained_on": Column("text", tuple(NETWORKS)),
        "second_seed": Column("integer", low=0),
        "source": Column("text"),
        "layer": Column("text"),
        "depth": Column("integer", low=1),
        "n": Column("integer", low=4),  # the unbiased estimator divides by n - 3
        "estimator": Column("text", ("plain", "debiased")),
        "cka": Column("number", low=-1, high=1, optional=True),
        "reason": Column("text", optional=True),
    },
)

# What drives every unit of the first seed's networks most (Figure S2B), a row per unit and kind. `response`: mean over
# its map. `kind` "optimised": to the picture made for it, empty where it is dead; "image": to the `stimulus` that it
# answers most to, most of all in cell (`row`, `column`) of the map; "start": to the picture that optimisation began
# with; "random": to random pictures, on average.
PREFERRED = Schema(
    "preferred",
    {
        "trained_on": Column("text", tuple(NETWORKS)),
        "source": Column("text"),
        "seed": Column("integer", low=0),
        "layer": Column("text"),
        "depth": Column("integer", low=1),
        "unit": Column("integer", low=0),
        "kind": Column("text", ("optimised", "image", "start", "random")),
        "response": Column("number", low=0, optional=True),
        "stimulus": Column("text", optional=True),
        "row": Column("integer", low=0, optional=True),
        "column": Column("integer", low=0, optional=True),
        "reason": Column("text", optional=True),
    },
)

# The published accuracies, as facts.
REFERENCE = Schema(
    "reference",
    {
        "figure": Column("text", ("1B", "1C", "S1A", "S1B")),
        "trained_on": Column("text", tuple(NETWORKS)),
        "tested_on": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "mean": Column("number", low=0, high=1),
        "sd": Column("number", low=0, high=1),
        "low": Column("number", low=0, high=1),
        "high": Column("number", low=0, high=1),
        "resamples": Column("integer", low=1),
        "n": Column("integer", low=1),
        "file": Column("text"),
        "key": Column("text"),
    },
)

# The published numbers about heatmaps, read off the published picture: facts with a reading error.
REFERENCE_HEATMAPS = Schema(
    "reference_heatmaps",
    {
        "figure": OVERLAP.columns["figure"],
        "quantity": OVERLAP.columns["quantity"],
        "trained_on": OVERLAP.columns["trained_on"],
        "tested_on": OVERLAP.columns["tested_on"],
        "number": Column("number", low=0, high=1),
        "reading_error": Column("number", low=0, high=1),
    },
)

# One part of a claim per row; a claim holds if all its parts do.
VERDICTS = Schema(
    "verdicts",
    {
        "claim": Column("text"),
        "part": Column("text"),
        "statement": Column("text"),
        "source": Column("text"),
        "verdict": Column("text", ("reproduced", "not reproduced", "not testable on this data")),
        "number": Column("number", optional=True),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
        "published": Column("number", optional=True),
        "rule": Column("text"),
        "reason": Column("text", optional=True),
    },
)
