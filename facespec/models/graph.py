"""A network as a graph, cut behind one of its layers: what is computed once, and what depends on the layer's units.

Works for the study's networks and for any torch module whose `forward` torch.fx can follow (no branching on values).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facespec.models.tracing import (
    KEEPS,
    NORMS,
    POOLS,
    RECTIFIERS,
    RECTIFYING,
    count_calls,
    find_call,
    follow_unit_steps,
    is_call,
    is_step,
    list_descendants,
    trace_network,
)
from facespec.models.trunks import GlobalAverage
from facespec.study.errors import StudyError

Values = dict[fx.Node, Any]

UNITWISE: tuple[Any, ...] = (
    *RECTIFYING,
    functional.max_pool2d,
    functional.avg_pool2d,
    functional.adaptive_avg_pool2d,
)


@dataclass(frozen=True, eq=False)
class NetworkCut:
    """A network cut behind the units of a layer.

    `node`: the step whose result is the units' responses. `below`: all steps up to it, and what else is needed of the
    images; `unitwise`: steps above it that keep units apart (pools, norms, ...); `frontier`: the last results in which
    they are apart; `mixers`: steps that first mix them, convolutions and linear layers; `downstream`: all others above.
    Where another kind of step mixes units first, or one that keeps them apart writes into what others read, `unitwise` and
    `mixers` are empty and `frontier` is `node` alone.
    """

    graph: fx.GraphModule
    node: fx.Node
    below: tuple[fx.Node, ...]
    unitwise: tuple[fx.Node, ...]
    frontier: tuple[fx.Node, ...]
    mixers: tuple[fx.Node, ...]
    downstream: tuple[fx.Node, ...]
    skip_inputs: tuple[fx.Node, ...]  # results of `below`, other than `node`, that steps above it read
    last_read: dict[fx.Node, list[fx.Node]]  # step -> results that it is the last to read

    def module(self, node: fx.Node) -> Any:
        """The module that a step calls."""
        return self.graph.get_submodule(str(node.target))

    def run(self, nodes: Iterable[fx.Node], values: Values, *, free: bool = True) -> Values:
        """Take the steps `nodes` from `values`, which are added to; returns them.

        With `free`, results that no later step of the network reads leave `values`, and the memory, at once.
        """
        steps = fx.Interpreter(self.graph, garbage_collect_values=False)
        steps.env = values
        for node in nodes:
            values[node] = steps.run_node(node)
            for done in self.last_read.get(node, ()) if free else ():
                values.pop(done, None)
        return values

    def start(self, images: torch.Tensor) -> Values:
        """Results of `below` for `images`, those that steps above it read."""
        (entry,) = (node for node in self.graph.graph.nodes if node.op == "placeholder")
        values = self.run(self.below, {entry: images})
        for node in self.skip_inputs:
            if not isinstance(values[node], torch.Tensor):  # such as the number of images, which lesions multiply
                raise StudyError(
                    f"step {node.name!r} below the layer gives {type(values[node]).__name__}, which steps above it "
                    "read: only tensors can be handed on. Instead of x.view(n, -1), write x.flatten(1)."
                )
            if values[node].shape[:1] != images.shape[:1]:
                raise StudyError(
                    f"step {node.name!r} below the layer gives shape {tuple(values[node].shape)} for {len(images)} "
                    "images, which steps above it read: only what has a row per image can be handed on."
                )
        return {node: values[node] for node in (self.node, *self.skip_inputs)}

    def compute_logits(self, values: Values) -> dict[str, torch.Tensor]:
        """What the network returns, once all steps are taken."""
        (last,) = (node for node in self.graph.graph.nodes if node.op == "output")
        found = fx.node.map_arg(last.args[0], lambda node: values[node])
        if not isinstance(found, dict) or not all(isinstance(own, torch.Tensor) for own in found.values()):
            raise StudyError(
                f"the network returns {type(found).__name__}: a dict of logits is needed, task -> tensor (n, classes). "
                "Wrap it in a module that returns one."
            )
        return found


def cut_network(network: nn.Module, layer: str) -> NetworkCut:
    """`network` cut behind the units of the module called `layer` (dotted name).

    Units are taken behind the norm and the rectifier that follow `layer` directly, so that a silenced unit is silent.
    Computes what the network in evaluation mode computes; batch norms are folded into the convolutions before them,
    which moves the last bits. Only the first argument of `forward` is given, others keep their defaults. `network` is
    not changed, and must keep its weights while the cut is in use. Raises `StudyError` for an unknown layer, one that
    is not called exactly once, batch norms that need the whole batch, and networks that cannot be traced.
    """
    traced = trace_network(network, layer)
    _fold(traced, layer)
    return _parts(traced, follow_unit_steps(traced, find_call(traced, layer))[-1])


def _fold(traced: fx.GraphModule, layer: str) -> None:
    """Fold batch norms into the convolutions before them; those called `layer` stay."""
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.args else None
        if not (is_call(traced, node, NORMS) and isinstance(before, fx.Node) and is_call(traced, before, (nn.Conv2d,))):
            continue
        convolution: Any = traced.get_submodule(str(before.target))
        if len(before.users) > 1 or node.target == layer or count_calls(traced, before) > 1:
            continue
        if convolution._forward_pre_hooks or convolution._forward_hooks:  # such as weights computed from others
            continue
        norm: Any = traced.get_submodule(str(node.target))
        traced.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)


def _parts(traced: fx.GraphModule, place: fx.Node) -> NetworkCut:
    nodes = list(traced.graph.nodes)
    above = list_descendants(place, nodes)
    (entry,) = (node for node in nodes if node.op == "placeholder")
    fixed = set(nodes) - list_descendants(entry, nodes) - {entry}  # weights, and what is computed of them alone
    kept = [node for node in nodes if node not in above | fixed | {place} and above & node.users.keys()]
    apart = {place}
    for node in nodes:
        if node in above and set(node.all_input_nodes) <= apart and _keeps_units_apart(traced, node):
            apart.add(node)
    readers = {node for node in above if apart & set(node.all_input_nodes)} - apart
    written = any(_writes(traced, node) for node in apart - {place}) and any(len(node.users) > 1 for node in apart)
    if written or not all(_mixes(traced, node) and set(node.all_input_nodes) <= apart for node in readers):
        apart, readers = {place}, set()
    frontier = {source for node in readers for source in node.all_input_nodes} or {place}

    def steps(chosen: Callable[[fx.Node], bool]) -> tuple[fx.Node, ...]:
        return tuple(node for node in nodes if node.op not in ("placeholder", "output") and chosen(node))

    last_read = fx.Interpreter(traced).user_to_last_uses
    for node in (node for node in nodes if node not in above):  # what is still needed above stays
        last_read[node] = [done for done in last_read.get(node, []) if done is not place and done not in kept]
    return NetworkCut(
        traced,
        place,
        below=steps(lambda node: node not in above),
        unitwise=steps(lambda node: node in above and node in apart),
        frontier=steps(lambda node: node in frontier),
        mixers=steps(lambda node: node in readers),
        downstream=steps(lambda node: node in above | fixed and node not in apart | readers),
        skip_inputs=tuple(kept),
        last_read=last_read,
    )


def _keeps_units_apart(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what comes out at a unit's place depends on that unit alone."""
    return _flattens(traced, node) or is_step(traced, node, (*NORMS, *RECTIFIERS, *POOLS, *KEEPS), UNITWISE)


