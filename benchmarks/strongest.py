"""How long does ranking images by every unit of every convolution take, compared with a plain forward pass?

    python benchmarks/strongest.py --images 10000 --repeats 3

Both read the same images from disk and pass them through the same network, in turns. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facespec.data.batches import ImageBatch, iterate_batches, make_small_preset
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.models.device import on_device
from facespec.models.layers import find_rectifier, list_convolutions
from facespec.models.networks import FaceNetwork, build_network
from facespec.responses.strongest import StrongestImages, find_strongest_images
from facespec.study.cores import count_cores
from facespec.study.params import NetworkBlock
from facespec.study.tables import LABELS

CLASSES = {"expression": 7, "identity": 70}
TARGET = 1.3  # at most this many times the plain pass
CPU = torch.device("cpu")


def build_joint_network() -> FaceNetwork:
    """The default joint network, untrained."""
    block = NetworkBlock(trunk="small_vgg", channels=[16, 32, 64, 128], convolutions=1, branch_after=None)
    return build_network(block, CLASSES, channels=1, generator=torch.Generator().manual_seed(1)).eval()


def write_noise(directory: Path, n: int, px: int) -> FaceSet:
    """`n` grey images of noise."""
    images = np.random.default_rng(2).integers(0, 256, (n, px, px), dtype=np.uint8)
    labels = pd.DataFrame("", index=range(n), columns=list(LABELS.columns))
    labels = labels.assign(stimulus=[f"{i:06d}" for i in range(n)], split="probe")
    return write_faceset(
        directory, [FaceChunk(images, labels)], FaceSetDescription("probe", 2048, None, {"source": "noise"})
    )


def iterate_faces(faces: FaceSet, batch: int) -> Iterator[ImageBatch]:
    preset = make_small_preset(faces.height, faces.channels)
    return iterate_batches(faces, np.arange(len(faces)), batch_size=batch, preset=preset, generator=None)


def pass_images(network: FaceNetwork, faces: FaceSet, batch: int) -> int:
    """Pass all images through the network; return how many there were."""
    count = 0
    with on_device(network, CPU, training=False), torch.inference_mode():
        for image_batch in iterate_faces(faces, batch):
            network(image_batch.images)
            count += len(image_batch.images)
    return count


def rank_images(network: FaceNetwork, faces: FaceSet, batch: int, k: int) -> dict[str, StrongestImages]:
    layers = [find_rectifier(network, name) for name in list_convolutions(network)]
    return find_strongest_images(network, iterate_faces(faces, batch), layers, k=k, device=CPU)


def measure_seconds(network: FaceNetwork, faces: FaceSet, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every repeat, in turns, after one pass to warm up."""
    work = {
        "plain": lambda: pass_images(network, faces, options.batch),
        "ranked": lambda: rank_images(network, faces, options.batch, options.k),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    pass_images(network, faces, options.batch)
    for _ in range(options.repeats):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--px", type=int, default=48, help="height and width of the images")
    parser.add_argument("--k", type=int, default=9, help="images per unit")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=count_cores())
    return parser.parse_args(arguments)


def write_report(options: argparse.Namespace) -> str:
    """Measure both and format the result as Markdown."""
    network = build_joint_network()
    with tempfile.TemporaryDirectory() as directory:
        seconds = measure_seconds(network, write_noise(Path(directory) / "faces", options.images, options.px), options)
    ratios = [ours / theirs for ours, theirs in zip(seconds["ranked"], seconds["plain"], strict=True)]
    units = sum(len(network.get_parameter(f"{name}.weight")) for name in list_convolutions(network))
    plain, ranked = (f"{statistics.median(seconds[name]):.2f} s" for name in ("plain", "ranked"))
    return "\n".join(
        [
            f"The {options.k} strongest of {options.images:,} images of {options.px}x{options.px} px for each of "
            f"{units} units; CPU, threads: {options.threads}; torch {torch.__version__}; "
            f"{options.repeats} repeats, interleaved.",
            "",
            "| plain forward pass | ranked | times the plain pass, median (least to most) | target |",
            "|---|---|---|---|",
            f"| {plain} | {ranked} | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) "
            f"| at most {TARGET} |",
        ]
    )


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
