"""What will a study's faces and parameters not allow? Said when the faces are made, not when a later stage fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd

from facespec.analyses.depth import find_balanced_design
from facespec.data.embedded import production
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.data.twins import Twins, count_twins
from facespec.stages.subsets import draw_subset
from facespec.study.errors import StudyError
from facespec.study.params import Decoding, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.vocabulary import ROLES, SESSIONS, TASKS, TEST, TRAIN, Role, Task, View

Report = Callable[[str], None]
REMEDY = "Change params.yaml, or give other faces."


def check_faces(paths: Paths, params: Params, *, roles: Iterable[Role] = ROLES, report: Report) -> None:
    """Tell `report` what later stages will do otherwise with these faces; `StudyError` for all that they would refuse.

    Nothing is said about embedded faces that allow everything. Reads labels and digests, no pictures.
    """
    problems: list[str] = []
    for role in roles:
        faces = FaceSet.open(paths.faces(role), role=role)
        check = _check_probe if role is Role.PROBE else _check_training
        notes = list(check(faces, params, problems))
        if faces.source != production.SOURCE:
            notes = [*map(str, faces.provenance.get("notes", ())), *_count_classes(faces), *notes]
        for note in notes:
            report(f"{role.value} faces ({faces.source}): {note}")
    if problems:
        raise StudyError("\n".join([*problems, REMEDY]))


def _check_training(faces: FaceSet, params: Params, problems: list[str]) -> Iterator[str]:
    """Notes about the faces of a training role; what would fail is added to `problems`."""
    task, labels = Task(faces.role), faces.labels
    head = f"{faces.role} faces ({faces.source})"
    try:
        encode_classes(labels, task.value)
    except StudyError as error:
        problems.append(f"{head}: {error}")
    else:
        try:
            draw_subset(labels, task, params.decoding, generator(params.decoding.seed, "subset", task.value))
        except StudyError as error:
            problems.append(f"{head}, Figure S1A: {error} {_explain_limit(faces, params.decoding)}")
    train, test = (np.flatnonzero(labels["split"] == split) for split in (TRAIN, TEST))
    yield from _describe_twins(count_twins(faces, task.value, fit=train, test=test), task.value)


def _explain_limit(faces: FaceSet, block: Decoding) -> str:
    """Which parameters of Figure S1A these faces allow."""
    task = Task(faces.role)
    tested = faces.labels.loc[faces.labels["split"] == TEST, task.value].value_counts()
    tested = tested.reindex(sorted(set(faces.labels[task.value])), fill_value=0)
    fewest = int(tested.min())
    if task is Task.EXPRESSION:
        return f"decoding.expression_test is {block.expression_test}; these faces allow {fewest}."
    allowed = int((tested > 0).sum())
    enough = int((tested >= max(1, block.identity_test // block.identity_people)).sum())
    return (
        f"decoding.identity_people is {block.identity_people}, decoding.identity_test {block.identity_test}; of "
        f"{len(tested)} people, {enough} have that many test images each and {allowed} have any. These faces allow "
        f"identity_people {len(tested)} with identity_test {fewest * len(tested)}."
    )


def _check_probe(faces: FaceSet, params: Params, problems: list[str]) -> Iterator[str]:
    """Notes about the probe faces; what would fail is added to `problems`."""
    labels, view = faces.labels, params.heatmaps.view
    head = f"{faces.role} faces ({faces.source})"
    fit = test = np.empty(0, np.int64)
    try:
        for task in TASKS:
            encode_classes(labels, task.value)
        fit, test = hold_out(labels, params.split, generator(params.split.seed, "split"))
    except StudyError as error:
        problems.append(f"{head}, held-out images: {error}")
    if view != "all" and not (labels["view"] == view).any():
        problems.append(f"{head}, heatmaps: no image shows the {view} view. heatmaps.view may be all.")
    frontal = np.flatnonzero(labels["view"] == View.STRAIGHT)
    try:
        design = find_balanced_design(labels.iloc[frontal].reset_index(drop=True))
        if design.left_out:
            listed = ", ".join(design.left_out[:3]) + (", ..." if len(design.left_out) > 3 else "")
            yield f"people left out of the analyses by depth, who lack images: {len(design.left_out)} ({listed})"
    except StudyError as error:
        problems.append(f"{head}, analyses by depth, of frontal images: {error}")
    if len(test) and not (np.isin(frontal, test).any() and np.isin(frontal, fit).any()):
        problems.append(f"{head}, analyses by depth: no frontal image is held out, or all are. split.hold_out decides.")
    yield from _describe_sessions(labels)
    for task in TASKS:
        yield from _describe_twins(count_twins(faces, task.value, fit=fit, test=test), task.value)


def _describe_sessions(labels: pd.DataFrame) -> Iterator[str]:
    sessions = set(labels["session"]) - {""}
    if not sessions:
        yield (
            "no sessions: split.hold_out session is not offered, the analysis of variance treats repetitions as "
            "replicates, and nothing is measured across sessions"
        )
    elif not set(SESSIONS) <= sessions:
        listed = ", ".join(sorted(sessions)[:4])
        yield f"sessions {listed}: nothing is measured across sessions, which needs {' and '.join(SESSIONS)}"


def _describe_twins(twins: Twins, label: str) -> Iterator[str]:
    if twins.tested:
        yield f"test images that are training images too, pixel by pixel: {twins.tested:,}"
    if twins.contradictory:
        yield f"groups of identical images with several labels of {label}: {twins.contradictory:,} of {twins.groups:,}"


def _count_classes(faces: FaceSet) -> Iterator[str]:
    """Images per class: of every expression, and the fewest and most of a person."""
    labels = faces.labels
    for task in TASKS if faces.role == Role.PROBE else [Task(faces.role)]:
        counts = pd.crosstab(labels[task.value], labels["split"])
        for split in (name for name in (TRAIN, TEST, "probe") if name in counts):
            of_split = counts[split]
            if task is Task.EXPRESSION:
                yield f"{split} images: " + ", ".join(f"{name} {n:,}" for name, n in of_split.items())
            else:
                yield (
                    f"{split} images of {len(of_split):,} people: {of_split.min():,} to {of_split.max():,} of each, "
                    f"median {of_split.median():g}"
                )
