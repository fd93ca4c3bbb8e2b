"""Which weights does a network of the study have: those of a checkpoint file, and those that training begins with?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from facespec.models.checkpoints import Checkpoint, Origin, load_checkpoint
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.params import NetworkBlock
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
    network, seed = checkpoint.network, checkpoint.origin.seed
    fresh = build_initial_network(network.block, network.classes, channels=network.channels, seed=seed)
    return replace(checkpoint, network=fresh.eval())


def build_initial_network(block: NetworkBlock, classes: Mapping[str, int], *, channels: int, seed: int) -> FaceNetwork:
    """The network with which training begins: of one `seed`, all have the same trunk, whatever their `classes`.

    Batch norms are as built: running mean 0 and variance 1, scale 1 and shift 0. In evaluation mode they pass responses
    on unchanged (but for epsilon in the root, 1e-5): what the network shows is due to its random convolutions alone.
    """
    weights = torch.Generator().manual_seed(integer_seed(seed, "train", "weights"))
    return build_network(block, classes, channels=channels, generator=weights)
