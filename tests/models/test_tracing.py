"""Networks of other people: what is cut as they compute it, and what is refused because silent units would speak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from facespec.models.graph import cut_network
from facespec.models.tracing import Untraceable, find_lesion_module
from facespec.responses.lesioned import LesionedNetwork
from facespec.responses.lesioning import lesion_units
from facespec.study.errors import StudyError

UNITS, N = 4, 3


class Rectified(nn.BatchNorm2d):
    """A norm that does more than its class says."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.relu(super().forward(input))


class Grouped(nn.GroupNorm):
    """A norm by another name."""


class Foreign(nn.Module):
    def __init__(self, steps: Callable[..., torch.Tensor], **parts: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.steps = steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.conv, self.head = nn.Conv2d(1, UNITS, 3, padding=1), nn.Linear(UNITS, 3)
            for name, part in parts.items():
                self.add_module(name, part())
        for module in self.modules():
            if isinstance(module, nn.GroupNorm | nn.BatchNorm2d | nn.InstanceNorm2d):
                nn.init.ones_(module.bias)  # what units answer to silence
        self.eval()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"only": self.head(self.steps(self, images).mean(dim=(2, 3)))}


def images() -> torch.Tensor:
    return torch.rand((N, 1, 9, 7), generator=torch.Generator().manual_seed(2)) * 2 - 1


def agrees(network: nn.Module, layer: str, context: str | None = None) -> LesionedNetwork:
    """Sets and single units against whole passes with the layer `context` lesioned."""
    own, pictures = LesionedNetwork(network, layer), images()
    batch = own.prepare_batch(pictures)
    masks = torch.tensor([[True, False, False, True], [False, True, True, True], [False] * 4])
    nobody, everyone = torch.zeros(UNITS, dtype=torch.bool), torch.arange(UNITS)
    for found, lesions in (
        (own.compute_logits(batch, masks), masks),
        (own.compute_single_lesions(batch, nobody, everyone), torch.eye(UNITS).bool()),
    ):
        for part, logits in found:
            for k, lesion in enumerate(lesions[part]):
                with torch.no_grad(), lesion_units(network, {context or layer: lesion}):
                    for task, whole in network(pictures).items():
                        torch.testing.assert_close(logits[task][k], whole, rtol=1e-5, atol=1e-6)  # folded norms
    return own


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.GroupNorm(2, UNITS),
        lambda: nn.InstanceNorm2d(UNITS, affine=True),
        lambda: Rectified(UNITS),
        lambda: Grouped(2, UNITS),
    ],
)
@pytest.mark.parametrize("between", [nn.Identity, lambda: nn.MaxPool2d(2)])
@pytest.mark.parametrize("of", [cut_network, find_lesion_module])
def test_norms_that_would_wake_silent_units_are_refused(
    norm: Callable[[], nn.Module], between: Callable[[], nn.Module], of: Callable[..., Any]
) -> None:
    network = Foreign(lambda n, x: n.relu(n.norm(n.between(n.conv(x)))), norm=norm, between=between, relu=nn.ReLU)
    with pytest.raises(StudyError) as caught:
        of(network, "conv")
    assert str(caught.value) == (
        "silent units of layer 'conv' would answer behind 'norm'. Name that norm, or the rectifier behind it, as the "
        "layer."
    )
    agrees(network, "norm", "relu")


def test_a_pool_before_the_norm_is_no_way_out() -> None:
    network = Foreign(
        lambda n, x: n.norm(n.pool(n.conv(x))), norm=lambda: nn.BatchNorm2d(UNITS), pool=lambda: nn.MaxPool2d(2)
    )
    with pytest.raises(StudyError, match="would answer behind 'norm'"):
        cut_network(network, "conv")
    agrees(network, "norm")


def test_functions_that_norm_are_refused() -> None:
    network = Foreign(lambda n, x: functional.group_norm(n.conv(x), 2))
    with pytest.raises(StudyError, match="silent units of layer 'conv' would answer behind <function group_norm"):
        cut_network(network, "conv")


def test_norms_behind_a_rectifier_belong_to_the_next_layer() -> None:
    """As in networks that normalise before they convolve: the response, behind the rectifier, is silent."""
    network = Foreign(lambda n, x: n.norm(n.relu(n.conv(x))), norm=lambda: nn.GroupNorm(2, UNITS), relu=nn.ReLU)
    agrees(network, "conv")


