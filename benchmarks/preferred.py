"""Preferred stimuli side by side in one run: facespec, and lucent one unit at a time, on the same network.

    python benchmarks/preferred.py --px 48 --steps 64 --units 16 --peer-units 2

Both optimise pictures of the same size for the same number of steps, for units of the same layers. lucent draws one
unit after the other, so it draws only the first few. The measure is the same for both: the unit's mean response to the
finished picture in a plain forward pass. Where lucent (package torch-lucent) is not installed, a loop written after it
takes its place, and the table says so. Weights are random, because time does not depend on them. Prints Markdown.
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
TARGET = 5.0  # how many times as many units per minute as the peer facespec should draw
Runner = Callable[[FaceNetwork, str, int, argparse.Namespace], np.ndarray]


def build_joint_network(trunk: str) -> FaceNetwork:
    block = NetworkBlock(trunk=trunk, channels=[16, 32, 64, 128], convolutions=1, branch_after=None)
    classes = {"expression": 7, "identity": 70}
    return build_network(block, classes, channels=CHANNELS, generator=torch.Generator().manual_seed(1)).eval()


def draw_with_facespec(network: FaceNetwork, layer: str, units: int, options: argparse.Namespace) -> np.ndarray:
    preset = Preset("bench", options.px, CHANNELS, resize=None, shift=0, flip=False, grey_probability=0.0)
    streams = {unit: generator(1, layer, unit) for unit in range(units)}
    recipe = Recipe(steps=options.steps, batch_size=options.batch)
    stimuli = optimise_stimuli(network, layer, streams, preset=preset, recipe=recipe, device=torch.device("cpu"))
    return stimuli.images


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images - 0.5) / 0.5


def draw_with_lucent(network: FaceNetwork, layer: str, units: int, options: argparse.Namespace) -> np.ndarray:
    images = []
    for unit in range(units):
        (image,) = render.render_vis(
            network,
            f"{layer.replace('.', '_')}:{unit}",
            lambda: param.image(options.px),
            preprocess=False,
            transforms=[*standard_transforms, normalise],
            thresholds=(options.steps,),
            progress=False,
            show_image=False,
            fixed_image_size=options.px,
        )
        for module in network.modules():
            module._forward_hooks.clear()  # lucent does not remove its hooks, which would slow down the next unit
        images.append(image[0])
    return np.array(images)


def draw_with_loop(network: FaceNetwork, layer: str, units: int, options: argparse.Namespace) -> np.ndarray:
    """Draw as lucent does: one picture at a time, its transformations and sizes, and the whole network."""
    return np.array([_draw_unit(network, layer, unit, options) for unit in range(units)])


def _draw_unit(network: FaceNetwork, layer: str, unit: int, options: argparse.Namespace) -> np.ndarray:
    px, draws = options.px, generator(2, layer, unit)
    frequency = np.hypot(np.fft.fftfreq(px)[:, None], np.fft.rfftfreq(px))
    scale = torch.tensor(1 / np.maximum(frequency, 1 / px)[..., None], dtype=torch.float32)
    start = 0.01 * draws.standard_normal((1, CHANNELS, *frequency.shape, 2), dtype=np.float32)
    spectrum = torch.from_numpy(start).requires_grad_()
    colours = torch.tensor(np.array(COLOURS) / np.linalg.norm(COLOURS, axis=0).max(), dtype=torch.float32)
    recorded: list[torch.Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _, __, maps: recorded.append(maps))

    def make_image() -> torch.Tensor:
        planes = torch.fft.irfft2(torch.view_as_complex(scale * spectrum), s=(px, px), norm="ortho") / 4
        return torch.einsum("rc,nchw->nrhw", colours, planes).sigmoid()

    adam = torch.optim.Adam([spectrum], lr=0.05)
    for _ in range(options.steps):
        adam.zero_grad()
        network(normalise(_transform(make_image(), draws, px)))
        (-recorded.pop()[:, unit].mean()).backward()
        adam.step()
    handle.remove()
    return make_image().detach()[0].permute(1, 2, 0).numpy()


def _transform(image: torch.Tensor, draws: np.random.Generator, px: int) -> torch.Tensor:
    """lucent's standard transformations, in px and degrees."""
    image = functional.pad(image, [12] * 4, value=0.5)
    image = transforms.affine(image, 0, [int(draws.integers(8)), int(draws.integers(8))], 1.0, [0.0, 0.0])
    image = functional.interpolate(image, scale_factor=1 + float(draws.integers(-5, 6)) / 50, mode="bilinear")
    angle = float(draws.choice([*range(-10, 11), *[0] * 5]))
    image = transforms.rotate(image, angle, transforms.InterpolationMode.BILINEAR)
    image = transforms.affine(image, 0, [int(draws.integers(4)), int(draws.integers(4))], 1.0, [0.0, 0.0])
    return functional.interpolate(image, size=(px, px), mode="bilinear", align_corners=True)


