"""Which parameters does a study have? ``params.yaml``, validated and frozen: one block per stage, no unknown keys.

``params.yaml`` gives the default and the source of every number.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from facespec.study.documents import read_mapping
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.vocabulary import EMBEDDED_NAME, EXPRESSIONS, VIEWS

Count = Annotated[int, Field(ge=1)]
Draws = Annotated[int, Field(ge=100)]  # random draws; fewer give no percentiles
People = Annotated[int, Field(ge=2)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, le=10)]
Share = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
ClosedShare = Annotated[float, Field(ge=0, le=1)]
LONGEST_NAME = 40  # letters of the name of a data set, which stands in figures

SEQUENTIAL_TRUNKS = "small_vgg", "vgg16"  # the study's own
# a function of a user's file, FILE.py:FUNCTION, with the seed that it is called with in brackets once that is known;
# every other trunk is a model of torchvision
USER_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)(\((?P<seed>\d+)\))?")


class Block(BaseModel):
    """A frozen group of parameters; an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}: {suggest_spelling(str(key), cls.model_fields)}")
        return values


class FaceBox(Block):
    """The part of a picture that holds the face, as shares of the picture's height and width."""

    top: ClosedShare
    bottom: ClosedShare
    left: ClosedShare
    right: ClosedShare

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.top >= self.bottom or self.left >= self.right:
            raise ValueError(
                f"top {self.top} must lie above bottom {self.bottom}, and left {self.left} before right {self.right}."
            )
        return self


Reach = Annotated[float, Field(ge=-1, le=2)]


class HeadBox(FaceBox):
    """The box of the head for the region template; it may reach out of the picture, where faces are cropped tightly."""

    top: Reach
    bottom: Reach
    left: Reach
    right: Reach


PATTERN_GROUPS = ("identity", "expression", "view", "session", "group", "split")  # what a file's name may say


class RealFaces(Block):
    """How the faces of a role are read where their source is a path: see ``docs/data.md``.

    All but the source have defaults here, too, because the ``params.yaml`` of earlier versions lacks them.
    """

    source: str  # "embedded", or a path
    name: str | None = None  # in tables and figures; None: that of the data set, or of the path
    pattern: str | None = None  # a regular expression for the paths of pictures; its named groups are `PATTERN_GROUPS`
    words: dict[str, str] = Field(default_factory=dict)  # a word of the source: the expression or view that it means
    crop: FaceBox | None = None  # of every picture, before its central square is taken

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip() or len(name) > LONGEST_NAME or not name.isprintable()):
            raise ValueError(
                f"got {name!r}. Expected a name of 1 to {LONGEST_NAME} printable letters, or null for that of the path."
            )
        if name == EMBEDDED_NAME:
            raise ValueError(f"got {name!r}, the name of the faces that facespec draws. Choose another.")
        return name

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            groups = [] if pattern is None else list(re.compile(pattern).groupindex)
        except (re.error, OverflowError) as error:
            raise ValueError(f"got {pattern!r}, no regular expression: {error}.") from None
        for group in groups:
            if group not in PATTERN_GROUPS:
                raise ValueError(f"unknown group {group!r}: {suggest_spelling(group, PATTERN_GROUPS)}")
        if pattern is not None and not groups:
            raise ValueError(
                f"got {pattern!r}, which names nothing. Expected groups such as (?P<identity>[A-Z]+). "
                f"Allowed: {', '.join(map(repr, PATTERN_GROUPS))}."
            )
        return pattern

    @field_validator("words")
    @classmethod
    def _check_words(cls, words: dict[str, str]) -> dict[str, str]:
        allowed = [str(word) for word in (*EXPRESSIONS, *VIEWS)]
        for word, meaning in words.items():
            if meaning not in allowed:
                raise ValueError(f"{word!r} cannot mean {meaning!r}: {suggest_spelling(meaning, allowed)}")
        return words


