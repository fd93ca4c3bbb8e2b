"""Lesions: exact zeros behind norm and rectifier, laws that lesions obey, and a network that is unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, reduce
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from facespec.models.layers import find_rectifier, list_convolutions
from facespec.models.networks import FaceNetwork
from facespec.responses.lesioning import lesion_units
from facespec.responses.recording import record_responses
from facespec.study.errors import StudyError
from toys import Foreign, count_hooks, describe_state, make_network, random_images, seeded

pytestmark = pytest.mark.usefixtures("one_thread")

N = 3
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
Lesions = dict[str, torch.Tensor]


def randomise(network: nn.Module) -> Any:
    """Weights and statistics of a size that lets every unit matter, and norms that give a constant for 0."""
    generator = seeded(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 3)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.rand(module.num_features, generator=generator) + 0.2)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                scale = module.weight[0].numel() ** -0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * scale)
    return network.eval()


def build(**options: Any) -> FaceNetwork:
    return randomise(make_network((5, 7), **options))


def make_foreign(*, normed: bool = True, rectifier: str = "own") -> Foreign:
    """Plain or with batch norm; the rectifier is a module per layer, one for all layers, or a function."""

    def run(n: Any, maps: torch.Tensor) -> Any:
        relus = n.relu1, n.relu1 if rectifier == "shared" else n.relu2
        for convolution, norm, relu in zip((n.conv1, n.conv2), (n.norm1, n.norm2), relus, strict=True):
            maps = norm(convolution(maps)) if normed else convolution(maps)
            maps = functional.relu(maps) if rectifier == "function" else relu(maps)
        return {name: head(maps.mean(dim=(2, 3))) for name, head in n.heads.items()}

    parts: dict[str, Callable[[], nn.Module]] = {
        "conv1": lambda: nn.Conv2d(1, 5, 3),
        "conv2": lambda: nn.Conv2d(5, 7, (3, 2)),
        "relu1": lambda: nn.ReLU(inplace=True),
        "relu2": lambda: nn.ReLU(inplace=True),
        "norm1": lambda: nn.BatchNorm2d(5),
        "norm2": lambda: nn.BatchNorm2d(7),
        "heads": lambda: nn.ModuleDict({"a": nn.Linear(7, 3), "b": nn.Linear(7, 4)}),
    }
    return randomise(Foreign(run, **parts))


NETWORKS: dict[str, Callable[[], Any]] = {
    "trunk": build,
    "two": lambda: build(convolutions=2),
    "branches": lambda: build(convolutions=2, branch_after="conv2"),
    "normed": make_foreign,
    "plain": lambda: make_foreign(normed=False),
    "shared": lambda: make_foreign(rectifier="shared"),
    "function": lambda: make_foreign(rectifier="function"),
    "plain function": lambda: make_foreign(normed=False, rectifier="function"),
}
get_network = cache(lambda name: NETWORKS[name]())


def count_units(network: nn.Module) -> dict[str, int]:
    return {name: m.out_channels for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def compute(network: nn.Module, *lesions: Lesions, images: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Logits in nested contexts, the first the outermost."""
    if lesions:
        with lesion_units(network, lesions[0]):
            return compute(network, *lesions[1:], images=images)
    with torch.no_grad():
        return network(random_images(N) if images is None else images)


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[task], second[task]) for task in first)


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """As sums of some hundred float32 numbers near 1, taken in another order."""
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


# -- laws


def draw_masks(units: int, rows: bool) -> st.SearchStrategy[torch.Tensor]:
    mask = st.lists(st.booleans(), min_size=units, max_size=units)
    one = mask.map(torch.tensor)
    return one | st.lists(mask, min_size=N, max_size=N).map(torch.tensor) if rows else one


@st.composite
def draw_cases(draw: st.DrawFn, lesions: int, rows: bool = True) -> tuple[Any, list[Lesions]]:
    """A network, and lesions of some of its convolutions."""
    network = get_network(draw(st.sampled_from(sorted(NETWORKS))))
    masks = {name: draw_masks(units, rows) for name, units in count_units(network).items()}
    return network, [draw(st.fixed_dictionaries({}, optional=masks)) for _ in range(lesions)]


