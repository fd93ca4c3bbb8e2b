"""How is a trained network fine-tuned? On the probe images that are not held out, for the tasks it has heads for."""

from __future__ import annotations

from typing import Any

import torch

from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models.networks import replace_heads
from facespec.stages.fitting import FitJob, run_fit
from facespec.stages.heads import choose_decoder
from facespec.stages.network_files import identify_user_file, load_network
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator, integer_seed
from facespec.study.vocabulary import Network, Role
from facespec.training.fit import TaskData, count_epoch_steps


def run(paths: Paths, params: Params, *, network: Network, seed: int, device: str) -> None:
    """Write the checkpoint and history of `network`, replicate `seed`, fitted to the probe tasks of its heads.

    The heads are new (other people than in training); all other layers start from the trained weights. Networks of a
    user's own keep theirs: only their heads are fitted.
    """
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    rows, _ = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    data, classes = {}, {}
    for task in network.tasks:
        codes, classes[task.value] = encode_classes(faces.labels, task.value)
        data[task.value] = TaskData(faces, rows, codes[rows])
    trained = load_network(paths, "train", network, seed).network
    weights = torch.Generator().manual_seed(integer_seed(seed, "finetune", "heads"))
    model = replace_heads(trained, {task: len(names) for task, names in classes.items()}, generator=weights)
    recorded: dict[str, Any] = {"split": params.split.model_dump(), "finetune": params.finetune.model_dump()}
    recorded |= identify_user_file(trained.block)
    steps = count_epoch_steps([len(rows)], params.finetune.batch_size)  # both tasks are learned from the same images
    job = FitJob("finetune", network, seed, params.finetune, steps, recorded, decoder=choose_decoder(params))
    run_fit(paths, job, model, data, classes=classes, device=device)
