"""A network's steps as a graph (torch.fx), and where in it the units of a layer answer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from facespec.models.trunks import Dropout, FixedGrid, GlobalAverage
from facespec.study.errors import StudyError, suggest_spelling

NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm  # these very classes: a subclass may do more
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
KEEPS = nn.Identity, nn.Dropout, nn.Dropout2d, Dropout
AWAKE = nn.Softplus, nn.Sigmoid, torch.sigmoid, functional.softplus, "sigmoid"  # rectifiers that give more than 0 for 0
RECTIFYING: tuple[Any, ...] = (  # functions, and methods of tensors by name
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
OTHER_NORMS = nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm3d
NORMING = functional.batch_norm, functional.group_norm, functional.instance_norm, functional.layer_norm


class Untraceable(StudyError):
    """torch.fx cannot follow the network's `forward`."""


class _Alone(nn.Module):
    """`network` of images alone: other arguments keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images)


class _Tracer(fx.Tracer):
    """Modules without modules inside are steps, whoever wrote them: their code may ask for shapes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)


def find_lesion_module(network: nn.Module, layer: str) -> str:
    """The module whose responses must be 0 where units of `layer` are silent: rectifier or norm behind it, or itself.

    The last of them that is a module called once. What is a function, or called elsewhere too, may follow it only if it
    gives 0 for 0; else `StudyError`, as silent units would wake there. Otherwise raises what `cut` raises.
    """
    traced = trace_network(network, layer)
    *chain, node = follow_unit_steps(traced, find_call(traced, layer))
    while node.op != "call_module" or count_calls(traced, node) > 1:
        if not is_step(traced, node, RECTIFIERS, RECTIFYING) or is_step(traced, node, AWAKE[:2], AWAKE[2:]):
            raise StudyError(
                f"units of layer {layer!r} cannot be silenced: {node.target!r} behind it is called more than once and "
                "does not give 0 for 0. Give each layer a module of its own."
            )
        *chain, node = chain
    return str(node.target)


def trace_network(network: nn.Module, layer: str) -> fx.GraphModule:
    """The steps of `network` in evaluation mode, with modules of its own that share the network's weights."""
    modules = dict(network.named_modules())
    if layer not in modules or not layer:
        raise StudyError(f"this network has no layer {layer!r}: {suggest_spelling(layer, filter(None, modules))}")
    training = {module: module.training for module in network.modules()}
    try:
        graph = _Tracer().trace(_Alone(network.eval()))
    except StudyError:
        raise
    except Exception as error:  # whatever the network's own code does with what is not a tensor
        raise Untraceable(
            f"{type(network).__name__} cannot be traced by torch.fx: {error}. Its forward must not branch on values; "
            "see torch.fx's documentation on limitations of symbolic tracing."
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = str(node.target).removeprefix("network.")
    traced = fx.GraphModule(network, graph)
    for target in {str(node.target) for node in graph.nodes if node.op == "call_module"}:
        twin: Any = _twin(target, traced.get_submodule(target))
        if type(twin) in NORMS and twin.running_mean is None:
            raise StudyError(
                f"batch norm {target!r} has no running statistics: its answer to an image depends on the batch. Only "
                "networks that see each image alone can be cut."
            )
        traced.set_submodule(target, twin)
    return traced


def _twin(name: str, module: nn.Module) -> nn.Module:
    """`module`, called `name`, in evaluation mode, with the same weights; its own mode stays."""
    try:
        twin = copy.copy(module)
    except RuntimeError as error:  # parametrized modules compute their weights, and refuse to be copied
        raise Untraceable(
            f"module {name!r} is parametrized and cannot be copied. Fix its weights first: "
            "torch.nn.utils.parametrize.remove_parametrizations."
        ) from error
    twin._modules = {own: child and _twin(f"{name}.{own}", child) for own, child in module._modules.items()}
    twin.training = False
    return twin


def find_call(traced: fx.GraphModule, layer: str) -> fx.Node:
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) != 1:
        raise StudyError(
            f"layer {layer!r} is called {len(calls)} times in a forward pass: its units must be in one place. Name a "
            "layer that is called once, such as the convolution or the norm before it."
        )
    if not any(node.op == "output" for node in list_descendants(calls[0], list(traced.graph.nodes))):
        raise StudyError(f"no answer of the network depends on layer {layer!r}: its lesions would change nothing.")
    return calls[0]


def follow_unit_steps(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """`node`, and the norm and the rectifier directly behind it, as far as there are any."""
    chain = [node]
    for kinds, functions in ((NORMS, ()), (RECTIFIERS, RECTIFYING)):
        (follower, *others) = [*chain[-1].users, None]
        if follower is not None and others == [None] and is_step(traced, follower, kinds, functions):
            chain.append(follower)
    _refuse_a_norm_behind(traced, chain)
    return chain


def _refuse_a_norm_behind(traced: fx.GraphModule, chain: list[fx.Node]) -> None:
    """Where units meet a norm before any rectifier, and it is not part of `chain`, silent units would answer there."""
    node = chain[-1]
    while not is_step(traced, node, RECTIFIERS, RECTIFYING) and len(node.users) == 1:
        (node,) = node.users
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        named = "Norm" in type(module).__name__  # as in torchvision's FrozenBatchNorm2d
        if named or isinstance(module, (*NORMS, *OTHER_NORMS)) or node.target in NORMING:
            raise StudyError(
                f"silent units of layer {chain[0].target!r} would answer behind {node.target!r}. Name that norm, or "
                "the rectifier behind it, as the layer."
            )
        if not is_step(traced, node, (*POOLS, *KEEPS), ()):
            return


def list_descendants(place: fx.Node, nodes: list[fx.Node]) -> set[fx.Node]:
    above: set[fx.Node] = set()
    for node in nodes:  # in the order in which they run
        if any(source is place or source in above for source in node.all_input_nodes):
            above.add(node)
    return above


def is_step(traced: fx.GraphModule, node: fx.Node, kinds: tuple[type, ...], functions: tuple[Any, ...]) -> bool:
    """Whether `node` calls a module of these `kinds`, or one of these `functions` or, by name, methods of tensors."""
    return is_call(traced, node, kinds) or (node.op in ("call_function", "call_method") and node.target in functions)


def is_call(traced: fx.GraphModule, node: fx.Node, kinds: tuple[type, ...]) -> bool:
    """Whether `node` calls a module of exactly one of these `kinds`."""
    return node.op == "call_module" and type(traced.get_submodule(str(node.target))) in kinds


def count_calls(traced: fx.GraphModule, node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in traced.graph.nodes)
