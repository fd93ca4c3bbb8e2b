"""Networks cut behind a layer: where units are taken, which steps keep them apart, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from facespec.models import trunks
from facespec.models.graph import NetworkCut, cut_network
from facespec.models.networks import FaceNetwork, build_network
from facespec.models.tracing import Untraceable, find_lesion_module
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces_like(n: int = 3) -> torch.Tensor:
    return torch.rand((n, 1, 17, 11), generator=seeded(2)) * 2 - 1


def stirred(network: nn.Module) -> Any:
    """With norms that are far from the identity."""
    draw = seeded(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                    if tensor is not None:
                        tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.2)
    return network.eval()


def made(trunk: str = "small_vgg", *, convolutions: int = 1, branch_after: str | None = None) -> FaceNetwork:
    block = NetworkBlock(trunk=trunk, channels=[4, 6], convolutions=convolutions, branch_after=branch_after)
    return stirred(build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded(1)))


class Foreign(nn.Module):
    """Someone's network: `forward` says how its parts are used."""

    def __init__(self, forward: Callable[..., Any], **parts: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.steps = forward
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            common = {
                "conv": lambda: nn.Conv2d(1, 4, 3),
                "norm": lambda: nn.BatchNorm2d(4),
                "relu": nn.ReLU,
                "next": lambda: nn.Conv2d(4, 4, 3, padding=1),
                "head": lambda: nn.Linear(4, 3),
            }
            for name, part in (common | parts).items():
                self.add_module(name, part())
        self.gate = nn.Parameter(torch.tensor([0.5, -1, 2, 0.1])[:, None, None])
        stirred(self)

    def forward(self, images: torch.Tensor) -> Any:
        return self.steps(self, images)


def ended(network: Any, maps: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"only": network.head(maps.mean(dim=(2, 3)))}


def names(nodes: Iterable[fx.Node]) -> list[str]:
    """What steps call, as far as these are modules."""
    return [str(node.target) if node.op == "call_module" else "-" for node in nodes]


def whole(at: NetworkCut, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """All steps of the cut network, one part after the other."""
    with torch.no_grad():
        return at.compute_logits(at.run((*at.unitwise, *at.mixers, *at.downstream), at.start(images), free=False))


def close(got: dict[str, torch.Tensor], network: nn.Module, images: torch.Tensor) -> None:
    """As folded batch norms are, in float32."""
    with torch.no_grad():
        torch.testing.assert_close(got, network(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "place"),
    [
        ("trunk.conv1", "trunk.relu1"),
        ("trunk.norm1", "trunk.relu1"),
        ("trunk.relu1", "trunk.relu1"),
        ("branches.identity.pool1", "branches.identity.pool1"),
        ("branches.identity.conv2", "branches.identity.relu2"),
        ("branches.identity.average", "branches.identity.average"),
        ("heads.identity", "heads.identity"),
    ],
)
def test_units_are_taken_behind_norm_and_rectifier(layer: str, place: str) -> None:
    network = made(branch_after="conv1")
    at = cut_network(network, layer)
    assert names([at.node]) == [place] and at.module(at.node) is not network.get_submodule(place)
    close(whole(at, faces_like()), network, faces_like())


PARTS = [
    # layer, alike, frontier, mixing, beyond, kept
    (
        "trunk.conv1",
        ["trunk.pool1"],
        ["trunk.pool1"],
        ["trunk.conv2"],
        ["trunk.relu2", "trunk.average", "heads.expression", "heads.identity"],
        [],
    ),
    (
        "trunk.norm1",
        ["trunk.pool1"],
        ["trunk.pool1"],
        ["trunk.conv2"],
        ["trunk.relu2", "trunk.average", "heads.expression", "heads.identity"],
        [],
    ),
    ("trunk.conv2", ["trunk.average"], ["trunk.average"], ["heads.expression", "heads.identity"], [], []),
    ("trunk.average", [], ["trunk.average"], ["heads.expression", "heads.identity"], [], []),
    ("heads.identity", [], ["heads.identity"], [], [], ["heads.expression"]),
]


@pytest.mark.parametrize(("layer", "alike", "frontier", "mixing", "beyond", "kept"), PARTS)
def test_parts_of_a_trunk(
    layer: str, alike: list[str], frontier: list[str], mixing: list[str], beyond: list[str], kept: list[str]
) -> None:
    network = made()
    at = cut_network(network, layer)
    got = [names(part) for part in (at.unitwise, at.frontier, at.mixers, at.downstream, at.skip_inputs)]
    assert got == [alike, frontier, mixing, beyond, kept]
    assert set(at.start(faces_like())) == {at.node, *at.skip_inputs}
    close(whole(at, faces_like()), network, faces_like())


def test_parts_of_branches() -> None:
    """All that read the layer come after it; the other branch is no business of a branch's layer."""
    tasks, network = ("expression", "identity"), made(branch_after="conv1")
    at = cut_network(network, "trunk.conv1")
    assert names(at.below)[1:] == ["trunk.conv1", "trunk.relu1"]  # behind the check of the images
    assert names(at.unitwise) == names(at.frontier) == [f"branches.{task}.pool1" for task in tasks]
    assert names(at.mixers) == [f"branches.{task}.conv2" for task in tasks]
    at = cut_network(network, "branches.identity.conv2")
    assert (names(at.mixers), names(at.skip_inputs), at.downstream) == (["heads.identity"], ["heads.expression"], ())
    assert names(at.unitwise) == names(at.frontier) == ["branches.identity.average"]


def test_parts_of_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flattened maps keep units apart; dropout does, where nothing is trained."""
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", ((2, 3), (3, 2), (2, 3, 3), (2, 3, 2), (3, 2, 3)))
    network = made("vgg16")
    at = cut_network(network, "trunk.conv13")
    assert names(at.unitwise) == ["trunk.pool5", "trunk.grid", "trunk.flatten"]
    assert (names(at.frontier), names(at.mixers)) == (["trunk.flatten"], ["trunk.fc6"])
    at = cut_network(network, "trunk.fc6")
    assert names([at.node, *at.unitwise, *at.mixers]) == ["trunk.relu_fc6", "trunk.dropout_fc6", "trunk.fc7"]


MIXED = {  # what first mixes units, where their shares cannot be taken out of a sum
    "sum": lambda n, x: ended(n, (maps := n.conv(x)) + n.next(n.relu(maps))),
    "mean": lambda n, x: {"only": n.conv(x).mean(dim=1).flatten(1)},
    "flat": lambda n, x: {"only": n.conv(x).flatten(2).mean(dim=2)},
    "groups": lambda n, x: ended(n, n.groups(n.conv(x))),
    "reflected": lambda n, x: ended(n, n.reflected(n.conv(x))),
    "same": lambda n, x: ended(n, n.same(n.conv(x))),
    "answer": lambda n, x: {"only": (maps := n.conv(x)), "other": n.next(maps)},
    # not a mixture, but what is read depends on who reads first
    "written": lambda n, x: ended(n, n.next(maps := n.conv(x)) * n.next(n.swish(n.kept(maps)))),
    "written by a function": lambda n, x: ended(
        n, n.next(maps := n.conv(x)) * n.next(functional.relu(n.kept(maps), True))
    ),
    "written by name": lambda n, x: ended(n, n.next(m := n.conv(x)) * n.next(functional.relu(n.kept(m), inplace=True))),
}


@pytest.mark.parametrize("name", MIXED)
def test_other_steps_mix_units_too(name: str) -> None:
    """Then all that lies above is taken anew for every lesion."""
    network = Foreign(
        MIXED[name],
        groups=lambda: nn.Conv2d(4, 4, 3, groups=2),
        same=lambda: nn.Conv2d(4, 4, 3, padding="same"),
        reflected=lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        kept=nn.Identity,
        swish=lambda: nn.Hardswish(inplace=True),
    )
    at = cut_network(network, "conv")
    assert (names([at.node]), at.frontier, at.unitwise, at.mixers) == (["conv"], (at.node,), (), ())
    assert all(node in at.downstream or node.op == "output" for node in at.node.users)
    close(whole(at, faces_like()), network, faces_like())


def test_functions_are_rectifiers_and_pools_as_well() -> None:
    network = Foreign(
        lambda n, x: {"only": n.flat(torch.flatten(functional.max_pool2d(functional.relu(n.norm(n.conv(x))), 4), 1))},
        flat=lambda: nn.Linear(4 * 3 * 2, 3),
    )
    at = cut_network(network, "conv")
    assert (at.node.target, names(at.mixers)) == (functional.relu, ["flat"])
    assert [node.target for node in at.unitwise] == [functional.max_pool2d, torch.flatten]
    close(whole(at, faces_like()), network, faces_like())


def test_norms_are_folded_away_in_the_cut_alone() -> None:
    network = made()
    before = network.trunk.conv1.weight.clone()
    at = cut_network(network, "trunk.conv2")
    assert not any("norm" in name for name in names(at.graph.graph.nodes))
    assert torch.equal(network.trunk.conv1.weight, before) and network.trunk.conv1.bias is None
    kept = cut_network(network, "trunk.norm1")
    assert [name for name in names(kept.graph.graph.nodes) if "norm" in name] == ["trunk.norm1"]


SAMES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "trunk": (made, "trunk.conv1"),
    "foreign": (lambda: Foreign(lambda n, x: ended(n, n.relu(n.norm(n.conv(x))))), "conv"),
}


@pytest.mark.parametrize("of", [cut_network, find_lesion_module])
@pytest.mark.parametrize("name", SAMES)
def test_tracing_changes_nothing(name: str, of: Callable[[nn.Module, str], Any]) -> None:
    """Not even modes: a network in training goes on."""
    make, layer = SAMES[name]
    network = make().train()
    next(module for module in network.modules() if isinstance(module, nn.Conv2d)).eval()
    next(network.parameters()).requires_grad_(False)

    def state() -> Any:
        return [
            (
                id(module),
                module.training,
                {name: id(own) for name, own in module.named_children()},
                {
                    name: (id(own), own.requires_grad, own.detach().numpy().tobytes())
                    for name, own in module.named_parameters()
                },
                {name: own.numpy().tobytes() for name, own in module.named_buffers()},
                {name: len(own) for name, own in vars(module).items() if "hooks" in name and own is not None},
            )
            for module in network.modules()
        ]

    before = state()
    of(network, layer)
    assert state() == before
    with pytest.raises(StudyError):
        of(network, f"{layer}9")
    assert state() == before


def test_the_cut_evaluates_whatever_the_network_does() -> None:
    """Dropout and norms have modes: those of the cut are its own."""
    network = Foreign(
        lambda n, x: ended(n, n.drop(n.next(n.pool(n.norm(n.pool(n.relu(n.conv(x)))))))),
        drop=nn.Dropout,
        pool=lambda: nn.AvgPool2d(2),
    )
    at = cut_network(network.train(), "next")
    first = whole(at, faces_like())
    assert network.drop.training and network.norm.training
    network.eval()
    close(first, network, faces_like())
    network.train()
    assert torch.equal(whole(at, faces_like())["only"], first["only"])


class Optional(Foreign):
    def forward(self, images: torch.Tensor, scale: Any = 2, *more: Any, pair: Any = (1, 2), **rest: Any) -> Any:
        if rest.get("odd") or more or scale is None:
            raise AssertionError
        return {"only": self.head(self.conv(images).mean(dim=(2, 3))) * scale * pair[1]}


class Demanding(Foreign):
    def forward(self, images: torch.Tensor, other: torch.Tensor) -> Any:
        return {"only": self.head(self.conv(images + other).mean(dim=(2, 3)))}


def test_other_arguments_keep_their_defaults() -> None:
    network = Optional(ended)
    close(whole(cut_network(network, "conv"), faces_like()), network, faces_like())


def test_what_is_computed_of_weights_alone_is_no_business_of_the_images() -> None:
    """It has no row per image, so it is handed on as it is."""
    network = Foreign(lambda n, x: ended(n, torch.sigmoid(n.gate) * n.relu(n.norm(n.conv(x))) * n.gate))
    at = cut_network(network, "conv")
    assert at.skip_inputs == ()
    close(whole(at, faces_like()), network, faces_like())


# -- where units are silenced


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        (lambda n, x: ended(n, n.relu(n.norm(n.conv(x)))), "relu"),
        (lambda n, x: ended(n, n.relu(n.conv(x))), "relu"),
        (lambda n, x: ended(n, n.norm(n.conv(x))), "norm"),
        (lambda n, x: ended(n, n.norm(n.conv(x)).sin()), "norm"),
        (lambda n, x: ended(n, n.norm(n.relu(n.conv(x)))), "relu"),  # it is this norm's input that is silent
        (lambda n, x: ended(n, n.soft(n.norm(n.conv(x)))), "soft"),
        (lambda n, x: ended(n, functional.relu(n.norm(n.conv(x)))), "norm"),
        (lambda n, x: ended(n, torch.relu(n.conv(x))), "conv"),
        (lambda n, x: ended(n, n.relu(n.next(n.relu(n.norm(n.conv(x)))))), "norm"),
        (lambda n, x: ended(n, n.next(maps := n.conv(x)) + n.norm(maps)), "conv"),  # there are two ways to go
    ],
)
def test_the_place_where_units_are_silenced(steps: Callable[..., Any], place: str) -> None:
    """The last module that is called for them alone; a ReLU behind it leaves 0 alone."""
    assert find_lesion_module(Foreign(steps, soft=nn.Softplus), "conv") == place


@pytest.mark.parametrize(
    ("steps", "culprit"),
    [
        (lambda n, x: ended(n, n.soft(n.next(n.soft(n.conv(x))))), "soft"),
        (lambda n, x: ended(n, n.norm(n.next(n.norm(n.conv(x))))), "norm"),
        (lambda n, x: ended(n, n.relu(n.norm(n.next(n.relu(n.norm(n.conv(x))))))), "norm"),
    ],
)
def test_what_would_wake_silent_units_is_refused(steps: Callable[..., Any], culprit: str) -> None:
    assert refusal(find_lesion_module, Foreign(steps, soft=nn.Softplus)) == (
        f"units of layer 'conv' cannot be silenced: {culprit!r} behind it is called more than once and does not give 0 "
        "for 0. Give each layer a module of its own."
    )


# -- refusals


def refusal(of: Callable[[nn.Module, str], Any], network: nn.Module, layer: str = "conv") -> str:
    modes = [module.training for module in network.train().modules()]
    with pytest.raises(StudyError) as caught:
        of(network, layer)
    assert [module.training for module in network.modules()] == modes
    return str(caught.value)


BOTH = pytest.mark.parametrize("of", [cut_network, find_lesion_module])


@BOTH
@pytest.mark.parametrize(("layer", "hint"), [("connv", "did you mean 'conv'? "), ("", "")])
def test_unknown_layers_are_refused(of: Callable[..., Any], layer: str, hint: str) -> None:
    network = Foreign(lambda n, x: ended(n, n.conv(x)))
    assert refusal(of, network, layer) == (
        f"this network has no layer {layer!r}: {hint}Allowed: 'conv', 'norm', 'relu', 'next', 'head'."
    )


@BOTH
@pytest.mark.parametrize(
    ("steps", "times"),
    [(lambda n, x: ended(n, n.conv(x) + n.conv(-x)), 2), (lambda n, x: ended(n, n.next(torch.cat([x] * 4, 1))), 0)],
)
def test_a_layer_is_called_once(of: Callable[..., Any], steps: Callable[..., Any], times: int) -> None:
    assert refusal(of, Foreign(steps)) == (
        f"layer 'conv' is called {times} times in a forward pass: its units must be in one place. Name a layer that is "
        "called once, such as the convolution or the norm before it."
    )


def test_containers_are_not_called() -> None:
    assert refusal(cut_network, made(), "trunk").startswith("layer 'trunk' is called 0 times")


@BOTH
def test_a_layer_that_nobody_reads_is_refused(of: Callable[..., Any]) -> None:
    def steps(n: Any, x: torch.Tensor) -> Any:
        n.relu(n.conv(x))
        return ended(n, n.next(torch.cat([x] * 4, 1)))

    assert refusal(of, Foreign(steps)) == (
        "no answer of the network depends on layer 'conv': its lesions would change nothing."
    )


@BOTH
def test_networks_that_branch_on_values_are_refused(of: Callable[..., Any]) -> None:
    network = Foreign(lambda n, x: ended(n, n.conv(x if x.sum() > 0 else -x)))
    assert refusal(of, network) == (
        "Foreign cannot be traced by torch.fx: symbolically traced variables cannot be used as inputs to control flow. "
        "Its forward must not branch on values; see torch.fx's documentation on limitations of symbolic tracing."
    )
    with pytest.raises(Untraceable):
        of(network, "conv")


def test_networks_that_need_more_than_images_are_refused() -> None:
    assert refusal(cut_network, Demanding(ended)).startswith(
        "Demanding cannot be traced by torch.fx: Demanding.forward() missing 1 required positional argument: 'other'. "
    )


@BOTH
def test_norms_of_the_batch_are_refused(of: Callable[..., Any]) -> None:
    """Lesions share a batch: they would hear of each other."""
    network = Foreign(
        lambda n, x: ended(n, n.norm(n.next(n.conv(x)))), norm=lambda: nn.BatchNorm2d(4, track_running_stats=False)
    )
    assert refusal(of, network) == (
        "batch norm 'norm' has no running statistics: its answer to an image depends on the batch. Only networks that "
        "see each image alone can be cut."
    )


def test_numbers_that_steps_above_read_are_refused() -> None:
    """The number of images is another one where lesions share a batch."""

    def steps(n: Any, x: torch.Tensor) -> Any:
        images = x.size(0)
        return {"only": n.conv(x).view(images, -1)}

    with pytest.raises(StudyError) as caught:
        cut_network(Foreign(steps), "conv").start(faces_like())
    assert str(caught.value) == (
        "step 'size' below the layer gives int, which steps above it read: only tensors can be handed on. Instead of "
        "x.view(n, -1), write x.flatten(1)."
    )


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        (lambda n, x: n.head(n.conv(x).mean(dim=(2, 3))), "Tensor"),
        (lambda n, x: [n.head(n.conv(x).mean(dim=(2, 3)))], "list"),
        (lambda n, x: {"only": [n.head(n.conv(x).mean(dim=(2, 3)))]}, "dict"),
    ],
)
def test_answers_are_a_dict_of_logits(steps: Callable[..., Any], kind: str) -> None:
    with pytest.raises(StudyError) as caught:
        whole(cut_network(Foreign(steps), "conv"), faces_like())
    assert kind in str(caught.value) and str(caught.value).endswith(
        "a dict of logits is needed, task -> tensor (n, classes). Wrap it in a module that returns one."
    )
