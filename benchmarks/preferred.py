"""Preferred stimuli side by side in one run: facespec, and lucent one unit at a time, on the same network.

    python benchmarks/preferred.py --px 48 --steps 64 --units 16 --peer-units 2

Both optimise pictures of the same size by the same number of steps, for units of the same layers, and the network sees
pictures of that size. The peer's time grows with the units one by one, so it is given the first few of them. Pictures
are judged alike: the unit's mean response to the finished picture, as the network's own forward pass gives it. Where
lucent (on PyPI: torch-lucent) is not installed, a loop written after it stands in for it, and the table says so.
Weights are random: time does not depend on them. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torchvision.transforms import functional as transforms

from facespec.analyses.preferred import COLOURS, Recipe, optimise_stimuli
from facespec.data.batches import Preset
from facespec.models.layers import find_rectifier, list_convolutions
from facespec.models.networks import FaceNetwork, build_network
from facespec.responses.recording import record_responses
from facespec.study.cores import count_cores
from facespec.study.params import NetworkBlock
from facespec.study.seeds import generator

try:
    from lucent.optvis import param, render
    from lucent.optvis.transform import standard_transforms
except ImportError:
    render = None

CHANNELS = 3
TARGET = 5.0  # how many times as many units per minute facespec is to draw
Runner = Callable[[FaceNetwork, str, int, argparse.Namespace], np.ndarray]


def network_of(trunk: str) -> FaceNetwork:
    block = NetworkBlock(trunk=trunk, channels=[16, 32, 64, 128], list_convolutions=1, branch_after=None)
    classes = {"expression": 7, "identity": 70}
    return build_network(block, classes, channels=CHANNELS, generator=torch.Generator().manual_seed(1)).eval()


def drawn_by_facespec(network: FaceNetwork, layer: str, units: int, options: argparse.Namespace) -> np.ndarray:
    preset = Preset("bench", options.px, CHANNELS, resize=None, shift=0, flip=False, grey_probability=0.0)
    streams = {unit: generator(1, layer, unit) for unit in range(units)}
    recipe = Recipe(steps=options.steps, batch_size=options.batch)
    found = optimise_stimuli(network, layer, streams, preset=preset, recipe=recipe, device=torch.device("cpu"))
    return found.images


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - 0.5) / 0.5


def drawn_by_lucent(network: FaceNetwork, layer: str, units: int, options: argparse.Namespace) -> np.ndarray:
    images = []
    for unit in range(units):
        (image,) = render.render_vis(
            network,
            f"{layer.replace('.', '_')}:{unit}",
            lambda: param.image(options.px),
            preprocess=False,
            transforms=[*standard_transforms, normalised],
            thresholds=(options.steps,),
            progress=False,
            show_image=False,
            fixed_image_size=options.px,
        )
        for module in network.modules():
            module._forward_hooks.clear()  # lucent leaves its hooks behind, and they would slow down the next unit
        images.append(image[0])
    return np.array(images)


def drawn_by_loop(network: FaceNetwork, layer: str, units: int, options: argparse.Namespace) -> np.ndarray:
    """As lucent does it: coefficients of one picture, its transformations and sizes, and the whole network."""
    return np.array([_drawn_alone(network, layer, unit, options) for unit in range(units)])


def _drawn_alone(network: FaceNetwork, layer: str, unit: int, options: argparse.Namespace) -> np.ndarray:
    px, draw = options.px, generator(2, layer, unit)
    frequency = np.hypot(np.fft.fftfreq(px)[:, None], np.fft.rfftfreq(px))
    scale = torch.tensor(1 / np.maximum(frequency, 1 / px)[..., None], dtype=torch.float32)
    start = 0.01 * draw.standard_normal((1, CHANNELS, *frequency.shape, 2), dtype=np.float32)
    spectrum = torch.from_numpy(start).requires_grad_()
    colours = torch.tensor(np.array(COLOURS) / np.linalg.norm(COLOURS, axis=0).max(), dtype=torch.float32)
    kept: list[torch.Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _, __, maps: kept.append(maps))

    def picture() -> torch.Tensor:
        planes = torch.fft.irfft2(torch.view_as_complex(scale * spectrum), s=(px, px), norm="ortho") / 4
        return torch.einsum("rc,nchw->nrhw", colours, planes).sigmoid()

    adam = torch.optim.Adam([spectrum], lr=0.05)
    for _ in range(options.steps):
        adam.zero_grad()
        network(normalised(_transformed(picture(), draw, px)))
        (-kept.pop()[:, unit].mean()).backward()
        adam.step()
    handle.remove()
    return picture().detach()[0].permute(1, 2, 0).numpy()


def _transformed(image: torch.Tensor, draw: np.random.Generator, px: int) -> torch.Tensor:
    """lucent's standard transformations, in px and degrees."""
    image = functional.pad(image, [12] * 4, value=0.5)
    image = transforms.affine(image, 0, [int(draw.integers(8)), int(draw.integers(8))], 1.0, [0.0, 0.0])
    image = functional.interpolate(image, scale_factor=1 + float(draw.integers(-5, 6)) / 50, mode="bilinear")
    angle = float(draw.choice([*range(-10, 11), *[0] * 5]))
    image = transforms.rotate(image, angle, transforms.InterpolationMode.BILINEAR)
    image = transforms.affine(image, 0, [int(draw.integers(4)), int(draw.integers(4))], 1.0, [0.0, 0.0])
    return functional.interpolate(image, size=(px, px), mode="bilinear", align_corners=True)


