"""What happens to the units of a layer in a forward pass? The network traced by torch.fx into a graph of nodes.

A *node* is one step of the forward pass: a call of a module, a function or a tensor's method. The *unit steps* of a
layer are the node that calls it and, directly behind, its norm and its rectifier, if there are any: the result of the
last one is the response of the layer's units.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from facespec.models.layers import get_layer
from facespec.models.trunks import Dropout, FixedGrid, GlobalAverage
from facespec.study.errors import StudyError

# compared by exact type: a subclass may do more
NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm
RECTIFIERS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, GlobalAverage, FixedGrid)
IDENTITIES = nn.Identity, nn.Dropout, nn.Dropout2d, Dropout  # in evaluation mode
RECTIFIER_FUNCTIONS: tuple[Any, ...] = (  # and methods of tensors, by name
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    functional.relu,
    functional.relu6,
    functional.leaky_relu,
    functional.elu,
    functional.gelu,
    functional.silu,
    functional.mish,
    functional.hardswish,
    functional.softplus,
    "relu",
    "tanh",
    "sigmoid",
)
POSITIVE_RECTIFIERS = nn.Softplus, nn.Sigmoid  # give more than 0 for 0
POSITIVE_FUNCTIONS = torch.sigmoid, functional.softplus, "sigmoid"
OTHER_NORMS = nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm3d
NORM_FUNCTIONS = functional.batch_norm, functional.group_norm, functional.instance_norm, functional.layer_norm


class UntraceableNetwork(StudyError):
    """torch.fx cannot follow the network's `forward`."""


class _ImagesOnly(nn.Module):
    """`network` as a function of images; its other arguments have their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images)


class _Tracer(fx.Tracer):
    """Every module without submodules is one node: its code may branch on shapes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)


def find_lesion_module(network: nn.Module, layer: str) -> str:
    """The name of the module whose output must be set to 0 to lesion units of `layer`.

    It is the last of the layer's unit steps that is a module called once. Later unit steps, functions or modules called
    elsewhere too, must give 0 for 0; otherwise raises `StudyError`, as lesioned units would be nonzero behind them.
    Also raises what `graph.cut_network` raises.
    """
    traced = trace_network(network, layer)
    *earlier, node = follow_unit_steps(traced, find_call(traced, layer))
    while node.op != "call_module" or count_calls(traced, node) > 1:
        rectifies = is_step(traced, node, RECTIFIERS, RECTIFIER_FUNCTIONS)
        if not rectifies or is_step(traced, node, POSITIVE_RECTIFIERS, POSITIVE_FUNCTIONS):
            raise StudyError(
                f"units of layer {layer!r} cannot be lesioned: {node.target!r} behind it is called more than once and "
                "does not give 0 for 0. Give each layer a module of its own."
            )
        *earlier, node = earlier
    return str(node.target)


