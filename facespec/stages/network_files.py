"""The networks of a study, read from where they lie: what is there must be what belongs there."""

from __future__ import annotations

from facespec.data.batches import Preset
from facespec.models.checkpoints import REMEDY, Checkpoint, Origin, load_checkpoint
from facespec.study.errors import StudyError
from facespec.study.paths import Paths
from facespec.study.vocabulary import Network


def load_network(paths: Paths, stage: str, network: Network | str, seed: int) -> Checkpoint:
    """The checkpoint of one network after `stage`, its `preset` one of `data.batches.Preset`.

    Raises `StudyError`, naming the file, if it is damaged, that of another fit, or says nothing about its images.
    """
    origin = Origin(stage, Network(network), seed)
    checkpoint = load_checkpoint(paths.checkpoint(*origin), expect=origin)
    try:
        Preset(**checkpoint.preset)
    except (StudyError, TypeError) as error:
        raise StudyError(f"{paths.checkpoint(*origin)}: {str(error).rstrip('.')}. {REMEDY}") from None
    return checkpoint
