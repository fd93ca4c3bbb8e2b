"""What does it cost to know which units a task needs? facespec beside a loop over lesions, on the same network.

    python benchmarks/lesions.py --px 224 --rank-images 32 --screen-images 256

The loop is how lesions are usually computed: one at a time, units set to 0 in a forward hook after their ReLU, a pass
of the whole network over the images in batches without gradients, cross-entropy of the task. Both get the same images,
in memory, and run in turns. A: single units of VGG16's last convolution. B: the greedy ranking of every convolution of
the default network for both tasks, exact and screening. C: how facespec's time grows. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import skip_init

from facespec.analyses.lesions import LabelledImages, Search, count_units, make_objective, rank_units
from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models.layers import list_convolutions
from facespec.models.networks import FaceNetwork, build_network
from facespec.models.trunks import GlobalAverage
from facespec.responses.lesioned import LesionedNetwork
from facespec.stages.network_files import load_network
from facespec.study.cores import count_cores
from facespec.study.params import NetworkBlock, read_params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.vocabulary import TASKS, Network, Role

CLASSES = {"expression": 7, "identity": 70}
GROUP, GREEDY = 0.016, 0.2  # the default study's
SPEED_LAST, SPEED_EXACT, SPEED_SCREENING = 50, 4, 10  # targets of A and B: times as fast as the loop
JACCARD = 0.95  # target


class AveragedNetwork(nn.Module):
    """The convolutions of `network`, and heads, not yet initialised, that read the mean of the last one's map."""

    def __init__(self, network: FaceNetwork) -> None:
        super().__init__()
        last = list_convolutions(network)[-1].removeprefix("trunk.").replace("conv", "relu")
        named = list(network.trunk.named_children())
        named = named[: [name for name, _ in named].index(last) + 1]
        units = network.get_submodule(list_convolutions(network)[-1]).out_channels
        self.trunk = nn.Sequential(OrderedDict([*named, ("average", GlobalAverage())]))
        self.heads = nn.ModuleDict({task: skip_init(nn.Linear, units, n) for task, n in CLASSES.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        responses = self.trunk(images)
        return {task: head(responses) for task, head in self.heads.items()}


def randomise(module: nn.Module) -> nn.Module:
    """`module` with batch norms far from the identity, and linear layers in He scale."""
    draw, lowest = (
        torch.Generator().manual_seed(3),
        {"running_mean": -0.5, "bias": -0.5, "running_var": 0.5, "weight": 0.5},
    )
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for name, low in lowest.items():
                    getattr(layer, name).uniform_(low, low + 1, generator=draw)
            elif isinstance(layer, nn.Linear):
                layer.weight.normal_(0, (2 / layer.in_features) ** 0.5, generator=draw)
                layer.bias.uniform_(-0.5, 0.5, generator=draw)
    return module.eval()


def make_network(trunk: str, widths: Sequence[int], channels: int) -> FaceNetwork:
    block = NetworkBlock(trunk=trunk, channels=list(widths), convolutions=1, branch_after=None)
    network = build_network(block, CLASSES, channels=channels, generator=torch.Generator().manual_seed(1))
    randomise(network)
    return network


def make_noise(n: int, channels: int, px: int) -> LabelledImages:
    """Blurred noise in [-1, 1], and classes."""
    draw = torch.Generator().manual_seed(2)
    coarse = torch.rand((n, channels, 12, 12), generator=draw) * 2 - 1
    images = functional.interpolate(coarse, size=(px, px), mode="bilinear")
    return LabelledImages(
        lambda rows: images[rows], {task: torch.randint(k, (n,), generator=draw).numpy() for task, k in CLASSES.items()}
    )


def open_study(options: argparse.Namespace) -> tuple[str, FaceNetwork, LabelledImages]:
    """What part B is about: the first joint network of a study and the faces it was fine-tuned on, or random ones."""
    paths = Paths(options.study)
    path = paths.checkpoint("finetune", Network.JOINT, 1)
    if not (path.is_file() and paths.faces(Role.PROBE).is_dir()):
        network = make_network("small_vgg", options.channels, 1)
        images = make_noise(2 * max(options.rank_images, options.screen_images), 1, options.small_px)
        return "random weights, images of noise", network, images
    checkpoint = load_network(paths, "finetune", Network.JOINT, 1)
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    split = read_params(paths.params).split
    rows, _ = hold_out(faces.labels, split, generator(split.seed, "split"))  # as fine-tuning splits
    pixels = apply_preset(faces.images(rows), checkpoint.preset, None)
    classes = {task.value: encode_classes(faces.labels, task)[0][rows] for task in TASKS}
    images = LabelledImages(lambda positions: pixels[positions], classes)
    return f"fine-tuned weights (joint, seed 1), {faces.source}", checkpoint.network, images


class Ranking(NamedTuple):
    """Units of a layer, and the images and the task by which they are ranked."""

    network: nn.Module
    layer: str
    images: LabelledImages
    task: str

    @property
    def units(self) -> int:
        return int(self.network.get_submodule(self.layer).out_channels)

    def run_facespec(self, search: Search) -> pd.DataFrame:
        lesioned, objective = LesionedNetwork(self.network, self.layer), make_objective(self.images, self.task)
        draw = generator(1, self.layer, self.task)
        return rank_units(lesioned, self.images, objective, search=search, generator=draw)

    def run_loop(self, search: Search) -> pd.DataFrame:
        """The same search on the same images, lesion by lesion."""
        draw, table = generator(1, self.layer, self.task), []
        for number, size in enumerate(search.plan_rounds(self.units)):
            rows, lesion = draw.permutation(len(self.images))[: search.images], [row["unit"] for row in table]
            before = self.compute_loss(lesion, rows, search.batch_size)
            increase = {
                unit: self.compute_loss([*lesion, unit], rows, search.batch_size) - before
                for unit in range(self.units)
                if unit not in lesion
            }
            best = sorted(increase, key=lambda unit, increase=increase: (-increase[unit], unit))[:size]
            table += [{"unit": unit, "round": number, "increase": increase[unit]} for unit in best]
        return pd.DataFrame(table)

    def compute_loss(self, lesion: list[int], rows: np.ndarray, batch_size: int) -> float:
        """Mean cross-entropy on the images `rows` with units set to 0: a forward pass of the whole network."""

        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            output[:, lesion] = 0

        handle, total = self.network.get_submodule(self.layer.replace("conv", "relu")).register_forward_hook(hook), 0.0
        try:
            with torch.no_grad():
                for batch in np.split(rows, range(batch_size, len(rows), batch_size)):
                    classes = torch.from_numpy(self.images.classes[self.task][batch])
                    logits = self.network(self.images.images(batch))[self.task]
                    total += functional.cross_entropy(logits, classes, reduction="none").double().sum().item()
        finally:
            handle.remove()
        return total / len(rows)


def count_passes(search: Search, units: int) -> int:
    """How many times the loop runs the network over the images of a round: once per lesion, and once without."""
    sizes = search.plan_rounds(units)
    return sum(units - sum(sizes[:number]) + 1 for number in range(len(sizes)))


def measure_time(run: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds, and what `run` returns."""
    start = time.perf_counter()
    result = run(*arguments)
    return time.perf_counter() - start, result


def compute_jaccard(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Jaccard index of the units that two rankings of a layer choose."""
    units, others = (set(table["unit"][: count_units(GREEDY, len(table))]) for table in (first, second))
    return len(units & others) / len(units | others)


def compare_rankings(first: pd.DataFrame, second: pd.DataFrame) -> tuple[float, int]:
    """The largest difference of a unit's increase, and how many ranks have another unit."""
    one, other = (table.set_index("unit")["increase"] for table in (first, second))
    moved = first["unit"].to_numpy() != second["unit"].to_numpy()
    return float(one.sub(other).abs().max()), int(moved.sum())


def format_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows)]


def measure_last_convolution(options: argparse.Namespace) -> list[str]:
    """Part A."""
    network = make_network("vgg16", options.channels, 3)
    images, layer = make_noise(options.images, 3, options.px), list_convolutions(network)[-1]
    search, positions, rows = Search(1, 0, options.images, batch_size=options.batch), np.arange(options.images), []
    for head, model in (
        ("fc6, fc7, linear", network),
        ("mean of the map, linear", randomise(AveragedNetwork(network))),
    ):
        ranking, facespec_times, loop_times = Ranking(model, layer, images, "identity"), [], []
        n = min(options.peer_units, ranking.units)
        units = np.linspace(0, ranking.units - 1, n).round().astype(int).tolist()
        before = ranking.compute_loss([], positions, options.batch)
        for turn in range(options.repeats + 1):  # the first to warm up
            seconds, table = measure_time(ranking.run_facespec, search)
            single = [measure_time(ranking.compute_loss, [unit], positions, options.batch) for unit in units]
            facespec_times += [seconds] if turn else []
            loop_times += [time for time, _ in single] if turn else []
        expected = pd.DataFrame({"unit": units, "increase": [loss - before for _, loss in single]})
        expected = expected.sort_values(["increase", "unit"], ascending=[False, True])
        difference, moved = compare_rankings(table[table["unit"].isin(units)], expected)
        facespec_time, unit_time = statistics.median(facespec_times), statistics.median(loop_times)
        loop_time = unit_time * ranking.units
        rows.append([head, ranking.units, *(f"{value:.4g}" for value in (facespec_time, unit_time, loop_time))])
        rows[-1] += [f"{loop_time / facespec_time:.4g}", f"at least {SPEED_LAST}", f"{difference:.1e}"]
        rows[-1] += [f"{expected['increase'].abs().max():.1e}", moved]
    columns = "head | units | facespec, all units, s | loop, a unit, s | loop, all units (product), s | ratio | target"
    columns += " | largest difference, nats | largest increase, nats | ranks that differ"
    return [
        f"A. vgg16, {layer}, random weights; {options.images} images of noise, {options.px}x{options.px} px; one-pass "
        f"mode, task identity; {options.repeats} repeats, in turns. The loop is timed on {len(units)} units, and its "
        "median multiplied by the number of units: its time per unit is constant.",
        "",
        *format_table(columns.split(" | "), rows),
    ]


def measure_exact(rankings: Sequence[Ranking], options: argparse.Namespace) -> list[Any]:
    """A row of the table of exact rankings of a layer, on few images: the loop runs completely."""
    search, seconds = Search(GROUP, GREEDY, options.rank_images, batch_size=options.batch), np.zeros(2)
    largest, moved, passes = 0.0, 0, sum(count_passes(search, ranking.units) for ranking in rankings)
    for ranking in rankings:
        (loop_time, expected), (time_, table) = (
            measure_time(run, search) for run in (ranking.run_loop, ranking.run_facespec)
        )
        difference, others = compare_rankings(table, expected)
        seconds += loop_time, time_
        largest, moved = max(largest, difference), moved + others
    return [rankings[0].layer, rankings[0].units, passes, *seconds, largest, moved]


def measure_screening(rankings: Sequence[Ranking], options: argparse.Namespace) -> list[Any]:
    """A row of the table of both modes, on many images: single passes of the loop are timed in between."""
    search = Search(GROUP, GREEDY, options.screen_images, batch_size=options.batch)
    passes = sum(count_passes(search, ranking.units) for ranking in rankings)
    positions = np.arange(len(rankings[0].images))[: options.screen_images]
    seconds, single, indices = np.zeros(2), [], []
    for ranking in rankings:
        tables = []
        for number, mode in enumerate((search, replace(search, screening=True))):
            for unit in range(min(options.peer_units, ranking.units)):
                single.append(measure_time(ranking.compute_loss, [unit], positions, options.batch)[0])
            time_, table = measure_time(ranking.run_facespec, mode)
            seconds[number] += time_
            tables.append(table)
        indices.append(compute_jaccard(*tables))
    return [rankings[0].layer, rankings[0].units, passes, passes * statistics.median(single), *seconds, *indices]


def measure_every_convolution(options: argparse.Namespace) -> list[str]:
    """Part B."""
    label, network, images = open_study(options)
    layers = [[Ranking(network, layer, images, task) for task in CLASSES] for layer in list_convolutions(network)]
    for run in (layers[0][0].run_facespec, layers[0][0].run_loop):
        run(Search(1, 0, options.batch, batch_size=options.batch))  # to warm up
    few = [measure_exact(rankings, options) for rankings in layers]
    many = [measure_screening(rankings, options) for rankings in layers]
    few.append(["all", *np.sum([row[1:5] for row in few], axis=0), max(row[5] for row in few), sum(r[6] for r in few)])
    many.append(["all", *np.sum([row[1:6] for row in many], axis=0), *np.min([row[6:] for row in many], axis=0)])
    exact_rows = [
        [
            name,
            int(units),
            int(passes),
            *(f"{value:.4g}" for value in (loop, exact, loop / exact)),
            f"{largest:.1e}",
            moved,
        ]
        for name, units, passes, loop, exact, largest, moved in few
    ]
    screening_rows = [
        [
            *(name, int(units), int(passes)),
            *(f"{value:.4g}" for value in (loop, exact, loop / exact, screening, loop / screening)),
            *(f"{index:.3f}" for index in indices),
        ]
        for name, units, passes, loop, exact, screening, *indices in many
    ]
    exact_columns = "layer | units | passes of the loop | loop, s | exact, s | ratio | largest difference, nats"
    columns = "layer | units | passes of the loop | loop (product), s | exact, s | ratio, exact | screening, s"
    return [
        f"B. {label}; {len(images):,} images, drawn anew for every round; both tasks, greedy until {GREEDY:.0%} of the "
        "units are silent, and once more for the rest.",
        "",
        f"Exact mode, {options.rank_images} images per round; the loop runs completely. Target: ratio of all layers at "
        f"least {SPEED_EXACT}.",
        "",
        *format_table([*exact_columns.split(" | "), "ranks that differ"], exact_rows),
        "",
        f"Exact and screening mode, {options.screen_images} images per round; the loop's time is the median of single "
        "passes, timed between the others, times the passes it would need. Targets: ratio of all layers at least "
        f"{SPEED_EXACT} (exact) and {SPEED_SCREENING} (screening); Jaccard index of both modes' {GREEDY:.0%} at least "
        f"{JACCARD} (last row: the least).",
        "",
        *format_table(
            [*columns.split(" | "), "ratio, screening", *(f"Jaccard, {task}" for task in CLASSES)], screening_rows
        ),
    ]


def count_multiplications(network: FaceNetwork, layer: str, px: int) -> tuple[float, float, float]:
    """Millions per image, of convolutions and heads: once for all lesions, a unit's share of the next layer, the rest.

    Once: the whole network, and once more the layer that reads `layer`, whose output is stored.
    """
    steps: list[tuple[str, float]] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):

                def count(module: nn.Module, inputs: Any, output: torch.Tensor, name: str = name) -> None:
                    steps.append((name, output.numel() * (module.weight[0].numel() / 1e6)))

                hooks.callback(module.register_forward_hook(count).remove)
        network(torch.zeros(1, network.channels, px, px))
    after = [number for _, number in steps][[name for name, _ in steps].index(layer) + 1 :]
    first = len(CLASSES) if layer == list_convolutions(network)[-1] else 1
    reading, units = sum(after[:first]), network.get_submodule(layer).out_channels
    return sum(number for _, number in steps) + reading, reading / units, sum(after[first:])


