"""The fused pass of training is what the modules compute one after the other: values, gradients, statistics."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facespec.models import fused
from facespec.models.fused import convolve_patches, norm_relu_pool, run_fused


@pytest.fixture(autouse=True)
def _restore_random_state() -> Iterator[None]:
    """torch's modules draw their first weights from the global random state."""
    with torch.random.fork_rng(devices=[]):
        yield


def section(
    channels: tuple[int, ...] = (1, 3, 5), *, seed: int = 3, dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """Convolution, norm, ReLU and pool per pair of channels, with weights that are no round numbers."""
    draw = torch.Generator().manual_seed(seed)
    named: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate(itertools.pairwise(channels), start=1):
        named[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1, bias=number % 2 == 0)
        named[f"norm{number}"] = nn.BatchNorm2d(after)
        named[f"relu{number}"] = nn.ReLU()
        named[f"pool{number}"] = nn.MaxPool2d(2)
    built = nn.Sequential(named).to(dtype)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=dtype))
            if parameter.ndim == 1:
                parameter.abs_()
    return built.train()


def outcome(run, built: nn.Sequential, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients of images and parameters, and statistics after one pass."""
    built, images = copy.deepcopy(built), images.clone().requires_grad_()
    output = run(built, images)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    (output * weights).sum().backward()
    gradients = {f"d {name}": parameter.grad for name, parameter in built.named_parameters()}
    return {"output": output.detach(), "d images": images.grad, **gradients, **dict(built.named_buffers())}


def assert_same(built: nn.Sequential, images: torch.Tensor) -> None:
    expected = outcome(lambda modules, maps: modules(maps), built, images)
    found = outcome(run_fused, built, images)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25)
@given(
    n=st.integers(2, 4),
    height=st.integers(4, 17),
    width=st.integers(4, 11),
    seed=st.integers(0, 999),
    last=st.booleans(),
)
def test_values_gradients_and_statistics_are_those_of_the_modules(
    n: int, height: int, width: int, seed: int, last: bool
) -> None:
    images = drawn(n, 1, height, width, seed=seed)
    built = section(seed=seed)
    assert_same(built.to(memory_format=torch.channels_last) if last else built, images)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the fused functions, in the order in which they were called."""
    made: list[str] = []
    for name in ("norm_relu_pool", "convolve_patches"):
        honest = getattr(fused, name)
        monkeypatch.setattr(fused, name, lambda *given, honest=honest, name=name: made.append(name) or honest(*given))
    return made


def test_what_is_fused(calls: list[str]) -> None:
    run_fused(section(), drawn(2, 1, 17, 11))
    assert calls == ["convolve_patches", "norm_relu_pool", "norm_relu_pool"]


def negative(built: nn.Sequential) -> None:
    built.norm1.weight.data[1] = -0.5


def without_statistics(built: nn.Sequential) -> None:
    built.norm1.momentum = None


def evaluating(built: nn.Sequential) -> None:
    built.eval()


def overlapping(built: nn.Sequential) -> None:
    built.pool1.kernel_size = 3


def ceiling(built: nn.Sequential) -> None:
    built.pool1.ceil_mode = True


@pytest.mark.parametrize("change", [negative, without_statistics, evaluating, overlapping, ceiling])
def test_what_the_fused_pass_would_get_wrong_is_left_to_the_modules(change, calls: list[str]) -> None:
    built = section((1, 3))
    change(built)
    assert_same(built, drawn(3, 1, 9, 6))
    assert "norm_relu_pool" not in calls


def test_a_map_too_small_for_the_pool_is_left_to_it(calls: list[str]) -> None:
    with pytest.raises(RuntimeError, match="too small"):
        run_fused(section((1, 3)), drawn(3, 1, 1, 6))


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2},
        {"padding_mode": "reflect"},
        {"kernel_size": 5},
        {"in_channels": 2},
    ],
)
def test_other_convolutions_are_left_to_themselves(change: dict, calls: list[str]) -> None:
    given = {"in_channels": 1, "out_channels": 3, "kernel_size": 3, "padding": 1} | change
    built = nn.Sequential(nn.Conv2d(**given).double())
    assert_same(built, drawn(2, given["in_channels"], 9, 8))
    assert calls == []


def test_equal_numbers_share_no_gradient() -> None:
    """In a window of equal numbers the first has all of the gradient, as with the modules."""
    norm = section((1, 3)).norm1
    maps = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    maps[1] += 1
    maps.requires_grad_()
    norm_relu_pool(maps, norm)[1].sum().backward()
    window = maps.grad[1, :, :2, :2].reshape(3, 4)
    assert (window[:, 0] != window[:, 1]).all() and (window[:, 1:] == window[:, 1:2]).all()


def test_patches_of_a_single_pixel_by_hand() -> None:
    """The response to one bright pixel is the weights, turned by 180 degrees, around it."""
    convolution = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    convolution.weight.data = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    image = torch.zeros(1, 1, 5, 4)
    image[0, 0, 2, 1] = 1
    expected = torch.zeros(5, 4)
    expected[1:4, 0:3] = torch.tensor([[9.0, 8, 7], [6, 5, 4], [3, 2, 1]])
    torch.testing.assert_close(convolve_patches(image, convolution)[0, 0], expected, rtol=0, atol=0)


def test_the_same_input_gives_the_same_bits(one_thread: None) -> None:
    built, images = section(dtype=torch.float32), drawn(8, 1, 24, 24).float()
    first, second = outcome(run_fused, built, images), outcome(run_fused, built, images)
    assert all(torch.equal(first[name], second[name]) for name in first)
