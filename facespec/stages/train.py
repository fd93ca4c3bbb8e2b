"""How is a network trained? From random weights, on the training images of its tasks."""

from __future__ import annotations

from typing import Any

import numpy as np

from facespec.data.batches import make_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes
from facespec.models.networks import adopt_network
from facespec.stages.fitting import FitJob, run_fit
from facespec.stages.heads import choose_decoder
from facespec.stages.network_files import build_initial_network, check_network, identify_user_file, locate_network
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.vocabulary import TASKS, TRAIN, Network
from facespec.training.fit import TaskData, count_epoch_steps


def run(paths: Paths, params: Params, *, network: Network, seed: int, device: str) -> None:
    """Write the checkpoint and history of `network`, replicate `seed`, trained on the training images of its roles.

    Networks of one seed start from the same trunk and take the same number of steps, so that single-task and joint
    networks differ in nothing but their tasks. Networks of a user's own are not trained: their heads are fitted.
    """
    data, classes, image_counts = {}, {}, []
    for task in TASKS:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        rows = np.flatnonzero(faces.labels["split"] == TRAIN)
        image_counts.append(len(rows))
        if task in network.tasks:
            codes, classes[task.value] = encode_classes(faces.labels.iloc[rows], task.value)
            data[task.value] = TaskData(faces, rows, codes)
    preset = make_preset(params.train.preset, faces.height, faces.channels)
    architecture = locate_network(params.network, network, seed)
    check_network(architecture, [preset])
    sizes = {task: len(names) for task, names in classes.items()}
    if params.network.file is None:
        model = build_initial_network(architecture, sizes, channels=faces.channels, seed=seed)
    else:
        model = adopt_network(architecture, sizes, channels=faces.channels)
    recorded: dict[str, Any] = {"network": params.network.model_dump(), "train": params.train.model_dump()}
    recorded |= identify_user_file(params.network)
    steps = count_epoch_steps(image_counts, params.train.batch_size)
    job = FitJob("train", network, seed, params.train, steps, recorded, decoder=choose_decoder(params))
    run_fit(paths, job, model, data, classes=classes, device=device)