class ExpressionFaces(RealFaces):
    """Faces of the `expression` role."""

    test_share: OpenShare = 0.2  # real faces without splits: share of every expression's pictures that is tested
    train: Count  # embedded images
    test: Count  # embedded images
    scenes: Literal["web", "video"]  # embedded: where its pictures come from


class IdentityFaces(RealFaces):
    """Faces of the `identity` role."""

    test_share: OpenShare = 0.2  # real faces without splits: share of everybody's pictures that is tested
    people: People  # embedded people
    train: Count  # embedded images per person
    test: Count  # embedded images per person; frames of VoxCeleb1, too
    scenes: Literal["web", "video"]  # embedded: where its pictures come from


class ProbeFaces(RealFaces):
    """Faces of the `probe` role."""

    people: People  # embedded people
    hair: Literal["cap", "own"]  # embedded: all hair under the same cap, or everybody's own


class Data(Block):
    """Faces of all three roles."""

    seed: Seed
    size: Annotated[int, Field(ge=32, le=512)]  # height = width of the images, px
    channels: Literal[1, 3]  # 1 grey, 3 RGB
    tolerated: Share  # share of unreadable files above which a data set is refused
    expression: ExpressionFaces
    identity: IdentityFaces
    probe: ProbeFaces


class Split(Block):
    """Probe images held out from every fit."""

    hold_out: Literal["cell", "session", "people"]  # "cell": one image per person and expression
    seed: Seed
    session: Literal["A", "B"]  # with hold_out "session"
    people: OpenShare  # share of the people, with hold_out "people"


class NetworkBlock(Block):
    """The architecture of all networks.

    `trunk` is one of `SEQUENTIAL_TRUNKS`, a classification model of torchvision, whose names `models.networks` knows,
    or a function of a user's file, ``FILE.py:FUNCTION``.
    """

    trunk: Annotated[str, Field(min_length=1)]
    channels: Annotated[list[Count], Field(min_length=1)]  # small_vgg: units per block
    convolutions: Annotated[int, Field(ge=1, le=4)]  # small_vgg: per block
    branch_after: str | None  # the last layer that the tasks share; None: the tasks share all but their heads
    weights: Annotated[str, Field(min_length=1)] | None = None  # a torchvision model's initial weights: path of a file
    layers: Annotated[list[str], Field(min_length=1)] | None = None  # convolutions that are analysed; None: all
    file: Annotated[str, Field(min_length=1)] | None = None  # networks of a user's own, not trained: a Python file

    @property
    def is_sequential(self) -> bool:
        """Whether the trunk is one of the study's own: a sequence of numbered layers."""
        return self.trunk in SEQUENTIAL_TRUNKS

    @property
    def is_user(self) -> bool:
        """Whether the trunk is made by a function of a user's file."""
        return USER_FUNCTION.fullmatch(self.trunk) is not None

    @property
    def user_file(self) -> str:
        """The user's Python file that makes the networks, or the trunk of all; empty if there is none."""
        function = USER_FUNCTION.fullmatch(self.trunk)
        return self.file or (function["file"] if function else "")

    @model_validator(mode="after")
    def _check_trunk(self) -> Self:
        if (self.is_sequential or self.is_user) and self.weights is not None:
            raise ValueError(
                f"weights {self.weights!r}: a file of weights goes with a torchvision model, not with {self.trunk}. "
                "Set it to null."
            )
        if not self.is_sequential and self.branch_after is not None:
            raise ValueError(
                f"branch_after {self.branch_after!r}: tasks can branch behind a layer of "
                f"{' and '.join(SEQUENTIAL_TRUNKS)}, not of {self.trunk}. Set it to null."
            )
        if self.file is not None and (self.weights is not None or self.branch_after is not None):
            raise ValueError(
                f"file {self.file!r}: these networks bring their weights and their branches. Set weights and "
                "branch_after to null."
            )
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers {self.layers} repeats a layer.")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All values; of `weights`, `layers` and `file`, those that are set: other checkpoints stay as they were."""
        values: dict[str, Any] = handler(self)
        optional = ("weights", "layers", "file")
        return {key: value for key, value in values.items() if value is not None or key not in optional}


