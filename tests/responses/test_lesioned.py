"""Many lesions at once: single units, sets and chunks agree, and nothing is changed.

That the logits are right is shown in tests/references/test_lesions.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from facespec.models.networks import FaceNetwork
from facespec.responses import lesioned as module
from facespec.responses.lesioned import LesionBatch, LesionedNetwork
from facespec.responses.lesioning import lesion_units
from facespec.responses.recording import record_responses
from facespec.study.errors import StudyError
from toys import Foreign, describe_state, make_network, random_images, randomise_norms

pytestmark = pytest.mark.usefixtures("one_thread")

Logits = dict[str, torch.Tensor]
N = 3


def build(branch_after: str | None = None) -> FaceNetwork:
    """A network with norms far from the identity, and heads with large weights."""
    network = randomise_norms(make_network(branch_after=branch_after))
    with torch.no_grad():
        for head in network.heads.values():
            head.weight.mul_(50)
    return network


def make_foreign(steps: Callable[[Any, torch.Tensor], Any]) -> Foreign:
    network = Foreign(
        steps,
        conv=lambda: nn.Conv2d(1, 4, 3),
        flat=lambda: nn.Conv1d(1, 4, 3),
        one=lambda: nn.Conv2d(4, 5, 3),
        two=lambda: nn.Conv2d(4, 5, 3),
        norm=lambda: nn.BatchNorm2d(4),
        drop=lambda: nn.Dropout(inplace=True),
        swish=lambda: nn.Hardswish(inplace=True),
        same=lambda: nn.Conv2d(4, 4, 3, padding=1),
        relu=lambda: nn.ReLU(inplace=True),
        head=lambda: nn.Linear(5, 3),
        other=lambda: nn.Linear(4, 3),
    )
    network.gate = nn.Parameter(torch.tensor([0.5, -1, 2, 0.1])[:, None, None])
    return network


def average(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean(dim=(2, 3))


def overwrite(n: Any, images: torch.Tensor) -> Logits:
    """A node works in place on responses that another one reads before or after it."""
    maps = n.conv(images)
    before = n.one(maps)
    return {"only": n.head(average(before * n.two(n.swish(maps))) + average(n.two(maps)))}


FOREIGN: dict[str, Callable[..., Any]] = {
    "in place": lambda n, x: {"only": n.head(average(n.one(n.relu(n.norm(n.conv(x))))))},
    "dropout": lambda n, x: {"only": n.head(average(n.one(n.swish(n.drop(n.conv(x))))))},
    "overwritten": overwrite,
    "two readers": lambda n, x: {"only": n.head(average(n.one(maps := n.conv(x)) * n.two(functional.relu(maps))))},
    "gated": lambda n, x: {"only": n.other(average(torch.sigmoid(n.gate) * functional.relu(n.conv(x))))},
    "residual": lambda n, x: {"only": n.other(average(n.relu(n.same(maps := n.relu(n.conv(x))) + maps)))},
    "images again": lambda n, x: {"only": n.other(average(n.conv(x))) + average(x)},
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "conv1": (build, "trunk.conv1"),
    "conv2": (build, "trunk.conv2"),
    "branches": (lambda: build("conv1"), "trunk.conv1"),
    "branch": (lambda: build("conv1"), "branches.expression.conv2"),
    "average": (build, "trunk.average"),
    "head": (build, "heads.identity"),
} | {name: (lambda steps=steps: make_foreign(steps), "conv") for name, steps in FOREIGN.items()}
EACH = pytest.mark.parametrize("name", NETWORKS)


def prepare(name: str, n: int = N) -> tuple[nn.Module, LesionedNetwork, LesionBatch]:
    make, layer = NETWORKS[name]
    network = make()
    lesioned = LesionedNetwork(network, layer)
    return network, lesioned, lesioned.prepare_batch(random_images(n))


def draw_lesions(units: int, k: int = 5) -> torch.Tensor:
    """Lesions of no units, of all, and of some."""
    lesions = torch.rand((k, units), generator=torch.Generator().manual_seed(6)) < 0.4
    lesions[0], lesions[1] = False, True
    return lesions


def join(parts: Iterator[tuple[slice, Logits]]) -> Logits:
    chunks = [logits for _, logits in parts]
    return {task: torch.cat([logits[task] for logits in chunks]) for task in chunks[0]}


def assert_close(first: Any, second: Any) -> None:
    """As float32 sums of some hundred numbers near 1, in another order."""
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def compute_all(lesioned: LesionedNetwork, batch: LesionBatch) -> list[Logits]:
    """Logits under sets of units, and under single units in addition to each set."""
    lesions, units = draw_lesions(batch.units), torch.arange(batch.units)
    singles = [join(lesioned.compute_single_lesions(batch, lesion, units)) for lesion in lesions]
    return [join(lesioned.compute_logits(batch, lesions)), *singles]


@EACH
def test_a_single_unit_is_a_set_of_one(name: str) -> None:
    """In addition to no units, all and some; in any order, and more than once."""
    _, lesioned, batch = prepare(name)
    units = torch.tensor([batch.units - 1, 0, 1, 0])
    for lesion in draw_lesions(batch.units):
        sets = lesion | functional.one_hot(units, batch.units).bool()
        singles = join(lesioned.compute_single_lesions(batch, lesion, units))
        assert_close(singles, join(lesioned.compute_logits(batch, sets)))


@EACH
def test_repeating_gives_the_same_bits(name: str) -> None:
    """Nodes that work in place do not change the results in a batch."""
    _, lesioned, batch = prepare(name)
    values = {node: value.clone() for node, value in batch.values.items()}
    first, second = compute_all(lesioned, batch), compute_all(lesioned, batch)
    assert all(torch.equal(a[task], b[task]) for a, b in zip(first, second, strict=True) for task in a)
    assert all(torch.equal(batch.values[node], value) for node, value in values.items())


@EACH
@pytest.mark.parametrize("numbers", [1, 2000])
def test_chunks_of_any_size_agree(name: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lesioned, batch = prepare(name)
    expected = compute_all(lesioned, batch)
    monkeypatch.setattr(module, "CHUNK_NUMBERS", numbers)
    assert_close(compute_all(lesioned, batch), expected)


@EACH
def test_lesions_are_those_of_the_context_manager(name: str) -> None:
    """Here many lesions of a batch, there a row of the batch each; the first lesion, of no units, changes nothing."""
    network, lesioned, batch = prepare(name, 1)
    lesions = draw_lesions(batch.units)
    with lesion_units(network, {lesioned.layer: lesions}), torch.no_grad():
        expected = network(random_images(1).repeat(len(lesions), 1, 1, 1))
    got = {task: logits.flatten(0, 1) for task, logits in join(lesioned.compute_logits(batch, lesions)).items()}
    assert_close(got, expected)
    with torch.no_grad():
        assert_close({task: logits[:1] for task, logits in got.items()}, network(random_images(1)))


@pytest.mark.parametrize(
    ("numbers", "ends"),
    [(1, [1, 2, 3, 4, 5]), (748 * N * 2 - 1, [1, 2, 3, 4, 5]), (748 * N * 2, [2, 4, 5]), (748 * N * 5, [5])],
)
def test_chunks_are_as_large_as_allowed(numbers: int, ends: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the largest result above the cut: four maps of 17x11, against six of 8x5 and others."""
    monkeypatch.setattr(module, "CHUNK_NUMBERS", numbers)
    _, lesioned, batch = prepare("conv1")
    assert (batch.largest, batch.units, len(batch)) == (748, 4, N)
    slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    none, units = torch.zeros(4, dtype=torch.bool), torch.tensor([0, 1, 2, 3, 3])
    for parts in (
        list(lesioned.compute_logits(batch, draw_lesions(4))),
        list(lesioned.compute_single_lesions(batch, none, units)),
    ):
        assert [part for part, _ in parts] == slices
        for part, logits in parts:
            k = part.stop - part.start
            shapes = {task: tuple(values.shape) for task, values in logits.items()}
            assert shapes == {"expression": (k, N, 7), "identity": (k, N, 5)}
            assert not any(values.requires_grad for values in logits.values())


