"""Which units of your own network does each of two tasks need? Lesions of any torch module, with controls.

`lesion_study` is for Python; `run` is ``facespec lesions --module ...``, which writes to a directory:

::

    lesion_ranking.csv lesions.csv lesion_classes.csv dissociation.csv segregation.csv   see `study.tables_lesions`
    figure_lesions.{pdf,png} figure_lesion_classes.{pdf,png}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from facespec.analyses.lesions import LabelledImages
from facespec.figures.lesion_classes import draw_figure_lesion_classes
from facespec.figures.lesions import draw_figure_lesions
from facespec.figures.style import save_figure
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, on_device, pick_device
from facespec.responses.lesioned import LesionedNetwork
from facespec.stages.init import PROJECT
from facespec.stages.own_files import check_answers, check_images, load_network, lock_output_dir, read_labels
from facespec.stages.progress import progress_bar
from facespec.stages.sweep import remove_kept_jobs, run_sweep
from facespec.stages.sweep_jobs import Subject, Sweep
from facespec.study.documents import parse_yaml
from facespec.study.errors import StudyError
from facespec.study.params import Lesions, read_params
from facespec.study.storage import write_table

FEW = 2  # images that a network is tried on
ALIKE = 1e-3  # of the largest logit: batch norms folded into convolutions move the last bits, not more [O]
BATCH = 64
UNFINISHED = ".unfinished"  # directory for finished jobs
TABLES = ("lesion_ranking", "lesions", "lesion_classes", "dissociation", "segregation")
FIGURES = ("figure_lesions", "figure_lesion_classes")


def make_plan(**changes: Any) -> Lesions:
    """The `lesions` block of the project's ``params.yaml``, with some of its values changed.

    For example ``make_plan(images=64, random=10)``. Raises `StudyError` for values that it does not allow.
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


def parse_plan(settings: Iterable[str]) -> Lesions:
    """`make_plan` with changes as text, ``NAME=VALUE``, the values in YAML."""
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise StudyError(
                f"setting {setting!r}: expected NAME=VALUE, for example images=64 or fractions=[0.1, 0.2]."
            )
        if name in changes:
            raise StudyError(f"setting {setting!r}: {name} is set twice. Keep one of the settings.")
        changes[name] = parse_yaml(text, name=f"setting {setting!r}")
    return make_plan(**changes)


@dataclass(frozen=True)
class Options:
    """How a study is done, and named in its tables.

    `plan`: None for `make_plan`. `name` of the network and `source` of the images; `seed`: which replicate it is.
    `workers`: jobs at a time, in threads; on a GPU it is 1. `jobs_directory`: directory for the results of finished jobs, from
    which a study that was interrupted goes on; the caller removes it.
    """

    plan: Lesions | None = None
    name: str = "own"
    source: str = "own images"
    seed: int = 0
    workers: int = 1
    jobs_directory: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what no table could hold."""
        if not self.name or not self.source or self.seed < 0 or self.workers < 1:
            raise StudyError(f"{self}: name and source need a letter; seed is at least 0, workers at least 1.")


def lesion_study(
    network: nn.Module,
    layers: Sequence[str],
    *,
    train: LabelledImages,
    test: LabelledImages,
    people: Sequence[Any] | pd.Series | None = None,
    options: Options = Options(),
) -> dict[str, pd.DataFrame]:
    """Tables of lesions of `network` by name, those of `study.tables_lesions`.

    `network` maps images to a dict, task -> logits (n, classes), of at least the two tasks of the trials, on the device
    where it is; it answers as in evaluation mode and is not changed. `layers`: dotted names, the shallowest first.
    Units are ranked on `train` and tested on `test`; `people` (n,): whom each test image shows, the unit of statistics;
    None: every image stands for itself. With more than one worker, `images` of the trials is called from threads.
    Raises `StudyError`, before any lesion, for what does not fit together.
    """
    plan = options.plan or make_plan()
    _check_layers(layers)
    check_images(train, test)
    _check_text(options.name, options.source, *layers, *test.tasks)
    shown = pd.Series(range(len(test)) if people is None else people).reset_index(drop=True)
    if len(shown) != len(test) or shown.isna().any():
        raise StudyError(f"people has {shown.count()} names for {len(test)} test images; each needs one.")
    if (place := next(network.parameters(), None)) is None:
        raise StudyError(f"{type(network).__name__} has no weights: nothing in it can be lesioned.")
    with deterministic_torch(), on_device(network, place.device, training=False), progress_bar() as bar:
        answers = _tried(network, layers, train, test)
        digest = _digest(network, answers, [train, test]) if options.jobs_directory else ""
        depths = {layer: depth for depth, layer in enumerate(layers, start=1)}
        subject = Subject(network, options.seed, depths, train, test, digest)
        sweep = Sweep(options.name, options.source, [subject], shown, plan, options.jobs_directory)
        task = bar.add_task("lesions", total=len(sweep.jobs()), numbers="")
        workers = options.workers if place.device.type == "cpu" else 1
        return run_sweep(sweep, workers=workers, report=lambda: bar.advance(task))


def _check_layers(layers: Sequence[str]) -> None:
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
        raise StudyError(f"layers is {layers!r}: a list of different names is needed, the shallowest layer first.")


def _check_text(*names: str) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise StudyError(f"name {name!r}: UTF-8 has no such letters, so no table can hold it. Rename it.") from None


def _tried(
    network: nn.Module, layers: Sequence[str], train: LabelledImages, test: LabelledImages
) -> dict[str, torch.Tensor]:
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
    check_answers(answers, train, test, n=len(images))
    for layer in layers:
        try:
            cut, single = _lesioned(network, layer, images)
        except StudyError:
            raise
        except Exception as error:  # of steps that this network takes otherwise than others
            raise StudyError(
                f"layer {layer!r} cannot be lesioned: {type(error).__name__}: {error}. Name another layer, or build "
                "what follows it of plain modules."
            ) from error
        for task in test.tasks:
            logits = f"cut behind {layer!r}, the network's logits of task {task!r}"
            _check_alike(logits, cut[task][0], answers[task])
            _check_alike(f"{logits} without one unit", single[task], cut[task][1:3])
    return {task: answers[task] for task in test.tasks}


def _lesioned(network: nn.Module, layer: str, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Logits (k, n, classes) without any lesion, the first unit, the last, and all; and again of these two lesions.

    All at once, so that images or lesions that influence each other show; the two also as the ranking computes them.
    """
    place = LesionedNetwork(network, layer)
    batch = place.prepare_batch(images)
    none, ends = torch.zeros(batch.units, dtype=torch.bool), torch.tensor([0, batch.units - 1])
    lesions = torch.stack([none, *functional.one_hot(ends, batch.units).bool(), ~none])
    ways = place.compute_logits(batch, lesions), place.compute_single_lesions(batch, none, ends)
    parts = [[logits for _, logits in way] for way in ways]
    return [{task: torch.cat([logits[task] for logits in way]) for task in way[0]} for way in parts]


