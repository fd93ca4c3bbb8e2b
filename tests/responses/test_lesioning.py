"""Lesions: exact silence behind norm and rectifier, laws of silence, and a network that comes back as it was."""

from __future__ import annotations

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
from facespec.models.networks import FaceNetwork, build_network
from facespec.responses.lesioning import lesion_units
from facespec.responses.recording import record_responses
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

pytestmark = pytest.mark.usefixtures("one_thread")

N = 3
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces_like(n: int = N) -> torch.Tensor:
    return torch.rand((n, 1, 17, 11), generator=seeded(2)) * 2 - 1


def stirred(network: nn.Module) -> Any:
    """Weights and statistics of a size that lets every unit be heard, and norms that give something for 0."""
    draw = seeded(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=draw) / 3)
                module.running_var.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
                module.bias.copy_(torch.rand(module.num_features, generator=draw) + 0.2)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                scale = module.weight[0].numel() ** -0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=draw) * scale)
    return network.eval()


def face_network(*, list_convolutions: int = 1, branch_after: str | None = None) -> FaceNetwork:
    block = NetworkBlock(
        trunk="small_vgg", channels=[5, 7], list_convolutions=list_convolutions, branch_after=branch_after
    )
    return stirred(build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded(1)))


class Foreign(nn.Module):
    """Someone's network: plain or with batch norm, the rectifier a module, one for all layers, or a function."""

    def __init__(self, *, normed: bool = True, rectifier: str = "own", inplace: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 7, (3, 2))
        self.norm1, self.norm2 = (nn.BatchNorm2d(n) if normed else nn.Identity() for n in (5, 7))
        self.normed, self.rectifier = normed, rectifier
        self.relu1 = nn.ReLU(inplace=inplace)
        self.relu2 = nn.ReLU(inplace=inplace) if rectifier == "own" else self.relu1
        self.heads = nn.ModuleDict({"a": nn.Linear(7, 3), "b": nn.Linear(7, 4)})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = images
        for convolution, norm, relu in ((self.conv1, self.norm1, self.relu1), (self.conv2, self.norm2, self.relu2)):
            maps = norm(convolution(maps)) if self.normed else convolution(maps)
            maps = functional.relu(maps) if self.rectifier == "function" else relu(maps)
        return {name: head(maps.mean(dim=(2, 3))) for name, head in self.heads.items()}


def made(module: Callable[[], nn.Module]) -> Any:
    """What `module` makes, while the global random state stays."""
    with torch.random.fork_rng(devices=[]):
        return stirred(module())


NETWORKS: dict[str, Callable[[], Any]] = {
    "trunk": face_network,
    "two": lambda: face_network(convolutions=2),
    "branches": lambda: face_network(convolutions=2, branch_after="conv2"),
    "normed": lambda: made(Foreign),
    "plain": lambda: made(lambda: Foreign(normed=False)),
    "shared": lambda: made(lambda: Foreign(rectifier="shared")),
    "function": lambda: made(lambda: Foreign(rectifier="function")),
    "plain function": lambda: made(lambda: Foreign(normed=False, rectifier="function")),
}
network_of = cache(lambda name: NETWORKS[name]())


