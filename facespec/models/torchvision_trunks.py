"""torchvision's classification models as trunks: everything up to the last map, whose average the heads read.

A model is traced by torch.fx, and its graph is changed in four ways, which do not change what it computes:

- The classifier and what stands between it and the last map (pool, flatten, dropout) are left out. The last map passes
  a module called ``maps``, and is averaged by one called ``average``.
- Every activation is a module of its own: a ReLU that a residual block calls twice, or a function, could not be
  recorded or lesioned by itself. None of them works in place.
- What draws random numbers in training (dropout, stochastic depth) draws from the network's generator.
- For grey images, the weights of the first convolution are summed over its three inputs: the network then computes what
  the one for colours computes of a grey picture in all three channels.

All weights have torchvision's names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import fx, nn
from torch.nn import functional
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth as TorchvisionStochasticDepth

from facespec.models.trunks import Dropout, GlobalAverage
from facespec.study.errors import StudyError, suggest_spelling

CLASSIFIERS = ("fc", "classifier", "head", "heads")  # torchvision's names for what maps become classes by
AUXILIARY = ("AuxLogits", "aux1", "aux2")  # classifiers beside the path, of inception_v3 and googlenet
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
LARGEST = 512  # px: no study has larger images
MAPS, AVERAGE = "maps", "average"  # the modules at the end of a trunk
# between the last map and the classifier
REDUCING_MODULES = nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Identity
REDUCING_FUNCTIONS: tuple[Any, ...] = functional.adaptive_avg_pool2d, torch.flatten, "flatten", "mean"
RELU_FUNCTIONS: tuple[Any, ...] = functional.relu, torch.relu, "relu", "relu_"
# what may follow a convolution before its units respond; `models.tracing` knows some more
ACTIVATIONS = (
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


class ChannelNorm(nn.Module):
    """torchvision's LayerNorm2d with the same weights: each cell of a map is normalised over its channels."""

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        cells = maps.permute(0, 2, 3, 1)
        return functional.layer_norm(cells, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class MapMean(nn.Module):
    """Mean over the map that keeps its axes, (n, c, h, w) -> (n, c, 1, 1); its gradient is deterministic on CUDA."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3), keepdim=True)


class StochasticDepth(nn.Module):
    """Leaves a block out for a `share` of the images of a training batch (Huang et al. 2016), drawn from `generator`.

    Masks are drawn on the CPU: the same generator gives the same masks on every device.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if not self.training or self.share == 0:
            return maps
        if self.generator is None:
            raise StudyError(
                "this network leaves out blocks at random, by a generator of its own: call "
                "network.draw_from(generator) before training, or network.eval() to use it."
            )
        mask = torch.rand((len(maps), 1, 1, 1), generator=self.generator) >= self.share
        return maps * mask.to(maps) / (1 - self.share)


NORMS = nn.BatchNorm2d, ChannelNorm


class TrunkFacts(NamedTuple):
    """What is known of a model before it has weights: units of its last map, and the smallest image that it takes."""

    width: int
    smallest: int


class StepTracer(fx.Tracer):
    """Modules without submodules, and those called `classifiers`, are one step: their code may branch on shapes."""

    def __init__(self, classifiers: Iterable[str] = ()) -> None:
        super().__init__()
        self.classifiers = tuple(classifiers)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.classifiers or next(m.children(), None) is None:
            return True
        return super().is_leaf_module(m, module_qualified_name)


def list_models() -> list[str]:
    """The names of torchvision's classification models."""
    return torchvision.models.list_models(module=torchvision.models)


def build_trunk(name: str, *, channels: int) -> fx.GraphModule:
    """The trunk of torchvision's model `name`, (n, `channels`, h, w) -> (n, units), without weights ("meta" device).

    Raises `StudyError` for an unknown name, and, with the reason, for a model that has no maps to analyse.
    """
    try:
        with torch.device("meta"):
            model = _make_model(name)
    except NotImplementedError:  # RegNet computes its widths with tensors
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = _make_model(name).to("meta")
    return _cut_model(name, model, channels)


def draw_trunk(name: str, *, channels: int, generator: torch.Generator, weights: str | None) -> fx.GraphModule:
    """`build_trunk` on the CPU, with new weights from a seed drawn from `generator`, or those in the file `weights`.

    torchvision's own initialisation of each model is used. The global random state is not changed.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator, dtype=torch.int64))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _make_model(name)
    if weights is not None:
        _load_weights(name, model, Path(weights))
    return _cut_model(name, model, channels)


@lru_cache(maxsize=8)
def measure_trunk(name: str) -> TrunkFacts:
    """Width and smallest image of the trunk of model `name`; allocates no weights."""
    return measure(f"network.trunk: {name}", build_trunk(name, channels=3), channels=3)


def measure(label: str, trunk: fx.GraphModule, *, channels: int) -> TrunkFacts:
    """Width and smallest image of a trunk on the "meta" device; `label` names it in errors."""
    trunk.eval()
    sides = range(1, LARGEST + 1)
    low, high = 0, len(sides)  # the smallest image lies among sides[low:high]
    problem: Exception | None = None
    while low < high:
        middle = (low + high) // 2
        try:
            width = _run_meta(trunk, channels, sides[middle])
            high = middle
        except (RuntimeError, ValueError, AssertionError) as error:
            low, problem = middle + 1, error
    if low == len(sides):
        raise StudyError(f"{label} cannot be used: images of {LARGEST} px and {channels} channel(s) give {problem}")
    return TrunkFacts(width, sides[low])


def _run_meta(trunk: fx.GraphModule, channels: int, side: int) -> int:
    """Units of the last map for images of `side` px."""
    with torch.device("meta"), torch.no_grad():
        return int(trunk(torch.empty(2, channels, side, side)).shape[1])


def list_responses(trunk: fx.GraphModule) -> dict[str, str]:
    """The convolutions of a trunk in the order in which they run, each with the module that gives its response.

    This is the convolution itself, or the norm and the activation that follow directly, where nothing else reads what
    is between. The last convolution of a residual block has no activation before the sum: its response is what it adds.
    Convolutions in squeeze-and-excitation blocks are not listed: they have no maps, but scale those of others.
    """
    gates = _list_gates(trunk)
    return {
        str(node.target): str(_follow_steps(trunk, node)[-1].target)
        for node in trunk.graph.nodes
        if _is_call(trunk, node, (nn.Conv2d,)) and node.target not in gates
    }


def truncate_trunk(trunk: fx.GraphModule, convolution: str) -> tuple[fx.GraphModule, bool]:
    """The trunk up to the units of `convolution`, images -> (drive, response), and whether these two differ.

    The drive is the input of the activation; without one, it is the response.
    """
    (node,) = (node for node in trunk.graph.nodes if node.target == convolution)
    steps = _follow_steps(trunk, node)
    rectified = _is_call(trunk, steps[-1], ACTIVATIONS)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for original in trunk.graph.nodes:  # in the order in which they run
        copies[original] = graph.node_copy(original, copies.__getitem__)
        if original is steps[-1]:
            break
    graph.output((copies[steps[-2] if rectified else steps[-1]], copies[steps[-1]]))
    section = fx.GraphModule(trunk, graph)
    section.graph.eliminate_dead_code()
    section.recompile()
    return section, rectified


def _follow_steps(trunk: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """`node` and, directly behind it, its norm and its activation, if there are any."""
    steps = [node]
    for kinds in (NORMS, ACTIVATIONS):
        followers = list(steps[-1].users)
        if len(followers) == 1 and _is_call(trunk, followers[0], kinds):
            steps += followers
    return steps


def _list_gates(trunk: fx.GraphModule) -> set[str]:
    """The convolutions that read a `MapMean`, directly or through others: those of squeeze-and-excitation blocks."""
    behind: set[fx.Node] = set()
    for node in trunk.graph.nodes:
        pooled = _is_call(trunk, node, (MapMean,))
        if pooled or (_is_call(trunk, node, (nn.Conv2d, *NORMS, *ACTIVATIONS)) and node.args[0] in behind):
            behind.add(node)
    return {str(node.target) for node in behind if _is_call(trunk, node, (nn.Conv2d,))}


def _make_model(name: str) -> nn.Module:
    models = list_models()
    if name not in models:
        raise StudyError(f"network.trunk: unknown trunk {name!r}: {suggest_spelling(name, ['small_vgg', *models])}")
    model = torchvision.models.get_model(name, weights=None, **OPTIONS.get(name, {}))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    if convolutions < 2:
        raise StudyError(
            f"network.trunk: {name} cannot be used: it is a transformer, whose only convolution cuts the image into "
            "patches. The analyses look at convolutions. Take a convolutional network, such as 'resnet18'."
        )
    return model


def _cut_model(name: str, model: nn.Module, channels: int) -> fx.GraphModule:
    find_last_map = partial(_find_last_map, name, channels)
    label = f"network.trunk: {name}"
    return cut_classifier(label, model, channels=channels, find_last_map=find_last_map, classifiers=CLASSIFIERS)


def cut_classifier(
    label: str,
    model: nn.Module,
    *,
    channels: int,
    find_last_map: Callable[[fx.GraphModule], fx.Node],
    classifiers: Iterable[str] = (),
) -> fx.GraphModule:
    """`model`, which `label` names in errors, up to its last map and the average of that: a trunk.

    `find_last_map` chooses the node in the traced model; `classifiers` are modules that are not traced. A model that
    reads colours becomes one for grey images where `channels` is 1 and a convolution reads the images. The model is in
    evaluation mode then, the trunk in training mode; they share weights.
    """
    try:
        graph = StepTracer(classifiers).trace(model.eval())
    except Exception as error:  # any error of the model's own code, which expects a tensor
        raise StudyError(f"{label} cannot be used: torch.fx cannot trace it ({error}).") from error
    trunk = fx.GraphModule(model, graph, class_name="Trunk")
    last = find_last_map(trunk)
    (output,) = (node for node in trunk.graph.nodes if node.op == "output")
    trunk.add_module(MAPS, nn.Identity())
    trunk.add_module(AVERAGE, GlobalAverage())
    with trunk.graph.inserting_after(last):
        maps = trunk.graph.call_module(MAPS, (last,))
    with trunk.graph.inserting_after(maps):
        average = trunk.graph.call_module(AVERAGE, (maps,))
    output.args = (average,)
    trunk.graph.eliminate_dead_code()
    _separate_steps(label, trunk)
    if channels == 1:
        _sum_inputs(trunk)
    trunk.delete_all_unused_submodules()
    trunk.recompile()
    return trunk.train()


def _find_last_map(name: str, channels: int, trunk: fx.GraphModule) -> fx.Node:
    """The node whose map becomes classes: back from the classifier over pool, flatten and dropout."""
    if channels == 1 and find_reader(trunk) is None:
        raise StudyError(
            f"network.trunk: {name} cannot be used for grey images: they are not read by one convolution. Set "
            "data.channels to 3."
        )
    node = next((node for node in trunk.graph.nodes if node.op == "call_module" and node.target in CLASSIFIERS), None)
    if node is None:
        raise StudyError(
            f"network.trunk: {name} cannot be used: it has no classifier called {' or '.join(CLASSIFIERS)}."
        )
    node = node.all_input_nodes[0]
    while _is_function(node, REDUCING_FUNCTIONS) or _is_call(trunk, node, REDUCING_MODULES):
        node = node.all_input_nodes[0]
    return node


def _separate_steps(label: str, trunk: fx.GraphModule) -> None:
    """Give every step a module of its own that neither works in place nor draws from the global random state."""
    called: set[str] = set()
    for node in list(trunk.graph.nodes):
        if _is_function(node, RELU_FUNCTIONS):
            _call_relu(trunk, node)
        if node.op != "call_module":
            continue
        target = str(node.target)
        module = _replace_module(trunk.get_submodule(target))
        if target in called:
            if any(True for _ in module.parameters()):
                raise StudyError(f"{label} cannot be used: it calls layer {target!r} more than once.")
            target = _find_free_name(trunk, target)
            module = copy.deepcopy(module)  # a shallow copy would share its hooks
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010  (not an attribute of every module)
        trunk.set_submodule(target, module)
        node.target = target
        called.add(target)


def _call_relu(trunk: nn.Module, node: fx.Node) -> None:
    """Let `node`, a ReLU function, call a module beside the one whose result it reads."""
    source = node.all_input_nodes[0]
    parent = str(source.target).rpartition(".")[0] if source.op == "call_module" else ""
    name = _find_free_name(trunk, f"{parent}.relu".removeprefix("."))
    trunk.set_submodule(name, nn.ReLU())
    node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}


def _find_free_name(trunk: nn.Module, name: str) -> str:
    """`name`, or the first of `name` with _2, _3, ... that no module has."""
    names = {key for key, _ in trunk.named_modules(remove_duplicate=False)}
    number, free = 1, name
    while free in names:
        number += 1
        free = f"{name}_{number}"
    return free


def _replace_module(module: nn.Module) -> nn.Module:
    if type(module) is nn.Dropout:
        return Dropout(module.p)
    if isinstance(module, TorchvisionStochasticDepth):
        return StochasticDepth(module.p)
    if isinstance(module, LayerNorm2d):
        return ChannelNorm(module)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return MapMean()
    return module


def find_reader(trunk: fx.GraphModule) -> tuple[str, nn.Conv2d] | None:
    """Name and module of the convolution that reads the images; None if something else does, too or instead."""
    (images,) = (node for node in trunk.graph.nodes if node.op == "placeholder")
    readers = list(images.users)
    name = str(readers[0].target) if readers and readers[0].op == "call_module" else ""
    first: Any = trunk.get_submodule(name)
    return (name, first) if len(readers) == 1 and isinstance(first, nn.Conv2d) and first.groups == 1 else None


def _sum_inputs(trunk: fx.GraphModule) -> None:
    """Replace the convolution that reads colours, if there is one, by one for grey images."""
    if (reader := find_reader(trunk)) is None or reader[1].in_channels == 1:
        return
    name, first = reader
    grey: Any = copy.copy(first)
    grey._parameters = dict(first._parameters)
    grey.in_channels = 1
    grey.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    trunk.set_submodule(name, grey)


def _load_weights(name: str, model: nn.Module, path: Path) -> None:
    """Load all weights but the classifier's from a file; raises `StudyError` if they are not exactly the model's."""
    state = {key: value for key, value in _read_state(path).items() if not _is_left_out(key)}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes differ
        raise StudyError(f"network.weights: {path}: not the weights of {name}: {error}") from None
    problems = [f"missing {key}" for key in missing if not _is_left_out(key)]
    problems += [f"unexpected {key}" for key in unexpected]
    problems += [f"{key} is not finite" for key, value in state.items() if not value.isfinite().all()]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise StudyError(
            f"network.weights: {path}: not the weights of {name} (the classifier aside, every weight must be there, "
            f"and no other): {'; '.join(problems[:5])}{more}."
        )


def _is_left_out(key: str) -> bool:
    return key.partition(".")[0] in (*CLASSIFIERS, *AUXILIARY)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise StudyError(f"network.weights: {path}: no such file. Give a state dict (.pth or .safetensors).") from None
    except (OSError, RuntimeError, SafetensorError, EOFError, ValueError, KeyError) as error:
        raise StudyError(f"network.weights: {path}: cannot be read ({error}).") from None
    except Exception as error:  # the unpickler's own kind: anything else than tensors is refused
        raise StudyError(
            f"network.weights: {path}: not a state dict of tensors ({error}). Save model.state_dict() with torch.save."
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise StudyError(
            f"network.weights: {path}: holds {type(state).__name__}, not a state dict of tensors. Save "
            "model.state_dict() with torch.save."
        )
    return dict(state)


def _is_call(trunk: nn.Module, node: fx.Node, kinds: Iterable[type]) -> bool:
    """Whether `node` calls a module of exactly one of these `kinds`."""
    return node.op == "call_module" and type(trunk.get_submodule(str(node.target))) in tuple(kinds)


def _is_function(node: fx.Node, functions: Iterable[Any]) -> bool:
    """Whether `node` calls one of these functions or, by name, methods of tensors."""
    return node.op in ("call_function", "call_method") and node.target in tuple(functions)
