"""Can the networks of a study be built at all? Asked by `init` and `repro`, before anything is computed."""

from __future__ import annotations

from facespec.study.params import Params


def check_trunk(params: Params) -> None:
    """Raise `StudyError` for a network that `train` would refuse; torch is loaded only where there is doubt."""
    if params.network.is_sequential and params.network.layers is None:
        return
    from facespec.data.batches import make_preset  # torch takes seconds to load
    from facespec.stages.network_files import check_network

    names = dict.fromkeys([params.train.preset, params.finetune.preset])
    check_network(params.network, [make_preset(name, params.data.size, params.data.channels) for name in names])
