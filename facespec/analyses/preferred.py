"""Which picture maximises the response of a unit? Preferred stimuli by optimisation, many units at once.

A picture is a set of Fourier coefficients, scaled by 1 / frequency, with a sigmoid to [0, 1]; colours are decorrelated.
In each step of gradient ascent on a unit's response the picture is shifted, scaled and rotated by small random amounts,
so that the result does not depend on single pixels (Olah, Mordvintsev & Schubert 2017, Distill, "Feature
Visualization").

Where we deviate [O] from lucid and lucent, whose recipe this is: shifts are shares of the image, not pixels chosen for
224 px; all transforms shrink to nothing towards the end, so that the picture converges; starts and steps have the same
contrast at every size; for a unit that is silent at the start the input of its rectifier is maximised, and a unit that
stays silent is called dead instead of giving a picture of noise; neither layers above nor other units of the layer are
computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn
from torch.nn import functional

from facespec.data.batches import Preset
from facespec.models.device import on_device
from facespec.models.layers import get_layer
from facespec.models.networks import FaceNetwork
from facespec.models.torchvision_trunks import list_responses, truncate_trunk
from facespec.study.errors import StudyError, suggest_spelling

Floats = npt.NDArray[np.float32]

# Columns: dark-light, blue-orange, magenta-green, whose lengths are their variation in photographs: square root of the
# correlation of R, G and B over ImageNet, published with lucid (Olah et al. 2017). The directions are those of Ohta,
# Kanade & Sakai (1980, Computer Graphics and Image Processing 13:222-241).
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
MIN_CHANGE = 1e-4  # [O] a response that differs less, as a share of itself, from that to random pictures is constant


@dataclass(frozen=True)
class Recipe:
    """How pictures are optimised.

    Attributes
    ----------
    objective : {"map", "centre"}
        A unit's response averaged over its map, or in the centre cell of it.
    steps : int
        Steps of Adam.
    learning_rate : float
        In standard deviations of the logits of pixels.
    shift : float
        Largest shift in each direction, as a share of the image size. Pixels outside repeat those at the edge. This and
        the next two ranges shrink linearly to nothing at the last step.
    scale : float
        Pictures are scaled by up to 1 +- `scale`.
    turn : float
        Largest rotation in degrees.
    starts : int
        Number of random pictures; the one with the largest objective is the start.
    contrast : float
        Standard deviation of the logits of their pixels.
    batch_size : int
        Number of units that are optimised at once.

    Examples
    --------
    >>> Recipe(steps=64).steps
    64
    """

    objective: Literal["map", "centre"] = "map"  # [O]
    steps: int = 128  # [O]
    learning_rate: float = 0.2  # [O]
    shift: float = 1 / 16  # [O]
    scale: float = 0.1  # [L] lucent
    turn: float = 10.0  # [L] lucent
    starts: int = 8  # [O]
    contrast: float = 0.3  # [O]
    batch_size: int = 32  # [O]


@dataclass(frozen=True, eq=False)
class PreferredStimuli:
    """The pictures of n units of a layer. Responses are those that were maximised: means over the map, or its centre.

    Attributes
    ----------
    units : int64 array of shape (n,)
        Which units.
    images : float32 array of shape (n, size, size) or (n, size, size, 3)
        Grey or RGB pictures in [0, 1]; NaN for a dead unit.
    response, start : float32 arrays of shape (n,)
        Responses to the final picture, and to the one with which the optimisation started.
    baseline : float32 array of shape (n,)
        Mean response to all random starts.
    course : float32 array of shape (n, steps)
        Response at every step, to the transformed picture.
    dead : bool array of shape (n,)
        No picture activated the unit, or its responses to all of them are equal (see `MIN_CHANGE`).
    """

    units: npt.NDArray[np.int64]
    images: Floats
    response: Floats
    start: Floats
    baseline: Floats
    course: Floats
    dead: npt.NDArray[np.bool_]


def optimise_stimuli(
    network: FaceNetwork,
    layer: str,
    streams: Mapping[int, np.random.Generator],
    *,
    preset: Preset,
    recipe: Recipe,
    device: torch.device,
) -> PreferredStimuli:
    """Optimise the preferred stimuli of units of a layer.

    Parameters
    ----------
    network : FaceNetwork
        Its mode and device are restored; parameters get no gradient.
    layer : str
        Dotted name of a layer.
    streams : mapping of int to numpy.random.Generator
        The units, in order, and the source of each unit's random starts and transforms. Equal streams give equal
        pictures, whichever other units are optimised.
    preset : Preset
        Size, channels and normalisation of the network's images.
    recipe : Recipe
        How pictures are optimised.
    device : torch.device
        Where the network runs. Pictures stay on the CPU, because a GPU adds gradients of transformed pixels in no fixed
        order.

    Returns
    -------
    PreferredStimuli
        Pictures and responses of n units.

    Raises
    ------
    StudyError
        For unknown layers and units, without units, and for a preset that does not fit the network.

    Notes
    -----
    Batches are padded to `recipe.batch_size`: in other sizes sums have another order, and small differences grow. Under
    `models.device.deterministic_torch`, pictures of a multiple of 8 px are bit-equal, others equal up to rounding.

    Examples
    --------
    >>> from facespec.models.networks import build_network
    >>> from facespec.study.params import NetworkBlock
    >>> block = NetworkBlock(trunk="small_vgg", channels=[3, 4], convolutions=1, branch_after=None)
    >>> network = build_network(block, {"identity": 5}, channels=1, generator=torch.Generator().manual_seed(1))
    >>> preset = Preset("toy", 16, 1, resize=None, shift=0, flip=False, grey_probability=0.0)
    >>> streams = {0: np.random.default_rng(1), 2: np.random.default_rng(2)}
    >>> options = {"recipe": Recipe(steps=2, starts=2, batch_size=2), "device": torch.device("cpu")}
    >>> optimise_stimuli(network, "trunk.relu1", streams, preset=preset, **options).images.shape
    (2, 16, 16)
    """
    least = network.smallest_image
    if preset.channels != network.channels or preset.size < least:
        raise StudyError(
            f"a preset of {preset.size} px and {preset.channels} channel(s): this network takes {network.channels} "
            f"channel(s), and {least} px or more. Use the preset of its checkpoint."
        )
    layer_units, canvas = _choose_units(network, layer, recipe.objective), _Canvas(preset, recipe)
    units = np.array(list(streams), dtype=np.int64)
    wrong = units[(units < 0) | (units >= layer_units.count)]
    if not len(units) or len(wrong):
        got = wrong[0] if len(wrong) else "none"
        raise StudyError(f"layer {layer!r} has units 0 ... {layer_units.count - 1}, got {got}.")
    batches = []
    with on_device(network, device, training=False):
        for first in range(0, len(units), recipe.batch_size):
            batch = units[first : first + recipe.batch_size]
            draws = [_draw(canvas, recipe, streams[int(unit)]) for unit in batch]
            padded = np.arange(recipe.batch_size).clip(max=len(batch) - 1)
            results = _optimise(
                layer_units, canvas, torch.from_numpy(batch[padded]), [draws[i] for i in padded], device
            )
            batches.append([tensor[: len(batch)].numpy() for tensor in results])
    return PreferredStimuli(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))


def _draw(canvas: _Canvas, recipe: Recipe, stream: np.random.Generator) -> tuple[Floats, Floats]:
    """The random numbers of a unit: starts (starts, *coefficients) and moves (steps, 4), in [-1, 1) and shrinking."""
    starts = recipe.contrast * stream.standard_normal((recipe.starts, *canvas.shape), dtype=np.float32)
    moves = stream.uniform(-1, 1, (recipe.steps, 4)) * np.linspace(1, 0, recipe.steps)[:, None]
    return starts, moves.astype(np.float32)


class _Canvas:
    """Converts coefficients (n, channels, size, size // 2 + 1, 2) to pictures, and transforms pictures."""

    def __init__(self, preset: Preset, recipe: Recipe) -> None:
        self.preset, self.recipe = preset, recipe
        size, frequency = preset.size, np.fft.fftfreq(preset.size)
        self.shape = (preset.channels, size, size // 2 + 1, 2)
        scale = 1 / np.maximum(np.hypot(frequency[:, None], frequency), 1 / size)
        scale /= np.sqrt(2 * np.mean(scale**2))  # unit-normal coefficients give logits of unit variance
        self.scale = torch.tensor(scale[:, : size // 2 + 1, None], dtype=torch.float32)
        colours = np.array(COLOURS if preset.channels == 3 else [[1.0]])
        self.colours = torch.tensor(colours / np.sqrt((colours**2).sum() / len(colours)), dtype=torch.float32)

    def render(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Pictures (n, channels, size, size) in [0, 1]."""
        spectra = torch.view_as_complex(coefficients * self.scale)
        planes = torch.fft.irfft2(spectra, s=(self.preset.size, self.preset.size), norm="ortho")
        return torch.einsum("rc,nchw->nrhw", self.colours, planes).sigmoid()

    def transform(self, pictures: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        """Pictures shifted, scaled and rotated by `moves` (n, 4), which are shares of the recipe's ranges."""
        shift_x, shift_y, scale, rotation = moves.T
        angle, zoom = rotation * np.deg2rad(self.recipe.turn), 1 / (1 + scale * self.recipe.scale)
        cosine, sine, shift = zoom * angle.cos(), zoom * angle.sin(), 2 * self.recipe.shift  # sides go from -1 to 1
        rows = torch.stack([cosine, -sine, shift * shift_x, sine, cosine, shift * shift_y], dim=1)
        grid = functional.affine_grid(rows.view(-1, 2, 3), list(pictures.shape), align_corners=False)
        return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _choose_units(network: FaceNetwork, layer: str, objective: str) -> _LayerUnits | _TracedUnits:
    traced = isinstance(network.trunk, fx.GraphModule)
    return _TracedUnits(network, layer, objective) if traced else _LayerUnits(network, layer, objective)


class _LayerUnits:
    """A network up to one layer, of which one filter is applied per picture: all would be most of the work."""

    def __init__(self, network: FaceNetwork, layer: str, objective: str) -> None:
        self.objective = objective
        modules = _list_modules(network, layer)
        split = max(i for i, module in enumerate(modules) if isinstance(module, nn.Conv2d | nn.Linear | nn.Flatten))
        filters, above = modules[split], modules[split + 1 :]
        if not isinstance(filters, nn.Conv2d | nn.Linear):
            raise StudyError(f"layer {layer!r} only rearranges units: ask for those of the layer before or behind it.")
        self.filters, self.count = filters, len(filters.weight)
        self.below = nn.Sequential(*modules[:split])
        self.norm = above.pop(0) if above and isinstance(above[0], nn.BatchNorm2d) else None
        self.rectified = bool(above)  # what follows is a ReLU, with or without pools behind it
        self.pools = nn.Sequential(*above[1:])

    def respond(self, images: torch.Tensor, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Response (n,) of unit `units[i]` to image i, and the objective: if silent, the input of its ReLU."""
        drive = _apply_filters(self.filters, self.below(images), units)
        if self.norm is not None:
            drive = _normalise(self.norm, drive, units)
        if not self.rectified:
            response = _reduce(drive, self.objective)
            return response, response
        response = _reduce(self.pools(drive.relu()), self.objective)
        # of an odd map, a pool leaves out the last row and column
        return response, _choose_objective(response, self.pools(drive), self.objective)


class _TracedUnits:
    """The trunk of a torchvision model up to one layer: all its units are computed, and one is taken per picture."""

    def __init__(self, network: FaceNetwork, layer: str, objective: str) -> None:
        get_layer(network, layer)  # raises StudyError for an unknown layer
        trunk: Any = network.trunk
        convolutions = {f"trunk.{response}": name for name, response in list_responses(trunk).items()}
        if layer not in convolutions:
            raise StudyError(
                f"layer {layer!r} is not where units of a convolution respond: {suggest_spelling(layer, convolutions)}"
            )
        self.objective = objective
        self.count = len(trunk.get_parameter(f"{convolutions[layer]}.weight"))
        self.section, self.rectified = truncate_trunk(trunk, convolutions[layer])

    def respond(self, images: torch.Tensor, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `_LayerUnits.respond`."""
        rows = torch.arange(len(units), device=units.device)
        drive, maps = (values[rows, units].unsqueeze(1) for values in self.section(images))
        response = _reduce(maps, self.objective)
        if not self.rectified:
            return response, response
        return response, _choose_objective(response, drive, self.objective)


def _choose_objective(response: torch.Tensor, drive: torch.Tensor, objective: str) -> torch.Tensor:
    """What is maximised: each `response` (n,) above 0, and else the input of its activation, `drive` (n, 1, h, w)."""
    silent = drive.flatten(1).amax(dim=1) if objective == "map" else _reduce(drive, objective)
    # the objective of a silent picture must not exceed that of one with a response
    return torch.where(response > 0, response, silent.clamp(max=0))


def _reduce(values: torch.Tensor, objective: str) -> torch.Tensor:
    if values.ndim == 4 and objective == "centre":
        return values[:, 0, values.shape[2] // 2, values.shape[3] // 2]
    return values.flatten(1).mean(dim=1)


def _list_modules(network: FaceNetwork, layer: str) -> list[nn.Module]:
    """The modules from the image to `layer`, which is the last of them."""
    last = get_layer(network, layer)
    for task in network.tasks:
        branch = network.branches[task].children() if task in network.branches else ()
        modules = [*network.trunk.children(), *branch, network.heads[task]]
        if last in modules:
            break
    return modules[: modules.index(last) + 1]


def _apply_filters(filters: nn.Conv2d | nn.Linear, below: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Each row of `below` through the filter of its unit: (n, 1, h, w); (n, 1) for a linear layer."""
    weight = filters.weight[units]
    bias = weight.new_zeros(()) if filters.bias is None else filters.bias[units, None]
    if isinstance(filters, nn.Linear):
        return (below * weight).sum(dim=1, keepdim=True) + bias
    # all taps of a filter at all positions in one product, then added at their offsets: many times faster than a
    # convolution in groups. Valid for convolutions that keep the size of the map, as all of ours do
    taps = weight.flip(2, 3).flatten(2).transpose(1, 2) @ below.flatten(2)
    margin = filters.kernel_size[0] // 2, filters.kernel_size[1] // 2
    return functional.fold(taps, below.shape[2:], filters.kernel_size, padding=margin) + bias[..., None, None]


def _normalise(norm: Any, values: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Batch norm of (n, 1, h, w) by its running statistics, each row as the channel of its unit."""
    mean, var, weight, bias = (
        values_of_all[units] for values_of_all in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return functional.batch_norm(values.transpose(0, 1), mean, var, weight, bias, eps=norm.eps).transpose(0, 1)


def _optimise(
    layer_units: _LayerUnits | _TracedUnits,
    canvas: _Canvas,
    units: torch.Tensor,
    draws: list[tuple[Floats, Floats]],
    device: torch.device,
) -> tuple[torch.Tensor, ...]:
    """Gradient ascent for a batch of units, independent because Adam is elementwise: fields of `PreferredStimuli`."""

    def respond(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = (pictures - canvas.preset.mean) / canvas.preset.std
        response, objective = layer_units.respond(images.to(device), units.to(device))
        return response.cpu(), objective.cpu()

    starts, moves = (torch.from_numpy(np.stack(arrays, axis=1)) for arrays in zip(*draws, strict=True))
    with torch.no_grad():
        start_responses, objectives = map(
            torch.stack, zip(*(respond(canvas.render(start)) for start in starts), strict=True)
        )
    best = objectives.argmax(dim=0), torch.arange(len(units))
    coefficients = starts[best].requires_grad_()
    # fused: plain Adam calls torch.sqrt, whose last bits depend on the processor's maker; eps: small beside responses
    adam = torch.optim.Adam([coefficients], lr=canvas.recipe.learning_rate, eps=1e-16, fused=True)
    course, has_gradient = [], torch.zeros(len(units), dtype=torch.bool)
    for move in moves:
        with torch.enable_grad():
            response, objective = respond(canvas.transform(canvas.render(coefficients), move))
            (coefficients.grad,) = torch.autograd.grad(-objective.sum(), coefficients)
        adam.step()
        course.append(response.detach())
        has_gradient |= coefficients.grad.flatten(1).any(dim=1)
    with torch.no_grad():
        pictures = canvas.render(coefficients)
        response = respond(pictures)[0]
    baseline = start_responses.mean(dim=0)
    dead = ~has_gradient | ((response - baseline).abs() <= MIN_CHANGE * response.abs())
    if layer_units.rectified:
        dead |= ~torch.stack([*start_responses, *course, response]).any(dim=0)
    pictures[dead] = torch.nan
    images = pictures.permute(0, 2, 3, 1).squeeze(-1)
    return units, images, response, start_responses[best], baseline, torch.stack(course, dim=1), dead
