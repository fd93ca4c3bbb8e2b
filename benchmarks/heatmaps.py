"""Grad-CAM side by side in one run: facespec, captum and pytorch-grad-cam on the same network and the same images.

    python benchmarks/heatmaps.py --images 32 --repeats 3

Each library computes what a study needs: the mean heatmap over a set of images, for both tasks of the joint network,
each map scaled to [0, 1], at the size of the image. First the maps themselves are compared; then the three libraries
are timed in turns. Last, facespec's peak memory is measured in fresh processes, at several numbers of images. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from facespec.analyses.heatmaps import compute_heatmaps
from facespec.analyses.moments import Moments
from facespec.models.layers import find_last_convolution, get_layer
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.cores import count_cores
from facespec.study.maps import scale_maps, upsample_maps
from facespec.study.params import NetworkBlock

CLASSES = {"expression": 7, "identity": 70}
CHANNELS = 3
TARGETS = {"captum": 1.5, "pytorch-grad-cam": 3.0}  # how many times as fast as the library facespec should be
Batch = tuple[torch.Tensor, dict[str, torch.Tensor]]
Means = dict[str, np.ndarray]
Runner = Callable[[FaceNetwork, Iterator[Batch]], Means]


class OneTask(nn.Module):
    """A joint network with the output of one task, as the other libraries expect it: images in, logits out."""

    def __init__(self, network: FaceNetwork, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images, [self.task])[self.task]


def build_joint_network(trunk: str) -> FaceNetwork:
    block = NetworkBlock(trunk=trunk, channels=[16, 32, 64, 128], convolutions=1, branch_after=None)
    return build_network(block, CLASSES, channels=CHANNELS, generator=torch.Generator().manual_seed(1)).eval()


def iterate_noise(n: int, batch: int, px: int) -> Iterator[Batch]:
    """Blurred noise with random classes, `batch` images at a time, made when they are requested."""
    generator = torch.Generator().manual_seed(2)
    for start in range(0, n, batch):
        size = min(batch, n - start)
        coarse = torch.rand((size, CHANNELS, 16, 16), generator=generator) * 2 - 1
        images = nn.functional.interpolate(coarse, size=(px, px), mode="bilinear")
        targets = {task: torch.randint(classes, (size,), generator=generator) for task, classes in CLASSES.items()}
        yield images.contiguous(memory_format=torch.channels_last), targets


def compute_facespec_maps(network: FaceNetwork, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> Means:
    layers = {task: find_last_convolution(network, task) for task in CLASSES}
    return {task: maps.numpy() for task, maps in compute_heatmaps(network, images, layers, targets).items()}


def compute_captum_maps(network: FaceNetwork, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> Means:
    maps = {}
    for task in CLASSES:
        grad_cam = LayerGradCam(OneTask(network, task), get_layer(network, find_last_convolution(network, task)))
        maps[task] = grad_cam.attribute(images, targets[task], relu_attributions=True)[:, 0].detach().numpy()
    return maps


def compute_pytorch_grad_cam_maps(
    network: FaceNetwork, images: torch.Tensor, targets: dict[str, torch.Tensor]
) -> Means:
    """Maps of pytorch-grad-cam, which scales and enlarges them itself."""
    maps = {}
    for task in CLASSES:
        with GradCAM(OneTask(network, task), [get_layer(network, find_last_convolution(network, task))]) as grad_cam:
            classes: list[nn.Module] = [ClassifierOutputTarget(int(code)) for code in targets[task]]
            maps[task] = grad_cam(input_tensor=images, targets=classes)
    return maps


def average_maps_of(compute_maps: Callable[..., Means]) -> Runner:
    """Return a function that scales each map that `compute_maps` gives, averages them, and enlarges the mean."""

    def compute_means(network: FaceNetwork, data: Iterator[Batch]) -> Means:
        moments: dict[str, Moments] = {}
        size = (0, 0)
        for images, targets in data:
            size = (images.shape[2], images.shape[3])
            for task, maps in compute_maps(network, images, targets).items():
                moments.setdefault(task, Moments(1, maps.shape[1:])).add(
                    scale_maps(maps), np.zeros(len(maps), dtype=int)
                )
        return {task: upsample_maps(sums.mean[0], size) for task, sums in moments.items()}

    return compute_means


def average_pytorch_grad_cam_maps(network: FaceNetwork, data: Iterator[Batch]) -> Means:
    total: Means = {}
    n = 0
    for images, targets in data:
        for task, maps in compute_pytorch_grad_cam_maps(network, images, targets).items():
            total[task] = total.get(task, 0) + maps.sum(axis=0, dtype=np.float64)
        n += len(images)
    return {task: maps_sum / n for task, maps_sum in total.items()}


RUNNERS: dict[str, Runner] = {
    "facespec": average_maps_of(compute_facespec_maps),
    "captum": average_maps_of(compute_captum_maps),
    "pytorch-grad-cam": average_pytorch_grad_cam_maps,
}


def compare_maps(network: FaceNetwork, data: Iterator[Batch]) -> dict[str, float]:
    """Per library: the largest difference of any cell of a map from facespec's, on the scale from 0 to 1."""
    largest = dict.fromkeys(TARGETS, 0.0)
    for images, targets in data:
        facespec_maps, captum_maps = (
            compute_facespec_maps(network, images, targets),
            compute_captum_maps(network, images, targets),
        )
        grad_cam_maps = compute_pytorch_grad_cam_maps(network, images, targets)
        for task, maps in facespec_maps.items():
            # pytorch-grad-cam scales before and after enlarging; the same is done to facespec's maps
            enlarged = scale_cam_image(scale_cam_image(maps, (images.shape[3], images.shape[2])))
            differences = {
                "captum": np.nan_to_num(scale_maps(maps)) - np.nan_to_num(scale_maps(captum_maps[task])),
                "pytorch-grad-cam": enlarged - grad_cam_maps[task],
            }
            for name, values in differences.items():
                largest[name] = max(largest[name], float(np.abs(values).max()))
    return largest