def pick_peer() -> tuple[str, Runner]:
    return ("a loop after lucent", draw_with_loop) if render is None else ("lucent", draw_with_lucent)


def measure_responses(network: FaceNetwork, layer: str, images: np.ndarray) -> np.ndarray:
    """Each unit's response to the picture made for it, a mean over the map."""
    with torch.no_grad(), record_responses(network, [layer]) as maps:
        network(normalise(torch.from_numpy(images).permute(0, 3, 1, 2)))
    return maps[layer].mean(dim=(2, 3)).diagonal().numpy()


def measure_layers(network: FaceNetwork, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Per layer: units per minute of facespec and of the peer, and the responses of units that both have drawn."""
    rows = []
    for layer in options.layers or [find_rectifier(network, name) for name in list_convolutions(network)]:
        speed, responses = [], []
        for run, units in ((draw_with_facespec, options.units), (pick_peer()[1], options.peer_units)):
            start = time.perf_counter()
            images = run(network, layer, units, options)
            speed.append(60 * units / (time.perf_counter() - start))
            compared = images[: options.peer_units]
            responses.append(np.nan_to_num(measure_responses(network, layer, compared)))
        filters = network.get_submodule(layer.replace("relu", "conv")).out_channels
        rows.append({"layer": layer, "units": filters, "speed": speed, "responses": responses})
    return rows


def write_report(options: argparse.Namespace) -> str:
    """Measure everything and format it as Markdown."""
    network = build_joint_network(options.trunk)
    if options.frozen:
        network.requires_grad_(False)
    name, run = pick_peer()
    for warm in (draw_with_facespec, run):
        warm(network, "trunk.relu1", 1, argparse.Namespace(**vars(options) | {"steps": 2}))
    rows = measure_layers(network, options)
    lines = [
        f"{options.trunk}, random weights{', frozen' if options.frozen else ''}, {options.px}x{options.px} px, "
        f"{CHANNELS} channels, {options.steps} steps; facespec: {options.units} units per layer, {options.batch} at "
        f"once; {name}: {options.peer_units} units per layer, one at a time; CPU, threads: {options.threads}; torch "
        f"{torch.__version__}.",
        "",
        f"| layer | facespec, units/min | {name}, units/min | ratio | response, facespec | response, {name} | higher |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        (ours, theirs), (response, peer_response) = row["speed"], row["responses"]
        lines.append(
            f"| {row['layer']} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.1f} | {response.mean():.3g} | "
            f"{peer_response.mean():.3g} | {(response >= peer_response).sum()} of {len(response)} |"
        )
    ratios = [row["speed"][0] / row["speed"][1] for row in rows]
    ours, theirs = (sum(row["units"] / row["speed"][i] for row in rows) for i in (0, 1))
    higher = np.concatenate([row["responses"][0] >= row["responses"][1] for row in rows])
    lines += [
        "",
        f"Median ratio {statistics.median(ratios):.1f} (least {min(ratios):.1f}, most {max(ratios):.1f}); "
        f"all {sum(row['units'] for row in rows):,} units of these layers: {theirs / ours:.1f}; target: at "
        f"least {TARGET:g}. Response not lower for {higher.sum()} of {len(higher)} units.",
    ]
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trunk", default="vgg16", choices=["vgg16", "small_vgg"])
    parser.add_argument("--layers", nargs="*", help="dotted names; none: the ReLU behind every convolution")
    parser.add_argument("--px", type=int, default=48, help="height and width of the pictures")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--units", type=int, default=16, help="per layer, for facespec")
    parser.add_argument("--peer-units", type=int, default=2, help="per layer, for the peer")
    parser.add_argument("--batch", type=int, default=16, help="units at once, for facespec")
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.add_argument("--frozen", action="store_true", help="compute no gradients of weights, for the peer either")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        print(write_report(options))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