class Finetune(Block):
    """How a trained network is fitted to the probe's training images."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]  # images; batch norm needs two
    optimizer: Literal["adamw", "sgd"]
    learning_rate: Rate  # adamw: peak of the one-cycle schedule; sgd: at the start
    weight_decay: ClosedShare
    step_epochs: Count  # sgd: epochs after which the learning rate falls to a tenth
    label_smoothing: Share
    preset: Literal["small", "vgg16"]  # preprocessing and augmentation


class Weights(Block):
    """Of each task's loss in a joint step."""

    expression: Rate = 1.0
    identity: Rate = 1.0


class Train(Finetune):
    """How a network is fitted to its training roles."""

    schedule: Literal["summed", "alternate"]  # joint networks: losses summed, or one task per step in turn
    weights: Weights = Weights()  # joint networks

    @model_serializer(mode="wrap")
    def _leave_out_equal_weights(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All values; of `weights`, unequal ones: checkpoints of equal weights stay as they were."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key != "weights" or self.weights != Weights()}


class Decoding(Block):
    """Logistic regression on penultimate responses (Figures 1B and S1A)."""

    penalty: Rate  # C of scikit-learn: the inverse of the regularisation strength
    iterations: Count  # at most
    expression_test: Count  # S1A: test images per expression
    identity_test: Count  # S1A: test images in all
    identity_people: People  # S1A: people to tell from each other
    fit_images: Count  # S1A: training images at most
    pixel_size: Annotated[int, Field(ge=8, le=128)]  # pixel baselines: shorter side of larger images, px
    pixel_images: Annotated[int, Field(ge=2)]  # pixel baselines: images to fit, at most
    pixel_components: Count  # pixel baselines: principal components, at most
    resamples: Draws  # of the test images; the first 100 are exported to the published format
    seed: Seed


class Accuracy(Block):
    """Top-1 accuracy of the heads (Figures 1C and S1B)."""

    resamples: Draws  # of the test images
    seed: Seed


class Heatmaps(Block):
    """Grad-CAM heatmaps (Figure 2)."""

    view: Literal["straight", "all"]  # of the explained images
    layer: str  # a dotted name, or "last": the last convolution, after its ReLU
    target: Literal["labelled", "predicted"]  # the explained class


class Overlap(Block):
    """Box statistics and masks of the mean heatmaps (Figures 2B and 2C)."""

    quantile: OpenShare  # of a map's values: the threshold of the published masks
    top: OpenShare  # share of the pixels in a mask by rank
    resamples: Draws  # of the people
    seed: Seed


class Contrasts(Block):
    """Tests of the difference between two networks' heatmaps."""

    permutations: Draws  # sign flips of the people
    draws: Draws  # bootstrap draws of seeds and people
    seed: Seed


class Regions(Block):
    """Facial biomarkers: the share of heatmap mass in each facial region."""

    face: HeadBox  # for faces without region maps
    draws: Draws  # bootstrap draws of seeds and people
    seed: Seed


class GroundTruth(Block):
    """Comparison of heatmaps with the pixels that carry expression or identity."""

    others: Count  # people whose faces replace a probe face, to find the pixels that change with identity
    redraws: Count  # times that the probe faces are drawn again with other nuisances, to find discriminable pixels
    share: OpenShare  # of an image's pixels: those that change most, or are told apart best, are the truth
    spread: Rate  # sd of the centre-bias baseline, in image widths
    draws: Draws  # bootstrap draws of seeds and people
    seed: Seed


class Band(Block):
    """From `low` to `high`, both included."""

    low: OpenShare
    high: OpenShare

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must lie below high {self.high}.")
        return self


class Targets(Block):
    """What the embedded faces are made to reach."""

    named: OpenShare  # owners named: at most with swapped inner features, at least with swapped hair
    sessions: OpenShare  # identity across sessions without training, at most
    rank: Count  # of fear and surprise among the confusions, at most
    recall: OpenShare  # of every expression, at least
    expression: Band  # accuracy of the expression network
    identity: Band  # accuracy of the identity network
    overlap: OpenShare  # IoU of the tasks' true pixels, at least


class Calibrate(Block):
    """Cue swaps, baselines and confusions: what numbers about these faces are about."""

    images: Count  # held-out probe images per person whose cues are swapped, at most
    draws: Draws  # bootstrap draws of seeds and people
    seed: Seed
    targets: Targets


class Battery(Block):
    """Manipulated faces: what do they cost each network?"""

    images: Count  # new frontal pictures per probe person, at most
    misalignment: OpenShare  # of the picture's width, by which the lower half of a face is shifted
    anticaricature: OpenShare  # of a face's distance from the mean face; of an expression's intensity
    caricature: Annotated[float, Field(gt=1)]  # the same, exaggerated
    draws: Draws  # bootstrap draws of seeds and people
    seed: Seed


class Depth(Block):
    """Tests of which units respond to expression, to identity or to both, at each depth."""

    rate: OpenShare  # false discovery rate within a layer
    selectivity: Annotated[float, Field(gt=0, le=1)]  # |index| from which a unit is specific to a task
    permutations: Draws  # of the labels, at least
    resamples: Draws  # of the people: geometry
    seed: Seed


class Preferred(Block):
    """Optimisation of preferred stimuli (Figures 3, S2 and S2B): see `analyses.preferred.Recipe`."""

    steps: Count  # of gradient ascent
    learning_rate: Rate  # of Adam, in standard deviations of the logits of pixels
    shift: Share  # largest random shift, as a share of the image's size
    scale: Share  # largest random change of scale
    turn: Annotated[float, Field(ge=0, le=180)]  # largest random rotation, degrees
    starts: Count  # random images, of which the best is optimised
    contrast: Rate  # sd of the logits of their pixels
    seed: Seed


class Lesions(Block):
    """Search for the units whose lesions reduce a task's accuracy: see `analyses.lesions.Search`."""

    group_p: Annotated[float, Field(gt=0, le=1)]  # share of a layer's units lesioned per greedy round
    greedy_p: Share  # share of units after which the greedy search ends
    images: Count  # training images per round
    mode: Literal["exact", "screening"]  # rank all units on all images, or by successive halving
    fractions: Annotated[list[OpenShare], Field(min_length=1)]  # of lesioned units in a test
    damages: Annotated[list[OpenShare], Field(min_length=1)]  # of a task's accuracy above chance: lost
    steps: list[OpenShare]  # of lesioned units in a test, where the fractions do not cost enough
    random: Annotated[int, Field(ge=2, multiple_of=2)]  # control draws of random units; drawn in pairs
    shuffled: Count  # control draws of shuffled classes
    draws: Draws  # bootstrap draws of people
    seed: Seed

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name, shares in (("fractions", self.fractions), ("damages", self.damages), ("steps", self.steps)):
            if sorted(set(shares)) != shares:
                raise ValueError(f"{name} {shares} must ascend, each of them once.")
        return self


class GridPart(Block):
    """A part of a grid of networks: every combination of these values; what is left out is as in the study."""

    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    epochs: Annotated[list[Count], Field(min_length=1)] | None = None
    width: Annotated[list[Rate], Field(min_length=1)] = [1.0]  # factor of the units of every layer
    branch_after: Annotated[list[str], Field(min_length=1)] | None = None  # joint networks
    weight: Annotated[list[Rate], Field(min_length=1)] = [1.0]  # of the loss of expression; that of identity: 1
    images: Annotated[list[Count], Field(min_length=1)] | None = None  # training images of expression, at most


class Sharing(Block):
    """What does a joint network cost, and when? The networks of `facespec init DIR --grid`."""

    grid: list[GridPart] = []
    resamples: Draws = 1000  # of the test images
    seed: Seed = 151


class Checks(Block):
    """How claims become verdicts."""

    level: Annotated[float, Field(gt=0.5, lt=1)]  # of every interval
    margin: OpenShare  # C3: difference of accuracies that still counts as "not worse"
    early: OpenShare  # C7: share of specific units in the first convolution that counts as none
    damage: OpenShare  # C8: share of its accuracy above chance that a task has lost where the other is compared
    dissociation: OpenShare  # C8: difference of relative drops that counts as negligible
    draws: Draws  # hierarchical bootstrap draws: seeds, then resamples
    seed: Seed


class Params(Block):
    """All parameters of one study; made by `read_params`.

    Each block is a frozen model of this module, whose fields carry their units.

    Attributes
    ----------
    profile : str
        Name of the profile that replaced some of the defaults, or "default".
    seeds : list of int
        One seed per replicate of every network, all different.
    data, split : Data, Split
        Faces of all roles, and the probe images held out from every fit.
    network, train, finetune : NetworkBlock, Train, Finetune
        Architecture of the networks, and how they are fitted.
    decoding, accuracy, heatmaps, overlap, contrasts, regions, groundtruth, calibrate, battery : Block
        Settings of the stage of that name.
    depth, preferred, lesions, sharing : Block
        Settings of the stage of that name.
    checks : Checks
        How claims become verdicts.

    Raises
    ------
    pydantic.ValidationError
        For unknown, missing and repeated values and those of a wrong type or range; `read_params` and
        `validate_params` raise `StudyError` instead.

    Examples
    --------
    >>> params = read_params(Path("params.yaml"))
    >>> params.seeds, params.data.size, params.train.optimizer
    ([1, 2, 3], 48, 'adamw')
    """

    profile: str
    seeds: Annotated[list[Seed], Field(min_length=1)]
    data: Data
    split: Split
    network: NetworkBlock
    train: Train
    finetune: Finetune
    decoding: Decoding
    accuracy: Accuracy
    heatmaps: Heatmaps
    overlap: Overlap
    contrasts: Contrasts
    regions: Regions
    groundtruth: GroundTruth
    calibrate: Calibrate
    battery: Battery
    depth: Depth
    preferred: Preferred
    lesions: Lesions
    sharing: Sharing = Sharing()
    checks: Checks

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} repeats a seed; every replicate needs its own.")
        return self


