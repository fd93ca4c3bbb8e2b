"""How is a network trained? From random weights, on the training images of its tasks."""

from __future__ import annotations

import numpy as np

from facespec.data.batches import make_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes
from facespec.stages.fitting import FitJob, run_fit
from facespec.stages.network_files import build_initial_network, check_network
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.vocabulary import TASKS, TRAIN, Network
from facespec.training.fit import TaskData, count_epoch_steps


def run(paths: Paths, params: Params, *, network: Network, seed: int, device: str) -> None:
    """Write the checkpoint and history of `network`, replicate `seed`, trained on the training images of its roles.

    Networks of one seed start from the same trunk and take the same number of steps, so that single-task and joint
    networks differ in nothing but their tasks.
    """
    data, classes, image_counts = {}, {}, []
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        rows = np.flatnonzero(faces.labels["split"] == TRAIN)
        image_counts.append(len(rows))
        if task in network.tasks:
            codes, classes[task.value] = encode_classes(faces.labels.iloc[rows], task.value)
            data[task.value] = TaskData(faces, rows, codes)
    check_network(params.network, [make_preset(params.train.preset, faces.height, faces.channels)])
    sizes = {task: len(names) for task, names in classes.items()}
    model = build_initial_network(params.network, sizes, channels=faces.channels, seed=seed)
    recorded = {"network": params.network.model_dump(), "train": params.train.model_dump()}
    steps = count_epoch_steps(image_counts, params.train.batch_size)
    job = FitJob("train", network, seed, params.train, steps, recorded_params=recorded)
    run_fit(paths, job, model, data, classes=classes, device=device)
