"""What a sweep of lesions consists of: networks, layers, choices of units; and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from torch import nn

from facespec.analyses.lesions import LabelledImages
from facespec.study.errors import StudyError
from facespec.study.params import Lesions


class LesionJob(NamedTuple):
    """One choice of units of a layer. `ranked_by`: the task; empty where units of both tasks are chosen, or any.

    Chosen units are silenced; but "ranked" and "random" ones are also kept, all others being silenced.
    """

    layer: str
    condition: str
    draw: int = 0
    ranked_by: str = ""


class Lesion(NamedTuple):
    """What one row of a job's lesions is."""

    condition: str
    draw: int
    ranked_by: str
    fraction: float


@dataclass(frozen=True, eq=False)
class Subject:
    """One network and the images it is lesioned with. `layers`: name -> depth; `digest`: of weights and images."""

    network: nn.Module
    seed: int
    layers: Mapping[str, int]
    train: LabelledImages
    test: LabelledImages
    digest: str


@dataclass(frozen=True, eq=False)
class Sweep:
    """Networks of the same layers and two tasks, tested on the same images; `group` (n,): whom each shows."""

    trained_on: str
    source: str
    subjects: Sequence[Subject]
    group: pd.Series
    plan: Lesions
    jobs_directory: Path | None = None  # where results of finished jobs go

    def __post_init__(self) -> None:
        """Refuse networks that cannot be compared."""
        everyone = [trials for subject in self.subjects for trials in (subject.train, subject.test)]
        tasks, layers = {own.tasks for own in everyone}, {tuple(subject.layers.items()) for subject in self.subjects}
        if len(tasks) != 1 or len(layers) != 1:
            raise StudyError(
                f"networks of one sweep share tasks and layers; got tasks {sorted(tasks)} and layers {sorted(layers)}."
            )
        seeds = [subject.seed for subject in self.subjects]
        if len(set(seeds)) != len(seeds):
            raise StudyError(f"networks of one sweep are told apart by their seeds; got {seeds}.")
        sizes = {len(self.group), *(len(subject.test) for subject in self.subjects)}
        if len(sizes) != 1:
            raise StudyError(
                f"networks of one sweep are tested on the same images of known people, got {sorted(sizes)}."
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The two tasks."""
        return self.subjects[0].test.tasks

    def jobs(self) -> list[tuple[Subject, LesionJob]]:
        """All of them, those of a layer together; of these the longest last."""
        return [
            (subject, job)
            for subject in self.subjects
            for layer in subject.layers
            for job in (
                *(LesionJob(layer, "ranked", 0, task) for task in subject.test.tasks),
                *(LesionJob(layer, "shuffled", draw) for draw in range(self.plan.shuffled)),
                LesionJob(layer, "random"),
            )
        ]


def list_lesions(sweep: Sweep, job: LesionJob) -> list[Lesion]:
    """What each of the lesions of `job` is, in the order of its result."""
    fractions = sweep.plan.fractions
    if job.condition == "ranked":
        whole = [Lesion("ranked", 0, job.ranked_by, fraction) for fraction in (0.0, *fractions)]
        return whole + [Lesion("keep", 0, job.ranked_by, fraction) for fraction in fractions]
    if job.condition == "shuffled":
        tasks = sweep.tasks
        return [Lesion("shuffled", job.draw, task, fraction) for task in tasks for fraction in fractions]
    return [
        Lesion(condition, draw, "", fraction)
        for condition in ("random", "keep")
        for draw in range(sweep.plan.random)
        for fraction in fractions
    ]
