"""Which units of your own network does each of two tasks need? Lesions of any torch module, with controls.

`lesion_study` is for Python; `run` is ``facespec lesions --module ...``, which writes to a directory:

::

    lesion_ranking.csv lesions.csv dissociation.csv segregation.csv   see `study.tables_lesions`
    figure_lesions.pdf figure_lesions.png
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from pydantic import ValidationError
from torch import nn

from facespec.analyses.lesions import UNKNOWN, Trials
from facespec.figures.lesions import figure_lesions
from facespec.figures.style import save
from facespec.models import checkpoints
from facespec.models.device import borrowed, deterministic, pick
from facespec.responses.lesioned import LesionedNetwork
from facespec.stages.init import PROJECT
from facespec.stages.own_files import load_network, read_labels
from facespec.stages.progress import progress_bar
from facespec.stages.sweep import swept
from facespec.stages.sweep_jobs import Subject, Sweep
from facespec.study.errors import StudyError, did_you_mean
from facespec.study.params import Lesions, read_params
from facespec.study.storage import only_one, write_table
from facespec.study.tables_lesions import INDEX

FEW = 2  # images that a network is tried on
ALIKE = 1e-3  # of the largest logit: batch norms folded into convolutions move the last bits, not more [O]
BATCH = 64


def default_plan(**changes: Any) -> Lesions:
    """The `lesions` block of the project's ``params.yaml``, with some of its values changed.

    For example ``default_plan(images=64, random=10)``. Raises `StudyError` for values that it does not allow.
    """
    if not (file := PROJECT / "params.yaml").is_file():
        raise StudyError(
            f"{file}: no such file, as the package lies outside a clone of the project. Pass a plan: "
            "facespec.study.params.Lesions."
        )
    plan = read_params(file).lesions
    try:
        return Lesions.model_validate(plan.model_dump() | changes)
    except ValidationError as error:
        told = [": ".join(["plan of lesions", *map(str, problem["loc"]), problem["msg"]]) for problem in error.errors()]
        raise StudyError("\n".join(told).replace("Value error, ", "")) from None


def plan_with(settings: Iterable[str]) -> Lesions:
    """`default_plan` with changes as text, ``NAME=VALUE``, the values in YAML."""
    changes = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        try:
            changes[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise StudyError(
                f"setting {setting!r}: expected NAME=VALUE, for example images=64 or fractions=[0.1, 0.2]."
            )
    return default_plan(**changes)


@dataclass(frozen=True)
class Options:
    """How a study is done, and named in its tables.

    `plan`: None for `default_plan`. `name` of the network and `source` of the images; `seed`: which replicate it is.
    `workers`: jobs at a time, in threads; on a GPU it is 1. `kept`: directory for the results of finished jobs, from
    which a study that was interrupted goes on; the caller removes it.
    """

    plan: Lesions | None = None
    name: str = "own"
    source: str = "own images"
    seed: int = 0
    workers: int = 1
    kept: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what no table could hold."""
        if not self.name or not self.source or self.seed < 0 or self.workers < 1:
            raise StudyError(f"{self}: name and source need a letter; seed is at least 0, workers at least 1.")


def lesion_study(
    network: nn.Module,
    layers: Sequence[str],
    *,
    train: Trials,
    test: Trials,
    people: Sequence[Any] | pd.Series | None = None,
    options: Options = Options(),
) -> dict[str, pd.DataFrame]:
    """``lesion_ranking``, ``lesions``, ``dissociation`` and ``segregation`` of `network`, tables of `tables_lesions`.

    `network` maps images to a dict, task -> logits (n, classes), of at least the two tasks of the trials, on the device
    where it is; it answers as in evaluation mode and is not changed. `layers`: dotted names, the shallowest first.
    Units are ranked on `train` and tested on `test`; `people` (n,): whom each test image shows, the unit of statistics;
    None: every image stands for itself. With more than one worker, `images` of the trials is called from threads.
    Raises `StudyError`, before any lesion, for what does not fit together.
    """
    plan = options.plan or default_plan()
    _check_layers(layers)
    _check_trials(train, test)
    shown = pd.Series(range(len(test)) if people is None else people).reset_index(drop=True)
    if len(shown) != len(test) or shown.isna().any():
        raise StudyError(f"people has {shown.count()} names for {len(test)} test images; each needs one.")
    if (place := next(network.parameters(), None)) is None:
        raise StudyError(f"{type(network).__name__} has no weights: nothing in it can be lesioned.")
    with deterministic(), borrowed(network, place.device, training=False), progress_bar() as bar:
        answers = _tried(network, layers, train, test)
        digest = _digest(network, answers, [train, test]) if options.kept else ""
        depths = {layer: depth for depth, layer in enumerate(layers, start=1)}
        subject = Subject(network, options.seed, depths, train, test, digest)
        sweep = Sweep(options.name, options.source, [subject], shown, plan, options.kept)
        task = bar.add_task("lesions", total=len(sweep.jobs()), numbers="")
        workers = options.workers if place.device.type == "cpu" else 1
        return swept(sweep, workers=workers, report=lambda: bar.advance(task))


