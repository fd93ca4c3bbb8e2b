"""What many tests need: seeded generators, images of odd shapes, networks whose norms change their input, FaceSets."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.embedded.anatomy import APPEARANCE, CAP, PARAMETERS
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli
from facespec.data.faceset import FaceSet, write_faceset
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.artefacts import digest_files, read_document, write_document
from facespec.study.maps import HEADER_FILE, PersonMaps, name_map_file
from facespec.study.params import Data, ExpressionFaces, IdentityFaces, NetworkBlock, Params, ProbeFaces
from facespec.study.paths import Paths
from facespec.study.schema import Schema
from facespec.study.seeds import generator
from facespec.study.vocabulary import Role

CLASSES = {"expression": 7, "identity": 5}
# Columns of embedded people that are their own on every day
FACE = [index for index, name in enumerate(PARAMETERS) if name not in APPEARANCE and name not in CAP]
HEIGHT, WIDTH = 17, 11  # odd and unequal: a swapped axis or a wrong half shows
Module = TypeVar("Module", bound=nn.Module)
FitNetworks = Callable[[Paths, Params], None]  # makes all checkpoints of the parameters' seeds
Analyse = Callable[[Paths, Params], None]  # makes all tables from checkpoints and heatmaps


def seeded(seed: int = 1) -> torch.Generator:
    """A torch generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def random_images(
    n: int = 3, channels: int = 1, height: int = HEIGHT, width: int = WIDTH, *, seed: int = 2
) -> torch.Tensor:
    """Network input, float32 (n, channels, height, width), uniform in [-1, 1)."""
    return torch.rand((n, channels, height, width), generator=seeded(seed)) * 2 - 1


def make_network(
    widths: Sequence[int] = (4, 6),
    *,
    convolutions: int = 1,
    branch_after: str | None = None,
    trunk: str = "small_vgg",
    channels: int = 1,
    classes: Mapping[str, int] = CLASSES,
    seed: int = 1,
) -> FaceNetwork:
    """A network in evaluation mode; of a small VGG: `widths` units per block, each of `convolutions` layers."""
    block = NetworkBlock(trunk=trunk, channels=list(widths), convolutions=convolutions, branch_after=branch_after)
    return build_network(block, classes, channels=channels, generator=seeded(seed)).eval()


def randomise_norms(network: Module, *, seed: int = 3) -> Module:
    """Give every batch norm statistics and weights far from the identity; the network itself is changed."""
    generator = seeded(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                ):
                    values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return network


def edit_header(path: Path, **changes: object) -> None:
    """Change entries of a directory's JSON header, and give it the digest of its new content."""
    write_document(path, read_document(path, remedy="") | changes)


def record_digests(path: Path) -> None:
    """Record the present digests of a directory's files in its JSON header `path`."""
    edit_header(path, digests={name: digest for name, digest in digest_files(path.parent).items() if name != path.name})


def make_faces_block(
    *,
    seed: int = 2,
    expression: tuple[int, int] = (60, 1),
    identity: tuple[int, int, int] = (2, 1, 1),
    probe: int = 10,
    hair: Literal["cap", "own"] = "cap",
    expression_scenes: Literal["web", "video"] = "web",
) -> Data:
    """Embedded faces of all roles: `expression` (train, test), `identity` (people, train, test), `probe` (people)."""
    return Data(
        seed=seed,
        size=48,
        channels=1,
        tolerated=0.0,
        expression=ExpressionFaces(
            source="embedded", train=expression[0], test=expression[1], scenes=expression_scenes
        ),
        identity=IdentityFaces(
            source="embedded", people=identity[0], train=identity[1], test=identity[2], scenes="video"
        ),
        probe=ProbeFaces(source="embedded", people=probe, hair=hair),
    )


@cache
def draw_faces(role: Role, **sizes: Any) -> Stimuli:
    """The stimuli of a role, see `make_faces_block`; every caller gets the same arrays, and `take` copies them."""
    block = make_faces_block(**sizes)
    return draw_role(role, block, generator(block.seed, "faces", role.value))


USER_MODULE = """
import torch
from torch import nn

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 7, 1), nn.ReLU()
        self.shape, self.tint = nn.Linear(7, 3), nn.Linear(7, 2)

    def forward(self, images):
        responses = self.relu(self.conv(images)).mean(dim=(2, 3))
        return {"tint": self.tint(responses), "shape": self.shape(responses)}

def network():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Toy()
"""  # a user's Python file with a network of two tasks, for images of 3 channels


