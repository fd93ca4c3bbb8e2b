"""`params.yaml`, validated and frozen: one block per stage, every key known, every number in range."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from facespec.study.documents import read_mapping
from facespec.study.errors import StudyError, suggest_spelling

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, le=10)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Block(BaseModel):
    """A frozen group of parameters that refuses keys it does not know, naming the nearest one it does."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}: {suggest_spelling(str(key), cls.model_fields)}")
        return values


class ExpressionFaces(Block):
    """The `expression` role: `source` is ``embedded`` or a path to FER2013; counts are for embedded faces."""

    source: str
    train: Count
    test: Count


class IdentityFaces(Block):
    """The `identity` role: `source` is ``embedded`` or a path to VoxCeleb1; counts are for embedded faces."""

    source: str
    people: Annotated[int, Field(ge=2)]
    train: Count
    test: Count


class ProbeFaces(Block):
    """The `probe` role: `source` is ``embedded`` or a path to KDEF."""

    source: str
    people: Annotated[int, Field(ge=2)]


class Data(Block):
    """Faces of all three roles; `size` in pixels, `channels` 1 (grey) or 3 (RGB)."""

    seed: Seed
    size: Annotated[int, Field(ge=32, le=512)]
    channels: Literal[1, 3]
    tolerated: Share
    expression: ExpressionFaces
    identity: IdentityFaces
    probe: ProbeFaces


class Split(Block):
    """Which probe images are held out from every fit."""

    hold_out: Literal["cell", "session", "people"]
    seed: Seed
    session: Literal["A", "B"]
    people: Annotated[float, Field(gt=0, lt=1)]


class NetworkBlock(Block):
    """The trunk all networks share."""

    trunk: Literal["small_vgg", "vgg16"]
    channels: Annotated[list[Count], Field(min_length=1)]
    convolutions: Annotated[int, Field(ge=1, le=4)]
    branch_after: str | None