def measure_seconds(network: FaceNetwork, data: Sequence[Batch], repeats: int) -> dict[str, list[float]]:
    """Seconds of every repeat, with the libraries in turns; each is warmed up on one batch."""
    seconds: dict[str, list[float]] = {name: [] for name in RUNNERS}
    for run in RUNNERS.values():
        run(network, iter(data[:1]))
    for _ in range(repeats):
        for name, run in RUNNERS.items():
            start = time.perf_counter()
            run(network, iter(data))
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_own_peak_memory(n: int, options: argparse.Namespace) -> float:
    """Peak memory of this process, in MB, after averaging the maps of `n` images."""
    RUNNERS["facespec"](build_joint_network(options.trunk), iterate_noise(n, options.batch, options.memory_px))
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where ru_maxrss of a fresh process starts at its parent's memory
        return int(re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)[0]) * 1024 / 1e6
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def measure_peak_memory(n: int, options: argparse.Namespace) -> float:
    """Peak memory of a fresh process, in MB, after averaging the maps of `n` images."""
    settings = {
        "trunk": options.trunk,
        "batch": options.batch,
        "memory-px": options.memory_px,
        "threads": options.threads,
        "peak": n,
    }
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in settings.items())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trunk", default="vgg16", choices=["vgg16", "small_vgg"])
    parser.add_argument("--px", type=int, default=224, help="height and width of the images")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.add_argument(
        "--memory-images", type=int, nargs="*", default=[0, 100, 1000], help="none: no memory is measured"
    )
    parser.add_argument("--memory-px", type=int, default=112, help="image size while memory is measured")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)  # passed to the fresh process
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        print(measure_own_peak_memory(options.peak, options) if options.peak is not None else write_report(options))
    finally:
        torch.set_num_threads(threads)


def write_report(options: argparse.Namespace) -> str:
    """Measure everything and format it as Markdown."""
    network = build_joint_network(options.trunk)
    data = list(iterate_noise(options.images, options.batch, options.px))
    differences = compare_maps(network, iter(data))
    seconds = measure_seconds(network, data, options.repeats)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    lines = [
        f"{options.trunk}, joint network ({CLASSES['expression']} expressions, {CLASSES['identity']} people), "
        f"{options.images} images of {options.px}x{options.px} px and {CHANNELS} channels in batches of "
        f"{options.batch}; CPU, threads: {options.threads}; torch {torch.__version__}; {options.repeats} repeats, "
        "interleaved.",
        "",
        "| library | images/s, median (least to most) | times facespec's time | target | largest difference of a map |",
        "|---|---|---|---|---|",
    ]
    for name, times in seconds.items():
        rates = sorted(options.images / time_taken for time_taken in times)
        speed = f"{options.images / median[name]:.2f} ({rates[0]:.2f} to {rates[-1]:.2f})"
        comparison = f"at least {TARGETS[name]} | {differences[name]:.1e}" if name in TARGETS else "- | -"
        lines.append(f"| {name} | {speed} | {median[name] / median['facespec']:.2f} | {comparison} |")
    if options.memory_images:
        size = f"{options.memory_px}x{options.memory_px}"
        lines += ["", f"| images of {size} px | peak memory of facespec, MB |", "|---|---|"]
        lines += [f"| {n:,} | {measure_peak_memory(n, options):,.0f} |" for n in options.memory_images]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
