"""Which units of the joint networks does each task need? Every convolution lesioned for both tasks, with controls.

The fine-tuned joint networks answer both questions about the same probe faces, so that nothing but the question differs
between the tasks [O]. Units are ranked on the images that fine-tuning was fitted to, and tested on those held out.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack

import numpy as np

from facespec.analyses.lesions import LabelledImages
from facespec.data.batches import Preset, apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, on_device, pick_device
from facespec.models.layers import list_convolutions
from facespec.stages.network_files import load_network
from facespec.stages.progress import progress_bar
from facespec.stages.sweep import remove_kept_jobs, run_sweep
from facespec.stages.sweep_jobs import Subject, Sweep
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import file_lock, write_table
from facespec.study.vocabulary import TASKS, Network, Role


def run(paths: Paths, params: Params, *, device: str, workers: int) -> None:
    """Write ``Results/{lesion_ranking,lesions,lesion_classes,dissociation,segregation}.csv``.

    Jobs that a killed run has finished are not done again. `workers` are at work at a time on a CPU, one on a GPU.
    """
    faces, where = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), pick_device(device)
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))  # as fine-tuning splits
    with ExitStack() as lent, file_lock(paths.lesions):
        lent.enter_context(deterministic_torch())
        subjects = []
        for seed in params.seeds:
            checkpoint = load_network(paths, "finetune", Network.JOINT, seed)
            lent.enter_context(on_device(checkpoint.network, where, training=False))
            subjects.append(_subject(checkpoint, seed, faces, fit=fit, test=test))
        people = faces.labels["identity"].iloc[test].reset_index(drop=True)
        sweep = Sweep(Network.JOINT.value, faces.source, subjects, people, params.lesions, paths.lesions)
        bar = lent.enter_context(progress_bar())
        shown = bar.add_task("lesions", total=len(sweep.jobs()), numbers="")
        tables = run_sweep(sweep, workers=workers if where.type == "cpu" else 1, report=lambda: bar.advance(shown))
    for name, table in tables.items():
        write_table(paths.table(name), table)
    remove_kept_jobs(paths.lesions)


def _subject(
    checkpoint: checkpoints.Checkpoint, seed: int, faces: FaceSet, *, fit: np.ndarray, test: np.ndarray
) -> Subject:
    network, preset = checkpoint.network, Preset(**checkpoint.preset)
    codes = {task.value: encode_classes(faces.labels, task)[0] for task in TASKS}

    def trials(rows: np.ndarray) -> LabelledImages:
        return LabelledImages(
            lambda positions: apply_preset(faces.images(rows[positions]), preset, None),
            {task: own[rows] for task, own in codes.items()},
        )

    layers = {name: int(name.rsplit("conv", 1)[1]) for name in list_convolutions(network)}
    described = (
        f"{checkpoints.digest_tensors(network.state_dict())}\n{faces.provenance}\n{fit.tolist()}\n{test.tolist()}"
    )
    return Subject(network, seed, layers, trials(fit), trials(test), hashlib.sha256(described.encode()).hexdigest())
