"""A sweep of lesions: in every layer of every network, units chosen for either task, by shuffled classes, or at random.

The sweep consists of jobs, each about one layer and one way of choosing units. Results of finished jobs can be saved,
and are read back when a killed sweep is started again. A result depends on the network, the layer, the images and the
plan, and on no other job.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from facespec.analyses.lesion_classes import measure_class_spread, tabulate_recalls
from facespec.analyses.lesions import (
    ORDER_KEYS,
    UNKNOWN,
    LabelledImages,
    Search,
    count_units,
    design_curves,
    design_lesions,
    make_objective,
    mark_correct_under_lesions,
    plan_late_points,
    rank_units,
    shuffle_objectives,
)
from facespec.analyses.resampling import average_people
from facespec.analyses.segregation import (
    LesionAccuracies,
    LesionSite,
    arrange_accuracies,
    arrange_curves,
    compute_people_chance,
    tabulate_dissociation,
    tabulate_drops,
    tabulate_segregation,
)
from facespec.responses.hooked import Lesioned, lesion_network
from facespec.stages.progress import progress_bar
from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.errors import StudyError
from facespec.study.fingerprints import identify_computation
from facespec.study.params import Lesions
from facespec.study.seeds import generator
from facespec.study.tables_lesions import (
    DAMAGE_CURVES,
    DISSOCIATION,
    LESION_CLASSES,
    LESION_RANKING,
    LESIONS,
    SEGREGATION,
)

SUFFIX = ".safetensors"  # of the file of a finished job, whose name is 16 hexadecimal digits
JOB_FILE = re.compile(rf"[0-9a-f]{{16}}{re.escape(SUFFIX)}")
CONDITIONS = ("ranked", "shuffled", "random")  # ways of choosing units
PARTIAL_FILE = re.compile(rf"\.{JOB_FILE.pattern}\.[a-z0-9_]+\.partial")  # `atomic_write`, killed while it wrote


class LesionJob(NamedTuple):
    """One way of choosing units of a layer.

    `condition` is "ranked" (units ranked for the task `ranked_by`), "shuffled" (units ranked by each of two mixtures of
    classes, the `draw`-th such pair) or "random" (all draws of random units).
    """

    layer: str
    condition: str
    draw: int = 0
    ranked_by: str = ""


@dataclass(frozen=True, eq=False)
class Subject:
    """One network and its images. `layers`: dotted name -> depth; `digest`: of weights and images."""

    network: nn.Module
    seed: int
    layers: Mapping[str, int]
    train: LabelledImages
    test: LabelledImages
    digest: str


@dataclass(frozen=True, eq=False)
class Sweep:
    """Networks with the same layers and two tasks; they are tested on images of the same people.

    `group` (n,): whom each test image shows. `jobs_directory`: directory for the results of finished jobs, or None.
    `conditions`: which of `CONDITIONS`, always "ranked" among them.
    Raises `StudyError` for networks that cannot be compared.
    """

    trained_on: str
    source: str
    subjects: Sequence[Subject]
    group: pd.Series
    plan: Lesions
    jobs_directory: Path | None = None
    conditions: Sequence[str] = CONDITIONS

    def __post_init__(self) -> None:
        tasks = {images.tasks for subject in self.subjects for images in (subject.train, subject.test)}
        layers = {tuple(subject.layers.items()) for subject in self.subjects}
        if len(tasks) != 1 or len(layers) != 1:
            raise StudyError(
                f"networks of one sweep share tasks and layers; got tasks {sorted(tasks)} and layers {sorted(layers)}."
            )
        seeds = [subject.seed for subject in self.subjects]
        if len(set(seeds)) != len(seeds):
            raise StudyError(f"networks of one sweep need different seeds; got {seeds}.")
        sizes = {len(self.group), *(len(subject.test) for subject in self.subjects)}
        if len(sizes) != 1:
            raise StudyError(
                f"networks of one sweep are tested on the same images of known people, got {sorted(sizes)}."
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The two tasks."""
        return self.subjects[0].test.tasks

    def list_jobs(self) -> list[tuple[Subject, LesionJob]]:
        """All jobs, grouped by network and layer."""
        choices = [("ranked", 0, task) for task in self.tasks]
        choices += [("shuffled", draw, "") for draw in range(self.plan.shuffled)] + [("random", 0, "")]
        choices = [choice for choice in choices if choice[0] in self.conditions]
        return [
            (subject, LesionJob(layer, *choice))
            for subject in self.subjects
            for layer in subject.layers
            for choice in choices
        ]


