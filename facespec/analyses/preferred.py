"""Which picture drives a unit most? Preferred stimuli by optimisation, many units at once.

A picture is a set of Fourier coefficients, scaled by 1 / frequency and squashed to [0, 1]; colours are decorrelated.
Gradient ascent on a unit's response sees it shifted, scaled and turned a little, otherwise at every step, so that what
it finds does not hang on single pixels (Olah, Mordvintsev & Schubert 2017, Distill, "Feature Visualization").

Where we deviate [O] from lucid and lucent, whose recipe this is: shifts are shares of the image, not pixels made for
224; all moves die away towards the end, so that the picture settles; starts and steps have the same contrast at every
size; a unit that is silent at the start is driven through its rectifier, and called dead, not drawn as noise, if it
stays so; nothing above the layer is computed, nor any other unit of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from facespec.data.batches import Preset
from facespec.models import trunks
from facespec.models.device import on_device
from facespec.models.layers import get_layer
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError

Floats = npt.NDArray[np.float32]

# Columns: dark-light, blue-orange, magenta-green, as long as they vary in photographs: square root of the correlation
# of R, G and B over ImageNet, published with lucid (Olah et al. 2017). The directions are those found by Ohta, Kanade &
# Sakai (1980, Computer Graphics and Image Processing 13:222-241).
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
ALIKE = 1e-4  # [O] responses that differ from those to random pictures by a smaller share of themselves are no answer


@dataclass(frozen=True)
class Recipe:
    """How pictures are optimised.

    `objective`: a unit's response averaged over its "map", or in the "centre" cell of it. `steps` of Adam, with
    `learning_rate` in standard deviations of the logits of pixels. The picture is shifted by up to `shift` of its size
    each way, scaled by up to 1 +- `scale` and turned by up to `turn` degrees, edge pixels repeated outside; these
    ranges shrink evenly to nothing at the last step. The start is that of `starts` random pictures, of `contrast` (sd
    of their logits), that drives the unit most. `batch_size` units are optimised at once.
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
    """The pictures of n units of a layer. Responses are means over the map, or of its centre, as optimised.

    `units` (n,); `images` float32 (n, size, size) or RGB (n, size, size, 3) in [0, 1], NaN for a dead unit; `response`
    (n,) to the finished picture, `start` (n,) to the one it began with, `baseline` (n,) the mean over all random
    starts, each to the picture as it is; `course` (n, steps) at every step, to the picture as moved.
    `dead` (n,): no picture ever woke the unit, or it answers all of them alike (see `ALIKE`).
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
    """The pictures that units of `layer` (dotted name) prefer: of all units that have a stream, in that order.

    A unit's stream gives its starts and moves, drawn before anything is computed: equal streams give equal pictures,
    whichever units run beside it. Batches are filled up to `recipe.batch_size`, as sums run in another order in other
    sizes, and small differences grow; under `models.device.deterministic`, pictures of a multiple of 8 px are then
    equal to the last bit, others up to rounding. Pictures stay on the CPU, the network alone goes to `device`: a GPU
    adds gradients of moved pixels in no fixed order. The network gets its mode and device back, parameters no gradient.
    `StudyError` for unknown layers and units, for none at all, and for a preset that does not fit the network.
    """
    least = trunks.find_smallest_image(network.block)
    if preset.channels != network.channels or preset.size < least:
        raise StudyError(
            f"a preset of {preset.size} px and {preset.channels} channel(s): this network takes {network.channels} "
            f"channel(s), and {least} px or more. Use the preset of its checkpoint."
        )
    part, canvas = _Part(network, layer, recipe.objective), _Canvas(preset, recipe)
    units = np.array(list(streams), dtype=np.int64)
    wrong = units[(units < 0) | (units >= part.units)]
    if not len(units) or len(wrong):
        raise StudyError(f"layer {layer!r} has units 0 ... {part.units - 1}, got {wrong[0] if len(wrong) else 'none'}.")
    batches = []
    with on_device(network, device, training=False):
        for first in range(0, len(units), recipe.batch_size):
            batch = units[first : first + recipe.batch_size]
            draws = [_drawn(canvas, recipe, streams[int(unit)]) for unit in batch]
            filled = np.arange(recipe.batch_size).clip(max=len(batch) - 1)
            found = _climbed(part, canvas, torch.from_numpy(batch[filled]), [draws[i] for i in filled], device)
            batches.append([tensor[: len(batch)].numpy() for tensor in found])
    return PreferredStimuli(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))


def _drawn(canvas: _Canvas, recipe: Recipe, stream: np.random.Generator) -> tuple[Floats, Floats]:
    """All that is random about a unit: starts (starts, *coefficients) and moves (steps, 4), in [-1, 1), then less."""
    starts = recipe.contrast * stream.standard_normal((recipe.starts, *canvas.shape), dtype=np.float32)
    moves = stream.uniform(-1, 1, (recipe.steps, 4)) * np.linspace(1, 0, recipe.steps)[:, None]
    return starts, moves.astype(np.float32)


class _Canvas:
    """From coefficients (n, channels, size, size // 2 + 1, 2) to pictures, and to what the network sees of them."""

    def __init__(self, preset: Preset, recipe: Recipe) -> None:
        self.preset, self.recipe = preset, recipe
        size, frequency = preset.size, np.fft.fftfreq(preset.size)
        self.shape = (preset.channels, size, size // 2 + 1, 2)
        scale = 1 / np.maximum(np.hypot(frequency[:, None], frequency), 1 / size)
        scale /= np.sqrt(2 * np.mean(scale**2))  # unit-normal coefficients give logits of unit variance
        self.scale = torch.tensor(scale[:, : size // 2 + 1, None], dtype=torch.float32)
        colours = np.array(COLOURS if preset.channels == 3 else [[1.0]])
        self.colours = torch.tensor(colours / np.sqrt((colours**2).sum() / len(colours)), dtype=torch.float32)

    def pictures(self, coefficients: torch.Tensor) -> torch.Tensor:
        """(n, channels, size, size) in [0, 1]."""
        spectra = torch.view_as_complex(coefficients * self.scale)
        planes = torch.fft.irfft2(spectra, s=(self.preset.size, self.preset.size), norm="ortho")
        return torch.einsum("rc,nchw->nrhw", self.colours, planes).sigmoid()

    def moved(self, pictures: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        """Pictures shifted, scaled and turned by `moves` (n, 4), which are shares of what the recipe allows."""
        right, down, larger, turned = moves.T
        angle, zoom = turned * np.deg2rad(self.recipe.turn), 1 / (1 + larger * self.recipe.scale)
        cosine, sine, shift = zoom * angle.cos(), zoom * angle.sin(), 2 * self.recipe.shift  # sides go from -1 to 1
        rows = torch.stack([cosine, -sine, shift * right, sine, cosine, shift * down], dim=1)
        grid = functional.affine_grid(rows.view(-1, 2, 3), list(pictures.shape), align_corners=False)
        return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


class _Part:
    """A network up to one layer, of which each picture meets one filter: in shallow layers all are most of the work."""

    def __init__(self, network: FaceNetwork, layer: str, objective: str) -> None:
        self.objective = objective
        modules = _way(network, layer)
        split = max(i for i, module in enumerate(modules) if isinstance(module, nn.Conv2d | nn.Linear | nn.Flatten))
        filters, above = modules[split], modules[split + 1 :]
        if not isinstance(filters, nn.Conv2d | nn.Linear):
            raise StudyError(f"layer {layer!r} only rearranges units: ask for those of the layer before or behind it.")
        self.filters, self.units = filters, len(filters.weight)
        self.below = nn.Sequential(*modules[:split])
        self.norm = above.pop(0) if above and isinstance(above[0], nn.BatchNorm2d) else None
        self.rectified = bool(above)  # what follows is a ReLU, with or without pools behind it
        self.pools = nn.Sequential(*above[1:])

    def answers(self, images: torch.Tensor, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of unit `units[i]` to image i: its response (n,), and what to climb: if silent, what its ReLU reads."""
        drive = _filtered(self.filters, self.below(images), units)
        if self.norm is not None:
            drive = _normalised(self.norm, drive, units)
        if not self.rectified:
            return self._placed(drive), self._placed(drive)
        response = self._placed(self.pools(drive.relu()))
        read = self.pools(drive)  # of an odd map, a pool leaves out the last row and column
        waking = read.flatten(1).amax(dim=1) if self.objective == "map" else self._placed(read)
        waking = waking.clamp(max=0)  # no silent picture may outrank one that drives the unit
        return response, torch.where(response > 0, response, waking)

    def _placed(self, values: torch.Tensor) -> torch.Tensor:
        if values.ndim == 4 and self.objective == "centre":
            return values[:, 0, values.shape[2] // 2, values.shape[3] // 2]
        return values.flatten(1).mean(dim=1)


def _way(network: FaceNetwork, layer: str) -> list[nn.Module]:
    """The modules from the image to `layer`, the last of them."""
    end = get_layer(network, layer)
    for task in network.tasks:
        branch = network.branches[task].children() if task in network.branches else ()
        way = [*network.trunk, *branch, network.heads[task]]
        if end in way:
            break
    return way[: way.index(end) + 1]


def _filtered(filters: nn.Conv2d | nn.Linear, below: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Each row of `below` through its unit's filter: (n, 1, h, w); (n, 1) for a linear layer."""
    weight = filters.weight[units]
    bias = weight.new_zeros(()) if filters.bias is None else filters.bias[units, None]
    if isinstance(filters, nn.Linear):
        return (below * weight).sum(dim=1, keepdim=True) + bias
    # all taps of a filter at all places in one product, then each added where it belongs: many times faster than a
    # convolution in groups. It holds for convolutions that keep the size of the map, as all of ours do
    taps = weight.flip(2, 3).flatten(2).transpose(1, 2) @ below.flatten(2)
    margin = filters.kernel_size[0] // 2, filters.kernel_size[1] // 2
    return functional.fold(taps, below.shape[2:], filters.kernel_size, padding=margin) + bias[..., None, None]


def _normalised(norm: Any, values: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Batch norm of (n, 1, h, w) by its running statistics, each row as the channel of its unit."""
    mean, var, weight, bias = (own[units] for own in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return functional.batch_norm(values.transpose(0, 1), mean, var, weight, bias, eps=norm.eps).transpose(0, 1)


def _climbed(
    part: _Part, canvas: _Canvas, units: torch.Tensor, draws: list[tuple[Floats, Floats]], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Gradient ascent for a batch of units, which Adam, being elementwise, keeps apart: `PreferredStimuli`'s fields."""

    def answers(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = (pictures - canvas.preset.mean) / canvas.preset.std
        response, objective = part.answers(seen.to(device), units.to(device))
        return response.cpu(), objective.cpu()

    starts, moves = (torch.from_numpy(np.stack(drawn, axis=1)) for drawn in zip(*draws, strict=True))
    with torch.no_grad():
        tried, objectives = map(torch.stack, zip(*(answers(canvas.pictures(start)) for start in starts), strict=True))
    best = objectives.argmax(dim=0), torch.arange(len(units))
    coefficients = starts[best].requires_grad_()
    # fused: plain Adam calls torch.sqrt, which has other bits on other makers' processors; eps: small beside responses
    adam = torch.optim.Adam([coefficients], lr=canvas.recipe.learning_rate, eps=1e-16, fused=True)
    course, moving = [], torch.zeros(len(units), dtype=torch.bool)
    for move in moves:
        with torch.enable_grad():
            response, objective = answers(canvas.moved(canvas.pictures(coefficients), move))
            (coefficients.grad,) = torch.autograd.grad(-objective.sum(), coefficients)
        adam.step()
        course.append(response.detach())
        moving |= coefficients.grad.flatten(1).any(dim=1)
    with torch.no_grad():
        pictures = canvas.pictures(coefficients)
        response = answers(pictures)[0]
    baseline = tried.mean(dim=0)
    dead = ~moving | ((response - baseline).abs() <= ALIKE * response.abs())
    if part.rectified:
        dead |= ~torch.stack([*tried, *course, response]).any(dim=0)
    pictures[dead] = torch.nan
    images = pictures.permute(0, 2, 3, 1).squeeze(-1)
    return units, images, response, tried[best], baseline, torch.stack(course, dim=1), dead
