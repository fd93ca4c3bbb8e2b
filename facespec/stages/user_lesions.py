"""Which units of a user's network does each of two tasks need? Lesions of any torch module, with controls.

`lesion_study` is for Python; `run` is ``facespec lesions --module ...``, which writes to a directory:

::

    lesion_ranking.csv lesions.csv lesion_classes.csv damage_curves.csv dissociation.csv segregation.csv
                                                         see `study.tables_lesions`
    figure_lesions.{pdf,png} figure_lesion_classes.{pdf,png}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import nn

from facespec.analyses.lesions import LabelledImages
from facespec.figures.lesion_classes import draw_figure_lesion_classes
from facespec.figures.lesions import draw_figure_lesions
from facespec.figures.style import save_figure
from facespec.models.checkpoints import digest_tensors
from facespec.models.device import deterministic_torch, on_device, pick_device
from facespec.models.user_networks import load_network
from facespec.stages.label_table import read_labels
from facespec.stages.sweep import Subject, Sweep, remove_saved_jobs, run_sweep
from facespec.stages.template import find_template
from facespec.stages.user_checks import check_images, check_network, lock_output_dir
from facespec.study.documents import parse_yaml
from facespec.study.errors import StudyError
from facespec.study.params import Lesions, read_params
from facespec.study.storage import write_table

BATCH_SIZE = 64
UNFINISHED = ".unfinished"  # directory for finished jobs
TABLES = ("lesion_ranking", "lesions", "lesion_classes", "damage_curves", "dissociation", "segregation")
FIGURES = ("figure_lesions", "figure_lesion_classes")


def make_plan(**changes: Any) -> Lesions:
    """Make the plan of a lesion study: the `lesions` block of the project's ``params.yaml``, with changes.

    Parameters
    ----------
    **changes
        Values by name, such as ``images=64``; ``params.yaml`` explains them.

    Returns
    -------
    Lesions
        The plan.

    Raises
    ------
    StudyError
        For an unknown name or a value that is not allowed.

    Examples
    --------
    >>> plan = make_plan(images=64, fractions=[0.2, 0.4])
    >>> plan.images, plan.fractions, plan.mode
    (64, [0.2, 0.4], 'screening')
    """
    plan = read_params(find_template() / "params.yaml").lesions
    try:
        return Lesions.model_validate(plan.model_dump() | changes)
    except ValidationError as error:
        lines = [": ".join(["plan of lesions", *map(str, detail["loc"]), detail["msg"]]) for detail in error.errors()]
        raise StudyError("\n".join(lines).replace("Value error, ", "")) from None


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
class LesionOptions:
    """How a lesion study is run, and what its tables call it.

    Parameters
    ----------
    plan : Lesions, optional
        By default `make_plan`'s.
    name, source : str
        Of the network and of the images, for the tables' columns `trained_on` and `source`.
    seed : int
        Number of the replicate, at least 0.
    workers : int
        Jobs at a time, in threads; on a GPU it is 1.
    jobs_directory : Path, optional
        Directory for the results of finished jobs, with which an interrupted study continues; the caller removes it.
    report : callable
        Receives a line about every layer whose lesions are slow, and why.

    Raises
    ------
    StudyError
        For values that no table could hold.

    Examples
    --------
    >>> LesionOptions(make_plan(images=64), name="ResNet-18", source="my faces").workers
    1
    """

    plan: Lesions | None = None
    name: str = "own"
    source: str = "own images"
    seed: int = 0
    workers: int = 1
    jobs_directory: Path | None = None
    report: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        if not self.name or not self.source or self.seed < 0 or self.workers < 1:
            raise StudyError(f"{self}: name and source need a letter; seed is at least 0, workers at least 1.")


def lesion_study(
    network: nn.Module,
    layers: Sequence[str],
    *,
    train: LabelledImages,
    test: LabelledImages,
    people: Sequence[Any] | pd.Series | None = None,
    options: LesionOptions = LesionOptions(),
) -> dict[str, pd.DataFrame]:
    """Find out which units of some layers each of two tasks needs, and whether lesions dissociate the tasks.

    Parameters
    ----------
    network : torch.nn.Module
        Maps images to a dict, task -> logits (n, classes), of at least the two tasks of the images. It stays on its
        device, runs in evaluation mode and is not changed.
    layers : sequence of str
        Dotted names, the shallowest layer first.
    train, test : LabelledImages
        Images to rank units on, and images to test both tasks on.
    people : sequence of shape (n_test,), optional
        Whom each test image shows: the unit of statistics. By default every image counts as a person of its own.
    options : LesionOptions
        Plan, names, workers, and where to save unfinished work.

    Returns
    -------
    dict of str to pandas.DataFrame
        ``lesion_ranking``, ``lesions``, ``lesion_classes``, ``damage_curves``, ``dissociation`` and ``segregation``;
        docs/lesions.md and `study.tables_lesions` explain their columns.

    Raises
    ------
    StudyError
        Before any lesion, if network, layers, images and people do not fit together.

    References
    ----------
    Dobs et al. (2022). Brain-like functional specialization emerges spontaneously in deep neural networks. Science
    Advances 8, eabl8913.

    Examples
    --------
    Units 0 and 1 drive one task, units 2 and 3 the other:

    >>> class Halves(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.units = nn.Linear(4, 4, bias=False)
    ...         nn.init.eye_(self.units.weight)
    ...     def forward(self, images):
    ...         responses = self.units(images)
    ...         return {"shape": responses[:, :2], "colour": responses[:, 2:]}
    >>> shape, colour = np.array([0, 0, 1, 1] * 4), np.array([0, 1, 0, 1] * 4)
    >>> pixels = torch.from_numpy(np.hstack([np.eye(2)[shape], np.eye(2)[colour]])).float()
    >>> images = LabelledImages(lambda positions: pixels[positions], {"shape": shape, "colour": colour})
    >>> plan = make_plan(images=16, fractions=[0.5], random=2, shuffled=1, draws=100)
    >>> tables = lesion_study(Halves(), ["units"], train=images, test=images, options=LesionOptions(plan))
    >>> ranked = tables["segregation"].query("condition == 'ranked'").set_index("quantity")
    >>> ranked.query("fraction == 0.5")["number"].to_dict()
    {'shape': 1.0, 'colour': 1.0, 'index': 1.0}
    >>> ranked.query("damage == 0.5")["number"].to_dict()  # where a task has lost half, the other has lost nothing
    {'shape': 0.5, 'colour': 0.5, 'index': 1.0}
    """
    plan = options.plan or make_plan()
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
        raise StudyError(f"layers is {layers!r}: a list of different names is needed, the shallowest layer first.")
    check_images(train, test)
    _check_text(options.name, options.source, *layers, *test.tasks)
    group = pd.Series(range(len(test)) if people is None else people).reset_index(drop=True)
    if len(group) != len(test) or group.isna().any():
        raise StudyError(f"people has {group.count()} names for {len(test)} test images; each needs one.")
    if (weight := next(network.parameters(), None)) is None:
        raise StudyError(f"{type(network).__name__} has no weights: nothing in it can be lesioned.")
    with deterministic_torch(), on_device(network, weight.device, training=False):
        logits = check_network(network, layers, train, test, report=options.report)
        digest = _digest_study(network, logits, [train, test]) if options.jobs_directory else ""
        depths = {layer: depth for depth, layer in enumerate(layers, start=1)}
        subject = Subject(network, options.seed, depths, train, test, digest)
        sweep = Sweep(options.name, options.source, [subject], group, plan, options.jobs_directory)
        return run_sweep(sweep, workers=options.workers)


def _check_text(*names: str) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise StudyError(f"name {name!r}: UTF-8 has no such letters, so no table can hold it. Rename it.") from None


def _digest_study(network: nn.Module, logits: dict[str, torch.Tensor], splits: Sequence[LabelledImages]) -> str:
    """A digest of weights, some logits, and all images and classes; every image is read."""
    weights = {name: value for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    content = hashlib.sha256(f"{digest_tensors(weights)} {digest_tensors(logits)}".encode())
    for labelled in splits:
        for task, classes in labelled.classes.items():
            content.update(json.dumps([task, classes.tolist()]).encode())
        for start in range(0, len(labelled), BATCH_SIZE):
            images = labelled.images(np.arange(start, min(start + BATCH_SIZE, len(labelled))))
            content.update(digest_tensors({"images": images}).encode())
    return content.hexdigest()


@dataclass(frozen=True)
class UserModel:
    """A user's files: `module`, ``FILE.py:FUNCTION``, and `labels` (see `label_table`); `size` of the images in px."""

    module: str
    labels: Path
    layers: Sequence[str]
    size: int


def run(
    model: UserModel, plan: Lesions, *, to: Path, device: str, workers: int, report: Callable[[str], None] = print
) -> None:
    """Write tables and figures to the directory `to`, or to the one that it is a link to; other files in it stay.

    Finished jobs of a killed run are in ``to/.unfinished``, which may be a link, too, and are not repeated if network,
    images, labels, plan (except `draws`), facespec, torch and the kind of device are the same. In the end only these
    jobs' files are removed from there. `report` receives a line about every layer whose lesions are slow. Raises
    `StudyError` before any lesion for what cannot be used.
    """
    torch_device = pick_device(device)
    labels = read_labels(model.labels, size=model.size)
    network = load_network(model.module, option="--module")
    name, jobs = Path(model.module.rpartition(":")[0]).stem, to / UNFINISHED
    options = LesionOptions(
        plan, name=name, source=model.labels.name, workers=workers, jobs_directory=jobs, report=report
    )
    files = [*(f"{name}.csv" for name in TABLES), *(f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png"))]
    with (
        lock_output_dir(to, subdirectory=UNFINISHED, files=files),
        on_device(network, torch_device, training=False),
    ):
        tables = lesion_study(network, model.layers, **labels._asdict(), options=options)
        figures = [  # drawn before the first file is written
            draw_figure_lesions(tables["lesions"], tables["segregation"], tables["damage_curves"]),
            draw_figure_lesion_classes(tables["lesion_classes"], tables["lesions"]),
        ]
        for table in TABLES:
            write_table(to / f"{table}.csv", tables[table])
        for name, figure in zip(FIGURES, figures, strict=True):
            save_figure(figure, to / name)
        remove_saved_jobs(jobs)
