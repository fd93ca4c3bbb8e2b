"""The tables of a sweep of lesions, from the results of its jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.lesion_classes import measure_class_spread, tabulate_recalls
from facespec.analyses.lesions import UNKNOWN, count_units
from facespec.analyses.resampling import average_people
from facespec.analyses.segregation import (
    LesionSite,
    PeopleAccuracies,
    compute_relative_drop,
    explain_no_drop,
    tabulate_dissociation,
    tabulate_segregation,
)
from facespec.stages.sweep_jobs import Lesion, LesionJob, Subject, Sweep, list_lesions
from facespec.study.seeds import generator
from facespec.study.tables_lesions import DISSOCIATION, LESION_CLASSES, LESION_RANKING, LESIONS, SEGREGATION

Result = dict[str, Any]


@dataclass(frozen=True, eq=False)
class JobResult:
    """A job and its `result`: ``ranking``, columns of a ranking for every choice of units, and ``right``."""

    subject: Subject
    job: LesionJob
    result: Result

    def place(self, sweep: Sweep) -> dict[str, Any]:
        """The columns that say where the lesions are."""
        depth = self.subject.layers[self.job.layer]
        return {
            "trained_on": sweep.trained_on,
            "source": sweep.source,
            "seed": self.subject.seed,
            "layer": self.job.layer,
            "depth": depth,
        }


def make_tables(sweep: Sweep, finished: Sequence[JobResult]) -> dict[str, pd.DataFrame]:
    """LESION_RANKING, LESIONS, LESION_CLASSES, DISSOCIATION and SEGREGATION of all jobs, by name."""
    rankings = [table for own in finished for table in _rankings(sweep, own)]
    tested = [_tested(sweep, own) for own in finished]
    classes = [table for own in finished if own.job.condition == "ranked" for table in _classes(sweep, own)]
    alone, overall = [], []
    for layer, depth in sweep.subjects[0].layers.items():
        place = LesionSite(sweep.trained_on, sweep.source, layer, depth)
        people = _People(sweep, [own for own in finished if own.job.layer == layer])
        for fraction in sweep.plan.fractions:
            # equal streams: the same people are drawn for all layers, fractions and conditions
            common: dict[str, Any] = {"fraction": fraction, "resamples": sweep.plan.draws}
            alone.append(
                tabulate_dissociation(
                    people.tested("ranked", fraction), place, **common, generator=_people_stream(sweep)
                )
            )
            for condition in ("ranked", "shuffled", "random"):
                overall.append(
                    tabulate_segregation(
                        people.tested(condition, fraction),
                        place,
                        condition=condition,
                        **common,
                        generator=_people_stream(sweep),
                    )
                )
    return {
        "lesion_ranking": LESION_RANKING.check(pd.concat(rankings, ignore_index=True)),
        "lesions": LESIONS.check(pd.concat(tested, ignore_index=True)),
        "lesion_classes": LESION_CLASSES.check(pd.concat(classes, ignore_index=True)),
        "dissociation": DISSOCIATION.check(pd.concat(alone, ignore_index=True)),
        "segregation": SEGREGATION.check(pd.concat(overall, ignore_index=True)),
    }


def _people_stream(sweep: Sweep) -> np.random.Generator:
    return generator(sweep.plan.seed, "lesions", "people")


def _rankings(sweep: Sweep, own: JobResult) -> Iterator[pd.DataFrame]:
    """A table per choice of units; random units are not ranked."""
    procedure = "greedy" if sweep.plan.greedy_p else "one-pass"
    for task, table in zip(_chosen_for(sweep, own.job), own.result["ranking"], strict=True):
        yield pd.DataFrame(table).assign(
            **own.place(sweep),
            mode=sweep.plan.mode,
            procedure=procedure,
            condition=own.job.condition,
            draw=own.job.draw,
            ranked_by=task,
        )


def _chosen_for(sweep: Sweep, job: LesionJob) -> tuple[str, ...]:
    if job.condition == "random":
        return ()
    return (job.ranked_by,) if job.ranked_by else sweep.tasks


def _tested(sweep: Sweep, own: JobResult) -> pd.DataFrame:
    """The LESIONS rows of one job."""
    rows = []
    units = own.result["units"]
    for task, classes in own.subject.test.classes.items():
        known = classes != UNKNOWN
        right = own.result["right"][task][:, known]
        whole, chance = own.result["whole"][task][known].mean(), _chance(classes)
        told = zip(
            list_lesions(sweep, own.job), right.mean(axis=1), measure_class_spread(right, classes[known]), strict=True
        )
        for lesion, number, between in told:
            silenced = count_units(lesion.fraction, units)
            rows.append(
                {
                    **own.place(sweep),
                    **lesion._asdict(),
                    "units": units,
                    "silenced": units - silenced if lesion.condition == "keep" else silenced,
                    "tested_on": task,
                    "n": int(known.sum()),
                    "chance": chance,
                    "accuracy": number,
                    "drop": float(compute_relative_drop(whole, number, chance)),
                    "reason": str(explain_no_drop(whole, chance, task)),
                    "between_classes": between,
                }
            )
    return pd.DataFrame(rows)


def _classes(sweep: Sweep, own: JobResult) -> Iterator[pd.DataFrame]:
    """The LESION_CLASSES rows of one job, a table per tested task."""
    silenced = [
        (row, lesion) for row, lesion in enumerate(list_lesions(sweep, own.job)) if lesion.condition == "ranked"
    ]
    rows, lesions = zip(*silenced, strict=True)
    fractions = np.array([lesion.fraction for lesion in lesions])
    for task, classes in own.subject.test.classes.items():
        known = classes != UNKNOWN
        table = tabulate_recalls(own.result["right"][task][list(rows)][:, known], classes[known])
        fraction = fractions[table.pop("lesion")]
        yield table.assign(**own.place(sweep), ranked_by=own.job.ranked_by, fraction=fraction, tested_on=task)


def _chance(classes: np.ndarray) -> float:
    """What an answer that is always the same reaches at best: one over the classes, where all are as frequent."""
    _, images = np.unique(classes[classes != UNKNOWN], return_counts=True)
    return float(images.max() / images.sum())


def _people_chance(classes: np.ndarray, people: pd.Series) -> float:
    """The same where people count alike: the mean over them of their share of the class that is best to say."""
    known = classes != UNKNOWN
    said = classes[known][:, None] == np.unique(classes[known])  # right, image by image, if always this class is said
    return float(average_people(said.astype(np.float64), people[known].reset_index(drop=True)).mean(axis=0).max())


@dataclass(frozen=True, eq=False)
class _People:
    """Accuracies of people under the lesions of one layer."""

    sweep: Sweep
    finished: Sequence[JobResult]

    def tested(self, condition: str, fraction: float) -> PeopleAccuracies:
        """Whole and lesioned at one fraction; random units serve as both choices, two draws at a time."""
        sweep = self.sweep
        seeds = tuple(subject.seed for subject in sweep.subjects)
        if condition == "random":
            pairs = [[(2 * pair, ""), (2 * pair + 1, "")] for pair in range(sweep.plan.random // 2)]
        else:
            draws = sweep.plan.shuffled if condition == "shuffled" else 1
            pairs = [[(draw, task) for task in sweep.tasks] for draw in range(draws)]
        lesioned = [
            [[self._accuracies[seed, Lesion(condition, draw, task, fraction)] for draw, task in pair] for pair in pairs]
            for seed in seeds
        ]
        whole = [self._accuracies[seed, Lesion("ranked", 0, sweep.tasks[0], 0.0)] for seed in seeds]
        test = sweep.subjects[0].test
        chance = np.array([_people_chance(classes, sweep.group) for classes in test.classes.values()])
        first, second = sweep.tasks
        return PeopleAccuracies(np.array(whole), np.array(lesioned), chance, (first, second), seeds)

    @cached_property
    def _accuracies(self) -> dict[tuple[int, Lesion], npt.NDArray[np.float64]]:
        """Seed and lesion -> (2 tasks, people)."""
        found = {}
        for own in self.finished:
            by_task = []
            for task, classes in own.subject.test.classes.items():
                right = np.where(classes == UNKNOWN, np.nan, own.result["right"][task])  # (lesions, n)
                by_task.append(average_people(right.T, self.sweep.group))  # (people, lesions)
            for lesion, accuracy in zip(
                list_lesions(self.sweep, own.job), np.stack(by_task).transpose(2, 0, 1), strict=True
            ):
                found[own.subject.seed, lesion] = accuracy
        return found
