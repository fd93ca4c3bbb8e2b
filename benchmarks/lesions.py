"""What does it cost to know which units a task needs? facespec beside a loop over lesions, on the same network.

    python benchmarks/lesions.py --px 224 --rank-images 32 --screen-images 256

The loop is how lesions are usually written: one at a time, units set to 0 in a forward hook behind their ReLU, the
whole network forward over the images in batches without gradients, cross-entropy of the task. Both get the same images,
in memory, and take turns. A: single units of VGG16's last convolution. B: the greedy ranking of every convolution of
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
from facespec.data.batches import Preset, apply_preset
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
LAST, EXACT, SCREENING, ALIKE = 50, 4, 10, 0.95  # targets: A, B: times as fast as the loop; Jaccard index


class Averaged(nn.Module):
    """The convolutions of `network`, and heads, yet without weights, that read the mean of the last one's map."""

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


def stirred(module: nn.Module) -> nn.Module:
    """`module` with batch norms that are far from the identity, and linear layers that let their inputs be heard."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for own in module.modules():
            if isinstance(own, nn.BatchNorm2d):
                for tensor, low in (
                    (own.running_mean, -0.5),
                    (own.bias, -0.5),
                    (own.running_var, 0.5),
                    (own.weight, 0.5),
                ):
                    tensor.uniform_(low, low + 1, generator=draw)
            elif isinstance(own, nn.Linear):
                own.weight.normal_(0, (2 / own.in_features) ** 0.5, generator=draw)
                own.bias.uniform_(-0.5, 0.5, generator=draw)
    return module.eval()


def network_of(trunk: str, widths: Sequence[int], channels: int) -> FaceNetwork:
    block = NetworkBlock(trunk=trunk, channels=list(widths), list_convolutions=1, branch_after=None)
    network = build_network(block, CLASSES, channels=channels, generator=torch.Generator().manual_seed(1))
    stirred(network)
    return network


def noise(n: int, channels: int, px: int) -> LabelledImages:
    """Blurred noise in [-1, 1], and classes."""
    draw = torch.Generator().manual_seed(2)
    coarse = torch.rand((n, channels, 12, 12), generator=draw) * 2 - 1
    images = functional.interpolate(coarse, size=(px, px), mode="bilinear")
    return LabelledImages(
        lambda rows: images[rows], {task: torch.randint(k, (n,), generator=draw).numpy() for task, k in CLASSES.items()}
    )


def default_study(options: argparse.Namespace) -> tuple[str, FaceNetwork, LabelledImages]:
    """What part B is about: the first joint network of a study and the faces it was fine-tuned on, or random ones."""
    paths = Paths(options.study)
    path = paths.checkpoint("finetune", Network.JOINT, 1)
    if not (path.is_file() and paths.faces(Role.PROBE).is_dir()):
        network = network_of("small_vgg", options.channels, 1)
        trials = noise(2 * max(options.rank_images, options.screen_images), 1, options.small_px)
        return "random weights, images of noise", network, trials
    checkpoint = load_network(paths, "finetune", Network.JOINT, 1)
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    split = read_params(paths.params).split
    rows, _ = hold_out(faces.labels, split, generator(split.seed, "split"))  # as fine-tuning splits
    images = apply_preset(faces.images(rows), Preset(**checkpoint.preset), None)
    classes = {task.value: encode_classes(faces.labels, task)[0][rows] for task in TASKS}
    trials = LabelledImages(lambda chosen: images[chosen], classes)
    return f"fine-tuned weights (joint, seed 1), {faces.source}", checkpoint.network, trials


class Place(NamedTuple):
    """Units of a layer, and the images and the task by which they are ranked."""

    network: nn.Module
    layer: str
    trials: LabelledImages
    task: str

    @property
    def units(self) -> int:
        return int(self.network.get_submodule(self.layer).out_channels)

    def by_facespec(self, search: Search) -> pd.DataFrame:
        loss, draw = make_objective(self.trials, self.task), generator(1, self.layer, self.task)
        return rank_units(LesionedNetwork(self.network, self.layer), self.trials, loss, search=search, generator=draw)

    def by_loop(self, search: Search) -> pd.DataFrame:
        """The same search of the same images, lesion by lesion."""
        draw, table = generator(1, self.layer, self.task), []
        for number, size in enumerate(search.groups(self.units)):
            rows, silent = draw.permutation(len(self.trials))[: search.images], [row["unit"] for row in table]
            before = self.loss(silent, rows, search.batch_size)
            increase = {
                unit: self.loss([*silent, unit], rows, search.batch_size) - before
                for unit in range(self.units)
                if unit not in silent
            }
            best = sorted(increase, key=lambda unit, of=increase: (-of[unit], unit))[:size]
            table += [{"unit": unit, "round": number, "increase": increase[unit]} for unit in best]
        return pd.DataFrame(table)

    def loss(self, silent: list[int], rows: np.ndarray, batch: int) -> float:
        """Mean cross-entropy on the images `rows` if units `silent` are 0: one pass through the whole network."""

        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            output[:, silent] = 0

        handle, total = self.network.get_submodule(self.layer.replace("conv", "relu")).register_forward_hook(hook), 0.0
        try:
            with torch.no_grad():
                for own in np.split(rows, range(batch, len(rows), batch)):
                    logits, classes = self.network(self.trials.images(own)), self.trials.classes[self.task][own]
                    each = functional.cross_entropy(logits[self.task], torch.from_numpy(classes), reduction="none")
                    total += each.double().sum().item()
        finally:
            handle.remove()
        return total / len(rows)


def passes(search: Search, units: int) -> int:
    """How many times the loop runs the network over the images of a round: once per lesion, and once without."""
    groups = search.groups(units)
    return sum(units - sum(groups[:number]) + 1 for number in range(len(groups)))


def timed(run: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run(*given)
    return time.perf_counter() - start, result


def jaccard(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Of the units that two rankings of a layer select."""
    chosen, others = (set(own["unit"][: count_units(GREEDY, len(own))]) for own in (first, second))
    return len(chosen & others) / len(chosen | others)


