"""Other people's networks: which module is lesioned, what is refused, and that tracing changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from facespec.models.graph import cut_network
from facespec.models.silence import find_lesion_modules
from facespec.models.tracing import UntraceableNetwork
from facespec.responses.lesioned import LesionedNetwork
from facespec.responses.lesioning import lesion_units
from facespec.study.errors import StudyError
from toys import Foreign, describe_state, make_network, random_images

UNITS, N = 4, 3
Maps = Callable[[Any, torch.Tensor], torch.Tensor]
BOTH = pytest.mark.parametrize("function", [cut_network, find_lesion_modules])


class Rectified(nn.BatchNorm2d):
    """A norm that does more than its base class."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.relu(super().forward(input))


class Grouped(nn.GroupNorm):
    """A norm by another name."""


def classify_maps(steps: Maps, **parts: Callable[[], nn.Module]) -> Foreign:
    """A network whose head reads the mean maps of `steps`; its norms give 1 for 0 at first."""
    common: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(1, UNITS, 3, padding=1),
        "norm": lambda: nn.BatchNorm2d(UNITS),
        "relu": nn.ReLU,
        "next": lambda: nn.Conv2d(UNITS, UNITS, 3, padding=1),
        "soft": nn.Softplus,
        "head": lambda: nn.Linear(UNITS, 3),
    }
    network = Foreign(lambda n, x: {"only": n.head(steps(n, x).mean(dim=(2, 3)))}, **common | parts)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.BatchNorm2d | nn.InstanceNorm2d):
            nn.init.ones_(module.bias)
    return network


def draw_images() -> torch.Tensor:
    return random_images(N, height=9, width=7)


def check_lesions(network: nn.Module, layer: str, context: str | None = None) -> LesionedNetwork:
    """Compare sets of units, and single units, with forward passes in which the layer `context` is lesioned."""
    lesioned, images = LesionedNetwork(network, layer), draw_images()
    batch = lesioned.prepare_batch(images)
    masks = torch.tensor([[True, False, False, True], [False, True, True, True], [False] * 4])
    none = torch.zeros(UNITS, dtype=torch.bool)
    for parts, lesions in (
        (lesioned.compute_logits(batch, masks), masks),
        (lesioned.compute_single_lesions(batch, none, torch.arange(UNITS)), torch.eye(UNITS).bool()),
    ):
        for part, logits in parts:
            for k, lesion in enumerate(lesions[part]):
                with torch.no_grad(), lesion_units(network, {context or layer: lesion}):
                    expected = network(images)
                got = {task: values[k] for task, values in logits.items()}
                torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)  # folded norms
    return lesioned


# -- which module is lesioned


@pytest.mark.parametrize(
    ("steps", "module"),
    [
        (lambda n, x: n.relu(n.norm(n.conv(x))), "relu"),
        (lambda n, x: n.relu(n.conv(x)), "relu"),
        (lambda n, x: n.norm(n.conv(x)), "norm"),
        (lambda n, x: n.norm(n.conv(x)).sin(), "norm"),
        (lambda n, x: n.norm(n.relu(n.conv(x))), "relu"),  # the norm belongs to the next layer
        (lambda n, x: n.soft(n.norm(n.conv(x))), "soft"),
        (lambda n, x: functional.relu(n.norm(n.conv(x))), "norm"),
        (lambda n, x: torch.relu(n.conv(x)), "conv"),
        (lambda n, x: n.relu(n.next(n.relu(n.norm(n.conv(x))))), "norm"),
        (lambda n, x: n.next(maps := n.conv(x)) + n.relu(maps), "conv"),  # two readers
    ],
)
def test_the_lesioned_module_is_the_last_that_is_called_once(steps: Maps, module: str) -> None:
    """A ReLU behind it gives 0 for 0."""
    assert find_lesion_modules(classify_maps(steps), "conv") == [module]


@pytest.mark.parametrize(
    ("steps", "module"),
    [
        (lambda n, x: n.soft(n.next(n.soft(n.conv(x)))), "soft"),
        (lambda n, x: n.norm(n.next(n.norm(n.conv(x)))), "norm"),
        (lambda n, x: n.relu(n.norm(n.next(n.relu(n.norm(n.conv(x)))))), "norm"),
    ],
)
def test_a_shared_module_that_gives_nonzero_for_0_is_refused(steps: Maps, module: str) -> None:
    message = f"units of layer 'conv' cannot be lesioned: '{module}' behind it .* Give each layer a module of its own"
    with pytest.raises(StudyError, match=message):
        find_lesion_modules(classify_maps(steps), "conv")