TINY = (  # the smallest of everything, as settings of a study
    "seeds=[5, 6]",
    "data.size=32",
    "data.expression.train=70",
    "data.expression.test=42",
    "data.identity.people=4",
    "data.identity.train=9",
    "data.identity.test=5",
    "data.probe.people=3",
    "network.channels=[3, 5]",
    "train.epochs=4",
    "train.batch_size=16",
    "finetune.epochs=2",
    "decoding.expression_test=1",
    "decoding.identity_test=8",
    "decoding.identity_people=4",
    "decoding.fit_images=40",
    "decoding.resamples=100",
    "accuracy.resamples=100",
    "checks.draws=200",
    "overlap.resamples=100",
    "contrasts.permutations=100",
    "contrasts.draws=100",
    "regions.draws=100",
    "groundtruth.others=2",
    "groundtruth.redraws=2",
    "groundtruth.draws=100",
    "calibrate.images=1",
    "calibrate.draws=100",
    "battery.images=1",
    "battery.draws=100",
    "depth.permutations=100",
    "preferred.steps=24",
    "preferred.starts=3",
    "lesions.images=24",
    "lesions.random=2",
    "lesions.shuffled=1",
    "lesions.draws=100",
)

USER_NETWORKS = """
import torch
from torch import nn
from torch.nn import functional

class Own(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 9, 3, padding=1)
        self.embed, self.heads = nn.Linear(9, 5), nn.ModuleDict({key: nn.Linear(5, n) for key, n in classes.items()})

    def forward(self, images):
        maps = functional.max_pool2d(torch.relu(self.norm(self.first(images))), 2)
        embedding = self.embed(functional.adaptive_avg_pool2d(functional.relu(self.last(maps)), 1).flatten(1))
        return {key: head(embedding) for key, head in self.heads.items()}

def make(classes, seed):
    torch.manual_seed(seed)
    network = Own(classes)
    network.norm.running_mean.uniform_(-0.5, 0.5)
    network.norm.running_var.uniform_(0.5, 2)
    for parameter in network.norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return network

def expression(seed):
    return make({"expression": 7}, seed)

def identity(seed):
    return make({"identity": 3}, seed + 100)

def joint(seed):
    return make({"expression": 7, "identity": 3}, seed + 200)
"""  # a user's Python file with the three networks of a study, for images of 3 channels


def randomise_weights(network: Module, *, norm_bias: tuple[float, float] = (-0.5, 0.5), shift: float = -0.5) -> Module:
    """Make `network` float64 and in evaluation mode, with weights that let every layer influence the logits.

    Norms have `norm_bias` from that range; other layers have weights in He scale and biases in [`shift`, `shift` + 1).
    """
    draw, network = seeded(3), network.double().eval()
    ranges = {"running_mean": (-0.5, 0.5), "running_var": (0.5, 2), "weight": (0.5, 1.5), "bias": norm_bias}
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for name, (low, high) in ranges.items():
                    tensor = getattr(module, name)
                    tensor.copy_(torch.rand(tensor.shape, generator=draw) * (high - low) + low)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                scale = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=draw) * scale)
                if module.bias is not None:
                    module.bias.copy_(torch.rand(module.bias.shape, generator=draw) + shift)
    return network


