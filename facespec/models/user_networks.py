"""Networks of a user's own, each made by a function in a Python file; as trunks, like those of torchvision.

A trunk is the module up to its last map, whose average the heads read (`torchvision_trunks.cut_classifier`). The last
map is found by running the module: back from its output, over pools and everything that has no map, such as linear
layers and norms of a vector.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import fx, nn

from facespec.models.torchvision_trunks import TrunkFacts, cut_classifier, find_reader, measure
from facespec.models.trunks import initialise
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.params import USER_FUNCTION

SIDE = 224  # px of the image with which the last map is looked for: large enough for most networks
POOLS = nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d  # behind the last map they only make it smaller


def load_network(module: str, *, option: str, seed: int | None = None) -> nn.Module:
    """The network returned by ``FILE.py:FUNCTION``; the file need not be importable.

    Parameters
    ----------
    module : str
        File and function, as the user wrote them.
    option : str
        What gave `module`, for messages.
    seed : int, optional
        The replicate, for functions with a parameter ``seed``; others are called without arguments.

    Returns
    -------
    Module

    Raises
    ------
    StudyError
        If the file or function is missing or fails, or for anything but a torch module with weights.
    """
    file, _, name = module.rpartition(":")
    if not file.endswith(".py") or not name:
        raise StudyError(f"{option} {module}: expected FILE.py:FUNCTION, for example networks.py:resnet.")
    if not Path(file).is_file():
        raise StudyError(f"{option} {module}: no file {file}.")
    module_name = f"facespec_own_{hashlib.sha256(str(Path(file).resolve()).encode()).hexdigest()[:16]}"
    specification: Any = importlib.util.spec_from_loader(module_name, _UncachedLoader(module_name, file))
    user_module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = user_module  # dataclasses and pickles of the file look it up
    with _explain_failure(file):
        specification.loader.exec_module(user_module)
    if not callable(function := getattr(user_module, name, None)):
        known = [word for word, value in vars(user_module).items() if callable(value) and not word.startswith("_")]
        raise StudyError(f"{file}: no function {name!r}: {suggest_spelling(name, known) if known else 'it has none.'}")
    with _explain_failure(f"{file}: {name}()"):
        network = function(seed=seed) if seed is not None and _takes_seed(function) else function()
    if not isinstance(network, nn.Module) or next(network.parameters(), None) is None:
        raise StudyError(f"{file}: {name}() returns {type(network).__name__}, not a torch.nn.Module with weights.")
    return network


def build_trunk(name: str, *, channels: int) -> fx.GraphModule:
    """The trunk of a user's function `name`, images (n, `channels`, h, w) -> (n, units), with the user's weights.

    Raises `StudyError`, with the reason, for a network that has no map, or several last maps, or that torch.fx cannot
    trace.
    """
    return _cut(name, _call(name), channels)


def draw_trunk(name: str, *, channels: int, generator: torch.Generator) -> fx.GraphModule:
    """`build_trunk` with new weights, drawn as those of the study's own trunks (`trunks.initialise`).

    Layers of other kinds draw by their own ``reset_parameters``. The global random state is not changed. Raises
    `StudyError` for weights of the trunk that neither covers: the untrained network would hold trained ones.
    """
    model, undrawn = _call(name), set[str]()
    seed = int(torch.randint(2**63 - 1, (), generator=generator, dtype=torch.int64))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for path, module in model.named_modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            else:
                undrawn |= {f"{path}.{key}".removeprefix(".") for key, _ in module.named_parameters(recurse=False)}
    initialise(model, generator)
    trunk = _cut(name, model, channels)
    if left := sorted(undrawn.intersection(key for key, _ in trunk.named_parameters())):
        raise StudyError(
            f"network {name}: weights cannot be drawn anew, as the untrained control needs: {', '.join(left[:3])}. "
            "Give the modules that hold them a method reset_parameters()."
        )
    return trunk


def _call(name: str) -> nn.Module:
    parts = USER_FUNCTION.fullmatch(name)
    assert parts is not None
    seed = int(parts["seed"]) if parts["seed"] else None
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the user's function may draw
        return load_network(f"{parts['file']}:{parts['name']}", option="network", seed=seed).float()


def _cut(name: str, model: nn.Module, channels: int) -> fx.GraphModule:
    with torch.device("cpu"):
        label = f"network {name}"
        return cut_classifier(label, model, channels=channels, find_last_map=partial(_find_last_map, label, channels))


def measure_trunk(trunk: fx.GraphModule, name: str, *, channels: int) -> TrunkFacts:
    """Width and smallest image of a user's trunk."""
    return measure(f"network {name}", copy.deepcopy(trunk).to("meta"), channels=channels)


def _takes_seed(function: Any) -> bool:
    try:
        return "seed" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # callables of other languages have no signature
        return False


def _find_last_map(label: str, channels: int, traced: fx.GraphModule) -> fx.Node:
    """The node whose map becomes the output of the network that `label` names."""
    shapes, reader = _ShapeRecorder(traced), find_reader(traced)
    problem = shapes.record(reader[1].in_channels if reader else channels)
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    ends: dict[fx.Node, None] = {}
    pending, seen = list(output.all_input_nodes), set[fx.Node]()
    while pending:
        if (node := pending.pop()) in seen:
            continue
        seen.add(node)
        if shapes.has_map(node) and not _is_pool(traced, node):
            ends[node] = None
        else:
            pending += node.all_input_nodes
    maps = [node for node in ends if node.op != "placeholder"]
    if not maps:
        raise StudyError(
            f"{label} cannot be used: no map is found on the way to its output{f' ({problem})' if problem else ''}. "
            "The analyses look at maps of convolutions."
        )
    if len(ends) > 1:
        raise StudyError(
            f"{label} cannot be used: its output reads several last maps, "
            f"{' and '.join(sorted(str(node) for node in ends))}. Return the logits of one trunk."
        )
    return maps[0]


class _ShapeRecorder(fx.Interpreter):
    """Runs a traced network once on an empty image and keeps the shape of every step's result."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced, garbage_collect_values=True)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def record(self, channels: int) -> str:
        """Run as far as possible; what stopped it: a network for images of one size may stop at its classifier."""
        try:
            with torch.no_grad():
                self.run(torch.zeros(1, channels, SIDE, SIDE))
        except Exception as error:
            return str(error).partition("\n")[0]
        return ""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.shapes[n] = result.shape
        return result

    def has_map(self, node: fx.Node) -> bool:
        """Whether the result of `node` is a map of more than one cell."""
        shape = self.shapes.get(node, torch.Size())
        return len(shape) == 4 and shape[2] * shape[3] > 1


def _is_pool(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), POOLS)
    return "avg_pool" in getattr(node.target, "__name__", "")


class _UncachedLoader(SourceFileLoader):
    """Compiles the file each time: bytecode that Python keeps is also used for a file edited within a second."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


@contextmanager
def _explain_failure(source: str) -> Iterator[None]:
    """Turn any error, and an attempt to end the program, into a `StudyError` that names `source`."""
    try:
        yield
    except SystemExit as end:  # of sys.exit, or of argparse, which reads the arguments of facespec
        raise StudyError(
            f"{source} ends the program (SystemExit: {end.code}), and no network is made. Put what parses arguments or "
            "exits under: if __name__ == '__main__'."
        ) from end
    except Exception as error:
        raise StudyError(f"{source} raises {type(error).__name__}: {error}") from error