def test_no_lesions_give_no_logits() -> None:
    _, lesioned, batch = prepare("conv1")
    assert list(lesioned.compute_logits(batch, draw_lesions(4)[:0])) == []


@pytest.mark.parametrize("name", ["conv1", "conv2"])
def test_responses_are_those_behind_the_rectifier(name: str) -> None:
    network, _, batch = prepare(name)
    rectifier = f"trunk.relu{name[-1]}"
    with record_responses(network, [rectifier]) as responses, torch.no_grad():
        network(random_images(N))
    assert_close(batch.responses, responses[rectifier])


def test_the_closed_form_exists_for_the_layer_below_the_heads() -> None:
    closed = {name for name, (make, layer) in NETWORKS.items() if LesionedNetwork(make(), layer).has_closed_form}
    assert closed == {"conv2", "branch", "average"}


def test_the_network_is_unchanged_and_its_mode_does_not_matter() -> None:
    network = build().train()
    network.trunk.norm1.eval()
    before = describe_state(network)
    lesioned = LesionedNetwork(network, "trunk.conv1")
    got = compute_all(lesioned, lesioned.prepare_batch(random_images(N)))
    assert describe_state(network) == before
    assert all(parameter.grad is None for parameter in network.parameters())
    network.eval()
    assert_close(got, compute_all(lesioned, lesioned.prepare_batch(random_images(N))))


# -- refusals; those of cutting are in tests/models/test_tracing.py and test_graph.py


@pytest.mark.parametrize(
    "lesions",
    [
        torch.ones((5, 6), dtype=torch.bool),
        torch.ones(4, dtype=torch.bool),
        torch.ones((5, 3, 4), dtype=torch.bool),
        torch.ones((5, 4)),
        torch.ones((5, 4), dtype=torch.int64),
    ],
)
def test_lesions_of_another_shape_or_type_are_refused(lesions: torch.Tensor) -> None:
    _, lesioned, batch = prepare("conv1")
    got = rf"lesions are {lesions.dtype} of shape \({str(tuple(lesions.shape))[1:-1]}\); expected bool \(lesions, 4\)"
    with pytest.raises(StudyError, match=got):
        list(lesioned.compute_logits(batch, lesions))


@pytest.mark.parametrize("lesion", [torch.ones(3, dtype=torch.bool), torch.ones(4), torch.ones((1, 4)).bool()])
def test_a_base_lesion_of_another_shape_or_type_is_refused(lesion: torch.Tensor) -> None:
    _, lesioned, batch = prepare("conv1")
    with pytest.raises(StudyError, match=rf"lesions are {lesion.dtype} of shape .* expected bool \(lesions, 4\)"):
        list(lesioned.compute_single_lesions(batch, lesion, torch.arange(4)))


def test_responses_without_units_are_refused() -> None:
    network = make_foreign(lambda n, x: {"only": n.flat(x.flatten(2).mean(dim=1, keepdim=True))})
    with pytest.raises(StudyError, match=r"layer 'flat' has responses of shape \(3, 4, 185\): \(n, units, h, w\)"):
        LesionedNetwork(network, "flat").prepare_batch(random_images(N))
