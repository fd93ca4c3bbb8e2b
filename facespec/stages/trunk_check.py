"""Can the networks of a study be built at all? Asked by `init` and `repro`, before anything is computed."""

from __future__ import annotations

from facespec.study.params import Params
from facespec.study.vocabulary import Network


def check_trunk(params: Params) -> list[str]:
    """Raise `StudyError` for a network that `train` would refuse; torch is loaded only where there is doubt.

    Returns a line about each network of a user's own.
    """
    block = params.network
    if block.is_sequential and block.layers is None and block.file is None:
        return []
    from facespec.data.batches import make_preset  # torch takes seconds to load
    from facespec.stages.network_files import check_network, check_user_networks, locate_network

    names = dict.fromkeys([params.train.preset, params.finetune.preset])
    presets = [make_preset(name, params.data.size, params.data.channels) for name in names]
    if block.file is not None:
        return check_user_networks(block, presets, params.seeds)
    check_network(locate_network(block, Network.JOINT, params.seeds[0]), presets)
    return []
