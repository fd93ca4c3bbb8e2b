"""Which classes do networks, untrained trunks and pixels name on the probe? Answers to images, as they are and swapped.

Answers are names of classes; an empty name stands where nothing can be answered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from facespec.analyses.calibration import reduce_to_components
from facespec.analyses.decoding import decode_classes
from facespec.analyses.pixels import classify_by_discriminants, classify_by_nearest
from facespec.data.faceset import FaceSet
from facespec.data.splits import draw_images, encode_classes
from facespec.models.checkpoints import Checkpoint
from facespec.models.device import pick_device
from facespec.responses.pixels import record_pixels
from facespec.responses.recording import predict_classes, record_penultimate
from facespec.stages.network_files import undo_training
from facespec.stages.redrawing import SwappedFaces
from facespec.study.params import Decoding
from facespec.study.tables import NEAREST, PIXELS
from facespec.study.vocabulary import SESSIONS, TASKS, Task

BATCH = 64
STUDY, ACROSS = "study", "sessions"  # splits of the probe images
SPLITS = (STUDY, ACROSS)
Names = npt.NDArray[np.str_]
Classify = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # fitted inputs, their codes, tested inputs


@dataclass(frozen=True, eq=False)
class SplitRows:
    """Rows to fit on, and rows to test on, whose classes are among the fitted ones; `reason`: why there are none."""

    fit: np.ndarray
    test: np.ndarray
    known: tuple[str, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class ProbeImages:
    """The probe faces, and the rows that the study's split has for fitting and for testing."""

    faces: FaceSet
    fit_rows: np.ndarray
    test_rows: np.ndarray

    def split(self, name: str, task: Task) -> SplitRows:
        """The split `name`: "study", or "sessions", session A against session B."""
        classes = self.faces.labels[task.value]
        fit, test = self.fit_rows, self.test_rows
        if name == ACROSS:
            fit, test = (np.flatnonzero(self.faces.labels["session"] == session) for session in SESSIONS)
        known = tuple(sorted(set(classes.iloc[fit])))
        tested = test[classes.iloc[test].isin(known).to_numpy()]
        reason = ""
        if not len(fit) or not len(test):
            reason = f"{len(fit)} images of session {SESSIONS[0]} and {len(test)} of session {SESSIONS[1]}"
        elif len(known) < 2 or not len(tested):
            reason = f"no {task} of the tested images is one of two or more that are fitted"
        return SplitRows(fit, tested, known, reason)


@dataclass(frozen=True, eq=False)
class Answers:
    """What one network, or one classifier, names.

    Attributes
    ----------
    known : dict of task to tuple of str
        The classes that can be named.
    tested : dict of (split, task) to array of str
        Answers to the test images of a split; of networks, to all test images of the study's.
    swapped : dict of task to array of str of shape (1 + n_cues, n)
        Answers to the images whose cues are swapped: first as they are, then with each cue swapped.
    """

    known: dict[Task, tuple[str, ...]] = field(default_factory=dict)
    tested: dict[tuple[str, Task], Names] = field(default_factory=dict)
    swapped: dict[Task, Names] = field(default_factory=dict)


def name_classes(checkpoint: Checkpoint, faces: FaceSet, rows: np.ndarray, *, device: str) -> dict[Task, Names]:
    """The names that a network gives the images at `rows` of `faces`, task by task."""
    predicted = predict_classes(
        checkpoint.network, faces, rows, preset=checkpoint.preset, batch_size=BATCH, device=pick_device(device)
    )
    return {Task(task): np.array(checkpoint.classes[task])[codes] for task, codes in predicted.items()}


def answer_network(checkpoint: Checkpoint, probe: ProbeImages, swapped: SwappedFaces, *, device: str) -> Answers:
    """The answers of a fine-tuned network, for each task that it has a head for."""
    tested = name_classes(checkpoint, probe.faces, probe.test_rows, device=device)
    original = name_classes(checkpoint, probe.faces, swapped.rows, device=device)
    drawn = {task: np.empty(0, str) for task in tested}
    if swapped.faces:
        drawn = name_classes(checkpoint, swapped.faces, np.arange(swapped.faces.n), device=device)
    return Answers(
        {task: checkpoint.classes[task.value] for task in tested},
        {(STUDY, task): names for task, names in tested.items()},
        {task: _stack_answers(original[task], drawn[task], swapped) for task in tested},
    )


