"""The networks: a shared trunk and a linear head per task; behind `branch_after`, each task has layers of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
from torch import fx, nn

from facespec.models import torchvision_trunks, trunks, user_networks
from facespec.models.fused import run_fused
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import TASKS


class FaceNetwork(nn.Module):
    """A convolutional network with a head per task. `build_network` makes one with weights.

    Layers have dotted names such as ``trunk.conv1``, ``branches.identity.conv4`` and ``heads.expression``.

    Parameters
    ----------
    block : NetworkBlock
        Kind of trunk, units per block, convolutions per block, and the layer behind which tasks have own layers. Only
        the study's own trunks have such layers, not torchvision's (`torchvision_trunks`) or a user's (`user_networks`).
    classes : mapping of str to int
        Task -> number of classes.
    channels : int
        Of the images: 1 for grey, 3 for RGB.

    Attributes
    ----------
    width : int
        The number of penultimate units, which a head reads.
    smallest_image : int
        The smallest side of an image, in px, that the network takes.

    Examples
    --------
    >>> block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after="conv1")
    >>> classes = {"expression": 7, "identity": 5}
    >>> network = build_network(block, classes, channels=1, generator=torch.Generator().manual_seed(1)).eval()
    >>> logits = network(torch.zeros(3, 1, 17, 11))
    >>> {task: tuple(values.shape) for task, values in logits.items()}
    {'expression': (3, 7), 'identity': (3, 5)}
    >>> tuple(network.penultimate(torch.zeros(3, 1, 17, 11), "identity").shape)
    (3, 6)
    """

    def __init__(self, block: NetworkBlock, classes: Mapping[str, int], *, channels: int) -> None:
        super().__init__()
        self.block = block
        self.channels = channels
        self.classes = {str(task): classes[task] for task in TASKS if task in classes}
        branch: list[str] = []
        if block.is_sequential:
            names = list(trunks.build_sections(block, channels=channels))
            shared = len(names) if block.branch_after is None else _count_shared_modules(block, names)
            self.trunk: nn.Module = self._build_section(names[:shared])
            branch = names[shared:]
        elif block.is_user:
            self.trunk = user_networks.build_trunk(block.trunk, channels=channels)
        else:
            self.trunk = torchvision_trunks.build_trunk(block.trunk, channels=channels)
        self.width, self.smallest_image = _measure(block, self.trunk, channels)
        self.branches = nn.ModuleDict({task: self._build_section(branch) for task in self.tasks if branch})
        self.heads = nn.ModuleDict({task: nn.Linear(self.width, n) for task, n in self.classes.items()})

    def _build_section(self, names: Iterable[str]) -> nn.Sequential:
        modules = trunks.build_sections(self.block, channels=self.channels)
        return nn.Sequential(OrderedDict((name, modules[name]) for name in names))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a head, in the order of the vocabulary."""
        return tuple(self.classes)

    def forward(self, images: torch.Tensor, tasks: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """Logits (n, classes) of each task, or of `tasks` only; `images` is float (n, channels, h, w)."""
        tasks = tuple(tasks or self.tasks)
        self._check_tasks(tasks)
        shared = self.trunk(self._check_images(images))
        return {task: self.heads[task](self._run_branch(shared, task)) for task in tasks}

    def compute_logits(self, images: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Logits per task, each task of its own images; the trunk processes all images as one batch.

        This is the forward pass of training: on a CPU, modules of the trunk are fused (`models.fused`), and their hooks
        do not run.
        """
        self._check_tasks(images)
        shared = run_fused(self.trunk, self._check_images(torch.cat(list(images.values()))))
        parts = dict(zip(images, shared.split([len(batch) for batch in images.values()]), strict=True))
        branched = {task: run_fused(self.branches[task], part) for task, part in parts.items() if task in self.branches}
        return {task: self.heads[task](responses) for task, responses in (parts | branched).items()}

    def penultimate(self, images: torch.Tensor, task: str) -> torch.Tensor:
        """Responses (n, width) that the head of `task` reads."""
        self._check_tasks([task])
        return self._run_branch(self.trunk(self._check_images(images)), task)

    def draw_from(self, generator: torch.Generator | None) -> None:
        """Let dropout and stochastic depth draw their masks from `generator` (on the CPU); None detaches it."""
        for module in self.modules():
            if isinstance(module, trunks.Dropout | torchvision_trunks.StochasticDepth):
                module.generator = generator

    def _check_tasks(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            if task not in self.tasks:
                raise StudyError(f"this network does not know task {str(task)!r}: {suggest_spelling(task, self.tasks)}")

    def _run_branch(self, shared: torch.Tensor, task: str) -> torch.Tensor:
        return self.branches[task](shared) if task in self.branches else shared

    def _check_images(self, images: torch.Tensor) -> torch.Tensor:
        return check_images(images, self.channels, self.smallest_image)


def _measure(block: NetworkBlock, trunk: nn.Module, channels: int) -> torchvision_trunks.TrunkFacts:
    if block.is_sequential:
        return torchvision_trunks.TrunkFacts(trunks.measure_width(block), trunks.find_smallest_image(block))
    if block.is_user:
        assert isinstance(trunk, fx.GraphModule)
        return user_networks.measure_trunk(trunk, block.trunk, channels=channels)
    return torchvision_trunks.measure_trunk(block.trunk)


def check_images(images: torch.Tensor, channels: int, smallest: int) -> torch.Tensor:
    """Return `images`; raise `StudyError` if not (n, `channels`, height, width) with sides of `smallest` px or more."""
    if images.ndim != 4 or images.shape[1] != channels or min(images.shape[2:]) < smallest:
        raise StudyError(
            f"images of shape {tuple(images.shape)}: this network takes (n, {channels}, height, width) with "
            f"height and width of {smallest} px or more."
        )
    return images


fx.wrap("check_images")  # torch.fx takes it as one step: shapes are not known while a network is traced


def build_network(
    block: NetworkBlock, classes: Mapping[str, int], *, channels: int, generator: torch.Generator
) -> FaceNetwork:
    """Build a network with new weights, all drawn from `generator`.

    The trunk is drawn first, then one random stream per task of the vocabulary, whether or not the network has it:
    networks of one seed share their trunk's weights, and a joint network shares branch and head with each single-task
    network. Convolutions: He normal, fan out; linear layers: normal, sd 0.01; biases 0 [L: torchvision's VGG]. The
    trunk of a torchvision model is drawn as torchvision draws it, or read from the file `block.weights`.

    Parameters
    ----------
    block : NetworkBlock
        The architecture.
    classes : mapping of str to int
        Task -> number of classes, at least 2.
    channels : int
        Of the images: 1 for grey, 3 for RGB.
    generator : torch.Generator
        On the CPU. The global random state is not used.

    Returns
    -------
    FaceNetwork
        On the CPU, in training mode, with channels last in memory.

    Raises
    ------
    StudyError
        For an unknown task, fewer than two classes, an unknown trunk, or an unknown layer in `branch_after`.

    References
    ----------
    He, Zhang, Ren & Sun 2015, "Delving Deep into Rectifiers", ICCV.

    Examples
    --------
    >>> block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after=None)
    >>> network = build_network(block, {"identity": 5}, channels=1, generator=torch.Generator().manual_seed(1))
    >>> [name for name, _ in network.trunk.named_children()]
    ['conv1', 'norm1', 'relu1', 'pool1', 'conv2', 'norm2', 'relu2', 'average']
    """
    _check_classes(classes)
    # "meta" allocates nothing and draws nothing; torch's own initialisation would move the global random state
    with torch.device("meta"):
        network = FaceNetwork(block, classes, channels=channels)
    network.to_empty(device="cpu")
    if block.is_sequential:
        trunks.initialise(network.trunk, generator)
    elif block.is_user:
        network.trunk = user_networks.draw_trunk(block.trunk, channels=channels, generator=generator)
    else:
        network.trunk = torchvision_trunks.draw_trunk(
            block.trunk, channels=channels, generator=generator, weights=block.weights
        )
    for task in TASKS:
        stream = _derive_generator(generator)
        if task in network.classes:
            if task in network.branches:
                trunks.initialise(network.branches[task], stream)
            trunks.initialise(network.heads[task], stream)
    return network.to(memory_format=torch.channels_last)  # convolutions on CPUs run up to twice as fast


def replace_heads(network: FaceNetwork, classes: Mapping[str, int], *, generator: torch.Generator) -> FaceNetwork:
    """A copy of `network` with new heads for `classes`, to be fine-tuned; `network` is not changed."""
    if set(classes) != set(network.tasks):
        raise StudyError(f"new heads must be for the network's tasks {list(network.tasks)}, got {sorted(classes)}.")
    copy = rebuild_network(network.block, classes, channels=network.channels, generator=generator)
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("heads.")}
    copy.load_state_dict(weights, strict=False)
    return copy


def adopt_network(block: NetworkBlock, classes: Mapping[str, int], *, channels: int) -> FaceNetwork:
    """The network of a user's function, with the weights that it brings; its heads are new, and are to be fitted."""
    with torch.random.fork_rng(devices=[]):  # torch draws the heads from its global random state
        network = FaceNetwork(block, classes, channels=channels)
    return network.to(memory_format=torch.channels_last)


def rebuild_network(
    block: NetworkBlock, classes: Mapping[str, int], *, channels: int, generator: torch.Generator
) -> FaceNetwork:
    """`build_network` for weights that will be replaced: the file of initial weights is not read."""
    network = build_network(block.model_copy(update={"weights": None}), classes, channels=channels, generator=generator)
    network.block = block
    return network


def _count_shared_modules(block: NetworkBlock, names: list[str]) -> int:
    """How many of the modules `names` are shared by the tasks: those up to the ReLU behind `block.branch_after`."""
    convolutions = [name for name in names if name.startswith("conv")]
    last = str(block.branch_after)
    if last not in convolutions:
        raise StudyError(
            f"network.branch_after: {block.trunk} has no convolution {last!r}: {suggest_spelling(last, convolutions)}"
        )
    return names.index(last.replace("conv", "relu")) + 1


def _check_classes(classes: Mapping[str, int]) -> None:
    if not classes:
        raise StudyError(f"a network needs at least one task. Allowed: {', '.join(repr(str(task)) for task in TASKS)}.")
    for task, n in classes.items():
        if task not in TASKS:
            raise StudyError(f"unknown task {task!r}: {suggest_spelling(task, map(str, TASKS))}")
        if n < 2:
            raise StudyError(f"task {str(task)!r} has {n} class(es); there is something to learn from 2 on.")


def _derive_generator(generator: torch.Generator) -> torch.Generator:
    seed = torch.randint(2**63 - 1, (), generator=generator, dtype=torch.int64)
    return torch.Generator().manual_seed(int(seed))
