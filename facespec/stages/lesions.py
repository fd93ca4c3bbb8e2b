"""Which units of the joint networks does each task need? Every convolution lesioned for both tasks, with controls.

The fine-tuned joint networks perform both tasks on the same probe faces, so that only the task differs [O]. Units are
ranked on the images that fine-tuning was fitted to, and tested on those held out. As a control, the trunk before any
training, under linear readouts of both tasks, is lesioned in the same way, if the study has one: what dissociates there
is no achievement of training. For the sake of time, this is the first seed's alone, without shuffled classes and with
as many draws of random units as the joint networks have mixtures of classes [O].
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pandas as pd

from facespec.analyses.lesions import LabelledImages
from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models.checkpoints import Checkpoint, digest_tensors
from facespec.models.device import deterministic_torch, on_device, pick_device
from facespec.models.layers import find_lesion_layer, list_layers
from facespec.stages.network_files import load_network
from facespec.stages.sweep import CONDITIONS, Subject, Sweep, remove_saved_jobs, run_sweep
from facespec.study.params import Lesions, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import file_lock, write_table
from facespec.study.tables import UNTRAINED
from facespec.study.vocabulary import TASKS, Network, Role


def run(paths: Paths, params: Params, *, device: str, workers: int) -> None:
    """Write ``Results/{lesion_ranking,lesions,lesion_classes,damage_curves,dissociation,segregation}.csv``.

    Jobs that a killed run has finished are not repeated. On a CPU, `workers` jobs run at a time; on a GPU, one.
    """
    faces, torch_device = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), pick_device(device)
    split = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))  # as fine-tuning splits
    people = faces.labels["identity"].iloc[split[1]].reset_index(drop=True)
    tables: dict[str, list[pd.DataFrame]] = {}
    with file_lock(paths.lesions), deterministic_torch():
        for trained_on, plan, conditions in _plan_sweeps(paths, params):
            with ExitStack() as stack:
                subjects = []
                for seed in params.seeds if trained_on != UNTRAINED else params.seeds[:1]:
                    checkpoint = _load_network(paths, trained_on, seed)
                    stack.enter_context(on_device(checkpoint.network, torch_device, training=False))
                    subjects.append(_make_subject(checkpoint, seed, faces, fit=split[0], test=split[1]))
                sweep = Sweep(trained_on, faces.source, subjects, people, plan, paths.lesions, conditions)
                for name, table in run_sweep(sweep, workers=workers).items():
                    tables.setdefault(name, []).append(table)
    for name, parts in tables.items():
        write_table(paths.table(name), pd.concat(parts, ignore_index=True))
    remove_saved_jobs(paths.lesions)


def _plan_sweeps(paths: Paths, params: Params) -> Iterator[tuple[str, Lesions, Sequence[str]]]:
    """What is lesioned: value of `trained_on`, plan, and ways of choosing units."""
    plan = params.lesions
    yield Network.JOINT.value, plan, CONDITIONS
    if paths.checkpoint(UNTRAINED, Network.UNTRAINED, params.seeds[0]).exists():
        fewer = plan.model_copy(update={"random": min(plan.random, 2 * plan.shuffled)})
        yield UNTRAINED, fewer, [condition for condition in CONDITIONS if condition != "shuffled"]


def _load_network(paths: Paths, trained_on: str, seed: int) -> Checkpoint:
    return load_network(paths, UNTRAINED if trained_on == UNTRAINED else "finetune", trained_on, seed)


def _make_subject(checkpoint: Checkpoint, seed: int, faces: FaceSet, *, fit: np.ndarray, test: np.ndarray) -> Subject:
    network, preset = checkpoint.network, checkpoint.preset
    classes = {task.value: encode_classes(faces.labels, task)[0] for task in TASKS}

    def label(rows: np.ndarray) -> LabelledImages:
        return LabelledImages(
            lambda positions: apply_preset(faces.images(rows[positions]), preset, None),
            {task: codes[rows] for task, codes in classes.items()},
        )

    layers = {find_lesion_layer(network, layer): layer.depth for layer in list_layers(network)}
    content = f"{digest_tensors(network.state_dict())}\n{faces.provenance}\n{fit.tolist()}\n{test.tolist()}"
    return Subject(network, seed, layers, label(fit), label(test), hashlib.sha256(content.encode()).hexdigest())
