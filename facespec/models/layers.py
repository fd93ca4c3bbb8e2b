"""Which layers does a network have? Modules by dotted name, and convolutions in depth order."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import fx, nn

from facespec.models.networks import FaceNetwork
from facespec.models.torchvision_trunks import MAPS, ChannelNorm, list_responses
from facespec.study.errors import StudyError, suggest_spelling


class UnitLayer(NamedTuple):
    """A convolution whose units are analysed: dotted name, module that gives its response, and depth from 1."""

    name: str
    response: str
    depth: int


def list_layers(network: FaceNetwork) -> list[UnitLayer]:
    """The convolutions that the study analyses: all, or those of its parameter `network.layers`, in depth order.

    Their depths count all convolutions, named or not. Raises `StudyError` for a name that no convolution has.

    Examples
    --------
    >>> import torch
    >>> from facespec.models.networks import build_network
    >>> from facespec.study.params import NetworkBlock
    >>> block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after=None, layers=["conv2"])
    >>> network = build_network(block, {"identity": 5}, channels=1, generator=torch.Generator().manual_seed(1))
    >>> list_layers(network)
    [UnitLayer(name='trunk.conv2', response='trunk.relu2', depth=2)]
    """
    if isinstance(network.trunk, fx.GraphModule):
        responses = list_responses(network.trunk).items()
        layers = [UnitLayer(f"trunk.{name}", f"trunk.{last}", i) for i, (name, last) in enumerate(responses, start=1)]
    else:
        names = list_convolutions(network)
        layers = [UnitLayer(name, find_rectifier(network, name), parse_depth(name)) for name in names]
    wanted = network.block.layers
    if wanted is None:
        return layers
    known = dict.fromkeys(_drop_section(layer.name) for layer in layers)
    for name in wanted:
        if name not in known:
            raise StudyError(
                f"network.layers: {network.block.trunk} has no convolution {name!r}: {suggest_spelling(name, known)}"
            )
    return [layer for layer in layers if _drop_section(layer.name) in wanted]


def find_lesion_layer(network: FaceNetwork, layer: UnitLayer) -> str:
    """The layer by whose name units of `layer` are lesioned: the convolution, unless a `ChannelNorm` follows it.

    That makes another number of a lesioned unit's 0, so that units must be lesioned behind it.
    """
    behind = isinstance(network.get_submodule(layer.response), ChannelNorm)
    return layer.response if behind else layer.name


def _drop_section(name: str) -> str:
    """The name of a layer within its trunk or branch."""
    return re.sub(r"^(trunk|branches\.[^.]+)\.", "", name)


def list_convolutions(network: nn.Module) -> list[str]:
    """Dotted names of all 2-D convolutions of a network, in depth order.

    Parameters
    ----------
    network : Module
        Any module; of a `FaceNetwork`, branches of equal depth come in the order of its tasks.

    Returns
    -------
    list of str
        The shallowest first: in the order in which they run. For other networks than `FaceNetwork`, in the order in
        which they were registered. The gates of squeeze-and-excitation blocks are left out: they have no maps.

    Examples
    --------
    >>> list_convolutions(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)))
    ['0', '2']
    """
    if isinstance(network, FaceNetwork) and isinstance(network.trunk, fx.GraphModule):
        return [f"trunk.{name}" for name in list_responses(network.trunk)]
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return sorted(names, key=parse_depth) if isinstance(network, FaceNetwork) else names  # stable: tasks keep order


def parse_depth(name: str) -> int:
    """The depth of a layer of one of the study's own trunks, the number at the end of its name.

    Raises `StudyError` for a name without one.

    >>> parse_depth("branches.identity.conv3")
    3
    """
    number = re.search(r"\d+$", name)
    if number is None:
        raise StudyError(f"layer {name!r} has no depth: its name does not end in a number, such as 'trunk.conv3'.")
    return int(number[0])


def get_layer(network: nn.Module, name: str, *, sections: bool = False) -> nn.Module:
    """The module with the dotted `name`; raises `StudyError`, with the nearest name, if there is none.

    Modules without a `forward`, such as lists and dicts of modules, are no layers. The trunk and the branches of a
    `FaceNetwork` are layers only with `sections`.
    """
    excluded = (nn.Sequential, fx.GraphModule) if isinstance(network, FaceNetwork) and not sections else ()
    layers = {
        key: module
        for key, module in network.named_modules(remove_duplicate=False)
        if key and type(module).forward is not nn.Module.forward and not isinstance(module, excluded)
    }
    if name not in layers:
        raise StudyError(f"this network has no layer {name!r}: {suggest_spelling(name, layers)}")
    return layers[name]


def find_rectifier(network: FaceNetwork, name: str) -> str:
    """The name of the ReLU behind the convolution `name`: its output is the response of the convolution's units.

    Of a torchvision model, the module that gives the response may be another (`torchvision_trunks.list_responses`).
    """
    convolutions = list_convolutions(network)
    if name not in convolutions:
        raise StudyError(f"this network has no convolution {name!r}: {suggest_spelling(name, convolutions)}")
    if isinstance(network.trunk, fx.GraphModule):
        return f"trunk.{list_responses(network.trunk)[name.removeprefix('trunk.')]}"
    return f"{name.rpartition('.')[0]}.relu{parse_depth(name)}"


def find_last_convolution(network: FaceNetwork, task: str) -> str:
    """The name of the ReLU behind the last convolution before the head of `task`: the deepest layer with a map.

    Of a torchvision model, the map whose average the head reads: in residual networks, that behind the last sum.
    """
    if task not in network.tasks:
        raise StudyError(f"this network does not know task {task!r}: {suggest_spelling(task, network.tasks)}")
    if isinstance(network.trunk, fx.GraphModule):
        return f"trunk.{MAPS}"
    names = [name for name in list_convolutions(network) if name.startswith(("trunk.", f"branches.{task}."))]
    return find_rectifier(network, names[-1])