class JobTables(NamedTuple):
    """The rows of one job in LESION_RANKING, LESIONS, LESION_CLASSES and DAMAGE_CURVES; None where it has none.

    `people` (rows of `lesions`, people) and `curve_people` (rows of `curves`, people): accuracy of a person's images.
    """

    ranking: pd.DataFrame | None
    lesions: pd.DataFrame
    classes: pd.DataFrame | None
    people: np.ndarray
    curves: pd.DataFrame
    curve_people: np.ndarray


def run_sweep(sweep: Sweep, *, workers: int) -> dict[str, pd.DataFrame]:
    """Tables of a sweep by name: lesion_ranking, lesions, lesion_classes, damage_curves, dissociation and segregation.

    `workers` jobs of a layer run at a time, in threads, each with modules of its own; on a GPU, one, and where modules
    cannot be copied. Networks stay on their devices. The number of workers, and which jobs had been saved, do not
    influence the tables.
    """
    code, jobs = identify_computation("lesions"), sweep.list_jobs()
    tables: list[JobTables] = []
    threads = torch.get_num_threads()  # new threads do not inherit this setting
    with progress_bar() as bar:
        advance = partial(bar.advance, bar.add_task("lesions", total=len(jobs), numbers=""))
        for (subject, layer), layer_jobs in itertools.groupby(jobs, key=lambda pair: (pair[0], pair[1].layer)):
            # a layer at a time: each copies the folded weights
            lesioned = lesion_network(subject.network, layer, subject.test.images(np.arange(1)))
            on_cpu = next(subject.network.parameters()).device.type == "cpu"
            copied = lesioned.can_be_copied

            def run(
                job: LesionJob,
                subject: Subject = subject,
                lesioned: Lesioned = lesioned,
                copied: bool = copied,
            ) -> JobTables:
                # a copy for each job: modules may store tensors on themselves, which no other job may see
                result = _run_job(sweep, subject, job, lesioned.copy() if copied else lesioned, code=code)
                advance()
                return result

            # random units take longest and come last in the list: started first, no worker waits for them at the end
            reverse = [job for _, job in layer_jobs][::-1]
            at_once = workers if on_cpu and copied else 1
            pool = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(threads,))
            with pool:
                try:
                    tables += list(pool.map(run, reverse))[::-1]
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)  # running jobs end, and are saved
                    raise
    return _make_tables(sweep, tables)


def _make_tables(sweep: Sweep, jobs: Sequence[JobTables]) -> dict[str, pd.DataFrame]:
    dissociation, segregation = [], []
    for layer, depth in sweep.subjects[0].layers.items():
        site = LesionSite(sweep.trained_on, sweep.source, layer, depth)
        in_layer = [job for job in jobs if job.lesions["layer"].iloc[0] == layer]
        for condition, people in _arrange_people(sweep, in_layer):
            # equal generators: the same people are drawn for all layers, amounts and conditions
            draw_people = partial(generator, sweep.plan.seed, "lesions", "people")
            common: dict[str, Any] = {"resamples": sweep.plan.draws}
            if condition == "ranked":
                dissociation.append(tabulate_dissociation(people, site, **common, generator=draw_people()))
            segregation.append(
                tabulate_segregation(people, site, **common, condition=condition, generator=draw_people())
            )
    return {
        "lesion_ranking": LESION_RANKING.check(pd.concat([job.ranking for job in jobs], ignore_index=True)),
        "lesions": LESIONS.check(pd.concat([job.lesions for job in jobs], ignore_index=True)),
        "lesion_classes": LESION_CLASSES.check(pd.concat([job.classes for job in jobs], ignore_index=True)),
        "damage_curves": DAMAGE_CURVES.check(pd.concat([job.curves for job in jobs], ignore_index=True)),
        "dissociation": DISSOCIATION.check(pd.concat(dissociation, ignore_index=True)),
        "segregation": SEGREGATION.check(pd.concat(segregation, ignore_index=True)),
    }


