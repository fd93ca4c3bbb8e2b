"""Does a checkpoint file hold the network that its name says? Reading the networks of a study, also untrained."""

from __future__ import annotations

from dataclasses import replace

import torch

from facespec.models.checkpoints import Checkpoint, Origin, load_checkpoint
from facespec.models.networks import build_network
from facespec.study.paths import Paths
from facespec.study.seeds import integer_seed
from facespec.study.vocabulary import Network


def load_network(paths: Paths, stage: str, network: Network | str, seed: int) -> Checkpoint:
    """Read the checkpoint of one network after `stage`, with a valid `preset` (`data.batches.Preset`).

    Raises `StudyError`, naming the file, if it is damaged, belongs to another fit, or has no valid preset.
    """
    origin = Origin(stage, Network(network), seed)
    return load_checkpoint(paths.checkpoint(*origin), expect=origin)


def undo_training(checkpoint: Checkpoint) -> Checkpoint:
    """The same network with the weights that training began with: those of all networks of a seed have one trunk."""
    weights = torch.Generator().manual_seed(integer_seed(checkpoint.origin.seed, "train", "weights"))
    network = checkpoint.network
    untrained = build_network(network.block, network.classes, channels=network.channels, generator=weights)
    return replace(checkpoint, network=untrained.eval())
