"""Can a user's network, images and output directory be used? All is tried before the first lesion."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from facespec.analyses.lesions import UNKNOWN, LabelledImages
from facespec.responses.hooked import HookedNetwork, Lesioned, lesion_network
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.storage import file_lock
from facespec.study.tables_lesions import INDEX

TRIAL_IMAGES = 2
TOLERANCE = 1e-3  # of the largest logit: batch norms folded into convolutions change the last bits, not more [O]
ROUNDINGS = 4  # of half-precision numbers, by which logits may differ [O]


def check_images(train: LabelledImages, test: LabelledImages) -> None:
    """Refuse images that cannot be compared, or on which no ranking could be learnt."""
    if train.tasks != test.tasks:
        raise StudyError(f"train is about the tasks {train.tasks}, test about {test.tasks}; both need the same.")
    for task in test.tasks:
        if not isinstance(task, str) or task in ("", INDEX):
            raise StudyError(f"a task is called {task!r}; allowed is any text but {INDEX!r}, a column's word.")
        for split, images in (("train", train), ("test", test)):
            known = np.unique(images.classes[task][images.classes[task] != UNKNOWN])
            if len(known) < 2:
                raise StudyError(f"the {split} images show {len(known)} class of task {task!r}; at least 2 are needed.")


def check_network(
    network: nn.Module,
    layers: Sequence[str],
    train: LabelledImages,
    test: LabelledImages,
    *,
    report: Callable[[str], None],
) -> dict[str, torch.Tensor]:
    """Logits of `network` for a few images, by task; refused unless they fit the classes and can be lesioned.

    Every layer is lesioned in the way that the sweep does it, and the logits without lesions are compared with those of
    the network itself. Where lesions need whole forward passes, `report` is told so, and why.
    """
    images = test.images(np.arange(min(TRIAL_IMAGES, len(test))))
    try:
        with torch.no_grad():
            logits = network(images.to(next(network.parameters()).device, copy=True))  # it may work in place
    except (Exception, SystemExit) as error:  # from the user's code
        raise StudyError(
            f"{type(network).__name__} fails on {images.dtype} images of shape {tuple(images.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    _check_logits(logits, train, test, n=len(images))
    for layer in layers:
        try:
            subject = lesion_network(network, layer, images)
            lesioned, single = _lesion(subject, images)
        except StudyError:
            raise
        except Exception as error:  # from steps that this network needs and others do not
            raise StudyError(
                f"layer {layer!r} cannot be lesioned: {type(error).__name__}: {error}. Name another layer, or build "
                "what follows it of plain modules."
            ) from error
        if isinstance(subject, HookedNetwork):
            report(f"layer {layer!r}: every lesion is a whole forward pass, which is slow, as {subject.reason}")
        for task in test.tasks:
            label = f"cut behind {layer!r}, the network's logits of task {task!r}"
            _check_close(label, lesioned[task][0], logits[task])
            _check_close(f"{label} without one unit", single[task][[0, -1]], lesioned[task][1:3])
    return {task: logits[task] for task in test.tasks}


def _check_logits(logits: Any, train: LabelledImages, test: LabelledImages, *, n: int) -> None:
    """Refuse what a network returns for `n` images, unless these are logits for the classes of both tasks."""
    if not isinstance(logits, dict):
        raise StudyError(f"the network returns {type(logits).__name__}: a dict is needed, task -> logits (n, classes).")
    for task in test.tasks:
        if task not in logits:
            raise StudyError(f"the network does not answer task {task!r}: {suggest_spelling(task, map(str, logits))}")
        values = logits[task]
        if not isinstance(values, torch.Tensor) or values.shape[:1] != (n,) or values.ndim != 2:
            kind = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise StudyError(f"the network's answer of task {task!r} to {n} images is {kind}; needed: ({n}, classes).")
        if not values.isfinite().all():
            raise StudyError(f"the network's logits of task {task!r} are not finite. Check its weights.")
        highest = max(int(images.classes[task].max()) for images in (train, test))
        if highest >= values.shape[1]:
            raise StudyError(
                f"class {highest} of task {task!r} has no logit; the network gives {values.shape[1]}, "
                f"for the classes 0 to {values.shape[1] - 1}."
            )


def _lesion(lesioned: Lesioned, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Logits (k, n, classes) with no unit, the first, the last, and all units lesioned; and for each unit by itself.

    The four lesions at once, to reveal images or lesions that influence each other; units as rankings compute them.
    """
    batch = lesioned.prepare_batch(images)
    none, units = torch.zeros(batch.units, dtype=torch.bool), torch.arange(batch.units)
    masks = torch.stack([none, *functional.one_hot(units[[0, -1]], batch.units).bool(), ~none])
    results = lesioned.compute_logits(batch, masks), lesioned.compute_single_lesions(batch, none, units)
    chunks = [[logits for _, logits in result] for result in results]
    return [{task: torch.cat([logits[task] for logits in parts]) for task in parts[0]} for parts in chunks]


def _check_close(label: str, logits: torch.Tensor, expected: torch.Tensor) -> None:
    difference, largest = (logits - expected).abs().max(), expected.abs().max()
    if not difference <= max(TOLERANCE, ROUNDINGS * torch.finfo(expected.dtype).eps) * largest:
        raise StudyError(
            f"{label} are {difference:.2g} off, of {largest:.2g} at most. Its forward must not draw random numbers, "
            "keep a state, or mix images."
        )


@contextmanager
def lock_output_dir(directory: Path, *, subdirectory: str, files: Sequence[str]) -> Iterator[None]:
    """Hold the lock of `directory`, or of the directory that it links to.

    Refused if it or its `subdirectory` is something else or not writable, or if a directory has the name of one of the
    `files` to be written; a link of that name is replaced.
    """
    directories, remedy = [directory, directory / subdirectory], "for the tables and figures."
    for path in directories:
        if not path.is_dir() and (path.exists() or path.is_symlink()):
            kind = "a file" if path.exists() else "a link to nothing"
            raise StudyError(
                f"{path}: {kind}, where a directory is needed. Remove it, or name another directory {remedy}"
            )
    with ExitStack() as stack:
        for path in directories:
            try:
                if path == directory:
                    stack.enter_context(file_lock(path.resolve()))  # a link and its directory share their lock
                if path.exists():
                    tempfile.TemporaryFile(dir=path).close()
            except (OSError, RuntimeError) as error:  # RuntimeError: of links in a circle
                raise StudyError(
                    f"{path}: cannot be written ({error}). Name a directory that you may write to, in another such one."
                ) from error
        for path in (directory / name for name in files):
            if path.is_dir() and not path.is_symlink():
                raise StudyError(
                    f"{path}: a directory, where a file will be written. Remove it, or name another directory {remedy}"
                )
        yield
