"""Where must a unit be set to 0, so that it stays silent up to the next layer?

Behind a layer come steps that act on each unit by itself: norms, rectifiers, pools, dropout, products with constants.
Most give 0 for 0. Those that *wake* a unit do not: norms, sums with constants, sigmoids. A unit is therefore set to 0
behind the last such step on every path from the layer up to the first rectifier, or to the first convolution or linear
layer, whichever comes first: what lies beyond belongs to the next layer. These places are the layer's *sites*. Where a
norm comes after units have been mixed (added to others, concatenated, normalised together), there is no such place, and
the layer is refused.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from facespec.models.tracing import (
    CONVOLUTIONS,
    IDENTITIES,
    NORM_FUNCTIONS,
    NORMS,
    OTHER_NORMS,
    POOLS,
    RECTIFIER_FUNCTIONS,
    RECTIFIERS,
    WAKING_FUNCTIONS,
    WAKING_RECTIFIERS,
    count_calls,
    find_call,
    follow_unit_steps,
    is_step,
    trace_network,
)
from facespec.study.errors import StudyError

KEEPING_MODULES = (*POOLS, *IDENTITIES, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d)
KEEPING_FUNCTIONS: tuple[Any, ...] = (  # and methods of tensors, by name
    functional.max_pool2d,
    functional.avg_pool2d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_max_pool2d,
    functional.dropout,
    functional.dropout2d,
    functional.interpolate,
    torch.neg,
    operator.neg,
    "neg",
    "contiguous",
    "clone",
    "detach",
    "float",
    "double",
    "half",
    "bfloat16",
)
SPATIAL_FUNCTIONS = torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"  # over height and width
SCALING_FUNCTIONS = operator.mul, torch.mul, "mul"
DIVIDING_FUNCTIONS = operator.truediv, torch.div, "div"
SHIFTING_FUNCTIONS = operator.add, operator.sub, torch.add, torch.sub, "add", "sub"
MIXING_MODULES = (
    *CONVOLUTIONS,
    *(nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase),
)
MIXING_FUNCTIONS: tuple[Any, ...] = (
    functional.linear,
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.conv_transpose2d,
    functional.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.einsum,
    operator.matmul,
    "matmul",
    "bmm",
)
SHAPE_READERS = getattr, "size", "dim", "numel", "new_zeros", "new_ones"  # their results depend on no unit


@dataclass(frozen=True, eq=False)
class UnitPaths:
    """The unit `steps` of a layer, the last of which gives its responses; and the paths to sites beyond, one each.

    A path begins behind the last unit step and ends with its site.
    """

    steps: list[fx.Node]
    paths: list[list[fx.Node]]

    @property
    def sites(self) -> frozenset[fx.Node]:
        """The nodes beyond the unit steps whose results are 0 for lesioned units, though they would not be."""
        return frozenset(path[-1] for path in self.paths)

    @property
    def between(self) -> set[fx.Node]:
        """All nodes of the paths."""
        return {node for path in self.paths for node in path}


def follow_units(traced: fx.GraphModule, layer: str) -> UnitPaths:
    """Follow the units of `layer` to their sites; raises `StudyError` where they cannot be silenced."""
    steps = follow_unit_steps(traced, find_call(traced, layer))
    paths = [] if _rectifies(traced, steps[-1]) else _PathSearch(traced, layer).run(steps[-1])
    return UnitPaths(steps, paths)


def find_lesion_modules(network: nn.Module, layer: str) -> list[str]:
    """The names of the modules whose outputs must be set to 0 to lesion units of `layer`.

    For the last of the layer's unit steps, and for every site beyond, it is the last module up to there that is called
    once. Later steps, functions or modules called elsewhere too, must give 0 for 0; otherwise raises `StudyError`, as
    lesioned units would be nonzero behind them. Also raises what `graph.cut_network` raises.
    """
    traced = trace_network(network, layer)
    units = follow_units(traced, layer)
    names = [_find_last_module(traced, layer, nodes) for nodes in (units.steps, *units.paths)]
    return list(dict.fromkeys(names))


def _find_last_module(traced: fx.GraphModule, layer: str, nodes: list[fx.Node]) -> str:
    *earlier, node = nodes
    while node.op != "call_module" or count_calls(traced, node) > 1:
        if not earlier or _wakes(traced, node) or not _rectifies(traced, node):
            raise StudyError(
                f"units of layer {layer!r} cannot be lesioned: {node.target!r} behind it does not give 0 for 0, and is "
                "no module that is called once. Give each layer a module of its own."
            )
        *earlier, node = earlier
    return str(node.target)


class _PathSearch:
    """A search for the sites of `layer`, from node to reader."""

    def __init__(self, traced: fx.GraphModule, layer: str) -> None:
        self.traced, self.layer = traced, layer
        self.paths: list[list[fx.Node]] = []
        self.mixed: set[fx.Node] = set()  # nodes that have been followed behind a step that mixes units

    def run(self, node: fx.Node) -> list[list[fx.Node]]:
        """Paths from behind `node` to the sites."""
        self._follow_users(node, [])
        return self.paths

    def _follow_users(self, node: fx.Node, path: list[fx.Node]) -> bool:
        """Follow all readers of `node`, which `path` leads to; whether behind it a site lies on every path."""
        reached = [self._follow(user, [*path, user]) for user in node.users]
        return all(reached)

    def _follow(self, node: fx.Node, path: list[fx.Node]) -> bool:
        """Follow units, each by itself so far, from `node`; whether a site lies there or behind it on every path."""
        self._refuse_norm(node, "")
        wakes, rectifies = _wakes(self.traced, node), _rectifies(self.traced, node)
        if not wakes and (rectifies or not _keeps(self.traced, node)):
            self._follow_mixed(node, str(node.target))
            return False
        covered = not rectifies and self._follow_users(node, path)
        if wakes and not covered:
            self.paths.append(path)
        return wakes or covered

    def _follow_mixed(self, node: fx.Node, step: str) -> None:
        """Refuse norms behind `node`, which mixes units in another way than layers do."""
        if node in self.mixed or _ends_layer(self.traced, node) or _calls(node, SHAPE_READERS):
            return
        self.mixed.add(node)
        for user in node.users:
            self._refuse_norm(user, f", where {step} has mixed them with others", any_kind=True)
            self._follow_mixed(user, step)

    def _refuse_norm(self, node: fx.Node, reason: str, *, any_kind: bool = False) -> None:
        """Raise if `node` is a norm that does not act on each unit by itself, or, with `any_kind`, any norm."""
        module = self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        named_norm = "Norm" in type(module).__name__  # as in torchvision's FrozenBatchNorm2d
        is_norm = named_norm or isinstance(module, (*NORMS, *OTHER_NORMS)) or node.target in NORM_FUNCTIONS
        if is_norm and (any_kind or not _wakes(self.traced, node)):
            raise StudyError(
                f"lesioned units of layer {self.layer!r} would be nonzero behind {node.target!r}{reason}. Name that "
                "norm, or the rectifier behind it, as the layer."
            )


def _calls(node: fx.Node, functions: tuple[Any, ...]) -> bool:
    """Whether `node` calls one of these functions or, by name, methods of tensors."""
    return node.op in ("call_function", "call_method") and node.target in functions


def _rectifies(traced: fx.GraphModule, node: fx.Node) -> bool:
    return is_step(traced, node, RECTIFIERS, (*RECTIFIER_FUNCTIONS, "relu_"))


def _ends_layer(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` rectifies, or computes weighted sums over units: what lies beyond belongs to the next layer."""
    if _rectifies(traced, node) or node.op == "output" or _calls(node, MIXING_FUNCTIONS):
        return True
    if node.op != "call_module":
        return False
    module = traced.get_submodule(str(node.target))
    return isinstance(module, MIXING_MODULES) or next(module.parameters(), None) is not None  # any other layer