def differences(first: pd.DataFrame, second: pd.DataFrame) -> tuple[float, int]:
    """Of two rankings: the largest of a unit's increase, and how many ranks have another unit."""
    increases = (own.set_index("unit")["increase"] for own in (first, second))
    moved = first["unit"].to_numpy() != second["unit"].to_numpy()
    return float(next(increases).sub(next(increases)).abs().max()), int(moved.sum())


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows)]


def last_convolution(options: argparse.Namespace) -> list[str]:
    """Part A."""
    network = network_of("vgg16", options.channels, 3)
    trials, layer = noise(options.images, 3, options.px), list_convolutions(network)[-1]
    whole, every, rows = Search(1, 0, options.images, batch_size=options.batch), np.arange(options.images), []
    for name, own in (("fc6, fc7, linear", network), ("mean of the map, linear", stirred(Averaged(network)))):
        place, ours, theirs = Place(own, layer, trials, "identity"), [], []
        some = np.linspace(0, place.units - 1, min(options.peer_units, place.units)).round().astype(int).tolist()
        before = place.loss([], every, options.batch)
        for turn in range(options.repeats + 1):  # the first to warm up
            seconds, found = timed(place.by_facespec, whole)
            single = [timed(place.loss, [unit], every, options.batch) for unit in some]
            ours += [seconds] if turn else []
            theirs += [one for one, _ in single] if turn else []
        wanted = pd.DataFrame({"unit": some, "increase": [loss - before for _, loss in single]})
        wanted = wanted.sort_values(["increase", "unit"], ascending=[False, True])
        furthest, moved = differences(found[found["unit"].isin(some)], wanted)
        mine, one = statistics.median(ours), statistics.median(theirs)
        rows.append(
            [
                name,
                place.units,
                f"{mine:.4g}",
                f"{one:.4g}",
                f"{one * place.units:.4g}",
                f"{one * place.units / mine:.4g}",
                f"at least {LAST}",
                f"{furthest:.1e}",
                f"{wanted['increase'].abs().max():.1e}",
                moved,
            ]
        )
    return [
        f"A. vgg16, {layer}, random weights; {options.images} images of noise, {options.px}x{options.px} px; one-pass "
        f"mode, task identity; {options.repeats} repeats, in turns. The loop is timed on {len(some)} units, and its "
        "median multiplied by the number of units: its time per unit is constant.",
        "",
        *table(
            [
                "head",
                "units",
                "facespec, all units, s",
                "loop, a unit, s",
                "loop, all units (product), s",
                "ratio",
                "target",
                "largest difference, nats",
                "largest increase, nats",
                "ranks that differ",
            ],
            rows,
        ),
    ]