def _arrange_people(sweep: Sweep, jobs: Sequence[JobTables]) -> Iterator[tuple[str, LesionAccuracies]]:
    """Conditions and accuracies of people in the jobs of one layer: at every fraction, then at every damage."""
    lesions, accuracies = pd.concat([job.lesions for job in jobs]), np.concatenate([job.people for job in jobs])
    curves, points = pd.concat([job.curves for job in jobs]), np.concatenate([job.curve_people for job in jobs])
    chance = []
    for labels in sweep.subjects[0].test.classes.values():
        known = labels != UNKNOWN
        chance.append(compute_people_chance(labels[known], sweep.group[known].reset_index(drop=True)))
    seeds = [subject.seed for subject in sweep.subjects]
    common: dict[str, Any] = {"chance": np.array(chance), "tasks": sweep.tasks, "seeds": seeds}
    for fraction, condition in itertools.product(sweep.plan.fractions, sweep.conditions):
        fixed = arrange_accuracies(lesions, accuracies, condition=condition, fraction=fraction, **common)
        yield condition, fixed
    for damage, condition in itertools.product(sweep.plan.damages, sweep.conditions):
        yield condition, arrange_curves(curves, points, fixed, condition=condition, damage=damage)


class LesionTests(NamedTuple):
    """Lesions of one job, and which test images are classified correctly under them.

    `lesions` as `design_lesions` makes it, the whole network first, and `correct` (2 tasks, its rows, images); `curves`
    as `design_curves` makes it, and `curve_correct` (2 tasks, its rows, images).
    """

    lesions: pd.DataFrame
    correct: np.ndarray
    curves: pd.DataFrame
    curve_correct: np.ndarray


def _run_job(sweep: Sweep, subject: Subject, job: LesionJob, lesioned: Lesioned, *, code: str) -> JobTables:
    """Order the units, lesion the first of each order, test; or read the saved result of an earlier run."""
    path, fingerprint = _identify_job(sweep, subject, job, code=code)
    arrays = _read_job(path, fingerprint) if path else {}
    columns = {name: array for name, array in arrays.items() if name != "correct"}
    orders = pd.DataFrame(columns) if arrays else _order_units(sweep.plan, subject, job, lesioned)
    if job.condition == "random":
        labels = pd.DataFrame({"draw": range(sweep.plan.random), "ranked_by": ""})
    else:
        labels = pd.DataFrame({"draw": job.draw, "ranked_by": [job.ranked_by] if job.ranked_by else sweep.tasks})
    ranking = orders.join(labels, on="order").assign(condition=job.condition)
    parts: list[np.ndarray] = []

    def test_lesions(masks: np.ndarray) -> np.ndarray:
        if arrays:
            start = sum(part.shape[1] for part in parts)
            parts.append(arrays["correct"][:, start : start + len(masks)])
        else:
            parts.append(mark_correct_under_lesions(lesioned, subject.test, masks))
        return parts[-1]

    tests = _test_orders(sweep.plan, subject.test, ranking, test_lesions)
    if path and not arrays:
        columns = {str(name): orders[name].to_numpy() for name in orders}
        write_arrays(path, {"fingerprint": fingerprint}, columns | {"correct": np.concatenate(parts, axis=1)})
    return _tabulate_job(sweep, subject, job, ranking=ranking.drop(columns="order"), tests=tests)


