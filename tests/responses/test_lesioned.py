"""Many lesions at once: what they share, how they are parted, and that asking changes nothing.

That the answers are right is shown in tests/references/test_lesions.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from facespec.models.networks import FaceNetwork, build_network
from facespec.responses import lesioned
from facespec.responses.lesioned import LesionedNetwork
from facespec.responses.lesioning import lesion_units
from facespec.responses.recording import record_responses
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

pytestmark = pytest.mark.usefixtures("one_thread")

Logits = dict[str, torch.Tensor]
N = 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces_like(n: int = N) -> torch.Tensor:
    return torch.rand((n, 1, 17, 11), generator=seeded(2)) * 2 - 1


def made(branch_after: str | None = None) -> FaceNetwork:
    """A network whose batch norm is far from the identity, and whose heads can be heard."""
    block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after=branch_after)
    network, draw = build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded(1)), seeded(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.running_var, module.bias):
                    tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.2)
            elif isinstance(module, nn.Linear):
                module.weight.mul_(50)
    return network.eval()


class Foreign(nn.Module):
    """Someone's network: `forward` says how its parts are used."""

    def __init__(self, steps: Callable[..., Any]) -> None:
        super().__init__()
        self.steps = steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.conv, self.flat = nn.Conv2d(1, 4, 3), nn.Conv1d(1, 4, 3)
            self.one, self.two = nn.Conv2d(4, 5, 3), nn.Conv2d(4, 5, 3)
            self.norm, self.drop, self.swish = nn.BatchNorm2d(4), nn.Dropout(inplace=True), nn.Hardswish(inplace=True)
            self.same, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
            self.head, self.other = nn.Linear(5, 3), nn.Linear(4, 3)
        self.gate = nn.Parameter(torch.tensor([0.5, -1, 2, 0.1])[:, None, None])
        self.eval()

    def forward(self, images: torch.Tensor) -> Any:
        return self.steps(self, images)