class Finetune(Block):
    """How a trained network is fitted to the probe's training images."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]  # batch norm needs two
    optimizer: Literal["adamw", "sgd"]
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    step_epochs: Count
    label_smoothing: Share
    preset: Literal["small", "vgg16"]


class Train(Finetune):
    """How a network is fitted to its training roles."""

    schedule: Literal["summed", "alternate"]


class Decoding(Block):
    """Logistic regression from penultimate responses (Figures 1B and S1A)."""

    penalty: Rate
    iterations: Count
    expression_test: Count
    identity_test: Count
    identity_people: Annotated[int, Field(ge=2)]
    fit_images: Count
    resamples: Annotated[int, Field(ge=100)]  # the published pickles hold 100
    seed: Seed


class Accuracy(Block):
    """Top-1 accuracy of the heads (Figures 1C and S1B)."""

    resamples: Annotated[int, Field(ge=100)]
    seed: Seed


class Heatmaps(Block):
    """Where the networks look (Figure 2): Grad-CAM of which images, at which layer, for which class."""

    view: Literal["straight", "all"]
    layer: str
    target: Literal["labelled", "predicted"]


class Overlap(Block):
    """Box statistics and masks of the mean heatmaps (Figures 2B and 2C)."""

    quantile: Annotated[float, Field(gt=0, lt=1)]
    top: Annotated[float, Field(gt=0, lt=1)]
    resamples: Annotated[int, Field(ge=100)]
    seed: Seed


class Contrasts(Block):
    """Do two networks look at different places? Sign-flip permutations and bootstrap draws over people."""

    permutations: Annotated[int, Field(ge=100)]
    draws: Annotated[int, Field(ge=100)]
    seed: Seed


class FaceBox(Block):
    """Where the face lies in real probe images, as shares of image height and width."""

    top: Annotated[float, Field(ge=0, le=1)]
    bottom: Annotated[float, Field(ge=0, le=1)]
    left: Annotated[float, Field(ge=0, le=1)]
    right: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _upright(self) -> Self:
        if self.top >= self.bottom or self.left >= self.right:
            raise ValueError(
                f"top {self.top} must lie above bottom {self.bottom}, and left {self.left} before right {self.right}."
            )
        return self


class Regions(Block):
    """Facial biomarkers: heatmap mass per facial region. `face`: for faces without region maps."""

    face: FaceBox
    draws: Annotated[int, Field(ge=100)]
    seed: Seed


class GroundTruth(Block):
    """Do heatmaps lie where pictures differ? `others` people change the identity; `share`: of pixels, the truth."""

    others: Count
    share: Annotated[float, Field(gt=0, lt=1)]
    spread: Annotated[float, Field(gt=0, le=10)]
    draws: Annotated[int, Field(ge=100)]
    seed: Seed


class Depth(Block):
    """At which depth do units answer to which task?"""

    rate: Annotated[float, Field(gt=0, lt=1)]
    selectivity: Annotated[float, Field(gt=0, le=1)]
    permutations: Annotated[int, Field(ge=100)]
    seed: Seed


class Preferred(Block):
    """How the pictures that units prefer are optimised (Figures 3, S2 and S2B): see `analyses.preferred.Recipe`."""

    steps: Count
    learning_rate: Rate
    shift: Share
    scale: Share
    turn: Annotated[float, Field(ge=0, le=180)]
    starts: Count
    contrast: Rate
    seed: Seed


class Lesions(Block):
    """Which units are silenced, how many, and how often controls are drawn: see `analyses.lesions.Search`."""

    group_p: Annotated[float, Field(gt=0, le=1)]
    greedy_p: Share
    images: Count
    mode: Literal["exact", "screening"]
    fractions: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    random: Annotated[int, Field(ge=2, multiple_of=2)]  # drawn in pairs
    shuffled: Count
    draws: Annotated[int, Field(ge=100)]
    seed: Seed

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if sorted(set(self.fractions)) != self.fractions:
            raise ValueError(f"fractions {self.fractions} must ascend, each of them once.")
        return self


class Checks(Block):
    """How claims become verdicts; `margin` is C3's, `early` C7's, `lesioned` and `dissociation` C8's."""

    level: Annotated[float, Field(gt=0.5, lt=1)]
    margin: Annotated[float, Field(gt=0, lt=1)]
    early: Annotated[float, Field(gt=0, lt=1)]
    lesioned: Annotated[float, Field(gt=0, lt=1)]
    dissociation: Annotated[float, Field(gt=0, lt=1)]
    draws: Annotated[int, Field(ge=100)]
    seed: Seed


class Params(Block):
    """All parameters of one study."""

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
    depth: Depth
    preferred: Preferred
    lesions: Lesions
    checks: Checks

    @model_validator(mode="after")
    def _distinct_seeds(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} repeats a seed; every replicate needs its own.")
        return self


def read_params(path: Path) -> Params:
    """Read and validate `path`; raises `StudyError` naming file, key, value and what is allowed."""
    if not os.path.lexists(path):
        raise StudyError(f"{path}: no such file. Run inside a study directory; `facespec init DIR` makes one.")
    values = read_mapping(path)
    profiles = values.pop("profiles", None) or {}
    if not isinstance(profiles, dict):
        raise StudyError(f"{path}: profiles: got {profiles!r}. Expected names, each with the parameters it changes.")
    for name, overlay in profiles.items():  # a mistyped profile should not wait until it is used
        if not isinstance(overlay, dict):
            raise StudyError(f"{path}: profiles.{name}: got {overlay!r}. Expected the parameters it changes, or {{}}.")
        validate_params(merge_params(values, overlay), name=f"{path}: profiles.{name}")
    return validate_params(values, name=str(path))


def validate_params(values: dict[str, Any], *, name: str) -> Params:
    """`values` of all blocks, validated; raises `StudyError` with `name`, key, value and what is allowed."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise StudyError("\n".join(f"{name}: {_sentence(problem)}" for problem in error.errors())) from None


def merge_params(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `overlay` in their places; lists are replaced, not joined."""
    result = dict(base)
    for key, value in overlay.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge_params(result[key], value) if nested else value
    return result


def _sentence(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # raised by a validator here, already a sentence
        return (f"{where}: " if where else "") + str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{where}: missing; see params.yaml of the project for its meaning and default."
    return f"{where}: got {problem['input']!r}. {problem['msg']}."
