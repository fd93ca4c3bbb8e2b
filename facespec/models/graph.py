"""Which steps of a forward pass depend on the units of one layer? The network's graph, cut behind that layer.

The nodes of the graph (`models.tracing`) fall into groups, which are run one after the other:

- *below*: nodes that do not depend on the layer, and the units' own node, whose result is the units' responses.
- *unitwise*: nodes above in which each number depends on one unit alone, such as pools, norms and rectifiers.
- *mixers*: convolutions and linear layers that read unitwise results, and are the first to add up several units.
- *downstream*: all other nodes above.

The *frontier* are the unitwise results that mixers read. *Skip inputs* are results of nodes below, other than the
units' responses, that nodes above read, as in residual networks.

This works for the study's networks and any torch module that torch.fx can trace (no branching on values).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facespec.models.copies import copy_network
from facespec.models.silence import UnitPaths, flattens, follow_units
from facespec.models.tracing import (
    IDENTITIES,
    NORMS,
    POOLS,
    RECTIFIER_FUNCTIONS,
    RECTIFIERS,
    UncutLayer,
    count_calls,
    is_call,
    is_step,
    list_descendants,
    trace_network,
)
from facespec.models.trunks import GlobalAverage
from facespec.study.errors import StudyError

Values = dict[fx.Node, Any]  # results of nodes

UNITWISE_FUNCTIONS: tuple[Any, ...] = (
    *RECTIFIER_FUNCTIONS,
    functional.max_pool2d,
    functional.avg_pool2d,
    functional.adaptive_avg_pool2d,
)


@dataclass(frozen=True, eq=False)
class NetworkCut:
    """A network cut behind the units of a layer; the groups of nodes are described at the top of this file.

    `node` is the units' own; at `sites`, unitwise nodes, units are set to 0 again (`models.silence`). If units are
    first mixed by another kind of node than a convolution or linear layer, or a unitwise node overwrites what others
    read, `mixers` is empty, and `unitwise` are the nodes up to the sites.
    """

    modules: nn.Module  # that nodes call, by name, and the weights that they read
    node: fx.Node
    below: tuple[fx.Node, ...]
    unitwise: tuple[fx.Node, ...]
    frontier: tuple[fx.Node, ...]
    mixers: tuple[fx.Node, ...]
    downstream: tuple[fx.Node, ...]
    skip_inputs: tuple[fx.Node, ...]
    last_read: dict[fx.Node, list[fx.Node]]  # node -> nodes whose results it is the last to read
    sites: frozenset[fx.Node] = frozenset()

    def module(self, node: fx.Node) -> Any:
        """The module that `node` calls."""
        return self.modules.get_submodule(str(node.target))

    def run(self, nodes: Iterable[fx.Node], values: Values, *, free: bool = True) -> Values:
        """Run `nodes`, reading results from `values` and adding theirs; returns `values`.

        With `free`, results that no later node of the network reads are removed from `values`, and the memory, at once.
        """
        interpreter = fx.Interpreter(self.modules, garbage_collect_values=False, graph=self.node.graph)
        interpreter.env = values
        for node in nodes:
            values[node] = interpreter.run_node(node)
            for unused in self.last_read.get(node, ()) if free else ():
                values.pop(unused, None)
        return values

    def copy(self) -> NetworkCut:
        """The same cut with modules of its own, which share the weights."""
        return replace(self, modules=copy_network(self.modules))

    def run_below(self, images: torch.Tensor) -> Values:
        """The units' responses to `images`, and the skip inputs."""
        (entry,) = (node for node in self.node.graph.nodes if node.op == "placeholder")
        values = self.run(self.below, {entry: images})
        for node in self.skip_inputs:
            if not isinstance(values[node], torch.Tensor):  # such as the number of images, which lesions multiply
                raise UncutLayer(
                    f"step {node.name!r} below the layer gives {type(values[node]).__name__}, which steps above it "
                    "read: only tensors can be handed on. Instead of x.view(n, -1), write x.flatten(1)."
                )
            if values[node].shape[:1] != images.shape[:1]:
                raise UncutLayer(
                    f"step {node.name!r} below the layer gives shape {tuple(values[node].shape)} for {len(images)} "
                    "images, which steps above it read: only what has a row per image can be handed on."
                )
        return {node: values[node] for node in (self.node, *self.skip_inputs)}

    def compute_logits(self, values: Values) -> dict[str, torch.Tensor]:
        """The output of the network, task -> logits, from the results of all nodes."""
        (last,) = (node for node in self.node.graph.nodes if node.op == "output")
        output = fx.node.map_arg(last.args[0], lambda node: values[node])
        if not isinstance(output, dict) or not all(isinstance(logits, torch.Tensor) for logits in output.values()):
            raise StudyError(
                f"the network returns {type(output).__name__}: a dict of logits is needed, task -> tensor (n, classes)."
                " Wrap it in a module that returns one."
            )
        return output


def cut_network(network: nn.Module, layer: str) -> NetworkCut:
    """Cut `network` behind the units of the module called `layer` (dotted name).

    The cut lies behind the norm and the rectifier that follow `layer` directly, so that lesioned units respond with 0.
    The cut network computes what `network` computes in evaluation mode; batch norms are folded into the convolutions
    before them, which changes the last bits. `forward` gets images only; other arguments have their defaults. `network`
    is not changed, and its weights must not change while the cut is used. Raises `StudyError` for an unknown layer, one
    that is not called exactly once, batch norms that need the whole batch, and networks that cannot be traced.
    """
    traced = trace_network(network, layer)
    _fold_norms(traced, layer)
    return _group_nodes(traced, follow_units(traced, layer))