def _flattens(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` makes (n, units * cells) of (n, units, ...)."""
    if is_call(traced, node, (nn.Flatten,)):
        flatten: Any = traced.get_submodule(str(node.target))
        return (flatten.start_dim, flatten.end_dim) == (1, -1)
    if (node.op, node.target) in (("call_function", torch.flatten), ("call_method", "flatten")):
        return (node.args[1:], node.kwargs) in (((1,), {}), ((), {"start_dim": 1}))
    return False


def _writes(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node`, a step that keeps units apart, works in place: what others read then depends on the order."""
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    return node.target in RECTIFYING and True in (*node.args[1:], node.kwargs.get("inplace"))


def _mixes(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` adds up what the units contribute, each by weights of its own."""
    if is_call(traced, node, (nn.Linear,)):
        return _is_flat(traced, node.all_input_nodes[0])
    if not is_call(traced, node, (nn.Conv2d,)):
        return False
    convolution: Any = traced.get_submodule(str(node.target))
    return convolution.groups == 1 and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def _is_flat(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the result of `node` is (n, numbers): a linear layer then reads units, and not the columns of a map."""
    while is_step(traced, node, (*NORMS, *RECTIFIERS, *KEEPS), RECTIFYING):
        node = node.all_input_nodes[0]
    return _flattens(traced, node) or is_call(traced, node, (nn.Linear, GlobalAverage))