def _check_alike(logits: str, one: torch.Tensor, other: torch.Tensor) -> None:
    apart, largest = (one - other).abs().max(), other.abs().max()
    if not apart <= ALIKE * largest:
        raise StudyError(
            f"{logits} are {apart:.2g} off, of {largest:.2g} at most. Its forward must not draw random numbers, keep a "
            "state, or mix images."
        )


def _digest(network: nn.Module, answers: dict[str, torch.Tensor], everything: Sequence[LabelledImages]) -> str:
    """Of weights, of what the network makes of them, and of all images and classes; reads every image."""
    weights = {name: value for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    content = hashlib.sha256(f"{checkpoints.digest_tensors(weights)} {checkpoints.digest_tensors(answers)}".encode())
    for trials in everything:
        for task, classes in trials.classes.items():
            content.update(json.dumps([task, classes.tolist()]).encode())
        for start in range(0, len(trials), BATCH):
            images = trials.images(np.arange(start, min(start + BATCH, len(trials))))
            content.update(checkpoints.digest_tensors({"images": images}).encode())
    return content.hexdigest()


@dataclass(frozen=True)
class UserModel:
    """What the user brings: see `own_files` for `module`, ``FILE.py:FUNCTION``, and `labels`; `size`: px of images."""

    module: str
    labels: Path
    layers: Sequence[str]
    size: int


def run(own: UserModel, plan: Lesions, *, to: Path, device: str, workers: int) -> None:
    """Write tables and figures to the directory `to`, or to the one that it is a link to; other files in it stay.

    What a killed run has finished is in ``to/.unfinished``, which may be a link too, and is not done again, if network,
    images, labels, plan (but for `draws`), facespec, torch and the kind of device are the same. In the end only the
    files of finished jobs are removed from there. Raises `StudyError` before any lesion for what cannot be used.
    """
    where = pick_device(device)
    labelled = read_labels(own.labels, size=own.size)
    network = load_network(own.module)
    name = Path(own.module.rpartition(":")[0]).stem
    options = Options(plan, name=name, source=own.labels.name, workers=workers, jobs_directory=to / UNFINISHED)
    with lock_output_dir(to, UNFINISHED), on_device(network, where, training=False):
        _check_files(to)
        tables = lesion_study(network, own.layers, **labelled._asdict(), options=options)
        figures = [  # drawn before the first file is written
            draw_figure_lesions(tables["lesions"], tables["segregation"]),
            draw_figure_lesion_classes(tables["lesion_classes"], tables["lesions"]),
        ]
        for table in TABLES:
            write_table(to / f"{table}.csv", tables[table])
        for name, figure in zip(FIGURES, figures, strict=True):
            save_figure(figure, to / name)
        remove_kept_jobs(to / UNFINISHED)


def _check_files(to: Path) -> None:
    names = [*(f"{table}.csv" for table in TABLES), *(f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png"))]
    for path in (to / name for name in names):
        if path.is_dir() and not path.is_symlink():  # a link is replaced
            raise StudyError(
                f"{path}: a directory, where a file will be written. Remove it, or name another directory for the "
                "tables and figures."
            )