@pytest.mark.parametrize("rectify", [torch.sigmoid, functional.softplus, torch.Tensor.sigmoid, functional.gelu])
def test_rectifiers_may_be_functions(rectify: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def steps(n: Any, x: torch.Tensor) -> torch.Tensor:
        return rectify(n.conv(x)) if rectify is not torch.Tensor.sigmoid else n.conv(x).sigmoid()

    own = LesionedNetwork(Foreign(steps), "conv")
    batch = own.prepare_batch(images())
    ((_, silent),) = own.compute_logits(batch, torch.ones((1, UNITS), dtype=torch.bool))
    bias = Foreign(steps).head.bias  # nothing but the head's bias is heard
    torch.testing.assert_close(silent["only"][0], bias.detach().expand(N, -1))


class Branching(nn.Module):
    """A residual trunk, and a branch that begins below the layer and runs after it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.stem, self.conv = nn.Conv2d(1, UNITS, 3), nn.Conv2d(UNITS, UNITS, 3, padding=1)
            self.side = nn.Conv2d(UNITS, 5, 3)
            self.one, self.two = nn.Linear(UNITS, 3), nn.Linear(5, 2)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        below = torch.relu(self.stem(images))
        residual, side = self.conv(below) + below, self.side(below)
        return {"one": self.one(residual.mean(dim=(2, 3))), "two": self.two(side.mean(dim=(2, 3)))}


def test_what_is_read_above_stays_though_steps_below_read_it_last() -> None:
    agrees(Branching().eval(), "conv")


def test_a_linear_layer_over_the_columns_of_a_map_does_not_read_units() -> None:
    network = Foreign(lambda n, x: n.columns(n.relu(n.conv(x))), relu=nn.ReLU, columns=lambda: nn.Linear(7, 5))
    assert not agrees(network, "conv").cut.mixers
    flat = Foreign(
        lambda n, x: n.row(torch.flatten(n.relu(n.conv(x)), 1))[:, :, None, None],
        relu=nn.ReLU,
        row=lambda: nn.Linear(UNITS * 63, UNITS),
    )
    assert agrees(flat, "conv").cut.mixers


def test_units_of_a_linear_layer_are_its_last_dimension() -> None:
    network = Foreign(
        lambda n, x: n.line(n.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), line=lambda: nn.Linear(UNITS, UNITS)
    )
    with pytest.raises(StudyError) as caught:
        LesionedNetwork(network, "line").prepare_batch(images())
    assert str(caught.value).startswith("layer 'line' has responses of shape (3, 9, 7, 4): ")
    with (
        pytest.raises(StudyError, match=r"gives responses of shape \(3, 9, 7, 4\): a tensor \(images, units\)"),
        lesion_units(network, {"line": torch.zeros(9, dtype=torch.bool)}),
    ):
        network(images())


def test_what_has_no_row_per_image_cannot_be_handed_on() -> None:
    network = Foreign(lambda n, x: n.conv(x) + (x.sum(dim=0) * 2))
    with pytest.raises(StudyError) as caught:
        LesionedNetwork(network, "conv").prepare_batch(images())
    assert str(caught.value) == (
        "step 'mul' below the layer gives shape (1, 9, 7) for 3 images, which steps above it read: only what has a row "
        "per image can be handed on."
    )


def test_parametrized_modules_are_refused_by_name() -> None:
    network = Foreign(
        lambda n, x: n.own(n.conv(x)), own=lambda: parametrizations.spectral_norm(nn.Conv2d(UNITS, UNITS, 1))
    )
    with pytest.raises(Untraceable) as caught:
        cut_network(network, "conv")
    assert str(caught.value) == (
        "module 'own' is parametrized and cannot be copied. Fix its weights first: "
        "torch.nn.utils.parametrize.remove_parametrizations."
    )


def test_weights_that_hooks_compute_are_not_folded() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        network = Foreign(
            lambda n, x: n.norm(n.own(n.conv(x))),
            norm=lambda: nn.BatchNorm2d(UNITS),
            own=lambda: nn.utils.weight_norm(nn.Conv2d(UNITS, UNITS, 1)),
        )
    agrees(network, "conv")
