"""Layers by name, in depth order."""

from __future__ import annotations

import re

from torch import nn

from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError, suggest_spelling


def list_convolutions(network: FaceNetwork) -> list[str]:
    """Dotted names of all convolutions, the shallowest first; branches of equal depth in the order of the tasks."""
    named = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return sorted(named, key=_depth)  # stable: tasks keep their order


def get_layer(network: FaceNetwork, name: str) -> nn.Module:
    """The module called `name`; `StudyError` with the nearest name for one that is not there."""
    modules = {known: module for known, module in network.named_modules() if _is_layer(module)}
    if name not in modules:
        raise StudyError(f"this network has no layer {name!r}: {suggest_spelling(name, modules)}")
    return modules[name]


def find_rectifier(network: FaceNetwork, name: str) -> str:
    """The name of the ReLU behind the convolution `name`: where its units' responses are read and silenced."""
    known = list_convolutions(network)
    if name not in known:
        raise StudyError(f"this network has no convolution {name!r}: {suggest_spelling(name, known)}")
    section, number = name.rsplit("conv", 1)
    return f"{section}relu{number}"


def find_last_convolution(network: FaceNetwork, task: str) -> str:
    """The last layer on the way to the head of `task` that still has a map: the ReLU behind the last convolution."""
    if task not in network.tasks:
        raise StudyError(f"this network does not know task {task!r}: {suggest_spelling(task, network.tasks)}")
    own = [name for name in list_convolutions(network) if name.startswith(("trunk.", f"branches.{task}."))]
    return find_rectifier(network, own[-1])


def _is_layer(module: nn.Module) -> bool:
    return not isinstance(module, FaceNetwork | nn.Sequential | nn.ModuleDict)


def _depth(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])
