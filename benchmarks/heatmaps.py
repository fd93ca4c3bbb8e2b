"""Grad-CAM side by side in one run: facespec, captum and pytorch-grad-cam on the same network and the same images.

    python benchmarks/heatmaps.py --images 32 --repeats 3

The work is a study's: the mean, over a set of images, of the heatmaps of both tasks of the joint network, each map
stretched to [0, 1], at the size of the image. First the maps themselves are compared, then the three take turns.
Last, facespec's peak memory is measured in fresh processes, at several numbers of images. Prints Markdown.
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

from facespec.analyses.heatmaps import Moments, compute_heatmaps
from facespec.models.layers import find_last_convolution, get_layer
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.cores import count_cores
from facespec.study.maps import scale_maps, upsample_maps
from facespec.study.params import NetworkBlock

CLASSES = {"expression": 7, "identity": 70}
CHANNELS = 3
TARGETS = {"captum": 1.5, "pytorch-grad-cam": 3.0}  # how many times as fast facespec is to be
Batch = tuple[torch.Tensor, dict[str, torch.Tensor]]
Means = dict[str, np.ndarray]
Runner = Callable[[FaceNetwork, Iterator[Batch]], Means]


class OneTask(nn.Module):
    """What the other libraries expect: images in, logits out."""

    def __init__(self, network: FaceNetwork, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images, [self.task])[self.task]


def network_of(trunk: str) -> FaceNetwork:
    block = NetworkBlock(trunk=trunk, channels=[16, 32, 64, 128], convolutions=1, branch_after=None)
    return build_network(block, CLASSES, channels=CHANNELS, generator=torch.Generator().manual_seed(1)).eval()


def batches(n: int, batch: int, px: int) -> Iterator[Batch]:
    """Blurred noise and classes, `batch` at a time, made as they are asked for."""
    draw = torch.Generator().manual_seed(2)
    for start in range(0, n, batch):
        own = min(batch, n - start)
        coarse = torch.rand((own, CHANNELS, 16, 16), generator=draw) * 2 - 1
        images = nn.functional.interpolate(coarse, size=(px, px), mode="bilinear")
        targets = {task: torch.randint(classes, (own,), generator=draw) for task, classes in CLASSES.items()}
        yield images.contiguous(memory_format=torch.channels_last), targets


def raw_facespec(network: FaceNetwork, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> Means:
    layers = {task: find_last_convolution(network, task) for task in CLASSES}
    return {task: maps.numpy() for task, maps in compute_heatmaps(network, images, layers, targets).items()}


def raw_captum(network: FaceNetwork, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> Means:
    raw = {}
    for task in CLASSES:
        explained = LayerGradCam(OneTask(network, task), get_layer(network, find_last_convolution(network, task)))
        raw[task] = explained.attribute(images, targets[task], relu_attributions=True)[:, 0].detach().numpy()
    return raw


def maps_pytorch_grad_cam(network: FaceNetwork, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> Means:
    """Its maps come stretched and as large as the images."""
    maps = {}
    for task in CLASSES:
        with GradCAM(OneTask(network, task), [get_layer(network, find_last_convolution(network, task))]) as cam:
            chosen: list[nn.Module] = [ClassifierOutputTarget(int(code)) for code in targets[task]]
            maps[task] = cam(input_tensor=images, targets=chosen)
    return maps


def mean_of_raw(raw: Callable[..., Means]) -> Runner:
    """Group means out of raw maps: stretched one by one, averaged, and the mean enlarged."""

    def run(network: FaceNetwork, data: Iterator[Batch]) -> Means:
        moments: dict[str, Moments] = {}
        size = (0, 0)
        for images, targets in data:
            size = (images.shape[2], images.shape[3])
            for task, maps in raw(network, images, targets).items():
                moments.setdefault(task, Moments(1, maps.shape[1:])).add(
                    scale_maps(maps), np.zeros(len(maps), dtype=int)
                )
        return {task: upsample_maps(own.mean[0], size) for task, own in moments.items()}

    return run


def mean_of_pytorch_grad_cam(network: FaceNetwork, data: Iterator[Batch]) -> Means:
    total: Means = {}
    n = 0
    for images, targets in data:
        for task, maps in maps_pytorch_grad_cam(network, images, targets).items():
            total[task] = total.get(task, 0) + maps.sum(axis=0, dtype=np.float64)
        n += len(images)
    return {task: own / n for task, own in total.items()}


RUNNERS: dict[str, Runner] = {
    "facespec": mean_of_raw(raw_facespec),
    "captum": mean_of_raw(raw_captum),
    "pytorch-grad-cam": mean_of_pytorch_grad_cam,
}


def differences(network: FaceNetwork, data: Iterator[Batch]) -> dict[str, float]:
    """The largest difference of any map's cell from facespec's, on the scale from 0 to 1, per library."""
    largest = dict.fromkeys(TARGETS, 0.0)
    for images, targets in data:
        ours, captums = raw_facespec(network, images, targets), raw_captum(network, images, targets)
        theirs = maps_pytorch_grad_cam(network, images, targets)
        for task, own in ours.items():
            # pytorch-grad-cam stretches before and after enlarging: so are ours, to be comparable
            enlarged = scale_cam_image(scale_cam_image(own, (images.shape[3], images.shape[2])))
            apart = {
                "captum": np.nan_to_num(scale_maps(own)) - np.nan_to_num(scale_maps(captums[task])),
                "pytorch-grad-cam": enlarged - theirs[task],
            }
            for name, values in apart.items():
                largest[name] = max(largest[name], float(np.abs(values).max()))
    return largest


def seconds(network: FaceNetwork, data: Sequence[Batch], repeats: int) -> dict[str, list[float]]:
    """Seconds of every repeat, the libraries taking turns; each has one batch to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in RUNNERS}
    for run in RUNNERS.values():
        run(network, iter(data[:1]))
    for _ in range(repeats):
        for name, run in RUNNERS.items():
            start = time.perf_counter()
            run(network, iter(data))
            taken[name].append(time.perf_counter() - start)
    return taken


