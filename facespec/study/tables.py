"""Which tables pass between rooms, and with which columns? All are tidy, and checked by `study.schema`."""

from __future__ import annotations

from facespec.study.schema import Column, Schema
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, ROLES, TASKS, VIEWS, Network

ALL_IMAGES = -1  # the `resample` of numbers that are computed without resampling
# `low` and `high` of the tables below are 95 % percentiles of bootstrap draws, over what the table says; only those of
# VERDICTS are t intervals, chosen by their coverage (docs/intervals.md says what covers what)

# Values of `trained_on` that are no trained network:
UNTRAINED = Network.UNTRAINED.value  # the networks' common trunk before training, with fitted readouts
PIXELS = "pixels"  # no network: principal components of the pixels, and linear discriminants of these
NEAREST = "pixels_nearest"  # no network: the class of the fitted image whose pixels are nearest
BASELINES = (UNTRAINED, PIXELS, NEAREST)

ACCURACY_FIGURES = ("1B", "1C", "S1A", "S1B")  # of the original
ZERO_SHOT = "1C zero-shot"  # not in the original: the heads of the training role on the probe, without fine-tuning

# One row per image of a FaceSet. `identity`, `expression`, `view`, `session` are empty if unknown.
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

# One row per accuracy: of a decoder (Figures 1B, S1A), of a network's head (Figures 1C, S1B, `ZERO_SHOT`), or of a
# baseline (`trained_on` in `BASELINES`) in 1B, S1A and S1B. `resample` -1: on the test images; 0, 1, ...: on bootstrap
# resamples of them. Resample i has the same images for everything tested on the same set, so that differences are
# paired. `n`: test images. `chance`: the best constant answer, the share of the most frequent class. Pixel baselines
# do not depend on the seed; their rows are repeated for every seed, so that they pair with the networks'.
ACCURACY = Schema(
    "accuracy",
    {
        "figure": Column("text", (*ACCURACY_FIGURES, ZERO_SHOT)),
        "trained_on": Column("text", (*NETWORKS, *BASELINES)),
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

# One row per class, network and seed: which share of the class's `n` test images a network's head classifies correctly;
# the untrained network's, on the probe.
# `class` empty: balanced accuracy, the mean over the classes that are tested; its chance is one over their number.
# `low`, `high`: 95 % interval over resamples of the images within each class.
RECALL = Schema(
    "recall",
    {
        "figure": Column("text", ("1C", "S1B", ZERO_SHOT)),
        "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
        "tested_on": Column("text", tuple(TASKS)),
        "role": Column("text", tuple(ROLES)),
        "source": Column("text"),
        "seed": Column("integer", low=0),
        "class": Column("text", optional=True),
        "n": Column("integer", low=0),
        "recall": Column("number", low=0, high=1, optional=True),
        "low": Column("number", low=0, high=1, optional=True),
        "high": Column("number", low=0, high=1, optional=True),
        "reason": Column("text", optional=True),
    },
)

# One row per cell of a mean heatmap at map resolution; `row` 0 is the top, `column` 0 the left of the image.
# `scale` "raw": maps as Grad-CAM gives them, over all images; "scaled": to [0, 1] image by image, blank maps excluded.
# `n`: images averaged; `blank`: maps of the group without contrast; `expression`: of the images, or "all".
HEATMAPS = Schema(
    "heatmaps",
    {
        "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
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

# One row per statistic of the mean scaled heatmaps at image resolution (Figures 2B, 2C). `tested_on` "both": a
# comparison of a network's maps for the two tasks. `rule`: how masks were made; empty for numbers without a mask.
# `resample` -1: all people; 0, 1, ...: bootstrap draws of people, the same for all networks. For `iou_halves`, the
# people are first split into halves. `iou_networks`: maps of one task by networks of two seeds, mean over other seeds.
# `iou_classes`: maps of two classes of the task `tested_on`; `iou_tasks`: maps of the two tasks for one class of
# `tested_on`; means over classes.
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
                "iou_networks",
                "iou_classes",
                "iou_tasks",
            ),
        ),
        "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
        "tested_on": Column("text", (*TASKS, "both")),
        "rule": Column("text", ("published", "top"), optional=True),
        "source": Column("text"),
        "seed": Column("integer", low=0),
        "resample": Column("integer", low=ALL_IMAGES),
        "number": Column("number", low=0, high=1, optional=True),
    },
)

