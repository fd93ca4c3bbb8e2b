"""Which weights does a network of the study have: those of a checkpoint file, and those that training begins with?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from facespec.models.checkpoints import Checkpoint, Origin, load_checkpoint
from facespec.models.layers import find_lesion_layer, list_layers
from facespec.models.networks import FaceNetwork, build_network
from facespec.models.silence import follow_units
from facespec.models.tracing import trace_network
from facespec.study.artefacts import digest_file
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.paths import Paths
from facespec.study.presets import Preset
from facespec.study.seeds import integer_seed
from facespec.study.vocabulary import NETWORKS, TASKS, Network

USER_FILE = "user_file"  # what checkpoints call the digest of the file that makes their networks


def load_network(paths: Paths, stage: str, network: Network | str, seed: int) -> Checkpoint:
    """Read the checkpoint of one network after `stage`, with a valid `preset` (`data.batches.Preset`).

    Raises `StudyError`, naming the file, if it is damaged, belongs to another fit, or has no valid preset.
    """
    origin = Origin(stage, Network(network), seed)
    checkpoint = load_checkpoint(paths.checkpoint(*origin), expect=origin)
    block = checkpoint.network.block
    if checkpoint.params.get(USER_FILE) != identify_user_file(block).get(USER_FILE):
        raise StudyError(
            f"{paths.checkpoint(*origin)}: its weights were made by {block.user_file}, which has changed since. "
            "`facespec repro` makes the checkpoint anew."
        )
    return checkpoint


def locate_network(block: NetworkBlock, network: Network, seed: int) -> NetworkBlock:
    """The architecture `block`; with networks of a user's own, that of the function `network` called with `seed`."""
    if block.is_user:
        return block.model_copy(update={"trunk": f"{block.trunk}({seed})"})
    return block.model_copy(update={"trunk": f"{block.file}:{network.value}({seed})"}) if block.file else block


def identify_user_file(block: NetworkBlock) -> dict[str, str]:
    """The digest of the user's file, as checkpoints record it among their parameters; empty if there is none."""
    return {USER_FILE: digest_file(Path(block.user_file))} if block.user_file else {}


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


def check_user_networks(block: NetworkBlock, presets: Sequence[Preset], seeds: Iterable[int]) -> list[str]:
    """Refuse networks of a user's own that cannot be analysed; a line about each that can."""
    lines = []
    for network in NETWORKS:
        for seed in seeds:
            built = check_network(locate_network(block, network, seed), presets)
        layers = list_layers(built)
        lines.append(
            f"{network.value}: {len(layers)} convolutions, {layers[0].name} to {layers[-1].name}; {built.width} units "
            f"in the last map; images of {built.smallest_image} px or more"
        )
    return lines


def check_network(block: NetworkBlock, presets: Sequence[Preset]) -> FaceNetwork:
    """Refuse a network that cannot be built, or that cannot take the images of `presets`, before it is trained.

    Returns the network, without weights that could be used.

    Raises `StudyError` for an unknown trunk, one that cannot be analysed, images that are too small for it, weights
    that are not its own or cannot be drawn anew, layers that it does not have, and layers whose units cannot be
    lesioned. Only where the user gives weights or a function is memory allocated.
    """
    classes = {task.value: 2 for task in TASKS}
    for preset in presets:
        with torch.device("meta"):
            network = FaceNetwork(block, classes, channels=preset.channels)
        _check_layers(network)
        if preset.size < network.smallest_image:
            raise StudyError(
                f"network.trunk: {block.trunk} takes images of {network.smallest_image} px or more, got {preset.size} "
                "px. Set data.size, or choose another trunk."
            )
    if block.weights is not None or block.is_user:
        build_network(block, classes, channels=presets[0].channels, generator=torch.Generator().manual_seed(0))
    return network


def _check_layers(network: FaceNetwork) -> None:
    """Refuse layers whose lesioned units would be nonzero again; the stage `lesions` would, after all training."""
    layers, refused, reason = list_layers(network), [], ""
    if network.block.is_sequential:
        return
    traced = trace_network(network, layers[0].name)
    for layer in layers:
        try:
            follow_units(traced, find_lesion_layer(network, layer))
        except StudyError as error:
            refused.append(layer)
            reason = reason or str(error)
    if refused:
        kept = [layer.name.removeprefix("trunk.") for layer in layers if layer not in refused]
        names = f"network.layers: [{', '.join([*kept[:2], *(['...'] if len(kept) > 2 else [])])}]" if kept else "none"
        raise StudyError(
            f"network.trunk: units of {len(refused)} of {len(layers)} convolutions of {network.block.trunk} cannot be "
            f"lesioned, first of these: {reason} Name those that can: {names}; or choose another trunk."
        )
