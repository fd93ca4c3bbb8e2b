"""Which units of the joint networks does each task need? Every convolution lesioned for both tasks, with controls.

The fine-tuned joint networks perform both tasks on the same probe faces, so that only the task differs [O]. Units are
ranked on the images that fine-tuning was fitted to, and tested on those held out.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack

import numpy as np

from facespec.analyses.lesions import LabelledImages
from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models.checkpoints import Checkpoint, digest_tensors
from facespec.models.device import deterministic_torch, on_device, pick_device
from facespec.models.layers import list_convolutions, parse_depth
from facespec.stages.network_files import load_network
from facespec.stages.sweep import Subject, Sweep, remove_saved_jobs, run_sweep
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import file_lock, write_table
from facespec.study.vocabulary import TASKS, Network, Role


def run(paths: Paths, params: Params, *, device: str, workers: int) -> None:
    """Write ``Results/{lesion_ranking,lesions,lesion_classes,dissociation,segregation}.csv``.

    Jobs that a killed run has finished are not repeated. On a CPU, `workers` jobs run at a time; on a GPU, one.
    """
    faces, torch_device = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), pick_device(device)
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))  # as fine-tuning splits
    with ExitStack() as stack, file_lock(paths.lesions):
        stack.enter_context(deterministic_torch())
        subjects = []
        for seed in params.seeds:
            checkpoint = load_network(paths, "finetune", Network.JOINT, seed)
            stack.enter_context(on_device(checkpoint.network, torch_device, training=False))
            subjects.append(_make_subject(checkpoint, seed, faces, fit=fit, test=test))
        people = faces.labels["identity"].iloc[test].reset_index(drop=True)
        sweep = Sweep(Network.JOINT.value, faces.source, subjects, people, params.lesions, paths.lesions)
        tables = run_sweep(sweep, workers=workers)
    for name, table in tables.items():
        write_table(paths.table(name), table)
    remove_saved_jobs(paths.lesions)


def _make_subject(checkpoint: Checkpoint, seed: int, faces: FaceSet, *, fit: np.ndarray, test: np.ndarray) -> Subject:
    network, preset = checkpoint.network, checkpoint.preset
    classes = {task.value: encode_classes(faces.labels, task)[0] for task in TASKS}

    def label(rows: np.ndarray) -> LabelledImages:
        return LabelledImages(
            lambda positions: apply_preset(faces.images(rows[positions]), preset, None),
            {task: codes[rows] for task, codes in classes.items()},
        )

    layers = {name: parse_depth(name) for name in list_convolutions(network)}
    content = f"{digest_tensors(network.state_dict())}\n{faces.provenance}\n{fit.tolist()}\n{test.tolist()}"
    return Subject(network, seed, layers, label(fit), label(test), hashlib.sha256(content.encode()).hexdigest())