# One row per comparison of two heatmaps, `first` minus `second`. `style` "sound": one row per cell of the map; people
# are the sample (`n`), `seed` is empty (mean over seeds), `p` is corrected over the map, `effect` is Cohen's d of the
# people's differences. `style` "published": one row per seed; pixels are the sample, `row` and `column` are empty,
# `difference` is of medians, `statistic` is Mann-Whitney's U, `effect` the rank-biserial correlation.
CONTRASTS = Schema(
    "contrasts",
    {
        "style": Column("text", ("sound", "published")),
        "first_trained_on": Column("text", (*NETWORKS, UNTRAINED)),
        "first_tested_on": Column("text", tuple(TASKS)),
        "second_trained_on": Column("text", (*NETWORKS, UNTRAINED)),
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

# One row per facial biomarker: mean over seeds and people, with a 95 % interval over both. `measure` "share": share of
# a heatmap's mass in the region; "density": that share divided by the region's share of the image (1: as everywhere).
# `against` empty: the network itself; "single": the joint network minus the single-task network.
# `regions`: source of the regions.
REGIONS = Schema(
    "regions",
    {
        "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
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

TRUTH_RULES = ("changes", "discriminability")  # by which pixels carry a task: see `analyses.truths`
# Maps that no network made: random; a Gaussian at the centre; the mean truth of the other people, as it is ("others")
# and at the resolution of heatmaps ("others_pooled"). CEILING: the image's own truth at that resolution.
MAP_BASELINES = ("random", "centre", "others", "others_pooled")
CEILING = "ceiling"
WAY = "centre_to_ceiling"

# One row per score of heatmaps, or of a baseline, against the ground truth of embedded faces. `truth`: the task whose
# pixels they are, found by `truth_rule`. `looks`: the network, or a baseline (`tested_on` is then empty). `measure`
# "pointing": share of images whose maximum is a true pixel; "mass": share of the heatmap's mass on true pixels; "auc":
# area under the ROC curve of the pixels. `against` empty: the score itself; a baseline: the score minus that
# baseline's; "centre_to_ceiling": the share of the way from the centre's score (0) to the ceiling's (1), below 0 or
# above 1 outside of it. `area`: mean share of true pixels.
GROUNDTRUTH = Schema(
    "groundtruth",
    {
        "looks": Column("text", (*NETWORKS, UNTRAINED, *MAP_BASELINES, CEILING)),
        "tested_on": Column("text", tuple(TASKS), optional=True),
        "truth_rule": Column("text", TRUTH_RULES),
        "truth": Column("text", tuple(TASKS)),
        "measure": Column("text", ("pointing", "mass", "auc")),
        "against": Column("text", (*MAP_BASELINES, WAY), optional=True),
        "source": Column("text"),
        "seeds": Column("integer", low=1),
        "people": Column("integer", low=0),
        "n": Column("integer", low=0),
        "blank": Column("integer", low=0),
        "area": Column("number", low=0, high=1, optional=True),
        "number": Column("number", optional=True),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
        "reason": Column("text", optional=True),
    },
)

# One row per pair of truths: intersection over union of their pixels, image by image, averaged over people; `expected`:
# if masks of these areas were independent of each other.
GROUNDTRUTH_OVERLAP = Schema(
    "groundtruth_overlap",
    {
        "first_rule": Column("text", TRUTH_RULES),
        "first_truth": Column("text", tuple(TASKS)),
        "second_rule": Column("text", TRUTH_RULES),
        "second_truth": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "people": Column("integer", low=0),
        "n": Column("integer", low=0),
        "expected": Column("number", low=0, high=1, optional=True),
        "number": Column("number", low=0, high=1, optional=True),
        "low": Column("number", low=0, high=1, optional=True),
        "high": Column("number", low=0, high=1, optional=True),
        "reason": Column("text", optional=True),
    },
)

# One row per pixel of a mean truth: the share of images in which the pixel is true, averaged over people; `row` 0 is
# the top, `column` 0 the left of the image.
GROUNDTRUTH_MAPS = Schema(
    "groundtruth_maps",
    {
        "truth_rule": Column("text", TRUTH_RULES),
        "truth": Column("text", tuple(TASKS)),
        "source": Column("text"),
        "people": Column("integer", low=0),
        "row": Column("integer", low=0, optional=True),
        "column": Column("integer", low=0, optional=True),
        "number": Column("number", low=0, high=1, optional=True),
        "reason": Column("text", optional=True),
    },
)

# Columns that identify a layer; `depth` 1 is the shallowest convolution.
LAYER_COLUMNS = {
    "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
    "source": Column("text"),
    "seed": Column("integer", low=0),
    "layer": Column("text"),
    "depth": Column("integer", low=1),
}
_OPTIONAL_SHARE = Column("number", low=0, high=1, optional=True)

# One row per unit and factor: the effect of identity or expression on the unit's response. `eta`: eta squared;
# `partial_eta`: partial eta squared; `epsilon`: epsilon squared, eta squared corrected for chance. `f`, `p_parametric`:
# F test against the residual; `p`: by permuted labels; `p_fdr`: the same, Benjamini-Hochberg over the layer's units.
UNITS = Schema(
    "units",
    {
        **LAYER_COLUMNS,
        "unit": Column("integer", low=0),
        "factor": Column("text", tuple(TASKS)),
        "people": Column("integer", low=2),
        "eta": _OPTIONAL_SHARE,
        "partial_eta": _OPTIONAL_SHARE,
        "epsilon": Column("number", low=-1, high=1, optional=True),
        "f": Column("number", low=0, optional=True),
        "p_parametric": _OPTIONAL_SHARE,
        "p": _OPTIONAL_SHARE,
        "p_fdr": _OPTIONAL_SHARE,
        "reason": Column("text", optional=True),
    },
)

CLASSES = ("expression", "identity", "both", "neither")  # of units: the tasks with a significant effect on the response

# One row per unit: the tasks it responds to. `class`: by significance alone; empty if nothing can be tested.
# `selectivity`: from -1 (identity only) to 1 (expression only); empty without any effect. `specific`: the task, by
# significance and selectivity; empty if none.
UNIT_CLASSES = Schema(
    "unit_classes",
    {
        **LAYER_COLUMNS,
        "unit": Column("integer", low=0),
        "class": Column("text", CLASSES, optional=True),
        "selectivity": Column("number", low=-1, high=1, optional=True),
        "specific": Column("text", tuple(TASKS), optional=True),
        "reason": Column("text", optional=True),
    },
)

# One row per layer and class of units: their share of the units that are not silent. `kind` "class": `name` is a class
# of `CLASSES`; "specific": `name` is the task to which the units are specific.
UNIT_SHARES = Schema(
    "unit_shares",
    {
        **LAYER_COLUMNS,
        "kind": Column("text", ("class", "specific")),
        "name": Column("text", CLASSES),
        "units": Column("integer", low=0),
        "silent": Column("integer", low=0),
        "count": Column("integer", low=0),
        "share": _OPTIONAL_SHARE,
    },
)

# One row per layer and task: accuracy of a decoder of the units' mean responses, on `n` held-out images.
LAYER_DECODING = Schema(
    "layer_decoding",
    {
        **LAYER_COLUMNS,
        "tested_on": Column("text", tuple(TASKS)),
        "n": Column("integer", low=1),
        "chance": Column("number", low=0, high=1),
        "accuracy": Column("number", low=0, high=1),
    },
)

# One row per estimator and pair of networks: similarity of one layer; `layer` as the first network names it.
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

# One row per unit and kind of stimulus, for the first seed's networks and their untrained network (Figure S2B): the
# unit's `response`, averaged over its map. `kind` "optimised": to its optimised image; empty for a dead unit. "image":
# to the `stimulus` with the strongest response; (`row`, `column`) is the strongest cell of the map. "start": to the
# image from which optimisation started. "random": mean over random images.
PREFERRED = Schema(
    "preferred",
    {
        "trained_on": Column("text", (*NETWORKS, UNTRAINED)),
        "source": Column("text"),
        "seed": Column("integer", low=0),
        "layer": Column("text"),
        "depth": Column("integer", low=1),
        "unit": Column("integer", low=0),
        "kind": Column("text", ("optimised", "image", "start", "random")),
        "response": Column("number", optional=True),  # below 0 only of units without a rectifier
        "stimulus": Column("text", optional=True),
        "row": Column("integer", low=0, optional=True),
        "column": Column("integer", low=0, optional=True),
        "reason": Column("text", optional=True),
    },
)

# One row per published accuracy.
REFERENCE = Schema(
    "reference",
    {
        "figure": Column("text", ACCURACY_FIGURES),
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

# One row per published number about heatmaps, read off the published figure with a reading error.
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

# One row per part of a claim; a claim holds if all its parts do. `low` and `high` bound the interval that judges,
# `coverage` is the share of simulated studies, with the seeds and variances of this one, whose interval includes the
# truth (docs/intervals.md). Beside it: percentiles of a hierarchical bootstrap, and t over seeds alone. `reason`: why a
# part is not reproduced, and what would make it testable.
VERDICTS = Schema(
    "verdicts",
    {
        "claim": Column("text"),
        "part": Column("text"),
        "statement": Column("text"),
        "source": Column("text"),
        "verdict": Column("text", ("reproduced", "refuted", "undecided", "not testable on this data")),
        "number": Column("number", optional=True),
        "low": Column("number", optional=True),
        "high": Column("number", optional=True),
        "coverage": Column("number", low=0, high=1, optional=True),
        "published": Column("number", optional=True),
        "bootstrap_low": Column("number", optional=True),
        "bootstrap_high": Column("number", optional=True),
        "seeds_low": Column("number", optional=True),
        "seeds_high": Column("number", optional=True),
        "rule": Column("text"),
        "reason": Column("text", optional=True),
    },
)
