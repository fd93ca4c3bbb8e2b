"""The networks: one trunk, one linear head per task; after `branch_after`, layers exist once per task."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
from torch import fx, nn

from facespec.models import trunks
from facespec.models.fused import run_fused
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import TASKS


class FaceNetwork(nn.Module):
    """A network with a head per task; made by `build_network`, which gives it its weights.

    `block` and `channels` (1 grey, 3 RGB) are what it was built from, `classes` maps tasks to their number of classes.
    Layers bear names such as ``trunk.conv1``, ``branches.identity.conv4`` and ``heads.expression``.
    """

    def __init__(self, block: NetworkBlock, classes: Mapping[str, int], *, channels: int) -> None:
        super().__init__()
        self.block = block
        self.channels = channels
        self.classes = {str(task): classes[task] for task in TASKS if task in classes}
        named = list(trunks.build_sections(block, channels=channels))
        shared = len(named) if block.branch_after is None else _branching(block, named)
        self.trunk = self._section(named[:shared])
        self.branches = nn.ModuleDict({task: self._section(named[shared:]) for task in self.tasks if named[shared:]})
        self.heads = nn.ModuleDict({task: nn.Linear(self.width, n) for task, n in self.classes.items()})

    def _section(self, names: Iterable[str]) -> nn.Sequential:
        fresh = trunks.build_sections(self.block, channels=self.channels)
        return nn.Sequential(OrderedDict((name, fresh[name]) for name in names))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks it answers, in the order of the vocabulary."""
        return tuple(self.classes)

    @property
    def width(self) -> int:
        """How many penultimate units a head reads."""
        return trunks.measure_width(self.block)

    def forward(self, images: torch.Tensor, tasks: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """Logits (n, classes) per task, of all tasks or of `tasks` only; `images` is float (n, channels, h, w)."""
        asked = tuple(tasks or self.tasks)
        self._check_known(asked)
        shared = self.trunk(self._checked(images))
        return {task: self.heads[task](self._own(shared, task)) for task in asked}

    def compute_logits(self, images: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Logits per task, each task of its own images; the trunk sees all images as one batch.

        This is the pass of training: on a CPU, modules of the trunk are fused (`models.fused`), and their hooks do not
        run.
        """
        self._check_known(images)
        shared = run_fused(self.trunk, self._checked(torch.cat(list(images.values()))))
        parts = dict(zip(images, shared.split([len(own) for own in images.values()]), strict=True))
        branched = {task: run_fused(self.branches[task], part) for task, part in parts.items() if task in self.branches}
        return {task: self.heads[task](responses) for task, responses in (parts | branched).items()}

    def penultimate(self, images: torch.Tensor, task: str) -> torch.Tensor:
        """Responses (n, d) that the head of `task` reads."""
        self._check_known([task])
        return self._own(self.trunk(self._checked(images)), task)

    def draw_from(self, generator: torch.Generator | None) -> None:
        """Let dropout draw from `generator` (on the CPU); None takes it back."""
        for module in self.modules():
            if isinstance(module, trunks.Dropout):
                module.generator = generator

    def _check_known(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            if task not in self.tasks:
                raise StudyError(f"this network does not know task {str(task)!r}: {suggest_spelling(task, self.tasks)}")

    def _own(self, shared: torch.Tensor, task: str) -> torch.Tensor:
        return self.branches[task](shared) if task in self.branches else shared

    def _checked(self, images: torch.Tensor) -> torch.Tensor:
        return can_take(images, self.channels, trunks.find_smallest_image(self.block))


def can_take(images: torch.Tensor, channels: int, least: int) -> torch.Tensor:
    """`images` as they are; `StudyError` if not (n, `channels`, height, width), `least` px a side or more."""
    if images.ndim != 4 or images.shape[1] != channels or min(images.shape[2:]) < least:
        raise StudyError(
            f"images of shape {tuple(images.shape)}: this network takes (n, {channels}, height, width) with "
            f"height and width of {least} px or more."
        )
    return images


fx.wrap("can_take")  # a step of its own where a network is traced: it asks for shapes, which are not known then


def build_network(
    block: NetworkBlock, classes: Mapping[str, int], *, channels: int, generator: torch.Generator
) -> FaceNetwork:
    """A network with fresh weights, drawn from `generator` (on the CPU) alone.

    The trunk is drawn first, then one stream per task of the vocabulary, known to this network or not: networks of one
    seed share their trunk's weights, and a joint network shares branch and head with the single-task network.
    Convolutions: He normal, fan out; linear layers: normal, sd 0.01; biases 0 [L: torchvision's VGG].
    Raises `StudyError` for an unknown task, fewer than two classes, or an unknown layer in `branch_after`.
    """
    _check_classes(classes)
    # "meta" allocates nothing and draws nothing; torch's own initialisation would move the global random state
    with torch.device("meta"):
        network = FaceNetwork(block, classes, channels=channels)
    network.to_empty(device="cpu")
    _initialise(network.trunk, generator)
    for task in TASKS:
        own = _child(generator)
        if task in network.classes:
            if task in network.branches:
                _initialise(network.branches[task], own)
            _initialise(network.heads[task], own)
    return network.to(memory_format=torch.channels_last)  # convolutions on CPUs run up to twice as fast


def replace_heads(network: FaceNetwork, classes: Mapping[str, int], *, generator: torch.Generator) -> FaceNetwork:
    """A copy of `network` with fresh heads for `classes`, ready to be fine-tuned; `network` stays as it is."""
    if set(classes) != set(network.tasks):
        raise StudyError(f"new heads must be for the network's tasks {list(network.tasks)}, got {sorted(classes)}.")
    renewed = build_network(network.block, classes, channels=network.channels, generator=generator)
    kept = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("heads.")}
    renewed.load_state_dict(kept, strict=False)
    return renewed


def _branching(block: NetworkBlock, named: list[str]) -> int:
    """How many of the modules `named` come before the branches."""
    convolutions = [name for name in named if name.startswith("conv")]
    after = str(block.branch_after)
    if after not in convolutions:
        raise StudyError(
            f"network.branch_after: {block.trunk} has no convolution {after!r}: {suggest_spelling(after, convolutions)}"
        )
    return named.index(after.replace("conv", "relu")) + 1


def _check_classes(classes: Mapping[str, int]) -> None:
    if not classes:
        raise StudyError(f"a network needs at least one task. Allowed: {', '.join(repr(str(task)) for task in TASKS)}.")
    for task, n in classes.items():
        if task not in TASKS:
            raise StudyError(f"unknown task {task!r}: {suggest_spelling(task, map(str, TASKS))}")
        if n < 2:
            raise StudyError(f"task {str(task)!r} has {n} class(es); there is something to learn from 2 on.")


def _child(generator: torch.Generator) -> torch.Generator:
    seed = torch.randint(2**63 - 1, (), generator=generator, dtype=torch.int64)
    return torch.Generator().manual_seed(int(seed))


def _initialise(section: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter and buffer of `section` its first value."""
    for module in section.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            continue
        bias = getattr(module, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)
