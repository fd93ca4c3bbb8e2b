"""What happens to the units of a layer in a forward pass? The network traced by torch.fx into a graph of nodes.

A *node* is one step of the forward pass: a call of a module, a function or a tensor's method. The *unit steps* of a
layer are the node that calls it and, directly behind, its norm and its rectifier, if there are any: the result of the
last one is the response of the layer's units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from facespec.models.copies import copy_or_share
from facespec.models.layers import get_layer
from facespec.models.torchvision_trunks import ACTIVATIONS, StepTracer
from facespec.models.trunks import Dropout, FixedGrid, GlobalAverage
from facespec.study.errors import StudyError

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
# compared by exact type: a subclass may do more
NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm
RECTIFIERS = (*ACTIVATIONS, nn.Hardsigmoid, nn.Hardtanh, nn.LogSigmoid, nn.Softsign, nn.CELU, nn.PReLU)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, GlobalAverage, FixedGrid)
IDENTITIES = nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, Dropout  # in evaluation mode
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
    functional.hardsigmoid,
    functional.hardtanh,
    functional.logsigmoid,
    functional.softsign,
    functional.celu,
    "relu",
    "tanh",
    "sigmoid",
)
WAKING_RECTIFIERS = nn.Softplus, nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid  # give another value than 0 for 0
WAKING_FUNCTIONS = torch.sigmoid, functional.softplus, functional.hardsigmoid, functional.logsigmoid, "sigmoid"
OTHER_NORMS = nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm3d
NORM_FUNCTIONS = functional.batch_norm, functional.group_norm, functional.instance_norm, functional.layer_norm


class UncutLayer(StudyError):
    """The network cannot be cut behind this layer; whole forward passes with lesions can be run."""


class UntraceableNetwork(UncutLayer):
    """torch.fx cannot follow the network's `forward`."""


class _ImagesOnly(nn.Module):
    """`network` as a function of images; its other arguments have their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images)


def trace_network(network: nn.Module, layer: str) -> fx.GraphModule:
    """The graph of `network` in evaluation mode; its modules are copies that share the network's parameters."""
    get_layer(network, layer, sections=True)  # raises StudyError for an unknown layer
    inner = copy_or_share(network)
    images_only, tracer = _ImagesOnly(inner), StepTracer()
    try:
        with torch.no_grad():
            graph = tracer.trace(images_only)
    except StudyError:
        raise
    except Exception as error:  # any error of the network's own code, which expects a tensor
        raise UntraceableNetwork(
            f"{type(network).__name__} cannot be traced by torch.fx: {error}. Its forward must not branch on values; "
            "see torch.fx's documentation on limitations of symbolic tracing."
        ) from error
    _name_within(graph, images_only)
    traced = fx.GraphModule(inner, graph)
    for node in graph.nodes:
        norm: Any = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(norm) in NORMS and norm.running_mean is None:
            raise StudyError(
                f"batch norm {node.target!r} has no running statistics: its output for an image depends on the batch. "
                "Only networks that process each image by itself can be cut."
            )
    return traced


def _name_within(graph: fx.Graph, images_only: _ImagesOnly) -> None:
    """Make the names in `graph` those within the network; constants that torch.fx has stored become part of it."""
    network = images_only.network
    for node in graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        path = str(node.target)
        if path.startswith("network."):
            node.target = path.removeprefix("network.")
            continue
        value = getattr(images_only, path)
        while hasattr(network, path):  # of a network that is a traced one
            path += "_"
        if isinstance(value, torch.Tensor):
            network.register_buffer(path, value.detach())
        else:
            setattr(network, path, value)
        node.target = path


def find_call(traced: fx.GraphModule, layer: str) -> fx.Node:
    """The node that calls `layer`; `StudyError` unless there is exactly one, on which the output depends."""
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) != 1:
        raise UncutLayer(
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
    return steps


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