def mean(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean(dim=(2, 3))


def written(n: Any, images: torch.Tensor) -> Logits:
    """A step writes into the responses that another one reads before or after it."""
    maps = n.conv(images)
    before = n.one(maps)
    return {"only": n.head(mean(before * n.two(n.swish(maps))) + mean(n.two(maps)))}


FOREIGN: dict[str, Callable[..., Any]] = {
    "in place": lambda n, x: {"only": n.head(mean(n.one(n.relu(n.norm(n.conv(x))))))},
    "dropped": lambda n, x: {"only": n.head(mean(n.one(n.swish(n.drop(n.conv(x))))))},
    "written": written,
    "two ways": lambda n, x: {"only": n.head(mean(n.one(maps := n.conv(x)) * n.two(functional.relu(maps))))},
    "gated": lambda n, x: {"only": n.other(mean(torch.sigmoid(n.gate) * functional.relu(n.conv(x))))},
    "residual": lambda n, x: {"only": n.other(mean(n.relu(n.same(maps := n.relu(n.conv(x))) + maps)))},
    "images again": lambda n, x: {"only": n.other(mean(n.conv(x))) + mean(x)},
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "conv1": (made, "trunk.conv1"),
    "conv2": (made, "trunk.conv2"),
    "branches": (lambda: made("conv1"), "trunk.conv1"),
    "branch": (lambda: made("conv1"), "branches.expression.conv2"),
    "average": (made, "trunk.average"),
    "head": (made, "heads.identity"),
} | {name: (lambda steps=steps: Foreign(steps), "conv") for name, steps in FOREIGN.items()}
EACH = pytest.mark.parametrize("name", NETWORKS)


def some(units: int, k: int = 5) -> torch.Tensor:
    """Lesions: none, all, and some."""
    lesions = torch.rand((k, units), generator=seeded(6)) < 0.4
    lesions[0], lesions[1] = False, True
    return lesions


def joined(parts: Iterator[tuple[slice, Logits]]) -> Logits:
    found = [logits for _, logits in parts]
    return {task: torch.cat([own[task] for own in found]) for task in found[0]}


def close(first: Logits, second: Logits) -> None:
    """As float32 sums of some hundred numbers near 1 are, in another order."""
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def asked(network: LesionedNetwork, batch: Any) -> list[Logits]:
    """All it can say about a batch: sets of units, and single ones, alone and besides others."""
    lesions, units = some(batch.units), torch.arange(batch.units)
    return [joined(network.answers(batch, lesions))] + [
        joined(network.singles(batch, silent, units)) for silent in lesions
    ]


@EACH
def test_no_lesion_no_change(name: str) -> None:
    make, layer = NETWORKS[name]
    network = make()
    own = LesionedNetwork(network, layer)
    batch = own.prepare_batch(faces_like())
    with torch.no_grad():
        close(
            {task: logits[0] for task, logits in joined(own.compute_logits(batch, some(batch.units)[:1])).items()},
            network(faces_like()),
        )


@EACH
def test_a_single_unit_is_a_set_of_one(name: str) -> None:
    """Besides none, all and some others; in any order, and more than once."""
    make, layer = NETWORKS[name]
    own = LesionedNetwork(make(), layer)
    batch = own.prepare_batch(faces_like())
    units = torch.tensor([batch.units - 1, 0, 1, 0])
    for silent in some(batch.units):
        sets = silent.repeat(len(units), 1)
        sets[range(len(units)), units] = True
        close(joined(own.compute_single_lesions(batch, silent, units)), joined(own.compute_logits(batch, sets)))


@EACH
def test_asking_twice_gives_the_same_bits(name: str) -> None:
    """Steps that write in place do not write into what a batch keeps."""
    make, layer = NETWORKS[name]
    network, images = make(), faces_like()
    own = LesionedNetwork(network, layer)
    batch = own.prepare_batch(images)
    kept = {node: value.clone() for node, value in batch.values.items()}
    first, second = asked(own, batch), asked(own, batch)
    assert all(torch.equal(a[task], b[task]) for a, b in zip(first, second, strict=True) for task in a)
    assert all(torch.equal(batch.values[node], value) for node, value in kept.items())
    assert torch.equal(images, faces_like())


@EACH
@pytest.mark.parametrize("at_once", [1, 2000])
def test_parts_change_nothing(name: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make, layer = NETWORKS[name]
    own = LesionedNetwork(make(), layer)
    batch = own.prepare_batch(faces_like())
    wanted = asked(own, batch)
    monkeypatch.setattr(lesioned, "AT_ONCE", at_once)
    for got, all_at_once in zip(asked(own, batch), wanted, strict=True):
        close(got, all_at_once)


@pytest.mark.parametrize(
    ("at_once", "ends"),
    [(1, [1, 2, 3, 4, 5]), (748 * N * 2 - 1, [1, 2, 3, 4, 5]), (748 * N * 2, [2, 4, 5]), (748 * N * 5, [5])],
)
def test_parts_are_as_large_as_allowed(at_once: int, ends: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by the largest map above the cut: that of four units, 17x11, against six of 8x5 and others."""
    monkeypatch.setattr(lesioned, "AT_ONCE", at_once)
    own = LesionedNetwork(made(), "trunk.conv1")
    batch = own.prepare_batch(faces_like())
    assert (batch.largest, batch.units, len(batch)) == (748, 4, N)
    wanted = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    silent, units = torch.zeros(4, dtype=torch.bool), torch.tensor([0, 1, 2, 3, 3])
    for parts in (own.compute_logits(batch, some(4)), own.compute_single_lesions(batch, silent, units)):
        found = list(parts)
        assert [part for part, _ in found] == wanted
        for part, logits in found:
            assert {task: tuple(own.shape) for task, own in logits.items()} == {
                "expression": (part.stop - part.start, N, 7),
                "identity": (part.stop - part.start, N, 5),
            }
            assert not any(own.requires_grad for own in logits.values())


def test_no_lesions_no_answers() -> None:
    own = LesionedNetwork(made(), "trunk.conv1")
    assert list(own.compute_logits(own.prepare_batch(faces_like()), some(4)[:0])) == []


@pytest.mark.parametrize(("layer", "place"), [("trunk.conv1", "trunk.relu1"), ("trunk.conv2", "trunk.relu2")])
def test_responses_are_those_behind_the_rectifier(layer: str, place: str) -> None:
    network = made()
    with record_responses(network, [place]) as responses, torch.no_grad():
        network(faces_like())
    close({"": LesionedNetwork(network, layer).prepare_batch(faces_like()).responses}, {"": responses[place]})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("conv1", False),
        ("conv2", True),
        ("branches", False),
        ("branch", True),
        ("average", True),
        ("head", False),
        ("residual", False),
        ("in place", False),
    ],
)
def test_the_closed_form_is_that_of_the_layer_below_the_heads(name: str, wanted: bool) -> None:
    make, layer = NETWORKS[name]
    assert LesionedNetwork(make(), layer).has_closed_form is wanted


@EACH
def test_lesions_are_those_of_the_context_manager(name: str) -> None:
    """The other way to lesion: here many lesions of a batch, there a row of the batch each."""
    make, layer = NETWORKS[name]
    network = make()
    own = LesionedNetwork(network, layer)
    batch = own.prepare_batch(faces_like(1))
    lesions = some(batch.units)
    with lesion_units(network, {layer: lesions}), torch.no_grad():
        wanted = network(faces_like(1).repeat(len(lesions), 1, 1, 1))
    close({task: logits.flatten(0, 1) for task, logits in joined(own.compute_logits(batch, lesions)).items()}, wanted)


def test_the_network_stays_as_it_was_and_may_be_trained_meanwhile() -> None:
    """The lesioned network evaluates, the network itself keeps its modes."""
    network = made().train()
    network.trunk.norm1.eval()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    own = LesionedNetwork(network, "trunk.conv1")
    batch = own.prepare_batch(faces_like())
    got = asked(own, batch)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    network.eval()
    for first, second in zip(got, asked(own, own.prepare_batch(faces_like())), strict=True):
        close(first, second)


# -- refusals


def refusal(ask: Callable[[], Any]) -> str:
    with pytest.raises(StudyError) as caught:
        ask()
    return str(caught.value)


def test_unknown_layers_are_refused() -> None:
    assert refusal(lambda: LesionedNetwork(made(), "trunk.conv3")) == (
        "this network has no layer 'trunk.conv3': did you mean 'trunk.conv2'? Allowed: 'trunk', 'trunk.conv1', "
        "'trunk.norm1', 'trunk.relu1', 'trunk.pool1', 'trunk.conv2', 'trunk.norm2', 'trunk.relu2', 'trunk.average', "
        "'branches', 'heads', 'heads.expression', 'heads.identity'."
    )


def test_layers_called_twice_are_refused() -> None:
    network = Foreign(lambda n, x: {"only": mean(n.conv(x) - n.conv(-x))})
    assert refusal(lambda: LesionedNetwork(network, "conv")) == (
        "layer 'conv' is called 2 times in a forward pass: its units must be in one place. Name a layer that is called "
        "once, such as the convolution or the norm before it."
    )


def test_untraceable_networks_are_refused() -> None:
    network = Foreign(lambda n, x: {"only": mean(n.conv(x if x.sum() > 0 else -x))})
    assert refusal(lambda: LesionedNetwork(network, "conv")) == (
        "Foreign cannot be traced by torch.fx: symbolically traced variables cannot be used as inputs to control flow. "
        "Its forward must not branch on values; see torch.fx's documentation on limitations of symbolic tracing."
    )


def test_answers_are_a_dict() -> None:
    own = LesionedNetwork(Foreign(lambda n, x: n.other(mean(n.conv(x)))), "conv")
    assert refusal(lambda: list(own.compute_logits(own.prepare_batch(faces_like()), some(4)))) == (
        "the network returns Tensor: a dict of logits is needed, task -> tensor (n, classes). Wrap it in a module that "
        "returns one."
    )


@pytest.mark.parametrize(
    ("lesions", "got"),
    [
        (torch.ones(5, 6, dtype=torch.bool), "torch.bool of shape (5, 6)"),
        (torch.ones(4, dtype=torch.bool), "torch.bool of shape (4,)"),
        (torch.ones(5, 3, 4, dtype=torch.bool), "torch.bool of shape (5, 3, 4)"),
        (torch.ones(5, 4), "torch.float32 of shape (5, 4)"),
        (torch.ones(5, 4, dtype=torch.int64), "torch.int64 of shape (5, 4)"),
    ],
)
def test_what_is_no_lesion_is_refused(lesions: torch.Tensor, got: str) -> None:
    own = LesionedNetwork(made(), "trunk.conv1")
    batch = own.prepare_batch(faces_like())
    assert refusal(lambda: list(own.compute_logits(batch, lesions))) == (
        f"lesions are {got}; expected bool (lesions, 4), True where a unit is silent."
    )


@pytest.mark.parametrize("silent", [torch.ones(3, dtype=torch.bool), torch.ones(4), torch.ones((1, 4)).bool()])
def test_what_is_silent_before_is_a_lesion_too(silent: torch.Tensor) -> None:
    own = LesionedNetwork(made(), "trunk.conv1")
    batch = own.prepare_batch(faces_like())
    assert refusal(lambda: list(own.compute_single_lesions(batch, silent, torch.arange(4)))) == (
        f"lesions are {silent.dtype} of shape {(1, *silent.shape)}; expected bool (lesions, 4), True where a unit is "
        "silent."
    )


def test_responses_have_units() -> None:
    own = LesionedNetwork(Foreign(lambda n, x: {"only": n.flat(x.flatten(2).mean(dim=1, keepdim=True))}), "flat")
    assert refusal(lambda: own.prepare_batch(faces_like())) == (
        "layer 'flat' has responses of shape (3, 4, 185): (n, units, h, w), or (n, units) of a linear layer, "
        "can be lesioned."
    )