def run_git(directory: Path, *arguments: str) -> str:
    """What ``git ARGUMENTS`` prints in `directory`, as a user with a name."""
    user = ["-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", *user, *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


def change_rows(condition: str, **values: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A function that sets columns to `values` in the rows for which `condition` (as of `DataFrame.eval`) holds."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        holds = table.eval(condition)
        return table.assign(**{name: table[name].where(~holds, value) for name, value in values.items()})

    return change


def drop_rows(condition: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A function that removes the rows for which `condition` (as of `DataFrame.eval`) holds."""
    return lambda table: table[~table.eval(condition)]


def assert_percentiles(bounds: Sequence[float], population: Any, *, level: float, draws: int) -> None:
    """The bounds are percentiles of `draws` values drawn from `population`, up to 4 binomial standard errors."""
    for bound, share in zip(bounds, ((1 - level) / 2, (1 + level) / 2), strict=True):
        error = 4 * np.sqrt(share * (1 - share) / draws)
        # few different values: no interpolation
        low, high = np.quantile(population, [share - error, share + error], method="inverted_cdf")
        assert low - 1e-12 <= bound <= high + 1e-12


def make_person_maps(
    maps: np.ndarray, *, count: np.ndarray | int = 1, size: tuple[int, int] | None = None
) -> PersonMaps:
    """People with mean maps `maps` (pairs, seeds, people, h, w), as large as the image unless `size` is given.

    `count` is the number of images (pairs, seeds, people); maps of no image are blank.
    """
    count = np.broadcast_to(count, maps.shape[:3]).astype(np.int64)
    seeds, people = maps.shape[1:3]
    names = tuple(f"AF{p:02}" for p in range(people))
    total = np.where(count[..., None, None] > 0, maps * count[..., None, None], 0.0)
    return PersonMaps(total, count, tuple(range(3, 3 + 2 * seeds, 2)), names, size or maps.shape[3:], "embedded faces")


class Foreign(nn.Module):
    """Someone's network in evaluation mode: `forward` says how its `parts` are used; weights are drawn from a seed."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], Any], **parts: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.steps = forward
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            for name, part in parts.items():
                self.add_module(name, part())
        self.eval()

    def forward(self, images: torch.Tensor) -> Any:
        return self.steps(self, images)


def count_hooks(network: nn.Module) -> int:
    """How many forward hooks, pre-hooks included, are attached to modules of a network."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def describe_state(network: nn.Module) -> dict[str, Any]:
    """All that a test may want to find unchanged: bits, identities, modes, gradients asked for, and hooks."""
    modules = list(network.modules())
    return {
        "weights": {name: (tensor.stride(), tensor.numpy().tobytes()) for name, tensor in network.state_dict().items()},
        "identities": [id(part) for part in [*modules, *network.parameters()]],
        "modes": [module.training for module in modules],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "hooks": count_hooks(network),
    }


def write_noise_faces(directory: Path, n: int = 13, side: int = 17) -> FaceSet:
    """`n` noisy grey faces in shards of five."""
    images = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (n, side, side), dtype=np.uint8)
    labels = pd.DataFrame({"stimulus": [f"{i:02d}" for i in range(n)]})
    labels = labels.assign(split="test", identity="", expression="", view="", session="")
    description = FaceSetDescription("probe", 5, None, {"source": "toy"})
    return write_faceset(directory, [FaceChunk(images, labels)], description)


def combine(**columns: Sequence[object]) -> list[dict[str, object]]:
    """A row for every combination of the columns' values; the last column changes fastest."""
    return [dict(zip(columns, values, strict=True)) for values in product(*columns.values())]


def make_table(schema: Schema, rows: Sequence[Mapping[str, object]], **shared: object) -> pd.DataFrame:
    """A table of `schema`: `rows`, completed by `shared` and, in columns still missing, by a value that is allowed.

    These are empty if the column may be; else the first allowed word or ``"toy"``, the lowest integer, 0.5.
    """
    defaults: dict[str, object] = {}
    for name, column in schema.columns.items():
        if column.kind == "text":
            defaults[name] = "" if column.optional else next(iter(column.allowed), "toy")
        else:
            empty = math.nan if column.optional else 0.5
            defaults[name] = int(column.low or 0) if column.kind == "integer" and not column.optional else empty
    return schema.check(pd.DataFrame([defaults | shared | dict(row) for row in rows]))


def read_texts(artists: Iterable[Any]) -> list[str]:
    """The texts of matplotlib artists, such as ``axes.texts`` or tick labels."""
    return [artist.get_text() for artist in artists]


def read_legend(figure: Any) -> list[str]:
    """The labels of the only legend of a figure or subfigure."""
    (legend,) = figure.legends
    return read_texts(legend.get_texts())


def get_lines(axes: Any) -> dict[str, Any]:
    """The lines of `axes` that have a gid, by that."""
    return {line.get_gid(): line for line in axes.lines if line.get_gid()}


def change_params(params: Params, block: str, **values: object) -> Params:
    """The same parameters with other `values` in one of their blocks."""
    return params.model_copy(update={block: getattr(params, block).model_copy(update=values)})


def read_files(directory: Path, pattern: str = "*") -> dict[str, bytes]:
    """The bytes of every file in `directory`, by its name."""
    return {path.name: path.read_bytes() for path in directory.glob(pattern)}


def write_maps(paths: Paths, rows: np.ndarray, maps: Mapping[tuple[str, str, int], np.ndarray]) -> None:
    """Write heatmaps (network, task, seed) -> (n, h, w) of the n probe images at `rows`, of seeds 5 and 6."""
    faces = FaceSet.open(paths.faces("probe"))
    paths.heatmaps.mkdir(parents=True)
    faces.labels.iloc[rows].to_csv(paths.heatmaps / "labels.csv", index=False)
    for key, values in maps.items():
        np.save(paths.heatmaps / name_map_file(*key), values.astype(np.float32))
    size = {"height": faces.height, "width": faces.width, "n": len(rows)}
    rest = {"version": 2, "source": faces.source, "seeds": [5, 6], "layers": {}, "target": "labelled"}
    write_document(paths.heatmaps / HEADER_FILE, {**rest, **size, "digests": digest_files(paths.heatmaps)})