def convolutions_of(network: nn.Module) -> dict[str, int]:
    return {name: m.out_channels for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def answers(network: nn.Module, *contexts: dict[str, torch.Tensor], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits with all lesions of `contexts`, the first the outermost."""
    if contexts:
        with lesion_units(network, contexts[0]):
            return answers(network, *contexts[1:], images=images)
    with torch.no_grad():
        return network(images)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(first[task], second[task]) for task in first)


def close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """As sums of some hundred float32 numbers near 1 are, taken in another order."""
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def masks(units: int, rows: bool = True) -> st.SearchStrategy[torch.Tensor]:
    bools = st.lists(st.booleans(), min_size=units, max_size=units)
    own = bools.map(torch.tensor)
    return own | st.lists(bools, min_size=N, max_size=N).map(torch.tensor) if rows else own


@st.composite
def cases(draw: st.DrawFn, lesions: int, rows: bool = True) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    """A network, and lesions of its convolutions, each of some of them."""
    network = network_of(draw(st.sampled_from(sorted(NETWORKS))))
    known = convolutions_of(network)
    each = st.fixed_dictionaries({}, optional={name: masks(units, rows) for name, units in known.items()})
    return network, [draw(each) for _ in range(lesions)]


LAWS = settings(max_examples=30)


@LAWS
@given(st.sampled_from(sorted(NETWORKS)), st.booleans())
def test_the_empty_lesion_changes_nothing(name: str, rows: bool) -> None:
    network, images = network_of(name), faces_like()
    whole = answers(network, images=images)
    shape = (N,) if rows else ()
    none = {name: torch.zeros((*shape, units), dtype=torch.bool) for name, units in convolutions_of(network).items()}
    assert same(answers(network, none, images=images), whole)
    assert same(answers(network, {}, images=images), whole)


@LAWS
@given(cases(lesions=3))
def test_nested_lesions_are_their_union(case: tuple[Any, list[dict[str, torch.Tensor]]]) -> None:
    network, lesions = case
    layers = {layer for lesion in lesions for layer in lesion}
    union = {layer: reduce(torch.logical_or, [own[layer] for own in lesions if layer in own]) for layer in layers}
    images = faces_like()
    assert same(answers(network, *lesions, images=images), answers(network, union, images=images))


@LAWS
@given(cases(lesions=2))
def test_disjoint_lesions_commute(case: tuple[Any, list[dict[str, torch.Tensor]]]) -> None:
    network, (first, second) = case
    second = {layer: silent & ~first[layer] if layer in first else silent for layer, silent in second.items()}
    images = faces_like()
    there = answers(network, first, second, images=images)
    assert same(there, answers(network, second, first, images=images))
    assert same(there, answers(network, first, second, first, images=images))


@LAWS
@given(cases(lesions=1, rows=False), st.data())
def test_without_a_trunk_layer_all_images_look_alike(case: tuple[Any, list[Any]], data: st.DataObject) -> None:
    """Whatever else is silent; the whole network tells them apart."""
    network, (besides,) = case
    trunk = {name: units for name, units in convolutions_of(network).items() if not name.startswith("branches")}
    layer = data.draw(st.sampled_from(sorted(trunk)))
    all_units = besides | {layer: torch.ones(trunk[layer], dtype=torch.bool)}
    for whole, blind in zip(
        answers(network, images=faces_like()).values(),
        answers(network, all_units, images=faces_like()).values(),
        strict=True,
    ):
        assert (whole - whole[:1])[1:].abs().max() > 1e-3
        torch.testing.assert_close(blind, blind[:1].expand_as(blind), rtol=1e-6, atol=1e-6)  # last bits: row by row


@LAWS
@given(cases(lesions=1))
def test_each_image_of_a_batch_has_the_lesion_of_its_row(case: tuple[Any, list[dict[str, torch.Tensor]]]) -> None:
    network, (lesion,) = case
    got = answers(network, lesion, images=faces_like())
    for i in range(N):
        own = {layer: silent[i] if silent.ndim == 2 else silent for layer, silent in lesion.items()}
        alone = answers(network, own, images=faces_like()[i : i + 1])
        close({task: logits[i : i + 1] for task, logits in got.items()}, alone)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_silent_unit_is_as_if_nobody_read_it(name: str) -> None:
    """By another road: what the last convolution's unit tells the heads is taken out of their weights."""
    network, images = network_of(name), faces_like()
    last = max(layer[-1] for layer in convolutions_of(network))
    layers = [layer for layer in convolutions_of(network) if layer.endswith(last)]
    silent = torch.tensor([False, True, True, False, False, False, True])
    got = answers(network, dict.fromkeys(layers, silent), images=images)
    deaf = NETWORKS[name]()
    with torch.no_grad():
        for head in deaf.heads.values():
            head.weight[:, silent] = 0
    close(got, answers(deaf, images=images))
    assert not same(got, answers(network, images=images))


@pytest.mark.parametrize("branch_after", [None, "conv1"])
def test_units_of_a_convolution_are_silent_behind_its_rectifier(branch_after: str | None) -> None:
    """By exact zeros, for the rows and units chosen; all others keep their bits, and so do layers below."""
    network, images = face_network(branch_after=branch_after), faces_like()
    for layer in list_convolutions(network):
        units = 5 if layer.endswith("1") else 7
        silent = torch.rand((N, units), generator=seeded(5)) < 0.5
        names = [layer, layer.replace("conv", "norm"), find_rectifier(network, layer)]
        with record_responses(network, names) as whole:
            answers(network, images=images)
        with lesion_units(network, {layer: silent}), record_responses(network, names) as lesioned:
            answers(network, images=images)
        assert torch.equal(lesioned[names[0]], whole[names[0]]) and torch.equal(lesioned[names[1]], whole[names[1]])
        before, after = whole[names[2]], lesioned[names[2]]
        assert torch.equal(after, torch.where(silent[:, :, None, None], torch.zeros(()), before))
        assert after[~silent].any() and before[silent].any() and not after[silent].any()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("normed", "relu2"),
        ("plain", "relu2"),
        ("shared", "norm2"),
        ("function", "norm2"),
        ("plain function", "conv2"),
    ],
)
def test_units_of_foreign_convolutions_too(name: str, place: str) -> None:
    """At the last module of convolution, norm and rectifier that is called for this convolution alone."""
    network = network_of(name)
    with lesion_units(network, {"conv2": torch.ones(7, dtype=torch.bool)}):
        hooked = [name for name, module in network.named_modules() if module._forward_hooks]
    assert hooked == [place]