@BOTH
@pytest.mark.parametrize("network", ["facespec", "foreign"])
def test_tracing_does_not_change_the_network(network: str, function: Callable[..., Any]) -> None:
    """In the middle of training, too."""
    foreign = network == "foreign"
    traced = classify_maps(lambda n, x: n.relu(n.norm(n.conv(x)))) if foreign else make_network()
    layer = "conv" if foreign else "trunk.conv1"
    traced.train().get_submodule(layer).eval()
    next(traced.parameters()).requires_grad_(False)
    before = describe_state(traced)
    function(traced, layer)
    assert describe_state(traced) == before
    with pytest.raises(StudyError):
        function(traced, f"{layer}9")
    assert describe_state(traced) == before


# -- norms


@BOTH
@pytest.mark.parametrize("between", [nn.Identity, lambda: nn.MaxPool2d(2)])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.GroupNorm(2, UNITS),
        lambda: nn.InstanceNorm2d(UNITS, affine=True),
        lambda: Rectified(UNITS),
        lambda: Grouped(2, UNITS),
    ],
)
def test_a_norm_that_is_no_unit_step_is_refused(
    norm: Callable[[], nn.Module], between: Callable[[], nn.Module], function: Callable[..., Any]
) -> None:
    """Behind it, lesioned units would be nonzero. It can be lesioned itself."""
    network = classify_maps(lambda n, x: n.relu(n.norm(n.between(n.conv(x)))), norm=norm, between=between)
    message = "lesioned units of layer 'conv' would be nonzero behind 'norm'. Name that norm, or the rectifier"
    with pytest.raises(StudyError, match=message):
        function(network, "conv")
    check_lesions(network, "norm", "relu")


def test_functions_that_normalise_are_refused() -> None:
    with pytest.raises(StudyError, match="would be nonzero behind <function group_norm"):
        cut_network(classify_maps(lambda n, x: functional.group_norm(n.conv(x), 2)), "conv")


def test_norms_behind_a_rectifier_belong_to_the_next_layer() -> None:
    """As in networks that normalise before they convolve: the lesioned response is that behind the rectifier."""
    check_lesions(classify_maps(lambda n, x: n.norm(n.relu(n.conv(x))), norm=lambda: nn.GroupNorm(2, UNITS)), "conv")


@BOTH
def test_norms_of_the_batch_are_refused(function: Callable[..., Any]) -> None:
    """Lesions share a batch: they would depend on each other."""
    network = classify_maps(
        lambda n, x: n.norm(n.next(n.conv(x))), norm=lambda: nn.BatchNorm2d(UNITS, track_running_stats=False)
    )
    with pytest.raises(StudyError, match="'norm' has no running statistics: its output for an image depends on the"):
        function(network, "conv")


def test_weights_that_hooks_compute_are_not_folded() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        network = classify_maps(
            lambda n, x: n.norm(n.weighted(n.conv(x))),
            weighted=lambda: nn.utils.weight_norm(nn.Conv2d(UNITS, UNITS, 1)),
        )
    check_lesions(network, "conv")


# -- rectifiers, skip inputs and mixers


@pytest.mark.parametrize(
    "steps",
    [
        lambda n, x: torch.sigmoid(n.conv(x)),
        lambda n, x: functional.softplus(n.conv(x)),
        lambda n, x: n.conv(x).sigmoid(),
        lambda n, x: functional.gelu(n.conv(x)),
    ],
)
def test_rectifiers_may_be_functions(steps: Maps) -> None:
    """Without any unit, the head's bias remains."""
    network = classify_maps(steps)
    lesioned = LesionedNetwork(network, "conv")
    ((_, logits),) = lesioned.compute_logits(lesioned.prepare_batch(draw_images()), torch.ones((1, UNITS)).bool())
    torch.testing.assert_close(logits["only"][0], network.head.bias.detach().expand(N, -1))


