"""Copies of a network that share its parameters and nothing else: what `forward` stores in one, no other sees."""

from __future__ import annotations

import copy
from types import FunctionType
from typing import Any

import torch
from torch import nn

# containers that run their only child as it is: type's name -> the child's name
WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


class UncopyableNetwork(Exception):
    """A module of the network holds something that cannot be copied, such as a lock."""


class Unwrapped(nn.Module):
    """A wrapper without its machinery: modules within keep their dotted names."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """What the only child gives."""
        (inner,) = self.children()
        return inner(*arguments, **options)


def copy_network(network: nn.Module) -> nn.Module:
    """Copy all modules and buffers of `network`, in evaluation mode; parameters are shared.

    Networks in `torch.nn.DataParallel` and compiled ones are copied without these wrappers, under the same names of
    layers. Raises `UncopyableNetwork`.
    """
    memo: dict[int, Any] = {id(parameter): parameter for parameter in network.parameters()}
    modules = list(network.modules())
    for module in modules:  # torch copies no tensors with a history, such as those that `forward` has stored
        stored = [*vars(module).values(), *module._buffers.values()]
        memo |= {id(value): value.detach().clone() for value in stored if _has_history(value)}
    try:
        for module in reversed(modules):  # inner wrappers first
            if (child := find_wrapped(module)) is not None:
                memo[id(module)] = Unwrapped(child, copy.deepcopy(module.get_submodule(child), memo))
        return copy.deepcopy(network, memo).eval()
    except Exception as error:  # any error of objects that modules hold
        raise UncopyableNetwork(str(error)) from error


def copy_or_share(network: nn.Module) -> nn.Module:
    """`copy_network`; where that is not possible, a copy of the modules that shares all that they hold."""
    try:
        return copy_network(network)
    except UncopyableNetwork:
        return _copy_shallowly(network).eval()


def shares_state(network: nn.Module) -> bool:
    """Whether copies of `network` share what its `forward` may change: cells of hooks and functions, or all."""
    for module in network.modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        held = [value for value in vars(module).values() if isinstance(value, FunctionType) and value.__closure__]
        if held or any(isinstance(hook, FunctionType) for hook in hooks):
            return True
    try:
        copy_network(network)
    except UncopyableNetwork:
        return True
    return False


def find_wrapped(module: nn.Module) -> str | None:
    """The name of the child that `module` wraps, if it is a wrapper."""
    child = WRAPPERS.get(type(module).__name__, "")
    return child if child in module._modules else None


def _has_history(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.grad_fn is not None


def _copy_shallowly(module: nn.Module) -> nn.Module:
    if (wrapped := find_wrapped(module)) is not None:
        return Unwrapped(wrapped, _copy_shallowly(module.get_submodule(wrapped)))
    children = {name: child and _copy_shallowly(child) for name, child in module._modules.items()}
    module_copy: Any = copy.copy(module)
    module_copy._modules = children
    module_copy._buffers = dict(module._buffers)
    return module_copy