@pytest.mark.parametrize("layer", ["trunk.norm1", "trunk.pool1", "trunk.relu2", "trunk.average", "heads.identity"])
def test_other_layers_are_silenced_where_they_are(layer: str) -> None:
    network, images = face_network(), faces_like()
    with record_responses(network, [layer]) as whole:
        answers(network, images=images)
    silent = torch.arange(whole[layer].shape[1]) % 2 == 1
    with lesion_units(network, {layer: silent}), record_responses(network, [layer]) as lesioned:
        answers(network, images=images)
    assert not lesioned[layer][:, silent].any()
    assert torch.equal(lesioned[layer][:, ~silent], whole[layer][:, ~silent]) and lesioned[layer].any()


class Branching(nn.Module):
    """torch.fx cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images if images.sum() > 0 else -images)


def test_what_cannot_be_traced_is_silenced_where_it_is() -> None:
    network = made(Branching)
    silent = torch.tensor([True, False, False, True, False])
    for images in (faces_like().abs(), -faces_like().abs()):
        whole = network(images)
        with lesion_units(network, {"conv": silent}):
            got = network(images)
        assert torch.equal(got, torch.where(silent[:, None, None], torch.zeros(()), whole))


def test_silence_is_silence_whatever_the_unit_gives() -> None:
    """A product with 0 would keep NaN and infinity; other units keep theirs."""
    network, images = face_network(), faces_like()
    with torch.no_grad():
        network.trunk.norm1.bias.copy_(torch.tensor([torch.nan, torch.inf, 1.0, torch.nan, torch.inf]))
    silent = torch.tensor([True, True, False, False, False])
    with lesion_units(network, {"trunk.conv1": silent}), record_responses(network, ["trunk.relu1"]) as responses:
        answers(network, images=images)
    maps = responses["trunk.relu1"]
    assert torch.equal(maps[:, :2], torch.zeros_like(maps[:, :2]))
    assert maps[:, 2].isfinite().all() and maps[:, 3].isnan().all() and maps[:, 4].isinf().all()
    rest = answers(network, {"trunk.conv1": torch.tensor([True, True, False, True, True])}, images=images)
    assert all(logits.isfinite().all() for logits in rest.values())


def test_gradients_do_not_pass_silent_units() -> None:
    network = face_network()
    silent = torch.tensor([True, False, False, True, False])
    with lesion_units(network, {"trunk.conv1": silent}):
        network(faces_like())["identity"].square().sum().backward()
    heard = network.trunk.conv1.weight.grad.flatten(1).any(dim=1)
    assert heard.tolist() == (~silent).tolist()


def test_a_lesion_is_what_it_was_at_the_door() -> None:
    network, images = face_network(), faces_like()
    silent = torch.tensor([True, False, False, True, False])
    wanted = answers(network, {"trunk.conv1": silent}, images=images)
    with lesion_units(network, {"trunk.conv1": silent}):
        silent.zero_()
        assert same(answers(network, images=images), wanted)


def state(network: nn.Module) -> dict[str, Any]:
    """All there is to a network, its bits included."""
    return {
        "weights": {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()},
        "identities": [id(module) for module in network.modules()] + [id(own) for own in network.parameters()],
        "modes": [module.training for module in network.modules()],
        "asked": [parameter.requires_grad for parameter in network.parameters()],
        "hooks": [
            {name: len(own) for name, own in vars(module).items() if "hooks" in name and own is not None}
            for module in network.modules()
        ],
    }


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("failing", [False, True])
def test_the_network_comes_back_as_it_was(name: str, failing: bool) -> None:
    """In the middle of training, too; and after errors of the body or of the forward pass."""
    network, images = NETWORKS[name](), faces_like()
    whole = answers(network, images=images)
    network.train()
    next(module for module in network.modules() if isinstance(module, nn.Conv2d)).eval()
    next(network.parameters()).requires_grad_(False)
    before = state(network)
    lesions = {layer: torch.ones(units, dtype=torch.bool) for layer, units in convolutions_of(network).items()}
    try:
        with lesion_units(network, lesions), lesion_units(network, lesions):
            assert sum(sum(own.values()) for own in state(network)["hooks"]) >= 2 * len(lesions)
            if failing:
                raise RuntimeError
    except RuntimeError:
        assert failing
    with (
        pytest.raises(StudyError),
        lesion_units(network.eval(), {next(iter(lesions)): torch.ones(4, dtype=torch.bool)}),
    ):
        network(images)
    for module, mode in zip(network.modules(), before["modes"], strict=True):
        module.training = mode
    assert state(network) == before
    assert same(answers(network.eval(), images=images), whole)


def test_nothing_remains_when_attaching_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    network = face_network()

    def broken(_: Callable[..., Any]) -> None:
        raise RuntimeError

    monkeypatch.setattr(network.trunk.relu2, "register_forward_hook", broken)
    both = {"trunk.conv1": torch.ones(5, dtype=torch.bool), "trunk.conv2": torch.ones(7, dtype=torch.bool)}
    with pytest.raises(RuntimeError), lesion_units(network, both):
        pass
    assert not any(module._forward_hooks for module in network.modules())


def refusal(network: nn.Module, lesions: dict[str, Any], images: torch.Tensor | None = None) -> str:
    with pytest.raises(StudyError) as caught, lesion_units(network, lesions):
        assert images is not None
        network(images)
    assert not any(module._forward_hooks for module in network.modules())
    return str(caught.value)


LAYERS = (
    "'trunk', 'trunk.conv1', 'trunk.norm1', 'trunk.relu1', 'trunk.pool1', 'trunk.conv2', 'trunk.norm2', 'trunk.relu2', "
    "'trunk.average', 'branches', 'heads', 'heads.expression', 'heads.identity'."
)


@pytest.mark.parametrize(("layer", "hint"), [("trunk.conv3", "did you mean 'trunk.conv2'? "), ("", "")])
def test_unknown_layers_are_refused(layer: str, hint: str) -> None:
    lesions = {"trunk.conv1": torch.ones(5, dtype=torch.bool), layer: torch.ones(5, dtype=torch.bool)}
    assert refusal(face_network(), lesions) == f"this network has no layer {layer!r}: {hint}Allowed: {LAYERS}"


@pytest.mark.parametrize(
    ("silent", "got"),
    [
        (torch.ones(5), "torch.float32 (5,)"),
        (torch.arange(3), "torch.int64 (3,)"),
        (torch.ones((1, 5, 1), dtype=torch.bool), "torch.bool (1, 5, 1)"),
        (torch.tensor(True), "torch.bool ()"),
        ([True] * 5, "list"),
    ],
)
def test_what_is_no_lesion_is_refused_at_the_door(silent: Any, got: str) -> None:
    assert refusal(face_network(), {"trunk.conv1": silent}) == (
        f"the lesion of layer 'trunk.conv1' is {got}: a bool tensor is needed, (units,) or (images, units), True where "
        "a unit is silent."
    )


@pytest.mark.parametrize("shape", [(6,), (1,), (4, 5), (1, 5), (3, 7), (5, 3)])
def test_lesions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """One row for all images would be a guess; so would be one unit for all units."""
    assert refusal(face_network(), {"trunk.conv1": torch.ones(shape, dtype=torch.bool)}, faces_like()) == (
        f"the lesion of layer 'trunk.conv1' has shape {shape}: this layer has 5 units and the batch 3 images, so (5,) "
        "or (3, 5) is needed."
    )


class Odd(nn.Module):
    """Parts whose responses have no units."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.flat = nn.MaxPool2d(2, return_indices=True), nn.Flatten(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.flat(self.pool(images)[0])


