"""Layers by name, in depth order."""

from __future__ import annotations

import re

from torch import nn

from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError, did_you_mean


def convolutions(network: FaceNetwork) -> list[str]:
    """Dotted names of all convolutions, the shallowest first; branches of equal depth in the order of the tasks."""
    named = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return sorted(named, key=_depth)  # stable: tasks keep their order


def layer(network: FaceNetwork, name: str) -> nn.Module:
    """The module called `name`; `StudyError` with the nearest name for one that is not there."""
    modules = {known: module for known, module in network.named_modules() if _is_layer(module)}
    if name not in modules:
        raise StudyError(f"this network has no layer {name!r}: {did_you_mean(name, modules)}")
    return modules[name]


def rectified(network: FaceNetwork, name: str) -> str:
    """The name of the ReLU behind the convolution `name`: where its units' responses are read and silenced."""
    known = convolutions(network)
    if name not in known:
        raise StudyError(f"this network has no convolution {name!r}: {did_you_mean(name, known)}")
    section, number = name.rsplit("conv", 1)
    return f"{section}relu{number}"


def last_map(network: FaceNetwork, task: str) -> str:
    """The last layer on the way to the head of `task` that still has a map: the ReLU behind the last convolution."""
    if task not in network.tasks:
        raise StudyError(f"this network does not know task {task!r}: {did_you_mean(task, network.tasks)}")
    own = [name for name in convolutions(network) if name.startswith(("trunk.", f"branches.{task}."))]
    return rectified(network, own[-1])


def _is_layer(module: nn.Module) -> bool:
    return not isinstance(module, FaceNetwork | nn.Sequential | nn.ModuleDict)


def _depth(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])