def _test_orders(
    plan: Lesions, test: LabelledImages, ranking: pd.DataFrame, test_lesions: Callable[[np.ndarray], np.ndarray]
) -> LesionTests:
    """Test both tasks at every fraction, after every greedy round, without all units, and where curves need more."""
    units = ranking["unit"].max() + 1
    fixed = {count_units(fraction, units) for fraction in plan.fractions} | {units}
    greedy = set() if (ranking["condition"] == "random").all() else set(make_search(plan).count_greedy(units))
    lesions, masks = design_lesions(ranking, plan.fractions)
    keys = ranking[ORDER_KEYS].drop_duplicates().itertuples(index=False, name=None)
    early, early_masks = design_curves(ranking, dict.fromkeys(keys, sorted((fixed | greedy) - {0})))
    correct = test_lesions(np.concatenate([masks, early_masks]))
    correct, early_correct = correct[:, : len(masks)], correct[:, len(masks) :]
    drops = early.assign(drop=_measure_target_drops(test, early, correct[:, 0], early_correct))
    steps = sorted({count_units(share, units) for share in plan.steps} - {0})
    enough = (1 + max(plan.damages)) / 2  # beyond the damage, so that most bootstrap draws of people reach it, too
    late, late_masks = design_curves(ranking, plan_late_points(drops, steps, enough=enough))
    late_correct = test_lesions(late_masks)
    curves, curve_correct = pd.concat([early, late], ignore_index=True), [early_correct, late_correct]
    return LesionTests(lesions, correct, curves, np.concatenate(curve_correct, axis=1))


def _measure_target_drops(
    test: LabelledImages, curves: pd.DataFrame, whole: np.ndarray, correct: np.ndarray
) -> np.ndarray:
    """The drop of the task that units were chosen for, (rows of `curves`,); random draws are used in pairs."""
    drops = []
    for (task, classes), intact, answers in zip(test.classes.items(), whole, correct, strict=True):
        known = classes != UNKNOWN
        drops.append(tabulate_drops(intact[known], answers[:, known], classes[known], tested_on=task)["drop"])
    is_second = np.where(curves["ranked_by"] == "", curves["draw"] % 2 == 1, curves["ranked_by"] == test.tasks[1])
    return np.where(is_second, drops[1], drops[0])


def make_search(plan: Lesions) -> Search:
    """How a plan ranks units."""
    return Search(plan.group_p, plan.greedy_p, plan.images, screening=plan.mode == "screening")


def _order_units(plan: Lesions, subject: Subject, job: LesionJob, lesioned: Lesioned) -> pd.DataFrame:
    """Orders in which units are lesioned: `order` (number), `unit`; columns of `rank_units` unless units are random."""
    open_generator: Callable[..., np.random.Generator] = partial(generator, plan.seed, "lesions")
    if job.condition == "random":
        units = lesioned.prepare_batch(subject.test.images(np.arange(1))).units
        draw = open_generator("random", subject.seed, job.layer)
        orders = [pd.DataFrame({"unit": draw.permutation(units)}) for _ in range(plan.random)]
    else:
        if job.condition == "ranked":
            objectives = [make_objective(subject.train, job.ranked_by)]
        else:
            objectives = [*shuffle_objectives(subject.train, open_generator("classes", subject.seed, job.draw))]
        search = make_search(plan)
        # equal generators: the same images for both tasks, so that only the task differs
        draw_images = partial(open_generator, "images", subject.seed, job.layer, job.condition, job.draw)
        orders = [
            rank_units(lesioned, subject.train, objective, search=search, generator=draw_images())
            for objective in objectives
        ]
    return pd.concat([table.assign(order=number) for number, table in enumerate(orders)], ignore_index=True)


