"""How fast is the joint network trained, compared with a plain PyTorch loop that does the same work?

    python benchmarks/training.py --images 2048 --repeats 5

Both fit the default joint network to the same images for one epoch with one thread, in turns. The plain loop has a
DataLoader per task, runs the network's modules one after the other, and uses torch's AdamW with its default settings.
Prints Markdown. FACESPEC_CODE_PATH=native measures on the code path that the libraries choose themselves.
"""

from __future__ import annotations

from facespec.study.code_path import choose_code_path

choose_code_path()

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from facespec.data.batches import make_small_preset
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import write_faceset
from facespec.models.device import deterministic_torch
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.code_path import get_code_path
from facespec.study.params import NetworkBlock, Train
from facespec.study.seeds import generator
from facespec.study.tables import LABELS
from facespec.training.fit import Plan, TaskData, count_epoch_steps, fit

CLASSES = {"expression": 7, "identity": 100}
CPU = torch.device("cpu")


def build_joint_network() -> FaceNetwork:
    """The default joint network, untrained."""
    block = NetworkBlock(trunk="small_vgg", channels=[16, 32, 64, 128], convolutions=1, branch_after=None)
    return build_network(block, CLASSES, channels=1, generator=torch.Generator().manual_seed(1))


def make_plan(px: int, batch: int, images: int) -> Plan:
    """One epoch under the default parameters."""
    block = Train(
        schedule="summed",
        epochs=1,
        batch_size=batch,
        optimizer="adamw",
        learning_rate=0.003,
        weight_decay=0.01,
        step_epochs=30,
        label_smoothing=0.1,
        preset="small",
    )
    return Plan(block, make_small_preset(px, 1), CPU, count_epoch_steps([images], batch))


def write_noise(directory: Path, n: int, px: int) -> dict[str, TaskData]:
    """`n` grey images of noise per task."""
    draws, data = generator(2, "noise"), {}
    for task, classes in CLASSES.items():
        images = draws.integers(0, 256, (n, px, px), dtype=np.uint8)
        labels = pd.DataFrame("", index=range(n), columns=list(LABELS.columns))
        labels = labels.assign(stimulus=[f"{i:06d}" for i in range(n)], split="train")
        about = FaceSetDescription("identity", n, None, {"source": "noise"})
        faces = write_faceset(directory / task, [FaceChunk(images, labels)], about)
        data[task] = TaskData(faces, np.arange(n), draws.integers(0, classes, n))
    return data


class ShiftedFaces(Dataset):
    """Single images, shifted and flipped at random, as a user of PyTorch would write it."""

    def __init__(self, data: TaskData, shift: int) -> None:
        self.faces, self.codes, self.shift = data.faces, data.codes, shift

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        face = torch.from_numpy(self.faces.images(np.array([row]))).float()
        padded = functional.pad(face[None], [self.shift] * 4, mode="replicate")[0]
        top, left = torch.randint(0, 2 * self.shift + 1, (2,)).tolist()
        image = padded[:, top : top + face.shape[1], left : left + face.shape[2]]
        image = image.flip(2) if torch.rand(()) < 0.5 else image
        return image.div(255).sub(0.5).div(0.5), int(self.codes[row])


def train_plainly(network: FaceNetwork, data: dict[str, TaskData], plan: Plan) -> None:
    """Train for one epoch in a plain loop, with a constant learning rate (a schedule costs no time)."""
    block = plan.block
    loaders = [
        DataLoader(ShiftedFaces(task, plan.preset.shift), batch_size=block.batch_size, shuffle=True)
        for task in data.values()
    ]
    optimizer = torch.optim.AdamW(network.parameters(), lr=block.learning_rate, weight_decay=block.weight_decay)
    network.train()
    for batches in zip(*loaders, strict=True):
        images = torch.cat([images for images, _ in batches]).contiguous(memory_format=torch.channels_last)
        shared = network.trunk(images).split([len(classes) for _, classes in batches])
        loss = torch.zeros(())
        for task, responses, (_, classes) in zip(data, shared, batches, strict=True):
            logits = network.heads[task](responses)
            loss = loss + functional.cross_entropy(logits, classes, label_smoothing=block.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def measure_seconds(data: dict[str, TaskData], plan: Plan, repeats: int, scratch: Path) -> dict[str, list[float]]:
    """Seconds per epoch, in turns, after one epoch of each to warm up."""

    def facespec() -> None:
        fit(build_joint_network(), data, plan, generator=generator(3, "batches"), progress_file=scratch / "unfinished")
        (scratch / "unfinished").unlink()

    work: dict[str, Callable[[], None]] = {
        "facespec": facespec,
        "plain loop": lambda: train_plainly(build_joint_network(), data, plan),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"images": 2048, "repeats": 5, "px": 48, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]), deterministic_torch():
        data = write_noise(Path(scratch), options.images, options.px)
        seconds = measure_seconds(
            data, make_plan(options.px, options.batch, options.images), options.repeats, Path(scratch)
        )
    ratios = [plain / ours for plain, ours in zip(seconds["plain loop"], seconds["facespec"], strict=True)]
    print(
        f"Default joint network, {options.images} images of {options.px}x{options.px} px per task, batches of "
        f"{options.batch} per task; CPU, one thread, {get_code_path().name} code path; torch {torch.__version__}; "
        f"{options.repeats} repeats, interleaved.\n\n"
        "| | images/s, median (least to most) | times the plain loop |\n|---|---|---|"
    )
    for name, times in seconds.items():
        speeds = sorted(len(CLASSES) * options.images / time_taken for time_taken in times)
        speed = f"{statistics.median(speeds):,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f})"
        times_plain = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {speed} | {times_plain if name == 'facespec' else '1.00'} |")


if __name__ == "__main__":
    main()