def read_params(path: Path) -> Params:
    """Read and validate ``params.yaml``, with all its profiles.

    Parameters
    ----------
    path : pathlib.Path
        The file; its YAML is read as DVC reads it.

    Returns
    -------
    Params
        All parameters, without the profiles.

    Raises
    ------
    StudyError
        If the file is absent, or holds an unknown or missing key or a wrong value, also in a profile that is not used.
        The message names the file, the key, the value and what is allowed.

    Examples
    --------
    >>> read_params(Path("params.yaml")).network.channels
    [16, 32, 64, 128]
    """
    if not os.path.lexists(path):
        raise StudyError(f"{path}: no such file. Run inside a study directory; `facespec init DIR` makes one.")
    values = read_mapping(path)
    profiles = values.pop("profiles", None) or {}
    if not isinstance(profiles, dict):
        raise StudyError(f"{path}: profiles: got {profiles!r}. Expected names, each with the parameters it changes.")
    for name, overlay in profiles.items():
        if not isinstance(overlay, dict):
            raise StudyError(f"{path}: profiles.{name}: got {overlay!r}. Expected the parameters it changes, or {{}}.")
        validate_params(merge_params(values, overlay), name=f"{path}: profiles.{name}")
    return validate_params(values, name=str(path))


def validate_params(values: dict[str, Any], *, name: str) -> Params:
    """Validate the `values` of all blocks; raises `StudyError` with `name`, key, value and what is allowed."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise StudyError("\n".join(f"{name}: {_describe_problem(problem)}" for problem in error.errors())) from None


def merge_params(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `overlay`, block by block; lists are replaced as a whole."""
    merged = dict(base)
    for key, value in overlay.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_params(merged[key], value) if nested else value
    return merged


def _describe_problem(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # raised by a validator here, already a sentence
        return (f"{key}: " if key else "") + str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{key}: missing; see params.yaml of the project for its meaning and default."
    return f"{key}: got {problem['input']!r}. {problem['msg']}."