def _fold_norms(traced: fx.GraphModule, layer: str) -> None:
    """Fold batch norms into the convolutions before them, except a norm that is the `layer` itself."""
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.args else None
        if not (is_call(traced, node, NORMS) and isinstance(source, fx.Node) and is_call(traced, source, (nn.Conv2d,))):
            continue
        convolution: Any = traced.get_submodule(str(source.target))
        if len(source.users) > 1 or node.target == layer or count_calls(traced, source) > 1:
            continue
        if convolution._forward_pre_hooks or convolution._forward_hooks:  # such as those that compute its weights
            continue
        if convolution.weight.dtype.itemsize < 4:  # half precision: products of weights would be rounded
            continue
        norm: Any = traced.get_submodule(str(node.target))
        traced.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)


def _group_nodes(traced: fx.GraphModule, units: UnitPaths) -> NetworkCut:
    nodes, node, between = list(traced.graph.nodes), units.steps[-1], units.between
    above = list_descendants(node, nodes)
    (images,) = (candidate for candidate in nodes if candidate.op == "placeholder")
    constants = set(nodes) - list_descendants(images, nodes) - {images}  # weights, and what depends on weights alone
    skip_inputs = tuple(n for n in nodes if n not in above | constants | {node} and above & n.users.keys())
    unitwise, mixers = _find_mixers(traced, node, [candidate for candidate in nodes if candidate in above], between)
    frontier = {source for source in unitwise if source.users.keys() - unitwise}
    weights = {source for step in between for source in step.all_input_nodes} & constants

    def sort(members: set[fx.Node]) -> tuple[fx.Node, ...]:
        return tuple(n for n in nodes if n in members and n.op not in ("placeholder", "output"))

    last_read = fx.Interpreter(traced).user_to_last_uses
    for reader in set(nodes) - above:  # what nodes above read must not be removed before they run
        last_read[reader] = [n for n in last_read.get(reader, []) if n is not node and n not in skip_inputs]
    return NetworkCut(
        _hold_modules(traced),
        node,
        below=sort(set(nodes) - above),
        unitwise=sort((unitwise | weights) - {node}),
        frontier=sort(frontier),
        mixers=sort(mixers),
        downstream=sort((above | constants) - unitwise - mixers),
        skip_inputs=skip_inputs,
        last_read=last_read,
        sites=units.sites,
    )


def _hold_modules(traced: fx.GraphModule) -> nn.Module:
    """The modules and weights of `traced`, without its graph, so that they can be copied."""
    holder = nn.Module()
    holder._modules, holder._parameters, holder._buffers = traced._modules, traced._parameters, traced._buffers
    return holder


def _find_mixers(
    traced: fx.GraphModule, node: fx.Node, above: list[fx.Node], between: set[fx.Node]
) -> tuple[set[fx.Node], set[fx.Node]]:
    """The unitwise nodes, with the units' own `node`, and the mixers; only `between` and none if others mix units."""
    unitwise = {node}
    for candidate in above:
        if candidate in between or (set(candidate.all_input_nodes) <= unitwise and _is_unitwise(traced, candidate)):
            unitwise.add(candidate)
    mixers = {candidate for candidate in above if unitwise & set(candidate.all_input_nodes)} - unitwise
    in_place = any(_is_in_place(traced, step) for step in unitwise - {node})
    overwrites = in_place and any(len(step.users) > 1 for step in unitwise)
    if overwrites or not all(_is_mixer(traced, mixer) and set(mixer.all_input_nodes) <= unitwise for mixer in mixers):
        if overwrites and any(_is_in_place(traced, step) for step in between):
            raise StudyError(
                f"a step behind layer {node.name!r} overwrites what others read. Give it inplace=False, or name "
                "another layer."
            )
        return {node} | between, set()
    return unitwise, mixers


def _is_unitwise(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether each number in the result of `node` depends on one unit alone."""
    return flattens(traced, node) or is_step(
        traced, node, (*NORMS, *RECTIFIERS, *POOLS, *IDENTITIES), UNITWISE_FUNCTIONS
    )


def _is_in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node`, a unitwise node, overwrites its input: the result of others then depends on the order."""
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    return node.target in RECTIFIER_FUNCTIONS and True in (*node.args[1:], node.kwargs.get("inplace"))


def _is_mixer(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` computes weighted sums over units, from which single units can be subtracted."""
    if is_call(traced, node, (nn.Linear,)):
        return _is_flat(traced, node.all_input_nodes[0])
    if not is_call(traced, node, (nn.Conv2d,)):
        return False
    convolution: Any = traced.get_submodule(str(node.target))
    return convolution.groups == 1 and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def _is_flat(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the result of `node` is (n, numbers): a linear layer then reads units, and not the columns of a map."""
    while is_step(traced, node, (*NORMS, *RECTIFIERS, *IDENTITIES), RECTIFIER_FUNCTIONS):
        node = node.all_input_nodes[0]
    return flattens(traced, node) or is_call(traced, node, (nn.Linear, GlobalAverage))
