"""Train one network on the faces of its tasks."""

from __future__ import annotations

import numpy as np

from facespec.data.batches import preset_for
from facespec.data.faceset import FaceSet
from facespec.data.splits import class_codes
from facespec.models import networks
from facespec.models.checkpoints import Checkpoint
from facespec.stages.fitting import fitted
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import integer_seed
from facespec.study.vocabulary import TRAIN, Network
from facespec.training.fit import TaskData


def run(paths: Paths, params: Params, *, network: Network, seed: int, device: str) -> None:
    """Write the checkpoint and history of `network`, replicate `seed`, trained on the training images of its roles."""
    data, classes = {}, {}
    for task in network.tasks:
        faces = FaceSet.open(paths.faces(task.value))
        indices = np.flatnonzero(faces.labels["split"] == TRAIN)
        codes, classes[task.value] = class_codes(faces.labels.iloc[indices], task.value)
        data[task.value] = TaskData(faces, indices, codes)