LAWS = settings(max_examples=20)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(), (N,)])
def test_the_empty_lesion_changes_nothing(name: str, shape: tuple[int, ...]) -> None:
    network = get_network(name)
    none = {layer: torch.zeros((*shape, units), dtype=torch.bool) for layer, units in count_units(network).items()}
    assert same_bits(compute(network, none), compute(network))
    assert same_bits(compute(network, {}), compute(network))


@LAWS
@given(draw_cases(lesions=3))
def test_nested_lesions_are_their_union(case: tuple[Any, list[Lesions]]) -> None:
    """In any order."""
    network, lesions = case
    layers = {layer for lesion in lesions for layer in lesion}
    union = {layer: reduce(torch.logical_or, [each[layer] for each in lesions if layer in each]) for layer in layers}
    nested = compute(network, *lesions)
    assert same_bits(nested, compute(network, union))
    assert same_bits(nested, compute(network, *reversed(lesions)))


@LAWS
@given(draw_cases(lesions=1, rows=False), st.data())
def test_without_a_layer_of_the_trunk_all_images_give_the_same_logits(
    case: tuple[Any, list[Lesions]], data: st.DataObject
) -> None:
    """Whatever else is lesioned; without lesions, they differ."""
    network, (other,) = case
    trunk = {name: units for name, units in count_units(network).items() if not name.startswith("branches")}
    layer = data.draw(st.sampled_from(sorted(trunk)))
    lesioned = compute(network, other | {layer: torch.ones(trunk[layer], dtype=torch.bool)})
    for task, logits in compute(network).items():
        assert (logits - logits[:1])[1:].abs().max() > 1e-3
        expected = lesioned[task][:1].expand_as(logits)
        torch.testing.assert_close(lesioned[task], expected, rtol=1e-6, atol=1e-6)  # last bits differ by row


@LAWS
@given(draw_cases(lesions=1))
def test_each_image_of_a_batch_has_the_lesion_of_its_row(case: tuple[Any, list[Lesions]]) -> None:
    network, (lesion,) = case
    got = compute(network, lesion)
    for i in range(N):
        row = {layer: mask[i] if mask.ndim == 2 else mask for layer, mask in lesion.items()}
        single = compute(network, row, images=random_images(N)[i : i + 1])
        assert_close({task: logits[i : i + 1] for task, logits in got.items()}, single)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_lesion_is_as_if_the_heads_had_no_weights_for_the_unit(name: str) -> None:
    network, other = get_network(name), NETWORKS[name]()
    last = max(layer[-1] for layer in count_units(network))
    layers = [layer for layer in count_units(network) if layer.endswith(last)]
    lesion = torch.tensor([False, True, True, False, False, False, True])
    got = compute(network, dict.fromkeys(layers, lesion))
    with torch.no_grad():
        for head in other.heads.values():
            head.weight[:, lesion] = 0
    assert_close(got, compute(other))
    assert not same_bits(got, compute(network))


# -- which responses are zero


@pytest.mark.parametrize("branch_after", [None, "conv1"])
def test_units_of_a_convolution_are_lesioned_behind_its_rectifier(branch_after: str | None) -> None:
    """Exact zeros, for the rows and units of the lesion; all others keep their bits, and so do layers below."""
    network = build(branch_after=branch_after)
    for layer in list_convolutions(network):
        lesion = torch.rand((N, count_units(network)[layer]), generator=seeded(5)) < 0.5
        rectifier, below = find_rectifier(network, layer), [layer, layer.replace("conv", "norm")]
        with record_responses(network, [*below, rectifier]) as intact:
            compute(network)
        with lesion_units(network, {layer: lesion}), record_responses(network, [*below, rectifier]) as lesioned:
            compute(network)
        assert all(torch.equal(lesioned[name], intact[name]) for name in below)
        expected = torch.where(lesion[:, :, None, None], torch.zeros(()), intact[rectifier])
        assert torch.equal(lesioned[rectifier], expected)
        assert expected.any() and intact[rectifier][lesion].any()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("normed", "relu2"),
        ("plain", "relu2"),
        ("shared", "norm2"),
        ("function", "norm2"),
        ("plain function", "conv2"),
    ],
)
def test_units_of_foreign_convolutions_are_lesioned_at_the_last_module_called_for_them_alone(
    name: str, module: str
) -> None:
    network = get_network(name)
    with lesion_units(network, {"conv2": torch.ones(7, dtype=torch.bool)}):
        assert [key for key, part in network.named_modules() if part._forward_hooks] == [module]