def exact(places: Sequence[Place], options: argparse.Namespace) -> list[Any]:
    """A row of the table of exact rankings, on few images: the loop runs completely."""
    search, seconds = Search(GROUP, GREEDY, options.rank_images, batch_size=options.batch), np.zeros(2)
    furthest, moved, runs = 0.0, 0, sum(passes(search, place.units) for place in places)
    for place in places:
        (theirs, wanted), (ours, found) = timed(place.by_loop, search), timed(place.by_facespec, search)
        gap, others = differences(found, wanted)
        seconds += theirs, ours
        furthest, moved = max(furthest, gap), moved + others
    return [places[0].layer, places[0].units, runs, *seconds, furthest, moved]


def screened(places: Sequence[Place], options: argparse.Namespace) -> list[Any]:
    """A row of the table of both modes, on many images: the loop's passes are timed in between, and counted."""
    search = Search(GROUP, GREEDY, options.screen_images, batch_size=options.batch)
    runs, rows = (
        sum(passes(search, place.units) for place in places),
        np.arange(len(places[0].trials))[: options.screen_images],
    )
    seconds, single, alike = np.zeros(2), [], []
    for place in places:
        found = []
        for number, own in enumerate((search, replace(search, screening=True))):
            single += [
                timed(place.loss, [unit], rows, options.batch)[0]
                for unit in range(min(options.peer_units, place.units))
            ]
            taken, order = timed(place.by_facespec, own)
            seconds[number] += taken
            found.append(order)
        alike.append(jaccard(*found))
    return [places[0].layer, places[0].units, runs, runs * statistics.median(single), *seconds, *alike]


def every_convolution(options: argparse.Namespace) -> list[str]:
    """Part B."""
    what, network, trials = default_study(options)
    layers = [[Place(network, layer, trials, task) for task in CLASSES] for layer in list_convolutions(network)]
    for run in (layers[0][0].by_facespec, layers[0][0].by_loop):
        run(Search(1, 0, options.batch, batch_size=options.batch))  # to warm up
    few = [exact(places, options) for places in layers]
    many = [screened(places, options) for places in layers]
    few.append(["all", *np.sum([row[1:5] for row in few], axis=0), max(row[5] for row in few), sum(r[6] for r in few)])
    many.append(["all", *np.sum([row[1:6] for row in many], axis=0), *np.min([row[6:] for row in many], axis=0)])
    exact_rows = [
        [name, int(units), int(runs), f"{loop:.4g}", f"{own:.4g}", f"{loop / own:.4g}", f"{furthest:.1e}", moved]
        for name, units, runs, loop, own, furthest, moved in few
    ]
    screen_rows = [
        [
            name,
            int(units),
            int(runs),
            f"{loop:.4g}",
            f"{own:.4g}",
            f"{loop / own:.4g}",
            f"{fast:.4g}",
            f"{loop / fast:.4g}",
            *(f"{index:.3f}" for index in alike),
        ]
        for name, units, runs, loop, own, fast, *alike in many
    ]
    return [
        f"B. {what}; {len(trials):,} images, drawn anew for every round; both tasks, greedy until {GREEDY:.0%} of the "
        "units are silent, and once more for the rest.",
        "",
        f"Exact mode, {options.rank_images} images per round; the loop runs completely. Target: ratio of all layers at "
        f"least {EXACT}.",
        "",
        *table(
            [
                "layer",
                "units",
                "passes of the loop",
                "loop, s",
                "exact, s",
                "ratio",
                "largest difference, nats",
                "ranks that differ",
            ],
            exact_rows,
        ),
        "",
        f"Exact and screening mode, {options.screen_images} images per round; the loop's time is the median of single "
        "passes, timed between the others, times the passes it would need. Targets: ratio of all layers at least "
        f"{EXACT} (exact) and {SCREENING} (screening); Jaccard index of both modes' {GREEDY:.0%} at least {ALIKE} "
        "(last row: the least).",
        "",
        *table(
            [
                "layer",
                "units",
                "passes of the loop",
                "loop (product), s",
                "exact, s",
                "ratio, exact",
                "screening, s",
                "ratio, screening",
                *(f"Jaccard, {task}" for task in CLASSES),
            ],
            screen_rows,
        ),
    ]