def measure_growth(options: argparse.Namespace) -> list[str]:
    """Part C."""
    default, second = make_network("small_vgg", options.channels, 1), "trunk.conv2"
    first, _, *later = options.channels
    middle = options.growth_images[len(options.growth_images) // 2]
    cases = [
        ("filters", make_network("small_vgg", [first, width, *later], 1), second, middle) for width in options.widths
    ]
    cases += [("images", default, second, images) for images in options.growth_images]
    cases += [("depth", default, layer, middle) for layer in list_convolutions(default)]
    times: list[list[float]] = [[] for _ in cases]
    for turn in range(options.repeats + 1):  # the first to warm up
        for case_times, (_, network, layer, images) in zip(times, cases, strict=True):
            ranking = Ranking(network, layer, make_noise(images, 1, options.small_px), "identity")
            seconds, _ = measure_time(ranking.run_facespec, Search(1, 0, images, batch_size=options.batch))
            case_times += [1e6 * seconds / ranking.units / images] if turn else []
    rows = []
    for case_times, (label, network, layer, images) in zip(times, cases, strict=True):
        once, share, rest = count_multiplications(network, layer, options.small_px)
        units = network.get_submodule(layer).out_channels
        theory = (f"{number:.3f}" for number in (once / units, share, rest, once / units + share + rest))
        rows.append([label, layer, units, images, f"{statistics.median(case_times):.1f}", *theory])
    columns = "varied | layer | filters | images | us per lesion and image | million: once / filters"
    columns += " | + a unit's share of the next layer | + the rest in full | = theory"
    return [
        f"C. Default network, random weights, images of noise, {options.small_px}x{options.small_px} px; one-pass "
        f"mode, task identity, tracing included; medians of {options.repeats} repeats, in turns. Theory counts the "
        "multiplications of convolutions and heads.",
        "",
        *format_table(columns.split(" | "), rows),
    ]


PARTS = {"A": measure_last_convolution, "B": measure_every_convolution, "C": measure_growth}


def report(options: argparse.Namespace) -> Iterator[str]:
    """All parts in Markdown, each as soon as it is measured."""
    yield f"CPU, threads: {options.threads}; torch {torch.__version__}; batches of {options.batch} images."
    for part in options.parts:
        yield "\n".join(["", *PARTS[part](options)])


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--px", type=int, default=224, help="A: height and width of the images")
    parser.add_argument("--images", type=int, default=4, help="A")
    parser.add_argument("--peer-units", type=int, default=6, help="A, and B on many images: units for the loop")
    parser.add_argument("--study", type=Path, default=Path(), help="B: its network and faces, if it has them")
    parser.add_argument("--rank-images", type=int, default=32, help="B: per round, where the loop runs completely")
    parser.add_argument("--screen-images", type=int, default=256, help="B: per round, where it does not")
    parser.add_argument("--channels", nargs="+", type=int, default=[16, 32, 64, 128], help="filters of the network")
    parser.add_argument("--small-px", type=int, default=48, help="B without a study, C")
    parser.add_argument("--widths", nargs="+", type=int, default=[8, 16, 32, 64], help="C: filters of conv2")
    parser.add_argument("--growth-images", nargs="+", type=int, default=[16, 64, 256], help="C")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="A and C")
    parser.add_argument("--threads", type=int, default=count_cores())
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        for part in report(options):
            print(part, flush=True)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