@pytest.mark.parametrize("layer", ["trunk.norm1", "trunk.pool1", "trunk.relu2", "trunk.average", "heads.identity"])
def test_other_layers_are_lesioned_at_their_output(layer: str) -> None:
    network = build()
    with record_responses(network, [layer]) as intact:
        compute(network)
    lesion = torch.arange(intact[layer].shape[1]) % 2 == 1
    with lesion_units(network, {layer: lesion}), record_responses(network, [layer]) as lesioned:
        compute(network)
    assert not lesioned[layer][:, lesion].any()
    assert torch.equal(lesioned[layer][:, ~lesion], intact[layer][:, ~lesion]) and lesioned[layer].any()


def test_in_a_network_that_cannot_be_traced_convolutions_are_lesioned_at_their_output() -> None:
    network = randomise(Foreign(lambda n, x: n.conv(x if x.sum() > 0 else -x), conv=lambda: nn.Conv2d(1, 5, 3)))
    lesion = torch.tensor([True, False, False, True, False])
    for images in (random_images().abs(), -random_images().abs()):
        intact = network(images)
        with lesion_units(network, {"conv": lesion}):
            assert torch.equal(network(images), torch.where(lesion[:, None, None], torch.zeros(()), intact))


def test_lesioned_units_are_zero_whatever_they_were() -> None:
    """A product with 0 would be NaN for NaN and infinity; other units keep theirs."""
    network = build()
    with torch.no_grad():
        network.trunk.norm1.bias.copy_(torch.tensor([torch.nan, torch.inf, 1.0, torch.nan, torch.inf]))
    lesion = torch.tensor([True, True, False, False, False])
    with lesion_units(network, {"trunk.conv1": lesion}), record_responses(network, ["trunk.relu1"]) as responses:
        compute(network)
    maps = responses["trunk.relu1"]
    assert not maps[:, :2].any() and maps[:, 2].isfinite().all() and maps[:, 3].isnan().all()
    assert maps[:, 4].isinf().all()
    finite = compute(network, {"trunk.conv1": torch.tensor([True, True, False, True, True])})
    assert all(logits.isfinite().all() for logits in finite.values())


def test_lesioned_units_have_no_gradient() -> None:
    network, lesion = build(), torch.tensor([True, False, False, True, False])
    with lesion_units(network, {"trunk.conv1": lesion}):
        network(random_images())["identity"].square().sum().backward()
    assert network.trunk.conv1.weight.grad.flatten(1).any(dim=1).tolist() == (~lesion).tolist()


# -- what remains


def test_a_lesion_is_copied() -> None:
    network, lesion = build(), torch.tensor([True, False, False, True, False])
    expected = compute(network, {"trunk.conv1": lesion})
    with lesion_units(network, {"trunk.conv1": lesion}):
        lesion.zero_()
        assert same_bits(compute(network), expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_unchanged(name: str, fails: bool) -> None:
    """In the middle of training, too; after errors of the body and of the forward pass."""
    network = NETWORKS[name]()
    intact = compute(network)
    network.train()
    next(module for module in network.modules() if isinstance(module, nn.Conv2d)).eval()
    next(network.parameters()).requires_grad_(False)
    before = describe_state(network)
    lesions = {layer: torch.ones(units, dtype=torch.bool) for layer, units in count_units(network).items()}
    try:
        with lesion_units(network, lesions), lesion_units(network, lesions):
            assert count_hooks(network) == 2 * len(lesions)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert describe_state(network) == before
    assert same_bits(compute(network.eval()), intact)
    with pytest.raises(StudyError), lesion_units(network, {next(iter(lesions)): torch.ones(4, dtype=torch.bool)}):
        network(random_images(N))
    assert count_hooks(network) == 0 and same_bits(compute(network), intact)


def test_no_hook_remains_if_one_cannot_be_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Callable[..., Any]) -> None:
        raise RuntimeError

    network = build()
    monkeypatch.setattr(network.trunk.relu2, "register_forward_hook", fail)
    both = {"trunk.conv1": torch.ones(5, dtype=torch.bool), "trunk.conv2": torch.ones(7, dtype=torch.bool)}
    with pytest.raises(RuntimeError), lesion_units(network, both):
        pass
    assert count_hooks(network) == 0