def _check_layers(layers: Sequence[str]) -> None:
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
        raise StudyError(f"layers is {layers!r}: a list of different names is needed, the shallowest layer first.")


def _check_trials(train: Trials, test: Trials) -> None:
    if train.tasks != test.tasks:
        raise StudyError(f"train is about the tasks {train.tasks}, test about {test.tasks}; both need the same.")
    for task in test.tasks:
        if not isinstance(task, str) or task in ("", INDEX):
            raise StudyError(f"a task is called {task!r}; allowed is any text but {INDEX!r}, a column's word.")
        for split, trials in (("train", train), ("test", test)):
            known = np.unique(trials.classes[task][trials.classes[task] != UNKNOWN])
            if len(known) < 2:
                raise StudyError(f"the {split} images show {len(known)} class of task {task!r}; at least 2 are needed.")


def _tried(network: nn.Module, layers: Sequence[str], train: Trials, test: Trials) -> dict[str, torch.Tensor]:
    """What `network` answers to a few images; refused if that does not fit the trials, or the cuts answer otherwise."""
    images = test.images(np.arange(min(FEW, len(test))))
    try:
        with torch.no_grad():
            answers = network(images.to(next(network.parameters()).device))
    except Exception as error:  # it is the user's own code
        raise StudyError(
            f"{type(network).__name__} fails on {images.dtype} images of shape {tuple(images.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    _check_answers(answers, train, test, n=len(images))
    for layer in layers:
        place = LesionedNetwork(network, layer)
        batch = place.batch(images)
        for _, logits in place.answers(batch, torch.zeros((2, batch.units), dtype=torch.bool)):
            for task in test.tasks:
                apart, largest = (logits[task] - answers[task]).abs().max(), answers[task].abs().max()
                if not apart <= ALIKE * largest:
                    raise StudyError(
                        f"cut behind {layer!r}, the network's logits of task {task!r} are {apart:.2g} off its own, of "
                        f"{largest:.2g} at most. Its forward must not draw random numbers, keep a state, or mix images."
                    )
    return {task: answers[task] for task in test.tasks}


def _check_answers(answers: Any, train: Trials, test: Trials, *, n: int) -> None:
    if not isinstance(answers, dict):
        raise StudyError(
            f"the network returns {type(answers).__name__}: a dict is needed, task -> logits (n, classes)."
        )
    for task in test.tasks:
        if task not in answers:
            raise StudyError(f"the network does not answer task {task!r}: {did_you_mean(task, map(str, answers))}")
        logits = answers[task]
        if not isinstance(logits, torch.Tensor) or logits.shape[:1] != (n,) or logits.ndim != 2:
            what = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise StudyError(f"the network's answer of task {task!r} to {n} images is {what}; needed: ({n}, classes).")
        if not logits.isfinite().all():
            raise StudyError(f"the network's logits of task {task!r} are not finite. Check its weights.")
        most = max(int(trials.classes[task].max()) for trials in (train, test))
        if most >= logits.shape[1]:
            raise StudyError(
                f"class {most} of task {task!r} has no logit; the network gives {logits.shape[1]}, "
                f"for the classes 0 to {logits.shape[1] - 1}."
            )


def _digest(network: nn.Module, answers: dict[str, torch.Tensor], everything: Sequence[Trials]) -> str:
    """Of weights, of what the network makes of them, and of all images and classes; reads every image."""
    weights = {name: value for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    content = hashlib.sha256(f"{checkpoints.digest(weights)} {checkpoints.digest(answers)}".encode())
    for trials in everything:
        for task, classes in trials.classes.items():
            content.update(f"{task} {classes.tolist()}".encode())
        for start in range(0, len(trials), BATCH):
            images = trials.images(np.arange(start, min(start + BATCH, len(trials))))
            content.update(checkpoints.digest({"images": images}).encode())
    return content.hexdigest()


@dataclass(frozen=True)
class Own:
    """What the user brings: see `own_files` for `module`, ``FILE.py:FUNCTION``, and `labels`; `size`: px of images."""

    module: str
    labels: Path
    layers: Sequence[str]
    size: int


def run(own: Own, plan: Lesions, *, to: Path, device: str, workers: int) -> None:
    """Write tables and figure to the directory `to`; other files in it stay.

    What a killed run has finished is in ``to/.unfinished`` and is not done again, if network, images, labels, plan and
    facespec are the same. Raises `StudyError` before any lesion for what cannot be used.
    """
    where, kept = pick(device), to / ".unfinished"
    if to.exists() and not to.is_dir():
        raise StudyError(f"{to}: a file. Name a directory for the tables and the figure.")
    labelled = read_labels(own.labels, size=own.size)
    network = load_network(own.module)
    name = Path(own.module.rpartition(":")[0]).stem
    options = Options(plan, name=name, source=own.labels.name, workers=workers, kept=kept)
    with only_one(to), borrowed(network, where, training=False):
        tables = lesion_study(network, own.layers, **labelled._asdict(), options=options)
        figure = figure_lesions(tables["lesions"], tables["segregation"])  # drawn before the first file is written
        for table, rows in tables.items():
            write_table(to / f"{table}.csv", rows)
        save(figure, to / "figure_lesions")
        shutil.rmtree(kept)