def _tabulate_job(
    sweep: Sweep, subject: Subject, job: LesionJob, *, ranking: pd.DataFrame, tests: LesionTests
) -> JobTables:
    site: dict[str, Any] = {"trained_on": sweep.trained_on, "source": sweep.source, "seed": subject.seed}
    site |= {"layer": job.layer, "depth": subject.layers[job.layer]}
    first = 0 if job.condition == "ranked" else 1  # the tables have one row per task for the whole network
    rows, whole = tests.lesions[first:].reset_index(drop=True), tests.correct[:, 0]
    spread, recalls = [], []
    for (task, classes), answers in zip(subject.test.classes.items(), tests.correct[:, first:], strict=True):
        known = classes != UNKNOWN
        spread.append(measure_class_spread(answers[:, known], classes[known]))
        if len(ranked := rows.loc[rows["condition"] == "ranked", ["ranked_by", "fraction"]]):
            recall = tabulate_recalls(answers[ranked.index][:, known], classes[known]).join(ranked, on="lesion")
            recalls.append(recall.drop(columns="lesion").assign(tested_on=task, **site))
    procedure = "greedy" if sweep.plan.greedy_p else "one-pass"
    lesions, people = _tabulate_accuracies(sweep, subject, rows, tests.correct[:, first:], whole=whole)
    curves, curve_people = _tabulate_accuracies(sweep, subject, tests.curves, tests.curve_correct, whole=whole)
    return JobTables(
        None if job.condition == "random" else ranking.assign(mode=sweep.plan.mode, procedure=procedure, **site),
        lesions.assign(between_classes=np.concatenate(spread), **site),
        pd.concat(recalls) if recalls else None,
        people,
        curves.assign(**site),
        curve_people,
    )


def _tabulate_accuracies(
    sweep: Sweep, subject: Subject, rows: pd.DataFrame, correct: np.ndarray, *, whole: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray]:
    """`rows` (lesions) for each task, with their drops; and accuracies of people, (rows, people).

    `correct` (2 tasks, lesions, images) and `whole` (2 tasks, images) say which images are classified correctly.
    """
    tables, people = [], []
    for (task, classes), intact, answers in zip(subject.test.classes.items(), whole, correct, strict=True):
        known = classes != UNKNOWN
        table = tabulate_drops(intact[known], answers[:, known], classes[known], tested_on=task)
        tables.append(rows.join(table))
        people.append(average_people(np.where(known, answers, np.nan).T, sweep.group).T)
    return pd.concat(tables), np.concatenate(people)


def _identify_job(sweep: Sweep, subject: Subject, job: LesionJob, *, code: str) -> tuple[Path | None, str]:
    """The file of a job's result, and a fingerprint of all that the result depends on."""
    if sweep.jobs_directory is None:
        return None, ""
    name = json.dumps([sweep.trained_on, subject.seed, *job])  # layers and tasks have any names
    plan = sweep.plan.model_dump(exclude={"draws"})  # of people, for the final tables
    device = next(subject.network.parameters()).device.type
    described = json.dumps([subject.digest, name, plan, code, torch.__version__, device])
    path = sweep.jobs_directory / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}{SUFFIX}"
    return path, hashlib.sha256(described.encode()).hexdigest()


def _read_job(path: Path, fingerprint: str) -> dict[str, np.ndarray]:
    """The saved result of a job with that fingerprint; empty if there is none."""
    try:
        description, arrays = read_arrays(path, remedy="")
    except (OSError, StudyError):
        return {}  # none, or damaged: the job runs again
    return arrays if description.get("fingerprint") == fingerprint else {}


def remove_saved_jobs(directory: Path) -> None:
    """Remove files of jobs, whole or partial, and then `directory`, unless it holds other files or is a link.

    A directory that does not exist is no error.
    """
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        named = JOB_FILE.fullmatch(path.name) or PARTIAL_FILE.fullmatch(path.name)
        if named and (path.is_file() or path.is_symlink()):
            path.unlink()
    if not directory.is_symlink() and not any(directory.iterdir()):
        directory.rmdir()