def _wakes(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` acts on each unit by itself and may give another value than 0 for 0."""
    if is_step(traced, node, (*NORMS, *WAKING_RECTIFIERS), WAKING_FUNCTIONS):
        return True
    if _calls(node, (functional.batch_norm,)):
        training = node.args[5] if len(node.args) > 5 else node.kwargs.get("training", False)
        return not training and _others_are_constant(traced, node)
    return _calls(node, SHIFTING_FUNCTIONS) and _others_are_constant(traced, node)


def _keeps(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` acts on each unit by itself and gives 0 for 0."""
    if is_step(traced, node, KEEPING_MODULES, KEEPING_FUNCTIONS) or flattens(traced, node):
        return True
    if _calls(node, SPATIAL_FUNCTIONS):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, list | tuple) and sorted(int(d) % 4 for d in dims if isinstance(d, int)) == [2, 3]
    divides = _calls(node, DIVIDING_FUNCTIONS) and isinstance(node.args[0], fx.Node) and node.args[0].op != "get_attr"
    return (divides or _calls(node, SCALING_FUNCTIONS)) and _others_are_constant(traced, node)


def _others_are_constant(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether all that `node` reads besides one tensor are numbers, or constants that fit the responses of an image."""
    varying = [source for source in node.all_input_nodes if source.op != "get_attr"]
    constants = [source for source in node.all_input_nodes if source.op == "get_attr"]
    shapes = [tuple(operator.attrgetter(str(constant.target))(traced).shape) for constant in constants]
    return len(varying) == 1 and all(len(shape) < 4 or shape[0] == 1 for shape in shapes)


def flattens(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` makes (n, units * cells) of (n, units, ...)."""
    if is_step(traced, node, (nn.Flatten,), ()):
        flatten: Any = traced.get_submodule(str(node.target))
        return (flatten.start_dim, flatten.end_dim) == (1, -1)
    if (node.op, node.target) in (("call_function", torch.flatten), ("call_method", "flatten")):
        return (node.args[1:], node.kwargs) in (((1,), {}), ((), {"start_dim": 1}))
    return False