def trace_network(network: nn.Module, layer: str) -> fx.GraphModule:
    """The graph of `network` in evaluation mode; its modules are copies that share the network's weights."""
    get_layer(network, layer, sections=True)  # raises StudyError for an unknown layer
    modes = {module: module.training for module in network.modules()}
    try:
        graph = _Tracer().trace(_ImagesOnly(network.eval()))
    except StudyError:
        raise
    except Exception as error:  # any error of the network's own code, which expects a tensor
        raise UntraceableNetwork(
            f"{type(network).__name__} cannot be traced by torch.fx: {error}. Its forward must not branch on values; "
            "see torch.fx's documentation on limitations of symbolic tracing."
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = str(node.target).removeprefix("network.")
    traced = fx.GraphModule(network, graph)
    for target in {str(node.target) for node in graph.nodes if node.op == "call_module"}:
        module_copy: Any = _copy_module(target, traced.get_submodule(target))
        if type(module_copy) in NORMS and module_copy.running_mean is None:
            raise StudyError(
                f"batch norm {target!r} has no running statistics: its output for an image depends on the batch. Only "
                "networks that process each image by itself can be cut."
            )
        traced.set_submodule(target, module_copy)
    return traced


def _copy_module(name: str, module: nn.Module) -> nn.Module:
    """A copy of the module called `name` in evaluation mode that shares its weights; `module` keeps its mode."""
    try:
        module_copy = copy.copy(module)
    except RuntimeError as error:  # parametrized modules compute their weights, and refuse to be copied
        raise UntraceableNetwork(
            f"module {name!r} is parametrized and cannot be copied. Fix its weights first: "
            "torch.nn.utils.parametrize.remove_parametrizations."
        ) from error
    children = module._modules.items()
    module_copy._modules = {key: child and _copy_module(f"{name}.{key}", child) for key, child in children}
    module_copy.training = False
    return module_copy


def find_call(traced: fx.GraphModule, layer: str) -> fx.Node:
    """The node that calls `layer`; `StudyError` unless there is exactly one, on which the output depends."""
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) != 1:
        raise StudyError(
            f"layer {layer!r} is called {len(calls)} times in a forward pass; units can be lesioned in a layer that is "
            "called once. Name one, such as the convolution or the norm before it."
        )
    if not any(node.op == "output" for node in list_descendants(calls[0], list(traced.graph.nodes))):
        raise StudyError(f"no output of the network depends on layer {layer!r}: its lesions would change nothing.")
    return calls[0]


def follow_unit_steps(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """`node` and, directly behind it, its norm and its rectifier, if there are any."""
    steps = [node]
    for kinds, functions in ((NORMS, ()), (RECTIFIERS, RECTIFIER_FUNCTIONS)):
        (follower, *others) = [*steps[-1].users, None]
        if follower is not None and others == [None] and is_step(traced, follower, kinds, functions):
            steps.append(follower)
    _refuse_later_norm(traced, steps)
    return steps


def _refuse_later_norm(traced: fx.GraphModule, steps: list[fx.Node]) -> None:
    """Raise if a norm that is not among the unit `steps` comes before any rectifier: it may give nonzero for 0."""
    node = steps[-1]
    while not is_step(traced, node, RECTIFIERS, RECTIFIER_FUNCTIONS) and len(node.users) == 1:
        (node,) = node.users
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        named_norm = "Norm" in type(module).__name__  # as in torchvision's FrozenBatchNorm2d
        if named_norm or isinstance(module, (*NORMS, *OTHER_NORMS)) or node.target in NORM_FUNCTIONS:
            raise StudyError(
                f"lesioned units of layer {steps[0].target!r} would be nonzero behind {node.target!r}. Name that norm, "
                "or the rectifier behind it, as the layer."
            )
        if not is_step(traced, node, (*POOLS, *IDENTITIES), ()):
            return


def list_descendants(node: fx.Node, nodes: list[fx.Node]) -> set[fx.Node]:
    """Those of `nodes`, given in the order in which they run, that depend on `node`."""
    descendants: set[fx.Node] = set()
    for candidate in nodes:
        if any(source is node or source in descendants for source in candidate.all_input_nodes):
            descendants.add(candidate)
    return descendants


def is_step(traced: fx.GraphModule, node: fx.Node, kinds: tuple[type, ...], functions: tuple[Any, ...]) -> bool:
    """Whether `node` calls a module of these `kinds`, or one of these `functions` or, by name, methods of tensors."""
    return is_call(traced, node, kinds) or (node.op in ("call_function", "call_method") and node.target in functions)


def is_call(traced: fx.GraphModule, node: fx.Node, kinds: tuple[type, ...]) -> bool:
    """Whether `node` calls a module of exactly one of these `kinds`."""
    return node.op == "call_module" and type(traced.get_submodule(str(node.target))) in kinds


def count_calls(traced: fx.GraphModule, node: fx.Node) -> int:
    """How many nodes call the module that `node` calls."""
    return sum(other.op == "call_module" and other.target == node.target for other in traced.graph.nodes)
