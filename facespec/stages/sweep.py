"""A sweep of lesions: one network after the other, every layer, both tasks, with controls; resumes where it stopped.

The sweep is cut into jobs, each of one layer and one choice of units. A finished job can be kept, and is then not done
again; its result depends on the network, the layer, the images and the plan, and on no other job.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facespec.analyses.lesions import (
    Objective,
    Search,
    make_lesions,
    make_objective,
    mark_correct_under_lesions,
    rank_units,
    shuffle_objectives,
)
from facespec.responses.lesioned import LesionedNetwork
from facespec.stages.package import package_digest
from facespec.stages.sweep_jobs import LesionJob, Subject, Sweep
from facespec.stages.sweep_tables import JobResult, Result, make_tables
from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.errors import StudyError
from facespec.study.params import Lesions
from facespec.study.seeds import generator

SUFFIX = ".safetensors"  # of the file of a kept job, whose name is 16 hexadecimal digits
JOB_FILE = re.compile(rf"[0-9a-f]{{16}}{re.escape(SUFFIX)}")
PARTIAL_FILE = re.compile(rf"\.{JOB_FILE.pattern}\.[a-z0-9_]+\.partial")  # `atomic_write`, killed while it wrote


def run_sweep(sweep: Sweep, *, workers: int, report: Callable[[], None]) -> dict[str, pd.DataFrame]:
    """The tables of a sweep by name, those of `study.tables_lesions`.

    `workers` jobs of a layer are done at a time, in threads; `report` is called after each. Networks stay on their
    devices. Equal sweeps give equal tables, whatever the number of workers, and whichever jobs were kept.
    """
    code = package_digest()
    finished: list[JobResult] = []
    threads = torch.get_num_threads()  # which a new thread would not take over by itself
    for (subject, layer), jobs in itertools.groupby(sweep.jobs(), key=lambda of: (of[0], of[1].layer)):
        place = LesionedNetwork(subject.network, layer)  # a layer at a time: each has its own copy of folded weights

        def done(job: LesionJob, subject: Subject = subject, place: LesionedNetwork = place) -> JobResult:
            result = _once(sweep, subject, job, place, code=code)
            report()
            return JobResult(subject, job, result)

        last_first = [job for _, job in jobs][::-1]  # the longest, so that no worker waits for another's at the end
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            try:
                finished += list(pool.map(done, last_first))[::-1]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what is running ends, and is kept
                raise
    return make_tables(sweep, finished)


def remove_kept_jobs(directory: Path) -> None:
    """Remove finished jobs, whole or partial, and then `directory`, unless it holds other files or is a link.

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


def _once(sweep: Sweep, subject: Subject, job: LesionJob, place: LesionedNetwork, *, code: str) -> Result:
    """The result of a job; of an earlier run, if one kept it."""
    if sweep.jobs_directory is None:
        return _done(sweep.plan, subject, job, place)
    name = json.dumps([subject.seed, *job])  # layers and tasks bear any name
    path = sweep.jobs_directory / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}{SUFFIX}"
    plan = sweep.plan.model_dump(exclude={"draws"})  # of people, which come after
    device = next(subject.network.parameters()).device.type
    described = json.dumps([subject.digest, name, plan, code, torch.__version__, device])
    begun = hashlib.sha256(described.encode()).hexdigest()
    if (before := _read_result(path, begun)) is not None:
        return before
    result = _done(sweep.plan, subject, job, place)
    _write_result(path, begun, result)
    return result


def _read_result(path: Path, begun: str) -> Result | None:
    """The result of a job that began alike, if it lies at `path`."""
    try:
        description, arrays = read_arrays(path, remedy="")
    except (OSError, StudyError):
        return None  # none, or one that the disk damaged: doing it again costs time, and nothing else
    if description.get("begun") != begun:
        return None
    result: Result = {"units": description["units"], "ranking": [{} for _ in range(description["rankings"])]}
    result |= {"whole": {}, "right": {}}
    for key, array in arrays.items():
        kind, number, name = key.split(" ", 2)
        (result[kind][int(number)] if kind == "ranking" else result[kind])[name] = array
    return result


def _write_result(path: Path, begun: str, result: Result) -> None:
    arrays = {f"ranking {i} {name}": own for i, table in enumerate(result["ranking"]) for name, own in table.items()}
    arrays |= {f"{kind} - {task}": own for kind in ("whole", "right") for task, own in result[kind].items()}
    write_arrays(path, {"begun": begun, "units": result["units"], "rankings": len(result["ranking"])}, arrays)


def _done(plan: Lesions, subject: Subject, job: LesionJob, place: LesionedNetwork) -> Result:
    """Which units are chosen (`ranking`), and which test images are answered `right`, by the `whole` network too."""
    units = place.prepare_batch(subject.test.images(np.arange(1))).units
    ranked = [_ranking(plan, subject, job, place, loss) for loss in _losses(plan, subject, job)]
    orders = [own["unit"] for own in ranked] or _random_orders(plan, subject, job, units)
    silent = [make_lesions(order, plan.fractions) for order in orders]
    if job.condition != "shuffled":
        silent += [make_lesions(order, plan.fractions, keep=True) for order in orders]
    right = mark_correct_under_lesions(place, subject.test, np.concatenate([np.zeros((1, units), dtype=bool), *silent]))
    first = 0 if job.condition == "ranked" else 1  # the whole network is a row of the tables once per task
    return {
        "units": units,
        "ranking": ranked,
        "whole": {task: own[0] for task, own in right.items()},
        "right": {task: own[first:] for task, own in right.items()},
    }


def _losses(plan: Lesions, subject: Subject, job: LesionJob) -> list[Objective]:
    if job.condition == "ranked":
        return [make_objective(subject.train, job.ranked_by)]
    if job.condition == "shuffled":
        stream = generator(plan.seed, "lesions", "classes", subject.seed, job.draw)
        return list(shuffle_objectives(subject.train, stream))
    return []


def _ranking(plan: Lesions, subject: Subject, job: LesionJob, place: LesionedNetwork, loss: Objective) -> Result:
    search = Search(plan.group_p, plan.greedy_p, plan.images, screening=plan.mode == "screening")
    # the same images for both tasks, so that only the question differs
    stream = generator(plan.seed, "lesions", "images", subject.seed, job.layer, job.condition, job.draw)
    table = rank_units(place, subject.train, loss, search=search, generator=stream)
    return {str(name): table[name].to_numpy() for name in table}


def _random_orders(plan: Lesions, subject: Subject, job: LesionJob, units: int) -> list[np.ndarray]:
    stream = generator(plan.seed, "lesions", "random", subject.seed, job.layer)
    return [stream.permutation(units) for _ in range(plan.random)]