def peak_here(n: int, options: argparse.Namespace) -> float:
    """Peak memory of this process, MB, after the means of `n` images."""
    RUNNERS["facespec"](network_of(options.trunk), batches(n, options.batch, options.memory_px))
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where ru_maxrss of a fresh process begins at what its parent held
        return int(re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)[0]) * 1024 / 1e6
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def peak(n: int, options: argparse.Namespace) -> float:
    """The same, of a fresh process."""
    settings = {
        "trunk": options.trunk,
        "batch": options.batch,
        "memory-px": options.memory_px,
        "threads": options.threads,
        "peak": n,
    }
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in settings.items())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
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
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)  # what the fresh process is told
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        print(peak_here(options.peak, options) if options.peak is not None else report(options))
    finally:
        torch.set_num_threads(threads)


def report(options: argparse.Namespace) -> str:
    """Everything, measured and set as Markdown."""
    network = network_of(options.trunk)
    data = list(batches(options.images, options.batch, options.px))
    apart = differences(network, iter(data))
    taken = seconds(network, data, options.repeats)
    median = {name: statistics.median(own) for name, own in taken.items()}
    lines = [
        f"{options.trunk}, joint network ({CLASSES['expression']} expressions, {CLASSES['identity']} people), "
        f"{options.images} images of {options.px}x{options.px} px and {CHANNELS} channels in batches of "
        f"{options.batch}; CPU, threads: {options.threads}; torch {torch.__version__}; {options.repeats} repeats, "
        "interleaved.",
        "",
        "| library | images/s, median (least to most) | times facespec's time | target | largest difference of a map |",
        "|---|---|---|---|---|",
    ]
    for name, own in taken.items():
        rates = sorted(options.images / one for one in own)
        speed = f"{options.images / median[name]:.2f} ({rates[0]:.2f} to {rates[-1]:.2f})"
        peer = f"at least {TARGETS[name]} | {apart[name]:.1e}" if name in TARGETS else "- | -"
        lines.append(f"| {name} | {speed} | {median[name] / median['facespec']:.2f} | {peer} |")
    if options.memory_images:
        size = f"{options.memory_px}x{options.memory_px}"
        lines += ["", f"| images of {size} px | peak memory of facespec, MB |", "|---|---|"]
        lines += [f"| {n:,} | {peak(n, options):,.0f} |" for n in options.memory_images]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
