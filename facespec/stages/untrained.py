"""What would a network without any training show? The trunk that training begins with, and fitted linear heads."""

from __future__ import annotations

from typing import Any

from facespec.data.batches import make_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models import checkpoints
from facespec.stages.heads import fit_heads
from facespec.stages.network_files import build_initial_network, identify_user_file, locate_network
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.vocabulary import TASKS, Network, Role
from facespec.training.fit import TaskData


def run(paths: Paths, params: Params, *, seed: int, device: str) -> None:
    """Write the checkpoint of the untrained network of `seed`: a control for what networks learn.

    Its trunk has the random weights with which all networks of the seed begin, and batch norms with the statistics they
    are built with (`network_files.build_initial_network`). They are not estimated from faces: that would be a first
    step of training, and the network would not be the one of `depth`. Its heads, for both tasks, are the decoders of
    `decoding`, fitted to the probe images to which the trained networks are fine-tuned.
    """
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    rows, _ = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    preset = make_preset(params.finetune.preset, faces.height, faces.channels)
    data, classes = {}, {}
    for task in TASKS:
        codes, classes[task.value] = encode_classes(faces.labels, task.value)
        data[task.value] = TaskData(faces, rows, codes[rows])
    sizes = {task: len(names) for task, names in classes.items()}
    architecture = locate_network(params.network, Network.JOINT, seed)
    network = build_initial_network(architecture, sizes, channels=faces.channels, seed=seed).eval()
    fit_heads(network, data, preset=preset, block=params.decoding, device=device)
    recorded: dict[str, Any] = {"network": params.network.model_dump(), "split": params.split.model_dump()}
    recorded["decoding"] = {"penalty": params.decoding.penalty, "iterations": params.decoding.iterations}
    recorded |= identify_user_file(params.network)
    origin = checkpoints.Origin("untrained", Network.UNTRAINED, seed)
    checkpoint = checkpoints.Checkpoint(network, origin, classes, preset, recorded, history=[])
    checkpoints.save_checkpoint(paths.checkpoint(*origin), checkpoint)
