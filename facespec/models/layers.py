"""Which layers does a network have? Modules by dotted name, and convolutions in depth order."""

from __future__ import annotations

import re

from torch import nn

from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError, suggest_spelling


def list_convolutions(network: nn.Module) -> list[str]:
    """Dotted names of all 2-D convolutions of a network, in depth order.

    Parameters
    ----------
    network : Module
        Any module; of a `FaceNetwork`, branches of equal depth come in the order of its tasks.

    Returns
    -------
    list of str
        The shallowest first; for other networks than `FaceNetwork`, in the order in which they were registered.

    Examples
    --------
    >>> list_convolutions(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)))
    ['0', '2']
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return sorted(names, key=parse_depth) if isinstance(network, FaceNetwork) else names  # stable: tasks keep order


def parse_depth(name: str) -> int:
    """The depth of a layer of a `FaceNetwork`, the number at the end of its name.

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
    excluded = nn.Sequential if isinstance(network, FaceNetwork) and not sections else ()
    layers = {
        key: module
        for key, module in network.named_modules(remove_duplicate=False)
        if key and type(module).forward is not nn.Module.forward and not isinstance(module, excluded)
    }
    if name not in layers:
        raise StudyError(f"this network has no layer {name!r}: {suggest_spelling(name, layers)}")
    return layers[name]


def find_rectifier(network: FaceNetwork, name: str) -> str:
    """The name of the ReLU behind the convolution `name`: its output is the response of the convolution's units."""
    convolutions = list_convolutions(network)
    if name not in convolutions:
        raise StudyError(f"this network has no convolution {name!r}: {suggest_spelling(name, convolutions)}")
    return f"{name.rpartition('.')[0]}.relu{parse_depth(name)}"


def find_last_convolution(network: FaceNetwork, task: str) -> str:
    """The name of the ReLU behind the last convolution before the head of `task`: the deepest layer with a map."""
    if task not in network.tasks:
        raise StudyError(f"this network does not know task {task!r}: {suggest_spelling(task, network.tasks)}")
    names = [name for name in list_convolutions(network) if name.startswith(("trunk.", f"branches.{task}."))]
    return find_rectifier(network, names[-1])