def answer_untrained(
    checkpoint: Checkpoint, probe: ProbeImages, swapped: SwappedFaces, *, block: Decoding, device: str
) -> Answers:
    """The answers that are decoded, as in Figure 1B, from a network as it was before training.

    `checkpoint` is of any network with one task: the trunks of a seed are the same before training.
    """
    untrained = undo_training(checkpoint)
    (task_name,) = untrained.network.tasks
    originals, drawn = (
        record_penultimate(
            untrained.network,
            faces,
            np.arange(len(faces)),
            task_name,
            preset=untrained.preset,
            batch_size=BATCH,
            device=pick_device(device),
        )
        if faces
        else np.empty((0, untrained.network.width), np.float32)
        for faces in (probe.faces, swapped.faces)
    )
    decode = partial(decode_classes, penalty=block.penalty, iterations=block.iterations)
    answers = Answers()
    for task in TASKS:
        rows = probe.split(STUDY, task)
        tested = np.concatenate([originals[rows.test], originals[swapped.rows], drawn])
        named = _classify(probe, task, rows, inputs=(originals[rows.fit], tested), classify=decode)
        answers.known[task] = rows.known
        answers.tested[STUDY, task], original, redrawn = np.split(
            named, [len(rows.test), len(rows.test) + len(swapped.rows)]
        )
        answers.swapped[task] = _stack_answers(original, redrawn, swapped)
        rows = probe.split(ACROSS, task)
        inputs = originals[rows.fit], originals[rows.test]
        answers.tested[ACROSS, task] = _classify(probe, task, rows, inputs=inputs, classify=decode)
    return answers


def answer_pixels(probe: ProbeImages, block: Decoding, stream: np.random.Generator) -> dict[str, Answers]:
    """The answers of classifiers of pixels, fitted to at most `block.pixel_images` images drawn from `stream`."""
    answers = {NEAREST: Answers(), PIXELS: Answers()}
    discriminate = partial(classify_by_discriminants, components=block.pixel_components)
    for split in SPLITS:
        by_task = {task: probe.split(split, task) for task in TASKS}
        fit = by_task[TASKS[0]].fit  # the same for both
        if len(fit) < 2:
            for one, (task, rows) in itertools.product(answers.values(), by_task.items()):
                one.tested[split, task] = np.full(len(rows.test), "")
            continue
        fit = fit[draw_images(probe.faces.labels.iloc[fit], block.pixel_images, stream)]
        test = np.unique(np.concatenate([rows.test for rows in by_task.values()]))
        fitted, tested = (
            record_pixels(probe.faces, part, size=block.pixel_size, batch_size=BATCH) for part in (fit, test)
        )
        reduced = reduce_to_components(fitted, tested, components=block.pixel_components)
        for task, rows in by_task.items():
            places, drawn = np.searchsorted(test, rows.test), replace(rows, fit=fit)
            for name, classify, (known, asked) in (
                (NEAREST, classify_by_nearest, (fitted, tested)),
                (PIXELS, discriminate, reduced),
            ):
                inputs = known, asked[places]
                answers[name].tested[split, task] = _classify(probe, task, drawn, inputs=inputs, classify=classify)
    return answers


def _classify(
    probe: ProbeImages, task: Task, rows: SplitRows, *, inputs: tuple[np.ndarray, np.ndarray], classify: Classify
) -> Names:
    """Names for the tested of `inputs` (fitted, tested); empty ones if there is a reason why not."""
    fitted, tested = inputs
    if rows.reason:
        return np.full(len(tested), "")
    codes, names = encode_classes(probe.faces.labels, task.value)
    return np.array(names)[classify(fitted, codes[rows.fit], tested)]


def _stack_answers(original: Names, drawn: Names, swapped: SwappedFaces) -> Names:
    """Answers (1 + n_cues, n): as they are, and with each cue swapped; empty names where nothing could be drawn."""
    shape = len(swapped.cues), len(swapped.rows)
    return np.concatenate([original[None], drawn.reshape(shape) if len(drawn) else np.full(shape, "")])