def peer() -> tuple[str, Runner]:
    return ("a loop after lucent", drawn_by_loop) if render is None else ("lucent", drawn_by_lucent)


def responses(network: FaceNetwork, layer: str, images: np.ndarray) -> np.ndarray:
    """Mean over the map of each unit's response to its own picture."""
    with torch.no_grad(), record_responses(network, [layer]) as kept:
        network(normalised(torch.from_numpy(images).permute(0, 3, 1, 2)))
    return kept[layer].mean(dim=(2, 3)).diagonal().numpy()


def rows(network: FaceNetwork, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Per layer: units per minute of both, and the mean responses to their pictures of the same units."""
    table = []
    for layer in options.layers or [find_rectifier(network, name) for name in list_convolutions(network)]:
        speed, reached = [], []
        for run, units in ((drawn_by_facespec, options.units), (peer()[1], options.peer_units)):
            start = time.perf_counter()
            images = run(network, layer, units, options)
            speed.append(60 * units / (time.perf_counter() - start))
            alive = images[: options.peer_units]
            reached.append(np.nan_to_num(responses(network, layer, alive)))
        filters = network.get_submodule(layer.replace("relu", "conv")).out_channels
        table.append({"layer": layer, "units": filters, "speed": speed, "reached": reached})
    return table


def report(options: argparse.Namespace) -> str:
    """Everything, measured and set as Markdown."""
    network = network_of(options.trunk)
    if options.frozen:
        network.requires_grad_(False)
    name, run = peer()
    for warm in (drawn_by_facespec, run):
        warm(network, "trunk.relu1", 1, argparse.Namespace(**vars(options) | {"steps": 2}))
    table = rows(network, options)
    lines = [
        f"{options.trunk}, random weights{', frozen' if options.frozen else ''}, {options.px}x{options.px} px, "
        f"{CHANNELS} channels, {options.steps} steps; facespec: {options.units} units per layer, {options.batch} at "
        f"once; {name}: {options.peer_units} units per layer, one at a time; CPU, threads: {options.threads}; torch "
        f"{torch.__version__}.",
        "",
        f"| layer | facespec, units/min | {name}, units/min | ratio | response, facespec | response, {name} | higher |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        (ours, theirs), (own, other) = row["speed"], row["reached"]
        lines.append(
            f"| {row['layer']} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.1f} | {own.mean():.3g} | "
            f"{other.mean():.3g} | {(own >= other).sum()} of {len(own)} |"
        )
    ratios = [row["speed"][0] / row["speed"][1] for row in table]
    ours, theirs = (sum(row["units"] / row["speed"][i] for row in table) for i in (0, 1))
    higher = np.concatenate([row["reached"][0] >= row["reached"][1] for row in table])
    lines += [
        "",
        f"Median ratio {statistics.median(ratios):.1f} (least {min(ratios):.1f}, most {max(ratios):.1f}); "
        f"all {sum(row['units'] for row in table):,} units of these layers: {theirs / ours:.1f}; target: at "
        f"least {TARGET:g}. Response not lower for {higher.sum()} of {len(higher)} units.",
    ]
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trunk", default="vgg16", choices=["vgg16", "small_vgg"])
    parser.add_argument("--layers", nargs="*", help="dotted names; none: the ReLU behind every convolution")
    parser.add_argument("--px", type=int, default=48, help="height and width of the pictures")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--units", type=int, default=16, help="per layer, for facespec")
    parser.add_argument("--peer-units", type=int, default=2, help="per layer, for the peer")
    parser.add_argument("--batch", type=int, default=16, help="units at once, for facespec")
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.add_argument("--frozen", action="store_true", help="spare the peer the gradients of weights")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        print(report(options))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
