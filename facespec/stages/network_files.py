"""Does a checkpoint file hold the network that its name says? Reading the networks of a study."""

from __future__ import annotations

from facespec.models.checkpoints import Checkpoint, Origin, load_checkpoint
from facespec.study.paths import Paths
from facespec.study.vocabulary import Network


def load_network(paths: Paths, stage: str, network: Network | str, seed: int) -> Checkpoint:
    """Read the checkpoint of one network after `stage`, with a valid `preset` (`data.batches.Preset`).

    Raises `StudyError`, naming the file, if it is damaged, belongs to another fit, or has no valid preset.
    """
    origin = Origin(stage, Network(network), seed)
    return load_checkpoint(paths.checkpoint(*origin), expect=origin)