@pytest.mark.parametrize(("layer", "got"), [("pool", "tuple"), ("flat", "of shape (120,)")])
def test_responses_without_units_are_refused(layer: str, got: str) -> None:
    assert refusal(Odd(), {layer: torch.ones(1, dtype=torch.bool)}, faces_like()) == (
        f"layer {layer!r} gives responses {got}: a tensor (images, units, ...) can be lesioned."
    )


class Twice(Foreign):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": self.conv1(images).sum(dim=1) + self.conv1(-images).sum(dim=1)}


def test_a_convolution_called_twice_is_refused() -> None:
    """What follows it may differ from call to call."""
    assert refusal(made(Twice), {"conv1": torch.ones(5, dtype=torch.bool)}) == (
        "layer 'conv1' is called 2 times in a forward pass: its units must be in one place. Name a layer that is "
        "called once, such as the convolution or the norm before it."
    )


@GPU
def test_lesions_follow_the_network_to_a_gpu() -> None:
    network, silent = face_network(), torch.tensor([True, False, False, True, False])
    here = answers(network, {"trunk.conv1": silent}, images=faces_like())
    there = answers(network.cuda(), {"trunk.conv1": silent}, images=faces_like().cuda())
    torch.testing.assert_close({t: own.cpu() for t, own in there.items()}, here, rtol=2e-3, atol=2e-3)