# -- refusals


def assert_refused(network: nn.Module, lesions: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)), lesion_units(network, lesions):
        network(random_images(N))
    assert count_hooks(network) == 0


@pytest.mark.parametrize(
    ("layer", "hint"), [("trunk.conv3", "did you mean 'trunk.conv2'? "), ("branches", "Allowed"), ("", "Allowed")]
)
def test_unknown_layers_and_dicts_of_modules_are_refused(layer: str, hint: str) -> None:
    """The whole trunk is a layer."""
    lesions = {"trunk": torch.ones(7, dtype=torch.bool), layer: torch.ones(5, dtype=torch.bool)}
    assert_refused(build(), lesions, f"this network has no layer {layer!r}: {hint}")


@pytest.mark.parametrize(
    ("lesion", "got"),
    [
        (torch.ones(5), "torch.float32 (5,)"),
        (torch.arange(3), "torch.int64 (3,)"),
        (torch.ones((1, 5, 1), dtype=torch.bool), "torch.bool (1, 5, 1)"),
        (torch.tensor(True), "torch.bool ()"),
        ([True] * 5, "list"),
    ],
)
def test_what_is_no_lesion_is_refused_before_any_forward_pass(lesion: Any, got: str) -> None:
    message = re.escape(f"the lesion of layer 'trunk.conv1' is {got}: a bool tensor is needed, (units,) or (images, ")
    with pytest.raises(StudyError, match=message), lesion_units(build(), {"trunk.conv1": lesion}):
        raise AssertionError


@pytest.mark.parametrize("shape", [(6,), (1,), (4, 5), (1, 5), (3, 7), (5, 3)])
def test_lesions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """Neither a row nor a unit is repeated."""
    message = f"has shape {shape}: this layer has 5 units and the batch 3 images, so (5,) or (3, 5) is needed"
    assert_refused(build(), {"trunk.conv1": torch.ones(shape, dtype=torch.bool)}, message)


@pytest.mark.parametrize(("layer", "got"), [("pool", "tuple"), ("flat", "of shape (120,)")])
def test_responses_without_units_are_refused(layer: str, got: str) -> None:
    network = Foreign(
        lambda n, x: n.flat(n.pool(x)[0]),
        pool=lambda: nn.MaxPool2d(2, return_indices=True),
        flat=lambda: nn.Flatten(0),
    )
    lesions = {layer: torch.ones(1, dtype=torch.bool)}
    assert_refused(network, lesions, f"layer {layer!r} gives responses {got}: a tensor (images, units, ...)")


def test_a_convolution_that_is_called_twice_is_refused() -> None:
    """Its norm and rectifier may differ from call to call."""
    network = Foreign(lambda n, x: (n.conv1(x) + n.conv1(-x)).sum(dim=1), conv1=lambda: nn.Conv2d(1, 5, 3))
    assert_refused(network, {"conv1": torch.ones(5, dtype=torch.bool)}, "layer 'conv1' is called 2 times")


@GPU
def test_lesions_work_on_a_gpu() -> None:
    network, lesion = build(), torch.tensor([True, False, False, True, False])
    on_cpu = compute(network, {"trunk.conv1": lesion})
    on_gpu = compute(network.cuda(), {"trunk.conv1": lesion}, images=random_images(N).cuda())
    torch.testing.assert_close({task: logits.cpu() for task, logits in on_gpu.items()}, on_cpu, rtol=2e-3, atol=2e-3)