def multiplications(network: FaceNetwork, layer: str, px: int) -> tuple[float, float, float]:
    """Millions per image, of convolutions and heads: once for all lesions, a unit's share of what reads it, the rest.

    Once: the whole network, and once more what reads the layer, whose sums are kept.
    """
    steps: list[tuple[str, float]] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weights = module.weight[0].numel() / 1e6
                hooks.callback(
                    module.register_forward_hook(
                        lambda _, __, output, name=name, weights=weights: steps.append((name, output.numel() * weights))
                    ).remove
                )
        network(torch.zeros(1, network.channels, px, px))
    behind = [number for _, number in steps][[name for name, _ in steps].index(layer) + 1 :]
    first = len(CLASSES) if layer == list_convolutions(network)[-1] else 1
    reading, units = sum(behind[:first]), network.get_submodule(layer).out_channels
    return sum(number for _, number in steps) + reading, reading / units, sum(behind[first:])


def growth(options: argparse.Namespace) -> list[str]:
    """Part C."""
    default, second = network_of("small_vgg", options.channels, 1), "trunk.conv2"
    first, _, *later = options.channels
    middle = options.growth_images[len(options.growth_images) // 2]
    cases = [
        ("filters", network_of("small_vgg", [first, width, *later], 1), second, middle) for width in options.widths
    ]
    cases += [("images", default, second, images) for images in options.growth_images]
    cases += [("depth", default, layer, middle) for layer in list_convolutions(default)]
    taken: list[list[float]] = [[] for _ in cases]
    for turn in range(options.repeats + 1):  # the first to warm up
        for own, (_, network, layer, images) in zip(taken, cases, strict=True):
            place = Place(network, layer, noise(images, 1, options.small_px), "identity")
            seconds, _ = timed(place.by_facespec, Search(1, 0, images, batch_size=options.batch))
            own += [1e6 * seconds / place.units / images] if turn else []
    rows = []
    for own, (varied, network, layer, images) in zip(taken, cases, strict=True):
        once, share, rest = multiplications(network, layer, options.small_px)
        units = network.get_submodule(layer).out_channels
        rows.append(
            [
                varied,
                layer,
                units,
                images,
                f"{statistics.median(own):.1f}",
                f"{once / units:.3f}",
                f"{share:.3f}",
                f"{rest:.3f}",
                f"{once / units + share + rest:.3f}",
            ]
        )
    return [
        f"C. Default network, random weights, images of noise, {options.small_px}x{options.small_px} px; one-pass "
        f"mode, task identity, tracing included; medians of {options.repeats} repeats, in turns. Theory counts the "
        "multiplications of convolutions and heads.",
        "",
        *table(
            [
                "varied",
                "layer",
                "filters",
                "images",
                "us per lesion and image",
                "million: once / filters",
                "+ a unit's share of the next layer",
                "+ the rest in full",
                "= theory",
            ],
            rows,
        ),
    ]


PARTS = {"A": last_convolution, "B": every_convolution, "C": growth}


def report(options: argparse.Namespace) -> Iterator[str]:
    """Everything, set as Markdown as soon as it is measured."""
    yield f"CPU, threads: {options.threads}; torch {torch.__version__}; batches of {options.batch} images."
    for part in options.parts:
        yield "\n".join(["", *PARTS[part](options)])


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
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
    options = parsed(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        for part in report(options):
            print(part, flush=True)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