def test_skip_inputs_stay_though_nodes_below_read_them_last() -> None:
    """A residual trunk, and a branch that begins below the layer and runs after it."""

    def run(n: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
        below = torch.relu(n.stem(images))
        residual, side = n.conv(below) + below, n.side(below)
        return {"one": n.one(residual.mean(dim=(2, 3))), "two": n.two(side.mean(dim=(2, 3)))}

    network = Foreign(
        run,
        stem=lambda: nn.Conv2d(1, UNITS, 3),
        conv=lambda: nn.Conv2d(UNITS, UNITS, 3, padding=1),
        side=lambda: nn.Conv2d(UNITS, 5, 3),
        one=lambda: nn.Linear(UNITS, 3),
        two=lambda: nn.Linear(5, 2),
    )
    check_lesions(network, "conv")


def test_skip_inputs_need_a_row_per_image() -> None:
    network = classify_maps(lambda n, x: n.conv(x) + (x.sum(dim=0) * 2))
    message = r"step 'mul' below the layer gives shape \(1, 9, 7\) for 3 images, .* only what has a row per image"
    with pytest.raises(StudyError, match=message):
        LesionedNetwork(network, "conv").prepare_batch(draw_images())


def test_a_linear_layer_over_the_columns_of_a_map_is_no_mixer() -> None:
    columns = classify_maps(lambda n, x: n.columns(n.relu(n.conv(x))), columns=lambda: nn.Linear(7, 5))
    assert not check_lesions(columns, "conv").cut.mixers
    flat = classify_maps(
        lambda n, x: n.row(torch.flatten(n.relu(n.conv(x)), 1))[:, :, None, None],
        row=lambda: nn.Linear(UNITS * 63, UNITS),
    )
    assert check_lesions(flat, "conv").cut.mixers


def test_units_of_a_linear_layer_are_its_last_dimension() -> None:
    network = classify_maps(
        lambda n, x: n.line(n.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), line=lambda: nn.Linear(UNITS, UNITS)
    )
    with pytest.raises(StudyError, match=r"layer 'line' has responses of shape \(3, 9, 7, 4\)"):
        LesionedNetwork(network, "line").prepare_batch(draw_images())
    with (
        pytest.raises(StudyError, match=r"gives responses of shape \(3, 9, 7, 4\): a tensor \(images, units\)"),
        lesion_units(network, {"line": torch.zeros(9, dtype=torch.bool)}),
    ):
        network(draw_images())


# -- refusals


def concatenate(n: Any, images: torch.Tensor) -> torch.Tensor:
    """A layer that does not read `conv`."""
    return n.next(torch.cat([images] * UNITS, 1))


CALLED = "layer 'conv' is called {} times in a forward pass; .* Name one, such as the convolution or the norm"
REFUSED: dict[str, tuple[Maps, str]] = {
    "called twice": (lambda n, x: n.conv(x) + n.conv(-x), CALLED.format(2)),
    "not called": (concatenate, CALLED.format(0)),
    "not read": (
        lambda n, x: (n.relu(n.conv(x)), concatenate(n, x))[1],
        "no output of the network depends on layer 'conv': its lesions would change nothing",
    ),
    "branching": (
        lambda n, x: n.conv(x if x.sum() > 0 else -x),
        r"Foreign cannot be traced by torch\.fx: .* Its forward must not branch on values",
    ),
}


@BOTH
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_cut_is_refused_and_modes_stay(case: str, function: Callable[..., Any]) -> None:
    steps, message = REFUSED[case]
    network = classify_maps(steps).train()
    with pytest.raises(UntraceableNetwork if case == "branching" else StudyError, match=message):
        function(network, "conv")
    assert all(module.training for module in network.modules())


@BOTH
@pytest.mark.parametrize(("layer", "hint"), [("connv", "did you mean 'conv'? "), ("", "")])
def test_unknown_layers_are_refused(function: Callable[..., Any], layer: str, hint: str) -> None:
    with pytest.raises(StudyError, match=re.escape(f"no layer {layer!r}: {hint}Allowed: 'conv', 'norm', 'relu'")):
        function(classify_maps(lambda n, x: n.conv(x)), layer)


def test_containers_are_not_called() -> None:
    with pytest.raises(StudyError, match="layer 'trunk' is called 0 times"):
        cut_network(make_network(), "trunk")


def test_networks_that_need_more_than_images_are_refused() -> None:
    class Demanding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, images: torch.Tensor, other: torch.Tensor) -> Any:
            return {"only": self.relu(images + other)}

    with pytest.raises(UntraceableNetwork, match=r"missing 1 required positional argument: 'other'"):
        cut_network(Demanding(), "relu")


def test_weights_that_parametrizations_compute() -> None:
    """Of the next layer, and of the layer itself."""
    network = classify_maps(
        lambda n, x: n.normed(n.conv(x)), normed=lambda: parametrizations.spectral_norm(nn.Conv2d(UNITS, UNITS, 1))
    )
    for layer in ("conv", "normed"):
        check_lesions(network, layer)
