"""What would a network without any training show? The trunk that training begins with, and fitted linear heads."""

from __future__ import annotations

import torch

from facespec.analyses.decoding import fit_linear_head
from facespec.data.batches import make_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.responses.recording import record_penultimate
from facespec.stages.network_files import build_initial_network
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.vocabulary import TASKS, Network, Role

BATCH = 256


def run(paths: Paths, params: Params, *, seed: int, device: str) -> None:
    """Write the checkpoint of the untrained network of `seed`: a control for what networks learn.

    Its trunk has the random weights with which all networks of the seed begin, and batch norms with the statistics they
    are built with (`network_files.build_initial_network`). They are not estimated from faces: that would be a first
    step of training, and the network would not be the one of `depth`. Its heads, for both tasks, are the decoders of
    `decoding`, fitted to the probe images to which the trained networks are fine-tuned.
    """
    faces, block = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), params.decoding
    rows, _ = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    preset = make_preset(params.finetune.preset, faces.height, faces.channels)
    encoded = {task.value: encode_classes(faces.labels, task.value) for task in TASKS}
    classes = {task: names for task, (_, names) in encoded.items()}
    sizes = {task: len(names) for task, names in classes.items()}
    network = build_initial_network(params.network, sizes, channels=faces.channels, seed=seed).eval()
    with deterministic_torch():
        for task, (codes, names) in encoded.items():
            responses = record_penultimate(
                network, faces, rows, task, preset=preset, batch_size=BATCH, device=pick_device(device)
            )
            weight, bias = fit_linear_head(
                responses, codes[rows], classes=len(names), penalty=block.penalty, iterations=block.iterations
            )
            head = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
            network.heads[task].load_state_dict(head)  # in float32
    recorded = {"network": params.network.model_dump(), "split": params.split.model_dump()}
    recorded["decoding"] = {"penalty": block.penalty, "iterations": block.iterations}
    origin = checkpoints.Origin("untrained", Network.UNTRAINED, seed)
    checkpoint = checkpoints.Checkpoint(network, origin, classes, preset, recorded, history=[])
    checkpoints.save_checkpoint(paths.checkpoint(*origin), checkpoint)
