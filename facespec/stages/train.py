"""How is a network trained? From random weights, on the training images of its tasks."""

from __future__ import annotations

from typing import Any

from facespec.data.batches import make_preset
from facespec.models.networks import adopt_network
from facespec.stages.fitting import FitJob, collect_training_faces, run_fit
from facespec.stages.heads import choose_decoder
from facespec.stages.network_files import build_initial_network, check_network, identify_user_file, locate_network
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.vocabulary import Network


def run(paths: Paths, params: Params, *, network: Network, seed: int, device: str) -> None:
    """Write the checkpoint and history of `network`, replicate `seed`, trained on the training images of its roles.

    Networks of one seed start from the same trunk and take the same number of steps, so that single-task and joint
    networks differ in nothing but their tasks. Networks of a user's own are not trained: their heads are fitted.
    """
    training = collect_training_faces(paths, network, batch_size=params.train.batch_size)
    faces = next(iter(training.data.values())).faces
    preset = make_preset(params.train.preset, faces.height, faces.channels)
    architecture = locate_network(params.network, network, seed)
    check_network(architecture, [preset])
    sizes = {task: len(names) for task, names in training.classes.items()}
    if params.network.file is None:
        model = build_initial_network(architecture, sizes, channels=faces.channels, seed=seed)
    else:
        model = adopt_network(architecture, sizes, channels=faces.channels)
    recorded: dict[str, Any] = {"network": params.network.model_dump(), "train": params.train.model_dump()}
    recorded |= identify_user_file(params.network)
    decoder, steps = choose_decoder(params), training.epoch_steps
    job = FitJob("train", network, seed, params.train, steps, recorded, decoder=decoder)
    run_fit(paths, job, model, training.data, classes=training.classes, device=device)
